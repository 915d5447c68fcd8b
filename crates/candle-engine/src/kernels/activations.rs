//! Activations in the form that the int8 kernels read: blocks of 32 with one scale each, row by
//! row. For decoding with 512-bit registers, four blocks form a group and are interleaved by fours
//! of bytes, so that one register holds the first halves of four blocks and vector lane `4j + i`
//! belongs to block `i`.

pub use super::format::BLOCK;
use super::format::{BlockFormat, Unpacked};
use super::pack::Int8Rows;
use crate::resident::bytes_in_memory;

/// Values per group: what one kernel step takes.
pub const GROUP: usize = 4 * BLOCK;

/// 128 values of four blocks, in −127..=127 (two's complement). Byte `64h + 16j + 4i + e` is element
/// `16h + 4j + e` of block `i`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Group(pub [u8; GROUP]);

/// `n_tokens` rows of `k` activations. Rows are padded to whole groups with zeros of scale zero.
#[derive(Default)]
pub struct Int8Batch {
    groups: Vec<Group>,
    /// Per block: the value of one step.
    scales: Vec<[f32; 4]>,
    /// Per block: the sum of its values (for formats with a minimum).
    sums: Vec<[f32; 4]>,
    counts: Vec<Counts>,
}

/// Negated sums of a group's integers, one per block. If weights are stored with an offset, a
/// kernel starts its sum from the offset times these.
#[derive(Clone, Copy, Default)]
#[repr(C, align(16))]
pub struct Counts {
    pub blocks: [i32; 4],
    /// Sums of the first and of the second 16 values of each block.
    pub halves: [[i32; 4]; 2],
}

/// One token's activations: parallel slices, one entry per group.
#[derive(Clone, Copy)]
pub struct Int8Row<'a> {
    pub groups: &'a [Group],
    pub scales: &'a [[f32; 4]],
    pub sums: &'a [[f32; 4]],
    pub counts: &'a [Counts],
}

impl Int8Batch {
    /// Room for `n_tokens` rows of `k` values.
    pub fn reserve(&mut self, n_tokens: usize, k: usize) {
        let n = n_tokens * k.div_ceil(GROUP);
        if self.groups.len() < n {
            self.groups.resize(n, Group([0; GROUP]));
            self.scales.resize(n, [0.0; 4]);
            self.sums.resize(n, [0.0; 4]);
            self.counts.resize(n, Counts::default());
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.groups.len() * (GROUP + 2 * size_of::<[f32; 4]>() + size_of::<Counts>())
    }

    /// How many of those bytes are in memory now.
    pub fn bytes_in_memory(&self) -> Option<u64> {
        Some(
            bytes_in_memory(&self.groups)?
                + bytes_in_memory(&self.scales)?
                + bytes_in_memory(&self.sums)?
                + bytes_in_memory(&self.counts)?,
        )
    }

    /// The row of token `t` if rows have `k` values.
    pub fn row(&self, t: usize, k: usize) -> Int8Row<'_> {
        let n = k.div_ceil(GROUP);
        let range = t * n..(t + 1) * n;
        Int8Row {
            groups: &self.groups[range.clone()],
            scales: &self.scales[range.clone()],
            sums: &self.sums[range.clone()],
            counts: &self.counts[range],
        }
    }

    /// Arranges the first `n_tokens` of `rows`, each of `k` values.
    #[inline(always)]
    pub fn arrange(&mut self, rows: &Int8Rows, n_tokens: usize, k: usize) {
        let n = k.div_ceil(GROUP);
        for t in 0..n_tokens {
            let token = rows.token(t);
            let blocks = token.bytes.as_chunks::<BLOCK>().0.iter();
            let blocks = blocks.zip(token.scales.iter().zip(token.sums));
            if !k.is_multiple_of(GROUP) {
                // The last group is not full, and its other values must not count.
                let last = (t + 1) * n - 1;
                (self.scales[last], self.sums[last]) = ([0.0; 4], [0.0; 4]);
            }
            for (b, (bytes, (&scale, &halves))) in blocks.enumerate() {
                let (at, i) = (t * n + b / 4, b % 4);
                for (j, four) in bytes.as_chunks::<4>().0.iter().enumerate() {
                    let four = four.map(|byte| byte as u8);
                    self.groups[at].0[16 * j + 4 * i..][..4].copy_from_slice(&four);
                }
                let sum = halves[0].wrapping_add(halves[1]);
                (self.scales[at][i], self.sums[at][i]) = (scale, scale * sum as f32);
                let counts = &mut self.counts[at];
                // The sums of a token that is not finite may be any number.
                counts.blocks[i] = sum.wrapping_neg();
                counts.halves[0][i] = halves[0].wrapping_neg();
                counts.halves[1][i] = halves[1].wrapping_neg();
            }
        }
    }
}

