//! Parses the command line, runs the command, prints its error, sets the exit code.

use std::process::ExitCode;

use clap::Parser;
use llm_bench::cli::{Cli, Command};
use llm_bench::report::visible;
use llm_bench::{cmd, interrupt, units::MonoNs, worker};
use tracing::Level;

fn main() -> ExitCode {
    let entry = MonoNs::now();
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(match cli.verbose {
            0 => Level::WARN,
            1 => Level::INFO,
            _ => Level::TRACE,
        })
        .without_time()
        .init();
    let result = match &cli.command {
        Command::Worker { engine } => worker::serve::serve(engine, entry),
        command => {
            interrupt::install();
            match command {
                Command::Run(args) => cmd::run::run(args),
                Command::Report(args) => cmd::report::run(args),
                Command::Models(command) => cmd::models::run(command),
                Command::Engines(command) => cmd::engines::run(command),
                Command::Worker { .. } => unreachable!("served above"),
            }
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough (`llm-bench … | head`).
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            // It may quote a file that means harm.
            eprintln!("error: {}", visible(&format!("{e:#}")));
            ExitCode::from(2)
        }
    }
}

/// Only what writing to stdout itself returned: a broken pipe further down the chain is a network's.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
