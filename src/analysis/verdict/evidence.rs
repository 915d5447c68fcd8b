//! The tests of one metric: by ranks, and Welch's beside it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{POWER, Pair};
use crate::metric::Better;
use crate::stats::{
    Between, Design, Interval, Layout, Sample, ShiftTest, margin_of_logs,
    minimum_detectable_effect, normal_quantile, over_sessions, quantile_test, session_spread,
    shift_test,
};

/// How the launches of the two sides belong together. It follows from the plan, never from values.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Arrangement<'a> {
    /// One session, without blocks.
    #[default]
    Independent,
    /// Interleaved in one session: the number of the ABBA block of each launch.
    Blocks { baseline: &'a [u32], candidate: &'a [u32] },
    /// Two sessions, and what earlier ones show of how much sessions differ.
    Sessions(Option<Between>),
}

/// With fewer earlier sessions nobody knows how much sessions differ, and nothing passes.
pub const FEWEST_SESSIONS: u32 = 3;

/// The test that decides about a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Ranks over all launches of both sides.
    RankSum,
    /// Ranks dealt out within the blocks that were measured.
    RankSumInBlocks,
    /// Ranks over all launches, and the variance between sessions.
    RankSumOverSessions,
    /// The quantile test of a tail, over all launches.
    Quantile,
    /// The same, dealt out within the blocks that were measured.
    QuantileInBlocks,
    /// Over all launches, and the variance between sessions.
    QuantileOverSessions,
    /// Welch's t on logarithms.
    Welch,
}

impl Test {
    pub(super) fn is_of_quantile(self) -> bool {
        matches!(self, Test::Quantile | Test::QuantileInBlocks | Test::QuantileOverSessions)
    }

    /// Whether launches are dealt out within blocks.
    pub(super) fn is_in_blocks(self) -> bool {
        matches!(self, Test::RankSumInBlocks | Test::QuantileInBlocks)
    }
}

impl Arrangement<'_> {
    /// The rank test of this arrangement.
    pub fn test(&self) -> Test {
        match self {
            Arrangement::Independent => Test::RankSum,
            Arrangement::Blocks { .. } => Test::RankSumInBlocks,
            Arrangement::Sessions(_) => Test::RankSumOverSessions,
        }
    }

    /// The quantile test of this arrangement.
    pub(super) fn test_of_quantile(&self) -> Test {
        match self {
            Arrangement::Independent => Test::Quantile,
            Arrangement::Blocks { .. } => Test::QuantileInBlocks,
            Arrangement::Sessions(_) => Test::QuantileOverSessions,
        }
    }

    /// How much sessions differ as the test takes it; absent for one session.
    pub(super) fn between_sessions(&self, theta: f64) -> Option<f64> {
        match self {
            Arrangement::Sessions(known) => Some(session_spread(*known, theta).0),
            Arrangement::Independent | Arrangement::Blocks { .. } => None,
        }
    }

    /// Whether too few earlier sessions are known for anything to pass.
    pub fn knows_too_few_sessions(&self) -> bool {
        match self {
            Arrangement::Sessions(known) => known.is_none_or(|b| b.sessions < FEWEST_SESSIONS),
            Arrangement::Independent | Arrangement::Blocks { .. } => false,
        }
    }
}

/// What one test says about a metric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// candidate / baseline less one, signed as the metric is: by Hodges and Lehmann from the ranks,
    /// the ratio of the geometric means beside Welch's t.
    pub change: f64,
    /// Two-sided intervals of `change` that agree with the test; absent where so few launches cannot
    /// exclude any change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci90: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95: Option<[f64; 2]>,
    /// Two-sided p of "no change".
    pub p: f64,
    /// One-sided p of "worse by more than the margin".
    pub p_reg: f64,
    /// One-sided p of "not worse by as much as the margin".
    pub p_ok: f64,
    /// One-sided p of "better by more than the margin".
    pub p_improved: f64,
    /// Minimum detectable effect as a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mde: Option<f64>,
    /// The half-width on the log scale of the 90 % interval that the launches alone give, without
    /// the variance between sessions: what more launches make smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half_width: Option<f64>,
    /// The least one-sided p that so many launches can have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub least_p: Option<f64>,
}

