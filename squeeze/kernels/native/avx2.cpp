// The computation for processors with AVX2 and FMA. Compiled with -mavx2 -mfma; empty without.
#include "clustered.h"
#if defined(__AVX2__) && defined(__FMA__)
#define LANES 8
#ifndef REGISTERS
#define REGISTERS 16
#endif
#include "controller.h"
#include "filters.h"
#include "tile.h"
const squeeze::Code* squeeze::avx2() {
    static const Code code{"avx2", LANES * 4, 28 * 1024, run, run_means, run_linear, run_filters};
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &code : nullptr;
}
#else
const squeeze::Code* squeeze::avx2() { return nullptr; }
#endif
