//! What many tokens are multiplied with: 64 rows of a matrix, some hundred columns at a time,
//! unpacked side by side so that a vector register holds the same columns of 16 rows; and the
//! tokens' activations, row by row.

use std::ops::Range;

use super::format::{BLOCK, BlockFormat, FloatFormat};
use crate::resident::bytes_in_memory;

/// Rows of a panel.
pub const ROWS: usize = 64;
/// Blocks of an int8 panel: its 32 KiB of weights stay in a first-level cache.
pub const BLOCKS: usize = 16;
/// Columns of a float panel: the same size.
pub const COLUMNS: usize = 128;

/// Block-quantized weights as bytes with f32 scales: see `format` for what they stand for.
#[repr(C, align(64))]
pub struct Int8Panel {
    /// `[block][column / 4][row][column % 4]`.
    pub weights: [[[u8; 4 * ROWS]; BLOCK / 4]; BLOCKS],
    /// `[block][half][row]`; the second half only where the format has one.
    pub scales: [[[f32; ROWS]; 2]; BLOCKS],
    /// `[block][row]`, where the format has them.
    pub minima: [[f32; ROWS]; BLOCKS],
}

impl Int8Panel {
    /// All zeros.
    pub fn new() -> Box<Self> {
        Box::new(Self {
            weights: [[[0; 4 * ROWS]; BLOCK / 4]; BLOCKS],
            scales: [[[0.0; ROWS]; 2]; BLOCKS],
            minima: [[0.0; ROWS]; BLOCKS],
        })
    }

    /// Unpacks `blocks` of those `rows` that `lanes` names into the lanes of the same numbers, from
    /// block `slot` of the panel on.
    #[inline(always)]
    pub fn pack_at<F: BlockFormat>(
        &mut self,
        rows: &[&[u8]],
        lanes: Range<usize>,
        blocks: Range<usize>,
        slot: usize,
    ) {
        for r in lanes {
            for (i, b) in blocks.clone().enumerate() {
                let slot = slot + i;
                let block = F::unpack(rows[r], b);
                for (columns, four) in self.weights[slot].iter_mut().zip(block.bytes.chunks(4)) {
                    columns[4 * r..][..4].copy_from_slice(four);
                }
                self.scales[slot][0][r] = block.scales[0];
                if F::HALVES {
                    self.scales[slot][1][r] = block.scales[1];
                }
                if F::MINIMA {
                    self.minima[slot][r] = block.minimum;
                }
            }
        }
    }
}

impl Int8Panel {
    /// Makes lanes count for nothing.
    pub fn silence(&mut self, before: Range<usize>, after: Range<usize>) {
        for lanes in [before, after] {
            for slot in 0..BLOCKS {
                self.scales[slot].iter_mut().for_each(|half| half[lanes.clone()].fill(0.0));
                self.minima[slot][lanes.clone()].fill(0.0);
            }
        }
    }
}

/// Float weights as f32: `[column][row]`.
#[repr(C, align(64))]
pub struct FloatPanel(pub [[f32; ROWS]; COLUMNS]);

impl FloatPanel {
    /// All zeros.
    pub fn new() -> Box<Self> {
        Box::new(Self([[0.0; ROWS]; COLUMNS]))
    }

    /// Widens `columns` of those `rows` that `lanes` names into the lanes of the same numbers, from
    /// column `slot` of the panel on.
    #[inline(always)]
    pub fn pack_at<F: FloatFormat>(
        &mut self,
        rows: &[&[u8]],
        lanes: Range<usize>,
        columns: Range<usize>,
        slot: usize,
    ) {
        for r in lanes {
            for (i, column) in columns.clone().enumerate() {
                self.0[slot + i][r] = F::get(&rows[r][column * F::SIZE..][..F::SIZE]);
            }
        }
    }
}

impl FloatPanel {
    /// Makes lanes count for nothing.
    pub fn silence(&mut self, before: Range<usize>, after: Range<usize>) {
        for lanes in [before, after] {
            self.0.iter_mut().for_each(|column| column[lanes.clone()].fill(0.0));
        }
    }
}

/// Tokens' activations, rounded to int8 in blocks of 32: value = scale · byte.
#[derive(Default)]
pub struct Int8Rows {
    k: usize,
    bytes: Vec<i8>,
    scales: Vec<f32>,
    /// Of each half of a block: the sum of its bytes.
    sums: Vec<[i32; 2]>,
}

/// One token of `Int8Rows`.
#[derive(Clone, Copy)]
pub struct Int8Token<'a> {
    pub bytes: &'a [i8],
    pub scales: &'a [f32],
    pub sums: &'a [[i32; 2]],
}

impl Int8Rows {
    /// From now on rows have `k` values, a multiple of 32, and there is room for `n_tokens`.
    pub fn reserve(&mut self, n_tokens: usize, k: usize) {
        self.k = k;
        let (n, blocks) = (n_tokens * k, n_tokens * k / BLOCK);
        if self.bytes.len() < n {
            self.bytes.resize(n, 0);
            self.scales.resize(blocks, 0.0);
            self.sums.resize(blocks, [0; 2]);
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.scales.len() * (size_of::<f32>() + size_of::<[i32; 2]>())
    }

    /// Of those, what lies in memory now.
    pub fn bytes_in_memory(&self) -> Option<u64> {
        Some(
            bytes_in_memory(&self.bytes)?
                + bytes_in_memory(&self.scales)?
                + bytes_in_memory(&self.sums)?,
        )
    }

    /// Row `t`.
    #[inline(always)]
    pub fn token(&self, t: usize) -> Int8Token<'_> {
        let blocks = self.k / BLOCK;
        Int8Token {
            bytes: &self.bytes[t * self.k..][..self.k],
            scales: &self.scales[t * blocks..][..blocks],
            sums: &self.sums[t * blocks..][..blocks],
        }
    }

    /// The rows' parts, to be written by several threads.
    pub fn parts(&mut self) -> (&mut [i8], &mut [f32], &mut [[i32; 2]]) {
        (&mut self.bytes, &mut self.scales, &mut self.sums)
    }
}

/// Rounds one block to int8 with `scale = max |x| / 127`; returns the scale and the sums of its
/// halves. A NaN or an infinity gives a NaN scale: it is not hidden.
#[inline(always)]
pub fn round_block(x: &[f32; BLOCK], bytes: &mut [i8; BLOCK]) -> (f32, [i32; 2]) {
    // Without their sign, the bits of floats are ordered as integers, NaN last, and a maximum of
    // integers may be taken in any order: it vectorizes.
    let largest = x.iter().fold(0, |a: u32, x| a.max(x.to_bits() & 0x7FFF_FFFF));
    let largest = f32::from_bits(largest);
    // Below this the inverse would overflow; such a block is zero for every purpose.
    let inverse = if largest > 1e-36 { 127.0 / largest } else { 0.0 };
    // Adding 1.5·2²³ rounds to the nearest integer and leaves it in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    for (byte, &x) in bytes.iter_mut().zip(x) {
        *byte = (x * inverse + ROUND).to_bits() as i8;
    }
    // Of the bytes as stored: a NaN leaves arbitrary ones beside its NaN scale.
    let sum = |bytes: &[i8]| bytes.iter().map(|&q| q as i32).sum();
    // An infinity times zero is NaN.
    (largest / 127.0 + largest * 0.0, [sum(&bytes[..16]), sum(&bytes[16..])])
}
