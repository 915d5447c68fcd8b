// A prompt: many tokens at once. Weights are widened to f16 a matrix at a time and multiplied by the
// tensor cores, with sums in f32; the residual stream stays in f32.
#pragma once
#include "attention.cuh"
#include "formats.cuh"

// Rows of the embedding: x[t] for `tokens`. One block a token.
KERNEL(256, 4) embed_rows(Matrix m, const u32 *tokens, float *x) {
    const u32 t = blockIdx.x;
    for (u32 i = threadIdx.x; i < m.columns; i += blockDim.x) x[(u64)t * m.columns + i] = weight_at(m, tokens[t], i);
}

// Normalized rows in f16. One block a row.
KERNEL(256, 4) norm_rows(const float *x, const float *norm, u16 *out, u32 n, float eps) {
    float *scratch = (float *)shared_memory();
    const float *row = x + (u64)blockIdx.x * n;
    float sum = 0;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) sum += row[i] * row[i];
    sum = sum_of_warp(sum);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = sum;
    sync_block();
    sum = 0;
    for (u32 w = 0; w < blockDim.x / 32; w++) sum += scratch[w];
    float scale = rsqrtf(sum / (float)n + eps);
    if (!(scale > 0)) scale = bits_to_float(0x7fc00000);
    for (u32 i = threadIdx.x; i < n; i += blockDim.x)
        out[(u64)blockIdx.x * n + i] = float_to_half(row[i] * scale * norm[i]);
}

// A matrix as f16, `columns` to a row; a thread makes eight values. Grid: (columns / 8 / threads,
// rows / ...): rows are taken in strides of the grid.
KERNEL(256, 4) widen(Matrix m, u16 *out) {
    const u32 eighth = blockIdx.x * blockDim.x + threadIdx.x;
    if (eighth * 8 >= m.columns) return;
    WITH_FORMAT(m.format, R, for (u32 row = blockIdx.y; row < m.rows; row += gridDim.y) {
        const u8 *at = row_of(m, row);
        float w[8];
        eight<R>(at, eighth * 8, m.columns, w);
        *(uint4 *)(out + (u64)row * m.columns + eighth * 8) =
            uint4{two_halves(w[0], w[1]), two_halves(w[2], w[3]), two_halves(w[4], w[5]), two_halves(w[6], w[7])};
    })
}

// Brings stored blocks of a file into planes: `units` of two bytes each, block by block; the plane of
// a unit is found by its place in the block.
struct Planes {
    u32 block_bytes, n;
    // Per plane: where it starts in the block, its bytes there, and where it starts in the row.
    u32 from[4], bytes[4], to[4];
};
KERNEL(256, 4) repack(const u8 *source, u64 source_stride, Planes planes, u8 *out, u64 out_stride, u32 columns_blocks, u32 rows) {
    const u32 per_block = planes.block_bytes / 2;
    const u64 units = (u64)rows * columns_blocks * per_block;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < units; i += (u64)gridDim.x * blockDim.x) {
        const u64 whole = i / per_block;
        const u32 byte = (u32)(i % per_block) * 2, block = (u32)(whole % columns_blocks), row = (u32)(whole / columns_blocks);
        u16 value = *(const u16 *)(source + row * source_stride + (u64)block * planes.block_bytes + byte);
        for (u32 p = 0; p < planes.n; p++)
            if (byte >= planes.from[p] && byte < planes.from[p] + planes.bytes[p])
                *(u16 *)(out + row * out_stride + planes.to[p] + (u64)block * planes.bytes[p] + (byte - planes.from[p])) = value;
    }
}

// What a product does with its sums.
enum Store : u32 {
    WRITE,   // f32 out = sum
    ADD,     // f32 out += sum
    HALF,    // f16 out = sum
    GATED,   // f16 out = silu(out) · sum
};

