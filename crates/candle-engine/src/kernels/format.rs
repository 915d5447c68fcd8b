//! The weight encodings that have kernels here, decoded by plain code. This code is the reference
//! for every instruction set, and fills panels that no faster code fills.

/// Values that share a scale (or two) in every block format.
pub const BLOCK: usize = 32;

/// The formats, for kernels that depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Q4_0,
    Q5_0,
    Q8_0,
    Q4K,
    Q6K,
}

/// A block-quantized encoding: `weight = scale · (byte − offset) − minimum`.
pub trait BlockFormat: Copy + Send + Sync + 'static {
    const KIND: Kind;
    /// Bytes of a stored block.
    const SIZE: usize;
    /// Values of a stored block.
    const VALUES: usize;
    /// The offset is 2 to this power; `None` for no offset.
    const SHIFT: Option<u32>;
    /// Whether each half of a `BLOCK` has its own scale.
    const HALVES: bool;
    /// Whether there are minima.
    const MINIMA: bool;

    /// `BLOCK` number `b` of a stored row.
    fn unpack(row: &[u8], b: usize) -> Unpacked;
}

/// 32 weights.
pub struct Unpacked {
    pub bytes: [u8; BLOCK],
    /// Scales of the first and of the second half.
    pub scales: [f32; 2],
    pub minimum: f32,
}

/// An encoding that stores each weight as a number of its own.
pub trait FloatFormat: Copy + Send + Sync + 'static {
    /// Bytes of a weight.
    const SIZE: usize;
    const KIND: FloatKind;

    /// The weight in the first `SIZE` bytes.
    fn get(bytes: &[u8]) -> f32;
}

/// The float encodings, for kernels that depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatKind {
    F32,
    F16,
    Bf16,
}

/// f16 bits as f32, without a branch.
#[inline(always)]
pub fn widen(bits: u16) -> f32 {
    // In f32's places, exponent and fraction are 2^112 too small; that holds for subnormal numbers
    // too.
    let magnitude = f32::from_bits(((bits & 0x7FFF) as u32) << 13) * f32::from_bits(0x7780_0000);
    let special = 0x7F80_0000 | ((bits & 0x3FF) as u32) << 13;
    let is_special = bits & 0x7C00 == 0x7C00;
    let magnitude = if is_special { special } else { magnitude.to_bits() };
    f32::from_bits(magnitude | ((bits & 0x8000) as u32) << 16)
}

