//! Finds where the level of a series changed: steps, ramps and transients, by penalized likelihood
//! on logarithms, with noise that may be autocorrelated.
//!
//! The model: levels and ramps plus AR(1) noise, which starts anew with each stretch. `search`
//! finds the partition with the least −2 ln likelihood plus a price for each stretch (penalized as
//! in PELT, Killick et al. 2012; autocorrelation fitted along as in AR1seg, Chakar et al. 2017).
//! The prices are such that at most one series in a hundred without a change is given one; they
//! come from the simulation in `tests`. Before the search, a session far from the median of the
//! five around it is drawn in, so that one or two outliers are never a level.

mod fit;
mod search;

use std::ops::Range;

use fit::{Stretch, Sums};
use search::{FLOOR, Fit, Prices};

use super::sample::{Interval, median};
use super::student;

/// The parameters of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// Changes whose 95 % interval lies wholly below this share are left out.
    pub least_change: f64,
    /// The fewest values of a level.
    pub shortest: usize,
}

impl Default for Search {
    fn default() -> Self {
        Self { least_change: 0.05, shortest: 3 }
    }
}

/// What happened at a change point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// From one level to another.
    Step,
    /// Over these values, little by little.
    Ramp(Range<usize>),
    /// The beginning or the end of a stretch of these values away from a level to which the series
    /// came back.
    Transient(Range<usize>),
}

/// A place where the level of a series changed.
#[derive(Debug, Clone, PartialEq)]
pub struct ChangePoint {
    /// The first value of the new level: the change came after value `index − 1`. The middle of a
    /// ramp.
    pub index: usize,
    pub kind: Kind,
    /// The levels on both sides: geometric means.
    pub before: f64,
    pub after: f64,
    /// after / before − 1.
    pub change: f64,
    /// 95 % intervals, Student's t, with the autocorrelation allowed for.
    pub before_interval: Interval,
    pub after_interval: Interval,
    pub change_interval: Interval,
    /// About the chance that a series without this change fits as much better with one.
    pub p: f64,
}

/// A series as levels, and what it could show.
#[derive(Debug, Clone, PartialEq)]
pub struct Levels {
    /// In time order, ascending.
    pub changes: Vec<ChangePoint>,
    /// The noise about the levels: autocorrelation of neighbours, and standard deviation as a share.
    pub autocorrelation: f64,
    pub spread: f64,
    /// The smallest lasting change in the middle of the series that four searches of five would
    /// find, as a share. `None` if the series is too short for any.
    pub visible: Option<f64>,
}

/// The chance of a false alarm in a series for which the prices were chosen.
const FALSE_ALARM: f64 = 0.01;
/// A value further from the median of five than this many standard deviations is drawn in.
const OUTLYING: f64 = 2.5;
const CONFIDENCE: f64 = 0.95;
/// The normal quantile of a power of 0.8.
const POWER: f64 = 0.842;

/// The levels of a series. `None` if a value is not finite and above zero.
pub fn levels(series: &[f64], search: &Search) -> Option<Levels> {
    if !series.iter().all(|v| v.is_finite() && *v > 0.0) {
        return None;
    }
    let shortest = search.shortest.max(1);
    let mut logs: Vec<f64> = series.iter().map(|v| v.ln()).collect();
    if logs.len() < 2 * shortest {
        return Some(Levels {
            changes: Vec::new(),
            autocorrelation: 0.0,
            spread: 0.0,
            visible: None,
        });
    }
    // Sums about zero keep their digits.
    let center = median(&mut logs.clone());
    logs.iter_mut().for_each(|v| *v -= center);
    let sums = Sums::new(drawn_in(&logs));
    let prices = prices(logs.len());
    let found = search::best(&sums, shortest, prices);
    let least = search.least_change.max(0.0).ln_1p();
    let (fit, shifts) = Judge { logs: &logs, sums: &sums, prices, least }.keep(found);
    let n = logs.len();
    let phi = unbiased(&sums, &fit);
    let changes = named(&fit, &shifts, least, center);
    Some(Levels {
        changes,
        autocorrelation: fit.phi,
        spread: (fit.variance / (1.0 - fit.phi * fit.phi)).sqrt(),
        visible: visible(n, phi, fit.variance, prices),
    })
}

