// One decision of a spiking actor, a tile of rows at a time, layer by layer.
//
// A layer is worked off in blocks of neurons whose state stays in registers through all T steps;
// the rows of a tile take turns at a block, whose weights then come from the nearest caches. At
// each step a block adds, for every spike that the layer before sent, that sender's row of weights
// to its currents, updates its neurons, and packs the numbers of those that fired into the list of
// that step, which the next layer reads. A silent neuron costs nothing beyond its own update, and a
// row's result depends on that row alone.
//
// All products are event-driven, whatever the batch: docs/performance.md has the measurements that
// this rests on.

#include "engine.h"
#include "lanes.h"

namespace snnkern {
inline namespace SNNKERN_ARCH {

// Vectors in a block: their potentials, thresholds, counts and currents take four registers each.
constexpr int kBlockVectors = 4;

int64_t engine_block() { return kBlockVectors * kLanes<FloatLanes>; }

namespace {

using V = FloatLanes;
constexpr int64_t L = kLanes<V>;

// Who sent, and how much in units of its θ, at every step; a list per step.
struct Spikes {
    uint16_t* sender;
    float* units;
    int32_t* count;
    int64_t stride;
};

// What a layer receives: numbers that are constant over the steps, spikes, or the currents of every
// step, which something else has computed.
enum class Source { kNumbers, kSpikes, kCurrents };

// A row of a layer during a decision.
struct Row {
    const EngineModel* model;
    const EngineLayer* layer;
    Spikes received, sent;
    const float* currents;  // [T][width], of the first layer, or null
    float* carry;           // [outputs]
    float alpha;
    bool last;  // the last hidden layer: nobody receives its spikes, only its mean
};

// The carry has no padding: the vector that stands over its end is read and written in part.
SNNKERN_INLINE V load_carry(const Row& row, int64_t n) {
    const int64_t left = row.layer->outputs - n;
    if (left >= L) return load<V>(row.carry + n);
    V value{};
    if (left > 0) __builtin_memcpy(&value, row.carry + n, left * sizeof(float));
    return value;
}

SNNKERN_INLINE void store_carry(const Row& row, int64_t n, V value) {
    const int64_t left = row.layer->outputs - n;
    if (left >= L)
        store<V>(row.carry + n, value);
    else if (left > 0)
        __builtin_memcpy(row.carry + n, &value, left * sizeof(float));
}

// Makes the number of a step's spikes even: the row behind the last sender's is 0.
SNNKERN_INLINE void complete(const EngineLayer& receiver, const Spikes& spikes, int64_t step) {
    const int64_t end = step * spikes.stride + spikes.count[step];
    spikes.sender[end] = static_cast<uint16_t>(receiver.inputs);
    spikes.units[end] = 0;
}

template <int kVectors>
struct Block {
    V vector[kVectors];
};

// The currents of the block at n: the bias, where there is one, and the rows of those that sent at
// a step.
template <bool kScaled, int kVectors>
SNNKERN_INLINE Block<kVectors> receive(const EngineLayer& layer, const float* bias,
                                       const Spikes& spikes, int64_t step, int64_t n) {
    Block<kVectors> current;
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) current.vector[i] = bias ? load<V>(bias + n + i * L) : V{};
    const float* weight = layer.weight + (layer.inputs + 1) * n;
    asm("" : "+r"(weight));  // one sum, which the compiler does not take apart again for every row
    const uint16_t* sender = spikes.sender + step * spikes.stride;
    const float* units = spikes.units + step * spikes.stride;
    const int32_t count = spikes.count[step];
    // Two rows at a time: added to each other first, the current waits half as often for itself.
    for (int32_t e = 0; e < count; e += 2) {
        const float* one = weight + size_t(sender[e]) * (kVectors * L);
        const float* other = weight + size_t(sender[e + 1]) * (kVectors * L);
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; ++i) {
            V a = load<V>(one + i * L), b = load<V>(other + i * L);
            if constexpr (kScaled) {
                a = a * units[e];
                b = b * units[e + 1];
            }
            current.vector[i] = current.vector[i] + (a + b);
        }
    }
    return current;
}

// All T steps of the neurons [n, n + kVectors · L) of one row of a layer.
template <Kind kind, bool kTiny, Source source, int kVectors>
__attribute__((noinline)) void run_block(const Row& row, int64_t n) {
    constexpr bool kDifferential = kIsDifferential<kind>;
    const EngineModel& model = *row.model;
    const EngineLayer& layer = *row.layer;
    const float* bias =
        kDifferential ? nullptr
                      : layer.bias;  // DC adds it once, as the mean that its current starts with

    Neuron<kind, V, kTiny> neurons[kVectors];
    V start[kVectors];
    Block<kVectors> current;
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
        const V threshold = load<V>(layer.threshold + n + i * L);
        start[i] = model.parameters.initial_fraction * threshold + load_carry(row, n + i * L);
        neurons[i] = Neuron<kind, V, kTiny>(model.parameters, threshold, start[i],
                                            load<V>(layer.bias + n + i * L));
    }
    if constexpr (source == Source::kNumbers) {
        current = receive<true, kVectors>(layer, bias, row.received, 0, n);
    }
    for (int64_t step = 0; step < model.timesteps; ++step) {
        const Steps<float> t(step + 1);
        if constexpr (source == Source::kSpikes) {
            current = receive<!kIsBinary<kind>, kVectors>(layer, bias, row.received, step, n);
        } else if constexpr (source == Source::kCurrents) {
#pragma GCC unroll 4
            for (int i = 0; i < kVectors; ++i)
                current.vector[i] = load<V>(row.currents + step * layer.width + n + i * L);
        }
        Firing<!kIsBinary<kind>, false> firing(!row.last, row.sent.count[step], n,
                                               row.sent.sender + step * row.sent.stride,
                                               row.sent.units + step * row.sent.stride);
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; ++i) {
            neurons[i].integrate(current.vector[i]);
            const Spike<V> spike = neurons[i].fire(t);
            neurons[i].reset(spike, current.vector[i], t);
            firing.add(i, spike.fires, spike.units);
            if constexpr (source == Source::kNumbers && kDifferential)
                current.vector[i] = V{};  // a constant is coded as x_1, 0, 0, …
        }
        row.sent.count[step] = firing.finish();
    }
    const Steps<float> timesteps(model.timesteps);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
        const int64_t at = n + i * L;
        store_carry(row, at,
                    residual_carry<V>(neurons[i].potential - start[i],
                                      neurons[i].transmitted(timesteps), load_carry(row, at),
                                      neurons[i].threshold, row.alpha, model.parameters));
        if (row.last) store<V>(row.sent.units + at, neurons[i].mean(timesteps));
    }
}

