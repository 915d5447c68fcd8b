//! Attention for NEON.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;
use std::array::from_fn;

use crate::kernels::SPAN;
use crate::kernels::neon::{self, LANES, WIDTH};

/// See `Cpu::scores`.
#[inline]
pub fn scores<const Q: usize>(keys: &[f32], queries: [&[f32]; Q]) -> [[f32; SPAN]; Q] {
    super::scores(queries, |four| scores_part(keys, four), |one| scores_part(keys, one))
}

#[inline]
fn scores_part<const Q: usize>(keys: &[f32], queries: &[&[f32]; Q]) -> [[f32; SPAN]; Q] {
    const V: usize = SPAN / LANES;
    let dim = keys.len() / SPAN;
    assert!(queries.iter().all(|q| q.len() == dim));
    let mut out = [[0.0; SPAN]; Q];
    // SAFETY: NEON is part of every 64-bit ARM; `d < dim` is inside the keys and each query.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); V]; Q];
        for d in 0..dim {
            for v in 0..V {
                let key = vld1q_f32(keys.as_ptr().add(SPAN * d + LANES * v));
                for i in 0..Q {
                    sums[i][v] = vfmaq_n_f32(sums[i][v], key, *queries[i].get_unchecked(d));
                }
            }
        }
        for i in 0..Q {
            for v in 0..V {
                vst1q_f32(out[i].as_mut_ptr().add(LANES * v), sums[i][v]);
            }
        }
    }
    out
}

/// See `Cpu::weigh`.
#[inline]
pub fn weigh<const Q: usize>(values: &[f32], weights: [&[f32]; Q], sums: [&mut [f32]; Q]) {
    let dim = sums[0].len();
    super::weigh([WIDTH * LANES, LANES], values, &weights, sums, |sums, start, wide| match wide {
        true => weigh_part::<Q, WIDTH>(values, &weights, sums, start, dim),
        false => weigh_part::<Q, 1>(values, &weights, sums, start, dim),
    });
}

super::weigh_part!([] vld1q_f32, vst1q_f32, vdupq_n_f32, |a, b, c| vfmaq_f32(c, a, b));

/// See `Cpu::widen`.
#[inline]
pub fn widen(halves: &[u16], out: &mut [f32]) {
    super::widen::<LANES>(halves, out, |_, halves, out| {
        // SAFETY: NEON is part of every 64-bit ARM; both are 4 long.
        unsafe { vst1q_f32(out.as_mut_ptr(), neon::widen(vld1_u16(halves.as_ptr()))) };
    });
}

/// See `Cpu::narrow`.
#[inline]
pub fn narrow(values: &[f32], out: &mut [u16]) {
    super::narrow::<LANES>(values, out, |values, out| {
        // SAFETY: NEON is part of every 64-bit ARM; both are 4 long.
        unsafe { vst1_u16(out.as_mut_ptr(), neon::narrow(vld1q_f32(values.as_ptr()))) };
    });
}
