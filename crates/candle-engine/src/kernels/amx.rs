//! GEMM for processors that multiply whole tiles of bfloat16. Weights and activations are rounded
//! to bfloat16, and sums are f32. Where rounding would lose too much, numbers are split into a high
//! part and the remainder. The functions here are the scalar reference for `x86`.

#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) mod x86;

use super::Cpu;
use super::format::{BLOCK, BlockFormat, FloatFormat, FloatKind};
use crate::resident::bytes_in_memory;

/// Rows of weights, or tokens, of a tile.
pub const SIDE: usize = 16;
/// Columns of a tile, equal to the weights of a block.
pub const DEPTH: usize = BLOCK;
/// Rows of a panel.
pub const ROWS: usize = 2 * SIDE;
/// The most tiles in a panel's row: one part's 32 KiB stay in a first-level cache.
pub const STEPS: usize = 16;

/// 16 × 32 numbers. Of weights: `[row][column]`. Of tokens: `[column / 2][2 · token + column % 2]`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Tile(pub [[u16; DEPTH]; SIDE]);

impl Tile {
    pub const ZERO: Self = Self([[0; DEPTH]; SIDE]);
}

/// Products of 16 rows with 16 tokens: `[row][token]`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Sums(pub [[f32; SIDE]; SIDE]);

impl Sums {
    pub const ZERO: Self = Self([[0.0; SIDE]; SIDE]);
}

/// Up to 32 rows, some hundred columns at a time: `[part][row / 16][step]`.
pub struct TilePanel(pub [[[Tile; STEPS]; 2]; 2]);

impl TilePanel {
    /// All zeros.
    pub fn new() -> Box<Self> {
        Box::new(Self([[[Tile::ZERO; STEPS]; 2]; 2]))
    }

    /// The 32 columns of `step` of row `r`.
    #[inline(always)]
    pub fn row(&mut self, part: usize, r: usize, step: usize) -> &mut [u16; DEPTH] {
        &mut self.0[part][r / SIDE][step].0[r % SIDE]
    }
}

/// Which parts of weights and of activations are multiplied.
pub type PartPairs = &'static [(usize, usize)];

/// Weights less precise than bfloat16, with activations rounded to it.
pub const ROUNDED: PartPairs = &[(0, 0)];
/// bfloat16 weights, with activations in two parts.
pub const SPLIT_TOKENS: PartPairs = &[(0, 0), (0, 1)];
/// Both in two parts. The product of the two low parts is below the resolution of an f16.
pub const SPLIT_BOTH: PartPairs = &[(0, 0), (1, 0), (0, 1)];

/// Activations of some tokens in tiles: `[part][token / 16][step]`.
#[derive(Default)]
pub struct TileTokens {
    n_tokens: usize,
    steps: usize,
    pairs: PartPairs,
    parts: [Vec<Tile>; 2],
}

impl TileTokens {
    /// Prepares for `n_tokens` rows of `k` values, in the parts of `pairs`.
    pub fn reserve(&mut self, n_tokens: usize, k: usize, pairs: PartPairs) {
        *self = Self {
            n_tokens,
            steps: k.div_ceil(DEPTH),
            pairs,
            parts: std::mem::take(&mut self.parts),
        };
        let n = self.used();
        for (tiles, n) in self.parts.iter_mut().zip(n) {
            if tiles.len() < n {
                tiles.resize(n, Tile::ZERO);
            }
            if !k.is_multiple_of(DEPTH) {
                // Values beyond a row must not count.
                tiles.fill(Tile::ZERO);
            }
        }
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.n_tokens
    }

    /// Tiles of a row.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Which parts are multiplied.
    pub fn pairs(&self) -> PartPairs {
        self.pairs
    }

    /// Tiles of a row in each part.
    pub fn widths(&self) -> [usize; 2] {
        [0, 1].map(|part| match self.pairs.iter().any(|&(_, x)| x == part) {
            true => self.steps,
            false => 0,
        })
    }

