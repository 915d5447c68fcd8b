//! A session that ends when enough is known: whole mirrored blocks (ABBA or BAAB) until a rule
//! says so, or the launches or the time that were set before are used up. The rule is the
//! caller's; here is only the driving.

use std::time::{Duration, Instant};

use super::launch::Settings;
use super::plan::Planned;
use super::session::{self, ArmPlan, End, Observer};
use crate::record::{Record, Status};
use crate::workload::Workload;

/// How long a session may go on; launches are of each arm, and even.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Before these are in, nobody is asked whether it is enough.
    pub least: u32,
    pub most: u32,
    /// No block is begun that would end later, judged by the longest one so far. The first block
    /// always is.
    pub time: Duration,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The caller had enough.
    Enough,
    /// The most launches are in.
    Launches,
    /// The time is used up.
    Time,
    /// An arm has failed in a way that will not pass.
    Failed,
    Interrupted,
}

/// The launches of `order` (which holds `limits.most` of each arm), block by block. `enough` is
/// asked after each block, with the launches of each arm so far.
#[expect(clippy::too_many_arguments, reason = "the session's, and the two that it adds")]
pub fn run(
    record: &mut Record,
    plans: &[ArmPlan],
    order: &[Planned],
    workload: &Workload,
    settings: &Settings,
    delay: Duration,
    limits: Limits,
    observer: &mut dyn Observer,
    enough: &mut dyn FnMut(&Record, u32) -> bool,
) -> Ended {
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    let mut launches = 0;
    loop {
        launches = (launches + 2).min(limits.most);
        let block = Instant::now();
        let until = (launches as usize * plans.len()).min(order.len());
        let end = session::run(record, plans, &order[..until], workload, settings, delay, observer);
        longest = longest.max(block.elapsed());
        if end == End::Interrupted {
            return Ended::Interrupted;
        }
        let all_failed = |arm: &crate::record::Arm| {
            arm.launches.len() >= 2 && arm.launches.iter().all(|l| l.status == Status::Failed)
                || arm.launches.len() < launches as usize
        };
        if record.arms.iter().any(all_failed) {
            return Ended::Failed;
        }
        // Of a session that is gone on with, the looks that it had are over.
        let ahead = record.arms.iter().any(|arm| arm.launches.len() > launches as usize);
        if launches >= limits.least && !ahead && enough(record, launches) {
            return Ended::Enough;
        }
        if launches >= limits.most {
            return Ended::Launches;
        }
        if began.elapsed() + longest > limits.time {
            return Ended::Time;
        }
        if crate::interrupt::requested() {
            return Ended::Interrupted;
        }
    }
}
