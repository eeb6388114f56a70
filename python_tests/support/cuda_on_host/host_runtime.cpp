// The devices and the scheduler of cuda_runtime.h.

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <exception>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "../../../csrc/cuda/hopper.h"

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

struct Block;

// What a thread copies to shared memory.
struct OwnCopy {
    void* to;
    const void* from;
};
constexpr size_t kCopyBytes = 16;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    void* fake_stack = nullptr;  // of the address sanitizer
    Block* block;
    dim3 index;
    unsigned number;  // in the block
    unsigned turn;    // in the cluster
    bool done;
    int64_t arrivals;             // at the barrier of the cluster
    std::vector<OwnCopy> copies;  // under way
};

// What a thread waits for: a counter, and what it must no longer be. Apart from fibers, so that
// many are looked through at once.
struct Waiting {
    const int64_t* counter;
    int64_t at;
};
constexpr int64_t kNoCounter = 0;
constexpr Waiting kForNothing = {&kNoCounter, 1}, kForever = {&kNoCounter, 0};
std::vector<Waiting> waiting;  // by turn

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
    dim3 index;
    unsigned rank;  // in its cluster
    std::vector<Warp> warps;
    std::array<Barrier, 16> barriers_of_groups;
    std::vector<unsigned char> shared;
    bool begun;
    unsigned arrived, done;
    int64_t barriers;

    unsigned char* memory() { return shared.data() + kGuardBytes; }
    bool has(const void* address, int64_t bytes) {
        const auto* first = static_cast<const unsigned char*>(address);
        return first >= memory() && first + bytes <= shared.data() + shared.size() - kGuardBytes;
    }
};

// A `ByteBarrier`.
struct Transfers {
    bool announced = false, published = false;
    int64_t bytes = 0;   // that are to come
    int64_t phases = 0;  // that have ended
};

// Bytes on their way to a block.
struct Copy {
    Block* block;
    void* to;
    std::vector<unsigned char> bytes;
    ByteBarrier* barrier;
};

// The blocks that run together, one where a launch has no clusters.
struct Cluster {
    const std::function<void()>* thread;
    std::vector<Block> blocks;
    unsigned threads = 0;  // of a block
    unsigned arrived;      // at its barrier
    int64_t barriers;
    std::map<ByteBarrier*, Transfers> transfers;
    std::vector<Copy> copies;
    Fiber* running = nullptr;
    std::exception_ptr error;

    Block& block() { return *running->block; }
};

Cluster cluster;
int64_t most_barriers = 0;  // of a block, in the last launch
std::set<std::pair<std::string, int>> left_out_places;
int64_t first_block = 0;  // or cluster; those before it are left out

// The first like an H100, but for few multiprocessors, so that small batches show both plans; the
// second is older and has no clusters.
struct Device {
    int most_shared_memory, multiprocessors, clusters;  // that run at the same time
};
constexpr Device kDevices[] = {{227 * 1024, 3, 4}, {99 * 1024, 5, 0}};
constexpr unsigned kLargestCluster = 8;
constexpr int64_t kUsualLimit = 48 * 1024;
int device = 0;
int other_multiprocessors = 0;  // in place of the device's, if it is not 0
std::map<std::pair<const void*, int>, int64_t> limits;
void (*meanwhile)() = nullptr;  // what others do while a stream is waited for
bool records = false;
std::string recorded;  // a line per call: what, device, stream, bytes

// What a launch that overlaps the one before it finds there only when it has waited for it.
struct Late {
    void* to;
    std::vector<unsigned char> bytes;
};
std::vector<Late> late;

void let_late_ones_come() {
    for (const Late& one : late) std::memcpy(one.to, one.bytes.data(), one.bytes.size());
    late.clear();
}

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

std::string name_of(const char* path) {
    const char* slash = std::strrchr(path, '/');
    return slash ? slash + 1 : path;
}

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
    Fiber& fiber = *cluster.running;
    arrive(nullptr, &scheduler_stack, &scheduler_stack_bytes);
    try {
        (*cluster.thread)();
        if (!fiber.copies.empty()) throw std::logic_error("a thread ends before its copies");
    } catch (...) {
        cluster.error = std::current_exception();
    }
    fiber.done = true;
    waiting[fiber.turn] = kForever;
    to_scheduler(fiber);
}