    /// Tiles of each part.
    fn used(&self) -> [usize; 2] {
        self.widths().map(|width| self.n_tokens.div_ceil(SIDE) * width)
    }

    /// The tiles of 16 tokens.
    #[inline(always)]
    pub fn block(&self, part: usize, block: usize) -> &[Tile] {
        &self.parts[part][block * self.steps..][..self.steps]
    }

    /// Both parts, for several threads to write; a part that no product uses is empty.
    pub fn parts(&mut self) -> [&mut [Tile]; 2] {
        let [high, low] = self.used();
        let [a, b] = &mut self.parts;
        [&mut a[..high], &mut b[..low]]
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|tiles| size_of_val(&tiles[..])).sum()
    }

    /// How many of those bytes are in memory now.
    pub fn bytes_in_memory(&self) -> Option<u64> {
        Some(bytes_in_memory(&self.parts[0])? + bytes_in_memory(&self.parts[1])?)
    }
}

/// Multiplies tiles. The provided methods are the scalar reference.
pub trait TileCpu: Cpu {
    /// Whether tiles are faster than the other kernels.
    const TILED: bool = false;

    /// Unpacks blocks `first..first + n` of `rows` into rows `lane..` of a tile panel, rounded to
    /// bfloat16.
    fn pack_tiles<F: BlockFormat>(
        self,
        panel: &mut TilePanel,
        lane: usize,
        rows: &[&[u8]],
        first: usize,
        n: usize,
    ) {
        self.run(|| pack::<F>(panel, lane, rows, first, n));
    }

    /// The same for columns `first..first + n` of float rows: f16 in two parts, others rounded.
    fn pack_float_tiles<F: FloatFormat>(
        self,
        panel: &mut TilePanel,
        lane: usize,
        rows: &[&[u8]],
        first: usize,
        n: usize,
    ) {
        self.run(|| pack_float::<F>(panel, lane, rows, first, n));
    }

    /// Up to 16 rows of `k` activations as tiles; in two parts if there is a second one.
    fn tile_tokens(self, x: &[f32], k: usize, parts: [&mut [Tile]; 2]) {
        self.run(|| tile_tokens(x, k, parts));
    }

    /// Turns 16 rows of products into activations for a matrix that has those rows as columns:
    /// eight rows of a tile for 16 tokens; in two parts if there is a second one.
    fn tile_rows(self, sums: &Sums, parts: [&mut [[u16; DEPTH]]; 2]) {
        self.run(|| tile_rows(sums, parts));
    }

    /// `sums[b][h] +=` rows `16h..` of the panel · tokens `16b..`, over the panel's first `n` tiles,
    /// which are those from `first` on in the tokens' rows.
    fn multiply_tiles(
        self,
        panel: &TilePanel,
        n: usize,
        x: &TileTokens,
        first: usize,
        sums: &mut [[Sums; 2]],
    ) {
        self.run(|| multiply(panel, n, x, first, sums));
    }

    /// Products as `[token][row]`.
    fn transposed(self, sums: &Sums) -> Sums {
        self.run(|| transposed(sums))
    }
}

/// The nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    match x.is_nan() {
        true => (bits >> 16) as u16 | 0x40,
        false => ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) as u16,
    }
}

/// A bfloat16 as f32.
#[inline(always)]
fn widen(x: u16) -> f32 {
    f32::from_bits((x as u32) << 16)
}

/// The high part, truncated, and the remainder, rounded.
#[inline(always)]
fn split(x: f32) -> [u16; 2] {
    let high = (x.to_bits() >> 16) as u16;
    [high, round(x - widen(high))]
}

