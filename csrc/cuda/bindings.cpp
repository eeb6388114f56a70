// snnkern._cuda: the CUDA kernels for Python. Takes addresses, sizes, strides, a device and a
// stream; the caller has checked them (snnkern/ops.py), so nothing here depends on torch.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "../binding.h"
#include "actor.h"
#include "divisor.h"
#include "kernels.h"

namespace py = pybind11;

namespace snnkern {
namespace {

Stream stream_at(uintptr_t handle) { return pointer<std::remove_pointer_t<Stream>>(handle); }

template <class Real>
void neuron(int device, uintptr_t stream, int kind, int levels, double initial_fraction,
            double negative_fraction, double alpha, double memory, double clip, int64_t timesteps,
            int64_t batch, int64_t neurons, uintptr_t current, bool constant,
            int64_t current_stride_t, int64_t current_stride_b, uintptr_t threshold, uintptr_t bias,
            uintptr_t carry, uintptr_t row_alpha, uintptr_t spikes, uintptr_t mean,
            uintptr_t next_carry, uintptr_t counts) {
    NeuronProblem<Real> problem{};
    problem.kind = static_cast<Kind>(kind);
    problem.parameters =
        parameters<Real>(levels, initial_fraction, negative_fraction, alpha, memory, clip);
    problem.timesteps = timesteps;
    problem.batch = batch;
    problem.neurons = neurons;
    problem.current = pointer<const Real>(current);
    problem.constant = constant;
    problem.current_stride_t = current_stride_t;
    problem.current_stride_b = current_stride_b;
    problem.threshold = pointer<const Real>(threshold);
    problem.bias = pointer<const Real>(bias);
    problem.carry = pointer<const Real>(carry);
    problem.alpha = pointer<const Real>(row_alpha);
    problem.spikes = pointer<Real>(spikes);
    problem.mean = pointer<Real>(mean);
    problem.next_carry = pointer<Real>(next_carry);
    problem.counts = pointer<int64_t>(counts);
    const DeviceGuard guard(device);
    launch_neuron(problem, stream_at(stream));
}

template <class Real>
void define_neuron(py::module_& module, const char* name) {
    using py::arg;
    module.def(name, &neuron<Real>, py::kw_only(), arg("device"), arg("stream"), arg("kind"),
               arg("levels"), arg("initial_fraction"), arg("negative_fraction"), arg("alpha"),
               arg("memory"), arg("clip"), arg("timesteps"), arg("batch"), arg("neurons"),
               arg("current"), arg("constant"), arg("current_stride_t"), arg("current_stride_b"),
               arg("threshold"), arg("bias"), arg("carry"), arg("row_alpha"), arg("spikes"),
               arg("mean"), arg("next_carry"), arg("counts"));
}

// Whether some of a layer's thresholds, in the host's memory, is tiny.
bool has_tiny_threshold(uintptr_t threshold, int64_t count, int32_t levels, int64_t timesteps) {
    const float* first = pointer<const float>(threshold);
    return std::any_of(first, first + count,
                       [=](float one) { return is_tiny(one, levels, timesteps); });
}

// A hidden layer as Python gives it: inputs, outputs, padded width, and addresses of weight, bias
// and threshold, laid out as actor.h says.
using LayerArguments = std::tuple<int32_t, int32_t, int32_t, uintptr_t, uintptr_t, uintptr_t>;

// A whole actor. Memory belongs to the caller, who keeps it alive.
class Engine {
  public:
    Engine(int device, int kind, int levels, double initial_fraction, double negative_fraction,
           double alpha, double memory, double clip, int32_t timesteps, bool tiny,
           const std::vector<LayerArguments>& layers, int32_t actions, uintptr_t output_weight,
           uintptr_t output_bias, uintptr_t observation_mean, uintptr_t observation_std,
           double observation_clip, uintptr_t action_scale, uintptr_t action_bias, bool squash)
        : device_(device) {
        if (layers.empty() || layers.size() > kMostHidden)
            throw std::invalid_argument("a CUDA actor has 1 to " + std::to_string(kMostHidden) +
                                        " hidden layers");
        ActorModel& model = problem_.model;
        model.kind = static_cast<Kind>(kind);
        model.parameters =
            parameters<float>(levels, initial_fraction, negative_fraction, alpha, memory, clip);
        model.timesteps = timesteps;
        model.tiny = tiny;
        model.hidden = static_cast<int32_t>(layers.size());
        for (size_t l = 0; l < layers.size(); ++l) {
            const auto& [inputs, outputs, width, weight, bias, threshold] = layers[l];
            model.layer[l] = {inputs,
                              outputs,
                              width,
                              pointer<const float>(weight),
                              pointer<const float>(bias),
                              pointer<const float>(threshold)};
        }
        model.actions = actions;
        model.output_weight = pointer<const float>(output_weight);
        model.output_bias = pointer<const float>(output_bias);
        model.observation_mean = pointer<const float>(observation_mean);
        model.observation_std = pointer<const float>(observation_std);
        model.observation_clip = static_cast<float>(observation_clip);
        model.action_scale = pointer<const float>(action_scale);
        model.action_bias = pointer<const float>(action_bias);
        model.squash = squash;
    }

    // Whether the device has the shared memory that a decision takes.
    bool fits() const {
        const DeviceGuard guard(device_);
        return plan_actor(problem_.model, 1).bytes <= most_shared_memory();
    }

    // For the decisions to come: the carry of every hidden layer [batch, N], the counts [hidden,
    // batch], and α [batch], or 0 where all rows have the actor's.
    void bind(int64_t batch, const std::vector<uintptr_t>& carries, uintptr_t counts,
              uintptr_t alpha) {
        const DeviceGuard guard(device_);
        problem_.rows.batch = batch;
        for (size_t l = 0; l < carries.size(); ++l)
            problem_.rows.carry[l] = pointer<float>(carries[l]);
        problem_.rows.counts = pointer<int64_t>(counts);
        problem_.rows.alpha = pointer<const float>(alpha);
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
        .def(py::init<int, int, int, double, double, double, double, double, int32_t, bool,
                      const std::vector<LayerArguments>&, int32_t, uintptr_t, uintptr_t, uintptr_t,
                      uintptr_t, double, uintptr_t, uintptr_t, bool>(),
             py::kw_only(), arg("device"), arg("kind"), arg("levels"), arg("initial_fraction"),
             arg("negative_fraction"), arg("alpha"), arg("memory"), arg("clip"), arg("timesteps"),
             arg("tiny"), arg("layers"), arg("actions"), arg("output_weight"), arg("output_bias"),
             arg("observation_mean"), arg("observation_std"), arg("observation_clip"),
             arg("action_scale"), arg("action_bias"), arg("squash"))
        .def("fits", &Engine::fits)
        .def("bind", &Engine::bind)
        .def("decide", &Engine::decide);
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
    module.doc() = "CUDA kernels of snnkern; called through snnkern.ops.";
    define_neuron<float>(module, "neuron_float32");
    define_neuron<double>(module, "neuron_float64");
    module.def("has_tiny_threshold", &has_tiny_threshold);
    define_engine(module);
    module.attr("most_hidden") = kMostHidden;
    module.attr("most_neurons") = kMostActorNeurons;
    module.attr("padding") = kActorPadding;
}

}  // namespace snnkern
