//! The verdict over two sets of launches: worse by more than a margin, not worse by as much,
//! better, or not known. Pure: takes values, returns decisions, and touches no records or files.

mod evidence;
mod explain;
mod looks;
mod needed;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metric::{Better, Metric, Rank};
use crate::stats::{BadSample, Sample, hedges_g, holm, launches_needed, welch};

pub use evidence::{Arrangement, FEWEST_SESSIONS, Figures, Test};
pub use looks::{Look, precision_reached};

/// The default margin: 5 %.
pub const MARGIN: f64 = 0.05;
/// The default level of every one-sided test.
pub const ALPHA: f64 = 0.05;
/// The power that the minimum detectable effect and the launches needed refer to.
pub const POWER: f64 = 0.8;

/// Differences below this share are the rounding of one division. Without it, a candidate that is
/// worse by exactly the margin would be worse by more where nothing varies.
const ROUNDING: f64 = 1e-12;

/// Which rule decides. The others are computed beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// One-sided rank tests against the margin: a stall in one launch cannot hide a regression or
    /// make one.
    #[default]
    Rank,
    /// One-sided Welch tests against the margin, on the log scale.
    Welch,
    /// The point estimate lies beyond the margin and the two-sided p is below alpha.
    Point,
}

/// The rules of a verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// The default margin as a share: 0.05 is 5 %. `margins` overrides it for single metrics.
    pub margin: f64,
    pub margins: BTreeMap<String, f64>,
    /// Level of each one-sided test.
    pub alpha: f64,
    /// Level of "regressed" where it is another one, because earlier looks spent a part of it:
    /// [`Rules::at`].
    pub red_alpha: Option<f64>,
    pub rule: Rule,
    /// The metrics that decide; the others are judged but do not decide.
    pub primary: Vec<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            margin: MARGIN,
            margins: BTreeMap::new(),
            alpha: ALPHA,
            red_alpha: None,
            rule: Rule::default(),
            primary: Metric::of_rank(Rank::Primary).map(|m| m.name().to_string()).collect(),
        }
    }
}

impl Rules {
    /// The margin of a metric, as a share.
    pub fn margin_of(&self, metric: &str) -> f64 {
        self.margins.get(metric).copied().unwrap_or(self.margin)
    }

    /// The rules of one look at the data.
    pub fn at(&self, look: Look) -> Self {
        let red_alpha = look.red_alpha(self.alpha, self.primary.len());
        Self { alpha: look.alpha(self.alpha), red_alpha, ..self.clone() }
    }

    /// The level of "regressed", over all deciding metrics together.
    pub fn red_level(&self) -> f64 {
        self.red_alpha.unwrap_or(self.alpha)
    }

    /// The margin of a metric on the log scale: ln(1 + margin).
    pub fn theta_of(&self, metric: &str) -> f64 {
        self.margin_of(metric).ln_1p()
    }
}

/// One metric on both sides, one value per launch, each above zero.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    pub metric: &'a str,
    pub better: Better,
    pub baseline: &'a [f64],
    pub candidate: &'a [f64],
    pub arrangement: Arrangement<'a>,
    /// Of a metric that is a percentile inside a launch, if the launches hold its values.
    pub tail: Option<Tail<'a>>,
}

/// The values inside the launches, one list a launch, each above zero, of a metric that is a
/// percentile of them.
#[derive(Debug, Clone, Copy)]
pub struct Tail<'a> {
    /// The percentile, as a share.
    pub quantile: f64,
    pub baseline: &'a [Vec<f64>],
    pub candidate: &'a [Vec<f64>],
}

/// A percentile as a share, and the values inside each launch of one side.
pub type Inner = (f64, Vec<Vec<f64>>);

