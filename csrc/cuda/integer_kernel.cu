// One decision of a spiking actor for many rows, currents between hidden layers summed as integers.
//
// With the sender's θ in the weights, a spike is a small integer times 2^-(L-1), and a weight, in
// units of a power of two, an integer of three int8 digits. So tensor cores sum currents exactly,
// in whatever order. The digits stay in shared memory as far as they fit. A group of warps takes a
// tile of eight rows through all layers: the spikes of eight steps go to shared memory as int8, in
// the order in which a lane multiplies them; a warp's task is 16 receivers of the eight rows, whose
// sums for all eight steps are in registers, and then the neurons' steps run on them. Groups wait
// for their own warps only, so one multiplies while another runs neurons.

#include <type_traits>

#include "actor_parts.h"
#include "integer.h"
#include "primitives.h"

namespace snnkern {
namespace {

constexpr int kNeighbours = 4;     // neurons of a lane in the first layer, beside each other
constexpr int kFirstInFlight = 8;  // rows of the first layer's weights that a lane waits for
constexpr int kInts = 4;           // sums of a lane in a product's tile
constexpr int kSharing = 4;        // lanes that sum an action together

struct alignas(8) Two {
    float lane[2];
};

// SNM's count has the number of its spikes below this unit: a decision has fewer steps than half of
// it (kMostTimesteps).
constexpr int32_t kTally = 1 << 16;
static_assert(kMostTimesteps < kTally / 2);

// The neuron of one lane during eight steps or fewer.
template <Kind kind>
class Cell {
  public:
    using One = std::conditional_t<kind == Kind::SNM, SignedNeuron<float, Divisor<float>, kTally>,
                                   Neuron<kind, float, false, Divisor<float>>>;
    // Whether what the neuron counts says how often it fires.
    static constexpr bool kTallies = kIsBinary<kind> || kind == Kind::SNM;

    __device__ void begin(const Parameters<float>& p, float threshold, float carry, float bias) {
        neuron_ = One(p, threshold, p.initial_fraction * threshold + carry, bias);
        fired_ = 0;
    }

    // A step with the current x. What it sends, in units of the smallest level, of which θ has
    // `units`, is a byte of a word, which begins at a bit.
    __device__ uint32_t step(float x, const Divisor<float>& t, float units, int bit = 0) {
        const int32_t before = count();
        neuron_.integrate(x);
        const Spike<float> spike = neuron_.fire(t);
        neuron_.reset(spike, x, t);
        if constexpr (kIsBinary<kind>) return spike.fires ? 1u << bit : 0u;
        if (!kTallies && spike.fires) ++fired_;
        int32_t sent = count() - before;
        if constexpr (kind == Kind::SNM) sent >>= 16;
        if constexpr (kIsDifferential<kind>) sent = static_cast<int32_t>(spike.units * units);
        return (static_cast<uint32_t>(sent) & 0xffu) << bit;
    }

    // Where a spike is θ or nothing: that there were so many in these steps, from who has counted
    // several neurons at once.
    __device__ void set_fired(int32_t spikes) { neuron_.count = spikes - fired_; }

    // Spikes in these steps.
    __device__ int32_t fired() const { return kTallies ? fired_ + tally() : fired_; }

    __device__ float carry(const Parameters<float>& p, const Divisor<float>& timesteps,
                           float before, float alpha) const {
        const float start = p.initial_fraction * neuron_.threshold + before;
        return residual_carry<float>(neuron_.potential - start, neuron_.transmitted(timesteps),
                                     before, neuron_.threshold, alpha, p);
    }
    // What is divided is 0 or a level, so it is not small: θ is not tiny.
    __device__ float mean(const Divisor<float>& timesteps) const {
        if constexpr (kIsDifferential<kind>) return neuron_.mean(timesteps);
        return timesteps.divide_normal(neuron_.transmitted(timesteps));
    }

    // To and from memory, a word each `stride` floats.
    __device__ void suspend(float* state, int stride) const {
        state[0] = neuron_.potential;
        if constexpr (kIsDifferential<kind>) {
            state[stride] = neuron_.current_mean;
            state[2 * stride] = neuron_.output_mean;
        } else {
            state[stride] = __int_as_float(count());
        }
    }
    __device__ void resume(const float* state, int stride) {
        neuron_.potential = state[0];
        if constexpr (kIsDifferential<kind>) {
            neuron_.current_mean = state[stride];
            neuron_.output_mean = state[2 * stride];
        } else if constexpr (kHasLevels<kind>) {
            neuron_.sent.count = __float_as_int(state[stride]);
        } else {
            neuron_.count = __float_as_int(state[stride]);
        }
        if constexpr (kTallies) fired_ = -tally();
    }

