// One decision of a spiking actor for many rows, currents between hidden layers summed as integers.
//
// With the sender's θ in the weights, a spike is a small integer times 2^-(L-1), and a weight, in
// units of a power of two, an integer of three int8 digits. So tensor cores sum currents exactly,
// in whatever order. The digits stay in shared memory as far as they fit. A group of warps takes a
// tile of eight rows through all layers: the spikes of eight steps go to shared memory as int8, in
// the order in which a lane multiplies them; a warp's task is 16 receivers of the eight rows, whose
// sums for all eight steps are in registers, and then the neurons' steps run on them. Groups wait
// for their own warps only, so one multiplies while another runs neurons.

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "divisor.h"
#include "integer.h"
#include "primitives.h"

namespace snnkern {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kNeighbours = 4;     // neurons of a lane in the first layer, beside each other
constexpr int kFirstInFlight = 8;  // rows of the first layer's weights that a lane waits for
constexpr int kInts = 4;           // sums of a lane in a product's tile

struct alignas(16) Four {
    float lane[kNeighbours];
};

// The neuron of one lane during eight steps or fewer.
template <Kind kind>
struct Cell {
    using One = Neuron<kind, float, false, Divisor<float>>;
    One neuron;

    __device__ void begin(const Parameters<float>& p, float threshold, float carry, float bias) {
        neuron = One(p, threshold, p.initial_fraction * threshold + carry, bias);
    }

    // What it sends at a step, in units of the smallest level; the current is x.
    __device__ int step(float x, const Divisor<float>& t, float units, int& fired) {
        neuron.integrate(x);
        const Spike<float> spike = neuron.fire(t);
        neuron.reset(spike, x, t);
        fired += spike.fires ? 1 : 0;
        if (kIsBinary<kind>) return spike.fires ? 1 : 0;
        return static_cast<int>(spike.units * units);
    }

    __device__ float carry(const Parameters<float>& p, const Divisor<float>& timesteps,
                           float before, float alpha) const {
        const float start = p.initial_fraction * neuron.threshold + before;
        return residual_carry<float>(neuron.potential - start, neuron.transmitted(timesteps),
                                     before, neuron.threshold, alpha, p);
    }

    // What changes from step to step, word by word.
    template <class Function>
    __device__ void visit(const Function& word) {
        word(0, neuron.potential);
        if constexpr (kIsDifferential<kind>) {
            word(1, neuron.current_mean);
            word(2, neuron.output_mean);
        } else if constexpr (kHasLevels<kind>) {
            word(1, neuron.sent.count);
        } else {
            word(1, neuron.count);
        }
    }
};

// Steps [begin, end) of a decision, and whether they are the first or the last ones.
struct Span {
    int begin, end;
    bool first, last;
};

// Some warps that take a tile of rows through the layers, as one of their lanes sees them. A
// block's threads are [groups, lanes of all warps].
class Group {
  public:
    int32_t tile;

    __device__ Group(const IntegerProblem& p, float4* shared)
        : tile(threadIdx.y * p.plan.blocks + blockIdx.x),
          p_(p),
          shared_(reinterpret_cast<char*>(shared)) {}

    static __device__ int lane() { return threadIdx.x % kWarp; }
    static __device__ int warp() { return threadIdx.x / kWarp; }
    static __device__ int barrier() { return 1 + threadIdx.y; }  // 0 is that of the block

    __device__ int64_t at(int row) const { return int64_t(tile) * kTileRows + row; }
    __device__ bool has(int row) const { return at(row) < p_.rows.batch; }

    // What a layer has sent: int8 [steps of senders, steps, lanes, 8], as `multiply` reads it.
    __device__ char* spikes(int layer) const { return own() + p_.plan.spikes[layer & 1]; }
    __device__ float* observation(int row) const {
        return reinterpret_cast<float*>(own() + p_.plan.observation) +
               row * p_.plan.observation_width;
    }
    __device__ int32_t* counts(int layer) const {
        return reinterpret_cast<int32_t*>(own() + p_.plan.counts) + layer * kTileRows;
    }
    __device__ uint4* resident(int layer) const {
        return reinterpret_cast<uint4*>(shared_ + p_.plan.weights[layer]);
    }

