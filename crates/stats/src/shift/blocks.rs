//! Blocks of launches, such as ABBA, within which ranks are dealt out.

use std::collections::BTreeMap;

use super::counting::{self, Tails};

/// Up to this many blocks are counted; beyond, the normal approximation is used.
const MOST_BLOCKS: usize = 10;
/// The largest block that is counted; a planned block of two sides has four launches.
const MOST_IN_A_BLOCK: usize = 12;

/// Which value is in which block. Every block holds both sides.
#[derive(Debug)]
pub(super) struct Blocks {
    /// The block of each value of `worse` and of `other`, from 0.
    pub of_value: [Vec<usize>; 2],
    /// How many values of `worse` and of `other` each block holds.
    pub sides: Vec<[usize; 2]>,
}

impl Blocks {
    /// Joins a block that lacks a side (its launches failed) with the block before it, so that every
    /// launch stays. Numbers need not be consecutive. `None` if a side is empty.
    pub fn new(worse: &[u32], other: &[u32]) -> Option<Self> {
        if worse.is_empty() || other.is_empty() {
            return None;
        }
        let mut counts: BTreeMap<u32, [usize; 2]> = BTreeMap::new();
        for (side, numbers) in [worse, other].into_iter().enumerate() {
            numbers.iter().for_each(|number| counts.entry(*number).or_default()[side] += 1);
        }
        let mut sides: Vec<[usize; 2]> = Vec::new();
        let mut place = BTreeMap::new();
        for (number, count) in counts {
            match sides.last_mut() {
                Some(last) if last.contains(&0) || count.contains(&0) => {
                    *last = [last[0] + count[0], last[1] + count[1]];
                }
                _ => sides.push(count),
            }
            place.insert(number, sides.len() - 1);
        }
        let of = |numbers: &[u32]| numbers.iter().map(|n| place[n]).collect();
        Some(Self { of_value: [of(worse), of(other)], sides })
    }

    /// The tails of `observed`, the sum of the doubled ranks of `worse`, if every way to deal out
    /// the ranks within the blocks is equally likely.
    pub fn dealt_within(&self, ranks: &[Vec<usize>], observed: usize) -> Tails {
        let small = ranks.iter().all(|block| block.len() <= MOST_IN_A_BLOCK);
        if self.sides.len() <= MOST_BLOCKS && small {
            let blocks: Vec<(&[usize], usize)> =
                ranks.iter().zip(&self.sides).map(|(ranks, [n, _])| (&ranks[..], *n)).collect();
            return counting::blocked(&blocks, observed);
        }
        let (expected, variance) = self.moments(ranks);
        counting::normal(observed as f64 - expected, variance)
    }

    /// Expectation and variance of the sum of the doubled ranks of `worse`.
    pub fn moments(&self, ranks: &[Vec<usize>]) -> (f64, f64) {
        let (mut expected, mut variance) = (0.0, 0.0);
        for (ranks, [n, m]) in ranks.iter().zip(&self.sides) {
            let (all, n, m) = (ranks.len() as f64, *n as f64, *m as f64);
            let mean = ranks.iter().sum::<usize>() as f64 / all;
            let squares: f64 = ranks.iter().map(|r| (*r as f64 - mean).powi(2)).sum();
            expected += n * mean;
            variance += n * m / all * squares / (all - 1.0);
        }
        (expected, variance)
    }

    /// One way out of all.
    pub fn least_p(&self) -> f64 {
        self.sides.iter().map(|[n, m]| 1.0 / counting::ways(n + m, *n)).product()
    }
}