  private:
    // What was sent, as the neuron counts it; 0 where it does not.
    __device__ int32_t count() const {
        if constexpr (kIsDifferential<kind>)
            return 0;
        else if constexpr (kHasLevels<kind>)
            return neuron_.sent.count;
        else
            return neuron_.count;
    }
    __device__ int32_t tally() const {
        return kind == Kind::SNM ? count() & (kTally - 1) : count();
    }

    One neuron_;
    int32_t fired_;
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
    __device__ float* state(int layer, int row, int n) const {
        return scratch() + p_.plan.state[layer] + row * p_.model.actor.layer[layer].width + n;
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
    wait_for_own_copies();
    group_barrier(0, p.plan.groups * blockDim.x);
}

// The observations, normalised, as what the first layer receives; 0 beyond the last row and input.
__device__ void observe(const IntegerProblem& p, const Group& group) {
    const int inputs = p.model.actor.layer[0].inputs;
    for (int row = group.warp(); row < kTileRows; row += p.plan.warps) {
        for (int k = group.lane(); k < p.model.inputs; k += kWarp) {
            float value = 0;
            if (group.has(row) && k < inputs)
                value = normalised(p.model.actor.interface,
                                   p.rows.observation[group.at(row) * inputs + k], k);
            group.observation(row)[k] = value;
        }
    }
}

// Where the carry of a layer's neuron n in a row stands, if both are there.
__device__ inline float* carry_of(const IntegerProblem& p, const Group& group, int l, int row,
                                  int n) {
    return p.rows.carry[l] + group.at(row) * p.model.actor.layer[l].outputs + n;
}

__device__ inline float alpha_of(const IntegerProblem& p, const Group& group, int row) {
    const bool own = p.rows.alpha && group.has(row);
    return own ? p.rows.alpha[group.at(row)] : p.model.actor.parameters.alpha;
}

// Reads and writes the carries of four neighbours, of whom `count` are there.
struct Carries {
    float* first;
    int count;
    bool together;  // in 16 bytes

    __device__ Carries(const IntegerProblem& p, const Group& group, int row, int n)
        : first(carry_of(p, group, 0, row, n)) {
        const int outputs = p.model.actor.layer[0].outputs;
        count = group.has(row) ? min(outputs - n, kNeighbours) : 0;
        together = count == kNeighbours &&
                   (reinterpret_cast<uintptr_t>(p.rows.carry[0]) | 4 * outputs) % 16 == 0;
    }

    __device__ Four load() const {
        Four values{};
        if (together) return *reinterpret_cast<const Four*>(first);
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j)
            if (j < count) values.lane[j] = first[j];
        return values;
    }
    __device__ void store(const Four& values) const {
        if (together) {
            *reinterpret_cast<Four*>(first) = values;
            return;
        }
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j)
            if (j < count) first[j] = values.lane[j];
    }
};

// Adds `kInputs` products to the constant currents of four neighbours of the first layer, two at a
// time in their order, as the CPU's engine does.
template <int kInputs>
__device__ inline void add_inputs(Four& sum, const float* weight, int width,
                                  const float* observation) {
    constexpr int kPairs = kInputs / 2;
    Four row[kInputs];
    Two value[kPairs];
#pragma unroll
    for (int i = 0; i < kInputs; ++i) row[i] = *reinterpret_cast<const Four*>(weight + i * width);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) value[i] = reinterpret_cast<const Two*>(observation)[i];
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j)
            sum.lane[j] = sum.lane[j] + (row[2 * i].lane[j] * value[i].lane[0] +
                                         row[2 * i + 1].lane[j] * value[i].lane[1]);
    }
}

__device__ inline Four first_current(const IntegerProblem& p, const float* observation, int n,
                                     bool with_bias) {
    const ActorLayer& layer = p.model.actor.layer[0];
    Four sum{};
    if (with_bias) sum = *reinterpret_cast<const Four*>(layer.bias + n);
    const float* weight = layer.weight + n;
    int k = 0;
#pragma unroll 1
    for (; k + kFirstInFlight <= p.model.inputs; k += kFirstInFlight)
        add_inputs<kFirstInFlight>(sum, weight + k * layer.width, layer.width, observation + k);
#pragma unroll 1
    for (; k < p.model.inputs; k += 2)
        add_inputs<2>(sum, weight + k * layer.width, layer.width, observation + k);
    return sum;
}

