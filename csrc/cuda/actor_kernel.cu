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
#include <cmath>

#include "actor.h"
#include "divisor.h"

namespace snnkern {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kReceivers = 4 * kWarp;  // of a warp: four neighbours for each lane
constexpr int kInFlight = 8;           // rows of weights that a lane waits for at a time
constexpr int kFirstInFlight = 16;     // the same, of single weights of the first layer

struct alignas(16) Four {
    float lane[4];
};

// What a block has in shared memory.
class Memory {
  public:
    __device__ Memory(float4* memory, const ActorPlan& plan)
        : memory_(reinterpret_cast<char*>(memory)), plan_(plan) {}

    __device__ float* observation() const { return at<float>(plan_.observation); }
    __device__ float* mean() const { return at<float>(plan_.mean); }
    __device__ int32_t* counts() const { return at<int32_t>(plan_.counts); }
    // Currents of a step of the tile, by neuron.
    __device__ float* current(int step) const {
        return at<float>(plan_.current) + step * plan_.tile_width;
    }
    // Who fired at a step in a layer: a bit for every neuron. Layers take turns with two places.
    __device__ uint32_t* mask(int layer, int timesteps, int step) const {
        return at<uint32_t>(plan_.masks) + ((layer & 1) * timesteps + step) * plan_.most_words;
    }
    // What they sent, as `pack` below says.
    __device__ uint8_t* units(int layer, int timesteps, int step) const {
        return at<uint8_t>(plan_.units) +
               ((layer & 1) * timesteps + step) * plan_.most_words * kWarp;
    }
    __device__ uint32_t* list(int warp) const {
        return at<uint32_t>(plan_.lists) + warp * kListPlaces;
    }

  private:
    template <class T>
    __device__ T* at(int32_t place) const {
        return reinterpret_cast<T*>(memory_ + place);
    }
    char* memory_;
    const ActorPlan& plan_;
};

// ±2^-j in a byte: the sign, and the seven low bits of the exponent, which begins with 0 for j > 0
// and also for 1.
__device__ inline uint8_t pack(float units) {
    const uint32_t bits = __float_as_uint(units);
    return static_cast<uint8_t>(bits >> 24 & 0x80u) | static_cast<uint8_t>(bits >> 23 & 0x7fu);
}
__device__ inline uint32_t unpack(uint8_t packed) {
    return (packed & 0x80u) << 24 | (packed & 0x7fu) << 23;
}

// The neuron of one thread during a decision.
template <Kind kind, bool kTiny>
struct State {
    using One = Neuron<kind, float, kTiny, Divisor<float>>;
    One neuron;
    float start;
    int32_t fired;  // by the warp

    __device__ void begin(const ActorProblem& p, int l, int64_t b, int n) {
        const ActorLayer& layer = p.model.layer[l];
        const float threshold = layer.threshold[n];
        const float carry = n < layer.outputs ? p.rows.carry[l][b * layer.outputs + n] : 0.0f;
        start = p.model.parameters.initial_fraction * threshold + carry;
        neuron = One(p.model.parameters, threshold, start, layer.bias[n]);
        fired = 0;
    }

    __device__ void step(const ActorProblem& p, const Memory& memory, int l, int n, int step,
                         float x) {
        const Divisor<float> t(step + 1);
        neuron.integrate(x);
        const Spike<float> spike = neuron.fire(t);
        neuron.reset(spike, x, t);
        const unsigned mask = __ballot_sync(kAllLanes, spike.fires);
        fired += __popc(mask);
        if (l == p.model.hidden - 1) return;  // nobody receives these spikes, only their mean
        if (threadIdx.x % kWarp == 0) memory.mask(l, p.model.timesteps, step)[n / kWarp] = mask;
        if (!kIsBinary<kind>) memory.units(l, p.model.timesteps, step)[n] = pack(spike.units);
    }

