// Convolutional layers of spiking neurons, a row of positions at a time.
//
// A row's currents of all T steps are computed first, then its neurons run through the steps with
// their state in registers, as in engine_kernel.cpp, and pack the numbers of those that fired into
// the lists that the next layer reads. At each step a row's currents are either event-driven, every
// spike adding its patch of weights, or a dense product; `is_dense` says which.

#include "convolution.h"
#include "lanes.h"

namespace snnkern {
inline namespace SNNKERN_ARCH {
namespace {

using V = FloatLanes;
constexpr int64_t L = kLanes<V>;

constexpr int kDenseVectors = 2;  // of out channels, in registers
constexpr int kDenseColumns = 6;  // of positions, which share a load of weights

constexpr int kBlockVectors = 4;  // of neurons, as in engine_kernel.cpp

// From this share of senders on, the dense product takes less time than adding a patch for each:
// measured on processors with AVX2 and AVX-512 (docs/performance.md).
constexpr float kDenseFrom = 0.5f;

// A step's currents of a row are computed densely where many of those that it receives sent.
// Decided from what was sent alone, so the result is the same whatever the number of threads.
bool is_dense(const ConvolutionLayer& layer, int64_t spikes, int64_t rows) {
    return static_cast<float>(spikes) >=
           kDenseFrom * static_cast<float>(rows) * static_cast<float>(layer.in.row());
}

// The rows of inputs that the row y of positions receives: the kernel's [first, end).
struct KernelRows {
    int64_t top, first, end;  // row `ky` of the kernel lies on the row top + ky of inputs
};

SNNKERN_INLINE KernelRows kernel_rows(const ConvolutionLayer& layer, int64_t y) {
    const int64_t top = y * layer.stride_y - layer.padding_y;
    const int64_t below = layer.in.height - top;
    return {top, top < 0 ? -top : 0, below < layer.kernel_y ? below : layer.kernel_y};
}

// Adds the patches of those that sent at a step in one row of inputs to a block of out channels.
// Those in one column add to the same currents, which stay in registers meanwhile: memory would
// make each wait for the one before.
template <bool kScaled, int kColumns, int kVectors>
void add_patches(const ConvolutionLayer& layer, const uint16_t* sender, const float* units,
                 int32_t count, const float* weight, float* current) {
    constexpr int kSums = kColumns * kVectors;
    const Patch* patch_of = layer.patch_of;
    const int64_t step = layer.out.channels;
    for (int32_t e = 0; e < count;) {
        Patch patch = patch_of[sender[e]];
        const uint16_t column = patch.current;
        float* x = current + column;
        V sums[kSums];
#pragma GCC unroll 12
        for (int i = 0; i < kSums; ++i)
            sums[i] = load<V>(x + i / kVectors * step + i % kVectors * L);
        do {
            const float* w = weight + size_t(patch.columns) * (kVectors * L);
            V unit{};
            if constexpr (kScaled) unit = V{} + units[e];
#pragma GCC unroll 12
            for (int i = 0; i < kSums; ++i) {
                const V part = load<V>(w + i * L);
                sums[i] = kScaled ? multiply_add(part, unit, sums[i]) : sums[i] + part;
            }
            if (++e == count) break;
            patch = patch_of[sender[e]];
        } while (patch.current == column);
#pragma GCC unroll 12
        for (int i = 0; i < kSums; ++i)
            store<V>(x + i / kVectors * step + i % kVectors * L, sums[i]);
    }
}

// The same for patches that registers cannot hold.
template <bool kScaled>
void add_wide_patches(const ConvolutionLayer& layer, const uint16_t* sender, const float* units,
                      int32_t count, const float* weight, float* current) {
    for (int32_t e = 0; e < count; ++e) {
        const Patch patch = layer.patch_of[sender[e]];
        const float* w = weight + size_t(patch.columns) * kPadding;
        float* x = current + patch.current;
        V unit{};
        if constexpr (kScaled) unit = V{} + units[e];
        for (int64_t c = 0; c < layer.columns; ++c, w += kPadding, x += layer.out.channels)
            for (int64_t v = 0; v < kPadding; v += L) {
                const V part = load<V>(w + v), before = load<V>(x + v);
                store<V>(x + v, kScaled ? multiply_add(part, unit, before) : before + part);
            }
    }
}

// Sums of a patch that registers hold beside a weight.
constexpr int kMostSums = 12;

using AddPatches = void (*)(const ConvolutionLayer&, const uint16_t*, const float*, int32_t,
                            const float*, float*);

// What adds the patches of a layer, whose number of out channels `patch_block` has chosen.
template <bool kScaled>
AddPatches patch_adder(const ConvolutionLayer& layer) {
    constexpr int kOne = kPadding / L, kTwo = 2 * kOne;
    const bool wide = layer.block == 2 * kPadding;
    switch (layer.columns) {
        case 1:
            return wide ? add_patches<kScaled, 1, kTwo> : add_patches<kScaled, 1, kOne>;
        case 2:
            return wide ? add_patches<kScaled, 2, kTwo> : add_patches<kScaled, 2, kOne>;
        case 3:
            return wide ? add_patches<kScaled, 3, kTwo> : add_patches<kScaled, 3, kOne>;
        case 4:
            if constexpr (4 * kOne <= kMostSums)
                return wide ? add_patches<kScaled, 4, kTwo> : add_patches<kScaled, 4, kOne>;
    }
    return add_wide_patches<kScaled>;
}

// The dense product for the columns [x, x + kColumns) of a row and a block of out channels at n.
template <int kColumns>
SNNKERN_INLINE void dense_columns(const ConvolutionLayer& layer, const KernelRows& rows,
                                  const float* inputs, const float* bias, int64_t x, int64_t n,
                                  float* current) {
    V sums[kColumns][kDenseVectors];
    const int64_t channels = layer.out.channels;
    for (int v = 0; v < kDenseVectors; ++v) {
        V start{};
        const int64_t left = channels - n - v * L;
        if (bias && left >= L)
            start = load<V>(bias + n + v * L);
        else if (bias && left > 0)
            __builtin_memcpy(&start, bias + n + v * L, left * sizeof(float));
        for (int c = 0; c < kColumns; ++c) sums[c][v] = start;
    }
    const int64_t stride = input_stride(layer), step = layer.column_step;
    for (int64_t ky = rows.first; ky < rows.end; ++ky) {
        const float* weight =
            layer.dense + n * layer.kernel_y * layer.taps + ky * layer.taps * kDenseVectors * L;
        const float* row = inputs + ky * stride + x * step;
        for (int64_t tap = 0; tap < layer.taps; ++tap, weight += kDenseVectors * L) {
            const float* from = row + layer.tap[tap];
            V w[kDenseVectors];
#pragma GCC unroll 2
            for (int v = 0; v < kDenseVectors; ++v) w[v] = load<V>(weight + v * L);
#pragma GCC unroll 6
            for (int c = 0; c < kColumns; ++c) {
                const V input = V{} + from[c * step];
#pragma GCC unroll 2
                for (int v = 0; v < kDenseVectors; ++v)
                    sums[c][v] = multiply_add(input, w[v], sums[c][v]);
            }
        }
    }
    for (int c = 0; c < kColumns; ++c)
        for (int v = 0; v < kDenseVectors; ++v) {
            const int64_t at = n + v * L;
            float* to = current + (x + c) * channels + at;
            if (channels - at >= L)
                store<V>(to, sums[c][v]);
            else if (channels > at)
                __builtin_memcpy(to, &sums[c][v], (channels - at) * sizeof(float));
        }
}

// The currents of a row of positions from rows of inputs.
void multiply(const ConvolutionLayer& layer, const KernelRows& rows, const float* inputs,
              const float* bias, float* current) {
    const int64_t width = layer.out.width;
    for (int64_t n = 0; n < layer.out.channels; n += kDenseVectors * L) {
        int64_t x = 0;
        for (; x + kDenseColumns <= width; x += kDenseColumns)
            dense_columns<kDenseColumns>(layer, rows, inputs, bias, x, n, current);
        // What is left of a row is computed with some of those before it, once more.
        if (x < width && width >= kDenseColumns)
            dense_columns<kDenseColumns>(layer, rows, inputs, bias, width - kDenseColumns, n,
                                         current);
        else
            for (; x < width; ++x) dense_columns<1>(layer, rows, inputs, bias, x, n, current);
    }
}

// A row of pixels of every channel, scaled: [channels][padded width].
template <class T>
SNNKERN_INLINE void scale_pixels(const ConvolutionLayer& layer, const Pixels& pixels, const T* from,
                                 int64_t y, float* to) {
    const int64_t width = layer.in.width, padding = layer.padding_x;
    for (int64_t channel = 0; channel < layer.in.channels; ++channel) {
        const T* row = from + (channel * layer.in.height + y) * width;
        for (int64_t x = 0; x < padding; ++x) *to++ = 0;
        for (int64_t x = 0; x < width; ++x)
            to[x] = static_cast<float>(row[x]) / pixels.scale + pixels.offset;
        to += width;
        for (int64_t x = 0; x < padding; ++x) *to++ = 0;
    }
}

// The rows of pixels under the row y of positions; those that `before` had are moved, not computed
// again.
void look(const ConvolutionTask& task, const KernelRows& rows, const KernelRows* before) {
    const ConvolutionLayer& layer = *task.layer;
    const int64_t stride = input_stride(layer);
    for (int64_t ky = rows.first; ky < rows.end; ++ky) {
        float* to = task.scratch.inputs + ky * stride;
        const int64_t y = rows.top + ky;
        if (before && y >= before->top + before->first && y < before->top + before->end) {
            __builtin_memcpy(to, task.scratch.inputs + (y - before->top) * stride,
                             stride * sizeof(float));
            continue;
        }
        if (task.pixels->bytes)
            scale_pixels(layer, *task.pixels, task.pixels->bytes, y, to);
        else
            scale_pixels(layer, *task.pixels, task.pixels->numbers, y, to);
    }
}

// A row of currents that holds the bias, or nothing.
void start_currents(const ConvolutionLayer& layer, const float* bias, float* current) {
    const int64_t slack = current_slack(layer), row = padded(layer.out.row());
    __builtin_memset(current, 0, slack * sizeof(float));
    if (bias)
        __builtin_memcpy(current + slack, bias, row * sizeof(float));
    else
        __builtin_memset(current + slack, 0, row * sizeof(float));
    __builtin_memset(current + slack + row, 0, slack * sizeof(float));
}

// The currents of a row at one step as a dense product.
template <bool kScaled>
void receive_densely(const ConvolutionTask& task, const KernelRows& rows, const float* bias,
                     int64_t step, float* current) {
    const ConvolutionLayer& layer = *task.layer;
    const SpikeRows& spikes = *task.received;
    const int64_t stride = input_stride(layer);
    for (int64_t ky = rows.first; ky < rows.end; ++ky) {
        const int64_t list = (rows.top + ky) * task.model->timesteps + step;
        float* inputs = task.scratch.inputs + ky * stride;
        __builtin_memset(inputs, 0, stride * sizeof(float));
        inputs += layer.padding_x * layer.in.channels;
        for (int32_t e = 0; e < spikes.count[list]; ++e)
            inputs[spikes.sender[list * spikes.stride + e]] =
                kScaled ? spikes.units[list * spikes.stride + e] : 1.0f;
    }
    multiply(layer, rows, task.scratch.inputs, bias, current + current_slack(layer));
}

// The currents of a row at all steps, from the spikes of the layer before.
template <bool kScaled>
void receive(const ConvolutionTask& task, const KernelRows& rows, const float* bias) {
    const ConvolutionLayer& layer = *task.layer;
    const SpikeRows& spikes = *task.received;
    const int64_t steps = task.model->timesteps, stride = current_stride(layer);
    const auto dense = [&](int64_t step) {
        int64_t count = 0;
        for (int64_t ky = rows.first; ky < rows.end; ++ky)
            count += spikes.count[(rows.top + ky) * steps + step];
        return is_dense(layer, count, rows.end - rows.first);
    };
    for (int64_t step = 0; step < steps; ++step) {
        float* current = task.scratch.currents + step * stride;
        if (dense(step))
            receive_densely<kScaled>(task, rows, bias, step, current);
        else
            start_currents(layer, bias, current);
    }
    // Some steps take turns at the weights of a row of the kernel, which the nearest cache holds
    // beside their currents.
    constexpr int64_t kSteps = 2;
    const auto add = patch_adder<kScaled>(layer);
    for (int64_t n = 0; n < layer.out.channels; n += layer.block)
        for (int64_t begin = 0; begin < steps; begin += kSteps)
            for (int64_t ky = rows.first; ky < rows.end; ++ky)
                for (int64_t step = begin; step < begin + kSteps && step < steps; ++step) {
                    if (dense(step)) continue;
                    const int64_t list = (rows.top + ky) * steps + step;
                    add(layer, spikes.sender + list * spikes.stride,
                        kScaled ? spikes.units + list * spikes.stride : nullptr, spikes.count[list],
                        layer.patches + (n * layer.kernel_y + ky * layer.block) * layer.row_columns,
                        task.scratch.currents + step * stride + n);
                }
}

// Rows of memory without padding, such as the carry's: the vector over their end is partly theirs.
SNNKERN_INLINE V load_part(const float* from, int64_t left) {
    if (left >= L) return load<V>(from);
    V value{};
    if (left > 0) __builtin_memcpy(&value, from, left * sizeof(float));
    return value;
}

SNNKERN_INLINE void store_part(float* to, int64_t left, V value) {
    if (left >= L)
        store<V>(to, value);
    else if (left > 0)
        __builtin_memcpy(to, &value, left * sizeof(float));
}

// All T steps of kVectors vectors of neurons at n of the row y. Returns how many spikes they sent.
template <Kind kind, bool kTiny, bool kFirst, bool kUnits, int kVectors>
__attribute__((noinline)) int64_t run_block(const ConvolutionTask& task, int64_t y, int64_t n) {
    constexpr bool kDifferential = kIsDifferential<kind>;
    const EngineModel& model = *task.model;
    const ConvolutionLayer& layer = *task.layer;
    const int64_t row = layer.out.row();
    const float* thresholds = layer.threshold + y * layer.threshold_stride + n;
    float* carry = task.carry + y * row + n;

    Neuron<kind, V, kTiny> neurons[kVectors];
    V start[kVectors], current[kVectors];
    const float* currents = task.scratch.currents + current_slack(layer) + n;
    const int64_t stride = current_stride(layer);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
        const V threshold = load<V>(thresholds + i * L);
        start[i] = model.parameters.initial_fraction * threshold +
                   load_part(carry + i * L, row - n - i * L);
        neurons[i] = Neuron<kind, V, kTiny>(model.parameters, threshold, start[i],
                                            load<V>(layer.bias + n + i * L));
        current[i] = load<V>(currents + i * L);
    }
    // Copies, which no store can change: they stay in registers.
    const bool sends = task.sent, values = task.sent_values;
    const SpikeRows sent = sends ? *task.sent : SpikeRows{};
    const int64_t timesteps = model.timesteps;
    int64_t fired = 0;
    for (int64_t step = 0; step < timesteps; ++step) {
        const Steps<float> t(step + 1);
        const int64_t list = y * timesteps + step;
        int32_t count = sends ? sent.count[list] : 0;
        uint16_t* sender = sent.sender + list * sent.stride;
        float* units = kUnits ? sent.units + list * sent.stride : nullptr;
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; ++i) {
            if constexpr (!kFirst) current[i] = load<V>(currents + step * stride + i * L);
            neurons[i].integrate(current[i]);
            const Spike<V> spike = neurons[i].fire(t);
            neurons[i].reset(spike, current[i], t);
            if (sends)
                count += compress<kUnits>(spike.fires, values ? spike.value : spike.units,
                                          static_cast<int32_t>(n + i * L), sender + count,
                                          units + count);
            else
                fired += __builtin_popcount(bits(spike.fires));
            if constexpr (kFirst && kDifferential)
                current[i] = V{};  // a constant is coded as x_1, 0, 0, …
        }
        if (sends) sent.count[list] = count;
    }
    const Steps<float> decision(timesteps);
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
        const int64_t left = row - n - i * L;
        store_part(
            carry + i * L, left,
            residual_carry<V>(neurons[i].potential - start[i], neurons[i].transmitted(decision),
                              load_part(carry + i * L, left), neurons[i].threshold, task.alpha,
                              model.parameters));
        if (task.mean) store_part(task.mean + y * row + n + i * L, left, neurons[i].mean(decision));
    }
    return fired;
}

