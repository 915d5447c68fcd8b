//! Tests every kernel of every instruction set against a plain f64 sum over candle's own
//! dequantization: realistic rows and awkward ones, all remainders, every code of a block.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use candle_core::quantized::k_quants::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::activations::{BLOCK, GROUP, Int8Batch, Int8Row, Rounded};
use super::format::{self, BlockFormat, FloatFormat};
use super::pack::{BLOCKS, COLUMNS, FloatPanel, Int8Panel, Int8Rows, ROWS};
use super::portable::Portable;
use super::{Cpu, Isa, SPAN, STREAMS, with_cpu};
use crate::weights::blocks;

mod amx;
mod bounds;

/// Whether a product of this many multiplications is too long for Miri, which interprets each.
fn too_long(n: usize) -> bool {
    cfg!(miri) && n > 100_000
}

/// A stored row and the values that it represents. The bytes are aligned like blocks.
struct Stored {
    buffer: Vec<u64>,
    len: usize,
    values: Vec<f32>,
}

impl Stored {
    fn bytes(&self) -> &[u8] {
        let start = self.buffer.as_ptr().cast::<u8>();
        // SAFETY: the buffer has at least `len` bytes.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }

    fn of_bytes<T: GgmlType>(bytes: &[u8]) -> Self {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        let mut stored = Self { buffer: words.collect(), len: bytes.len(), values: Vec::new() };
        let blocks = blocks::<T>(stored.bytes());
        let mut values = vec![0.0; blocks.len() * T::BLCK_SIZE];
        T::to_float(blocks, &mut values);
        stored.values = values;
        stored
    }

    /// `x` quantized by candle.
    fn of<T: GgmlType>(x: &[f32]) -> Self {
        let mut blocks = vec![T::zeros(); x.len() / T::BLCK_SIZE];
        T::from_float(x, &mut blocks);
        let (start, len) = (blocks.as_ptr().cast::<u8>(), size_of_val(&blocks[..]));
        // SAFETY: blocks are plain bytes without padding.
        Self::of_bytes::<T>(unsafe { std::slice::from_raw_parts(start, len) })
    }

    /// Random bytes reach every code of a format, including those that no quantizer emits. `scales`
    /// are the places of f16 numbers, which are finite and sometimes subnormal, zero or large.
    fn random<T: GgmlType>(rng: &mut StdRng, k: usize, scales: &[usize]) -> Self {
        let size = size_of::<T>();
        let mut bytes = vec![0u8; k / T::BLCK_SIZE * size];
        rng.fill(&mut bytes[..]);
        for block in bytes.chunks_exact_mut(size) {
            for &at in scales {
                let scale = match rng.random_range(0..12) {
                    0 => half::f16::from_bits(rng.random_range(0..0x400)),
                    1 => half::f16::ZERO,
                    2 => half::f16::from_f32(-60000.0),
                    _ => half::f16::from_f32(rng.random_range(-2.0..2.0)),
                };
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        Self::of_bytes::<T>(&bytes)
    }
}

/// Realistic rows and awkward ones: zeros, one spike, huge, tiny, constant.
fn row(rng: &mut StdRng, k: usize, kind: usize) -> Vec<f32> {
    let mut x: Vec<f32> = (0..k).map(|_| rng.random_range(-1.0..1.0)).collect();
    match kind % 8 {
        1 => x.fill(0.0),
        2 => {
            x.fill(0.0);
            x[rng.random_range(0..k)] = 3.0;
        }
        3 => x.iter_mut().for_each(|x| *x *= 3e4),
        4 => x.iter_mut().for_each(|x| *x *= 1e-5),
        5 => x.fill(-0.7),
        6 => x[..k / 2].fill(0.0),
        7 => x.iter_mut().for_each(|x| *x *= 1e-39),
        _ => {}
    }
    x
}

fn rounded<C: Cpu>(cpu: C, x: &[f32], n: usize, k: usize) -> Rounded {
    let mut rounded = Rounded { groups: Int8Batch::default(), rows: Int8Rows::default() };
    rounded.rows.reserve(n, k);
    rounded.groups.reserve(n, k);
    let (bytes, scales, sums) = rounded.rows.parts();
    cpu.round(x, bytes, scales, sums);
    rounded.groups.arrange(&rounded.rows, n, k);
    rounded
}

/// The values that token `t` of rounded activations represents, from the interleaved form.
fn activations(row: Int8Row<'_>, k: usize) -> Vec<f32> {
    (0..k)
        .map(|at| {
            let (g, i, e) = (at / GROUP, at % GROUP / BLOCK, at % BLOCK);
            let byte = 64 * (e / 16) + 16 * (e % 16 / 4) + 4 * i + e % 4;
            row.groups[g].0[byte] as i8 as f32 * row.scales[g][i]
        })
        .collect()
}

/// `room` is added to the size of the products for values that cancel inside a format (Q4_K
/// subtracts).
fn assert_close(got: f32, w: &[f32], x: &[f32], room: f64, what: &str) {
    let products = || w.iter().zip(x).map(|(&w, &x)| w as f64 * x as f64);
    let (want, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
    let error = (got as f64 - want).abs();
    let size = size + room * x.iter().map(|x| x.abs() as f64).sum::<f64>();
    assert!(error <= size * 1e-5 + 1e-30, "{what}: {got}, expected {want} ± {size}·1e-5");
}

/// Runs `$body` with `$T` as each number of tokens that a GEMV takes at once.
macro_rules! each_few {
    ($T:ident => $body:block) => {{
        {
            const $T: usize = 1;
            $body
        }
        {
            const $T: usize = 2;
            $body
        }
        {
            const $T: usize = 3;
            $body
        }
        {
            const $T: usize = 4;
            $body
        }
    }};
}

fn check_float<C: Cpu, F: FloatFormat, T: GgmlType>(cpu: C) {
    let name = cpu.name();
    let mut rng = StdRng::seed_from_u64(1);
    for (n, k) in [1, 7, 15, 16, 17, 32, 100, 256, 2048, 8192].into_iter().enumerate() {
        if too_long(4 * 6 * k) {
            continue;
        }
        let w: [Stored; 4] = std::array::from_fn(|r| Stored::of::<T>(&row(&mut rng, k, n + r)));
        let x: [Vec<f32>; 6] = std::array::from_fn(|t| row(&mut rng, k, n + 2 * t));
        let rows: [&[u8]; 4] = std::array::from_fn(|r| w[r].bytes());
        let tokens = std::array::from_fn(|t| &x[t][..]);
        for r in 0..4 {
            let got = cpu.float_dot::<F, 6>(rows[r], tokens);
            for t in 0..6 {
                let what = format!("{name} {:?} k={k} {r},{t}", F::KIND);
                assert_close(got[t], &w[r].values, &x[t], 0.0, &what);
            }
        }
        let places: [Vec<u8>; STREAMS] =
            std::array::from_fn(|s| [rows[s], rows[(s + 1) % 4]].concat());
        let rows_of = places.each_ref().map(|rows| &rows[..]);
        each_few!(N => {
            let mut out = [[[0.0; N]; STREAMS]; 2];
            let tokens = std::array::from_fn(|i| &x[1 + i][..]);
            cpu.float_gemv::<F, N>(rows_of, tokens, &mut out);
            for (r, out) in out.into_iter().enumerate() {
                for (s, out) in out.into_iter().enumerate() {
                    for (i, got) in out.into_iter().enumerate() {
                        let kind = F::KIND;
                        let what = format!("{name} {kind:?} k={k} row {r} of place {s}, {i} of {N}");
                        assert_close(got, &w[(r + s) % 4].values, &x[1 + i], 0.0, &what);
                    }
                }
            }
        });
        let [one] = cpu.float_dot::<F, 1>(rows[2], [tokens[3]]);
        assert_close(one, &w[2].values, &x[3], 0.0, &format!("{name} {:?} k={k}", F::KIND));
    }
    for (n_rows, m, k) in
        [(64, 13, 200), (50, 6, 128), (16, 1, 16), (5, 7, 33), (64, 8, 300), (32, 27, 140)]
    {
        if too_long(n_rows * m * k) {
            continue;
        }
        let w: Vec<Stored> = (0..n_rows).map(|r| Stored::of::<T>(&row(&mut rng, k, r))).collect();
        let x: Vec<f32> = (0..m).flat_map(|t| row(&mut rng, k, t)).collect();
        let rows: Vec<&[u8]> = w.iter().map(Stored::bytes).collect();
        let (mut panel, mut out) = (FloatPanel::new(), vec![[0.0; ROWS]; m]);
        for first in (0..k).step_by(COLUMNS) {
            let n = COLUMNS.min(k - first);
            cpu.pack_float::<F>(&mut panel, &rows, first, n);
            cpu.float_gemm(&panel.0[..n], n_rows, first, &x, k, &mut out);
        }
        for (t, out) in out.iter().enumerate() {
            for (r, w) in w.iter().enumerate() {
                let what = format!("{name} {:?} panel {n_rows}×{k} {r},{t}", F::KIND);
                assert_close(out[r], &w.values, &x[t * k..][..k], 0.0, &what);
            }
        }
    }
}

fn check_int8<C: Cpu, F: BlockFormat, T: GgmlType>(cpu: C, scales: &[usize]) {
    let name = format!("{} {:?}", cpu.name(), F::KIND);
    let room = if F::MINIMA { 6e4 * 63.0 } else { 0.0 };
    let mut rng = StdRng::seed_from_u64(2);
    for n in 1..60 {
        // All remainders of a group, and then larger rows.
        let k = T::BLCK_SIZE * if n < 12 { n } else { n % 7 + 8192 / T::BLCK_SIZE / (n % 3 + 1) };
        if too_long(50 * k) {
            continue;
        }
        let quantized = n % 2 == 0;
        let w: [Stored; 2] = std::array::from_fn(|r| match quantized {
            true => Stored::of::<T>(&row(&mut rng, k, n / 2 + r)),
            false => Stored::random::<T>(&mut rng, k, scales),
        });
        let room = if quantized { 0.0 } else { room };
        let x: Vec<f32> = (0..4).flat_map(|t| row(&mut rng, k, n + 3 * t)).collect();
        let x = rounded(cpu, &x, 4, k);
        for w in &w {
            let got = cpu.int8_dot::<F, 4>(w.bytes(), &x, 0);
            for (t, got) in got.into_iter().enumerate() {
                let x = activations(x.groups.row(t, k), k);
                assert_close(got, &w.values, &x, room, &format!("{name} k={k} token {t}"));
            }
        }
        let places: [Vec<u8>; STREAMS] =
            std::array::from_fn(|s| [w[s % 2].bytes(), w[1 - s % 2].bytes()].concat());
        let rows_of = places.each_ref().map(|rows| &rows[..]);
        each_few!(N => {
            let mut out = [[[0.0; N]; STREAMS]; 2];
            let first = 4 - N;
            cpu.int8_gemv::<F, N>(rows_of, &x, first, &mut out);
            for (r, out) in out.into_iter().enumerate() {
                for (s, out) in out.into_iter().enumerate() {
                    for (i, got) in out.into_iter().enumerate() {
                        let what = format!("{name} k={k} row {r} of place {s}, {i} of {N} tokens");
                        let x = activations(x.groups.row(first + i, k), k);
                        assert_close(got, &w[(r + s) % 2].values, &x, room, &what);
                    }
                }
            }
        });
        let [one] = cpu.int8_dot::<F, 1>(w[1].bytes(), &x, 2);
        let x = activations(x.groups.row(2, k), k);
        assert_close(one, &w[1].values, &x, room, &format!("{name} k={k}"));
    }
    for (n, (n_rows, m)) in
        [(64, 13), (64, 3), (50, 8), (16, 1), (5, 7), (33, 2)].iter().enumerate()
    {
        let k = T::BLCK_SIZE * [3, 17, 9, 4, 1, 32][n];
        if too_long(n_rows * m * k) {
            continue;
        }
        let quantized = n % 2 == 0;
        let w: Vec<Stored> = (0..*n_rows)
            .map(|r| match quantized {
                true => Stored::of::<T>(&row(&mut rng, k, r)),
                false => Stored::random::<T>(&mut rng, k, scales),
            })
            .collect();
        let room = if quantized { 0.0 } else { room };
        let x: Vec<f32> = (0..*m).flat_map(|t| row(&mut rng, k, t)).collect();
        let x = rounded(cpu, &x, *m, k);
        let rows: Vec<&[u8]> = w.iter().map(Stored::bytes).collect();
        let (mut panel, mut out) = (Int8Panel::new(), vec![[0.0; ROWS]; *m]);
        for first in (0..k / BLOCK).step_by(BLOCKS) {
            let n = BLOCKS.min(k / BLOCK - first);
            cpu.pack_int8::<F>(&mut panel, &rows, first, n);
            cpu.int8_gemm::<F>(panel.blocks(), first, n, &x.rows, &mut out);
        }
        for (t, out) in out.iter().enumerate() {
            let x = activations(x.groups.row(t, k), k);
            for (r, w) in w.iter().enumerate() {
                let what = format!("{name} panel {n_rows}×{k} {r},{t}");
                assert_close(out[r], &w.values, &x, room, &what);
            }
        }
    }
}

#[test]
fn products_of_float_weights_agree_with_a_plain_sum() {
    for isa in Isa::all() {
        with_cpu!(isa, cpu => {
            check_float::<_, format::F32, f32>(cpu);
            check_float::<_, format::F16, half::f16>(cpu);
            check_float::<_, format::Bf16, half::bf16>(cpu);
        });
    }
}

#[test]
fn products_of_quantized_weights_agree_with_a_plain_sum() {
    for isa in Isa::all() {
        with_cpu!(isa, cpu => {
            check_int8::<_, format::Q4_0, BlockQ4_0>(cpu, &[0]);
            check_int8::<_, format::Q5_0, BlockQ5_0>(cpu, &[0]);
            check_int8::<_, format::Q8_0, BlockQ8_0>(cpu, &[0]);
            check_int8::<_, format::Q4K, BlockQ4K>(cpu, &[0, 2]);
            check_int8::<_, format::Q6K, BlockQ6K>(cpu, &[208]);
        });
    }
}

/// Rows whose bytes are all `code`, with f16 scales of one at `scales`, times activations that are
/// all as large as they can be: the largest integer sums of a format.
fn check_extremes<C: Cpu, F: BlockFormat, T: GgmlType>(cpu: C, scales: &[usize]) {
    for (sign, code) in [(1.0, 0xFF), (-1.0, 0xFF), (1.0, 0x00), (-1.0, 0x80), (1.0, 0x7F)] {
        let k = T::BLCK_SIZE.max(128) * 2 + T::BLCK_SIZE;
        let mut bytes = vec![code; k / F::VALUES * F::SIZE];
        for block in bytes.chunks_exact_mut(F::SIZE) {
            for &at in scales {
                block[at..at + 2].copy_from_slice(&half::f16::ONE.to_le_bytes());
            }
        }
        let w = Stored::of_bytes::<T>(&bytes);
        let values = vec![sign * 127.0; k];
        let x = rounded(cpu, &[&values[..]; 4].concat(), 4, k);
        let what = format!("{} {:?} {sign} · {code:#x}", cpu.name(), F::KIND);
        let same = |got: f32| assert_close(got, &w.values, &values, 0.0, &what);
        cpu.int8_dot::<F, 4>(w.bytes(), &x, 0).into_iter().for_each(same);
        let mut out = [[[0.0; 4]; STREAMS]; 1];
        cpu.int8_gemv::<F, 4>([w.bytes(); STREAMS], &x, 0, &mut out);
        out.as_flattened().as_flattened().iter().for_each(|&got| same(got));
        let (mut panel, mut out) = (Int8Panel::new(), vec![[0.0; ROWS]; 4]);
        for first in (0..k / BLOCK).step_by(BLOCKS) {
            let n = BLOCKS.min(k / BLOCK - first);
            cpu.pack_int8::<F>(&mut panel, &[w.bytes(); ROWS], first, n);
            cpu.int8_gemm::<F>(panel.blocks(), first, n, &x.rows, &mut out);
        }
        out.as_flattened().iter().for_each(|&got| same(got));
    }
}

#[test]
fn extreme_activations_keep_their_sign_and_nothing_overflows() {
    for isa in Isa::all() {
        with_cpu!(isa, cpu => {
            check_extremes::<_, format::Q4_0, BlockQ4_0>(cpu, &[0]);
            check_extremes::<_, format::Q5_0, BlockQ5_0>(cpu, &[0]);
            check_extremes::<_, format::Q8_0, BlockQ8_0>(cpu, &[0]);
            check_extremes::<_, format::Q4K, BlockQ4K>(cpu, &[0, 2]);
            check_extremes::<_, format::Q6K, BlockQ6K>(cpu, &[208]);
        });
    }
}

#[test]
fn every_instruction_set_rounds_activations_alike() {
    let mut rng = StdRng::seed_from_u64(5);
    let k = 8 * 32 * 8;
    let mut x: Vec<f32> = (0..8).flat_map(|kind| row(&mut rng, k / 8, kind)).collect();
    x[100] = f32::NAN;
    x[200] = f32::NEG_INFINITY;
    x[300] = f32::MAX;
    x[400] = -f32::MIN_POSITIVE;
    let round = |isa: Isa| {
        let (mut bytes, mut scales) = (vec![0; k], vec![0.0; k / BLOCK]);
        let mut sums = vec![[0; 2]; k / BLOCK];
        with_cpu!(isa, cpu => cpu.round(&x, &mut bytes, &mut scales, &mut sums));
        (bytes, scales, sums)
    };
    let want = round(Isa::Portable(Portable));
    assert!(want.1[3].is_nan() && want.1[6].is_nan());
    for isa in Isa::all() {
        let got = round(isa);
        for b in 0..k / BLOCK {
            let scales = (got.1[b], want.1[b]);
            if scales.1.is_nan() {
                assert!(scales.0.is_nan());
                continue;
            }
            assert_eq!(scales.0, scales.1, "{} block {b}", isa.name());
            let bytes = b * BLOCK..(b + 1) * BLOCK;
            assert_eq!(got.0[bytes.clone()], want.0[bytes], "{} block {b}", isa.name());
            assert_eq!(got.2[b], want.2[b], "{} block {b}", isa.name());
        }
    }
}

#[test]
fn attention_kernels_agree_with_a_plain_sum() {
    let mut rng = StdRng::seed_from_u64(4);
    for isa in Isa::all() {
        for dim in [2, 16, 32, 40, 64, 80, 128, 256] {
            for n in [1, 3, 16] {
                let keys = row(&mut rng, dim * SPAN, 0);
                let queries: [Vec<f32>; 8] = std::array::from_fn(|_| row(&mut rng, dim, 0));
                let values = row(&mut rng, dim * n, 0);
                let weights: [Vec<f32>; 4] = std::array::from_fn(|_| row(&mut rng, n, 0));
                let mut sums: [Vec<f32>; 4] = std::array::from_fn(|_| vec![0.5; dim]);
                let scores = with_cpu!(isa, cpu => {
                    let [a, b, c, d] = &mut sums;
                    let weights = std::array::from_fn(|i| &weights[i][..]);
                    cpu.weigh::<4>(&values, weights, [a, b, c, d]);
                    cpu.scores::<8>(&keys, std::array::from_fn(|i| &queries[i][..]))
                });
                for (scores, query) in scores.iter().zip(&queries) {
                    for (j, &score) in scores.iter().enumerate() {
                        let key: Vec<f32> = (0..dim).map(|d| keys[d * SPAN + j]).collect();
                        assert_close(score, &key, query, 0.0, isa.name());
                    }
                }
                for (sum, weights) in sums.iter().zip(&weights) {
                    for (d, &sum) in sum.iter().enumerate() {
                        let value: Vec<f32> = (0..n).map(|j| values[j * dim + d]).collect();
                        let want: f32 = value.iter().zip(weights).map(|(v, w)| v * w).sum();
                        assert!((sum - 0.5 - want).abs() < 1e-5, "{}: {sum} {want}", isa.name());
                    }
                }
            }
        }
    }
}

#[test]
fn every_half_goes_into_the_cache_and_back() {
    let step = if cfg!(miri) { 61 } else { 1 };
    let halves = (0..=u16::MAX).step_by(step).filter(|h| h & 0x7C00 != 0x7C00);
    let halves: Vec<u16> = halves.collect();
    for isa in Isa::all() {
        with_cpu!(isa, cpu => {
            let (mut wide, mut back) = (vec![0.0; halves.len()], vec![0; halves.len()]);
            cpu.widen(&halves, &mut wide);
            for (&bits, &wide) in halves.iter().zip(&wide) {
                assert_eq!(half::f16::from_bits(bits).to_f32().to_bits(), wide.to_bits());
            }
            // Between two halves: rounds to the nearest one, ties to even.
            for offset in [0.0, 1e-4, -1e-4, 4.8e-4] {
                let values: Vec<f32> = wide.iter().map(|x| x + x * offset).collect();
                cpu.narrow(&values, &mut back);
                for (&value, &bits) in values.iter().zip(&back) {
                    assert_eq!(half::f16::from_f32(value).to_bits(), bits, "{value}");
                }
            }
        });
    }
}

// ---- reads and writes at the edges of memory ----
