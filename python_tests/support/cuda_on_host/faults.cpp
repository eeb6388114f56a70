// Kernels with a fault each, to see that the host runtime finds it.

#include <algorithm>
#include <exception>

#include "../../../csrc/cuda/runtime.h"

namespace {

enum Fault : int {
    None,
    NoBarrier,
    BarrierInBranch,
    PartOfAWarp,
    DifferentOperations,
    OutsideSharedMemory,
    TooMuchSharedMemory,
    Misaligned,
    LostCopy,
    UnevenBarrier
};

struct Problem {
    Fault fault;
    int* sum;
};

// Every thread adds what its neighbour wrote.
void kernel(Problem p) {
    SNNKERN_SHARED_MEMORY(shared);
    int* values = reinterpret_cast<int*>(shared);
    const int thread = threadIdx.x;
    values[thread] = thread;
    if (p.fault != NoBarrier && !(p.fault == BarrierInBranch && thread < 32)) __syncthreads();
    atomicAdd(p.sum, values[(thread + 1) % blockDim.x]);
    if (p.fault == OutsideSharedMemory && thread == 63) values[64] = 0;
    if (p.fault == PartOfAWarp && thread < 16) __syncwarp(0x0000ffffu);
    if (p.fault == Misaligned && thread == 0) *reinterpret_cast<float4*>(values + 1) = {};
    if (p.fault == LostCopy && thread == 0) copy_later(values, values + 4);
    if (p.fault == UnevenBarrier) group_barrier(1, thread < 32 ? 32 : 64);
    if (p.fault == DifferentOperations) thread % 2 ? __syncwarp() : void(__ballot_sync(~0u, true));
}

}  // namespace

// The sum 0 + 1 + … + 63, or what a fault makes of it; a message where it is found.
extern "C" __attribute__((visibility("default"))) int snnkern_host_fault(int fault, char* message,
                                                                         int bytes) {
    int sum = 0;
    try {
        const int64_t shared = fault == TooMuchSharedMemory ? 48 * 1024 + 1 : 64 * sizeof(int);
        snnkern::launch(kernel, 1, dim3(64), shared, nullptr,
                        Problem{static_cast<Fault>(fault), &sum}, "the kernel");
    } catch (const std::exception& error) {
        std::strncpy(message, error.what(), bytes - 1);
    }
    return sum;
}
