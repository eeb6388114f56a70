#include "isa.h"

#include <cstring>

namespace snnkern {

#define SNNKERN_DECLARE(arch)                                     \
    namespace arch {                                              \
    int64_t engine_block();                                       \
    void run_engine(const EngineModel&, const EngineRows&);       \
    int64_t dense_block();                                        \
    int64_t patch_block(int64_t);                                 \
    int64_t run_convolution(const ConvolutionTask&);              \
    void run_gather(const GatherTask&);                           \
    template <class Real>                                         \
    void run_neuron(const NeuronProblem<Real>&);                  \
    template <class Real>                                         \
    void run_neuron_gradients(const GradientProblem<Real>&);      \
    int64_t gradient_scratch();                                   \
    template <class Real>                                         \
    void run_linear(const LinearProblem<Real>&);                  \
    template <class Real>                                         \
    void run_weight_gradient(const WeightGradientProblem<Real>&); \
    template <class Real>                                         \
    int64_t count_nonzero(const Real*, int64_t);                  \
    }

#define SNNKERN_KERNELS(arch)             \
    {#arch,                               \
     &arch::engine_block,                 \
     &arch::run_engine,                   \
     &arch::dense_block,                  \
     &arch::patch_block,                  \
     &arch::run_convolution,              \
     &arch::run_gather,                   \
     &arch::run_neuron<float>,            \
     &arch::run_neuron<double>,           \
     &arch::run_neuron_gradients<float>,  \
     &arch::run_neuron_gradients<double>, \
     &arch::gradient_scratch,             \
     &arch::run_linear<float>,            \
     &arch::run_linear<double>,           \
     &arch::run_weight_gradient<float>,   \
     &arch::run_weight_gradient<double>,  \
     &arch::count_nonzero<float>,         \
     &arch::count_nonzero<double>}

#if defined(SNNKERN_X86)
SNNKERN_DECLARE(avx2)
SNNKERN_DECLARE(avx512)
#endif

namespace {

const Kernels kBuilds[] = {
#if defined(SNNKERN_X86)
    SNNKERN_KERNELS(avx512),
    SNNKERN_KERNELS(avx2),
#endif
    SNNKERN_KERNELS(baseline),
};

bool runs_here(const Kernels& build) {
#if defined(SNNKERN_X86)
    if (!std::strcmp(build.isa, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    if (!std::strcmp(build.isa, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return !std::strcmp(build.isa, "baseline");
}

const Kernels* chosen = nullptr;

}  // namespace

std::vector<const Kernels*> kernels_here() {
    std::vector<const Kernels*> here;
    for (const Kernels& build : kBuilds)
        if (runs_here(build)) here.push_back(&build);
    return here;
}

const Kernels& kernels() {
    if (!chosen) chosen = kernels_here().front();
    return *chosen;
}

bool use_kernels(const char* isa) {
    for (const Kernels* build : kernels_here())
        if (!std::strcmp(build->isa, isa)) {
            chosen = build;
            return true;
        }
    return false;
}

}  // namespace snnkern
