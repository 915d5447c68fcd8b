//! IQ4_NL, which candle lacks: blocks of 32 weights, each a scale times one of 16 values that are
//! denser around zero.

use half::f16;

/// Weights in a block.
pub const BLOCK: usize = 32;
/// A scale as f16, then the indices into the table: weight `i` in the low half of byte `i`, weight
/// `16 + i` in the high half.
pub const BYTES: usize = 2 + BLOCK / 2;

/// The values that the four bits choose from.
const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Widens a stored row to f32.
pub fn dequantize(row: &[u8], out: &mut [f32]) {
    assert_eq!(row.len() / BYTES * BLOCK, out.len());
    let values: [f32; 16] = TABLE.map(f32::from);
    for (block, out) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
        let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
        let (low, high) = out.split_at_mut(BLOCK / 2);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[2..]) {
            *low = scale * values[usize::from(byte & 0xf)];
            *high = scale * values[usize::from(byte >> 4)];
        }
    }
}

/// The same for columns `first`.. of a row, whole blocks.
pub fn dequantize_columns(row: &[u8], first: usize, out: &mut [f32]) {
    assert!(first.is_multiple_of(BLOCK) && out.len().is_multiple_of(BLOCK));
    dequantize(&row[first / BLOCK * BYTES..][..out.len() / BLOCK * BYTES], out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_the_values_of_the_definition(
            row in proptest::collection::vec(any::<[u8; BYTES]>(), 0..9),
        ) {
            let mut out = vec![f32::NAN; row.len() * BLOCK];
            dequantize(row.as_flattened(), &mut out);
            for (at, &got) in out.iter().enumerate() {
                let (block, i) = (&row[at / BLOCK], at % BLOCK);
                let byte = block[2 + i % 16];
                let nibble = if i < 16 { byte & 15 } else { byte / 16 };
                let scale = f32::from(f16::from_bits(u16::from(block[0]) | u16::from(block[1]) << 8));
                let want = scale * f32::from(TABLE[nibble as usize]);
                prop_assert!(got == want || (got.is_nan() && want.is_nan()), "{at}: {got} {want}");
            }
        }
    }

    #[test]
    fn the_low_halves_come_first() {
        let mut block = [0x80; BYTES];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        let mut out = [0.0; BLOCK];
        dequantize(&block, &mut out);
        assert_eq!((out[0], out[15], out[16], out[31]), (-63.5, -63.5, 0.5, 0.5));
    }
}
