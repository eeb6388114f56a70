// The CPU kernels and the parameters they take. No allocation, no globals: callers may run them
// from any thread.
#pragma once

#include "../problem.h"

namespace snnkern {

inline namespace SNNKERN_ARCH {
template <class Real>
void run_neuron(const NeuronProblem<Real>& problem);
template <class Real>
void run_neuron_gradients(const GradientProblem<Real>& problem);
int64_t gradient_scratch();
}  // namespace SNNKERN_ARCH

// y = x·W + b, one row at a time: the sum over `inputs` runs in order from the bias on and skips
// zeros, so a row's result depends on that row alone, however many others there are, and a silent
// neuron costs nothing.
template <class Real>
struct LinearProblem {
    int64_t rows, inputs, outputs;
    const Real* input;   // [rows, inputs]
    const Real* weight;  // [inputs, outputs]
    const Real* bias;    // [outputs], or null
    Real* output;        // [rows, outputs]
};

// The gradient of such a weight: for every number of the input that is not 0, a row of the output's
// gradient is added to a row of the weight's. The sum over rows runs in their order.
template <class Real>
struct WeightGradientProblem {
    int64_t rows, inputs, outputs;
    int64_t begin, end;    // the inputs that are wanted
    const Real* input;     // [rows, inputs]
    const Real* gradient;  // [rows, outputs]
    Real* output;          // [inputs, outputs]
};

inline namespace SNNKERN_ARCH {
template <class Real>
void run_linear(const LinearProblem<Real>& problem);
template <class Real>
void run_weight_gradient(const WeightGradientProblem<Real>& problem);
// Numbers other than 0.
template <class Real>
int64_t count_nonzero(const Real* from, int64_t length);
}  // namespace SNNKERN_ARCH

}  // namespace snnkern
