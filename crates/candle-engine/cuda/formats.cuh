// Matrices in GGUF's encodings and their products with one vector. A matrix keeps the bits of the
// file; where a block's parts would not lie at multiples of 16 bytes, a row keeps each part of all
// its blocks together, in planes (`src/cuda/layout.rs` says the same to the upload).
#pragma once
#include "device.cuh"

enum Format : u32 { F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_NL };

struct Matrix {
    const u8 *data;
    u32 rows, columns;
    // Bytes from row to row, a multiple of 16.
    u32 stride;
    u32 format;
};

DEVICE const u8 *row_of(const Matrix &m, u32 row) { return m.data + (u64)row * m.stride; }
DEVICE bool is_float(u32 format) { return format <= BF16; }
DEVICE u32 padded(u32 bytes) { return (bytes + 15) / 16 * 16; }

// A vector in shared memory, ready for products. For float formats, groups of eight values: the
// first four of each in one plane, the others in a second one. For block formats, int8 with one
// scale for 32 values: the first 16 of each block in one plane, the others in a second one; so lanes
// that read neighbouring blocks meet no bank twice.
struct Vector {
    InShared firsts, seconds, lows, highs, scales_at, sums_at;
    DEVICE float4 first(u32 i) const { return firsts.as<float4>(i); }
    DEVICE float4 second(u32 i) const { return seconds.as<float4>(i); }
    DEVICE uint4 low(u32 i) const { return lows.as<uint4>(i); }
    DEVICE uint4 high(u32 i) const { return highs.as<uint4>(i); }
    // Per block: the scale.
    DEVICE float scale(u32 i) const { return scales_at.as<float>(i); }
    // Per 16 values: their sum, times the scale.
    DEVICE float sum(u32 i) const { return sums_at.as<float>(i); }
};

// Where the parts of a vector of `n` values lie behind `at`; both planes of a kind start in different
// banks.
DEVICE u32 plane_bytes(u32 bytes) { return (bytes + 127) / 128 * 128 + 64; }
DEVICE Vector vector_at(u32 at, u32 n, bool floats, bool blocks) {
    const u32 half = floats ? plane_bytes((n + 7) / 8 * 16) : 0, bytes = blocks ? plane_bytes(n / 2) : 0;
    const u32 scales = at + 2 * half + 2 * bytes, sums = scales + (blocks ? padded(n / 8) : 0);
    return Vector{InShared{at}, InShared{at + half}, InShared{at + 2 * half}, InShared{at + 2 * half + bytes},
                  InShared{scales}, InShared{sums}};
}

DEVICE int dot16(uint4 a, uint4 b, int sum) {
    return dot4(a.w, b.w, dot4(a.z, b.z, dot4(a.y, b.y, dot4(a.x, b.x, sum))));
}
DEVICE uint4 low_nibbles(uint4 v) {
    const u32 mask = 0x0f0f0f0f;
    return uint4{v.x & mask, v.y & mask, v.z & mask, v.w & mask};
}
DEVICE uint4 high_nibbles(uint4 v) { return low_nibbles(uint4{v.x >> 4, v.y >> 4, v.z >> 4, v.w >> 4}); }
// Bit i of `bits` as bit 4 of byte i, for 16 bytes.
DEVICE u32 fifth_bits(u32 bits) { return (bits & 15) * 0x00204081u << 4 & 0x10101010u; }
DEVICE uint4 with_fifth(uint4 v, u32 bits) {
    return uint4{v.x | fifth_bits(bits), v.y | fifth_bits(bits >> 4), v.z | fifth_bits(bits >> 8),
                 v.w | fifth_bits(bits >> 12)};
}

// Each format below: `UNIT` weights that one lane takes at a time, `Raw` as loaded, and the product
// of a raw unit with its part of the vector. `n` is the number of columns.

struct F32Row {
    static const u32 UNIT = 4;
    typedef uint4 Raw;
    template <class P> DEVICE static Raw load(P row, u32 u, u32) { return load_weights(row + u * 16); }
    DEVICE static float times(Raw w, u32 u, const Vector &v) {
        float4 x = u % 2 ? v.second(u / 2) : v.first(u / 2);
        return bits_to_float(w.x) * x.x + bits_to_float(w.y) * x.y + bits_to_float(w.z) * x.z + bits_to_float(w.w) * x.w;
    }
    DEVICE static float weight(const u8 *row, u32 k, u32) { return bits_to_float(load_weights32(row + 4 * (u64)k)); }
};

