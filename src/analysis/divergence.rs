//! Measures how far one engine's teacher-forced logits are from another's, and judges the distance.
//! Works on two streams of rows; runs no engine and opens no file.

use std::io::{self, Read};

use rayon::prelude::*;

use super::softmax::{self, Compared};
use crate::record::{Divergence, Limit, Precision, Verdict};
use crate::stats::Sample;

/// A different argmax counts only where the reference's best logit leads by more than this many
/// RMS errors: closer than that, rounding decides.
const DECIDED: f64 = 4.0;
/// Positions per band; the error of each band is reported separately.
const BAND: usize = 64;

/// The contribution of one position.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    error: f64,
    power: f64,
    sum: f64,
    max_abs: f64,
    kl: f64,
    same_top1: bool,
    overlap5: u32,
    /// The reference's best logit less its second best.
    lead: f64,
    n: usize,
}

impl Position {
    /// Compares one row. `None` if a logit is not finite or the rows differ in length.
    pub fn of(reference: &[f32], subject: &[f32]) -> Option<Self> {
        if reference.len() != subject.len() || reference.len() < 2 {
            return None;
        }
        let Compared { kl, .. } = softmax::compare(reference, subject)?;
        let (mut error, mut power, mut sum, mut max_abs) = (0f64, 0f64, 0f64, 0f64);
        for (&r, &s) in reference.iter().zip(subject) {
            let d = f64::from(s) - f64::from(r);
            error += d * d;
            power += f64::from(r) * f64::from(r);
            sum += f64::from(r);
            max_abs = max_abs.max(d.abs());
        }
        let (best_r, best_s) = (largest5(reference), largest5(subject));
        let overlap5 = best_r.iter().filter(|i| best_s.contains(i)).count() as u32;
        Some(Self {
            error,
            power,
            sum,
            max_abs,
            kl,
            same_top1: best_r[0] == best_s[0],
            overlap5,
            lead: f64::from(reference[best_r[0]]) - f64::from(reference[best_r[1]]),
            n: reference.len(),
        })
    }
}

/// Indices of the five largest values, the largest first, the lower index of equals first.
fn largest5(row: &[f32]) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(6);
    for (i, &x) in row.iter().enumerate() {
        if best.len() == 5 && x <= row[best[4]] {
            continue;
        }
        let at = best.iter().position(|&b| x > row[b]).unwrap_or(best.len());
        best.insert(at, i);
        best.truncate(5);
    }
    best
}

/// Sums the positions up in order. `None` if there are none.
pub fn sum_up(positions: &[Position], decoded: u32) -> Option<Divergence> {
    let n = positions.len();
    let logits: f64 = positions.iter().map(|p| p.n as f64).sum();
    let power: f64 = positions.iter().map(|p| p.power).sum();
    let error: f64 = positions.iter().map(|p| p.error).sum();
    let sum: f64 = positions.iter().map(|p| p.sum).sum();
    let rms = (error / logits).sqrt();
    let kl: Vec<f64> = positions.iter().map(|p| p.kl).collect();
    let kl = Sample::new(&kl).ok()?;
    let decided = positions.iter().filter(|p| p.lead > DECIDED * rms);
    let flipped = decided.clone().filter(|p| !p.same_top1).count() as u32;
    let d = (decoded as usize).min(n);
    let before = &positions[(n - d).saturating_sub(d)..n - d];
    Some(Divergence {
        positions: n as u32,
        decoded,
        nmse: nmse(positions)?,
        nmse_decoded: nmse(&positions[n - d..]),
        nmse_before_decoded: if d > 0 { nmse(before) } else { None },
        nmse_at_0: nmse(&positions[..1])?,
        nmse_early: nmse(&positions[..BAND.min(n)])?,
        nmse_late: nmse(&positions[n.saturating_sub(BAND)..])?,
        max_abs: positions.iter().map(|p| p.max_abs).fold(0.0, f64::max),
        kl_mean: kl.mean(),
        kl_p999: kl.quantile(0.999),
        top1: share(positions.iter().filter(|p| p.same_top1).count(), n),
        top5: positions.iter().map(|p| f64::from(p.overlap5)).sum::<f64>() / (5 * n) as f64,
        decided: decided.count() as u32,
        flipped,
        logit_sd: (power / logits - (sum / logits).powi(2)).max(0.0).sqrt(),
    })
}

fn nmse(positions: &[Position]) -> Option<f64> {
    let power: f64 = positions.iter().map(|p| p.power).sum();
    let error: f64 = positions.iter().map(|p| p.error).sum();
    match (error, power) {
        (0.0, _) if !positions.is_empty() => Some(0.0),
        (e, p) if p > 0.0 => Some(e / p),
        _ => None,
    }
}

fn share(part: usize, of: usize) -> f64 {
    part as f64 / of as f64
}

