//! GEMV for AVX2: see `kernels::avx2`.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use crate::kernels::STREAMS;
use crate::kernels::avx2::{fits, has_start, load, products};
use crate::kernels::format::{BLOCK, BlockFormat, FloatFormat};
use crate::kernels::gemv::add_blocks;
use crate::kernels::pack::avx2::{Four, first_then_second, unpack};
use crate::kernels::pack::{Int8Rows, Int8Token, parts};
use crate::kernels::prefetch::prefetch_ahead;

/// Values of a register.
const LANES: usize = 8;

/// See `Cpu::float_dot`.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn float_dot<F: FloatFormat, const T: usize>(row: &[u8], x: [&[f32]; T]) -> [f32; T] {
    // SAFETY: this function has the features.
    let [out] = unsafe { float_rows::<F, 1, T>([row], x) };
    out
}

/// See `Cpu::float_gemv`.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn float_gemv<F: FloatFormat, const T: usize>(
    rows: [&[u8]; STREAMS],
    x: [&[f32]; T],
    out: &mut [[[f32; T]; STREAMS]],
) {
    let bytes = x[0].len() * F::SIZE;
    assert!(rows.iter().all(|rows| rows.len() == bytes * out.len()));
    for (r, out) in out.iter_mut().enumerate() {
        let row = |s: usize| &rows[s][r * bytes..][..bytes];
        // SAFETY: this function has the features.
        *out = unsafe {
            match T {
                1 | 2 => float_rows::<F, STREAMS, T>([row(0), row(1), row(2), row(3)], x),
                // The sums of more tokens with four rows do not fit into the registers.
                _ => {
                    let [a, b] = float_rows::<F, 2, T>([row(0), row(1)], x);
                    let [c, d] = float_rows::<F, 2, T>([row(2), row(3)], x);
                    [a, b, c, d]
                }
            }
        };
    }
}

/// Rows times tokens, all equally long.
///
/// # Safety
/// The CPU has AVX2, F16C and FMA.
#[inline(always)]
unsafe fn float_rows<F: FloatFormat, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    x: [&[f32]; T],
) -> [[f32; T]; R] {
    /// Values of a step.
    const STEP: usize = 8 * LANES;
    let k = x[0].len();
    assert!(x.iter().all(|x| x.len() == k) && rows.iter().all(|row| row.len() == k * F::SIZE));
    // Each addition waits for the previous one in its chain; eight chains keep two units busy.
    let chains = (8 / (R * T)).clamp(1, 4);
    let (steps, whole) = (k / STEP, k / LANES);
    let mut out = [[0.0; T]; R];
    // SAFETY: the caller has the features. Register `i < whole` is inside each row and token.
    unsafe {
        let mut sums = [[[_mm256_setzero_ps(); 4]; T]; R];
        let mut add = |i: usize, chain: usize| {
            let mut values = [_mm256_setzero_ps(); T];
            for t in 0..T {
                values[t] = _mm256_loadu_ps(x[t].as_ptr().add(LANES * i));
            }
            for r in 0..R {
                let w = load::<F>(rows[r].as_ptr().add(LANES * i * F::SIZE));
                for t in 0..T {
                    sums[r][t][chain] = _mm256_fmadd_ps(w, values[t], sums[r][t][chain]);
                }
            }
        };
        for step in 0..steps {
            for r in 0..R {
                let at = step * STEP * F::SIZE;
                prefetch_ahead::<T>(rows[r].as_ptr().add(at), STEP * F::SIZE);
            }
            for i in 0..STEP / LANES {
                add(step * STEP / LANES + i, i % chains);
            }
        }
        for i in steps * STEP / LANES..whole {
            add(i, 0);
        }
        for r in 0..R {
            for t in 0..T {
                let [a, b, c, d] = sums[r][t];
                out[r][t] = reduce(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)));
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            for i in whole * LANES..k {
                out[r][t] += F::get(&rows[r][i * F::SIZE..][..F::SIZE]) * x[t][i];
            }
        }
    }
    out
}

