// One decision of a spiking actor for many rows, currents between hidden layers summed as integers.
//
// With the sender's θ in the weights, a spike is a small integer times 2^-(L-1), and a weight, in
// units of a power of two, an integer of three int8 digits. So tensor cores sum currents exactly,
// in whatever order. The digits stay in shared memory as far as they fit. A group of warps takes a
// tile of eight rows through all layers: the spikes of eight steps go to shared memory as int8, in
// the order in which a lane multiplies them; a warp's task is 16 receivers of the eight rows, whose
// sums for all eight steps are in registers, and then the neurons' steps run on them. In every
// layer a lane has four neighbours of one row. Groups wait for their own warps only, so one
// multiplies while another runs neurons.

#include <type_traits>

#include "actor_parts.h"
#include "integer.h"
#include "primitives.h"

namespace snnkern {
namespace {

constexpr int kNeighbours = 4;     // neurons of a lane, beside each other
constexpr int kFirstInFlight = 8;  // rows of the first layer's weights that a lane waits for
constexpr int kPair = 2;           // steps that are multiplied together: a product has 16 rows
constexpr int kTilePairs = kTileSteps / kPair;
constexpr int kQuad = kActions;  // lanes that have a row
constexpr int kParts = 8;        // of an action's sum, whatever the warps: so its bits are the same
static_assert(kParts % (2 * kGroupWarps) == 0, "a part belongs to one warp");
constexpr int kCacheLine = 128;  // bytes
constexpr int kFirstShare = 8;   // part of shared memory that the first layer's weights may take,
constexpr int kFirstTiles = 4;   // and tiles of a group for which they do

struct alignas(8) Two {
    float lane[2];
};

static_assert(kMostTimesteps < kTally / 2);

// One of a lane's neurons, during eight steps or fewer. `Steps` is what they are given as.
template <Kind kind, class Steps>
class Cell {
  public:
    using One = std::conditional_t<kind == Kind::SNM, SignedNeuron<float, Steps, kTally>,
                                   Neuron<kind, float, false, Steps>>;
    // Whether what the neuron counts says how often it fires.
    static constexpr bool kTallies = kIsBinary<kind> || kind == Kind::SNM;

    __device__ void begin(const Parameters<float>& p, float threshold, float carry, float bias) {
        neuron_ = One(p, threshold, p.initial_fraction * threshold + carry, bias);
        fired_ = 0;
    }

    // A step with the current `total` times `scale`, a power of two. What it sends, in units of the
    // smallest level, of which θ has `units`, is added to a word as a byte that begins at a bit.
    __device__ void step(float total, float scale, const Steps& t, float units, uint32_t& sent,
                         int bit) {
        integrate(total, scale);
        if constexpr (kIsBinary<kind>) {
            fire_above(neuron_.potential, neuron_.limit, sent, 1u << bit);
        } else if constexpr (kind == Kind::SNM) {
            fire_beyond(neuron_.potential, neuron_.upper, neuron_.lower, neuron_.count, kTally,
                        sent, 1u << bit);
        } else {
            const int32_t before = count();
            const Spike<float> spike = neuron_.fire(t);
            neuron_.reset(spike, total * scale, t);
            if (spike.fires) ++fired_;
            const int32_t level = kIsDifferential<kind> ? static_cast<int32_t>(spike.units * units)
                                                        : count() - before;
            sent |= (static_cast<uint32_t>(level) & 0xffu) << bit;
        }
    }

    // Where a spike is θ or nothing: that there were so many in these steps, from who has counted
    // several neurons at once.
    __device__ void set_fired(int32_t spikes) { neuron_.count = spikes - fired_; }

    // Spikes in these steps.
    __device__ int32_t fired() const { return kTallies ? fired_ + tally() : fired_; }

