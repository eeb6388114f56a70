// A whole spiking actor in one call: what the kernels of engine_kernel.cpp work on.
#pragma once

#include "../problem.h"

namespace snnkern {

constexpr int64_t kPadding =
    16;  // lanes of the widest vector: widths are padded to whole vectors of any build

constexpr int64_t padded(int64_t width) { return (width + kPadding - 1) / kPadding * kPadding; }

constexpr int64_t kMostNeurons = 65536 - kPadding;  // spike lists number senders in 16 bits

// A layer's weights are stored block by block, a block being a few vectors of receivers that a
// kernel keeps in registers: the block of the receivers [n, n + width) starts at weight +
// (inputs + 1) · n and holds a row of `width` for every sender, and one of zeros. So what a
// decision reads of a block fits the first-level cache, and stays there for all T steps.
struct EngineLayer {
    int64_t inputs, outputs;
    int64_t width;  // padded(outputs)
    const float*
        weight;  // [blocks][inputs + 1][block width], in units of the sender's θ; padding is 0
    const float* bias;  // [width]
    const float*
        threshold;  // θ [width]; padding is 0, which never fires; null for the output layer
};

// Width of the block that starts at receiver n, where the widest one is `widest`: then halves of
// it, for what is left.
constexpr int64_t block_width(int64_t n, int64_t width, int64_t widest) {
    while (n + widest > width) widest /= 2;
    return widest;
}

struct EngineModel {
    Kind kind;
    Parameters<float> parameters;
    bool tiny;  // has_tiny of some layer
    int64_t timesteps;
    int64_t hidden;             // hidden layers
    const EngineLayer* layers;  // [hidden + 1], the output layer last
    ActorInterface interface;
    int64_t widest;  // the largest padded width, that of the observation included
};

// Rows [begin, end) of a batch.
struct EngineRows {
    int64_t begin, end;
    const float* observation;  // [B, inputs], or null
    const float* currents;     // of the first layer [T, width], for a single row, or null
    float* const* carry;       // [B, outputs] of every hidden layer, read and replaced
    const float* alpha;        // α [B], or null: that of the parameters
    float* action;             // [B, outputs]
    int64_t* counts;           // spikes, [hidden, B]
    int64_t batch;
    int64_t tile;   // rows that are worked on together, at most kMostTileRows
    void* scratch;  // tile · engine_scratch(model) bytes
};

constexpr int64_t kMostTileRows = 16;

// Bytes that one row needs: two lists of spikes, those that a layer receives and those that it
// sends, for every step.
constexpr int64_t engine_scratch(const EngineModel& model) {
    const int64_t list = model.widest + kPadding;
    const int64_t bytes_per_step = list * (sizeof(uint16_t) + sizeof(float)) + sizeof(int32_t);
    return 2 * (model.timesteps * bytes_per_step + 64);
}

inline namespace SNNKERN_ARCH {
// Width of the widest block, see EngineLayer.
int64_t engine_block();

void run_engine(const EngineModel& model, const EngineRows& rows);
}  // namespace SNNKERN_ARCH

}  // namespace snnkern
