//! Drives launches in their order and keeps the record after each one. Knows neither how progress
//! is shown nor where the record goes; both are the observer's.

use std::time::{Duration, Instant};

use super::stop::{Ended, Limits, Stop};
use crate::engine::EngineSpec;
use crate::engine::provision::Installed;
use crate::launch::{self, Identity, Interrupted, Outcome, Settings, Subject};
use crate::plan::Planned;
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
        if let Stop::Fixed { .. } = stop {
            return match self.launch(record, self.order.len(), &mut clock, observer) {
                Ok(()) => Ended::Launches,
                Err(ended) => ended,
            };
        }
        let Limits { least, most, time } = stop.limits();
        let began = Instant::now();
        let mut longest = Duration::ZERO;
        let mut launches = 0;
        loop {
            launches = (launches + 2).min(most);
            let block = Instant::now();
            let until = (launches as usize * self.plans.len()).min(self.order.len());
            if let Err(ended) = self.launch(record, until, &mut clock, observer) {
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

    /// The first `until` launches of the order. An arm whose first launch fails for a reason that
    /// will not pass is not launched again.
    fn launch(
        &self,
        record: &mut Record,
        until: usize,
        clock: &mut Estimate,
        observer: &mut dyn Observer,
    ) -> Result<(), Ended> {
        let order = &self.order[..until];
        for (i, planned) in order.iter().enumerate() {
            let arm = &record.arms[planned.arm];
            let is_in = arm.launches.iter().any(|launch| launch.order == i as u32);
            if is_in || arm.launches.iter().any(is_final_failure) {
                continue;
            }
            observer.begins(arm, *planned, clock.left(&order[i..]));
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

    /// Known once one launch is in; an arm without a launch counts as the mean of the others.
    fn left(&self, order: &[Planned]) -> Option<Seconds> {
        let mean = |(sum, n): (Duration, u32)| (n > 0).then(|| sum.as_secs_f64() / f64::from(n));
        let all = self.spent.iter().fold((Duration::ZERO, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let fallback = mean(all)?;
        Some(Seconds(order.iter().map(|p| mean(self.spent[p.arm]).unwrap_or(fallback)).sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_known_after_the_first_launch() {
        let order = crate::plan::order(2, 2, 0);
        let mut estimate = Estimate::new(2);
        assert!(estimate.left(&order).is_none());
        estimate.add(0, Duration::from_secs(3));
        assert_eq!(estimate.left(&order), Some(Seconds(12.0)));
        estimate.add(1, Duration::from_secs(5));
        assert_eq!(estimate.left(&order), Some(Seconds(16.0)));
    }
}
