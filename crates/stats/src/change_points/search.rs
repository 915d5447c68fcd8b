//! Chooses the stretches of a series: the partition with the least penalized likelihood, where the
//! autocorrelation and the variance of the noise are fitted together with the levels.
//!
//! For a given autocorrelation and variance the best partition is found exactly, by dynamic
//! programming (Jackson et al. 2005, the recursion of PELT). The likelihood is concave in the sum
//! of squares, so that each round with the new variance lowers the score (majorize, minimize).
//! Rounds from several autocorrelations make it unlikely that all end in a poor one.

use super::fit::{Stretch, Sums};
use crate::sample::median;

/// The autocorrelations that are tried.
const GRID: f64 = 0.05;
const MOST: f64 = 0.95;
const STARTS: [f64; 5] = [0.0, 0.3, 0.6, 0.8, 0.9];
const ROUNDS: usize = 6;
/// A spread of 0.001 % is no spread; also covers the rounding of sums.
pub(super) const FLOOR: f64 = 1e-10;
/// A ramp has at least this many sessions; what is shorter is a step.
const SHORTEST_RAMP: usize = 5;
/// Series up to this length are searched at every session, longer ones at this many.
pub(super) const CANDIDATES: usize = 256;

/// What one more stretch, and one ramp instead of a level, must gain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Prices {
    pub stretch: f64,
    /// Added for an autocorrelation of one, and in proportion for less.
    pub correlated: f64,
    pub ramp: f64,
    /// Taken off for a ramp between two stretches, which mostly meets them.
    pub joined: f64,
    /// Added for an autocorrelation of one, and in proportion for less, however many stretches.
    pub prior: f64,
}

impl Prices {
    /// For the plain likelihood.
    pub const NONE: Self =
        Self { stretch: 0.0, correlated: 0.0, ramp: 0.0, joined: 0.0, prior: 0.0 };

    /// The price of a ramp in a series of n values.
    fn of_ramp(self, start: usize, end: usize, n: usize) -> f64 {
        if start > 0 && end < n { self.ramp - self.joined } else { self.ramp }
    }

    /// The price of one more stretch, with the likelihood of its start.
    pub fn at(self, phi: f64) -> f64 {
        self.stretch + self.correlated * phi - (1.0 - phi * phi).ln()
    }
}

/// A partition with its likelihood.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fit {
    pub stretches: Vec<Stretch>,
    /// Autocorrelation and variance of the innovations.
    pub phi: f64,
    pub variance: f64,
    /// −2 ln likelihood, up to a constant, plus the prices.
    pub score: f64,
}

impl Fit {
    /// Fits the autocorrelation to given stretches.
    pub fn of(sums: &Sums, stretches: Vec<Stretch>, prices: Prices) -> Self {
        let n = sums.len() as f64;
        let more = (stretches.len() - 1) as f64;
        let ramps = stretches.iter().filter(|s| s.ramp);
        let ramps: f64 = ramps.map(|s| prices.of_ramp(s.start, s.end, sums.len())).sum();
        let steps = (MOST / GRID).round() as usize;
        let tried = (0..=steps).map(|i| {
            let phi = i as f64 * GRID;
            let variance = sums.cost(&stretches, phi) / n + FLOOR;
            let priced = prices.prior * phi + more * prices.at(phi) + ramps;
            (n * variance.ln() - (1.0 - phi * phi).ln() + priced, phi, variance)
        });
        let (score, phi, variance) = tried.min_by(|a, b| a.0.total_cmp(&b.0)).expect("a grid");
        Self { stretches, phi, variance, score }
    }
}

/// The partition with the least score.
pub(super) fn best(sums: &Sums, shortest: usize, prices: Prices) -> Fit {
    let n = sums.len();
    let level = Fit::of(sums, vec![Stretch { start: 0, end: n, ramp: false }], prices);
    let candidates = candidates(sums, shortest);
    let unit = spread(sums.values()).powi(2) + FLOOR;
    let mut best = level;
    for start in STARTS {
        // Neighbours differ by a variance of 2σ²(1 − φ), and σ²(1 − φ²) is the innovations'.
        let (mut phi, mut variance) = (start, unit * (1.0 + start));
        let mut before = Vec::new();
        for _ in 0..ROUNDS {
            let stretches = partition(sums, &candidates, shortest, phi, variance, prices);
            if stretches == before {
                break;
            }
            before.clone_from(&stretches);
            let stretches = match candidates.len() == n + 1 {
                true => stretches,
                false => settle(sums, stretches, shortest, phi),
            };
            let fit = Fit::of(sums, stretches, prices);
            (phi, variance) = (fit.phi, fit.variance);
            if fit.score < best.score {
                best = fit;
            }
        }
    }
    best
}

