//! What a quantization costs: next-token distributions against a reference's, position by position.
//! Works on rows of logits; runs no engine and opens no file. The definitions are those of
//! llama-perplexity's --kl-divergence, so that figures can be compared.

use super::softmax::{self, Compared};
use crate::record::{Bucket, Loss, Quantiles};
use crate::stats::Sample;

/// The reference's largest probability from which each bucket begins.
const BUCKETS: [f64; 4] = [0.0, 0.5, 0.9, 0.99];

/// What one position says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// KL(reference ‖ subject) in nats.
    kl: f64,
    /// −ln of the probability of the token that follows: by the reference, by the subject.
    nll: [f64; 2],
    /// The reference's largest probability.
    confidence: f64,
    same_top1: bool,
}

impl Position {
    /// Compares one row `[n_vocab]`; `next` is the token that follows. `None` if a logit is not
    /// finite, the rows differ in length, or the token is not in the vocabulary.
    pub fn of(reference: &[f32], subject: &[f32], next: u32) -> Option<Self> {
        let Compared { kl, log_z, top } = softmax::compare(reference, subject)?;
        let logit = |row: &[f32]| row.get(next as usize).map(|x| f64::from(*x));
        let nll = [log_z[0] - logit(reference)?, log_z[1] - logit(subject)?];
        let confidence = (f64::from(reference[top[0]]) - log_z[0]).exp();
        Some(Self { kl, nll, confidence, same_top1: top[0] == top[1] })
    }
}

/// Perplexity of the reference and of the subject over all positions. `None` if there are none.
pub fn perplexities(windows: &[Vec<Position>]) -> Option<[f64; 2]> {
    let all: Vec<&Position> = windows.iter().flatten().collect();
    let mean = |side: usize| all.iter().map(|p| p.nll[side]).sum::<f64>() / all.len() as f64;
    (!all.is_empty()).then(|| [mean(0).exp(), mean(1).exp()])
}

/// Sums up the positions of a text, window by window. `None` if there are none.
pub fn sum_up(windows: &[Vec<Position>]) -> Option<Loss> {
    let all: Vec<Position> = windows.iter().flatten().copied().collect();
    let n = all.len() as f64;
    let kl = Sample::new(&all.iter().map(|p| p.kl).collect::<Vec<_>>()).ok()?;
    let (ratio, ratio_se) = over_windows(windows, |p| p.nll[1] - p.nll[0]);
    let (_, kl_se) = over_windows(windows, |p| p.kl);
    let delta = |p: &Position| (-p.nll[1]).exp() - (-p.nll[0]).exp();
    Some(Loss {
        ln_ppl_ratio: ratio,
        ln_ppl_ratio_se: ratio_se,
        kl: Quantiles {
            mean: kl.mean(),
            median: kl.median(),
            p90: kl.quantile(0.9),
            p99: kl.quantile(0.99),
            p999: kl.quantile(0.999),
        },
        kl_se,
        kl_by_confidence: buckets(&all),
        top1: all.iter().filter(|p| p.same_top1).count() as f64 / n,
        rms_delta_p: (all.iter().map(|p| delta(p).powi(2)).sum::<f64>() / n).sqrt(),
    })
}

/// The mean over positions, and its standard error with the windows as the units: neighbours in a
/// text are not independent.
fn over_windows(windows: &[Vec<Position>], of: fn(&Position) -> f64) -> (f64, Option<f64>) {
    let n: usize = windows.iter().map(Vec::len).sum();
    let mean = windows.iter().flatten().map(of).sum::<f64>() / n as f64;
    let m = windows.iter().filter(|w| !w.is_empty()).count() as f64;
    // The variance of a ratio of sums, Σ values ÷ Σ positions, by linearization.
    let residual = |w: &Vec<Position>| w.iter().map(|p| of(p) - mean).sum::<f64>().powi(2);
    let squares: f64 = windows.iter().map(residual).sum();
    let se = (m > 1.0).then(|| (m / (m - 1.0) * squares).sqrt() / n as f64);
    (mean, se)
}

