//! `--list`: what a session would do and how long it would take, without running anything.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;

use super::bench::Bench;
use super::estimate::launch_time;
use crate::record::Record;
use crate::report::clean;
use crate::units::{Bytes, Seconds};

/// Earlier records that are read for the estimate, the newest ones.
const RECORDS: usize = 40;

/// Prints the plan of `launches` of each arm to stdout, with an estimate from the earlier results
/// in `folder`.
pub fn list(bench: &Bench, launches: u32, folder: &Path) -> Result<()> {
    let mut out = String::new();
    for file in &bench.files {
        let model = &file.model;
        let (name, quant) = (clean(&model.name), clean(&model.quant));
        writeln!(out, "model     {name} {quant} ({})", Bytes(model.size_bytes))?;
    }
    let threads: Vec<String> = bench.spec.target.threads.iter().map(u32::to_string).collect();
    writeln!(out, "threads   {}", threads.join(", "))?;
    writeln!(out, "prompts   {}", clean(&bench.workload.name))?;
    for p in &bench.workload.prompts {
        let depth = match p.depth() {
            0 => String::new(),
            depth => format!(", behind a context of {depth}"),
        };
        let (id, n) = (clean(&p.id), p.ids.len());
        writeln!(out, "          {id}: {n} tokens in, {} out{depth}", p.n_gen)?;
    }
    let (arms, work) = (&bench.seats, &bench.spec.workload);
    let what =
        if arms.iter().all(|seat| seat.label == seat.point.engine) { "engines" } else { "points" };
    writeln!(out, "launches  {launches} of {} {what}, seed {}:", arms.len(), work.seed)?;
    for (i, planned) in bench.order(launches).iter().enumerate() {
        let label = &arms[planned.arm].label;
        writeln!(out, "          {:>3}  {label} #{}", i + 1, planned.index + 1)?;
    }
    let records = earlier(folder);
    let prompts = bench.workload.record().prompts;
    let mut sum = 0.0;
    let mut unknown = Vec::new();
    writeln!(out, "time      by earlier results in {}:", clean(&folder.display().to_string()))?;
    for seat in arms {
        let sha256 = &bench.file_of(seat).model.sha256;
        let of = (sha256.as_str(), seat.point.engine.as_str(), seat.device, seat.threads);
        match launch_time(&records, of, &prompts, work) {
            Some(one) => {
                sum += f64::from(launches) * (one.0 + work.delay);
                writeln!(out, "          {:<16} {one} a launch", seat.label)?;
            }
            None => unknown.push(seat.label.as_str()),
        }
    }
    match unknown.as_slice() {
        [] => writeln!(out, "          {} in all", Seconds(sum))?,
        names => writeln!(
            out,
            "          {} and what {} takes, not measured before with this file on this device with as many threads",
            Seconds(sum),
            names.join(", ")
        )?,
    }
    std::io::stdout().write_all(out.as_bytes())?;
    Ok(())
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