// The first layer, whose current is constant: a lane has four neighbours of one row.
template <Kind kind>
__device__ void run_first_layer(const IntegerProblem& p, const Group& group, const Span& span) {
    constexpr bool kDifferential = kIsDifferential<kind>;
    const ActorLayer& layer = p.model.actor.layer[0];
    const Parameters<float>& parameters = p.model.actor.parameters;
    const float units = 1 << (parameters.levels - 1);
    const int row = group.lane() / 4, of_state = kTileRows * layer.width;
    int fired = 0;
    for (int first = group.warp() * kTileReceivers; first < layer.width;
         first += p.plan.warps * kTileReceivers) {
        const int n = first + group.lane() % 4 * kNeighbours;
        Four x{};
        if (span.first || !kDifferential)
            x = first_current(p, group.observation(row), n, !kDifferential);
        const Carries carries(p, group, row, n);
        const Four threshold = *reinterpret_cast<const Four*>(layer.threshold + n);
        const Four bias = *reinterpret_cast<const Four*>(layer.bias + n);
        Four carry = carries.load();
        Cell<kind> cell[kNeighbours];
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j)
            cell[j].begin(parameters, threshold.lane[j], carry.lane[j], bias.lane[j]);
        if (!span.first) {
#pragma unroll
            for (int j = 0; j < kNeighbours; ++j)
                cell[j].resume(group.state(0, row, n) + j, of_state);
        }
        char* sent = group.spikes(0) + spike_place(0, row, n);
        int step = span.begin;
        uint32_t sum = 0;  // of the bytes
        const auto run_step = [&](const Four& current) {
            const Divisor<float> t(step + 1);
            uint32_t bytes = 0;
#pragma unroll
            for (int j = 0; j < kNeighbours; ++j)
                bytes |= cell[j].step(current.lane[j], t, units, 8 * j);
            *reinterpret_cast<uint32_t*>(sent) = bytes;
            sent += kSpikesOfStep;
            sum += bytes;
            ++step;
        };
        if constexpr (kDifferential) run_step(x);  // a constant is coded as x_1, 0, 0, …
#pragma unroll 1
        while (step < span.end) run_step(kDifferential ? Four{} : x);
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j) {
            if constexpr (kIsBinary<kind>) cell[j].set_fired(sum >> 8 * j & 0xffu);
            fired += cell[j].fired();
        }
        if (span.last) {
            const float alpha = alpha_of(p, group, row);
            const Divisor<float> timesteps(p.model.actor.timesteps);
#pragma unroll
            for (int j = 0; j < kNeighbours; ++j)
                carry.lane[j] = cell[j].carry(parameters, timesteps, carry.lane[j], alpha);
            carries.store(carry);
        } else {
#pragma unroll
            for (int j = 0; j < kNeighbours; ++j)
                cell[j].suspend(group.state(0, row, n) + j, of_state);
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

// Currents from the sums of their digits, which are exact: the lower two fit 32 bits together, and
// a scale is a power of two. The bias is added to what is smaller.
__device__ inline void scale_sums(Currents& current, const Sums& sums, const float (&scale)[2],
                                  const float (&bias)[2]) {
#pragma unroll
    for (int step = 0; step < kTileSteps; ++step) {
#pragma unroll
        for (int i = 0; i < kInts; ++i) {
            const float high = static_cast<float>(sums[step][0][i]);
            const float low = static_cast<float>(sums[step][1][i] * 256 + sums[step][2][i]);
            current[step][i] =
                fmaf(high, 65536 * scale[i / 2], fmaf(low, scale[i / 2], bias[i / 2]));
        }
    }
}

// The steps of the neurons of a task: a lane has two receivers of two rows.
template <Kind kind, bool kSends>
__device__ void run_neurons(const IntegerProblem& p, const Group& group, const Span& span, int l,
                            int first, const Currents& current, int (&fired)[2]) {
    const ActorLayer& layer = p.model.actor.layer[l];
    const Parameters<float>& parameters = p.model.actor.parameters;
    const float units = 1 << (parameters.levels - 1);
    const int of_state = kTileRows * layer.width;
    const int top = first + group.lane() / 4, left = group.lane() % 4 * 2;
    const auto n = [&](int i) { return top + i / 2 * 8; };
    const auto row = [&](int i) { return left + i % 2; };
    float* const carries[2] = {carry_of(p, group, l, left, top),
                               carry_of(p, group, l, left + 1, top)};
    const bool is_row[2] = {group.has(left), group.has(left + 1)};
    const auto is_there = [&](int i) { return is_row[i % 2] && n(i) < layer.outputs; };
    Cell<kind> cell[kInts];
    float before[kInts];
#pragma unroll
    for (int i = 0; i < kInts; ++i) {
        before[i] = is_there(i) ? carries[i % 2][i / 2 * 8] : 0.0f;
        cell[i].begin(parameters, layer.threshold[n(i)], before[i], layer.bias[n(i)]);
    }
    if (!span.first) {
#pragma unroll
        for (int i = 0; i < kInts; ++i) cell[i].resume(group.state(l, row(i), n(i)), of_state);
    }
    char* sent = group.spikes(l);
#pragma unroll
    for (int step = 0; step < kTileSteps; ++step) {
        if (span.begin + step >= span.end) break;
        const Divisor<float> t(span.begin + step + 1);
#pragma unroll
        for (int i = 0; i < kInts; ++i) {
            const uint32_t byte = cell[i].step(current[step][i], t, units);
            if constexpr (kSends) sent[spike_place(step, row(i), n(i))] = static_cast<char>(byte);
        }
    }
#pragma unroll
    for (int i = 0; i < kInts; ++i) fired[i % 2] += cell[i].fired();
    if (!span.last) {
#pragma unroll
        for (int i = 0; i < kInts; ++i) cell[i].suspend(group.state(l, row(i), n(i)), of_state);
        return;
    }
    const Divisor<float> timesteps(p.model.actor.timesteps);
    const float alpha[2] = {alpha_of(p, group, left), alpha_of(p, group, left + 1)};
#pragma unroll
    for (int i = 0; i < kInts; ++i) {
        if (!kSends) group.mean(row(i))[n(i)] = cell[i].mean(timesteps);
        if (is_there(i))
            carries[i % 2][i / 2 * 8] =
                cell[i].carry(parameters, timesteps, before[i], alpha[i % 2]);
    }
}

// A layer that receives spikes, and sends some if it is not the last one.
template <Kind kind>
__device__ void run_layer(const IntegerProblem& p, const Group& group, const Span& span, int l) {
    const ActorLayer& layer = p.model.actor.layer[l];
    const int depth = p.model.actor.layer[l - 1].width / kStepSenders;
    const int of_tile = depth * kSlices * kWarp;
    const int steps = span.end - span.begin;
    const char* spikes = group.spikes(l - 1);
    int fired[2] = {0, 0};
    for (int tile = group.warp(); tile * kTileReceivers < layer.width; tile += p.plan.warps) {
        Sums sums{};
        if (tile < p.plan.resident[l])
            multiply(sums, group.resident(l) + tile * of_tile, spikes, depth, steps);
        else
            multiply(sums,
                     static_cast<const uint4*>(p.model.layer[l].weights) + int64_t(tile) * of_tile,
                     spikes, depth, steps);
        const int first = tile * kTileReceivers, top = first + group.lane() / 4;
        const float scale[2] = {p.model.layer[l].scale[top], p.model.layer[l].scale[top + 8]};
        float bias[2] = {0.0f, 0.0f};
        if (!kIsDifferential<kind>) bias[0] = layer.bias[top], bias[1] = layer.bias[top + 8];
        Currents current;
        scale_sums(current, sums, scale, bias);
        if (l + 1 < p.model.actor.hidden)
            run_neurons<kind, true>(p, group, span, l, first, current, fired);
        else
            run_neurons<kind, false>(p, group, span, l, first, current, fired);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        for (int offset = 4; offset < kWarp; offset *= 2)
            fired[i] += __shfl_xor_sync(kAllLanes, fired[i], offset);
        if (group.lane() < 4) atomicAdd(group.counts(l) + 2 * group.lane() + i, fired[i]);
    }
}

// The output layer is linear: one product, on the mean. Four lanes share an action of a row.
__device__ void act(const IntegerProblem& p, const Group& group) {
    const ActorModel& model = p.model.actor;
    const int width = model.layer[model.hidden - 1].width;
    const int part = threadIdx.x % kSharing * kNeighbours;
    for (int i = threadIdx.x / kSharing; i < kTileRows * model.actions;
         i += blockDim.x / kSharing) {
        const int row = i % kTileRows, n = i / kTileRows;
        const float* mean = group.mean(row);
        const float* weight = model.output_weight + int64_t(n) * width;
        float z = 0;
#pragma unroll 4
        for (int k = part; k < width; k += kSharing * kNeighbours) {
            const Four one = *reinterpret_cast<const Four*>(mean + k);
            const Four other = *reinterpret_cast<const Four*>(weight + k);
#pragma unroll
            for (int j = 0; j < kNeighbours; ++j) z = fmaf(one.lane[j], other.lane[j], z);
        }
        for (int offset = kSharing / 2; offset; offset /= 2)
            z += __shfl_xor_sync(kAllLanes, z, offset);
        z += model.output_bias[n];
        const float action = scaled_action(z, model.interface, model.interface.action_scale[n],
                                           model.interface.action_bias[n]);
        if (part == 0 && group.has(row)) p.rows.action[group.at(row) * model.actions + n] = action;
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
    if (!loaded) wait_for_weights(p);  // the other groups, which have rows, need this one
}

using Kernel = void (*)(IntegerProblem);

Kernel kernel_of(const ActorModel& model) {
    return with_form(model.kind, false,
                     [](auto form) -> Kernel { return integer_kernel<decltype(form)::kKind>; });
}

constexpr const char* kName = "the integer kernel";

// What a group has for itself, in shared and in scratch memory.
void plan_group(IntegerPlan& plan, const ActorModel& model, int inputs) {
    Places places;
    for (int turn = 0; turn < 2; ++turn) {
        int widest = 0;
        for (int l = turn; l + 1 < model.hidden; l += 2)
            widest = std::max(widest, model.layer[l].width);
        plan.spikes[turn] = places.place(int64_t(widest) * kTileRows * kTileSteps);
    }
    // Whole groups of four inputs, an odd number of them, so that rows begin in different banks.
    plan.observation_width = 4 * (divide_up(inputs, 4) | 1);
    plan.observation = places.place(int64_t(kTileRows) * plan.observation_width * sizeof(float));
    plan.counts = places.place(int64_t(model.hidden) * kTileRows * sizeof(int32_t));
    plan.group_bytes = places.bytes();

    plan.group_floats = kTileRows * model.layer[model.hidden - 1].width;
    if (model.timesteps <= kTileSteps) return;
    for (int l = 0; l < model.hidden; ++l) {
        plan.state[l] = plan.group_floats;
        plan.group_floats += kStateWords * kTileRows * model.layer[l].width;
    }
}

IntegerPlan plan_block(const IntegerModel& all, int64_t batch, int groups, int warps) {
    const ActorModel& model = all.actor;
    IntegerPlan plan{};
    plan.groups = groups;
    plan.warps = warps;
    plan.blocks = std::min(multiprocessors(), divide_up(batch, kTileRows));
    plan_group(plan, model, all.inputs);
    Places places;
    places.place(int64_t(groups) * plan.group_bytes);
    const int64_t most_bytes = most_shared_memory();
    for (int l = 1; l < model.hidden; ++l) {
        const int64_t of_tile = int64_t(model.layer[l - 1].width) * kTileReceivers * kSlices;
        const int64_t left = std::max<int64_t>(most_bytes - places.bytes(), 0);
        plan.resident[l] = std::min<int64_t>(model.layer[l].width / kTileReceivers, left / of_tile);
        plan.weights[l] = places.place(plan.resident[l] * of_tile);
    }
    plan.bytes = places.bytes();
    return plan;
}

}  // namespace

IntegerPlan plan_integers(const IntegerModel& model, int64_t batch, int groups) {
    const int of_block = divide_up(divide_up(batch, kTileRows), multiprocessors());
    if (of_block <= 1) return plan_block(model, batch, 1, 2 * kGroupWarps);  // one has more warps
    const int64_t most_bytes = most_shared_memory();
    groups = std::min(groups ? groups : kMostGroups, of_block);
    IntegerPlan plan = plan_block(model, batch, groups, kGroupWarps);
    while (plan.bytes > most_bytes && --groups > 0)
        plan = plan_block(model, batch, groups, kGroupWarps);
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
