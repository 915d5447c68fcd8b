//! `completions`: a script that completes llm-bench's commands in a shell.

use std::io::{Write, stdout};

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;

/// Writes the script to stdout.
pub fn run(shell: Shell) -> Result<()> {
    // Into memory first: the generator panics where its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), env!("CARGO_PKG_NAME"), &mut script);
    Ok(stdout().write_all(&script).and_then(|()| stdout().flush())?)
}
