// The card of `device.cuh` on an ordinary processor, for tests: every CUDA thread is a fiber, and a
// barrier, a shuffle or a tensor-core instruction waits until all of its threads have come. The
// blocks of a launch run together, as a cooperative launch promises.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>
#include <sys/mman.h>

#define DEVICE inline
#define OUTLINED inline
#define KERNEL(threads, per_processor) static void
#define ALIGNED alignas(16)

struct Dim {
    u32 x, y, z;
};
struct alignas(16) uint4 {
    u32 x, y, z, w;
};
struct uint2 {
    u32 x, y;
};
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

namespace shim {

struct Barrier {
    u32 expected = 0, arrived = 0, generation = 0;
};
struct Warp {
    Barrier barrier;
    const void *given[32];
};
struct Block {
    Dim at;
    Barrier barrier;
    std::vector<Warp> warps;
    char *shared;
};
struct Fiber {
    void *stack_pointer;
    Block *block;
    u32 thread;
    bool over;
};

extern Fiber *running;
extern Dim grid, threads;
extern u64 moves; // counts what unblocks others, to recognize a deadlock
void yield();

inline void wait(Barrier &barrier) {
    u32 generation = barrier.generation;
    if (++barrier.arrived == barrier.expected) {
        barrier.arrived = 0;
        barrier.generation++;
        moves++;
    } else {
        while (barrier.generation == generation) yield();
    }
}

inline Warp &warp() { return running->block->warps[running->thread / 32]; }

// Shows `mine` to the other lanes of the warp while `use` runs.
template <class T, class Use> void together(const T &mine, Use use) {
    Warp &w = warp();
    w.given[running->thread % 32] = &mine;
    wait(w.barrier);
    use([&](u32 lane) -> const T & { return *(const T *)w.given[lane]; });
    wait(w.barrier);
}

} // namespace shim

#define threadIdx (Dim{shim::running->thread, 0, 0})
#define blockIdx (shim::running->block->at)
#define blockDim (shim::threads)
#define gridDim (shim::grid)

DEVICE char *shared_memory() { return shim::running->block->shared; }

struct InShared {
    u32 at;
    InShared operator+(u32 bytes) const { return InShared{at + bytes}; }
    template <class T> T as(u32 i) const {
        if (at % sizeof(T) != 0) fprintf(stderr, "a misaligned load at %u of shared memory\n", at), abort();
        return ((const T *)(shared_memory() + at))[i];
    }
};

DEVICE float half_to_float(u16 h) {
    _Float16 f;
    memcpy(&f, &h, 2);
    return (float)f;
}
DEVICE u16 float_to_half(float f) {
    _Float16 h = (_Float16)f;
    u16 bits;
    memcpy(&bits, &h, 2);
    return bits;
}
DEVICE float bits_to_float(u32 bits) {
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
DEVICE int dot4(u32 a, u32 b, int c) {
    for (int i = 0; i < 4; i++) c += (signed char)(a >> 8 * i) * (signed char)(b >> 8 * i);
    return c;
}

DEVICE void sync_block() { shim::wait(shim::running->block->barrier); }
DEVICE void sync_warp() { shim::wait(shim::warp().barrier); }
template <class T> T shuffle_xor(T v, int mask) {
    T got;
    u32 lane = shim::running->thread % 32;
    shim::together(v, [&](auto of) { got = of(lane ^ mask); });
    return got;
}

DEVICE uint4 load_weights(const void *p) {
    if ((u64)p % 16 != 0) fprintf(stderr, "a load of 16 bytes at %p\n", p), abort();
    return *(const uint4 *)p;
}
DEVICE uint2 load_weights64(const void *p) {
    if ((u64)p % 8 != 0) fprintf(stderr, "a load of 8 bytes at %p\n", p), abort();
    return *(const uint2 *)p;
}
DEVICE u16 load_weights16(const void *p) {
    if ((u64)p % 2 != 0) fprintf(stderr, "a load of 2 bytes at %p\n", p), abort();
    return *(const u16 *)p;
}
DEVICE u16 load_weights8(const void *p) { return *(const u8 *)p; }
DEVICE u32 load_weights32(const void *p) {
    if ((u64)p % 4 != 0) fprintf(stderr, "a load of 4 bytes at %p\n", p), abort();
    return *(const u32 *)p;
}
template <class T> T load_shared_by_all(const T *p) {
    if ((u64)p % sizeof(T) != 0) fprintf(stderr, "a misaligned load at %p\n", (const void *)p), abort();
    return *p;
}
DEVICE void sync_grid(u32 *counter, u32 target) {
    sync_block();
    if (threadIdx.x == 0) {
        ++*counter;
        shim::moves++;
        while ((int)(*(volatile u32 *)counter - target) < 0) shim::yield();
    }
    sync_block();
}
DEVICE u64 cycles() { return ++shim::moves; }
DEVICE void fence_host() {}

struct MmaInput {
    u32 a[4], b[2];
};
DEVICE void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    MmaInput mine;
    memcpy(mine.a, a, sizeof a);
    memcpy(mine.b, b, sizeof b);
    u32 lane = shim::running->thread % 32;
    shim::together(mine, [&](auto of) {
        auto half_of = [](u32 word, u32 i) { return half_to_float((u16)(word >> 16 * i)); };
        for (u32 i = 0; i < 4; i++) {
            u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            for (u32 k = 0; k < 16; k++) {
                u32 at = k % 8 / 2, high = k / 8;
                float left = half_of(of(row % 8 * 4 + at).a[row / 8 + 2 * high], k % 2);
                float right = half_of(of(column * 4 + at).b[high], k % 2);
                d[i] += left * right;
            }
        }
    });
}

