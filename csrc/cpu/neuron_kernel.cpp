// All T steps of one layer of neurons and its carry in one pass over memory; the neurons' state
// stays in registers.

#include "kernels.h"
#include "lanes.h"

namespace snnkern {
inline namespace SNNKERN_ARCH {
namespace {

// How many of the numbers of lanes are counted in one, before they might overflow.
constexpr int64_t kMostCounted = int64_t(1) << 30;

// Vectors that are worked on at once: the steps of one wait for each other, those of several do
// not.
template <Kind kind>
constexpr int kVectorsOf = kIsBinary<kind> ? 8 : 4;

// The decision step of the neurons [n, n + vectors · lanes) of row b. Adds the spikes that each
// lane sent to `fired`.
template <Kind kind, bool kTiny, bool kConstant, bool kSpikes, class V, int vectors>
SNNKERN_INLINE void run_lanes(const NeuronProblem<typename Lanes<V>::Real>& p, int64_t b, int64_t n,
                              typename Lanes<V>::Int& fired) {
    using X = Lanes<V>;
    using Real = typename X::Real;
    constexpr int64_t L = sizeof(V) / sizeof(Real);
    const int64_t at = b * p.neurons + n;
    const Real alpha = p.alpha ? p.alpha[b] : p.parameters.alpha;
    Neuron<kind, V, kTiny> neurons[vectors];
    V start[vectors], x[vectors];
    const Real* current = p.current + b * p.current_stride_b + n;
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) {
        const V threshold = load<V>(p.threshold + n + i * L);
        const V bias = (kIsDifferential<kind> && p.bias) ? load<V>(p.bias + n + i * L) : V{};
        start[i] = p.parameters.initial_fraction * threshold + load<V>(p.carry + at + i * L);
        neurons[i] = Neuron<kind, V, kTiny>(p.parameters, threshold, start[i], bias);
        if constexpr (kConstant) x[i] = load<V>(current + i * L);
    }
    for (int64_t t = 0; t < p.timesteps; ++t) {
        const Steps<Real> step(t + 1);
#pragma GCC unroll 8
        for (int i = 0; i < vectors; ++i) {
            if constexpr (!kConstant) {
                const Real* here = current + t * p.current_stride_t + i * L;
                x[i] = load<V>(here);
                __builtin_prefetch(here + 2 * p.current_stride_b);
            }
            neurons[i].integrate(x[i]);
            const Spike<V> spike = neurons[i].fire(step);
            neurons[i].reset(spike, x[i], step);
            if constexpr (!kIsBinary<kind>)
                fired = X::subtract(spike.fires, fired, typename X::Int{} - 1);
            if constexpr (kSpikes)
                store<V>(p.spikes + t * p.batch * p.neurons + at + i * L, spike.value);
            if constexpr (kConstant && kIsDifferential<kind>)
                x[i] = V{};  // a constant is coded as x_1, 0, 0, …
        }
    }
    const Steps<Real> timesteps(p.timesteps);
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) {
        if constexpr (kIsBinary<kind>) fired += neurons[i].count;
        if constexpr (!kSpikes) store<V>(p.mean + at + i * L, neurons[i].mean(timesteps));
        store<V>(p.next_carry + at + i * L,
                 residual_carry<V>(neurons[i].potential - start[i],
                                   neurons[i].transmitted(timesteps), load<V>(p.carry + at + i * L),
                                   neurons[i].threshold, alpha, p.parameters));
    }
}

template <Kind kind, bool kTiny, bool kConstant, bool kSpikes, class Real>
void run_rows(const NeuronProblem<Real>& problem) {
    const NeuronProblem<Real> p =
        problem;  // a copy that no store can change: it stays in registers
    using V = typename VectorOf<Real>::Type;
    using Int = typename Lanes<V>::Int;
    constexpr int kVectors = kVectorsOf<kind>;
    const int64_t most = kMostCounted / (p.timesteps * kVectors);
    for (int64_t b = 0; b < p.batch; ++b) {
        int64_t count = 0, n = 0, blocks = 0;
        Int fired{};
        typename Lanes<Real>::Int fired_alone = 0;
        for (; n + kVectors * kLanes<V> <= p.neurons; n += kVectors * kLanes<V>) {
            run_lanes<kind, kTiny, kConstant, kSpikes, V, kVectors>(p, b, n, fired);
            if (++blocks >= most) {
                count += sum(fired);
                fired = Int{};
                blocks = 0;
            }
        }
        for (; n + kLanes<V> <= p.neurons; n += kLanes<V>)
            run_lanes<kind, kTiny, kConstant, kSpikes, V, 1>(p, b, n, fired);
        for (; n < p.neurons; ++n)
            run_lanes<kind, kTiny, kConstant, kSpikes, Real, 1>(p, b, n, fired_alone);
        p.counts[b] = count + sum(fired) + fired_alone;
    }
}

template <Kind kind, bool kTiny, class Real>
void run_kind(const NeuronProblem<Real>& p) {
    if (p.constant)
        p.spikes ? run_rows<kind, kTiny, true, true>(p) : run_rows<kind, kTiny, true, false>(p);
    else
        p.spikes ? run_rows<kind, kTiny, false, true>(p) : run_rows<kind, kTiny, false, false>(p);
}

}  // namespace

template <class Real>
void run_neuron(const NeuronProblem<Real>& p) {
    const bool tiny = has_levels(p.kind) && has_tiny(p.threshold, p.neurons, p.parameters.levels);
    with_form(p.kind, tiny,
              [&](auto form) { run_kind<decltype(form)::kKind, decltype(form)::kTiny>(p); });
}

template void run_neuron(const NeuronProblem<float>&);
template void run_neuron(const NeuronProblem<double>&);

}  // namespace SNNKERN_ARCH
}  // namespace snnkern
