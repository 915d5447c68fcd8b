//! Kernels for 64-bit ARM: NEON, and its dot product of bytes (`sdot`) where a CPU has that.
//! Bytes are signed on this side: `int8_dot` takes the weights' offset off while it unpacks; the
//! panel's bytes are used as they are where they fit (offset times the sum of activations comes
//! off the result), and Q8_0's, which do not, with their sign bit turned, which is 128 off.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::array::from_fn;

use super::activations::{Rounded, int8_value};
use super::format::{self, BLOCK, BlockFormat, FloatFormat, FloatKind, Kind};
use super::panel::{BLOCKS, COLUMNS, FloatPanel, Int8Panel, Int8Rows, Int8Token, ROWS};
use super::tiles::TileCpu;
use super::{Cpu, SPAN};

/// Proof that this CPU has NEON, and with `DOT` its dot product of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Neon<const DOT: bool>(());

impl<const DOT: bool> Neon<DOT> {
    /// `Some` where the CPU has it.
    pub fn detect() -> Option<Self> {
        let has = is_aarch64_feature_detected!("neon")
            && (!DOT || is_aarch64_feature_detected!("dotprod"));
        has.then_some(Self(()))
    }
}

/// Lanes of a register of floats; registers and tokens that are computed at once.
const LANES: usize = 4;
const WIDTH: usize = 4;
const TOKENS: usize = 4;

impl<const DOT: bool> TileCpu for Neon<DOT> {}

impl<const DOT: bool> Cpu for Neon<DOT> {
    const FMA: bool = true;

