// A kernel of clusters with a fault each, to see that the host runtime finds it.

#include <algorithm>
#include <cstring>
#include <exception>

#include "../../../csrc/cuda/hopper.h"

namespace {

using namespace snnkern;

constexpr int kBlocks = 4, kThreads = 64;

// In the order of `CLUSTER_FAULTS` (__init__.py).
enum Fault : int {
    None,
    NoWaitForCopies,
    NoWaitForBlocks,
    WrongParity,
    NoBarrierMade,
    NotPublished,
    FewBytes,
    ManyBytes,
    AnnouncedTwice,
    MisalignedCopy,
    CopyOutside,
    SentBeforeAllBegan,
    SentToEnded,
    EndsBeforeCopies,
    ArrivesTwice,
    WaitsWithoutArrival,
    OddGrid
};

struct Problem {
    Fault fault;
    const uint32_t* numbers;  // [kBlocks, kThreads]
    int* sum;
};

struct Memory {
    ByteBarrier copied, received;
    alignas(16) uint32_t numbers[kThreads + 4];
    uint32_t sums[kBlocks];
};

// Each block brings its numbers to shared memory, sums them, and sends the sum to the others; the
// first block adds them up.
void kernel(Problem p) {
    SNNKERN_SHARED_MEMORY(shared);
    Memory& memory = *reinterpret_cast<Memory*>(shared);
    const Fault fault = p.fault;
    const int thread = threadIdx.x, rank = cluster_rank();
    const uint32_t bytes = kThreads * sizeof(uint32_t), others = (kBlocks - 1) * sizeof(uint32_t);
    if (thread == 0) {
        if (fault != NoBarrierMade) make(&memory.copied);
        make(&memory.received);
        if (fault != NotPublished) publish_barriers();
        announce(&memory.copied, bytes + (fault == ManyBytes) * 16 - (fault == FewBytes) * 16);
        if (fault == AnnouncedTwice) announce(&memory.copied, bytes);
        announce(&memory.received, others);
        copy_in_bulk(memory.numbers + (fault == MisalignedCopy) + (fault == CopyOutside) * 1000,
                     p.numbers + rank * kThreads, bytes, &memory.copied);
    }
    __syncthreads();
    if (fault == WaitsWithoutArrival) cluster_wait();
    if (fault != SentBeforeAllBegan) cluster_arrive();
    if (fault == ArrivesTwice) cluster_arrive();
    if (fault != SentBeforeAllBegan) cluster_wait();
    if (fault == EndsBeforeCopies) return;
    if (fault != NoWaitForCopies) wait_for_copies(&memory.copied, fault == WrongParity);
    if (thread == 0) {
        uint32_t sum = 0;
        for (int i = 0; i < kThreads; ++i) sum += memory.numbers[i];
        memory.sums[rank] = sum;
    }
    __syncthreads();
    if (fault == SentToEnded && rank == 1) return;
    if (thread < kBlocks && thread != rank)
        send(memory.sums[rank], memory.sums + rank, thread, &memory.received);
    if (fault != NoWaitForBlocks) wait_for_blocks(&memory.received, 0);
    __syncthreads();
    if (thread == 0 && rank == 0)
        for (int i = 0; i < kBlocks; ++i) atomicAdd(p.sum, static_cast<int>(memory.sums[i]));
}

}  // namespace

// The sum 0 + 1 + … + 255, or what a fault makes of it; a message where it is found.
extern "C" __attribute__((visibility("default"))) int snnkern_host_cluster_fault(int fault,
                                                                                 char* message,
                                                                                 int bytes) {
    alignas(16) uint32_t numbers[kBlocks * kThreads];
    for (int i = 0; i < kBlocks * kThreads; ++i) numbers[i] = i;
    int sum = 0;
    try {
        launch(kernel, kBlocks + (fault == OddGrid), dim3(kThreads), sizeof(Memory), nullptr,
               Problem{static_cast<Fault>(fault), numbers, &sum}, "the kernel", {kBlocks});
    } catch (const std::exception& error) {
        std::strncpy(message, error.what(), bytes - 1);
    }
    return sum;
}
