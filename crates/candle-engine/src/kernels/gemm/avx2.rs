//! GEMM for AVX2. 32 of a panel's 64 rows fill four registers at a time, whose bytes are multiplied
//! with four bytes of a token, repeated over the lanes. See `kernels::avx2`.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::array::from_fn;

use crate::kernels::avx2::{fits, has_start, products};
use crate::kernels::format::{BLOCK, BlockFormat};
use crate::kernels::pack::{BLOCKS, COLUMNS, FloatPanel, Int8Panel, Int8Rows, ROWS};

/// Lanes of a register, and registers that are computed at once.
const LANES: usize = 8;
const WIDTH: usize = 4;

/// Compiles the int8 kernel for a set of features.
macro_rules! int8_kernel {
    ($features:literal, $vnni:literal, $tokens:literal, $gemm:ident) => {
        #[target_feature(enable = $features)]
        pub fn $gemm<F: BlockFormat>(
            panel: &Int8Panel,
            first: usize,
            n: usize,
            x: &Int8Rows,
            out: &mut [[f32; ROWS]],
        ) {
            // SAFETY: this function has the features.
            unsafe { int8_gemm::<F, $vnni, $tokens>(panel, first, n, x, out) }
        }
    };
}

int8_kernel!("avx2,f16c,fma", false, 2, avx2_gemm);
int8_kernel!("avx2,f16c,fma,avxvnni", true, 3, vnni_gemm);

/// See `Cpu::int8_gemm`; `T` tokens at a time.
///
/// # Safety
/// The CPU has AVX2 and FMA (and AVX-VNNI for `VNNI`).
#[inline(always)]
unsafe fn int8_gemm<F: BlockFormat, const VNNI: bool, const T: usize>(
    panel: &Int8Panel,
    first: usize,
    n: usize,
    x: &Int8Rows,
    out: &mut [[f32; ROWS]],
) {
    assert!(n <= BLOCKS);
    let (tiles, rest) = out.as_chunks_mut::<T>();
    let n_tiled = tiles.len() * T;
    for lane in (0..ROWS).step_by(LANES * WIDTH) {
        for (i, tile) in tiles.iter_mut().enumerate() {
            // SAFETY: the caller's promise; `lane + 32 <= ROWS`.
            unsafe { int8_tile::<F, VNNI, T>(panel, first, n, x, i * T, lane, tile) };
        }
        for (i, row) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
            // SAFETY: as above.
            unsafe { int8_tile::<F, VNNI, 1>(panel, first, n, x, n_tiled + i, lane, row) };
        }
    }
}

/// `out[i][lane..lane + 32] +=` those rows of the panel · token `t + i`.
///
/// # Safety
/// The CPU has AVX2 and FMA (and AVX-VNNI for `VNNI`); `lane` is at most 32.
#[inline(always)]
unsafe fn int8_tile<F: BlockFormat, const VNNI: bool, const T: usize>(
    panel: &Int8Panel,
    first: usize,
    n: usize,
    x: &Int8Rows,
    t: usize,
    lane: usize,
    out: &mut [[f32; ROWS]; T],
) {
    let x = x.tokens::<T>(t, (first + n) * BLOCK);
    let halves = if F::HALVES { 2 } else { 1 };
    let per_half = BLOCK / 4 / halves;
    // SAFETY: the caller has the features. `slot < n <= BLOCKS` is inside the panel, block
    // `first + slot` inside each token (checked above), and `lane + 32 <= ROWS`.
    unsafe {
        for slot in 0..n {
            let b = first + slot;
            for h in 0..halves {
                let quads = h * per_half..(h + 1) * per_half;
                let weights = panel.weights[slot].as_ptr().cast::<u8>().add(4 * lane);
                let mut bytes = [std::ptr::null(); T];
                for i in 0..T {
                    bytes[i] = x[i].bytes.as_ptr().add(BLOCK * b);
                }
                let dots = match VNNI {
                    true => vnni_products::<T>(weights, bytes, quads),
                    false => avx2_products::<F, T>(weights, bytes, quads),
                };
                let scales = panel.scales[slot][h].as_ptr().add(lane);
                let minima = panel.minima[slot].as_ptr().add(lane);
                for i in 0..T {
                    let sums = x[i].sums.get_unchecked(b);
                    let scale = *x[i].scales.get_unchecked(b);
                    let start = match F::SHIFT {
                        Some(shift) if has_start::<F, VNNI>() => {
                            (if F::HALVES { sums[h] } else { sums[0] + sums[1] }) << shift
                        }
                        _ => 0,
                    };
                    let start = _mm256_set1_epi32(start);
                    let x_sum = _mm256_set1_ps(scale * (sums[0] + sums[1]) as f32);
                    let scale = _mm256_set1_ps(scale);
                    for r in 0..WIDTH {
                        let to = out[i].as_mut_ptr().add(lane + LANES * r);
                        let dot = _mm256_cvtepi32_ps(_mm256_sub_epi32(dots[i][r], start));
                        let both = _mm256_mul_ps(_mm256_load_ps(scales.add(LANES * r)), scale);
                        let mut sum = _mm256_fmadd_ps(dot, both, _mm256_loadu_ps(to));
                        if F::MINIMA {
                            let minima = _mm256_load_ps(minima.add(LANES * r));
                            sum = _mm256_fnmadd_ps(minima, x_sum, sum);
                        }
                        _mm256_storeu_ps(to, sum);
                    }
                }
            }
        }
    }
}