    fn name(self) -> &'static str {
        if DOT { "neon-dotprod" } else { "neon" }
    }

    fn int8_dot<F: BlockFormat, const R: usize, const T: usize>(
        self,
        rows: [&[u8]; R],
        x: &Rounded,
        t: usize,
    ) -> [[f32; T]; R] {
        let k = rows[0].len() / F::SIZE * F::VALUES;
        let x: [Int8Token<'_>; T] = from_fn(|i| x.rows.token(t + i));
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "rows of unequal length");
        for x in &x {
            assert!(x.bytes.len() >= k && x.scales.len() >= k / BLOCK && x.sums.len() >= k / BLOCK);
        }
        // SAFETY: `Neon` proves the features; the lengths were checked.
        unsafe { int8_dot::<F, DOT, R, T>(rows, x, k) }
    }

    fn float_dot<F: FloatFormat, const R: usize, const T: usize>(
        self,
        rows: [&[u8]; R],
        x: [&[f32]; T],
    ) -> [[f32; T]; R] {
        let k = rows[0].len() / F::SIZE;
        assert!(rows.iter().all(|row| row.len() == k * F::SIZE));
        assert!(x.iter().all(|x| x.len() == k));
        // SAFETY: `Neon` proves the features; the lengths were checked.
        unsafe { float_dot::<F, R, T>(rows, x, k) }
    }

    fn int8_tiles<F: BlockFormat>(
        self,
        panel: &Int8Panel,
        first: usize,
        n: usize,
        x: &Int8Rows,
        out: &mut [[f32; ROWS]],
    ) {
        assert!(n <= BLOCKS);
        let (tiles, rest) = out.as_chunks_mut::<TOKENS>();
        let n_tiled = tiles.len() * TOKENS;
        for lane in (0..ROWS).step_by(LANES * WIDTH) {
            for (i, tile) in tiles.iter_mut().enumerate() {
                int8_tile::<F, DOT, TOKENS>(panel, first, n, x, i * TOKENS, lane, tile);
            }
            for (i, row) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
                int8_tile::<F, DOT, 1>(panel, first, n, x, n_tiled + i, lane, row);
            }
        }
    }

    fn float_tiles(
        self,
        panel: &FloatPanel,
        first: usize,
        n: usize,
        x: &[f32],
        k: usize,
        out: &mut [[f32; ROWS]],
    ) {
        assert!(n <= COLUMNS && first + n <= k && out.len() * k <= x.len());
        let (tiles, rest) = out.as_chunks_mut::<TOKENS>();
        let x = |t: usize| &x[t * k + first..][..n];
        let n_tiled = tiles.len() * TOKENS;
        for lane in (0..ROWS).step_by(LANES * WIDTH) {
            for (i, tile) in tiles.iter_mut().enumerate() {
                float_tile::<TOKENS>(panel, from_fn(|t| x(i * TOKENS + t)), lane, tile);
            }
            for (i, row) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
                float_tile::<1>(panel, [x(n_tiled + i)], lane, row);
            }
        }
    }

    fn scores<const Q: usize>(self, keys: &[f32], queries: [&[f32]; Q]) -> [[f32; SPAN]; Q] {
        let mut out = [[0.0; SPAN]; Q];
        let ((fours, few), (sums, rest)) = (queries.as_chunks::<4>(), out.as_chunks_mut::<4>());
        for (queries, sums) in fours.iter().zip(sums) {
            *sums = scores(keys, queries);
        }
        for (query, sums) in few.iter().zip(rest) {
            [*sums] = scores(keys, &[query]);
        }
        out
    }

    fn weigh<const Q: usize>(
        self,
        values: &[f32],
        weights: [&[f32]; Q],
        mut sums: [&mut [f32]; Q],
    ) {
        let (dim, n) = (sums[0].len(), weights[0].len());
        assert!(values.len() == n * dim);
        assert!(sums.iter().all(|s| s.len() == dim) && weights.iter().all(|w| w.len() == n));
        let mut start = 0;
        while start + WIDTH * LANES <= dim {
            weigh_part::<Q, WIDTH>(values, &weights, &mut sums, start, dim);
            start += WIDTH * LANES;
        }
        while start + LANES <= dim {
            weigh_part::<Q, 1>(values, &weights, &mut sums, start, dim);
            start += LANES;
        }
        for (sum, weights) in sums.iter_mut().zip(weights) {
            for (value, w) in values.chunks_exact(dim).zip(weights) {
                for (sum, v) in sum[start..].iter_mut().zip(&value[start..]) {
                    *sum = w.mul_add(*v, *sum);
                }
            }
        }
    }

    fn widen(self, halves: &[u16], out: &mut [f32]) {
        let (halves, few) = halves.as_chunks::<LANES>();
        let (out, rest) = out.as_chunks_mut::<LANES>();
        for (halves, out) in halves.iter().zip(out) {
            // SAFETY: NEON is there; both are 4 long.
            unsafe { vst1q_f32(out.as_mut_ptr(), widen(vld1_u16(halves.as_ptr()))) };
        }
        for (&bits, out) in few.iter().zip(rest) {
            *out = format::widen(bits);
        }
    }

    fn narrow(self, values: &[f32], out: &mut [u16]) {
        let (values, few) = values.as_chunks::<LANES>();
        let (out, rest) = out.as_chunks_mut::<LANES>();
        for (values, out) in values.iter().zip(out) {
            // SAFETY: NEON is there; both are 4 long.
            unsafe { vst1_u16(out.as_mut_ptr(), narrow(vld1q_f32(values.as_ptr()))) };
        }
        for (&value, out) in few.iter().zip(rest) {
            *out = half::f16::from_f32_const(value).to_bits();
        }
    }
}

// ---- instructions without an intrinsic in the oldest compiler that this crate takes ----

/// f16 bits as f32.
#[inline(always)]
fn widen(halves: uint16x4_t) -> float32x4_t {
    let out;
    // SAFETY: part of every 64-bit ARM; reads and writes registers only.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) out, in(vreg) halves,
             options(pure, nomem, nostack, preserves_flags));
    }
    out
}

/// f32 as f16 bits, to nearest, ties to even.
#[inline(always)]
fn narrow(values: float32x4_t) -> uint16x4_t {
    let out;
    // SAFETY: part of every 64-bit ARM; reads and writes registers only.
    unsafe {
        asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) out, in(vreg) values,
             options(pure, nomem, nostack, preserves_flags));
    }
    out
}