    // In scratch memory: mean outputs of the last hidden layer, and neurons that wait.
    __device__ float* mean(int row) const {
        return scratch() + row * p_.model.actor.layer[p_.model.actor.hidden - 1].width;
    }
    __device__ float* state(int layer, int word, int row, int n) const {
        const int width = p_.model.actor.layer[layer].width;
        return scratch() + p_.plan.state[layer] + (word * kTileRows + row) * width + n;
    }

  private:
    __device__ char* own() const { return shared_ + threadIdx.y * p_.plan.group_bytes; }
    __device__ float* scratch() const {
        return p_.scratch +
               (int64_t(blockIdx.x) * p_.plan.groups + threadIdx.y) * p_.plan.group_floats;
    }

    const IntegerProblem& p_;
    char* shared_;
};

// Where the spike of a sender stands in what a layer has sent, as the second operand of products: a
// lane has four senders of a row, and the four that are 16 further.
__device__ inline int spike_place(int step, int row, int n) {
    const int lane = 4 * row + n % 16 / 4;
    return ((n / kStepSenders * kTileSteps + step) * kWarp + lane) * 8 + n / 16 % 2 * 4 + n % 4;
}
constexpr int kSpikesOfStep = 8 * kWarp;  // bytes from a step to the next

// Begins to copy the weights that stay in shared memory.
__device__ void load_weights(const IntegerProblem& p, const Group& group) {
    for (int l = 1; l < p.model.actor.hidden; ++l) {
        const int of_tile = p.model.actor.layer[l - 1].width / kStepSenders * kSlices * kWarp;
        const uint4* from = static_cast<const uint4*>(p.model.layer[l].weights);
        uint4* to = group.resident(l);
        const int count = p.plan.resident[l] * of_tile;
        for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < count;
             i += p.plan.groups * blockDim.x)
            copy_later(to + i, from + i);
    }
}

// All threads come here once, each group where it first needs the weights.
__device__ void wait_for_weights(const IntegerProblem& p) {
    wait_for_copies();
    group_barrier(0, p.plan.groups * blockDim.x);
}

// The observations, normalised, as what the first layer receives; 0 beyond the last row.
__device__ void observe(const IntegerProblem& p, const Group& group) {
    const ActorInterface& interface = p.model.actor.interface;
    const int inputs = p.model.actor.layer[0].inputs;
    for (int row = group.warp(); row < kTileRows; row += p.plan.warps) {
        for (int k = group.lane(); k < inputs; k += kWarp) {
            float value = 0;
            if (group.has(row)) value = p.rows.observation[group.at(row) * inputs + k];
            if (interface.observation_mean) {
                value = (value - interface.observation_mean[k]) / interface.observation_std[k];
                value = value > interface.observation_clip ? interface.observation_clip : value;
                value = value < -interface.observation_clip ? -interface.observation_clip : value;
            }
            group.observation(row)[k] = value;
        }
    }
}

// The carry of a neuron, or of one that is not there.
__device__ inline float* carry_of(const IntegerProblem& p, const Group& group, int l, int row,
                                  int n) {
    const int outputs = p.model.actor.layer[l].outputs;
    return group.has(row) && n < outputs ? p.rows.carry[l] + group.at(row) * outputs + n : nullptr;
}

__device__ inline float alpha_of(const IntegerProblem& p, const Group& group, int row) {
    const bool own = p.rows.alpha && group.has(row);
    return own ? p.rows.alpha[group.at(row)] : p.model.actor.parameters.alpha;
}

// Puts a neuron back where it was before the last steps.
template <class Cell>
__device__ void resume(Cell& cell, const Group& group, int l, int row, int n) {
    cell.visit([&](int word, auto& value) {
        value = *reinterpret_cast<decltype(&value)>(group.state(l, word, row, n));
    });
}
template <class Cell>
__device__ void suspend(Cell& cell, const Group& group, int l, int row, int n) {
    cell.visit([&](int word, auto& value) {
        *reinterpret_cast<decltype(&value)>(group.state(l, word, row, n)) = value;
    });
}

