// The kernels are built for several instruction sets from one source; which build runs is decided
// here.
#pragma once

#include <vector>

#include "convolution.h"
#include "engine.h"
#include "kernels.h"

namespace snnkern {

// One build of the kernels.
struct Kernels {
    const char* isa;
    int64_t (*engine_block)();
    void (*run_engine)(const EngineModel&, const EngineRows&);
    int64_t (*dense_block)();
    int64_t (*patch_block)(int64_t);
    int64_t (*run_convolution)(const ConvolutionTask&);
    void (*run_gather)(const GatherTask&);
    void (*run_neuron_float)(const NeuronProblem<float>&);
    void (*run_neuron_double)(const NeuronProblem<double>&);
    void (*run_neuron_gradients_float)(const GradientProblem<float>&);
    void (*run_neuron_gradients_double)(const GradientProblem<double>&);
    int64_t (*gradient_scratch)();
    void (*run_linear_float)(const LinearProblem<float>&);
    void (*run_linear_double)(const LinearProblem<double>&);
    void (*run_weight_gradient_float)(const WeightGradientProblem<float>&);
    void (*run_weight_gradient_double)(const WeightGradientProblem<double>&);
    int64_t (*count_nonzero_float)(const float*, int64_t);
    int64_t (*count_nonzero_double)(const double*, int64_t);
};

// The builds that this machine can run, the best first.
std::vector<const Kernels*> kernels_here();

// The build in use: the best one unless `use_kernels` chose another.
const Kernels& kernels();

// Makes all calls from now on use the build for an instruction set; false where it cannot run here.
bool use_kernels(const char* isa);

}  // namespace snnkern
