// Division by a whole number of steps, to the last bit as `/` but with one reciprocal for all that
// is divided. The hardware's division takes a new one each time, from a unit that serves an eighth
// of a warp at once.
#pragma once

#include <cmath>
#include <type_traits>

#include "../neuron.h"

namespace snnkern {

// Takes the place of `Steps` in the CUDA kernels.
//
// x / n is x·high + x·low, two instructions, the second of them a fused multiply-add. `high` is
// 1/n, rounded down a little; `low` is what it lacks.
//
// Why it is exact, for n ≤ 2^16 and an x that is not small: in float32, `reciprocal` is off by
// 2^-22 of itself at most, and `high` by less than 2^-20. So n·high is 1 but for less than 2^20
// units of its last place, and `missing` is exact. `low` is off by less than 2^-21 of itself, and
// so is x·low: together 2^-41 of the quotient, or 2^-17 units in its last place (ulp). No x / n
// comes closer than 1/(2n) ulp, at least 2^-17, to the middle of two neighbours, nor lies on it, so
// rounding goes where it goes from x / n itself. `low` is positive: −0 / n stays −0, and ∞ / n is
// ∞. Float64 is the same with 53 bits for 24. A small x would make x·low denormal, and lose bits
// there.
template <class Real>
struct Divisor {
    static constexpr int32_t kMost = 1 << 16;
    // What is smaller, and not 0, is small: a `low` may be 2^-26 of its 1/n (float64: 2^-55).
    static constexpr Real kLeast =
        Bits<Real>::kSmallestNormal * Real(int64_t(8) << Layout<Real>::kMantissaBits) * kMost;

    Real number, high, low;

    SNNKERN_INLINE explicit Divisor(int32_t steps)
        : Divisor(static_cast<Real>(steps), about_one_over(static_cast<Real>(steps))) {}

    // With a reciprocal that may be off by 2 units in its last place.
    SNNKERN_INLINE Divisor(Real number, Real reciprocal) : number(number) {
        high = reciprocal * (1 - 4 / Real(int64_t(1) << Layout<Real>::kMantissaBits));
        const Real missing = std::fma(-number, high, Real(1));
        low = missing * reciprocal;
    }

    // Where a number stands in the order of sizes; 0 stands last. So a kernel needs only the
    // smallest place of many numbers to know whether one is small.
    using Place = std::make_unsigned_t<typename Layout<Real>::Int>;
    static constexpr Place kLast = ~Place(0);
    static SNNKERN_INLINE Place place(Real x) { return 2 * Place(Lanes<Real>::bits(x)) - 1; }
    static SNNKERN_INLINE bool is_small(Place place) { return place < Divisor::place(kLeast); }

    // For steps up to kMost and numbers that are not small.
    SNNKERN_INLINE Real divide_normal(Real x) const { return std::fma(x, high, x * low); }

    SNNKERN_INLINE Real divide(Real x) const {
        return is_small(place(x)) || number > kMost ? x / number : divide_normal(x);
    }

  private:
    static SNNKERN_INLINE Real about_one_over(Real number) {
#if defined(__CUDA_ARCH__)
        if constexpr (sizeof(Real) == sizeof(float)) {
            float result;
            asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(number));
            return result;
        }
#endif
        return 1 / number;
    }
};

// The same where a kernel has made sure that steps are few, and hears afterwards whether some
// number was small.
template <class Real>
struct NormalDivisor : Divisor<Real> {
    using Divisor<Real>::Divisor;
    SNNKERN_INLINE Real divide(Real x) const { return this->divide_normal(x); }
};

// Whether θ is too small for `Levels<V, false>`, or a level of it for `divide_normal`.
template <class Real>
SNNKERN_INLINE bool is_tiny(Real threshold, int32_t levels, int64_t timesteps) {
    return (threshold > 0 && threshold < Divisor<Real>::kLeast * Real(1 << (levels - 1))) ||
           timesteps > Divisor<Real>::kMost;
}

}  // namespace snnkern
