// A libcuda.so.1 that launches nothing: what Triton's launcher asks of the driver, with an H100's
// answers. bench/calls.py measures with it what a launch takes of the CPU.
#include <stdint.h>
#include <string.h>

typedef int Result;  // 0: success

Result cuInit(unsigned flags) { return (void)flags, 0; }
Result cuDriverGetVersion(int* version) { return *version = 13000, 0; }
Result cuDeviceGet(int* device, int number) { return *device = number, 0; }
Result cuDeviceGetCount(int* count) { return *count = 1, 0; }
Result cuCtxGetDevice(int* device) { return *device = 0, 0; }
Result cuCtxGetCurrent(void** context) { return *context = (void*)1, 0; }
Result cuCtxSetCurrent(void* context) { return (void)context, 0; }
Result cuDevicePrimaryCtxRetain(void** context, int device) {
    (void)device;
    return *context = (void*)1, 0;
}
Result cuCtxGetLimit(size_t* value, int limit) { return (void)limit, *value = 0, 0; }
Result cuCtxSetLimit(int limit, size_t value) { return (void)limit, (void)value, 0; }

Result cuDeviceGetAttribute(int* value, int attribute, int device) {
    (void)device;
    switch (attribute) {
        case 10:
            return *value = 32, 0;  // lanes of a warp
        case 16:
            return *value = 132, 0;  // multiprocessors
        case 75:
            return *value = 9, 0;  // compute capability
        case 76:
            return *value = 0, 0;
        case 81:
            return *value = 233472, 0;  // shared memory of a multiprocessor
        case 97:
            return *value = 232448, 0;  // and of a block
        default:
            return *value = 65536, 0;
    }
}

Result cuModuleLoadData(void** module, const void* data) {
    (void)data;
    return *module = (void*)2, 0;
}
Result cuModuleUnload(void* module) { return (void)module, 0; }
Result cuModuleGetFunction(void** function, void* module, const char* name) {
    (void)module, (void)name;
    return *function = (void*)3, 0;
}
Result cuFuncGetAttribute(int* value, int attribute, void* function) {
    (void)function;
    return *value = attribute == 0 ? 1024 : 0, 0;  // threads of a block
}
Result cuFuncSetAttribute(void* function, int attribute, int value) {
    return (void)function, (void)attribute, (void)value, 0;
}
Result cuFuncSetCacheConfig(void* function, int config) { return (void)function, (void)config, 0; }
Result cuGetErrorString(Result error, const char** text) {
    (void)error;
    return *text = "on the host", 0;
}
Result cuPointerGetAttribute(void* value, int attribute, uint64_t address) {
    (void)attribute;
    return memcpy(value, &address, sizeof address), 0;
}
Result cuStreamIsCapturing(void* stream, int* status) { return (void)stream, *status = 0, 0; }
Result cuLaunchKernelEx(const void* config, void* function, void** arguments, void** extra) {
    return (void)config, (void)function, (void)arguments, (void)extra, 0;
}
Result cuOccupancyMaxActiveClusters(int* count, void* function, const void* config) {
    return (void)function, (void)config, *count = 1, 0;
}
Result cuTensorMapEncodeTiled(void) { return 0; }
Result cuTensorMapEncodeIm2col(void) { return 0; }
