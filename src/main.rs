//! Parses the command line, runs the command, prints its error, sets the exit code.

use std::ffi::OsString;
use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use llm_bench::cli::config::{self, Parsed};
use llm_bench::cli::{Cli, Command};
use llm_bench::engine::provision::use_python;
use llm_bench::engine::registry::set_options;
use llm_bench::model::chat::renderer;
use llm_bench::model::tokenizer;
use llm_bench::sensors::gpu::ceilings;
use llm_bench::text::visible;
use llm_bench::{cmd, interrupt, processes, progress, units::MonoNs, worker};
use tracing::Level;

/// Exit code for a comparison that must not be made.
const NOT_COMPARABLE: u8 = 4;

fn main() -> ExitCode {
    match run(MonoNs::now()) {
        Ok(code) => code,
        // The reader of our output has closed the pipe (`llm-bench … | head`).
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            // The message may quote a hostile file.
            eprintln!("error: {}", visible(&format!("{e:#}")));
            ExitCode::from(2)
        }
    }
}

fn run(entry: MonoNs) -> Result<ExitCode> {
    let args: Vec<_> = std::env::args_os().collect();
    // A worker's start is measured, and no configuration file may affect it or a helper process.
    let hidden = |a: &OsString| {
        a == "worker" || a == "guard" || a == ceilings::COMMAND || a == renderer::COMMAND
    };
    let parsed = match args.get(1).is_some_and(hidden) {
        true => Parsed::Run(Box::new(Cli::parse_from(&args))),
        false => config::parse(args)?,
    };
    let cli = match parsed {
        Parsed::Run(cli) => cli,
        Parsed::Print(text) => {
            stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush())?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let level = match cli.verbose {
        0 => Level::WARN,
        1 => Level::INFO,
        _ => Level::TRACE,
    };
    let log = tracing_subscriber::fmt().with_writer(|| progress::Log).with_max_level(level);
    // Lines may quote anything, so no escape sequence passes.
    log.with_ansi(false).without_time().init();
    if let Command::Worker { engine } = &cli.command {
        worker::serve::serve(engine, entry, tokenizer::OF_WORKERS)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::CudaCeilings { index } = &cli.command {
        ceilings::serve(*index)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::RenderChatTemplate = &cli.command {
        renderer::serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Guard = &cli.command {
        processes::guard()?;
        return Ok(ExitCode::SUCCESS);
    }
    interrupt::install();
    let (options, endpoints) = cli.command.of_engines();
    set_options(options, endpoints);
    if let Some(python) = cli.command.python() {
        use_python(python);
    }
    if cli.command.starts_engines()
        && let Err(e) = processes::adopt()
    {
        tracing::warn!("{e:#}: what an engine starts and leaves may outlive it");
    }
    match &cli.command {
        Command::Run(args) => drop(cmd::run::run(args)?),
        Command::Sweep(args) => cmd::sweep::run(args)?,
        Command::Encode(args) => cmd::encode::run(args)?,
        Command::ServeBench(args) => cmd::serve::run(args)?,
        Command::Tokenize(args) => cmd::tokenize::run(args)?,
        Command::Generate(args) => cmd::generate::run(args)?,
        Command::Verify(args) if !cmd::verify::run(args)? => return Ok(NOT_COMPARABLE.into()),
        Command::Verify(_) => {}
        Command::Compare(args) => return cmd::compare::run(args),
        Command::Gate(args) => return Ok(cmd::gate::run(args)?.into()),
        Command::Report(args) => cmd::report::run(args)?,
        Command::Models(command) => cmd::models::run(command)?,
        Command::Engines(command) => cmd::engines::run(command)?,
        Command::Doctor(args) => cmd::doctor::run(args)?,
        Command::History(args) => cmd::history::run(args)?,
        Command::Track(args) => cmd::track::run(args)?,
        Command::Completions { shell } => cmd::completions::run(*shell)?,
        Command::Worker { .. }
        | Command::Guard
        | Command::CudaCeilings { .. }
        | Command::RenderChatTemplate => unreachable!("served above"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Only what writing to stdout itself returned: a broken pipe further down the chain is a network's.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
