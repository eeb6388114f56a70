// The engine of actors that see images, or have layers that do not spike between those that do. A
// decision has three stages: convolutional layers; a bridge, which works on their mean; and layers
// without positions, which engine_kernel.cpp computes.

#include <pybind11/numpy.h>
#include <sched.h>

#include <cmath>
#include <memory>
#include <string>

#include "convolution.h"
#include "engine_binding.h"
#include "engine_pack.h"
#include "thread_pool.h"

namespace py = pybind11;

namespace snnkern {
namespace {

// What an engine sees as Python gives it: channels, height, width, or the width of a vector alone;
// whether an observation is bytes; what is divided by and added.
using Image = std::tuple<std::vector<int64_t>, bool, double, double>;

// A convolutional layer as Python gives it: out channels; kernel, stride and padding, y and x each;
// addresses of weight [out, in, y, x], bias [out], threshold [out] or [height, width, out]; whether
// it is the latter.
using ConvolutionArguments =
    std::tuple<int64_t, std::array<int64_t, 2>, std::array<int64_t, 2>, std::array<int64_t, 2>,
               uintptr_t, uintptr_t, uintptr_t, bool>;

// A step of a bridge: its kind, inputs, outputs, addresses of weight ([in, out], or [in] of a norm)
// and bias, a norm's ε.
using BridgeArguments = std::tuple<std::string, int64_t, int64_t, uintptr_t, uintptr_t, double>;

struct BridgeStep {
    enum class Kind { kLinear, kNorm, kTanh } kind;
    int64_t inputs, outputs;
    const float *weight, *bias;
    double epsilon;
};

// A layer without weights.
ConvolutionLayer shaped(const ImageShape& in, int64_t channels,
                        const std::array<int64_t, 2>& kernel, const std::array<int64_t, 2>& stride,
                        const std::array<int64_t, 2>& padding) {
    ConvolutionLayer layer{};
    layer.in = in;
    layer.kernel_y = kernel[0], layer.kernel_x = kernel[1];
    layer.stride_y = stride[0], layer.stride_x = stride[1];
    layer.padding_y = padding[0], layer.padding_x = padding[1];
    layer.out = {channels, (in.height + 2 * padding[0] - kernel[0]) / stride[0] + 1,
                 (in.width + 2 * padding[1] - kernel[1]) / stride[1] + 1};
    layer.columns = (kernel[1] + stride[1] - 1) / stride[1];
    layer.block = kernels().patch_block(layer.columns);
    layer.row_columns = stride[1] * in.channels * layer.columns;
    return layer;
}

// Until other members of a team have counted so far: after some microseconds, others may need the
// processor.
void wait_until(const std::atomic<int64_t>& count, int64_t wanted) {
    constexpr int kSpins = 4096;
    for (int spin = 0; count.load(std::memory_order_acquire) < wanted; ++spin) {
        if (spin >= kSpins) sched_yield();
#if defined(SNNKERN_X86)
        __builtin_ia32_pause();
#endif
    }
}

class StagedEngine {
  public:
    StagedEngine(const Dynamics& dynamics, const Image& image,
                 const std::vector<ConvolutionArguments>& convolutions,
                 const std::vector<BridgeArguments>& bridge, const std::vector<ActorLayer>& layers,
                 const InterfaceArguments& interface)
        : gathers_(!convolutions.empty() && bridge.empty() && layers.size() > 1),
          packed_(kernels_, dynamics, received_elsewhere(layers, gathers_), interface) {
        const auto& [observed, bytes, scale, offset] = image;
        observed_ = observed;
        if (observed.size() == 3)
            seen_ = {observed[0], observed[1], observed[2]};
        else
            seen_ = {1, 1, observed.at(0)};
        bytes_ = bytes;
        scale_ = static_cast<float>(scale);
        offset_ = static_cast<float>(offset);
        ImageShape shape = seen_;
        const float* units = nullptr;
        for (const ConvolutionArguments& given : convolutions) {
            convolutions_.push_back(pack(given, shape, units));
            const bool spread = std::get<7>(given);
            values_.push_back(spread);
            // Spikes of neurons with a threshold each carry it; others leave it to the weights.
            units = spread ? nullptr : pointer<const float>(std::get<6>(given));
            shape = convolutions_.back().out;
        }
        values_scaled_ = !is_binary(model_.kind);
        for (const auto& [kind, inputs, outputs, weight, bias, epsilon] : bridge)
            bridge_.push_back({kind == "linear" ? BridgeStep::Kind::kLinear
                               : kind == "norm" ? BridgeStep::Kind::kNorm
                                                : BridgeStep::Kind::kTanh,
                               inputs, outputs,
                               memory_.copy(pointer<const float>(weight),
                                            kind == "linear" ? inputs * outputs : inputs),
                               memory_.copy(pointer<const float>(bias), outputs), epsilon});
        // Spikes go to the first layer without positions directly, unless a bridge takes their
        // mean.
        if (gathers_) set_gather(layers.front(), shape.channels, units);
        outputs_ = model_.layers[model_.hidden].outputs;
        widest_ = std::max<int64_t>(seen_.size(), shape.size());
        for (const BridgeStep& step : bridge_) widest_ = std::max(widest_, step.outputs);
    }

