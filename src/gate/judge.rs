//! Judges two arms, and says when a session has measured enough for it.

use anyhow::{Context, Result, bail};

use crate::analysis::gate::{judge_arms, may_be_worse, precise};
use crate::analysis::requirement::{self, Requirement};
use crate::analysis::sides::Origin;
use crate::analysis::verdict::{BadPair, Decision, Judgement, Look, Rule, Rules};
use crate::record::{Arm, Record};
use crate::session::{Ended, Stop};

/// The requirements on ratios between the arms of a record, checked at level `alpha`.
pub fn check_ratios(
    record: &Record,
    requirements: &[Requirement],
    alpha: f64,
) -> Result<Vec<requirement::Checked>> {
    requirement::check(record, requirements, alpha).context("--require")
}

/// Judges two arms, and says when it is enough.
pub struct Judge<'a> {
    pub rules: &'a Rules,
    pub stop: Stop,
    pub origin: Origin<'a>,
}

impl Judge<'_> {
    /// Absent where the candidate has no launch that succeeded: its failures are then the verdict.
    pub fn judgement(&self, baseline: &Arm, candidate: &Arm) -> Result<Option<Judgement>> {
        if crate::analysis::ok_launches(candidate).next().is_none() {
            return Ok(None);
        }
        let launches = candidate.launches.len() as u32;
        Ok(Some(self.judge(baseline, candidate, self.look(launches, true))?))
    }

    fn judge(&self, baseline: &Arm, candidate: &Arm, look: Look) -> Result<Judgement, BadPair> {
        judge_arms(baseline, candidate, self.origin, &self.rules.at(look))
    }

    /// The look at so many launches of each side. The mean of `--rule point` has no bounds that
    /// would allow for several looks, so it is looked at once.
    fn look(&self, launches: u32, last: bool) -> Look {
        match self.stop {
            Stop::Precision { least, most, .. }
                if least < most && self.rules.rule != Rule::Point =>
            {
                Look::Sequential { launches, least, most, last }
            }
            stop => look(stop),
        }
    }

    pub fn enough(&self, baseline: &Arm, candidate: &Arm, launches: u32) -> bool {
        let look = self.look(launches, false);
        match self.judge(baseline, candidate, look) {
            Ok(j) if self.stop.is_extension() => {
                launches == self.stop.limits().least && j.decision != Decision::Inconclusive
            }
            Ok(judgement) => {
                let precise = precise(&judgement);
                match look {
                    Look::Sequential { .. } => {
                        judgement.decision == Decision::Regressed
                            || precise && !may_be_worse(&judgement)
                    }
                    _ => precise,
                }
            }
            // The verdict will report it.
            Err(_) => true,
        }
    }

    /// Why measuring ended, for readers.
    pub fn reason(&self, ended: Ended, judgement: Option<&Judgement>) -> String {
        let by_precision = ended == Ended::Enough && !self.stop.is_extension();
        match judgement {
            Some(judgement) if by_precision && judgement.decision == Decision::Regressed => {
                "a deciding metric is worse by more than its margin".into()
            }
            _ => self.stop.reason(ended),
        }
    }
}

/// The level of each test, so that measuring which may end early spends no more than `alpha`.
pub fn look_alpha(stop: Stop, alpha: f64) -> f64 {
    look(stop).alpha(alpha)
}

fn look(stop: Stop) -> Look {
    match stop {
        Stop::Extension { .. } => Look::First,
        Stop::Precision { least, most, .. } if least < most => Look::Precise,
        Stop::Precision { .. } | Stop::Fixed { .. } | Stop::Fitted { .. } => Look::Only,
    }
}

pub fn must_have_measured(arm: &Arm, what: &str) -> Result<()> {
    if crate::analysis::ok_launches(arm).next().is_some() {
        return Ok(());
    }
    let reason = crate::analysis::failure(arm).map_or("it was not launched", |e| &e.message);
    bail!("{what} could not be measured: {}", reason.lines().next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{self, CANDLE};
    use crate::metric::Metric;

    const STOP: Stop = Stop::Precision { least: 6, most: 30, minutes: 4.0 };

    /// Six launches of each side in ABBA blocks, which scatter by 8 %; the second decodes `factor`
    /// times as fast.
    fn arms(factor: f64) -> [Arm; 2] {
        let luck = [[0.96, 1.08, 1.0, 0.9, 1.05, 1.1], [1.09, 0.95, 0.91, 1.04, 1.0, 0.98]];
        [0, 1].map(|side| {
            let mut arm = testing::arm(&CANDLE, 6);
            for (i, launch) in arm.launches.iter_mut().enumerate() {
                let speed = if side == 0 { 1.0 } else { factor };
                launch.order = (2 * i + (side + i) % 2) as u32;
                launch.metrics.insert(Metric::DecodeTps, 40.0 * speed * luck[side][i]);
            }
            arm
        })
    }

    fn judge(rules: &Rules) -> Judge<'_> {
        Judge { rules, stop: STOP, origin: Origin::OneSession }
    }

    #[test]
    fn a_clear_regression_ends_a_gate_and_an_open_one_goes_on() {
        let rules = Rules { primary: vec![Metric::DecodeTps.to_string()], ..Rules::default() };
        let [base, slow] = arms(0.7);
        assert!(judge(&rules).enough(&base, &slow, 6));
        let judgement = judge(&rules).judgement(&base, &slow).unwrap().unwrap();
        assert_eq!(judgement.decision, Decision::Regressed);
        let reason = judge(&rules).reason(Ended::Enough, Some(&judgement));
        assert!(reason.contains("worse by more than its margin"), "{reason}");
        let [base, same] = arms(1.0);
        assert!(!judge(&rules).enough(&base, &same, 6));
        // The mean of the point rule has no bounds for several looks.
        let point = Rules { rule: Rule::Point, ..rules };
        let [base, slow] = arms(0.7);
        assert!(!judge(&point).enough(&base, &slow, 6));
    }

    #[test]
    fn a_look_before_the_end_spends_less_than_the_last_one() {
        let rules = Rules::default();
        let level = |last| rules.at(judge(&rules).look(10, last)).red_level();
        assert!(level(false) < level(true) && level(true) < rules.alpha);
        assert_eq!(look_alpha(STOP, 0.05), Look::Precise.alpha(0.05));
    }
}