void fill_with_garbage(Block& block) {
    std::fill(block.shared.begin(), block.shared.end(), kGarbage);
}

void to_fiber(Fiber& fiber) {
    if (!fiber.block->begun) {
        fill_with_garbage(*fiber.block);
        fiber.block->begun = true;
    }
    cluster.running = &fiber;
    threadIdx = fiber.index;
    blockIdx = fiber.block->index;
    leave(&scheduler_fake_stack, fiber.stack.get(), kStackBytes);
    swapcontext(&scheduler, &fiber.context);
    arrive(scheduler_fake_stack);
    cluster.running = nullptr;
}

void wait(const int64_t& counter, int64_t value) {
    Fiber& fiber = *cluster.running;
    waiting[fiber.turn] = {&counter, value};
    to_scheduler(fiber);
    waiting[fiber.turn] = kForNothing;
}

void prepare(Fiber& fiber, Block& block, unsigned number) {
    fiber.block = &block;
    fiber.index = dim3(number % blockDim.x, number / blockDim.x % blockDim.y,
                       number / blockDim.x / blockDim.y);
    fiber.number = number;
    fiber.done = false;
    fiber.arrivals = 0;
    fiber.copies.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_thread, 0);
}

// Blocks from this one on, as many as a cluster has.
void prepare(int64_t first) {
    cluster.arrived = 0;
    cluster.barriers = 0;
    cluster.transfers.clear();
    cluster.copies.clear();
    cluster.error = nullptr;
    const size_t size = cluster.threads * cluster.blocks.size();
    while (fibers.size() < size) fibers.emplace_back();
    waiting.assign(size, kForNothing);
    for (unsigned rank = 0; rank < cluster.blocks.size(); ++rank) {
        Block& block = cluster.blocks[rank];
        block.index = dim3(static_cast<unsigned>(first + rank));
        block.rank = rank;
        block.warps.assign(cluster.threads / kWarp, Warp{});
        block.begun = false;
        block.arrived = block.done = 0;
        block.barriers_of_groups.fill(Barrier{});
        block.barriers = 0;
        for (unsigned i = 0; i < cluster.threads; ++i) {
            Fiber& fiber = fibers[rank * cluster.threads + i];
            fiber.turn = rank * cluster.threads + i;
            prepare(fiber, block, i);
        }
    }
}

void complete(Transfers& transfers) {
    if (!transfers.announced || transfers.bytes != 0) return;
    transfers.announced = false;
    ++transfers.phases;
}

void let_arrive(const Copy& copy) {
    std::memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
    Transfers& transfers = cluster.transfers[copy.barrier];
    transfers.bytes -= copy.bytes.size();
    complete(transfers);
}

// They come at once, or as late as they can, when no thread can go on, the last ones first; or at
// any time, in any order.
bool come_at_once() { return order == Order::Backward || order == Order::First; }
bool may_come_now() { return order == Order::Random && generator() % 4 == 0; }

// Whether one was on its way.
bool let_a_copy_arrive() {
    auto& copies = cluster.copies;
    if (copies.empty()) return false;
    const size_t which = order == Order::Random ? generator() % copies.size() : copies.size() - 1;
    const Copy copy = copies[which];
    copies.erase(copies.begin() + which);
    let_arrive(copy);
    return true;
}

// A block whose threads are through: its memory may be another's.
void end(Block& block) {
    const auto untouched = [](unsigned char byte) { return byte == kGarbage; };
    if (!std::all_of(block.shared.begin(), block.shared.begin() + kGuardBytes, untouched) ||
        !std::all_of(block.shared.end() - kGuardBytes, block.shared.end(), untouched))
        throw std::logic_error("a thread wrote outside of shared memory");
    for (const Copy& copy : cluster.copies)
        if (copy.block == &block)
            throw std::logic_error("a block ended before all its copies had come");
    most_barriers = std::max(most_barriers, block.barriers);
    fill_with_garbage(block);
}

void check_memory_of_ended_blocks() {
    for (const Block& block : cluster.blocks)
        for (const unsigned char byte : block.shared)
            if (byte != kGarbage)
                throw std::logic_error("a thread wrote to the memory of a block that had ended");
    for (const auto& [barrier, transfers] : cluster.transfers)
        if (transfers.bytes != 0 || transfers.announced)
            throw std::logic_error("other bytes came than were announced");
}

