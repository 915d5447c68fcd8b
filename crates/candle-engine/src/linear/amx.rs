//! GEMM in tiles of bfloat16. Unpacks 32 rows at a time into a panel.

use std::array::from_fn;
use std::cell::RefCell;
use std::ops::Range;

use super::gemm::Segment;
use super::{MANY_TOKENS, Method, Multiplier, Output, with_float, with_format};
use crate::kernels::amx::{
    DEPTH, PartPairs, ROUNDED, ROWS, SIDE, SPLIT_BOTH, SPLIT_TOKENS, STEPS, Sums, TileCpu,
    TilePanel, TileTokens,
};
use crate::kernels::format::{self, FloatKind, Kind};
use crate::math::silu_times;
use crate::pool::{Pool, Scatter};
use crate::weights::{Matrix, f32_bytes};

/// A thread's buffers.
struct Scratch {
    panel: Box<TilePanel>,
    /// `[tokens / 16][rows / 16]`.
    sums: Vec<[Sums; 2]>,
    /// `[rows, STEPS * DEPTH]`.
    wide: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        panel: TilePanel::new(),
        sums: Vec::new(),
        wide: Vec::new(),
    });
}

impl Multiplier {
    /// How to multiply `matrices` with `m` tokens in tiles; `None` if tiles are not used.
    pub(super) fn tiled(&self, matrices: &[&Matrix], m: usize) -> Option<PartPairs> {
        if m < MANY_TOKENS || self.arithmetic.plain_f32 || !self.arithmetic.isa.is_tiled() {
            return None;
        }
        // Decode quantizes activations to int8; prefill may use bf16 instead.
        let pairs = |matrix: &Matrix| match self.arithmetic.method(matrix.encoding(), 1) {
            Method::Block(_) | Method::Candle(_) => Some(ROUNDED),
            Method::Float(FloatKind::Bf16) => Some(SPLIT_TOKENS),
            Method::Float(FloatKind::F16) => Some(SPLIT_BOTH),
            // Even two parts would lose some of its bits.
            Method::Float(FloatKind::F32) | Method::Widen => None,
        };
        let first = pairs(matrices[0])?;
        matrices.iter().all(|m| pairs(m) == Some(first)).then_some(first)
    }

    /// `x` (`[m, k]`) in tiles.
    pub(super) fn tile<C: TileCpu>(
        cpu: C,
        pool: &mut Pool,
        x: &[f32],
        k: usize,
        pairs: PartPairs,
        out: &mut TileTokens,
    ) {
        let m = x.len() / k;
        out.reserve(m, k, pairs);
        let widths = out.widths();
        let parts = out.parts().map(Scatter::new);
        pool.run(m.div_ceil(SIDE), 1, |blocks| {
            for block in blocks {
                let x = &x[block * SIDE * k..m.min((block + 1) * SIDE) * k];
                let parts = from_fn(|part| {
                    let n = widths[part];
                    // SAFETY: each piece of work has its own tokens.
                    unsafe { parts[part].get(block * n..(block + 1) * n) }
                });
                cpu.tile_tokens(x, k, parts);
            }
        });
    }

    /// `Multiplier::multiply` for tokens in tiles, with the matrices' columns from `first` on,
    /// where a stored block of any format begins.
    pub(super) fn tiled_product<C: TileCpu>(
        &self,
        cpu: C,
        pool: &mut Pool,
        parts: &[&Matrix],
        first: usize,
        x: &TileTokens,
        out: Output<'_>,
    ) {
        let first_step = first / DEPTH;
        let rows: usize = parts.iter().map(|p| p.rows()).sum();
        let strip = strip_rows(parts[0].columns(), rows, pool.threads());
        let strips: usize = parts.iter().map(|p| p.rows().div_ceil(strip)).sum();
        pool.run(strips, 1, |range| {
            for i in range {
                let (mut i, mut first) = (i, 0);
                for part in parts {
                    let n = part.rows().div_ceil(strip);
                    if i < n {
                        let rows = i * strip..part.rows().min((i + 1) * strip);
                        let panels = rows.step_by(ROWS).map(|r| {
                            let rows = r..part.rows().min(r + ROWS);
                            [Some(Segment { matrix: part, rows }), None]
                        });
                        let panels: Vec<Panel<'_>> = panels.collect();
                        self.tiled_strip(cpu, &panels, first_step, x, |panel, sums| {
                            let rows = &panel[0].as_ref().expect("one segment").rows;
                            put(cpu, sums, x.len(), rows.len(), |t, at, values| {
                                out.put(t, first + rows.start + at, values);
                            });
                        });
                        break;
                    }
                    (i, first) = (i - n, first + part.rows());
                }
            }
        });
    }

