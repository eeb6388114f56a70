// The CUDA kernels and what they work on. A launch goes to a stream of the current device and
// returns at once.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "../problem.h"
#include "runtime.h"

namespace snnkern {

template <class Real>
void launch_neuron(const NeuronProblem<Real>& problem, Stream stream);

// Of the sums over the batch, that of threshold and bias, every `strip` rows have one: [strips, N].
// `scratch` is [gradient_scratch(kind, timesteps), B, N].
template <class Real>
void launch_neuron_gradients(const GradientProblem<Real>& problem, int64_t strip, Stream stream);

// Numbers of a neuron that wait in memory.
int64_t gradient_scratch(Kind kind, int64_t timesteps);

// Sets `found`, which the device can write, where a number is a NaN or infinite.
void launch_finite(const float* numbers, int64_t count, int32_t* found, Stream stream);

}  // namespace snnkern
