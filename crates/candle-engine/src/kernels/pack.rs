//! The operands of GEMM: 64 rows of a matrix, some hundred columns at a time, packed side by side
//! so that a vector register holds the same columns of 16 rows; and the tokens' activations,
//! rounded to int8 row by row.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::format::FloatFormat;
use super::format::{BLOCK, BlockFormat};
#[cfg(target_arch = "x86_64")]
use super::prefetch::prefetch_near;
use crate::resident::bytes_in_memory;

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;

/// Rows of a panel.
pub const ROWS: usize = 64;

/// Blocks of an int8 panel: its 32 KiB of weights stay in a first-level cache.
pub const BLOCKS: usize = 16;

/// Columns of a float panel, which has the same size.
pub const COLUMNS: usize = 128;

/// Block-quantized weights as bytes with f32 scales; `format` defines the values they represent.
#[repr(C, align(64))]
pub struct Int8Panel {
    /// `[block][column / 4][row][column % 4]`.
    pub weights: [[[u8; 4 * ROWS]; BLOCK / 4]; BLOCKS],
    /// `[block][half][row]`; the second half only if the format has one.
    pub scales: [[[f32; ROWS]; 2]; BLOCKS],
    /// `[block][row]`, if the format has minima.
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

    /// The blocks for GEMM.
    pub fn blocks(&self) -> Int8Blocks<'_> {
        let scales = self.scales.as_flattened();
        Int8Blocks { weights: &self.weights, scales, per_block: 2, minima: &self.minima }
    }

    /// Zeroes the scales of these lanes, so that they do not count.
    pub fn silence(&mut self, before: Range<usize>, after: Range<usize>) {
        for lanes in [before, after] {
            for slot in 0..BLOCKS {
                self.scales[slot].iter_mut().for_each(|half| half[lanes.clone()].fill(0.0));
                self.minima[slot][lanes.clone()].fill(0.0);
            }
        }
    }
}

/// The blocks of an `Int8Panel`, or of a packed matrix.
#[derive(Clone, Copy)]
pub struct Int8Blocks<'a> {
    /// As in `Int8Panel`.
    pub weights: &'a [[[u8; 4 * ROWS]; BLOCK / 4]],
    /// `[block][half][row]`.
    pub scales: &'a [[f32; ROWS]],
    /// Halves of a block in `scales`: as many as the format has, or more.
    pub per_block: usize,
    /// `[block][row]`; empty if the format has no minima.
    pub minima: &'a [[f32; ROWS]],
}

impl Int8Blocks<'_> {
    /// Those from block `first` on.
    pub fn after(self, first: usize) -> Self {
        let Self { weights, scales, per_block, minima } = self;
        let minima = if minima.is_empty() { minima } else { &minima[first..] };
        Self { weights: &weights[first..], scales: &scales[first * per_block..], per_block, minima }
    }

    /// The scales of a half of block `slot`.
    #[inline(always)]
    pub fn scales(&self, slot: usize, half: usize) -> &[f32; ROWS] {
        &self.scales[slot * self.per_block + half]
    }
}

/// A value at the beginning of a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Aligned<T>(pub T);

impl<T> Aligned<T> {
    /// The values, which lie side by side.
    pub fn bare(all: &[Self]) -> &[T] {
        const { assert!(size_of::<Self>() == size_of::<T>()) };
        // SAFETY: each element is one `T` without padding, checked above.
        unsafe { std::slice::from_raw_parts(all.as_ptr().cast(), all.len()) }
    }

    /// The same, to write.
    pub fn bare_mut(all: &mut [Self]) -> &mut [T] {
        const { assert!(size_of::<Self>() == size_of::<T>()) };
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(all.as_mut_ptr().cast(), all.len()) }
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

    /// Zeroes these lanes, so that they do not count.
    pub fn silence(&mut self, before: Range<usize>, after: Range<usize>) {
        for lanes in [before, after] {
            self.0.iter_mut().for_each(|column| column[lanes.clone()].fill(0.0));
        }
    }
}

/// Groups of four blocks in one input of an instruction set's `unpack`: four small blocks, or one
/// of 256 values.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub const fn parts<F: BlockFormat>() -> usize {
    F::VALUES.div_ceil(4 * BLOCK)
}

/// The six-bit scales and minima of blocks `4·part..` of a Q4_K block at `p`, a byte each.
///
/// # Safety
/// 16 bytes are readable at `p`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
unsafe fn q4k_bytes(p: *const u8, part: usize) -> (u32, u32) {
    // SAFETY: the caller's promise.
    let word = |at: usize| unsafe { p.add(at).cast::<u32>().read_unaligned() };
    let (low_sc, low_m, high) = (word(4), word(8), word(12));
    // Blocks 0–3 have their six bits in one byte; 4–7 have four bits in the last word and two at
    // the top of the others'.
    match part {
        0 => (low_sc & 0x3F3F3F3F, low_m & 0x3F3F3F3F),
        _ => (
            high & 0x0F0F0F0F | (low_sc >> 2) & 0x30303030,
            (high >> 4) & 0x0F0F0F0F | (low_m >> 2) & 0x30303030,
        ),
    }
}

