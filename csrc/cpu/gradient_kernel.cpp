// The gradients of a layer of neurons in one pass over memory: the decision step is run again, what
// the way back needs of every step stays in a few lanes' memory.

#include "kernels.h"
#include "lanes.h"

namespace snnkern {
inline namespace SNNKERN_ARCH {
namespace {

// Vectors that are worked on at once.
constexpr int kMostVectors = 4;
template <Kind kind>
constexpr int kVectorsOf = kHasLevels<kind> ? 2 : kMostVectors;

// The neurons [n, n + vectors · lanes) of row b.
template <Kind kind, Surrogate surrogate, class V, int vectors>
SNNKERN_INLINE void run_lanes(const GradientProblem<typename Lanes<V>::Real>& p, int64_t b,
                              int64_t n) {
    using X = Lanes<V>;
    using Real = typename X::Real;
    constexpr int64_t L = sizeof(V) / sizeof(Real);
    const int64_t at = b * p.neurons + n, step_size = p.batch * p.neurons;
    const Real* current = p.current + b * p.current_stride_b + n;
    Neuron<kind, V> neurons[vectors];
    V x[vectors] = {};
#pragma GCC unroll 4
    for (int i = 0; i < vectors; ++i) {
        const V threshold = load<V>(p.threshold + n + i * L);
        const V bias = (kIsDifferential<kind> && p.bias) ? load<V>(p.bias + n + i * L) : V{};
        const V start = p.parameters.initial_fraction * threshold + load<V>(p.carry + at + i * L);
        neurons[i] = Neuron<kind, V>(p.parameters, threshold, start, bias);
        if (p.constant) x[i] = load<V>(current + i * L);
    }
    for (int64_t t = 0; t < p.timesteps; ++t) {
        const Steps<Real> step(t + 1);
        Real* kept = p.scratch + t * (2 * vectors * L);
#pragma GCC unroll 4
        for (int i = 0; i < vectors; ++i) {
            if (!p.constant) x[i] = load<V>(current + t * p.current_stride_t + i * L);
            const Derivatives<V> of = run_step<surrogate>(neurons[i], x[i], p.parameters, step);
            if (kIsDifferential<kind> && p.constant) x[i] = V{};  // coded as x_1, 0, 0, …
            store<V>(kept + 2 * i * L, of.slope);
            store<V>(kept + (2 * i + 1) * L, of.rise);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < vectors; ++i) {
        const int64_t here = at + i * L;
        const Steps<Real> timesteps(p.timesteps);
        V of_spike{}, of_mean{}, sum{}, first{};
        if (p.of_mean) {
            of_mean = load<V>(p.gradient + here);
            if (!kIsDifferential<kind>) of_spike = timesteps.divide(of_mean);
        }
        Adjoint<kind, V> adjoint(of_mean);
        for (int64_t t = p.timesteps - 1; t >= 0; --t) {
            const Real* kept = p.scratch + t * (2 * vectors * L);
            if (!p.of_mean) of_spike = load<V>(p.gradient + t * step_size + here);
            const Derivatives<V> of{load<V>(kept + 2 * i * L), load<V>(kept + (2 * i + 1) * L)};
            first = adjoint.step(of_spike, of, p.parameters.decay, Steps<Real>(t + 1));
            if (p.constant)
                sum = sum + first;
            else
                store<V>(p.current_gradient + t * step_size + here, first);
        }
        if (p.constant) store<V>(p.current_gradient + here, kIsDifferential<kind> ? first : sum);
        store<V>(p.carry_gradient + here, adjoint.potential);
        Real* of_threshold = p.threshold_gradient + n + i * L;
        store<V>(of_threshold,
                 load<V>(of_threshold) +
                     (adjoint.threshold + p.parameters.initial_fraction * adjoint.potential));
        if constexpr (kIsDifferential<kind>) {
            Real* of_bias = p.bias_gradient + n + i * L;
            store<V>(of_bias, load<V>(of_bias) + adjoint.bias());
        }
    }
}

template <Kind kind, Surrogate surrogate, class Real>
void run_rows(const GradientProblem<Real>& problem) {
    const GradientProblem<Real> p = problem;  // no store can change a copy
    using V = typename VectorOf<Real>::Type;
    // One at a time is enough where a surrogate takes long, and is compiled in less time.
    constexpr int kVectors = surrogate == Surrogate::triangle ? kVectorsOf<kind> : 1;
    for (int64_t b = 0; b < p.batch; ++b) {  // in this order: sums over the batch are one number
        int64_t n = p.begin;
        for (; n + kVectors * kLanes<V> <= p.end; n += kVectors * kLanes<V>)
            run_lanes<kind, surrogate, V, kVectors>(p, b, n);
        if constexpr (kVectors > 1)
            for (; n + kLanes<V> <= p.end; n += kLanes<V>)
                run_lanes<kind, surrogate, V, 1>(p, b, n);
        for (; n < p.end; ++n) run_lanes<kind, surrogate, Real, 1>(p, b, n);
    }
}

}  // namespace

template <class Real>
void run_neuron_gradients(const GradientProblem<Real>& p) {
    // Every level is looked at for its slope anyway: there is no form for thresholds that are not
    // tiny.
    with_form(p.kind, true, [&](auto form) {
        with_surrogate(p.surrogate, [&](auto surrogate) {
            run_rows<decltype(form)::kKind, decltype(surrogate)::value>(p);
        });
    });
}

template void run_neuron_gradients(const GradientProblem<float>&);
template void run_neuron_gradients(const GradientProblem<double>&);

// Numbers of scratch memory that a step takes: of single precision, whose lanes are more.
int64_t gradient_scratch() { return 2 * kMostVectors * kLanes<FloatLanes>; }

}  // namespace SNNKERN_ARCH
}  // namespace snnkern
