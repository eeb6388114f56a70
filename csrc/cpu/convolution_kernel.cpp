// Convolutional layers of spiking neurons, a row of positions at a time.
//
// A row's currents of all T steps are computed first, then its neurons run through the steps with
// their state in registers, as in engine_kernel.cpp, and pack the numbers of those that fired into
// the lists that the next layer reads. At each step a row's currents are either event-driven, every
// spike adding its patch of weights, or a dense product; `is_dense` says which.

#include <utility>

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
constexpr float kDenseFrom = 0.7f;

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

// Where the patches of a row of inputs go: their weights in a row of the kernel, and the currents
// of the row of positions that it lies under.
struct PatchRow {
    const float* weight;
    float* current;
};

template <int number>
struct Constant {
    constexpr operator int() const { return number; }
};

// Calls f with 0, 1, … as constants: vectors with such numbers stay in registers.
template <class Function, int... i>
SNNKERN_INLINE void unroll(std::integer_sequence<int, i...>, const Function& f) {
    (f(Constant<i>()), ...);
}

// Adds the patches of one row of inputs to all rows of positions that receive it, in one pass over
// those that sent. From a column to the next, the currents of those that both reach stay in
// registers.
template <bool kScaled, int kRows, int kColumns, int kVectors, bool kOneBlock>
void add_patches(const ConvolutionLayer& layer, const uint16_t* sender, const float* units,
                 int32_t count, const PatchRow* rows) {
    constexpr int kPatch = kColumns * kVectors, kSums = kRows * kPatch;
    constexpr std::make_integer_sequence<int, kSums> all{};
    const int64_t step = kOneBlock ? kVectors * L : layer.out.channels;
    const Patch* patch_of = layer.patch_of;
    const uint16_t* const end = sender + count;
    Patch patch = patch_of[*sender];
    Patch next = patch_of[sender[count > 1]];  // early, so that where it lies is known in time
    const float* weight[kRows];
    float* x[kRows];  // where the sums of the first column stand
    for (int r = 0; r < kRows; ++r) {
        weight[r] = rows[r].weight;
        x[r] = rows[r].current + patch.current;
    }
    V sums[kSums];
    const auto place = [&](int i) {
        return x[i / kPatch] + i % kPatch / kVectors * step + i % kVectors * L;
    };
    const auto move = [&](int64_t distance) {
        unroll(std::make_integer_sequence<int, kRows>(), [&](auto r) {
            x[r] += distance;
            asm("" : "+r"(x[r]));  // all offsets from here are constants, and no address is kept
        });
    };
    unroll(all, [&](auto i) { sums[i] = load<V>(place(i)); });
    for (;;) {
        int64_t distance;
        do {
            int64_t at = int64_t(patch.columns) * (kVectors * L);
            asm("" : "+r"(at));
            distance = int64_t(next.current) - patch.current;
            patch = next;
            next = patch_of[sender + 2 < end ? sender[2] : 0];
            V unit{};
            if constexpr (kScaled) unit = V{} + *units++;
            unroll(all, [&](auto i) {
                const V part = load<V>(weight[i / kPatch] + at + i % kPatch * L);
                sums[i] = kScaled ? multiply_add(part, unit, sums[i]) : sums[i] + part;
            });
            if (++sender == end) {
                unroll(all, [&](auto i) { store<V>(place(i), sums[i]); });
                return;
            }
        } while (distance == 0);
        const bool next_column = distance == step;
        unroll(all, [&](auto i) {
            if (i % kPatch < kVectors || !next_column) store<V>(place(i), sums[i]);
        });
        move(distance);
        unroll(all, [&](auto i) {
            constexpr bool kLast = i % kPatch + kVectors >= kPatch;
            if constexpr (kLast)
                sums[i] = load<V>(place(i));
            else
                sums[i] = next_column ? sums[i + kVectors] : load<V>(place(i));
        });
    }
}

// The same where registers do not hold the sums.
template <bool kScaled>
void add_wide_patches(const ConvolutionLayer& layer, const uint16_t* sender, const float* units,
                      int32_t count, const PatchRow* row) {
    for (int32_t e = 0; e < count; ++e) {
        const Patch patch = layer.patch_of[sender[e]];
        const float* w = row->weight + size_t(patch.columns) * kPadding;
        float* x = row->current + patch.current;
        V unit{};
        if constexpr (kScaled) unit = V{} + units[e];
        for (int64_t c = 0; c < layer.columns; ++c, w += kPadding, x += layer.out.channels)
            for (int64_t v = 0; v < kPadding; v += L) {
                const V part = load<V>(w + v), before = load<V>(x + v);
                store<V>(x + v, kScaled ? multiply_add(part, unit, before) : before + part);
            }
    }
}

// Sums that registers hold beside a weight.
constexpr int kMostSums = kVectorBytes == 64 ? 24 : 12;

using AddPatches = void (*)(const ConvolutionLayer&, const uint16_t*, const float*, int32_t,
                            const PatchRow*);

