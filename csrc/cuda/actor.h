// A whole spiking actor in one launch: what actor_kernel.cu works on.
#pragma once

#include "../problem.h"
#include "runtime.h"

namespace snnkern {

constexpr int kMostHidden = 16;               // layers travel with the launch
constexpr int kMostActorNeurons = 65535;      // lists of spikes number senders in 16 bits
constexpr int kActorPadding = 32;             // widths are padded to whole warps
constexpr int kMostActorWarps = 16;           // of a block, and of a multiprocessor
constexpr int kListLength = 256;              // senders whose spikes a warp lists at a time
constexpr int kListPlaces = kListLength + 8;  // one may be left from before; read in eights

// A hidden layer. Padding has weight, bias and θ of 0, which never fires.
struct ActorLayer {
    int32_t inputs, outputs;
    int32_t width;           // outputs, padded
    const float* weight;     // [inputs, width], in units of the sender's θ
    const float* bias;       // [width]
    const float* threshold;  // θ [width]
};

struct ActorModel {
    Kind kind;
    Parameters<float> parameters;
    bool tiny;  // is_tiny of some θ
    int32_t timesteps;
    int32_t hidden;  // layers
    ActorLayer layer[kMostHidden];
    int32_t actions;
    const float* output_weight;  // [actions, outputs of the last hidden layer]
    const float* output_bias;    // [actions]
    ActorInterface interface;
};

// The rows of a decision.
struct ActorRows {
    int64_t batch;
    const float* observation;   // [B, inputs]
    float* carry[kMostHidden];  // [B, outputs] of every hidden layer, read and replaced
    const float* alpha;         // α [B], or null: that of the parameters
    float* action;              // [B, actions]
    int64_t* counts;            // spikes, [hidden, B]
};

// How a block shares the work and its memory; places count bytes.
struct ActorPlan {
    int32_t warps;
    int32_t tile_steps;  // simulation steps whose currents stand in shared memory at a time
    int32_t tile_width;  // neurons, likewise
    int32_t most_words;  // words of a step's fire mask in the widest layer that has receivers
    int32_t observation, current, mean, lists, masks, units, counts;
    int32_t bytes;
};

struct ActorProblem {
    ActorModel model;
    ActorRows rows;
    ActorPlan plan;
};

// The plan for a model and a batch on the current device, or one whose `bytes` are more than the
// device has where none fits.
ActorPlan plan_actor(const ActorModel& model, int64_t batch);

// Before the first launch of a model on the current device.
void prepare_actor(const ActorModel& model);

void launch_actor(const ActorProblem& problem, Stream stream);

}  // namespace snnkern
