// Products with rows of spikes: only numbers other than 0 cost something.

#include "kernels.h"
#include "lanes.h"

namespace snnkern {
inline namespace SNNKERN_ARCH {
namespace {

// Vectors whose sums stay in registers at once.
constexpr int kWide = kVectorBytes == 64 ? 16 : 8;

// What is left of a row in narrower lanes: four numbers, where a vector has more.
template <class Real>
struct Narrow;
template <>
struct Narrow<float> {
    using Type = float __attribute__((vector_size(16)));
};
template <>
struct Narrow<double> {
    using Type = double __attribute__((vector_size(32)));
};

// Numbers of a row other than 0, in order: at most `kChunk` at a time. A NaN is one.
constexpr int64_t kChunk = 1024;
template <class Real>
struct Nonzeros {
    int32_t count;
    uint16_t number[kChunk + kLanes<FloatLanes>];
    Real value[kChunk + kLanes<FloatLanes>];

    SNNKERN_INLINE void find(const Real* from, int64_t length) {
        count = 0;
        int64_t k = 0;
        if constexpr (sizeof(Real) == sizeof(float)) {
            using X = Lanes<FloatLanes>;
            for (; k + kLanes<FloatLanes> <= length; k += kLanes<FloatLanes>) {
                const FloatLanes x = load<FloatLanes>(from + k);
                const auto magnitude = X::bits(x) & ~(X::Int{} + Bits<float>::kSign);
                count += compress<true>(X::at_least(magnitude, X::Int{} + 1), x,
                                        static_cast<int32_t>(k), number + count, value + count);
            }
        }
        for (; k < length; ++k) {
            number[count] = static_cast<uint16_t>(k);
            value[count] = from[k];
            count += !(from[k] == 0);
        }
    }
};

// Adds rows of a matrix [, width] to `count` vectors of sums: those that are listed, times a value.
template <class V, int count, class Real>
SNNKERN_INLINE void add_rows(V (&sum)[count], const Real* rows, int64_t width,
                             const uint16_t* number, const Real* value, int32_t listed) {
    constexpr int64_t L = sizeof(V) / sizeof(Real);
    for (int32_t e = 0; e < listed; ++e) {
        const Real* row = rows + number[e] * width;
#pragma GCC unroll 16
        for (int i = 0; i < count; ++i) sum[i] = sum[i] + load<V>(row + i * L) * value[e];
    }
}

// Calls f.run<V, count>(n) for the columns [n, n + count · lanes), until all of them are served.
template <class Real, class Function>
SNNKERN_INLINE void for_columns(int64_t columns, const Function& f) {
    using V = typename VectorOf<Real>::Type;
    constexpr int64_t L = kLanes<V>;
    int64_t n = 0;
    for (; n + kWide * L <= columns; n += kWide * L) f.template run<V, kWide>(n);
    for (; n + 4 * L <= columns; n += 4 * L) f.template run<V, 4>(n);
    for (; n + L <= columns; n += L) f.template run<V, 1>(n);
    if constexpr (L > 4)
        for (; n + 4 <= columns; n += 4) f.template run<typename Narrow<Real>::Type, 1>(n);
    for (; n + 2 <= columns; n += 2) f.template run<Real, 2>(n);
    for (; n < columns; ++n) f.template run<Real, 1>(n);
}

// A row's outputs, after the inputs [first, first + kChunk) where those before have been added.
template <class Real>
struct RowOfOutputs {
    const LinearProblem<Real>& p;
    const Nonzeros<Real>& found;
    int64_t row, first;

    template <class V, int count>
    SNNKERN_INLINE void run(int64_t n) const {
        constexpr int64_t L = sizeof(V) / sizeof(Real);
        Real* output = p.output + row * p.outputs + n;
        const Real* before = first ? output : p.bias ? p.bias + n : nullptr;
        V sum[count];
        for (int i = 0; i < count; ++i) sum[i] = before ? load<V>(before + i * L) : V{};
        add_rows(sum, p.weight + first * p.outputs + n, p.outputs, found.number, found.value,
                 found.count);
        for (int i = 0; i < count; ++i) store<V>(output + i * L, sum[i]);
    }
};

// What the inputs [input, input + inputs) of some rows are, by input: rows of the gradient that are
// added to a row of the weight's. So many rows of the gradient stay in the second-level cache.
constexpr int64_t kRows = 256, kInputs = 32;
template <class Real>
struct Columns {
    int32_t listed[kInputs];
    uint16_t number[kInputs][kRows];
    Real value[kInputs][kRows];
};

template <class Real>
struct RowsOfWeights {
    const WeightGradientProblem<Real>& p;
    const Columns<Real>& found;
    int64_t input, inputs, first;

    template <class V, int count>
    SNNKERN_INLINE void run(int64_t n) const {
        constexpr int64_t L = sizeof(V) / sizeof(Real);
        const Real* gradient = p.gradient + first * p.outputs + n;
        for (int64_t k = 0; k < inputs; ++k) {
            Real* output = p.output + (input + k) * p.outputs + n;
            V sum[count];
            for (int i = 0; i < count; ++i) sum[i] = first ? load<V>(output + i * L) : V{};
            add_rows(sum, gradient, p.outputs, found.number[k], found.value[k], found.listed[k]);
            for (int i = 0; i < count; ++i) store<V>(output + i * L, sum[i]);
        }
    }
};

}  // namespace

template <class Real>
void run_linear(const LinearProblem<Real>& p) {
    Nonzeros<Real> found;
    for (int64_t row = 0; row < p.rows; ++row) {
        int64_t first = 0;
        do {
            const int64_t length = p.inputs - first < kChunk ? p.inputs - first : kChunk;
            found.find(p.input + row * p.inputs + first, length);
            for_columns<Real>(p.outputs, RowOfOutputs<Real>{p, found, row, first});
            first += kChunk;
        } while (first < p.inputs);
    }
}

template <class Real>
void run_weight_gradient(const WeightGradientProblem<Real>& p) {
    Columns<Real> found;
    Nonzeros<Real> row;
    for (int64_t k = p.begin; k < p.end; k += kInputs) {
        const int64_t inputs = p.end - k < kInputs ? p.end - k : kInputs;
        int64_t first = 0;
        do {
            const int64_t rows = p.rows - first < kRows ? p.rows - first : kRows;
            for (int32_t& listed : found.listed) listed = 0;
            for (int64_t r = 0; r < rows; ++r) {
                row.find(p.input + (first + r) * p.inputs + k, inputs);
                for (int32_t e = 0; e < row.count; ++e) {
                    const uint16_t i = row.number[e];
                    found.number[i][found.listed[i]] = static_cast<uint16_t>(r);
                    found.value[i][found.listed[i]++] = row.value[e];
                }
            }
            for_columns<Real>(p.outputs, RowsOfWeights<Real>{p, found, k, inputs, first});
            first += kRows;
        } while (first < p.rows);
    }
}

template <class Real>
int64_t count_nonzero(const Real* from, int64_t length) {
    int64_t count = 0;
    for (int64_t i = 0; i < length; ++i) count += !(from[i] == 0);
    return count;
}

template void run_linear(const LinearProblem<float>&);
template void run_linear(const LinearProblem<double>&);
template void run_weight_gradient(const WeightGradientProblem<float>&);
template void run_weight_gradient(const WeightGradientProblem<double>&);
template int64_t count_nonzero(const float*, int64_t);
template int64_t count_nonzero(const double*, int64_t);

}  // namespace SNNKERN_ARCH
}  // namespace snnkern
