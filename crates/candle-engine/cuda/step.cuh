// One decode step in one launch: every multiprocessor runs one block, and blocks wait for each other
// between the stages of a layer instead of being launched for each. While they wait, the weights of
// the next stages are already on their way into shared memory.
#pragma once
#include "attention.cuh"
#include "ring.cuh"

const u32 STEP_WARPS = RING_WARPS, STEP_THREADS = 32 * STEP_WARPS;

struct Layer {
    Matrix q, k, v, o, gate, up, down;
    const float *attn_norm, *ffn_norm;
    u16 *keys, *values; // [kv_heads][n_ctx][head_dim]
};

struct Model {
    Matrix embedding, head;
    const float *output_norm;
    const float *angles; // [n_ctx][head_dim / 2]: cosine, sine
    const Layer *layers;
    u32 n_layers, hidden, ffn, n_heads, n_kv_heads, head_dim, n_ctx, n_vocab;
    float eps;
    // Bytes of shared memory for the weights of each warp, a multiple of 128.
    u32 ring;
    // log2 of head_dim, or 32 where it is no power of two.
    u32 head_shift;
    // Bytes of shared memory before the rings: for vectors and attention.
    u32 before_rings;

    // i / head_dim without a division, which takes as long as a load.
    DEVICE u32 head_of(u32 i) const { return head_shift < 32 ? i >> head_shift : i / head_dim; }
};

// The works of a layer in their order; after the last layer comes the output head.
enum LayersWork : u32 { Q, K, V, OUTPUT, GATE_UP, DOWN, WORKS_OF_LAYER };

// Work `w` of a step, for this block.
DEVICE Work work_of_step(const Model &m, u32 w) {
    if (w == m.n_layers * WORKS_OF_LAYER) return work_on(m.head, nullptr, true, 0, m.ring);
    const Layer &y = m.layers[w / WORKS_OF_LAYER];
    // The three projections are one stage: warps go on counting from one to the next.
    const Share q = share_of_block(y.q.rows / 2), k = share_of_block(y.k.rows / 2);
    const u32 after_q = q.end - q.begin, after_k = after_q + k.end - k.begin;
    switch (w % WORKS_OF_LAYER) {
    case Q: return work_on(y.q, nullptr, true, 0, m.ring);
    case K: return work_on(y.k, nullptr, true, after_q, m.ring);
    case V: return work_on(y.v, nullptr, true, after_k, m.ring);
    case OUTPUT: return work_on(y.o, nullptr, false, 0, m.ring);
    case GATE_UP: return work_on(y.gate, &y.up, false, 0, m.ring);
    default: return work_on(y.down, nullptr, false, 0, m.ring);
    }
}

// What a step reads and writes besides the model.
struct State {
    u32 *counter;   // of the grid's barrier; then its value after the last launch, and how many chose
    u32 *token;     // the one chosen
    float *x;       // [hidden]
    float *q;       // [n_heads][head_dim], scaled
    float *parts;   // [n_heads][splits][head_dim], then [n_heads][splits]: greatest score, sum of weights
    float *h;       // [ffn]
    float *logits;  // [n_vocab]
    float *best;    // [blocks]: the largest logit
    u32 *best_at;   // [blocks]: its index, all ones if some logit is no finite number
    // In the host's memory: how many steps have chosen; from word 2 on, for the n-th at 2 · (n % 8),
    // the token and whether every logit is a finite number.
    volatile u32 *result;
    // If not null: the cycle at which block 0 began and ended each stage, 10 · n_layers + 3 of them.
    u64 *trace;
    // How many times as long a step takes, on purpose: to check whether that is found.
    float slow_down;
    u32 unused;
};

struct Trace {
    u64 *at;
    DEVICE Trace(const State &s) : at(blockIdx.x == 0 && threadIdx.x == 0 ? s.trace : nullptr) { note(); }
    DEVICE void note() {
        if (at) *at++ = cycles();
    }
};

DEVICE float sum_of_block(float v, float *scratch) {
    v = sum_of_warp(v);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    sync_block();
    float sum = 0;
    for (u32 w = 0; w < blockDim.x / 32; w++) sum += scratch[w];
    sync_block();
    return sum;
}