struct F16Row {
    static const u32 UNIT = 8;
    typedef uint4 Raw;
    template <class P> DEVICE static Raw load(P row, u32 u, u32) { return load_weights(row + u * 16); }
    DEVICE static float pair(u32 w, float a, float b, float sum) {
        return sum + half_to_float((u16)w) * a + half_to_float((u16)(w >> 16)) * b;
    }
    DEVICE static float times(Raw w, u32 u, const Vector &v) {
        float4 a = v.first(u), b = v.second(u);
        return pair(w.w, b.z, b.w, pair(w.z, b.x, b.y, pair(w.y, a.z, a.w, pair(w.x, a.x, a.y, 0))));
    }
    DEVICE static float weight(const u8 *row, u32 k, u32) { return half_to_float(load_weights16(row + 2 * (u64)k)); }
};

struct Bf16Row {
    static const u32 UNIT = 8;
    typedef uint4 Raw;
    template <class P> DEVICE static Raw load(P row, u32 u, u32) { return load_weights(row + u * 16); }
    DEVICE static float pair(u32 w, float a, float b, float sum) {
        return sum + bits_to_float(w << 16) * a + bits_to_float(w & 0xffff0000u) * b;
    }
    DEVICE static float times(Raw w, u32 u, const Vector &v) {
        float4 a = v.first(u), b = v.second(u);
        return pair(w.w, b.z, b.w, pair(w.z, b.x, b.y, pair(w.y, a.z, a.w, pair(w.x, a.x, a.y, 0))));
    }
    DEVICE static float weight(const u8 *row, u32 k, u32) {
        return bits_to_float((u32)load_weights16(row + 2 * (u64)k) << 16);
    }
};

// Blocks of 32 with weight = scale · (q − 8): weight i in the low half of byte i, 16 + i in the high.
struct Q40Row {
    static const u32 UNIT = 32;
    struct Raw {
        uint4 q;
        u16 d;
    };
    template <class P> DEVICE static Raw load(P row, u32 u, u32 n) {
        return Raw{load_weights(row + u * 16), load_weights16(row + n / 2 + u * 2)};
    }
    DEVICE static float times(const Raw &w, u32 u, const Vector &v) {
        int sum = dot16(high_nibbles(w.q), v.high(u), dot16(low_nibbles(w.q), v.low(u), 0));
        return half_to_float(w.d) * (v.scale(u) * (float)sum - 8 * (v.sum(2 * u) + v.sum(2 * u + 1)));
    }
    DEVICE static u32 nibble(const u8 *row, u32 k) {
        u32 byte = row[k / 32 * 16 + k % 16];
        return k % 32 < 16 ? byte & 15 : byte >> 4;
    }
    DEVICE static float weight(const u8 *row, u32 k, u32 n) {
        return half_to_float(load_weights16(row + n / 2 + k / 32 * 2)) * (float)((int)nibble(row, k) - 8);
    }
};

// The same bits, but a nibble chooses one of 16 values.
struct Iq4NlRow {
    static const u32 UNIT = 32;
    typedef Q40Row::Raw Raw;
    template <class P> DEVICE static Raw load(P row, u32 u, u32 n) { return Q40Row::load(row, u, n); }
    DEVICE static u32 value(u32 q) {
        // -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113, eight bytes a word.
        u64 words = q < 8 ? 0xf6eaddcfbfad9881ull : 0x7159453526190d01ull;
        return (u32)(words >> q % 8 * 8) & 255;
    }
    DEVICE static u32 values(u32 four) {
        return value(four & 15) | value(four >> 8 & 15) << 8 | value(four >> 16 & 15) << 16 | value(four >> 24 & 15) << 24;
    }
    DEVICE static uint4 values(uint4 v) { return uint4{values(v.x), values(v.y), values(v.z), values(v.w)}; }
    DEVICE static float times(const Raw &w, u32 u, const Vector &v) {
        int sum = dot16(values(high_nibbles(w.q)), v.high(u), dot16(values(low_nibbles(w.q)), v.low(u), 0));
        return half_to_float(w.d) * v.scale(u) * (float)sum;
    }
    DEVICE static float weight(const u8 *row, u32 k, u32 n) {
        float d = half_to_float(load_weights16(row + n / 2 + k / 32 * 2));
        return d * (float)(signed char)value(Q40Row::nibble(row, k));
    }
};

