//! How many launches would decide: a metric, and the whole gate.

use super::{Decision, Judged, POWER, Rules, Test};
use crate::stats::{Design, fewest_to_reach, power};

/// Beyond this many launches of each side nobody waits for a verdict.
const MOST: u32 = 100_000;

/// One deciding metric as its launches show it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Worse by − θ.
    distance: f64,
    /// How widely launches scatter, as the deciding test sees it.
    sd: f64,
    /// How widely sessions scatter.
    between: f64,
    by: Test,
}

impl Seen {
    /// The estimate and the scatter are taken as the truth; `one_session`: sessions are left out.
    /// `None` where nothing was tested.
    fn of(judged: &Judged, one_session: bool) -> Option<Self> {
        let by = judged.decided_by?;
        let worse_by = judged.better.worse_sign() * judged.estimate().0.ln_1p();
        let sizes = [judged.baseline.n, judged.candidate.n];
        let by_interval = super::evidence::scatter(judged.half_width()?, sizes)?;
        let sd = match by == Test::Welch || by.is_of_quantile() {
            true => by_interval,
            false => by_interval.max(judged.scatter.unwrap_or(0.0)),
        };
        let between = judged.between_sessions.filter(|_| !one_session).unwrap_or(0.0);
        (sd > 0.0).then(|| Self { distance: worse_by - judged.margin.ln_1p(), sd, between, by })
    }

    /// The chances of "worse by more than the margin" at level `red` and of "not worse by as much" at
    /// level `ok` with `n` launches of each side: the power of a t test of values that scatter so.
    /// Ranks of n launches are taken to be worth n − 1, for what they lose by moving in steps.
    fn chances(&self, n: u32, red: f64, ok: f64) -> Option<[f64; 2]> {
        let sd = (self.sd * self.sd + f64::from(n) * self.between * self.between).sqrt();
        let worth = if self.by == Test::Welch { n } else { (n - 1).max(2) };
        let design = Design { n: [worth, worth], sd: [sd, sd] };
        let chance = |distance: f64, alpha: f64| {
            let blocks = self.by.is_in_blocks();
            let reached = self.by == Test::Welch || n >= fewest_to_reach(alpha, blocks)?;
            if reached { power(design, distance, alpha) } else { Some(0.0) }
        };
        Some([chance(self.distance, red)?, chance(-self.distance, ok)?])
    }
}

/// The launches of each side with which this metric alone would be decided either way with power
/// [`POWER`].
pub(super) fn for_one(
    judged: &Judged,
    rules: &Rules,
    primaries: usize,
    one_session: bool,
) -> Option<u32> {
    let seen = Seen::of(judged, one_session)?;
    let red = rules.red_level() / primaries.max(1) as f64;
    least(|n| {
        let [red, ok] = seen.chances(n, red, rules.alpha)?;
        Some(red + ok)
    })
}

/// The launches of each side with which the whole gate would pass or fail with power [`POWER`], if
/// each deciding metric keeps the scatter and the change that these launches show. Metrics are taken
/// to be independent. `None` if a deciding metric cannot be planned or no number does.
pub(super) fn for_all(metrics: &[Judged], rules: &Rules, one_session: bool) -> Option<u32> {
    let tested: Vec<&Judged> = metrics.iter().filter(|m| m.primary && !m.exact).collect();
    let all: Vec<Seen> = tested.iter().map(|m| Seen::of(m, one_session)).collect::<Option<_>>()?;
    if all.is_empty()
        || metrics.iter().any(|m| m.primary && m.exact && m.decision == Decision::Regressed)
    {
        return None;
    }
    let red = rules.red_level() / all.len() as f64;
    least(|n| {
        let (mut none_red, mut all_ok) = (1.0, 1.0);
        for metric in &all {
            let [red, ok] = metric.chances(n, red, rules.alpha)?;
            none_red *= 1.0 - red;
            all_ok *= ok;
        }
        Some(1.0 - none_red + all_ok)
    })
}

/// The least n from 2 on whose chance is at least [`POWER`].
fn least(chance: impl Fn(u32) -> Option<f64>) -> Option<u32> {
    let enough = |n: u32| Some(chance(n)? >= POWER);
    let mut high = 2;
    while !enough(high)? {
        high *= 2;
        if high > MOST {
            return None;
        }
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if enough(middle)? { high = middle } else { low = middle }
    }
    Some(high)
}