// What a neuron leaves behind: its carry and, in the last layer, its mean output.
template <class Cell>
__device__ void finish(const Cell& cell, const IntegerProblem& p, const Group& group, int l,
                       int row, int n, float alpha) {
    const Divisor<float> timesteps(p.model.actor.timesteps);
    if (float* carry = carry_of(p, group, l, row, n))
        *carry = cell.carry(p.model.actor.parameters, timesteps, *carry, alpha);
    if (l == p.model.actor.hidden - 1) group.mean(row)[n] = cell.neuron.mean(timesteps);
}

// The constant currents of four neighbours in the first layer, summed as by the CPU's engine.
__device__ Four first_current(const IntegerProblem& p, const float* observation, int n,
                              bool with_bias) {
    const ActorLayer& layer = p.model.actor.layer[0];
    Four sum{};
    if (with_bias) sum = *reinterpret_cast<const Four*>(layer.bias + n);
    const float* weight = layer.weight + n;
    for (int k = 0; k < layer.inputs; k += kFirstInFlight) {
        Four row[kFirstInFlight];
#pragma unroll
        for (int i = 0; i < kFirstInFlight; ++i) {
            row[i] = Four{};
            if (k + i < layer.inputs)
                row[i] = *reinterpret_cast<const Four*>(weight + int64_t(k + i) * layer.width);
        }
#pragma unroll
        for (int i = 0; i < kFirstInFlight; i += 2) {
            if (k + i >= layer.inputs) break;
            const float one = observation[k + i];
            const float other = k + i + 1 < layer.inputs ? observation[k + i + 1] : 0.0f;
#pragma unroll
            for (int j = 0; j < kNeighbours; ++j)
                sum.lane[j] = sum.lane[j] + (row[i].lane[j] * one + row[i + 1].lane[j] * other);
        }
    }
    return sum;
}

// The first layer, whose current is constant: a lane has four neighbours of one row.
template <Kind kind>
__device__ void run_first_layer(const IntegerProblem& p, const Group& group, const Span& span) {
    constexpr bool kDifferential = kIsDifferential<kind>;
    const ActorLayer& layer = p.model.actor.layer[0];
    const Parameters<float>& parameters = p.model.actor.parameters;
    const float units = 1 << (parameters.levels - 1);
    const int row = group.lane() / 4;
    int fired = 0;
    for (int first = group.warp() * kTileReceivers; first < layer.width;
         first += p.plan.warps * kTileReceivers) {
        const int n = first + group.lane() % 4 * kNeighbours;
        Cell<kind> cell[kNeighbours];
        Four x{};
        if (span.first || !kDifferential)  // a constant is coded as x_1, 0, 0, …
            x = first_current(p, group.observation(row), n, !kDifferential);
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j) {
            const float* carry = carry_of(p, group, 0, row, n + j);
            cell[j].begin(parameters, layer.threshold[n + j], carry ? *carry : 0.0f,
                          layer.bias[n + j]);
            if (!span.first) resume(cell[j], group, 0, row, n + j);
        }
        char* sent = group.spikes(0) + spike_place(0, row, n);
#pragma unroll 1
        for (int step = span.begin; step < span.end; ++step) {
            const Divisor<float> t(step + 1);
            uint32_t packed = 0;
#pragma unroll
            for (int j = 0; j < kNeighbours; ++j) {
                const int spike = cell[j].step(x.lane[j], t, units, fired);
                packed |= (static_cast<uint32_t>(spike) & 0xffu) << 8 * j;
                if constexpr (kDifferential) x.lane[j] = 0;
            }
            *reinterpret_cast<uint32_t*>(sent) = packed;
            sent += kSpikesOfStep;
        }
        const float alpha = span.last ? alpha_of(p, group, row) : 0.0f;
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j) {
            if (span.last)
                finish(cell[j], p, group, 0, row, n + j, alpha);
            else
                suspend(cell[j], group, 0, row, n + j);
        }
    }
    for (int offset = 1; offset < 4; offset *= 2)
        fired += __shfl_xor_sync(kAllLanes, fired, offset);
    if (group.lane() % 4 == 0) atomicAdd(group.counts(0) + row, fired);
}

