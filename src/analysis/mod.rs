//! Records to conclusions: summaries over launches, comparisons with the baseline, warnings and a
//! plain reading. Reads records only, so it works on files from another machine and day.

pub mod batching;
pub mod ceiling;
mod comparison;
pub mod divergence;
pub mod evidence;
mod finding;
pub mod foreign;
pub mod front;
pub mod gate;
mod gpu;
pub mod latency;
mod memory;
pub mod noise;
pub mod pairing;
mod profile;
pub mod quality;
mod reading;
pub mod requirement;
pub mod self_check;
pub mod sides;
mod softmax;
mod summary;
pub mod sustained;
#[cfg(test)]
pub(crate) mod testing;
mod timing;
mod tokens;
pub mod vectors;
pub mod verdict;
mod warnings;

use crate::record::{Arm, FailureKind, Launch, LaunchError, Record, Status};

pub use comparison::{NoSuchArm, at_prompt, baseline};
pub use finding::{UNKNOWN_METRICS, is_information};
pub use memory::{PartMean, memory_parts};
pub use profile::{OTHER, Phase, STAGES, StageTime, profiling_cost, stage_metrics, stages};
pub use reading::encoded::{is_encoding, is_tokenizing, series};
pub use reading::reading;
pub use timing::{DRIFT, Generation, LaunchTiming, Steady, timing};
pub use warnings::warnings;

/// Fills the conclusions of a record from its launches: the summaries of each arm, the comparisons
/// with the default baseline, the warnings. Replaces what was there, so a second call changes
/// nothing.
pub fn summarize(record: &mut Record) {
    summary::fill(record);
    record.comparisons = match baseline(record) {
        Some(index) => comparison::against(record, index),
        None => Vec::new(),
    };
    record.warnings = warnings(record);
}

/// The same, against the arm with this label.
///
/// # Errors
/// No arm has the label; the record is unchanged.
pub fn summarize_against(record: &mut Record, label: &str) -> Result<(), NoSuchArm> {
    let index = comparison::find(record, label)?;
    summary::fill(record);
    record.comparisons = comparison::against(record, index);
    record.warnings = warnings(record);
    Ok(())
}

/// The launches that count.
pub fn ok_launches(arm: &Arm) -> impl Iterator<Item = &Launch> {
    arm.launches.iter().filter(|l| l.status == Status::Ok)
}

/// Why an arm has no good launch; `None` if it has one or was never launched.
pub fn failure(arm: &Arm) -> Option<&LaunchError> {
    if ok_launches(arm).next().is_some() {
        return None;
    }
    arm.launches.iter().find_map(|l| l.error.as_ref())
}

/// The name of a kind of failure as records write it: `compile_failed`.
pub fn kind_name(kind: FailureKind) -> String {
    kind.name()
}

#[cfg(test)]
mod tests;
