//! GEMM for NEON. 16 of a panel's 64 rows fill four registers at a time. See `kernels::neon`.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;
use std::array::from_fn;

use crate::kernels::format::{BLOCK, BlockFormat, Kind};
use crate::kernels::neon::{LANES, WIDTH, add_dots};
use crate::kernels::pack::{Int8Blocks, Int8Rows, ROWS};

/// Tokens that are computed at once.
const TOKENS: usize = 4;

/// See `Cpu::int8_gemm`.
///
/// # Safety
/// The CPU has the dot product of bytes if `DOT`.
#[inline]
pub unsafe fn int8_gemm<F: BlockFormat, const DOT: bool>(
    panel: Int8Blocks<'_>,
    first: usize,
    n: usize,
    x: &Int8Rows,
    out: &mut [[f32; ROWS]],
) {
    assert!(n <= panel.weights.len());
    let (tiles, rest) = out.as_chunks_mut::<TOKENS>();
    let n_tiled = tiles.len() * TOKENS;
    for lane in (0..ROWS).step_by(LANES * WIDTH) {
        for (i, tile) in tiles.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { int8_tile::<F, DOT, TOKENS>(panel, first, n, x, i * TOKENS, lane, tile) };
        }
        for (i, row) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
            // SAFETY: as above.
            unsafe { int8_tile::<F, DOT, 1>(panel, first, n, x, n_tiled + i, lane, row) };
        }
    }
}

/// `out[i][lane..lane + 16] +=` those rows of the panel · token `t + i`.
///
/// # Safety
/// The CPU has the dot product of bytes if `DOT`.
#[inline]
unsafe fn int8_tile<F: BlockFormat, const DOT: bool, const T: usize>(
    panel: Int8Blocks<'_>,
    first: usize,
    n: usize,
    x: &Int8Rows,
    t: usize,
    lane: usize,
    out: &mut [[f32; ROWS]; T],
) {
    let x = x.tokens::<T>(t, (first + n) * BLOCK);
    assert!(n <= panel.weights.len() && lane + WIDTH * LANES <= ROWS);
    let halves = if F::HALVES { 2 } else { 1 };
    let per_half = BLOCK / 4 / halves;
    // Q8_0's codes do not fit a signed byte.
    let signed = F::KIND == Kind::Q8_0;
    let turn = vdupq_n_u8_of(if signed { 0x80 } else { 0 });
    // SAFETY: NEON is part of every 64-bit ARM, and `sdot` there by the caller's promise. `slot <
    // n` is inside the panel, and block `first + slot` inside each token (checked above).
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
                        let w = vld1q_f32(panel.scales(slot, h).as_ptr().add(at));
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

/// See `Cpu::float_gemm`.
#[inline]
pub fn float_gemm(
    panel: &[[f32; ROWS]],
    rows: usize,
    first: usize,
    x: &[f32],
    k: usize,
    out: &mut [[f32; ROWS]],
) {
    assert!(first + panel.len() <= k && out.len() * k <= x.len() && rows <= ROWS);
    let (tiles, rest) = out.as_chunks_mut::<TOKENS>();
    let x = |t: usize| &x[t * k + first..][..panel.len()];
    let n_tiled = tiles.len() * TOKENS;
    for lane in (0..rows).step_by(LANES * WIDTH) {
        for (i, tile) in tiles.iter_mut().enumerate() {
            float_tile::<TOKENS>(panel, from_fn(|t| x(i * TOKENS + t)), lane, tile);
        }
        for (i, row) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
            float_tile::<1>(panel, [x(n_tiled + i)], lane, row);
        }
    }
}

/// `out[t][lane..lane + 16] +=` those rows of the panel's first columns · `x[t]`.
#[inline]
fn float_tile<const T: usize>(
    panel: &[[f32; ROWS]],
    x: [&[f32]; T],
    lane: usize,
    out: &mut [[f32; ROWS]; T],
) {
    assert!(x.iter().all(|x| x.len() == panel.len()) && lane + LANES * WIDTH <= ROWS);
    // SAFETY: NEON is part of every 64-bit ARM; each column is inside each token.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); WIDTH]; T];
        for i in 0..T {
            sums[i] = from_fn(|r| vld1q_f32(out[i].as_ptr().add(lane + LANES * r)));
        }
        for (column, weights) in panel.iter().enumerate() {
            for r in 0..WIDTH {
                let w = vld1q_f32(weights.as_ptr().add(lane + LANES * r));
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
