// The computation for processors with AVX-512. Compiled with -mavx512f -mfma; empty without.
#include "clustered.h"
#ifdef __AVX512F__
#define LANES 16
#ifndef REGISTERS
#define REGISTERS 32
#endif
#include "controller.h"
#include "filters.h"
#include "tile.h"
const squeeze::Code* squeeze::avx512() {
    static const Code code{"avx512", LANES * 4, 40 * 1024, run, run_means, run_linear, run_filters};
    return __builtin_cpu_supports("avx512f") ? &code : nullptr;
}
#else
const squeeze::Code* squeeze::avx512() { return nullptr; }
#endif
