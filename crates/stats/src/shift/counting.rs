//! Null distributions of rank sums, by counting the ways to deal out the ranks.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use statrs::function::erf::erfc;

/// P(X ≥ x) and P(X ≤ x) of an observed statistic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Tails {
    pub above: f64,
    pub below: f64,
}

/// The tables of [`untied`] by the two sizes, on which alone they depend.
type Tables = HashMap<(usize, usize), Rc<[f64]>>;

thread_local! {
    static TABLES: RefCell<Tables> = RefCell::default();
}

/// Most products `m · n` that are counted without ties; larger samples use the normal approximation.
const MOST_PRODUCTS: usize = 10_000;
/// Most additions for one distribution with ties.
const MOST_ADDITIONS: usize = 400_000;

/// P(U ≤ u) for u = 0, …, mn, where U counts the pairs in which the value of the first sample (of
/// `m`) is above that of the second (of `n`) and no values are equal. `None` if that would be too
/// much to count.
pub(super) fn untied(m: usize, n: usize) -> Option<Rc<[f64]>> {
    if m * n > MOST_PRODUCTS {
        return None;
    }
    let key = (m.min(n), m.max(n));
    TABLES.with_borrow_mut(|tables| {
        Some(tables.entry(key).or_insert_with(|| cumulative(key.0, key.1)).clone())
    })
}

/// The counts are the coefficients of the Gaussian binomial ∏ (1 − q^(n+i)) / (1 − q^i), i = 1, …,
/// m. Multiplying and dividing in turn keeps every intermediate result a count. A coefficient
/// depends on lower ones only, so the tail is exact although the middle is rounded.
fn cumulative(m: usize, n: usize) -> Rc<[f64]> {
    let most = m * n;
    // The distribution is symmetric: the lower half is enough.
    let half = most / 2;
    let mut count = vec![0.0; half + 1];
    count[0] = 1.0;
    for i in 1..=m {
        for q in (n + i..=half).rev() {
            count[q] -= count[q - n - i];
        }
        for q in i..=half {
            count[q] += count[q - i];
        }
    }
    let all = ways(m + n, m);
    let mut below = Vec::with_capacity(most + 1);
    let mut sum = 0.0;
    for c in count {
        // Divided last, so that 11 ways of 220 are .05 to the last digit.
        sum += c;
        below.push(sum / all);
    }
    // P(U ≤ u) = 1 − P(U ≤ mn − u − 1).
    for u in half + 1..=most {
        let rest = if u == most { 0.0 } else { below[most - u - 1] };
        below.push(1.0 - rest);
    }
    below.into()
}

/// The tails of `observed`, the sum of the doubled midranks of a sample of `m` values; `groups` are
/// the sizes of the groups of equal values, in rising order. `None` if that would be too much to
/// count.
pub(super) fn tied(groups: &[usize], m: usize, observed: usize) -> Option<Tails> {
    let all: usize = groups.iter().sum();
    // The sum of the m greatest doubled ranks.
    let most = m * (2 * all + 1 - m);
    let additions: usize = groups.iter().map(|g| g.min(&m) * m * most / 2).sum();
    if additions > MOST_ADDITIONS {
        return None;
    }
    // ways[k][s]: the ways to take k values so far whose doubled ranks sum to s.
    let mut chosen = vec![vec![0.0; most + 1]; m + 1];
    chosen[0][0] = 1.0;
    let mut before = 0;
    for &size in groups {
        let rank = 2 * before + size + 1;
        before += size;
        for k in (1..=m.min(before)).rev() {
            let (fewer, rest) = chosen.split_at_mut(k);
            let target = &mut rest[0];
            for taken in 1..=size.min(k) {
                let weight = ways(size, taken);
                let source = &fewer[k - taken];
                let shift = taken * rank;
                for s in shift..=most {
                    target[s] += weight * source[s - shift];
                }
            }
        }
    }
    let total = ways(all, m);
    let sum = |part: &[f64]| (part.iter().sum::<f64>() / total).min(1.0);
    Some(Tails { above: sum(&chosen[m][observed..]), below: sum(&chosen[m][..=observed]) })
}

