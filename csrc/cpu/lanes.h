// SIMD lanes for neuron.h: the compiler's vector types, as wide as the registers of the instruction
// set that a file is compiled for.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <cstring>

#include "../neuron.h"

namespace snnkern {
inline namespace SNNKERN_ARCH {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

using FloatLanes = float __attribute__((vector_size(kVectorBytes)));
using DoubleLanes = double __attribute__((vector_size(kVectorBytes)));

using IntLanes = int32_t __attribute__((vector_size(kVectorBytes)));
using LongLanes = int64_t __attribute__((vector_size(kVectorBytes)));

#if defined(__AVX512F__)
// Comparisons into mask registers; the compiler's own vector comparison would make vectors of them.
template <>
struct Lanes<FloatLanes> {
    using Real = float;
    using Int = IntLanes;
    using Mask = __mmask16;
    static SNNKERN_INLINE Mask greater(FloatLanes a, FloatLanes b) {
        return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
    }
    static SNNKERN_INLINE Mask at_least(FloatLanes a, FloatLanes b) {
        return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
    }
    static SNNKERN_INLINE Mask at_least(Int a, Int b) {
        return _mm512_cmpge_epi32_mask((__m512i)a, (__m512i)b);
    }
    static SNNKERN_INLINE Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
    static SNNKERN_INLINE Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
    static SNNKERN_INLINE FloatLanes select(Mask mask, FloatLanes a, FloatLanes b) {
        return (FloatLanes)_mm512_mask_blend_ps(mask, (__m512)b, (__m512)a);
    }
    static SNNKERN_INLINE Int select(Mask mask, Int a, Int b) {
        return (Int)_mm512_mask_blend_epi32(mask, (__m512i)b, (__m512i)a);
    }
    static SNNKERN_INLINE FloatLanes subtract(Mask mask, FloatLanes a, FloatLanes b) {
        return (FloatLanes)_mm512_mask_sub_ps((__m512)a, mask, (__m512)a, (__m512)b);
    }
    static SNNKERN_INLINE Int subtract(Mask mask, Int a, Int b) {
        return (Int)_mm512_mask_sub_epi32((__m512i)a, mask, (__m512i)a, (__m512i)b);
    }
    static SNNKERN_INLINE Int smaller(Int a, Int b) {
        return (Int)_mm512_min_epi32((__m512i)a, (__m512i)b);
    }
    static SNNKERN_INLINE FloatLanes smaller(FloatLanes a, FloatLanes b) {
        return (FloatLanes)_mm512_min_ps((__m512)a, (__m512)b);
    }
    static SNNKERN_INLINE FloatLanes larger(FloatLanes a, FloatLanes b) {
        return (FloatLanes)_mm512_max_ps((__m512)a, (__m512)b);
    }
    static SNNKERN_INLINE Int bits(FloatLanes x) { return (Int)x; }
    static SNNKERN_INLINE FloatLanes from_bits(Int n) { return (FloatLanes)n; }
    static SNNKERN_INLINE FloatLanes to_real(Int n) {
        return (FloatLanes)_mm512_cvtepi32_ps((__m512i)n);
    }
    static SNNKERN_INLINE Int to_int(FloatLanes x) { return (Int)_mm512_cvttps_epi32((__m512)x); }
};

template <>
struct Lanes<DoubleLanes> {
    using Real = double;
    using Int = LongLanes;
    using Mask = __mmask8;
    static SNNKERN_INLINE Mask greater(DoubleLanes a, DoubleLanes b) {
        return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ);
    }
    static SNNKERN_INLINE Mask at_least(DoubleLanes a, DoubleLanes b) {
        return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GE_OQ);
    }
    static SNNKERN_INLINE Mask at_least(Int a, Int b) {
        return _mm512_cmpge_epi64_mask((__m512i)a, (__m512i)b);
    }
    static SNNKERN_INLINE Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
    static SNNKERN_INLINE Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
    static SNNKERN_INLINE DoubleLanes select(Mask mask, DoubleLanes a, DoubleLanes b) {
        return (DoubleLanes)_mm512_mask_blend_pd(mask, (__m512d)b, (__m512d)a);
    }
    static SNNKERN_INLINE Int select(Mask mask, Int a, Int b) {
        return (Int)_mm512_mask_blend_epi64(mask, (__m512i)b, (__m512i)a);
    }
    static SNNKERN_INLINE DoubleLanes subtract(Mask mask, DoubleLanes a, DoubleLanes b) {
        return (DoubleLanes)_mm512_mask_sub_pd((__m512d)a, mask, (__m512d)a, (__m512d)b);
    }
    static SNNKERN_INLINE Int subtract(Mask mask, Int a, Int b) {
        return (Int)_mm512_mask_sub_epi64((__m512i)a, mask, (__m512i)a, (__m512i)b);
    }
    static SNNKERN_INLINE Int smaller(Int a, Int b) {
        return (Int)_mm512_min_epi64((__m512i)a, (__m512i)b);
    }
    static SNNKERN_INLINE DoubleLanes smaller(DoubleLanes a, DoubleLanes b) {
        return (DoubleLanes)_mm512_min_pd((__m512d)a, (__m512d)b);
    }
    static SNNKERN_INLINE DoubleLanes larger(DoubleLanes a, DoubleLanes b) {
        return (DoubleLanes)_mm512_max_pd((__m512d)a, (__m512d)b);
    }
    static SNNKERN_INLINE Int bits(DoubleLanes x) { return (Int)x; }
    static SNNKERN_INLINE DoubleLanes from_bits(Int n) { return (DoubleLanes)n; }
    static SNNKERN_INLINE DoubleLanes to_real(Int n) {
        return (DoubleLanes)_mm512_cvtepi64_pd((__m512i)n);
    }
    static SNNKERN_INLINE Int to_int(DoubleLanes x) { return (Int)_mm512_cvttpd_epi64((__m512d)x); }
};
#else
template <>
struct Lanes<FloatLanes> : PlainLanes<FloatLanes, float, IntLanes, IntLanes> {
    static SNNKERN_INLINE FloatLanes to_real(Int n) {
        return __builtin_convertvector(n, FloatLanes);
    }
    static SNNKERN_INLINE Int to_int(FloatLanes x) { return __builtin_convertvector(x, Int); }
};

