//! `compare`: two or more result files, with a verdict for each pair of arms.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::analysis::foreign::{self, Source};
use crate::analysis::pairing::{Wanted, compare};
use crate::cli::compare::CompareArgs;
use crate::history;
use crate::report::of::compare::render;
use crate::report::{Style, print};

/// No numbers that belong together.
const NOT_COMPARABLE: u8 = 4;

pub fn run(args: &CompareArgs) -> Result<ExitCode> {
    let mut sources: Vec<Source> =
        args.files.iter().map(|file| foreign::read(file)).collect::<Result<_>>()?;
    history::add_earlier(&mut sources, args.history_db.as_deref()).context("--history-db")?;
    let (baseline, candidates) = sources.split_first().expect("clap asks for two");
    let wanted = Wanted { pairs: args.pair.clone(), all: args.all, per_prompt: args.per_prompt };
    let rules = args.rules.rules();
    let compared = compare(baseline, candidates, &rules, &wanted)?;
    let text = render(&compared, args.output.output.format(), Style::of_stdout());
    print(&text)?;
    Ok(match args.exit_code {
        true => compared.exit_code().into(),
        false if compared.against.iter().any(|a| a.pairs.is_empty()) => NOT_COMPARABLE.into(),
        false => ExitCode::SUCCESS,
    })
}
