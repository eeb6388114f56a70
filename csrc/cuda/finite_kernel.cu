// Whether all numbers are finite: a thread that finds one that is not says so.

#include "kernels.h"

namespace snnkern {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kNumbersPerThread = 4;  // where blocks are not too many
constexpr int64_t kMostBlocks = 1024;
constexpr uint32_t kExponent = 0x7f800000u;  // of infinities and NaNs

struct FiniteProblem {
    const float* numbers;
    int64_t count;
    int32_t* found;  // set where one is not finite
};

__global__ void __launch_bounds__(kThreads) finite_kernel(const __grid_constant__ FiniteProblem p) {
    bool all = true;
    for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < p.count;
         i += int64_t(gridDim.x) * kThreads)
        all &= (__float_as_uint(p.numbers[i]) & kExponent) != kExponent;
    if (!all) *p.found = 1;  // by whichever threads
}

}  // namespace

void launch_finite(const float* numbers, int64_t count, int32_t* found, Stream stream) {
    if (count == 0) return;
    constexpr int64_t kNumbers = kThreads * kNumbersPerThread;
    const int64_t blocks = std::min((count + kNumbers - 1) / kNumbers, kMostBlocks);
    launch(finite_kernel, blocks, dim3(kThreads), 0, stream, FiniteProblem{numbers, count, found},
           "the kernel that looks for NaN and infinity");
}

}  // namespace snnkern