// weight = scale · q + least.
struct Q41Row {
    static const u32 UNIT = 32;
    struct Raw {
        uint4 q;
        u32 dm;
    };
    template <class P> DEVICE static Raw load(P row, u32 u, u32 n) {
        return Raw{load_weights(row + u * 16), load_weights32(row + n / 2 + u * 4)};
    }
    DEVICE static float times(const Raw &w, u32 u, const Vector &v) {
        int sum = dot16(high_nibbles(w.q), v.high(u), dot16(low_nibbles(w.q), v.low(u), 0));
        return half_to_float((u16)w.dm) * v.scale(u) * (float)sum +
               half_to_float((u16)(w.dm >> 16)) * (v.sum(2 * u) + v.sum(2 * u + 1));
    }
    DEVICE static float weight(const u8 *row, u32 k, u32 n) {
        u32 dm = load_weights32(row + n / 2 + k / 32 * 4);
        return half_to_float((u16)dm) * (float)Q40Row::nibble(row, k) + half_to_float((u16)(dm >> 16));
    }
};

// weight = scale · (q − 16), the fifth bits in a word of their own.
struct Q50Row {
    static const u32 UNIT = 32;
    struct Raw {
        uint4 q;
        u32 fifth;
        u16 d;
    };
    DEVICE static u32 scales(u32 n) { return n / 2 + padded(n / 8); }
    template <class P> DEVICE static Raw load(P row, u32 u, u32 n) {
        return Raw{load_weights(row + u * 16), load_weights32(row + n / 2 + u * 4),
                   load_weights16(row + scales(n) + u * 2)};
    }
    DEVICE static int products(uint4 q, u32 fifth, u32 u, const Vector &v) {
        int low = dot16(with_fifth(low_nibbles(q), fifth), v.low(u), 0);
        return dot16(with_fifth(high_nibbles(q), fifth >> 16), v.high(u), low);
    }
    DEVICE static float times(const Raw &w, u32 u, const Vector &v) {
        int sum = products(w.q, w.fifth, u, v);
        return half_to_float(w.d) * (v.scale(u) * (float)sum - 16 * (v.sum(2 * u) + v.sum(2 * u + 1)));
    }
    DEVICE static int q(const u8 *row, u32 k, u32 n) {
        u32 fifth = load_weights32(row + n / 2 + k / 32 * 4) >> k % 32 & 1;
        return (int)(Q40Row::nibble(row, k) | fifth << 4);
    }
    DEVICE static float weight(const u8 *row, u32 k, u32 n) {
        return half_to_float(load_weights16(row + scales(n) + k / 32 * 2)) * (float)(q(row, k, n) - 16);
    }
};

// weight = scale · q + least.
struct Q51Row {
    static const u32 UNIT = 32;
    struct Raw {
        uint4 q;
        u32 fifth, dm;
    };
    template <class P> DEVICE static Raw load(P row, u32 u, u32 n) {
        return Raw{load_weights(row + u * 16), load_weights32(row + n / 2 + u * 4),
                   load_weights32(row + Q50Row::scales(n) + u * 4)};
    }
    DEVICE static float times(const Raw &w, u32 u, const Vector &v) {
        int sum = Q50Row::products(w.q, w.fifth, u, v);
        return half_to_float((u16)w.dm) * v.scale(u) * (float)sum +
               half_to_float((u16)(w.dm >> 16)) * (v.sum(2 * u) + v.sum(2 * u + 1));
    }
    DEVICE static float weight(const u8 *row, u32 k, u32 n) {
        u32 dm = load_weights32(row + Q50Row::scales(n) + k / 32 * 4);
        return half_to_float((u16)dm) * (float)Q50Row::q(row, k, n) + half_to_float((u16)(dm >> 16));
    }
};

// Half a block of 32 signed bytes at a time.
struct Q80Row {
    static const u32 UNIT = 16;
    struct Raw {
        uint4 q;
        u16 d;
    };
    template <class P> DEVICE static Raw load(P row, u32 u, u32 n) {
        return Raw{load_weights(row + u * 16), load_weights16(row + n + u / 2 * 2)};
    }
    DEVICE static float times(const Raw &w, u32 u, const Vector &v) {
        int sum = dot16(w.q, u % 2 ? v.high(u / 2) : v.low(u / 2), 0);
        return half_to_float(w.d) * v.scale(u / 2) * (float)sum;
    }
    DEVICE static float weight(const u8 *row, u32 k, u32 n) {
        return half_to_float(load_weights16(row + n + k / 32 * 2)) * (float)(signed char)row[k];
    }
};