/// What a change must gain in a series of n values, from the simulation.
fn prices(n: usize) -> Prices {
    let n = n as f64;
    let stretch = 9.3 + 0.7 * n.ln() + (6000.0 / (n * n)).min(3.0);
    Prices { stretch, correlated: 20.0, ramp: 15.0, joined: 8.0, prior: 3.0 }
}

/// The values, with those far from the median of the five around them drawn in. A level of three
/// has that median itself.
fn drawn_in(logs: &[f64]) -> Vec<f64> {
    let n = logs.len();
    if n < 5 {
        return logs.to_vec();
    }
    let reach = OUTLYING * search::spread(logs);
    let around = |t: usize| {
        let start = t.saturating_sub(2).min(n - 5);
        median(&mut logs[start..start + 5].to_vec())
    };
    (0..n).map(|t| logs[t].clamp(around(t) - reach, around(t) + reach)).collect()
}

/// The likeliest autocorrelation without its bias: each fitted level makes neighbours look a little
/// less alike (Kendall 1954), and the prices favour little.
fn unbiased(sums: &Sums, fit: &Fit) -> f64 {
    let likeliest = Fit::of(sums, fit.stretches.clone(), Prices::NONE).phi;
    let levels = fit.stretches.len() as f64;
    let bias = (levels * (1.0 + likeliest) + 2.0 * likeliest) / sums.len() as f64;
    (likeliest + bias).min(0.95)
}

/// A change between two fitted values, on the scale of logarithms.
#[derive(Debug, Clone, Copy)]
struct Shift {
    /// The stretch that begins with it; for a ramp, the ramp.
    stretch: usize,
    ramp: bool,
    /// The first value that is not at the old level, and the first one at the new level.
    begin: usize,
    end: usize,
    before: f64,
    after: f64,
    /// Half-widths of the intervals.
    before_reach: f64,
    after_reach: f64,
    reach: f64,
    p: f64,
}

impl Shift {
    fn size(&self) -> f64 {
        (self.after - self.before).abs()
    }
}

/// Decides which of the found changes are kept.
struct Judge<'a> {
    logs: &'a [f64],
    sums: &'a Sums,
    prices: Prices,
    least: f64,
}

