//! How a matrix lies in the card's memory: the bits of the file, with the parts of blocks that do not
//! fill multiples of 16 bytes moved into planes, row by row. `cuda/formats.cuh` reads this.

use crate::weights::Encoding;

/// A matrix for the kernels: `Matrix` of `formats.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Matrix {
    pub data: u64,
    pub rows: u32,
    pub columns: u32,
    pub stride: u32,
    pub format: u32,
}

/// `Planes` of `prompt.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Planes {
    block_bytes: u32,
    n: u32,
    from: [u32; 4],
    bytes: [u32; 4],
    to: [u32; 4],
}

/// The layout of a row of `columns` values.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// `Format` of `formats.cuh`.
    pub format: u32,
    /// Bytes from row to row.
    pub stride: usize,
    /// Bytes of a row in the file.
    pub stored: usize,
    /// Blocks in a row, and how they are taken apart; `None` if a row is copied as it is.
    pub planes: Option<(u32, Planes)>,
    /// Rows are widened to f16 before they are uploaded.
    pub widened: bool,
}

/// Values in a block, its bytes, and its parts as (place in the block, bytes), in the order of the
/// planes.
type Parts = (usize, usize, &'static [(u32, u32)]);

impl Layout {
    /// `None` if the kernels cannot read rows of this many columns.
    pub fn of(encoding: Encoding, columns: usize) -> Option<Self> {
        let (format, parts): (u32, Option<Parts>) = match encoding {
            Encoding::F32 => (0, None),
            Encoding::F16 => (1, None),
            Encoding::Bf16 => (2, None),
            Encoding::Q4_0 => (3, Some((32, 18, &[(2, 16), (0, 2)]))),
            Encoding::Q4_1 => (4, Some((32, 20, &[(4, 16), (0, 4)]))),
            Encoding::Q5_0 => (5, Some((32, 22, &[(6, 16), (2, 4), (0, 2)]))),
            Encoding::Q5_1 => (6, Some((32, 24, &[(8, 16), (4, 4), (0, 4)]))),
            Encoding::Q8_0 => (7, Some((32, 34, &[(2, 32), (0, 2)]))),
            Encoding::Q4K => (8, None),
            Encoding::Q5K => (9, None),
            Encoding::Q6K => (10, Some((256, 210, &[(0, 208), (208, 2)]))),
            Encoding::Iq4Nl => (11, Some((32, 18, &[(2, 16), (0, 2)]))),
            Encoding::Q2K | Encoding::Q3K => (1, None),
        };
        if !columns.is_multiple_of(8) {
            return None;
        }
        let stored = encoding.row_bytes(columns);
        let widened = matches!(encoding, Encoding::Q2K | Encoding::Q3K);
        let Some((values, block_bytes, parts)) = parts else {
            let bytes = if widened { 2 * columns } else { stored };
            return Some(Self {
                format,
                stride: bytes.next_multiple_of(16),
                stored,
                planes: None,
                widened,
            });
        };
        let blocks = columns / values;
        let mut planes = Planes {
            block_bytes: block_bytes as u32,
            n: parts.len() as u32,
            from: [0; 4],
            bytes: [0; 4],
            to: [0; 4],
        };
        let mut end = 0;
        for (i, &(from, bytes)) in parts.iter().enumerate() {
            (planes.from[i], planes.bytes[i], planes.to[i]) = (from, bytes, end as u32);
            end += (blocks * bytes as usize).next_multiple_of(16);
        }
        Some(Self { format, stride: end, stored, planes: Some((blocks as u32, planes)), widened })
    }
}

/// Whether the kernels multiply this format with floats; the others take int8.
pub fn is_float(format: u32) -> bool {
    format <= 2
}

/// Bytes of a vector of `n` values in shared memory: `VectorLayout` of `formats.cuh`.
pub fn vector_bytes(n: usize, floats: bool, blocks: bool) -> usize {
    let plane = |bytes: usize| bytes.next_multiple_of(128) + 64;
    let mut end = 0;
    if floats {
        end += 2 * plane(n.div_ceil(8) * 16);
    }
    if blocks {
        end += 2 * plane(n / 2) + (n / 8).next_multiple_of(16) + (n / 4).next_multiple_of(16);
    }
    end
}