template <Kind kind, bool kTiny, Source source, int kVectors>
void run_blocks(const Row* rows, int64_t count, int64_t n) {
    for (; n + kVectors * L <= rows[0].layer->width; n += kVectors * L)
        for (int64_t r = 0; r < count; ++r) run_block<kind, kTiny, source, kVectors>(rows[r], n);
    if constexpr (kVectors > 1) run_blocks<kind, kTiny, source, kVectors / 2>(rows, count, n);
}

// z = W·mean + b of the block of outputs at n.
template <int kVectors>
SNNKERN_INLINE void read_out(const EngineLayer& layer, const Spikes& means, int64_t n, float* z) {
    for (; n + kVectors * L <= layer.width; n += kVectors * L) {
        const auto sum = receive<true, kVectors>(layer, layer.bias, means, 0, n);
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; ++i) store<V>(z + n + i * L, sum.vector[i]);
    }
    if constexpr (kVectors > 1) read_out<kVectors / 2>(layer, means, n, z);
}

Spikes take_spikes(const EngineModel& model, char*& memory) {
    Spikes spikes;
    spikes.stride = model.widest + kPadding;
    spikes.units = reinterpret_cast<float*>(memory);
    memory += model.timesteps * spikes.stride * sizeof(float);
    spikes.count = reinterpret_cast<int32_t*>(memory);
    memory += model.timesteps * sizeof(int32_t);
    spikes.sender = reinterpret_cast<uint16_t*>(memory);
    memory += (model.timesteps * spikes.stride * sizeof(uint16_t) + 63) / 64 * 64;
    return spikes;
}

// The observation, normalised, as what the first layer receives.
void observe(const EngineModel& model, const float* observation, const Spikes& spikes) {
    const ActorInterface& interface = model.interface;
    const int64_t inputs = model.layers[0].inputs;
    for (int64_t k = 0; k < inputs; ++k) {
        float value = observation[k];
        if (interface.observation_mean) {
            value = (value - interface.observation_mean[k]) / interface.observation_std[k];
            value = value > interface.observation_clip ? interface.observation_clip : value;
            value = value < -interface.observation_clip ? -interface.observation_clip : value;
        }
        spikes.sender[k] = static_cast<uint16_t>(k);
        spikes.units[k] = value;
    }
    spikes.count[0] = static_cast<int32_t>(inputs);
    complete(model.layers[0], spikes, 0);
}

