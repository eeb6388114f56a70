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
#define SNNKERN_UNROLL _Pragma("unroll")
#else
#define SNNKERN_INLINE inline __attribute__((always_inline))
#define SNNKERN_NO_UNROLL
#define SNNKERN_UNROLL _Pragma("GCC unroll 16")
#endif

// Everything that generates code lives in a namespace of its instruction set, so that builds of one
// source for several instruction sets can stand in one module.
#ifndef SNNKERN_ARCH
#define SNNKERN_ARCH baseline
#endif

namespace snnkern {

// Same values as `Kind` in snnkern/kernels/neurons.py.
enum class Kind : int32_t { IF = 0, SNM = 1, MT = 2, DC = 3, LIF = 4 };

// What kernels ask of a kind; `Neuron` in snnkern/kernels/neurons.py has the same.
constexpr bool is_differential(Kind kind) { return kind == Kind::DC; }  // spikes change a rate
constexpr bool has_levels(Kind kind) { return kind == Kind::MT || kind == Kind::DC; }
// Whether a spike is θ or nothing.
constexpr bool is_binary(Kind kind) { return kind == Kind::IF || kind == Kind::LIF; }
template <Kind kind>
constexpr bool kIsDifferential = is_differential(kind);
template <Kind kind>
constexpr bool kHasLevels = has_levels(kind);
template <Kind kind>
constexpr bool kIsBinary = is_binary(kind);

// A layer's kind, steps and parameters as Python gives them: `Numbers` in
// snnkern/kernels/neurons.py, in its order.
struct DynamicsNumbers {
    double kind, levels, initial_fraction, negative_fraction, leak, timesteps, alpha, memory, clip;
};

// Neuron and carry parameters in the precision of the kernel.
template <class Real>
struct Parameters {
    Real initial_fraction;   // β
    Real negative_fraction;  // η
    Real decay;              // 1 − leak
    Real alpha;              // α
    Real memory;             // μ
    Real clip;               // κ
    int32_t levels;          // L

    Parameters() = default;
    explicit Parameters(const DynamicsNumbers& given)
        : initial_fraction(static_cast<Real>(given.initial_fraction)),
          negative_fraction(static_cast<Real>(given.negative_fraction)),
          decay(static_cast<Real>(1 - given.leak)),
          alpha(static_cast<Real>(given.alpha)),
          memory(static_cast<Real>(given.memory)),
          clip(static_cast<Real>(given.clip)),
          levels(static_cast<int32_t>(given.levels)) {}
};

// A whole number of steps to divide by. Where it is a power of two, multiplying gives the same.
template <class Real>
struct Steps {
    Real number, reciprocal;
    bool power_of_two;

    Steps() = default;
    SNNKERN_INLINE explicit Steps(int64_t steps)
        : number(static_cast<Real>(steps)),
          reciprocal(Real(1) / number),
          power_of_two((steps & (steps - 1)) == 0) {}

    template <class V>
    SNNKERN_INLINE V divide(V x) const {
        return power_of_two ? x * reciprocal : x / number;
    }

