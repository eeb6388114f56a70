// What the kernels of layers share: the neighbouring neurons of a thread, and what may be read so.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "../problem.h"
#include "runtime.h"

namespace snnkern {

// Numbers that one load brings.
template <class Real, int kWidth>
struct alignas(sizeof(Real) * kWidth) Pack {
    Real lane[kWidth];
};

template <class Real, int kWidth>
SNNKERN_INLINE Pack<Real, kWidth> load(const Real* from) {
    return *reinterpret_cast<const Pack<Real, kWidth>*>(from);
}

template <class Real, int kWidth>
SNNKERN_INLINE void store(Real* to, const Pack<Real, kWidth>& pack) {
    *reinterpret_cast<Pack<Real, kWidth>*>(to) = pack;
}

// Neurons [n, n + kWidth) at the start of a decision, of which the first carry is the number `at`.
template <Kind kind, class State, class Real, int kWidth>
SNNKERN_INLINE void start(State (&neuron)[kWidth], const NeuronProblem<Real>& p, int64_t at,
                          uint32_t n, const Pack<Real, kWidth>& threshold) {
    const Pack<Real, kWidth> carry = load<Real, kWidth>(p.carry + at);
    Pack<Real, kWidth> bias{};
    if (kIsDifferential<kind> && p.bias) bias = load<Real, kWidth>(p.bias + n);
#pragma unroll
    for (int i = 0; i < kWidth; ++i)
        neuron[i] =
            State(p.parameters, threshold.lane[i],
                  p.parameters.initial_fraction * threshold.lane[i] + carry.lane[i], bias.lane[i]);
}

template <class Real>
bool on_boundary(const Real* address, int width) {
    return reinterpret_cast<uintptr_t>(address) % (sizeof(Real) * width) == 0;
}

// Whether packs of this width are aligned everywhere.
template <class Real>
bool aligned(const NeuronProblem<Real>& p, int width) {
    const auto on_boundary = [width](const Real* address) {
        return snnkern::on_boundary(address, width);
    };
    return p.neurons % width == 0 && p.current_stride_t % width == 0 &&
           p.current_stride_b % width == 0 && on_boundary(p.current) && on_boundary(p.threshold) &&
           on_boundary(p.bias) && on_boundary(p.carry) && on_boundary(p.spikes) &&
           on_boundary(p.mean) && on_boundary(p.next_carry);
}

template <class Real>
void refuse_too_many(const NeuronProblem<Real>& p) {
    if (std::max({p.batch, p.neurons, 4 * p.timesteps}) > INT32_MAX)
        throw std::invalid_argument("rows and neurons may be 2^31 - 1 at most, timesteps 2^29 - 1");
}

}  // namespace snnkern