    __device__ float carry(const Parameters<float>& p, const Steps& timesteps, float before,
                           float alpha) const {
        const float start = p.initial_fraction * neuron_.threshold + before;
        return residual_carry<float>(neuron_.potential - start, neuron_.transmitted(timesteps),
                                     before, neuron_.threshold, alpha, p);
    }
    // What is divided is 0 or a level, so it is not small: θ is not tiny.
    __device__ float mean(const Steps& timesteps) const {
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
    // The neuron's own `integrate`: the product is exact, so it is rounded once, as there.
    __device__ void integrate(float total, float scale) {
        if constexpr (kind == Kind::LIF)
            neuron_.potential = fmaf(total, scale, neuron_.decay * neuron_.potential);
        else if constexpr (kIsDifferential<kind>)
            neuron_.integrate(total * scale);
        else
            neuron_.potential = fmaf(total, scale, neuron_.potential);
    }

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
    __device__ Group(const IntegerProblem& p, float4* shared)
        : p_(p), shared_(reinterpret_cast<char*>(shared)) {
        take(threadIdx.y * p.plan.blocks + blockIdx.x);
    }

    __device__ bool has_tile() const { return tile_ < p_.plan.tiles; }
    __device__ void next_tile() { take(tile_ + stride()); }
    // The rows that the group takes next: where they begin, and how many they are.
    __device__ int64_t next_row() const { return int64_t(tile_ + stride()) * kTileRows; }
    __device__ int next_rows() const {
        const int64_t left = p_.rows.batch - next_row();
        if (left >= kTileRows) return kTileRows;
        return left > 0 ? static_cast<int>(left) : 0;
    }
    // α of the lane's row.
    __device__ float alpha() const { return alpha_; }

    static __device__ int lane() { return threadIdx.x % kWarp; }
    static __device__ int warp() { return threadIdx.x / kWarp; }
    static __device__ int row() { return lane() / 4; }  // of the tile, in all that a lane computes
    static __device__ int barrier() { return 1 + threadIdx.y; }  // 0 is that of the block

    // Where a row has its numbers, of which there are so many.
    __device__ int64_t at(int row, int numbers) const {
        return int64_t(tile_) * (kTileRows * numbers) + row * numbers;
    }
    __device__ bool has(int row) const {
        const int last = p_.plan.tiles - 1;
        return tile_ < last || (tile_ == last && row < p_.plan.last_rows);
    }

    // What a layer has sent: int8 [steps of senders, pairs of steps, lanes, 16], as `multiply`
    // reads it.
    __device__ char* spikes(int layer) const { return own() + p_.plan.spikes[layer & 1]; }
    __device__ float* observation(int row) const {
        return reinterpret_cast<float*>(own() + p_.plan.observation) +
               row * p_.plan.observation_width;
    }
    __device__ int32_t* counts(int layer) const {
        return reinterpret_cast<int32_t*>(own() + p_.plan.counts) + layer * kTileRows;
    }
    __device__ float* first_weights() const {
        return reinterpret_cast<float*>(shared_ + p_.plan.weights[0]);
    }
    __device__ uint4* resident(int layer) const {
        return reinterpret_cast<uint4*>(shared_ + p_.plan.weights[layer]);
    }

    // A part of the sums of a row's actions: what the neurons of every kParts-th task bring.
    __device__ float* outputs(int part, int row) const {
        return reinterpret_cast<float*>(own() + p_.plan.outputs) +
               (part * kTileRows + row) * p_.model.actor.actions;
    }

    // Neurons that wait, in scratch memory.
    __device__ float* state(int layer, int row, int n) const {
        return scratch() + p_.plan.state[layer] + row * p_.model.actor.layer[layer].width + n;
    }

  private:
    __device__ char* own() const { return shared_ + threadIdx.y * p_.plan.group_bytes; }
    __device__ float* scratch() const {
        const int group = blockIdx.x * p_.plan.groups + threadIdx.y;
        return p_.scratch + int64_t(group) * p_.plan.group_floats;
    }
    __device__ int stride() const { return p_.plan.blocks * p_.plan.groups; }
    __device__ void take(int tile) {
        tile_ = tile;
        alpha_ = p_.model.actor.parameters.alpha;
        if (p_.rows.alpha && has(row())) alpha_ = p_.rows.alpha[at(row(), 1)];
    }

    const IntegerProblem& p_;
    char* shared_;
    int32_t tile_;
    float alpha_;
};

// Where the spikes of four neighbouring senders stand in what a layer has sent, those of the first
// pair of steps: as the first operand of products, whose 16 rows are the tile's at one step and at
// the next one. A lane has four senders of a row at both steps, and the four that are 16 further.
__device__ inline int spike_place(int row, int n) {
    const int lane = 4 * row + n % 16 / 4;
    return (n / kStepSenders * kTilePairs * kWarp + lane) * 16 + n / 16 % 2 * 8;
}
constexpr int kSpikesOfPair = 16 * kWarp;  // bytes from a pair of steps to the next

// Begins to copy the weights that stay in shared memory.
__device__ void load_weights(const IntegerProblem& p, const Group& group) {
    const auto copy = [&](const void* from, void* to, int count) {
        for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < count;
             i += p.plan.groups * blockDim.x)
            copy_later(static_cast<uint4*>(to) + i, static_cast<const uint4*>(from) + i);
    };
    const int of_input = kTileReceivers * int(sizeof(float)) / 16;
    copy(p.model.actor.layer[0].weight, group.first_weights(),
         p.plan.resident[0] * p.model.inputs * of_input);
    for (int l = 1; l < p.model.actor.hidden; ++l) {
        const int of_tile = p.model.actor.layer[l - 1].width / kStepSenders * kSlices * kWarp;
        copy(p.model.layer[l].weights, group.resident(l), p.plan.resident[l] * of_tile);
    }
}

// All threads come here once, each group where it first needs the weights.
__device__ void wait_for_weights(const IntegerProblem& p) {
    wait_for_own_copies();
    group_barrier(0, p.plan.groups * blockDim.x);
}

// Asks for the numbers that the group's next tile begins with, so that by then they have come from
// memory.
__device__ void fetch_ahead(const IntegerProblem& p, const Group& group) {
    const auto fetch = [&](const float* values, int numbers) {
        const char* from = reinterpret_cast<const char*>(values + group.next_row() * numbers);
        const int bytes = group.next_rows() * numbers * int(sizeof(float));
        for (int i = threadIdx.x * kCacheLine; i < bytes; i += blockDim.x * kCacheLine)
            prefetch(from + i);
    };
    fetch(p.rows.observation, p.model.actor.layer[0].inputs);
    for (int l = 0; l < p.model.actor.hidden; ++l)
        fetch(p.rows.carry[l], p.model.actor.layer[l].outputs);
}

// The observations, normalised, as what the first layer receives; 0 beyond the last row and input.
__device__ void observe(const IntegerProblem& p, const Group& group) {
    const int inputs = p.model.actor.layer[0].inputs;
    for (int row = group.warp(); row < kTileRows; row += p.plan.warps) {
        for (int k = group.lane(); k < p.model.inputs; k += kWarp) {
            float value = 0;
            if (group.has(row) && k < inputs)
                value = normalised(p.model.actor.interface,
                                   p.rows.observation[group.at(row, inputs) + k], k);
            group.observation(row)[k] = value;
        }
    }
}

// Four numbers that this block reads and writes once: L1, which is small beside so much shared
// memory, is left to what it reads for every tile.
__device__ inline Four load_once(const float* from) {
    const float4 four = __ldcg(reinterpret_cast<const float4*>(from));
    return {four.x, four.y, four.z, four.w};
}
__device__ inline void store_once(float* to, const Four& four) {
    __stcg(reinterpret_cast<float4*>(to),
           make_float4(four.lane[0], four.lane[1], four.lane[2], four.lane[3]));
}

// Reads and writes the carries of a row's neurons, four neighbours at a time.
class Carries {
  public:
    __device__ Carries(const IntegerProblem& p, const Group& group, int l, int row) {
        const int outputs = p.model.actor.layer[l].outputs;
        row_ = p.rows.carry[l] + group.at(row, outputs);
        outputs_ = group.has(row) ? outputs : 0;
        aligned_ = (reinterpret_cast<uintptr_t>(p.rows.carry[l]) | 4 * outputs) % 16 == 0;
    }