    // As of `Engine`; the carries of convolutional layers are [batch, height, width, channels].
    void bind(int64_t batch, const std::vector<uintptr_t>& carries, uintptr_t counts,
              uintptr_t alpha) {
        const Claim claim(busy_);
        std::vector<float*> addresses;
        for (const uintptr_t carry : carries) addresses.push_back(pointer<float>(carry));
        batch_ = batch;
        carries_ = std::move(addresses);
        counts_ = pointer<int64_t>(counts);
        alpha_ = pointer<const float>(alpha);
        desks_.clear();
    }

    py::object act(const py::handle& given, bool check_finite, int threads) {
        const Claim claim(busy_);
        if (!py::isinstance<py::array>(given)) return py::none();
        const auto array = py::reinterpret_borrow<py::array>(given);
        const auto own = static_cast<int64_t>(observed_.size()), dimensions = array.ndim();
        if (dimensions != own && dimensions != own + 1) return py::none();
        for (int64_t i = 0; i < own; ++i)
            if (array.shape(dimensions - own + i) != observed_[i]) return py::none();
        const int64_t rows = dimensions == own ? 1 : array.shape(0);
        if (rows != batch_ || (array.flags() & kPlain) != kPlain) return py::none();
        const auto* descriptor = py::detail::array_descriptor_proxy(array.dtype().ptr());
        const int type = descriptor->type_num;
        if (type != (bytes_ ? py::detail::npy_api::NPY_UBYTE_ : py::detail::npy_api::NPY_FLOAT_) ||
            (!bytes_ && descriptor->byteorder != '='))
            return py::none();
        if (check_finite && !finite(array.data())) return py::none();
        auto action =
            dimensions == own ? py::array_t<float>(outputs_) : py::array_t<float>({rows, outputs_});
        run(array.data(), action.mutable_data(), threads);
        return std::move(action);
    }

    py::object decide(uintptr_t observation, bool check_finite, int threads) {
        const Claim claim(busy_);
        const void* from = pointer<const void>(observation);
        if (check_finite && !finite(from)) return py::none();
        auto action = py::array_t<float>({batch_, outputs_});
        run(from, action.mutable_data(), threads);
        return std::move(action);
    }

    // Bytes that decisions work in, beside weights and carries.
    int64_t scratch_bytes() {
        const Claim claim(busy_);
        int64_t bytes = 0;
        for (const auto& desk : desks_) bytes += desk->bytes;
        for (const Tools& tools : tools_) bytes += tools.bytes;
        return bytes;
    }

  private:
    // Work that a team shares: its members take parts until none is left. Nobody waits for a member
    // who has taken none, such as one that the system has not woken yet.
    struct Stage {
        std::atomic<int64_t> taken{0}, done{0}, fired{0};