/// Welch on logarithms. The interval exists even if nothing varies.
pub(super) struct WelchFigures {
    pub ci90: Option<[f64; 2]>,
    pub ci95: Option<[f64; 2]>,
    /// Absent if neither side varies.
    pub figures: Option<Figures>,
}

/// `sign` is 1 where lower is better and −1 where higher is. `None` with one launch on a side.
pub(super) fn welch_figures(
    base: &Sample,
    cand: &Sample,
    sign: f64,
    theta: f64,
    alpha: f64,
) -> Option<WelchFigures> {
    let test = match sign > 0.0 {
        true => margin_of_logs(cand, base, theta)?,
        false => margin_of_logs(base, cand, theta)?,
    };
    // Rates are compared the other way round, so that "worse" keeps its sign.
    let ci90 = change_interval(test.interval90, sign);
    let ci95 = change_interval(test.interval95, sign);
    let design = Design {
        n: [base.n() as u32, cand.n() as u32],
        sd: [base.sd().unwrap_or(0.0), cand.sd().unwrap_or(0.0)],
    };
    let mde = minimum_detectable_effect(design, alpha, POWER).map(f64::exp_m1);
    let figures = test.tests.map(|p| Figures {
        change: (sign * test.worse_by).exp_m1(),
        ci90,
        ci95,
        p: p.p,
        p_reg: p.p_reg,
        p_ok: p.p_ok,
        p_improved: p.p_improved,
        mde: mde.filter(|m| m.is_finite()),
        half_width: Some((test.interval90.high - test.interval90.low) / 2.0),
        least_p: None,
    });
    Some(WelchFigures { ci90, ci95, figures })
}

/// `None` with one launch on a side.
pub(super) fn rank_figures(pair: &Pair<'_>, sign: f64, theta: f64, alpha: f64) -> Option<Figures> {
    let lower = sign > 0.0;
    let (worse, other) = match lower {
        true => (pair.candidate, pair.baseline),
        false => (pair.baseline, pair.candidate),
    };
    let launches = shift_test(worse, other, layout(pair.arrangement, lower), theta)?;
    figures(&launches, pair.arrangement, sign, theta, alpha)
}

/// Of a tail metric whose launches hold its values. A tail is a time, so lower is better.
pub(super) fn quantile_figures(pair: &Pair<'_>, theta: f64, alpha: f64) -> Option<Figures> {
    let tail = pair.tail.filter(|_| pair.better == Better::Lower)?;
    let layout = layout(pair.arrangement, true);
    let launches = quantile_test(tail.candidate, tail.baseline, layout, tail.quantile, theta)?;
    figures(&launches, pair.arrangement, 1.0, theta, alpha)
}

