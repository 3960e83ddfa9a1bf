// A convolution of which some filters are computed, chosen for each input anew: what every instruction set's code is
// given. See filters.h for how it is computed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace squeeze {

// The part that stays the same from call to call; squeeze/kernels/gated.py makes it. Arrays are contiguous.
struct GatedLayer {
    int64_t filters;                             // N
    int64_t channels;                            // C
    int64_t depthwise;                           // 1: a filter reads the channel of its own number (C = N), 0: all
    int64_t kernel_height, kernel_width;
    int64_t stride_height, stride_width;
    int64_t padding_height, padding_width;
    int64_t dilation_height, dilation_width;
    const float* weight;                         // (N, C, taps), (N, 1, taps) if depthwise
    const float* bias;                           // (N,) or null
    int64_t hidden;                              // of the controller
    int64_t hidden_padded, filters_padded;       // multiples of 16, at least `hidden` and N
    const float* reduce;                         // (C, hidden_padded), zeros behind
    const float* reduce_bias;                    // (hidden_padded,)
    const float* expand;                         // (hidden, filters_padded), zeros behind
    const float* expand_bias;                    // (filters_padded,)
};

// One call: float32, NCHW, contiguous.
struct GatedCall {
    const float* input;      // (images, reads, height, width)
    float* output;           // (images, count or N, out_height, out_width)
    float* logits;           // (images, N); a filter is computed for those images where its logit is above 0; or null
    const int64_t* present;  // (reads,) which channels the input holds, in order; null for all
    int64_t* rows;           // (count,) filters that are computed, in order; (N,) where they are to be found
    int64_t images, reads, count;
    int64_t height, width, out_height, out_width;
    int64_t scatter;         // 1: the output has room for all filters, and those that are not computed are 0
};

// What calls for inputs of one batch and size have in common; `call` says nothing of the input and the output yet.
struct GatedSite {
    const char* code;         // its name
    const GatedLayer* layer;
    GatedCall call;
};

// A layer of the controller: to[o] = bias[o] + sum over i of x[i] * weight[rows[i], o].
struct Linear {
    const float* x;        // (inputs,)
    int64_t inputs;
    const int64_t* rows;   // (inputs,) or null for all in order
    const float* weight;   // (any, outputs)
    const float* bias;     // (outputs,)
    int64_t outputs;       // a multiple of 16
    float* to;             // (outputs,)
};

// Rows [first, last) of one image's output, of those filters that are numbers [filter, filter_end) of `rows`.
struct GatedPart {
    int64_t image, first, last, filter, filter_end;
};

}  // namespace squeeze
