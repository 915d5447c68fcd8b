//! The rank-sum test of Wilcoxon (1945) and Mann and Whitney (1947), at any shift, with the null
//! distribution of the plan: ranks are dealt out over all launches, or within each block.

use super::blocks::Blocks;
use super::counting::{self, Tails};
use super::{Ask, Layout};
use crate::{Interval, student};

/// Logarithms that differ by less are equal: the rounding of a division and two logarithms.
pub(super) const TIE: f64 = 1e-12;
/// Up to this many pairs, the estimate and the interval are looked up among their differences.
const MOST_DIFFERENCES: usize = 20_000;

/// Two samples, sorted.
#[derive(Debug)]
pub(super) struct RankSum {
    worse: Vec<Value>,
    other: Vec<Value>,
    /// Present if ranks are dealt out within blocks.
    blocks: Option<Blocks>,
    /// The differences of all pairs, sorted; absent if there are too many.
    differences: Option<Vec<f64>>,
}

#[derive(Debug, Clone, Copy)]
struct Value {
    value: f64,
    block: usize,
}

/// What one pass over both samples finds.
pub(super) struct Merged {
    /// Twice the number of pairs in which the value of `worse` is greater; a tie is half a pair.
    doubled_u: usize,
    /// The sizes of the groups of equal values, in rising order.
    groups: Vec<usize>,
    /// Of each sample's doubled placements (how many values of the other sample lie below a value):
    /// their sum and their sum of squares.
    placements: [[f64; 2]; 2],
    /// Doubled midranks of all values by block; empty without blocks.
    ranks: Vec<Vec<usize>>,
}

impl RankSum {
    /// `None` if a block number is missing, or if no block holds both sides.
    pub fn new(worse: &[f64], other: &[f64], layout: Layout<'_>) -> Option<Self> {
        let blocks = match layout {
            Layout::Independent => None,
            Layout::Blocks { worse: of_worse, other: of_other } => {
                if of_worse.len() != worse.len() || of_other.len() != other.len() {
                    return None;
                }
                Some(Blocks::new(of_worse, of_other)?)
            }
        };
        let sorted = |values: &[f64], side: usize| {
            let block = |i: usize| blocks.as_ref().map_or(0, |b| b.of_value[side][i]);
            let mut all: Vec<Value> = values
                .iter()
                .enumerate()
                .map(|(i, &value)| Value { value, block: block(i) })
                .collect();
            all.sort_unstable_by(|a, b| a.value.total_cmp(&b.value));
            all
        };
        let (worse, other) = (sorted(worse, 0), sorted(other, 1));
        let differences = (worse.len() * other.len() <= MOST_DIFFERENCES).then(|| {
            let pairs = worse.iter().flat_map(|a| other.iter().map(move |b| a.value - b.value));
            let mut all: Vec<f64> = pairs.collect();
            all.sort_unstable_by(f64::total_cmp);
            all
        });
        Some(Self { worse, other, blocks, differences })
    }

    /// The statistic minus its expectation.
    fn excess(&self, shift: f64) -> f64 {
        let merged = self.merged(shift);
        match &self.blocks {
            None => merged.doubled_u as f64 - (self.worse.len() * self.other.len()) as f64,
            Some(blocks) => self.rank_sum(&merged) as f64 - blocks.moments(&merged.ranks).0,
        }
    }

    /// The sum of the doubled ranks of `worse`.
    fn rank_sum(&self, merged: &Merged) -> usize {
        merged.doubled_u + self.worse.len() * (self.worse.len() + 1)
    }

    pub fn merged(&self, shift: f64) -> Merged {
        let (a, b) = (&self.worse, &self.other);
        let (mut i, mut j, mut doubled_u) = (0, 0, 0);
        let mut groups = Vec::with_capacity(a.len() + b.len());
        let mut placements = [[0.0; 2]; 2];
        let mut ranks: Vec<Vec<usize>> = self
            .blocks
            .iter()
            .flat_map(|b| &b.sides)
            .map(|s| Vec::with_capacity(s[0] + s[1]))
            .collect();
        while i < a.len() || j < b.len() {
            let next_a = a.get(i).map_or(f64::INFINITY, |x| x.value - shift);
            let next_b = b.get(j).map_or(f64::INFINITY, |x| x.value);
            let limit = next_a.min(next_b) + TIE;
            let of_a = a[i..].iter().take_while(|x| x.value - shift <= limit).count();
            let of_b = b[j..].iter().take_while(|x| x.value <= limit).count();
            let size = of_a + of_b;
            if self.blocks.is_some() {
                let rank = 2 * (i + j) + size + 1;
                let equal = a[i..i + of_a].iter().chain(&b[j..j + of_b]);
                equal.for_each(|x| ranks[x.block].push(rank));
            }
            doubled_u += of_a * (2 * j + of_b);
            for (side, count, place) in [(0, of_a, 2 * j + of_b), (1, of_b, 2 * i + of_a)] {
                placements[side][0] += (count * place) as f64;
                placements[side][1] += (count * place * place) as f64;
            }
            groups.push(size);
            (i, j) = (i + of_a, j + of_b);
        }
        Merged { doubled_u, groups, placements, ranks }
    }