/// The standard deviation of single values about a level that may change: from the median distance
/// of neighbours.
pub(super) fn spread(values: &[f64]) -> f64 {
    let mut steps: Vec<f64> = values.windows(2).map(|w| (w[1] - w[0]).abs()).collect();
    match steps.is_empty() {
        true => 0.0,
        // The median of |x| of a normal x is 0.6745 standard deviations.
        false => median(&mut steps) / 0.6745 / std::f64::consts::SQRT_2,
    }
}

/// The least sum of squares plus prices, over all partitions at the candidates.
fn partition(
    sums: &Sums,
    candidates: &[usize],
    shortest: usize,
    phi: f64,
    variance: f64,
    prices: Prices,
) -> Vec<Stretch> {
    let stretch = variance * prices.at(phi);
    // For each candidate the best end of the partition before it.
    let mut least = vec![(f64::INFINITY, 0, false); candidates.len()];
    least[0].0 = 0.0;
    for j in 1..candidates.len() {
        let end = candidates[j];
        let mut found = (f64::INFINITY, 0, false);
        for i in 0..j {
            let start = candidates[i];
            if end - start < shortest {
                break;
            }
            let before = least[i].0 + stretch;
            let [level, sloped] = sums.costs(start, end, phi);
            if before + level < found.0 {
                found = (before + level, i, false);
            }
            if end - start >= SHORTEST_RAMP {
                let ramp = variance * prices.of_ramp(start, end, sums.len());
                if before + sloped + ramp < found.0 {
                    found = (before + sloped + ramp, i, true);
                }
            }
        }
        least[j] = found;
    }
    let mut stretches = Vec::new();
    let mut j = candidates.len() - 1;
    while j > 0 {
        let (_, i, ramp) = least[j];
        stretches.push(Stretch { start: candidates[i], end: candidates[j], ramp });
        j = i;
    }
    stretches.reverse();
    stretches
}

/// Where a stretch may begin or end: every session of a short series. Of a long one, the sessions
/// at which the means of the h sessions before and after differ most, over windows h = 3, 6, 12, …,
/// and a few at equal distances for ramps.
fn candidates(sums: &Sums, shortest: usize) -> Vec<usize> {
    let n = sums.len();
    if n <= CANDIDATES {
        return (0..=n).collect();
    }
    let mut peaks: Vec<(f64, usize)> = Vec::new();
    let mut window = shortest.max(1);
    while 2 * window <= n {
        let score = |t: usize| {
            let step = sums.mean(t, t + window) - sums.mean(t - window, t);
            step.abs() * (window as f64).sqrt()
        };
        // The largest of each run of h/2 sessions.
        let sessions: Vec<usize> = (window..=n - window).collect();
        for run in sessions.chunks(window.div_ceil(2)) {
            let scores = run.iter().map(|&t| (score(t), t));
            peaks.extend(scores.max_by(|a, b| a.0.total_cmp(&b.0)));
        }
        window *= 2;
    }
    peaks.sort_by(|a, b| b.0.total_cmp(&a.0));
    let even = CANDIDATES / 8;
    let mut chosen: Vec<usize> = (0..=even).map(|i| i * n / even).collect();
    let mut seen: std::collections::HashSet<usize> = chosen.iter().copied().collect();
    for (_, t) in peaks {
        if chosen.len() > CANDIDATES {
            break;
        }
        if seen.insert(t) {
            chosen.push(t);
        }
    }
    chosen.sort_unstable();
    chosen
}

/// Moves each border to where the fit is best, first by long steps and then by short ones.
fn settle(sums: &Sums, mut stretches: Vec<Stretch>, shortest: usize, phi: f64) -> Vec<Stretch> {
    let least = |s: &Stretch| if s.ramp { SHORTEST_RAMP.max(shortest) } else { shortest };
    let mut step = (sums.len() / CANDIDATES).next_power_of_two().max(4);
    while step > 0 {
        for i in 1..stretches.len() {
            loop {
                let pair = [stretches[i - 1], stretches[i]];
                let now = sums.cost(&pair, phi);
                let moved = |at: usize| {
                    let [mut left, mut right] = pair;
                    (left.end, right.start) = (at, at);
                    [left, right]
                };
                let at = pair[0].end;
                let later = Some(at + step).filter(|t| t + least(&pair[1]) <= pair[1].end);
                let sooner = at.checked_sub(step).filter(|t| *t >= pair[0].start + least(&pair[0]));
                let better = [sooner, later].into_iter().flatten().map(moved);
                let better = better.map(|pair| (sums.cost(&pair, phi), pair));
                let better = better.min_by(|a, b| a.0.total_cmp(&b.0));
                match better.filter(|(cost, _)| *cost < now * (1.0 - 1e-9)) {
                    Some((_, pair)) => stretches[i - 1..=i].copy_from_slice(&pair),
                    None => break,
                }
            }
        }
        step /= 2;
    }
    stretches
}
