//! The control percentile test (Mathisen 1943 for the median, Gastwirth and Wang 1988): how many
//! values of one side lie beyond the percentile of the other, with launches as the units that are
//! dealt out.
//!
//! A launch gives many values, and they share its luck, so a pooled percentile has no test of its
//! own. Here each launch has a score: how many of its values lie beyond the percentile of the side
//! that is taken to be the lower one. If the sides differ by the shift alone, every way to deal the
//! scores out is about equally likely, however alike the values of one launch are.

use super::blocks::Blocks;
use super::counting::{self, Tails};
use super::rank_sum::TIE;
use super::{Ask, Layout};
use crate::{Interval, student};

/// Up to this many additions a distribution is counted; beyond, the normal approximation is used.
const MOST_ADDITIONS: usize = 300_000;

/// Both sides' values, greatest first, with the launch of each.
#[derive(Debug)]
pub(super) struct Exceedance {
    sides: [Vec<(f64, usize)>; 2],
    /// How many launches each side has.
    launches: [usize; 2],
    /// How many values of each side its percentile leaves at or beyond it.
    beyond: [usize; 2],
    blocks: Option<Blocks>,
}

impl Exceedance {
    /// `sides` are the logarithms of each launch, of `worse` and of `other`. `None` with fewer than
    /// two launches on a side, a launch without values, a block number missing, or so few values
    /// that none is beyond the quantile.
    pub fn new(sides: [&[Vec<f64>]; 2], layout: Layout<'_>, quantile: f64) -> Option<Self> {
        let launches = sides.map(<[_]>::len);
        let values = sides.map(|side| side.iter().map(Vec::len).sum::<usize>());
        // A hair more, so that a hundredth of 200 is two.
        let beyond = values.map(|n| ((1.0 - quantile) * n as f64 + 1e-9).floor() as usize);
        let empty = sides.iter().flat_map(|s| s.iter()).any(Vec::is_empty);
        if launches.iter().any(|n| *n < 2) || empty || beyond.contains(&0) {
            return None;
        }
        let blocks = match layout {
            Layout::Independent => None,
            Layout::Blocks { worse, other } => {
                if [worse.len(), other.len()] != launches {
                    return None;
                }
                Some(Blocks::new(worse, other)?)
            }
        };
        let sorted = sides.map(|side| {
            let mut all: Vec<(f64, usize)> = side
                .iter()
                .enumerate()
                .flat_map(|(launch, values)| values.iter().map(move |v| (*v, launch)))
                .collect();
            all.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
            all
        });
        Some(Self { sides: sorted, launches, beyond, blocks })
    }

    /// A side's percentile.
    fn percentile(&self, side: usize) -> f64 {
        self.sides[side][self.beyond[side] - 1].0
    }

    /// The score of each launch if `worse` is moved down by `shift`: how many of its values are at
    /// or beyond the percentile of the side `control`.
    fn scores(&self, shift: f64, control: usize) -> [Vec<usize>; 2] {
        let down = [shift, 0.0];
        let limit = self.percentile(control) - down[control] - TIE;
        [0, 1].map(|side| {
            let mut scores = vec![0; self.launches[side]];
            let values = self.sides[side].iter();
            for (_, launch) in values.take_while(|(v, _)| v - down[side] >= limit) {
                scores[*launch] += 1;
            }
            scores
        })
    }

    fn dealt_over_all(&self, scores: &[Vec<usize>; 2]) -> Tails {
        let all: Vec<usize> = scores.concat();
        let (n, observed) = (scores[0].len(), scores[0].iter().sum::<usize>());
        let total: usize = all.iter().sum();
        if all.len() * n * (total + 1) <= MOST_ADDITIONS {
            return counting::dealt(&all, n, observed);
        }
        let (m, all_n) = (scores[1].len() as f64, all.len() as f64);
        let mean = total as f64 / all_n;
        let squares: f64 = all.iter().map(|s| (*s as f64 - mean).powi(2)).sum();
        let variance = n as f64 * m / all_n * squares / (all_n - 1.0);
        // Of the doubled sum, as the correction for continuity takes it.
        counting::normal(2.0 * (observed as f64 - n as f64 * mean), 4.0 * variance)
    }

