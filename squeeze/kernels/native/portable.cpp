// The computation for whatever the compiler targets without further flags: NEON on 64-bit ARM, SSE2 on x86-64.
#include "clustered.h"
#define LANES 4
#ifndef REGISTERS
#ifdef __aarch64__
#define REGISTERS 32
#else
#define REGISTERS 16
#endif
#endif
#include "controller.h"
#include "filters.h"
#include "tile.h"
const squeeze::Code* squeeze::portable() {
#ifdef __aarch64__
    static const Code code{"neon", LANES * 4, 28 * 1024, run, run_means, run_linear, run_filters};
#else
    static const Code code{"portable", LANES * 4, 28 * 1024, run, run_means, run_linear, run_filters};
#endif
    return &code;
}