/// The tails of `observed`, the sum of the scores of `taken` launches out of all, where every way to
/// take them is equally likely.
pub(super) fn dealt(scores: &[usize], taken: usize, observed: usize) -> Tails {
    let most: usize = scores.iter().sum();
    // ways[k][s]: the ways to take k launches so far whose scores sum to s.
    let mut chosen = vec![vec![0.0; most + 1]; taken + 1];
    chosen[0][0] = 1.0;
    for (before, &score) in scores.iter().enumerate() {
        for k in (1..=taken.min(before + 1)).rev() {
            let (fewer, rest) = chosen.split_at_mut(k);
            let (source, target) = (&fewer[k - 1], &mut rest[0]);
            for s in score..=most {
                target[s] += source[s - score];
            }
        }
    }
    let total = ways(scores.len(), taken);
    let share = |part: &[f64]| (part.iter().sum::<f64>() / total).min(1.0);
    Tails { above: share(&chosen[taken][observed..]), below: share(&chosen[taken][..=observed]) }
}

/// The tails of `observed`, the sum over all blocks of the doubled ranks of one side, where each
/// block of `blocks` deals its ranks out on its own: (ranks, how many of them that side has).
pub(super) fn blocked(blocks: &[(&[usize], usize)], observed: usize) -> Tails {
    // Sums are counted from the least that the blocks allow.
    let mut least = 0;
    let mut counts = vec![1.0];
    for &(ranks, taken) in blocks {
        let own = subset_sums(ranks, taken);
        let low = own[0].0;
        let reach = own[own.len() - 1].0 - low;
        let mut next = vec![0.0; counts.len() + reach];
        for (sum, ways) in own {
            let at = sum - low;
            for (to, from) in next[at..at + counts.len()].iter_mut().zip(&counts) {
                *to += ways * from;
            }
        }
        (counts, least) = (next, least + low);
    }
    let total: f64 = counts.iter().sum();
    let at = observed - least;
    let share = |part: &[f64]| (part.iter().sum::<f64>() / total).min(1.0);
    Tails { above: share(&counts[at..]), below: share(&counts[..=at]) }
}

/// The sums of all ways to take `taken` of `ranks`, rising, with how many ways give each.
fn subset_sums(ranks: &[usize], taken: usize) -> Vec<(usize, f64)> {
    let mut sums: Vec<Vec<(usize, f64)>> = vec![Vec::new(); taken + 1];
    sums[0].push((0, 1.0));
    for &rank in ranks {
        for k in (1..=taken).rev() {
            let more: Vec<(usize, f64)> = sums[k - 1].iter().map(|(s, w)| (s + rank, *w)).collect();
            sums[k].extend(more);
            sums[k].sort_unstable_by_key(|(s, _)| *s);
            sums[k].dedup_by(|(s, w), (kept, sum)| {
                let same = s == kept;
                if same {
                    *sum += *w;
                }
                same
            });
        }
    }
    sums.swap_remove(taken)
}

/// The ways to choose `k` of `n`.
pub(super) fn ways(n: usize, k: usize) -> f64 {
    let k = k.min(n - k);
    (1..=k).fold(1.0, |product, i| product * (n - k + i) as f64 / i as f64)
}

/// Both tails of a doubled rank statistic by the normal approximation: `distance` from its
/// expectation. It moves in steps of two, so half a step is one.
pub(super) fn normal(distance: f64, variance: f64) -> Tails {
    if variance <= 0.0 {
        return Tails { above: 1.0, below: 1.0 };
    }
    let tail = |distance: f64| {
        let z = (distance - 1.0) / variance.sqrt();
        0.5 * erfc(z / std::f64::consts::SQRT_2)
    };
    Tails { above: tail(distance), below: tail(-distance) }
}