        void clear() { taken = done = fired = 0; }

        template <class Work>
        void share(int64_t size, int64_t part, const Work& work) {
            for (;;) {
                const int64_t begin = taken.fetch_add(part, std::memory_order_relaxed);
                if (begin >= size) break;
                const int64_t end = std::min(begin + part, size);
                fired.fetch_add(work(begin, end), std::memory_order_relaxed);
                done.fetch_add(end - begin, std::memory_order_acq_rel);
            }
            wait_until(done, size);
        }
    };

    // What one decision is worked on with: by a team together, or by a thread of its own.
    struct Desk {
        SpikeRows spikes[2];  // of layers in turn
        float *numbers, *other_numbers, *gathered, *currents;
        void* rest;
        int64_t bytes = 0;
        Memory memory;
        std::unique_ptr<Stage[]> stages;  // [rows of a team][stages_per_row()]
        std::atomic<int64_t> decided{0};  // rows
    };

    // What every thread has for itself.
    struct Tools {
        ConvolutionScratch scratch;
        int64_t bytes = 0;
        Memory memory;
    };

    // The layers, the first without weights where its currents come from positions.
    static std::vector<ActorLayer> received_elsewhere(std::vector<ActorLayer> layers,
                                                      bool gathers) {
        if (gathers) std::get<2>(layers.front()) = 0;
        return layers;
    }

    ConvolutionLayer pack(const ConvolutionArguments& given, const ImageShape& in,
                          const float* units) {
        const auto& [channels, kernel, stride, padding, weight_at, bias_at, threshold_at, spread] =
            given;
        ConvolutionLayer layer = shaped(in, channels, kernel, stride, padding);
        const bool first = convolutions_.empty();
        const auto* weight = pointer<const float>(weight_at);
        const auto weight_of = [&](int64_t out, int64_t from, int64_t y, int64_t x) {
            const float own = weight[((out * in.channels + from) * kernel[0] + y) * kernel[1] + x];
            return units ? own * units[from] : own;
        };
        pack_dense(layer, first, weight_of);
        if (!first) pack_patches(layer, weight_of);

        const int64_t row = layer.out.row();
        const auto* bias = pointer<const float>(bias_at);
        const auto* threshold = pointer<const float>(threshold_at);
        model_.tiny |=
            has_tiny(threshold, spread ? layer.out.size() : channels, model_.parameters.levels);
        float* biases = memory_.take(padded(row));
        for (int64_t i = 0; i < row; ++i) biases[i] = bias[i % channels];
        layer.bias = biases;
        layer.threshold_stride = spread ? padded(row) : 0;
        const int64_t rows = spread ? layer.out.height : 1;
        float* thresholds = memory_.take(rows * padded(row));
        for (int64_t y = 0; y < rows; ++y)
            for (int64_t i = 0; i < row; ++i)
                thresholds[y * padded(row) + i] =
                    spread ? threshold[y * row + i] : threshold[i % channels];
        layer.threshold = thresholds;
        return layer;
    }

    template <class Weight>
    void pack_dense(ConvolutionLayer& layer, bool first, const Weight& weight_of) {
        const int64_t block = kernels_.dense_block(), channels = layer.out.channels;
        const int64_t from = layer.in.channels;
        layer.taps = from * layer.kernel_x;
        const int64_t blocks = (channels + block - 1) / block;
        float* dense = memory_.take(blocks * layer.kernel_y * layer.taps * block);
        taps_.emplace_back(layer.taps);
        // Pixels come a channel after the other, spikes a position after the other.
        const int64_t width = layer.in.width + 2 * layer.padding_x;
        layer.column_step = first ? layer.stride_x : layer.stride_x * from;
        for (int64_t channel = 0; channel < from; ++channel)
            for (int64_t x = 0; x < layer.kernel_x; ++x) {
                const int64_t tap = first ? channel * layer.kernel_x + x : x * from + channel;
                taps_.back()[tap] = static_cast<int32_t>(first ? channel * width + x : tap);
                for (int64_t y = 0; y < layer.kernel_y; ++y)
                    for (int64_t n = 0; n < channels; ++n)
                        dense[((n / block * layer.kernel_y + y) * layer.taps + tap) * block +
                              n % block] = weight_of(n, channel, y, x);
            }
        layer.dense = dense;
        layer.tap = taps_.back().data();
    }