// The spikes of one hidden layer in a tile of rows. Several rows take turns at a block of weights.
template <Kind kind, bool kTiny>
void run_layer(const Row* rows, int64_t count, bool first) {
    const EngineModel& model = *rows[0].model;
    for (int64_t r = 0; r < count; ++r)
        for (int64_t step = 0; step < model.timesteps; ++step) rows[r].sent.count[step] = 0;
    if (!first)
        run_blocks<kind, kTiny, Source::kSpikes, kBlockVectors>(rows, count, 0);
    else if (rows[0].currents)
        run_blocks<kind, kTiny, Source::kCurrents, kBlockVectors>(rows, count, 0);
    else
        run_blocks<kind, kTiny, Source::kNumbers, kBlockVectors>(rows, count, 0);
}

// Makes numbers, such as the mean of a layer, a list of those that are not zero.
void list_numbers(const EngineLayer& receiver, const float* numbers, int64_t width,
                  const Spikes& list) {
    int32_t count = 0;
    for (int64_t n = 0; n < width; n += L) {
        const V number = load<V>(numbers + n);
        const auto speaks =
            Lanes<V>::either(Lanes<V>::greater(number, V{}), Lanes<V>::greater(V{}, number));
        count += compress<true>(speaks, number, static_cast<int32_t>(n), list.sender + count,
                                list.units + count);
    }
    list.count[0] = count;
    complete(receiver, list, 0);
}

// The output layer is linear: one product, on the mean. `z` is memory for its result.
void act(const EngineModel& model, const Spikes& speaking, float* z, float* action) {
    const EngineLayer& output = model.layers[model.hidden];
    read_out<kBlockVectors>(output, speaking, 0, z);
    for (int64_t n = 0; n < output.outputs; ++n) {
        const float squashed = model.interface.squash ? __builtin_tanhf(z[n]) : z[n];
        action[n] = model.interface.action_scale[n] * squashed + model.interface.action_bias[n];
    }
}

// The decisions of the rows [begin, begin + count), at most kMostTileRows of them.
template <Kind kind, bool kTiny>
void run_tile(const EngineModel& model, const EngineRows& all, int64_t begin, int64_t count) {
    Row rows[kMostTileRows];
    char* memory = static_cast<char*>(all.scratch);
    for (int64_t r = 0; r < count; ++r) {
        Row& row = rows[r];
        row.model = &model;
        row.alpha = all.alpha ? all.alpha[begin + r] : model.parameters.alpha;
        row.received = take_spikes(model, memory);
        row.sent = take_spikes(model, memory);
        row.currents = all.currents;
        if (!row.currents)
            observe(model, all.observation + (begin + r) * model.layers[0].inputs, row.received);
    }
    for (int64_t l = 0; l < model.hidden; ++l) {
        const EngineLayer& layer = model.layers[l];
        for (int64_t r = 0; r < count; ++r) {
            rows[r].layer = &layer;
            rows[r].carry = all.carry[l] + (begin + r) * layer.outputs;
            rows[r].last = l == model.hidden - 1;
        }
        run_layer<kind, kTiny>(rows, count, l == 0);
        for (int64_t r = 0; r < count; ++r) {
            int64_t spikes = 0;
            for (int64_t step = 0; step < model.timesteps; ++step) {
                spikes += rows[r].sent.count[step];
                if (!rows[r].last) complete(model.layers[l + 1], rows[r].sent, step);
            }
            all.counts[l * all.batch + begin + r] = spikes;
            const Spikes next = rows[r].sent;
            rows[r].sent = rows[r].received;
            rows[r].received = next;
        }
    }
    const EngineLayer& output = model.layers[model.hidden];
    for (int64_t r = 0; r < count; ++r) {
        const Spikes &means = rows[r].received, &list = rows[r].sent;
        float* action = all.action + (begin + r) * output.outputs;
        if (!model
                 .hidden) {  // nothing spikes in front of it: what was observed is what it receives
            act(model, means, list.units, action);
            continue;
        }
        list_numbers(output, means.units, model.layers[model.hidden - 1].width, list);
        act(model, list, means.units, action);
    }
}

template <Kind kind, bool kTiny>
void run_rows(const EngineModel& model, const EngineRows& rows) {
    for (int64_t b = rows.begin; b < rows.end; b += rows.tile) {
        const int64_t left = rows.end - b;
        run_tile<kind, kTiny>(model, rows, b, left < rows.tile ? left : rows.tile);
    }
}

}  // namespace

void run_engine(const EngineModel& model, const EngineRows& rows) {
    with_form(model.kind, model.tiny, [&](auto form) {
        run_rows<decltype(form)::kKind, decltype(form)::kTiny>(model, rows);
    });
}

}  // namespace SNNKERN_ARCH
}  // namespace snnkern
