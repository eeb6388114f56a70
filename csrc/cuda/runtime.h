// What the CUDA kernels need of the runtime: device, launch, errors that name the call. Tests build
// all of it with another cuda_runtime.h, which runs a block's threads on the host.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

// Shared memory whose size is given at launch.
#if !defined(SNNKERN_SHARED_MEMORY)
#define SNNKERN_SHARED_MEMORY(name) extern __shared__ float4 name[]
#endif

namespace snnkern {

using Stream = cudaStream_t;

[[noreturn]] inline void fail(cudaError_t status, const std::string& call) {
    cudaGetLastError();  // an error of this call alone would otherwise be reported by the next one
    throw std::runtime_error(call + " failed: " + cudaGetErrorString(status) + " (" +
                             cudaGetErrorName(status) + ")");
}

inline void check(cudaError_t status, const char* call) {
    if (status != cudaSuccess) fail(status, call);
}

// Makes a device the current one, and the one before again at the end.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device) {
        check(cudaGetDevice(&before_), "cudaGetDevice");
        if (device == before_) return;
        const cudaError_t status = cudaSetDevice(device);
        if (status != cudaSuccess) fail(status, "cudaSetDevice(" + std::to_string(device) + ")");
        changed_ = true;
    }
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(before_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;

  private:
    int before_ = 0;
    bool changed_ = false;
};

inline int device_attribute(cudaDeviceAttr attribute) {
    int device = 0, value = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
    return value;
}

// Bytes of shared memory that a block may ask for on the current device.
inline int64_t most_shared_memory() {
    return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

inline int multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }

inline void fill_zero(void* memory, int64_t bytes, Stream stream) {
    check(cudaMemsetAsync(memory, 0, bytes, stream), "cudaMemsetAsync");
}

// Lets a kernel ask for all the shared memory that a block of the current device may have. The
// limit belongs to the kernel, not to who launches it, so it is the same for everybody.
template <class Problem>
void allow_shared_memory(void (*kernel)(Problem), const char* name) {
    const int64_t bytes = most_shared_memory();
    const cudaError_t status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (status != cudaSuccess)
        fail(status, std::string("cudaFuncSetAttribute for ") + name + " with " +
                         std::to_string(bytes) + " bytes of shared memory");
}

template <class Problem>
void launch(void (*kernel)(Problem), int64_t blocks, dim3 block, int64_t shared_bytes,
            Stream stream, const Problem& problem, const char* name) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    const cudaError_t status = blocks > INT32_MAX ? cudaErrorInvalidConfiguration
                                                  : cudaLaunchKernelEx(&config, kernel, problem);
    if (status != cudaSuccess)
        fail(status, std::string("the launch of ") + name + " with " + std::to_string(blocks) +
                         " blocks of " + std::to_string(block.x * block.y) + " threads");
}

// A number that kernels write and the host reads once a stream has been waited for.
class HostNumber {
  public:
    HostNumber() = default;
    ~HostNumber() {
        if (number_) cudaFreeHost(number_);
    }
    HostNumber(const HostNumber&) = delete;
    HostNumber& operator=(const HostNumber&) = delete;

    // Where it is, for host and device alike: with unified addresses, which every 64-bit system
    // has.
    int32_t* address() {
        if (!number_)
            check(cudaHostAlloc(reinterpret_cast<void**>(&number_), sizeof(int32_t),
                                cudaHostAllocPortable | cudaHostAllocMapped),
                  "cudaHostAlloc");
        return number_;
    }

  private:
    int32_t* number_ = nullptr;
};

inline void wait_for(Stream stream) {
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

}  // namespace snnkern
