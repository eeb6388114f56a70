// The devices and the scheduler of cuda_runtime.h.

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <exception>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace snnkern::host {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
// Bytes around shared memory that a kernel must leave alone; the address sanitizer has its own.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kGuardBytes = 0;
#else
constexpr size_t kGuardBytes = 256;
#endif
constexpr unsigned char kGarbage = 0xff;  // a NaN, as a float
constexpr unsigned kWarp = 32;

// Forward and backward, everybody goes on in turn, at random in another order each round; first and
// last, the first or last thread that can go on always does, so that one warp runs far ahead.
enum class Order : int { Forward, Backward, First, Last, Random };
Order order = Order::Forward;
std::mt19937 generator;

// What a thread copies to shared memory.
struct Copy {
    void* to;
    const void* from;
};
constexpr size_t kCopyBytes = 16;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    void* fake_stack = nullptr;  // of the address sanitizer
    dim3 index;
    unsigned number;
    bool done;
    const int64_t* waits_for;  // a counter, and what it must no longer be
    int64_t waits_at;
    std::vector<Copy> copies;  // under way
};

// Operations of a warp, one after another. Values stand in two places in turn: no lane comes to the
// operation after the next before all have read this one's.
struct Warp {
    int64_t finished = 0;
    unsigned arrived = 0;
    Operation operation;
    uint64_t values[2][kWarp];
    struct Operands {
        uint32_t a[4], b[2];
    } operands[2][kWarp];
};

// A barrier for some of a block's threads.
struct Barrier {
    int64_t finished = 0;
    int arrived = 0, threads = 0;
};

struct Block {
    const std::function<void()>* thread;
    std::vector<Warp> warps;
    std::array<Barrier, 16> barriers_of_groups;
    std::vector<unsigned char> shared;
    unsigned size = 0, arrived = 0;
    int64_t barriers = 0;
    Fiber* running = nullptr;
    std::exception_ptr error;
};

Block block;
int64_t most_barriers = 0;  // of a block, in the last launch
int line_left_out = 0;
int64_t first_block = 0;  // those before it are left out

// The first like an H100, but for few multiprocessors, so that small batches show both plans.
struct Device {
    int most_shared_memory, multiprocessors;
};
constexpr Device kDevices[] = {{227 * 1024, 3}, {99 * 1024, 5}};
constexpr int64_t kUsualLimit = 48 * 1024;
int device = 0;
int other_multiprocessors = 0;  // in place of the device's, if it is not 0
std::map<std::pair<const void*, int>, int64_t> limits;
bool records = false;
std::string recorded;  // a line per call: what, device, stream, bytes

void record(const char* call, const void* stream, int64_t bytes) {
    if (!records) return;
    recorded += std::string(call) + " " + std::to_string(device) + " " +
                std::to_string(reinterpret_cast<uintptr_t>(stream)) + " " + std::to_string(bytes) +
                "\n";
}

std::vector<Fiber> fibers;  // their stacks are used again
ucontext_t scheduler;
const void* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;
void* scheduler_fake_stack = nullptr;

// The address sanitizer is told of every change of stacks.
void leave([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* bottom,
           [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
#endif
}

void arrive([[maybe_unused]] void* fake_stack, [[maybe_unused]] const void** from = nullptr,
            [[maybe_unused]] size_t* bytes = nullptr) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, from, bytes);
#endif
}

void to_scheduler(Fiber& fiber) {
    leave(fiber.done ? nullptr : &fiber.fake_stack, scheduler_stack, scheduler_stack_bytes);
    swapcontext(&fiber.context, &scheduler);
    arrive(fiber.fake_stack, &scheduler_stack, &scheduler_stack_bytes);
}

void run_thread() {
    Fiber& fiber = *block.running;
    arrive(nullptr, &scheduler_stack, &scheduler_stack_bytes);
    try {
        (*block.thread)();
        if (!fiber.copies.empty()) throw std::logic_error("a thread ends before its copies");
    } catch (...) {
        block.error = std::current_exception();
    }
    fiber.done = true;
    to_scheduler(fiber);
}

void to_fiber(Fiber& fiber) {
    block.running = &fiber;
    threadIdx = fiber.index;
    leave(&scheduler_fake_stack, fiber.stack.get(), kStackBytes);
    swapcontext(&scheduler, &fiber.context);
    arrive(scheduler_fake_stack);
    block.running = nullptr;
}

void wait(const int64_t& counter, int64_t value) {
    Fiber& fiber = *block.running;
    fiber.waits_for = &counter;
    fiber.waits_at = value;
    to_scheduler(fiber);
    fiber.waits_for = nullptr;
}