template <>
struct Lanes<DoubleLanes> : PlainLanes<DoubleLanes, double, LongLanes, LongLanes> {
    static SNNKERN_INLINE DoubleLanes to_real(Int n) {
        return __builtin_convertvector(n, DoubleLanes);
    }
    static SNNKERN_INLINE Int to_int(DoubleLanes x) { return __builtin_convertvector(x, Int); }
};
#endif

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

template <class V, class T>
SNNKERN_INLINE V load(const T* from) {
    V value;
    std::memcpy(&value, from, sizeof(V));
    return value;
}

template <class V, class T>
SNNKERN_INLINE void store(T* to, V value) {
    std::memcpy(to, &value, sizeof(V));
}

// a·b + c, for products of a layer alone: the order and rounding of a neuron's own operations is a
// contract that knows no fused ones.
SNNKERN_INLINE FloatLanes multiply_add(FloatLanes a, FloatLanes b, FloatLanes c) {
#if defined(__AVX512F__)
    return (FloatLanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (FloatLanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

SNNKERN_INLINE int64_t sum(IntLanes lanes) {
    int64_t total = 0;
    for (int i = 0; i < kLanes<FloatLanes>; ++i) total += lanes[i];
    return total;
}

SNNKERN_INLINE int64_t sum(LongLanes lanes) {
    int64_t total = 0;
    for (int i = 0; i < kLanes<DoubleLanes>; ++i) total += lanes[i];
    return total;
}

// A bit for every lane where a mask holds.
SNNKERN_INLINE uint32_t bits(Lanes<FloatLanes>::Mask mask) {
#if defined(__AVX512F__)
    return mask;
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)mask);
#elif defined(__SSE2__)
    return _mm_movemask_ps((__m128)mask);
#else
    uint32_t found = 0;
    for (int i = 0; i < kLanes<FloatLanes>; ++i) found |= uint32_t(mask[i] != 0) << i;
    return found;
#endif
}

// Writes first + i for every bit i that is set to `number`, and where kValues lanes[i] to `value`;
// both packed. Returns how many there are. Four are written at once, whether there are so many or
// not: a loop that may end after each has a branch that no processor can predict.
template <bool kValues>
SNNKERN_INLINE int32_t pack(uint64_t bits, const float* lanes, int64_t first, uint16_t* number,
                            float* value) {
    const int32_t count = __builtin_popcountll(bits);
    do {
        for (int i = 0; i < 4; ++i, bits &= bits - 1) {
            const int lane = __builtin_ctzll(bits | uint64_t(1) << 63);
            *number++ = static_cast<uint16_t>(first + lane);
            if constexpr (kValues) *value++ = lanes[lane];
        }
    } while (bits);
    return count;
}

// Writes first + i for every lane i where the mask holds to `number`, and where kValues the lanes
// themselves to `value`; both packed. Returns how many there are. May write a whole vector, or
// four, to each.
template <bool kValues>
SNNKERN_INLINE int32_t compress(Lanes<FloatLanes>::Mask mask, FloatLanes lanes, int32_t first,
                                uint16_t* number, float* value) {
#if defined(__AVX512F__)
    // Compressing in a register and storing all of it is many times faster than a compressing store
    // on some processors.
    const __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i numbers = _mm512_add_epi32(_mm512_set1_epi32(first), iota);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(number),
                        _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(mask, numbers)));
    if constexpr (kValues) _mm512_storeu_ps(value, _mm512_maskz_compress_ps(mask, (__m512)lanes));
    return __builtin_popcount(mask);
