//! Packing in plain code: the reference for the hand-written kernels. It also packs what they
//! leave: rows and blocks that do not fill a register.

use std::ops::Range;

use crate::kernels::format::{BLOCK, BlockFormat, FloatFormat};
use crate::kernels::pack::{FloatPanel, Int8Panel};

impl Int8Panel {
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

impl FloatPanel {
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

/// See `Cpu::round`.
#[inline(always)]
pub fn round(x: &[f32], bytes: &mut [i8], scales: &mut [f32], sums: &mut [[i32; 2]]) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(bytes.as_chunks_mut::<BLOCK>().0);
    for ((x, bytes), (scale, sums)) in blocks.zip(scales.iter_mut().zip(sums)) {
        (*scale, *sums) = round_block(x, bytes);
    }
}

/// Rounds one block to int8 with `scale = max |x| / 127`; returns the scale and the sums of its
/// halves. A NaN or an infinity gives a NaN scale, so that it is not hidden.
#[inline(always)]
fn round_block(x: &[f32; BLOCK], bytes: &mut [i8; BLOCK]) -> (f32, [i32; 2]) {
    // Without their sign, the bits of floats order like integers, NaN last. A maximum of integers
    // may be taken in any order, so it vectorizes.
    let largest = x.iter().fold(0, |a: u32, x| a.max(x.to_bits() & 0x7FFF_FFFF));
    let largest = f32::from_bits(largest);
    // Below this the inverse would overflow; such a block is zero for all practical purposes.
    let inverse = if largest > 1e-36 { 127.0 / largest } else { 0.0 };
    // Adding 1.5·2²³ rounds to the nearest integer and leaves it in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    for (byte, &x) in bytes.iter_mut().zip(x) {
        *byte = (x * inverse + ROUND).to_bits() as i8;
    }
    // Sums of the bytes as stored: a NaN gives arbitrary bytes and a NaN scale.
    let sum = |bytes: &[i8]| bytes.iter().map(|&q| q as i32).sum();
    // An infinity times zero is NaN.
    (largest / 127.0 + largest * 0.0, [sum(&bytes[..16]), sum(&bytes[16..])])
}
