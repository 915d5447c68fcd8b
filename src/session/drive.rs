//! Drives launches in their order and keeps the record after each one. Knows neither how progress
//! is shown nor where the record goes; both are the observer's.

use std::time::{Duration, Instant};

use super::stop::{Ended, Limits, Stop};
use crate::engine::EngineSpec;
use crate::engine::provision::Installed;
use crate::launch::{self, Identity, Interrupted, Outcome, Settings, Subject};
use crate::plan::Planned;
use crate::plan::fit::{fit, is_due};
use crate::record::{Arm, FailureKind, Launch, Record, Status};
use crate::task::Task;
use crate::units::Seconds;

/// One column of the table: an engine, and whether it can be started.
#[derive(Debug, Clone)]
pub struct ArmPlan {
    pub engine: EngineSpec,
    /// Why it cannot, as a failure that the record keeps.
    pub installed: Result<Installed, Unavailable>,
}

/// An engine that cannot be started at all.
#[derive(Debug, Clone)]
pub struct Unavailable {
    pub kind: FailureKind,
    pub message: String,
}

/// What the caller does between launches; nothing of it runs inside one.
pub trait Observer {
    fn begins(&mut self, arm: &Arm, planned: Planned, left: Option<Seconds>);
    /// A launch is in; `record` holds it. False: no further one could be kept.
    fn finished(&mut self, record: &mut Record, arm: usize) -> bool;
    /// The time allows this many launches of each arm, those that are in included.
    fn fitted(&mut self, record: &Record, counts: &[u32]);
}

/// What a session launches, and in which order.
pub struct Course<'a> {
    /// One for each arm of the record.
    pub plans: &'a [ArmPlan],
    pub settings: &'a [Settings],
    pub tasks: &'a [Box<dyn Task<Answer = ()> + 'a>],
    pub order: &'a [Planned],
    /// Before each launch.
    pub delay: Duration,
}

/// Asked after each block, with the launches of each arm so far, whether that is enough.
pub type Enough<'a> = &'a mut dyn FnMut(&Record, u32) -> bool;

impl Course<'_> {
    /// Launches until the rule ends the session. What `record` holds already, from before an
    /// interruption, is not launched again.
    pub fn run(
        &self,
        record: &mut Record,
        stop: Stop,
        observer: &mut dyn Observer,
        enough: Enough<'_>,
    ) -> Ended {
        let mut clock = Estimate::new(self.plans.len());
        match stop {
            Stop::Fixed { .. } => {
                let all = self.launch(record, self.order.len(), None, &mut clock, observer);
                return all.err().unwrap_or(Ended::Launches);
            }
            Stop::Fitted { .. } => return self.fitted(record, stop.limits(), &mut clock, observer),
            Stop::Precision { .. } | Stop::Extension { .. } => {}
        }
        let Limits { least, most, time } = stop.limits();
        let began = Instant::now();
        let mut longest = Duration::ZERO;
        let mut launches = 0;
        loop {
            launches = (launches + 2).min(most);
            let block = Instant::now();
            let until = (launches as usize * self.plans.len()).min(self.order.len());
            if let Err(ended) = self.launch(record, until, None, &mut clock, observer) {
                return ended;
            }
            longest = longest.max(block.elapsed());
            if record.arms.iter().any(|arm| is_hopeless(arm, launches)) {
                return Ended::Failed;
            }
            // A resumed session does not get its earlier looks back.
            let ahead = record.arms.iter().any(|arm| arm.launches.len() > launches as usize);
            if launches >= least && !ahead && enough(record, launches) {
                return Ended::Enough;
            }
            if launches >= most {
                return Ended::Launches;
            }
            if began.elapsed() + longest > time {
                return Ended::Time;
            }
            if crate::interrupt::requested() {
                return Ended::Interrupted;
            }
        }
    }

    /// Block after block, with as many launches of each arm as fit into the time that is left.
    fn fitted(
        &self,
        record: &mut Record,
        limits: Limits,
        clock: &mut Estimate,
        observer: &mut dyn Observer,
    ) -> Ended {
        let began = Instant::now();
        let arms = self.plans.len();
        let mut counts = vec![limits.most; arms];
        for block in 0..limits.most as usize {
            if let (Some(mut took), 1..) = (clock.means(), block) {
                let ended = |arm: &Arm| arm.launches.iter().any(is_final_failure);
                let done: Vec<u32> = record.arms.iter().map(|a| a.launches.len() as u32).collect();
                took.iter_mut().zip(&record.arms).for_each(|(s, arm)| {
                    *s = if ended(arm) { 0.0 } else { *s };
                });
                let left = limits.time.saturating_sub(began.elapsed());
                counts = fit(&took, &done, limits.most, left.as_secs_f64());
                observer.fitted(record, &counts);
            }
            let until = (block + 1) * arms;
            if let Err(ended) = self.launch(record, until, Some(&counts), clock, observer) {
                return ended;
            }
        }
        let is_short = |n: &u32| *n < limits.most;
        if counts.iter().any(is_short) { Ended::Time } else { Ended::Launches }
    }

    /// The first `until` launches of the order, of each arm no more than `counts` where it is
    /// given. An arm whose first launch fails for a reason that will not pass is not launched again.
    fn launch(
        &self,
        record: &mut Record,
        until: usize,
        counts: Option<&[u32]>,
        clock: &mut Estimate,
        observer: &mut dyn Observer,
    ) -> Result<(), Ended> {
        let order = &self.order[..until];
        let most = (self.order.len() / self.plans.len().max(1)) as u32;
        for (i, planned) in order.iter().enumerate() {
            let arm = &record.arms[planned.arm];
            let is_in = arm.launches.iter().any(|launch| launch.order == i as u32);
            let done = arm.launches.len() as u32;
            let is_due = counts.is_none_or(|n| is_due(planned.index, done, n[planned.arm], most));
            if is_in || !is_due || arm.launches.iter().any(is_final_failure) {
                continue;
            }
            let missing = |arm: usize| match counts {
                Some(counts) => counts[arm].saturating_sub(record.arms[arm].launches.len() as u32),
                None => order[i..].iter().filter(|p| p.arm == arm).count() as u32,
            };
            let missing: Vec<u32> = (0..self.plans.len()).map(missing).collect();
            observer.begins(arm, *planned, clock.left(&missing));
            let began = Instant::now();
            let outcome = self.one(*planned, i as u32).map_err(|Interrupted| Ended::Interrupted)?;
            let arm = &mut record.arms[planned.arm];
            arm.launches.push(outcome.launch);
            introduce(arm, outcome.identity);
            clock.add(planned.arm, began.elapsed());
            if !observer.finished(record, planned.arm) && i + 1 < self.order.len() {
                return Err(Ended::Unkept);
            }
            if crate::interrupt::requested() && i + 1 < order.len() {
                return Err(Ended::Interrupted);
            }
        }
        Ok(())
    }

    fn one(&self, planned: Planned, order: u32) -> Result<Outcome, Interrupted> {
        let plan = &self.plans[planned.arm];
        let at = (planned.index, order);
        let installed = match &plan.installed {
            Ok(installed) => installed,
            Err(why) => {
                let launch = launch::failed(why.kind, "install", why.message.clone(), at);
                return Ok(Outcome { launch, identity: Identity::default() });
            }
        };
        std::thread::sleep(self.delay);
        let (task, settings) = (&*self.tasks[planned.arm], &self.settings[planned.arm]);
        launch::launch(&Subject { engine: &plan.engine, installed, task, settings }, at)
    }
}

