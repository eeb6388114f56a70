// Takes the place of CUDA's header of this name: runs kernels on the host, from the same source.
//
// A block's threads are fibers. Each runs until it has to wait for others, at a barrier or at an
// operation of its warp; then the next one goes on. The order of turns can be chosen: a kernel that
// leaves out a barrier gives different results. A thread that waits where others never come, a warp
// that is not whole, and lanes that do different things are errors. Shared memory starts as
// garbage, and has guards around it. What is copied to it arrives at the last moment. Tensor cores
// multiply what the lanes hold in the places that PTX says. Blocks run one after another.
//
// The blocks of a cluster run together, in turns as threads do; hopper.h says what they have beside
// (host_runtime.cpp). Bulk copies come at once, when no thread can go on, or at random. Memory
// of a block that has not begun or has ended, copies that nobody waited for, barriers that nobody
// made or published, and other bytes than were announced are errors.
//
// There are two devices, unlike each other, and a limit of shared memory per kernel and device as
// CUDA has it. Calls of the runtime can be recorded, with the device that was the current one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define SNNKERN_SHARED_MEMORY(name) \
    auto* name = static_cast<float4*>(snnkern::host::shared_memory())

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3() = default;
    dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace snnkern::host {

enum class Operation : int { Ballot, Shuffle, Synchronize, Multiply };

void* shared_memory();
void barrier();
bool left_out(const char* file, int line);
// Every lane of the warp brings a value; afterwards `all` holds the 32 values.
void exchange(Operation operation, unsigned mask, uint64_t value, uint64_t all[32]);
// What csrc/cuda/primitives.h has for a GPU. A copy is done when its thread waits for it.
void wait_at(int number, int threads);
void copy_later(void* shared, const void* global);
void finish_copies();
void multiply_add(int32_t sum[4], const uint32_t a[4], const uint32_t b[2]);

}  // namespace snnkern::host

enum cudaError_t {
    cudaSuccess,
    cudaErrorInvalidValue,
    cudaErrorInvalidConfiguration,
    cudaErrorInvalidDevice
};
enum cudaDeviceAttr {
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrClusterLaunch
};
enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize,
    cudaFuncAttributePreferredSharedMemoryCarveout
};
constexpr int cudaSharedmemCarveoutMaxShared = 100;
struct cudaFuncAttributes {
    int ptxVersion;
};
using cudaStream_t = void*;
enum cudaLaunchAttributeID {
    cudaLaunchAttributeClusterDimension,
    cudaLaunchAttributeProgrammaticStreamSerialization
};
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    union {
        struct {
            unsigned x, y, z;
        } clusterDim;
        int programmaticStreamSerializationAllowed;
    } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute* attrs;
    unsigned numAttrs;
};

cudaError_t cudaGetLastError();
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* memory);
constexpr unsigned cudaHostAllocPortable = 1, cudaHostAllocMapped = 2;

namespace snnkern::host {

cudaError_t limit_shared_memory(const void* kernel, int bytes);
cudaError_t launch(const void* kernel, const cudaLaunchConfig_t& config,
                   const std::function<void()>& thread);
cudaError_t most_clusters(int* count);
extern int architecture;  // that kernels are compiled for

}  // namespace snnkern::host

template <class Problem>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Problem), cudaFuncAttribute which, int value) {
    if (which == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    return snnkern::host::limit_shared_memory(reinterpret_cast<const void*>(kernel), value);
}

template <class Problem>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*)(Problem)) {
    attributes->ptxVersion = snnkern::host::architecture;
    return cudaSuccess;
}

template <class Problem>
cudaError_t cudaOccupancyMaxActiveClusters(int* count, void (*)(Problem),
                                           const cudaLaunchConfig_t*) {
    return snnkern::host::most_clusters(count);
}

template <class Problem>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Problem),
                               const Problem& problem) {
    return snnkern::host::launch(reinterpret_cast<const void*>(kernel), *config,
                                 [&] { kernel(problem); });
}

// With the place that they stand in, so that tests can leave one out.
#define __syncthreads \
    snnkern::host::BlockBarrier { __FILE__, __LINE__ }
#define __syncwarp \
    snnkern::host::WarpBarrier { __FILE__, __LINE__ }
#define group_barrier \
    snnkern::host::GroupBarrier { __FILE__, __LINE__ }
#define wait_for_own_copies \
    snnkern::host::CopyBarrier { __FILE__, __LINE__ }

namespace snnkern::host {

struct BlockBarrier {
    const char* file;
    int line;
    void operator()() const {
        if (!left_out(file, line)) barrier();
    }
};

struct WarpBarrier {
    const char* file;
    int line;
    void operator()(unsigned mask = 0xffffffffu) const {
        if (left_out(file, line)) return;
        uint64_t all[32];
        exchange(Operation::Synchronize, mask, 0, all);
    }
};

struct GroupBarrier {
    const char* file;
    int line;
    void operator()(int number, int threads) const {
        if (!left_out(file, line)) wait_at(number, threads);
    }
};

struct CopyBarrier {
    const char* file;
    int line;
    void operator()() const {
        if (!left_out(file, line)) finish_copies();
    }
};

}  // namespace snnkern::host

inline void copy_later(void* shared, const void* global) {
    snnkern::host::copy_later(shared, global);
}

// Reads it, so that memory which is nobody's is noticed.
inline void prefetch(const void* global) {
    static_cast<void>(*static_cast<const volatile char*>(global));
}
template <class T>
T __ldcg(const T* from) {
    return *from;
}
template <class T>
void __stcg(T* to, const T& value) {
    *to = value;
}

inline void multiply_add(int32_t (&sum)[4], const uint4& a, const uint2& b) {
    const uint32_t left[] = {a.x, a.y, a.z, a.w}, right[] = {b.x, b.y};
    snnkern::host::multiply_add(sum, left, right);
}

struct alignas(16) int4 {
    int x, y, z, w;
};

inline void fire_above(float& potential, float limit, uint32_t& sent, uint32_t spike) {
    if (!(potential > limit)) return;
    potential -= limit;
    sent += spike;
}

inline void fire_beyond(float& potential, float upper, float lower, int32_t& count, int32_t unit,
                        uint32_t& sent, uint32_t spike) {
    if (potential > upper) {
        potential -= upper;
        count += unit + 1;
        sent += spike;
    } else if (potential < lower && count >= unit) {
        potential += upper;
        count += 1 - unit;
        sent += spike * 0xffu;
    }
}

inline unsigned __ballot_sync(unsigned mask, bool vote) {
    uint64_t all[32];
    snnkern::host::exchange(snnkern::host::Operation::Ballot, mask, vote, all);
    unsigned votes = 0;
    for (int lane = 0; lane < 32; ++lane) votes |= static_cast<unsigned>(all[lane]) << lane;
    return votes;
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int offset) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0, all[32];
    std::memcpy(&bits, &value, sizeof(T));
    snnkern::host::exchange(snnkern::host::Operation::Shuffle, mask, bits, all);
    const unsigned lane =
        (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32;
    std::memcpy(&value, &all[lane ^ offset], sizeof(T));
    return value;
}

using std::max;
using std::min;

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline int __float_as_int(float value) { return static_cast<int>(__float_as_uint(value)); }
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }

template <class T>
T atomicAdd(T* address, T value) {
    const T before = *address;
    *address += value;
    return before;
}
