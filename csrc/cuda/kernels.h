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

}  // namespace snnkern