    __device__ Four load(int n) const {
        Four values{};
        if (together(n)) return load_once(row_ + n);
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j)
            if (n + j < outputs_) values.lane[j] = row_[n + j];
        return values;
    }
    __device__ void store(int n, const Four& values) const {
        if (together(n)) {
            store_once(row_ + n, values);
            return;
        }
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j)
            if (n + j < outputs_) row_[n + j] = values.lane[j];
    }

  private:
    // Whether all four are there, in 16 bytes.
    __device__ bool together(int n) const { return aligned_ && n + kNeighbours <= outputs_; }

    float* row_;
    int outputs_;  // none where there is no row
    bool aligned_;
};

// Adds `kInputs` products to the constant currents of four neighbours of the first layer, two at a
// time in their order, as the CPU's engine does. Weights of an input are kTileReceivers apart.
template <int kInputs>
__device__ inline void add_inputs(Four& sum, const float* weight, const float* observation) {
    constexpr int kTogether = kInputs % 4 ? 2 : 4;
    using Several = std::conditional_t<kTogether == 4, Four, Two>;
    Four row[kInputs];
    float value[kInputs];
#pragma unroll
    for (int i = 0; i < kInputs; ++i)
        row[i] = *reinterpret_cast<const Four*>(weight + i * kTileReceivers);
#pragma unroll
    for (int i = 0; i < kInputs; i += kTogether) {
        const Several several = *reinterpret_cast<const Several*>(observation + i);
#pragma unroll
        for (int j = 0; j < kTogether; ++j) value[i + j] = several.lane[j];
    }
#pragma unroll
    for (int i = 0; i < kInputs; i += 2) {
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j)
            sum.lane[j] =
                sum.lane[j] + (row[i].lane[j] * value[i] + row[i + 1].lane[j] * value[i + 1]);
    }
}

