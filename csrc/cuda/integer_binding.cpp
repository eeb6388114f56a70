// `_cuda.IntegerEngine`, as snnkern/kernels/backends/integers.py calls it.

#include "integer_binding.h"

#include <atomic>
#include <tuple>

#include "../claim.h"
#include "actor_binding.h"
#include "call.h"
#include "integer.h"

namespace py = pybind11;

namespace snnkern {
namespace {

// Addresses of a layer's digits, of its scale and of what sums begin with, as integer.h says.
using Digits = std::tuple<uintptr_t, uintptr_t, uintptr_t>;

// A whole actor. Memory belongs to the caller, who keeps it alive.
class IntegerEngine {
  public:
    IntegerEngine(int device, const Dynamics& dynamics, const std::vector<HiddenLayer>& layers,
                  const std::vector<Digits>& digits, const OutputLayer& output,
                  const InterfaceArguments& interface)
        : device_(device) {
        problem_.model.actor = actor_model(dynamics, false, layers, output, interface);
        problem_.model.inputs = (problem_.model.actor.layer[0].inputs + 1) / 2 * 2;
        for (size_t l = 0; l < digits.size(); ++l) {
            const auto& [weights, scale, start] = digits[l];
            problem_.model.layer[l + 1] = {pointer<const void>(weights),
                                           pointer<const float>(scale),
                                           pointer<const int32_t>(start)};
        }
    }

    // Whether the device has the shared memory that a decision takes.
    bool fits() const { return plan(INT32_MAX, 1).bytes <= most(); }

    // Bytes of scratch memory that decisions for so many rows take.
    int64_t scratch(int64_t batch, int groups) const {
        const IntegerPlan found = plan(batch, groups);
        return int64_t(found.blocks) * found.groups * found.group_floats * sizeof(float);
    }

    // For the decisions to come.
    void bind(int64_t batch, const std::vector<uintptr_t>& carries, uintptr_t counts,
              uintptr_t alpha, uintptr_t scratch, int groups) {
        const Claim claim(busy_);
        const DeviceGuard guard(device_);
        set_rows(problem_.rows, batch, carries, counts, alpha);
        problem_.plan = plan_integers(problem_.model, batch, groups);
        problem_.scratch = pointer<float>(scratch);
        prepare_integers(problem_.model);
    }

    // As `Engine::decide`.
    bool decide(uintptr_t stream, uintptr_t observation, uintptr_t action, bool check_finite) {
        const Claim claim(busy_);
        const DeviceGuard guard(device_);
        problem_.rows.observation = pointer<const float>(observation);
        problem_.rows.action = pointer<float>(action);
        if (check_finite && !is_finite_(problem_.model.actor, problem_.rows, stream_at(stream)))
            return false;
        launch_integers(problem_, stream_at(stream));
        return true;
    }

    CallShape shape() const {
        const ActorModel& model = problem_.model.actor;
        return {device_, problem_.rows.batch, model.layer[0].inputs, model.actions};
    }

  private:
    IntegerPlan plan(int64_t batch, int groups) const {
        const DeviceGuard guard(device_);
        return plan_integers(problem_.model, batch, groups);
    }
    int64_t most() const {
        const DeviceGuard guard(device_);
        return most_shared_memory();
    }

    int device_;
    IntegerProblem problem_{};
    FiniteCheck is_finite_;
    std::atomic<bool> busy_{false};
};

}  // namespace

void define_integer_engine(py::module_& module) {
    using py::arg;
    py::class_<IntegerEngine>(module, "IntegerEngine",
                              "A spiking actor, packed for CUDA, that sums currents as integers.")
        .def(py::init<int, const Dynamics&, const std::vector<HiddenLayer>&,
                      const std::vector<Digits>&, const OutputLayer&, const InterfaceArguments&>(),
             py::kw_only(), arg("device"), arg("dynamics"), arg("layers"), arg("digits"),
             arg("output"), arg("interface"))
        .def("fits", &IntegerEngine::fits)
        .def("scratch", &IntegerEngine::scratch)
        .def("bind", &IntegerEngine::bind)
        .def("decide", &IntegerEngine::decide)
        .def("call", &call_of<IntegerEngine>);
    module.attr("slices") = kSlices;
    module.attr("tile_receivers") = kTileReceivers;
    module.attr("step_senders") = kStepSenders;
    module.attr("actions") = kActions;
    module.attr("most_sum") = kMostSum;
    module.attr("most_timesteps") = kMostTimesteps;
    module.attr("most_groups") = kMostGroups;
}

}  // namespace snnkern