impl Judge<'_> {
    /// Drops the smallest change until each is worth its price, may be as large as the least one
    /// that counts, and is no accident of scattered outliers.
    fn keep(&self, found: Fit) -> (Fit, Vec<Shift>) {
        let mut fit = Fit::of(self.sums, self.flattened(&found), self.prices);
        loop {
            let mut shifts = self.shifts(&fit);
            let mut worst: Option<(f64, Vec<Stretch>)> = None;
            for shift in &mut shifts {
                let rest = without(&fit.stretches, shift);
                let worth = Fit::of(self.sums, rest.clone(), self.prices).score - fit.score;
                // The tail of a likelihood ratio with this many degrees of freedom.
                let n = self.logs.len() as f64;
                let free = (n - fit.stretches.len() as f64 - 1.0) / n;
                shift.p = FALSE_ALARM * (-0.5 * worth * free).exp();
                let poor = worth < 0.0
                    || shift.size() + shift.reach < self.least
                    || self.scattered(&fit, shift);
                if poor && worst.as_ref().is_none_or(|(size, _)| shift.size() < *size) {
                    worst = Some((shift.size(), rest));
                }
            }
            match worst {
                Some((_, rest)) => fit = Fit::of(self.sums, rest, self.prices),
                None => return (fit, shifts),
            }
        }
    }

    /// The stretches, with a level in place of each ramp that rises less than the step at one of its
    /// ends: the step is the change then.
    fn flattened(&self, fit: &Fit) -> Vec<Stretch> {
        let lines: Vec<fit::Line> =
            fit.stretches.iter().map(|s| self.sums.line(s, fit.phi)).collect();
        let flat = |(i, s): (usize, &Stretch)| {
            let sooner = i.checked_sub(1).map_or(0.0, |j| lines[i].first - lines[j].last);
            let later = lines.get(i + 1).map_or(0.0, |next| next.first - lines[i].last);
            let rise = (lines[i].last - lines[i].first).abs();
            Stretch { ramp: s.ramp && rise >= sooner.abs().max(later.abs()), ..*s }
        };
        fit.stretches.iter().enumerate().map(flat).collect()
    }

    fn shifts(&self, fit: &Fit) -> Vec<Shift> {
        let n = self.logs.len();
        let stretches = &fit.stretches;
        let ramps = stretches.iter().filter(|s| s.ramp).count();
        let df = n.saturating_sub(stretches.len() + ramps + 1).max(1) as f64;
        let variance = fit.variance * n as f64 / df;
        let t = student::two_sided_quantile(CONFIDENCE, df).unwrap_or(f64::INFINITY);
        let reach = |v: f64| t * (variance * v).sqrt();
        let phi = unbiased(self.sums, fit);
        // Values with the fitted autocorrelation, variances with the one without bias.
        let value = |i: usize| self.sums.line(&stretches[i], fit.phi);
        let spread = |i: usize| self.sums.line(&stretches[i], phi);
        let level = |i: usize| !stretches[i].ramp;
        let mut shifts = Vec::new();
        for i in 0..stretches.len() {
            let ramp = stretches[i].ramp;
            // A ramp takes the steps at its ends along.
            if !ramp && (i == 0 || !level(i - 1)) {
                continue;
            }
            let (from, to) = match ramp {
                true => {
                    let after = Some(i + 1).filter(|&j| j < stretches.len() && level(j));
                    (usize::checked_sub(i, 1).filter(|&j| level(j)), after)
                }
                false => (Some(i - 1), Some(i)),
            };
            let before = from.map_or(value(i).first, |j| value(j).last);
            let after = to.map_or(value(i).last, |j| value(j).first);
            let before_variance =
                from.map_or(spread(i).first_variance, |j| spread(j).last_variance);
            let after_variance = to.map_or(spread(i).last_variance, |j| spread(j).first_variance);
            shifts.push(Shift {
                stretch: i,
                ramp,
                begin: stretches[i].start,
                end: if ramp { stretches[i].end } else { stretches[i].start },
                before,
                after,
                before_reach: reach(before_variance),
                after_reach: reach(after_variance),
                reach: reach(before_variance + after_variance),
                p: FALSE_ALARM,
            });
        }
        shifts
    }

    /// Whether a short level may be outliers that happen to be neighbours: enough others lie as
    /// far out alone.
    fn scattered(&self, fit: &Fit, shift: &Shift) -> bool {
        let stretches = &fit.stretches;
        let short = [shift.stretch.checked_sub(1), Some(shift.stretch)].into_iter().flatten();
        let Some(short) = short.min_by_key(|&i| stretches[i].len()) else { return false };
        if shift.ramp {
            return false;
        }
        let rise = match short == shift.stretch {
            true => shift.after - shift.before,
            false => shift.before - shift.after,
        };
        let n = self.logs.len() as f64;
        let alone = stretches.iter().enumerate().filter(|(i, _)| *i != short);
        let alone: usize = alone
            .map(|(_, s)| {
                let line = self.sums.line(s, fit.phi);
                let slope = (line.last - line.first) / (s.len() - 1).max(1) as f64;
                let values = self.logs[s.start..s.end].iter().enumerate();
                values
                    .filter(|(k, v)| {
                        let off = (*v - line.first - slope * *k as f64) / rise;
                        off > 0.5
                    })
                    .count()
            })
            .sum();
        // The expected number of runs of this length.
        n * (alone as f64 / n).powi(stretches[short].len() as i32) > FALSE_ALARM
    }
}