/// Prefetches what the next panel takes of `row` in place of group `g` of four blocks: no hardware
/// follows 64 rows at once.
///
/// # Safety
/// The CPU has SSE.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn prefetch_panel<F: BlockFormat>(row: &[u8], g: usize) {
    let stored = |blocks: usize| blocks * BLOCK * F::SIZE / F::VALUES;
    // SAFETY: the caller's promise.
    unsafe { prefetch_near(row.as_ptr().wrapping_add(stored(4 * g + BLOCKS)), stored(4)) }
}

/// The same in place of the columns that begin at byte `at`, once for each cache line.
///
/// # Safety
/// The CPU has SSE.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn prefetch_columns<F: FloatFormat>(row: &[u8], at: usize) {
    const LINE: usize = 64;
    if at.is_multiple_of(LINE) {
        // SAFETY: the caller's promise.
        unsafe { prefetch_near(row.as_ptr().wrapping_add(at + COLUMNS * F::SIZE), LINE) }
    }
}

/// See `Cpu::pack_int8`: calls `group(panel, rows, v, slot, g)` to unpack group `g` of four blocks
/// of `LANES` rows into lanes `LANES * v..` of slots `slot..slot + 4`; packs the rest in plain code.
/// Group `g` lies inside the rows, and the slots inside the panel.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn pack_int8<F: BlockFormat, const LANES: usize>(
    panel: &mut Int8Panel,
    rows: &[&[u8]],
    first: usize,
    n: usize,
    mut group: impl FnMut(&mut Int8Panel, &[&[u8]; LANES], usize, usize, usize),
) {
    assert!(n <= BLOCKS && rows.len() <= ROWS);
    // A block is read whole, even if only its beginning is needed.
    let bytes = ((first + n) * BLOCK).div_ceil(F::VALUES) * F::SIZE;
    assert!(rows.iter().all(|row| row.len() >= bytes));
    // Groups count from the beginning of a row.
    let grouped = if first.is_multiple_of(4) { n / 4 * 4 } else { 0 };
    let (lanes, few) = rows.as_chunks::<LANES>();
    for (v, rows) in lanes.iter().enumerate() {
        for slot in (0..grouped).step_by(4) {
            group(panel, rows, v, slot, (first + slot) / 4);
        }
    }
    let wide = rows.len() - few.len();
    panel.pack_at::<F>(rows, 0..wide, first + grouped..first + n, grouped);
    panel.pack_at::<F>(rows, wide..rows.len(), first..first + n, 0);
}

/// See `Cpu::pack_float`: calls `square(panel, rows, v, slot, at)` to widen `LANES` columns of
/// `LANES` rows, which begin at byte `at` of each row, into lanes `LANES * v..` of columns `slot..`;
/// packs the rest in plain code. The columns lie inside the rows and the panel.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn pack_float<F: FloatFormat, const LANES: usize>(
    panel: &mut FloatPanel,
    rows: &[&[u8]],
    first: usize,
    n: usize,
    mut square: impl FnMut(&mut FloatPanel, &[&[u8]; LANES], usize, usize, usize),
) {
    assert!(n <= COLUMNS && rows.len() <= ROWS);
    assert!(rows.iter().all(|row| row.len() >= (first + n) * F::SIZE));
    let wide_columns = n / LANES * LANES;
    let (lanes, few) = rows.as_chunks::<LANES>();
    for (v, rows) in lanes.iter().enumerate() {
        for slot in (0..wide_columns).step_by(LANES) {
            square(panel, rows, v, slot, (first + slot) * F::SIZE);
        }
    }
    let wide = rows.len() - few.len();
    panel.pack_at::<F>(rows, 0..wide, first + wide_columns..first + n, wide_columns);
    panel.pack_at::<F>(rows, wide..rows.len(), first..first + n, 0);
}

/// Tokens' activations, rounded to int8 in blocks of 32: value = scale · byte.
#[derive(Default)]
pub struct Int8Rows {
    k: usize,
    bytes: Vec<i8>,
    scales: Vec<f32>,
    /// The sum of the bytes in each half of a block.
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
    /// Prepares for `n_tokens` rows of `k` values, a multiple of 32.
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

    /// How many of those bytes are in memory now.
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

    /// Tokens `t..t + T`, checked to hold `k` values each.
    #[inline(always)]
    pub fn tokens<const T: usize>(&self, t: usize, k: usize) -> [Int8Token<'_>; T] {
        let tokens: [Int8Token<'_>; T] = std::array::from_fn(|i| self.token(t + i));
        for x in &tokens {
            let blocks = k / BLOCK;
            assert!(x.bytes.len() >= k && x.scales.len() >= blocks && x.sums.len() >= blocks);
        }
        tokens
    }

    /// The parts of the rows, for several threads to write.
    pub fn parts(&mut self) -> (&mut [i8], &mut [f32], &mut [[i32; 2]]) {
        (&mut self.bytes, &mut self.scales, &mut self.sums)
    }
}