#else
    float stored[64];
    if constexpr (kValues) store<FloatLanes>(stored, lanes);
    return pack<kValues>(bits(mask), stored, first, number, value);
#endif
}

// The neurons of a block of up to 64 that fire at a step, which are added to the step's list: their
// numbers and, where kValues, what they send. Or they are counted alone. May write four numbers, or
// a whole vector, more than there are. kFew says that most often four or fewer fire.
template <bool kValues, bool kFew>
class Firing {
  public:
    SNNKERN_INLINE Firing(bool listed, int32_t count, int64_t first, uint16_t* number, float* value)
        : listed_(listed), count_(count), first_(first), number_(number), value_(value) {}

    // Adds those of vector i.
    SNNKERN_INLINE void add(int i, Lanes<FloatLanes>::Mask fires, FloatLanes sent) {
        constexpr int L = kLanes<FloatLanes>;
        if constexpr (!kCompresses) {
            bits_ |= uint64_t(bits(fires)) << (i * L);
            if constexpr (kValues) store<FloatLanes>(lanes_ + i * L, sent);
        } else if (listed_) {
            count_ += compress<kValues>(fires, sent, static_cast<int32_t>(first_ + i * L),
                                        number_ + count_, value_ + count_);
        } else {
            count_ += __builtin_popcount(bits(fires));
        }
    }

    // Ends the list, and returns how many it has now.
    SNNKERN_INLINE int32_t finish() const {
        if (kCompresses) return count_;
        if (!listed_) return count_ + __builtin_popcountll(bits_);
        return count_ + pack<kValues>(bits_, lanes_, first_, number_ + count_, value_ + count_);
    }

  private:
    // AVX-512 has an instruction for many.
    static constexpr bool kCompresses = kVectorBytes == 64 && !kFew;

    const bool listed_;
    int32_t count_;
    const int64_t first_;
    uint16_t* const number_;
    float* const value_;
    uint64_t bits_ = 0;
    float lanes_[64];
};

}  // namespace SNNKERN_ARCH
}  // namespace snnkern
