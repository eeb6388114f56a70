// snnkern._cuda: the CUDA kernels for Python. Takes addresses, sizes, strides, a device and a
// stream; the caller has checked them (snnkern/ops.py), so nothing here depends on torch.

#include <pybind11/pybind11.h>

#include "../binding.h"
#include "kernels.h"

namespace py = pybind11;

namespace snnkern {
namespace {

template <class Real>
void neuron(int device, uintptr_t stream, int kind, int levels, double initial_fraction,
            double negative_fraction, double alpha, double memory, double clip, int64_t timesteps,
            int64_t batch, int64_t neurons, uintptr_t current, bool constant,
            int64_t current_stride_t, int64_t current_stride_b, uintptr_t threshold, uintptr_t bias,
            uintptr_t carry, uintptr_t spikes, uintptr_t mean, uintptr_t next_carry,
            uintptr_t counts) {
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
    problem.spikes = pointer<Real>(spikes);
    problem.mean = pointer<Real>(mean);
    problem.next_carry = pointer<Real>(next_carry);
    problem.counts = pointer<int64_t>(counts);
    const DeviceGuard guard(device);
    launch_neuron(problem, pointer<std::remove_pointer_t<Stream>>(stream));
}

template <class Real>
void define_neuron(py::module_& module, const char* name) {
    using py::arg;
    module.def(name, &neuron<Real>, py::kw_only(), arg("device"), arg("stream"), arg("kind"),
               arg("levels"), arg("initial_fraction"), arg("negative_fraction"), arg("alpha"),
               arg("memory"), arg("clip"), arg("timesteps"), arg("batch"), arg("neurons"),
               arg("current"), arg("constant"), arg("current_stride_t"), arg("current_stride_b"),
               arg("threshold"), arg("bias"), arg("carry"), arg("spikes"), arg("mean"),
               arg("next_carry"), arg("counts"));
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
    module.doc() = "CUDA kernels of snnkern; called through snnkern.ops.";
    define_neuron<float>(module, "neuron_float32");
    define_neuron<double>(module, "neuron_float64");
}

}  // namespace snnkern
