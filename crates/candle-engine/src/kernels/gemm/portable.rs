//! GEMM in plain code: the reference for the hand-written kernels.

use crate::kernels::format::{BLOCK, BlockFormat};
use crate::kernels::pack::{Int8Blocks, Int8Rows, ROWS};

/// See `Cpu::int8_gemm`.
#[inline(always)]
pub fn int8_gemm<F: BlockFormat>(
    panel: Int8Blocks<'_>,
    first: usize,
    n: usize,
    x: &Int8Rows,
    out: &mut [[f32; ROWS]],
) {
    for (t, out) in out.iter_mut().enumerate() {
        let token = x.token(t);
        for slot in 0..n {
            let b = first + slot;
            let (bytes, sums) = (&token.bytes[b * BLOCK..][..BLOCK], token.sums[b]);
            let halves = if F::HALVES { 2 } else { 1 };
            let per_half = BLOCK / 4 / halves;
            for h in 0..halves {
                let sum = if F::HALVES { sums[h] } else { sums[0] + sums[1] };
                let mut dots = [F::SHIFT.map_or(0, |shift| -(sum << shift)); ROWS];
                for j in h * per_half..(h + 1) * per_half {
                    let four = &bytes[4 * j..][..4];
                    for (dot, w) in dots.iter_mut().zip(panel.weights[slot][j].as_chunks::<4>().0) {
                        *dot += (0..4).map(|e| w[e] as i32 * four[e] as i32).sum::<i32>();
                    }
                }
                let scales = panel.scales(slot, h);
                for ((out, dot), scale) in out.iter_mut().zip(dots).zip(scales) {
                    *out += dot as f32 * (scale * token.scales[b]);
                }
            }
            if F::MINIMA {
                let sum = token.scales[b] * (sums[0] + sums[1]) as f32;
                for (out, minimum) in out.iter_mut().zip(&panel.minima[slot]) {
                    *out -= minimum * sum;
                }
            }
        }
    }
}

/// See `Cpu::float_gemm`.
#[inline(always)]
pub fn float_gemm(
    panel: &[[f32; ROWS]],
    rows: usize,
    first: usize,
    x: &[f32],
    k: usize,
    out: &mut [[f32; ROWS]],
) {
    for (out, x) in out.iter_mut().zip(x.chunks_exact(k)) {
        for (column, &x) in panel.iter().zip(&x[first..]) {
            for (out, w) in out[..rows].iter_mut().zip(column) {
                *out += w * x;
            }
        }
    }
}
