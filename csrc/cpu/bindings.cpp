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
    module.def(neuron_name, &neuron<Real>, arg("dynamics"), arg("layer"));
    module.def(linear_name, &linear<Real>, py::kw_only(), arg("rows"), arg("inputs"),
               arg("outputs"), arg("input"), arg("weight"), arg("bias"), arg("output"));
}

}  // namespace

PYBIND11_MODULE(_cpu, module) {
    module.doc() = "CPU kernels of snnkern; called through snnkern.ops.";
    define<float>(module, "neuron_float32", "linear_float32");
    define<double>(module, "neuron_float64", "linear_float64");
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
