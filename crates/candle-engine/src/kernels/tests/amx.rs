//! Tests products in tiles of bfloat16 against a plain f64 sum over the unrounded weights and
//! activations: within the error of that rounding, and much closer for split ones.

use candle_core::quantized::k_quants::*;
use rand::{SeedableRng, rngs::StdRng};

#[cfg(target_arch = "x86_64")]
use super::super::amx::x86;
use super::super::amx::{
    DEPTH, PartPairs, ROUNDED, SIDE, SPLIT_BOTH, SPLIT_TOKENS, STEPS, Sums, Tile, TileCpu,
    TilePanel, TileTokens,
};
use super::super::format::{self, BLOCK, BlockFormat, FloatFormat};
use super::super::{Isa, with_cpu};
use super::{Stored, row, too_long};

/// Two roundings to eight bits, or to sixteen with both in two parts.
const ONCE: f64 = 1.0 / 128.0;
const TWICE: f64 = 1.0 / 16384.0;

fn tokens<C: TileCpu>(cpu: C, x: &[f32], k: usize, pairs: PartPairs) -> TileTokens {
    let mut tokens = TileTokens::default();
    // The remains of a longer row must not count.
    tokens.reserve(x.len() / k + 20, k + 100, pairs);
    for tiles in tokens.parts() {
        tiles.fill(Tile([[0x7FC0; DEPTH]; SIDE]));
    }
    tokens.reserve(x.len() / k, k, pairs);
    let [steps, low_steps] = tokens.widths();
    for (block, x) in x.chunks(SIDE * k).enumerate() {
        let [high, low] = tokens.parts();
        let low = &mut low[block * low_steps..][..low_steps];
        cpu.tile_tokens(x, k, [&mut high[block * steps..][..steps], low]);
    }
    tokens
}

