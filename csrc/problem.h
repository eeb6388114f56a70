// What kernels of neurons and of actors work on, on the CPU and on the GPU alike.
#pragma once

#include "surrogate.h"

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

// The gradients of such a step, of which no results but these are wanted.
template <class Real>
struct GradientProblem : NeuronProblem<Real> {
    Surrogate surrogate;
    const Real* gradient;  // of the spikes [T, B, N], or of the mean output [B, N]; contiguous
    bool of_mean;

    Real* current_gradient;    // [T, B, N], or [B, N] where the current is constant
    Real* threshold_gradient;  // [N], of zeros at first; on CUDA a sum of every strip [strips, N]
    Real* carry_gradient;      // [B, N]
    Real* bias_gradient;       // as the threshold's; of DC alone
    Real* scratch;             // what waits for the way back
    int64_t begin, end;        // the neurons that are wanted; on CUDA all are
};

// What lies between an actor and its environment; `Interface` in snnkern/policies/actor.py.
struct ActorInterface {
    const float* observation_mean;  // [inputs], or null for no normalisation
    const float* observation_std;
    float observation_clip;
    const float* action_scale;  // [actions]
    const float* action_bias;
    bool squash;
};

}  // namespace snnkern