__device__ inline Four first_current(const IntegerProblem& p, const float* weights,
                                     const float* observation, int n, bool with_bias) {
    const ActorLayer& layer = p.model.actor.layer[0];
    Four sum{};
    if (with_bias) sum = *reinterpret_cast<const Four*>(layer.bias + n);
    const uint32_t tile = n / kTileReceivers, of_tile = p.model.inputs * kTileReceivers;
    const float* weight = weights + tile * of_tile + n % kTileReceivers;
    int left = p.model.inputs;
#pragma unroll 1
    for (; left >= kFirstInFlight; left -= kFirstInFlight) {
        add_inputs<kFirstInFlight>(sum, weight, observation);
        weight += kFirstInFlight * kTileReceivers;
        observation += kFirstInFlight;
    }
#pragma unroll 1
    for (; left > 0; left -= 2) {
        add_inputs<2>(sum, weight, observation);
        weight += 2 * kTileReceivers;
        observation += 2;
    }
    return sum;
}

// Four neighbouring neurons of a lane's row in a layer, during the steps of a tile.
template <Kind kind, class Steps>
class Neighbours {
  public:
    __device__ Neighbours(const IntegerProblem& p, const Group& group, const Span& span, int l)
        : p_(p), group_(group), span_(span), l_(l), carries_(p, group, l, Group::row()) {}

    // Loads what the neurons from n on begin with; they begin when they run.
    __device__ void load(int n) {
        const ActorLayer& layer = p_.model.actor.layer[l_];
        n_ = n;
        threshold_ = *reinterpret_cast<const Four*>(layer.threshold + n);
        if (kIsDifferential<kind>) bias_ = *reinterpret_cast<const Four*>(layer.bias + n);
        carry_ = carries_.load(n);
    }

    // Runs the steps of the tile. `total` gives the currents of a step, in units of `scale`. Spikes
    // go to memory for who receives them.
    template <bool kSends, class Total>
    __device__ void run(const Total& total, const Four& scale) {
        begin();
        const float units = 1 << (p_.model.actor.parameters.levels - 1);
        const int steps = span_.end - span_.begin;
        char* sent = group_.spikes(l_) + spike_place(Group::row(), n_);
#pragma unroll
        for (int pair = 0; pair < kTilePairs; ++pair) {
            if (kPair * pair >= steps) break;
            uint32_t spikes[kPair] = {0, 0};  // in bytes
#pragma unroll
            for (int i = 0; i < kPair; ++i) {
                const int step = kPair * pair + i;
                if (step >= steps) break;
                const Four current = total(step);
                const Steps t(span_.begin + step + 1);
                uint32_t& bytes = kSends ? spikes[i] : sum_;
#pragma unroll
                for (int j = 0; j < kNeighbours; ++j)
                    cell_[j].step(current.lane[j], scale.lane[j], t, units, bytes, 8 * j);
                if (kSends) sum_ += bytes;
            }
            if (kSends)
                *reinterpret_cast<uint2*>(sent + pair * kSpikesOfPair) = {spikes[0], spikes[1]};
        }
    }