    __device__ void end(const ActorProblem& p, const Memory& memory, int l, int64_t b, int n) {
        const ActorLayer& layer = p.model.layer[l];
        const Divisor<float> timesteps(p.model.timesteps);
        if (n < layer.outputs) {
            float* carry = p.rows.carry[l] + b * layer.outputs + n;
            const float alpha = p.rows.alpha ? p.rows.alpha[b] : p.model.parameters.alpha;
            *carry = residual_carry<float>(neuron.potential - start, neuron.transmitted(timesteps),
                                           *carry, neuron.threshold, alpha, p.model.parameters);
        }
        if (l == p.model.hidden - 1) memory.mean()[n] = neuron.mean(timesteps);
        if (threadIdx.x % kWarp == 0) atomicAdd(memory.counts() + l, fired);
    }
};

// The observation, normalised, as what the first layer receives.
__device__ void observe(const ActorProblem& p, const Memory& memory, int64_t b) {
    const ActorModel& model = p.model;
    const ActorInterface& interface = model.interface;
    const int inputs = model.layer[0].inputs;
    for (int k = threadIdx.x; k < inputs; k += blockDim.x) {
        float value = p.rows.observation[b * inputs + k];
        if (interface.observation_mean) {
            value = (value - interface.observation_mean[k]) / interface.observation_std[k];
            value = value > interface.observation_clip ? interface.observation_clip : value;
            value = value < -interface.observation_clip ? -interface.observation_clip : value;
        }
        memory.observation()[k] = value;
    }
}

// The first layer: its current is constant, so a thread sums it once and needs nobody else.
template <Kind kind, bool kTiny>
__device__ void run_first_layer(const ActorProblem& p, const Memory& memory, int64_t b) {
    constexpr bool kDifferential = kIsDifferential<kind>;
    const ActorLayer& layer = p.model.layer[0];
    const float* observation = memory.observation();
    for (int n = threadIdx.x; n < layer.width; n += blockDim.x) {
        State<kind, kTiny> state{};
        state.begin(p, 0, b, n);
        float x = kDifferential ? 0.0f : layer.bias[n];
        const float* weight = layer.weight + n;
        for (int k = 0; k < layer.inputs; k += kFirstInFlight) {
            float row[kFirstInFlight];
#pragma unroll
            for (int i = 0; i < kFirstInFlight; ++i)
                row[i] = k + i < layer.inputs ? weight[int64_t(k + i) * layer.width] : 0.0f;
#pragma unroll
            for (int i = 0; i < kFirstInFlight; i += 2) {
                if (k + i >= layer.inputs) break;
                const float other = k + i + 1 < layer.inputs ? observation[k + i + 1] : 0.0f;
                x = x + (row[i] * observation[k + i] + row[i + 1] * other);
            }
        }
#pragma unroll 1
        for (int step = 0; step < p.model.timesteps; ++step) {
            state.step(p, memory, 0, n, step, x);
            if constexpr (kDifferential) x = 0;  // a constant is coded as x_1, 0, 0, …
        }
        state.end(p, memory, 0, b, n);
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
    const uint32_t* masks = memory.mask(l - 1, p.model.timesteps, step);
    const uint8_t* units = memory.units(l - 1, p.model.timesteps, step);
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
        if (own) state.begin(p, l, b, n);
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
                    state.step(p, memory, l, n, begin + step, memory.current(step)[thread]);
            const bool more = begin + steps < timesteps || first + columns < layer.width;
            if (more) __syncthreads();
        }
        if (own) state.end(p, memory, l, b, n);
    }
}

// The output layer is linear: one product, on the mean. A warp per action.
__device__ void act(const ActorProblem& p, const Memory& memory, int64_t b) {
    const ActorModel& model = p.model;
    const int inputs = model.layer[model.hidden - 1].outputs;
    const int lane = threadIdx.x % kWarp;
    for (int n = threadIdx.x / kWarp; n < model.actions; n += p.plan.warps) {
        const float* weight = model.output_weight + int64_t(n) * inputs;
        float z = 0;
#pragma unroll 8
        for (int k = lane; k < inputs; k += kWarp) z = fmaf(memory.mean()[k], weight[k], z);
        for (int offset = kWarp / 2; offset; offset /= 2)
            z += __shfl_xor_sync(kAllLanes, z, offset);
        if (lane) continue;
        z += model.output_bias[n];
        const float squashed = model.interface.squash ? tanhf(z) : z;
        p.rows.action[b * model.actions + n] =
            model.interface.action_scale[n] * squashed + model.interface.action_bias[n];
    }
}

template <Kind kind, bool kTiny>
__global__ void __launch_bounds__(kMostActorWarps* kWarp, 1)
    actor_kernel(const __grid_constant__ ActorProblem p) {
    SNNKERN_SHARED_MEMORY(shared);
    const Memory memory(shared, p.plan);
    const int64_t b = blockIdx.x;
    observe(p, memory, b);
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

constexpr int divide_up(int a, int b) { return (a + b - 1) / b; }

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
    int64_t bytes = 0;
    const auto place = [&bytes](int64_t size) {
        const int64_t at = bytes;
        bytes += (size + 15) / 16 * 16;
        return static_cast<int32_t>(std::min<int64_t>(at, INT32_MAX));
    };
    const int64_t words = 2ll * model.timesteps * plan.most_words;
    plan.observation = place(int64_t(model.layer[0].inputs) * sizeof(float));
    plan.current = place(int64_t(tile_steps) * plan.tile_width * sizeof(float));
    plan.mean = place(int64_t(model.layer[model.hidden - 1].width) * sizeof(float));
    plan.lists = place(model.hidden > 1 ? plan.warps * kListPlaces * sizeof(uint32_t) : 0);
    plan.masks = place(words * sizeof(uint32_t));
    plan.units = place(is_binary(model.kind) ? 0 : words * kWarp);
    plan.counts = place(model.hidden * sizeof(int32_t));
    plan.bytes = static_cast<int32_t>(std::min<int64_t>(bytes, INT32_MAX));
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