// A lane's sums of a task: [steps, slices], and of those a tile of 16 receivers and eight rows.
using Sums = int32_t[kTileSteps][kSlices][kInts];

// Adds to the sums of 16 receivers what `depth` times 32 senders sent in `kSteps` steps.
template <int kSteps>
__device__ void multiply(Sums& sums, const uint4* weights, const char* spikes, int depth) {
    weights += Group::lane();
    const uint2* sent = reinterpret_cast<const uint2*>(spikes) + Group::lane();
#pragma unroll 1
    for (; depth > 0; --depth, weights += kSlices * kWarp, sent += kTileSteps * kWarp) {
        uint4 weight[kSlices];
        uint2 spike[kSteps];
#pragma unroll
        for (int slice = 0; slice < kSlices; ++slice) weight[slice] = weights[slice * kWarp];
#pragma unroll
        for (int step = 0; step < kSteps; ++step) spike[step] = sent[step * kWarp];
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
#pragma unroll
            for (int slice = 0; slice < kSlices; ++slice)
                multiply_add(sums[step][slice], weight[slice], spike[step]);
        }
    }
}

// The same for up to eight steps. Sums of steps that are not there are never looked at.
__device__ inline void multiply(Sums& sums, const uint4* weights, const char* spikes, int depth,
                                int steps) {
    if (steps > kTileSteps / 2)
        multiply<kTileSteps>(sums, weights, spikes, depth);
    else
        multiply<kTileSteps / 2>(sums, weights, spikes, depth);
}

using Currents = float[kTileSteps][kInts];

// Currents from the sums of their digits, which are exact. The lower two fit 32 bits together.
__device__ inline void scale_sums(Currents& current, const Sums& sums, const float (&scale)[2]) {
#pragma unroll
    for (int step = 0; step < kTileSteps; ++step) {
#pragma unroll
        for (int i = 0; i < kInts; ++i) {
            const float high = static_cast<float>(sums[step][0][i]);
            const float low = static_cast<float>(sums[step][1][i] * 256 + sums[step][2][i]);
            current[step][i] = fmaf(high, 65536 * scale[i / 2], low * scale[i / 2]);
        }
    }
}

// The steps of the neurons of a task: a lane has two receivers of two rows.
template <Kind kind>
__device__ void run_neurons(const IntegerProblem& p, const Group& group, const Span& span, int l,
                            int first, const Currents& current, int (&fired)[2]) {
    const ActorLayer& layer = p.model.actor.layer[l];
    const Parameters<float>& parameters = p.model.actor.parameters;
    const float units = 1 << (parameters.levels - 1);
    const bool sends = l + 1 < p.model.actor.hidden;
    const int top = first + group.lane() / 4, left = group.lane() % 4 * 2;
    const auto n = [&](int i) { return top + i / 2 * 8; };
    const auto row = [&](int i) { return left + i % 2; };
    Cell<kind> cell[kInts];
    const float bias[2] = {layer.bias[n(0)], layer.bias[n(2)]};
#pragma unroll
    for (int i = 0; i < kInts; ++i) {
        const float* carry = carry_of(p, group, l, row(i), n(i));
        cell[i].begin(parameters, layer.threshold[n(i)], carry ? *carry : 0.0f, bias[i / 2]);
        if (!span.first) resume(cell[i], group, l, row(i), n(i));
    }
    char* sent = group.spikes(l);
#pragma unroll
    for (int step = 0; step < kTileSteps; ++step) {
        if (span.begin + step >= span.end) break;
        const Divisor<float> t(span.begin + step + 1);
#pragma unroll
        for (int i = 0; i < kInts; ++i) {
            float x = current[step][i];
            if (!kIsDifferential<kind>) x = x + bias[i / 2];
            const int spike = cell[i].step(x, t, units, fired[i % 2]);
            if (sends) sent[spike_place(step, row(i), n(i))] = static_cast<char>(spike);
        }
    }
#pragma unroll
    for (int i = 0; i < kInts; ++i) {
        if (span.last)
            finish(cell[i], p, group, l, row(i), n(i), alpha_of(p, group, row(i)));
        else
            suspend(cell[i], group, l, row(i), n(i));
    }
}

