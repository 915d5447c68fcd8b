//! Attention for AVX2: see `kernels::avx2`.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::prefetch_cache;
use crate::kernels::SPAN;

const LANES: usize = 8;

/// See `Cpu::scores`. Four queries take eight registers of sums.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn scores<const Q: usize>(keys: &[f32], queries: [&[f32]; Q]) -> [[f32; SPAN]; Q] {
    super::scores(queries, |four| scores_part(keys, four), |one| scores_part(keys, one))
}

#[target_feature(enable = "avx2,f16c,fma")]
#[inline]
fn scores_part<const Q: usize>(keys: &[f32], queries: &[&[f32]; Q]) -> [[f32; SPAN]; Q] {
    const WIDTH: usize = SPAN / LANES;
    let dim = keys.len() / SPAN;
    assert!(queries.iter().all(|q| q.len() == dim));
    let mut sums = [[_mm256_setzero_ps(); WIDTH]; Q];
    let mut out = [[0.0; SPAN]; Q];
    // SAFETY: this function has the features; `d < dim` is inside the keys and each query.
    unsafe {
        for d in 0..dim {
            let at = keys.as_ptr().add(SPAN * d);
            let key: [__m256; WIDTH] = from_fn(|v| _mm256_loadu_ps(at.add(LANES * v)));
            for i in 0..Q {
                let q = _mm256_set1_ps(*queries[i].get_unchecked(d));
                for v in 0..WIDTH {
                    sums[i][v] = _mm256_fmadd_ps(key[v], q, sums[i][v]);
                }
            }
        }
        for i in 0..Q {
            for v in 0..WIDTH {
                _mm256_storeu_ps(out[i].as_mut_ptr().add(LANES * v), sums[i][v]);
            }
        }
    }
    out
}

/// See `Cpu::weigh`.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn weigh<const Q: usize>(values: &[f32], weights: [&[f32]; Q], sums: [&mut [f32]; Q]) {
    let dim = sums[0].len();
    super::weigh([2 * LANES, LANES], values, &weights, sums, |sums, start, wide| match wide {
        true => weigh_part::<Q, 2>(values, &weights, sums, start, dim),
        false => weigh_part::<Q, 1>(values, &weights, sums, start, dim),
    });
}

super::weigh_part!(
    ["avx2,f16c,fma"]
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps
);

/// See `Cpu::widen`.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn widen(halves: &[u16], out: &mut [f32]) {
    super::widen::<LANES>(halves, out, |i, halves, out| {
        // SAFETY: this function has the features; both are 8 long.
        unsafe {
            if i % 4 == 0 {
                prefetch_cache(halves);
            }
            let halves = _mm_loadu_si128(halves.as_ptr().cast());
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(halves));
        }
    });
}

/// See `Cpu::narrow`.
#[target_feature(enable = "avx2,f16c,fma")]
pub fn narrow(values: &[f32], out: &mut [u16]) {
    super::narrow::<LANES>(values, out, |values, out| {
        // SAFETY: this function has the features; both are 8 long.
        unsafe {
            let values = _mm256_loadu_ps(values.as_ptr());
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values);
            _mm_storeu_si128(out.as_mut_ptr().cast(), halves);
        }
    });
}