    template <class Weight>
    void pack_patches(ConvolutionLayer& layer, const Weight& weight_of) {
        const int64_t channels = layer.out.channels, from = layer.in.channels;
        const int64_t columns = layer.columns, stride = layer.stride_x;
        const int64_t width = layer.block;
        const int64_t blocks = (channels + width - 1) / width;
        float* patches = memory_.take(blocks * layer.kernel_y * layer.row_columns * width);
        for (int64_t n = 0; n < channels; ++n)
            for (int64_t y = 0; y < layer.kernel_y; ++y)
                for (int64_t phase = 0; phase < stride; ++phase)
                    for (int64_t channel = 0; channel < from; ++channel)
                        for (int64_t i = 0; i < columns; ++i) {
                            const int64_t x = phase + stride * (columns - 1 - i);
                            if (x >= layer.kernel_x) continue;
                            const int64_t block = n / width * layer.kernel_y + y;
                            const int64_t column =
                                block * layer.row_columns + (phase * from + channel) * columns + i;
                            patches[column * width + n % width] = weight_of(n, channel, y, x);
                        }
        layer.patches = patches;
        patches_.emplace_back(layer.in.row());
        for (int64_t x = 0; x < layer.in.width; ++x)
            for (int64_t channel = 0; channel < from; ++channel) {
                const int64_t column = x + layer.padding_x, phase = column % stride;
                patches_.back()[x * from + channel] = {
                    static_cast<uint16_t>((phase * from + channel) * columns),
                    static_cast<uint16_t>(current_slack(layer) +
                                          (column / stride - (columns - 1)) * channels)};
            }
        layer.patch_of = patches_.back().data();
    }

    // Packs the layer that receives spikes of positions: rows of weights in units of the senders'
    // thresholds, one for each of their channels. Neurons that cannot fire need no current.
    void set_gather(const ActorLayer& layer, int64_t channels, const float* units) {
        const auto& [inputs, outputs, weight_at, bias_at, threshold_at] = layer;
        const auto* weight = pointer<const float>(weight_at);
        const auto* bias = pointer<const float>(bias_at);
        const auto* threshold = pointer<const float>(threshold_at);
        for (int64_t n = 0; n < outputs; ++n)
            if (threshold[n] > 0 || !bytes_)  // a NaN, which bytes are not, must reach their carry
                receivers_.push_back(n);
        gather_width_ = padded(static_cast<int64_t>(receivers_.size()));
        float* rows = memory_.take(inputs * gather_width_);
        float* biases = memory_.take(gather_width_);
        for (size_t i = 0; i < receivers_.size(); ++i) {
            for (int64_t k = 0; k < inputs; ++k)
                rows[k * gather_width_ + i] =
                    weight[k * outputs + receivers_[i]] * (units ? units[k % channels] : 1);
            biases[i] = bias[receivers_[i]];
        }
        gather_weight_ = rows;
        gather_bias_ = is_differential(model_.kind) ? nullptr : biases;
    }

    bool finite(const void* observation) const {
        if (bytes_) return true;
        const auto* numbers = static_cast<const float*>(observation);
        bool all = true;
        for (int64_t i = 0; i < batch_ * seen_.size(); ++i) all &= std::isfinite(numbers[i]);
        return all;
    }

    // Whether spikes of a convolutional layer say how much was sent.
    bool has_units(size_t layer) const { return values_scaled_ || values_[layer]; }

