// One decision of a spiking actor, a row per cluster of eight blocks.
//
// Alone on a multiprocessor, a row waits for its weights: who fires is known late, and only then
// their rows are fetched. Here each block owns an eighth of the columns of every layer that
// receives spikes, and fetches all its weights to shared memory at once, while nobody knows yet who
// will fire. Meanwhile every block computes the whole first layer, so that it has all spikes
// without asking. Then it sums currents from its own shared memory, a warp per step and 32
// receivers, runs its neurons, and sends their spikes into the shared memory of all blocks; those
// of the last layer send their means. A barrier in each block counts the bytes that come: nobody
// waits for anything else.
//
// Sums have the order of actor_kernel.cu, the output layer's too, so every bit is the same.

#include <algorithm>

#include "actor_parts.h"
#include "cluster.h"
#include "hopper.h"

namespace snnkern {
namespace {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kCompiledForClusters = false;
#else
constexpr bool kCompiledForClusters = true;
#endif

constexpr int kInFlight = 8;        // weights that are looked up together
constexpr int kObserved = 8;        // numbers of the observation that are read together
constexpr int kFirstInFlight = 32;  // weights of the first layer that a lane waits for at a time

class ClusterMemory : public BlockMemory {
  public:
    __device__ ClusterMemory(float4* memory, const ClusterPlan& plan)
        : BlockMemory(memory, plan.block), plan_(plan) {}

    // Of the block's columns in layer l: weights [inputs, columns], biases, thresholds.
    __device__ float* weight(int l) const { return at<float>(plan_.share[l].weight); }
    __device__ float* bias(int l) const { return at<float>(plan_.share[l].bias); }
    __device__ float* threshold(int l) const { return at<float>(plan_.share[l].threshold); }
    // Says that they have come.
    __device__ ByteBarrier* fetched(int l) const { return at<ByteBarrier>(plan_.barriers) + 2 * l; }
    // Says that all other blocks have sent what their neurons of layer l do.
    __device__ ByteBarrier* received(int l) const { return fetched(l) + 1; }

    // Who fired in a layer, a bit for each of 32 neurons, and what they sent, as `pack` says. All
    // steps of 32 neurons stand together, and each layer has a place of its own: a block without
    // columns in some layers does not hold up the others, whose spikes come in any order.
    __device__ uint32_t* mask(int layer, int, int step, int word) const {
        return at<uint32_t>(plan().masks) + spikes_of(layer, word) * plan_.mask_steps + step;
    }
    __device__ uint8_t* units(int layer, int timesteps, int step, int n) const {
        return at<uint8_t>(plan().units) +
               (spikes_of(layer, n / kWarp) * timesteps + step) * kWarp + n % kWarp;
    }
    // Spikes of each 32 neurons of a layer.
    __device__ uint32_t* counts(int layer) const {
        return at<uint32_t>(plan().counts) + layer * plan_.count_words;
    }
    __device__ float* first_carry() const { return at<float>(plan_.first_carry); }
    // That a block is through with the first layer, and will not read the old carry again.
    __device__ uint32_t* through() const { return at<uint32_t>(plan_.through); }

  private:
    __device__ int spikes_of(int layer, int word) const { return layer * plan().most_words + word; }
    const ClusterPlan& plan_;
};

// A block's part of a decision: row b, of no more than the GPU has clusters, and of each layer the
// columns [first(l), first(l) + columns(l)).
struct Part {
    const ClusterProblem& p;
    const ClusterMemory& memory;
    int rank;
    int b;

