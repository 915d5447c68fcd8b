//! `--list`: what a session would do and how long it would take, without running anything.

use std::path::Path;

use super::bench::Bench;
use super::estimate::launch_time;
use crate::record::Record;
use crate::report::of::outline::{Arm, Model, Outline};
use crate::units::Seconds;

/// Earlier records that are read for the estimate, the newest ones.
const RECORDS: usize = 40;

/// The plan of `launches` of each arm, with an estimate from the earlier results in `folder`.
pub fn outline(bench: &Bench, launches: u32, folder: &Path) -> Outline {
    let (records, work) = (earlier(folder), &bench.spec.workload);
    let workload = bench.workload.record();
    let model = |file: &super::find::Found| Model {
        name: file.model.name.clone(),
        quant: file.model.quant.clone(),
        size_bytes: file.model.size_bytes,
    };
    let arm = |seat: &super::Seat| {
        let sha256 = &bench.file_of(seat).model.sha256;
        let of = (sha256.as_str(), seat.point.engine.as_str(), seat.device, seat.threads);
        let one = launch_time(&records, of, &workload.prompts, work);
        Arm { label: seat.label.clone(), launch_s: one.map(|Seconds(s)| s + work.delay) }
    };
    let arms = bench.seats.iter().map(arm).collect();
    let order = bench.order(launches);
    let launch = |planned: &crate::plan::Planned| {
        format!("{} #{}", bench.seats[planned.arm].label, planned.index + 1)
    };
    Outline {
        models: bench.files.iter().map(model).collect(),
        threads: bench.spec.target.threads.clone(),
        prompt_set: workload.prompt_set,
        prompts: workload.prompts,
        seed: work.seed,
        are_engines: bench.seats.iter().all(|seat| seat.label == seat.point.engine),
        launches_each: launches,
        arms,
        order: order.iter().map(launch).collect(),
        results: folder.to_path_buf(),
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
