//! GEMM for AVX2. 16 or 32 of a panel's 64 rows fill two or four registers at a time, whose bytes are
//! multiplied with four bytes of a token, repeated over the lanes. See `kernels::avx2`.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::ops::Range;

use crate::kernels::avx2::{fits, has_start, products};
use crate::kernels::format::{BLOCK, BlockFormat};
use crate::kernels::pack::{BLOCKS, COLUMNS, Int8Blocks, Int8Rows, ROWS};
use crate::kernels::prefetch::prefetch_near;

/// Lanes of a register.
const LANES: usize = 8;

/// Blocks, and float columns, of a panel that are multiplied with all tokens before the others: 16
/// KiB of weights, which leave room in a first-level cache of 32 KiB.
const NEAR_BLOCKS: usize = BLOCKS / 2;
const NEAR_COLUMNS: usize = COLUMNS / 2;

/// Compiles the int8 kernel for a set of features.
macro_rules! int8_kernel {
    ($features:literal, $vnni:literal, $gemm:ident) => {
        /// See `Cpu::int8_gemm`.
        #[target_feature(enable = $features)]
        pub fn $gemm<F: BlockFormat>(
            panel: Int8Blocks<'_>,
            first: usize,
            n: usize,
            x: &Int8Rows,
            out: &mut [[f32; ROWS]],
        ) {
            // Fewer sums than registers: the compiler moves many products past each other, and more
            // sums would go through memory. Where a weight takes further instructions, more tokens
            // share it.
            // SAFETY: this function has the features.
            unsafe {
                match () {
                    _ if $vnni => int8_gemm::<F, $vnni, 4, 3>(panel, first, n, x, out),
                    _ if fits(F::KIND) == 0 => int8_gemm::<F, $vnni, 2, 4>(panel, first, n, x, out),
                    _ => int8_gemm::<F, $vnni, 4, 1>(panel, first, n, x, out),
                }
            }
        }
    };
}

int8_kernel!("avx2,f16c,fma", false, avx2_gemm);
int8_kernel!("avx2,f16c,fma,avxvnni", true, vnni_gemm);

/// See `Cpu::int8_gemm`; `W` registers of rows and `T` tokens at a time.
///
/// # Safety
/// The CPU has AVX2 and FMA (and AVX-VNNI for `VNNI`).
#[inline(always)]
unsafe fn int8_gemm<F: BlockFormat, const VNNI: bool, const W: usize, const T: usize>(
    panel: Int8Blocks<'_>,
    first: usize,
    n: usize,
    x: &Int8Rows,
    out: &mut [[f32; ROWS]],
) {
    assert!(n <= panel.weights.len());
    for slot in (0..n).step_by(NEAR_BLOCKS) {
        let slots = slot..n.min(slot + NEAR_BLOCKS);
        let (tiles, rest) = out.as_chunks_mut::<T>();
        let n_tiled = tiles.len() * T;
        for (i, tile) in tiles.iter_mut().enumerate() {
            for lane in (0..ROWS).step_by(LANES * W) {
                // SAFETY: the caller's promise; the lanes end at `ROWS`, and the slots at `n`.
                unsafe {
                    int8_tile::<F, VNNI, W, T>(panel, first, slots.clone(), x, i * T, lane, tile);
                }
            }
        }
        for (i, row) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
            for lane in (0..ROWS).step_by(LANES * W) {
                let t = n_tiled + i;
                // SAFETY: as above.
                unsafe {
                    int8_tile::<F, VNNI, W, 1>(panel, first, slots.clone(), x, t, lane, row);
                }
            }
        }
    }
}