/// How launches are dealt out; `lower`: whether the candidate's high values are the worse ones.
fn layout(arrangement: Arrangement<'_>, lower: bool) -> Layout<'_> {
    match (arrangement, lower) {
        (Arrangement::Blocks { baseline, candidate }, true) => {
            Layout::Blocks { worse: candidate, other: baseline }
        }
        (Arrangement::Blocks { baseline, candidate }, false) => {
            Layout::Blocks { worse: baseline, other: candidate }
        }
        (Arrangement::Independent | Arrangement::Sessions(_), _) => Layout::Independent,
    }
}

/// A test of launches as figures, with the variance between sessions where there are two.
fn figures(
    launches: &ShiftTest,
    arrangement: Arrangement<'_>,
    sign: f64,
    theta: f64,
    alpha: f64,
) -> Option<Figures> {
    let half_width = launches.interval90.map(|i| (i.high - i.low) / 2.0);
    let test = match arrangement {
        Arrangement::Sessions(known) => over_sessions(launches, known, theta),
        Arrangement::Independent | Arrangement::Blocks { .. } => *launches,
    };
    let change = (sign * test.worse_by).exp_m1();
    change.is_finite().then(|| Figures {
        change,
        ci90: test.interval90.and_then(|i| change_interval(i, sign)),
        ci95: test.interval95.and_then(|i| change_interval(i, sign)),
        p: test.p,
        p_reg: test.p_reg,
        p_ok: test.p_ok,
        p_improved: test.p_improved,
        mde: smallest_effect(&test, alpha),
        half_width,
        least_p: Some(test.least_p),
    })
}

/// The true change that the test finds with power [`POWER`], as a share, from the width of its
/// interval: a rank statistic is close to normal, and its interval is as wide as its standard error.
fn smallest_effect(test: &ShiftTest, alpha: f64) -> Option<f64> {
    let interval = test.interval90?;
    let error = (interval.high - interval.low) / 2.0 / normal_quantile(0.95)?;
    let effect = (normal_quantile(1.0 - alpha)? + normal_quantile(POWER)?) * error;
    Some(effect.exp_m1()).filter(|m| m.is_finite())
}

/// The standard deviation of launches that would give means a 90 % interval of this half-width: how
/// widely they scatter as the rank test sees it, so that stalls do not count in full.
pub(super) fn scatter(half_width: f64, n: [usize; 2]) -> Option<f64> {
    let [a, b] = n.map(|n| n as f64);
    Some(half_width / normal_quantile(0.95)? * (a * b / (a + b)).sqrt())
}

/// How widely the middle half of the launches scatters, as the standard deviation of a normal
/// distribution with that interquartile range: distances from the median of their side, and in blocks
/// from the mean of their block. Where launches pile up at a sharp edge, the interval of many is
/// narrower than the few of a plan can make it; this is not. `None` for fewer than two launches on a
/// side.
pub(super) fn middle_scatter(pair: &Pair<'_>) -> Option<f64> {
    /// The interquartile range of a standard normal distribution.
    const NORMAL: f64 = 1.348_98;
    let mut sides = [pair.baseline, pair.candidate].map(|values| {
        let logs: Vec<f64> = values.iter().map(|v| v.ln()).collect();
        let middle = Sample::new(&logs).ok()?.median();
        (logs.len() > 1).then(|| logs.iter().map(|v| v - middle).collect::<Vec<f64>>())
    });
    let [Some(base), Some(cand)] = &mut sides else { return None };
    let mut factor = 1.0;
    if let Arrangement::Blocks { baseline, candidate } = pair.arrangement {
        let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for (block, rest) in baseline.iter().zip(&*base).chain(candidate.iter().zip(&*cand)) {
            let (sum, n) = sums.entry(*block).or_default();
            (*sum, *n) = (*sum + rest, *n + 1.0);
        }
        for (numbers, rest) in [(baseline, &mut *base), (candidate, &mut *cand)] {
            for (block, rest) in numbers.iter().zip(rest) {
                *rest -= sums[block].0 / sums[block].1;
            }
        }
        // The mean of four takes a quarter of the variance with it.
        factor = (4.0f64 / 3.0).sqrt();
    }
    let all = Sample::new(&[&base[..], &cand[..]].concat()).ok()?;
    Some(factor * (all.quantile(0.75) - all.quantile(0.25)) / NORMAL)
}

/// Converts "worse by" on the log scale to a change of the metric. `None` if a bound does not fit
/// into a number.
fn change_interval(worse: Interval, sign: f64) -> Option<[f64; 2]> {
    let ends = [(sign * worse.low).exp_m1(), (sign * worse.high).exp_m1()];
    let [low, high] = if sign > 0.0 { ends } else { [ends[1], ends[0]] };
    high.is_finite().then_some([low, high])
}
