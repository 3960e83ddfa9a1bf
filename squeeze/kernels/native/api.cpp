// What Python calls, through ctypes: plain C, raw pointers, no exception leaves.
#include <algorithm>
#include <cstring>

#include "clustered.h"
#include "pool.h"

// The best code that the processor runs, or the one of that name; null if it has none.
const squeeze::Code* squeeze::code_named(const char* name) {
    for (const Code* code : {avx512(), avx2(), portable()})
        if (code && (!name || !*name || !std::strcmp(name, code->name))) return code;
    return nullptr;
}

namespace {

// Rows of one band: enough bands for all threads, and none so large that a band's input leaves the second-level cache.
int64_t rows_of_a_band(const squeeze::Layer& layer, const squeeze::Call& call, int64_t threads) {
    constexpr int64_t INPUT = 128 * 1024;
    const int64_t row = layer.stride * layer.stride * call.out_width * (layer.clustered + layer.dense);
    int64_t rows = std::max<int64_t>(INPUT / std::max<int64_t>(row, 1), 1);
    const int64_t bands = std::max<int64_t>((threads + call.images - 1) / std::max<int64_t>(call.images, 1), 1);
    rows = std::min(rows, (call.out_height + bands - 1) / bands);
    const int64_t count = (call.out_height + rows - 1) / std::max<int64_t>(rows, 1);
    return (call.out_height + count - 1) / std::max<int64_t>(count, 1);
}

}  // namespace

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

EXPORTED int64_t squeeze_clustered_layout() { return squeeze::LAYOUT; }

EXPORTED const char* squeeze_clustered_code(const char* name, int64_t* vector_bytes, int64_t* cache_bytes) {
    const squeeze::Code* code = squeeze::code_named(name);
    if (!code) return nullptr;
    *vector_bytes = code->vector_bytes;
    *cache_bytes = code->cache_bytes;
    return code->name;
}

EXPORTED int squeeze_clustered_conv2d(const char* name, const squeeze::Layer* layer, const squeeze::Call* call,
                             int64_t threads) {
    const squeeze::Code* code = squeeze::code_named(name);
    if (!code) return 1;
    if (call->images <= 0 || call->out_height <= 0 || call->out_width <= 0 || layer->outputs <= 0) return 0;
    const int64_t rows = rows_of_a_band(*layer, *call, threads);
    const int64_t bands = (call->out_height + rows - 1) / rows;
    squeeze::in_parallel(call->images * bands, threads, [&](int64_t i) {
        const int64_t first = i % bands * rows;
        code->run(*layer, *call, {i / bands, first, std::min(first + rows, call->out_height)});
    });
    return 0;
}

}  // extern "C"
