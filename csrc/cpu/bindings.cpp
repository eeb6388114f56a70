// snnkern._cpu: the CPU kernels for Python. Takes addresses, sizes and strides; the caller has
// checked them (snnkern/kernels/ops.py), so nothing here depends on torch.

#include "engine_binding.h"
#include "isa.h"
#include "thread_pool.h"
#include "watch.h"

namespace py = pybind11;

namespace snnkern {
namespace {

// A thread's share of the work is worth waking it.
constexpr int64_t kLeastWork = 1 << 16;

// Runs f(begin, end, member) for parts of `count` things of so much work each, by members of a team
// of at most `threads`; all parts but the last are multiples of `unit`.
template <class Function>
void in_parts(int64_t count, int64_t unit, int64_t work, int threads, const Function& f) {
    const int64_t units = (count + unit - 1) / unit;
    const int64_t most = std::min<int64_t>({threads, units, count * work / kLeastWork});
    if (most <= 1) return f(0, count, 0);
    run_team(static_cast<int>(most), [&](int member, int members) {
        const int64_t begin = units * member / members * unit;
        const int64_t end = std::min(count, units * (member + 1) / members * unit);
        if (begin < end) f(begin, end, member);
    });
}

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
                      const GradientArguments& of, int threads) {
    const auto problem = gradient_problem<Real>(dynamics, layer, of);
    py::gil_scoped_release release;
    const int64_t scratch = kernels().gradient_scratch();  // and a multiple of all lanes
    in_parts(problem.neurons, scratch, problem.batch * problem.timesteps, threads,
             [&](int64_t begin, int64_t end, int member) {
                 auto part = problem;
                 part.begin = begin;
                 part.end = end;
                 part.scratch += member * scratch * problem.timesteps;
                 if constexpr (std::is_same_v<Real, float>)
                     kernels().run_neuron_gradients_float(part);
                 else
                     kernels().run_neuron_gradients_double(part);
             });
}

template <class Real>
void linear(int64_t rows, int64_t inputs, int64_t outputs, uintptr_t input, uintptr_t weight,
            uintptr_t bias, uintptr_t output, int threads) {
    py::gil_scoped_release release;
    in_parts(rows, 1, inputs * outputs, threads, [&](int64_t begin, int64_t end, int) {
        const LinearProblem<Real> problem{end - begin,
                                          inputs,
                                          outputs,
                                          pointer<const Real>(input) + begin * inputs,
                                          pointer<const Real>(weight),
                                          pointer<const Real>(bias),
                                          pointer<Real>(output) + begin * outputs};
        if constexpr (std::is_same_v<Real, float>)
            kernels().run_linear_float(problem);
        else
            kernels().run_linear_double(problem);
    });
}

template <class Real>
void weight_gradient(int64_t rows, int64_t inputs, int64_t outputs, uintptr_t input,
                     uintptr_t gradient, uintptr_t output, int threads) {
    py::gil_scoped_release release;
    in_parts(inputs, 32, rows * outputs, threads, [&](int64_t begin, int64_t end, int) {
        const WeightGradientProblem<Real> problem{rows,
                                                  inputs,
                                                  outputs,
                                                  begin,
                                                  end,
                                                  pointer<const Real>(input),
                                                  pointer<const Real>(gradient),
                                                  pointer<Real>(output)};
        if constexpr (std::is_same_v<Real, float>)
            kernels().run_weight_gradient_float(problem);
        else
            kernels().run_weight_gradient_double(problem);
    });
}

template <class Real>
int64_t count_nonzero(uintptr_t from, int64_t length) {
    py::gil_scoped_release release;
    if constexpr (std::is_same_v<Real, float>)
        return kernels().count_nonzero_float(pointer<const float>(from), length);
    else
        return kernels().count_nonzero_double(pointer<const double>(from), length);
}

template <class Real>
void define(py::module_& module, const std::string& real) {
    using py::arg;
    module.def(("neuron_" + real).c_str(), &neuron<Real>, arg("dynamics"), arg("layer"));
    module.def(("neuron_gradients_" + real).c_str(), &neuron_gradients<Real>, arg("dynamics"),
               arg("layer"), arg("gradients"), arg("threads"));
    module.def(("linear_" + real).c_str(), &linear<Real>, py::kw_only(), arg("rows"), arg("inputs"),
               arg("outputs"), arg("input"), arg("weight"), arg("bias"), arg("output"),
               arg("threads"));
    module.def(("weight_gradient_" + real).c_str(), &weight_gradient<Real>, py::kw_only(),
               arg("rows"), arg("inputs"), arg("outputs"), arg("input"), arg("gradient"),
               arg("output"), arg("threads"));
    module.def(("count_nonzero_" + real).c_str(), &count_nonzero<Real>);
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