/// The stretches without a change: its sides become one level.
fn without(stretches: &[Stretch], shift: &Shift) -> Vec<Stretch> {
    let first = shift.stretch.saturating_sub(1);
    let last = match shift.ramp {
        true => (shift.stretch + 1).min(stretches.len() - 1),
        false => shift.stretch,
    };
    let one = Stretch { start: stretches[first].start, end: stretches[last].end, ramp: false };
    [&stretches[..first], &[one], &stretches[last + 1..]].concat()
}

/// The changes with their names: which of them belong to a transient.
fn named(fit: &Fit, shifts: &[Shift], least: f64, center: f64) -> Vec<ChangePoint> {
    let mut kinds: Vec<Kind> = shifts
        .iter()
        .map(|s| if s.ramp { Kind::Ramp(s.begin..s.end) } else { Kind::Step })
        .collect();
    let n = fit.stretches.last().map_or(0, |s| s.end);
    let mut i = 0;
    while i < shifts.len() {
        let back = (i + 1..shifts.len()).find(|&j| {
            let away = shifts[i].begin..shifts[j].end;
            let since = if i == 0 { 0 } else { shifts[i - 1].end };
            let until = shifts.get(j + 1).map_or(n, |s| s.begin);
            let at_level = (away.start - since) + (until - away.end);
            (shifts[j].after - shifts[i].before).abs() < least && away.len() <= at_level
        });
        match back {
            Some(j) => {
                kinds[i..=j].fill(Kind::Transient(shifts[i].begin..shifts[j].end));
                i = j + 1;
            }
            None => i += 1,
        }
    }
    let interval =
        |x: f64, reach: f64| [x - reach, x + reach].map(|v| (v + center).exp().min(f64::MAX));
    let change = |s: &Shift, kind: Kind| {
        let [low, high] = interval(s.before, s.before_reach);
        let before_interval = Interval { low, high };
        let [low, high] = interval(s.after, s.after_reach);
        let after_interval = Interval { low, high };
        let rise = s.after - s.before;
        ChangePoint {
            index: if s.ramp { s.begin + (s.end - s.begin) / 2 } else { s.begin },
            kind,
            before: (s.before + center).exp(),
            after: (s.after + center).exp(),
            change: rise.exp_m1(),
            before_interval,
            after_interval,
            change_interval: Interval {
                low: (rise - s.reach).exp_m1(),
                high: (rise + s.reach).exp_m1().min(f64::MAX),
            },
            p: s.p,
        }
    };
    shifts.iter().zip(kinds).map(|(s, kind)| change(s, kind)).collect()
}

/// The step in the middle whose expected gain exceeds its price by so much that four searches of
/// five find it.
fn visible(n: usize, phi: f64, innovations: f64, prices: Prices) -> Option<f64> {
    let n = n as f64;
    let noise = innovations / (1.0 - phi * phi);
    let price = prices.at(phi);
    let seen = |step: f64| {
        let half = step / 2.0;
        let without = (0..20).map(|i| {
            // What is left if the step is taken for autocorrelation.
            let tried = f64::from(i) * 0.05;
            let of_noise = noise * (1.0 + tried * tried - 2.0 * tried * phi);
            let of_levels = ((1.0 - tried) * half).powi(2);
            let of_step = ((1.0 + tried) * half).powi(2) / n;
            n * (of_noise + of_levels + of_step).ln() - (1.0 - tried * tried).ln()
                + prices.prior * tried
        });
        let without = without.fold(f64::INFINITY, f64::min);
        let gain =
            without - n * (innovations + FLOOR).ln() + (1.0 - phi * phi).ln() - prices.prior * phi;
        gain.max(0.0).sqrt() >= price.sqrt() + POWER
    };
    let (mut low, mut high) = (0.0, 1e-3);
    while !seen(high) {
        (low, high) = (high, 2.0 * high);
        if high > 100.0 {
            return None;
        }
    }
    for _ in 0..30 {
        let middle = 0.5 * (low + high);
        if seen(middle) { high = middle } else { low = middle }
    }
    Some(high.exp_m1())
}

#[cfg(test)]
mod tests;
