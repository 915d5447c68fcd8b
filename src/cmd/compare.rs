//! `compare`: two or more result files, with a verdict for each pair of arms.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::analysis::foreign::{self, Source};
use crate::analysis::pairing::{Wanted, compare};
use crate::cli::compare::CompareArgs;
use crate::history;
use crate::report::of::compare::render;
use crate::report::{Style, print};

/// No numbers that belong together.
const NOT_COMPARABLE: u8 = 4;

pub fn run(args: &CompareArgs) -> Result<ExitCode> {
    let mut sources = sides(args)?;
    history::add_earlier(&mut sources, args.history_db.as_deref()).context("--history-db")?;
    let (baseline, candidates) = sources.split_first().expect("there are two sides or more");
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

/// The baseline and its candidates: one file each, or the files before and behind `--`.
fn sides(args: &CompareArgs) -> Result<Vec<Source>> {
    match (args.files.as_slice(), args.candidate.as_slice()) {
        ([only], []) => bail!(
            "expected two FILEs or more, found {} alone; compare BASELINE CANDIDATE, or the files of \
             each side: compare A1 A2 -- B1 B2",
            only.display()
        ),
        (files, []) => files.iter().map(|file| foreign::read(file)).collect(),
        (baseline, candidate) => {
            Ok(vec![foreign::read_side(baseline)?, foreign::read_side(candidate)?])
        }
    }
}
