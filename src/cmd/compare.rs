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
    look_up(&mut sources, args)?;
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

/// What the history shows of sessions like those of the baseline, the candidates' own left out.
fn look_up(sources: &mut [Source], args: &CompareArgs) -> Result<()> {
    let Some((baseline, candidates)) = sources.split_first_mut() else { return Ok(()) };
    let others: Vec<&str> = candidates.iter().filter_map(|c| c.session.as_deref()).collect();
    if others.iter().all(|session| Some(*session) == baseline.session.as_deref()) {
        return Ok(());
    }
    for arm in &mut baseline.arms {
        if let Some(line) = &arm.line {
            let found = history::earlier(args.history_db.as_deref(), line, &others);
            arm.earlier = found.context("--history-db")?;
        }
    }
    Ok(())
}
