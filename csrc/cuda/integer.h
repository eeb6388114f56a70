// A whole spiking actor in one launch, its currents between hidden layers summed as integers: what
// integer_kernel.cu works on.
#pragma once

#include "actor.h"

namespace snnkern {

constexpr int kTileRows = 8;        // rows that a group of warps takes through the layers together
constexpr int kTileSteps = 8;       // simulation steps whose currents are in registers at a time
constexpr int kSlices = 3;          // int8 digits of a weight, to the base of 256
constexpr int kTileReceivers = 16;  // of a warp's task
constexpr int kStepSenders = 32;    // of a product
constexpr int kActions = 4;         // that are summed together
constexpr int kGroupWarps = 4;      // of a group
constexpr int kMostGroups = 3;      // of a block
constexpr int kStateWords = 4;      // of a neuron that waits for the next steps
constexpr int kMostTimesteps = 32767;
constexpr int kMostSum = 1 << 15;  // senders times the largest spike

// What a hidden layer behind the first has beside its `ActorLayer`. The weights are those of int8
// digits as tensor cores take them: [tiles of receivers, steps of senders, slices, lanes, 16].
struct IntegerLayer {
    const void* weights;
    const float* scale;    // of a receiver's sums [width]: a power of two
    const int32_t* start;  // what they begin with [width]: the bias, or 0 where none is added
};

// Beside the padding of an actor, the first layer's weights [tiles of receivers, inputs, 16] have
// rows of 0 behind the last input, and the output layer's [actions, width] columns of 0 and, up to
// a multiple of kActions, rows of 0.
struct IntegerModel {
    ActorModel actor;                 // `weight` is that of the first layer alone
    int32_t inputs;                   // of the first layer, padded to an even number
    IntegerLayer layer[kMostHidden];  // the first is empty
};

// How a block shares the work and its memory; places count bytes.
struct IntegerPlan {
    int32_t groups, warps;  // of a block; of a group
    int32_t blocks;
    int32_t tiles, last_rows;       // of the batch; of the last tile
    int32_t resident[kMostHidden];  // tiles of receivers whose weights stay in shared memory
    int32_t weights[kMostHidden];   // where they stand
    int32_t group_bytes;            // what each group has for itself, at the beginning:
    int32_t spikes[2];              // layers take turns with two places
    int32_t observation, observation_width, counts;
    int32_t outputs;             // parts of the sums of each row's actions
    int32_t state[kMostHidden];  // in scratch memory: places of floats
    int32_t group_floats;        // of a group's scratch memory
    int32_t bytes;
};

struct IntegerProblem {
    IntegerModel model;
    ActorRows rows;
    IntegerPlan plan;
    float* scratch;  // [blocks, groups, group_floats]
};

// The plan for a model and a batch on the current device, with as many groups in a block as there
// are tiles for, and at most so many (0: kMostGroups), or as many as fit; or one whose `bytes` are
// more than the device has where none fits.
IntegerPlan plan_integers(const IntegerModel& model, int64_t batch, int groups);

// Before the first launch of a model on the current device.
void prepare_integers(const IntegerModel& model);

void launch_integers(const IntegerProblem& problem, Stream stream);

}  // namespace snnkern