// A layer that receives spikes.
template <Kind kind>
__device__ void run_layer(const IntegerProblem& p, const Group& group, const Span& span, int l) {
    const int depth = p.model.actor.layer[l - 1].width / kStepSenders;
    const int tiles = p.model.actor.layer[l].width / kTileReceivers;
    const int of_tile = depth * kSlices * kWarp;
    const int steps = span.end - span.begin;
    int fired[2] = {0, 0};
    for (int tile = group.warp(); tile < tiles; tile += p.plan.warps) {
        Sums sums{};
        const char* spikes = group.spikes(l - 1);
        if (tile < p.plan.resident[l])
            multiply(sums, group.resident(l) + tile * of_tile, spikes, depth, steps);
        else
            multiply(sums,
                     static_cast<const uint4*>(p.model.layer[l].weights) + int64_t(tile) * of_tile,
                     spikes, depth, steps);
        const int first = tile * kTileReceivers;
        const float* scale = p.model.layer[l].scale + first + group.lane() / 4;
        const float scales[2] = {scale[0], scale[8]};
        Currents current;
        scale_sums(current, sums, scales);
        run_neurons<kind>(p, group, span, l, first, current, fired);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        for (int offset = 4; offset < kWarp; offset *= 2)
            fired[i] += __shfl_xor_sync(kAllLanes, fired[i], offset);
        if (group.lane() < 4) atomicAdd(group.counts(l) + 2 * group.lane() + i, fired[i]);
    }
}

// The output layer is linear: one product, on the mean, summed as by the actor kernel.
__device__ void act(const IntegerProblem& p, const Group& group) {
    const ActorModel& model = p.model.actor;
    const int inputs = model.layer[model.hidden - 1].outputs;
    for (int row = group.warp(); row < kTileRows; row += p.plan.warps) {
        if (!group.has(row)) break;
        const float* mean = group.mean(row);
        for (int n = 0; n < model.actions; ++n) {
            const float* weight = model.output_weight + int64_t(n) * inputs;
            float z = 0;
#pragma unroll 8
            for (int k = group.lane(); k < inputs; k += kWarp) z = fmaf(mean[k], weight[k], z);
            for (int offset = kWarp / 2; offset; offset /= 2)
                z += __shfl_xor_sync(kAllLanes, z, offset);
            if (group.lane()) continue;
            z += model.output_bias[n];
            const float squashed = model.interface.squash ? tanhf(z) : z;
            p.rows.action[group.at(row) * model.actions + n] =
                model.interface.action_scale[n] * squashed + model.interface.action_bias[n];
        }
    }
}

// Writes the tile's counts out, and leaves zeros.
__device__ void write_counts(const IntegerProblem& p, const Group& group) {
    for (int i = threadIdx.x; i < p.model.actor.hidden * kTileRows; i += blockDim.x) {
        const int layer = i / kTileRows, row = i % kTileRows;
        int32_t& count = group.counts(layer)[row];
        if (group.has(row)) p.rows.counts[layer * p.rows.batch + group.at(row)] = count;
        count = 0;
    }
}

template <Kind kind>
__global__ void __launch_bounds__(kMostGroups * kGroupWarps * kWarp, 1)
    integer_kernel(const __grid_constant__ IntegerProblem p) {
    SNNKERN_SHARED_MEMORY(shared);
    Group group(p, shared);
    const int timesteps = p.model.actor.timesteps;
    load_weights(p, group);
    for (int i = threadIdx.x; i < p.model.actor.hidden * kTileRows; i += blockDim.x)
        group.counts(0)[i] = 0;
    bool loaded = false;
    for (; group.has(0); group.tile += p.plan.blocks * p.plan.groups) {
        observe(p, group);
        group_barrier(group.barrier(), blockDim.x);
        for (int begin = 0; begin < timesteps; begin += kTileSteps) {
            const int end = min(begin + kTileSteps, timesteps);
            const Span span{begin, end, begin == 0, end == timesteps};
            run_first_layer<kind>(p, group, span);
            if (!loaded) wait_for_weights(p);
            loaded = true;
            group_barrier(group.barrier(), blockDim.x);
            for (int l = 1; l < p.model.actor.hidden; ++l) {
                run_layer<kind>(p, group, span, l);
                group_barrier(group.barrier(), blockDim.x);
            }
        }
        act(p, group);
        write_counts(p, group);
    }
    if (!loaded) wait_for_weights(p);  // for the others, who have rows
}