    // A desk, or what a thread has for itself, is kept once it is whole: there may be no memory.
    void set_desk() {
        auto made = std::make_unique<Desk>();
        Desk& desk = *made;
        const auto take = [&](int64_t floats) {
            desk.bytes += floats * 4;
            return desk.memory.take(floats);
        };
        const int64_t steps = model_.timesteps;
        for (int turn = 0; turn < 2; ++turn) {
            int64_t rows = 0, stride = 0, units = 0;
            for (size_t l = turn; l < convolutions_.size(); l += 2) {
                const ImageShape& out = convolutions_[l].out;
                if (!sends(l)) continue;
                const int64_t own = padded(out.row()) + kPadding;
                rows = std::max(rows, out.height * steps);
                stride = std::max(stride, own);
                if (has_units(l)) units = 1;
            }
            SpikeRows& spikes = desk.spikes[turn];
            spikes.stride = stride;
            spikes.sender = reinterpret_cast<uint16_t*>(take((rows * stride + 1) / 2));
            spikes.count = reinterpret_cast<int32_t*>(take(rows));
            spikes.units = units ? take(rows * stride) : nullptr;
        }
        const bool numbers = !gathers_;
        desk.numbers = take(numbers ? padded(widest_) : 0);
        desk.other_numbers = take(bridge_.empty() ? 0 : padded(widest_));
        desk.gathered = take(steps * gather_width_);
        desk.currents = take(gathers_ ? steps * model_.layers[0].width : 0);
        desk.rest = take((engine_scratch(model_) + 3) / 4);
        desk.stages.reset(new Stage[std::min<int64_t>(batch_, kMostThreads) * stages_per_row()]);
        desks_.push_back(std::move(made));
    }

    void set_tools() {
        Tools tools;
        int64_t currents = 0, inputs = 0;
        for (size_t l = 0; l < convolutions_.size(); ++l) {
            const ConvolutionLayer& layer = convolutions_[l];
            const int64_t rows = l ? open_rows(layer) * model_.timesteps : 1;
            currents = std::max(currents, rows * current_stride(layer));
            inputs = std::max(inputs, layer.kernel_y * input_stride(layer));
        }
        tools.scratch = {tools.memory.take(currents), tools.memory.take(inputs + kPadding)};
        tools.bytes = (currents + inputs + kPadding) * 4;
        tools_.push_back(std::move(tools));
    }

    // The convolutional layers, and the gathering of their spikes.
    int64_t stages_per_row() const { return static_cast<int64_t>(convolutions_.size()) + 1; }

    // Whether somebody receives the spikes of a convolutional layer, and not only its mean.
    bool sends(size_t layer) const { return gathers_ || layer + 1 < convolutions_.size(); }

    void run(const void* observation, float* action, int threads) {
        const int wanted = std::clamp(threads, 1, kMostThreads);
        py::gil_scoped_release released;
        while (static_cast<int>(tools_.size()) < wanted) set_tools();
        const bool together = batch_ < wanted;  // a team works on one decision after the other
        while (static_cast<int>(desks_.size()) < (together ? 1 : wanted)) set_desk();
        const int64_t stages = stages_per_row();
        if (together) {
            for (int64_t i = 0; i < batch_ * stages; ++i) desks_[0]->stages[i].clear();
            desks_[0]->decided = 0;
        }
        run_team(wanted, [&](int member, int members) {
            if (together) {
                Desk& desk = *desks_[0];
                for (int64_t b = 0; b < batch_; ++b) {
                    wait_until(desk.decided, b);
                    decide_row(observation, b, action, desk, &desk.stages[b * stages],
                               tools_[member], member, members);
                }
                return;
            }
            for (int64_t b = batch_ * member / members; b < batch_ * (member + 1) / members; ++b) {
                Desk& desk = *desks_[member];
                for (int64_t i = 0; i < stages; ++i) desk.stages[i].clear();
                decide_row(observation, b, action, desk, desk.stages.get(), tools_[member], 0, 1);
            }
        });
    }

