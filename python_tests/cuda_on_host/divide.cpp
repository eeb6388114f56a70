// Division by steps as the CUDA kernels do it, for tests: out[i] = x[i] / steps.

#include "../../csrc/cuda/divisor.h"

namespace {

template <class Real>
void divide(const Real* x, int64_t count, int steps, bool normal, Real* out) {
    const snnkern::Divisor<Real> by(steps);
    for (int64_t i = 0; i < count; ++i) out[i] = normal ? by.divide_normal(x[i]) : by.divide(x[i]);
}

}  // namespace

#define SNNKERN_TEST extern "C" __attribute__((visibility("default")))

SNNKERN_TEST void snnkern_host_divide_float32(const float* x, int64_t count, int steps, bool normal,
                                              float* out) {
    divide(x, count, steps, normal, out);
}

SNNKERN_TEST void snnkern_host_divide_float64(const double* x, int64_t count, int steps,
                                              bool normal, double* out) {
    divide(x, count, steps, normal, out);
}