// A block makes 128 × 256 sums, each of its eight warps 64 × 64: with smaller tiles the second-level
// cache cannot bring the operands as fast as the tensor cores take them.
const u32 TILE_T = 128, TILE_R = 256, DEPTH = 64, GEMM_THREADS = 256;
const u32 STAGE_BYTES = (TILE_T + TILE_R) * DEPTH * 2;

// Where 16 bytes lie in a tile of 64 halves a row, so that eight rows of one column meet eight banks.
DEVICE u32 in_tile(u32 row, u32 eighth) { return row * DEPTH + ((eighth ^ (row & 7)) * 8); }

// Puts a sum where it belongs.
DEVICE void store_sum(void *out, u64 at, float sum, u32 store) {
    if (store == WRITE) {
        ((float *)out)[at] = sum;
    } else if (store == ADD) {
        ((float *)out)[at] += sum;
    } else if (store == HALF) {
        ((u16 *)out)[at] = float_to_half(sum);
    } else {
        const float gate = half_to_float(((u16 *)out)[at]);
        ((u16 *)out)[at] = float_to_half(gate / (1 + fast_exp(-gate)) * sum);
    }
}

// out[t][r] for tokens t < m and rows r < n: a is [m][k] f16, w is [n][k] f16 with `w_stride` halves
// from row to row; k is a multiple of 8. Grid: (ceil(n / 256), ceil(m / 128), parts): a part takes
// `steps_each` times 64 of k, and where there are several, writes its sums to out[part][m][n]. `stages`,
// 2 to 4, are the steps of which shared memory has the operands.
KERNEL(GEMM_THREADS, 1)
multiply(const u16 *a, const u16 *w, u32 w_stride, void *out, u32 out_stride, u32 m, u32 n, u32 k, u32 steps_each,
         u32 stages, u32 store) {
    u16 *tiles = (u16 *)shared_memory();
    const u32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const u32 first_t = blockIdx.y * TILE_T, first_r = blockIdx.x * TILE_R;
    const u32 warp_t = warp / 4 * 64, warp_r = warp % 4 * 64;
    const u32 from = blockIdx.z * steps_each, all = (k + DEPTH - 1) / DEPTH;
    const u32 steps = from < all ? min(steps_each, all - from) : 0;

    auto fill = [&](u32 step, u32 stage) {
        u16 *left = tiles + stage * (STAGE_BYTES / 2), *right = left + TILE_T * DEPTH;
        const u32 eighth = thread % 8, column = (from + step) * DEPTH + eighth * 8;
#pragma unroll
        for (u32 i = 0; i < TILE_T * 8 / GEMM_THREADS; i++) {
            const u32 row = i * (GEMM_THREADS / 8) + thread / 8;
            const bool here = first_t + row < m && column < k;
            copy_async(left + in_tile(row, eighth), here ? a + (u64)(first_t + row) * k + column : a, here);
        }
#pragma unroll
        for (u32 i = 0; i < TILE_R * 8 / GEMM_THREADS; i++) {
            const u32 row = i * (GEMM_THREADS / 8) + thread / 8;
            const bool here = first_r + row < n && column < k;
            copy_async(right + in_tile(row, eighth), here ? w + (u64)(first_r + row) * w_stride + column : w, here);
        }
    };

    float sums[4][8][4];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) sums[i][j][c] = 0;

    for (u32 step = 0; step + 1 < stages; step++) {
        if (step < steps) fill(step, step);
        copies_end();
    }
    u32 stage = 0, free = stages - 1;
    for (u32 step = 0; step < steps; step++) {
        if (stages == 4) copies_wait<2>();
        else if (stages == 3) copies_wait<1>();
        else copies_wait<0>();
        sync_block();
        if (step + stages - 1 < steps) fill(step + stages - 1, free);
        copies_end();
        free = free + 1 == stages ? 0 : free + 1;
        const u16 *left = tiles + stage * (STAGE_BYTES / 2), *right = left + TILE_T * DEPTH;
        stage = stage + 1 == stages ? 0 : stage + 1;
#pragma unroll
        for (u32 inner = 0; inner < DEPTH / 16; inner++) {
            u32 x[4][4], y[8][2];
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                load_tiles(x[i], left + in_tile(warp_t + i * 16 + lane % 16, inner * 2 + lane / 16));
#pragma unroll
            for (u32 j = 0; j < 8; j += 2) {
                u32 four[4];
                load_tiles(four, right + in_tile(warp_r + j * 8 + lane / 16 * 8 + lane % 8, inner * 2 + lane / 8 % 2));
                y[j][0] = four[0], y[j][1] = four[1], y[j + 1][0] = four[2], y[j + 1][1] = four[3];
            }
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < 8; j++) mma(sums[i][j], x[i], y[j]);
        }
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++)
#pragma unroll
        for (u32 j = 0; j < 8; j++)
