//! Measures how far one engine's vectors and hidden states are from another's, and judges the
//! distance. Works on two streams of rows; runs no engine and opens no file.

use std::io::{self, Read};

use super::divergence::{floats, limit_for};
use crate::record::{Distance, FreeRunning, Limit, Precision, Vectors, Verdict};

/// Sums over rows.
#[derive(Debug, Clone, Copy)]
struct Sums {
    error: f64,
    power: f64,
    max_abs: f64,
    cosine_min: f64,
}

impl Sums {
    const NONE: Self = Self { error: 0.0, power: 0.0, max_abs: 0.0, cosine_min: 1.0 };

    fn add(&mut self, reference: &[f32], subject: &[f32]) {
        let (mut dot, mut r2, mut s2) = (0.0, 0.0, 0.0);
        for (r, s) in reference.iter().zip(subject).map(|(r, s)| (f64::from(*r), f64::from(*s))) {
            dot += r * s;
            r2 += r * r;
            s2 += s * s;
            self.error += (s - r) * (s - r);
            self.max_abs = self.max_abs.max((s - r).abs());
        }
        self.power += r2;
        let lengths = (r2 * s2).sqrt();
        let cosine = if lengths > 0.0 { dot / lengths } else { f64::from(u8::from(r2 == s2)) };
        self.cosine_min = self.cosine_min.min(cosine);
    }

    fn distance(self) -> Option<Distance> {
        let Self { error, power, max_abs, cosine_min } = self;
        let nmse = if error == 0.0 { 0.0 } else { error / power };
        nmse.is_finite().then_some(Distance { nmse, max_abs, cosine_min })
    }
}

/// Compares `rows` rows of `columns` f32. `None` if a value is not finite or the reference is all
/// zero.
///
/// # Errors
/// A file ends early, or a read fails.
pub fn distance(
    mut reference: impl Read,
    mut subject: impl Read,
    (rows, columns): (usize, usize),
) -> io::Result<Option<Distance>> {
    let (mut a, mut b) = (vec![0u8; 4 * columns], vec![0u8; 4 * columns]);
    let (mut sums, mut finite) = (Sums::NONE, true);
    for _ in 0..rows {
        reference.read_exact(&mut a)?;
        subject.read_exact(&mut b)?;
        let (r, s) = (floats(&a), floats(&b));
        finite &= r.iter().chain(&s).all(|x| x.is_finite());
        sums.add(&r, &s);
    }
    Ok(sums.distance().filter(|_| finite))
}

/// How many rows have their largest value in the same column: the labels of a classifier.
///
/// # Errors
/// A file ends early, or a read fails.
pub fn same_labels(
    mut reference: impl Read,
    mut subject: impl Read,
    (rows, columns): (usize, usize),
) -> io::Result<FreeRunning> {
    let (mut a, mut b) = (vec![0u8; 4 * columns], vec![0u8; 4 * columns]);
    let mut agree = 0;
    for _ in 0..rows {
        reference.read_exact(&mut a)?;
        subject.read_exact(&mut b)?;
        agree += u32::from(label(&floats(&a)) == label(&floats(&b)));
    }
    Ok(FreeRunning { agree, of: rows as u32 })
}

/// The column of the largest value, the first among equals.
pub fn label(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// The limit for the precision that an engine declares. Vectors have length 1, so that an NMSE is
/// twice one less the cosine: 2e-5 is a cosine of 0.99999, and 2e-3 one of 0.999.
pub fn limit(precision: &Precision) -> Limit {
    /// The limits of logits are for sums over thousands of values; these are those of a cosine.
    const FLOAT32: f64 = 2e-5;
    const COARSE: f64 = 2e-3;
    let Limit { of, .. } = limit_for(precision);
    let is_coarse = of.contains("int8") || of.contains("bf16");
    Limit { nmse: if is_coarse { COARSE } else { FLOAT32 }, of }
}

/// The verdict and, for a failure, the reason: where the error begins shows what kind of error it
/// is.
pub fn judge(vectors: &Vectors, limit: &Limit) -> (Verdict, Option<String>) {
    let Distance { nmse, cosine_min, .. } = vectors.distance;
    if nmse <= limit.nmse {
        return (Verdict::Pass, None);
    }
    let numbers = format!(
        "NMSE {nmse:.1e}, limit {:.0e} for {}; lowest cosine {cosine_min:.5}",
        limit.nmse, limit.of
    );
    let begin = vectors.layers.iter().position(|layer| layer.nmse > limit.nmse);
    let place = match (begin, vectors.layers.is_empty()) {
        (_, true) => "the engine shows no hidden states".into(),
        (Some(0), _) => {
            "wrong from the embeddings on: tokens, positions, token types or their norm".into()
        }
        (Some(n), _) => format!(
            "right up to layer {}, wrong behind layer {n}: weights, their order, the mask or a norm",
            n - 1
        ),
        (None, _) => {
            "hidden states are right, the vectors are wrong: pooling, length or classifier".into()
        }
    };
    (Verdict::Fail, Some(format!("{numbers}; {place}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(rows: &[[f32; 2]]) -> Vec<u8> {
        rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn between(a: &[[f32; 2]], b: &[[f32; 2]]) -> Option<Distance> {
        distance(&bytes(a)[..], &bytes(b)[..], (a.len(), 2)).unwrap()
    }

    #[test]
    fn the_distance_is_that_of_the_definitions() {
        let d = between(&[[3.0, 4.0], [1.0, 0.0]], &[[3.0, 4.0], [0.0, 1.0]]).unwrap();
        assert!((d.nmse - 2.0 / 26.0).abs() < 1e-12);
        assert_eq!((d.max_abs, d.cosine_min), (1.0, 0.0));
        let same = between(&[[3.0, 4.0]], &[[3.0, 4.0]]).unwrap();
        assert_eq!((same.nmse, same.max_abs), (0.0, 0.0));
        assert!((same.cosine_min - 1.0).abs() < 1e-12);
        assert!(between(&[[f32::NAN, 1.0]], &[[0.0, 1.0]]).is_none());
        assert!(between(&[[0.0, 0.0]], &[[0.0, 1.0]]).is_none());
        assert!(distance(&bytes(&[[1.0, 1.0]])[..], &[][..], (1, 2)).is_err());
    }

    #[test]
    fn the_reason_names_the_place_where_the_error_begins() {
        let good = Distance { nmse: 1e-9, max_abs: 0.0, cosine_min: 1.0 };
        let bad = Distance { nmse: 0.5, max_abs: 1.0, cosine_min: 0.5 };
        let limit = Limit { nmse: 2e-5, of: "float32 arithmetic".into() };
        let said = |distance: Distance, layers: Vec<Distance>| {
            let vectors = Vectors { texts: 2, columns: 2, distance, labels: None, layers };
            judge(&vectors, &limit)
        };
        assert_eq!(said(good, vec![bad]), (Verdict::Pass, None));
        for (layers, word) in [
            (vec![bad, bad, bad], "from the embeddings on"),
            (vec![good, good, bad], "up to layer 1, wrong behind layer 2"),
            (vec![good, good, good], "pooling"),
            (vec![], "no hidden states"),
        ] {
            let (verdict, reason) = said(bad, layers);
            let reason = reason.unwrap();
            assert!(verdict == Verdict::Fail && reason.contains(word), "{reason}");
        }
    }
}
