//! `run --list`: what a run would do and how long it would take, without running anything.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;

use crate::analysis::estimate::{Requests, launch_time};
use crate::cli::RunArgs;
use crate::engine::EngineSpec;
use crate::measure::plan::Planned;
use crate::record::{Model, Record};
use crate::units::{Bytes, Seconds};
use crate::workload::Workload;

/// Earlier records that are looked at for the estimate, the newest ones.
const RECORDS: usize = 40;

/// Prints the plan and the estimate to stdout.
pub fn print(
    args: &RunArgs,
    engines: &[EngineSpec],
    model: &Model,
    workload: &Workload,
    threads: u32,
    order: &[Planned],
) -> Result<()> {
    let mut out = String::new();
    writeln!(out, "model     {} {} ({})", model.name, model.quant, Bytes(model.size_bytes))?;
    writeln!(out, "threads   {threads}")?;
    writeln!(out, "prompts   {}", workload.name)?;
    for p in &workload.prompts {
        let depth = match p.depth() {
            0 => String::new(),
            depth => format!(", behind a context of {depth}"),
        };
        writeln!(out, "          {}: {} tokens in, {} out{depth}", p.id, p.ids.len(), p.n_gen)?;
    }
    writeln!(out, "launches  {} of {} engines, seed {}:", args.launches, engines.len(), args.seed)?;
    for (i, planned) in order.iter().enumerate() {
        writeln!(
            out,
            "          {:>3}  {} #{}",
            i + 1,
            engines[planned.arm].name,
            planned.index + 1
        )?;
    }
    let records = earlier(&args.output_dir);
    let prompts = workload.record().prompts;
    let requests = Requests { prompts: &prompts, warmup: args.warmup, iterations: args.iterations };
    let mut sum = 0.0;
    let mut unknown = Vec::new();
    writeln!(out, "time      by earlier results in {}:", args.output_dir.display())?;
    for engine in engines {
        match launch_time(&records, &model.sha256, &engine.name, threads, requests) {
            Some(one) => {
                sum += f64::from(args.launches) * (one.0 + args.delay);
                writeln!(out, "          {:<16} {one} a launch", engine.name)?;
            }
            None => unknown.push(engine.name.as_str()),
        }
    }
    match unknown.as_slice() {
        [] => writeln!(out, "          {} in all", Seconds(sum))?,
        names => writeln!(
            out,
            "          {} and what {} takes, not measured before with this file and {threads} \
             threads",
            Seconds(sum),
            names.join(", ")
        )?,
    }
    std::io::stdout().write_all(out.as_bytes())?;
    Ok(())
}

/// Records in the folder, oldest first; what is none is passed over.
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
