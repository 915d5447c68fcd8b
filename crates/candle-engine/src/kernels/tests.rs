//! Tests every kernel of every instruction set against a plain f64 sum over candle's own
//! dequantization: realistic rows and awkward ones, all remainders, every code of a block.

// Tiles are small constant loops over several arrays at once.
#![allow(clippy::needless_range_loop)]

use candle_core::quantized::k_quants::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::activations::{BLOCK, GROUP, Int8Batch, Int8Row, Rounded};
use super::amx::{DEPTH, STEPS, Tile, TileCpu, TilePanel};
use super::format::{self, BlockFormat, FloatFormat};
use super::pack::{BLOCKS, COLUMNS, FloatPanel, Int8Panel, Int8Rows, ROWS};
use super::portable::Portable;
use super::{Cpu, Isa, SPAN, STREAMS, with_cpu};
use crate::weights::blocks;

mod amx;

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
    for (n_rows, m, k) in [(64, 13, 200), (50, 6, 128), (16, 1, 16), (5, 7, 33), (64, 8, 300)] {
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
            cpu.float_gemm(&panel, first, n, &x, k, &mut out);
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
            cpu.int8_gemm::<F>(&panel, first, n, &x.rows, &mut out);
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
            cpu.int8_gemm::<F>(&panel, first, n, &x.rows, &mut out);
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

/// Numbers directly next to forbidden memory: a kernel that reads or writes beyond a slice crashes.
struct Guarded<T> {
    map: *mut u8,
    map_len: usize,
    first: *mut T,
    len: usize,
}

/// The side of the numbers on which the forbidden page lies.
#[derive(Debug, Clone, Copy)]
enum Edge {
    Before,
    Behind,
}

impl<T: Copy> Guarded<T> {
    fn new(values: &[T], edge: Edge) -> Self {
        use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
        let page = rustix::param::page_size();
        let bytes = size_of_val(values);
        let inside = bytes.next_multiple_of(page).max(page);
        let map_len = inside + 2 * page;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping that nothing else knows. The numbers lie between its first and its
        // last page, which become forbidden, and both ends of the numbers are aligned.
        unsafe {
            let map = mmap_anonymous(std::ptr::null_mut(), map_len, prot, MapFlags::PRIVATE);
            let map: *mut u8 = map.unwrap().cast();
            for guard in [map, map.add(page + inside)] {
                mprotect(guard.cast(), page, MprotectFlags::empty()).unwrap();
            }
            let first: *mut T = match edge {
                Edge::Before => map.add(page).cast(),
                Edge::Behind => map.add(page + inside - bytes).cast(),
            };
            first.copy_from_nonoverlapping(values.as_ptr(), values.len());
            Self { map, map_len, first, len: values.len() }
        }
    }
}

impl<T> std::ops::Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` wrote them.
        unsafe { std::slice::from_raw_parts(self.first, self.len) }
    }
}

impl<T> std::ops::DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: `new` wrote them.
        unsafe { std::slice::from_raw_parts_mut(self.first, self.len) }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and no slice outlives it.
        unsafe { rustix::mm::munmap(self.map.cast(), self.map_len).unwrap() };
    }
}

/// The results of every kernel that reads `row`, stored as `F`; the row may be anywhere.
fn int8_results<C: TileCpu, F: BlockFormat>(cpu: C, row: &[u8], x: &Rounded) -> Vec<f32> {
    let mut results = cpu.int8_dot::<F, 1>(row, x, 0).to_vec();
    results.extend(cpu.int8_dot::<F, 1>(row, x, 1));
    results.extend(cpu.int8_dot::<F, 4>(row, x, 0));
    let blocks = row.len() / F::SIZE * F::VALUES / BLOCK;
    for n_rows in [1, ROWS - 1, ROWS] {
        let (mut panel, mut out) = (Int8Panel::new(), [[0.0; ROWS]; 4]);
        for first in (0..blocks).step_by(BLOCKS) {
            let n = BLOCKS.min(blocks - first);
            cpu.pack_int8::<F>(&mut panel, &vec![row; n_rows], first, n);
            cpu.int8_gemm::<F>(&panel, first, n, &x.rows, &mut out);
        }
        results.extend(out.iter().flat_map(|out| &out[..n_rows]));
    }
    results.extend(int8_gemv_results::<C, F>(cpu, row, x));
    let (mut panel, n) = (TilePanel::new(), blocks.min(STEPS));
    cpu.pack_tiles::<F>(&mut panel, 31, &[row], 0, n);
    results.extend((0..n).flat_map(|step| panel.row(0, 31, step).map(|bits| bits as f32)));
    results
}

/// A token's products with rows in several places; both rows of a stream are the same.
fn int8_gemv_results<C: Cpu, F: BlockFormat>(cpu: C, row: &[u8], x: &Rounded) -> Vec<f32> {
    let mut out = [[[0.0; 1]; STREAMS]; 1];
    cpu.int8_gemv::<F, 1>([row; STREAMS], x, 0, &mut out);
    let [alone] = cpu.int8_dot::<F, 1>(row, x, 0);
    let near = |value: &f32| (value - alone).abs() <= 1e-4 * alone.abs().max(1.0);
    assert!(out.as_flattened().as_flattened().iter().all(near), "{}: {out:?}, {alone}", cpu.name());
    let mut results = out.as_flattened().as_flattened().to_vec();
    let mut out = [[[0.0; 4]; STREAMS]; 1];
    cpu.int8_gemv::<F, 4>([row; STREAMS], x, 0, &mut out);
    results.extend(out.as_flattened().as_flattened());
    results
}

fn float_results<C: TileCpu, F: FloatFormat>(cpu: C, row: &[u8], x: &[f32]) -> Vec<f32> {
    let mut results = cpu.float_dot::<F, 1>(row, [x]).to_vec();
    results.extend(cpu.float_dot::<F, 4>(row, [x; 4]));
    let mut out = [[[0.0; 2]; STREAMS]; 1];
    cpu.float_gemv::<F, 2>([row; STREAMS], [x; 2], &mut out);
    results.extend(out.as_flattened().as_flattened());
    let (mut panel, n) = (TilePanel::new(), x.len().min(STEPS * DEPTH));
    cpu.pack_float_tiles::<F>(&mut panel, 31, &[row], 0, n);
    let steps = 0..n.div_ceil(DEPTH);
    results.extend(steps.flat_map(|step| panel.row(0, 31, step).map(|bits| bits as f32)));
    for n_rows in [1, ROWS] {
        let (mut panel, mut out) = (FloatPanel::new(), [[0.0; ROWS]]);
        cpu.pack_float::<F>(&mut panel, &vec![row; n_rows], 0, x.len());
        cpu.float_gemm(&panel, 0, x.len(), x, x.len(), &mut out);
        results.extend(&out[0][..n_rows]);
    }
    results
}

/// Small bytes, which represent finite numbers in any format.
fn finite_bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 37 % 0x38) as u8).collect()
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no forbidden pages, and looks at every access itself")]
fn no_kernel_reads_beyond_a_row_of_weights() {
    fn int8<C: TileCpu, F: BlockFormat>(cpu: C, edge: Edge) {
        for n in [1, 2, 3, 4, 5, 8, 17] {
            let (stored, k) = (finite_bytes(n * F::SIZE), n * F::VALUES);
            let x: Vec<f32> = (0..4 * k).map(|i| (i * 31 % 17) as f32 - 8.0).collect();
            let x = rounded(cpu, &x, 4, k);
            let got = int8_results::<C, F>(cpu, &Guarded::new(&stored, edge), &x);
            assert_eq!(got, int8_results::<C, F>(cpu, &stored, &x), "{} {n}", cpu.name());
        }
    }
    fn float<C: TileCpu, F: FloatFormat>(cpu: C, edge: Edge) {
        for k in [1, 7, 8, 9, 15, 16, 17, 31, 33, 100, 128] {
            let stored = finite_bytes(k * F::SIZE);
            let x: Vec<f32> = (0..k).map(|i| (i * 31 % 17) as f32 - 8.0).collect();
            let (row, tokens) = (Guarded::new(&stored, edge), Guarded::new(&x, edge));
            let got = float_results::<C, F>(cpu, &row, &tokens);
            assert_eq!(got, float_results::<C, F>(cpu, &stored, &x), "{} {k}", cpu.name());
        }
    }
    for isa in Isa::all() {
        for edge in [Edge::Before, Edge::Behind] {
            with_cpu!(isa, cpu => {
                int8::<_, format::Q4_0>(cpu, edge);
                int8::<_, format::Q5_0>(cpu, edge);
                int8::<_, format::Q8_0>(cpu, edge);
                int8::<_, format::Q4K>(cpu, edge);
                int8::<_, format::Q6K>(cpu, edge);
                float::<_, format::F32>(cpu, edge);
                float::<_, format::F16>(cpu, edge);
                float::<_, format::Bf16>(cpu, edge);
            });
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri knows no forbidden pages, and looks at every access itself")]
fn no_kernel_leaves_the_slices_of_activations_and_of_the_cache() {
    let numbers = |n: usize| (0..n).map(|i| (i * 31 % 17) as f32 - 8.0).collect::<Vec<f32>>();
    for isa in Isa::all() {
        for edge in [Edge::Before, Edge::Behind] {
            let floats = |n: usize| Guarded::new(&numbers(n), edge);
            for dim in [2, 8, 15, 16, 17, 40, 64, 80, 128] {
                let (keys, query) = (floats(dim * SPAN), floats(dim));
                with_cpu!(isa, cpu => {
                    let four = cpu.scores::<4>(&keys, [&*query; 4]);
                    let [one] = cpu.scores::<1>(&keys, [&*query]);
                    assert_eq!(four, [one; 4], "{}", isa.name());
                });
                for n in [1, 3, 16] {
                    let (values, weights) = (floats(n * dim), floats(n));
                    let mut sums: [Guarded<f32>; 4] = std::array::from_fn(|_| floats(dim));
                    let mut alone = floats(dim);
                    with_cpu!(isa, cpu => {
                        let sums = sums.each_mut().map(|sum| &mut **sum);
                        cpu.weigh::<4>(&values, [&*weights; 4], sums);
                        cpu.weigh::<1>(&values, [&*weights], [&mut alone]);
                    });
                    assert!(sums.iter().all(|sum| **sum == *alone), "{}", isa.name());
                }
            }
            for n in [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 33] {
                let (values, mut wide) = (floats(n), floats(n));
                let mut halves = Guarded::new(&vec![0u16; n], edge);
                with_cpu!(isa, cpu => {
                    cpu.narrow(&values, &mut halves);
                    cpu.widen(&halves, &mut wide);
                });
                assert_eq!(*wide, *values, "{}", isa.name());
                let mut tiles = Guarded::new(&vec![Tile::ZERO; n.div_ceil(DEPTH)], edge);
                with_cpu!(isa, cpu => cpu.tile_tokens(&values, n, [&mut tiles, &mut []]));
                let x = floats(n * BLOCK);
                let mut bytes = Guarded::new(&vec![0i8; n * BLOCK], edge);
                let mut scales = Guarded::new(&vec![0.0; n], edge);
                let mut sums = Guarded::new(&vec![[0; 2]; n], edge);
                with_cpu!(isa, cpu => cpu.round(&x, &mut bytes, &mut scales, &mut sums));
                let total: i32 = bytes.iter().map(|&byte| byte as i32).sum();
                assert_eq!(total, sums.as_flattened().iter().sum::<i32>(), "{}", isa.name());
            }
        }
    }
}
