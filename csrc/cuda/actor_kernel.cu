// One decision of a spiking actor, a row per block, layer by layer.
//
// The spikes of a layer are known for all T steps before the next layer begins, so its currents are
// summed for many steps at once: a warp takes one step and 128 receivers, lists who fired from the
// fire masks, and adds the senders' rows of weights, eight loads on their way at a time. Then a
// thread runs its neuron through these steps in registers, and its warp's ballots are the fire
// masks that the next layer reads. That takes two barriers per layer and tile of steps, and none
// within a step. Currents are summed as by the CPU's engine, from the bias on, two senders at a
// time in their order, so hidden layers come out bit for bit the same.

#include <algorithm>

#include "actor_parts.h"

namespace snnkern {
namespace {

constexpr int kReceivers = 4 * kWarp;  // of a warp: four neighbours for each lane
constexpr int kInFlight = 8;           // rows of weights that a lane waits for at a time
constexpr int kFirstInFlight = 16;     // the same, of single weights of the first layer

class Memory : public BlockMemory {
  public:
    using BlockMemory::BlockMemory;

    // Who fired at a step in a layer: a bit for every neuron. Layers take turns with two places.
    __device__ uint32_t* mask(int layer, int timesteps, int step, int word) const {
        return at<uint32_t>(plan().masks) + ((layer & 1) * timesteps + step) * plan().most_words +
               word;
    }
    // What they sent, as `pack` says.
    __device__ uint8_t* units(int layer, int timesteps, int step, int n) const {
        return at<uint8_t>(plan().units) +
               ((layer & 1) * timesteps + step) * plan().most_words * kWarp + n;
    }
};

template <Kind kind, bool kTiny>
__device__ void begin_neuron(const ActorProblem& p, State<kind, kTiny>& state, int l, int64_t b,
                             int n) {
    const ActorLayer& layer = p.model.layer[l];
    const float carry = n < layer.outputs ? p.rows.carry[l][b * layer.outputs + n] : 0.0f;
    state.begin(p.model, layer.threshold[n], layer.bias[n], carry);
}

template <Kind kind, bool kTiny>
__device__ void end_neuron(const ActorProblem& p, const Memory& memory,
                           const State<kind, kTiny>& state, int l, int64_t b, int n) {
    const ActorLayer& layer = p.model.layer[l];
    if (n < layer.outputs) {
        float* carry = p.rows.carry[l] + b * layer.outputs + n;
        const float alpha = p.rows.alpha ? p.rows.alpha[b] : p.model.parameters.alpha;
        *carry = state.next_carry(p.model, *carry, alpha);
    }
    if (l == p.model.hidden - 1) memory.mean()[n] = state.mean(p.model);
    if (threadIdx.x % kWarp == 0) atomicAdd(memory.counts() + l, state.fired);
}

// The first layer: its current is constant, so a thread sums it once and needs nobody else.
template <Kind kind, bool kTiny>
__device__ void run_first_layer(const ActorProblem& p, const Memory& memory, int64_t b) {
    constexpr bool kDifferential = kIsDifferential<kind>;
    const ActorLayer& layer = p.model.layer[0];
    const float* observation = memory.observation();
    for (int n = threadIdx.x; n < layer.width; n += blockDim.x) {
        State<kind, kTiny> state{};
        begin_neuron(p, state, 0, b, n);
        float x = kDifferential ? 0.0f : layer.bias[n];
        for (int k = 0; k < layer.inputs; k += kFirstInFlight) {
            FirstWeights<kFirstInFlight> weights;
            weights.load(layer, n, k);
#pragma unroll
            for (int i = 0; i < kFirstInFlight; i += 2) {
                if (k + i >= layer.inputs) break;
                const float other = k + i + 1 < layer.inputs ? observation[k + i + 1] : 0.0f;
                x = x + (weights.row[i] * observation[k + i] + weights.row[i + 1] * other);
            }
        }
#pragma unroll 1
        for (int step = 0; step < p.model.timesteps; ++step) {
            state.step(p.model, memory, 0, n, step, x);
            if constexpr (kDifferential) x = 0;  // a constant is coded as x_1, 0, 0, …
        }
        end_neuron(p, memory, state, 0, b, n);
    }
}

// Adds to the currents of the receivers [n, n + 4) the rows of the `count` senders of a list.
template <bool kScaled>
__device__ void add_rows(Four& sum, const uint32_t* list, int count, const float* weight,
                         int width) {
    for (int e = 0; e < count; e += kInFlight) {
        uint32_t entry[kInFlight];
        Four row[kInFlight];
#pragma unroll
        for (int i = 0; i < kInFlight; i += 4) {
            const uint4 four = *reinterpret_cast<const uint4*>(list + e + i);
            entry[i] = four.x, entry[i + 1] = four.y, entry[i + 2] = four.z, entry[i + 3] = four.w;
        }
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
            row[i] = Four{};
            if (e + i < count)
                row[i] =
                    *reinterpret_cast<const Four*>(weight + int64_t(entry[i] & 0xffffu) * width);
            else
                entry[i] = 0;
        }
#pragma unroll
        for (int i = 0; i < kInFlight; i += 2) {
            if (e + i >= count) break;
            const float one = __uint_as_float(entry[i] & 0xffff0000u);
            const float other = __uint_as_float(entry[i + 1] & 0xffff0000u);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float a = row[i].lane[j], b = row[i + 1].lane[j];
                // Times powers of two: exact but for underflow.
                sum.lane[j] = sum.lane[j] + (kScaled ? fmaf(b, other, a * one) : a + b);
            }
        }
    }
}