    /// `inner[t] = silu(gate · x[t]) · (up · x[t])` for rows `of` of both. `inner` has room for them.
    fn tiled_gated<C: TileCpu>(
        &self,
        cpu: C,
        pool: &mut Pool,
        [gate, up]: [&Matrix; 2],
        of: Range<usize>,
        x: &TileTokens,
        inner: &mut TileTokens,
    ) {
        let n = of.len();
        let (steps, widths) = (inner.steps(), inner.widths());
        let parts = inner.parts().map(Scatter::new);
        let strip = strip_rows(gate.columns(), 2 * n, pool.threads()) / 2;
        // A piece of work fills whole tiles. Each takes two panels with 16 rows of both matrices.
        let tiles_each = strip.div_ceil(DEPTH);
        pool.run(steps.div_ceil(tiles_each), 1, |range| {
            for i in range {
                let rows = i * tiles_each * DEPTH..n.min((i + 1) * tiles_each * DEPTH);
                let panels = rows.step_by(SIDE).map(|r| {
                    let rows = of.start + r..of.end.min(of.start + r + SIDE);
                    [gate, up].map(|matrix| Some(Segment { matrix, rows: rows.clone() }))
                });
                let panels: Vec<Panel<'_>> = panels.collect();
                self.tiled_strip(cpu, &panels, 0, x, |panel, sums| {
                    let rows = &panel[0].as_ref().expect("two segments").rows;
                    let row = rows.start - of.start;
                    let (step, half) = (row / DEPTH, row / SIDE % 2);
                    for (block, [gate, up]) in sums.iter().enumerate() {
                        let mut gated = Sums::ZERO;
                        let (gate, up) = (gate.0.as_flattened(), up.0.as_flattened());
                        silu_times(cpu, gate, up, gated.0.as_flattened_mut());
                        gated.0[rows.len()..].fill([0.0; SIDE]);
                        let halves = from_fn(|part| {
                            let n = widths[part].min(1);
                            let at = (block * steps + step) * n;
                            // SAFETY: each piece of work has its own steps.
                            let tile = unsafe { parts[part].get(at..at + n) };
                            let half = SIDE / 2 * half..SIDE / 2 * (half + 1);
                            tile.first_mut().map_or(&mut [][..], |tile| &mut tile.0[half])
                        });
                        cpu.tile_rows(&gated, halves);
                    }
                });
            }
        });
    }

    /// `Multiplier::mlp` for tokens in tiles. `inner` has room for the values between the matrices,
    /// and `pairs` names their parts.
    pub(super) fn tiled_mlp<C: TileCpu>(
        &self,
        cpu: C,
        pool: &mut Pool,
        [gate, up, down]: [&Matrix; 3],
        x: &TileTokens,
        (inner, pairs): (&mut TileTokens, PartPairs),
        out: &mut [f32],
    ) {
        let n = gate.rows();
        for first in (0..n).step_by(part_of_inner(n)) {
            let of = first..n.min(first + part_of_inner(n));
            inner.reserve(x.len(), of.len(), pairs);
            self.tiled_gated(cpu, pool, [gate, up], of, x, inner);
            let out = Output { values: Scatter::new(out), stride: down.rows(), add: true };
            self.tiled_product(cpu, pool, &[down], first, inner, out);
        }
    }