/// The sum of the lanes.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
unsafe fn reduce(sum: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
        let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
        _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)))
    }
}

/// Compiles the int8 kernels for a set of features.
macro_rules! int8_kernels {
    ($features:literal, $vnni:literal, $dot:ident, $gemv:ident) => {
        /// See `Cpu::int8_dot`.
        #[target_feature(enable = $features)]
        pub fn $dot<F: BlockFormat, const T: usize>(
            row: &[u8],
            x: &Int8Rows,
            t: usize,
        ) -> [f32; T] {
            let x = x.tokens::<T>(t, row.len() / F::SIZE * F::VALUES);
            // SAFETY: this function has the features.
            let [out] = unsafe { int8_rows::<F, $vnni, 1, T>([row], &x) };
            out
        }

        /// See `Cpu::int8_gemv`.
        #[target_feature(enable = $features)]
        pub fn $gemv<F: BlockFormat, const T: usize>(
            rows: [&[u8]; STREAMS],
            x: &Int8Rows,
            t: usize,
            out: &mut [[[f32; T]; STREAMS]],
        ) {
            let bytes = rows[0].len() / out.len().max(1);
            assert!(rows.iter().all(|rows| rows.len() == bytes * out.len()));
            let x = x.tokens::<T>(t, bytes / F::SIZE * F::VALUES);
            for (r, out) in out.iter_mut().enumerate() {
                let row = |s: usize| &rows[s][r * bytes..][..bytes];
                let rows = [row(0), row(1), row(2), row(3)];
                // SAFETY: this function has the features.
                *out = unsafe { int8_rows::<F, $vnni, STREAMS, T>(rows, &x) };
            }
        }
    };
}

int8_kernels!("avx2,f16c,fma", false, avx2_dot, avx2_gemv);
int8_kernels!("avx2,f16c,fma,avxvnni", true, vnni_dot, vnni_gemv);

/// A token's activations of a step.
#[derive(Clone, Copy)]
struct Step {
    bytes: *const i8,
    /// Scales of the four blocks, twice.
    scales: __m256,
    /// What the weights' offset adds to the sums of products.
    start: __m256i,
    /// Sums of the values of the blocks' halves.
    sums: __m256,
}

impl Step {
    /// Group `g` of four blocks.
    ///
    /// # Safety
    /// The CPU has AVX2; the group is inside the token.
    #[inline(always)]
    unsafe fn of<F: BlockFormat>(x: &Int8Token<'_>, g: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let scales = _mm_loadu_ps(x.scales.as_ptr().add(4 * g));
            let scales = _mm256_set_m128(scales, scales);
            let halves = _mm256_loadu_si256(x.sums.as_ptr().add(4 * g).cast());
            let halves = first_then_second(halves);
            let count = _mm_cvtsi32_si128(F::SHIFT.unwrap_or(0) as i32);
            Self {
                bytes: x.bytes.as_ptr().add(4 * BLOCK * g),
                scales,
                start: _mm256_sll_epi32(halves, count),
                sums: _mm256_mul_ps(_mm256_cvtepi32_ps(halves), scales),
            }
        }
    }
}