    // Puts the carry in its place; neurons that have further steps wait in scratch memory. Returns
    // how often they fired.
    __device__ int finish() {
        int fired = 0;
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j) {
            if constexpr (kIsBinary<kind>) cell_[j].set_fired(sum_ >> 8 * j & 0xffu);
            fired += cell_[j].fired();
        }
        if (!span_.last) {
#pragma unroll
            for (int j = 0; j < kNeighbours; ++j) cell_[j].suspend(state() + j, of_state());
            return fired;
        }
        const Steps timesteps(p_.model.actor.timesteps);
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j)
            carry_.lane[j] = cell_[j].carry(p_.model.actor.parameters, timesteps, carry_.lane[j],
                                            group_.alpha());
        carries_.store(n_, carry_);
        return fired;
    }

    // After `finish`: adds their mean outputs to the task's part of the sums of the row's actions.
    // The lanes of a row take four actions at a time: each multiplies its neurons with all of them,
    // and sums one.
    __device__ void act(int task) const {
        const bool is_first = task < kParts;
        const Steps timesteps(p_.model.actor.timesteps);
        float mean[kNeighbours];
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j) mean[j] = cell_[j].mean(timesteps);
        const ActorModel& model = p_.model.actor;
        const int width = model.layer[l_].width, part = Group::lane() % kQuad;
        const float* weight = model.output_weight + n_;
        float* sums = group_.outputs(task % kParts, Group::row()) + part;
#pragma unroll 1
        for (int first = 0; first < model.actions; first += kQuad) {
            float z[kQuad];
#pragma unroll
            for (int i = 0; i < kQuad; ++i) {
                const Four four = *reinterpret_cast<const Four*>(weight);
                z[i] = mean[0] * four.lane[0];
#pragma unroll
                for (int j = 1; j < kNeighbours; ++j) z[i] = fmaf(mean[j], four.lane[j], z[i]);
                weight += width;
            }
            const float sum = sum_in_quad(z, part);
            if (first + part < model.actions) sums[first] = is_first ? sum : sums[first] + sum;
        }
    }

  private:
    // Of four numbers of each lane of a quad, the sum of the lane's own one over all lanes.
    static __device__ float sum_in_quad(const float (&z)[kQuad], int part) {
        const bool upper = part & 2, odd = part & 1;
        const float even_kept = upper ? z[2] : z[0], odd_kept = upper ? z[3] : z[1];
        const float even = even_kept + __shfl_xor_sync(kAllLanes, upper ? z[0] : z[2], 2);
        const float other = odd_kept + __shfl_xor_sync(kAllLanes, upper ? z[1] : z[3], 2);
        return (odd ? other : even) + __shfl_xor_sync(kAllLanes, odd ? even : other, 1);
    }

    __device__ void begin() {
        sum_ = 0;
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j)
            cell_[j].begin(p_.model.actor.parameters, threshold_.lane[j], carry_.lane[j],
                           bias_.lane[j]);
        if (span_.first) return;
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j) cell_[j].resume(state() + j, of_state());
    }
    __device__ float* state() const { return group_.state(l_, Group::row(), n_); }
    __device__ int of_state() const { return kTileRows * p_.model.actor.layer[l_].width; }

    const IntegerProblem& p_;
    const Group& group_;
    const Span& span_;
    const int l_;
    const Carries carries_;
    int n_;
    Four threshold_, bias_{}, carry_;
    Cell<kind, Steps> cell_[kNeighbours];
    uint32_t sum_;  // of the bytes, where they count spikes
};

// Adds the spikes of a lane to those of its row.
__device__ inline void count_spikes(const Group& group, int l, int fired) {
    for (int offset = 1; offset < 4; offset *= 2)
        fired += __shfl_xor_sync(kAllLanes, fired, offset);
    if (group.lane() % 4 == 0) atomicAdd(group.counts(l) + Group::row(), fired);
}

