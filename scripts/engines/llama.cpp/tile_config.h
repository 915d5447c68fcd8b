// Included before ggml's AMX kernels. GCC up to 13 assumes that `_tile_loadconfig` reads 8 bytes of
// the configuration, but it reads 64. GCC then removes the stores of the other bytes as dead, and
// the first tile instruction faults (SIGILL or SIGSEGV). See
// https://github.com/ggml-org/llama.cpp/pull/26954
#pragma once

#include <immintrin.h>

#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)))
