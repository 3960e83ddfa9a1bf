// The input of a convolution as the taps of its kernel read it: whole vectors, row after row of the output. Part of
// filters.h.
//
// Each channel is copied once for each column of the kernel, shifted, with zeros around. Where the convolution skips rows
// or columns, the input is split into phases: rows a, a + stride, a + 2 * stride and so on, and columns likewise.
#include <cstring>
#include <numeric>

#include "gated.h"
#include "vectors.h"

namespace squeeze {
namespace {

typedef int32_t Bits __attribute__((vector_size(LANES * 4)));

inline Vector masked(Vector value, const int32_t* mask) {
    return reinterpret_cast<Vector>(reinterpret_cast<Bits>(value) & *reinterpret_cast<const Bits*>(mask));
}

inline int64_t below(int64_t a, int64_t b) { return a / b - (a % b < 0); }
inline int64_t above(int64_t a, int64_t b) { return -below(-a, b); }
inline int64_t in_vectors(int64_t floats) { return (floats + 15) / 16 * 16; }

// The layout of one channel's copies: by phase of the rows, column of the kernel, row, column of the output.
struct Copies {
    int64_t phases, rows, width;
    int64_t column, phase, channel;  // floats from one to the next
};

inline Copies copies_of(const GatedLayer& layer, const GatedCall& call, const GatedPart& part) {
    const int64_t reach = (layer.kernel_height - 1) * layer.dilation_height;
    Copies copies;
    copies.phases = std::min(layer.stride_height, reach + 1);
    copies.rows = part.last - part.first + reach / layer.stride_height;
    copies.width = call.out_width;
    copies.column = in_vectors(copies.rows * copies.width);
    copies.phase = layer.kernel_width * copies.column;
    copies.channel = copies.phases * copies.phase;
    return copies;
}

inline void offsets_of(const GatedLayer& layer, const Copies& copies, int64_t* offset) {
    for (int64_t ky = 0; ky < layer.kernel_height; ++ky)
        for (int64_t kx = 0; kx < layer.kernel_width; ++kx) {
            const int64_t row = ky * layer.dilation_height;
            *offset++ = row % layer.stride_height * copies.phase + kx * copies.column +
                        row / layer.stride_height * copies.width;
        }
}

// Which rows of the input one phase of the copies holds: row r holds `top` + r * stride, for r in [first, last).
struct Rows {
    int64_t top, first, last;
};

inline Rows rows_of(const GatedLayer& layer, const GatedCall& call, const GatedPart& part, const Copies& copies,
                    int64_t phase) {
    const int64_t step = layer.stride_height, top = part.first * step + phase - layer.padding_height;
    const int64_t last = std::clamp<int64_t>(above(call.height - top, step), 0, copies.rows);
    return {top, std::clamp<int64_t>(above(-top, step), 0, last), last};
}

// Where a column of the kernel finds its columns: number x of the output's has number x + shift of a phase of the
// input's, if x is in [first, last).
struct Column {
    int64_t phase, shift, first, last;
};

inline Column column_of(const GatedLayer& layer, const GatedCall& call, int64_t kx) {
    const int64_t s = layer.stride_width, at = kx * layer.dilation_width - layer.padding_width;
    const int64_t shift = below(at, s), phase = at - s * shift;
    const int64_t last = std::clamp<int64_t>(above(call.width - phase, s) - shift, 0, call.out_width);
    return {phase, shift, std::clamp<int64_t>(-shift, 0, last), last};
}

// Every `step`th number.
inline void pick(const float* from, int64_t step, float* to, int64_t count) {
    if (step == 1)
        for (int64_t x = 0; x < count; ++x) to[x] = from[x];
    else if (step == 2)
        for (int64_t x = 0; x < count; ++x) to[x] = from[2 * x];
    else
        for (int64_t x = 0; x < count; ++x) to[x] = from[step * x];
}

// Channels whose rows are no longer than the output's, in each phase of the columns. Each phase is laid out like the
// copies first, between zeros, in memory that stays in the first-level cache; then copies are whole vectors of it, without
// what a shift brings from the row before or behind.
void copy_in_vectors(const GatedLayer& layer, const GatedCall& call, const GatedPart& part, const Copies& copies,
                     const float* input, float* to) {
    static thread_local Buffer phases, masks;
    const int64_t s = layer.stride_width, width = copies.width, period = std::lcm<int64_t>(width, LANES);
    const int64_t margin = in_vectors(std::max(layer.padding_width, layer.kernel_width * layer.dilation_width) + LANES);
    const int64_t room = copies.column + 2 * margin;
    float* phase = phases.of<float>(s * room);
    int32_t* mask = masks.of<int32_t>(layer.kernel_width * period);
    for (int64_t kx = 0; kx < layer.kernel_width; ++kx) {
        const Column column = column_of(layer, call, kx);
        for (int64_t i = 0, x = 0; i < period; ++i, x = x + 1 == width ? 0 : x + 1)
            mask[kx * period + i] = x >= column.first && x < column.last ? -1 : 0;
    }
    for (int64_t p = 0; p < copies.phases; ++p) {
        const Rows rows = rows_of(layer, call, part, copies, p);
        std::fill_n(phase, s * room, 0.0f);
        for (int64_t c = 0; c < call.reads; ++c) {
            const float* from = input + (c * call.height + rows.top + rows.first * layer.stride_height) * call.width;
            for (int64_t b = 0; b < std::min(s, call.width); ++b) {
                float* row = phase + b * room + margin + rows.first * width;
                if (width == call.width && s == 1 && layer.stride_height == 1)
                    copy(from, (rows.last - rows.first) * width, row);
                else
                    for (int64_t r = 0; r < rows.last - rows.first; ++r)
                        pick(from + r * layer.stride_height * call.width + b, s, row + r * width,
                             (call.width - b + s - 1) / s);
            }
            for (int64_t kx = 0; kx < layer.kernel_width; ++kx) {
                const Column column = column_of(layer, call, kx);
                const float* shifted = phase + column.phase * room + margin + column.shift;
                float* copied = to + c * copies.channel + p * copies.phase + kx * copies.column;
                for (int64_t i = 0, m = kx * period; i < copies.column; i += LANES) {
                    store(copied + i, masked(load(shifted + i), mask + m));
                    m += LANES;
                    if (m == (kx + 1) * period) m -= period;
                }
            }
        }
    }
}

// Channels of any width.
void copy_in_rows(const GatedLayer& layer, const GatedCall& call, const GatedPart& part, const Copies& copies,
                  const float* input, float* to) {
    for (int64_t p = 0; p < copies.phases; ++p) {
        const Rows rows = rows_of(layer, call, part, copies, p);
        for (int64_t kx = 0; kx < layer.kernel_width; ++kx) {
            const Column column = column_of(layer, call, kx);
            const int64_t begin = (column.first + column.shift) * layer.stride_width + column.phase;
            for (int64_t c = 0; c < call.reads; ++c) {
                float* row = to + c * copies.channel + p * copies.phase + kx * copies.column;
                std::fill_n(row, copies.column, 0.0f);
                for (int64_t r = rows.first; r < rows.last; ++r) {
                    const int64_t line = c * call.height + rows.top + r * layer.stride_height;
                    pick(input + line * call.width + begin, layer.stride_width, row + r * copies.width + column.first,
                         column.last - column.first);
                }
            }
        }
    }
}

// `LANES` floats behind the last channel are set, too: the last vector may reach there.
void copy_channels(const GatedLayer& layer, const GatedCall& call, const GatedPart& part, const Copies& copies,
                   const float* input, float* to) {
    const bool fits = above(call.width, layer.stride_width) <= call.out_width;
    (fits ? copy_in_vectors : copy_in_rows)(layer, call, part, copies, input, to);
    std::fill_n(to + call.reads * copies.channel, LANES, 0.0f);
}

}  // namespace
}  // namespace squeeze
