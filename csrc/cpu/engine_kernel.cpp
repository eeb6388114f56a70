// One decision of a spiking actor, a row at a time, layer by layer.
//
// A layer is worked off in blocks of neurons whose state stays in registers through all T steps. At
// each step a block adds, for every spike that the layer before sent, that sender's row of weights
// to its currents, updates its neurons, and packs the numbers of those that fired into the list of
// that step, which the next layer reads. A silent neuron costs nothing beyond its own update, and a
// row's result depends on that row alone.

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

// A row of a layer during a decision.
struct Row {
    const EngineModel& model;
    const EngineLayer& layer;
    const Spikes& received;
    Spikes& sent;
    float* carry;  // [outputs]
    bool last;     // the last hidden layer: nobody receives its spikes, only its mean
};

// The carry has no padding: the vector that stands over its end is read and written in part.
SNNKERN_INLINE V load_carry(const Row& row, int64_t n) {
    const int64_t left = row.layer.outputs - n;
    if (left >= L) return load<V>(row.carry + n);
    V value{};
    if (left > 0) __builtin_memcpy(&value, row.carry + n, left * sizeof(float));
    return value;
}

SNNKERN_INLINE void store_carry(const Row& row, int64_t n, V value) {
    const int64_t left = row.layer.outputs - n;
    if (left >= L)
        store<V>(row.carry + n, value);
    else if (left > 0)
        __builtin_memcpy(row.carry + n, &value, left * sizeof(float));
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
    const float* weight = layer.weight + layer.inputs * n;
    const uint16_t* sender = spikes.sender + step * spikes.stride;
    const float* units = spikes.units + step * spikes.stride;
    const int32_t count = spikes.count[step];
    for (int32_t e = 0; e < count; ++e) {
        const float* row = weight + int64_t(sender[e]) * (kVectors * L);
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; ++i) {
            if constexpr (kScaled)
                current.vector[i] = current.vector[i] + load<V>(row + i * L) * units[e];
            else
                current.vector[i] = current.vector[i] + load<V>(row + i * L);
        }
    }
    return current;
}

// All T steps of the neurons [n, n + kVectors · L) of one row of a layer. The first layer's current
// is constant.
template <Kind kind, bool kTiny, bool kFirst, int kVectors>
SNNKERN_INLINE void run_block(const Row& row, int64_t n) {
    constexpr bool kDifferential = kind == Kind::DC;
    const EngineModel& model = row.model;
    const EngineLayer& layer = row.layer;
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
    if constexpr (kFirst) {
        current = receive<true, kVectors>(layer, bias, row.received, 0, n);
    }
    for (int64_t step = 0; step < model.timesteps; ++step) {
        const float t = static_cast<float>(step + 1);
        if constexpr (!kFirst) {
            current = receive<kind != Kind::IF, kVectors>(layer, bias, row.received, step, n);
        }
        int32_t count = row.sent.count[step];
        uint16_t* sender = row.sent.sender + step * row.sent.stride;
        float* units = row.sent.units + step * row.sent.stride;
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; ++i) {
            neurons[i].integrate(current.vector[i]);
            const Spike<V> spike = neurons[i].fire(t);
            neurons[i].reset(spike, current.vector[i], t);
            if (row.last)
                count += __builtin_popcount(nonzero(spike.units));
            else
                count += compress_nonzero<kind != Kind::IF>(
                    spike.units, static_cast<int32_t>(n + i * L), sender + count, units + count);
            if constexpr (kFirst && kDifferential)
                current.vector[i] = V{};  // a constant is coded as x_1, 0, 0, …
        }
        row.sent.count[step] = count;
    }
    const float timesteps = static_cast<float>(model.timesteps);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
        const int64_t at = n + i * L;
        store_carry(
            row, at,
            residual_carry<V>(neurons[i].potential - start[i], neurons[i].transmitted(timesteps),
                              load_carry(row, at), neurons[i].threshold, model.parameters));
        if (row.last) store<V>(row.sent.units + at, neurons[i].mean(timesteps));
    }
}