void run_cluster(int64_t first) {
    prepare(first);
    const unsigned size = cluster.threads * cluster.blocks.size();
    std::vector<unsigned> turns(size);
    std::iota(turns.begin(), turns.end(), 0);
    if (order == Order::Backward || order == Order::Last) std::reverse(turns.begin(), turns.end());
    const bool in_turn = order != Order::First && order != Order::Last;
    for (unsigned done = 0; done < size;) {
        if (order == Order::Random) std::shuffle(turns.begin(), turns.end(), generator);
        bool moved = false;
        for (const unsigned i : turns) {
            if (*waiting[i].counter == waiting[i].at) continue;
            Fiber& fiber = fibers[i];
            to_fiber(fiber);
            moved = true;
            if (cluster.error) std::rethrow_exception(cluster.error);
            if (fiber.done && ++fiber.block->done == cluster.threads) end(*fiber.block);
            done += fiber.done;
            if (!in_turn) break;
        }
        if ((!moved || may_come_now()) && !let_a_copy_arrive() && !moved)
            throw std::logic_error("threads wait for others that never come");
    }
    check_memory_of_ended_blocks();
}

// Ends a thread in the middle of whatever it does.
void end_thread(const std::string& why) {
    cluster.error = std::make_exception_ptr(std::logic_error(why));
    cluster.running->done = true;
    to_scheduler(*cluster.running);
}

void send(Block& block, void* to, const void* from, int64_t bytes, ByteBarrier* barrier) {
    const auto* first = static_cast<const unsigned char*>(from);
    const Copy copy = {&block, to, {first, first + bytes}, barrier};
    come_at_once() ? let_arrive(copy) : cluster.copies.push_back(copy);
}

Transfers& transfers_of(ByteBarrier* barrier) {
    const auto found = cluster.transfers.find(barrier);
    if (found == cluster.transfers.end()) throw std::logic_error("a barrier that nobody has made");
    return found->second;
}

}  // namespace

void* shared_memory() { return cluster.block().memory(); }

bool left_out(const char* file, int line) {
    return !left_out_places.empty() && left_out_places.count({name_of(file), line});
}

void barrier() {
    Block& block = cluster.block();
    const int64_t number = block.barriers;
    if (++block.arrived < cluster.threads) return wait(block.barriers, number);
    block.arrived = 0;
    ++block.barriers;
}

void exchange(Operation operation, unsigned mask, uint64_t value, uint64_t all[32]) {
    if (mask != 0xffffffffu) throw std::logic_error("an operation of a warp that is not whole");
    const unsigned number = cluster.running->number;
    Warp& warp = cluster.block().warps[number / kWarp];
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
    Barrier& barrier = cluster.block().barriers_of_groups.at(number);
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
    cluster.running->copies.push_back({shared, global});
}

void finish_copies() {
    for (const OwnCopy& copy : cluster.running->copies) std::memcpy(copy.to, copy.from, kCopyBytes);
    cluster.running->copies.clear();
}

