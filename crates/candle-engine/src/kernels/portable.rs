//! Kernels for any CPU: plain loops in lanes that the compiler turns into whatever vectors the
//! target has, and the reference for the ones written by hand.

use super::activations::{Rounded, int8_value};
use super::format::{BLOCK, BlockFormat, FloatFormat};
use super::panel::{FloatPanel, Int8Panel, Int8Rows, ROWS};
use super::tiles::TileCpu;
use super::{Cpu, SPAN};

/// No instruction set in particular: what the binary was compiled for.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

impl Cpu for Portable {
    const FMA: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

    fn name(self) -> &'static str {
        "portable"
    }
}

impl TileCpu for Portable {}

const LANES: usize = 16;

/// `a · b + c`: fused where that is one instruction; in software it would be slow.
#[inline(always)]
pub fn madd<C: Cpu>(a: f32, b: f32, c: f32) -> f32 {
    if C::FMA { a.mul_add(b, c) } else { a * b + c }
}

/// See `Cpu::int8_dot`.
#[inline(always)]
pub fn int8_dot<F: BlockFormat, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    x: &Rounded,
    t: usize,
) -> [[f32; T]; R] {
    let k = rows[0].len() / F::SIZE * F::VALUES;
    let mut out = [[0.0; T]; R];
    for (out, row) in out.iter_mut().zip(rows) {
        assert_eq!(row.len(), rows[0].len());
        for b in 0..k / BLOCK {
            let w = F::unpack(row, b);
            for (i, out) in out.iter_mut().enumerate() {
                let token = x.rows.token(t + i);
                let bytes = &token.bytes[b * BLOCK..][..BLOCK];
                *out += token.scales[b] * int8_value::<F>(&w, bytes, token.sums[b]);
            }
        }
    }
    out
}

/// See `Cpu::float_dot`.
#[inline(always)]
pub fn float_dot<F: FloatFormat, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    x: [&[f32]; T],
) -> [[f32; T]; R] {
    let mut out = [[0.0; T]; R];
    for (out, row) in out.iter_mut().zip(rows) {
        for (out, x) in out.iter_mut().zip(x) {
            assert_eq!(row.len(), F::SIZE * x.len());
            let mut sums = [0.0f32; LANES];
            for (w, x) in row.chunks(F::SIZE * LANES).zip(x.chunks(LANES)) {
                for ((sum, w), x) in sums.iter_mut().zip(w.chunks_exact(F::SIZE)).zip(x) {
                    *sum += F::get(w) * x;
                }
            }
            *out = sums.iter().sum();
        }
    }
    out
}

/// See `Cpu::int8_tiles`.
#[inline(always)]
pub fn int8_tiles<F: BlockFormat>(
    panel: &Int8Panel,
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
                let scales = &panel.scales[slot][h];
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

/// See `Cpu::float_tiles`.
#[inline(always)]
pub fn float_tiles(
    panel: &FloatPanel,
    first: usize,
    n: usize,
    x: &[f32],
    k: usize,
    out: &mut [[f32; ROWS]],
) {
    for (out, x) in out.iter_mut().zip(x.chunks_exact(k)) {
        for (column, &x) in panel.0[..n].iter().zip(&x[first..]) {
            for (out, w) in out.iter_mut().zip(column) {
                *out += w * x;
            }
        }
    }
}

/// See `Cpu::scores`.
#[inline(always)]
pub fn scores<C: Cpu, const Q: usize>(keys: &[f32], queries: [&[f32]; Q]) -> [[f32; SPAN]; Q] {
    let mut out = [[0.0f32; SPAN]; Q];
    for (out, query) in out.iter_mut().zip(queries) {
        for (keys, &q) in keys.as_chunks::<SPAN>().0.iter().zip(query) {
            for (out, &k) in out.iter_mut().zip(keys) {
                *out = madd::<C>(k, q, *out);
            }
        }
    }
    out
}

/// See `Cpu::weigh`.
#[inline(always)]
pub fn weigh<C: Cpu, const Q: usize>(
    values: &[f32],
    weights: [&[f32]; Q],
    mut sums: [&mut [f32]; Q],
) {
    let dim = sums[0].len();
    for (j, value) in values.chunks_exact(dim).enumerate() {
        for (sum, weights) in sums.iter_mut().zip(weights) {
            for (sum, &v) in sum.iter_mut().zip(value) {
                *sum = madd::<C>(weights[j], v, *sum);
            }
        }
    }
}