    // For numbers that are known to be 0 or to have a quotient that is normal.
    template <class V>
    SNNKERN_INLINE V divide_normal(V x) const {
        return divide(x);
    }
};

inline namespace SNNKERN_ARCH {

// What a lane type is made of: the number in a lane, the integer of the same size, what a
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
    static SNNKERN_INLINE Mask both(Mask a, Mask b) { return a & b; }
    static SNNKERN_INLINE Mask either(Mask a, Mask b) { return a | b; }
    template <class T>
    static SNNKERN_INLINE T select(Mask mask, T a, T b) {
        return mask ? a : b;
    }
    // a − b where the mask holds, else a.
    template <class T>
    static SNNKERN_INLINE T subtract(Mask mask, T a, T b) {
        return a - select(mask, b, T{});
    }
    // a where it is the smaller (the larger) one, else b: also where one is NaN.
    template <class T>
    static SNNKERN_INLINE T smaller(T a, T b) {
        return a < b ? a : b;
    }
    template <class T>
    static SNNKERN_INLINE T larger(T a, T b) {
        return a > b ? a : b;
    }
    // The bit pattern of a number, which orders numbers of one sign as integers, and back.
    static SNNKERN_INLINE Int bits(V x) {
        Int n;
        __builtin_memcpy(&n, &x, sizeof(n));
        return n;
    }
    static SNNKERN_INLINE V from_bits(Int n) {
        V x;
        __builtin_memcpy(&x, &n, sizeof(x));
        return x;
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

// The bit pattern of a number: sign, exponent, mantissa.
template <class Real>
struct Layout;
template <>
struct Layout<float> {
    using Int = int32_t;
    static constexpr int kMantissaBits = 23;
    static constexpr Int kBias = 127;
    static constexpr float kSmallestNormal = 0x1p-126f;
};
template <>
struct Layout<double> {
    using Int = int64_t;
    static constexpr int kMantissaBits = 52;
    static constexpr Int kBias = 1023;
    static constexpr double kSmallestNormal = 0x1p-1022;
};

template <class Real>
struct Bits : Layout<Real> {
    using typename Layout<Real>::Int;
    static SNNKERN_INLINE constexpr Int exponent(int e) {
        return Int(e) * (Int(1) << Layout<Real>::kMantissaBits);
    }
    static constexpr Int kOne = exponent(Layout<Real>::kBias);  // 1.0
    static constexpr Int kExponents = -exponent(1);             // all bits but the mantissa's
    static constexpr Int kInfinity = exponent(2 * Layout<Real>::kBias + 1);
    static constexpr Int kSign = kExponents ^ kInfinity;
    static constexpr Int kNan = kInfinity + exponent(1) / 2;
};

template <class V>
SNNKERN_INLINE V infinity() {
    using X = Lanes<V>;
    return X::from_bits(typename X::Int{} + Bits<typename X::Real>::kInfinity);
}

// What a neuron sends at a step.
template <class V>
struct Spike {
    typename Lanes<V>::Mask fires;
    V value;  // s_t, in activation units
    V units;  // s_t / θ: 0, ±1 or ±2^-j, exactly; 0 where θ = 0
};

// State of a neuron during one decision step. Every kind has:
//   integrate(x)       u after the current of a step
//   fire(t)            s_t
//   reset(s, x, t)     what sending s_t changes
//   transmitted(T)     Q_T
//   mean(T)            Q_T / T, or e_T for DC
// `kTiny` says whether a threshold may be so small that its levels underflow; see `has_tiny`.
// `Steps` is what t and T are given as.
template <Kind kind, class V, bool kTiny = true, class Steps = Steps<typename Lanes<V>::Real>>
struct Neuron;

template <class V, bool kTiny, class Steps>
struct Neuron<Kind::IF, V, kTiny, Steps> {
    using X = Lanes<V>;
    using Real = typename X::Real;
    using Int = typename X::Int;

    V potential, threshold;
    V limit;  // what the potential must exceed: θ, and infinity where θ = 0
    Int count = Int{};

    Neuron() = default;
    SNNKERN_INLINE Neuron(const Parameters<Real>&, V threshold, V start, V)
        : potential(start),
          threshold(threshold),
          limit(X::select(X::greater(threshold, V{}), threshold, infinity<V>())) {}

    SNNKERN_INLINE void integrate(V x) { potential = potential + x; }

    SNNKERN_INLINE Spike<V> fire(const Steps&) {
        const auto fires = X::greater(potential, limit);
        count = X::subtract(fires, count, Int{} - 1);
        return {fires, X::select(fires, limit, V{}), X::select(fires, V{} + 1, V{})};
    }

    SNNKERN_INLINE void reset(const Spike<V>& spike, V, const Steps&) {
        potential = X::subtract(spike.fires, potential, limit);  // where it fires, the limit is θ
    }

    SNNKERN_INLINE V transmitted(const Steps&) const { return X::to_real(count) * threshold; }
    SNNKERN_INLINE V mean(const Steps& timesteps) const {
        return timesteps.divide(transmitted(timesteps));
    }
};

// IF that loses a part of its potential before the current arrives.
template <class V, bool kTiny, class Steps>
struct Neuron<Kind::LIF, V, kTiny, Steps> : Neuron<Kind::IF, V, kTiny, Steps> {
    using Base = Neuron<Kind::IF, V, kTiny, Steps>;
    using Real = typename Base::Real;

    Real decay;

    Neuron() = default;
    SNNKERN_INLINE Neuron(const Parameters<Real>& p, V threshold, V start, V bias)
        : Base(p, threshold, start, bias), decay(p.decay) {}

    SNNKERN_INLINE void integrate(V x) { this->potential = decay * this->potential + x; }
};

// A unit of SNM's count, for decisions of fewer steps than half of it.
constexpr int32_t kTally = 1 << 16;

// SNM, which adds `kUnit` to its count for a spike. Below a larger unit than 1, the count has the
// number of spikes of either sign: up to 32767 steps in one of 2^16.
template <class V, class Steps, int32_t kUnit>
struct SignedNeuron {
    using X = Lanes<V>;
    using Real = typename X::Real;
    using Int = typename X::Int;

    V potential, threshold;
    V upper, lower;  // the potential fires above and below them; infinite where θ = 0
    Int count = Int{};

    SignedNeuron() = default;
    SNNKERN_INLINE SignedNeuron(const Parameters<Real>& p, V threshold, V start, V)
        : potential(start), threshold(threshold) {
        const auto alive = X::greater(threshold, V{});
        upper = X::select(alive, threshold, infinity<V>());
        lower = X::select(alive, p.negative_fraction * threshold, -infinity<V>());
    }

    SNNKERN_INLINE void integrate(V x) { potential = potential + x; }

    SNNKERN_INLINE Spike<V> fire(const Steps&) {
        const auto up = X::greater(potential, upper);
        const auto down = X::both(X::greater(lower, potential), X::at_least(count, Int{} + kUnit));
        if constexpr (kUnit == 1)
            count = X::subtract(down, X::subtract(up, count, Int{} - 1), Int{} + 1);
        else
            count +=
                X::select(up, Int{} + (kUnit + 1), X::select(down, Int{} + (1 - kUnit), Int{}));
        return {X::either(up, down), X::select(up, upper, X::select(down, -upper, V{})),
                X::select(up, V{} + 1, X::select(down, V{} - 1, V{}))};
    }

    SNNKERN_INLINE void reset(const Spike<V>& spike, V, const Steps&) {
        potential = potential - spike.value;
    }

    SNNKERN_INLINE V transmitted(const Steps&) const {
        return X::to_real(count / kUnit) * threshold;
    }
    SNNKERN_INLINE V mean(const Steps& timesteps) const {
        return timesteps.divide(transmitted(timesteps));
    }
};

template <class V, bool kTiny, class Steps>
struct Neuron<Kind::SNM, V, kTiny, Steps> : SignedNeuron<V, Steps, 1> {
    using SignedNeuron<V, Steps, 1>::SignedNeuron;
};

// What a multi-threshold neuron has sent, as MT counts it: `count` in units of the smallest level.
template <class V>
struct Counted {
    using X = Lanes<V>;
    using Int = typename X::Int;
    Int count;
    int32_t levels;

    // Where a level, `unit` times the smallest one, may be taken back.
    SNNKERN_INLINE typename X::Mask covers(V, Int unit) const { return X::at_least(count, unit); }

    // The largest 2^-j that may be sent, in bit patterns relative to 1.0, before it is rounded down
    // to a whole exponent: 1.0 up; down what may be taken back, below any level's if that is none.
    SNNKERN_INLINE Int largest(typename X::Mask down) const {
        using B = Bits<typename X::Real>;
        // More than the largest level changes nothing; up to it, the conversion is exact.
        const Int all = Int{} + (typename B::Int(1) << (levels - 1));
        const Int bounded = X::select(down, X::smaller(count, all), all);
        return X::bits(X::to_real(bounded)) - (Int{} + B::kOne + B::exponent(levels - 1));
    }
};

// The same as DC knows it: `promised` = t·e, in activation units.
template <class V>
struct Promised {
    using X = Lanes<V>;
    using Int = typename X::Int;
    V promised, threshold;

    SNNKERN_INLINE typename X::Mask covers(V level, Int) const {
        return X::at_least(promised, level);
    }

    SNNKERN_INLINE Int largest(typename X::Mask down) const {
        const V positive = X::larger(promised, V{});  // 0 for NaN
        const V all = X::select(down, positive, threshold);
        return X::smaller(X::bits(all) - X::bits(threshold), Int{});
    }
};

// Finds the level that a multi-threshold neuron sends at a potential.
template <class V, bool kTiny>
struct Levels;

// By comparing with every level, from the smallest, so that a larger one overrules it. A level of 0
// (θ = 0, or an underflow) never fires.
template <class V>
struct Levels<V, true> {
    using X = Lanes<V>;
    using Real = typename X::Real;
    using Int = typename X::Int;

    V threshold;
    int32_t levels;

    Levels() = default;
    SNNKERN_INLINE Levels(V threshold, int32_t levels) : threshold(threshold), levels(levels) {}

    template <class Sent>
    SNNKERN_INLINE Spike<V> find(V potential, const Sent& sent) const {
        V units = V{};
        int32_t unit = 1;
        Real scale = Real(1) / Real(1 << (levels - 1));
        SNNKERN_NO_UNROLL
        for (int32_t j = levels - 1; j >= 0; --j, unit <<= 1, scale *= 2) {
            const V level = threshold * scale;
            const V bound = Real(0.75) * level;
            const auto alive = X::greater(level, V{});
            const auto up = X::both(alive, X::at_least(potential, bound));
            const auto down = X::both(X::both(alive, X::at_least(-bound, potential)),
                                      sent.covers(level, Int{} + unit));
            units = X::select(up, V{} + scale, X::select(down, V{} - scale, units));
        }
        const auto fires = X::either(X::greater(units, V{}), X::greater(V{}, units));
        return {fires, X::select(fires, threshold * units, V{}), units};  // θ · 2^-j, as the level
    }
};

// By the exponent. Where no level underflows, the bounds 0.75·λ_j are one number times 2^-j: the
// largest that a potential reaches follows from the difference of two bit patterns, rounded down to
// whole exponents.
template <class V>
struct Levels<V, false> {
    using X = Lanes<V>;
    using Real = typename X::Real;
    using Int = typename X::Int;
    using B = Bits<Real>;

    V threshold;
    V lowest;      // the smallest bound; NaN, which nothing reaches, where θ = 0
    Int highest;   // bits of the largest bound
    Int smallest;  // bits of 2^-(L-1), relative to 1.0

    Levels() = default;
    SNNKERN_INLINE Levels(V threshold, int32_t levels)
        : threshold(threshold),
          highest(X::bits(Real(0.75) * threshold) & (Int{} + ~B::kSign)),  // also where θ = -0
          smallest(Int{} - B::exponent(levels - 1)) {
        const V bound = Real(0.75) * threshold * (Real(1) / Real(1 << (levels - 1)));
        lowest = X::select(X::greater(threshold, V{}), bound, X::from_bits(Int{} + B::kNan));
    }

    template <class Sent>
    SNNKERN_INLINE Spike<V> find(V potential, const Sent& sent) const {
        const Int bits = X::bits(potential);
        const Int sign = bits & (Int{} + B::kSign);
        const Int magnitude = bits ^ sign;
        const auto down = X::greater(V{}, potential);
        const Int level =
            X::smaller(magnitude - highest, sent.largest(down)) & (Int{} + B::kExponents);
        const auto fires =
            X::both(X::at_least(X::from_bits(magnitude), lowest), X::at_least(level, smallest));
        const V units = X::select(fires, X::from_bits((level + (Int{} + B::kOne)) | sign), V{});
        return {fires, threshold * units, units};
    }
};

// The smallest θ > 0 that `Levels<V, false>` is for.
template <class Real>
SNNKERN_INLINE Real smallest_threshold(int32_t levels) {
    return Bits<Real>::kSmallestNormal * 4 * Real(1 << (levels - 1));
}

// Whether some θ > 0 is smaller.
template <class Real>
inline bool has_tiny(const Real* threshold, int64_t count, int32_t levels) {
    const Real smallest = smallest_threshold<Real>(levels);
    bool tiny = false;
    for (int64_t n = 0; n < count; ++n) tiny |= threshold[n] > 0 && threshold[n] < smallest;
    return tiny;
}

template <class V, bool kTiny, class Steps>
struct Neuron<Kind::MT, V, kTiny, Steps> {
    using X = Lanes<V>;
    using Real = typename X::Real;
    using Int = typename X::Int;

    V potential, threshold;
    Levels<V, kTiny> search;
    Counted<V> sent;  // m

    Neuron() = default;
    SNNKERN_INLINE Neuron(const Parameters<Real>& p, V threshold, V start, V)
        : potential(start),
          threshold(threshold),
          search(threshold, p.levels),
          sent{Int{}, p.levels} {}

    SNNKERN_INLINE void integrate(V x) { potential = potential + x; }

    SNNKERN_INLINE Spike<V> fire(const Steps&) {
        const Spike<V> spike = search.find(potential, sent);
        sent.count +=
            X::to_int(spike.units * Real(1 << (sent.levels - 1)));  // powers of two: exact
        return spike;
    }

    SNNKERN_INLINE void reset(const Spike<V>& spike, V, const Steps&) {
        potential = potential - spike.value;
    }

    SNNKERN_INLINE V transmitted(const Steps&) const {
        // As a multiple of θ first: the smallest level may underflow.
        return X::to_real(sent.count) * (Real(1) / Real(1 << (sent.levels - 1))) * threshold;
    }
    SNNKERN_INLINE V mean(const Steps& timesteps) const {
        return timesteps.divide(transmitted(timesteps));
    }
};

template <class V, bool kTiny, class Steps>
struct Neuron<Kind::DC, V, kTiny, Steps> {
    using X = Lanes<V>;
    using Real = typename X::Real;

    V potential, threshold;
    V current_mean;       // e^x
    V output_mean = V{};  // e
    Levels<V, kTiny> search;

    Neuron() = default;
    SNNKERN_INLINE Neuron(const Parameters<Real>& p, V threshold, V start, V bias)
        : potential(start), threshold(threshold), current_mean(bias), search(threshold, p.levels) {}

    SNNKERN_INLINE void integrate(V x) { potential = potential + x + current_mean - output_mean; }

    SNNKERN_INLINE Spike<V> fire(const Steps& t) {
        return search.find(potential, Promised<V>{transmitted(t), threshold});
    }

    SNNKERN_INLINE void reset(const Spike<V>& spike, V x, const Steps& t) {
        potential = potential - spike.value;
        current_mean = current_mean + t.divide(x);
        output_mean = output_mean + (kTiny ? t.divide(spike.value) : t.divide_normal(spike.value));
    }

    SNNKERN_INLINE V transmitted(const Steps& t) const { return t.number * output_mean; }
    SNNKERN_INLINE V mean(const Steps&) const { return output_mean; }
};

// CRPI: r = max(u_T − u_0, −Q_T), then c ← clamp(μ·c + α·r, −κ·θ, κ·θ). A NaN stays visible in the
// carry. Rows may have an α each.
template <class V>
SNNKERN_INLINE V residual_carry(V gained, V transmitted, V carry, V threshold,
                                typename Lanes<V>::Real alpha,
                                const Parameters<typename Lanes<V>::Real>& p) {
    using X = Lanes<V>;
    const V residual = X::larger(-transmitted, gained);
    const V bound = p.clip * threshold;
    return X::larger(-bound, X::smaller(bound, p.memory * carry + alpha * residual));
}

// A kind at compile time, and whether some θ of its layers may be tiny.
template <Kind of, bool tiny>
struct Form {
    static constexpr Kind kKind = of;
    static constexpr bool kTiny = tiny;
};

// Calls a function with the `Form` of a kind that is known at run time.
template <class Function>
inline auto with_form(Kind kind, bool tiny, const Function& function) {
    switch (kind) {
        case Kind::IF:
            break;
        case Kind::LIF:
            return function(Form<Kind::LIF, false>{});
        case Kind::SNM:
            return function(Form<Kind::SNM, false>{});
        case Kind::MT:
            return tiny ? function(Form<Kind::MT, true>{}) : function(Form<Kind::MT, false>{});
        case Kind::DC:
            return tiny ? function(Form<Kind::DC, true>{}) : function(Form<Kind::DC, false>{});
    }
    return function(Form<Kind::IF, false>{});
}

}  // namespace SNNKERN_ARCH
}  // namespace snnkern
