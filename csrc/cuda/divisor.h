// Division by a whole number of steps, to the last bit as `/` but with one reciprocal for all that
// is divided. The hardware's division takes a new one each time, from a unit that serves an eighth
// of a warp at once.
#pragma once

#include <cmath>

#include "../neuron.h"

namespace snnkern {

// Takes the place of `Steps` in the CUDA kernels.
//
// Why it is exact, for n < 2^22 and a normal quotient: x·r is off by less than 2 units in the last
// place (ulp), so what is too much, q·n − x, is a whole number of less than 2^24 ulp of q: the
// fused multiply-add loses nothing. With it the quotient is off by less than 2^-23 ulp before the
// last rounding. No x / n comes closer to the middle of two neighbours than 1/(2n) ulp, nor lies on
// it, so rounding goes where it goes from x / n itself. Powers of two have an exact reciprocal.
template <class Real>
struct Divisor {
    static constexpr int32_t kMost = 1 << 21;

    Real number, reciprocal;
    Real least;  // what is smaller may have a quotient that is not normal

    SNNKERN_INLINE explicit Divisor(int32_t steps)
        : number(static_cast<Real>(steps)),
          reciprocal(Real(1) / number),
          least(steps <= kMost ? 2 * Bits<Real>::kSmallestNormal * number : infinity<Real>()) {}

    // For 0, and numbers whose quotient is normal.
    SNNKERN_INLINE Real divide_normal(Real x) const {
        const Real quotient = x * reciprocal;
        const Real beyond = std::fma(quotient, number, -x);  // +0 where exact: −0 / n stays −0
        return std::fma(-beyond, reciprocal, quotient);
    }

    SNNKERN_INLINE Real divide(Real x) const {
        const Real magnitude = std::fabs(x);
        if (x == 0 || (magnitude >= least && magnitude < infinity<Real>())) return divide_normal(x);
        return x / number;
    }
};

// Whether θ is too small for `Levels<V, false>`, or a level of it for `divide_normal` by some step.
template <class Real>
SNNKERN_INLINE bool is_tiny(Real threshold, int32_t levels, int64_t timesteps) {
    return threshold > 0 &&
           (threshold < smallest_threshold<Real>(levels) * static_cast<Real>(timesteps) ||
            timesteps > Divisor<Real>::kMost);
}

}  // namespace snnkern
