// Batch-invariant product of rows of spikes with a weight matrix.

#include "kernels.h"
#include "lanes.h"

namespace snnkern {
inline namespace SNNKERN_ARCH {
namespace {

// Outputs [n, n + kBlock·lanes) of one row; the accumulators stay in registers over all inputs.
template <class V, int kBlock>
SNNKERN_INLINE void run_outputs(const LinearProblem<typename Lanes<V>::Real>& p, int64_t row,
                                int64_t n) {
    using Real = typename Lanes<V>::Real;
    V sum[kBlock];
    for (int i = 0; i < kBlock; ++i) sum[i] = p.bias ? load<V>(p.bias + n + i * kLanes<V>) : V{};
    const Real* input = p.input + row * p.inputs;
    const Real* weight = p.weight + n;
    for (int64_t k = 0; k < p.inputs; ++k, weight += p.outputs) {
        if (input[k] == 0) continue;
        for (int i = 0; i < kBlock; ++i)
            sum[i] = sum[i] + load<V>(weight + i * kLanes<V>) * input[k];
    }
    for (int i = 0; i < kBlock; ++i)
        store<V>(p.output + row * p.outputs + n + i * kLanes<V>, sum[i]);
}

}  // namespace

template <class Real>
void run_linear(const LinearProblem<Real>& p) {
    using V = typename VectorOf<Real>::Type;
    constexpr int kBlock = 2;
    for (int64_t row = 0; row < p.rows; ++row) {
        int64_t n = 0;
        for (; n + kBlock * kLanes<V> <= p.outputs; n += kBlock * kLanes<V>)
            run_outputs<V, kBlock>(p, row, n);
        for (; n < p.outputs; ++n) run_outputs<Real, 1>(p, row, n);
    }
}

template void run_linear(const LinearProblem<float>&);
template void run_linear(const LinearProblem<double>&);

}  // namespace SNNKERN_ARCH
}  // namespace snnkern