// The currents of the receivers [n, n + 4) of layer l at a step; a warp works together. A list
// entry is the sender's number, and above it the upper half of what it sent as a float, whose
// lower half is 0.
template <bool kScaled>
__device__ Four gather(const ActorProblem& p, const Memory& memory, int l, int step, int n,
                       bool with_bias) {
    const ActorLayer& layer = p.model.layer[l];
    const int lane = threadIdx.x % kWarp;
    const uint32_t* masks = memory.mask(l - 1, p.model.timesteps, step, 0);
    const uint8_t* units = memory.units(l - 1, p.model.timesteps, step, 0);
    uint32_t* list = memory.list(threadIdx.x / kWarp);
    Four sum{};
    if (with_bias) sum = *reinterpret_cast<const Four*>(layer.bias + n);
    int count = 0;
    for (int first = 0; first < layer.inputs; first += kListLength) {
        for (int k = first; k < min(first + kListLength, layer.inputs); k += kWarp) {
            const uint32_t mask = masks[k / kWarp];
            if (mask >> lane & 1) {
                const uint32_t sent = kScaled ? unpack(units[k + lane]) : 0;
                list[count + __popc(mask & ((1u << lane) - 1))] = sent | (k + lane);
            }
            count += __popc(mask);
        }
        __syncwarp();
        const bool more = first + kListLength < layer.inputs;
        const int whole = more ? count & ~1 : count;  // one without another waits for it
        add_rows<kScaled>(sum, list, whole, layer.weight + n, layer.width);
        const uint32_t waiting = list[whole];
        __syncwarp();
        count -= whole;
        if (count && lane == 0) list[0] = waiting;
    }
    return sum;
}

// A layer that receives spikes, in tiles of as many neurons as the block has threads and as many
// steps as the plan says.
template <Kind kind, bool kTiny>
__device__ void run_layer(const ActorProblem& p, const Memory& memory, int l, int64_t b) {
    const ActorLayer& layer = p.model.layer[l];
    const int timesteps = p.model.timesteps;
    const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
    for (int first = 0; first < layer.width; first += blockDim.x) {
        const int columns = min(static_cast<int>(blockDim.x), layer.width - first);
        const int chunks = (columns + kReceivers - 1) / kReceivers;
        const bool own = thread < columns;  // alike in all of a warp
        const int n = first + thread;
        State<kind, kTiny> state{};
        if (own) begin_neuron(p, state, l, b, n);
        for (int begin = 0; begin < timesteps; begin += p.plan.tile_steps) {
            const int steps = min(p.plan.tile_steps, timesteps - begin);
            for (int task = warp; task < steps * chunks; task += p.plan.warps) {
                const int step = task / chunks;
                const int column = task % chunks * kReceivers + 4 * lane;
                const bool inside = column < columns;  // else the lane only helps to list
                const Four sum =
                    gather<!kIsBinary<kind>>(p, memory, l, begin + step,
                                             first + (inside ? column : 0), !kIsDifferential<kind>);
                if (inside) *reinterpret_cast<Four*>(memory.current(step) + column) = sum;
            }
            __syncthreads();
            if (own)
                for (int step = 0; step < steps; ++step)
                    state.step(p.model, memory, l, n, begin + step, memory.current(step)[thread]);
            const bool more = begin + steps < timesteps || first + columns < layer.width;
            if (more) __syncthreads();
        }
        if (own) end_neuron(p, memory, state, l, b, n);
    }
}

