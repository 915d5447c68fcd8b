//! Judges two arms, and says when a session has measured enough for it.

use anyhow::{Context, Result, bail};

use crate::analysis::gate::{judge_arms, precise};
use crate::analysis::requirement::{self, Requirement};
use crate::analysis::verdict::{BadPair, Decision, Judgement, Look, Rules};
use crate::record::{Arm, Record};
use crate::session::Stop;

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
}

impl Judge<'_> {
    /// Absent where the candidate has no launch that succeeded: its failures are then the verdict.
    pub fn judgement(&self, baseline: &Arm, candidate: &Arm) -> Result<Option<Judgement>> {
        if crate::analysis::ok_launches(candidate).next().is_none() {
            return Ok(None);
        }
        Ok(Some(self.judge(baseline, candidate)?))
    }

    fn judge(&self, baseline: &Arm, candidate: &Arm) -> Result<Judgement, BadPair> {
        let alpha = look_alpha(self.stop, self.rules.alpha);
        judge_arms(baseline, candidate, &Rules { alpha, ..self.rules.clone() })
    }

    pub fn enough(&self, baseline: &Arm, candidate: &Arm, launches: u32) -> bool {
        match self.judge(baseline, candidate) {
            Ok(j) if self.stop.is_extension() => {
                launches == self.stop.limits().least && j.decision != Decision::Inconclusive
            }
            Ok(judgement) => precise(&judgement),
            // The verdict will report it.
            Err(_) => true,
        }
    }
}

/// The level of each test, so that measuring which may end early spends no more than `alpha`.
pub fn look_alpha(stop: Stop, alpha: f64) -> f64 {
    let look = match stop {
        Stop::Extension { .. } => Look::First,
        Stop::Precision { least, most, .. } if least < most => Look::Precise,
        Stop::Precision { .. } | Stop::Fixed { .. } => Look::Only,
    };
    look.alpha(alpha)
}

pub fn must_have_measured(arm: &Arm, what: &str) -> Result<()> {
    if crate::analysis::ok_launches(arm).next().is_some() {
        return Ok(());
    }
    let reason = crate::analysis::failure(arm).map_or("it was not launched", |e| &e.message);
    bail!("{what} could not be measured: {}", reason.lines().next().unwrap_or_default())
}
