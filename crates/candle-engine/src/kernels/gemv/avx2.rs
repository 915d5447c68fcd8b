//! GEMV for AVX2: see `kernels::avx2`.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;

use crate::kernels::avx2::{fits, has_start, load, products};
use crate::kernels::format::{BLOCK, BlockFormat, FloatFormat};
use crate::kernels::gemv::add_blocks;
use crate::kernels::pack::avx2::{Four, first_then_second, unpack};
use crate::kernels::pack::{Int8Rows, parts};

/// How far ahead of a decode step its weights are prefetched, in bytes. The hardware's own
/// prefetcher stops at each 4 KiB page of a mapped file.
const AHEAD: usize = 8192;

/// Prefetches the 128 bytes that lie `AHEAD` of `p`. Rows follow each other in the file, so the end
/// of one row fetches the next; the address need not be valid.
///
/// # Safety
/// The CPU has SSE.
#[inline(always)]
unsafe fn prefetch(p: *const u8) {
    // SAFETY: the caller's promise; a prefetch of any address is harmless.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD).cast());
        _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + 64).cast());
    }
}

/// See `Cpu::float_dot`.
#[target_feature(enable = "avx2,f16c,fma")]
#[inline]
pub fn float_dot<F: FloatFormat, const T: usize>(row: &[u8], x: [&[f32]; T]) -> [f32; T] {
    /// Values of a register.
    const LANES: usize = 8;
    let k = row.len() / F::SIZE;
    assert!(row.len() == k * F::SIZE && x.iter().all(|x| x.len() == k));
    // Each addition waits for the previous one in its chain, so this uses enough chains to keep the
    // units busy.
    let chains = if T == 1 { 4 } else { 2 };
    let mut sums = [[_mm256_setzero_ps(); 4]; T];
    let whole = k / (LANES * chains) * (LANES * chains);
    for start in (0..whole).step_by(LANES * chains) {
        if T == 1 {
            // SAFETY: this function has the features.
            unsafe { prefetch(row.as_ptr().wrapping_add(start * F::SIZE)) };
        }
        for c in 0..chains {
            let i = start + LANES * c;
            for t in 0..T {
                // SAFETY: i + 8 <= whole <= k, and every slice was checked to hold k values.
                let x = unsafe { _mm256_loadu_ps(x[t].as_ptr().add(i)) };
                // SAFETY: as above.
                let w = unsafe { load::<F>(row.as_ptr().add(i * F::SIZE)) };
                sums[t][c] = _mm256_fmadd_ps(w, x, sums[t][c]);
            }
        }
    }
    let mut out = [0.0; T];
    for t in 0..T {
        let [a, b, c, d] = sums[t];
        let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
        // SAFETY: this function has the features.
        out[t] = unsafe { reduce(sum) };
        for i in whole..k {
            out[t] += F::get(&row[i * F::SIZE..][..F::SIZE]) * x[t][i];
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

/// Compiles the int8 kernel for a set of features.
macro_rules! int8_kernel {
    ($features:literal, $vnni:literal, $dot:ident) => {
        #[target_feature(enable = $features)]
        #[inline]
        pub fn $dot<F: BlockFormat, const T: usize>(
            row: &[u8],
            x: &Int8Rows,
            t: usize,
        ) -> [f32; T] {
            // SAFETY: this function has the features.
            unsafe { int8_dot::<F, $vnni, T>(row, x, t) }
        }
    };
}

int8_kernel!("avx2,f16c,fma", false, avx2_dot);
int8_kernel!("avx2,f16c,fma,avxvnni", true, vnni_dot);

/// See `Cpu::int8_dot`.
///
/// # Safety
/// The CPU has AVX2, F16C and FMA (and AVX-VNNI for `VNNI`).
#[inline(always)]
unsafe fn int8_dot<F: BlockFormat, const VNNI: bool, const T: usize>(
    row: &[u8],
    x: &Int8Rows,
    t: usize,
) -> [f32; T] {
    let k = row.len() / F::SIZE * F::VALUES;
    let x = x.tokens::<T>(t, k);
    let stride = parts::<F>() * 4 * BLOCK / F::VALUES * F::SIZE;
    let steps = row.len() / stride;
    let mut out = [0.0; T];
    // SAFETY: the caller has the features. Step `step` is inside the row, and its groups inside
    // the tokens (checked above).
    unsafe {
        let mut sums = [_mm256_setzero_ps(); T];
        for step in 0..steps {
            for part in 0..parts::<F>() {
                let g = step * parts::<F>() + part;
                let p = row.as_ptr().add(step * stride);
                if T == 1 {
                    prefetch(p.add(stride / parts::<F>() * part));
                }
                let w: Four = unpack::<F>(p, part);
                for i in 0..T {
                    let bytes = x[i].bytes.as_ptr().add(4 * BLOCK * g);
                    let scale = _mm_loadu_ps(x[i].scales.as_ptr().add(4 * g));
                    let scale = _mm256_set_m128(scale, scale);
                    let halves = _mm256_loadu_si256(x[i].sums.as_ptr().add(4 * g).cast());
                    let halves = first_then_second(halves);
                    let mut dots = dots::<F, VNNI>(&w.weights, bytes);
                    if let Some(shift) = F::SHIFT
                        && has_start::<F, VNNI>()
                    {
                        let count = _mm_cvtsi32_si128(shift as i32);
                        dots = _mm256_sub_epi32(dots, _mm256_sll_epi32(halves, count));
                    }
                    let both = _mm256_mul_ps(w.scales, scale);
                    sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), both, sums[i]);
                    if F::MINIMA {
                        let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(halves), scale);
                        sums[i] = _mm256_fnmadd_ps(w.minima, sum, sums[i]);
                    }
                }
            }
        }
        for i in 0..T {
            out[i] = reduce(sums[i]);
        }
    }
    // One to three blocks may remain.
    let grouped = steps * stride / F::SIZE * F::VALUES / BLOCK;
    add_blocks::<F, T>(row, grouped..k / BLOCK, &x, &mut out);
    out
}

/// Sums of weights times 128 activations: of the first halves of the four blocks, then of the
/// second. If `has_start`, weights count as stored, with their offset.
///
/// # Safety
/// The CPU has AVX2 (and AVX-VNNI for `VNNI`), and 128 bytes are readable at `x`.
#[inline(always)]
unsafe fn dots<F: BlockFormat, const VNNI: bool>(w: &[__m256i; 4], x: *const i8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut d = [_mm256_setzero_si256(); 4];
        for i in 0..4 {
            let x = _mm256_loadu_si256(x.add(BLOCK * i).cast());
            d[i] = match () {
                _ if VNNI => _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), w[i], x),
                _ if fits(F::KIND) >= 4 => _mm256_maddubs_epi16(w[i], x),
                _ => _mm256_madd_epi16(products::<F>(w[i], x), ones),
            };
        }
        if !VNNI && fits(F::KIND) >= 4 {
            let (a, b) = (_mm256_hadd_epi16(d[0], d[1]), _mm256_hadd_epi16(d[2], d[3]));
            return _mm256_madd_epi16(_mm256_hadd_epi16(a, b), ones);
        }
        _mm256_hadd_epi32(_mm256_hadd_epi32(d[0], d[1]), _mm256_hadd_epi32(d[2], d[3]))
    }
}