// PTX ISA, "Matrix fragments for mma.m16n8k32 with integer type": a is [16, 32], by rows, b [32,
// 8], by columns. A register has four neighbours of the inner dimension.
void multiply_add(int32_t sum[4], const uint32_t a[4], const uint32_t b[2]) {
    const unsigned number = cluster.running->number, lane = number % kWarp;
    Warp& warp = cluster.block().warps[number / kWarp];
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
            for (int j = 0; j < 4; ++j)  // what overflows begins again, as on the GPU
                sum[i] =
                    static_cast<int32_t>(static_cast<uint32_t>(sum[i]) +
                                         static_cast<uint32_t>(byte(left, j) * byte(right, j)));
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
    unsigned blocks = 1;
    bool overlaps = false;
    for (unsigned i = 0; i < config.numAttrs; ++i) {
        const cudaLaunchAttribute& attribute = config.attrs[i];
        if (attribute.id == cudaLaunchAttributeClusterDimension) {
            blocks = attribute.val.clusterDim.x;
            record("cluster", config.stream, blocks);
        } else {
            overlaps = attribute.val.programmaticStreamSerializationAllowed;
            record("overlap", config.stream, overlaps);
        }
    }
    if (bytes > limits.try_emplace({kernel, device}, kUsualLimit).first->second)
        return cudaErrorInvalidValue;
    gridDim = config.gridDim;
    blockDim = config.blockDim;
    cluster.thread = &thread;
    cluster.threads = blockDim.x * blockDim.y * blockDim.z;
    if (gridDim.x < 1 || gridDim.x > INT32_MAX || cluster.threads < 1 || cluster.threads > 1024)
        return cudaErrorInvalidConfiguration;
    if (blocks > 1 &&
        (!kDevices[device].clusters || blocks > kLargestCluster || gridDim.x % blocks))
        return cudaErrorInvalidConfiguration;
    if (cluster.threads % kWarp) throw std::logic_error("a warp that is not whole");
    if (first_block * blocks >= gridDim.x) return cudaSuccess;
    cluster.blocks.resize(blocks);
    for (Block& block : cluster.blocks) {
        block.shared = std::vector<unsigned char>(bytes + 2 * kGuardBytes);
        block.shared.shrink_to_fit();
    }
    most_barriers = 0;
    if (!overlaps) let_late_ones_come();
    for (int64_t b = first_block * blocks; b < gridDim.x; b += blocks) run_cluster(b);
    late.clear();
    return cudaSuccess;
}

int architecture = 90;

cudaError_t most_clusters(int* count) {
    record("attribute", nullptr, 0);
    *count = kDevices[device].clusters;
    return *count ? cudaSuccess : cudaErrorInvalidConfiguration;
}

}  // namespace snnkern::host

// What hopper.h has of them on a GPU.
namespace snnkern {

using namespace host;

int cluster_rank() { return cluster.block().rank; }

void cluster_arrive(const char* file, int line) {
    if (left_out(file, line)) return;
    Fiber& fiber = *cluster.running;
    if (fiber.arrivals > cluster.barriers)
        throw std::logic_error("a thread arrives again and has not waited");
    fiber.arrivals = cluster.barriers + 1;
    if (++cluster.arrived < cluster.threads * cluster.blocks.size()) return;
    cluster.arrived = 0;
    ++cluster.barriers;
}

void cluster_wait(const char* file, int line) {
    if (left_out(file, line)) return;
    Fiber& fiber = *cluster.running;
    if (fiber.arrivals == 0) throw std::logic_error("a thread waits and has not arrived");
    if (cluster.barriers < fiber.arrivals) host::wait(cluster.barriers, cluster.barriers);
    fiber.arrivals = 0;
}

namespace {

// The same place in the memory of another block.
template <class T>
T* remote(T* shared, Block& block) {
    Block& own = cluster.block();
    if (!own.has(shared, sizeof(T)))
        throw std::logic_error("an address that is not in shared memory");
    if (!block.begun) throw std::logic_error("the memory of a block that has not begun");
    if (block.done == cluster.threads)
        throw std::logic_error("the memory of a block that has ended");
    return reinterpret_cast<T*>(block.memory() +
                                (reinterpret_cast<unsigned char*>(shared) - own.memory()));
}

template <class T>
void send_to(const T& value, T* shared, int rank, ByteBarrier* barrier) {
    Block& block = cluster.blocks.at(rank);
    ByteBarrier* there = remote(barrier, block);
    if (!transfers_of(there).published) throw std::logic_error("a barrier that others do not see");
    host::send(block, remote(shared, block), &value, sizeof value, there);
}

}  // namespace

void send(uint32_t value, uint32_t* shared, int rank, ByteBarrier* barrier) {
    send_to(value, shared, rank, barrier);
}

void send(const uint4& value, uint4* shared, int rank, ByteBarrier* barrier) {
    send_to(value, shared, rank, barrier);
}

void make(ByteBarrier* barrier) {
    if (!cluster.block().has(barrier, sizeof *barrier))
        throw std::logic_error("a barrier that is not in shared memory");
    cluster.transfers[barrier] = {};
}

void publish_barriers() {
    for (auto& [barrier, transfers] : cluster.transfers)
        if (cluster.block().has(barrier, sizeof *barrier)) transfers.published = true;
}

void announce(ByteBarrier* barrier, uint32_t bytes) {
    Transfers& transfers = transfers_of(barrier);
    if (transfers.announced) throw std::logic_error("bytes are announced a second time");
    transfers.announced = true;
    transfers.bytes += bytes;
    complete(transfers);
}

void copy_in_bulk(void* shared, const void* global, uint32_t bytes, ByteBarrier* barrier) {
    if (reinterpret_cast<uintptr_t>(shared) % 16 || reinterpret_cast<uintptr_t>(global) % 16 ||
        bytes % 16)
        throw std::logic_error("a bulk copy that is not aligned");
    if (!cluster.block().has(shared, bytes))
        throw std::logic_error("a bulk copy outside of shared memory");
    if (!transfers_of(barrier).published)
        throw std::logic_error("a bulk copy does not see its barrier");
    host::send(cluster.block(), shared, global, bytes, barrier);
}

void wait_for_copies(ByteBarrier* barrier, uint32_t parity, const char* file, int line) {
    if (left_out(file, line)) return;
    const Transfers& transfers = transfers_of(barrier);
    if (transfers.phases % 2 == parity) host::wait(transfers.phases, transfers.phases);
}

void wait_for_blocks(ByteBarrier* barrier, uint32_t parity, const char* file, int line) {
    wait_for_copies(barrier, parity, file, line);
}

void wait_for_launch_before() { let_late_ones_come(); }

void let_next_launch_begin() {}

}  // namespace snnkern

