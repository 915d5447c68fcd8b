//! `doctor`: is this machine fit to measure on?

mod noise;
mod setup;

use anyhow::{Result, bail};

use crate::cli::{DoctorArgs, Output};
use crate::measure::doctor::noise::findings;
use crate::measure::doctor::{Question, examine};
use crate::measure::host;
use crate::model::cache::CacheDir;
use crate::progress::say;
use crate::report::of::doctor::render;
use crate::report::{Style, print};

pub fn run(args: &DoctorArgs) -> Result<()> {
    if args.output.output == Output::Csv {
        bail!("doctor -o csv: expected table or json, md or html");
    }
    let threads = args.threads.unwrap_or_else(host::available_threads);
    let cache = CacheDir::from_env()?;
    let question = Question {
        threads,
        models: &setup::models()?,
        cache: cache.path(),
        others: vec![setup::python()?, setup::engines(&cache)?],
    };
    let mut diagnosis = examine(question, &say)?;
    if args.noise {
        let noise = noise::measure(threads)?;
        diagnosis.checks.extend(findings(&noise, threads));
        diagnosis.noise = Some(noise);
    }
    let text = render(&diagnosis, args.output.output.format(), Style::of_stdout());
    print(&text)
}
