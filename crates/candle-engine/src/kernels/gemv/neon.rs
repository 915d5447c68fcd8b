//! GEMV for NEON: see `kernels::neon`.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;

use crate::kernels::format::{BLOCK, BlockFormat, FloatFormat, FloatKind};
use crate::kernels::gemv::add_blocks;
use crate::kernels::neon::{LANES, add_dots, widen};
use crate::kernels::pack::neon::unpack;
use crate::kernels::pack::{Int8Rows, parts};

/// See `Cpu::int8_dot`.
///
/// # Safety
/// The CPU has the dot product of bytes if `DOT`.
#[inline]
pub unsafe fn int8_dot<F: BlockFormat, const DOT: bool, const T: usize>(
    row: &[u8],
    x: &Int8Rows,
    t: usize,
) -> [f32; T] {
    let k = row.len() / F::SIZE * F::VALUES;
    let x = x.tokens::<T>(t, k);
    let stride = parts::<F>() * 4 * BLOCK / F::VALUES * F::SIZE;
    let steps = row.len() / stride;
    let mut out = [0.0; T];
    // SAFETY: the caller's promise; step `step` is inside the row, and its groups inside the
    // tokens (checked above).
    unsafe {
        let zero = vdupq_n_s32(0);
        let mut sums = [vdupq_n_f32(0.0); T];
        for step in 0..steps {
            for part in 0..parts::<F>() {
                let first = 4 * (step * parts::<F>() + part);
                let w = unpack::<F>(row.as_ptr().add(step * stride), part);
                for i in 0..T {
                    for b in 0..4 {
                        let p = x[i].bytes.as_ptr().add(BLOCK * (first + b));
                        let scale = *x[i].scales.get_unchecked(first + b);
                        let mut dot = add_dots::<DOT>(zero, w.weights[b][0], vld1q_s8(p));
                        if F::HALVES {
                            let both = w.scales[0][b] * scale;
                            sums[i] = vfmaq_n_f32(sums[i], vcvtq_f32_s32(dot), both);
                            dot = zero;
                        }
                        dot = add_dots::<DOT>(dot, w.weights[b][1], vld1q_s8(p.add(16)));
                        let both = w.scales[1][b] * scale;
                        sums[i] = vfmaq_n_f32(sums[i], vcvtq_f32_s32(dot), both);
                        if F::MINIMA {
                            let [a, b_sum] = *x[i].sums.get_unchecked(first + b);
                            out[i] -= w.minima[b] * (scale * (a + b_sum) as f32);
                        }
                    }
                }
            }
        }
        for i in 0..T {
            out[i] += vaddvq_f32(sums[i]);
        }
    }
    // One to three blocks may remain.
    let grouped = steps * stride / F::SIZE * F::VALUES / BLOCK;
    add_blocks::<F, T>(row, grouped..k / BLOCK, &x, &mut out);
    out
}

/// See `Cpu::float_dot`.
#[inline]
pub fn float_dot<F: FloatFormat, const T: usize>(row: &[u8], x: [&[f32]; T]) -> [f32; T] {
    // Each addition waits for the previous one in its chain, so this uses enough chains to keep the
    // units busy.
    const CHAINS: usize = 4;
    let k = row.len() / F::SIZE;
    assert!(row.len() == k * F::SIZE && x.iter().all(|x| x.len() == k));
    let whole = k / (LANES * CHAINS) * (LANES * CHAINS);
    let mut out = [0.0; T];
    // SAFETY: NEON is part of every 64-bit ARM; `i + 4 <= whole <= k`.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); CHAINS]; T];
        for start in (0..whole).step_by(LANES * CHAINS) {
            for c in 0..CHAINS {
                let i = start + LANES * c;
                let p = row.as_ptr().add(i * F::SIZE);
                let w = match F::KIND {
                    FloatKind::F32 => vld1q_f32(p.cast()),
                    FloatKind::F16 => widen(vld1_u16(p.cast())),
                    FloatKind::Bf16 => vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.cast()))),
                };
                for t in 0..T {
                    let x = vld1q_f32(x[t].as_ptr().add(i));
                    sums[t][c] = vfmaq_f32(sums[t][c], w, x);
                }
            }
        }
        for t in 0..T {
            let [a, b, c, d] = sums[t];
            out[t] = vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)));
        }
    }
    for t in 0..T {
        for i in whole..k {
            out[t] += F::get(&row[i * F::SIZE..][..F::SIZE]) * x[t][i];
        }
    }
    out
}