// Writes four values at 4 · i of a vector in shared memory. All lanes of a warp call it; lanes
// beyond the end (`here` false) take part in the shuffles.
DEVICE void put(const Vector &v, bool floats, bool blocks, u32 i, float4 x, bool here) {
    char *shared = shared_memory();
    if (floats && here) ((float4 *)(shared + (i % 2 ? v.seconds.at : v.firsts.at)))[i / 2] = x;
    if (!blocks) return;
    float top = max(max(fabsf(x.x), fabsf(x.y)), max(fabsf(x.z), fabsf(x.w)));
    // A maximum passes over NaN; this does not.
    float bad = x.x * 0 + x.y * 0 + x.z * 0 + x.w * 0;
#pragma unroll
    for (int mask = 1; mask < 8; mask *= 2) {
        top = max(top, shuffle_xor(top, mask));
        bad += shuffle_xor(bad, mask);
    }
    const float scale = top / 127 + bad, inverse = top > 0 ? 127 / top : 0;
    const int a = (int)rintf(x.x * inverse), b = (int)rintf(x.y * inverse);
    const int c = (int)rintf(x.z * inverse), d = (int)rintf(x.w * inverse);
    int sum = a + b + c + d;
#pragma unroll
    for (int mask = 1; mask < 4; mask *= 2) sum += shuffle_xor(sum, mask);
    if (!here) return;
    const u32 word = (u32)(a & 255) | (u32)(b & 255) << 8 | (u32)(c & 255) << 16 | (u32)(d & 255) << 24;
    const u32 block = i / 8, in = i % 8;
    ((u32 *)(shared + (in < 4 ? v.lows.at : v.highs.at)))[block * 4 + in % 4] = word;
    if (in == 0) ((float *)(shared + v.scales_at.at))[block] = scale;
    if (in % 4 == 0) ((float *)(shared + v.sums_at.at))[2 * block + in / 4] = scale * (float)sum;
}

// Four neighbouring values of a source.
struct Plain {
    const float *x;
    DEVICE float4 operator()(u32 i) const { return load_shared_by_all((const float4 *)x + i); }
};
struct Embedded {
    const Matrix &m;
    u32 row;
    DEVICE float4 operator()(u32 i) const {
        return float4{weight_at(m, row, 4 * i), weight_at(m, row, 4 * i + 1), weight_at(m, row, 4 * i + 2),
                      weight_at(m, row, 4 * i + 3)};
    }
};
// Attention's result out of what the splits found.
struct Joined {
    const Model &m;
    const float *parts;
    u32 splits;
    DEVICE float4 operator()(u32 i) const {
        const u32 d = m.head_dim, head = m.head_of(4 * i), first = head * splits;
        const float2 *sums = (const float2 *)(parts + m.n_heads * splits * d) + first;
        const float4 *from = (const float4 *)(parts + first * d + (4 * i - head * d));
        float top = -1e30f, total = 0;
        float4 r = {0, 0, 0, 0};
        for (u32 begin = 0; begin < splits; begin += 4) {
            float2 sum[4];
            float4 x[4];
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                const u32 s = min(begin + j, splits - 1);
                sum[j] = load_shared_by_all(sums + s);
                x[j] = load_shared_by_all(from + s * (d / 4));
            }
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                if (begin + j >= splits) break;
                const float most = max(top, sum[j].x), old = fast_exp(top - most), scale = fast_exp(sum[j].x - most);
                top = most;
                total = total * old + sum[j].y * scale;
                r.x = r.x * old + x[j].x * scale, r.y = r.y * old + x[j].y * scale;
                r.z = r.z * old + x[j].z * scale, r.w = r.w * old + x[j].w * scale;
            }
        }
        const float inverse = 1 / total;
        return float4{r.x * inverse, r.y * inverse, r.z * inverse, r.w * inverse};
    }
};

// This thread's first four values of a norm, to be loaded before a barrier rather than after it.
DEVICE float4 part_of_norm(const float *norm, u32 n) {
    return threadIdx.x < n / 4 ? ((const float4 *)norm)[threadIdx.x] : float4{0, 0, 0, 0};
}