/// The f16 at `at`.
#[inline(always)]
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    widen(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// Little-endian f32.
#[derive(Debug, Clone, Copy)]
pub struct F32;

impl FloatFormat for F32 {
    const SIZE: usize = 4;
    const KIND: FloatKind = FloatKind::F32;

    #[inline(always)]
    fn get(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

/// Little-endian IEEE half precision.
#[derive(Debug, Clone, Copy)]
pub struct F16;

impl FloatFormat for F16 {
    const SIZE: usize = 2;
    const KIND: FloatKind = FloatKind::F16;

    #[inline(always)]
    fn get(bytes: &[u8]) -> f32 {
        f16_at(bytes, 0)
    }
}

/// Little-endian bfloat16: the upper half of an f32.
#[derive(Debug, Clone, Copy)]
pub struct Bf16;

impl FloatFormat for Bf16 {
    const SIZE: usize = 2;
    const KIND: FloatKind = FloatKind::Bf16;

    #[inline(always)]
    fn get(bytes: &[u8]) -> f32 {
        f32::from_bits((u16::from_le_bytes([bytes[0], bytes[1]]) as u32) << 16)
    }
}

/// `{ f16 d; u8 qs[16] }`, weight = d · (nibble − 8), low nibbles first.
#[derive(Debug, Clone, Copy)]
pub struct Q4_0;

impl BlockFormat for Q4_0 {
    const KIND: Kind = Kind::Q4_0;
    const SIZE: usize = 18;
    const VALUES: usize = 32;
    const SHIFT: Option<u32> = Some(3);
    const HALVES: bool = false;
    const MINIMA: bool = false;

    #[inline(always)]
    fn unpack(row: &[u8], b: usize) -> Unpacked {
        let block = &row[Self::SIZE * b..][..Self::SIZE];
        let mut bytes = [0; BLOCK];
        for i in 0..16 {
            bytes[i] = block[2 + i] & 0x0F;
            bytes[16 + i] = block[2 + i] >> 4;
        }
        Unpacked { bytes, scales: [f16_at(block, 0); 2], minimum: 0.0 }
    }
}

/// `{ f16 d; u32 qh; u8 qs[16] }`, weight = d · (nibble + 16 · bit of qh − 16), low nibbles first.
#[derive(Debug, Clone, Copy)]
pub struct Q5_0;

impl BlockFormat for Q5_0 {
    const KIND: Kind = Kind::Q5_0;
    const SIZE: usize = 22;
    const VALUES: usize = 32;
    const SHIFT: Option<u32> = Some(4);
    const HALVES: bool = false;
    const MINIMA: bool = false;

    #[inline(always)]
    fn unpack(row: &[u8], b: usize) -> Unpacked {
        let block = &row[Self::SIZE * b..][..Self::SIZE];
        let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
        let mut bytes = [0; BLOCK];
        for i in 0..16 {
            bytes[i] = block[6 + i] & 0x0F | ((high >> i) as u8 & 1) << 4;
            bytes[16 + i] = block[6 + i] >> 4 | ((high >> (16 + i)) as u8 & 1) << 4;
        }
        Unpacked { bytes, scales: [f16_at(block, 0); 2], minimum: 0.0 }
    }
}

/// `{ f16 d; i8 qs[32] }`, weight = d · q.
#[derive(Debug, Clone, Copy)]
pub struct Q8_0;

impl BlockFormat for Q8_0 {
    const KIND: Kind = Kind::Q8_0;
    const SIZE: usize = 34;
    const VALUES: usize = 32;
    const SHIFT: Option<u32> = Some(7);
    const HALVES: bool = false;
    const MINIMA: bool = false;

    #[inline(always)]
    fn unpack(row: &[u8], b: usize) -> Unpacked {
        let block = &row[Self::SIZE * b..][..Self::SIZE];
        let mut bytes = [0; BLOCK];
        for i in 0..BLOCK {
            bytes[i] = block[2 + i] ^ 0x80; // q + 128
        }
        Unpacked { bytes, scales: [f16_at(block, 0); 2], minimum: 0.0 }
    }
}

/// `{ f16 d, dmin; u8 scales[12]; u8 qs[128] }`, weight = d·sc·nibble − dmin·m, with 6-bit sc and m
/// for every 32 weights.
#[derive(Debug, Clone, Copy)]
pub struct Q4K;

impl BlockFormat for Q4K {
    const KIND: Kind = Kind::Q4K;
    const SIZE: usize = 144;
    const VALUES: usize = 256;
    const SHIFT: Option<u32> = None;
    const HALVES: bool = false;
    const MINIMA: bool = true;

    #[inline(always)]
    fn unpack(row: &[u8], b: usize) -> Unpacked {
        let block = &row[Self::SIZE * (b / 8)..][..Self::SIZE];
        let (i, s) = (b % 8, &block[4..16]);
        // Blocks 4–7 have four bits in the last four bytes and two at the top of the others.
        let (sc, m) = match i < 4 {
            true => (s[i] & 0x3F, s[i + 4] & 0x3F),
            false => (s[i + 4] & 0x0F | (s[i - 4] >> 6) << 4, s[i + 4] >> 4 | (s[i] >> 6) << 4),
        };
        // Two blocks share 32 bytes: the even one has the low nibbles.
        let (packed, shift) = (&block[16 + BLOCK * (i / 2)..][..BLOCK], 4 * (i % 2));
        let mut bytes = [0; BLOCK];
        for j in 0..BLOCK {
            bytes[j] = packed[j] >> shift & 0x0F;
        }
        Unpacked {
            bytes,
            scales: [f16_at(block, 0) * sc as f32; 2],
            minimum: f16_at(block, 2) * m as f32,
        }
    }
}

/// `{ u8 ql[128]; u8 qh[64]; i8 scales[16]; f16 d }`, weight = d·sc·(q − 32), with one scale for
/// every 16 weights.
#[derive(Debug, Clone, Copy)]
pub struct Q6K;

impl BlockFormat for Q6K {
    const KIND: Kind = Kind::Q6K;
    const SIZE: usize = 210;
    const VALUES: usize = 256;
    const SHIFT: Option<u32> = Some(5);
    const HALVES: bool = true;
    const MINIMA: bool = false;

    #[inline(always)]
    fn unpack(row: &[u8], b: usize) -> Unpacked {
        let block = &row[Self::SIZE * (b / 8)..][..Self::SIZE];
        let (half, i) = (b % 8 / 4, b % 4);
        // In each four blocks, 0 and 1 have the low nibbles; block i has bits 2i of `qh`.
        let low = &block[64 * half + BLOCK * (i % 2)..][..BLOCK];
        let high = &block[128 + BLOCK * half..][..BLOCK];
        let (low_shift, high_shift) = (4 * (i / 2), 2 * i);
        let mut bytes = [0; BLOCK];
        for j in 0..BLOCK {
            bytes[j] = low[j] >> low_shift & 0x0F | (high[j] >> high_shift & 3) << 4;
        }
        let d = f16_at(block, 208);
        let scale = |j: usize| d * (block[192 + 8 * half + 2 * i + j] as i8) as f32;
        Unpacked { bytes, scales: [scale(0), scale(1)], minimum: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_half_widens_to_what_the_standard_says() {
        for bits in 0..=u16::MAX {
            let (got, want) = (super::widen(bits), half::f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{bits:#x}");
        }
    }
}