#pragma unroll
            for (u32 c = 0; c < 4; c++) {
                const u32 t = first_t + warp_t + i * 16 + lane / 4 + c / 2 * 8, r = first_r + warp_r + j * 8 + lane % 4 * 2 + c % 2;
                if (t >= m || r >= n) continue;
                if (gridDim.z == 1) store_sum(out, (u64)t * out_stride + r, sums[i][j][c], store);
                else ((float *)out)[((u64)blockIdx.z * m + t) * n + r] = sums[i][j][c];
            }
}

// Adds what the parts of a product found, in their order. Grid: (ceil(n / 256), m).
KERNEL(256, 4) add_parts(const float *parts, u32 n_parts, void *out, u32 out_stride, u32 m, u32 n, u32 store) {
    const u32 r = blockIdx.x * 256 + threadIdx.x, t = blockIdx.y;
    if (r >= n) return;
    float sum = 0;
    for (u32 p = 0; p < n_parts; p++) sum += parts[((u64)p * m + t) * n + r];
    store_sum(out, (u64)t * out_stride + r, sum, store);
}

// Rotates queries and keys of `qkv` ([m][q | k | v], f32) at positions first..; queries, scaled, go to
// `q16` ([m][heads][d]) and, unless it is null, in f32 to `q`; keys and values into the cache. One block a token.
KERNEL(256, 4) rotate_rows(const float *qkv, const float *angles, u32 first, u32 n_heads, u32 n_kv_heads, u32 d, u32 n_ctx,
                        float *q, u16 *q16, u16 *keys, u16 *values) {
    const u32 t = blockIdx.x, position = first + t, q_rows = n_heads * d, kv_rows = n_kv_heads * d;
    const float *from = qkv + (u64)t * (q_rows + 2 * kv_rows);
    const float scale = rsqrtf((float)d);
    for (u32 pair = threadIdx.x; pair < (q_rows + 2 * kv_rows) / 2; pair += blockDim.x) {
        const u32 row = 2 * pair;
        float a = from[row], b = from[row + 1];
        if (row < q_rows + kv_rows) {
            const float *angle = angles + ((u64)position * (d / 2) + row % d / 2) * 2;
            float c = a * angle[0] - b * angle[1];
            b = a * angle[1] + b * angle[0];
            a = c;
        }
        if (row < q_rows) {
            const u64 at = (u64)t * q_rows + row;
            if (q) q[at] = a * scale, q[at + 1] = b * scale;
            *(u32 *)(q16 + at) = two_halves(a * scale, b * scale);
        } else {
            const u32 in = row < q_rows + kv_rows ? row - q_rows : row - q_rows - kv_rows;
            u16 *cache = row < q_rows + kv_rows ? keys : values;
            *(u32 *)(cache + ((u64)(in / d) * n_ctx + position) * d + in % d) = two_halves(a, b);
        }
    }
}

