//! Checks the CUDA kernels against the engine on the processor and against plain sums: run on the
//! processor and, with `--ignored on_a_card`, on a card.

use std::path::{Path, PathBuf};

use llm_bench_protocol::{Generate, Load, Sampling, Score};
use llm_bench_units::MonoNs;
use rand::{Rng, SeedableRng, rngs::StdRng};

use memmap2::MmapMut;

use super::card::Card;
use super::device::Device;
use super::engine::OnCard;
use super::layout::{Layout, is_float};
use super::model::product::of_matrix;
use super::shim::{Shim, ring_holds};
use crate::Engine;
use crate::candle::Candle;
use crate::generate::{Nobody, generate};
use crate::weights::{Encoding, Matrix, with_block};

fn tiny() -> PathBuf {
    // From the crate's folder, as cargo runs tests, or from the project's, where there is no cargo.
    let places = ["../../models/tiny.gguf", "models/tiny.gguf"].map(PathBuf::from);
    places.into_iter().find(|p| p.exists()).expect("models/tiny.gguf")
}

fn request(path: &Path, n_ctx: u32) -> Load {
    let json = serde_json::json!({
        "path": path, "device": "cpu", "threads": 2, "n_ctx": n_ctx, "options": {}
    });
    serde_json::from_value(json).unwrap()
}

fn loaded<D: Device>(device: D, path: &Path, n_ctx: u32) -> OnCard<D> {
    OnCard::on(device, &request(path, n_ctx), MonoNs::now()).unwrap().0
}

/// With rings that are hardly large enough, or too small for the larger rows.
fn loaded_with_ring<D: Device>(device: D, ring: usize) -> OnCard<D> {
    let mut request = request(&tiny(), 256);
    request.options.insert("ring".into(), ring.into());
    OnCard::on(device, &request, MonoNs::now()).unwrap().0
}

/// The first card.
fn first(_: u32) -> Card {
    Card::open(0, 4).unwrap()
}

fn scores(tokens: &[u32], decode_from: Option<u32>) -> Score {
    let json = serde_json::json!({
        "id": 1, "tokens": tokens, "first": 0, "decode_from": decode_from, "logits_path": ""
    });
    serde_json::from_value(json).unwrap()
}

/// Σ(a − b)² ÷ Σ b² over mean-free rows.
fn nmse(a: &[f32], b: &[f32]) -> f64 {
    let (mut error, mut size) = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        assert!(a.is_finite());
        error += (f64::from(*a) - f64::from(*b)).powi(2);
        size += f64::from(*b).powi(2);
    }
    error / size
}

#[test]
fn steps_and_prompts_give_the_logits_of_the_engine_on_the_processor() {
    scores_agree(Shim::new(3), 24);
}

#[test]
#[ignore = "needs a card"]
fn on_a_card_steps_and_prompts_give_the_logits_of_the_engine_on_the_processor() {
    scores_agree(first(0), 250);
}