// Brings `n` values of a source into shared memory, ready for products, normalized if `norm` is
// given, of which the thread has its first part. Its last barrier makes them visible to the block.
template <class Source>
DEVICE Vector prepare(const Source &source, u32 n, const float *norm, float4 norm_part, float eps, bool floats,
                      bool blocks, float *scratch, u32 at) {
    const Vector v = vector_at(at, n, floats, blocks);
    const u32 quarters = n / 4;
    float4 first = {0, 0, 0, 0};
    if (threadIdx.x < quarters) first = source(threadIdx.x);
    float scale = 1;
    if (norm) {
        float sum = first.x * first.x + first.y * first.y + first.z * first.z + first.w * first.w;
        for (u32 i = threadIdx.x + blockDim.x; i < quarters; i += blockDim.x) {
            float4 x = source(i);
            sum += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
        }
        scale = rsqrtf(sum_of_block(sum, scratch) / (float)n + eps);
        // Also where the sum overflowed: a scale of 0 would hide it.
        if (!(scale > 0)) scale = bits_to_float(0x7fc00000);
    } else {
        sync_block();
    }
    for (u32 base = 0; base < quarters; base += blockDim.x) {
        const u32 i = base + threadIdx.x;
        const bool here = i < quarters;
        float4 x = base == 0 ? first : here ? source(i) : float4{0, 0, 0, 0};
        if (norm && here) {
            float4 w = base == 0 ? norm_part : ((const float4 *)norm)[i];
            x = float4{x.x * scale * w.x, x.y * scale * w.y, x.z * scale * w.z, x.w * scale * w.w};
        }
        put(v, floats, blocks, i, x, here);
    }
    sync_block();
    return v;
}

DEVICE u32 splits_of(u32 positions, u32 n_kv_heads) {
    u32 most = max(1u, min(16u, gridDim.x / n_kv_heads));
    return max(1u, min(most, (positions + 63) / 64));
}

// Rows of `n_vocab`, two at a time, into `logits`; the block's best into `best`.
DEVICE void head_stage(const Model &m, const State &s, const Work &work, Ring &ring, const Vector &v, float *scratch) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float top = -3.0e38f;
    u32 at = 0, bad = 0;
    for (u32 pair = work.first_of_warp(); pair < work.end; pair += STEP_WARPS) {
        const float2 both = ring.times(work, pair, v);
        const float two[2] = {both.x, both.y};
        if (lane == 0) *(float2 *)(s.logits + 2 * pair) = both;
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            if (!(fabsf(two[i]) < 3.0e38f)) bad = 1;
            if (two[i] > top) top = two[i], at = 2 * pair + i;
        }
    }
    // An odd last row.
    if (m.n_vocab % 2 && blockIdx.x == gridDim.x - 1 && warp == 0) {
        const float one = sum_of_warp(global_times(m.head.format, row_of(m.head, m.n_vocab - 1), m.hidden, v));
        if (lane == 0) s.logits[m.n_vocab - 1] = one;
        if (!(fabsf(one) < 3.0e38f)) bad = 1;
        if (one > top) top = one, at = m.n_vocab - 1;
    }
    u32 *indices = (u32 *)(scratch + STEP_WARPS);
    if (lane == 0) {
        scratch[warp] = top;
        indices[warp] = bad ? ~0u : at;
    }
    sync_block();
    if (threadIdx.x == 0) {
        for (u32 w = 0; w < STEP_WARPS; w++) {
            if (indices[w] == ~0u) bad = 1;
            if (scratch[w] > top || (scratch[w] == top && indices[w] < at)) top = scratch[w], at = indices[w];
        }
        s.best[blockIdx.x] = top;
        s.best_at[blockIdx.x] = bad ? ~0u : at;
    }
}

// Chooses among the blocks' best, in block 0, which began at cycle `begin`.
DEVICE void choose(const State &s, u64 begin) {
    if (blockIdx.x != 0 || threadIdx.x >= 32) return;
    const u32 lane = threadIdx.x;
    float top = -3.1e38f;
    int at = 0x7fffffff, bad = 0;
    for (u32 b = lane; b < gridDim.x; b += 32) {
        float value = load_shared_by_all(s.best + b);
        u32 index = load_shared_by_all(s.best_at + b);
        if (index == ~0u) bad = 1;
        else if (value > top || (value == top && (int)index < at)) top = value, at = (int)index;
    }
    for (int mask = 16; mask > 0; mask /= 2) {
        float value = shuffle_xor(top, mask);
        int index = shuffle_xor(at, mask);
        bad |= shuffle_xor(bad, mask);
        if (value > top || (value == top && index < at)) top = value, at = index;
    }
    if (lane == 0) {
        if (s.slow_down > 1) {
            const float whole = (float)(cycles() - begin) * s.slow_down;
            while ((float)(cycles() - begin) < whole) {}
        }
        *s.token = (u32)at;
        const u32 n = ++s.counter[2];
        s.result[2 + n % 8 * 2] = (u32)at;
        s.result[3 + n % 8 * 2] = bad ? 0 : 1;
        fence_host();
        s.result[0] = n;
    }
}

