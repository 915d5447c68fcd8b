//! A session: every planned launch in its order, the record kept after each one. Knows neither
//! how progress is shown nor where the record goes; both are the observer's.

use std::time::{Duration, Instant};

use super::launch::{self, Identity, Outcome, Settings};
use super::plan::Planned;
use crate::device::Device;
use crate::engine::EngineSpec;
use crate::engine::provision::Installed;
use crate::record::{Arm, FailureKind, Launch, Model, Point, Record, Status};
use crate::units::Seconds;
use crate::workload::Workload;

/// One column of the table: an engine, and whether it can be started.
#[derive(Debug)]
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
    /// A launch is in; `record` holds it.
    fn finished(&mut self, record: &mut Record, arm: usize);
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Complete,
    Interrupted,
}

/// An empty arm for each engine.
pub fn arms(plans: &[ArmPlan], model: &Model, device: Device, threads: u32) -> Vec<Arm> {
    plans
        .iter()
        .map(|p| Arm {
            engine: p.engine.name.clone(),
            label: p.engine.name.clone(),
            point: Point {
                model: model.name.clone(),
                quant: model.quant.clone(),
                engine: p.engine.name.clone(),
                device: Some(device.to_string()),
                threads: Some(threads),
                ..Point::default()
            },
            ..Arm::default()
        })
        .collect()
}

/// Runs the launches in `order` and appends them to `record`, but for those that it holds already,
/// from before an interruption. An arm whose first launch fails
/// for a reason that will not pass is not launched again. `delay` lies before each launch.
pub fn run(
    record: &mut Record,
    plans: &[ArmPlan],
    order: &[Planned],
    workload: &Workload,
    settings: &Settings,
    delay: Duration,
    observer: &mut dyn Observer,
) -> End {
    let mut clock = Estimate::new(plans.len());
    for (i, planned) in order.iter().enumerate() {
        let arm = &record.arms[planned.arm];
        let is_in = arm.launches.iter().any(|launch| launch.order == i as u32);
        if is_in || arm.launches.iter().any(is_final_failure) {
            continue;
        }
        observer.begins(arm, *planned, clock.left(&order[i..]));
        let at = (planned.index, i as u32);
        let began = Instant::now();
        match &plans[planned.arm].installed {
            Err(why) => {
                let launch = launch::failed(why.kind, "install", why.message.clone(), at);
                record.arms[planned.arm].launches.push(launch);
            }
            Ok(installed) => {
                std::thread::sleep(delay);
                let engine = &plans[planned.arm].engine;
                match launch::launch(engine, installed, workload, &record.model, settings, at) {
                    Ok(Outcome { launch, identity }) => {
                        let arm = &mut record.arms[planned.arm];
                        arm.launches.push(launch);
                        introduce(arm, identity);
                    }
                    Err(launch::Interrupted) => return End::Interrupted,
                }
            }
        }
        clock.add(planned.arm, began.elapsed());
        observer.finished(record, planned.arm);
        if crate::interrupt::requested() && i + 1 < order.len() {
            return End::Interrupted;
        }
    }
    End::Complete
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
                    | Unsupported
                    | CompileFailed
                    | BadModel
                    | SpawnFailed
                    | Oom
                    | Timeout
                    | Lied
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
        let order = super::super::plan::plan(2, 2, 0);
        let mut estimate = Estimate::new(2);
        assert!(estimate.left(&order).is_none());
        estimate.add(0, Duration::from_secs(3));
        assert_eq!(estimate.left(&order), Some(Seconds(12.0)));
        estimate.add(1, Duration::from_secs(5));
        assert_eq!(estimate.left(&order), Some(Seconds(16.0)));
    }
}