/// `out[i][lane..lane + 8 W] +=` those rows of the panel's blocks `slots`, which are blocks
/// `first + slot` of a row, · token `t + i`.
///
/// # Safety
/// The CPU has AVX2 and FMA (and AVX-VNNI for `VNNI`); `slots` and the lanes are inside the panel.
#[inline(always)]
unsafe fn int8_tile<F: BlockFormat, const VNNI: bool, const W: usize, const T: usize>(
    panel: Int8Blocks<'_>,
    first: usize,
    slots: Range<usize>,
    x: &Int8Rows,
    t: usize,
    lane: usize,
    out: &mut [[f32; ROWS]; T],
) {
    let x = x.tokens::<T>(t, (first + slots.end) * BLOCK);
    let halves = if F::HALVES { 2 } else { 1 };
    let per_half = BLOCK / 4 / halves;
    // SAFETY: the caller's promise; block `first + slot` is inside each token (checked above).
    unsafe {
        if lane == 0 {
            for x in x {
                // The same blocks of the next tile.
                let next = x.bytes.as_ptr().wrapping_add(T * x.bytes.len());
                let next = next.wrapping_add((first + slots.start) * BLOCK);
                prefetch_near(next.cast(), slots.len() * BLOCK);
            }
        }
        for slot in slots {
            let b = first + slot;
            let weights = panel.weights[slot].as_ptr().cast::<u8>().add(4 * lane);
            let minima = if F::MINIMA { panel.minima[slot].as_ptr() } else { std::ptr::null() };
            let minima = minima.wrapping_add(lane);
            let mut bytes = [std::ptr::null(); T];
            for i in 0..T {
                bytes[i] = x[i].bytes.as_ptr().add(BLOCK * b);
            }
            for h in 0..halves {
                let quads = h * per_half..(h + 1) * per_half;
                let mut start = [_mm256_setzero_si256(); T];
                if let Some(shift) = F::SHIFT
                    && has_start::<F, VNNI>()
                {
                    for i in 0..T {
                        let sums = x[i].sums.get_unchecked(b);
                        let sum = if F::HALVES { sums[h] } else { sums[0] + sums[1] };
                        start[i] = _mm256_set1_epi32(-(sum << shift));
                    }
                }
                let dots = match () {
                    _ if VNNI => vnni_products::<W, T>(weights, bytes, quads, start),
                    _ if fits(F::KIND) >= per_half => {
                        short_products::<W, T>(weights, bytes, quads, start)
                    }
                    _ => long_products::<F, W, T>(weights, bytes, quads, start),
                };
                let scales = panel.scales(slot, h).as_ptr().add(lane);
                for i in 0..T {
                    let x_scale = *x[i].scales.get_unchecked(b);
                    let scale = _mm256_set1_ps(x_scale);
                    let sums = x[i].sums.get_unchecked(b);
                    let x_sum = _mm256_set1_ps(x_scale * (sums[0] + sums[1]) as f32);
                    for r in 0..W {
                        let to = out[i].as_mut_ptr().add(lane + LANES * r);
                        let both = _mm256_mul_ps(_mm256_loadu_ps(scales.add(LANES * r)), scale);
                        let dot = _mm256_cvtepi32_ps(dots[i][r]);
                        let mut sum = _mm256_fmadd_ps(dot, both, _mm256_loadu_ps(to));
                        if F::MINIMA {
                            let minima = _mm256_loadu_ps(minima.add(LANES * r));
                            sum = _mm256_fnmadd_ps(minima, x_sum, sum);
                        }
                        _mm256_storeu_ps(to, sum);
                    }
                }
            }
        }
    }
}

/// Four activations, repeated over the lanes.
///
/// # Safety
/// The CPU has AVX2, and four bytes are readable at `x`.
#[inline(always)]
unsafe fn four(x: *const i8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_set1_epi32(x.cast::<i32>().read_unaligned()) }
}

/// The start of `W` sums for each token.
#[inline(always)]
fn repeated<const W: usize, const T: usize>(start: [__m256i; T]) -> [[__m256i; W]; T] {
    let mut sums = [[start[0]; W]; T];
    for i in 1..T {
        sums[i] = [start[i]; W];
    }
    sums
}

/// `start` plus column quadruples `quads` of a block of `8 W` rows times tokens.
///
/// # Safety
/// The CPU has AVX-VNNI; a block's rows lie at `weights` and its activations at each of `x`.
#[inline(always)]
unsafe fn vnni_products<const W: usize, const T: usize>(
    weights: *const u8,
    x: [*const i8; T],
    quads: Range<usize>,
    start: [__m256i; T],
) -> [[__m256i; W]; T] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut dots = repeated(start);
        for j in quads {
            let mut fours = [_mm256_setzero_si256(); T];
            for i in 0..T {
                fours[i] = four(x[i].add(4 * j));
            }
            for r in 0..W {
                let w = _mm256_loadu_si256(weights.add(4 * ROWS * j + 4 * LANES * r).cast());
                for i in 0..T {
                    dots[i][r] = _mm256_dpbusd_avx_epi32(dots[i][r], w, fours[i]);
                }
            }
        }
        dots
    }
}

/// The same without VNNI, if all sums fit into 16 bits.
///
/// # Safety
/// The CPU has AVX2; a block's rows lie at `weights` and its activations at each of `x`.
#[inline(always)]
unsafe fn short_products<const W: usize, const T: usize>(
    weights: *const u8,
    x: [*const i8; T],
    quads: Range<usize>,
    start: [__m256i; T],
) -> [[__m256i; W]; T] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); W]; T];
        for j in quads {
            let mut fours = [_mm256_setzero_si256(); T];
            for i in 0..T {
                fours[i] = four(x[i].add(4 * j));
            }
            for r in 0..W {
                let w = _mm256_loadu_si256(weights.add(4 * ROWS * j + 4 * LANES * r).cast());
                for i in 0..T {
                    let products = _mm256_maddubs_epi16(w, fours[i]);
                    sums[i][r] = _mm256_add_epi16(sums[i][r], products);
                }
            }
        }
        for i in 0..T {
            for r in 0..W {
                let sum = _mm256_madd_epi16(sums[i][r], _mm256_set1_epi16(1));
                sums[i][r] = _mm256_add_epi32(sum, start[i]);
            }
        }
        sums
    }
}

