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
#else
#define SNNKERN_INLINE inline __attribute__((always_inline))
#endif

namespace snnkern {

// Same values as `Kind` in snnkern/neurons.py.
enum class Kind : int32_t { IF = 0, SNM = 1, MT = 2, DC = 3 };

// What a lane type is made of: the number in a lane, the integer that counts in it, and conversion
// between them.
template <class V>
struct Lanes;

template <>
struct Lanes<float> {
    using Real = float;
    using Int = int32_t;
    static SNNKERN_INLINE float to_real(Int n) { return static_cast<float>(n); }
};

template <>
struct Lanes<double> {
    using Real = double;
    using Int = int64_t;
    static SNNKERN_INLINE double to_real(Int n) { return static_cast<double>(n); }
};

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

// State of a neuron during one decision step. Every kind has:
//   integrate(x)       u after the current of a step
//   fire(t)            s_t
//   reset(s, x, t)     what sending s_t changes
//   transmitted(T)     Q_T
//   mean(T)            Q_T / T, or e_T for DC
template <Kind kind, class V>
struct Neuron;

template <class V>
struct Neuron<Kind::IF, V> {
    using Real = typename Lanes<V>::Real;
    using Int = typename Lanes<V>::Int;

    V potential, threshold;
    Int count = Int{};

    SNNKERN_INLINE Neuron(const Parameters<Real>&, V threshold, V start, V)
        : potential(start), threshold(threshold) {}

    SNNKERN_INLINE void integrate(V x) { potential = potential + x; }

    SNNKERN_INLINE V fire(Real) {
        const auto up = potential > threshold;
        const auto alive = threshold > V{};
        count += (up & alive) ? Int{} + 1 : Int{};
        return up ? threshold : V{};
    }

    SNNKERN_INLINE void reset(V spike, V, Real) { potential = potential - spike; }

    SNNKERN_INLINE V transmitted(Real) const { return Lanes<V>::to_real(count) * threshold; }
    SNNKERN_INLINE V mean(Real timesteps) const { return transmitted(timesteps) / timesteps; }
};

template <class V>
struct Neuron<Kind::SNM, V> {
    using Real = typename Lanes<V>::Real;
    using Int = typename Lanes<V>::Int;

    V potential, threshold, lower;
    Int count = Int{};

    SNNKERN_INLINE Neuron(const Parameters<Real>& p, V threshold, V start, V)
        : potential(start), threshold(threshold), lower(p.negative_fraction * threshold) {}

    SNNKERN_INLINE void integrate(V x) { potential = potential + x; }

    SNNKERN_INLINE V fire(Real) {
        const auto up = potential > threshold;
        const auto down = (potential < lower) & (count >= Int{} + 1);
        const auto alive = threshold > V{};
        const Int sign = up ? Int{} + 1 : (down ? Int{} - 1 : Int{});
        count += alive ? sign : Int{};
        return up ? threshold : (down ? -threshold : V{});
    }

    SNNKERN_INLINE void reset(V spike, V, Real) { potential = potential - spike; }

    SNNKERN_INLINE V transmitted(Real) const { return Lanes<V>::to_real(count) * threshold; }
    SNNKERN_INLINE V mean(Real timesteps) const { return transmitted(timesteps) / timesteps; }
};

// The level that a multi-threshold neuron sends at a potential. `can_take_back(level, unit)` says
// where a negative spike is allowed. Levels are visited from the smallest, so that a larger one
// overrules it. A level of 0 (θ = 0, or an underflow) never fires.
template <class V, class CanTakeBack>
SNNKERN_INLINE V fire_level(V potential, V threshold, int32_t levels, typename Lanes<V>::Int* sent,
                            CanTakeBack can_take_back) {
    using Real = typename Lanes<V>::Real;
    using Int = typename Lanes<V>::Int;
    V spike = V{};
    *sent = Int{};
    int32_t unit = 1;
    Real scale = Real(1) / Real(1 << (levels - 1));
    for (int32_t j = levels - 1; j >= 0; --j, unit <<= 1, scale *= 2) {
        const V level = threshold * scale;
        const V bound = Real(0.75) * level;
        const auto alive = level > V{};
        const auto up = alive & (potential >= bound);
        const auto down = alive & (potential <= -bound) & can_take_back(level, Int{} + unit);
        spike = up ? level : (down ? -level : spike);
        *sent = up ? Int{} + unit : (down ? Int{} - unit : *sent);
    }
    return spike;
}

template <class V>
struct Neuron<Kind::MT, V> {
    using Real = typename Lanes<V>::Real;
    using Int = typename Lanes<V>::Int;

    V potential, threshold;
    Int count = Int{};  // m: what was sent, in units of the smallest level
    int32_t levels;

    SNNKERN_INLINE Neuron(const Parameters<Real>& p, V threshold, V start, V)
        : potential(start), threshold(threshold), levels(p.levels) {}

    SNNKERN_INLINE void integrate(V x) { potential = potential + x; }

    SNNKERN_INLINE V fire(Real) {
        Int sent;
        const Int before = count;
        const V spike = fire_level<V>(potential, threshold, levels, &sent,
                                      [before](V, Int unit) { return before >= unit; });
        count += sent;
        return spike;
    }

    SNNKERN_INLINE void reset(V spike, V, Real) { potential = potential - spike; }

    SNNKERN_INLINE V transmitted(Real) const {
        return Lanes<V>::to_real(count) * (threshold * (Real(1) / Real(1 << (levels - 1))));
    }
    SNNKERN_INLINE V mean(Real timesteps) const { return transmitted(timesteps) / timesteps; }
};

template <class V>
struct Neuron<Kind::DC, V> {
    using Real = typename Lanes<V>::Real;
    using Int = typename Lanes<V>::Int;

    V potential, threshold;
    V current_mean;       // e^x
    V output_mean = V{};  // e
    int32_t levels;

    SNNKERN_INLINE Neuron(const Parameters<Real>& p, V threshold, V start, V bias)
        : potential(start), threshold(threshold), current_mean(bias), levels(p.levels) {}

    SNNKERN_INLINE void integrate(V x) { potential = potential + x + current_mean - output_mean; }

    SNNKERN_INLINE V fire(Real t) {
        Int sent;
        const V promised = transmitted(t);
        return fire_level<V>(potential, threshold, levels, &sent,
                             [promised](V level, Int) { return promised >= level; });
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
    const V residual = gained < -transmitted ? -transmitted : gained;
    const V bound = p.clip * threshold;
    V next = p.memory * carry + p.alpha * residual;
    next = next > bound ? bound : next;
    return next < -bound ? -bound : next;
}

}  // namespace snnkern
