//! Known distances, and the verdict on each.

use super::*;

/// A seeded row of logits with a standard deviation of about 4.
fn row(seed: u64, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    (0..n).map(|_| (14.0 * next()) as f32).collect()
}

fn positions(n: usize, subject: impl Fn(usize, &[f32]) -> Vec<f32>) -> Vec<Position> {
    (0..n)
        .map(|i| {
            let right = row(i as u64 + 1, 500);
            Position::of(&right, &subject(i, &right)).unwrap()
        })
        .collect()
}

/// The row plus noise of this share of its size.
fn noisy(seed: usize, row_: &[f32], share: f32) -> Vec<f32> {
    let noise = row(seed as u64 + 1_000_003, row_.len());
    row_.iter().zip(noise).map(|(x, e)| x + share * e).collect()
}

fn limit() -> Limit {
    Limit { nmse: 1e-3, of: "int8 activations".into() }
}

#[test]
fn equal_logits_are_at_distance_zero() {
    let d = sum_up(&positions(100, |_, r| r.to_vec()), 10).unwrap();
    assert_eq!((d.nmse, d.max_abs, d.kl_mean, d.top1, d.top5), (0.0, 0.0, 0.0, 1.0, 1.0));
    assert_eq!((d.decided, d.flipped), (100, 0));
    assert_eq!(judge(&d, &limit()), (Verdict::Pass, None));
    assert!((d.logit_sd - 4.04).abs() < 0.1, "{}", d.logit_sd);
}

#[test]
fn noise_of_a_hundredth_has_a_ten_thousandth_of_the_power() {
    let d = sum_up(&positions(200, |i, r| noisy(i, r, 0.01)), 0).unwrap();
    assert!((d.nmse / 1e-4 - 1.0).abs() < 0.1, "{}", d.nmse);
    assert_eq!(judge(&d, &limit()).0, Verdict::Pass);
}

#[test]
fn the_divergence_is_that_of_the_textbook() {
    // p = (2/3, 1/3), q = (1/3, 2/3): KL(p‖q) = (1/3)·ln 2.
    let (a, b) = (2f32.ln(), 0f32);
    let p = Position::of(&[a, b], &[b, a]).unwrap();
    assert!((p.kl - 2f64.ln() / 3.0).abs() < 1e-6, "{}", p.kl);
    // Shifting all logits leaves the distribution unchanged.
    let p = Position::of(&[a, b], &[a + 7.0, b + 7.0]).unwrap();
    assert!(p.kl < 1e-6, "{}", p.kl);
}

#[test]
fn a_different_argmax_counts_only_where_the_reference_is_decided() {
    // The two best logits are a hair apart, so any noise may swap them.
    let tie = |_: usize| -> (Vec<f32>, Vec<f32>) {
        let mut right = vec![0.0f32; 50];
        (right[3], right[9]) = (5.0, 5.001);
        let mut swapped = right.clone();
        (swapped[3], swapped[9]) = (5.002, 5.0);
        (right, swapped)
    };
    let tied: Vec<_> = (0..20).map(tie).map(|(a, b)| Position::of(&a, &b).unwrap()).collect();
    let d = sum_up(&tied, 0).unwrap();
    assert_eq!((d.top1, d.top5), (0.0, 1.0));
    assert_eq!(judge(&d, &limit()), (Verdict::Pass, None));
}

#[test]
fn an_argmax_that_flips_where_it_is_decided_fails_even_below_the_limit() {
    // One wrong logit of 500 carries little power but changes the answer.
    let decided = |i: u64| -> (Vec<f32>, Vec<f32>) {
        let mut right = row(i + 1, 500);
        right[250] = 9.0;
        let mut wrong = right.clone();
        if i.is_multiple_of(10) {
            wrong[100] = 9.5;
        }
        (right, wrong)
    };
    let rows: Vec<_> = (0..100).map(decided).map(|(a, b)| Position::of(&a, &b).unwrap()).collect();
    let d = sum_up(&rows, 0).unwrap();
    assert_eq!((d.decided, d.flipped), (100, 10));
    let loose = Limit { nmse: 1.0, of: "anything".into() };
    let (verdict, reason) = judge(&d, &loose);
    assert_eq!(verdict, Verdict::Fail);
    assert!(reason.unwrap().starts_with("another argmax at"), "{d:?}");
}

#[test]
fn the_reason_tells_where_the_error_begins() {
    let reason = |share: &dyn Fn(usize) -> f32| {
        let d = sum_up(&positions(400, |i, r| noisy(i, r, share(i))), 64).unwrap();
        judge(&d, &limit()).1.unwrap()
    };
    assert!(reason(&|_| 0.3).contains("from position 0"));
    assert!(reason(&|i| 0.3 * (i as f32 / 400.0)).contains("worse with distance"));
    assert!(reason(&|i| if i == 0 { 0.0 } else { 0.3 }).contains("attention"));
    assert!(reason(&|i| if i < 336 { 0.0 } else { 0.3 }).contains("decode steps"));
}

#[test]
fn the_limit_is_that_of_the_coarsest_arithmetic() {
    let of = |compute: &str, kv: &str| {
        let p = Precision { weights: "q4_0".into(), compute: compute.into(), kv: kv.into() };
        limit_for(&p).of
    };
    assert_eq!(of("int8", "f16"), "int8 activations");
    assert_eq!(of("f32+int8", "f32"), "int8 activations");
    assert_eq!(of("bf16", "f16"), "bf16 arithmetic");
    assert_eq!(of("f32", "f16"), "f16 arithmetic or cache");
    assert_eq!(of("f32", "f32"), "float32 arithmetic");
}

#[test]
fn rows_come_from_two_streams_and_a_short_one_is_an_error() {
    let bytes = |rows: &[Vec<f32>]| -> Vec<u8> {
        rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect()
    };
    let rows: Vec<Vec<f32>> = (0..70).map(|i| row(i + 1, 500)).collect();
    let mut spoilt = rows.clone();
    spoilt[41][7] = f32::NAN;
    let (a, b) = (bytes(&rows), bytes(&spoilt));
    let found = compare(&a[..], &b[..], 500, 70).unwrap();
    assert_eq!(found.iter().filter(|p| p.is_ok()).count(), 69);
    assert_eq!(found[41].as_ref().err(), Some(&NotFinite { position: 41, in_reference: false }));
    assert!(compare(&a[..a.len() - 4], &b[..], 500, 70).is_err());
}