// Blocks of 256: eight groups of 32 with six bits of scale and of offset each. A unit is 16 bytes:
// half of group 2p in the low nibbles, half of group 2p + 1 in the high ones.
struct ScalesOfK {
    float d, dmin;
    u32 scales, offsets;
    // Of the groups 2 · pair and 2 · pair + 1, in the lowest two bytes.
    DEVICE ScalesOfK(uint4 head, u32 pair) {
        d = half_to_float((u16)head.x);
        dmin = half_to_float((u16)(head.x >> 16));
        u32 shift = pair % 2 * 16, y = head.y >> shift, z = head.z >> shift, w = head.w >> shift;
        scales = pair < 2 ? y & 0x3f3f : (w & 0x0f0f) | (y >> 2 & 0x3030);
        offsets = pair < 2 ? z & 0x3f3f : (w >> 4 & 0x0f0f) | (z >> 2 & 0x3030);
    }
    DEVICE float times(int low, int high, u32 block, u32 half, const Vector &v) const {
        float s = (float)(scales & 255) * v.scale(block) * (float)low;
        s += (float)(scales >> 8 & 255) * v.scale(block + 1) * (float)high;
        float m = (float)(offsets & 255) * v.sum(2 * block + half);
        m += (float)(offsets >> 8 & 255) * v.sum(2 * block + 2 + half);
        return d * s - dmin * m;
    }
    DEVICE float weight(u32 q, u32 group) const {
        u32 shift = group % 2 * 8;
        return d * (float)(scales >> shift & 255) * (float)q - dmin * (float)(offsets >> shift & 255);
    }
};

struct Q4kRow {
    static const u32 UNIT = 32, BYTES = 144;
    struct Raw {
        uint4 q, head;
    };
    template <class P> DEVICE static Raw load(P row, u32 u, u32) {
        const P block = row + u / 8 * BYTES;
        return Raw{load_weights(block + 16 + u % 8 * 16), load_weights(block)};
    }
    DEVICE static float times(const Raw &w, u32 u, const Vector &v) {
        u32 pair = u % 8 / 2, half = u % 2, block = u / 8 * 8 + 2 * pair;
        const InShared plane = half ? v.highs : v.lows;
        int low = dot16(low_nibbles(w.q), plane.as<uint4>(block), 0), high = dot16(high_nibbles(w.q), plane.as<uint4>(block + 1), 0);
        return ScalesOfK(w.head, pair).times(low, high, block, half, v);
    }
    DEVICE static float weight(const u8 *row, u32 k, u32) {
        const u8 *block = row + k / 256 * BYTES;
        u32 group = k % 256 / 32, byte = block[16 + group / 2 * 32 + k % 32];
        return ScalesOfK(load_weights(block), group / 2).weight(group % 2 ? byte >> 4 : byte & 15, group);
    }
};

struct Q5kRow {
    static const u32 UNIT = 32, BYTES = 176;
    struct Raw {
        uint4 q, fifth, head;
    };
    template <class P> DEVICE static Raw load(P row, u32 u, u32) {
        const P block = row + u / 8 * BYTES;
        return Raw{load_weights(block + 48 + u % 8 * 16), load_weights(block + 16 + u % 2 * 16), load_weights(block)};
    }
    // Bit `bit` of each byte, as bit 4.
    DEVICE static uint4 add_bit(uint4 q, uint4 bits, u32 bit) {
        const u32 mask = 0x01010101;
        return uint4{q.x | (bits.x >> bit & mask) << 4, q.y | (bits.y >> bit & mask) << 4,
                     q.z | (bits.z >> bit & mask) << 4, q.w | (bits.w >> bit & mask) << 4};
    }
    DEVICE static float times(const Raw &w, u32 u, const Vector &v) {
        u32 pair = u % 8 / 2, half = u % 2, block = u / 8 * 8 + 2 * pair;
        const InShared plane = half ? v.highs : v.lows;
        int low = dot16(add_bit(low_nibbles(w.q), w.fifth, 2 * pair), plane.as<uint4>(block), 0);
        int high = dot16(add_bit(high_nibbles(w.q), w.fifth, 2 * pair + 1), plane.as<uint4>(block + 1), 0);
        return ScalesOfK(w.head, pair).times(low, high, block, half, v);
    }
    DEVICE static float weight(const u8 *row, u32 k, u32) {
        const u8 *block = row + k / 256 * BYTES;
        u32 group = k % 256 / 32, byte = block[48 + group / 2 * 32 + k % 32];
        u32 fifth = (u32)block[16 + k % 32] >> group & 1;
        return ScalesOfK(load_weights(block), group / 2).weight((group % 2 ? byte >> 4 : byte & 15) | fifth << 4, group);
    }
};