/// The same if at most two sums fit together.
///
/// # Safety
/// The CPU has AVX2; a block's rows lie at `weights` and its activations at each of `x`.
#[inline(always)]
unsafe fn long_products<F: BlockFormat, const W: usize, const T: usize>(
    weights: *const u8,
    x: [*const i8; T],
    quads: Range<usize>,
    start: [__m256i; T],
) -> [[__m256i; W]; T] {
    let together = fits(F::KIND).clamp(1, 2);
    // SAFETY: the caller's promise.
    unsafe {
        let mut dots = repeated(start);
        for j in quads.step_by(together) {
            for r in 0..W {
                let w = weights.add(4 * ROWS * j + 4 * LANES * r);
                let next = _mm256_loadu_si256(w.add(4 * ROWS * (together - 1)).cast());
                let w = _mm256_loadu_si256(w.cast());
                for i in 0..T {
                    let x = x[i].add(4 * j);
                    let mut sums = products::<F>(w, four(x));
                    if together == 2 {
                        sums = _mm256_add_epi16(sums, products::<F>(next, four(x.add(4))));
                    }
                    let sums = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
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
    panel: &[[f32; ROWS]],
    rows: usize,
    first: usize,
    x: &[f32],
    k: usize,
    out: &mut [[f32; ROWS]],
) {
    /// Registers of rows, and tokens: 12 registers of sums.
    const W: usize = 4;
    const T: usize = 3;
    let n = panel.len();
    assert!(first + n <= k && out.len() * k <= x.len() && rows <= ROWS);
    let (tiles, rest) = out.as_chunks_mut::<T>();
    let n_tiled = tiles.len() * T;
    for start in (0..n).step_by(NEAR_COLUMNS) {
        let columns = &panel[start..n.min(start + NEAR_COLUMNS)];
        let x = |t: usize| &x[t * k + first + start..][..columns.len()];
        for (i, tile) in tiles.iter_mut().enumerate() {
            let x = [x(i * T), x(i * T + 1), x(i * T + 2)];
            for x in x {
                // The same columns of the next tile.
                let next = x.as_ptr().wrapping_add(T * k).cast();
                // SAFETY: this function has the features.
                unsafe { prefetch_near(next, size_of_val(x)) };
            }
            for lane in (0..rows).step_by(LANES * W) {
                float_tile::<W, T>(columns, x, lane, tile);
            }
        }
        for (i, row) in rest.as_chunks_mut::<1>().0.iter_mut().enumerate() {
            for lane in (0..rows).step_by(LANES * W) {
                float_tile::<W, 1>(columns, [x(n_tiled + i)], lane, row);
            }
        }
    }
}

/// `out[t][lane..lane + 8 W] +=` those rows of the panel's columns · `x[t]`.
#[target_feature(enable = "avx2,f16c,fma")]
#[inline]
fn float_tile<const W: usize, const T: usize>(
    columns: &[[f32; ROWS]],
    x: [&[f32]; T],
    lane: usize,
    out: &mut [[f32; ROWS]; T],
) {
    assert!(x.iter().all(|x| x.len() == columns.len()) && lane + LANES * W <= ROWS);
    // SAFETY: this function has the features; each column is inside each token, and the lanes
    // inside the panel.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); W]; T];
        for i in 0..T {
            for r in 0..W {
                sums[i][r] = _mm256_loadu_ps(out[i].as_ptr().add(lane + LANES * r));
            }
        }
        for (c, column) in columns.iter().enumerate() {
            let mut values = [_mm256_setzero_ps(); T];
            for i in 0..T {
                values[i] = _mm256_set1_ps(*x[i].get_unchecked(c));
            }
            for r in 0..W {
                let w = _mm256_loadu_ps(column.as_ptr().add(lane + LANES * r));
                for i in 0..T {
                    sums[i][r] = _mm256_fmadd_ps(w, values[i], sums[i][r]);
                }
            }
        }
        for i in 0..T {
            for r in 0..W {
                _mm256_storeu_ps(out[i].as_mut_ptr().add(lane + LANES * r), sums[i][r]);
            }
        }
    }
}
