// The engine for Python: packs an actor's weights once and holds what a decision needs, so that a
// decision allocates nothing but its result.

#include "engine_binding.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "engine_pack.h"
#include "thread_pool.h"

namespace py = pybind11;

namespace snnkern {
namespace {

class Engine {
  public:
    Engine(const Dynamics& dynamics, const std::vector<ActorLayer>& layers,
           const InterfaceArguments& interface)
        : packed_(kernels_, dynamics, layers, interface),
          inputs_(model_.layers[0].inputs),
          outputs_(model_.layers[model_.hidden].outputs) {}

    // For the decisions to come: the carry of every hidden layer [batch, N], the counts [hidden,
    // batch], and α [batch], or 0 where all rows have the actor's.
    void bind(int64_t batch, const std::vector<uintptr_t>& carries, uintptr_t counts,
              uintptr_t alpha) {
        const Claim claim(busy_);
        // What may find no memory comes first: then the engine goes on with what it was bound to.
        std::vector<float*> addresses;
        for (const uintptr_t carry : carries) addresses.push_back(pointer<float>(carry));
        observation_.resize(batch * inputs_);
        batch_ = batch;
        carries_ = std::move(addresses);
        counts_ = pointer<int64_t>(counts);
        alpha_ = pointer<const float>(alpha);
        const int64_t tile =
            std::clamp<int64_t>(kTileBytes / engine_scratch(model_), 1, kMostTileRows);
        tile_ = batch < kRowsPerThread ? 1 : tile;
        scratch_.clear();
    }

    // The action for a NumPy observation, or None where this is not a plain case that the engine is
    // bound for: the caller then finds out what is wrong, and says so.
    py::object act(const py::handle& given, bool check_finite, int threads) {
        const Claim claim(busy_);
        if (!py::isinstance<py::array>(given)) return py::none();
        const auto array = py::reinterpret_borrow<py::array>(given);
        const auto dimensions = array.ndim();
        if (dimensions < 1 || dimensions > 2 || array.shape(dimensions - 1) != inputs_)
            return py::none();
        const int64_t rows = dimensions == 1 ? 1 : array.shape(0);
        if (rows != batch_ || (array.flags() & kPlain) != kPlain) return py::none();
        const auto* descriptor = py::detail::array_descriptor_proxy(array.dtype().ptr());
        if (descriptor->byteorder != '=') return py::none();
        const int type = descriptor->type_num;
        const float* observation = nullptr;
        if (type == py::detail::npy_api::NPY_FLOAT_) {
            observation = static_cast<const float*>(array.data());
        } else if (type == py::detail::npy_api::NPY_DOUBLE_) {
            const auto* wide = static_cast<const double*>(array.data());
            for (int64_t i = 0; i < rows * inputs_; ++i)
                observation_[i] = static_cast<float>(wide[i]);
            observation = observation_.data();
        } else {
            return py::none();
        }
        if (check_finite && !finite(observation)) return py::none();
        auto action =
            dimensions == 1 ? py::array_t<float>(outputs_) : py::array_t<float>({rows, outputs_});
        run(observation, action.mutable_data(), threads);
        return std::move(action);
    }

    // As `act` for memory [batch, inputs] that the caller has checked; None where a value is not
    // finite.
    py::object decide(uintptr_t observation, bool check_finite, int threads) {
        const Claim claim(busy_);
        const float* from = pointer<const float>(observation);
        if (check_finite && !finite(from)) return py::none();
        auto action = py::array_t<float>({batch_, outputs_});
        run(from, action.mutable_data(), threads);
        return std::move(action);
    }

  private:
    bool finite(const float* observation) const {
        bool all = true;
        for (int64_t i = 0; i < batch_ * inputs_; ++i) all &= std::isfinite(observation[i]);
        return all;
    }

    void run(const float* observation, float* action, int threads) {
        const int wanted = static_cast<int>(std::clamp<int64_t>(
            std::min(threads, kMostThreads), 1, std::max<int64_t>(1, batch_ / kRowsPerThread)));
        while (static_cast<int>(scratch_.size()) < wanted)
            scratch_.emplace_back((tile_ * engine_scratch(model_) + 3) / 4);
        const auto part = [&](int member, int members) {
            EngineRows rows{};
            rows.begin = batch_ * member / members;
            rows.end = batch_ * (member + 1) / members;
            rows.observation = observation;
            rows.carry = carries_.data();
            rows.alpha = alpha_;
            rows.action = action;
            rows.counts = counts_;
            rows.batch = batch_;
            rows.tile = tile_;
            rows.scratch = scratch_[member].get();
            kernels_.run_engine(model_, rows);
        };
        if (batch_ < kRowsToReleaseGil) {
            part(0, 1);
            return;
        }
        py::gil_scoped_release released;
        run_team(wanted, part);
    }

    static constexpr int64_t kTileBytes = 1 << 20;  // of the second level, for a tile's spikes

    // What the values of an array need to be read one after the other.
    static constexpr int kPlain = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;

    // Below this many rows each, handing work to another thread costs more than it saves.
    static constexpr int64_t kRowsPerThread = 8;
    static constexpr int kMostThreads = 256;  // each takes memory
    static constexpr int64_t kRowsToReleaseGil = 4;

    const Kernels& kernels_ = kernels();  // weights are packed for this build
    const PackedLayers packed_;
    const EngineModel& model_ = packed_.model;
    const int64_t inputs_, outputs_;
    std::vector<Floats> scratch_;
    std::vector<float> observation_;  // where a NumPy observation is not float32
    std::vector<float*> carries_;
    int64_t* counts_ = nullptr;
    const float* alpha_ = nullptr;
    int64_t batch_ = 0, tile_ = 1;
    std::atomic<bool> busy_{false};
};

}  // namespace

void define_engine(py::module_& module) {
    using py::arg;
    translate_in_use();
    py::class_<Engine>(module, "Engine",
                       "A spiking actor, packed for the CPU; used by snnkern.nn.SpikingActor.")
        .def(py::init<const Dynamics&, const std::vector<ActorLayer>&, const InterfaceArguments&>(),
             arg("dynamics"), arg("layers"), arg("interface"))
        .def("bind", &Engine::bind)
        .def("act", &Engine::act)
        .def("decide", &Engine::decide);
}

}  // namespace snnkern