    __device__ int first(int l) const { return rank * p.plan.share[l].columns; }
    __device__ int columns(int l) const {
        return max(0, min(p.plan.share[l].columns, p.model.layer[l].width - first(l)));
    }
    // Of neuron n in layer l; nothing where n is padding.
    __device__ float carry(int l, int n) const {
        const int outputs = p.model.layer[l].outputs;
        return n < outputs ? p.rows.carry[l][b * outputs + n] : 0.0f;
    }
    // Of the thread's first neuron in a layer that receives spikes.
    __device__ float carry_of_thread(int l) const {
        const int column = threadIdx.x;
        return column < columns(l) ? carry(l, first(l) + column) : 0.0f;
    }
    __device__ void set_carry(int l, int n, float value) const {
        const int outputs = p.model.layer[l].outputs;
        if (n < outputs) p.rows.carry[l][b * outputs + n] = value;
    }
};

// Bytes that 32 neurons of layer l send to each block.
template <Kind kind>
__device__ int bytes_sent(const ClusterProblem& p, int l) {
    constexpr int kCount = sizeof(uint32_t);
    if (l == p.model.hidden - 1) return kWarp * sizeof(float) + kCount;
    const int units = kIsBinary<kind> ? 0 : p.model.timesteps * kWarp;
    return p.plan.mask_steps * sizeof(uint32_t) + units + kCount;
}

// Says how many bytes will come from the other blocks.
template <Kind kind>
__device__ void expect_spikes(const Part& part, int l) {
    const int words = (part.p.model.layer[l].width - part.columns(l)) / kWarp;
    const int through = l == 1 ? (kClusterBlocks - 1) * sizeof(uint32_t) : 0;
    announce(part.memory.received(l), words * bytes_sent<kind>(part.p, l) + through);
}

// Has the weights, biases and thresholds of the block's columns brought to shared memory.
__device__ void fetch(const Part& part, int l) {
    const int columns = part.columns(l), first = part.first(l);
    if (columns == 0) return;
    const ClusterMemory& memory = part.memory;
    const ClusterShare& share = part.p.plan.share[l];
    const ActorLayer& layer = part.p.model.layer[l];
    const int weights = layer.inputs * share.columns;
    const uint32_t bytes = weights * sizeof(float), beside = columns * sizeof(float);
    ByteBarrier* barrier = memory.fetched(l);
    announce(barrier, bytes + 2 * beside);
    copy_in_bulk(memory.weight(l), share.packed + int64_t(part.rank) * weights, bytes, barrier);
    copy_in_bulk(memory.bias(l), layer.bias + first, beside, barrier);
    copy_in_bulk(memory.threshold(l), layer.threshold + first, beside, barrier);
}

// What one thread does before anything else.
template <Kind kind>
__device__ void open(const Part& part) {
    const int hidden = part.p.model.hidden;
#pragma unroll 1
    for (int l = 1; l < hidden; ++l) {
        make(part.memory.fetched(l));
        make(part.memory.received(l));
    }
    publish_barriers();
#pragma unroll 1
    for (int l = 1; l < hidden; ++l) {
        fetch(part, l);
        expect_spikes<kind>(part, l);
    }
}

// The first layer's neuron n: what its thread waits for, loaded before the observation is known.
struct FirstNeuron {
    float threshold, bias;
    FirstWeights<kFirstInFlight> weights;

    __device__ void load(const ActorLayer& layer, int n) {
        threshold = layer.threshold[n];
        bias = layer.bias[n];
        weights.load(layer, n, 0);
    }

    // Its current, from x on; the weights of more inputs are loaded here.
    __device__ float current(const ActorLayer& layer, int n, const float* observation, float x) {
        x = add(x, layer, observation, 0);
        for (int k = kFirstInFlight; k < layer.inputs; k += kFirstInFlight) {
            weights.load(layer, n, k);
            x = add(x, layer, observation, k);
        }
        return x;
    }

