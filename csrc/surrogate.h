// The surrogate of a spike's derivative, and how gradients flow back through a decision step:
// docs/semantics.md, "Gradients". Templates over lanes, as in neuron.h.
#pragma once

#include <type_traits>

#include "neuron.h"

namespace snnkern {

// Same values as `Surrogate` in snnkern/kernels/surrogates.py.
enum class Surrogate : int32_t { triangle = 0, sigmoid = 1, atan = 2 };

inline namespace SNNKERN_ARCH {

// What an exponential is computed with in the precision of its numbers.
template <class Real>
struct Exponential;
template <>
struct Exponential<float> {
    static constexpr float kSmallest = -80;
    static constexpr int kTerms = 7;
    static constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
};
template <>
struct Exponential<double> {
    static constexpr double kSmallest = -600;
    static constexpr int kTerms = 13;
    static constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
};

// exp(x) for x from `kSmallest` to 0: 2^n · exp(r) with |r| ≤ ln 2 / 2, by the series.
template <class V>
SNNKERN_INLINE V exp_of_negative(V x) {
    using X = Lanes<V>;
    using Real = typename X::Real;
    using E = Exponential<Real>;
    using B = Bits<Real>;
    const auto n = X::to_int(x * Real(1.4426950408889634) - Real(0.5));  // towards 0, so it rounds
    const V whole = X::to_real(n);
    const V r = (x - whole * E::kLn2High) - whole * E::kLn2Low;
    V sum = V{} + 1;
    SNNKERN_UNROLL
    for (int term = E::kTerms; term > 0; --term) sum = sum * r * (Real(1) / Real(term)) + Real(1);
    return sum * X::from_bits(n * B::exponent(1) + B::kOne);  // n is negative: no shift
}

// σ(z); 0 where z is NaN.
template <Surrogate surrogate, class V>
SNNKERN_INLINE V surrogate_of(V z) {
    using X = Lanes<V>;
    using Real = typename X::Real;
    const V size = X::larger(z, -z);
    if constexpr (surrogate == Surrogate::triangle) {
        return X::larger(Real(1) - size, V{});
    } else if constexpr (surrogate == Surrogate::atan) {
        const V scaled = Real(3.14159265358979323846) * size;
        const V slope = Real(1) / (Real(1) + scaled * scaled);
        return X::larger(slope, V{});
    } else {
        constexpr Real kSmallest = Exponential<Real>::kSmallest;
        const V exponent = Real(-4) * size;
        const auto in_range = X::greater(exponent, V{} + kSmallest);
        const V e = exp_of_negative(X::select(in_range, exponent, V{} + kSmallest));
        const V above = Real(1) + e;
        return X::select(in_range, Real(4) * e / (above * above), V{});
    }
}

// f'(w) of a neuron with levels; `sent` knows what may be taken back.
template <Surrogate surrogate, class V, class Sent>
SNNKERN_INLINE V slope_of_levels(V ratio, V threshold, const Sent& sent, int32_t levels) {
    using X = Lanes<V>;
    using Real = typename X::Real;
    const V size = X::larger(ratio, -ratio);
    V slope{};
    int32_t unit = 1;
    Real scale = Real(1) / Real(1 << (levels - 1));
    Real steepness =
        Real(1 << (levels - 1));  // 1 / the height of a step; the smallest level's is λ
    SNNKERN_NO_UNROLL
    for (int32_t j = levels - 1; j >= 0; --j) {
        const V level = threshold * scale;
        const Real bound = Real(0.75) * scale;
        const auto may = sent.covers(level, typename X::Int{} + unit);
        V steps;
        if (surrogate == Surrogate::triangle && j < levels - 1) {
            // Only one of both sides is not 0, but for the smallest level's.
            const V side = surrogate_of<surrogate>((size - bound) * steepness);
            steps = X::select(X::either(X::greater(ratio, V{}), may), side, V{});
        } else {
            const V up = surrogate_of<surrogate>((ratio - bound) * steepness);
            const V down = surrogate_of<surrogate>((-ratio - bound) * steepness);
            steps = up + X::select(may, down, V{});
        }
        slope = slope + X::select(X::greater(level, V{}), steps, V{});
        if (j < levels - 1) steepness /= 2;
        unit <<= 1;
        scale *= 2;
    }
    return slope;
}

// f'(w) of a neuron at its potential, before it fires.
template <Surrogate surrogate, Kind kind, class V, bool kTiny, class Steps>
SNNKERN_INLINE V slope_of(const Neuron<kind, V, kTiny, Steps>& neuron, V ratio,
                          const Parameters<typename Lanes<V>::Real>& p, const Steps& t) {
    using X = Lanes<V>;
    using Real = typename X::Real;
    if constexpr (kind == Kind::DC) {
        const Promised<V> sent{neuron.transmitted(t), neuron.threshold};
        return slope_of_levels<surrogate>(ratio, neuron.threshold, sent, p.levels);
    } else if constexpr (kind == Kind::MT) {
        return slope_of_levels<surrogate>(ratio, neuron.threshold, neuron.sent, p.levels);
    } else {
        V slope = surrogate_of<surrogate>(ratio - Real(1));
        if constexpr (kind == Kind::SNM) {
            const V down = surrogate_of<surrogate>(p.negative_fraction - ratio);
            const auto may = X::at_least(neuron.count, typename X::Int{} + 1);
            slope = slope + X::select(may, down, V{});
        }
        return slope;
    }
}

// w = v / θ, and NaN where θ = 0, whose slope is 0.
template <class V>
SNNKERN_INLINE V ratio_of(V potential, V threshold) {
    using X = Lanes<V>;
    using B = Bits<typename X::Real>;
    return X::select(X::greater(threshold, V{}), potential / threshold,
                     X::from_bits(typename X::Int{} + B::kNan));
}

// ∂s/∂θ = f(w) − w·f'(w); `units` is f(w).
template <class V>
SNNKERN_INLINE V rise_of(V units, V ratio, V slope) {
    using X = Lanes<V>;
    return units - X::select(X::greater(slope, V{}), ratio * slope, V{});
}

// What the way back needs of a step.
template <class V>
struct Derivatives {
    V slope;  // f'(w)
    V rise;   // ∂s/∂θ
};

// Runs a step of a neuron with this current.
template <Surrogate surrogate, Kind kind, class V, bool kTiny, class Steps>
SNNKERN_INLINE Derivatives<V> run_step(Neuron<kind, V, kTiny, Steps>& neuron, V x,
                                       const Parameters<typename Lanes<V>::Real>& p,
                                       const Steps& t) {
    neuron.integrate(x);
    const V ratio = ratio_of(neuron.potential, neuron.threshold);
    const V slope = slope_of<surrogate>(neuron, ratio, p, t);
    const Spike<V> spike = neuron.fire(t);
    neuron.reset(spike, x, t);
    return {slope, rise_of(spike.units, ratio, slope)};
}

// The gradients with respect to what a neuron holds, on the way back from step T to step 1.
template <Kind kind, class V>
struct Adjoint {
    using Real = typename Lanes<V>::Real;

    V threshold{};  // ∂θ but for β·∂c
    V potential{};  // λ

    Adjoint() = default;
    SNNKERN_INLINE explicit Adjoint(V) {}

    // Goes back over step t: the gradient of its spike in, that of its current out.
    template <class Steps>
    SNNKERN_INLINE V step(V spike, const Derivatives<V>& of, Real decay, const Steps&) {
        const V a = spike - potential;
        threshold = threshold + a * of.rise;
        const V current = potential + a * of.slope;
        potential = kind == Kind::LIF ? decay * current : current;
        return current;
    }

    SNNKERN_INLINE V bias() const { return V{}; }
};

template <class V>
struct Adjoint<Kind::DC, V> {
    using Real = typename Lanes<V>::Real;

    V threshold{};
    V potential{};
    V current_mean{};  // λx
    V output_mean{};   // λe

    Adjoint() = default;
    SNNKERN_INLINE explicit Adjoint(V of_mean) : output_mean(of_mean) {}

    template <class Steps>
    SNNKERN_INLINE V step(V spike, const Derivatives<V>& of, Real, const Steps& t) {
        const V a = spike - potential + t.divide(output_mean);
        threshold = threshold + a * of.rise;
        potential = potential + a * of.slope;
        const V current = potential + t.divide(current_mean);
        current_mean = current_mean + potential;
        output_mean = output_mean - potential;
        return current;
    }

    SNNKERN_INLINE V bias() const { return current_mean; }
};

// Calls a function with a surrogate that is known at run time, as a constant.
template <class Function>
inline void with_surrogate(Surrogate surrogate, const Function& function) {
    switch (surrogate) {
        case Surrogate::triangle:
            return function(std::integral_constant<Surrogate, Surrogate::triangle>{});
        case Surrogate::sigmoid:
            return function(std::integral_constant<Surrogate, Surrogate::sigmoid>{});
        case Surrogate::atan:
            return function(std::integral_constant<Surrogate, Surrogate::atan>{});
    }
}

}  // namespace SNNKERN_ARCH
}  // namespace snnkern
