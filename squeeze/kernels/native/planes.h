// A band's input as the taps of a kernel read it. Part of tile.h, which sets LANES.
#pragma once

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "clustered.h"
#include "vectors.h"

namespace squeeze {
namespace {

constexpr int64_t MOST = 2 * LANES;  // positions computed at a time

typedef int32_t Mask __attribute__((vector_size(LANES * 4)));
#ifdef __AVX512F__
typedef __mmask16 Keep;
constexpr int MASKS = 0;  // vectors of registers that two take
inline Keep kept(const int32_t* mask) { return _mm512_test_epi32_mask(_mm512_load_si512(mask), _mm512_set1_epi32(-1)); }
inline Vector load(const float* from, Keep keep) { return _mm512_maskz_loadu_ps(keep, from); }
#else
typedef Mask Keep;
constexpr int MASKS = 2;
inline Keep kept(const int32_t* mask) { return *reinterpret_cast<const Mask*>(mask); }
inline Vector load(const float* from, Keep keep) {
    return reinterpret_cast<Vector>(reinterpret_cast<Mask>(load(from)) & keep);
}
#endif

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// Where each tap of a kernel finds its input, for the positions of one band.
struct Taps {
    int64_t count, planes, plane, pitch, margin, least_row, most_row;
    int64_t offset[256];        // from a position in a channel's planes, in floats
    const int32_t* mask[256];   // lanes that lie within the row, by position; null if all do
};

Taps taps_of(const Layer& layer, const Call& call, const Band& band, Buffer& masks) {
    Taps taps;
    const int64_t K = layer.kernel, s = layer.stride, width = call.out_width;
    taps.count = K * K;
    taps.planes = s * s;
    taps.pitch = width;
    taps.least_row = floor_div(-layer.padding, s);
    taps.most_row = floor_div(K - 1 - layer.padding, s);
    taps.margin = LANES + K;
    const int64_t rows = band.last - band.first + taps.most_row - taps.least_row;
    taps.plane = rows * width + 2 * taps.margin + MOST;
    const int64_t positions = (band.last - band.first) * width, padded = (positions + MOST - 1) / MOST * MOST;
    const int64_t least = floor_div(-layer.padding, s), most = floor_div(K - 1 - layer.padding, s);
    int32_t* lanes = masks.of<int32_t>((most - least + 1) * padded);
    for (int64_t dx = least; dx <= most; ++dx)
        for (int64_t p = 0, x = 0; p < padded; ++p, x = x + 1 == width ? 0 : x + 1)
            lanes[(dx - least) * padded + p] = x + dx >= 0 && x + dx < width ? -1 : 0;
    for (int64_t ky = 0; ky < K; ++ky)
        for (int64_t kx = 0; kx < K; ++kx) {
            const int64_t dy = floor_div(ky - layer.padding, s), a = ky - layer.padding - s * dy;
            const int64_t dx = floor_div(kx - layer.padding, s), b = kx - layer.padding - s * dx;
            const int64_t t = ky * K + kx;
            taps.offset[t] = (a * s + b) * taps.plane + taps.margin + (dy - taps.least_row) * width + dx;
            taps.mask[t] = dx ? lanes + (dx - least) * padded : nullptr;
        }
    return taps;
}

inline void split_row(const float* from, int64_t size, float* even, float* odd, int64_t width) {
    const int64_t pairs = std::min(width, size / 2);
    for (int64_t x = 0; x < pairs; ++x) {
        even[x] = from[2 * x];
        odd[x] = from[2 * x + 1];
    }
    for (int64_t x = pairs; x < width; ++x) {
        even[x] = 2 * x < size ? from[2 * x] : 0;
        odd[x] = 0;
    }
}

// `size` floats, in vectors: the last may reach beyond.
inline void clear(float* to, int64_t size) {
    for (int64_t x = 0; x < size; x += LANES) store(to + x, Vector{});
}

// A channel's rows for a band, split by stride into planes as wide as the output, with zeros around.
void fill_planes(const Layer& layer, const Call& call, const Band& band, const Taps& taps, const float* input,
                 float* planes) {
    const int64_t s = layer.stride, width = call.out_width;
    const int64_t top = band.first + taps.least_row, bottom = band.last + taps.most_row;
    for (int64_t a = 0; a < s; ++a) {
        // Rows of this phase that lie within the input; those around them are zero.
        const int64_t inside = (call.height - a + s - 1) / s;
        const int64_t first = std::clamp<int64_t>(0, top, bottom), last = std::clamp(inside, first, bottom);
        float* base = planes + a * s * taps.plane + taps.margin;
        for (int64_t b = 0; b < s; ++b) clear(base + b * taps.plane, (first - top) * width);
        float* to = base + (first - top) * width;
        const float* from = input + (s * first + a) * call.width;
        if (s == 1 && width == call.width) {
            copy(from, (last - first) * width, to);
        } else {
            for (int64_t row = first; row < last; ++row, to += width, from += s * call.width)
                s == 1 ? copy_row(from, call.width, to, width)
                       : split_row(from, call.width, to, to + taps.plane, width);
        }
        for (int64_t b = 0; b < s; ++b)
            clear(base + b * taps.plane + (last - top) * width, (bottom - last) * width);
    }
}

}  // namespace
}  // namespace squeeze