impl<'a> Tail<'a> {
    /// If both sides hold it: their percentile and their values.
    pub fn of([baseline, candidate]: [&'a Option<Inner>; 2]) -> Option<Self> {
        let ((quantile, baseline), (_, candidate)) = (baseline.as_ref()?, candidate.as_ref()?);
        Some(Self { quantile: *quantile, baseline, candidate })
    }
}

/// What the launches show about a metric, or about all primary metrics together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Worse by more than the margin.
    Regressed,
    /// Not worse by as much as the margin.
    NotRegressed,
    /// Better by more than the margin.
    Improved,
    /// The launches do not decide.
    Inconclusive,
}

impl Decision {
    /// Exit code of a gate: 0 passed, 1 regressed, 3 inconclusive.
    pub fn exit_code(self) -> u8 {
        match self {
            Decision::NotRegressed | Decision::Improved => 0,
            Decision::Regressed => 1,
            Decision::Inconclusive => 3,
        }
    }

    /// The decision in words, for reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::Regressed => "regressed",
            Decision::NotRegressed => "not regressed",
            Decision::Improved => "improved",
            Decision::Inconclusive => "inconclusive",
        }
    }
}

/// The launches of one side, in the unit of the metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Side {
    pub n: usize,
    pub mean: f64,
    /// Absent with one launch, as is `cv`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sd: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cv: Option<f64>,
    pub median: f64,
}

/// One judged metric. Parts that do not exist (with one launch, or if nothing varies) are absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    pub metric: String,
    pub better: Better,
    /// Whether the metric counts for the overall decision.
    pub primary: bool,
    /// The margin as a share.
    pub margin: f64,
    pub baseline: Side,
    pub candidate: Side,
    /// Ratio of the geometric means, candidate / baseline, less one; has the sign of the metric's
    /// change. The estimate that belongs to the deciding test is [`Judged::estimate`].
    pub change: f64,
    /// |ln(candidate / baseline)| of the geometric means, positive if the candidate is worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worse_by: Option<f64>,
    /// Interval of `change`: two-sided, Welch on logarithms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci90: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95: Option<[f64; 2]>,
    /// The test that decides, and whose p, p_reg, p_ok, p_improved and mde follow; absent where
    /// there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<Test>,
    /// p of "no change": two-sided, on the log scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// p of plain two-sided Welch on the raw scale, of candidate − baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_raw: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t_raw: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub df_raw: Option<f64>,
    /// p of the one-sided test for "worse by more than the margin".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_reg: Option<f64>,
    /// `p_reg`, adjusted over the primary metrics (Holm); absent for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_reg_holm: Option<f64>,
    /// p of the one-sided test for "not worse by as much as the margin".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_ok: Option<f64>,
    /// p of the one-sided test for "better by more than the margin".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_improved: Option<f64>,
    /// `p_improved`, adjusted over the primary metrics (Holm); absent for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_improved_holm: Option<f64>,
    /// Effect size of candidate − baseline on the raw scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedges_g: Option<f64>,
    /// Minimum detectable effect as a share: the smallest true change that a one-sided test of
    /// these launches would detect four times in five.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mde: Option<f64>,
    /// Launches on each side with which this metric alone would be decided either way four times in
    /// five, if it keeps its scatter and its change; absent where none would do. In one session, where
    /// too few earlier ones are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launches_needed: Option<u32>,
    /// How widely the middle half of the launches scatters on the log scale, as a standard deviation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scatter: Option<f64>,
    /// Standard deviation between sessions on the log scale, which the test took into account; absent
    /// if both sides are of one session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub between_sessions: Option<f64>,
    /// The rank test, whichever rule decides. Absent with one launch, and where nothing varies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<Figures>,
    /// The quantile test of a tail metric, over the values inside all launches, whichever rule
    /// decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantile: Option<Figures>,
    /// Welch's test on logarithms, whichever rule decides. Absent like `rank`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub welch: Option<Figures>,
    /// There is a change, and it is smaller than the margin.
    pub real_but_small: bool,
    /// Neither side varies, so the values were compared without a test.
    pub exact: bool,
    /// The decision by the chosen rule.
    pub decision: Decision,
    /// The decision by the tests against the margin: those of the chosen rule, or the rank tests
    /// beside the point rule.
    pub margin_rule: Decision,
    /// The decision by the point estimate, whichever rule was chosen.
    pub point_rule: Decision,
    /// The decision in one sentence.
    pub why: String,
}

