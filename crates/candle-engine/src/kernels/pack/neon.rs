//! Unpacking for NEON; panels are packed in plain code.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::arch::aarch64::*;

use crate::kernels::format::{BlockFormat, Kind};
use crate::kernels::neon::widen;
use crate::kernels::pack::q4k_bytes;

/// Four blocks of signed weights.
pub struct Four {
    /// The halves of each block.
    pub weights: [[int8x16_t; 2]; 4],
    /// `[half][block]`.
    pub scales: [[f32; 4]; 2],
    pub minima: [f32; 4],
}

/// Group `part` of the blocks at `p`: of four blocks (part 0), or of a block of 256.
///
/// # Safety
/// The blocks are readable at `p`, and `part` is less than `parts`.
#[inline(always)]
pub unsafe fn unpack<F: BlockFormat>(p: *const u8, part: usize) -> Four {
    // SAFETY: NEON is part of every 64-bit ARM; the blocks are readable, and no load reaches
    // beyond its block.
    unsafe {
        let half = |at: usize| {
            let bits = p.add(at).cast::<u16>().read_unaligned();
            vgetq_lane_f32::<0>(widen(vdup_n_u16(bits)))
        };
        let load = |at: usize| vld1q_u8(p.add(at));
        let low = |bytes| vandq_u8(bytes, vdupq_n_u8(0x0F));
        let less = |bytes, offset| vsubq_s8(vreinterpretq_s8_u8(bytes), vdupq_n_s8(offset));
        let mut weights = [[vdupq_n_s8(0); 2]; 4];
        let (mut scales, mut minima) = ([[0.0; 4]; 2], [0.0; 4]);
        match F::KIND {
            Kind::Q4_0 => {
                for b in 0..4 {
                    let packed = load(18 * b + 2);
                    weights[b] = [less(low(packed), 8), less(vshrq_n_u8::<4>(packed), 8)];
                    (scales[0][b], scales[1][b]) = (half(18 * b), half(18 * b));
                }
            }
            Kind::Q5_0 => {
                for b in 0..4 {
                    let (packed, p) = (load(22 * b + 6), p.add(22 * b));
                    let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
                    // The fifth bits of a half: two bytes, of which each serves eight weights.
                    let five = |at: usize| {
                        let [a, b] = [0, 1].map(|byte| vdup_n_u8(p.add(2 + at + byte).read()));
                        let set = vtstq_u8(vcombine_u8(a, b), bit);
                        vandq_u8(set, vdupq_n_u8(0x10))
                    };
                    weights[b] = [
                        less(vorrq_u8(low(packed), five(0)), 16),
                        less(vorrq_u8(vshrq_n_u8::<4>(packed), five(2)), 16),
                    ];
                    (scales[0][b], scales[1][b]) = (half(22 * b), half(22 * b));
                }
            }
            Kind::Q8_0 => {
                for b in 0..4 {
                    weights[b] = [0, 16].map(|at| vreinterpretq_s8_u8(load(34 * b + 2 + at)));
                    (scales[0][b], scales[1][b]) = (half(34 * b), half(34 * b));
                }
            }
            Kind::Q4K => {
                for pair in 0..2 {
                    let packed = [0, 16].map(|at| load(16 + 64 * part + 32 * pair + at));
                    weights[2 * pair] = packed.map(|bytes| less(low(bytes), 0));
                    weights[2 * pair + 1] = packed.map(|bytes| less(vshrq_n_u8::<4>(bytes), 0));
                }
                let (sc, m) = q4k_bytes(p, part);
                let (d, dmin) = (half(0), half(2));
                scales = [sc.to_le_bytes().map(|sc| d * sc as f32); 2];
                minima = m.to_le_bytes().map(|m| dmin * m as f32);
            }
            Kind::Q6K => {
                let d = half(208);
                for h in 0..2 {
                    let (a, b) = (load(64 * part + 16 * h), load(64 * part + 32 + 16 * h));
                    let tops = load(128 + 32 * part + 16 * h);
                    let top = |bits| vandq_u8(bits, vdupq_n_u8(0x30));
                    let joined = [
                        vorrq_u8(low(a), top(vshlq_n_u8::<4>(tops))),
                        vorrq_u8(low(b), top(vshlq_n_u8::<2>(tops))),
                        vorrq_u8(vshrq_n_u8::<4>(a), top(tops)),
                        vorrq_u8(vshrq_n_u8::<4>(b), top(vshrq_n_u8::<2>(tops))),
                    ];
                    for b in 0..4 {
                        weights[b][h] = less(joined[b], 32);
                        let sc = *p.add(192 + 8 * part + 2 * b + h) as i8;
                        scales[h][b] = d * sc as f32;
                    }
                }
            }
        }
        Four { weights, scales, minima }
    }
}