// Blocks of 256: weight = scale · group scale · (q − 32), groups of 16. 128 bytes of low nibbles, 64
// of upper bit pairs, 16 group scales; the scales of all blocks after them. Unit u: the nibbles' 16
// bytes at 16 u, whose halves belong to groups 64 weights apart.
struct Q6kRow {
    static const u32 UNIT = 32, BYTES = 208;
    struct Raw {
        uint4 q, upper;
        u16 d, low, high;
    };
    DEVICE static u32 scales(u32 n) { return n / 256 * BYTES; }
    template <class P> DEVICE static Raw load(P row, u32 u, u32 n) {
        const P block = row + u / 8 * BYTES;
        u32 in = u % 8, group = in / 4 * 8 + in % 4;
        return Raw{load_weights(block + in * 16), load_weights(block + 128 + in / 4 * 32 + in % 2 * 16),
                   load_weights16(row + scales(n) + u / 8 * 2), load_weights8(block + 192 + group),
                   load_weights8(block + 196 + group)};
    }
    DEVICE static uint4 add_bits(uint4 q, uint4 upper, u32 shift) {
        const u32 mask = 0x03030303;
        return uint4{q.x | (upper.x >> shift & mask) << 4, q.y | (upper.y >> shift & mask) << 4,
                     q.z | (upper.z >> shift & mask) << 4, q.w | (upper.w >> shift & mask) << 4};
    }
    DEVICE static float times(const Raw &w, u32 u, const Vector &v) {
        u32 in = u % 8, half = in % 2, shift = in % 4 / 2 * 2, block = u / 8 * 8 + in / 4 * 4 + in % 4 / 2;
        const InShared plane = half ? v.highs : v.lows;
        int low = dot16(add_bits(low_nibbles(w.q), w.upper, shift), plane.as<uint4>(block), 0);
        int high = dot16(add_bits(high_nibbles(w.q), w.upper, shift + 4), plane.as<uint4>(block + 2), 0);
        float a = v.scale(block) * (float)low - 32 * v.sum(2 * block + half);
        float b = v.scale(block + 2) * (float)high - 32 * v.sum(2 * block + 4 + half);
        return half_to_float(w.d) * ((float)(signed char)w.low * a + (float)(signed char)w.high * b);
    }
    DEVICE static float weight(const u8 *row, u32 k, u32 n) {
        const u8 *block = row + k / 256 * BYTES;
        u32 half = k % 256 / 128, in = k % 128, quarter = in / 32;
        u32 byte = block[half * 64 + quarter % 2 * 32 + in % 32];
        u32 upper = (u32)block[128 + half * 32 + in % 32] >> 2 * quarter & 3;
        int q = (int)((quarter < 2 ? byte & 15 : byte >> 4) | upper << 4) - 32;
        float d = half_to_float(load_weights16(row + scales(n) + k / 256 * 2));
        return d * (float)(signed char)block[192 + k % 256 / 16] * (float)q;
    }
};