/// Checks products. Calls `pack` with a panel, a first tile and the number of tiles.
#[allow(clippy::too_many_arguments)]
fn check<C: TileCpu>(
    cpu: C,
    what: &str,
    w: &[Stored],
    x: &[f32],
    pairs: PartPairs,
    room: f64,
    relative: f64,
    mut pack: impl FnMut(&mut TilePanel, usize, usize),
) {
    let k = w[0].values.len();
    let x_tiles = tokens(cpu, x, k, pairs);
    let m = x.len() / k;
    let mut sums = vec![[Sums::ZERO; 2]; m.div_ceil(SIDE)];
    let mut panel = TilePanel::new();
    for first in (0..x_tiles.steps()).step_by(STEPS) {
        let n = STEPS.min(x_tiles.steps() - first);
        pack(&mut panel, first, n);
        cpu.multiply_tiles(&panel, n, &x_tiles, first, &mut sums);
    }
    for (t, x) in x.chunks_exact(k).enumerate() {
        for (r, w) in w.iter().enumerate() {
            let sums = &sums[t / SIDE][r / SIDE];
            let got = sums.0[r % SIDE][t % SIDE];
            assert_eq!(got, cpu.transposed(sums).0[t % SIDE][r % SIDE], "{what}");
            let products = || w.values.iter().zip(x).map(|(&w, &x)| w as f64 * x as f64);
            let (want, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
            let size = size + room * x.iter().map(|x| x.abs() as f64).sum::<f64>();
            let error = (got as f64 - want).abs();
            // Subnormal numbers count as zero, both as operands and as products.
            let sum = |values: &[f32]| values.iter().map(|v| v.abs() as f64).sum::<f64>();
            let least = f32::MIN_POSITIVE as f64 * (sum(&w.values) + sum(x) + k as f64);
            assert!(error <= size * relative + least, "{what} {r},{t}: {got}, expected {want}");
        }
    }
}

fn check_blocks<C: TileCpu, F: BlockFormat, T: GgmlType>(cpu: C, scales: &[usize]) {
    let mut rng = StdRng::seed_from_u64(7);
    let shapes = [(32, 16), (1, 1), (17, 33), (31, 9), (16, 48), (5, 20)];
    for (n, (n_rows, m)) in shapes.into_iter().enumerate() {
        let k = T::BLCK_SIZE * [1, 17, 3, 9, 32, 2][n];
        if too_long(n_rows * m * k) {
            continue;
        }
        let quantized = n % 2 == 0;
        let w: Vec<Stored> = (0..n_rows)
            .map(|r| match quantized {
                true => Stored::of::<T>(&row(&mut rng, k, r)),
                false => Stored::random::<T>(&mut rng, k, scales),
            })
            .collect();
        let x: Vec<f32> = (0..m).flat_map(|t| row(&mut rng, k, t)).collect();
        let rows: Vec<&[u8]> = w.iter().map(Stored::bytes).collect();
        let what = format!("{} {:?} {n_rows}×{k}", cpu.name(), F::KIND);
        let room = if F::MINIMA && !quantized { 6e4 * 63.0 } else { 0.0 };
        check(cpu, &what, &w, &x, ROUNDED, room, ONCE, |panel, first, n| {
            cpu.pack_tiles::<F>(panel, 0, &rows, first, n);
        });
    }
}

fn check_floats<C: TileCpu, F: FloatFormat, T: GgmlType>(cpu: C, pairs: PartPairs, relative: f64) {
    let mut rng = StdRng::seed_from_u64(8);
    for (n_rows, m, k) in [(32, 16, 512), (1, 1, 1), (20, 33, 200), (16, 9, 1000), (31, 40, 33)] {
        if too_long(n_rows * m * k) {
            continue;
        }
        let w: Vec<Stored> = (0..n_rows).map(|r| Stored::of::<T>(&row(&mut rng, k, r))).collect();
        let x: Vec<f32> = (0..m).flat_map(|t| row(&mut rng, k, t)).collect();
        let rows: Vec<&[u8]> = w.iter().map(Stored::bytes).collect();
        let what = format!("{} {:?} {n_rows}×{k}", cpu.name(), F::KIND);
        check(cpu, &what, &w, &x, pairs, 0.0, relative, |panel, first, n| {
            let columns = (n * DEPTH).min(k - first * DEPTH);
            cpu.pack_float_tiles::<F>(panel, 0, &rows, first * DEPTH, columns);
        });
    }
}

#[test]
fn products_in_tiles_agree_with_a_plain_sum() {
    for isa in Isa::all() {
        with_cpu!(isa, cpu => {
            check_blocks::<_, format::Q4_0, BlockQ4_0>(cpu, &[0]);
            check_blocks::<_, format::Q5_0, BlockQ5_0>(cpu, &[0]);
            check_blocks::<_, format::Q8_0, BlockQ8_0>(cpu, &[0]);
            check_blocks::<_, format::Q4K, BlockQ4K>(cpu, &[0, 2]);
            check_blocks::<_, format::Q6K, BlockQ6K>(cpu, &[208]);
            check_floats::<_, format::F32, f32>(cpu, ROUNDED, ONCE);
            check_floats::<_, format::Bf16, half::bf16>(cpu, SPLIT_TOKENS, TWICE);
            check_floats::<_, format::F16, half::f16>(cpu, SPLIT_BOTH, TWICE);
        });
    }
}

#[test]
fn every_instruction_set_unpacks_into_the_same_tiles() {
    fn packed<C: TileCpu, F: BlockFormat>(cpu: C, row: &[u8], lane: usize) -> Vec<u16> {
        let mut panel = TilePanel::new();
        cpu.pack_tiles::<F>(&mut panel, lane, &[row; 3], 0, blocks::<F>(row));
        unpacked(&mut panel, blocks::<F>(row), lane)
    }
    /// By the code for AMX, which packs without tiles; where the processor has the instructions.
    #[cfg(target_arch = "x86_64")]
    fn packed_for_amx<F: BlockFormat>(row: &[u8], lane: usize) -> Option<Vec<u16>> {
        let cpu = llm_bench_cpu::features();
        super::super::avx512::Avx512::<false>::detect().filter(|_| cpu.avx512bf16)?;
        let mut panel = TilePanel::new();
        // SAFETY: the CPU has the features, as was asked.
        unsafe { x86::pack::<F>(&mut panel, lane, &[row; 3], 0, blocks::<F>(row)) };
        Some(unpacked(&mut panel, blocks::<F>(row), lane))
    }
    #[cfg(not(target_arch = "x86_64"))]
    fn packed_for_amx<F: BlockFormat>(_: &[u8], _: usize) -> Option<Vec<u16>> {
        None
    }
    fn blocks<F: BlockFormat>(row: &[u8]) -> usize {
        row.len() / F::SIZE * F::VALUES / BLOCK
    }
    fn unpacked(panel: &mut TilePanel, blocks: usize, lane: usize) -> Vec<u16> {
        (lane..lane + 3)
            .flat_map(|r| (0..blocks).map(move |step| (r, step)))
            .flat_map(|(r, step)| *panel.row(0, r, step))
            .collect()
    }
    /// Compares bit by bit, except for the last bit if a product was rounded before the difference.
    fn same<F: BlockFormat, T: GgmlType>(isa: Isa, scales: &[usize]) {
        let mut rng = StdRng::seed_from_u64(9);
        for lane in [0, 15, 29] {
            let row = Stored::random::<T>(&mut rng, 256, scales);
            let mut portable = packed::<_, F>(super::Portable, row.bytes(), lane);
            let mut got = with_cpu!(isa, cpu => packed::<_, F>(cpu, row.bytes(), lane));
            if let Some(more) = packed_for_amx::<F>(row.bytes(), lane) {
                portable.extend_from_within(..);
                got.extend(more);
            }
            let widen = |bits: u16| half::bf16::from_bits(bits).to_f32();
            let largest = portable.iter().fold(0.0f32, |a, &b| a.max(widen(b).abs()));
            for (a, b) in got.into_iter().zip(portable) {
                // The remainder of nearly equal numbers keeps only a few of their bits.
                let near = a.abs_diff(b) <= 1 || (widen(a) - widen(b)).abs() <= 1e-6 * largest;
                assert!(near, "{} {:?}: {a:#x}, {b:#x}", isa.name(), F::KIND);
            }
        }
    }
    for isa in Isa::all() {
        same::<format::Q4_0, BlockQ4_0>(isa, &[0]);
        same::<format::Q5_0, BlockQ5_0>(isa, &[0]);
        same::<format::Q8_0, BlockQ8_0>(isa, &[0]);
        same::<format::Q4K, BlockQ4K>(isa, &[0, 2]);
        same::<format::Q6K, BlockQ6K>(isa, &[208]);
    }
}

#[test]
fn rows_of_products_become_the_tiles_of_the_next_matrix() {
    let mut rng = StdRng::seed_from_u64(10);
    // 16 tokens' values of 32 rows in two halves, and the same values as rows of tokens.
    let x: Vec<f32> = (0..SIDE).flat_map(|t| row(&mut rng, DEPTH, t)).collect();
    let half = |h: usize| {
        let mut sums = Sums::ZERO;
        for (r, row) in sums.0.iter_mut().enumerate() {
            for (t, value) in row.iter_mut().enumerate() {
                *value = x[t * DEPTH + h * SIDE + r];
            }
        }
        sums
    };
    for isa in Isa::all() {
        for split in [false, true] {
            let mut want = [[Tile::ZERO; 1]; 2];
            let mut got = [[Tile::ZERO; 1]; 2];
            with_cpu!(isa, cpu => {
                let [high, low] = &mut want;
                cpu.tile_tokens(&x, DEPTH, [high, if split { low } else { &mut [] }]);
                let [high, low] = &mut got;
                for h in 0..2 {
                    let rows = SIDE / 2 * h..SIDE / 2 * (h + 1);
                    let low = if split { &mut low[0].0[rows.clone()] } else { &mut [] };
                    cpu.tile_rows(&half(h), [&mut high[0].0[rows], low]);
                }
            });
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(got[0].0, want[0].0, "{} split {split}", isa.name());
            }
        }
    }
}
