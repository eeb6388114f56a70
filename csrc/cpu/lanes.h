// SIMD lanes for neuron.h: the compiler's vector types, which it lowers to whatever registers the
// target has.
#pragma once

#include <cstring>

#include "../neuron.h"

namespace snnkern {

constexpr int kVectorBytes = 16;

using FloatLanes = float __attribute__((vector_size(kVectorBytes)));
using DoubleLanes = double __attribute__((vector_size(kVectorBytes)));

template <>
struct Lanes<FloatLanes> {
    using Real = float;
    using Int = int32_t __attribute__((vector_size(kVectorBytes)));
    static SNNKERN_INLINE FloatLanes to_real(Int n) {
        return __builtin_convertvector(n, FloatLanes);
    }
};

template <>
struct Lanes<DoubleLanes> {
    using Real = double;
    using Int = int64_t __attribute__((vector_size(kVectorBytes)));
    static SNNKERN_INLINE DoubleLanes to_real(Int n) {
        return __builtin_convertvector(n, DoubleLanes);
    }
};

template <class Real>
struct VectorOf;
template <>
struct VectorOf<float> {
    using Type = FloatLanes;
};
template <>
struct VectorOf<double> {
    using Type = DoubleLanes;
};

template <class V>
constexpr int kLanes = sizeof(V) / sizeof(typename Lanes<V>::Real);

template <class V>
SNNKERN_INLINE V load(const typename Lanes<V>::Real* from) {
    V value;
    std::memcpy(&value, from, sizeof(V));
    return value;
}

template <class V>
SNNKERN_INLINE void store(typename Lanes<V>::Real* to, V value) {
    std::memcpy(to, &value, sizeof(V));
}

template <class V>
SNNKERN_INLINE int64_t sum(typename Lanes<V>::Int counts) {
    typename Lanes<typename Lanes<V>::Real>::Int lanes[kLanes<V>];
    std::memcpy(lanes, &counts, sizeof(lanes));
    int64_t total = 0;
    for (const auto lane : lanes) total += lane;
    return total;
}

}  // namespace snnkern
