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
constexpr int kSharing = 4;     // lanes that sum an action together,
constexpr int kSharedRows = 2;  // for so many rows

struct alignas(8) Two {
    float lane[2];
};

// SNM's count has the number of its spikes below this unit: a decision has fewer steps than half of
// it (kMostTimesteps).
constexpr int32_t kTally = 1 << 16;
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
    __device__ void next_tile() { take(tile_ + p_.plan.blocks * p_.plan.groups); }
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
        const int group = blockIdx.x * p_.plan.groups + threadIdx.y;
        return p_.scratch + int64_t(group) * p_.plan.group_floats;
    }
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
                                   p.rows.observation[group.at(row, inputs) + k], k);
            group.observation(row)[k] = value;
        }
    }
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
        if (together(n)) return *reinterpret_cast<const Four*>(row_ + n);
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j)
            if (n + j < outputs_) values.lane[j] = row_[n + j];
        return values;
    }
    __device__ void store(int n, const Four& values) const {
        if (together(n)) {
            *reinterpret_cast<Four*>(row_ + n) = values;
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

__device__ inline Four first_current(const IntegerProblem& p, const float* observation, int n,
                                     bool with_bias) {
    const ActorLayer& layer = p.model.actor.layer[0];
    Four sum{};
    if (with_bias) sum = *reinterpret_cast<const Four*>(layer.bias + n);
    const uint32_t tile = n / kTileReceivers, of_tile = p.model.inputs * kTileReceivers;
    const float* weight = layer.weight + tile * of_tile + n % kTileReceivers;
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

    // Puts the carry in its place, and the mean where nobody receives spikes; neurons that have
    // further steps wait in scratch memory. Returns how often they fired.
    template <bool kSends>
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
        if (!kSends) {
            Four mean;
#pragma unroll
            for (int j = 0; j < kNeighbours; ++j) mean.lane[j] = cell_[j].mean(timesteps);
            *reinterpret_cast<Four*>(group_.mean(Group::row()) + n_) = mean;
        }
#pragma unroll
        for (int j = 0; j < kNeighbours; ++j)
            carry_.lane[j] = cell_[j].carry(p_.model.actor.parameters, timesteps, carry_.lane[j],
                                            group_.alpha());
        carries_.store(n_, carry_);
        return fired;
    }

  private:
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
__device__ void run_first_layer(const IntegerProblem& p, const Group& group, const Span& span) {
    constexpr bool kDifferential = kIsDifferential<kind>;
    Neighbours<kind, Divisor<float>> neighbours(p, group, span, 0);
    int fired = 0;
    for (int first = group.warp() * kTileReceivers; first < p.model.actor.layer[0].width;
         first += p.plan.warps * kTileReceivers) {
        const int n = first + group.lane() % 4 * kNeighbours;
        Four x{};
        if (span.first || !kDifferential)
            x = first_current(p, group.observation(Group::row()), n, !kDifferential);
        neighbours.load(n);
        // A constant is coded as x_1, 0, 0, …
        const auto total = [&](int step) { return kDifferential && step > 0 ? Four{} : x; };
        neighbours.template run<true>(total, Four{1, 1, 1, 1});
        fired += neighbours.template finish<true>();
    }
    count_spikes(group, 0, fired);
}

// A lane's sums of a task: [pairs of steps, slices, pairs of its neighbours, 2 steps · 2 of them].
using Sums = int32_t[kTilePairs][kSlices][2][4];

// The sums of 16 receivers, of what `depth` times 32 senders sent in `kPairs` pairs of steps. The
// lowest digit's begin with what each receiver's current does.
template <int kPairs>
__device__ void multiply(Sums& sums, const int4& start, const uint4* weights, const char* spikes,
                         int depth) {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
        for (int slice = 0; slice < kSlices; ++slice) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const bool lowest = slice == kSlices - 1;
                sums[pair][slice][0][i] = lowest ? (i % 2 ? start.y : start.x) : 0;
                sums[pair][slice][1][i] = lowest ? (i % 2 ? start.w : start.z) : 0;
            }
        }
    }
    weights += Group::lane();
    const uint4* sent = reinterpret_cast<const uint4*>(spikes) + Group::lane();
    const auto add_senders = [&] {
        uint4 weight[kSlices], spike[kPairs];
#pragma unroll
        for (int slice = 0; slice < kSlices; ++slice) weight[slice] = weights[slice * kWarp];
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

// The currents of a lane's neighbours at a step, in units of their scale, from the sums of their
// digits: an integer of 32 bits, whatever the parts of it are, is rounded once.
__device__ inline Four total_of(const Sums& sums, int step) {
    Four total;
#pragma unroll
    for (int j = 0; j < kNeighbours; ++j) {
        const auto digit = [&](int slice) {
            return uint32_t(sums[step / kPair][slice][j / 2][step % kPair * 2 + j % 2]);
        };
        const uint32_t sum = (digit(0) * 256 + digit(1)) * 256 + digit(2);
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
        int4 start{};  // where it is 0 anyway, that is known here
        if (!kIsDifferential<kind>) start = *reinterpret_cast<const int4*>(digits.start + n);
        neighbours.load(n);
        const uint4* far = static_cast<const uint4*>(digits.weights) + int64_t(tile) * of_tile;
        const uint4* near = group.resident(l) + tile * of_tile;
        const bool is_near = tile < p.plan.resident[l];
        Sums sums;  // those of steps that are not there are never looked at
        if (is_short)
            multiply<kTilePairs / 2>(sums, start, is_near ? near : far, spikes, depth);
        else if (is_near)
            multiply<kTilePairs>(sums, start, near, spikes, depth);
        else
            multiply<kTilePairs>(sums, start, far, spikes, depth);
        const Four scale = *reinterpret_cast<const Four*>(digits.scale + n);
        const auto total = [&](int step) { return total_of(sums, step); };
        if (l + 1 < p.model.actor.hidden) {
            neighbours.template run<true>(total, scale);
            fired += neighbours.template finish<true>();
        } else {
            neighbours.template run<false>(total, scale);
            fired += neighbours.template finish<false>();
        }
    }
    count_spikes(group, l, fired);
}

// The output layer is linear: one product, on the mean. Four lanes share an action of two rows.
__device__ void act(const IntegerProblem& p, const Group& group) {
    constexpr int kRowPairs = kTileRows / kSharedRows;
    constexpr int kWarpActions = kWarp / kSharing / kRowPairs;
    constexpr int kAtOnce = kActorPadding / kNeighbours;  // of which a width has whole ones
    const ActorModel& model = p.model.actor;
    const int width = model.layer[model.hidden - 1].width;
    const int part = threadIdx.x % kSharing;
    const int filled = (model.actions + kWarpActions - 1) / kWarpActions * kWarpActions;
    for (int i = threadIdx.x / kSharing; i < kRowPairs * filled; i += blockDim.x / kSharing) {
        const int first = i % kRowPairs * kSharedRows;
        const int n = min(i / kRowPairs, model.actions - 1);  // whole warps sum together
        const Four* weight =
            reinterpret_cast<const Four*>(model.output_weight + int64_t(n) * width) + part;
        const Four* mean[kSharedRows];
        for (int row = 0; row < kSharedRows; ++row)
            mean[row] = reinterpret_cast<const Four*>(group.mean(first + row)) + part;
        float z[kSharedRows] = {};
#pragma unroll 1
        for (int left = width / kNeighbours; left > 0; left -= kAtOnce) {
#pragma unroll
            for (int k = 0; k < kAtOnce; k += kSharing) {
                const Four four = weight[k];
#pragma unroll
                for (int row = 0; row < kSharedRows; ++row) {
                    const Four its = mean[row][k];
#pragma unroll
                    for (int j = 0; j < kNeighbours; ++j)
                        z[row] = fmaf(its.lane[j], four.lane[j], z[row]);
                }
            }
            weight += kAtOnce;
            for (int row = 0; row < kSharedRows; ++row) mean[row] += kAtOnce;
        }
#pragma unroll
        for (int row = 0; row < kSharedRows; ++row) {
            for (int offset = kSharing / 2; offset; offset /= 2)
                z[row] += __shfl_xor_sync(kAllLanes, z[row], offset);
        }
        const int row = first + part;  // where part is one of the two
        const float action =
            scaled_action((part ? z[1] : z[0]) + model.output_bias[n], model.interface,
                          model.interface.action_scale[n], model.interface.action_bias[n]);
        if (part < kSharedRows && i < kRowPairs * model.actions && group.has(row))
            p.rows.action[group.at(row, model.actions) + n] = action;
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
    plan.tiles = divide_up(batch, kTileRows);
    plan.last_rows = static_cast<int32_t>(batch - int64_t(plan.tiles - 1) * kTileRows);
    plan.blocks = std::min(multiprocessors(), plan.tiles);
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