  private:
    // Numbers behind the observation are read with it, and not added.
    __device__ float add(float x, const ActorLayer& layer, const float* observation, int k) const {
#pragma unroll
        for (int i = 0; i < kFirstInFlight; i += kObserved) {
            const int left = layer.inputs - k - i;
            if (left <= 0) break;
            const float4 a = *reinterpret_cast<const float4*>(observation + k + i);
            const float4 b = *reinterpret_cast<const float4*>(observation + k + i + 4);
            const float value[kObserved] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
            for (int j = 0; j < kObserved; j += 2) {
                const float other = j + 1 < left ? value[j + 1] : 0.0f;
                const float two = weights.row[i + j] * value[j] + weights.row[i + j + 1] * other;
                x = j < left ? x + two : x;
            }
        }
        return x;
    }
};

// The whole first layer, in every block. The block keeps the new carry of its own columns: others
// may not have read the old one yet.
template <Kind kind, bool kTiny>
__device__ void run_first_layer(const Part& part, FirstNeuron& neuron, float carry, float alpha) {
    const ActorModel& model = part.p.model;
    const ActorLayer& layer = model.layer[0];
    const int first = part.first(0), columns = part.columns(0);
    for (int n = threadIdx.x; n < layer.width; n += blockDim.x) {
        if (n >= static_cast<int>(blockDim.x)) {
            neuron.load(layer, n);
            carry = part.carry(0, n);
        }
        State<kind, kTiny> state{};
        state.begin(model, neuron.threshold, neuron.bias, carry);
        float x = neuron.current(layer, n, part.memory.observation(),
                                 kIsDifferential<kind> ? 0.0f : neuron.bias);
#pragma unroll 1
        for (int step = 0; step < model.timesteps; ++step) {
            state.step(model, part.memory, 0, n, step, x);
            if constexpr (kIsDifferential<kind>) x = 0;  // a constant is coded as x_1, 0, 0, …
        }
        if (first <= n && n < first + columns)
            part.memory.first_carry()[n - first] = state.next_carry(model, carry, alpha);
        if (threadIdx.x % kWarp == 0) part.memory.counts(0)[n / kWarp] = state.fired;
    }
}

// Adds to a current the weights of kInFlight senders of a list, or of the first `count` of them,
// two at a time; weights of two senders are `width` apart.
template <bool kScaled, bool kAll>
__device__ float add_weights(float sum, const uint32_t* list, int count, const float* weight,
                             uint32_t width) {
    uint32_t entry[kInFlight];
    float row[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; i += 4) {
        const uint4 four = *reinterpret_cast<const uint4*>(list + i);
        entry[i] = four.x, entry[i + 1] = four.y, entry[i + 2] = four.z, entry[i + 3] = four.w;
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
        row[i] = 0;
        if (kAll || i < count)
            row[i] = weight[(kScaled ? entry[i] & 0xffffu : entry[i]) * width];
        else
            entry[i] = 0;
    }
#pragma unroll
    for (int i = 0; i < kInFlight; i += 2) {
        if (!kAll && i >= count) break;
        const float one = __uint_as_float(entry[i] & 0xffff0000u);
        const float other = __uint_as_float(entry[i + 1] & 0xffff0000u);
        // Times powers of two: exact but for underflow.
        sum = sum + (kScaled ? fmaf(row[i + 1], other, row[i] * one) : row[i] + row[i + 1]);
    }
    return sum;
}

// The same of all `count` senders of a list.
template <bool kScaled>
__device__ float add_list(float sum, const uint32_t* list, int count, const float* weight,
                          uint32_t width) {
    int e = 0;
#pragma unroll 4
    for (; e + kInFlight <= count; e += kInFlight)
        sum = add_weights<kScaled, true>(sum, list + e, kInFlight, weight, width);
    return add_weights<kScaled, false>(sum, list + e, count - e, weight, width);
}

// Adds to a list of `count` entries those of the kListLength senders from `first` on that fired at
// a step; a warp works together. An entry is the sender's number, and above it the upper half of
// what it sent as a float, whose lower half is 0. All is read before something is written: else
// each read would wait for the writes before it. Returns how many entries there are then.
template <bool kScaled>
__device__ int list_senders(const Part& part, int l, int step, int first, uint32_t* list,
                            int count) {
    constexpr int kWords = kListLength / kWarp;
    const int timesteps = part.p.model.timesteps, inputs = part.p.model.layer[l].inputs;
    const int lane = threadIdx.x % kWarp;
    uint32_t mask[kWords], entry[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
        const int k = first + i * kWarp;
        mask[i] = k < inputs ? *part.memory.mask(l - 1, timesteps, step, k / kWarp) : 0;
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
        const int k = first + i * kWarp + lane;
        entry[i] = k;
        if (kScaled && mask[i] >> lane & 1)
            entry[i] |= unpack(*part.memory.units(l - 1, timesteps, step, k));
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
        if (mask[i] >> lane & 1) list[count + __popc(mask[i] & ((1u << lane) - 1))] = entry[i];
        count += __popc(mask[i]);
    }
    return count;
}

// The current of one of the block's columns at a step; a warp works together.
template <bool kScaled>
__device__ float gather(const Part& part, int l, int step, int column, bool with_bias) {
    const ClusterMemory& memory = part.memory;
    const int inputs = part.p.model.layer[l].inputs, width = part.p.plan.share[l].columns;
    const float* weight = memory.weight(l) + column;
    uint32_t* list = memory.list(threadIdx.x / kWarp);
    float sum = with_bias ? memory.bias(l)[column] : 0.0f;
    int count = 0;
    for (int first = 0; first < inputs; first += kListLength) {
        count = list_senders<kScaled>(part, l, step, first, list, count);
        __syncwarp();
        const bool more = first + kListLength < inputs;
        const int whole = more ? count & ~1 : count;  // one without another waits for it
        sum = add_list<kScaled>(sum, list, whole, weight, width);
        const uint32_t waiting = list[whole];
        __syncwarp();
        count -= whole;
        if (count && threadIdx.x % kWarp == 0) list[0] = waiting;
    }
    return sum;
}

// The currents of the block's columns at all steps. A warp's tasks are steps of 32 columns; it
// counts them without a division.
template <Kind kind>
__device__ void sum_currents(const Part& part, int l) {
    const int columns = part.columns(l), timesteps = part.p.model.timesteps;
    if (columns == 0) return;
    wait_for_copies(part.memory.fetched(l), 0);
    int column = threadIdx.x % kWarp;
    for (int step = threadIdx.x / kWarp;; step += part.p.plan.block.warps) {
        for (; step >= timesteps; step -= timesteps) column += kWarp;
        if (column >= columns) return;
        part.memory.current(step)[column] =
            gather<!kIsBinary<kind>>(part, l, step, column, !kIsDifferential<kind>);
    }
}

// Sends pieces of 16 bytes of this block's memory to the others; a warp works together.
__device__ void send_to_others(const Part& part, void* shared, int pieces, int l) {
    for (int i = threadIdx.x % kWarp; i < pieces * kClusterBlocks; i += kWarp) {
        const int rank = i % kClusterBlocks;
        uint4* piece = static_cast<uint4*>(shared) + i / kClusterBlocks;
        if (rank != part.rank) send(*piece, piece, rank, part.memory.received(l));
    }
}

// Sends a number of this block's memory to the others.
__device__ void send_to_others(const Part& part, uint32_t* shared, int l) {
    const int rank = threadIdx.x % kWarp;
    if (rank < kClusterBlocks && rank != part.rank)
        send(*shared, shared, rank, part.memory.received(l));
}

// Sends what 32 neurons of layer l, from n on, did: `bytes_sent` of them. Their warp works
// together.
template <Kind kind>
__device__ void send_neurons(const Part& part, int l, int n) {
    constexpr int kPiece = sizeof(uint4);
    const ClusterMemory& memory = part.memory;
    const int timesteps = part.p.model.timesteps, word = n / kWarp;
    __syncwarp();
    send_to_others(part, memory.counts(l) + word, l);
    if (l == part.p.model.hidden - 1) {
        send_to_others(part, memory.mean() + n, kWarp * sizeof(float) / kPiece, l);
        return;
    }
    send_to_others(part, memory.mask(l, timesteps, 0, word),
                   part.p.plan.mask_steps * sizeof(uint32_t) / kPiece, l);
    if (!kIsBinary<kind>)
        send_to_others(part, memory.units(l, timesteps, 0, n), timesteps * kWarp / kPiece, l);
}

// The block's neurons of a layer that receives spikes. `carry` is that of the thread's first one.
template <Kind kind, bool kTiny>
__device__ void run_neurons(const Part& part, int l, float carry, float alpha) {
    const ClusterMemory& memory = part.memory;
    const ActorModel& model = part.p.model;
    const int columns = part.columns(l), lane = threadIdx.x % kWarp;
    for (int column = threadIdx.x; column < columns; column += blockDim.x) {
        const int n = part.first(l) + column;
        if (column >= static_cast<int>(blockDim.x)) carry = part.carry(l, n);
        State<kind, kTiny> state{};
        state.begin(model, memory.threshold(l)[column], memory.bias(l)[column], carry);
        float x = memory.current(0)[column];
#pragma unroll 1
        for (int step = 0; step < model.timesteps; ++step) {
            const float next = memory.current(min(step + 1, model.timesteps - 1))[column];
            state.step(model, memory, l, n, step, x);
            x = next;
        }
        if (l == model.hidden - 1) memory.mean()[n] = state.mean(model);
        if (lane == 0) memory.counts(l)[n / kWarp] = state.fired;
        send_neurons<kind>(part, l, n - lane);
        part.set_carry(l, n, state.next_carry(model, carry, alpha));
    }
}

// The first layer's new carry, where all blocks have read the old one.
__device__ void replace_first_carry(const Part& part) {
    for (int column = threadIdx.x; column < part.columns(0); column += blockDim.x)
        part.set_carry(0, part.first(0) + column, part.memory.first_carry()[column]);
}

// The actions that fall to this block, which has all means: a warp for each. The first one is made
// already.
__device__ void act(const Part& part, const Action& first) {
    const ClusterProblem& p = part.p;
    const int begin = part.rank + kClusterBlocks * (threadIdx.x / kWarp);
    for (int n = begin; n < p.model.actions; n += kClusterBlocks * p.plan.block.warps) {
        const Action action = n == begin ? first : Action(p.model, n);
        const float value = action.from(p.model, part.memory.mean());
        if (threadIdx.x % kWarp == 0) p.rows.action[part.b * p.model.actions + n] = value;
    }
}

// The spikes of every layer.
__device__ void count_spikes(const Part& part) {
    const ActorModel& model = part.p.model;
    for (int l = threadIdx.x; l < model.hidden; l += blockDim.x) {
        int64_t count = 0;
        for (int word = 0; word < model.layer[l].width / kWarp; ++word)
            count += part.memory.counts(l)[word];
        part.p.rows.counts[l * part.p.rows.batch + part.b] = count;
    }
}

template <Kind kind, bool kTiny>
__device__ void decide(const Part& part) {
    const ClusterProblem& p = part.p;
    const ClusterMemory& memory = part.memory;
    const int thread = threadIdx.x, last = p.model.hidden - 1;
    let_next_launch_begin();
    if (thread == static_cast<int>(blockDim.x) - kWarp) open<kind>(part);
    cluster_arrive();
    FirstNeuron first{};
    if (thread < p.model.layer[0].width) first.load(p.model.layer[0], thread);
    wait_for_launch_before();
    // Loaded here, needed later.
    const float first_carry = part.carry(0, thread);
    float carry = part.carry_of_thread(1);
    const float alpha = p.rows.alpha ? p.rows.alpha[part.b] : p.model.parameters.alpha;
    observe(p.model, p.rows, memory, part.b);
    __syncthreads();
    run_first_layer<kind, kTiny>(part, first, first_carry, alpha);
    __syncthreads();
    cluster_wait();
    if (thread < kWarp) send_to_others(part, memory.through() + part.rank, 1);
    for (int l = 1; l <= last; ++l) {
        const float next_carry = l < last ? part.carry_of_thread(l + 1) : 0.0f;
        sum_currents<kind>(part, l);
        __syncthreads();
        run_neurons<kind, kTiny>(part, l, carry, alpha);
        if (l == last) break;
        __syncthreads();
        wait_for_blocks(memory.received(l), 0);
        carry = next_carry;
    }
    const int n = part.rank + kClusterBlocks * (thread / kWarp);
    const Action action(p.model, min(n, p.model.actions - 1));
    __syncthreads();
    wait_for_blocks(memory.received(last), 0);
    act(part, action);
    replace_first_carry(part);
    if (part.rank == 0) count_spikes(part);
}

template <Kind kind, bool kTiny>
__global__ void __launch_bounds__(kMostActorWarps* kWarp, 1)
    cluster_kernel(const __grid_constant__ ClusterProblem p) {
    if (!kCompiledForClusters) return;  // there are none, and nobody launches this
    SNNKERN_SHARED_MEMORY(shared);
    const ClusterMemory memory(shared, p.plan);
    decide<kind, kTiny>(Part{p, memory, cluster_rank(), int(blockIdx.x) / kClusterBlocks});
}

using Kernel = void (*)(ClusterProblem);

Kernel kernel_of(const ActorModel& model) {
    return with_form(model.kind, model.tiny, [](auto form) -> Kernel {
        return cluster_kernel<decltype(form)::kKind, decltype(form)::kTiny>;
    });
}

constexpr const char* kName = "the cluster kernel";

dim3 block_of(const ClusterPlan& plan) { return dim3(plan.block.warps * kWarp); }

}  // namespace

ClusterPlan plan_cluster(const ActorModel& model) {
    ClusterPlan plan{};
    ActorPlan& block = plan.block;
    const int last = model.hidden - 1, timesteps = model.timesteps;
    block.tile_steps = timesteps;
    int warps = model.layer[0].width / kWarp;
    for (int l = 0; l <= last; ++l) {
        const int words = model.layer[l].width / kWarp;
        plan.share[l].columns = divide_up(words, kClusterBlocks) * kWarp;
        if (l > 0) {
            block.tile_width = std::max(block.tile_width, plan.share[l].columns);
            warps = std::max(warps, plan.share[l].columns / kWarp * timesteps);
        }
        if (l < last) block.most_words = std::max(block.most_words, words);
        plan.count_words = std::max(plan.count_words, words);
    }
    plan.mask_steps = divide_up(timesteps, 4) * 4;
    block.warps = std::min(warps, kMostActorWarps);
    constexpr int64_t kNumber = sizeof(float);
    Places places;
    for (int l = 1; l <= last; ++l) {
        ClusterShare& share = plan.share[l];
        share.weight = places.place(kNumber * model.layer[l].inputs * share.columns);
        share.bias = places.place(kNumber * share.columns);
        share.threshold = places.place(kNumber * share.columns);
    }
    plan.barriers = places.place(2 * model.hidden * sizeof(ByteBarrier));
    plan.first_carry = places.place(kNumber * plan.share[0].columns);
    plan.through = places.place(kClusterBlocks * sizeof(uint32_t));
    block.observation =
        places.place(kNumber * divide_up(model.layer[0].inputs, kObserved) * kObserved);
    block.current = places.place(kNumber * timesteps * block.tile_width);
    block.mean = places.place(kNumber * model.layer[last].width);
    block.lists = places.place(block.warps * kListPlaces * sizeof(uint32_t));
    const int64_t words = int64_t(last) * block.most_words;  // of the layers that send spikes
    block.masks = places.place(words * plan.mask_steps * sizeof(uint32_t));
    block.units = places.place(is_binary(model.kind) ? 0 : words * timesteps * kWarp);
    block.counts = places.place(int64_t(model.hidden) * plan.count_words * sizeof(uint32_t));
    block.bytes = places.bytes();
    return plan;
}

bool cluster_serves(const ActorModel& model, int64_t batch) {
    if (model.hidden < 2 || !has_clusters()) return false;
    if (compiled_for(kernel_of(model), kName) < 90) return false;
    const ClusterPlan plan = plan_cluster(model);
    if (plan.block.bytes > most_shared_memory()) return false;
    prepare_cluster(model);
    return batch <=
           most_clusters(kernel_of(model), block_of(plan), plan.block.bytes, kClusterBlocks, kName);
}

void prepare_cluster(const ActorModel& model) {
    allow_shared_memory(kernel_of(model), kName);
    prefer_shared_memory(kernel_of(model), kName);
}

void launch_cluster(const ClusterProblem& p, bool chained, Stream stream) {
    if (p.rows.batch == 0) return;
    launch(kernel_of(p.model), p.rows.batch * kClusterBlocks, block_of(p.plan), p.plan.block.bytes,
           stream, p, kName, {kClusterBlocks, chained});
}

}  // namespace snnkern