using Kernel = void (*)(IntegerProblem);

Kernel kernel_of(const ActorModel& model) {
    return with_form(model.kind, false,
                     [](auto form) -> Kernel { return integer_kernel<decltype(form)::kKind>; });
}

constexpr const char* kName = "the integer kernel";

constexpr int divide_up(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// Gives out places one after another, on boundaries of 16 bytes.
struct Places {
    int64_t bytes = 0;

    int32_t operator()(int64_t size) {
        const int64_t place = bytes;
        bytes += (size + 15) / 16 * 16;
        return static_cast<int32_t>(std::min<int64_t>(place, INT32_MAX));
    }
};

// What a group has for itself, in shared and in scratch memory.
void plan_group(IntegerPlan& plan, const ActorModel& model) {
    Places place;
    for (int turn = 0; turn < 2; ++turn) {
        int widest = 0;
        for (int l = turn; l + 1 < model.hidden; l += 2)
            widest = std::max(widest, model.layer[l].width);
        plan.spikes[turn] = place(int64_t(widest) * kTileRows * kTileSteps);
    }
    plan.observation_width = model.layer[0].inputs | 1;  // so that rows begin in different banks
    plan.observation = place(int64_t(kTileRows) * plan.observation_width * sizeof(float));
    plan.counts = place(int64_t(model.hidden) * kTileRows * sizeof(int32_t));
    plan.group_bytes = static_cast<int32_t>(std::min<int64_t>(place.bytes, INT32_MAX));

    plan.group_floats = kTileRows * model.layer[model.hidden - 1].width;
    if (model.timesteps <= kTileSteps) return;
    for (int l = 0; l < model.hidden; ++l) {
        plan.state[l] = plan.group_floats;
        plan.group_floats += kStateWords * kTileRows * model.layer[l].width;
    }
}

IntegerPlan plan_block(const ActorModel& model, int64_t batch, int groups, int warps) {
    IntegerPlan plan{};
    plan.groups = groups;
    plan.warps = warps;
    plan.blocks = std::min(multiprocessors(), divide_up(divide_up(batch, kTileRows), groups));
    plan_group(plan, model);
    Places place;
    place(int64_t(groups) * plan.group_bytes);
    const int64_t most_bytes = most_shared_memory();
    for (int l = 1; l < model.hidden; ++l) {
        const int64_t of_tile = int64_t(model.layer[l - 1].width) * kTileReceivers * kSlices;
        const int64_t left = std::max<int64_t>(most_bytes - place.bytes, 0);
        plan.resident[l] = std::min<int64_t>(model.layer[l].width / kTileReceivers, left / of_tile);
        plan.weights[l] = place(plan.resident[l] * of_tile);
    }
    plan.bytes = static_cast<int32_t>(std::min<int64_t>(place.bytes, INT32_MAX));
    return plan;
}

}  // namespace

IntegerPlan plan_integers(const IntegerModel& model, int64_t batch, int groups) {
    // Few rows: each has the warps of several groups.
    if (divide_up(batch, kTileRows) <= multiprocessors())
        return plan_block(model.actor, batch, 1, 2 * kGroupWarps);
    const int64_t most_bytes = most_shared_memory();
    if (groups == 0) groups = kMostGroups;
    IntegerPlan plan = plan_block(model.actor, batch, groups, kGroupWarps);
    while (plan.bytes > most_bytes && --groups > 0)
        plan = plan_block(model.actor, batch, groups, kGroupWarps);
    return plan;
}

void prepare_integers(const IntegerModel& model) {
    allow_shared_memory(kernel_of(model.actor), kName);
}

void launch_integers(const IntegerProblem& p, Stream stream) {
    if (p.rows.batch == 0) return;
    launch(kernel_of(p.model.actor), p.plan.blocks, dim3(p.plan.warps * kWarp, p.plan.groups),
           p.plan.bytes, stream, p, kName);
}

}  // namespace snnkern