template <bool kScaled, int kRows, int kColumns>
AddPatches patch_adder(const ConvolutionLayer& layer) {
    constexpr int kOne = kPadding / L, kTwo = 2 * kOne;
    if (layer.block == kPadding) {
        if constexpr (kRows * kColumns * kOne <= kMostSums)
            return add_patches<kScaled, kRows, kColumns, kOne, false>;
    } else if constexpr (kRows * kColumns * kTwo <= kMostSums) {
        return layer.out.channels == layer.block
                   ? add_patches<kScaled, kRows, kColumns, kTwo, true>
                   : add_patches<kScaled, kRows, kColumns, kTwo, false>;
    }
    return nullptr;
}

template <bool kScaled, int kRows>
AddPatches patch_adder(const ConvolutionLayer& layer) {
    switch (layer.columns) {
        case 1:
            return patch_adder<kScaled, kRows, 1>(layer);
        case 2:
            return patch_adder<kScaled, kRows, 2>(layer);
        case 3:
            return patch_adder<kScaled, kRows, 3>(layer);
        case 4:
            return patch_adder<kScaled, kRows, 4>(layer);
    }
    return nullptr;
}

// What adds the patches of a layer, whose number of out channels `patch_block` has chosen, to so
// many rows at once; null where registers are too few, unless it is one row.
template <bool kScaled>
AddPatches patch_adder(const ConvolutionLayer& layer, int64_t rows) {
    AddPatches found = nullptr;
    if (rows == 1) found = patch_adder<kScaled, 1>(layer);
    if (rows == 2) found = patch_adder<kScaled, 2>(layer);
    if (rows == 3) found = patch_adder<kScaled, 3>(layer);
    return found || rows != 1 ? found : add_wide_patches<kScaled>;
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

// The currents of rows of positions, from the spikes of the layer before. A row of inputs is added
// to all rows of positions that receive it, so each of these is open from its first to its last.
template <bool kScaled>
class Receiver {
  public:
    Receiver(const ConvolutionTask& task, const float* bias)
        : task_(task),
          layer_(*task.layer),
          spikes_(*task.received),
          bias_(bias),
          steps_(task.model->timesteps),
          stride_(current_stride(layer_)),
          open_(task.begin),
          one_(patch_adder<kScaled>(layer_, 1)) {}

    // Adds what is left until the currents of the row y are whole, and returns them.
    float* row(int64_t y) {
        const KernelRows rows = kernel_rows(layer_, y);
        if (next_ < rows.top + rows.first) next_ = rows.top + rows.first;
        for (; next_ < rows.top + rows.end; ++next_) {
            open(next_);
            add(y, next_);
        }
        if (open_ == y) start(open_++);  // it receives nothing
        return currents(y);
    }

  private:
    float* currents(int64_t y) const {
        return task_.scratch.currents + y % open_rows(layer_) * steps_ * stride_;
    }

    // Starts the rows of positions that receive a row of inputs first.
    void open(int64_t input) {
        for (; open_ < task_.end; ++open_) {
            const KernelRows rows = kernel_rows(layer_, open_);
            if (rows.top + rows.first > input) break;
            start(open_);
        }
    }

    void start(int64_t y) {
        const KernelRows rows = kernel_rows(layer_, y);
        for (int64_t step = 0; step < steps_; ++step) {
            float* current = currents(y) + step * stride_;
            if (dense(rows, step)) {
                receive_densely<kScaled>(task_, rows, bias_, step, current);
                any_dense_ = true;
            } else {
                start_currents(layer_, bias_, current);
            }
        }
    }

    bool dense(const KernelRows& rows, int64_t step) const {
        int64_t count = 0;
        for (int64_t ky = rows.first; ky < rows.end; ++ky)
            count += spikes_.count[(rows.top + ky) * steps_ + step];
        return is_dense(layer_, count, rows.end - rows.first);
    }

    // Adds a row of inputs to the open rows: those from y on, which all receive it.
    void add(int64_t y, int64_t input) {
        for (int64_t n = 0; n < layer_.out.channels; n += layer_.block)
            for (int64_t first = y; first < open_; first += kMostRows) {
                const int64_t count = open_ - first < kMostRows ? open_ - first : kMostRows;
                PatchRow rows[kMostRows];
                for (int64_t i = 0; i < count; ++i) {
                    const int64_t ky = input - kernel_rows(layer_, first + i).top;
                    const int64_t weight = n * layer_.kernel_y + ky * layer_.block;
                    rows[i] = {layer_.patches + weight * layer_.row_columns,
                               currents(first + i) + n};
                }
                add(rows, count, first, input);
            }
    }

    void add(PatchRow* rows, int64_t count, int64_t first, int64_t input) {
        const AddPatches all = patch_adder<kScaled>(layer_, count);
        for (int64_t step = 0; step < steps_; ++step) {
            const int64_t list = input * steps_ + step;
            const uint16_t* sender = spikes_.sender + list * spikes_.stride;
            const float* units = kScaled ? spikes_.units + list * spikes_.stride : nullptr;
            const int32_t sent = spikes_.count[list];
            if (sent && all && !any_dense_)
                all(layer_, sender, units, sent, rows);
            else if (sent)
                for (int64_t i = 0; i < count; ++i)
                    if (!dense(kernel_rows(layer_, first + i), step))
                        one_(layer_, sender, units, sent, rows + i);
            for (int64_t i = 0; i < count; ++i) rows[i].current += stride_;
        }
    }

    static constexpr int64_t kMostRows = 3;

    const ConvolutionTask& task_;
    const ConvolutionLayer& layer_;
    const SpikeRows& spikes_;
    const float* bias_;
    const int64_t steps_, stride_;
    int64_t open_, next_ = 0;
    bool any_dense_ = false;  // rows so far
    const AddPatches one_;
};

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
__attribute__((noinline)) int64_t run_block(const ConvolutionTask& task, const float* row_currents,
                                            int64_t y, int64_t n) {
    constexpr bool kDifferential = kIsDifferential<kind>;
    const EngineModel& model = *task.model;
    const ConvolutionLayer& layer = *task.layer;
    const int64_t row = layer.out.row();
    const float* thresholds = layer.threshold + y * layer.threshold_stride + n;
    float* carry = task.carry + y * row + n;

    Neuron<kind, V, kTiny> neurons[kVectors];
    V start[kVectors], current[kVectors];
    const float* currents = row_currents + current_slack(layer) + n;
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
        // Of spikes that say no more than that they are there, 2 to 5 % (docs/performance.md).
        Firing<kUnits, !kUnits> firing(sends, sends ? sent.count[list] : 0, n,
                                       sent.sender + list * sent.stride,
                                       kUnits ? sent.units + list * sent.stride : nullptr);
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; ++i) {
            if constexpr (!kFirst) current[i] = load<V>(currents + step * stride + i * L);
            neurons[i].integrate(current[i]);
            const Spike<V> spike = neurons[i].fire(t);
            neurons[i].reset(spike, current[i], t);
            firing.add(i, spike.fires, values ? spike.value : spike.units);
            if constexpr (kFirst && kDifferential)
                current[i] = V{};  // a constant is coded as x_1, 0, 0, …
        }
        if (sends)
            sent.count[list] = firing.finish();
        else
            fired += firing.finish();
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
int64_t run_blocks(const ConvolutionTask& task, const float* currents, int64_t y, int64_t n) {
    int64_t fired = 0;
    for (; n + kVectors * L <= padded(task.layer->out.row()); n += kVectors * L)
        fired += run_block<kind, kTiny, kFirst, kUnits, kVectors>(task, currents, y, n);
    if constexpr (kVectors > 1)
        fired += run_blocks<kind, kTiny, kFirst, kUnits, kVectors / 2>(task, currents, y, n);
    return fired;
}

// The neurons of the row y, all T steps.
template <Kind kind, bool kTiny, bool kFirst>
int64_t run_neurons(const ConvolutionTask& task, const float* currents, int64_t y) {
    if constexpr (kIsBinary<kind>)
        if (!task.sent_units)
            return run_blocks<kind, kTiny, kFirst, false, kBlockVectors>(task, currents, y, 0);
    return run_blocks<kind, kTiny, kFirst, true, kBlockVectors>(task, currents, y, 0);
}

// The rows of a layer, whose currents `currents_of` a row gives, in ascending order.
template <Kind kind, bool kTiny, bool kFirst, class Currents>
int64_t run_rows(const ConvolutionTask& task, const Currents& currents_of) {
    const int64_t steps = task.model->timesteps;
    int64_t fired = 0;
    for (int64_t y = task.begin; y < task.end; ++y) {
        if (task.sent)
            for (int64_t step = 0; step < steps; ++step) task.sent->count[y * steps + step] = 0;
        fired += run_neurons<kind, kTiny, kFirst>(task, currents_of(y), y);
        if (task.sent)
            for (int64_t step = 0; step < steps; ++step)
                fired += task.sent->count[y * steps + step];
    }
    return fired;
}

template <Kind kind, bool kTiny>
int64_t run_layer(const ConvolutionTask& task) {
    const ConvolutionLayer& layer = *task.layer;
    // DC adds its bias once, as the mean that its current starts with.
    const float* bias = kIsDifferential<kind> ? nullptr : layer.bias;
    if (task.pixels) {
        KernelRows before{};
        return run_rows<kind, kTiny, true>(task, [&](int64_t y) {
            const KernelRows rows = kernel_rows(layer, y);
            look(task, rows, y > task.begin ? &before : nullptr);
            before = rows;
            multiply(layer, rows, task.scratch.inputs, bias,
                     task.scratch.currents + current_slack(layer));
            return task.scratch.currents;
        });
    }
    const auto receive = [&](auto receiver) {
        return run_rows<kind, kTiny, false>(task, [&](int64_t y) { return receiver.row(y); });
    };
    return task.received_units ? receive(Receiver<true>(task, bias))
                               : receive(Receiver<false>(task, bias));
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
        return run_layer<decltype(form)::kKind, decltype(form)::kTiny>(task);
    });
}

void run_gather(const GatherTask& task) {
    task.received_units ? gather<true>(task) : gather<false>(task);
}

}  // namespace SNNKERN_ARCH
}  // namespace snnkern
