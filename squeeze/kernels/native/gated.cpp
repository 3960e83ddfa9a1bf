// Convolutions with some of their filters, as Python calls them: plain C, raw pointers, no exception leaves.
#include "gated.h"

#include <algorithm>
#include <vector>

#include "clustered.h"
#include "pool.h"

namespace {

using squeeze::Code;
using squeeze::GatedCall;
using squeeze::GatedLayer;
using squeeze::GatedSite;

constexpr int64_t COPIED = 768 * 1024;   // bytes of a part's input, which should stay in the second-level cache
constexpr int64_t ENOUGH = 256 * 1024;   // multiplications that are worth another thread

// Threads of their own only for what takes longer than to wake them.
int64_t worth(int64_t threads, int64_t multiplications) {
    return std::clamp<int64_t>(multiplications / ENOUGH, 1, std::max<int64_t>(threads, 1));
}

int64_t rows_of_a_band(const GatedLayer& layer, const GatedCall& call) {
    const int64_t row = layer.kernel_width * layer.stride_height * call.out_width * call.reads * sizeof(float);
    const int64_t most = std::clamp<int64_t>(COPIED / std::max<int64_t>(row, 1), 1, call.out_height);
    const int64_t bands = (call.out_height + most - 1) / most;
    return (call.out_height + bands - 1) / bands;
}

// Numbers that lie in an array's range, each above the one before.
bool ascending(const int64_t* numbers, int64_t count, int64_t range) {
    int64_t last = -1;
    for (int64_t i = 0; i < count; ++i) {
        if (numbers[i] <= last || numbers[i] >= range) return false;
        last = numbers[i];
    }
    return true;
}

// A layer of the controller, for all images; threads share images, and the outputs of one.
void apply(const Code& code, const std::vector<squeeze::Linear>& layers, int64_t threads) {
    constexpr int64_t BLOCK = 16;  // outputs: the longest vector
    const int64_t images = layers.size(), blocks = layers[0].outputs / BLOCK;
    int64_t multiplications = 0;
    for (const squeeze::Linear& layer : layers) multiplications += layer.inputs * layer.outputs;
    threads = worth(threads, multiplications);
    const int64_t parts = std::min((threads + images - 1) / images, blocks);
    squeeze::in_parallel(images * parts, threads, [&](int64_t i) {
        const int64_t part = i % parts;
        code.linear(layers[i / parts], part * blocks / parts * BLOCK, (part + 1) * blocks / parts * BLOCK);
    });
}

void find_logits(const Code& code, const GatedLayer& layer, const GatedCall& call, int64_t threads) {
    constexpr int64_t CHANNELS = 16;
    const int64_t images = call.images, all = images * call.reads, wide = layer.hidden_padded;
    if (!images) return;
    std::vector<float> means(all), hidden(images * wide), logits(images * layer.filters_padded);
    squeeze::in_parallel((all + CHANNELS - 1) / CHANNELS, worth(threads, all * call.height * call.width), [&](int64_t i) {
        code.means(call, i * CHANNELS, std::min((i + 1) * CHANNELS, all), means.data());
    });
    std::vector<squeeze::Linear> layers(images);
    for (int64_t image = 0; image < images; ++image)
        layers[image] = {means.data() + image * call.reads, call.reads, call.present, layer.reduce, layer.reduce_bias, wide,
                         hidden.data() + image * wide};
    apply(code, layers, threads);
    std::vector<int64_t> rows(images * layer.hidden);
    for (int64_t image = 0; image < images; ++image) {  // what the ReLU makes 0 is not multiplied
        float* x = hidden.data() + image * wide;
        int64_t *row = rows.data() + image * layer.hidden, count = 0;
        for (int64_t i = 0; i < layer.hidden; ++i)
            if (!(x[i] <= 0)) x[count] = x[i], row[count++] = i;
        layers[image] = {x, count, row, layer.expand, layer.expand_bias, layer.filters_padded,
                         logits.data() + image * layer.filters_padded};
    }
    apply(code, layers, threads);
    for (int64_t image = 0; image < images; ++image)
        std::copy_n(layers[image].to, layer.filters, call.logits + image * layer.filters);
}

// Those that are on for some image, if there are any; else the first filter stands for them, and is off for all.
bool find_rows(const GatedLayer& layer, GatedCall& call) {
    call.count = 0;
    for (int64_t n = 0; n < layer.filters; ++n) {
        bool on = false;
        for (int64_t image = 0; image < call.images && !on; ++image) on = call.logits[image * layer.filters + n] > 0;
        if (on) call.rows[call.count++] = n;
    }
    if (call.count) return true;
    call.rows[call.count++] = 0;
    return false;
}

void convolve(const Code& code, const GatedLayer& layer, const GatedCall& call, int64_t threads) {
    if (call.images <= 0 || call.out_height <= 0 || call.out_width <= 0) return;
    const int64_t taps = layer.kernel_height * layer.kernel_width * (layer.depthwise ? 1 : call.reads);
    threads = worth(threads, call.images * call.out_height * call.out_width * call.count * taps);
    const int64_t rows = rows_of_a_band(layer, call), bands = (call.out_height + rows - 1) / rows;
    // Where there are fewer bands than threads these share a band's filters, though each copies the input for itself.
    const int64_t wanted = (threads + call.images * bands - 1) / (call.images * bands);
    const int64_t parts = layer.depthwise ? 1 : std::clamp<int64_t>(wanted, 1, std::max<int64_t>(call.count, 1));
    squeeze::in_parallel(call.images * bands * parts, threads, [&](int64_t i) {
        const int64_t part = i % parts, band = i / parts % bands, first = band * rows;
        code.filters(layer, call, {i / parts / bands, first, std::min(first + rows, call.out_height),
                                   part * call.count / parts, (part + 1) * call.count / parts});
    });
}

constexpr int64_t NO_CODE = -1, WRONG_ROWS = -2, WRONG_PRESENT = -3;

int64_t wrong(const Code* code, const GatedLayer& layer, const GatedCall& call, int64_t rows) {
    if (!code) return NO_CODE;
    if (!ascending(call.rows, rows, layer.filters)) return WRONG_ROWS;
    if (call.present && !ascending(call.present, call.reads, layer.channels)) return WRONG_PRESENT;
    return 0;
}

}  // namespace

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