// Eight neighbouring weights of a row, from column k on, a multiple of eight. The general way, then
// that of the formats whose prompts should be fast.
template <class R> DEVICE void eight(const u8 *row, u32 k, u32 n, float (&w)[8]) {
#pragma unroll
    for (u32 i = 0; i < 8; i++) w[i] = R::weight(row, k + i, n);
}
// Four bits at `shift` of each of eight bytes.
DEVICE void eight_nibbles(uint2 bytes, u32 shift, u32 (&q)[8]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) q[i] = bytes.x >> (8 * i + shift) & 15, q[i + 4] = bytes.y >> (8 * i + shift) & 15;
}
template <> DEVICE void eight<Q40Row>(const u8 *row, u32 k, u32 n, float (&w)[8]) {
    u32 q[8];
    eight_nibbles(load_weights64(row + k / 32 * 16 + k % 16), k % 32 / 16 * 4, q);
    const float d = half_to_float(load_weights16(row + n / 2 + k / 32 * 2));
#pragma unroll
    for (u32 i = 0; i < 8; i++) w[i] = d * (float)((int)q[i] - 8);
}
template <> DEVICE void eight<Q80Row>(const u8 *row, u32 k, u32 n, float (&w)[8]) {
    const uint2 q = load_weights64(row + k);
    const float d = half_to_float(load_weights16(row + n + k / 32 * 2));
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        w[i] = d * (float)(signed char)(q.x >> 8 * i);
        w[i + 4] = d * (float)(signed char)(q.y >> 8 * i);
    }
}
template <> DEVICE void eight<Q4kRow>(const u8 *row, u32 k, u32, float (&w)[8]) {
    const u8 *block = row + k / 256 * Q4kRow::BYTES;
    const u32 group = k % 256 / 32;
    u32 q[8];
    eight_nibbles(load_weights64(block + 16 + group / 2 * 32 + k % 32), group % 2 * 4, q);
    const ScalesOfK scales(load_weights(block), group / 2);
#pragma unroll
    for (u32 i = 0; i < 8; i++) w[i] = scales.weight(q[i], group);
}
template <> DEVICE void eight<Q6kRow>(const u8 *row, u32 k, u32 n, float (&w)[8]) {
    const u8 *block = row + k / 256 * Q6kRow::BYTES;
    const u32 half = k % 256 / 128, in = k % 128, quarter = in / 32;
    const uint2 upper = load_weights64(block + 128 + half * 32 + in % 32);
    u32 q[8];
    eight_nibbles(load_weights64(block + half * 64 + quarter % 2 * 32 + in % 32), quarter / 2 * 4, q);
    const float d = half_to_float(load_weights16(row + Q6kRow::scales(n) + k / 256 * 2));
    const float scale = d * (float)(signed char)block[192 + k % 256 / 16];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const u32 shift = 8 * i + 2 * quarter;
        w[i] = scale * (float)((int)(q[i] | (upper.x >> shift & 3) << 4) - 32);
        w[i + 4] = scale * (float)((int)(q[i + 4] | (upper.y >> shift & 3) << 4) - 32);
    }
}

// Runs `body` with `R` as the row type of a format.
#define WITH_FORMAT(format, R, ...)                                                                                    \
    switch (format) {                                                                                                  \
    case F32: { typedef F32Row R; __VA_ARGS__ } break;                                                                 \
    case F16: { typedef F16Row R; __VA_ARGS__ } break;                                                                 \
    case BF16: { typedef Bf16Row R; __VA_ARGS__ } break;                                                               \
    case Q4_0: { typedef Q40Row R; __VA_ARGS__ } break;                                                                \
    case Q4_1: { typedef Q41Row R; __VA_ARGS__ } break;                                                                \
    case Q5_0: { typedef Q50Row R; __VA_ARGS__ } break;                                                                \
    case Q5_1: { typedef Q51Row R; __VA_ARGS__ } break;                                                                \
    case Q8_0: { typedef Q80Row R; __VA_ARGS__ } break;                                                                \
    case Q4_K: { typedef Q4kRow R; __VA_ARGS__ } break;                                                                \
    case Q5_K: { typedef Q5kRow R; __VA_ARGS__ } break;                                                                \
    case Q6_K: { typedef Q6kRow R; __VA_ARGS__ } break;                                                                \
    default: { typedef Iq4NlRow R; __VA_ARGS__ } break;                                                                \
    }

// This lane's part of the product of one row's piece with the vector: `units` from the `first` on. The
// piece starts where `row` points; `n` is the number of the whole row's columns.
template <class R, class P> DEVICE float piece_times(P row, u32 n, u32 units, u32 first, const Vector &v) {
    const u32 lane = threadIdx.x % 32;
    float sum = 0;
    for (u32 base = 0; base < units; base += 32)
        if (base + lane < units) sum += R::times(R::load(row, base + lane, n), first + base + lane, v);
    return sum;
}

// The same for two rows.
template <class R, class P> DEVICE float2 piece_times(P a, P b, u32 n, u32 units, u32 first, const Vector &v) {
    const u32 lane = threadIdx.x % 32;
    float2 sum = {0, 0};
    for (u32 base = 0; base < units; base += 32) {
        if (base + lane >= units) continue;
        const typename R::Raw left = R::load(a, base + lane, n), right = R::load(b, base + lane, n);
        sum.x += R::times(left, first + base + lane, v);
        sum.y += R::times(right, first + base + lane, v);
    }
    return sum;
}

OUTLINED float weight_at(const Matrix &m, u32 row, u32 k) {
    const u8 *at = row_of(m, row);
    float w = 0;
    WITH_FORMAT(m.format, R, w = R::weight(at, k, m.columns);)
    return w;
}
