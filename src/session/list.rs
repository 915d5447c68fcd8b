//! `--list`: what a session would do and how long it would take, without running anything.

use std::path::Path;

use super::bench::Bench;
use super::estimate::launch_time;
use crate::plan::fit::{fit, is_due};
use crate::record::Record;
use crate::report::of::outline::{Arm, Model, Outline};
use crate::units::Seconds;

/// Earlier records that are read for the estimate, the newest ones.
const RECORDS: usize = 40;

/// The plan of a session with an estimate from the earlier results in `folder`.
pub fn outline(bench: &Bench, folder: &Path) -> Outline {
    let (records, work) = (earlier(folder), &bench.spec.workload);
    let workload = bench.workload.record();
    let model = |file: &super::find::Found| Model {
        name: file.model.name.clone(),
        quant: file.model.quant.clone(),
        size_bytes: file.model.size_bytes,
    };
    let took = |seat: &super::Seat| {
        let sha256 = &bench.file_of(seat).model.sha256;
        let one = launch_time(&records, (sha256, &seat.point), &workload.prompts, work);
        one.map(|Seconds(s)| s + work.delay)
    };
    let took: Vec<Option<f64>> = bench.seats.iter().map(took).collect();
    let counts = counts(&bench.spec, &took);
    let arms = bench.seats.iter().zip(&took).zip(&counts);
    let arm = |((seat, launch_s), launches): ((&super::Seat, &Option<f64>), &u32)| Arm {
        label: seat.label.clone(),
        launches: *launches,
        launch_s: *launch_s,
    };
    let arms = arms.map(arm).collect();
    let mut order = bench.order(bench.spec.launches);
    let mut made = vec![0; bench.seats.len()];
    order.retain(|planned| {
        let made = &mut made[planned.arm];
        let due = is_due(planned.index, *made, counts[planned.arm], bench.spec.launches);
        *made += u32::from(due);
        due
    });
    let mut made = vec![0; bench.seats.len()];
    let launch = |planned: &crate::plan::Planned| {
        made[planned.arm] += 1;
        format!("{} #{}", bench.seats[planned.arm].label, made[planned.arm])
    };
    Outline {
        models: bench.files.iter().map(model).collect(),
        threads: bench.spec.target.threads.clone(),
        prompt_set: workload.prompt_set,
        prompts: workload.prompts,
        seed: work.seed,
        are_engines: bench.seats.iter().all(|seat| seat.label == seat.point.engine),
        launches_each: bench.spec.launches,
        max_minutes: bench.spec.max_minutes,
        arms,
        order: order.iter().map(launch).collect(),
        results: folder.to_path_buf(),
    }
}

/// Launches of each arm, as far as the time is known to hold them. The session itself fits them to
/// what they take.
fn counts(spec: &crate::plan::Spec, took: &[Option<f64>]) -> Vec<u32> {
    let known: Option<Vec<f64>> = took.iter().copied().collect();
    match (known, spec.max_minutes) {
        (Some(took), Some(minutes)) => {
            fit(&took, &vec![0; took.len()], spec.launches, minutes * 60.0)
        }
        _ => vec![spec.launches; took.len()],
    }
}

/// Records in the folder, oldest first; other files are skipped.
fn earlier(folder: &Path) -> Vec<Record> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|p| p.extension().is_some_and(|x| x == "json"))
        .collect();
    paths.sort(); // names carry the date
    let newest = paths.len().saturating_sub(RECORDS);
    paths[newest..].iter().filter_map(|p| Record::read(p).ok()).collect()
}
