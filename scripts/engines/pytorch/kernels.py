"""Triton kernels over packed weights and a static cache, for one position on CUDA.

packed.py defines the layout of weights: `words` int32 `[tiles, L, 4]`, four rows side by side, where field k
of word j holds the weight of column k * L + j. So neighbouring threads read neighbouring columns of x, and a
thread that reads 16 bytes of weights uses each value of x, and each group's four scales, for four rows.
"""

import triton
import triton.language as tl



@triton.jit
def gemv_kernel(
    x, norm, words, scales, offsets, residual, out,
    rows, cols, eps,
    BITS: tl.constexpr, GROUP: tl.constexpr, BIAS: tl.constexpr,
    NORM: tl.constexpr, OFFSETS: tl.constexpr, RESIDUAL: tl.constexpr, SWIGLU: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One tile of rows: out = W x; of RMS-normed x with NORM; plus `residual`; or silu(gate) * up of two halves of W."""
    PER: tl.constexpr = 32 // BITS
    MASK: tl.constexpr = (1 << BITS) - 1
    tile = tl.program_id(0)
    row = tl.arange(0, 4)
    length, groups = cols // PER, cols // GROUP
    sums = tl.zeros((BLOCK, 4), tl.float32)
    ups = tl.zeros((BLOCK, 4), tl.float32)
    squares = tl.zeros((BLOCK,), tl.float32)
    up = tl.num_programs(0)  # tiles from a row of the gate to the same row of `up`
    for first in range(0, length, BLOCK):
        j = first + tl.arange(0, BLOCK)
        inside = j < length
        at = (tile * length + j)[:, None] * 4 + row[None, :]
        w = tl.load(words + at, mask=inside[:, None], other=0)
        if SWIGLU:
            w_up = tl.load(words + up * length * 4 + at, mask=inside[:, None], other=0)
        for k in tl.static_range(0, PER):
            column = k * length + j
            v = tl.load(x + column, mask=inside, other=0.0)
            if NORM:
                squares += v * v
                v = v * tl.load(norm + column, mask=inside, other=0.0)
            group = (tile * groups + column // GROUP)[:, None] * 4 + row[None, :]
            s = tl.load(scales + group, mask=inside[:, None], other=0.0).to(tl.float32)
            # An integer in the low bits of 2^23: one operation, where a conversion takes four times as long.
            q = (((w >> (k * BITS)) & MASK) | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + BIAS)
            if OFFSETS:
                o = tl.load(offsets + group, mask=inside[:, None], other=0.0).to(tl.float32)
                sums += (q * s + o) * v[:, None]
            else:
                sums += (q * s) * v[:, None]
            if SWIGLU:
                s = tl.load(scales + up * groups * 4 + group, mask=inside[:, None], other=0.0).to(tl.float32)
                q = (((w_up >> (k * BITS)) & MASK) | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + BIAS)
                if OFFSETS:
                    o = tl.load(offsets + up * groups * 4 + group, mask=inside[:, None], other=0.0).to(tl.float32)
                    ups += (q * s + o) * v[:, None]
                else:
                    ups += (q * s) * v[:, None]
    y = tl.sum(sums, 0)
    if NORM:
        root = tl.rsqrt(tl.sum(squares, 0) / cols + eps)
        y = y * root
    if SWIGLU:
        u = tl.sum(ups, 0)
        if NORM:
            u = u * root
        y = y * tl.sigmoid(y) * u
    index = tile * 4 + row
    there = index < rows
    if RESIDUAL:
        y = y + tl.load(residual + index, mask=there, other=0.0)
    tl.store(out + index, y, mask=there)


@triton.jit
def dense_kernel(
    words, scales, offsets, out, rows, cols,
    BITS: tl.constexpr, GROUP: tl.constexpr, BIAS: tl.constexpr, OFFSETS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A piece of a tile as floats, `[rows, cols]`."""
    PER: tl.constexpr = 32 // BITS
    MASK: tl.constexpr = (1 << BITS) - 1
    tile = tl.program_id(0)
    row = tl.arange(0, 4)
    length, groups = cols // PER, cols // GROUP
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = j < length
    w = tl.load(words + (tile * length + j)[:, None] * 4 + row[None, :], mask=inside[:, None], other=0)
    index = tile * 4 + row
    there = inside[:, None] & (index < rows)[None, :]
    for k in tl.static_range(0, PER):
        column = k * length + j
        group = (tile * groups + column // GROUP)[:, None] * 4 + row[None, :]
        s = tl.load(scales + group, mask=inside[:, None], other=0.0).to(tl.float32)
        q = (((w >> (k * BITS)) & MASK) | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + BIAS)
        y = q * s
        if OFFSETS:
            y += tl.load(offsets + group, mask=inside[:, None], other=0.0).to(tl.float32)
        # 64 bits: a vocabulary times a width of four thousand does not fit 32 bits by much.
        place = index.to(tl.int64)[None, :] * cols + column[:, None]
        tl.store(out + place, y.to(out.dtype.element_ty), mask=there)


@triton.jit
def attend_kernel(
    q, k_cache, v_cache, position, sums, most, weights,
    n_ctx, chunk, factor,
    GROUP: tl.constexpr, GROUP2: tl.constexpr, DIM: tl.constexpr, DIM2: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The query heads of one kv head over one chunk of the cache, up to `position`: partial sums of values."""
    head, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    last = tl.load(position).to(tl.int32)
    g, d = tl.arange(0, GROUP2), tl.arange(0, DIM2)
    of_query = (head * GROUP + g)[:, None] * DIM + d[None, :]
    there = (g < GROUP)[:, None] & (d < DIM)[None, :]
    query = tl.load(q + of_query, mask=there, other=0.0) * factor
    top = tl.full((GROUP2,), -1e30, tl.float32)
    total = tl.zeros((GROUP2,), tl.float32)
    values = tl.zeros((GROUP2, DIM2), tl.float32)
    begin = part * chunk
    end = tl.minimum(begin + chunk, last + 1)
    for first in range(begin, end, BLOCK):
        p = first + tl.arange(0, BLOCK)
        seen = p < end
        at = (head * n_ctx + p)[:, None] * DIM + d[None, :]
        mask = seen[:, None] & (d < DIM)[None, :]
        key = tl.load(k_cache + at, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(v_cache + at, mask=mask, other=0.0).to(tl.float32)
        score = tl.sum(query[:, None, :] * key[None, :, :], 2)
        score = tl.where(seen[None, :], score, -1e30)
        higher = tl.maximum(top, tl.max(score, 1))
        shrink = tl.exp(top - higher)
        weight = tl.where(seen[None, :], tl.exp(score - higher[:, None]), 0.0)
        total = total * shrink + tl.sum(weight, 1)
        values = values * shrink[:, None] + tl.sum(weight[:, :, None] * value[None, :, :], 1)
        top = higher
    at = (head * GROUP + g) * parts + part
    tl.store(most + at, top, mask=g < GROUP)
    tl.store(weights + at, total, mask=g < GROUP)
    tl.store(sums + at[:, None] * DIM + d[None, :], values, mask=there)


@triton.jit
def join_kernel(sums, most, weights, out, parts, DIM: tl.constexpr, DIM2: tl.constexpr, PARTS: tl.constexpr):
    """The chunks of one query head, joined."""
    head = tl.program_id(0)
    p, d = tl.arange(0, PARTS), tl.arange(0, DIM2)
    at = head * parts + p
    top = tl.load(most + at, mask=p < parts, other=-1e30)
    total = tl.load(weights + at, mask=p < parts, other=0.0)
    share = tl.exp(top - tl.max(top, 0))
    mask = (p < parts)[:, None] & (d < DIM)[None, :]
    values = tl.load(sums + at[:, None] * DIM + d[None, :], mask=mask, other=0.0)
    joined = tl.sum(values * share[:, None], 0) / tl.sum(total * share, 0)
    tl.store(out + head * DIM + d, joined, mask=d < DIM)
