// What Hopper and later GPUs have beside threads, warps and blocks: clusters of blocks that reach
// each other's shared memory, bulk copies, and barriers in shared memory that count bytes.
//
// nvcc makes single instructions of these functions. Tests have others of these names, which run on
// the host (python_tests/support/cuda_on_host).
#pragma once

#include "runtime.h"

namespace snnkern {

// A barrier in shared memory for bytes that are on their way. Its phases, 0 and 1 in turn, end when
// all has come that was announced.
struct alignas(8) ByteBarrier {
    uint64_t state;
};

#if defined(__CUDACC__)

inline __device__ uint32_t shared_address(const void* shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// This block's number in its cluster.
inline __device__ int cluster_rank() {
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return static_cast<int>(rank);
}

// Every thread of the cluster arrives, and later waits until all have: then all blocks have begun,
// and the barriers that were published are there. Nothing else is ordered.
inline __device__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}
inline __device__ void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

// Makes a barrier, at which one thread announces.
inline __device__ void make(ByteBarrier* barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier))
                 : "memory");
}

// Lets other blocks and bulk copies see the barriers that this thread has made.
inline __device__ void publish_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Announces all bytes of a phase.
inline __device__ void announce(ByteBarrier* barrier, uint32_t bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
        "r"(bytes)
        : "memory");
}

// Copies from global to shared memory while threads go on. Addresses and size are multiples of 16.
inline __device__ void copy_in_bulk(void* shared, const void* global, uint32_t bytes,
                                    ByteBarrier* barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(shared_address(shared)),
        "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(barrier))
        : "memory");
}

inline __device__ uint32_t remote_address(const void* shared, int rank) {
    uint32_t address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(address)
        : "r"(shared_address(shared)), "r"(rank));
    return address;
}

// Writes to the same place in the memory of another block, which has begun and has not ended, and
// counts the bytes at the same barrier there. Nobody waits until it has come but who waits there.
inline __device__ void send(uint32_t value, uint32_t* shared, int rank, ByteBarrier* barrier) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(
            remote_address(shared, rank)),
        "r"(value), "r"(remote_address(barrier, rank))
        : "memory");
}
inline __device__ void send(const uint4& value, uint4* shared, int rank, ByteBarrier* barrier) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, "
        "[%5];" ::"r"(remote_address(shared, rank)),
        "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(remote_address(barrier, rank))
        : "memory");
}

// Wait until the barrier's phase of this parity has ended: then what bulk copies have brought is
// there, or what other blocks have sent, and what they did before.
inline __device__ void wait_for_copies(ByteBarrier* barrier, uint32_t parity) {
    uint32_t ended;
    do {
        asm volatile(
            "{ .reg .pred ended; mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;"
            " selp.u32 %0, 1, 0, ended; }"
            : "=r"(ended)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
    } while (!ended);
}
inline __device__ void wait_for_blocks(ByteBarrier* barrier, uint32_t parity) {
    uint32_t ended;
    do {
        asm volatile(
            "{ .reg .pred ended;"
            " mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 ended, [%1], %2;"
            " selp.u32 %0, 1, 0, ended; }"
            : "=r"(ended)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
    } while (!ended);
}

// Where a launch may overlap the one before it in the stream, that one's results are there, and
// what it reads may be overwritten, after this.
inline __device__ void wait_for_launch_before() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

// From when all blocks have said this, the launch behind may begin.
inline __device__ void let_next_launch_begin() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

#else

int cluster_rank();
void cluster_arrive(const char* file = __builtin_FILE(), int line = __builtin_LINE());
void cluster_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE());
void make(ByteBarrier* barrier);
void publish_barriers();
void announce(ByteBarrier* barrier, uint32_t bytes);
void copy_in_bulk(void* shared, const void* global, uint32_t bytes, ByteBarrier* barrier);
void send(uint32_t value, uint32_t* shared, int rank, ByteBarrier* barrier);
void send(const uint4& value, uint4* shared, int rank, ByteBarrier* barrier);
void wait_for_copies(ByteBarrier* barrier, uint32_t parity, const char* file = __builtin_FILE(),
                     int line = __builtin_LINE());
void wait_for_blocks(ByteBarrier* barrier, uint32_t parity, const char* file = __builtin_FILE(),
                     int line = __builtin_LINE());
void wait_for_launch_before();
void let_next_launch_begin();

#endif

}  // namespace snnkern