/// Reads two files of f32 rows `[n_vocab]` side by side and compares them position by position.
///
/// # Errors
/// The files end at different positions, or a read fails.
pub fn compare(
    mut reference: impl Read,
    mut subject: impl Read,
    n_vocab: usize,
    n_positions: usize,
) -> io::Result<Vec<Result<Position, NotFinite>>> {
    /// Rows held at once: 16 MB for each file at a vocabulary of 128,256.
    const ROWS: usize = 32;
    let mut found = Vec::with_capacity(n_positions);
    let mut bytes = (vec![0u8; 4 * n_vocab * ROWS], vec![0u8; 4 * n_vocab * ROWS]);
    while found.len() < n_positions {
        let n = 4 * n_vocab * ROWS.min(n_positions - found.len());
        let (a, b) = (&mut bytes.0[..n], &mut bytes.1[..n]);
        reference.read_exact(a)?;
        subject.read_exact(b)?;
        let first = found.len();
        crate::threads::prepare_rayon();
        let rows = a.par_chunks_exact(4 * n_vocab).zip(b.par_chunks_exact(4 * n_vocab));
        let compared = rows.enumerate().map(|(i, (a, b))| {
            let (a, b) = (floats(a), floats(b));
            Position::of(&a, &b).ok_or_else(|| NotFinite {
                position: first + i,
                in_reference: a.iter().any(|x| !x.is_finite()),
            })
        });
        found.extend(compared.collect::<Vec<_>>());
    }
    Ok(found)
}

/// A position with a logit that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite {
    pub position: usize,
    /// Already in the reference: the subject is not to blame.
    pub in_reference: bool,
}

/// Little-endian f32.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    let word = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    bytes.chunks_exact(4).map(word).collect()
}

/// Up to this share of decided positions, a different argmax still counts as rounding.
const FLIPPED: f64 = 0.01;

/// The limit for the precision that an engine declares; docs/METHODOLOGY.md explains how the limits
/// were set.
pub fn limit_for(p: &Precision) -> Limit {
    let any = |name: &str| {
        [&p.compute, &p.kv].iter().any(|text| text.split('+').any(|part| part == name))
    };
    let (nmse, of) = if any("int8") {
        (INT8_NMSE, "int8 activations")
    } else if any("bf16") {
        (BF16_NMSE, "bf16 arithmetic")
    } else if any("f16") {
        (F16_NMSE, "f16 arithmetic or cache")
    } else {
        (F32_NMSE, "float32 arithmetic")
    };
    Limit { nmse, of: of.into() }
}

const INT8_NMSE: f64 = 1e-3;
const BF16_NMSE: f64 = 1e-3;
const F16_NMSE: f64 = 1e-5;
const F32_NMSE: f64 = 1e-9;

/// The NMSE that the limit applies to: the largest of those over all positions, the decoded ones
/// and the last ones.
pub fn worst(d: &Divergence) -> f64 {
    [Some(d.nmse), d.nmse_decoded, Some(d.nmse_late)].into_iter().flatten().fold(0.0, f64::max)
}

/// The verdict and, for a failure, the reason in words.
pub fn judge(d: &Divergence, limit: &Limit) -> (Verdict, Option<String>) {
    let worst = worst(d);
    let flips = f64::from(d.flipped) > FLIPPED * f64::from(d.decided);
    if worst <= limit.nmse && !flips {
        return (Verdict::Pass, None);
    }
    (Verdict::Fail, Some(reason(d, limit, worst)))
}

/// If the error grows by more than this from the first positions to the last, it grows with
/// distance.
const GROWTH: f64 = 4.0;

/// The place where the error begins shows what kind of error it is.
fn reason(d: &Divergence, limit: &Limit, worst: f64) -> String {
    let numbers = match worst > limit.nmse {
        true => format!("NMSE {worst:.1e}, limit {:.0e} for {}", limit.nmse, limit.of),
        false => format!("another argmax at {} of {} decided positions", d.flipped, d.decided),
    };
    let decode_only = d.nmse_before_decoded.is_some_and(|before| {
        before <= limit.nmse && d.nmse_decoded.is_some_and(|decoded| decoded > 10.0 * before)
    });
    let place = if d.nmse_at_0 > limit.nmse {
        "wrong from position 0 on, where neither rope nor other positions play a part: weights, \
         their order of layers, a norm or the head"
    } else if decode_only {
        "right as a prompt, wrong in decode steps: the cache or the position of a step"
    } else if d.nmse_late > GROWTH * d.nmse_early {
        "right for the first positions and worse with distance: rope (its base or its scaling) or \
         a limit on the context"
    } else {
        "right at position 0 and wrong from there on: attention (the order of query and key rows, \
         positions, mask), or what a first token hides, such as a norm's epsilon"
    };
    format!("{numbers}; {place}")
}

#[cfg(test)]
mod tests;
