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

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// a / b, rounded up, in the wider type of the two.
template <class A, class B>
constexpr auto divide_up(A a, B b) {
    return (a + b - 1) / b;
}

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

inline bool has_clusters() { return device_attribute(cudaDevAttrClusterLaunch) != 0; }

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

// As much of a multiprocessor's memory as there is becomes shared memory, and not cache.
template <class Problem>
void prefer_shared_memory(void (*kernel)(Problem), const char* name) {
    const cudaError_t status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    if (status != cudaSuccess)
        fail(status, std::string("cudaFuncSetAttribute for ") + name + " with all memory shared");
}

// The architecture that a kernel's code is for, such as 90 for sm_90: what a build has for the
// current device may be for an older one.
template <class Problem>
int compiled_for(void (*kernel)(Problem), const char* name) {
    cudaFuncAttributes attributes{};
    const cudaError_t status = cudaFuncGetAttributes(&attributes, kernel);
    if (status != cudaSuccess) fail(status, std::string("cudaFuncGetAttributes for ") + name);
    return attributes.ptxVersion;
}

// How a launch differs from the usual one.
struct LaunchForm {
    int cluster = 1;       // blocks that share memory
    bool chained = false;  // it may begin before the one before it in the stream has ended
};

// A launch's attributes; its configuration points to them.
struct LaunchAttributes {
    cudaLaunchAttribute attribute[2];
    unsigned count = 0;

    explicit LaunchAttributes(const LaunchForm& form) {
        if (form.cluster > 1) {
            cudaLaunchAttribute& cluster = attribute[count++];
            cluster.id = cudaLaunchAttributeClusterDimension;
            cluster.val.clusterDim.x = form.cluster;
            cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
        }
        if (form.chained) {
            cudaLaunchAttribute& early = attribute[count++];
            early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
            early.val.programmaticStreamSerializationAllowed = 1;
        }
    }
};

inline cudaLaunchConfig_t launch_config(int64_t blocks, dim3 block, int64_t shared_bytes,
                                        Stream stream, LaunchAttributes& attributes) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attributes.attribute;
    config.numAttrs = attributes.count;
    return config;
}

// Clusters of a kernel that the current device runs at the same time.
template <class Problem>
int most_clusters(void (*kernel)(Problem), dim3 block, int64_t shared_bytes, int cluster,
                  const char* name) {
    LaunchAttributes attributes(LaunchForm{cluster});
    const cudaLaunchConfig_t config =
        launch_config(cluster, block, shared_bytes, nullptr, attributes);
    int count = 0;
    const cudaError_t status = cudaOccupancyMaxActiveClusters(&count, kernel, &config);
    if (status != cudaSuccess)
        fail(status, std::string("cudaOccupancyMaxActiveClusters for ") + name);
    return count;
}

template <class Problem>
void launch(void (*kernel)(Problem), int64_t blocks, dim3 block, int64_t shared_bytes,
            Stream stream, const Problem& problem, const char* name, const LaunchForm& form = {}) {
    LaunchAttributes attributes(form);
    const cudaLaunchConfig_t config =
        launch_config(blocks, block, shared_bytes, stream, attributes);
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
