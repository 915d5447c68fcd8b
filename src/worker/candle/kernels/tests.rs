//! Every kernel against a plain f64 sum over candle's own dequantization.

use candle_core::quantized::k_quants::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::activations::{BLOCK, GROUP, Int8Batch, Int8Row};
use super::{FloatDot, Int8Dot, portable};

/// A stored row and the values that it stands for.
struct Stored {
    bytes: Vec<u8>,
    values: Vec<f32>,
}

fn stored<T: GgmlType>(x: &[f32]) -> Stored {
    let mut blocks = vec![T::zeros(); x.len() / T::BLCK_SIZE];
    T::from_float(x, &mut blocks);
    let mut values = vec![0.0; x.len()];
    T::to_float(&blocks, &mut values);
    let (start, len) = (blocks.as_ptr().cast::<u8>(), size_of_val(&blocks[..]));
    // SAFETY: blocks are plain bytes without padding.
    let bytes = unsafe { std::slice::from_raw_parts(start, len) }.to_vec();
    Stored { bytes, values }
}

/// Rows as they occur, and the awkward ones: zeros, one spike, huge, tiny, constant.
fn row(rng: &mut StdRng, k: usize, kind: usize) -> Vec<f32> {
    let mut x: Vec<f32> = (0..k).map(|_| rng.random_range(-1.0..1.0)).collect();
    match kind % 7 {
        1 => x.fill(0.0),
        2 => {
            x.fill(0.0);
            x[rng.random_range(0..k)] = 3.0;
        }
        3 => x.iter_mut().for_each(|x| *x *= 3e4),
        4 => x.iter_mut().for_each(|x| *x *= 1e-5),
        5 => x.fill(-0.7),
        6 => x[..k / 2].fill(0.0),
        _ => {}
    }
    x
}

/// The values that a row of int8 activations stands for.
fn activations(row: Int8Row<'_>, k: usize) -> Vec<f32> {
    (0..k)
        .map(|at| {
            let (g, i, e) = (at / GROUP, at % GROUP / BLOCK, at % BLOCK);
            let byte = 64 * (e / 16) + 16 * (e % 16 / 4) + 4 * i + e % 4;
            row.groups[g].0[byte] as f32 * row.scales[g][i]
        })
        .collect()
}

