// The CPU kernels and the parameters they take. No allocation, no globals: callers may run them
// from any thread.
#pragma once

#include "../neuron.h"

namespace snnkern {

// One decision step of a layer of neurons. Rows are contiguous in N; strides count elements.
template <class Real>
struct NeuronProblem {
    Kind kind;
    Parameters<Real> parameters;
    int64_t timesteps, batch, neurons;

    const Real* current;       // x_t [T, B, N], or [B, N] where it is constant
    bool constant;             // one current for the decision step
    int64_t current_stride_t;  // unused where the current is constant
    int64_t current_stride_b;
    const Real* threshold;  // θ [N]
    const Real* bias;       // e^x_0 [N] of DC, or null
    const Real* carry;      // c [B, N], contiguous
    const Real* alpha;      // α of every row [B], or null: that of the parameters

    // Requested outputs; null where not wanted. All contiguous.
    Real* spikes;      // s_t [T, B, N]
    Real* mean;        // Q_T / T [B, N]
    Real* next_carry;  // [B, N], always wanted
    int64_t* counts;   // spikes of each row [B], always wanted
};

inline namespace SNNKERN_ARCH {
template <class Real>
void run_neuron(const NeuronProblem<Real>& problem);
}

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

inline namespace SNNKERN_ARCH {
template <class Real>
void run_linear(const LinearProblem<Real>& problem);
}

}  // namespace snnkern