template <Kind kind, bool kTiny, bool kFirst, bool kUnits, int kVectors>
int64_t run_blocks(const ConvolutionTask& task, int64_t y, int64_t n) {
    int64_t fired = 0;
    for (; n + kVectors * L <= padded(task.layer->out.row()); n += kVectors * L)
        fired += run_block<kind, kTiny, kFirst, kUnits, kVectors>(task, y, n);
    if constexpr (kVectors > 1)
        fired += run_blocks<kind, kTiny, kFirst, kUnits, kVectors / 2>(task, y, n);
    return fired;
}

// The neurons of the row y, all T steps.
template <Kind kind, bool kTiny, bool kFirst>
int64_t run_neurons(const ConvolutionTask& task, int64_t y) {
    if constexpr (kIsBinary<kind>)
        if (!task.sent_units)
            return run_blocks<kind, kTiny, kFirst, false, kBlockVectors>(task, y, 0);
    return run_blocks<kind, kTiny, kFirst, true, kBlockVectors>(task, y, 0);
}

template <Kind kind, bool kTiny>
int64_t run_rows(const ConvolutionTask& task) {
    const ConvolutionLayer& layer = *task.layer;
    const int64_t steps = task.model->timesteps;
    // DC adds its bias once, as the mean that its current starts with.
    const float* bias = kIsDifferential<kind> ? nullptr : layer.bias;
    int64_t fired = 0;
    KernelRows before{};
    for (int64_t y = task.begin; y < task.end; ++y) {
        if (task.sent)
            for (int64_t step = 0; step < steps; ++step) task.sent->count[y * steps + step] = 0;
        const KernelRows rows = kernel_rows(layer, y);
        if (task.pixels) {
            look(task, rows, y > task.begin ? &before : nullptr);
            before = rows;
            multiply(layer, rows, task.scratch.inputs, bias,
                     task.scratch.currents + current_slack(layer));
            fired += run_neurons<kind, kTiny, true>(task, y);
        } else {
            task.received_units ? receive<true>(task, rows, bias)
                                : receive<false>(task, rows, bias);
            fired += run_neurons<kind, kTiny, false>(task, y);
        }
        if (task.sent)
            for (int64_t step = 0; step < steps; ++step)
                fired += task.sent->count[y * steps + step];
    }
    return fired;
}

