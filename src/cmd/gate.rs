//! `gate`: measures or reads two sides, judges them, says so everywhere it is wanted, and ends
//! with the exit code of the verdict.

use std::io::{Write, stdout};

use anyhow::{Context, Result};

use crate::analysis::gate::Gate;
use crate::cli::gate::{GateArgs, GateOutput, OnInconclusive};
use crate::gate::{BaselineMissing, self_check, verdict};
use crate::record::write_atomically;
use crate::report::{Style, of::gate as report};
use crate::text::visible;

/// Runs the gate; the exit code of its verdict.
pub fn run(args: &GateArgs) -> Result<u8> {
    if args.self_check {
        return self_check::run(args);
    }
    let gate = match verdict(args) {
        Err(e) if e.downcast_ref::<BaselineMissing>().is_some() => {
            eprintln!("error: {}", visible(&format!("{e:#}")));
            return Ok(4);
        }
        other => other?,
    };
    let inconclusive_as = args.on_inconclusive.map(|as_what| match as_what {
        OnInconclusive::Pass => 0,
        OnInconclusive::Fail => 1,
    });
    let gate = gate.conclude(inconclusive_as);
    show(args, &gate)?;
    Ok(gate.exit_code)
}

/// Stdout first: it is all that is left where a file cannot be written.
fn show(args: &GateArgs, gate: &Gate) -> Result<()> {
    let text = match args.output {
        GateOutput::Table => report::table(gate, Style::of_stdout()),
        GateOutput::Json => report::json(gate),
        GateOutput::Md => report::markdown(gate, &args.title),
    };
    let shown = stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush());
    if let Some(path) = &args.verdict {
        write_atomically(path, report::json(gate).as_bytes()).context("--verdict")?;
    }
    if let Some(path) = &args.comment {
        let body = report::comment(gate, &args.title);
        write_atomically(path, body.as_bytes()).context("--comment")?;
    }
    if let Some(path) = &args.summary {
        let append = || {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
            file.write_all(format!("{}\n", report::markdown(gate, &args.title)).as_bytes())
        };
        append().with_context(|| format!("--summary: cannot write {}", path.display()))?;
    }
    Ok(shown?)
}