/// An estimate of the change with its 90 % and 95 % interval.
pub type Estimate = (f64, Option<[f64; 2]>, Option<[f64; 2]>);

impl Judged {
    /// The estimate that belongs to the deciding test: by Hodges and Lehmann with the ranks, the
    /// ratio of the geometric means with Welch's t or without a test.
    pub fn estimate(&self) -> Estimate {
        match self.decided_by {
            Some(by) if by != Test::Welch => match self.deciding() {
                Some(figures) => (figures.change, figures.ci90, figures.ci95),
                None => (self.change, self.ci90, self.ci95),
            },
            _ => (self.change, self.ci90, self.ci95),
        }
    }

    /// The figures of the deciding test.
    fn deciding(&self) -> Option<Figures> {
        match self.decided_by? {
            Test::Welch => self.welch,
            by if by.is_of_quantile() => self.quantile,
            _ => self.rank,
        }
    }

    /// The half-width on the log scale of the 90 % interval that the launches alone give: what the
    /// precision rule looks at.
    pub fn half_width(&self) -> Option<f64> {
        self.deciding()?.half_width
    }
}

/// Every metric judged, and the decision over the primary ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    pub decision: Decision,
    pub rule: Rule,
    pub alpha: f64,
    /// The number of primary metrics that Holm adjusted over.
    pub primaries: usize,
    /// Launches on each side with which all deciding metrics together pass or fail four times in five,
    /// if they keep their scatter and their change; absent where no number would do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launches_needed: Option<u32>,
    /// The decision in one sentence.
    pub why: String,
    pub metrics: Vec<Judged>,
}

/// Why numbers or rules cannot be judged.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadPair {
    #[error("{metric}, {side}: {source}")]
    Sample { metric: String, side: &'static str, source: BadSample },
    #[error(
        "{metric}, {side}: value {value} is not above zero; a change in percent needs values above zero"
    )]
    NotPositive { metric: String, side: &'static str, value: f64 },
    #[error("{metric}: the two sides are too far apart for a change in percent")]
    Apart { metric: String },
    #[error("the margin of {metric} is {margin}; expected a share of zero or more, such as 0.05")]
    Margin { metric: String, margin: f64 },
    #[error("alpha is {0}; expected a level above 0 and below 0.5, such as 0.05")]
    Alpha(f64),
}