// Runs a token at a position; ~0 is the token that the last step chose.
KERNEL(STEP_THREADS, 1) decode_step(Model m, State s, u32 given, u32 position) {
    const u64 begin = cycles();
    char *shared = shared_memory();
    // Shared memory: 64 floats, the layers, the works, the vector or attention's scratch, the rings.
    float *scratch = (float *)shared;
    Layer *layers = (Layer *)(shared + 256);
    const u32 n_works = m.n_layers * WORKS_OF_LAYER + 1;
    Work *works = (Work *)(shared + 256 + m.n_layers * sizeof(Layer));
    const u32 at = (256 + m.n_layers * (u32)sizeof(Layer) + n_works * (u32)sizeof(Work) + 127) / 128 * 128;
    for (u32 w = threadIdx.x; w < n_works; w += blockDim.x) works[w] = work_of_step(m, w);
    for (u32 i = threadIdx.x; i < m.n_layers * sizeof(Layer) / 4; i += blockDim.x)
        ((u32 *)layers)[i] = ((const u32 *)m.layers)[i];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 token = given == ~0u ? *s.token : given;
    const u32 d = m.head_dim, q_rows = m.n_heads * d;
    const u32 splits = splits_of(position + 1, m.n_kv_heads), per_kv = m.n_heads / m.n_kv_heads;
    const u32 chunk = (position + splits) / splits;
    const float scale = rsqrtf((float)d);
    u32 arrived = s.counter[1];
    sync_block();
    Ring ring(works, n_works, m.before_rings + warp * (ARRIVALS_BYTES + m.ring), m.ring);
    float4 norm = part_of_norm(layers[0].attn_norm, m.hidden);
    Trace trace(s);

    for (u32 l = 0; l < m.n_layers; l++) {
        const Layer &y = layers[l];
        const Work *of_layer = works + l * WORKS_OF_LAYER;
        Vector v;
        {
            const bool floats = is_float(y.q.format) || is_float(y.k.format) || is_float(y.v.format);
            const bool blocks = !is_float(y.q.format) || !is_float(y.k.format) || !is_float(y.v.format);
            if (l == 0) {
                Embedded row{m.embedding, token};
                v = prepare(row, m.hidden, y.attn_norm, norm, m.eps, floats, blocks, scratch, at);
                if (blockIdx.x == 0)
                    for (u32 i = threadIdx.x; i < m.hidden; i += blockDim.x) s.x[i] = weight_at(m.embedding, token, i);
            } else {
                v = prepare(Plain{s.x}, m.hidden, y.attn_norm, norm, m.eps, floats, blocks, scratch, at);
            }
            for (u32 which = Q; which <= V; which++) {
                const Work &work = of_layer[which];
                for (u32 pair = work.first_of_warp(); pair < work.end; pair += STEP_WARPS) {
                    const u32 in = 2 * pair, head = m.head_of(in), dim = in - head * d;
                    float2 angle = {1, 0};
                    if (which != V) angle = ((const float2 *)m.angles)[position * (d / 2) + dim / 2];
                    const float2 two = ring.times(work, pair, v);
                    if (lane != 0) continue;
                    const float a = two.x * angle.x - two.y * angle.y, b = two.x * angle.y + two.y * angle.x;
                    if (which == Q) {
                        *(float2 *)(s.q + in) = float2{a * scale, b * scale};
                    } else {
                        const u64 place = ((u64)head * m.n_ctx + position) * d + dim;
                        *(u32 *)((which == K ? y.keys : y.values) + place) = two_halves(a, b);
                    }
                }
            }
        }
        trace.note();
        sync_grid(s.counter, arrived += gridDim.x);
        trace.note();

        for (u32 item = blockIdx.x; item < m.n_kv_heads * splits; item += gridDim.x) {
            const u32 kv = item / splits, split = item - kv * splits;
            const u32 begin = split * chunk, end = min(position + 1, begin + chunk);
            const u64 base = (u64)kv * m.n_ctx * d;
            for (u32 h = 0; h < per_kv; h += HEADS_AT_ONCE) {
                const u32 n = min(HEADS_AT_ONCE, per_kv - h), head = kv * per_kv + h;
                float *sums = s.parts + m.n_heads * splits * d;
                attend_block(
                    s.q + head * d, n, d, y.keys + base, y.values + base, begin, end, (float *)(shared + at),
                    [&](u32 i, float value) {
                        const u32 in = m.head_of(i);
                        s.parts[((head + in) * splits + split) * d + (i - in * d)] = value;
                    },
                    [&](u32 in, float most, float total) {
                        ((float2 *)sums)[(head + in) * splits + split] = float2{most, total};
                    });
                sync_block();
            }
        }
        trace.note();
        sync_grid(s.counter, arrived += gridDim.x);
        trace.note();

        {
            const bool f = is_float(y.o.format);
            v = prepare(Joined{m, s.parts, splits}, q_rows, nullptr, norm, 0, f, !f, scratch, at);
            const Work &work = of_layer[OUTPUT];
            for (u32 row = work.first_of_warp(); row < work.end; row += STEP_WARPS) {
                const float before = load_shared_by_all(s.x + row);
                const float sum = ring.times(work, row, v).x;
                if (lane == 0) s.x[row] = before + sum;
            }
        }
        norm = part_of_norm(y.ffn_norm, m.hidden);
        trace.note();
        sync_grid(s.counter, arrived += gridDim.x);
        trace.note();

        {
            const bool floats = is_float(y.gate.format) || is_float(y.up.format);
            const bool blocks = !is_float(y.gate.format) || !is_float(y.up.format);
            v = prepare(Plain{s.x}, m.hidden, y.ffn_norm, norm, m.eps, floats, blocks, scratch, at);
            const Work &work = of_layer[GATE_UP];
            for (u32 row = work.first_of_warp(); row < work.end; row += STEP_WARPS) {
                const float2 two = ring.times(work, row, v);
                if (lane == 0) s.h[row] = two.x / (1 + fast_exp(-two.x)) * two.y;
            }
        }
        trace.note();
        sync_grid(s.counter, arrived += gridDim.x);
        trace.note();

        {
            const bool f = is_float(y.down.format);
            v = prepare(Plain{s.h}, m.ffn, nullptr, norm, 0, f, !f, scratch, at);
            const Work &work = of_layer[DOWN];
            for (u32 row = work.first_of_warp(); row < work.end; row += STEP_WARPS) {
                const float before = load_shared_by_all(s.x + row);
                const float sum = ring.times(work, row, v).x;
                if (lane == 0) s.x[row] = before + sum;
            }
        }
        norm = part_of_norm(l + 1 < m.n_layers ? layers[l + 1].attn_norm : m.output_norm, m.hidden);
        trace.note();
        sync_grid(s.counter, arrived += gridDim.x);
        trace.note();
    }
    const bool f = is_float(m.head.format);
    Vector v = prepare(Plain{s.x}, m.hidden, m.output_norm, norm, m.eps, f, !f, scratch, at);
    head_stage(m, s, works[n_works - 1], ring, v, scratch);
    trace.note();
    sync_grid(s.counter, arrived += gridDim.x);
    trace.note();
    choose(s, begin);
    if (blockIdx.x == 0 && threadIdx.x == 0) s.counter[1] = arrived;
}

// The output head alone, for the residuals `s.x` after a prompt: the logits and the choice.
KERNEL(STEP_THREADS, 1) head_step(Model m, State s) {
    const u64 begin = cycles();
    char *shared = shared_memory();
    const bool f = is_float(m.head.format);
    u32 arrived = s.counter[1];
    Work &work = *(Work *)(shared + 256);
    if (threadIdx.x == 0) work = work_on(m.head, nullptr, true, 0, m.ring);
    sync_block();
    Ring ring(&work, 1, m.before_rings + threadIdx.x / 32 * (ARRIVALS_BYTES + m.ring), m.ring);
    const float4 norm = part_of_norm(m.output_norm, m.hidden);
    Vector v = prepare(Plain{s.x}, m.hidden, m.output_norm, norm, m.eps, f, !f, (float *)shared, 384);
    head_stage(m, s, work, ring, v, (float *)shared);
    sync_grid(s.counter, arrived += gridDim.x);
    choose(s, begin);
    if (blockIdx.x == 0 && threadIdx.x == 0) s.counter[1] = arrived;
}
