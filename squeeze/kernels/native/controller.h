// What decides which filters are computed: global average pooling, a bottleneck with ReLU, a logit for each filter.
// Part of each instruction set's file, which sets LANES.
#include <cstring>

#include "gated.h"
#include "vectors.h"

namespace squeeze {
namespace {

// The mean of a channel; in float32 no more than some thousand numbers are summed up.
inline float mean(const float* x, int64_t size) {
    constexpr int64_t RUN = 256 * LANES;
    double total = 0;
    for (int64_t begin = 0; begin < size; begin += RUN) {
        const int64_t end = std::min(begin + RUN, size);
        Vector sums[4] = {};
        int64_t i = begin;
        for (; i + 4 * LANES <= end; i += 4 * LANES)
            each<1, 4>([&](auto, auto k) __attribute__((always_inline)) { sums[k] += load(x + i + k * LANES); });
        for (; i + LANES <= end; i += LANES) sums[0] += load(x + i);
        const Vector sum = sums[0] + sums[1] + (sums[2] + sums[3]);
        for (int lane = 0; lane < LANES; ++lane) total += sum[lane];
        for (; i < end; ++i) total += x[i];
    }
    return static_cast<float>(total / size);
}

// to[o] = bias[o] + sum over i of x[i] * weight[row of i, o], for all outputs: multiples of LANES.
template <typename Row>
inline void linear(const float* x, int64_t inputs, const float* weight, const float* bias, int64_t outputs, Row row,
                   float* to) {
    for (int64_t o = 0; o < outputs; o += LANES) {
        Vector sums[4] = {load(bias + o)};
        int64_t i = 0;
        for (; i + 4 <= inputs; i += 4)
            each<1, 4>([&](auto, auto k) __attribute__((always_inline)) {
                sums[k] += x[i + k] * load(weight + row(i + k) * outputs + o);
            });
        for (; i < inputs; ++i) sums[i % 4] += x[i] * load(weight + row(i) * outputs + o);
        store(to + o, sums[0] + sums[1] + (sums[2] + sums[3]));
    }
}

void run_means(const GatedCall& call, int64_t first, int64_t last, float* means) {
    const int64_t size = call.height * call.width;
    for (int64_t c = first; c < last; ++c) means[c] = mean(call.input + c * size, size);
}

// The logits of one image.
void run_controller(const GatedLayer& layer, const GatedCall& call, const float* means, float* logits) {
    static thread_local Buffer memory;
    float* hidden = memory.of<float>(layer.hidden_padded + layer.filters_padded);
    float* padded = hidden + layer.hidden_padded;
    const int64_t* present = call.present;
    linear(means, call.reads, layer.reduce, layer.reduce_bias, layer.hidden_padded,
           [&](int64_t c) { return present ? present[c] : c; }, hidden);
    for (int64_t i = 0; i < layer.hidden; ++i) hidden[i] = hidden[i] < 0 ? 0 : hidden[i];
    linear(hidden, layer.hidden, layer.expand, layer.expand_bias, layer.filters_padded,
           [](int64_t i) { return i; }, padded);
    std::memcpy(logits, padded, layer.filters * sizeof(float));
}

}  // namespace
}  // namespace squeeze
