// Included before ggml's AMX kernels. GCC up to 13 tells the optimizer that `_tile_loadconfig` reads 8 bytes of the
// configuration; it reads 64. The stores of the others are then removed as dead, and the first tile instruction
// is refused (SIGILL or SIGSEGV). See https://github.com/ggml-org/llama.cpp/pull/26954
#pragma once

#include <immintrin.h>

#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)))