// The first layer, whose current is constant.
template <Kind kind>
__device__ void run_first_layer(const IntegerProblem& p, const Group& group, const Span& span,
                                bool loaded) {
    const bool is_near = loaded && p.plan.resident[0];
    constexpr bool kDifferential = kIsDifferential<kind>;
    Neighbours<kind, Divisor<float>> neighbours(p, group, span, 0);
    int fired = 0;
    for (int first = group.warp() * kTileReceivers; first < p.model.actor.layer[0].width;
         first += p.plan.warps * kTileReceivers) {
        const int n = first + group.lane() % 4 * kNeighbours;
        neighbours.load(n);  // it comes while the current is computed
        Four x{};
        if (span.first || !kDifferential) {
            const float* observation = group.observation(Group::row());
            const float* far = p.model.actor.layer[0].weight;
            x = is_near ? first_current(p, group.first_weights(), observation, n, !kDifferential)
                        : first_current(p, far, observation, n, !kDifferential);
        }
        // A constant is coded as x_1, 0, 0, …
        const auto total = [&](int step) { return kDifferential && step > 0 ? Four{} : x; };
        neighbours.template run<true>(total, Four{1, 1, 1, 1});
        fired += neighbours.finish();
    }
    count_spikes(group, 0, fired);
}

// A lane's sums of a task: [pairs of steps, slices, pairs of its neighbours, 2 steps · 2 of them].
using Sums = int32_t[kTilePairs][kSlices][2][4];

// The sums of 16 receivers, of what `depth` times 32 senders sent in `kPairs` pairs of steps.
// Weights that are far come past L1.
template <int kPairs, bool kFar = false>
__device__ void multiply(Sums& sums, const uint4* weights, const char* spikes, int depth) {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
        for (int slice = 0; slice < kSlices; ++slice) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[pair][slice][0][i] = sums[pair][slice][1][i] = 0;
        }
    }
    weights += Group::lane();
    const uint4* sent = reinterpret_cast<const uint4*>(spikes) + Group::lane();
    const auto add_senders = [&] {
        uint4 weight[kSlices], spike[kPairs];
#pragma unroll
        for (int slice = 0; slice < kSlices; ++slice) {
            const uint4* four = weights + slice * kWarp;
            weight[slice] = kFar ? __ldcg(four) : *four;
        }
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) spike[pair] = sent[pair * kWarp];
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
            for (int slice = 0; slice < kSlices; ++slice) {
                const uint4& four = weight[slice];
                multiply_add(sums[pair][slice][0], spike[pair], {four.x, four.y});
                multiply_add(sums[pair][slice][1], spike[pair], {four.z, four.w});
            }
        }
        weights += kSlices * kWarp;
        sent += kTilePairs * kWarp;
    };
    add_senders();  // by itself, since products add to what is no register of theirs
#pragma unroll 1
    for (int k = 1; k < depth; ++k) add_senders();
}

// The currents of a lane's neighbours at a step, in units of their scale, from what they start with
// and the sums of their digits: an integer of 32 bits, whatever the parts of it are, is rounded
// once.
__device__ inline Four total_of(const Sums& sums, const int4& start, int step) {
    const uint32_t begun[kNeighbours] = {uint32_t(start.x), uint32_t(start.y), uint32_t(start.z),
                                         uint32_t(start.w)};
    Four total;
#pragma unroll
    for (int j = 0; j < kNeighbours; ++j) {
        const auto digit = [&](int slice) {
            return uint32_t(sums[step / kPair][slice][j / 2][step % kPair * 2 + j % 2]);
        };
        const uint32_t sum = (digit(0) * 256 + digit(1)) * 256 + digit(2) + begun[j];
        total.lane[j] = static_cast<float>(static_cast<int32_t>(sum));
    }
    return total;
}