fn buckets(all: &[Position]) -> Vec<Bucket> {
    let of = |(i, &from): (usize, &f64)| {
        let below = BUCKETS.get(i + 1).copied().unwrap_or(f64::INFINITY);
        let inside = all.iter().filter(|p| p.confidence >= from && p.confidence < below);
        let kl: Vec<f64> = inside.map(|p| p.kl).collect();
        let mean = (!kl.is_empty()).then(|| kl.iter().sum::<f64>() / kl.len() as f64);
        Bucket { from, positions: kl.len() as u32, kl: mean }
    };
    BUCKETS.iter().enumerate().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ln(row: &[f64]) -> Vec<f32> {
        row.iter().map(|p| p.ln() as f32 + 3.0).collect()
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
    }

    #[test]
    fn a_position_is_what_its_two_distributions_say() {
        let (p, q) = ([0.7, 0.2, 0.1], [0.3, 0.6, 0.1]);
        let found = Position::of(&ln(&p), &ln(&q), 1).unwrap();
        let kl = 0.7 * (0.7f64 / 0.3).ln() + 0.2 * (0.2f64 / 0.6).ln();
        close(found.kl, kl);
        close(found.nll[0], -(0.2f64).ln());
        close(found.nll[1], -(0.6f64).ln());
        close(found.confidence, 0.7);
        assert!(!found.same_top1);
        assert_eq!(Position::of(&[0.0, f32::NAN], &[0.0, 1.0], 0), None);
        assert_eq!(Position::of(&[0.0, 1.0], &[0.0, 1.0], 2), None);
    }

    #[test]
    fn a_text_is_summed_up_with_its_windows_as_units() {
        let (sure, unsure) = (ln(&[0.98, 0.01, 0.01]), ln(&[0.4, 0.3, 0.3]));
        let half = ln(&[0.5, 0.25, 0.25]);
        let at = |r: &[f32], s: &[f32]| Position::of(r, s, 0).unwrap();
        let windows = [vec![at(&sure, &half), at(&unsure, &unsure)], vec![at(&unsure, &half)]];
        let loss = sum_up(&windows).unwrap();
        let d = [(0.98f64 / 0.5).ln(), 0.0, (0.4f64 / 0.5).ln()];
        close(loss.ln_ppl_ratio, d.iter().sum::<f64>() / 3.0);
        let kl = |r: [f64; 3]| {
            r.iter().zip([0.5, 0.25, 0.25]).map(|(p, q)| p * (p / q).ln()).sum::<f64>()
        };
        let kls = [kl([0.98, 0.01, 0.01]), 0.0, kl([0.4, 0.3, 0.3])];
        close(loss.kl.mean, kls.iter().sum::<f64>() / 3.0);
        close(loss.kl.median, kls[2]);
        close(loss.rms_delta_p, ((0.48f64.powi(2) + 0.01) / 3.0).sqrt());
        close(loss.top1, 1.0);
        let counts: Vec<u32> = loss.kl_by_confidence.iter().map(|b| b.positions).collect();
        assert_eq!(counts, [2, 0, 1, 0]);
        // Two windows of 2 and 1 positions: residuals r₁ + r₂ and r₃ about the mean.
        let mean = loss.ln_ppl_ratio;
        let (a, b) = (d[0] + d[1] - 2.0 * mean, d[2] - mean);
        close(loss.ln_ppl_ratio_se.unwrap(), (2.0 * (a * a + b * b)).sqrt() / 3.0);
        let [reference, subject] = perplexities(&windows).unwrap();
        close((subject / reference).ln(), mean);
        assert_eq!(sum_up(&[]), None);
        assert_eq!(sum_up(&windows[1..]).unwrap().kl_se, None, "one window");
    }

    #[test]
    fn equal_rows_lose_nothing() {
        let row: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 / 7.0).collect();
        let windows = [vec![Position::of(&row, &row, 5).unwrap(); 4], vec![]];
        let loss = sum_up(&windows).unwrap();
        assert_eq!(
            (loss.kl.mean, loss.ln_ppl_ratio, loss.rms_delta_p, loss.top1),
            (0.0, 0.0, 0.0, 1.0)
        );
    }
}