fn assert_close(got: f32, w: &[f32], x: &[f32], what: &str) {
    let products = || w.iter().zip(x).map(|(&w, &x)| w as f64 * x as f64);
    let (want, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
    let error = (got as f64 - want).abs();
    assert!(error <= size * 1e-5 + 1e-30, "{what}: {got}, expected {want} ± {size}·1e-5");
}

fn check_float<T: GgmlType>(dot: impl FloatDot, name: &str) {
    let mut rng = StdRng::seed_from_u64(1);
    for (n, k) in [1, 7, 15, 16, 17, 32, 100, 256, 2048, 8192].into_iter().enumerate() {
        let w: [Stored; 4] = std::array::from_fn(|r| stored::<T>(&row(&mut rng, k, n + r)));
        let x: [Vec<f32>; 6] = std::array::from_fn(|t| row(&mut rng, k, n + 2 * t));
        let rows = std::array::from_fn(|r| &w[r].bytes[..]);
        let tokens = std::array::from_fn(|t| &x[t][..]);
        let got = dot.dot::<4, 6>(rows, tokens);
        for r in 0..4 {
            for t in 0..6 {
                assert_close(got[r][t], &w[r].values, &x[t], &format!("{name} k={k} {r},{t}"));
            }
        }
        let [[one]] = dot.dot::<1, 1>([rows[2]], [tokens[3]]);
        assert_close(one, &w[2].values, &x[3], &format!("{name} k={k}"));
    }
}

#[cfg(target_arch = "x86_64")]
fn check_int8<T: GgmlType>(dot: impl Int8Dot, name: &str) {
    let mut rng = StdRng::seed_from_u64(2);
    for n in 1..60 {
        // All remainders of a group, and then larger rows.
        let k = T::BLCK_SIZE * if n < 12 { n } else { n % 7 + 8192 / T::BLCK_SIZE / (n % 3 + 1) };
        let w: [Stored; 2] = std::array::from_fn(|r| stored::<T>(&row(&mut rng, k, n + r)));
        let x: Vec<f32> = (0..4).flat_map(|t| row(&mut rng, k, n + 3 * t)).collect();
        let mut batch = Int8Batch::new(4, k);
        batch.quantize(&x, k);
        let rows = std::array::from_fn(|r| &w[r].bytes[..]);
        let tokens = std::array::from_fn(|t| batch.row(t, k));
        let got = dot.dot::<2, 4>(rows, tokens);
        for r in 0..2 {
            for t in 0..4 {
                let x = activations(tokens[t], k);
                assert_close(got[r][t], &w[r].values, &x, &format!("{name} k={k} {r},{t}"));
            }
        }
        let [[one]] = dot.dot::<1, 1>([rows[1]], [tokens[2]]);
        let x = activations(tokens[2], k);
        assert_close(one, &w[1].values, &x, &format!("{name} k={k}"));
    }
}

#[test]
fn the_portable_kernel_agrees_with_a_plain_sum() {
    check_float::<f32>(portable::F32, "portable f32");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn avx512_kernels_agree_with_a_plain_sum() {
    use super::avx512::*;
    let Some(cpu) = Avx512::detect() else { return };
    check_float::<f32>(F32(cpu), "f32");
    check_float::<half::f16>(F16(cpu), "f16");
    check_float::<half::bf16>(Bf16(cpu), "bf16");
    check_int8::<BlockQ4_0>(Q4_0(cpu), "q4_0");
    check_int8::<BlockQ8_0>(Q8_0(cpu), "q8_0");
    check_int8::<BlockQ4K>(Q4K(cpu), "q4_k");
    check_int8::<BlockQ6K>(Q6K(cpu), "q6_k");
}

/// Random bytes reach every code of a format, also those that no quantizer emits.
#[test]
#[cfg(target_arch = "x86_64")]
fn avx512_kernels_read_every_code_of_a_block() {
    use super::avx512::*;
    use crate::worker::candle::weights::blocks;
    fn check<T: GgmlType>(dot: impl Int8Dot, name: &str, scales: &[usize]) {
        let mut rng = StdRng::seed_from_u64(3);
        for n in 1..40 {
            let (k, size) = (n * T::BLCK_SIZE, size_of::<T>());
            // A u64 buffer, so that it can be viewed as blocks.
            let mut buffer = vec![0u64; (n * size).div_ceil(8)];
            let start = buffer.as_mut_ptr().cast::<u8>();
            // SAFETY: the buffer is that long.
            let bytes = unsafe { std::slice::from_raw_parts_mut(start, n * size) };
            rng.fill(bytes);
            for block in bytes.chunks_exact_mut(size) {
                for &at in scales {
                    let scale = half::f16::from_f32(rng.random_range(-2.0..2.0));
                    block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
            }
            let mut w = vec![0.0; k];
            T::to_float(blocks::<T>(bytes), &mut w);
            let x = row(&mut rng, k, 0);
            let mut batch = Int8Batch::new(1, k);
            batch.quantize(&x, k);
            let [[got]] = dot.dot::<1, 1>([bytes], [batch.row(0, k)]);
            let x = activations(batch.row(0, k), k);
            // Q4_K subtracts a minimum: the sum of sizes is larger than the products show.
            let (want, size) = w.iter().zip(&x).fold((0.0, 0.0), |(s, a), (&w, &x)| {
                (s + w as f64 * x as f64, a + (w.abs() as f64 + 150.0) * x.abs() as f64)
            });
            assert!((got as f64 - want).abs() <= size * 4e-6, "{name} k={k}: {got} {want}");
        }
    }
    let Some(cpu) = Avx512::detect() else { return };
    check::<BlockQ4_0>(Q4_0(cpu), "q4_0", &[0]);
    check::<BlockQ8_0>(Q8_0(cpu), "q8_0", &[0]);
    check::<BlockQ4K>(Q4K(cpu), "q4_k", &[0, 2]);
    check::<BlockQ6K>(Q6K(cpu), "q6_k", &[208]);
}
