//! GEMM for AVX-512 with VNNI. A panel's 64 rows fill four registers, and `vpdpbusd` multiplies
//! their unsigned bytes with four signed bytes of a token, repeated over the lanes.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::array::from_fn;

use crate::kernels::format::{BLOCK, BlockFormat};
use crate::kernels::pack::{Int8Blocks, Int8Rows, ROWS};

/// Lanes of a register, and registers of a panel's row.
const LANES: usize = 16;
const WIDTH: usize = ROWS / LANES;

/// See `Cpu::int8_gemm`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub fn int8_gemm<F: BlockFormat>(
    panel: Int8Blocks<'_>,
    first: usize,
    n: usize,
    x: &Int8Rows,
    out: &mut [[f32; ROWS]],
) {
    /// Three tokens: 12 registers of integer sums and 12 of float sums.
    const T: usize = 3;
    assert!(n <= panel.weights.len());
    let (tiles, rest) = out.as_chunks_mut::<T>();
    let n_tiled = tiles.len() * T;
    for (i, tile) in tiles.iter_mut().enumerate() {
        int8_tile::<F, T>(panel, first, n, x, i * T, tile);
    }
    match rest {
        [one] => int8_tile::<F, 1>(panel, first, n, x, n_tiled, std::array::from_mut(one)),
        [_, _] => {
            let two = rest.as_chunks_mut::<2>().0;
            int8_tile::<F, 2>(panel, first, n, x, n_tiled, &mut two[0]);
        }
        _ => {}
    }
}

/// `out[i] +=` panel · token `t + i`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
#[inline]
fn int8_tile<F: BlockFormat, const T: usize>(
    panel: Int8Blocks<'_>,
    first: usize,
    n: usize,
    x: &Int8Rows,
    t: usize,
    out: &mut [[f32; ROWS]; T],
) {
    let x = x.tokens::<T>(t, (first + n) * BLOCK);
    let halves = if F::HALVES { 2 } else { 1 };
    let per_half = BLOCK / 4 / halves;
    // SAFETY: this function has the features. `slot < n` is inside the panel, and block
    // `first + slot` inside each token (checked above).
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); WIDTH]; T];
        for i in 0..T {
            sums[i] = from_fn(|r| _mm512_loadu_ps(out[i].as_ptr().add(LANES * r)));
        }
        for slot in 0..n {
            let b = first + slot;
            let counts: [[i32; 2]; T] = from_fn(|i| *x[i].sums.get_unchecked(b));
            let scales: [f32; T] = from_fn(|i| *x[i].scales.get_unchecked(b));
            for h in 0..halves {
                let mut dots = [[_mm512_setzero_si512(); WIDTH]; T];
                if let Some(shift) = F::SHIFT {
                    for i in 0..T {
                        let sum =
                            if F::HALVES { counts[i][h] } else { counts[i][0] + counts[i][1] };
                        dots[i] = [_mm512_set1_epi32(-(sum << shift)); WIDTH];
                    }
                }
                for j in h * per_half..(h + 1) * per_half {
                    let w: [__m512i; WIDTH] = from_fn(|r| {
                        _mm512_loadu_si512(
                            panel.weights.get_unchecked(slot)[j].as_ptr().add(64 * r).cast(),
                        )
                    });
                    for i in 0..T {
                        let four = x[i].bytes.as_ptr().add(BLOCK * b + 4 * j);
                        let four = _mm512_set1_epi32(four.cast::<i32>().read_unaligned());
                        for r in 0..WIDTH {
                            dots[i][r] = _mm512_dpbusd_epi32(dots[i][r], w[r], four);
                        }
                    }
                }
                let w: [__m512; WIDTH] =
                    from_fn(|r| _mm512_loadu_ps(panel.scales(slot, h).as_ptr().add(LANES * r)));
                for i in 0..T {
                    let scale = _mm512_set1_ps(scales[i]);
                    for r in 0..WIDTH {
                        let dot = _mm512_cvtepi32_ps(dots[i][r]);
                        let scale = _mm512_mul_ps(w[r], scale);
                        sums[i][r] = _mm512_fmadd_ps(dot, scale, sums[i][r]);
                    }
                }
            }
            if F::MINIMA {
                for i in 0..T {
                    let sum = scales[i] * (counts[i][0] + counts[i][1]) as f32;
                    let sum = _mm512_set1_ps(sum);
                    for r in 0..WIDTH {
                        let minima = _mm512_loadu_ps(panel.minima[slot].as_ptr().add(LANES * r));
                        sums[i][r] = _mm512_fnmadd_ps(minima, sum, sums[i][r]);
                    }
                }
            }
        }
        for i in 0..T {
            for r in 0..WIDTH {
                _mm512_storeu_ps(out[i].as_mut_ptr().add(LANES * r), sums[i][r]);
            }
        }
    }
}

/// See `Cpu::float_gemm`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub fn float_gemm(
    panel: &[[f32; ROWS]],
    rows: usize,
    first: usize,
    x: &[f32],
    k: usize,
    out: &mut [[f32; ROWS]],
) {
    assert!(first + panel.len() <= k && out.len() * k <= x.len() && rows <= ROWS);
    // 24 registers of sums.
    match rows {
        0..=32 => float_tiles::<2, 12>(panel, first, x, k, out),
        _ => float_tiles::<WIDTH, 6>(panel, first, x, k, out),
    }
}

/// The first `W` registers of the panel's rows, `T` tokens at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
#[inline]
fn float_tiles<const W: usize, const T: usize>(
    panel: &[[f32; ROWS]],
    first: usize,
    x: &[f32],
    k: usize,
    out: &mut [[f32; ROWS]],
) {
    let x = |t: usize| &x[t * k + first..][..panel.len()];
    let (tiles, rest) = out.as_chunks_mut::<T>();
    let n_tiled = tiles.len() * T;
    for (i, tile) in tiles.iter_mut().enumerate() {
        float_tile::<W, T>(panel, from_fn(|t| x(i * T + t)), tile);
    }
    let (tiles, rest) = rest.as_chunks_mut::<2>();
    let n_paired = n_tiled + 2 * tiles.len();
    for (i, tile) in tiles.iter_mut().enumerate() {
        let t = n_tiled + 2 * i;
        float_tile::<W, 2>(panel, [x(t), x(t + 1)], tile);
    }
    if let [row] = rest {
        float_tile::<W, 1>(panel, [x(n_paired)], std::array::from_mut(row));
    }
}

/// `out[t] +=` the panel · `x[t]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
#[inline]
fn float_tile<const W: usize, const T: usize>(
    panel: &[[f32; ROWS]],
    x: [&[f32]; T],
    out: &mut [[f32; ROWS]; T],
) {
    assert!(x.iter().all(|x| x.len() == panel.len()) && W <= WIDTH);
    // SAFETY: this function has the features; each column is inside each token.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); W]; T];
        for i in 0..T {
            sums[i] = from_fn(|r| _mm512_loadu_ps(out[i].as_ptr().add(LANES * r)));
        }
        for (column, weights) in panel.iter().enumerate() {
            let w: [__m512; W] = from_fn(|r| _mm512_loadu_ps(weights.as_ptr().add(LANES * r)));
            for i in 0..T {
                let x = _mm512_set1_ps(*x[i].get_unchecked(column));
                for r in 0..W {
                    sums[i][r] = _mm512_fmadd_ps(w[r], x, sums[i][r]);
                }
            }
        }
        for i in 0..T {
            for r in 0..W {
                _mm512_storeu_ps(out[i].as_mut_ptr().add(LANES * r), sums[i][r]);
            }
        }
    }
}