// All return a number below 0 for what they refuse.

// Logits alone, into `call->logits`.
EXPORTED int64_t squeeze_gated_logits(const char* name, const GatedLayer* layer, const GatedCall* call, int64_t threads) {
    const Code* code = squeeze::code_named(name);
    if (const int64_t status = wrong(code, *layer, *call, 0)) return status;
    find_logits(*code, *layer, *call, threads);
    return 0;
}

// The filters in `call->rows`.
EXPORTED int64_t squeeze_gated_rows(const char* name, const GatedLayer* layer, const GatedCall* call, int64_t threads) {
    const Code* code = squeeze::code_named(name);
    if (const int64_t status = wrong(code, *layer, *call, call->count)) return status;
    convolve(*code, *layer, *call, threads);
    return 0;
}

// Logits, then those filters that they leave on; returns for how many filters some logit is above 0. These are then in
// `call.rows`, or filter 0 alone if there are none. Without a controller: the `call.count` filters that are there.
EXPORTED int64_t squeeze_gated_conv2d(const GatedSite* site, const float* input, float* output, const int64_t* present,
                                      int64_t reads, int64_t scatter, int64_t threads) {
    const Code* code = squeeze::code_named(site->code);
    const GatedLayer& layer = *site->layer;
    GatedCall call = site->call;
    call.input = input;
    call.output = output;
    call.present = present;
    call.reads = reads;
    call.scatter = scatter;
    const bool decides = layer.reduce;
    if (const int64_t status = wrong(code, layer, call, decides ? 0 : call.count)) return status;
    if (decides) find_logits(*code, layer, call, threads);
    const bool any = !decides || find_rows(layer, call);
    convolve(*code, layer, call, threads);
    return any ? call.count : 0;
}

}  // extern "C"