/// See `TileCpu::pack_tiles`.
#[inline(always)]
pub fn pack<F: BlockFormat>(
    panel: &mut TilePanel,
    lane: usize,
    rows: &[&[u8]],
    first: usize,
    n: usize,
) {
    for (r, row) in rows.iter().enumerate() {
        for step in 0..n {
            let block = F::unpack(row, first + step);
            let offset = F::SHIFT.map_or(0.0, |shift| (1u32 << shift) as f32);
            let to = panel.row(0, lane + r, step);
            for (i, (to, byte)) in to.iter_mut().zip(block.bytes).enumerate() {
                let scale = block.scales[i / (BLOCK / 2)];
                *to = round(scale * (byte as f32 - offset) - block.minimum);
            }
        }
    }
}

/// See `TileCpu::pack_float_tiles`.
#[inline(always)]
pub fn pack_float<F: FloatFormat>(
    panel: &mut TilePanel,
    lane: usize,
    rows: &[&[u8]],
    first: usize,
    n: usize,
) {
    for (r, row) in rows.iter().enumerate() {
        for i in 0..n.next_multiple_of(DEPTH) {
            let value = match i < n {
                true => F::get(&row[(first + i) * F::SIZE..][..F::SIZE]),
                false => 0.0,
            };
            let mut put = |part, value| panel.row(part, lane + r, i / DEPTH)[i % DEPTH] = value;
            match F::KIND {
                FloatKind::F16 => {
                    let [high, low] = split(value);
                    put(0, high);
                    put(1, low);
                }
                FloatKind::F32 | FloatKind::Bf16 => put(0, round(value)),
            }
        }
    }
}

/// See `TileCpu::tile_tokens`.
#[inline(always)]
pub fn tile_tokens(x: &[f32], k: usize, [high, low]: [&mut [Tile]; 2]) {
    for (step, tile) in high.iter_mut().enumerate() {
        for t in 0..SIDE {
            for column in 0..DEPTH {
                let at = step * DEPTH + column;
                let x = if at < k && t < x.len() / k { x[t * k + at] } else { 0.0 };
                let place = (column / 2, 2 * t + column % 2);
                match low.get_mut(step) {
                    Some(low) => {
                        let [a, b] = split(x);
                        tile.0[place.0][place.1] = a;
                        low.0[place.0][place.1] = b;
                    }
                    None => tile.0[place.0][place.1] = round(x),
                }
            }
        }
    }
}

/// See `TileCpu::tile_rows`.
#[inline(always)]
pub fn tile_rows(sums: &Sums, [high, low]: [&mut [[u16; DEPTH]]; 2]) {
    for r in 0..SIDE {
        for t in 0..SIDE {
            let (x, place) = (sums.0[r][t], 2 * t + r % 2);
            match low.get_mut(r / 2) {
                Some(low) => [high[r / 2][place], low[place]] = split(x),
                None => high[r / 2][place] = round(x),
            }
        }
    }
}

/// See `TileCpu::multiply_tiles`.
#[inline(always)]
pub fn multiply(panel: &TilePanel, n: usize, x: &TileTokens, first: usize, sums: &mut [[Sums; 2]]) {
    for (block, sums) in sums.iter_mut().enumerate() {
        for (half, sums) in sums.iter_mut().enumerate() {
            for &(w, part) in x.pairs {
                for step in 0..n {
                    let (w, x) = (&panel.0[w][half][step], &x.block(part, block)[first + step]);
                    for (w, sums) in w.0.iter().zip(&mut sums.0) {
                        for (t, sum) in sums.iter_mut().enumerate() {
                            for (column, &w) in w.iter().enumerate() {
                                *sum += widen(w) * widen(x.0[column / 2][2 * t + column % 2]);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `[token][row]` of `[row][token]`.
#[inline(always)]
pub fn transposed(sums: &Sums) -> Sums {
    let mut out = Sums::ZERO;
    for (r, row) in sums.0.iter().enumerate() {
        for (t, value) in row.iter().enumerate() {
            out.0[t][r] = *value;
        }
    }
    out
}