void prepare() {
    while (fibers.size() < block.size) fibers.emplace_back();
    for (unsigned i = 0; i < block.size; ++i) {
        Fiber& fiber = fibers[i];
        fiber.index =
            dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
        fiber.number = i;
        fiber.done = false;
        fiber.waits_for = nullptr;
        fiber.copies.clear();
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStackBytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_thread, 0);
    }
}

void run_block() {
    block.warps.assign(block.size / kWarp, Warp{});
    block.arrived = 0;
    block.barriers_of_groups.fill(Barrier{});
    block.barriers = 0;
    block.error = nullptr;
    std::fill(block.shared.begin(), block.shared.end(), kGarbage);
    prepare();
    std::vector<unsigned> turns(block.size);
    std::iota(turns.begin(), turns.end(), 0);
    if (order == Order::Backward || order == Order::Last) std::reverse(turns.begin(), turns.end());
    const bool in_turn = order != Order::First && order != Order::Last;
    for (unsigned done = 0; done < block.size;) {
        if (order == Order::Random) std::shuffle(turns.begin(), turns.end(), generator);
        bool moved = false;
        for (const unsigned i : turns) {
            Fiber& fiber = fibers[i];
            if (fiber.done || (fiber.waits_for && *fiber.waits_for == fiber.waits_at)) continue;
            to_fiber(fiber);
            moved = true;
            done += fiber.done;
            if (block.error) std::rethrow_exception(block.error);
            if (!in_turn) break;
        }
        if (!moved) throw std::logic_error("threads wait for others that never come");
    }
    const auto untouched = [](unsigned char byte) { return byte == kGarbage; };
    if (!std::all_of(block.shared.begin(), block.shared.begin() + kGuardBytes, untouched) ||
        !std::all_of(block.shared.end() - kGuardBytes, block.shared.end(), untouched))
        throw std::logic_error("a thread wrote outside of shared memory");
    most_barriers = std::max(most_barriers, block.barriers);
}

// Ends a thread in the middle of whatever it does.
void end_thread(const std::string& why) {
    block.error = std::make_exception_ptr(std::logic_error(why));
    block.running->done = true;
    to_scheduler(*block.running);
}

}  // namespace

void* shared_memory() { return block.shared.data() + kGuardBytes; }

bool left_out(int line) { return line == line_left_out; }

void barrier() {
    const int64_t number = block.barriers;
    if (++block.arrived < block.size) return wait(block.barriers, number);
    block.arrived = 0;
    ++block.barriers;
}

void exchange(Operation operation, unsigned mask, uint64_t value, uint64_t all[32]) {
    if (mask != 0xffffffffu) throw std::logic_error("an operation of a warp that is not whole");
    const unsigned number = block.running->number;
    Warp& warp = block.warps[number / kWarp];
    if (warp.arrived && warp.operation != operation)
        throw std::logic_error("lanes of a warp are at different operations");
    warp.operation = operation;
    const int64_t turn = warp.finished;
    warp.values[turn % 2][number % kWarp] = value;
    if (++warp.arrived < kWarp) {
        wait(warp.finished, turn);
    } else {
        warp.arrived = 0;
        ++warp.finished;
    }
    std::memcpy(all, warp.values[turn % 2], sizeof warp.values[0]);
}

void wait_at(int number, int threads) {
    Barrier& barrier = block.barriers_of_groups.at(number);
    if (barrier.arrived && barrier.threads != threads)
        throw std::logic_error("threads at a barrier wait for different numbers of others");
    if (threads % kWarp) throw std::logic_error("a barrier for warps that are not whole");
    barrier.threads = threads;
    const int64_t turn = barrier.finished;
    if (++barrier.arrived < threads) return wait(barrier.finished, turn);
    barrier.arrived = 0;
    ++barrier.finished;
}

void copy_later(void* shared, const void* global) {
    block.running->copies.push_back({shared, global});
}

void finish_copies() {
    for (const Copy& copy : block.running->copies) std::memcpy(copy.to, copy.from, kCopyBytes);
    block.running->copies.clear();
}

// PTX ISA, "Matrix fragments for mma.m16n8k32 with integer type": a is [16, 32], by rows, b [32,
// 8], by columns. A register has four neighbours of the inner dimension.
void multiply_add(int32_t sum[4], const uint32_t a[4], const uint32_t b[2]) {
    const unsigned number = block.running->number, lane = number % kWarp;
    Warp& warp = block.warps[number / kWarp];
    auto& operands = warp.operands[warp.finished % 2];
    std::memcpy(operands[lane].a, a, sizeof operands[lane].a);
    std::memcpy(operands[lane].b, b, sizeof operands[lane].b);
    uint64_t all[32];
    exchange(Operation::Multiply, 0xffffffffu, 0, all);
    const auto byte = [](uint32_t four, int i) { return static_cast<int8_t>(four >> 8 * i); };
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 32; k += 4) {
            const uint32_t left = operands[row % 8 * 4 + k % 16 / 4].a[row / 8 + k / 16 * 2];
            const uint32_t right = operands[column * 4 + k % 16 / 4].b[k / 16];
            for (int j = 0; j < 4; ++j) sum[i] += byte(left, j) * byte(right, j);
        }
    }
}

