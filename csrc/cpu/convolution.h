// Convolutional layers of spiking neurons, a row of positions at a time: what the kernels of
// convolution_kernel.cpp work on.
//
// Everything is channels-last here: potentials, carries and spikes of a row of positions stand as
// [x][channel], so a spike adds a contiguous patch of weights to contiguous currents.
#pragma once

#include "engine.h"

namespace snnkern {

struct ImageShape {
    int64_t channels, height, width;
    SNNKERN_INLINE constexpr int64_t row() const {
        return channels * width;
    }  // values of a row of positions
    SNNKERN_INLINE constexpr int64_t size() const { return row() * height; }
};

// Where the weights of a sender stand, for every sender of a row: its patch in a row of the kernel,
// counted in columns, and its first receiver in a row of currents.
struct Patch {
    uint16_t columns, current;
};

struct ConvolutionLayer {
    ImageShape in, out;
    int64_t kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x;

    // Weights [kernel_y][row_weights], in units of the sender's θ.
    // Event-driven, [blocks of out channels][kernel_y][row_columns][block], padded with zeros: a
    // row of the kernel has a patch for every phase of a sender's column and every channel, its
    // receivers in ascending columns. Null for the first layer, which receives pixels.
    const float* patches;
    int64_t block;          // out channels of a block
    int64_t columns;        // of a patch: kernel_x / stride_x, rounded up
    int64_t row_columns;    // of all patches of a row of the kernel
    const Patch* patch_of;  // [in.row()]

    // Dense, a block of out channels after the other: [blocks][kernel_y][taps][dense_block()], a
    // tap being an input channel at a column.
    const float* dense;
    const int32_t* tap;   // where a tap's input stands in a row of inputs, [taps]
    int64_t taps;         // in.channels · kernel_x
    int64_t column_step;  // from a receiver's inputs to the next receiver's

    const float* bias;         // [out.row()], padded
    const float* threshold;    // θ [out.row()], padded; one row for all where the stride is 0
    int64_t threshold_stride;  // floats from one row of θ to the next
};

// Spikes of a layer: for every row of positions and every step, the numbers in that row of those
// that sent, and how much in units of θ (unless kinds send nothing but 1).
struct SpikeRows {
    uint16_t* sender;  // [height][T][stride]
    float* units;      // likewise, or null
    int32_t* count;    // [height][T]
    int64_t stride;
};

// What one thread works with.
struct ConvolutionScratch {
    float* currents;  // [open_rows][T][current_stride]
    float* inputs;    // [kernel_y][input_stride]
};

// Floats of a step's currents of a row: slack on either side for patches that stand over its ends.
SNNKERN_INLINE constexpr int64_t current_slack(const ConvolutionLayer& layer) {
    return padded((layer.columns + 1) * layer.out.channels + layer.block);
}
SNNKERN_INLINE constexpr int64_t current_stride(const ConvolutionLayer& layer) {
    return padded(layer.out.row()) + 2 * current_slack(layer);
}
// Rows of positions that receive a row of inputs, at most.
SNNKERN_INLINE constexpr int64_t open_rows(const ConvolutionLayer& layer) {
    return (layer.kernel_y + layer.stride_y - 1) / layer.stride_y;
}
// Floats of a row of inputs, padding included.
SNNKERN_INLINE constexpr int64_t input_stride(const ConvolutionLayer& layer) {
    return padded((layer.in.width + 2 * layer.padding_x) * layer.in.channels);
}

// The pixels of one observation, channels first.
struct Pixels {
    const uint8_t* bytes;  // or null: then
    const float* numbers;  // [channels][height][width]
    float scale, offset;   // x = pixel / scale + offset
};

// Rows [begin, end) of the positions of one layer, for one observation.
struct ConvolutionTask {
    const EngineModel* model;  // kind, parameters, T
    const ConvolutionLayer* layer;
    int64_t begin, end;
    const Pixels* pixels;       // of the first layer, else null
    const SpikeRows* received;  // of the others
    bool received_units;        // whether they say how much was sent, or all is 1
    const SpikeRows* sent;      // null for a layer of which only the mean is wanted
    bool sent_units;            // whether spikes are to say how much was sent:
    bool sent_values;           // in activation units, or in units of θ
    float* carry;               // [height][out.row()]
    float alpha;
    float* mean;  // [height][out.row()], or null
    ConvolutionScratch scratch;
};

// The currents [T][width] that spikes of a layer of positions give a layer without any: steps
// [begin, end). weight [size][width], in units of the sender's θ; bias [width] or null.
struct GatherTask {
    const SpikeRows* received;
    bool received_units;
    ImageShape shape;
    int64_t begin, end, timesteps;
    const float* weight;
    const float* bias;
    int64_t width;
    float* currents;
};

// Whether 16 bits are enough for what a `Patch` holds, and to number senders and neurons of a row.
constexpr bool fits_patches(const ConvolutionLayer& layer) {
    return layer.row_columns < 65536 && current_stride(layer) < 65536 && layer.in.row() < 65536;
}

inline namespace SNNKERN_ARCH {

// Out channels of a block of dense products, and of one of patches with so many columns.
int64_t dense_block();
int64_t patch_block(int64_t columns);

// Computes the rows and returns how many spikes they sent.
int64_t run_convolution(const ConvolutionTask& task);

void run_gather(const GatherTask& task);

}  // namespace SNNKERN_ARCH

}  // namespace snnkern
