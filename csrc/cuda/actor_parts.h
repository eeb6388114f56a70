// What the kernels of whole actors share: a block's memory, a thread's neuron, the observation, the
// first layer's current, the output layer.
//
// Currents are summed as by the CPU's engine, from the bias on, two senders at a time in their
// order: whoever sums, hidden layers come out bit for bit the same.
#pragma once

#include <algorithm>
#include <cmath>

#include "actor.h"
#include "divisor.h"

namespace snnkern {

constexpr int kOutputInFlight = 8;  // single weights of the output layer that a lane waits for

struct alignas(16) Four {
    float lane[4];
};

// What a block has in shared memory, whoever lays out the spikes.
class BlockMemory {
  public:
    __device__ BlockMemory(float4* memory, const ActorPlan& plan)
        : memory_(reinterpret_cast<char*>(memory)), plan_(plan) {}

    __device__ float* observation() const { return at<float>(plan_.observation); }
    __device__ float* mean() const { return at<float>(plan_.mean); }
    __device__ int32_t* counts() const { return at<int32_t>(plan_.counts); }
    // Currents of a step of the tile, by neuron.
    __device__ float* current(int step) const {
        return at<float>(plan_.current) + step * plan_.tile_width;
    }
    __device__ uint32_t* list(int warp) const {
        return at<uint32_t>(plan_.lists) + warp * kListPlaces;
    }

  protected:
    template <class T>
    __device__ T* at(int32_t place) const {
        return reinterpret_cast<T*>(memory_ + place);
    }
    __device__ const ActorPlan& plan() const { return plan_; }

  private:
    char* memory_;
    const ActorPlan& plan_;
};

// ±2^-j in a byte: the sign, and the seven low bits of the exponent, which begins with 0 for j > 0
// and also for 1.
__device__ inline uint8_t pack(float units) {
    const uint32_t bits = __float_as_uint(units);
    return static_cast<uint8_t>(bits >> 24 & 0x80u) | static_cast<uint8_t>(bits >> 23 & 0x7fu);
}
__device__ inline uint32_t unpack(uint8_t packed) {
    return (packed & 0x80u) << 24 | (packed & 0x7fu) << 23;
}

// The neuron of one thread during a decision.
template <Kind kind, bool kTiny>
struct State {
    using One = Neuron<kind, float, kTiny, Divisor<float>>;
    One neuron;
    float start;
    int32_t fired;  // by the warp

    __device__ void begin(const ActorModel& model, float threshold, float bias, float carry) {
        start = model.parameters.initial_fraction * threshold + carry;
        neuron = One(model.parameters, threshold, start, bias);
        fired = 0;
    }

    // What it sends at a step; the memory says where.
    template <class Memory>
    __device__ void step(const ActorModel& model, const Memory& memory, int l, int n, int step,
                         float x) {
        const Divisor<float> t(step + 1);
        neuron.integrate(x);
        const Spike<float> spike = neuron.fire(t);
        neuron.reset(spike, x, t);
        const unsigned mask = __ballot_sync(kAllLanes, spike.fires);
        fired += __popc(mask);
        if (l == model.hidden - 1) return;  // nobody receives these spikes, only their mean
        if (threadIdx.x % kWarp == 0) *memory.mask(l, model.timesteps, step, n / kWarp) = mask;
        if (!kIsBinary<kind>) *memory.units(l, model.timesteps, step, n) = pack(spike.units);
    }

    // What takes the place of the carry that the decision began with.
    __device__ float next_carry(const ActorModel& model, float carry, float alpha) const {
        const Divisor<float> timesteps(model.timesteps);
        return residual_carry<float>(neuron.potential - start, neuron.transmitted(timesteps), carry,
                                     neuron.threshold, alpha, model.parameters);
    }

    __device__ float mean(const ActorModel& model) const {
        return neuron.mean(Divisor<float>(model.timesteps));
    }
};

// A number of the observation as the first layer receives it.
__device__ inline float normalised(const ActorInterface& interface, float value, int k) {
    if (!interface.observation_mean) return value;
    const float clip = interface.observation_clip;
    value = (value - interface.observation_mean[k]) / interface.observation_std[k];
    value = value > clip ? clip : value;
    return value < -clip ? -clip : value;
}

__device__ inline void observe(const ActorModel& model, const ActorRows& rows,
                               const BlockMemory& memory, int64_t b) {
    const int inputs = model.layer[0].inputs;
    for (int k = threadIdx.x; k < inputs; k += blockDim.x)
        memory.observation()[k] = normalised(model.interface, rows.observation[b * inputs + k], k);
}

// Weights of the first layer on their way to a thread: those of kCount inputs, from k on.
template <int kCount>
struct FirstWeights {
    float row[kCount];

    __device__ void load(const ActorLayer& layer, int n, int k) {
        const float* weight = layer.weight + int64_t(k) * layer.width + n;
#pragma unroll
        for (int i = 0; i < kCount; ++i, weight += layer.width)
            row[i] = k + i < layer.inputs ? *weight : 0.0f;
    }
};

// What leaves the output layer for its sum z.
__device__ inline float scaled_action(float z, const ActorInterface& interface, float scale,
                                      float shift) {
    return scale * (interface.squash ? tanhf(z) : z) + shift;
}

// An action: what a warp takes of the output layer, which is linear, one product on the mean. A
// lane's first weights are loaded when it is made, those of wider layers when they are needed.
class Action {
  public:
    __device__ Action(const ActorModel& model, int n)
        : weight_(model.output_weight + int64_t(n) * inputs(model)),
          bias_(model.output_bias[n]),
          scale_(model.interface.action_scale[n]),
          shift_(model.interface.action_bias[n]) {
#pragma unroll
        for (int i = 0; i < kOutputInFlight; ++i) {
            const int k = i * kWarp + threadIdx.x % kWarp;
            first_[i] = k < inputs(model) ? weight_[k] : 0.0f;
        }
    }

    // The action, in lane 0: lanes sum the means of every 32nd neuron, then add up their sums.
    __device__ float from(const ActorModel& model, const float* mean) const {
        const int lane = threadIdx.x % kWarp;
        float z = 0;
#pragma unroll
        for (int i = 0; i < kOutputInFlight; ++i) {
            const int k = i * kWarp + lane;
            if (k < inputs(model)) z = fmaf(mean[k], first_[i], z);
        }
#pragma unroll 8
        for (int k = kOutputInFlight * kWarp + lane; k < inputs(model); k += kWarp)
            z = fmaf(mean[k], weight_[k], z);
        for (int offset = kWarp / 2; offset; offset /= 2)
            z += __shfl_xor_sync(kAllLanes, z, offset);
        z += bias_;
        return scaled_action(z, model.interface, scale_, shift_);
    }

  private:
    static __device__ int inputs(const ActorModel& model) {
        return model.layer[model.hidden - 1].outputs;
    }
    const float* weight_;
    float bias_, scale_, shift_;
    float first_[kOutputInFlight];
};

// Places in shared memory, one behind the other.
class Places {
  public:
    // Where so many bytes stand, on a boundary of 16.
    int32_t place(int64_t size) {
        const int64_t at = bytes_;
        bytes_ += (size + 15) / 16 * 16;
        return static_cast<int32_t>(std::min<int64_t>(at, INT32_MAX));
    }
    // All that was given out; no device has so much that it needs more than 32 bits.
    int32_t bytes() const { return static_cast<int32_t>(std::min<int64_t>(bytes_, INT32_MAX)); }

  private:
    int64_t bytes_ = 0;
};

}  // namespace snnkern
