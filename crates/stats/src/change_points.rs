//! Finds change points of a long series: E-divisive (Matteson and James 2014) on logarithms, with a
//! seeded permutation test and a minimum magnitude.
//!
//! The energy statistic of every split of a series of n values takes O(n log n) time. A value that
//! moves from the right part to the left needs its distances to the left part, which a Fenwick tree
//! over ranks provides. A series longer than [`Search::bins`] is first condensed to the medians of
//! that many equal stretches and searched; each change point is then placed among the values around
//! it. The search misses a level that lasts less than a stretch or two.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::sample::median;

/// The parameters of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// Splits with a permutation p above this are not change points.
    pub significance: f64,
    /// Permutations for each test; p is at least 1 / (permutations + 1).
    pub permutations: u32,
    /// Changes of the median below this share are left out.
    pub least_change: f64,
    /// The fewest values between two change points.
    pub shortest: usize,
    /// The most values that are searched without condensing.
    pub bins: usize,
    pub seed: u64,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            significance: 0.01,
            permutations: 199,
            least_change: 0.05,
            shortest: 3,
            bins: 2048,
            seed: 0,
        }
    }
}

/// A place where the level of a series changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChangePoint {
    /// The first value of the new level: the change came after value `index − 1`.
    pub index: usize,
    /// Medians of the stretches between this change point and its neighbours.
    pub before: f64,
    pub after: f64,
    /// after / before − 1.
    pub change: f64,
    /// p of the permutation test.
    pub p: f64,
}

/// The change points of a series in time order, ascending. `None` if a value is not finite and
/// above zero. The same seed gives the same answer.
pub fn change_points(series: &[f64], search: &Search) -> Option<Vec<ChangePoint>> {
    if !series.iter().all(|v| v.is_finite() && *v > 0.0) {
        return None;
    }
    if series.is_empty() {
        return Some(Vec::new());
    }
    let logs: Vec<f64> = series.iter().map(|v| v.ln()).collect();
    let width = logs.len().div_ceil(search.bins.max(2)).max(1);
    let condensed: Vec<f64> = match width {
        1 => logs.clone(),
        _ => logs.chunks(width).map(|bin| median(&mut bin.to_vec())).collect(),
    };
    let mut rng = ChaCha8Rng::seed_from_u64(search.seed);
    let mut found = Vec::new();
    let mut open = vec![(0, condensed.len())];
    while let Some((start, end)) = open.pop() {
        if let Some((at, p)) = split(&condensed[start..end], search, &mut rng) {
            found.push((start + at, p));
            open.push((start + at, end));
            open.push((start, start + at));
        }
    }
    found.sort_by_key(|(at, _)| *at);
    if width > 1 {
        found = found.iter().map(|&(at, p)| (place(&logs, at, width), p)).collect();
        found.dedup_by_key(|(at, _)| *at);
    }
    Some(beyond(series, &logs, found, search.least_change.max(0.0).ln_1p()))
}

/// The best split of a stretch and its p, if it is significant.
fn split(values: &[f64], search: &Search, rng: &mut ChaCha8Rng) -> Option<(usize, f64)> {
    let shortest = search.shortest.max(1);
    if values.len() < 2 * shortest {
        return None;
    }
    let energies = Energies::new(values);
    let mut order: Vec<usize> = (0..values.len()).collect();
    let (at, best) = energies.best_split(&order, shortest);
    if best <= 0.0 {
        return None;
    }
    // An order that gives the same parts counts as good, whatever the rounding.
    let enough = best * (1.0 - 1e-9);
    let all = f64::from(search.permutations + 1);
    let mut as_good = 1.0;
    for _ in 0..search.permutations {
        order.shuffle(rng);
        if energies.best_split(&order, shortest).1 >= enough {
            as_good += 1.0;
            // The remaining permutations can no longer make it significant.
            if as_good / all > search.significance {
                return None;
            }
        }
    }
    let p = as_good / all;
    (p <= search.significance).then_some((at, p))
}

/// Places the change near the beginning of stretch `at` among the values themselves.
fn place(logs: &[f64], at: usize, width: usize) -> usize {
    let start = (at * width).saturating_sub(2 * width);
    let end = (at * width + 2 * width).min(logs.len());
    let around = &logs[start..end];
    let order: Vec<usize> = (0..around.len()).collect();
    start + Energies::new(around).best_split(&order, 1).0
}

