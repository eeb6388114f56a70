// The same decision as actor.h's, with a row in the hands of a cluster of blocks: what
// cluster_kernel.cu works on. For few rows, on Hopper and later.
#pragma once

#include "actor.h"

namespace snnkern {

constexpr int kClusterBlocks = 8;  // as many as every GPU with clusters has

// How a layer's columns are shared out, `columns` to each block, whole warps; the last blocks may
// have fewer, or none. Places in a block's memory count bytes.
struct ClusterShare {
    int32_t columns;
    int32_t weight, bias, threshold;  // those of the block, of a layer that receives spikes
    const float* packed;              // [kClusterBlocks, inputs, columns], in global memory
};

struct ClusterPlan {
    ActorPlan block;  // all time steps make one tile
    ClusterShare share[kMostHidden];
    int32_t first_carry;  // of the block's neurons in the first layer, until all have read the old
    int32_t through;      // a word from each block
    int32_t barriers;     // two per layer
    int32_t mask_steps;   // places for the steps of a mask: as many as stand in pieces of 16 bytes
    int32_t count_words;  // places for a layer's counts, one for every 32 neurons
};

struct ClusterProblem {
    ActorModel model;
    ActorRows rows;
    ClusterPlan plan;
};

// The plan for a model, but for the packed weights.
ClusterPlan plan_cluster(const ActorModel& model);

// Whether the current device runs a cluster for each of so many rows at the same time.
bool cluster_serves(const ActorModel& model, int64_t batch);

// Before the first launch of a model on the current device.
void prepare_cluster(const ActorModel& model);

// Where the launch is `chained`, it may begin before the one before it in the stream has ended,
// which must not write weights.
void launch_cluster(const ClusterProblem& problem, bool chained, Stream stream);

}  // namespace snnkern