    /// Calls `done(panel, products)` with the products of all tokens with each panel's rows, whose
    /// columns count from tile `first_step` on. Goes through all panels with some columns before it
    /// takes the next columns, so that the tokens' part stays in the second-level cache.
    fn tiled_strip<C: TileCpu>(
        &self,
        cpu: C,
        panels: &[Panel<'_>],
        first_step: usize,
        x: &TileTokens,
        mut done: impl FnMut(&Panel<'_>, &[[Sums; 2]]),
    ) {
        let n_blocks = x.len().div_ceil(SIDE);
        // With two parts, half as many columns stay in the first-level cache.
        let most = if x.pairs().iter().any(|&(w, _)| w == 1) { STEPS / 2 } else { STEPS };
        SCRATCH.with_borrow_mut(|Scratch { panel: unpacked, sums, wide }| {
            if sums.len() < panels.len() * n_blocks {
                sums.resize(panels.len() * n_blocks, [Sums::ZERO; 2]);
            }
            let sums = &mut sums[..panels.len() * n_blocks];
            sums.fill([Sums::ZERO; 2]);
            for first in (0..x.steps()).step_by(most) {
                let n = most.min(x.steps() - first);
                let steps = first_step + first..first_step + first + n;
                for (segments, sums) in panels.iter().zip(sums.chunks_exact_mut(n_blocks)) {
                    for (i, segment) in segments.iter().flatten().enumerate() {
                        self.pack_tiles(cpu, unpacked, i * SIDE, segment, steps.clone(), wide);
                    }
                    cpu.multiply_tiles(unpacked, n, x, first, sums);
                }
            }
            cpu.run(|| {
                for (panel, sums) in panels.iter().zip(sums.chunks_exact(n_blocks)) {
                    done(panel, sums);
                }
            });
        });
    }

    /// Unpacks tiles `steps` of a segment's rows into rows `lane..` of the panel.
    fn pack_tiles<C: TileCpu>(
        &self,
        cpu: C,
        panel: &mut TilePanel,
        lane: usize,
        Segment { matrix, rows }: &Segment<'_>,
        steps: Range<usize>,
        wide: &mut Vec<f32>,
    ) {
        let (start, n) = (steps.start * DEPTH, steps.len());
        let columns = (n * DEPTH).min(matrix.columns() - start);
        let mut stored: [&[u8]; ROWS] = [&[]; ROWS];
        let n_rows = rows.len();
        for (slot, r) in stored.iter_mut().zip(rows.clone()) {
            *slot = matrix.row(r);
        }
        match self.arithmetic.method(matrix.encoding(), MANY_TOKENS) {
            Method::Block(kind) => with_format!(kind, F => {
                cpu.pack_tiles::<F>(panel, lane, &stored[..n_rows], steps.start, n);
            }),
            Method::Float(kind) => with_float!(kind, F => {
                cpu.pack_float_tiles::<F>(panel, lane, &stored[..n_rows], start, columns);
            }),
            Method::Widen | Method::Candle(_) => {
                const WIDTH: usize = STEPS * DEPTH;
                wide.resize(ROWS * WIDTH, 0.0);
                for (r, wide) in rows.clone().zip(wide.chunks_exact_mut(WIDTH)) {
                    matrix.dequantize_columns(r, start, &mut wide[..columns]);
                }
                for (slot, wide) in stored.iter_mut().zip(wide.chunks_exact(WIDTH)) {
                    *slot = f32_bytes(&wide[..columns]);
                }
                let stored = &stored[..n_rows];
                cpu.pack_float_tiles::<format::F32>(panel, lane, stored, 0, columns);
            }
        }
    }
}

/// How many rows of `gate` and `up` are multiplied before `down` takes their products. With half of
/// them, the products in between take half the memory. A multiple of the weights that any format
/// stores together.
fn part_of_inner(rows: usize) -> usize {
    const STORED: usize = 256;
    (rows / 2).next_multiple_of(STORED)
}

/// Rows of one or two matrices that share a panel; those of the second begin at its 16th row.
type Panel<'a> = [Option<Segment<'a>>; 2];

/// Rows in a piece of work, out of `rows`. Each piece loads the tokens' activations from the
/// third-level cache once, so with more columns, more rows share one load. Each thread also needs
/// several pieces.
fn strip_rows(columns: usize, rows: usize, threads: usize) -> usize {
    let shared = (columns / 16).clamp(ROWS, 256);
    shared.min((rows / (4 * threads)).max(ROWS)).next_multiple_of(ROWS)
}

/// Calls `each(token, first of its rows, products)`.
#[inline(always)]
fn put<C: TileCpu>(
    cpu: C,
    sums: &[[Sums; 2]],
    m: usize,
    n_rows: usize,
    mut each: impl FnMut(usize, usize, &[f32]),
) {
    for (block, halves) in sums.iter().enumerate() {
        for (half, sums) in halves.iter().enumerate().take(n_rows.div_ceil(SIDE)) {
            let values = cpu.transposed(sums);
            let n = SIDE.min(n_rows - half * SIDE);
            for (i, values) in values.0.iter().enumerate().take(m - block * SIDE) {
                each(block * SIDE + i, half * SIDE, &values[..n]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::kernels::{Isa, with_cpu};
    use crate::linear::Arithmetic;
    use crate::weights::Encoding;

    /// A matrix in f16, and its values.
    fn matrix(rng: &mut StdRng, rows: usize, columns: usize) -> (Matrix, Vec<f32>) {
        let halves: Vec<half::f16> =
            (0..rows * columns).map(|_| half::f16::from_f32(rng.random_range(-1.0..1.0))).collect();
        let mut map = memmap2::MmapMut::map_anon(2 * halves.len()).unwrap();
        for (to, half) in map.chunks_exact_mut(2).zip(&halves) {
            to.copy_from_slice(&half.to_le_bytes());
        }
        let map = Arc::new(map.make_read_only().unwrap());
        let matrix = Matrix::in_map(&map, 0..2 * halves.len(), Encoding::F16, rows, columns);
        (matrix, halves.iter().map(|half| half.to_f32()).collect())
    }

    /// `w` (`[rows, k]`) · each row of `x`, in f64.
    fn product(w: &[f32], x: &[f32], k: usize) -> Vec<f32> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum();
        let rows = |x| w.chunks_exact(k).map(move |w| dot(w, x));
        x.chunks_exact(k).flat_map(|x| rows(x).map(|sum: f64| sum as f32)).collect()
    }

    fn assert_close(got: &[f32], want: &[f32], what: &str) {
        let size = want.iter().fold(1.0f32, |a, b| a.max(b.abs()));
        for (i, (a, b)) in got.iter().zip(want).enumerate() {
            assert!((a - b).abs() <= 2e-4 * size, "{what}, {i}: {a}, expected {b}");
        }
    }

    #[test]
    fn matrices_of_any_shape_are_multiplied_whole() {
        let mut rng = StdRng::seed_from_u64(11);
        let mut pool = Pool::new(2).unwrap();
        for (m, k, n) in [(9, 33, 40), (16, 64, 16), (35, 100, 77), (17, 32, 31), (8, 300, 600)] {
            let [(gate, gates), (up, ups)] = [(); 2].map(|()| matrix(&mut rng, n, k));
            let (down, downs) = matrix(&mut rng, k, n);
            let x: Vec<f32> = (0..m * k).map(|_| rng.random_range(-1.0..1.0)).collect();
            let gated: Vec<f32> = product(&gates, &x, k)
                .iter()
                .zip(product(&ups, &x, k))
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            let both = product(&[&gates[..], &ups[..]].concat(), &x, k);
            let result = product(&downs, &gated, n);
            for isa in Isa::all() {
                let what = format!("{} {m} tokens {n}×{k}", isa.name());
                let multiplier = Multiplier::new(Arithmetic::new(isa));
                let (mut tiles, mut inner) = (TileTokens::default(), TileTokens::default());
                let (mut out, mut last) = (vec![1.0; m * 2 * n], vec![0.0; m * k]);
                with_cpu!(isa, cpu => {
                    let (pool, pairs) = (&mut pool, SPLIT_BOTH);
                    Multiplier::tile(cpu, pool, &x, k, pairs, &mut tiles);
                    let parts = [&gate, &up];
                    let to = Output { values: Scatter::new(&mut out), stride: 2 * n, add: true };
                    multiplier.tiled_product(cpu, pool, &parts, 0, &tiles, to);
                    out.iter_mut().for_each(|value| *value -= 1.0);
                    assert_close(&out, &both, &what);
                    let (all, inner) = ([&gate, &up, &down], (&mut inner, pairs));
                    multiplier.tiled_mlp(cpu, pool, all, &tiles, inner, &mut last);
                    assert_close(&last, &result, &what);
                });
            }
        }
    }
}
