// What engines for Python have in common: memory, and the packed weights of layers without
// positions.
#pragma once

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "../binding.h"
#include "../claim.h"
#include "isa.h"

namespace snnkern {

// Zeroed floats that start on a cache line.
class Floats {
  public:
    explicit Floats(int64_t count)
        : data_(static_cast<float*>(
              ::operator new(std::max<int64_t>(count, 1) * sizeof(float), kLine))) {
        std::fill(data_.get(), data_.get() + count, 0.0f);
    }
    float* get() const { return data_.get(); }

  private:
    static constexpr std::align_val_t kLine{64};
    struct Free {
        void operator()(float* data) const { ::operator delete(data, kLine); }
    };
    std::unique_ptr<float, Free> data_;
};

// What was packed or copied, kept as long as this is.
class Memory {
  public:
    float* take(int64_t count) {
        held_.emplace_back(count);
        return held_.back().get();
    }

    // A padded copy; null for null.
    const float* copy(const float* from, int64_t count) {
        if (!from) return nullptr;
        float* to = take(padded(count));
        std::copy_n(from, count, to);
        return to;
    }

  private:
    std::vector<Floats> held_;
};

// One layer as Python gives it: sizes and addresses of weight [in, out] (0 for a layer whose
// currents are computed elsewhere), bias [out], threshold [out] (0: none).
using ActorLayer = std::tuple<int64_t, int64_t, uintptr_t, uintptr_t, uintptr_t>;

// The layers without positions of an actor, packed for one build of the kernels: `model` is what
// they compute.
class PackedLayers {
  public:
    PackedLayers(const Kernels& kernels, const Dynamics& dynamics,
                 const std::vector<ActorLayer>& layers, const InterfaceArguments& interface) {
        set_dynamics(model, dynamics);
        model.hidden = static_cast<int64_t>(layers.size()) - 1;
        pack(layers, kernels.engine_block());
        const int64_t inputs = layers_.front().inputs, outputs = layers_.back().outputs;
        // Currents from elsewhere come in no list.
        model.widest = layers_.front().weight ? padded(inputs) : 0;
        for (const EngineLayer& layer : layers_) model.widest = std::max(model.widest, layer.width);
        model.layers = layers_.data();
        const ActorInterface given = actor_interface(interface);
        model.interface = {memory_.copy(given.observation_mean, inputs),
                           memory_.copy(given.observation_std, inputs),
                           given.observation_clip,
                           memory_.copy(given.action_scale, outputs),
                           memory_.copy(given.action_bias, outputs),
                           given.squash};
    }
    PackedLayers(const PackedLayers&) = delete;
    PackedLayers& operator=(const PackedLayers&) = delete;

    EngineModel model{};

  private:
    void pack(const std::vector<ActorLayer>& layers, int64_t widest) {
        const float* sender = nullptr;  // thresholds of the layer before
        for (const auto& [inputs, outputs, weight_at, bias_at, threshold_at] : layers) {
            const bool hidden = threshold_at != 0;
            const auto* given = pointer<const float>(weight_at);
            // The output layer takes a mean, which is in activation units already.
            const float* units = hidden ? sender : nullptr;
            const float* weight =
                given ? pack_weight(given, inputs, outputs, units, widest) : nullptr;
            const float* bias = memory_.copy(pointer<const float>(bias_at), outputs);
            const float* threshold =
                hidden ? memory_.copy(pointer<const float>(threshold_at), outputs) : nullptr;
            if (hidden) model.tiny |= has_tiny(threshold, outputs, model.parameters.levels);
            layers_.push_back({inputs, outputs, padded(outputs), weight, bias, threshold});
            sender = threshold;
        }
    }

    // Weights [inputs, outputs] in blocks of a width, in units of the senders' thresholds.
    const float* pack_weight(const float* given, int64_t inputs, int64_t outputs,
                             const float* units, int64_t widest) {
        const int64_t width = padded(outputs);
        float* weight = memory_.take((inputs + 1) * width);
        for (int64_t begin = 0, block; begin < width; begin += block) {
            block = block_width(begin, width, widest);
            for (int64_t k = 0; k < inputs; ++k) {
                const float unit = units ? units[k] : 1.0f;
                for (int64_t n = begin; n < std::min(begin + block, outputs); ++n)
                    weight[(inputs + 1) * begin + k * block + n - begin] =
                        given[k * outputs + n] * unit;
            }
        }
        return weight;
    }

    std::vector<EngineLayer> layers_;
    Memory memory_;
};

}  // namespace snnkern
