// The computation, written once in vectors of the compiler (GCC, Clang) and compiled once for each instruction set,
// which sets LANES (floats in a vector) and REGISTERS (how many vectors the processor holds).
//
// y[n] = sum over c of Z[c, I(n, c)], Z[c, k] = x[c] * B[c, k]. Positions of the output are numbered row after row, and
// taken in tiles of one or two vectors: two need fewer loads of offsets, one leaves room for more channels. A tile is
// finished before the next begins: for one chunk of input channels after the other, Z of the tile is computed into a
// buffer in the first-level cache, then blocks of outputs are summed up from it in registers. Channels that keep all
// kernels are added in the same way, straight from x. Where centroids are too many for the second-level cache, all tiles
// of a band are taken one stage of the layer after the other.
#include <cstring>

#include "planes.h"

namespace squeeze {
namespace {

// A tile of `Size` vectors, of which the first V are computed: all of them, or one at the end of a band.
template <int Size, int V_>
struct Form {
    static constexpr int V = V_, TILE = Size * LANES;
    static constexpr int OUTPUTS = (REGISTERS - 4) / Size;     // summed at a time
    static constexpr int DENSE = OUTPUTS < 14 ? OUTPUTS : 14;  // of dense channels; more would be a lot of code
    static constexpr int CENTROIDS = (REGISTERS - 2) / Size - 1 - MASKS;  // convolved at a time, beside x and masks
};

// What is kept of a tile's input, by column of the kernel; in registers from channel to channel where K, the size of
// the kernel, is a constant. It is 0 where the size is known only now.
template <int V, int K>
struct Columns {
    Keep keep[K ? K : 1][V];
    Columns(const Taps& taps, int64_t position) {
        for (int column = 0; column < K; ++column)
            for (int i = 0; i < V; ++i)
                if (column != K / 2) keep[column][i] = kept(taps.mask[column] + position + i * LANES);
    }
};

// sums[k] += weights[t, k] * x[t] over all taps, for N kernels.
template <int N, int V, int K>
inline __attribute__((always_inline)) void convolve(const float* x, const Taps& taps, const Columns<V, K>& columns,
                                                    int64_t position, const float* weights, int64_t stride,
                                                    Vector (&sums)[N][V]) {
    const auto add = [&](int64_t t, const Keep* keep) __attribute__((always_inline)) {
        // Opaque, or the compiler computes every address ahead of the loop over channels and spills them all.
        const float *from = x + taps.offset[t] + position, *weight = weights + t * stride;
        asm("" : "+r"(from), "+r"(weight));
        Vector v[V];
        each<1, V>([&](auto, auto i) __attribute__((always_inline)) {
            v[i] = keep ? load(from + i * LANES, keep[i]) : load(from + i * LANES);
        });
        each<N, V>([&](auto k, auto i) __attribute__((always_inline)) { sums[k][i] += weight[k] * v[i]; });
    };
    if constexpr (K == 0) {
        for (int64_t t = 0; t < taps.count; ++t) {
            Keep keep[V];
            const int32_t* mask = taps.mask[t];
            for (int i = 0; mask && i < V; ++i) keep[i] = kept(mask + position + i * LANES);
            add(t, mask ? keep : nullptr);
        }
    } else {
#pragma GCC unroll 9
        for (int t = 0; t < K * K; ++t) add(t, t % K == K / 2 ? nullptr : columns.keep[t % K]);
    }
}

// One tile, and the memory it is computed in.
struct Tile {
    const Layer& layer;
    const Taps& taps;
    const float* planes;     // of all channels that are read, clustered ones first
    int64_t planes_channel;  // floats from one channel's planes to the next
    int64_t position, valid; // within its band, and how many positions of it there are
    float* z;                // (rows of the largest chunk, size of a tile)
    float* partial;          // (outputs, size of a tile), what the chunks before have added
    float* output;           // of the tile's first position, first output
    int64_t plane;           // floats from one output's plane to the next
};

// Channels [begin, end) of the clustered or of the dense ones.
struct Chunk {
    int64_t begin, end;
    bool first, last;
};

// Z of the `rows` rows from `k` on, N of `count`, of channels [begin, end).
template <int N, typename F, int K>
void convolve_centroids(const Tile& tile, int64_t begin, int64_t end, int64_t count, int64_t k, float* z) {
    const float* weights = tile.layer.centroids + tile.layer.start[begin] + k;
    const float* x = tile.planes + begin * tile.planes_channel;
    const Columns<F::V, K> columns(tile.taps, tile.position);
    for (int64_t c = begin; c < end; ++c) {
        Vector sums[N][F::V] = {};
        convolve<N, F::V, K>(x, tile.taps, columns, tile.position, weights, count, sums);
        each<N, F::V>([&](auto j, auto i) __attribute__((always_inline)) { store(z + j * F::TILE + i * LANES, sums[j][i]); });
        weights += tile.taps.count * count;
        x += tile.planes_channel;
        z += count * F::TILE;
    }
}

template <int N, typename F>
inline __attribute__((always_inline)) void begin_sums(const Tile& tile, const Chunk& chunk, int64_t n,
                                                      Vector (&sums)[N][F::V]) {
    if (chunk.first)
        each<N, F::V>([&](auto j, auto i) __attribute__((always_inline)) {
            sums[j][i] = Vector{} + (tile.layer.bias ? tile.layer.bias[n + j] : 0.0f);
        });
    else
        each<N, F::V>([&](auto j, auto i) __attribute__((always_inline)) {
            sums[j][i] = load(tile.partial + (n + j) * F::TILE + i * LANES);
        });
}

template <int N, typename F>
inline __attribute__((always_inline)) void end_sums(const Tile& tile, const Chunk& chunk, int64_t n,
                                                    const Vector (&sums)[N][F::V]) {
    const bool whole = chunk.last && tile.valid >= F::V * LANES;
    float* to = whole ? tile.output + n * tile.plane : tile.partial + n * F::TILE;
    const int64_t stride = whole ? tile.plane : F::TILE;
    each<N, F::V>([&](auto j, auto i) __attribute__((always_inline)) { store(to + j * stride + i * LANES, sums[j][i]); });
    if (chunk.last && !whole)
        for (int j = 0; j < N; ++j)
            std::memcpy(tile.output + (n + j) * tile.plane, tile.partial + (n + j) * F::TILE, tile.valid * sizeof(float));
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

template <int N, typename F>
void sum_clusters(const Tile& tile, const Chunk& chunk, int64_t n) {
    Vector sums[N][F::V];
    begin_sums<N, F>(tile, chunk, n, sums);
    const uint16_t* offsets = tile.layer.offsets + chunk.begin * tile.layer.outputs + n;
    const float* z = tile.z;
    for (int64_t c = chunk.begin; c < chunk.end; ++c, offsets += tile.layer.outputs) {
        uint64_t four = 0;
        each<N, 1>([&](auto j, auto) __attribute__((always_inline)) {
            if constexpr (j % 4 == 0) four = four_offsets(offsets + j);
            const float* row = z + 2 * (four >> (j % 4 * 16) & 0xffff);
            // In a register: an address of two parts takes each sum apart into two steps of the processor.
            if constexpr (F::V > 1) asm("" : "+r"(row));
            each<1, F::V>([&](auto, auto i) __attribute__((always_inline)) { sums[j][i] += load(row + i * LANES); });
        });
    }
    end_sums<N, F>(tile, chunk, n, sums);
}

template <int N, typename F, int K>
void sum_dense(const Tile& tile, const Chunk& chunk, int64_t n) {
    Vector sums[N][F::V];
    begin_sums<N, F>(tile, chunk, n, sums);
    const int64_t outputs = tile.layer.outputs;
    const Columns<F::V, K> columns(tile.taps, tile.position);
    for (int64_t c = chunk.begin; c < chunk.end; ++c) {
        const float* x = tile.planes + (tile.layer.clustered + c) * tile.planes_channel;
        const float* weights = tile.layer.dense_weight + c * tile.taps.count * outputs + n;
        convolve<N, F::V, K>(x, tile.taps, columns, tile.position, weights, outputs, sums);
    }
    end_sums<N, F>(tile, chunk, n, sums);
}

template <typename F, int K>
struct Steps {
    template <int N>
    struct Centroids {
        static constexpr auto run = convolve_centroids<N, F, K>;
    };
    template <int N>
    struct Clusters {
        static constexpr auto run = sum_clusters<N, F>;
    };
    template <int N>
    struct Dense {
        static constexpr auto run = sum_dense<N, F, K>;
    };
};

template <typename F, int K>
void add_clusters(const Tile& tile, const Chunk& chunk) {
    static constexpr auto centroids = Table<Steps<F, K>::template Centroids, F::CENTROIDS>();
    static constexpr auto clusters = Table<Steps<F, K>::template Clusters, F::OUTPUTS>();
    const int32_t* counts = tile.layer.count;
    float* z = tile.z;
    for (int64_t c = chunk.begin, end; c < chunk.end; c = end) {
        const int64_t count = counts[c];
        for (end = c + 1; end < chunk.end && counts[end] == count;) ++end;
        in_blocks(count, F::CENTROIDS, 1, [&](int64_t k, int64_t rows) {
            centroids.step[rows](tile, c, end, count, k, z + k * F::TILE);
        });
        z += (end - c) * count * F::TILE;
    }
    in_blocks(tile.layer.outputs, F::OUTPUTS, F::OUTPUTS % 4 ? 2 : 4, [&](int64_t n, int64_t rows) {
        clusters.step[rows](tile, chunk, n);
    });
}

template <typename F, int K>
void add_dense(const Tile& tile, const Chunk& chunk) {
    static constexpr auto dense = Table<Steps<F, K>::template Dense, F::DENSE>();
    in_blocks(tile.layer.outputs, F::DENSE, 1, [&](int64_t n, int64_t rows) { dense.step[rows](tile, chunk, n); });
}

// One stage of a tile.
template <typename F, int K>
void compute(const Tile& tile, const Stage& stage) {
    const Layer& layer = tile.layer;
    for (int64_t g = stage.chunk; g < stage.chunk_end; ++g)
        add_clusters<F, K>(tile, {layer.chunk[g], layer.chunk[g + 1], g == 0, g + 1 == layer.chunks && !layer.dense});
    if (stage.dense < stage.dense_end)
        add_dense<F, K>(tile, {stage.dense, stage.dense_end, layer.chunks + stage.dense == 0,
                               stage.dense_end == layer.dense});
}

// How a tile is computed of which one vector or two are valid.
struct Computer {
    void (*vectors[2])(const Tile&, const Stage&);
};
template <int Size, int K>
constexpr Computer COMPUTER{{compute<Form<Size, 1>, K>, compute<Form<Size, Size>, K>}};

// By the vectors of a tile, and whether the kernel is 3 x 3, which has code of its own.
constexpr Computer COMPUTERS[2][2]{{COMPUTER<1, 0>, COMPUTER<1, 3>},
                                   {COMPUTER<2, 0>, COMPUTER<2, 3>}};

void run(const Layer& layer, const Call& call, const Band& band) {
    static thread_local Buffer masks, planes, rows, partials;
    const int64_t positions = (band.last - band.first) * call.out_width, plane = call.out_height * call.out_width;
    float* output = call.output + band.image * call.output_image + band.first * call.out_width;
    if (layer.clustered + layer.dense == 0) {
        for (int64_t n = 0; n < layer.outputs; ++n)
            std::fill_n(output + n * plane, positions, layer.bias ? layer.bias[n] : 0.0f);
        return;
    }
    const int64_t size = layer.vectors * LANES;
    const Taps taps = taps_of(layer, call, band, masks);
    const int64_t planes_channel = taps.planes * taps.plane;
    float* x = planes.of<float>((layer.clustered + layer.dense) * planes_channel);
    const float* image = call.input + band.image * call.input_image;
    for (int64_t c = 0; c < layer.clustered + layer.dense; ++c) {
        const int32_t which = c < layer.clustered ? layer.channel[c] : layer.dense_channel[c - layer.clustered];
        fill_planes(layer, call, band, taps, image + which * call.height * call.width, x + c * planes_channel);
    }
    float* z = rows.of<float>(layer.rows * size);
    // With one stage the sums of a tile are done before those of the next begin; else each tile has a place of its own.
    const int64_t held = layer.stages > 1 ? (positions + size - 1) / size * size : size;
    float* partial = partials.of<float>(layer.outputs * held);
    const bool plain = layer.stride == 1 && layer.padding == layer.kernel / 2;
    const Computer& of_size = COMPUTERS[layer.vectors - 1][plain && layer.kernel == 3];
    for (const Stage* stage = layer.stage; stage < layer.stage + layer.stages; ++stage)
        for (int64_t position = 0; position < positions; position += size) {
            const int64_t valid = std::min(size, positions - position);
            of_size.vectors[valid > LANES]({layer, taps, x, planes_channel, position, valid, z,
                                            partial + position % held * layer.outputs, output + position, plane}, *stage);
        }
}

}  // namespace
}  // namespace squeeze
