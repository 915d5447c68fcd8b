//! How two sides came to be measured: interleaved in one session, or in two sessions, and what
//! earlier sessions then show of how much sessions differ. Knows no database; a history fills it in.

use std::collections::BTreeMap;

use super::ok_launches;
use super::verdict::{Arrangement, FEWEST_SESSIONS, Inner};
use crate::metric::{Inside, Metric};
use crate::record::{Arm, Launch, Role, Warning};
use crate::stats::Between;

/// Where the launches of two sides come from.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// One session, which interleaved them.
    OneSession,
    /// Two sessions.
    TwoSessions(&'a Earlier),
}

/// What earlier sessions of the same machine, model and settings show.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Earlier {
    /// The history in which they were looked for.
    pub history: String,
    /// How many there are.
    pub sessions: u32,
    /// How much they differ, by the name of the metric.
    pub spreads: BTreeMap<String, Between>,
}

impl Earlier {
    pub fn arrangement(&self, metric: &str) -> Arrangement<'static> {
        Arrangement::Sessions(self.spreads.get(metric).copied())
    }

    /// Whether there are so few that nothing passes.
    pub fn are_too_few(&self) -> bool {
        self.sessions < FEWEST_SESSIONS
    }

    /// What a reader must know of a comparison of two sessions.
    pub fn warning(&self, baseline: &str) -> Warning {
        let n = match self.sessions {
            0 => "no earlier session".into(),
            1 => "1 earlier session".into(),
            n => format!("{n} earlier sessions"),
        };
        let shown = match self.history.is_empty() {
            true => n,
            false => format!("{n} in {}", self.history),
        };
        let (code, rest) = match self.are_too_few() {
            true => (
                "few_sessions",
                format!(
                    "too few to know how much sessions differ ({FEWEST_SESSIONS} do): nothing passes"
                ),
            ),
            false => ("other_session", "the test allows for how much they differ".into()),
        };
        Warning {
            code: code.into(),
            arm: None,
            message: format!("{baseline} is of another session; {shown}: {rest}"),
            advice: match self.are_too_few() {
                true => {
                    "`llm-bench history add FILE` adds results of this machine, `llm-bench track` \
                     measures one; gate --baseline-rev or --baseline-bin measures both sides in one \
                     session and needs none"
                }
                false => "gate --baseline-rev or --baseline-bin measures both sides in one session",
            }
            .into(),
        }
    }
}

/// Where a launch stood in the plan of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The mirrored block, ABBA or BAAB: two launches of each arm.
    block: u32,
    /// Its number within the session.
    order: u32,
}

impl Place {
    pub fn of(launch: &Launch) -> Self {
        Self { block: launch.index / 2, order: launch.order }
    }
}

/// The values of a metric, one per launch that succeeded and has it, with the places of the launches.
pub fn values(arm: &Arm, metric: Metric) -> (Vec<f64>, Vec<Place>) {
    let found = ok_launches(arm).filter_map(|l| Some((*l.metrics.get(&metric)?, Place::of(l))));
    found.unzip()
}

/// The values inside each launch of [`values`] of which the metric is a percentile, in seconds, and
/// the percentile as a share. `None` for other metrics, and where a launch does not hold them.
pub fn tail(arm: &Arm, metric: Metric) -> Option<Inner> {
    let (quantile, inside) = metric.tail()?;
    let with_metric = ok_launches(arm).filter(|launch| launch.metrics.contains_key(&metric));
    let launches: Vec<Vec<f64>> = with_metric
        .map(|launch| {
            let measured = launch.prompts.iter().filter(|run| run.role == Role::Measured);
            let ns: Vec<u64> = match inside {
                Inside::FirstTokens => {
                    measured.filter_map(|r| r.token_ns.first().copied()).collect()
                }
                Inside::Gaps => {
                    let gaps = |w: &[u64]| w[1].saturating_sub(w[0]);
                    measured.flat_map(|run| run.token_ns.windows(2).map(gaps)).collect()
                }
            };
            ns.into_iter().map(|ns| ns as f64 / 1e9).collect()
        })
        .collect();
    let whole = !launches.is_empty() && launches.iter().all(|values| !values.is_empty());
    whole.then_some((quantile, launches))
}

/// The block of each launch of both sides. `None` if the session did not make one block after the
/// other, or a place is not known: ranks within blocks would then compare what was not measured side
/// by side.
pub fn blocks(sides: [&[Place]; 2]) -> Option<[Vec<u32>; 2]> {
    if sides.iter().any(|side| side.is_empty()) {
        return None;
    }
    let mut all: Vec<&Place> = sides.iter().copied().flatten().collect();
    all.sort_by_key(|place| place.order);
    let in_turn = all.windows(2).all(|w| w[0].block <= w[1].block && w[0].order < w[1].order);
    in_turn.then(|| sides.map(|side| side.iter().map(|place| place.block).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(list: &[(u32, u32)]) -> Vec<Place> {
        list.iter().map(|&(index, order)| Place { block: index / 2, order }).collect()
    }

    #[test]
    fn mirrored_launches_have_blocks_and_others_do_not() {
        let a = places(&[(0, 0), (1, 3), (2, 5), (3, 6)]);
        let b = places(&[(0, 1), (1, 2), (2, 4), (3, 7)]);
        assert_eq!(blocks([&a, &b]), Some([vec![0, 0, 1, 1], vec![0, 0, 1, 1]]));
        // A launch that failed is missing, and the rest keep their blocks.
        assert_eq!(blocks([&a[1..], &b]), Some([vec![0, 1, 1], vec![0, 0, 1, 1]]));
        // A third arm between them changes nothing; one side after the other is no block.
        let apart = places(&[(0, 0), (1, 5), (2, 8), (3, 9)]);
        assert!(blocks([&apart, &places(&[(0, 2), (1, 4)])]).is_some());
        let after = places(&[(0, 8), (1, 9), (2, 10), (3, 11)]);
        assert_eq!(blocks([&a, &after]), None);
        assert_eq!(blocks([&a, &a]), None, "one place twice");
        assert_eq!(blocks([&a, &[]]), None);
    }

    #[test]
    fn too_few_sessions_say_what_to_do() {
        let few = Earlier { sessions: 2, history: "h.sqlite".into(), ..Earlier::default() };
        let warning = few.warning("the baseline");
        assert!(warning.message.contains("2 earlier sessions in h.sqlite"), "{}", warning.message);
        assert!(warning.advice.contains("history add"), "{}", warning.advice);
        let enough = Earlier { sessions: 3, ..few };
        assert!(!enough.are_too_few() && enough.warning("A").code == "other_session");
    }
}
