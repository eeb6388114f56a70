// snnkern._cpu: the CPU kernels for Python. Takes addresses, sizes and strides; the caller has
// checked them (snnkern/ops.py), so nothing here depends on torch.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "engine_binding.h"
#include "isa.h"
#include "watch.h"

namespace py = pybind11;

namespace snnkern {
namespace {

template <class Real>
void neuron(int kind, int levels, double initial_fraction, double negative_fraction, double alpha,
            double memory, double clip, int64_t timesteps, int64_t batch, int64_t neurons,
            uintptr_t current, bool constant, int64_t current_stride_t, int64_t current_stride_b,
            uintptr_t threshold, uintptr_t bias, uintptr_t carry, uintptr_t row_alpha,
            uintptr_t spikes, uintptr_t mean, uintptr_t next_carry, uintptr_t counts) {
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
    py::gil_scoped_release release;
    if constexpr (std::is_same_v<Real, float>)
        kernels().run_neuron_float(problem);
    else
        kernels().run_neuron_double(problem);
}

template <class Real>
void linear(int64_t rows, int64_t inputs, int64_t outputs, uintptr_t input, uintptr_t weight,
            uintptr_t bias, uintptr_t output) {
    const LinearProblem<Real> problem{rows,
                                      inputs,
                                      outputs,
                                      pointer<const Real>(input),
                                      pointer<const Real>(weight),
                                      pointer<const Real>(bias),
                                      pointer<Real>(output)};
    py::gil_scoped_release release;
    if constexpr (std::is_same_v<Real, float>)
        kernels().run_linear_float(problem);
    else
        kernels().run_linear_double(problem);
}

template <class Real>
void define(py::module_& module, const char* neuron_name, const char* linear_name) {
    using py::arg;
    module.def(neuron_name, &neuron<Real>, py::kw_only(), arg("kind"), arg("levels"),
               arg("initial_fraction"), arg("negative_fraction"), arg("alpha"), arg("memory"),
               arg("clip"), arg("timesteps"), arg("batch"), arg("neurons"), arg("current"),
               arg("constant"), arg("current_stride_t"), arg("current_stride_b"), arg("threshold"),
               arg("bias"), arg("carry"), arg("row_alpha"), arg("spikes"), arg("mean"),
               arg("next_carry"), arg("counts"));
    module.def(linear_name, &linear<Real>, py::kw_only(), arg("rows"), arg("inputs"),
               arg("outputs"), arg("input"), arg("weight"), arg("bias"), arg("output"));
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
    module.doc() = "CPU kernels of snnkern; called through snnkern.ops.";
    define<float>(module, "neuron_float32", "linear_float32");
    define<double>(module, "neuron_float64", "linear_float64");
    define_engine(module);
    define_watch(module);
    module.attr("most_neurons") = kMostNeurons;
    module.def("isas", [] {
        std::vector<std::string> names;
        for (const Kernels* build : kernels_here()) names.emplace_back(build->isa);
        return names;
    });
    module.def("isa", [] { return kernels().isa; });
    module.def("use_isa", [](const std::string& isa) { return use_kernels(isa.c_str()); });
}

}  // namespace snnkern