/// `sums[i] += w[4i..4i + 4] · x[4i..4i + 4]`.
///
/// # Safety
/// The CPU has the dot product of bytes if `DOT`.
#[inline(always)]
unsafe fn add_dots<const DOT: bool>(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: NEON is part of every 64-bit ARM, and `sdot` there by the caller's promise; reads
    // and writes registers only.
    unsafe {
        if DOT {
            asm!(".arch_extension dotprod", "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                 inout(vreg) sums, in(vreg) w, in(vreg) x,
                 options(pure, nomem, nostack, preserves_flags));
            return sums;
        }
        // Products of bytes fit 16 bits, and sums of two of those are made in 32.
        let first = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
        let second = vpaddlq_s16(vmull_high_s8(w, x));
        vaddq_s32(sums, vpaddq_s32(first, second))
    }
}

// ---- few tokens ----

/// Four blocks of signed weights.
struct Four {
    /// The halves of each block.
    weights: [[int8x16_t; 2]; 4],
    /// `[half][block]`.
    scales: [[f32; 4]; 2],
    minima: [f32; 4],
}

/// Groups of four blocks in what `unpack` reads from.
const fn parts<F: BlockFormat>() -> usize {
    F::VALUES.div_ceil(4 * BLOCK)
}

/// See `Cpu::int8_dot`.
///
/// # Safety
/// The CPU has the dot product of bytes if `DOT`; rows and tokens have `k` values.
#[inline(always)]
unsafe fn int8_dot<F: BlockFormat, const DOT: bool, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    x: [Int8Token<'_>; T],
    k: usize,
) -> [[f32; T]; R] {
    let stride = parts::<F>() * 4 * BLOCK / F::VALUES * F::SIZE;
    let steps = rows[0].len() / stride;
    let mut out = [[0.0; T]; R];
    // SAFETY: the caller's promise; step `step` is inside the rows, and its groups inside the
    // tokens.
    unsafe {
        let zero = vdupq_n_s32(0);
        let mut sums = [[vdupq_n_f32(0.0); T]; R];
        for step in 0..steps {
            for part in 0..parts::<F>() {
                let first = 4 * (step * parts::<F>() + part);
                for r in 0..R {
                    let w = unpack::<F>(rows[r].as_ptr().add(step * stride), part);
                    for i in 0..T {
                        for b in 0..4 {
                            let p = x[i].bytes.as_ptr().add(BLOCK * (first + b));
                            let scale = *x[i].scales.get_unchecked(first + b);
                            let mut dot = add_dots::<DOT>(zero, w.weights[b][0], vld1q_s8(p));
                            if F::HALVES {
                                let both = w.scales[0][b] * scale;
                                sums[r][i] = vfmaq_n_f32(sums[r][i], vcvtq_f32_s32(dot), both);
                                dot = zero;
                            }
                            dot = add_dots::<DOT>(dot, w.weights[b][1], vld1q_s8(p.add(16)));
                            let both = w.scales[1][b] * scale;
                            sums[r][i] = vfmaq_n_f32(sums[r][i], vcvtq_f32_s32(dot), both);
                            if F::MINIMA {
                                let [a, b_sum] = *x[i].sums.get_unchecked(first + b);
                                out[r][i] -= w.minima[b] * (scale * (a + b_sum) as f32);
                            }
                        }
                    }
                }
            }
        }
        for r in 0..R {
            for i in 0..T {
                out[r][i] += vaddvq_f32(sums[r][i]);
            }
        }
    }
    // One to three blocks may be left.
    for b in steps * stride / F::SIZE * F::VALUES / BLOCK..k / BLOCK {
        for r in 0..R {
            let w = F::unpack(rows[r], b);
            for i in 0..T {
                let bytes = &x[i].bytes[b * BLOCK..][..BLOCK];
                out[r][i] += x[i].scales[b] * int8_value::<F>(&w, bytes, x[i].sums[b]);
            }
        }
    }
    out
}