    // One member's part of the decision of row b.
    void decide_row(const void* observation, int64_t b, float* action, Desk& desk, Stage* stages,
                    Tools& tools, int member, int members) {
        Pixels pixels{};
        pixels.scale = scale_;
        pixels.offset = offset_;
        if (bytes_)
            pixels.bytes = static_cast<const uint8_t*>(observation) + b * seen_.size();
        else
            pixels.numbers = static_cast<const float*>(observation) + b * seen_.size();
        const auto layers = static_cast<int64_t>(convolutions_.size());
        for (int64_t l = 0; l < layers; ++l)
            convolve(l, pixels, b, desk, stages[l], tools, members);
        if (gathers_) {
            const SpikeRows& spikes = desk.spikes[(layers - 1) % 2];
            const int64_t steps = model_.timesteps;
            stages[layers].share(
                steps, (steps + members - 1) / members, [&](int64_t begin, int64_t end) {
                    kernels_.run_gather({&spikes, has_units(layers - 1), convolutions_.back().out,
                                         begin, end, steps, gather_weight_, gather_bias_,
                                         gather_width_, desk.gathered});
                    return 0;
                });
        }
        if (member != 0) return;
        for (int64_t l = 0; l < layers; ++l) counts_[l * batch_ + b] = stages[l].fired;
        EngineRows rows{};
        rows.begin = b;
        rows.end = b + 1;
        if (gathers_)
            rows.currents = spread(desk);
        else
            rows.observation =
                cross(pixels, desk) - b * model_.layers[0].inputs;  // as if it were row b of many
        rows.carry = carries_.data() + layers;
        rows.alpha = alpha_;
        rows.action = action;
        rows.counts = counts_ + layers * batch_;
        rows.batch = batch_;
        rows.tile = 1;
        rows.scratch = desk.rest;
        kernels_.run_engine(model_, rows);
        desk.decided.store(b + 1, std::memory_order_release);
    }

    // A member's share of the rows of a layer.
    void convolve(int64_t l, const Pixels& pixels, int64_t b, Desk& desk, Stage& stage,
                  Tools& tools, int members) {
        const ConvolutionLayer& layer = convolutions_[l];
        ConvolutionTask task{};
        task.model = &model_;
        task.layer = &layer;
        task.pixels = l ? nullptr : &pixels;
        task.received = l ? &desk.spikes[(l - 1) % 2] : nullptr;
        task.received_units = l && has_units(l - 1);
        task.sent = sends(l) ? &desk.spikes[l % 2] : nullptr;
        task.sent_units = has_units(l);
        task.sent_values = values_[l];
        task.carry = carries_[l] + b * layer.out.size();
        task.alpha = alpha_ ? alpha_[b] : model_.parameters.alpha;
        task.mean = sends(l) ? nullptr : desk.numbers;
        task.scratch = tools.scratch;
        const int64_t height = layer.out.height;
        const int64_t part = members == 1 ? height : std::max<int64_t>(1, height / (2 * members));
        stage.share(height, part, [&](int64_t begin, int64_t end) {
            task.begin = begin;
            task.end = end;
            return kernels_.run_convolution(task);
        });
    }

    // The gathered currents of every step, as the layer has its neurons.
    const float* spread(Desk& desk) const {
        for (int64_t step = 0; step < model_.timesteps; ++step)
            for (size_t i = 0; i < receivers_.size(); ++i)
                desk.currents[step * model_.layers[0].width + receivers_[i]] =
                    desk.gathered[step * gather_width_ + static_cast<int64_t>(i)];
        return desk.currents;
    }