DEVICE void mma_int8(int (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    MmaInput mine;
    memcpy(mine.a, a, sizeof a);
    memcpy(mine.b, b, sizeof b);
    u32 lane = shim::running->thread % 32;
    shim::together(mine, [&](auto of) {
        for (u32 i = 0; i < 4; i++) {
            u32 row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            for (u32 word = 0; word < 8; word++) {
                u32 at = word % 4, high = word / 4;
                d[i] = dot4(of(row % 8 * 4 + at).a[row / 8 + 2 * high], of(column * 4 + at).b[high], d[i]);
            }
        }
    });
}

template <bool TRANSPOSED> void tiles(u32 (&r)[4], const void *p) {
    if ((u64)p % 16 != 0) fprintf(stderr, "a tile's row at %p\n", p), abort();
    u32 lane = shim::running->thread % 32;
    shim::together(p, [&](auto of) {
        auto at = [&](u32 tile, u32 row, u32 column) -> u32 {
            return ((const u16 *)of(tile * 8 + row))[column];
        };
        for (u32 tile = 0; tile < 4; tile++) {
            u32 row = lane / 4, column = lane % 4 * 2;
            r[tile] = TRANSPOSED ? at(tile, column, row) | at(tile, column + 1, row) << 16
                                 : at(tile, row, column) | at(tile, row, column + 1) << 16;
        }
    });
}
DEVICE void load_tiles(u32 (&r)[4], const void *p) { tiles<false>(r, p); }
DEVICE void load_tiles_transposed(u32 (&r)[4], const void *p) { tiles<true>(r, p); }

DEVICE void copy_async(void *to, const void *from, bool valid) {
    if ((u64)to % 16 != 0 || (valid && (u64)from % 16 != 0)) fprintf(stderr, "a copy from %p to %p\n", from, to), abort();
    if (valid) memcpy(to, from, 16);
    else memset(to, 0, 16);
}
DEVICE void copies_end() {}
template <int LATER> void copies_wait() {}

#ifndef LLM_BENCH_NO_COPY_ENGINE
#define COPY_ENGINE 1
struct Arrivals {
    u32 phase, pending;
};
DEVICE Arrivals &arrivals_at(u32 at) { return *(Arrivals *)(shared_memory() + at); }
DEVICE void arrivals_begin(u32 at) { arrivals_at(at) = Arrivals{0, 0}; }
DEVICE void arrivals_expect(u32 at, u32 bytes) {
    if (arrivals_at(at).pending != 0) fprintf(stderr, "a barrier expects twice\n"), abort();
    arrivals_at(at).pending = bytes;
}
DEVICE void copy_bulk(u32 to, const u8 *from, u32 bytes, u32 arrivals) {
    if (to % 16 != 0 || (u64)from % 16 != 0 || bytes % 16 != 0) fprintf(stderr, "a copy of %u from %p\n", bytes, from), abort();
    memcpy(shared_memory() + to, from, bytes);
    Arrivals &a = arrivals_at(arrivals);
    a.pending -= bytes;
    if (a.pending == 0) a.phase ^= 1, shim::moves++;
}
DEVICE void arrivals_wait(u32 at, u32 parity) {
    while (arrivals_at(at).phase == parity) shim::yield();
}
#endif

DEVICE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
DEVICE float fast_exp(float x) { return expf(x); }
using std::min;
using std::max;
