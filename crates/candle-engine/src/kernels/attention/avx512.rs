//! Attention for AVX-512.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::x86_64::*;
use std::array::from_fn;

use super::prefetch_cache;
use crate::kernels::SPAN;

const LANES: usize = 16;

/// See `Cpu::scores`.
#[target_feature(enable = "avx512f,f16c,fma")]
pub fn scores<const Q: usize>(keys: &[f32], queries: [&[f32]; Q]) -> [[f32; SPAN]; Q] {
    let dim = keys.len() / SPAN;
    assert!(queries.iter().all(|q| q.len() == dim));
    let mut sums = [_mm512_setzero_ps(); Q];
    let mut out = [[0.0; SPAN]; Q];
    // SAFETY: this function has the features; `d < dim` is inside the keys and each query.
    unsafe {
        for d in 0..dim {
            let key = _mm512_loadu_ps(keys.as_ptr().add(SPAN * d));
            for i in 0..Q {
                let q = _mm512_set1_ps(*queries[i].get_unchecked(d));
                sums[i] = _mm512_fmadd_ps(key, q, sums[i]);
            }
        }
        for i in 0..Q {
            _mm512_storeu_ps(out[i].as_mut_ptr(), sums[i]);
        }
    }
    out
}

/// See `Cpu::weigh`.
#[target_feature(enable = "avx512f,f16c,fma")]
pub fn weigh<const Q: usize>(values: &[f32], weights: [&[f32]; Q], sums: [&mut [f32]; Q]) {
    let dim = sums[0].len();
    super::weigh([4 * LANES, LANES], values, &weights, sums, |sums, start, wide| match wide {
        true => weigh_part::<Q, 4>(values, &weights, sums, start, dim),
        false => weigh_part::<Q, 1>(values, &weights, sums, start, dim),
    });
}

super::weigh_part!(
    ["avx512f,f16c,fma"]
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps
);

/// See `Cpu::widen`.
#[target_feature(enable = "avx512f,f16c,fma")]
pub fn widen(halves: &[u16], out: &mut [f32]) {
    super::widen::<LANES>(halves, out, |i, halves, out| {
        // SAFETY: this function has the features; both are 16 long.
        unsafe {
            if i % 2 == 0 {
                prefetch_cache(halves);
            }
            let halves = _mm256_loadu_si256(halves.as_ptr().cast());
            _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(halves));
        }
    });
}

/// See `Cpu::narrow`.
#[target_feature(enable = "avx512f,f16c,fma")]
pub fn narrow(values: &[f32], out: &mut [u16]) {
    super::narrow::<LANES>(values, out, |values, out| {
        // SAFETY: this function has the features; both are 16 long.
        unsafe {
            let values = _mm512_loadu_ps(values.as_ptr());
            let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), halves);
        }
    });
}
