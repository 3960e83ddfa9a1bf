// Some filters of a convolution, on some channels, written once in vectors of the compiler and compiled once for each
// instruction set, which sets LANES (floats in a vector) and REGISTERS (how many vectors the processor holds).
//
// y[n] = bias[n] + sum over c, t of weight[n, c, t] * x[c, t], x[c, t] being the input as tap t of the kernel reads it.
// Positions of the output are numbered row after row; vectors run over positions, so that a weight is one number for all
// of a vector, and is read where it lies: no filter is copied. Sums of F filters on V vectors are held in registers while
// all channels and taps go by. The input is copied first, as the taps read it: see copies.h.
#include <cstring>

#include "copies.h"

namespace squeeze {
namespace {

constexpr int MOST_VECTORS = REGISTERS >= 32 ? 6 : 3;
constexpr int MOST_FILTERS = 14;
// Beside the sums there are V vectors of input and a weight.
constexpr int most_filters(int vectors) {
    return std::max(1, std::min(MOST_FILTERS, (REGISTERS - 1 - vectors) / vectors));
}

// A filter that is computed.
struct Filter {
    const float* weight;
    float bias;
    float* output;      // of its first position
    int64_t channel;    // that it begins to read at, among those that are there
};

// The input as the taps read it: channel c of the tile at `position` is at x + position * apart + c * channel.
struct Planes {
    const float* x;
    int64_t apart, channel;
    const int64_t* offset;   // (taps,) from a position in a channel
    int64_t taps;
    const int64_t* weights;  // (reads,) where the weights of each channel begin in a filter
    int64_t reads;           // channels that one filter reads
};

// V vectors of positions from `position` on, of which `valid` are computed.
template <int F, int V>
void filters_on_tile(const Planes& planes, const Filter* filter, int64_t position, int64_t valid) {
    const float* weight[F];
    Vector sums[F][V];
    each<F, 1>([&](auto f, auto) __attribute__((always_inline)) { weight[f] = filter[f].weight; });
    each<F, V>([&](auto f, auto i) __attribute__((always_inline)) { sums[f][i] = Vector{} + filter[f].bias; });
    const float* x = planes.x + position * planes.apart + filter->channel * planes.channel;
    for (int64_t c = 0; c < planes.reads; ++c, x += planes.channel) {
        int64_t at = planes.weights[c];
        const int64_t *offset = planes.offset, *end = offset + planes.taps;
        do {
            const float* from = x + *offset;
            Vector v[V];
            each<1, V>([&](auto, auto i) __attribute__((always_inline)) { v[i] = load(from + i * LANES); });
            each<F, V>([&](auto f, auto i) __attribute__((always_inline)) { sums[f][i] += weight[f][at] * v[i]; });
            ++at;
        } while (++offset < end);
    }
    const bool whole = valid >= V * LANES;
    each<F, V>([&](auto f, auto i) __attribute__((always_inline)) {
        float* to = filter[f].output + position + i * LANES;
        const Vector sum = sums[f][i];  // its own, so that the sums need no address
        if (i < V - 1 || whole)
            store(to, sum);
        else
            std::memcpy(to, &sum, (valid - i * LANES) * sizeof(float));
    });
}

template <int V>
struct OnVectors {
    template <int F>
    struct Filters {
        static constexpr auto run = filters_on_tile<F, V>;
    };
    static constexpr auto table = Table<Filters, most_filters(V)>();
    static void run(const Planes& planes, const Filter* filter, int64_t filters, int64_t position, int64_t valid) {
        table.step[filters](planes, filter, position, valid);
    }
};

// By the number of vectors.
constexpr Table<OnVectors, MOST_VECTORS> ON_VECTORS;

// How many vectors a tile should have. A tap takes as long as its multiplications, or its loads, or until a sum can be
// added to again; and a little more for each load, two where the processor has too few registers for pointers to filters.
inline int64_t vectors_of_a_tile(int64_t vectors, int64_t filters) {
    int64_t best = 1;
    double least = 0;
    for (int64_t most = 1; most <= MOST_VECTORS; ++most) {
        const int64_t tiles = (vectors + most - 1) / most, blocks = (filters + most_filters(most) - 1) / most_filters(most);
        const double v = static_cast<double>(vectors) / tiles, f = static_cast<double>(filters) / blocks;
        const double loads = v + (f > 6 ? 2 * f : f);
        const double cost = tiles * blocks * (std::max({f * v, loads, 8.0}) + 0.2 * loads);
        if (most == 1 || cost < least) best = most, least = cost;
    }
    return best;
}

// All filters on `positions`, in tiles of at most `most` vectors.
inline void filters_on(const Planes& planes, const Filter* filter, int64_t filters, int64_t positions, int64_t most) {
    in_blocks(filters, most_filters(most), 1, [&](int64_t from, int64_t some) {
        in_blocks((positions + LANES - 1) / LANES, most, 1, [&](int64_t before, int64_t vectors) {
            const int64_t position = before * LANES;
            ON_VECTORS.step[vectors](planes, filter + from, some, position, positions - position);
        });
    });
}

// The same for kernels of one tap, which read each position where it lies: in the input itself, or, where a tile would be
// spread over more pages than a processor knows at a time, or reach beyond the input's end, in a copy of the tile.
void filters_of_one_tap(Planes planes, const Filter* filter, int64_t filters, int64_t positions, int64_t most) {
    static thread_local Buffer copied;
    constexpr int64_t FEW = 96;
    const float* input = planes.x;
    const int64_t plane = planes.channel;
    in_blocks((positions + LANES - 1) / LANES, most, 1, [&](int64_t before, int64_t vectors) {
        const int64_t position = before * LANES, size = vectors * LANES, valid = std::min(size, positions - position);
        const float* from = input + position;
        if (valid == size && planes.reads <= FEW) {
            planes.x = from;
            planes.channel = plane;
        } else {
            float* to = copied.of<float>(planes.reads * size);
            planes.x = to;
            planes.channel = size;
            for (int64_t c = 0; c < planes.reads; ++c, from += plane) {
                int64_t i = 0;
                for (; i + LANES <= valid; i += LANES, to += LANES) store(to, load(from + i));
                for (; i < size; ++i) *to++ = i < valid ? from[i] : 0;
            }
        }
        in_blocks(filters, most_filters(most), 1, [&](int64_t first, int64_t some) {
            ON_VECTORS.step[vectors](planes, filter + first, some, position, valid);
        });
    });
}

// The filters of a part that are computed for its image; the outputs of all others are set to 0.
inline int64_t filters_of(const GatedLayer& layer, const GatedCall& call, const GatedPart& part, Filter* filter) {
    const int64_t plane = call.out_height * call.out_width, taps = layer.kernel_height * layer.kernel_width;
    const int64_t places = call.scatter ? layer.filters : call.count;
    const int64_t from = part.first * call.out_width, positions = (part.last - part.first) * call.out_width;
    const float* logits = call.logits ? call.logits + part.image * layer.filters : nullptr;
    float* output = call.output + part.image * places * plane + from;
    int64_t found = 0, next = part.filter == 0 || !call.scatter ? 0 : call.rows[part.filter - 1] + 1;
    const auto clear = [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) std::fill_n(output + n * plane, positions, 0.0f);
    };
    for (int64_t i = part.filter; i < part.filter_end; ++i) {
        const int64_t n = call.rows[i], place = call.scatter ? n : i;
        if (call.scatter) clear(next, n);
        next = n + 1;
        if (logits && !(logits[n] > 0))
            clear(place, place + 1);
        else
            filter[found++] = {layer.weight + n * (layer.depthwise ? 1 : layer.channels) * taps,
                               layer.bias ? layer.bias[n] : 0.0f, output + place * plane, layer.depthwise ? i : 0};
    }
    if (call.scatter && part.filter_end == call.count) clear(next, layer.filters);
    return found;
}

// Every tap of the output is a position of the input.
inline bool has_one_tap(const GatedLayer& layer) {
    return layer.kernel_height * layer.kernel_width * layer.stride_height * layer.stride_width == 1 &&
           layer.padding_height + layer.padding_width == 0;
}

void run_filters(const GatedLayer& layer, const GatedCall& call, const GatedPart& part) {
    static thread_local Buffer filters, numbers, copied;
    Filter* filter = filters.of<Filter>(call.count);
    const int64_t computed = filters_of(layer, call, part, filter), taps = layer.kernel_height * layer.kernel_width;
    if (!computed) return;
    int64_t* offset = numbers.of<int64_t>(taps + call.reads);
    int64_t* weights = offset + taps;
    for (int64_t c = 0; c < call.reads; ++c)
        weights[c] = layer.depthwise ? 0 : (call.present ? call.present[c] : c) * taps;
    const int64_t size = call.height * call.width, positions = (part.last - part.first) * call.out_width;
    const float* input = call.input + part.image * call.reads * size;
    const int64_t most = vectors_of_a_tile((positions + LANES - 1) / LANES, layer.depthwise ? 1 : computed);
    if (has_one_tap(layer) && !layer.depthwise) {
        *offset = 0;
        const Planes planes{input + part.first * call.width, 0, size, offset, 1, weights, call.reads};
        return filters_of_one_tap(planes, filter, computed, positions, most);
    }
    const Copies copies = copies_of(layer, call, part);
    offsets_of(layer, copies, offset);
    float* to = copied.of<float>(call.reads * copies.channel + LANES);
    copy_channels(layer, call, part, copies, input, to);
    const Planes planes{to, 1, copies.channel, offset, taps, weights, layer.depthwise ? 1 : call.reads};
    if (!layer.depthwise) return filters_on(planes, filter, computed, positions, most);
    for (int64_t f = 0; f < computed; ++f) filters_on(planes, filter + f, 1, positions, most);
}

}  // namespace
}  // namespace squeeze