/// Rows in the file's encoding, equally long, times tokens that were checked to be as long.
///
/// # Safety
/// The CPU has AVX2, F16C and FMA (and AVX-VNNI for `VNNI`).
#[inline(always)]
unsafe fn int8_rows<F: BlockFormat, const VNNI: bool, const R: usize, const T: usize>(
    rows: [&[u8]; R],
    x: &[Int8Token<'_>; T],
) -> [[f32; T]; R] {
    let bytes = rows[0].len();
    assert!(rows.iter().all(|row| row.len() == bytes));
    let stride = parts::<F>() * 4 * BLOCK / F::VALUES * F::SIZE;
    let steps = bytes / stride;
    let mut out = [[0.0; T]; R];
    // SAFETY: the caller has the features. Step `step` is inside each row, and its groups inside
    // the tokens.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); T]; R];
        for step in 0..steps {
            for part in 0..parts::<F>() {
                let g = step * parts::<F>() + part;
                let first = Step::of::<F>(&x[0], g);
                let mut tokens = [first; T];
                for t in 1..T {
                    tokens[t] = Step::of::<F>(&x[t], g);
                }
                for r in 0..R {
                    let p = rows[r].as_ptr().add(step * stride);
                    let bytes = stride / parts::<F>();
                    prefetch_ahead::<T>(p.add(bytes * part), bytes);
                    let w: Four = unpack::<F>(p, part);
                    for t in 0..T {
                        let x = &tokens[t];
                        let mut dots = dots::<F, VNNI>(&w.weights, x.bytes);
                        if has_start::<F, VNNI>() {
                            dots = _mm256_sub_epi32(dots, x.start);
                        }
                        let scales = _mm256_mul_ps(w.scales, x.scales);
                        sums[r][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), scales, sums[r][t]);
                        if F::MINIMA {
                            sums[r][t] = _mm256_fnmadd_ps(w.minima, x.sums, sums[r][t]);
                        }
                    }
                }
            }
        }
        for r in 0..R {
            for t in 0..T {
                out[r][t] = reduce(sums[r][t]);
            }
        }
    }
    // One to three blocks may remain.
    let grouped = steps * stride / F::SIZE * F::VALUES / BLOCK;
    let blocks = bytes / F::SIZE * F::VALUES / BLOCK;
    for r in 0..R {
        add_blocks::<F, T>(rows[r], grouped..blocks, x, &mut out[r]);
    }
    out
}

/// Sums of weights times 128 activations: of the first halves of the four blocks, then of the
/// second. If `has_start`, weights count as stored, with their offset.
///
/// # Safety
/// The CPU has AVX2 (and AVX-VNNI for `VNNI`), and 128 bytes are readable at `x`.
#[inline(always)]
unsafe fn dots<F: BlockFormat, const VNNI: bool>(w: &[__m256i; 4], x: *const i8) -> __m256i {
    // How many sums of two products fit together in 16 bits.
    let fits = if VNNI { 0 } else { fits(F::KIND) };
    // SAFETY: the caller's promise.
    unsafe {
        let long = |sums| _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
        let mut d = [_mm256_setzero_si256(); 4];
        for i in 0..4 {
            let x = _mm256_loadu_si256(x.add(BLOCK * i).cast());
            d[i] = match () {
                _ if VNNI => _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), w[i], x),
                _ if fits >= 2 => _mm256_maddubs_epi16(w[i], x),
                _ => long(products::<F>(w[i], x)),
            };
        }
        if fits >= 4 {
            return long(fold::<true>(
                fold_pair::<true>(d[0], d[1]),
                fold_pair::<true>(d[2], d[3]),
            ));
        }
        if fits >= 2 {
            let (first, second) = (fold_pair::<true>(d[0], d[1]), fold_pair::<true>(d[2], d[3]));
            return fold::<false>(long(first), long(second));
        }
        fold::<false>(fold_pair::<false>(d[0], d[1]), fold_pair::<false>(d[2], d[3]))
    }
}

/// Adds numbers of 16 bits (`SHORT`) or of 32.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn add<const SHORT: bool>(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { if SHORT { _mm256_add_epi16(a, b) } else { _mm256_add_epi32(a, b) } }
}

/// In each 128 bits, the sum of both halves of `a`, then of `b`. Horizontal additions take twice as
/// long.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn fold_pair<const SHORT: bool>(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let (c, d) = (_mm256_castsi256_pd(a), _mm256_castsi256_pd(b));
        let inner = _mm256_castpd_si256(_mm256_shuffle_pd::<0b0101>(c, d));
        add::<SHORT>(_mm256_blend_epi32::<0b1100_1100>(a, b), inner)
    }
}

/// In each 128 bits, the sums of the pairs of 32 bits in `a`, then in `b`.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn fold<const SHORT: bool>(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
        let first = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
        let second = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
        add::<SHORT>(first, second)
    }
}