/// The rounded activations of some tokens, in the form that the CPU's kernels read.
pub struct Rounded {
    pub groups: Int8Batch,
    pub rows: Int8Rows,
}

/// Σ weight · byte of one block.
#[inline(always)]
pub fn int8_value<F: BlockFormat>(w: &Unpacked, bytes: &[i8], sums: [i32; 2]) -> f32 {
    let dot = |half: usize| -> i32 {
        let range = 16 * half..16 * half + 16;
        let products = w.bytes[range.clone()].iter().zip(&bytes[range]);
        let dot: i32 = products.map(|(&w, &x)| w as i32 * x as i32).sum();
        dot - F::SHIFT.map_or(0, |shift| sums[half] << shift)
    };
    w.scales[0] * dot(0) as f32 + w.scales[1] * dot(1) as f32
        - w.minimum * (sums[0] + sums[1]) as f32
}

#[cfg(test)]
mod tests {
    use super::super::Cpu;
    use super::super::portable::Portable;
    use super::*;

    fn batch(x: &[f32], n: usize, k: usize) -> Int8Batch {
        let (mut rows, mut batch) = (Int8Rows::default(), Int8Batch::default());
        rows.reserve(n, k);
        batch.reserve(n, k);
        let (bytes, scales, sums) = rows.parts();
        Portable.round(x, bytes, scales, sums);
        batch.arrange(&rows, n, k);
        batch
    }

    /// The values that a row represents, in natural order.
    fn values(row: Int8Row<'_>, k: usize) -> Vec<f32> {
        (0..k)
            .map(|at| {
                let (g, i, e) = (at / GROUP, at % GROUP / BLOCK, at % BLOCK);
                let byte = 16 * (e / 4) + 4 * i + e % 4;
                row.groups[g].0[byte] as i8 as f32 * row.scales[g][i]
            })
            .collect()
    }

    #[test]
    fn rounding_is_within_half_a_step_and_sums_agree() {
        for k in [32, 64, 96, 128, 160, 512] {
            let x: Vec<f32> = (0..2 * k).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.13).collect();
            let batch = batch(&x, 2, k);
            for t in 0..2 {
                let got = values(batch.row(t, k), k);
                for (b, block) in x[t * k..][..k].chunks(BLOCK).enumerate() {
                    let step = block.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
                    let got = &got[b * BLOCK..][..BLOCK];
                    assert!(block.iter().zip(got).all(|(a, b)| (a - b).abs() <= step * 0.501));
                    let sum: f32 = got.iter().sum();
                    assert!((batch.row(t, k).sums[b / 4][b % 4] - sum).abs() <= 1e-3);
                }
            }
        }
    }

    #[test]
    fn what_a_wider_row_left_counts_for_nothing_in_a_narrower_one() {
        let mut wide = batch(&[1.0; 256], 1, 256);
        let mut rows = Int8Rows::default();
        rows.reserve(1, 160);
        let (bytes, scales, sums) = rows.parts();
        Portable.round(&[2.0; 160], bytes, scales, sums);
        wide.arrange(&rows, 1, 160);
        assert_eq!(wide.row(0, 160).scales[1], [2.0 / 127.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn zero_blocks_have_scale_zero_and_nan_is_not_hidden() {
        let mut x = [0.0f32; 96];
        x[40] = f32::NAN;
        x[70] = f32::INFINITY;
        let batch = batch(&x, 1, 96);
        let row = batch.row(0, 96);
        assert_eq!(row.scales[0][0], 0.0);
        assert!(row.scales[0][1].is_nan() && row.scales[0][2].is_nan());
        assert_eq!(row.scales[0][3], 0.0);
    }
}
