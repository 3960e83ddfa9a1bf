// Some filters of a convolution, on some channels, written once in vectors of the compiler and compiled once for each
// instruction set, which sets LANES (floats in a vector) and REGISTERS (how many vectors the processor holds).
//
// y[n] = bias[n] + sum over c, t of weight[n, c, t] * x[c, t], x[c, t] being the input as tap t of the kernel reads it.
// Positions of the output are numbered row after row; vectors run over positions, so that a weight is one number for all
// of a vector, and is read where it lies: no filter is copied. Sums of F filters on V vectors are held in registers while
// all channels and taps go by. So that a tap reads whole vectors, each channel is copied once for each column of the
// kernel, shifted and with zeros around, split into phases where rows are skipped.
#include <cstring>

#include "gated.h"
#include "vectors.h"

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

// The input as the taps read it.
struct Planes {
    const float* x;          // of the first channel
    int64_t channel;         // floats from one channel to the next
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
    const float* x = planes.x + filter->channel * planes.channel + position;
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

// How many vectors a tile should have: each step of a tile takes as long as its multiplications or its loads.
inline int64_t vectors_of_a_tile(int64_t vectors, int64_t filters) {
    int64_t best = 1;
    double least = 0;
    for (int64_t most = 1; most <= MOST_VECTORS; ++most) {
        const int64_t tiles = (vectors + most - 1) / most, blocks = (filters + most_filters(most) - 1) / most_filters(most);
        const double v = static_cast<double>(vectors) / tiles, f = static_cast<double>(filters) / blocks;
        const double cost = tiles * blocks * (std::max({f * v, f + v + 1, 8.0}) + 1);
        if (most == 1 || cost < least) best = most, least = cost;
    }
    return best;
}

// All filters on positions [begin, end).
inline void filters_on(const Planes& planes, const Filter* filter, int64_t filters, int64_t begin, int64_t end) {
    const int64_t vectors = (end - begin + LANES - 1) / LANES;
    if (!filters || !vectors) return;
    const int64_t most = vectors_of_a_tile(vectors, filters), at_once = most_filters(most);
    const int64_t blocks = (filters + at_once - 1) / at_once, tiles = (vectors + most - 1) / most;
    for (int64_t b = 0, from = 0; b < blocks; ++b) {
        const int64_t some = (filters - from + blocks - b - 1) / (blocks - b);
        for (int64_t t = 0, position = begin, left = vectors; t < tiles; ++t) {
            const int64_t size = (left + tiles - t - 1) / (tiles - t);
            ON_VECTORS.step[size](planes, filter + from, some, position, end - position);
            position += size * LANES;
            left -= size;
        }
        from += some;
    }
}

// What is copied of one part's input.
struct Copies {
    int64_t phases, rows, plane;  // rows of the input that are skipped lie in planes of their own
    int64_t channel() const { return phases * plane; }
};

inline Copies copies_of(const GatedLayer& layer, const GatedCall& call, const GatedPart& part) {
    const int64_t reach = (layer.kernel_height - 1) * layer.dilation_height;
    Copies copies;
    copies.phases = std::min(layer.stride_height, reach + 1);
    copies.rows = part.last - part.first + reach / layer.stride_height;
    copies.plane = (layer.kernel_width * copies.rows * call.out_width + 15) / 16 * 16;
    return copies;
}

inline void offsets_of(const GatedLayer& layer, const GatedCall& call, const Copies& copies, int64_t* offset) {
    for (int64_t ky = 0; ky < layer.kernel_height; ++ky)
        for (int64_t kx = 0; kx < layer.kernel_width; ++kx) {
            const int64_t row = ky * layer.dilation_height;
            *offset++ = row % layer.stride_height * copies.plane +
                        (kx * copies.rows + row / layer.stride_height) * call.out_width;
        }
}

inline int64_t up(int64_t a, int64_t b) { return a > 0 ? (a + b - 1) / b : 0; }

// The columns of an output row that lie within the input, at one column of the kernel.
struct Span {
    int64_t shift, first, last;
};

inline Span span_of(const GatedLayer& layer, const GatedCall& call, int64_t kx) {
    const int64_t shift = kx * layer.dilation_width - layer.padding_width, s = layer.stride_width;
    const int64_t last = std::clamp<int64_t>(up(call.width - shift, s), 0, call.out_width);
    return {shift, std::min(up(-shift, s), last), last};
}

// One phase of a channel's rows, at one column of the kernel.
inline void copy_rows(const GatedLayer& layer, const GatedCall& call, const Span& span, int64_t top, int64_t rows,
                      const float* input, float* to) {
    const int64_t width = call.out_width, s = layer.stride_width, step = layer.stride_height;
    const int64_t first = std::min(up(-top, step), rows);
    const int64_t last = std::clamp<int64_t>(up(call.height - top, step), first, rows);
    std::fill(to, to + first * width, 0.0f);
    std::fill(to + last * width, to + rows * width, 0.0f);
    if (s == 1 && step == 1 && width == call.width && span.first < span.last && first < last) {
        // All rows in one go; what came from the row before or behind is taken out again.
        const float* from = input + (top + first) * width + span.shift;
        const int64_t begin = std::max<int64_t>(-span.shift, 0), end = std::max<int64_t>(span.shift, 0);
        copy(from + begin, (last - first) * width - begin - end, to + first * width + begin);
        for (int64_t r = first; r < last; ++r) {
            for (int64_t x = 0; x < span.first; ++x) to[r * width + x] = 0;
            for (int64_t x = span.last; x < width; ++x) to[r * width + x] = 0;
        }
        return;
    }
    for (int64_t r = first; r < last; ++r) {
        const float* from = input + (top + r * step) * call.width + span.shift;
        float* row = to + r * width;
        std::fill(row, row + span.first, 0.0f);
        if (s == 1)
            std::copy(from + span.first, from + span.last, row + span.first);
        else if (s == 2)
            for (int64_t x = span.first; x < span.last; ++x) row[x] = from[2 * x];
        else
            for (int64_t x = span.first; x < span.last; ++x) row[x] = from[s * x];
        std::fill(row + span.last, row + width, 0.0f);
    }
}

inline void copy_channel(const GatedLayer& layer, const GatedCall& call, const GatedPart& part, const Copies& copies,
                         const float* input, float* to) {
    for (int64_t kx = 0; kx < layer.kernel_width; ++kx) {
        const Span span = span_of(layer, call, kx);
        for (int64_t phase = 0; phase < copies.phases; ++phase) {
            const int64_t top = part.first * layer.stride_height + phase - layer.padding_height;
            copy_rows(layer, call, span, top, copies.rows, input,
                      to + phase * copies.plane + kx * copies.rows * call.out_width);
        }
    }
}

// A 1 x 1 kernel reads each position where it lies.
inline bool reads_in_place(const GatedLayer& layer) {
    return layer.kernel_height * layer.kernel_width * layer.stride_height * layer.stride_width == 1 &&
           layer.padding_height + layer.padding_width == 0;
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

void run_filters(const GatedLayer& layer, const GatedCall& call, const GatedPart& part) {
    static thread_local Buffer filters, numbers, copied;
    Filter* filter = filters.of<Filter>(call.count);
    const int64_t computed = filters_of(layer, call, part, filter), taps = layer.kernel_height * layer.kernel_width;
    if (!computed) return;
    int64_t* offset = numbers.of<int64_t>(taps + call.reads);
    int64_t* weights = offset + taps;
    for (int64_t c = 0; c < call.reads; ++c)
        weights[c] = layer.depthwise ? 0 : (call.present ? call.present[c] : c) * taps;
    Planes planes{nullptr, 0, offset, taps, weights, layer.depthwise ? 1 : call.reads};
    const int64_t size = call.height * call.width, positions = (part.last - part.first) * call.out_width;
    const float* input = call.input + part.image * call.reads * size;
    const auto compute = [&](int64_t begin, int64_t end) {
        if (!layer.depthwise) return filters_on(planes, filter, computed, begin, end);
        for (int64_t f = 0; f < computed; ++f) filters_on(planes, filter + f, 1, begin, end);
    };
    int64_t begin = 0;
    if (reads_in_place(layer)) {
        // But for the last vector, which would read beyond the input.
        *offset = 0;
        planes.x = input + part.first * call.width;
        planes.channel = size;
        begin = positions / LANES * LANES;
        compute(0, begin);
        if (begin == positions) return;
        float* rest = copied.of<float>(call.reads * LANES);
        for (int64_t c = 0; c < call.reads; ++c)
            for (int64_t i = 0; i < LANES; ++i)
                rest[c * LANES + i] = begin + i < positions ? planes.x[c * size + begin + i] : 0;
        planes.x = rest - begin;
        planes.channel = LANES;
    } else {
        const Copies copies = copies_of(layer, call, part);
        offsets_of(layer, call, copies, offset);
        planes.channel = copies.channel();
        const int64_t all = call.reads * planes.channel;
        float* to = copied.of<float>(all + LANES);
        for (int64_t c = 0; c < call.reads; ++c)
            copy_channel(layer, call, part, copies, input + c * size, to + c * planes.channel);
        std::fill_n(to + all, LANES, 0.0f);
        planes.x = to;
    }
    compute(begin, positions);
}

}  // namespace
}  // namespace squeeze
