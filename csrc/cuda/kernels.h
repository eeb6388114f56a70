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

// Sets `found`, which the device can write, where a number is a NaN or infinite.
void launch_finite(const float* numbers, int64_t count, int32_t* found, Stream stream);

}  // namespace snnkern
