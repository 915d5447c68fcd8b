// What the kernels use of a card: types, loads, warp and tensor-core instructions. Compiled by an
// ordinary C++ compiler, `shim.h` offers the same on the processor, so that tests run the kernels
// without a card.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef LLM_BENCH_SHIM
#include "shim.h"
#else

#define DEVICE __device__ __forceinline__
#define OUTLINED __device__ __noinline__
// A kernel of blocks of `threads`, of which a multiprocessor should hold `per_processor`.
#define KERNEL(threads, per_processor) extern "C" __global__ void __launch_bounds__(threads, per_processor)
#define ALIGNED __align__(16)

// The dynamic shared memory of the block.
DEVICE char *shared_memory() {
    extern __shared__ __align__(128) char shared[];
    return shared;
}

// A place in the shared memory, which the compiler then knows not to be anywhere else.
struct InShared {
    u32 at;
    DEVICE InShared operator+(u32 bytes) const { return InShared{at + bytes}; }
    template <class T> DEVICE T as(u32 i) const { return ((const T *)(shared_memory() + at))[i]; }
};

DEVICE float half_to_float(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

DEVICE u16 float_to_half(float f) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

DEVICE float bits_to_float(u32 bits) { return __uint_as_float(bits); }

DEVICE float fast_exp(float x) { return __expf(x); }

// c + the products of four signed bytes.
DEVICE int dot4(u32 a, u32 b, int c) {
    int d;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE float shuffle_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
DEVICE int shuffle_xor(int v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }

// Weights: read once, so kept out of the first-level cache.
DEVICE uint4 load_weights(const void *p) {
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p));
    return v;
}

DEVICE uint2 load_weights64(const void *p) {
    uint2 v;
    asm("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}

DEVICE u16 load_weights16(const void *p) {
    u16 v;
    asm("ld.global.nc.u16 %0, [%1];" : "=h"(v) : "l"(p));
    return v;
}

DEVICE u16 load_weights8(const void *p) {
    u16 v;
    asm("ld.global.nc.u8 %0, [%1];" : "=h"(v) : "l"(p));
    return v;
}

DEVICE u32 load_weights32(const void *p) {
    u32 v;
    asm("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}

// What other blocks of the same launch wrote: read past the first-level cache, which is not coherent.
template <class T> DEVICE T load_shared_by_all(const T *p) { return __ldcg(p); }

// A barrier over all blocks of a launch that run at the same time. `target` is the count that the
// counter reaches when every block has arrived. What other blocks wrote before it is read with
// `load_shared_by_all` after it: past the first-level cache, which an acquiring load would empty. Traps
// after seconds rather than hang.
DEVICE void sync_grid(u32 *counter, u32 target) {
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
        u32 seen, rounds = 0;
        do {
            asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
            if (++rounds == 1u << 25) asm volatile("trap;");
        } while ((int)(seen - target) < 0);
    }
    __syncthreads();
}

// Cycles of this multiprocessor.
DEVICE u64 cycles() {
    u64 c;
    asm volatile("mov.u64 %0, %clock64;" : "=l"(c)::"memory");
    return c;
}

// Makes stores visible to the host, which polls what is stored after it.
DEVICE void fence_host() { __threadfence_system(); }

// d += a · b for a 16×16 (row-major) and a 16×8 (column-major) tile of f16, sums in f32.
DEVICE void mma(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The same for a 16×32 and a 32×8 tile of signed bytes, sums in int32.
DEVICE void mma_int8(int (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8×8 tiles of f16 from shared memory; lane l names a row of tile l / 8.
DEVICE void load_tiles(u32 (&r)[4], const void *p) {
    u32 at = (u32)__cvta_generic_to_shared(p);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

DEVICE void load_tiles_transposed(u32 (&r)[4], const void *p) {
    u32 at = (u32)__cvta_generic_to_shared(p);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

// Copies 16 bytes to shared memory behind the thread's back, or zeros if not `valid`.
DEVICE void copy_async(void *to, const void *from, bool valid) {
    u32 at = (u32)__cvta_generic_to_shared(to);
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes)
                 : "memory");
}
DEVICE void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LATER> DEVICE void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
}

#if __CUDA_ARCH__ >= 900
// Hopper's copy engine brings many bytes for one instruction and counts them in a barrier in shared
// memory. A phase of such a barrier is over when the bytes that it expects have arrived.
#define COPY_ENGINE 1
DEVICE u32 shared_address(u32 at) { return (u32)__cvta_generic_to_shared(shared_memory() + at); }
DEVICE void arrivals_begin(u32 at) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(at)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
DEVICE void arrivals_expect(u32 at, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(at)), "r"(bytes)
                 : "memory");
}
DEVICE void copy_bulk(u32 to, const u8 *from, u32 bytes, u32 arrivals) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(arrivals))
                 : "memory");
}
// Waits until the phase of this parity is over. Traps after seconds rather than hang.
DEVICE void arrivals_wait(u32 at, u32 parity) {
    const u32 address = shared_address(at);
    u32 done, rounds = 0;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(address), "r"(parity)
                     : "memory");
        if (++rounds == 1u << 22) asm volatile("trap;");
    } while (!done);
}
#endif

#endif

DEVICE uint4 load_weights(InShared p) { return p.as<uint4>(0); }
DEVICE u16 load_weights16(InShared p) { return p.as<u16>(0); }
DEVICE u16 load_weights8(InShared p) { return p.as<u8>(0); }
DEVICE u32 load_weights32(InShared p) { return p.as<u32>(0); }

DEVICE float sum_of_warp(float v) {
    for (int mask = 16; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
    return v;
}

DEVICE u32 two_halves(float low, float high) {
    return (u32)float_to_half(low) | (u32)float_to_half(high) << 16;
}

// The rows or pieces of `n` that belong to this block: contiguous, as even as can be.
struct Share {
    u32 begin, end;
};
DEVICE Share share_of_block(u32 n) {
    // In 32 bits, since a division of 64 takes hundreds of cycles: n is at most 2³² ÷ blocks.
    return Share{n * blockIdx.x / gridDim.x, n * (blockIdx.x + 1) / gridDim.x};
}