/// Judges every pair.
///
/// # Errors
/// A side without values; a value that is NaN, infinite or not above zero (the error names the
/// metric); a margin below zero; an alpha that is not a valid level.
pub fn judge(pairs: &[Pair<'_>], rules: &Rules) -> Result<Judgement, BadPair> {
    if !(rules.alpha > 0.0 && rules.alpha < 0.5) {
        return Err(BadPair::Alpha(rules.alpha));
    }
    let mut metrics = Vec::with_capacity(pairs.len());
    for pair in pairs {
        metrics.push(measure(pair, rules)?);
    }
    adjust(&mut metrics);
    for (judged, pair) in metrics.iter_mut().zip(pairs) {
        decide(judged, rules, pair.arrangement.knows_too_few_sessions());
    }
    let (decision, primaries) = overall(&metrics);
    // Where nobody knows how much sessions differ, the number is that of one session.
    let one_session = pairs.iter().any(|pair| pair.arrangement.knows_too_few_sessions());
    let launches_needed = needed::for_all(&metrics, rules, one_session);
    for (judged, pair) in metrics.iter_mut().zip(pairs) {
        if judged.decided_by.is_some() {
            judged.launches_needed = needed::for_one(judged, rules, primaries, one_session);
        }
        let would_do = if judged.primary { launches_needed } else { judged.launches_needed };
        let too_few_sessions = pair.arrangement.knows_too_few_sessions();
        judged.why = explain::metric(judged, rules, would_do, too_few_sessions);
    }
    let why = explain::all(decision, &metrics, rules.rule);
    Ok(Judgement {
        decision,
        rule: rules.rule,
        alpha: rules.alpha,
        primaries,
        launches_needed,
        why,
        metrics,
    })
}

/// Computes everything but the decisions, which need the other metrics too.
fn measure(pair: &Pair<'_>, rules: &Rules) -> Result<Judged, BadPair> {
    let metric = pair.metric.to_string();
    let margin = rules.margin_of(pair.metric);
    if !(margin >= 0.0 && margin.is_finite()) {
        return Err(BadPair::Margin { metric, margin });
    }
    let theta = margin.ln_1p();
    let (base, base_logs) = positive(pair, "baseline", pair.baseline)?;
    let (cand, cand_logs) = positive(pair, "candidate", pair.candidate)?;
    let rise = cand_logs.mean() - base_logs.mean();
    if !rise.exp_m1().is_finite() {
        return Err(BadPair::Apart { metric });
    }
    let sign = pair.better.worse_sign();
    let log_change = evidence::welch_figures(&base_logs, &cand_logs, sign, theta, rules.alpha);
    let exact = log_change.as_ref().is_some_and(|w| w.figures.is_none());
    let welch_log = log_change.as_ref().and_then(|w| w.figures);
    let rank = match exact {
        true => None,
        false => evidence::rank_figures(pair, sign, theta, rules.alpha),
    };
    let quantile = match exact {
        true => None,
        false => evidence::quantile_figures(pair, theta, rules.alpha),
    };
    let (decided_by, deciding) = match (rules.rule, quantile) {
        (Rule::Welch, _) => (welch_log.map(|_| Test::Welch), welch_log),
        (_, Some(_)) => (Some(pair.arrangement.test_of_quantile()), quantile),
        (_, None) => (rank.map(|_| pair.arrangement.test()), rank),
    };
    let raw = welch(&cand, &base, 0.95).and_then(|w| w.test);
    // A side with one launch is assumed to scatter like the other.
    let sds = [base_logs.sd(), cand_logs.sd()];
    let either = sds[0].or(sds[1]).unwrap_or(0.0);
    let sd = sds.map(|sd| sd.unwrap_or(either));
    Ok(Judged {
        metric,
        better: pair.better,
        primary: rules.primary.iter().any(|name| name == pair.metric),
        margin,
        baseline: side(&base),
        candidate: side(&cand),
        change: rise.exp_m1(),
        worse_by: Some(sign * rise),
        ci90: log_change.as_ref().and_then(|w| w.ci90),
        ci95: log_change.as_ref().and_then(|w| w.ci95),
        decided_by,
        p: deciding.map(|d| d.p),
        p_raw: raw.map(|t| t.p),
        t_raw: raw.map(|t| t.t),
        df_raw: raw.map(|t| t.df),
        p_reg: deciding.map(|d| d.p_reg),
        p_reg_holm: None,
        p_ok: deciding.map(|d| d.p_ok),
        p_improved: deciding.map(|d| d.p_improved),
        p_improved_holm: None,
        hedges_g: hedges_g(&cand, &base),
        mde: deciding.and_then(|d| d.mde),
        launches_needed: launches_needed(sd, theta, rules.alpha, POWER),
        scatter: evidence::middle_scatter(pair),
        between_sessions: pair.arrangement.between_sessions(theta),
        rank,
        quantile,
        welch: welch_log,
        real_but_small: false,
        exact,
        decision: Decision::Inconclusive,
        margin_rule: Decision::Inconclusive,
        point_rule: Decision::Inconclusive,
        why: String::new(),
    })
}

/// The values of a side and their logarithms.
fn positive(
    pair: &Pair<'_>,
    side: &'static str,
    values: &[f64],
) -> Result<(Sample, Sample), BadPair> {
    let metric = || pair.metric.to_string();
    let sample =
        Sample::new(values).map_err(|source| BadPair::Sample { metric: metric(), side, source })?;
    let logs = sample.ln().ok_or_else(|| BadPair::NotPositive {
        metric: metric(),
        side,
        value: sample.min(),
    })?;
    Ok((sample, logs))
}

fn side(sample: &Sample) -> Side {
    Side {
        n: sample.n(),
        mean: sample.mean(),
        sd: sample.sd(),
        cv: sample.cv(),
        median: sample.median(),
    }
}

/// Adjusts the primary metrics that have a test (Holm).
fn adjust(metrics: &mut [Judged]) {
    let primary: Vec<usize> =
        (0..metrics.len()).filter(|&i| metrics[i].primary && metrics[i].p_reg.is_some()).collect();
    let of = |p: fn(&Judged) -> Option<f64>, metrics: &[Judged]| {
        holm(&primary.iter().filter_map(|&i| p(&metrics[i])).collect::<Vec<_>>())
    };
    let regressed = of(|m| m.p_reg, metrics);
    let improved = of(|m| m.p_improved, metrics);
    for (rank, &i) in primary.iter().enumerate() {
        metrics[i].p_reg_holm = Some(regressed[rank]);
        metrics[i].p_improved_holm = Some(improved[rank]);
    }
}

/// Nothing passes where nobody knows how much sessions differ.
fn decide(judged: &mut Judged, rules: &Rules, too_few_sessions: bool) {
    let theta = judged.margin.ln_1p();
    let worse_by = judged.worse_by.unwrap_or(0.0);
    let beyond = |by: f64| by > theta + ROUNDING;
    let by_estimate = if beyond(worse_by) {
        Decision::Regressed
    } else if beyond(-worse_by) {
        Decision::Improved
    } else {
        Decision::NotRegressed
    };
    if judged.exact {
        (judged.margin_rule, judged.point_rule) = (by_estimate, by_estimate);
    }
    if let (Some(p), Some(p_reg), Some(p_ok), Some(p_improved)) =
        (judged.p, judged.p_reg, judged.p_ok, judged.p_improved)
    {
        let below = |p: f64| p < rules.alpha;
        judged.margin_rule = if judged.p_reg_holm.unwrap_or(p_reg) < rules.red_level() {
            Decision::Regressed
        } else if below(judged.p_improved_holm.unwrap_or(p_improved)) {
            Decision::Improved
        } else if below(p_ok) {
            Decision::NotRegressed
        } else {
            Decision::Inconclusive
        };
        judged.point_rule = if below(p) { by_estimate } else { Decision::NotRegressed };
        judged.real_but_small =
            below(p) && below(p_ok) && judged.margin_rule == Decision::NotRegressed;
    }
    if too_few_sessions {
        let known = |d: Decision| if d == Decision::Regressed { d } else { Decision::Inconclusive };
        judged.margin_rule = known(judged.margin_rule);
        judged.point_rule = known(judged.point_rule);
    }
    judged.decision = match rules.rule {
        Rule::Rank | Rule::Welch => judged.margin_rule,
        Rule::Point => judged.point_rule,
    };
}

/// The decision over the primary metrics: regressed if any is; else inconclusive if any is or there
/// is none; else improved if any is; else not regressed.
fn overall(metrics: &[Judged]) -> (Decision, usize) {
    let primary: Vec<Decision> = metrics.iter().filter(|m| m.primary).map(|m| m.decision).collect();
    let any = |decision| primary.contains(&decision);
    let decision = if any(Decision::Regressed) {
        Decision::Regressed
    } else if any(Decision::Inconclusive) || primary.is_empty() {
        Decision::Inconclusive
    } else if any(Decision::Improved) {
        Decision::Improved
    } else {
        Decision::NotRegressed
    };
    (decision, primary.len())
}

#[cfg(test)]
mod tests;
