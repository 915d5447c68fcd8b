//! `compare`: two or more result files, with a verdict for each pair of arms.

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;

use super::report::format_of;
use crate::analysis::foreign::{self, Source};
use crate::analysis::pairing::{Wanted, compare};
use crate::cli::compare::CompareArgs;
use crate::report::Style;
use crate::report::of::compare::render;

/// Numbers that must not stand beside each other, or none that belong together.
const NOT_COMPARABLE: u8 = 4;

pub fn run(args: &CompareArgs) -> Result<ExitCode> {
    let sources: Vec<Source> =
        args.files.iter().map(|file| foreign::read(file)).collect::<Result<_>>()?;
    let (baseline, candidates) = sources.split_first().expect("clap asks for two");
    let wanted = Wanted { pairs: args.pair.clone(), all: args.all, per_prompt: args.per_prompt };
    let rules = args.rules.rules();
    let compared = compare(baseline, candidates, &rules, &wanted)?;
    let text = render(&compared, format_of(args.output.output), Style::of_stdout());
    stdout().write_all(text.as_bytes())?;
    stdout().flush()?;
    Ok(match compared.comparable() {
        _ if compared.against.iter().any(|a| a.pairs.is_empty()) => NOT_COMPARABLE.into(),
        _ if !args.exit_code => ExitCode::SUCCESS,
        false => NOT_COMPARABLE.into(),
        true => compared.decision().exit_code().into(),
    })
}
