//! Parses the command line, runs the command, prints its error, sets the exit code.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use llm_bench::cli::config::{self, Parsed};
use llm_bench::cli::{Cli, Command};
use llm_bench::report::visible;
use llm_bench::{cmd, interrupt, units::MonoNs, worker};
use tracing::Level;

/// The exit code of a comparison that must not be made.
const NOT_COMPARABLE: u8 = 4;

fn main() -> ExitCode {
    let entry = MonoNs::now();
    let args: Vec<_> = std::env::args_os().collect();
    // A worker's start is measured, and no file has a say in it.
    let parsed = match args.get(1).is_some_and(|a| a == "worker") {
        true => Ok(Parsed::Run(Box::new(Cli::parse_from(&args)))),
        false => config::parse(args),
    };
    let cli = match parsed {
        Ok(Parsed::Run(cli)) => cli,
        Ok(Parsed::Print(text)) => {
            // Whoever closed the pipe has seen enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(e) => return failed(&e),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(match cli.verbose {
            0 => Level::WARN,
            1 => Level::INFO,
            _ => Level::TRACE,
        })
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .init();
    let result = match &cli.command {
        Command::Worker { engine } => worker::serve::serve(engine, entry),
        command => {
            interrupt::install();
            match command {
                Command::Run(args) => cmd::run::run(args),
                Command::Generate(args) => cmd::generate::run(args),
                Command::Verify(args) => match cmd::verify::run(args) {
                    Ok(true) => Ok(()),
                    Ok(false) => return ExitCode::from(NOT_COMPARABLE),
                    Err(e) => Err(e),
                },
                Command::Report(args) => cmd::report::run(args),
                Command::Models(command) => cmd::models::run(command),
                Command::Engines(command) => cmd::engines::run(command),
                Command::Completions { shell } => {
                    let name = env!("CARGO_PKG_NAME");
                    let (mut command, mut out) = (Cli::command(), std::io::stdout());
                    clap_complete::generate(*shell, &mut command, name, &mut out);
                    Ok(())
                }
                Command::Doctor(args) => cmd::doctor::run(args),
                Command::Worker { .. } => unreachable!("served above"),
            }
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough (`llm-bench … | head`).
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => failed(&e),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    // It may quote a file that means harm.
    eprintln!("error: {}", visible(&format!("{error:#}")));
    ExitCode::from(2)
}

/// Only what writing to stdout itself returned: a broken pipe further down the chain is a network's.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