/// Whether all launches of an arm failed, or it is not launched any more.
fn is_hopeless(arm: &Arm, launches: u32) -> bool {
    arm.launches.len() >= 2 && arm.launches.iter().all(|l| l.status == Status::Failed)
        || arm.launches.len() < launches as usize
}

/// What an engine says of itself; a failed launch may know less than an earlier one.
fn introduce(arm: &mut Arm, identity: Identity) {
    if !identity.version.is_empty() {
        arm.version = identity.version;
    }
    if let Some(precision) = identity.precision {
        arm.precision = Some(precision);
        arm.settings = identity.settings;
        arm.notes = identity.notes;
    }
}

/// Failures that the same launch would show again.
fn is_final_failure(launch: &Launch) -> bool {
    use FailureKind::*;
    launch.status == Status::Failed
        && launch.error.as_ref().is_some_and(|e| {
            matches!(
                e.kind,
                MissingDependency
                    | UnsupportedQuant
                    | CompileFailed
                    | BadModel
                    | SpawnFailed
                    | Oom
                    | Timeout
                    | Lied
                    | Implausible
                    | Unreachable
                    | WrongTokens
                    | Protocol
            )
        })
}

/// Time left, from how long each arm's launches took so far.
struct Estimate {
    spent: Vec<(Duration, u32)>,
}

impl Estimate {
    fn new(arms: usize) -> Self {
        Self { spent: vec![(Duration::ZERO, 0); arms] }
    }

    fn add(&mut self, arm: usize, took: Duration) {
        self.spent[arm].0 += took;
        self.spent[arm].1 += 1;
    }

    /// Seconds of a launch of each arm. Known once one launch is in; an arm without a launch counts
    /// as the mean of the others.
    fn means(&self) -> Option<Vec<f64>> {
        let mean = |(sum, n): (Duration, u32)| (n > 0).then(|| sum.as_secs_f64() / f64::from(n));
        let all = self.spent.iter().fold((Duration::ZERO, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let fallback = mean(all)?;
        Some(self.spent.iter().map(|arm| mean(*arm).unwrap_or(fallback)).collect())
    }

    /// What the missing launches of each arm take.
    fn left(&self, missing: &[u32]) -> Option<Seconds> {
        let means = self.means()?;
        Some(Seconds(missing.iter().zip(means).map(|(n, mean)| f64::from(*n) * mean).sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_known_after_the_first_launch() {
        let mut estimate = Estimate::new(2);
        assert!(estimate.left(&[2, 2]).is_none());
        estimate.add(0, Duration::from_secs(3));
        assert_eq!(estimate.left(&[2, 2]), Some(Seconds(12.0)));
        estimate.add(1, Duration::from_secs(5));
        assert_eq!(estimate.left(&[2, 1]), Some(Seconds(11.0)));
    }
}
