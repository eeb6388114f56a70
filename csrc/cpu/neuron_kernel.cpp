// All T steps of one layer of neurons and its carry in one pass over memory; the neurons' state
// stays in registers.

#include "kernels.h"
#include "lanes.h"

namespace snnkern {
inline namespace SNNKERN_ARCH {
namespace {

// The decision step of the neurons [n, n + lanes) of row b. Returns the number of spikes they sent.
template <Kind kind, class V, bool kConstant, bool kSpikes>
SNNKERN_INLINE int64_t run_lanes(const NeuronProblem<typename Lanes<V>::Real>& p, int64_t b,
                                 int64_t n) {
    using Real = typename Lanes<V>::Real;
    const int64_t at = b * p.neurons + n;
    const V threshold = load<V>(p.threshold + n);
    const V carry = load<V>(p.carry + at);
    const V bias = (kind == Kind::DC && p.bias) ? load<V>(p.bias + n) : V{};
    const V start = p.parameters.initial_fraction * threshold + carry;
    Neuron<kind, V> neuron(p.parameters, threshold, start, bias);

    const Real* current = p.current + b * p.current_stride_b + n;
    V x = kConstant ? load<V>(current) : V{};
    int64_t fired = 0;
    for (int64_t t = 0; t < p.timesteps; ++t) {
        const Real step = static_cast<Real>(t + 1);
        if constexpr (!kConstant) x = load<V>(current + t * p.current_stride_t);
        neuron.integrate(x);
        const V spike = neuron.fire(step).value;
        neuron.reset(spike, x, step);
        fired += __builtin_popcount(nonzero(spike));
        if constexpr (kSpikes) store<V>(p.spikes + t * p.batch * p.neurons + at, spike);
        if constexpr (kConstant && kind == Kind::DC)
            x = V{};  // a constant is coded as x_1, 0, 0, …
    }

    const Real timesteps = static_cast<Real>(p.timesteps);
    if constexpr (!kSpikes) store<V>(p.mean + at, neuron.mean(timesteps));
    store<V>(p.next_carry + at,
             residual_carry<V>(neuron.potential - start, neuron.transmitted(timesteps), carry,
                               threshold, p.parameters));
    return fired;
}

template <Kind kind, class Real, bool kConstant, bool kSpikes>
void run_rows(const NeuronProblem<Real>& p) {
    using V = typename VectorOf<Real>::Type;
    for (int64_t b = 0; b < p.batch; ++b) {
        int64_t count = 0, n = 0;
        for (; n + kLanes<V> <= p.neurons; n += kLanes<V>)
            count += run_lanes<kind, V, kConstant, kSpikes>(p, b, n);
        for (; n < p.neurons; ++n) count += run_lanes<kind, Real, kConstant, kSpikes>(p, b, n);
        p.counts[b] = count;
    }
}

template <Kind kind, class Real>
void run_kind(const NeuronProblem<Real>& p) {
    if (p.constant)
        p.spikes ? run_rows<kind, Real, true, true>(p) : run_rows<kind, Real, true, false>(p);
    else
        p.spikes ? run_rows<kind, Real, false, true>(p) : run_rows<kind, Real, false, false>(p);
}

}  // namespace

template <class Real>
void run_neuron(const NeuronProblem<Real>& p) {
    switch (p.kind) {
        case Kind::IF:
            return run_kind<Kind::IF>(p);
        case Kind::SNM:
            return run_kind<Kind::SNM>(p);
        case Kind::MT:
            return run_kind<Kind::MT>(p);
        case Kind::DC:
            return run_kind<Kind::DC>(p);
    }
}

template void run_neuron(const NeuronProblem<float>&);
template void run_neuron(const NeuronProblem<double>&);

}  // namespace SNNKERN_ARCH
}  // namespace snnkern