// The compiler calls this where an address is not a multiple of its type's alignment, as a GPU
// wants it to be (-fsanitize=alignment). It may not throw, and where it returned, the access would
// follow.
struct Place {
    const char* file;
    uint32_t line, column;
};
extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(
    const Place* place, uintptr_t) {
    if (snnkern::host::cluster.running)
        snnkern::host::end_thread("misaligned address at " + snnkern::host::name_of(place->file) +
                                  ":" + std::to_string(place->line));
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
    const int processors = other_multiprocessors ? other_multiprocessors : one.multiprocessors;
    *value = attribute == cudaDevAttrMultiProcessorCount ? processors
             : attribute == cudaDevAttrClusterLaunch     ? one.clusters > 0
                                                         : one.most_shared_memory;
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
    record("memset", stream, bytes);
    std::memset(memory, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    record("wait", stream, 0);
    if (meanwhile) meanwhile();
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned flags) {
    if (flags != (cudaHostAllocPortable | cudaHostAllocMapped)) return cudaErrorInvalidValue;
    *memory = ::operator new(bytes);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory) {
    ::operator delete(memory);
    return cudaSuccess;
}

// Barriers that a block came to in the last launch.
extern "C" __attribute__((visibility("default"))) int64_t snnkern_host_barriers() {
    return snnkern::host::most_barriers;
}

// Nobody waits any longer at the barrier in this line of a source; nullptr for everywhere again.
extern "C" __attribute__((visibility("default"))) void snnkern_host_leave_out(const char* file,
                                                                              int line) {
    auto& places = snnkern::host::left_out_places;
    file ? void(places.insert({file, line})) : places.clear();
}

// In the next launch, what stands at an address comes there only when a thread has waited for the
// launch before; until then there is garbage.
extern "C" __attribute__((visibility("default"))) void snnkern_host_late(void* address,
                                                                         int64_t bytes) {
    auto* first = static_cast<unsigned char*>(address);
    snnkern::host::late.push_back({address, {first, first + bytes}});
    std::fill(first, first + bytes, snnkern::host::kGarbage);
}

// Blocks or clusters of a launch before this one are not run, as if they were through already.
extern "C" __attribute__((visibility("default"))) void snnkern_host_first_block(int64_t number) {
    snnkern::host::first_block = number;
}

// Called whenever a stream is waited for from now on; null for nothing.
extern "C" __attribute__((visibility("default"))) void snnkern_host_meanwhile(void (*call)()) {
    snnkern::host::meanwhile = call;
}

// What the kernels of the build are for from now on, such as 80 for sm_80.
extern "C" __attribute__((visibility("default"))) void snnkern_host_compiled_for(int architecture) {
    snnkern::host::architecture = architecture;
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
