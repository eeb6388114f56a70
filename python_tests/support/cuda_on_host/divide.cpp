// Division by steps as the CUDA kernels do it, for tests: out[i] = x[i] / steps, with a reciprocal
// that is `off` by some units in its last place, as the GPU's may be.

#include <cmath>

#include "../../../csrc/cuda/divisor.h"

namespace {

template <class Real>
void divide(const Real* x, int64_t count, int steps, bool normal, int off, Real* out) {
    Real reciprocal = Real(1) / steps;
    for (int i = 0; i < std::abs(off); ++i)
        reciprocal = std::nextafter(reciprocal, Real(off > 0 ? 2 : 0));
    const snnkern::Divisor<Real> by(static_cast<Real>(steps), reciprocal);
    for (int64_t i = 0; i < count; ++i) out[i] = normal ? by.divide_normal(x[i]) : by.divide(x[i]);
}

}  // namespace

#define SNNKERN_TEST extern "C" __attribute__((visibility("default")))

SNNKERN_TEST void snnkern_host_divide_float32(const float* x, int64_t count, int steps, bool normal,
                                              int off, float* out) {
    divide(x, count, steps, normal, off, out);
}

SNNKERN_TEST void snnkern_host_divide_float64(const double* x, int64_t count, int steps,
                                              bool normal, int off, double* out) {
    divide(x, count, steps, normal, off, out);
}
