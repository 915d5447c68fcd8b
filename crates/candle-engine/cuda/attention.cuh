// Attention of one query position over the cache, by one block.
#pragma once
#include "device.cuh"

// Query heads of one key/value head that a block serves in one pass over the keys.
const u32 HEADS_AT_ONCE = 4;

DEVICE void widen8(uint4 v, float (&out)[8]) {
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        out[2 * i] = half_to_float((u16)words[i]);
        out[2 * i + 1] = half_to_float((u16)(words[i] >> 16));
    }
}

// The lanes that share a position: as many as eight dimensions each need, rounded to a power of two.
DEVICE u32 lanes_per_position(u32 head_dim) {
    u32 lanes = 1;
    while (lanes * 8 < head_dim) lanes *= 2;
    return lanes;
}

// Attends `n` (at most HEADS_AT_ONCE) heads, whose queries lie one after the other, to positions
// `begin..end` of one key/value head. `scratch` has room for
// n · (end − begin) + 2 · HEADS_AT_ONCE + warps · n · head_dim floats. `store(h · head_dim + d, value)` takes values
// that are not yet divided by the total, `store_sums(h, most, total)` the greatest score and the sum of
// weights. Between two calls lies a barrier.
template <class Store, class StoreSums>
DEVICE void attend_block(const float *queries, u32 n, u32 head_dim, const u16 *keys, const u16 *values, u32 begin,
                         u32 end, float *scratch, Store store, StoreSums store_sums) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const u32 group = lanes_per_position(head_dim), at_once = 32 / group;
    const u32 part = lane & (group - 1), slot = lane / group, dim = part * 8;
    const bool mine = dim < head_dim;
    const u32 count = end > begin ? end - begin : 0;
    float *sums = scratch, *scores = scratch + 2 * HEADS_AT_ONCE, *parts = scores + n * count;
    {
        float q[HEADS_AT_ONCE][8];
#pragma unroll
        for (u32 h = 0; h < HEADS_AT_ONCE; h++) {
            float4 a = {0, 0, 0, 0}, b = a;
            if (h < n && mine) {
                const float4 *from = (const float4 *)(queries + h * head_dim + dim);
                a = load_shared_by_all(from);
                b = load_shared_by_all(from + 1);
            }
            q[h][0] = a.x, q[h][1] = a.y, q[h][2] = a.z, q[h][3] = a.w;
            q[h][4] = b.x, q[h][5] = b.y, q[h][6] = b.z, q[h][7] = b.w;
        }
        for (u32 first = begin + warp * at_once; first < end; first += warps * at_once) {
            const u32 position = first + slot;
            uint4 k = {0, 0, 0, 0};
            if (position < end && mine) k = load_shared_by_all((const uint4 *)(keys + (u64)position * head_dim + dim));
            float key[8], score[HEADS_AT_ONCE];
            widen8(k, key);
#pragma unroll
            for (u32 h = 0; h < HEADS_AT_ONCE; h++) {
                score[h] = 0;
#pragma unroll
                for (int i = 0; i < 8; i++) score[h] += q[h][i] * key[i];
            }
            for (u32 mask = 1; mask < group; mask *= 2)
#pragma unroll
                for (u32 h = 0; h < HEADS_AT_ONCE; h++) score[h] += shuffle_xor(score[h], mask);
            if (part == 0 && position < end)
#pragma unroll
                for (u32 h = 0; h < HEADS_AT_ONCE; h++)
                    if (h < n) scores[h * count + position - begin] = score[h];
        }
    }
    sync_block();
    // A warp turns the scores of one head into weights.
    if (warp < n) {
        float *of = scores + warp * count, top = -1e30f, total = 0;
        for (u32 i = lane; i < count; i += 32) top = max(top, of[i]);
        for (int mask = 16; mask > 0; mask /= 2) top = max(top, shuffle_xor(top, mask));
        for (u32 i = lane; i < count; i += 32) {
            const float weight = fast_exp(of[i] - top);
            of[i] = weight;
            total += weight;
        }
        total = sum_of_warp(total);
        if (lane == 0) sums[2 * warp] = top, sums[2 * warp + 1] = total;
    }
    sync_block();
    // Lanes: a head and eight dimensions; warps: positions.
    for (u32 base = 0; base < n; base += at_once) {
        const u32 h = base + slot;
        const bool here = h < n && mine;
        float sum[8];
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] = 0;
        u32 at = warp;
        for (; at + 3 * warps < count; at += 4 * warps) {
            uint4 v[4];
#pragma unroll
            for (u32 j = 0; j < 4; j++)
                if (here) v[j] = load_shared_by_all((const uint4 *)(values + (u64)(begin + at + j * warps) * head_dim + dim));
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                if (!here) continue;
                float value[8];
                widen8(v[j], value);
                const float weight = scores[h * count + at + j * warps];
#pragma unroll
                for (int i = 0; i < 8; i++) sum[i] += weight * value[i];
            }
        }
        for (; at < count; at += warps) {
            if (!here) continue;
            float value[8];
            widen8(load_shared_by_all((const uint4 *)(values + (u64)(begin + at) * head_dim + dim)), value);
            const float weight = scores[h * count + at];
#pragma unroll
            for (int i = 0; i < 8; i++) sum[i] += weight * value[i];
        }
        if (here) {
#pragma unroll
            for (int i = 0; i < 8; i++) parts[(warp * n + h) * head_dim + dim + i] = sum[i];
        }
    }
    sync_block();
    for (u32 i = threadIdx.x; i < n * head_dim; i += blockDim.x) {
        float sum = 0;
        for (u32 w = 0; w < warps; w++) sum += parts[w * n * head_dim + i];
        store(i, sum);
    }
    if (threadIdx.x < n) store_sums(threadIdx.x, sums[2 * threadIdx.x], sums[2 * threadIdx.x + 1]);
}