template <Kind kind, bool kTiny, bool kFirst, int kVectors>
SNNKERN_INLINE void run_blocks(const Row& row, int64_t n) {
    for (; n + kVectors * L <= row.layer.width; n += kVectors * L)
        run_block<kind, kTiny, kFirst, kVectors>(row, n);
    if constexpr (kVectors > 1) run_blocks<kind, kTiny, kFirst, kVectors / 2>(row, n);
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
void observe(const EngineModel& model, const float* observation, Spikes& spikes) {
    const int64_t inputs = model.layers[0].inputs;
    for (int64_t k = 0; k < inputs; ++k) {
        float value = observation[k];
        if (model.observation_mean) {
            value = (value - model.observation_mean[k]) / model.observation_std[k];
            value = value > model.observation_clip ? model.observation_clip : value;
            value = value < -model.observation_clip ? -model.observation_clip : value;
        }
        spikes.sender[k] = static_cast<uint16_t>(k);
        spikes.units[k] = value;
    }
    spikes.count[0] = static_cast<int32_t>(inputs);
}

template <Kind kind, bool kTiny>
void run_row(const EngineModel& model, const EngineRows& rows, int64_t b) {
    char* memory = static_cast<char*>(rows.scratch);
    Spikes lists[2] = {take_spikes(model, memory), take_spikes(model, memory)};
    observe(model, rows.observation + b * model.layers[0].inputs, lists[0]);
    for (int64_t l = 0; l < model.hidden; ++l) {
        const EngineLayer& layer = model.layers[l];
        Spikes& sent = lists[(l + 1) & 1];
        for (int64_t step = 0; step < model.timesteps; ++step) sent.count[step] = 0;
        const Row row{model,
                      layer,
                      lists[l & 1],
                      sent,
                      rows.carry[l] + b * layer.outputs,
                      l == model.hidden - 1};
        if (l == 0)
            run_blocks<kind, kTiny, true, kBlockVectors>(row, 0);
        else
            run_blocks<kind, kTiny, false, kBlockVectors>(row, 0);
        int64_t count = 0;
        for (int64_t step = 0; step < model.timesteps; ++step) count += sent.count[step];
        rows.counts[l * rows.batch + b] = count;
    }

    // The output layer is linear: one product, on the mean.
    const Spikes& means = lists[model.hidden & 1];
    Spikes& silent_left_out = lists[(model.hidden + 1) & 1];
    int32_t count = 0;
    for (int64_t n = 0; n < model.layers[model.hidden - 1].width; n += L)
        count +=
            compress_nonzero<true>(load<V>(means.units + n), static_cast<int32_t>(n),
                                   silent_left_out.sender + count, silent_left_out.units + count);
    silent_left_out.count[0] = count;
    const EngineLayer& output = model.layers[model.hidden];
    float* z = means.units;
    read_out<kBlockVectors>(output, silent_left_out, 0, z);
    float* action = rows.action + b * output.outputs;
    for (int64_t n = 0; n < output.outputs; ++n) {
        const float squashed = model.squash ? __builtin_tanhf(z[n]) : z[n];
        action[n] = model.action_scale[n] * squashed + model.action_bias[n];
    }
}

template <Kind kind, bool kTiny>
void run_rows(const EngineModel& model, const EngineRows& rows) {
    for (int64_t b = rows.begin; b < rows.end; ++b) run_row<kind, kTiny>(model, rows, b);
}

}  // namespace

void run_engine(const EngineModel& model, const EngineRows& rows) {
    switch (model.kind) {
        case Kind::IF:
            return run_rows<Kind::IF, false>(model, rows);
        case Kind::SNM:
            return run_rows<Kind::SNM, false>(model, rows);
        case Kind::MT:
            return model.tiny ? run_rows<Kind::MT, true>(model, rows)
                              : run_rows<Kind::MT, false>(model, rows);
        case Kind::DC:
            return model.tiny ? run_rows<Kind::DC, true>(model, rows)
                              : run_rows<Kind::DC, false>(model, rows);
    }
}

}  // namespace SNNKERN_ARCH
}  // namespace snnkern
