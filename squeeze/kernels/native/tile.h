// The computation, written once in vectors of the compiler (GCC, Clang) and compiled once for each instruction set,
// which sets LANES (floats in a vector) and REGISTERS (how many vectors the processor holds).
//
// y[n] = sum over c of Z[c, I(n, c)], Z[c, k] = x[c] * B[c, k]. Positions of the output are numbered row after row, and
// taken in tiles of two vectors. For a chunk of input channels, Z of one tile is computed into a buffer that stays in
// the first-level cache; then blocks of outputs are summed up from it in registers. Channels that keep all kernels are
// added in the same way, straight from x.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#include "clustered.h"

namespace squeeze {
namespace {

constexpr int64_t TILE = 2 * LANES;
constexpr int OUTPUTS = REGISTERS / 2 - 2;    // outputs summed at a time, two vectors each
constexpr int CENTROIDS = REGISTERS / 2 - 4;  // centroids convolved at a time, two vectors each
constexpr int64_t MOST_POSITIONS = 1024;

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef int32_t Mask __attribute__((vector_size(LANES * 4)));
typedef float Loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Loose*>(to) = value; }

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// Memory that a thread keeps from call to call.
struct Buffer {
    void* memory = nullptr;
    size_t size = 0;
    ~Buffer() { std::free(memory); }
    template <typename T>
    T* of(int64_t count) {
        size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
        if (bytes > size) {
            std::free(memory);
            memory = std::aligned_alloc(64, bytes);
            size = memory ? bytes : 0;
            if (!memory) std::abort();
        }
        return static_cast<T*>(memory);
    }
};

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
    taps.plane = rows * width + 2 * taps.margin + TILE;
    const int64_t positions = (band.last - band.first) * width, padded = (positions + TILE - 1) / TILE * TILE;
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

inline void copy_row(const float* from, int64_t size, float* to, int64_t width) {
    for (int64_t x = 0; x < width; ++x) to[x] = x < size ? from[x] : 0;
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

// A channel's rows for a band, split by stride into planes as wide as the output, with zeros around.
void fill_planes(const Layer& layer, const Call& call, const Band& band, const Taps& taps, const float* input,
                 float* planes) {
    const int64_t s = layer.stride, width = call.out_width;
    const int64_t top = band.first + taps.least_row, bottom = band.last + taps.most_row;
    for (int64_t a = 0; a < s; ++a) {
        // Rows of this phase that lie within the input; those around them are zero.
        const int64_t inside = (call.height - a + s - 1) / s;
        const int64_t first = std::clamp<int64_t>(0, top, bottom), last = std::clamp(inside, first, bottom);
        for (int64_t b = 0; b < s; ++b) {
            float* to = planes + (a * s + b) * taps.plane + taps.margin;
            std::memset(to, 0, (first - top) * width * sizeof(float));
            std::memset(to + (last - top) * width, 0, (bottom - last) * width * sizeof(float));
        }
        float* to = planes + a * s * taps.plane + taps.margin + (first - top) * width;
        const float* from = input + (s * first + a) * call.width;
        if (s == 1 && width == call.width) {
            std::memcpy(to, from, (last - first) * width * sizeof(float));
            continue;
        }
        for (int64_t row = first; row < last; ++row, to += width, from += s * call.width)
            s == 1 ? copy_row(from, call.width, to, width) : split_row(from, call.width, to, to + taps.plane, width);
    }
}

// Calls f with 0, 1, … as constants: what is indexed by them stays in registers.
template <typename F, int... I>
inline __attribute__((always_inline)) void each(F f, std::integer_sequence<int, I...>) {
    (f(std::integral_constant<int, I>{}), ...);
}
template <int N, int V, typename F>
inline __attribute__((always_inline)) void each(F f) {
    each([&](auto j) __attribute__((always_inline)) {
        each([&](auto i) __attribute__((always_inline)) { f(j, i); }, std::make_integer_sequence<int, V>{});
    }, std::make_integer_sequence<int, N>{});
}

// sums[k] += weights[t, k] * x[t] over all taps, for N kernels and V vectors of positions. K is the size of the kernel,
// or 0 where it is known only now; where it is constant, the masks of a tile stay in registers from channel to channel.
template <int N, int V, int K>
inline __attribute__((always_inline)) void convolve(const float* x, const Taps& taps, int64_t position,
                                                    const float* weights, int64_t stride, Vector (&sums)[N][V]) {
    const auto add = [&](int64_t t, bool masked) __attribute__((always_inline)) {
        // Opaque, or the compiler computes every address ahead of the loop over channels and spills them all.
        const float *from = x + taps.offset[t] + position, *weight = weights + t * stride;
        asm("" : "+r"(from), "+r"(weight));
        Vector v[V];
        each<1, V>([&](auto, auto i) __attribute__((always_inline)) {
            v[i] = load(from + i * LANES);
            if (masked) {
                const Mask keep = *reinterpret_cast<const Mask*>(taps.mask[t] + position + i * LANES);
                v[i] = reinterpret_cast<Vector>(reinterpret_cast<Mask>(v[i]) & keep);
            }
        });
        each<N, V>([&](auto k, auto i) __attribute__((always_inline)) {
            sums[k][i] += weight[k] * v[i];
        });
    };
    if constexpr (K == 0) {
        for (int64_t t = 0; t < taps.count; ++t) add(t, taps.mask[t]);
    } else {
#pragma GCC unroll 9
        for (int64_t t = 0; t < K * K; ++t) add(t, t % K != K / 2);
    }
}

// Z of `channels` channels with `count` centroids each, N of them at a time.
template <int N, int V, int K>
void convolve_centroids(const float* x, int64_t planes_channel, int64_t channels, const Taps& taps, int64_t position,
                        const float* centroids, int64_t count, float* z) {
    for (int64_t c = 0; c < channels; ++c) {
        Vector sums[N][V] = {};
        convolve<N, V, K>(x + c * planes_channel, taps, position, centroids + c * taps.count * count, count, sums);
        each<N, V>([&](auto k, auto i) __attribute__((always_inline)) {
            store(z + (c * count + k) * TILE + i * LANES, sums[k][i]);
        });
    }
}

// What a chunk adds to a tile of the output.
struct Sum {
    const Layer& layer;
    const Taps& taps;
    const float* planes;     // of the chunk's channels
    int64_t planes_channel;  // floats from one channel's planes to the next
    int64_t begin, end;      // the chunk's channels
    const float* z;
    float* partial;          // (outputs, TILE), what the chunks before have added
    float* output;           // of the tile's first position, first output
    int64_t plane;           // floats from one output's plane to the next
    int64_t position, valid; // of the tile within its band, and how many positions of it there are
    bool first, last;
};

template <int N, int V>
inline __attribute__((always_inline)) void begin_sums(const Sum& sum, int64_t n, Vector (&sums)[N][V]) {
    if (sum.first)
        each<N, V>([&](auto j, auto i) __attribute__((always_inline)) {
            sums[j][i] = Vector{} + (sum.layer.bias ? sum.layer.bias[n + j] : 0.0f);
        });
    else
        each<N, V>([&](auto j, auto i) __attribute__((always_inline)) {
            sums[j][i] = load(sum.partial + (n + j) * TILE + i * LANES);
        });
}

template <int N, int V>
inline __attribute__((always_inline)) void end_sums(const Sum& sum, int64_t n, const Vector (&sums)[N][V]) {
    const bool whole = sum.last && sum.valid >= V * LANES;
    float* to = whole ? sum.output + n * sum.plane : sum.partial + n * TILE;
    const int64_t stride = whole ? sum.plane : TILE;
    each<N, V>([&](auto j, auto i) __attribute__((always_inline)) { store(to + j * stride + i * LANES, sums[j][i]); });
    if (sum.last && !whole)
        for (int j = 0; j < N; ++j)
            std::memcpy(sum.output + (n + j) * sum.plane, sum.partial + (n + j) * TILE, sum.valid * sizeof(float));
}

// Four offsets in one load: loads are what this code is short of. The compiler is kept from making four of it again.
inline __attribute__((always_inline)) uint64_t four_offsets(const uint16_t* from) {
    uint64_t four;
    std::memcpy(&four, from, sizeof four);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    four = four << 48 | (four & 0xffff0000) << 16 | (four >> 16 & 0xffff0000) | four >> 48;
#endif
    asm("" : "+r"(four));
    return four;
}

template <int N, int V>
void sum_clusters(const Sum& sum, int64_t n) {
    Vector sums[N][V];
    begin_sums<N, V>(sum, n, sums);
    const uint16_t* offsets = sum.layer.offsets + sum.begin * sum.layer.outputs + n;
    for (int64_t c = sum.begin; c < sum.end; ++c, offsets += sum.layer.outputs) {
        uint64_t four = 0;
        each<N, V>([&](auto j, auto i) __attribute__((always_inline)) {
            if constexpr (j % 4 == 0 && i == 0) four = four_offsets(offsets + j);
            sums[j][i] += load(sum.z + 2 * (four >> (j % 4 * 16) & 0xffff) + i * LANES);
        });
    }
    end_sums<N, V>(sum, n, sums);
}

template <int N, int V, int K>
void sum_dense(const Sum& sum, int64_t n) {
    Vector sums[N][V];
    begin_sums<N, V>(sum, n, sums);
    const int64_t outputs = sum.layer.outputs;
    for (int64_t c = sum.begin; c < sum.end; ++c) {
        const float* x = sum.planes + (c - sum.begin) * sum.planes_channel;
        const float* weights = sum.layer.dense_weight + c * sum.taps.count * outputs + n;
        convolve<N, V, K>(x, sum.taps, sum.position, weights, outputs, sums);
    }
    end_sums<N, V>(sum, n, sums);
}

// Functions for 1 to `Most` rows at a time, by number.
template <template <int> class Step, int Most>
struct Table {
    std::decay_t<decltype(Step<1>::run)> step[Most + 1];
    constexpr Table() : step{} { fill<1>(); }
    template <int R>
    constexpr void fill() {
        step[R] = Step<R>::run;
        if constexpr (R < Most) fill<R + 1>();
    }
};
template <int V, int K>
struct Steps {
    template <int N>
    struct Centroids {
        static constexpr auto run = convolve_centroids<N, V, K>;
    };
    template <int N>
    struct Clusters {
        static constexpr auto run = sum_clusters<N, V>;
    };
    template <int N>
    struct Dense {
        static constexpr auto run = sum_dense<N, V, K>;
    };
};

// Calls step(from, rows) for blocks of nearly equal size, none above `most`.
template <typename Step>
inline void in_blocks(int64_t total, int64_t most, Step step) {
    const int64_t blocks = (total + most - 1) / most;
    for (int64_t b = 0, from = 0; b < blocks; ++b) {
        const int64_t rows = (total - from + blocks - b - 1) / (blocks - b);
        step(from, rows);
        from += rows;
    }
}

template <int V, int K>
void add_clusters(const Sum& sum, float* z) {
    constexpr auto centroids = Table<Steps<V, K>::template Centroids, CENTROIDS>();
    constexpr auto clusters = Table<Steps<V, K>::template Clusters, OUTPUTS>();
    const Layer& layer = sum.layer;
    for (int64_t c = sum.begin, end; c < sum.end; c = end) {
        const int64_t count = layer.count[c];
        for (end = c + 1; end < sum.end && layer.count[end] == count;) ++end;
        const float* x = sum.planes + (c - sum.begin) * sum.planes_channel;
        in_blocks(count, CENTROIDS, [&](int64_t k, int64_t rows) {
            centroids.step[rows](x, sum.planes_channel, end - c, sum.taps, sum.position,
                                 layer.centroids + layer.start[c] + k, count, z + k * TILE);
        });
        z += (end - c) * count * TILE;
    }
    in_blocks(layer.outputs, OUTPUTS, [&](int64_t n, int64_t rows) { clusters.step[rows](sum, n); });
}

template <int V, int K>
void add_dense(const Sum& sum, float*) {
    constexpr auto dense = Table<Steps<V, K>::template Dense, OUTPUTS>();
    in_blocks(sum.layer.outputs, OUTPUTS, [&](int64_t n, int64_t rows) { dense.step[rows](sum, n); });
}

// What adds a chunk to a tile of one vector or two.
struct Adders {
    void (*clusters[2])(const Sum&, float*);
    void (*dense[2])(const Sum&, float*);
};
template <int K>
constexpr Adders ADDERS{{add_clusters<1, K>, add_clusters<2, K>}, {add_dense<1, K>, add_dense<2, K>}};

void run(const Layer& layer, const Call& call, const Band& band) {
    static thread_local Buffer masks, planes, rows, partials;
    const Taps taps = taps_of(layer, call, band, masks);
    const bool plain = layer.stride == 1 && layer.padding == layer.kernel / 2;
    const Adders& adders = layer.kernel == 1 && plain ? ADDERS<1> : layer.kernel == 3 && plain ? ADDERS<3> : ADDERS<0>;
    const int64_t positions = (band.last - band.first) * call.out_width, tiles = (positions + TILE - 1) / TILE;
    constexpr int64_t DENSE_AT_ONCE = 32;
    int64_t most_rows = 1, most_channels = std::min(DENSE_AT_ONCE, layer.dense);
    for (int64_t g = 0; g < layer.chunks; ++g) {
        int64_t count = 0;
        for (int64_t c = layer.chunk[g]; c < layer.chunk[g + 1]; ++c) count += layer.count[c];
        most_rows = std::max(most_rows, count);
        most_channels = std::max<int64_t>(most_channels, layer.chunk[g + 1] - layer.chunk[g]);
    }
    const int64_t channel_planes = taps.planes * taps.plane;
    float* x = planes.of<float>(most_channels * channel_planes);
    float* z = rows.of<float>(most_rows * TILE);
    float* partial = partials.of<float>(tiles * layer.outputs * TILE);
    const float* image = call.input + band.image * call.input_image;
    const int64_t plane = call.out_height * call.out_width;
    float* output = call.output + band.image * call.output_image + band.first * call.out_width;
    const int64_t dense_chunks = (layer.dense + DENSE_AT_ONCE - 1) / DENSE_AT_ONCE;
    for (int64_t g = 0; g < layer.chunks + dense_chunks; ++g) {
        const bool clustered = g < layer.chunks;
        const int64_t begin = clustered ? layer.chunk[g] : (g - layer.chunks) * DENSE_AT_ONCE;
        const int64_t end = clustered ? layer.chunk[g + 1] : std::min(begin + DENSE_AT_ONCE, layer.dense);
        const int32_t* which = clustered ? layer.channel : layer.dense_channel;
        for (int64_t c = begin; c < end; ++c)
            fill_planes(layer, call, band, taps, image + which[c] * call.height * call.width,
                        x + (c - begin) * channel_planes);
        for (int64_t tile = 0; tile < tiles; ++tile) {
            const int64_t position = tile * TILE, valid = std::min(TILE, positions - position);
            const Sum sum{layer, taps, x, channel_planes, begin, end, z, partial + tile * layer.outputs * TILE,
                          output + position, plane, position, valid, g == 0, g + 1 == layer.chunks + dense_chunks};
            (clustered ? adders.clusters : adders.dense)[valid > LANES](sum, z);
        }
    }
    if (layer.chunks + dense_chunks == 0)
        for (int64_t n = 0; n < layer.outputs; ++n)
            for (int64_t p = 0; p < positions; ++p) output[n * plane + p] = layer.bias ? layer.bias[n] : 0.0f;
}

}  // namespace
}  // namespace squeeze
