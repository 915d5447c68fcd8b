//! Attention in plain code: the reference for the hand-written kernels.

use crate::kernels::format;
use crate::kernels::portable::madd;
use crate::kernels::{Cpu, SPAN};

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

/// See `Cpu::widen`.
#[inline(always)]
pub fn widen(halves: &[u16], out: &mut [f32]) {
    for (out, &bits) in out.iter_mut().zip(halves) {
        *out = format::widen(bits);
    }
}

/// See `Cpu::narrow`.
#[inline(always)]
pub fn narrow(values: &[f32], out: &mut [u16]) {
    for (out, &value) in out.iter_mut().zip(values) {
        *out = half::f16::from_f32_const(value).to_bits();
    }
}