// Of a sender's row of weights, so many are fetched ahead of their use.
constexpr int64_t kFetched = 8 * kPadding;

// Adds the rows of weights of those that sent at a step to kVectors vectors of currents at n.
template <bool kScaled, int kVectors>
SNNKERN_INLINE void add_rows(const uint16_t* sender, const float* units, int32_t count,
                             const float* weight, int64_t width, float* current) {
    V sums[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[v] = load<V>(current + v * L);
    for (int32_t e = 0; e < count; ++e) {
        const float* w = weight + sender[e] * width;
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            V part = load<V>(w + v * L);
            if constexpr (kScaled) part = part * units[e];
            sums[v] = sums[v] + part;
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store<V>(current + v * L, sums[v]);
}

template <bool kScaled>
void gather(const GatherTask& task) {
    const SpikeRows& spikes = *task.received;
    const int64_t width = task.width, row = task.shape.row();
    for (int64_t step = task.begin; step < task.end; ++step) {
        float* current = task.currents + step * width;
        for (int64_t n = 0; n < width; n += L)
            store<V>(current + n, task.bias ? load<V>(task.bias + n) : V{});
    }
    // Rows are the outer loop: those that send at several steps have their weights at hand. What
    // the next row sends is fetched meanwhile, since weights are many and their senders few.
    for (int64_t y = 0; y < task.shape.height; ++y) {
        const float* weight = task.weight + y * row * width;
        for (int64_t step = task.begin; step < task.end; ++step) {
            if (y + 1 < task.shape.height) {
                const int64_t next = (y + 1) * task.timesteps + step;
                const uint16_t* sender = spikes.sender + next * spikes.stride;
                for (int32_t e = 0; e < spikes.count[next]; ++e)
                    for (int64_t n = 0; n < width && n < kFetched; n += kPadding)
                        __builtin_prefetch(weight + (row + sender[e]) * width + n);
            }
            float* current = task.currents + step * width;
            const int64_t list = y * task.timesteps + step;
            const uint16_t* sender = spikes.sender + list * spikes.stride;
            const float* units = kScaled ? spikes.units + list * spikes.stride : nullptr;
            const int32_t count = spikes.count[list];
            int64_t n = 0;
            for (; n + 4 * L <= width; n += 4 * L)
                add_rows<kScaled, 4>(sender, units, count, weight + n, width, current + n);
            for (; n < width; n += L)
                add_rows<kScaled, 1>(sender, units, count, weight + n, width, current + n);
        }
    }
}

}  // namespace

int64_t dense_block() { return kDenseVectors * L; }

int64_t patch_block(int64_t columns) {
    return columns <= 4 && columns * 2 * kPadding / L <= kMostSums ? 2 * kPadding : kPadding;
}

int64_t run_convolution(const ConvolutionTask& task) {
    return with_form(task.model->kind, task.model->tiny, [&](auto form) {
        return run_rows<decltype(form)::kKind, decltype(form)::kTiny>(task);
    });
}

void run_gather(const GatherTask& task) {
    task.received_units ? gather<true>(task) : gather<false>(task);
}

}  // namespace SNNKERN_ARCH
}  // namespace snnkern