// A warp per action.
__device__ void act(const ActorProblem& p, const Memory& memory, int64_t b) {
    for (int n = threadIdx.x / kWarp; n < p.model.actions; n += p.plan.warps) {
        const float action = Action(p.model, n).from(p.model, memory.mean());
        if (threadIdx.x % kWarp == 0) p.rows.action[b * p.model.actions + n] = action;
    }
}

template <Kind kind, bool kTiny>
__global__ void __launch_bounds__(kMostActorWarps* kWarp, 1)
    actor_kernel(const __grid_constant__ ActorProblem p) {
    SNNKERN_SHARED_MEMORY(shared);
    const Memory memory(shared, p.plan);
    const int64_t b = blockIdx.x;
    observe(p.model, p.rows, memory, b);
    const int thread = threadIdx.x;
    if (thread < p.model.hidden) memory.counts()[thread] = 0;
    __syncthreads();
    run_first_layer<kind, kTiny>(p, memory, b);
    for (int l = 1; l < p.model.hidden; ++l) {
        __syncthreads();
        run_layer<kind, kTiny>(p, memory, l, b);
    }
    __syncthreads();
    act(p, memory, b);
    if (thread < p.model.hidden) p.rows.counts[thread * p.rows.batch + b] = memory.counts()[thread];
}

using Kernel = void (*)(ActorProblem);

Kernel kernel_of(const ActorModel& model) {
    return with_form(model.kind, model.tiny, [](auto form) -> Kernel {
        return actor_kernel<decltype(form)::kKind, decltype(form)::kTiny>;
    });
}

constexpr const char* kName = "the actor kernel";

ActorPlan plan_tile(const ActorModel& model, int tile_steps, int most_warps) {
    ActorPlan plan{};
    plan.tile_steps = tile_steps;
    int widest = kWarp, widest_receiver = 0, tasks = 1;
    for (int l = 0; l < model.hidden; ++l) {
        const int width = model.layer[l].width;
        widest = std::max(widest, width);
        if (l > 0) {
            widest_receiver = std::max(widest_receiver, width);
            tasks = std::max(tasks, tile_steps * divide_up(width, kReceivers));
        }
        if (l + 1 < model.hidden) plan.most_words = std::max(plan.most_words, width / kWarp);
    }
    plan.warps = std::min(std::max(tasks, divide_up(widest, kWarp)), most_warps);
    plan.tile_width = std::min(plan.warps * kWarp, widest_receiver);
    Places places;
    const int64_t words = 2ll * model.timesteps * plan.most_words;
    plan.observation = places.place(int64_t(model.layer[0].inputs) * sizeof(float));
    plan.current = places.place(int64_t(tile_steps) * plan.tile_width * sizeof(float));
    plan.mean = places.place(int64_t(model.layer[model.hidden - 1].width) * sizeof(float));
    plan.lists = places.place(model.hidden > 1 ? plan.warps * kListPlaces * sizeof(uint32_t) : 0);
    plan.masks = places.place(words * sizeof(uint32_t));
    plan.units = places.place(is_binary(model.kind) ? 0 : words * kWarp);
    plan.counts = places.place(model.hidden * sizeof(int32_t));
    plan.bytes = places.bytes();
    return plan;
}

}  // namespace

ActorPlan plan_actor(const ActorModel& model, int64_t batch) {
    constexpr int kMostTileSteps = 16;
    // With more rows than multiprocessors, two smaller blocks on each: while one waits at a barrier
    // or updates its neurons, the other has loads on their way.
    const int most_warps = batch > multiprocessors() ? kMostActorWarps / 2 : kMostActorWarps;
    const int64_t most_bytes = most_shared_memory();
    ActorPlan plan{};
    for (int steps = std::min(model.timesteps, kMostTileSteps); steps > 0; steps /= 2) {
        plan = plan_tile(model, steps, most_warps);
        if (plan.bytes <= most_bytes) break;
    }
    return plan;
}

void prepare_actor(const ActorModel& model) { allow_shared_memory(kernel_of(model), kName); }

void launch_actor(const ActorProblem& p, Stream stream) {
    if (p.rows.batch == 0) return;
    launch(kernel_of(p.model), p.rows.batch, dim3(p.plan.warps * kWarp), p.plan.bytes, stream, p,
           kName);
}

}  // namespace snnkern