/// Group `part` of the blocks at `p`: of four blocks (part 0), or of a block of 256.
///
/// # Safety
/// The blocks are readable at `p`, and `part` is less than `parts`.
#[inline(always)]
unsafe fn unpack<F: BlockFormat>(p: *const u8, part: usize) -> Four {
    // SAFETY: NEON is part of every 64-bit ARM; the blocks are readable, and no load reaches
    // beyond its block.
    unsafe {
        let half = |at: usize| {
            let bits = p.add(at).cast::<u16>().read_unaligned();
            vgetq_lane_f32::<0>(widen(vdup_n_u16(bits)))
        };
        let load = |at: usize| vld1q_u8(p.add(at));
        let low = |bytes| vandq_u8(bytes, vdupq_n_u8(0x0F));
        let less = |bytes, offset| vsubq_s8(vreinterpretq_s8_u8(bytes), vdupq_n_s8(offset));
        let mut weights = [[vdupq_n_s8(0); 2]; 4];
        let (mut scales, mut minima) = ([[0.0; 4]; 2], [0.0; 4]);
        match F::KIND {
            Kind::Q4_0 => {
                for b in 0..4 {
                    let packed = load(18 * b + 2);
                    weights[b] = [less(low(packed), 8), less(vshrq_n_u8::<4>(packed), 8)];
                    (scales[0][b], scales[1][b]) = (half(18 * b), half(18 * b));
                }
            }
            Kind::Q8_0 => {
                for b in 0..4 {
                    weights[b] = [0, 16].map(|at| vreinterpretq_s8_u8(load(34 * b + 2 + at)));
                    (scales[0][b], scales[1][b]) = (half(34 * b), half(34 * b));
                }
            }
            Kind::Q4K => {
                for pair in 0..2 {
                    let packed = [0, 16].map(|at| load(16 + 64 * part + 32 * pair + at));
                    weights[2 * pair] = packed.map(|bytes| less(low(bytes), 0));
                    weights[2 * pair + 1] = packed.map(|bytes| less(vshrq_n_u8::<4>(bytes), 0));
                }
                let word = |at: usize| p.add(at).cast::<u32>().read_unaligned();
                let (low_sc, low_m, high) = (word(4), word(8), word(12));
                // Blocks 0–3 have their six bits in one byte; 4–7 have four bits in the last word
                // and two at the top of the others'.
                let (sc, m) = match part {
                    0 => (low_sc & 0x3F3F3F3F, low_m & 0x3F3F3F3F),
                    _ => (
                        high & 0x0F0F0F0F | (low_sc >> 2) & 0x30303030,
                        (high >> 4) & 0x0F0F0F0F | (low_m >> 2) & 0x30303030,
                    ),
                };
                let (d, dmin) = (half(0), half(2));
                scales = [sc.to_le_bytes().map(|sc| d * sc as f32); 2];
                minima = m.to_le_bytes().map(|m| dmin * m as f32);
            }
            Kind::Q6K => {
                let d = half(208);
                for h in 0..2 {
                    let (a, b) = (load(64 * part + 16 * h), load(64 * part + 32 + 16 * h));
                    let tops = load(128 + 32 * part + 16 * h);
                    let top = |bits| vandq_u8(bits, vdupq_n_u8(0x30));
                    let joined = [
                        vorrq_u8(low(a), top(vshlq_n_u8::<4>(tops))),
                        vorrq_u8(low(b), top(vshlq_n_u8::<2>(tops))),
                        vorrq_u8(vshrq_n_u8::<4>(a), top(tops)),
                        vorrq_u8(vshrq_n_u8::<4>(b), top(vshrq_n_u8::<2>(tops))),
                    ];
                    for b in 0..4 {
                        weights[b][h] = less(joined[b], 32);
                        let sc = *p.add(192 + 8 * part + 2 * b + h) as i8;
                        scales[h][b] = d * sc as f32;
                    }
                }
            }
        }
        Four { weights, scales, minima }
    }
}

