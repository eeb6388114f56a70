// One step of each neuron and the residual carry, written once for every native kernel.
//
// The functions are templates over V, the type of one lane or of several: `float` and `double` for
// scalar code and for CUDA threads, a vector type for SIMD code (see cpu/lanes.h). They use only
// operators that both have, so one source serves all of them. The order of the floating-point
// operations is the contract of docs/semantics.md; files that include this header are compiled
// without contraction into fused multiply-adds.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SNNKERN_INLINE __host__ __device__ __forceinline__
#define SNNKERN_NO_UNROLL _Pragma("unroll 1")  // unrolled, the loop takes registers that warps need
#else
#define SNNKERN_INLINE inline __attribute__((always_inline))
#define SNNKERN_NO_UNROLL
#endif

// Everything that generates code lives in a namespace of its instruction set, so that builds of one
// source for several instruction sets can stand in one module.
#ifndef SNNKERN_ARCH
#define SNNKERN_ARCH baseline
#endif

namespace snnkern {

// Same values as `Kind` in snnkern/neurons.py.
enum class Kind : int32_t { IF = 0, SNM = 1, MT = 2, DC = 3 };

// Neuron and carry parameters in the precision of the kernel; `Dynamics` in snnkern/neurons.py.
template <class Real>
struct Parameters {
    Real initial_fraction;   // β
    Real negative_fraction;  // η
    Real alpha;              // α
    Real memory;             // μ
    Real clip;               // κ
    int32_t levels;          // L
};

inline namespace SNNKERN_ARCH {

// What a lane type is made of: the number in a lane, the integer that counts in it, what a
// comparison gives, and what is done with that.
template <class V>
struct Lanes;

// For types whose comparison, `&` and `?:` are the language's own: numbers, and most vector types.
template <class V, class R, class N, class M>
struct PlainLanes {
    using Real = R;
    using Int = N;
    using Mask = M;
    static SNNKERN_INLINE Mask greater(V a, V b) { return a > b; }
    static SNNKERN_INLINE Mask at_least(V a, V b) { return a >= b; }
    static SNNKERN_INLINE Mask at_least(Int a, Int b) { return a >= b; }
    template <class T>
    static SNNKERN_INLINE T select(Mask mask, T a, T b) {
        return mask ? a : b;
    }
};

template <>
struct Lanes<float> : PlainLanes<float, float, int32_t, bool> {
    static SNNKERN_INLINE float to_real(Int n) { return static_cast<float>(n); }
    static SNNKERN_INLINE Int to_int(float x) { return static_cast<Int>(x); }
};

template <>
struct Lanes<double> : PlainLanes<double, double, int64_t, bool> {
    static SNNKERN_INLINE double to_real(Int n) { return static_cast<double>(n); }
    static SNNKERN_INLINE Int to_int(double x) { return static_cast<Int>(x); }
};

// State of a neuron during one decision step. Every kind has:
//   integrate(x)       u after the current of a step
//   fire(t)            s_t, also in units of θ
//   reset(s, x, t)     what sending s_t changes
//   transmitted(T)     Q_T
//   mean(T)            Q_T / T, or e_T for DC
template <Kind kind, class V>
struct Neuron;

template <class V>
struct Spike {
    V value;  // s_t, in activation units
    V units;  // s_t / θ: 0, ±1 or ±2^-j, exactly; 0 where θ = 0
};

template <class V>
struct Neuron<Kind::IF, V> {
    using X = Lanes<V>;
    using Real = typename X::Real;
    using Int = typename X::Int;

    V potential, threshold;
    Int count = Int{};

    Neuron() = default;
    SNNKERN_INLINE Neuron(const Parameters<Real>&, V threshold, V start, V)
        : potential(start), threshold(threshold) {}

    SNNKERN_INLINE void integrate(V x) { potential = potential + x; }

    SNNKERN_INLINE Spike<V> fire(Real) {
        const auto up = X::greater(potential, threshold);
        const auto fires = up & X::greater(threshold, V{});
        count += X::select(fires, Int{} + 1, Int{});
        return {X::select(up, threshold, V{}), X::select(fires, V{} + 1, V{})};
    }

    SNNKERN_INLINE void reset(V spike, V, Real) { potential = potential - spike; }

    SNNKERN_INLINE V transmitted(Real) const { return Lanes<V>::to_real(count) * threshold; }
    SNNKERN_INLINE V mean(Real timesteps) const { return transmitted(timesteps) / timesteps; }
};

template <class V>
struct Neuron<Kind::SNM, V> {
    using X = Lanes<V>;
    using Real = typename X::Real;
    using Int = typename X::Int;

    V potential, threshold, lower;
    Int count = Int{};

    Neuron() = default;
    SNNKERN_INLINE Neuron(const Parameters<Real>& p, V threshold, V start, V)
        : potential(start), threshold(threshold), lower(p.negative_fraction * threshold) {}

    SNNKERN_INLINE void integrate(V x) { potential = potential + x; }

    SNNKERN_INLINE Spike<V> fire(Real) {
        const auto up = X::greater(potential, threshold);
        const auto down = X::greater(lower, potential) & X::at_least(count, Int{} + 1);
        const auto alive = X::greater(threshold, V{});
        count += X::select(up & alive, Int{} + 1, X::select(down & alive, Int{} - 1, Int{}));
        return {X::select(up, threshold, X::select(down, -threshold, V{})),
                X::select(up & alive, V{} + 1, X::select(down & alive, V{} - 1, V{}))};
    }

    SNNKERN_INLINE void reset(V spike, V, Real) { potential = potential - spike; }

    SNNKERN_INLINE V transmitted(Real) const { return Lanes<V>::to_real(count) * threshold; }
    SNNKERN_INLINE V mean(Real timesteps) const { return transmitted(timesteps) / timesteps; }
};

// The level that a multi-threshold neuron sends at a potential. `can_take_back(level, unit)` says
// where a negative spike is allowed. Levels are visited from the smallest, so that a larger one
// overrules it. A level of 0 (θ = 0, or an underflow) never fires.
template <class V, class CanTakeBack>
SNNKERN_INLINE Spike<V> fire_level(V potential, V threshold, int32_t levels,
                                   typename Lanes<V>::Int* sent, CanTakeBack can_take_back) {
    using X = Lanes<V>;
    using Real = typename X::Real;
    using Int = typename X::Int;
    V units = V{};
    int32_t unit = 1;
    Real scale = Real(1) / Real(1 << (levels - 1));
    SNNKERN_NO_UNROLL
    for (int32_t j = levels - 1; j >= 0; --j, unit <<= 1, scale *= 2) {
        const V level = threshold * scale;
        const V bound = Real(0.75) * level;
        const auto alive = X::greater(level, V{});
        const auto up = alive & X::at_least(potential, bound);
        const auto down =
            alive & X::at_least(-bound, potential) & can_take_back(level, Int{} + unit);
        units = X::select(up, V{} + scale, X::select(down, V{} - scale, units));
    }
    *sent = X::to_int(units * Real(1 << (levels - 1)));  // both factors are powers of two: exact
    const auto fires = X::greater(units, V{}) | X::greater(V{}, units);
    return {X::select(fires, threshold * units, V{}),
            units};  // θ · 2^-j, as the level was computed
}

template <class V>
struct Neuron<Kind::MT, V> {
    using X = Lanes<V>;
    using Real = typename X::Real;
    using Int = typename X::Int;

    V potential, threshold;
    Int count = Int{};  // m: what was sent, in units of the smallest level
    int32_t levels;

    Neuron() = default;
    SNNKERN_INLINE Neuron(const Parameters<Real>& p, V threshold, V start, V)
        : potential(start), threshold(threshold), levels(p.levels) {}

    SNNKERN_INLINE void integrate(V x) { potential = potential + x; }

    SNNKERN_INLINE Spike<V> fire(Real) {
        Int sent;
        const Int before = count;
        const Spike<V> spike =
            fire_level<V>(potential, threshold, levels, &sent,
                          [before](V, Int unit) { return X::at_least(before, unit); });
        count += sent;
        return spike;
    }

    SNNKERN_INLINE void reset(V spike, V, Real) { potential = potential - spike; }

    SNNKERN_INLINE V transmitted(Real) const {
        // As a multiple of θ first: the smallest level may underflow.
        return Lanes<V>::to_real(count) * (Real(1) / Real(1 << (levels - 1))) * threshold;
    }
    SNNKERN_INLINE V mean(Real timesteps) const { return transmitted(timesteps) / timesteps; }
};

template <class V>
struct Neuron<Kind::DC, V> {
    using X = Lanes<V>;
    using Real = typename X::Real;
    using Int = typename X::Int;

    V potential, threshold;
    V current_mean;       // e^x
    V output_mean = V{};  // e
    int32_t levels;

    Neuron() = default;
    SNNKERN_INLINE Neuron(const Parameters<Real>& p, V threshold, V start, V bias)
        : potential(start), threshold(threshold), current_mean(bias), levels(p.levels) {}

    SNNKERN_INLINE void integrate(V x) { potential = potential + x + current_mean - output_mean; }

    SNNKERN_INLINE Spike<V> fire(Real t) {
        Int sent;
        const V promised = transmitted(t);
        return fire_level<V>(potential, threshold, levels, &sent,
                             [promised](V level, Int) { return X::at_least(promised, level); });
    }

    SNNKERN_INLINE void reset(V spike, V x, Real t) {
        potential = potential - spike;
        current_mean = current_mean + x / t;
        output_mean = output_mean + spike / t;
    }

    SNNKERN_INLINE V transmitted(Real timesteps) const { return timesteps * output_mean; }
    SNNKERN_INLINE V mean(Real) const { return output_mean; }
};

// CRPI: r = max(u_T − u_0, −Q_T), then c ← clamp(μ·c + α·r, −κ·θ, κ·θ). A NaN stays visible in the
// carry.
template <class V>
SNNKERN_INLINE V residual_carry(V gained, V transmitted, V carry, V threshold,
                                const Parameters<typename Lanes<V>::Real>& p) {
    using X = Lanes<V>;
    const V residual = X::select(X::greater(-transmitted, gained), -transmitted, gained);
    const V bound = p.clip * threshold;
    V next = p.memory * carry + p.alpha * residual;
    next = X::select(X::greater(next, bound), bound, next);
    return X::select(X::greater(-bound, next), -bound, next);
}

}  // namespace SNNKERN_ARCH
}  // namespace snnkern
