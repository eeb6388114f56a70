// snnkern._cpu: the CPU kernels for Python. Takes addresses, sizes and strides; the caller has
// checked them (snnkern/kernels/ops.py), so nothing here depends on torch.

#include "engine_binding.h"
#include "isa.h"
#include "watch.h"

namespace py = pybind11;

namespace snnkern {
namespace {

template <class Real>
void neuron(const Dynamics& dynamics, const LayerArguments& layer) {
    const auto problem = neuron_problem<Real>(dynamics, layer);
    py::gil_scoped_release release;
    if constexpr (std::is_same_v<Real, float>)
        kernels().run_neuron_float(problem);
    else
        kernels().run_neuron_double(problem);
}

template <class Real>
void neuron_gradients(const Dynamics& dynamics, const LayerArguments& layer,
                      const GradientArguments& of) {
    const auto problem = gradient_problem<Real>(dynamics, layer, of);
    py::gil_scoped_release release;
    if constexpr (std::is_same_v<Real, float>)
        kernels().run_neuron_gradients_float(problem);
    else
        kernels().run_neuron_gradients_double(problem);
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
void define(py::module_& module, const std::string& real) {
    using py::arg;
    module.def(("neuron_" + real).c_str(), &neuron<Real>, arg("dynamics"), arg("layer"));
    module.def(("neuron_gradients_" + real).c_str(), &neuron_gradients<Real>, arg("dynamics"),
               arg("layer"), arg("gradients"));
    module.def(("linear_" + real).c_str(), &linear<Real>, py::kw_only(), arg("rows"), arg("inputs"),
               arg("outputs"), arg("input"), arg("weight"), arg("bias"), arg("output"));
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
    module.doc() = "CPU kernels of snnkern; called through snnkern.ops.";
    define<float>(module, "float32");
    define<double>(module, "float64");
    module.def("gradient_scratch", [] { return kernels().gradient_scratch(); });
    define_engine(module);
    define_staged_engine(module);
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
