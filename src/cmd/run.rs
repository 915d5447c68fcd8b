//! `run`: measures engines on a model.

use std::path::PathBuf;

use anyhow::Result;

use super::grid::{Kind, measure};
use crate::cli::RunArgs;

/// The result file; none for `--list`.
pub fn run(args: &RunArgs) -> Result<Option<PathBuf>> {
    let kind = Kind {
        name: "benchmark",
        command: "run",
        verify: !args.session.no_verify,
        resume: args.resume.as_deref(),
        sections: args.sections(),
        text: None,
    };
    measure(&args.session, args.spec(), &args.engines(), kind)
}