    /// The tails if every way to deal out the ranks is equally likely.
    pub fn dealt_over_all(&self, merged: &Merged) -> Tails {
        let (n, m) = (self.worse.len(), self.other.len());
        let tied = merged.groups.iter().any(|g| *g > 1);
        if !tied && let Some(below) = counting::untied(n, m) {
            let u = merged.doubled_u / 2;
            return Tails { below: below[u], above: below[n * m - u] };
        }
        if tied {
            // The smaller sample is quicker to count.
            let exact = match n <= m {
                true => counting::tied(&merged.groups, n, self.rank_sum(merged)),
                false => {
                    let others = 2 * n * m - merged.doubled_u;
                    let exact = counting::tied(&merged.groups, m, others + m * (m + 1));
                    exact.map(|t| Tails { above: t.below, below: t.above })
                }
            };
            if let Some(exact) = exact {
                return exact;
            }
        }
        let all = (n + m) as f64;
        let ties: f64 = merged.groups.iter().map(|g| (*g as f64).powi(3) - *g as f64).sum();
        // Of the doubled statistic, which moves in steps of two.
        let variance = (n * m) as f64 / 3.0 * (all + 1.0 - ties / (all * (all - 1.0)));
        counting::normal(merged.doubled_u as f64 - (n * m) as f64, variance)
    }

    /// The tails if each side scatters in its own way (Brunner and Munzel 2000): each side's
    /// placements are weighed by their own variance, so that a hundred launches of one side lend no
    /// certainty to five of the other.
    pub fn unequal(&self, merged: &Merged) -> Tails {
        let sizes = [self.worse.len() as f64, self.other.len() as f64];
        // Variance of a side's mean placement, as a share of the other side.
        let spread = |side: usize| {
            let (own, others) = (sizes[side], sizes[1 - side]);
            let [sum, squares] = merged.placements[side];
            (squares - sum * sum / own).max(0.0) / (own - 1.0) / own / (4.0 * others * others)
        };
        let (a, b) = (spread(0), spread(1));
        let variance = a + b;
        if variance < 1e-20 {
            // All of one side lies beyond the other, or all values are equal: says nothing.
            return Tails { above: 0.0, below: 0.0 };
        }
        let df = variance * variance / (a * a / (sizes[0] - 1.0) + b * b / (sizes[1] - 1.0));
        let excess = merged.doubled_u as f64 / (2.0 * sizes[0] * sizes[1]) - 0.5;
        let t = excess / variance.sqrt();
        let tail = |t| student::upper_tail(t, df).unwrap_or(0.0);
        Tails { above: tail(t), below: tail(-t) }
    }

    /// The difference at which a property that holds at low shifts ceases to hold. It can change
    /// only at a difference, so it is asked between them.
    fn edge(&self, holds: impl Fn(f64) -> bool) -> f64 {
        let Some(differences) = &self.differences else { return self.bisected(holds) };
        let last = differences.len() - 1;
        let (mut low, mut high) = (0, last);
        while low < high {
            let middle = (low + high) / 2;
            // Equal differences have nothing between them.
            let mut next = middle + 1;
            while next < last && differences[next] - differences[middle] <= 2.0 * TIE {
                next += 1;
            }
            if holds(0.5 * (differences[middle] + differences[next])) {
                low = next;
            } else {
                high = middle;
            }
        }
        differences[low]
    }

    /// The same to a hundred-millionth of the range of the differences.
    fn bisected(&self, holds: impl Fn(f64) -> bool) -> f64 {
        let ends = |values: &[Value]| (values[0].value, values[values.len() - 1].value);
        let ((least_a, most_a), (least_b, most_b)) = (ends(&self.worse), ends(&self.other));
        let (mut low, mut high) = (least_a - most_b, most_a - least_b);
        for _ in 0..28 {
            let middle = 0.5 * (low + high);
            if holds(middle) { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }
}

impl Ask for RankSum {
    /// The shift at which the statistic is what chance makes it on average. Over all launches, or
    /// in blocks that hold both sides in the same proportion, that is the median of the differences
    /// of all pairs (Hodges and Lehmann 1963).
    fn estimate(&self) -> f64 {
        let low = self.edge(|shift| self.excess(shift) > 0.0);
        let high = self.edge(|shift| self.excess(shift) >= 0.0);
        0.5 * (low + high)
    }

    fn tails(&self, shift: f64) -> Tails {
        let merged = self.merged(shift);
        let Some(blocks) = &self.blocks else {
            let (alike, unequal) = (self.dealt_over_all(&merged), self.unequal(&merged));
            return Tails {
                above: alike.above.max(unequal.above),
                below: alike.below.max(unequal.below),
            };
        };
        blocks.dealt_within(&merged.ranks, self.rank_sum(&merged))
    }

    fn interval(&self, tail: f64) -> Interval {
        let low = self.edge(|shift| self.tails(shift).above < tail);
        let high = self.edge(|shift| self.tails(shift).below >= tail);
        Interval { low, high }
    }

    fn least_p(&self) -> f64 {
        let n = self.worse.len();
        match &self.blocks {
            None => 1.0 / counting::ways(n + self.other.len(), n),
            Some(blocks) => blocks.least_p(),
        }
    }
}