// Attention for any head dimension, one block a token and key/value head: grid (m, kv heads). The
// result is f16 [m][heads][d].
KERNEL(128, 4) attend_rows(const float *q, const u16 *keys, const u16 *values, u32 first, u32 n_heads, u32 n_kv_heads, u32 d,
                        u32 n_ctx, u16 *out) {
    float *scratch = (float *)shared_memory();
    const u32 t = blockIdx.x, kv = blockIdx.y, per_kv = n_heads / n_kv_heads;
    const u64 base = (u64)kv * n_ctx * d;
    for (u32 h = 0; h < per_kv; h += HEADS_AT_ONCE) {
        const u32 n = min(HEADS_AT_ONCE, per_kv - h), head = kv * per_kv + h;
        const u64 at = ((u64)t * n_heads + head) * d;
        const float *sums = scratch; // where attend_block keeps them
        attend_block(
            q + at, n, d, keys + base, values + base, 0, first + t + 1, scratch,
            [&](u32 i, float value) { out[at + i] = float_to_half(value / sums[2 * (i / d) + 1]); },
            [](u32, float, float) {});
        sync_block();
    }
}

const u32 QUERIES = 64, KEYS = 64, FLASH_THREADS = 128;

// The same for head dimensions of 64 and 128 on the tensor cores: a block takes 64 queries of one head
// and passes over the keys before them, 64 at a time. Grid: (ceil(m / 64), heads).
template <u32 D>
DEVICE void flash(const u16 *q, const u16 *keys, const u16 *values, u32 first, u32 m, u32 n_heads, u32 n_kv_heads,
                  u32 n_ctx, u16 *out) {
    u16 *shared = (u16 *)shared_memory();
    const u32 EIGHTHS = D / 8, TILE_HALVES = KEYS * D;
    u16 *queries = shared, *tiles = shared + QUERIES * D; // then two stages of keys and values
    const u32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const u32 head = blockIdx.y, kv = head / (n_heads / n_kv_heads);
    // The last queries have the most keys: they start first.
    const u32 first_t = (gridDim.x - 1 - blockIdx.x) * QUERIES;
    const u64 base = (u64)kv * n_ctx * D;
    const u32 end = min(first + m, first + first_t + QUERIES), turns = (end + KEYS - 1) / KEYS;
    auto place = [&](u32 row, u32 eighth) { return row * D + (eighth ^ (row & 7)) * 8; };

    for (u32 i = thread; i < QUERIES * EIGHTHS; i += FLASH_THREADS) {
        const u32 row = i / EIGHTHS, eighth = i % EIGHTHS;
        const bool here = first_t + row < m;
        copy_async(queries + place(row, eighth), here ? q + ((u64)(first_t + row) * n_heads + head) * D + eighth * 8 : q, here);
    }
    auto fill = [&](u32 turn) {
        u16 *k = tiles + turn % 2 * 2 * TILE_HALVES, *v = k + TILE_HALVES;
        for (u32 i = thread; i < KEYS * EIGHTHS; i += FLASH_THREADS) {
            const u32 row = i / EIGHTHS, eighth = i % EIGHTHS, position = turn * KEYS + row;
            const bool here = position < end;
            const u64 at = base + (u64)position * D + eighth * 8;
            copy_async(k + place(row, eighth), here ? keys + at : keys, here);
            copy_async(v + place(row, eighth), here ? values + at : values, here);
        }
    };
    fill(0);
    copies_end();

    float result[D / 8][4], most[2] = {-1e30f, -1e30f}, total[2] = {0, 0};
#pragma unroll
    for (u32 i = 0; i < D / 8; i++)
#pragma unroll
        for (u32 c = 0; c < 4; c++) result[i][c] = 0;
    u32 x[D / 16][4];

    for (u32 turn = 0; turn < turns; turn++) {
        if (turn + 1 < turns) fill(turn + 1);
        copies_end();
        copies_wait<1>();
        sync_block();
        if (turn == 0) {
#pragma unroll
            for (u32 i = 0; i < D / 16; i++) load_tiles(x[i], queries + place(warp * 16 + lane % 16, i * 2 + lane / 16));
        }
        const u16 *k = tiles + turn % 2 * 2 * TILE_HALVES, *v = k + TILE_HALVES;
        float scores[KEYS / 8][4];
#pragma unroll
        for (u32 j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (u32 c = 0; c < 4; c++) scores[j][c] = 0;
#pragma unroll
        for (u32 i = 0; i < D / 16; i++)
#pragma unroll
            for (u32 j = 0; j < KEYS / 8; j += 2) {
                u32 four[4];
                load_tiles(four, k + place(j * 8 + lane / 16 * 8 + lane % 8, i * 2 + lane / 8 % 2));
                const u32 one[2] = {four[0], four[1]}, two[2] = {four[2], four[3]};
                mma(scores[j], x[i], one);
                mma(scores[j + 1], x[i], two);
            }
        // Rows lane / 4 and lane / 4 + 8 of the warp's sixteen queries.
#pragma unroll
        for (u32 row = 0; row < 2; row++) {
            const u32 position = first + first_t + warp * 16 + lane / 4 + row * 8;
            float top = most[row];
#pragma unroll
            for (u32 j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (u32 c = 0; c < 2; c++) {
                    float &score = scores[j][row * 2 + c];
                    if (turn * KEYS + j * 8 + lane % 4 * 2 + c > position) score = -1e30f;
                    top = max(top, score);
                }
            top = max(top, shuffle_xor(top, 1));
            top = max(top, shuffle_xor(top, 2));
            const float old = fast_exp(most[row] - top);
            most[row] = top;
            float sum = 0;
#pragma unroll
            for (u32 j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (u32 c = 0; c < 2; c++) {
                    float &score = scores[j][row * 2 + c];
                    score = fast_exp(score - top);
                    sum += score;
                }
            total[row] = total[row] * old + sum;
#pragma unroll
            for (u32 i = 0; i < D / 8; i++) {
                result[i][row * 2] *= old;
                result[i][row * 2 + 1] *= old;
            }
        }
#pragma unroll
        for (u32 j = 0; j < KEYS / 16; j++) {
            const u32 weights[4] = {two_halves(scores[2 * j][0], scores[2 * j][1]), two_halves(scores[2 * j][2], scores[2 * j][3]),
                                    two_halves(scores[2 * j + 1][0], scores[2 * j + 1][1]),
                                    two_halves(scores[2 * j + 1][2], scores[2 * j + 1][3])};
#pragma unroll
            for (u32 i = 0; i < D / 8; i += 2) {
                u32 four[4];
                load_tiles_transposed(four, v + place(j * 16 + lane / 8 % 2 * 8 + lane % 8, i + lane / 16));
                const u32 one[2] = {four[0], four[1]}, two[2] = {four[2], four[3]};
                mma(result[i], weights, one);
                mma(result[i + 1], weights, two);
            }
        }
        sync_block();
    }
#pragma unroll
    for (u32 row = 0; row < 2; row++) {
        float sum = total[row] + shuffle_xor(total[row], 1);
        sum += shuffle_xor(sum, 2);
        const u32 t = first_t + warp * 16 + lane / 4 + row * 8;
        if (t >= m) continue;
        u16 *to = out + ((u64)t * n_heads + head) * D;
#pragma unroll
        for (u32 i = 0; i < D / 8; i++)
            *(u32 *)(to + i * 8 + lane % 4 * 2) = two_halves(result[i][row * 2] / sum, result[i][row * 2 + 1] / sum);
    }
}

KERNEL(FLASH_THREADS, 2) flash_64(const u16 *q, const u16 *keys, const u16 *values, u32 first, u32 m, u32 n_heads, u32 n_kv_heads,
                               u32 n_ctx, u16 *out) {
    flash<64>(q, keys, values, first, m, n_heads, n_kv_heads, n_ctx, out);
}
KERNEL(FLASH_THREADS, 2) flash_128(const u16 *q, const u16 *keys, const u16 *values, u32 first, u32 m, u32 n_heads, u32 n_kv_heads,
                                u32 n_ctx, u16 *out) {
    flash<128>(q, keys, values, first, m, n_heads, n_kv_heads, n_ctx, out);
}