/// Drops the smallest change until none is below `least` on the log scale.
fn beyond(
    series: &[f64],
    logs: &[f64],
    mut found: Vec<(usize, f64)>,
    least: f64,
) -> Vec<ChangePoint> {
    let level = |of: &[f64], from: usize, to: usize| median(&mut of[from..to].to_vec());
    let ends = |found: &[(usize, f64)]| {
        let inner = found.iter().map(|(at, _)| *at);
        [0].into_iter().chain(inner).chain([series.len()]).collect::<Vec<usize>>()
    };
    let bounds = ends(&found);
    let mut levels: Vec<f64> = bounds.windows(2).map(|w| level(logs, w[0], w[1])).collect();
    loop {
        let changes = levels.windows(2).map(|w| (w[1] - w[0]).abs());
        let smallest = changes.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
        let Some((i, _)) = smallest.filter(|(_, change)| *change < least) else { break };
        found.remove(i);
        let bounds = ends(&found);
        levels.splice(i..i + 2, [level(logs, bounds[i], bounds[i + 1])]);
    }
    let bounds = ends(&found);
    found
        .iter()
        .zip(bounds.windows(3))
        .map(|(&(index, p), w)| {
            let (before, after) = (level(series, w[0], w[1]), level(series, w[1], w[2]));
            ChangePoint { index, before, after, change: after / before - 1.0, p }
        })
        .collect()
}

/// The values with the data for their distances: ranks, and the sum of distances to all others.
struct Energies {
    values: Vec<f64>,
    ranks: Vec<usize>,
    to_all: Vec<f64>,
    /// Sum over all pairs.
    within: f64,
}

impl Energies {
    fn new(series: &[f64]) -> Self {
        // Centres on the median, so that sums of distances keep their digits.
        let center = median(&mut series.to_vec());
        let values: Vec<f64> = series.iter().map(|v| v - center).collect();
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
        let total: f64 = values.iter().sum();
        let (mut ranks, mut to_all) = (vec![0; values.len()], vec![0.0; values.len()]);
        let mut below = 0.0;
        for (rank, &i) in order.iter().enumerate() {
            let v = values[i];
            let above = (values.len() - rank) as f64;
            to_all[i] = v * rank as f64 - below + (total - below) - v * above;
            below += v;
            ranks[i] = rank;
        }
        let within = to_all.iter().sum::<f64>() / 2.0;
        Self { values, ranks, to_all, within }
    }

    /// The split of the values in this order with the largest energy statistic: the number of
    /// values to its left, and nm/(n + m) times the energy distance of the two parts.
    fn best_split(&self, order: &[usize], shortest: usize) -> (usize, f64) {
        let size = order.len();
        let mut left = Fenwick::new(size);
        let (mut count, mut sum) = (0.0, 0.0);
        let (mut within_left, mut across, mut within_right) = (0.0, 0.0, self.within);
        let mut best = (0, f64::MIN);
        for (taken, &i) in order[..size - shortest].iter().enumerate() {
            let v = self.values[i];
            let (fewer, less) = left.below(self.ranks[i]);
            let to_left = v * fewer - less + (sum - less) - v * (count - fewer);
            let to_right = self.to_all[i] - to_left;
            within_left += to_left;
            within_right -= to_right;
            across += to_right - to_left;
            left.add(self.ranks[i], v);
            count += 1.0;
            sum += v;
            if taken + 1 >= shortest {
                let (n, m) = (count, size as f64 - count);
                let pairs = |k: f64| (k * (k - 1.0) / 2.0).max(1.0);
                let energy =
                    2.0 * across / (n * m) - within_left / pairs(n) - within_right / pairs(m);
                let scaled = energy * n * m / (n + m);
                // A tie within rounding goes to the earlier split.
                if scaled > best.1 + 1e-12 * best.1.abs() {
                    best = (taken + 1, scaled);
                }
            }
        }
        best
    }
}

/// Counts and sums over ranks, both with prefix queries in O(log n).
struct Fenwick {
    nodes: Vec<(f64, f64)>,
}

impl Fenwick {
    fn new(size: usize) -> Self {
        Self { nodes: vec![(0.0, 0.0); size + 1] }
    }

    fn add(&mut self, rank: usize, value: f64) {
        let mut node = rank + 1;
        while node < self.nodes.len() {
            self.nodes[node].0 += 1.0;
            self.nodes[node].1 += value;
            node += node & node.wrapping_neg();
        }
    }

    /// How many values have ranks below `rank`, and their sum.
    fn below(&self, rank: usize) -> (f64, f64) {
        let (mut count, mut sum) = (0.0, 0.0);
        let mut node = rank;
        while node > 0 {
            count += self.nodes[node].0;
            sum += self.nodes[node].1;
            node &= node - 1;
        }
        (count, sum)
    }
}

#[cfg(test)]
mod tests;