/// Column quadruples `quads` of a block of 32 rows times tokens.
///
/// # Safety
/// The CPU has AVX-VNNI; a block's 32 rows lie at `weights` and its activations at each of `x`.
#[inline(always)]
unsafe fn vnni_products<const T: usize>(
    weights: *const u8,
    x: [*const i8; T],
    quads: std::ops::Range<usize>,
) -> [[__m256i; WIDTH]; T] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut dots = [[_mm256_setzero_si256(); WIDTH]; T];
        for j in quads {
            let mut fours = [_mm256_setzero_si256(); T];
            for i in 0..T {
                fours[i] = _mm256_set1_epi32(x[i].add(4 * j).cast::<i32>().read_unaligned());
            }
            for r in 0..WIDTH {
                let w = weights.add(4 * ROWS * j + 4 * LANES * r);
                let w = _mm256_load_si256(w.cast());
                for i in 0..T {
                    dots[i][r] = _mm256_dpbusd_avx_epi32(dots[i][r], w, fours[i]);
                }
            }
        }
        dots
    }
}

/// The same without VNNI: adds up as many sums as fit in 16 bits.
///
/// # Safety
/// The CPU has AVX2; a block's 32 rows lie at `weights` and its activations at each of `x`.
#[inline(always)]
unsafe fn avx2_products<F: BlockFormat, const T: usize>(
    weights: *const u8,
    x: [*const i8; T],
    quads: std::ops::Range<usize>,
) -> [[__m256i; WIDTH]; T] {
    let together = fits(F::KIND).clamp(1, quads.len());
    // SAFETY: the caller's promise.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut dots = [[_mm256_setzero_si256(); WIDTH]; T];
        for start in quads.clone().step_by(together) {
            let mut few = [[_mm256_setzero_si256(); WIDTH]; T];
            for j in start..start + together {
                let mut fours = [_mm256_setzero_si256(); T];
                for i in 0..T {
                    fours[i] = _mm256_set1_epi32(x[i].add(4 * j).cast::<i32>().read_unaligned());
                }
                for r in 0..WIDTH {
                    let w = weights.add(4 * ROWS * j + 4 * LANES * r);
                    let w = _mm256_load_si256(w.cast());
                    for i in 0..T {
                        few[i][r] = _mm256_add_epi16(few[i][r], products::<F>(w, fours[i]));
                    }
                }
            }
            for i in 0..T {
                for r in 0..WIDTH {
                    let sums = _mm256_madd_epi16(few[i][r], ones);
                    dots[i][r] = _mm256_add_epi32(dots[i][r], sums);
                }
            }
        }
        dots
    }
}

/// See `Cpu::float_gemm`.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn float_gemm(
    panel: &FloatPanel,
    first: usize,
    n: usize,
    x: &[f32],
    k: usize,
    out: &mut [[f32; ROWS]],
) {
    /// Three tokens: 12 registers of sums.
    const T: usize = 3;
    assert!(n <= COLUMNS && first + n <= k && out.len() * k <= x.len());
    let (tiles, rest) = out.as_chunks_mut::<T>();
    let x = |t: usize| &x[t * k + first..][..n];
    let n_tiled = tiles.len() * T;
    for lane in (0..ROWS).step_by(LANES * WIDTH) {
        for (i, tile) in tiles.iter_mut().enumerate() {
            float_tile::<T>(panel, n, from_fn(|t| x(i * T + t)), lane, tile);
        }
        for (i, row) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
            float_tile::<1>(panel, n, [x(n_tiled + i)], lane, row);
        }
    }
}

/// `out[t][lane..lane + 32] +=` those rows of the panel's first `n` columns · `x[t]`.
#[target_feature(enable = "avx2,f16c,fma")]
#[inline]
fn float_tile<const T: usize>(
    panel: &FloatPanel,
    n: usize,
    x: [&[f32]; T],
    lane: usize,
    out: &mut [[f32; ROWS]; T],
) {
    assert!(n <= COLUMNS && x.iter().all(|x| x.len() == n) && lane + LANES * WIDTH <= ROWS);
    // SAFETY: this function has the features; `column < n` is inside the panel and each token.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); WIDTH]; T];
        for i in 0..T {
            sums[i] = from_fn(|r| _mm256_loadu_ps(out[i].as_ptr().add(lane + LANES * r)));
        }
        for column in 0..n {
            let x: [__m256; T] = from_fn(|i| _mm256_set1_ps(*x[i].get_unchecked(column)));
            for r in 0..WIDTH {
                let w = _mm256_load_ps(panel.0[column].as_ptr().add(lane + LANES * r));
                for i in 0..T {
                    sums[i][r] = _mm256_fmadd_ps(w, x[i], sums[i][r]);
                }
            }
        }
        for i in 0..T {
            for r in 0..WIDTH {
                _mm256_storeu_ps(out[i].as_mut_ptr().add(lane + LANES * r), sums[i][r]);
            }
        }
    }
}
