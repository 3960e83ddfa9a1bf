// The kernels on random layers, checked against sums written out, in a program that sanitizers watch.
// Every array has exactly the size that clustered.h and gated.h promise, so that a read or write beyond it is found.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "../../squeeze/kernels/native/clustered.h"

extern "C" {
const char* squeeze_clustered_code(const char*, int64_t*, int64_t*);
int squeeze_clustered_conv2d(const char*, const squeeze::Layer*, const squeeze::Call*, int64_t);
int64_t squeeze_gated_rows(const char*, const squeeze::GatedLayer*, const squeeze::GatedCall*, int64_t);
int64_t squeeze_gated_conv2d(const squeeze::GatedSite*, const float*, float*, const int64_t*, int64_t, int64_t, int64_t);
}

static std::mt19937 source(1);
static int64_t any(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(source); }
static float number() { return std::normal_distribution<float>()(source); }

template <typename T>
static const T* exactly(std::vector<std::unique_ptr<T[]>>& kept, const std::vector<T>& values) {
    kept.emplace_back(new T[values.size()]);
    std::copy(values.begin(), values.end(), kept.back().get());
    return kept.back().get();
}

static double one_layer(const char* name, int64_t vector_bytes, int64_t z_bytes) {
    const int64_t N = any(1, 40), C = any(1, 12), K = 2 * any(0, 2) + 1, s = any(1, 2), p = any(K / 2, K - 1);
    const int64_t images = any(1, 2), H = any(1, 30), W = any(1, 30), threads = any(1, 3), vectors = any(1, 2);
    const int64_t oh = (H + 2 * p - K) / s + 1, ow = (W + 2 * p - K) / s + 1, row = vectors * vector_bytes;
    std::vector<int32_t> channel, count, chunk{0}, dense_channel;
    std::vector<int64_t> start;
    std::vector<float> centroids, dense_weight, bias, weight(N * C * K * K);
    std::vector<uint16_t> offsets;
    int64_t rows = 0, most = 0;
    for (int64_t c = 0; c < C; ++c) {
        const int64_t kind = any(0, 3), q = any(1, 30);
        if (kind == 0) continue;
        if (kind == 1) {
            dense_channel.push_back(c);
            for (int64_t t = 0; t < K * K; ++t)
                for (int64_t n = 0; n < N; ++n) dense_weight.push_back(weight[(n * C + c) * K * K + t] = number());
            continue;
        }
        if (rows && (rows + q) * row > z_bytes) chunk.push_back(channel.size()), rows = 0;
        channel.push_back(c);
        count.push_back(q);
        start.push_back(centroids.size());
        for (int64_t i = 0; i < q * K * K; ++i) centroids.push_back(number());
        for (int64_t n = 0; n < N; ++n) {
            const int64_t k = any(0, q - 1);
            offsets.push_back((rows + k) * row / 8);
            for (int64_t t = 0; t < K * K; ++t) weight[(n * C + c) * K * K + t] = centroids[start.back() + t * q + k];
        }
        rows += q;
        most = std::max(most, rows);
    }
    if (!channel.empty()) chunk.push_back(channel.size());
    for (int i = 0; i < 4; ++i) offsets.push_back(0);
    for (int64_t n = 0; n < N; ++n) bias.push_back(number());
    // Every chunk and dense channel a stage of its own, or all one stage after the other.
    const int32_t chunks = chunk.size() - 1, dense = dense_channel.size();
    std::vector<squeeze::Stage> stage;
    if (any(0, 1)) {
        for (int32_t g = 0; g < chunks; ++g) stage.push_back({g, g + 1, 0, 0});
        for (int32_t c = 0; c < dense; ++c) stage.push_back({chunks, chunks, c, c + 1});
    } else {
        stage = {{0, chunks, 0, 0}, {chunks, chunks, 0, dense}};
    }
    std::vector<std::unique_ptr<squeeze::Stage[]>> stages;
    std::vector<std::unique_ptr<int32_t[]>> ints;
    std::vector<std::unique_ptr<int64_t[]>> longs;
    std::vector<std::unique_ptr<float[]>> floats;
    std::vector<std::unique_ptr<uint16_t[]>> shorts;
    const squeeze::Layer layer{N, K, s, p, vectors, (int64_t)channel.size(), exactly(ints, channel), exactly(ints, count),
                               exactly(longs, start), exactly(floats, centroids), exactly(shorts, offsets),
                               chunks, exactly(ints, chunk), most, (int64_t)stage.size(), exactly(stages, stage), dense,
                               exactly(ints, dense_channel), exactly(floats, dense_weight), exactly(floats, bias)};
    std::vector<float> values(images * C * H * W);
    for (float& v : values) v = number();
    const float* x = exactly(floats, values);
    std::unique_ptr<float[]> y(new float[images * N * oh * ow]);
    const squeeze::Call call{x, y.get(), images, H, W, oh, ow, C * H * W, N * oh * ow};
    if (squeeze_clustered_conv2d(name, &layer, &call, threads)) return 1e9;
    double worst = 0;
    for (int64_t i = 0; i < images; ++i)
        for (int64_t n = 0; n < N; ++n)
            for (int64_t r = 0; r < oh; ++r)
                for (int64_t q = 0; q < ow; ++q) {
                    double sum = bias[n];
                    for (int64_t c = 0; c < C; ++c)
                        for (int64_t t = 0; t < K * K; ++t) {
                            const int64_t a = s * r + t / K - p, b = s * q + t % K - p;
                            if (a >= 0 && a < H && b >= 0 && b < W)
                                sum += double(weight[(n * C + c) * K * K + t]) * x[((i * C + c) * H + a) * W + b];
                        }
                    worst = std::max(worst, std::fabs(sum - y[((i * N + n) * oh + r) * ow + q]));
                }
    return worst;
}

