// A convolution with clustered kernels: what every instruction set's code is given. See tile.h for how it is computed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gated.h"

namespace squeeze {

// Counts up when what follows changes, or what it means; squeeze/kernels/native.py refuses a kernel of another number.
constexpr int64_t LAYOUT = 6;

// A part of a layer whose centroids and weights stay in the second-level cache while all tiles of a band are computed.
struct Stage {
    int32_t chunk, chunk_end, dense, dense_end;
};

// The part of a layer that stays the same from call to call; squeeze/kernels/packing.py makes it. Arrays are contiguous.
struct Layer {
    int64_t outputs;               // N
    int64_t kernel;                // K, odd
    int64_t stride;                // 1 or 2
    int64_t padding;               // at least (K - 1) / 2, so that an output column meets every input column
    int64_t vectors;               // in a tile, and in a row of Z: 1 or 2
    int64_t clustered;             // input channels with clusters
    const int32_t* channel;        // (clustered,) which they are
    const int32_t* count;          // (clustered,) their centroids
    const int64_t* start;          // (clustered,) where those begin, in floats
    const float* centroids;        // for each channel (K * K, count)
    const uint16_t* offsets;       // (clustered, outputs) where the centroid's row of Z is within its chunk, in 8 bytes
    int64_t chunks;                // runs of channels whose Z stays in the cache
    const int32_t* chunk;          // (chunks + 1,) where they begin
    int64_t rows;                  // most centroids in a chunk
    int64_t stages;                // at least one
    const Stage* stage;            // (stages,) chunks first, then dense channels, all of them in order
    int64_t dense;                 // input channels that keep all kernels
    const int32_t* dense_channel;  // (dense,) which they are
    const float* dense_weight;     // (dense, K * K, outputs)
    const float* bias;             // (outputs,) or null
};

// One call: float32, NCHW. An image's channels lie one after the other.
struct Call {
    const float* input;
    float* output;
    int64_t images;
    int64_t height, width;
    int64_t out_height, out_width;
    int64_t input_image, output_image;  // floats from one image to the next
};

// Rows [first, last) of one image's output.
struct Band {
    int64_t image, first, last;
};

struct Code {
    const char* name;
    int64_t vector_bytes;
    int64_t cache_bytes;  // of the first-level cache that are counted on
    void (*run)(const Layer&, const Call&, const Band&);
    // Of gated convolutions: means of channels [first, last) of all images', outputs [first, last) of a linear layer,
    // multiples of 16, and filters of a part.
    void (*means)(const GatedCall&, int64_t first, int64_t last, float* means);
    void (*linear)(const Linear&, int64_t first, int64_t last);
    void (*filters)(const GatedLayer&, const GatedCall&, const GatedPart&);
};

// Null where the compiler or the processor does not have it.
const Code* avx512();
const Code* avx2();
const Code* portable();

// The best code that the processor runs, or the one of that name; null if it has none.
const Code* code_named(const char* name);

}  // namespace squeeze