/// See `Cpu::float_dot`.
///
/// # Safety
/// Rows and tokens have `k` values.
#[inline(always)]
unsafe fn float_dot<F: FloatFormat, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    x: [&[f32]; T],
    k: usize,
) -> [[f32; T]; R] {
    // Additions that wait for each other: enough chains of them to keep the units busy.
    const CHAINS: usize = 4;
    let whole = k / (LANES * CHAINS) * (LANES * CHAINS);
    let mut out = [[0.0; T]; R];
    // SAFETY: NEON is part of every 64-bit ARM; `i + 4 <= whole <= k`.
    unsafe {
        let mut sums = [[[vdupq_n_f32(0.0); CHAINS]; T]; R];
        for start in (0..whole).step_by(LANES * CHAINS) {
            for c in 0..CHAINS {
                let i = start + LANES * c;
                for r in 0..R {
                    let p = rows[r].as_ptr().add(i * F::SIZE);
                    let w = match F::KIND {
                        FloatKind::F32 => vld1q_f32(p.cast()),
                        FloatKind::F16 => widen(vld1_u16(p.cast())),
                        FloatKind::Bf16 => {
                            vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.cast())))
                        }
                    };
                    for t in 0..T {
                        let x = vld1q_f32(x[t].as_ptr().add(i));
                        sums[r][t][c] = vfmaq_f32(sums[r][t][c], w, x);
                    }
                }
            }
        }
        for r in 0..R {
            for t in 0..T {
                let [a, b, c, d] = sums[r][t];
                out[r][t] = vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)));
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            for i in whole..k {
                out[r][t] += F::get(&rows[r][i * F::SIZE..][..F::SIZE]) * x[t][i];
            }
        }
    }
    out
}

// ---- many tokens ----

/// `out[i][lane..lane + 16] +=` those rows of the panel · token `t + i`.
#[inline]
fn int8_tile<F: BlockFormat, const DOT: bool, const T: usize>(
    panel: &Int8Panel,
    first: usize,
    n: usize,
    x: &Int8Rows,
    t: usize,
    lane: usize,
    out: &mut [[f32; ROWS]; T],
) {
    let x: [Int8Token<'_>; T] = from_fn(|i| x.token(t + i));
    for x in &x {
        assert!(x.scales.len() >= first + n && x.sums.len() >= first + n);
        assert!(x.bytes.len() >= (first + n) * BLOCK);
    }
    assert!(n <= BLOCKS && lane + WIDTH * LANES <= ROWS);
    let halves = if F::HALVES { 2 } else { 1 };
    let per_half = BLOCK / 4 / halves;
    // Q8_0's codes do not fit a signed byte.
    let signed = F::KIND == Kind::Q8_0;
    let turn = vdupq_n_u8_of(if signed { 0x80 } else { 0 });
    // SAFETY: NEON is part of every 64-bit ARM, and who calls with `DOT` has proof of it. `slot <
    // n <= BLOCKS` is inside the panel, and block `first + slot` inside each token (checked above).
    unsafe {
        for slot in 0..n {
            let b = first + slot;
            for h in 0..halves {
                let mut dots = [[vdupq_n_s32(0); WIDTH]; T];
                for j in h * per_half..(h + 1) * per_half {
                    let weights = panel.weights[slot][j].as_ptr().add(4 * lane);
                    let fours: [int8x16_t; T] = from_fn(|i| {
                        let four = x[i].bytes.as_ptr().add(BLOCK * b + 4 * j);
                        vreinterpretq_s8_s32(vdupq_n_s32(four.cast::<i32>().read_unaligned()))
                    });
                    for r in 0..WIDTH {
                        let w = veorq_u8(vld1q_u8(weights.add(16 * r)), turn);
                        for i in 0..T {
                            let w = vreinterpretq_s8_u8(w);
                            dots[i][r] = add_dots::<DOT>(dots[i][r], w, fours[i]);
                        }
                    }
                }
                for i in 0..T {
                    let sums = x[i].sums.get_unchecked(b);
                    let scale = *x[i].scales.get_unchecked(b);
                    let sum = if F::HALVES { sums[h] } else { sums[0] + sums[1] };
                    let start = F::SHIFT.map_or(0, |shift| if signed { 0 } else { sum << shift });
                    let x_sum = scale * (sums[0] + sums[1]) as f32;
                    for r in 0..WIDTH {
                        let at = lane + LANES * r;
                        let to = out[i].as_mut_ptr().add(at);
                        let dot = vcvtq_f32_s32(vsubq_s32(dots[i][r], vdupq_n_s32(start)));
                        let w = vld1q_f32(panel.scales[slot][h].as_ptr().add(at));
                        let mut sum = vfmaq_f32(vld1q_f32(to), dot, vmulq_n_f32(w, scale));
                        if F::MINIMA {
                            let minima = vld1q_f32(panel.minima[slot].as_ptr().add(at));
                            sum = vfmsq_n_f32(sum, minima, x_sum);
                        }
                        vst1q_f32(to, sum);
                    }
                }
            }
        }
    }
}

/// `byte` in every lane.
#[inline(always)]
fn vdupq_n_u8_of(byte: u8) -> uint8x16_t {
    // SAFETY: NEON is part of every 64-bit ARM.
    unsafe { vdupq_n_u8(byte) }
}

/// `out[t][lane..lane + 16] +=` those rows of the panel's first columns · `x[t]`.
#[inline]
fn float_tile<const T: usize>(
    panel: &FloatPanel,
    x: [&[f32]; T],
    lane: usize,
    out: &mut [[f32; ROWS]; T],
) {
    let n = x[0].len();
    assert!(n <= COLUMNS && x.iter().all(|x| x.len() == n) && lane + LANES * WIDTH <= ROWS);
    // SAFETY: NEON is part of every 64-bit ARM; `column < n` is inside the panel and each token.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); WIDTH]; T];
        for i in 0..T {
            sums[i] = from_fn(|r| vld1q_f32(out[i].as_ptr().add(lane + LANES * r)));
        }
        for column in 0..n {
            for r in 0..WIDTH {
                let w = vld1q_f32(panel.0[column].as_ptr().add(lane + LANES * r));
                for i in 0..T {
                    sums[i][r] = vfmaq_n_f32(sums[i][r], w, *x[i].get_unchecked(column));
                }
            }
        }
        for i in 0..T {
            for r in 0..WIDTH {
                vst1q_f32(out[i].as_mut_ptr().add(lane + LANES * r), sums[i][r]);
            }
        }
    }
}

