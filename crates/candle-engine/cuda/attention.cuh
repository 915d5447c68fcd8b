// Attention of one query position over the cache: by one warp, then by one block.
#pragma once
#include "device.cuh"

// Query heads of one key/value head that a warp serves in one pass over the keys.
const u32 HEADS_AT_ONCE = 4;

// Softmax-weighted values of some positions, for the eight dimensions of a lane.
struct Attended {
    float most, total, values[8];

    DEVICE void clear() {
        most = -1e30f;
        total = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) values[i] = 0;
    }
    // Adds what other positions gave.
    DEVICE void merge(float their_most, float their_total, const float (&theirs)[8]) {
        float top = max(most, their_most), mine = fast_exp(most - top), other = fast_exp(their_most - top);
        most = top;
        total = total * mine + their_total * other;
#pragma unroll
        for (int i = 0; i < 8; i++) values[i] = values[i] * mine + theirs[i] * other;
    }
};

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
// `begin..end` of one key/value head. The whole block works; `scratch` has room for
// (warps + 1) · n · (head_dim + 2) floats; the results lie in the last n · (head_dim + 2): values not
// yet divided by the total, then maximum and total.
DEVICE void attend_block(const float *queries, u32 n, u32 head_dim, const u16 *keys, const u16 *values, u32 begin,
                         u32 end, float *scratch) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const u32 group = lanes_per_position(head_dim), at_once = 32 / group;
    const u32 part = lane % group, dim = part * 8;
    const bool mine = dim < head_dim;
    float q[HEADS_AT_ONCE][8];
    Attended sums[HEADS_AT_ONCE];
#pragma unroll
    for (u32 h = 0; h < HEADS_AT_ONCE; h++) {
        sums[h].clear();
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
        const u32 position = first + lane / group;
        const bool here = position < end;
        uint4 k = {0, 0, 0, 0}, v = k;
        if (here && mine) {
            u64 at = (u64)position * head_dim + dim;
            k = load_shared_by_all((const uint4 *)(keys + at));
            v = load_shared_by_all((const uint4 *)(values + at));
        }
        float key[8], value[8];
        widen8(k, key);
        widen8(v, value);
#pragma unroll
        for (u32 h = 0; h < HEADS_AT_ONCE; h++) {
            if (h >= n) break;
            float score = 0;
#pragma unroll
            for (int i = 0; i < 8; i++) score += q[h][i] * key[i];
            for (u32 mask = 1; mask < group; mask *= 2) score += shuffle_xor(score, mask);
            if (here) sums[h].merge(score, 1, value);
        }
    }
    sync_block();
    const u32 width = head_dim + 2;
#pragma unroll
    for (u32 h = 0; h < HEADS_AT_ONCE; h++) {
        if (h >= n) break;
        for (u32 mask = group; mask < 32; mask *= 2) {
            float most = shuffle_xor(sums[h].most, mask), total = shuffle_xor(sums[h].total, mask), theirs[8];
#pragma unroll
            for (int i = 0; i < 8; i++) theirs[i] = shuffle_xor(sums[h].values[i], mask);
            sums[h].merge(most, total, theirs);
        }
        float *to = scratch + (warp * n + h) * width;
        if (lane < group && mine) {
#pragma unroll
            for (int i = 0; i < 8; i++) to[dim + i] = sums[h].values[i];
        }
        if (lane == 0) {
            to[head_dim] = sums[h].most;
            to[head_dim + 1] = sums[h].total;
        }
    }
    sync_block();
    // Thread i merges dimension i of all warps.
    for (u32 i = threadIdx.x; i < n * width; i += blockDim.x) {
        const u32 h = i / width, d = i % width;
        float top = -1e30f, result = 0;
        for (u32 w = 0; w < warps; w++) top = max(top, scratch[(w * n + h) * width + head_dim]);
        for (u32 w = 0; w < warps; w++) {
            const float *from = scratch + (w * n + h) * width;
            result += from[d] * fast_exp(from[head_dim] - top);
        }
        scratch[warps * n * width + i] = d == head_dim ? top : result;
    }
    sync_block();
}
