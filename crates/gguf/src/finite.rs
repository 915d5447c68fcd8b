//! Stored weights that are no finite numbers: floats themselves, or the scale of a block, which
//! takes its whole block along. Engines hide some of them: rounding NaN to int8 gives a number.

use candle_core::quantized::GgmlDType;

use half::{bf16, f16};

use super::StoredType;

/// How the numbers of a block that can be NaN or infinite are stored.
enum Floats {
    F32,
    F16,
    Bf16,
}

impl StoredType {
    /// The first weight of whole blocks that is no finite number: its index, and the value or the
    /// scale that makes it so. None for types that are known by name alone.
    pub fn first_not_finite(self, blocks: &[u8]) -> Option<(usize, f32)> {
        let (floats, places) = self.floats()?;
        let (bytes, weights) = (self.block_bytes(), self.block_size());
        let width = if matches!(floats, Floats::F32) { 4 } else { 2 };
        // The exponent of a float that is no finite number is all ones.
        let bad = |at: &[u8]| match floats {
            Floats::F32 => {
                u32::from_le_bytes([at[0], at[1], at[2], at[3]]) & 0x7f80_0000 == 0x7f80_0000
            }
            Floats::F16 => u16::from_le_bytes([at[0], at[1]]) & 0x7c00 == 0x7c00,
            Floats::Bf16 => u16::from_le_bytes([at[0], at[1]]) & 0x7f80 == 0x7f80,
        };
        let value = |at: &[u8]| match floats {
            Floats::F32 => f32::from_le_bytes([at[0], at[1], at[2], at[3]]),
            Floats::F16 => f16::from_le_bytes([at[0], at[1]]).to_f32(),
            Floats::Bf16 => bf16::from_le_bytes([at[0], at[1]]).to_f32(),
        };
        // Long stretches without a branch inside first, so that the search runs at the speed of
        // memory; then the one block that it is.
        const TOGETHER: usize = 512;
        for (i, stretch) in blocks.chunks(TOGETHER * bytes).enumerate() {
            let found = stretch.chunks_exact(bytes).fold(false, |found, block| {
                places.iter().fold(found, |found, &at| found | bad(&block[at..at + width]))
            });
            if found {
                let mut all = stretch.chunks_exact(bytes).enumerate();
                return all.find_map(|(j, block)| {
                    let at = places.iter().find(|&&at| bad(&block[at..at + width]))?;
                    Some(((i * TOGETHER + j) * weights, value(&block[*at..at + width])))
                });
            }
        }
        None
    }

    /// The kind of the floats in a block, and where they lie in it.
    fn floats(self) -> Option<(Floats, &'static [usize])> {
        let dtype = match self {
            Self::Candle(dtype) => dtype,
            Self::Iq4Nl => return Some((Floats::F16, &[0])),
            Self::Named(_) | Self::Unknown(_) => return None,
        };
        Some(match dtype {
            GgmlDType::F32 => (Floats::F32, &[0]),
            GgmlDType::F16 => (Floats::F16, &[0]),
            GgmlDType::BF16 => (Floats::Bf16, &[0]),
            GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => (Floats::F16, &[0]),
            GgmlDType::Q4_1 | GgmlDType::Q5_1 | GgmlDType::Q8_1 => (Floats::F16, &[0, 2]),
            GgmlDType::Q4K | GgmlDType::Q5K => (Floats::F16, &[0, 2]),
            // 16 scales and 64 quants before them.
            GgmlDType::Q2K => (Floats::F16, &[80, 82]),
            // 32 high bits, 64 quants, 12 scales.
            GgmlDType::Q3K => (Floats::F16, &[108]),
            // 128 low and 64 high bits, 16 scales.
            GgmlDType::Q6K => (Floats::F16, &[208]),
            GgmlDType::Q8K => (Floats::F32, &[0]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [GgmlDType; 15] = [
        GgmlDType::F32,
        GgmlDType::F16,
        GgmlDType::BF16,
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q8_1,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
        GgmlDType::Q8K,
    ];

    /// candle's own dequantization says which bytes of a block make a weight NaN.
    #[test]
    fn the_floats_of_every_block_are_where_candle_reads_them() {
        for dtype in ALL {
            let stored = StoredType::Candle(dtype);
            let (floats, places) = stored.floats().unwrap();
            let size = stored.block_bytes();
            let n = 3 * stored.block_size();
            for &at in places {
                // Zeros everywhere else, so that nothing but the planted float shows.
                let mut bytes = vec![0u8; 3 * size];
                let nan: &[u8] = match floats {
                    Floats::F32 => &f32::NAN.to_le_bytes(),
                    Floats::F16 => &[0x00, 0x7e],
                    Floats::Bf16 => &[0xc0, 0x7f],
                };
                bytes[2 * size + at..][..nan.len()].copy_from_slice(nan);
                let found = stored.first_not_finite(&bytes).map(|(i, x)| (i, x.is_nan()));
                assert_eq!(found, Some((2 * stored.block_size(), true)), "{dtype:?} at {at}");
                if matches!(dtype, GgmlDType::Q8_1 | GgmlDType::Q8K) {
                    continue; // activations: candle widens them nowhere
                }
                let widened = dtype.from_data(bytes.into()).dequantize(n).unwrap();
                let candle_core::CpuStorage::F32(values) = widened else { panic!() };
                let bad = values.iter().position(|x| x.is_nan()).expect("a NaN of the block");
                assert!(bad >= 2 * stored.block_size(), "{dtype:?} at {at}");
            }
            assert_eq!(stored.first_not_finite(&vec![0x11; 3 * size]), None, "{dtype:?}");
        }
    }

    #[test]
    fn infinities_are_found_far_into_a_tensor() {
        let mut bytes = vec![0u8; 4 * 5000];
        bytes[4 * 4321..][..4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
        let f32s = StoredType::Candle(GgmlDType::F32);
        assert_eq!(f32s.first_not_finite(&bytes), Some((4321, f32::NEG_INFINITY)));
        let mut halves = vec![0u8; 18 * 1000];
        halves[18 * 999..][..2].copy_from_slice(&[0x00, 0x7c]);
        assert_eq!(StoredType::Iq4Nl.first_not_finite(&halves), Some((999 * 32, f32::INFINITY)));
    }
}