    // What the layers without positions receive: pixels or the mean of the convolutional layers,
    // through the bridge.
    const float* cross(const Pixels& pixels, Desk& desk) const {
        float *from = desk.numbers, *to = desk.other_numbers;
        if (convolutions_.empty()) {
            const int64_t size = seen_.size();
            for (int64_t i = 0; i < size; ++i)
                from[i] = (pixels.bytes ? static_cast<float>(pixels.bytes[i]) : pixels.numbers[i]) /
                              scale_ +
                          offset_;
        }
        for (const BridgeStep& step : bridge_) {
            if (step.kind == BridgeStep::Kind::kLinear) {
                kernels_.run_linear_float(
                    {1, step.inputs, step.outputs, from, step.weight, step.bias, to});
                std::swap(from, to);
            } else if (step.kind == BridgeStep::Kind::kNorm) {
                normalize(step, from);
            } else {
                for (int64_t i = 0; i < step.inputs; ++i) from[i] = std::tanh(from[i]);
            }
        }
        return from;
    }

    static void normalize(const BridgeStep& step, float* numbers) {
        double mean = 0, square = 0;
        for (int64_t i = 0; i < step.inputs; ++i) mean += numbers[i];
        mean /= static_cast<double>(step.inputs);
        for (int64_t i = 0; i < step.inputs; ++i)
            square += (numbers[i] - mean) * (numbers[i] - mean);
        const double deviation =
            std::sqrt(square / static_cast<double>(step.inputs) + step.epsilon);
        for (int64_t i = 0; i < step.inputs; ++i) {
            const auto standard = static_cast<float>((numbers[i] - mean) / deviation);
            numbers[i] = (step.weight ? standard * step.weight[i] : standard) +
                         (step.bias ? step.bias[i] : 0);
        }
    }

    static constexpr int kPlain = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    static constexpr int kMostThreads = 256;  // each takes memory

    const Kernels& kernels_ = kernels();  // weights are packed for this build
    // Spikes go to the first layer without positions directly, unless a bridge takes their mean.
    const bool gathers_;
    PackedLayers packed_;
    EngineModel& model_ = packed_.model;
    Memory memory_;
    std::vector<std::vector<int32_t>> taps_;
    std::vector<std::vector<Patch>> patches_;
    std::vector<ConvolutionLayer> convolutions_;
    std::vector<int64_t> observed_;  // the shape of an observation
    std::vector<bool> values_;       // whether spikes of a layer are in activation units
    std::vector<BridgeStep> bridge_;
    ImageShape seen_{};
    bool bytes_ = false, values_scaled_ = false;
    float scale_ = 1, offset_ = 0;
    const float *gather_weight_ = nullptr, *gather_bias_ = nullptr;
    std::vector<int64_t> receivers_;
    int64_t gather_width_ = 0, outputs_ = 0, widest_ = 0, batch_ = 0;
    std::vector<float*> carries_;
    int64_t* counts_ = nullptr;
    const float* alpha_ = nullptr;
    std::vector<std::unique_ptr<Desk>> desks_;
    std::vector<Tools> tools_;
    std::atomic<bool> busy_{false};
};

}  // namespace

void define_staged_engine(py::module_& module) {
    using py::arg;
    py::class_<StagedEngine>(module, "StagedEngine",
                             "A spiking actor with convolutions or a bridge, packed for the CPU.")
        .def(py::init<const Dynamics&, const Image&, const std::vector<ConvolutionArguments>&,
                      const std::vector<BridgeArguments>&, const std::vector<ActorLayer>&,
                      const InterfaceArguments&>(),
             arg("dynamics"), arg("image"), arg("convolutions"), arg("bridge"), arg("layers"),
             arg("interface"))
        .def("bind", &StagedEngine::bind)
        .def("act", &StagedEngine::act)
        .def("decide", &StagedEngine::decide)
        .def("scratch_bytes", &StagedEngine::scratch_bytes);
    module.def(
        "fits",
        [](const std::array<int64_t, 3>& in, int64_t channels, const std::array<int64_t, 2>& kernel,
           const std::array<int64_t, 2>& stride, const std::array<int64_t, 2>& padding) {
            return fits_patches(shaped({in[0], in[1], in[2]}, channels, kernel, stride, padding));
        });
}

}  // namespace snnkern
