//! `compare`: two or more result files, with a verdict for each pair of arms.

use std::process::ExitCode;

use anyhow::Result;

use crate::analysis::foreign::{self, Source};
use crate::analysis::pairing::{Wanted, compare};
use crate::cli::compare::CompareArgs;
use crate::report::of::compare::render;
use crate::report::{Style, print};

/// Numbers that must not stand beside each other, or none that belong together.
const NOT_COMPARABLE: u8 = 4;

pub fn run(args: &CompareArgs) -> Result<ExitCode> {
    let sources: Vec<Source> =
        args.files.iter().map(|file| foreign::read(file)).collect::<Result<_>>()?;
    let (baseline, candidates) = sources.split_first().expect("clap asks for two");
    let wanted = Wanted { pairs: args.pair.clone(), all: args.all, per_prompt: args.per_prompt };
    let rules = args.rules.rules();
    let compared = compare(baseline, candidates, &rules, &wanted)?;
    let text = render(&compared, args.output.output.format(), Style::of_stdout());
    print(&text)?;
    Ok(match compared.comparable() {
        _ if compared.against.iter().any(|a| a.pairs.is_empty()) => NOT_COMPARABLE.into(),
        _ if !args.exit_code => ExitCode::SUCCESS,
        false => NOT_COMPARABLE.into(),
        true => compared.decision().exit_code().into(),
    })
}
