// Instructions of a GPU that CUDA C++ has no name for; on the host, tests have functions of these
// names.
#pragma once

#include "runtime.h"

#if defined(__CUDACC__)

namespace snnkern {

// Waits for so many threads, some warps of a block, at one of its 16 barriers.
__device__ inline void group_barrier(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// Copies 16 bytes to shared memory; this thread has them after `wait_for_own_copies`.
__device__ inline void copy_later(void* shared, const void* global) {
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
__device__ inline void wait_for_own_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Asks L2 for what stands there.
__device__ inline void prefetch(const void* global) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

// sum += a · b, by a warp: a is [16, 32], b [32, 8] of int8, sum [16, 8] of int32. Which of them a
// lane holds: PTX ISA, "Matrix fragments for mma.m16n8k32 with integer type".
__device__ inline void multiply_add(int32_t (&sum)[4], const uint4& a, const uint2& b) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=r"(sum[0]), "=r"(sum[1]), "=r"(sum[2]), "=r"(sum[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "r"(sum[0]), "r"(sum[1]),
          "r"(sum[2]), "r"(sum[3]));
}

// A neuron whose spikes are θ or nothing, once it has its current: where the potential is above the
// limit it loses it, and a spike is added to what is sent. Two instructions under a predicate; the
// compiler would choose between two values, twice.
__device__ inline void fire_above(float& potential, float limit, uint32_t& sent, uint32_t spike) {
    asm("{ .reg .pred fires; setp.gt.f32 fires, %0, %2; @fires sub.f32 %0, %0, %2; "
        "@fires add.u32 %1, %1, %3; }"
        : "+f"(potential), "+r"(sent)
        : "f"(limit), "r"(spike));
}

// The same for spikes of both signs, a negative one only where the count of those sent is at least
// `unit`. The count has their number below the unit, and a word that was 0 gets ±1 in a byte.
__device__ inline void fire_beyond(float& potential, float upper, float lower, int32_t& count,
                                   int32_t unit, uint32_t& sent, uint32_t spike) {
    asm("{ .reg .pred up, down; setp.gt.f32 up, %0, %3; setp.lt.f32 down, %0, %4; "
        "setp.ge.and.s32 down, %1, %5, down; "
        "@up sub.f32 %0, %0, %3; @up add.s32 %1, %1, %6; @up add.u32 %2, %2, %8; "
        "@down add.f32 %0, %0, %3; @down add.s32 %1, %1, %7; @down add.u32 %2, %2, %9; }"
        : "+f"(potential), "+r"(count), "+r"(sent)
        : "f"(upper), "f"(lower), "r"(unit), "r"(unit + 1), "r"(1 - unit), "r"(spike),
          "r"(spike * 0xffu));
}

}  // namespace snnkern

#endif