cudaError_t limit_shared_memory(const void* kernel, int bytes) {
    record("limit", nullptr, bytes);
    if (bytes > kDevices[device].most_shared_memory) return cudaErrorInvalidValue;
    limits[{kernel, device}] = bytes;
    return cudaSuccess;
}

cudaError_t launch(const void* kernel, const cudaLaunchConfig_t& config,
                   const std::function<void()>& thread) {
    const int64_t bytes = config.dynamicSmemBytes;
    record("launch", config.stream, bytes);
    if (bytes > limits.try_emplace({kernel, device}, kUsualLimit).first->second)
        return cudaErrorInvalidValue;
    gridDim = config.gridDim;
    blockDim = config.blockDim;
    block.thread = &thread;
    block.size = blockDim.x * blockDim.y * blockDim.z;
    if (gridDim.x < 1 || gridDim.x > INT32_MAX || block.size < 1 || block.size > 1024)
        return cudaErrorInvalidConfiguration;
    if (block.size % kWarp) throw std::logic_error("a warp that is not whole");
    block.shared = std::vector<unsigned char>(bytes + 2 * kGuardBytes);
    block.shared.shrink_to_fit();
    most_barriers = 0;
    for (int64_t b = first_block; b < gridDim.x; ++b) {
        blockIdx = dim3(static_cast<unsigned>(b));
        run_block();
    }
    return cudaSuccess;
}

}  // namespace snnkern::host

// The compiler calls this where an address is not a multiple of its type's alignment, as a GPU
// wants it to be (-fsanitize=alignment). It may not throw, and where it returned, the access would
// follow.
struct Place {
    const char* file;
    uint32_t line, column;
};
extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(
    const Place* place, uintptr_t) {
    const std::string name = std::strrchr(place->file, '/') + 1;
    if (snnkern::host::block.running)
        snnkern::host::end_thread("misaligned address at " + name + ":" +
                                  std::to_string(place->line));
}

using namespace snnkern::host;

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorName(cudaError_t error) {
    constexpr const char* kNames[] = {"cudaSuccess", "cudaErrorInvalidValue",
                                      "cudaErrorInvalidConfiguration", "cudaErrorInvalidDevice"};
    return kNames[error];
}

const char* cudaGetErrorString(cudaError_t) { return "on the host"; }

cudaError_t cudaGetDevice(int* current) {
    *current = device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int next) {
    if (next < 0 || next > 1) return cudaErrorInvalidDevice;
    device = next;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int of) {
    record("attribute", nullptr, 0);
    const Device& one = kDevices[of];
    *value = attribute != cudaDevAttrMultiProcessorCount ? one.most_shared_memory
             : other_multiprocessors                     ? other_multiprocessors
                                                         : one.multiprocessors;
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
    record("memset", stream, bytes);
    std::memset(memory, value, bytes);
    return cudaSuccess;
}

// Barriers that a block came to in the last launch.
extern "C" __attribute__((visibility("default"))) int64_t snnkern_host_barriers() {
    return snnkern::host::most_barriers;
}

extern "C" __attribute__((visibility("default"))) void snnkern_host_leave_out(int line) {
    snnkern::host::line_left_out = line;
}

// Blocks of a launch before this one are not run, as if they were through already.
extern "C" __attribute__((visibility("default"))) void snnkern_host_first_block(int64_t number) {
    snnkern::host::first_block = number;
}

// How many multiprocessors the devices have from now on; 0 for those that they are made with.
extern "C" __attribute__((visibility("default"))) void snnkern_host_multiprocessors(int number) {
    snnkern::host::other_multiprocessors = number;
}

// Records the calls of the runtime from now on, or no longer.
extern "C" __attribute__((visibility("default"))) void snnkern_host_record(bool on) {
    snnkern::host::records = on;
    snnkern::host::recorded.clear();
}

extern "C" __attribute__((visibility("default"))) const char* snnkern_host_recorded() {
    return snnkern::host::recorded.c_str();
}

extern "C" __attribute__((visibility("default"))) int snnkern_host_device() {
    return snnkern::host::device;
}

// A number of `Order`, or a larger one, which is a seed.
extern "C" __attribute__((visibility("default"))) void snnkern_host_order(int number) {
    using namespace snnkern::host;
    order = static_cast<Order>(std::min(number, static_cast<int>(Order::Random)));
    generator.seed(number);
}