fn scores_agree(device: impl Device, n: u32) {
    let mut rng = StdRng::seed_from_u64(3);
    let mut reference = Candle::default();
    let mut plain = request(&tiny(), 256);
    plain.options.insert("float32".into(), true.into());
    reference.load(&plain).unwrap();
    let n_vocab = reference.decoder().unwrap().shape().1 as u32;
    let tokens: Vec<u32> = (0..n).map(|_| rng.random_range(0..n_vocab)).collect();
    let mut wanted = Vec::new();
    reference
        .score(&scores(&tokens, None), &mut |row| {
            wanted.push(row.to_vec());
            Ok(())
        })
        .unwrap();
    let mut engine = loaded(device, &tiny(), 256);
    for decode_from in [None, Some(0), Some(9)] {
        let mut position = 0;
        engine
            .score(&scores(&tokens, decode_from), &mut |row| {
                let error = nmse(row, &wanted[position]);
                assert!(error < 1e-3, "{decode_from:?}, position {position}: {error}");
                position += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(position, tokens.len());
    }
}

#[test]
fn a_reader_can_sample_stop_and_build_on_what_is_cached() {
    let mut engine = loaded(Shim::new(2), &tiny(), 64);
    let greedy = Generate::greedy(1, vec![5, 17, 99, 3], 8);
    let wanted = generate(&mut engine, &greedy, &mut Nobody).unwrap().tokens;
    // So cold that only the likeliest token is left.
    let cold = Sampling { temperature: 1e-6, top_p: 1.0, seed: 3 };
    let sampled = Generate { sampling: Some(cold), reuse: true, ..greedy.clone() };
    let first = generate(&mut engine, &sampled, &mut Nobody).unwrap();
    let again = generate(&mut engine, &sampled, &mut Nobody).unwrap();
    assert_eq!((&first.tokens, &again.tokens), (&wanted, &wanted));
    assert_eq!((first.reused, again.reused), (0, 3), "the last token of a prompt always runs");
    let stopped = Generate { stop: vec![wanted[4]], ..greedy };
    let stopped = generate(&mut engine, &stopped, &mut Nobody).unwrap().tokens;
    let end = wanted.iter().position(|t| *t == wanted[4]).unwrap();
    assert_eq!(stopped, wanted[..=end]);
}

proptest::proptest! {
    #[test]
    fn pieces_pass_through_a_ring_unharmed(
        bytes in 64u32..400,
        sizes in proptest::collection::vec(1u32..400, 0..200),
    ) {
        let sizes: Vec<u32> = sizes.into_iter().map(|s| s % bytes + 1).collect();
        proptest::prop_assert!(ring_holds(bytes, &sizes));
    }
}

#[test]
fn a_ring_of_any_size_gives_the_same_logits() {
    let tokens: Vec<u32> = (0..5).map(|i| i * 97 % 512).collect();
    let logits = |card: Shim, ring| {
        let (mut engine, mut all) = (loaded_with_ring(card, ring), Vec::new());
        let mut keep = |row: &[f32]| {
            all.extend(row.iter().map(|x| x.to_bits()));
            Ok(())
        };
        engine.score(&scores(&tokens, Some(0)), &mut keep).unwrap();
        all
    };
    let wanted = logits(Shim::new(3), 16 << 10);
    for ring in [256, 512, 640, 768, 896, 1152, 1408] {
        assert!(logits(Shim::new(3), ring) == wanted, "a ring of {ring} bytes");
    }
    for ring in [256, 896, 16 << 10] {
        assert!(logits(Shim::before_hopper(3), ring) == wanted, "threads copy {ring} bytes");
    }
}

#[test]
fn greedy_generation_is_the_same_with_and_without_early_starts() {
    generations_agree(Shim::new(2));
}

#[test]
#[ignore = "needs a card"]
fn on_a_card_greedy_generation_is_the_same_with_and_without_early_starts() {
    generations_agree(first(0));
}

fn generations_agree(device: impl Device) {
    let mut engine = loaded(device, &tiny(), 64);
    let request = Generate::greedy(1, vec![5, 17, 99, 3], 12);
    let early = generate(&mut engine, &request, &mut Nobody).unwrap().tokens;
    let again = generate(&mut engine, &request, &mut Nobody).unwrap().tokens;
    let stopping = Generate { stop: vec![u32::MAX], ..request.clone() };
    let late = generate(&mut engine, &stopping, &mut Nobody).unwrap().tokens;
    let mut cpu = Candle::default();
    cpu.load(&self::request(&tiny(), 64)).unwrap();
    let wanted = generate(cpu.decoder().unwrap(), &request, &mut Nobody).unwrap().tokens;
    assert_eq!((&early, &again, &late), (&wanted, &wanted, &wanted));
}

/// A matrix of an encoding with every code of a block.
fn matrix(encoding: Encoding, rows: usize, columns: usize, rng: &mut StdRng) -> Matrix {
    let bytes = match encoding {
        Encoding::Iq4Nl => {
            let mut bytes: Vec<u8> =
                (0..rows * encoding.row_bytes(columns)).map(|_| rng.random()).collect();
            for block in bytes.chunks_exact_mut(18) {
                let scale = half::f16::from_f32(rng.random_range(-0.01..0.01));
                block[..2].copy_from_slice(&scale.to_le_bytes());
            }
            bytes
        }
        encoding => {
            let x: Vec<f32> =
                (0..rows * columns).map(|_| rng.random_range(-1.0f32..1.0).powi(3)).collect();
            with_block!(encoding, T => {
                let mut blocks = vec![T::zeros(); x.len() / T::BLCK_SIZE];
                T::from_float(&x, &mut blocks);
                // SAFETY: blocks are plain bytes without padding.
                let bytes = unsafe {
                    std::slice::from_raw_parts(blocks.as_ptr().cast::<u8>(), size_of_val(&blocks[..]))
                };
                bytes.to_vec()
            })
        }
    };
    let mut map = MmapMut::map_anon(bytes.len()).unwrap();
    map.copy_from_slice(&bytes);
    let map = std::sync::Arc::new(map.make_read_only().unwrap());
    Matrix::in_map(&map, 0..bytes.len(), encoding, rows, columns)
}

/// What a step multiplies with: normalized and, for blocks, rounded to int8 with a scale for 32.
fn prepared(x: &[f32], blocks: bool) -> Vec<f64> {
    let size = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
    let mut values: Vec<f64> = x.iter().map(|x| f64::from(x / size.sqrt())).collect();
    if blocks {
        for block in values.chunks_mut(32) {
            let scale = block.iter().fold(0.0f64, |top, x| top.max(x.abs())) / 127.0;
            block.iter_mut().for_each(|x| *x = (*x / scale).round() * scale);
        }
    }
    values
}

#[test]
fn every_encoding_is_widened_and_multiplied_as_the_file_defines_it() {
    encodings_agree(Shim::new);
}

#[test]
#[ignore = "needs a card"]
fn on_a_card_every_encoding_is_widened_and_multiplied_as_the_file_defines_it() {
    let _keeps_the_driver_open = first(0);
    encodings_agree(first);
}

fn encodings_agree<D: Device>(device: impl Fn(u32) -> D) {
    let mut rng = StdRng::seed_from_u64(11);
    for encoding in Encoding::ALL {
        for (rows, columns, processors) in [(1, 256, 1), (7, 512, 2), (33, 2048, 3), (4, 8448, 1)] {
            let at = format!("{} {rows} x {columns}", encoding.name());
            let stored = matrix(encoding, rows, columns, &mut rng);
            let x: Vec<f32> = (0..columns).map(|_| rng.random_range(-2.0..2.0)).collect();
            let mut card = device(processors);
            // The last ring is too small for these rows.
            let ring = [10_240, 12_288, 1024][processors as usize - 1];
            let (widened, product, choice) = of_matrix(&mut card, &stored, &x, ring).unwrap();
            let blocks = !is_float(Layout::of(encoding, columns).unwrap().format);
            let vector = prepared(&x, blocks);
            let mut row = vec![0.0f32; columns];
            for r in 0..rows {
                stored.dequantize_row(r, &mut row);
                for (got, wanted) in widened[r * columns..].iter().zip(&row) {
                    let close = (got.to_f32() - wanted).abs() <= 1e-3 * wanted.abs() + 1e-7;
                    assert!(close, "{at}: {got} {wanted}");
                }
                let terms = || row.iter().zip(&vector).map(|(w, x)| f64::from(*w) * x);
                let (wanted, size) =
                    (terms().sum::<f64>(), terms().map(|t| t * t).sum::<f64>().sqrt());
                let error = (f64::from(product[r]) - wanted).abs() / size;
                let exact = !blocks && !matches!(encoding, Encoding::Q2K | Encoding::Q3K);
                // A value in the middle between two steps may be rounded the other way.
                assert!(
                    error < if exact { 1e-5 } else { 1e-3 },
                    "{at}, row {r}: {} {wanted}",
                    product[r]
                );
            }
            let best = (0..rows).max_by(|a, b| product[*a].total_cmp(&product[*b])).unwrap();
            assert_eq!((choice.token, choice.finite), (best as u32, true), "{at}");
        }
    }
}

#[test]
fn a_value_that_is_no_number_never_passes() {
    bad_values_are_seen(Shim::new);
}

#[test]
#[ignore = "needs a card"]
fn on_a_card_a_value_that_is_no_number_never_passes() {
    bad_values_are_seen(first);
}

fn bad_values_are_seen<D: Device>(device: impl Fn(u32) -> D) {
    let mut rng = StdRng::seed_from_u64(12);
    for encoding in [Encoding::F16, Encoding::Q4_0, Encoding::Q6K] {
        for bad in [f32::NAN, f32::INFINITY, 3e38] {
            let stored = matrix(encoding, 5, 512, &mut rng);
            let mut x: Vec<f32> = (0..512).map(|_| rng.random_range(-2.0..2.0)).collect();
            x[77] = bad;
            let (_, _, choice) = of_matrix(&mut device(2), &stored, &x, 4096).unwrap();
            assert!(!choice.finite, "{} {bad}", encoding.name());
        }
    }
}