// A layer that receives spikes, and sends some if it is not the last one.
template <Kind kind>
__device__ void run_layer(const IntegerProblem& p, const Group& group, const Span& span, int l) {
    const ActorLayer& layer = p.model.actor.layer[l];
    const IntegerLayer& digits = p.model.layer[l];
    const int depth = p.model.actor.layer[l - 1].width / kStepSenders;
    const int of_tile = depth * kSlices * kWarp;
    const bool is_short = span.end - span.begin <= kTileSteps / 2;
    const char* spikes = group.spikes(l - 1);
    // A current is 0 or at least a scale, which is not small.
    Neighbours<kind, NormalDivisor<float>> neighbours(p, group, span, l);
    int fired = 0;
    for (int tile = group.warp(); tile * kTileReceivers < layer.width; tile += p.plan.warps) {
        const int n = tile * kTileReceivers + group.lane() % 4 * kNeighbours;
        neighbours.load(n);
        const uint4* far = static_cast<const uint4*>(digits.weights) + int64_t(tile) * of_tile;
        const uint4* near = group.resident(l) + tile * of_tile;
        const bool is_near = tile < p.plan.resident[l];
        Sums sums;  // those of steps that are not there are never looked at
        if (is_short)
            multiply<kTilePairs / 2>(sums, is_near ? near : far, spikes, depth);
        else if (is_near)
            multiply<kTilePairs>(sums, near, spikes, depth);
        else
            multiply<kTilePairs, true>(sums, far, spikes, depth);
        int4 start{};  // where it is 0 anyway, that is known here
        if (!kIsDifferential<kind>) start = *reinterpret_cast<const int4*>(digits.start + n);
        const Four scale = *reinterpret_cast<const Four*>(digits.scale + n);
        const auto total = [&](int step) { return total_of(sums, start, step); };
        if (l + 1 < p.model.actor.hidden) {
            neighbours.template run<true>(total, scale);
        } else {
            neighbours.template run<false>(total, scale);
        }
        fired += neighbours.finish();
        if (l + 1 == p.model.actor.hidden && span.last) neighbours.act(tile);
    }
    count_spikes(group, l, fired);
}

// The output layer is linear: one product, on the mean, which warps have summed in parts.
__device__ void act(const IntegerProblem& p, const Group& group) {
    const ActorModel& model = p.model.actor;
    const int tasks = model.layer[model.hidden - 1].width / kTileReceivers;
    const int parts = min(kParts, tasks);
    for (int i = threadIdx.x; i < kTileRows * model.actions; i += blockDim.x) {
        const int row = i / model.actions, n = i % model.actions;
        float z = 0;
#pragma unroll 1
        for (int part = 0; part < parts; ++part) z += group.outputs(part, row)[n];
        if (group.has(row))
            p.rows.action[group.at(row, model.actions) + n] =
                scaled_action(z + model.output_bias[n], model.interface,
                              model.interface.action_scale[n], model.interface.action_bias[n]);
    }
}

// Writes the tile's counts out, and leaves zeros.
__device__ void write_counts(const IntegerProblem& p, const Group& group) {
    for (int i = threadIdx.x; i < p.model.actor.hidden * kTileRows; i += blockDim.x) {
        const int layer = i / kTileRows, row = i % kTileRows;
        int32_t& count = group.counts(layer)[row];
        if (group.has(row)) p.rows.counts[layer * p.rows.batch + group.at(row, 1)] = count;
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
    for (; group.has_tile(); group.next_tile()) {
        observe(p, group);
        fetch_ahead(p, group);
        group_barrier(group.barrier(), blockDim.x);
        for (int begin = 0; begin < timesteps; begin += kTileSteps) {
            const int end = min(begin + kTileSteps, timesteps);
            const Span span{begin, end, begin == 0, end == timesteps};
            run_first_layer<kind>(p, group, span, loaded);
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
    plan.outputs = places.place(int64_t(kParts) * kTileRows * model.actions * sizeof(float));
    plan.group_bytes = places.bytes();

    plan.group_floats = 0;
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
    plan.tiles = static_cast<int>(divide_up(batch, kTileRows));
    plan.last_rows = static_cast<int32_t>(batch - int64_t(plan.tiles - 1) * kTileRows);
    plan.blocks = std::min(multiprocessors(), plan.tiles);
    plan_group(plan, model, all.inputs);
    Places places;
    places.place(int64_t(groups) * plan.group_bytes);
    const int64_t most_bytes = most_shared_memory();
    // All weights of the first layer, or none of them: where they are few, and groups have enough
    // tiles that read them from there.
    const int tiles = model.layer[0].width / kTileReceivers;
    const int64_t of_first = int64_t(all.inputs) * model.layer[0].width * int64_t(sizeof(float));
    if (of_first <= most_bytes / kFirstShare && places.bytes() + of_first <= most_bytes &&
        plan.tiles >= kFirstTiles * plan.blocks * groups) {
        plan.resident[0] = tiles;
        plan.weights[0] = places.place(of_first);
    }
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
    const int of_block =
        static_cast<int>(divide_up(divide_up(batch, kTileRows), multiprocessors()));
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
