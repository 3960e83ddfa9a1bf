// Vectors of the compiler (GCC, Clang), memory, and loops whose numbers are constants: what every computation here is
// written with. The file that includes it sets LANES (floats in a vector).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <type_traits>
#include <utility>

namespace squeeze {
namespace {

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef float Loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<Loose*>(to) = value; }

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

inline void copy_row(const float* from, int64_t size, float* to, int64_t width) {
    for (int64_t x = 0; x < width; ++x) to[x] = x < size ? from[x] : 0;
}

inline void copy(const float* from, int64_t size, float* to) {
    for (int64_t x = 0; x + LANES <= size; x += LANES) store(to + x, load(from + x));
    if (size >= LANES)
        store(to + size - LANES, load(from + size - LANES));
    else
        copy_row(from, size, to, size);
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

// Calls step(from, rows) for blocks of nearly equal size, none above `most`, in multiples of `unit`, which divides `most`.
template <typename Step>
inline void in_blocks(int64_t total, int64_t most, int64_t unit, Step step) {
    const int64_t blocks = (total + most - 1) / most;
    for (int64_t b = 0, from = 0; from < total; ++b) {
        const int64_t units = (total - from + unit - 1) / unit;
        const int64_t rows = std::min((units + blocks - b - 1) / (blocks - b) * unit, total - from);
        step(from, rows);
        from += rows;
    }
}

}  // namespace
}  // namespace squeeze
