// snnkern._cuda: the CUDA kernels for Python. Takes addresses, sizes, strides, a device and a
// stream; the caller has checked them (snnkern/kernels/ops.py), so nothing here depends on torch.

#include <algorithm>
#include <utility>
#include <vector>

#include "actor_binding.h"
#include "divisor.h"
#include "integer_binding.h"
#include "kernels.h"

namespace py = pybind11;

namespace snnkern {
namespace {

template <class Real>
void neuron(const Dynamics& dynamics, const LayerArguments& layer, int device, uintptr_t stream) {
    const DeviceGuard guard(device);
    launch_neuron(neuron_problem<Real>(dynamics, layer), stream_at(stream));
}

// Whether some of a layer's thresholds, in the host's memory, is tiny.
bool has_tiny_threshold(uintptr_t threshold, int64_t count, int32_t levels, int64_t timesteps) {
    const float* first = pointer<const float>(threshold);
    return std::any_of(first, first + count,
                       [=](float one) { return is_tiny(one, levels, timesteps); });
}

// A whole actor. Memory belongs to the caller, who keeps it alive.
class Engine {
  public:
    Engine(int device, const Dynamics& dynamics, bool tiny, const std::vector<HiddenLayer>& layers,
           const OutputLayer& output, const InterfaceArguments& interface)
        : device_(device) {
        problem_.model = actor_model(dynamics, tiny, layers, output, interface);
    }

    // Whether the device has the shared memory that a decision takes.
    bool fits() const {
        const DeviceGuard guard(device_);
        return plan_actor(problem_.model, 1).bytes <= most_shared_memory();
    }

    // For the decisions to come.
    void bind(int64_t batch, const std::vector<uintptr_t>& carries, uintptr_t counts,
              uintptr_t alpha) {
        const DeviceGuard guard(device_);
        set_rows(problem_.rows, batch, carries, counts, alpha);
        problem_.plan = plan_actor(problem_.model, batch);
        prepare_actor(problem_.model);
    }

    void decide(uintptr_t stream, uintptr_t observation, uintptr_t action) {
        const DeviceGuard guard(device_);
        problem_.rows.observation = pointer<const float>(observation);
        problem_.rows.action = pointer<float>(action);
        launch_actor(problem_, stream_at(stream));
    }

  private:
    int device_;
    ActorProblem problem_{};
};

void define_engine(py::module_& module) {
    using py::arg;
    py::class_<Engine>(module, "Engine",
                       "A spiking actor, packed for CUDA; used by snnkern.nn.SpikingActor.")
        .def(py::init<int, const Dynamics&, bool, const std::vector<HiddenLayer>&,
                      const OutputLayer&, const InterfaceArguments&>(),
             py::kw_only(), arg("device"), arg("dynamics"), arg("tiny"), arg("layers"),
             arg("output"), arg("interface"))
        .def("fits", &Engine::fits)
        .def("bind", &Engine::bind)
        .def("decide", &Engine::decide);
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
    module.doc() = "CUDA kernels of snnkern; called through snnkern.ops.";
    using py::arg;
    for (auto [name, run] : {std::pair("neuron_float32", &neuron<float>),
                             std::pair("neuron_float64", &neuron<double>)})
        module.def(name, run, arg("dynamics"), arg("layer"), arg("device"), arg("stream"));
    module.def("has_tiny_threshold", &has_tiny_threshold);
    define_engine(module);
    define_integer_engine(module);
    module.attr("most_hidden") = kMostHidden;
    module.attr("most_neurons") = kMostActorNeurons;
    module.attr("padding") = kActorPadding;
}

}  // namespace snnkern