// ---- attention ----

/// See `Cpu::scores`.
#[inline]
fn scores<const Q: usize>(keys: &[f32], queries: &[&[f32]; Q]) -> [[f32; SPAN]; Q] {
    const V: usize = SPAN / LANES;
    let dim = keys.len() / SPAN;
    assert!(queries.iter().all(|q| q.len() == dim));
    let mut out = [[0.0; SPAN]; Q];
    // SAFETY: NEON is part of every 64-bit ARM; `d < dim` is inside the keys and each query.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); V]; Q];
        for d in 0..dim {
            for v in 0..V {
                let key = vld1q_f32(keys.as_ptr().add(SPAN * d + LANES * v));
                for i in 0..Q {
                    sums[i][v] = vfmaq_n_f32(sums[i][v], key, *queries[i].get_unchecked(d));
                }
            }
        }
        for i in 0..Q {
            for v in 0..V {
                vst1q_f32(out[i].as_mut_ptr().add(LANES * v), sums[i][v]);
            }
        }
    }
    out
}

/// `V` registers of each of the sums of `Cpu::weigh`, which has checked the lengths.
#[inline]
fn weigh_part<const Q: usize, const V: usize>(
    values: &[f32],
    weights: &[&[f32]; Q],
    sums: &mut [&mut [f32]; Q],
    start: usize,
    dim: usize,
) {
    // SAFETY: NEON is part of every 64-bit ARM; `values` is `[weights[i].len(), dim]`, and
    // `start + 4 V` is at most `dim`, the length of each sum.
    unsafe {
        let mut acc = [[vdupq_n_f32(0.0); V]; Q];
        for i in 0..Q {
            acc[i] = from_fn(|v| vld1q_f32(sums[i].as_ptr().add(start + LANES * v)));
        }
        for j in 0..weights[0].len() {
            for v in 0..V {
                let value = vld1q_f32(values.as_ptr().add(j * dim + start + LANES * v));
                for i in 0..Q {
                    acc[i][v] = vfmaq_n_f32(acc[i][v], value, *weights[i].get_unchecked(j));
                }
            }
        }
        for i in 0..Q {
            for v in 0..V {
                vst1q_f32(sums[i].as_mut_ptr().add(start + LANES * v), acc[i][v]);
            }
        }
    }
}