static const float* numbers(std::vector<std::unique_ptr<float[]>>& kept, int64_t count) {
    std::vector<float> values(count);
    for (float& v : values) v = number();
    return exactly(kept, values);
}

// Numbers below `size`, in order, about half of them.
static std::vector<int64_t> some_below(int64_t size) {
    std::vector<int64_t> found;
    for (int64_t i = 0; i < size; ++i)
        if (any(0, 1)) found.push_back(i);
    return found;
}

static double gated_layer(const char* name) {
    const bool depthwise = any(0, 4) == 0, decides = !depthwise && any(0, 1), narrow = any(0, 1);
    const int64_t C = any(1, 20), N = depthwise ? C : any(1, 40), h = any(1, 20), hp = (h + 15) / 16 * 16, np = (N + 15) / 16 * 16;
    const int64_t kh = any(1, 5), kw = any(1, 5), sh = any(1, 3), sw = any(1, 3), ph = any(0, 5), pw = any(0, 5);
    const int64_t dh = any(1, 2), dw = any(1, 2), images = any(1, 2), threads = any(1, 3);
    const int64_t H = std::max<int64_t>(any(1, 24), (kh - 1) * dh + 1), W = std::max<int64_t>(any(1, 24), (kw - 1) * dw + 1);
    const bool in_place = any(0, 3) == 0;  // a kernel of one tap, that copies nothing
    const squeeze::GatedLayer drawn{N, C, depthwise, kh, kw, sh, sw, ph, pw, dh, dw, nullptr, nullptr, h, hp, np,
                                    nullptr, nullptr, nullptr, nullptr};
    squeeze::GatedLayer layer = drawn;
    if (in_place) {
        layer.kernel_height = layer.kernel_width = layer.stride_height = layer.stride_width = 1;
        layer.padding_height = layer.padding_width = 0;
    }
    const int64_t taps = layer.kernel_height * layer.kernel_width;
    const int64_t oh = (H + 2 * layer.padding_height - dh * (layer.kernel_height - 1) - 1) / layer.stride_height + 1;
    const int64_t ow = (W + 2 * layer.padding_width - dw * (layer.kernel_width - 1) - 1) / layer.stride_width + 1;
    std::vector<std::unique_ptr<float[]>> floats;
    std::vector<std::unique_ptr<int64_t[]>> longs;
    layer.weight = numbers(floats, N * (depthwise ? 1 : C) * taps);
    layer.bias = numbers(floats, N);
    layer.reduce = numbers(floats, C * hp);
    layer.reduce_bias = numbers(floats, hp);
    layer.expand = numbers(floats, h * np);
    layer.expand_bias = numbers(floats, np);
    const std::vector<int64_t> rows = some_below(N), present = depthwise ? rows : some_below(C);
    const int64_t reads = present.size(), places = narrow && !decides ? rows.size() : N;
    std::unique_ptr<float[]> y(new float[images * places * oh * ow]), logits(new float[images * N]);
    std::unique_ptr<int64_t[]> found(new int64_t[decides ? N : rows.size()]);
    if (!decides) std::copy(rows.begin(), rows.end(), found.get());
    const float* x = numbers(floats, images * reads * H * W);
    const squeeze::GatedCall call{x, y.get(), decides ? logits.get() : nullptr, exactly(longs, present), found.get(), images,
                                  reads, decides ? 0 : (int64_t)rows.size(), H, W, oh, ow, !narrow};
    int64_t count = rows.size();
    if (decides) {
        const squeeze::GatedSite site{name, &layer, {nullptr, nullptr, logits.get(), nullptr, found.get(), images, 0, 0,
                                                     H, W, oh, ow, 0}};
        const int64_t on = squeeze_gated_conv2d(&site, x, y.get(), call.present, reads, !narrow, threads);
        if (on < 0) return 1e9;
        count = std::max<int64_t>(on, 1);
    } else if (squeeze_gated_rows(name, &layer, &call, threads)) {
        return 1e9;
    }
    double worst = 0;
    for (int64_t i = 0; i < images; ++i)
        for (int64_t place = 0; place < (narrow ? count : N); ++place) {
            const int64_t n = narrow ? found[place] : place;
            bool on = std::find(found.get(), found.get() + count, n) < found.get() + count;
            if (decides) on = on && logits[i * N + n] > 0;
            const float* plane = y.get() + (i * (narrow ? count : N) + place) * oh * ow;
            for (int64_t r = 0; r < oh; ++r)
                for (int64_t q = 0; q < ow; ++q) {
                    double sum = on ? layer.bias[n] : 0;
                    for (int64_t c = 0; on && c < reads; ++c)
                        for (int64_t t = 0; t < taps; ++t) {
                            const int64_t a = layer.stride_height * r + t / layer.kernel_width * dh - layer.padding_height;
                            const int64_t b = layer.stride_width * q + t % layer.kernel_width * dw - layer.padding_width;
                            if (a < 0 || a >= H || b < 0 || b >= W || (depthwise && present[c] != n)) continue;
                            const int64_t channel = depthwise ? n : n * C + present[c];
                            sum += double(layer.weight[channel * taps + t]) * x[((i * reads + c) * H + a) * W + b];
                        }
                    worst = std::max(worst, std::fabs(sum - plane[r * ow + q]));
                }
        }
    return worst;
}

int main(int, char** arguments) {
    const int layers = std::atoi(arguments[1]);
    for (const char* name : {"avx512", "avx2", "neon", "portable"}) {
        int64_t vector_bytes = 0, cache_bytes = 0;
        if (!squeeze_clustered_code(name, &vector_bytes, &cache_bytes)) continue;
        double worst = 0;
        for (int i = 0; i < layers; ++i) worst = std::max(worst, one_layer(name, vector_bytes, i % 2 ? cache_bytes : 1024));
        for (int i = 0; i < layers; ++i) worst = std::max(worst, gated_layer(name));
        std::printf("%s %g\n", name, worst);
        if (!(worst < 1e-3)) return 1;
    }
    return 0;
}
