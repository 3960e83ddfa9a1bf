// What decides which filters are computed: global average pooling, a bottleneck with ReLU, a logit for each filter.
// Part of each instruction set's file, which sets LANES.
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

void run_means(const GatedCall& call, int64_t first, int64_t last, float* means) {
    const int64_t size = call.height * call.width;
    for (int64_t c = first; c < last; ++c) means[c] = mean(call.input + c * size, size);
}

// Row by row, so that a large weight is read in the order in which it lies; sums stay in the first-level cache.
void run_linear(const Linear& of, int64_t first, int64_t last) {
    const auto row = [&](int64_t i) { return of.weight + (of.rows ? of.rows[i] : i) * of.outputs; };
    float* to = of.to;
    for (int64_t o = first; o < last; o += LANES) store(to + o, load(of.bias + o));
    int64_t i = 0;
    for (; i + 4 <= of.inputs; i += 4) {
        const float *x = of.x + i, *a = row(i), *b = row(i + 1), *c = row(i + 2), *d = row(i + 3);
        for (int64_t o = first; o < last; o += LANES)
            store(to + o, load(to + o) + (x[0] * load(a + o) + x[1] * load(b + o) + (x[2] * load(c + o) + x[3] * load(d + o))));
    }
    for (; i < of.inputs; ++i)
        for (int64_t o = first; o < last; o += LANES) store(to + o, load(to + o) + of.x[i] * load(row(i) + o));
}

}  // namespace
}  // namespace squeeze