    /// Where a property that holds at low shifts ceases to hold, to a millionth of the range.
    fn edge(&self, holds: impl Fn(f64) -> bool) -> f64 {
        let ends = |side: &[(f64, usize)]| (side[side.len() - 1].0, side[0].0);
        let [(least_a, most_a), (least_b, most_b)] = self.sides.each_ref().map(|s| ends(s));
        let (mut low, mut high) = (least_a - most_b, most_a - least_b);
        for _ in 0..20 {
            let middle = 0.5 * (low + high);
            if holds(middle) { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }
}

impl Ask for Exceedance {
    /// The difference of the two percentiles.
    fn estimate(&self) -> f64 {
        self.percentile(0) - self.percentile(1)
    }

    /// P of as many values of `worse` beyond the percentile of the other side, and of as many of the
    /// other side beyond that of `worse`.
    fn tails(&self, shift: f64) -> Tails {
        let of = |control| {
            let scores = self.scores(shift, control);
            match &self.blocks {
                None => {
                    let (alike, unequal) = (self.dealt_over_all(&scores), unequal(&scores));
                    Tails {
                        above: alike.above.max(unequal.above),
                        below: alike.below.max(unequal.below),
                    }
                }
                Some(blocks) => {
                    let (doubled, observed) = in_blocks(blocks, &scores);
                    blocks.dealt_within(&doubled, observed)
                }
            }
        };
        Tails { above: of(1).above, below: of(0).below }
    }

    fn interval(&self, tail: f64) -> Interval {
        let low = self.edge(|shift| self.tails(shift).above < tail);
        let high = self.edge(|shift| self.tails(shift).below >= tail);
        let estimate = self.estimate();
        Interval { low: low.min(estimate), high: high.max(estimate) }
    }

    fn least_p(&self) -> f64 {
        match &self.blocks {
            None => 1.0 / counting::ways(self.launches[0] + self.launches[1], self.launches[0]),
            Some(blocks) => blocks.least_p(),
        }
    }
}

/// Doubled scores by block, and the doubled sum of `worse`.
fn in_blocks(blocks: &Blocks, scores: &[Vec<usize>; 2]) -> (Vec<Vec<usize>>, usize) {
    let mut doubled: Vec<Vec<usize>> = blocks.sides.iter().map(|_| Vec::new()).collect();
    for (scores, of_launch) in scores.iter().zip(&blocks.of_value) {
        scores.iter().zip(of_launch).for_each(|(score, block)| doubled[*block].push(2 * score));
    }
    (doubled, 2 * scores[0].iter().sum::<usize>())
}

/// The tails by Welch's t of the scores: each side scatters in its own way, so that a hundred
/// launches of one side lend no certainty to five of the other.
fn unequal(scores: &[Vec<usize>; 2]) -> Tails {
    let [a, b] = scores.each_ref().map(|side| {
        let n = side.len() as f64;
        let mean = side.iter().sum::<usize>() as f64 / n;
        let squares: f64 = side.iter().map(|s| (*s as f64 - mean).powi(2)).sum();
        (mean, squares / (n - 1.0) / n, n - 1.0)
    });
    let variance = a.1 + b.1;
    if variance <= 0.0 {
        return Tails { above: 0.0, below: 0.0 };
    }
    let df = variance * variance / (a.1 * a.1 / a.2 + b.1 * b.1 / b.2);
    let t = (a.0 - b.0) / variance.sqrt();
    let tail = |t| student::upper_tail(t, df).unwrap_or(0.0);
    Tails { above: tail(t), below: tail(-t) }
}
