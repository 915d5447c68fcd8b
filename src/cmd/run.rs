//! `run`: measures engines on a model, point by point of the grid, and reports.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::report::format_of;
use crate::cli::RunArgs;
use crate::engine::{EngineSpec, Registry};
use crate::plan::Spec;
use crate::progress::say;
use crate::record::{Record, write_atomically};
use crate::report::{Format, Sections, Style, render_with};
use crate::session::{self, Bench, Interrupted, Session, Side, Stop, verify};
use crate::shell;

const DEFAULT_ENGINES: [&str; 4] = ["candle", "candle-stock", "pytorch", "pytorch-f32"];

/// The result file; none for `--list`.
pub fn run(args: &RunArgs) -> Result<Option<PathBuf>> {
    let earlier = args.resume.as_deref().map(opened).transpose()?;
    let (spec, engines) = match &earlier {
        Some(earlier) => (earlier.spec()?, earlier.engines()?),
        None => (spec(args), engines(args)?),
    };
    let launches = spec.launches;
    let sides: Vec<Side> = engines.into_iter().map(Side::from).collect();
    let bench = Bench::new(spec, &sides)?;
    if args.list {
        session::list(&bench, launches, &args.output_dir)?;
        return Ok(None);
    }
    if let Some(earlier) = &earlier {
        earlier.check(&bench, &bench.order(launches))?;
    }
    if earlier.is_none() {
        session::first_look(&bench, &bench.ready(!args.no_install)?);
    }
    let plans = bench.provide(!args.no_install)?;
    let verified = earlier.is_some() || args.no_verify;
    let session = Session {
        bench: &bench,
        plans: plans.clone(),
        stop: Stop::Fixed { launches },
        kind: "benchmark",
        base: None,
        folder: &args.output_dir,
        config: None,
        bandwidth: true,
        compilers: true,
        earlier,
    };
    let mut measured = session.measure(&mut |_, _| false)?;
    if !verified && !measured.ended.is_cut_off() && measured.good_launches() > 0 {
        // Kept before the check, which may take minutes; an error shows when the rest is written.
        let _ = measured.record.write(&measured.path);
        if let Err(e) = verify::verify_arms(&mut measured.record, &bench, &plans) {
            say(&format!("warning: the engines are not verified: {e:#}"));
        }
    }
    let json = measured.path.display();
    let wanted = Sections { profile: args.profile, timing: args.timing };
    let written = write_all(&measured.record, &measured.path, wanted);
    // Shown even where it could not be written: it is all that is left then.
    let (format, style) = (format_of(args.output.output), Style::of_stdout());
    let text = render_with(&measured.record, format, style, wanted);
    let shown = stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush());
    let resume = ["llm-bench", "run", "--resume", &measured.path.to_string_lossy()];
    let resume = format!("resume with `{}`", shell::command(resume));
    if let Some(why) = measured.cut_off(&resume) {
        bail!(why);
    }
    written?;
    let good = measured.good_launches();
    if good == 0 {
        bail!("nothing was measured: every launch failed; the reasons are in {json}");
    }
    shown.context("cannot write to stdout")?;
    Ok(Some(measured.path))
}

/// An interrupted run; a gate's record is the gate's to resume.
fn opened(file: &Path) -> Result<Interrupted> {
    let (earlier, shown) = (Interrupted::open(file)?, file.display());
    if earlier.record().run.config.get(crate::gate::CONFIG).is_some() {
        let command = shell::command(["llm-bench", "gate", "--resume", &file.to_string_lossy()]);
        bail!("--resume {shown}: expected a run, found a gate; `{command}`");
    }
    Ok(earlier)
}

fn spec(args: &RunArgs) -> Spec {
    Spec {
        target: args.target.clone(),
        engine: Vec::new(),
        workload: args.workload.clone(),
        launches: args.launches,
        timeout: args.timeout,
        profile: args.profile,
    }
}

/// The arms in the order of the table.
fn engines(args: &RunArgs) -> Result<Vec<EngineSpec>> {
    let registry = Registry::load()?;
    let mut names: Vec<String> = match args.engine.is_empty() {
        true => DEFAULT_ENGINES.map(String::from).to_vec(),
        false => args.engine.clone(),
    };
    let instead = match (args.pytorch_no_half, args.pytorch_no_compile) {
        (true, _) => Some("pytorch-f32"),
        (false, true) => Some("pytorch-eager"),
        (false, false) => None,
    };
    if let Some(instead) = instead {
        names.iter_mut().filter(|n| *n == "pytorch").for_each(|n| *n = instead.into());
    }
    let mut found: Vec<EngineSpec> = Vec::new();
    for name in names {
        let engine = registry.find(&name)?;
        if !found.iter().any(|e| e.name == engine.name) {
            found.push(engine.clone());
        }
    }
    Ok(found)
}

fn write_all(record: &Record, json: &Path, wanted: Sections) -> Result<()> {
    record.write(json)?;
    for (extension, format) in [("csv", Format::Csv), ("md", Format::Markdown)] {
        let text = render_with(record, format, Style::PLAIN, wanted);
        write_atomically(&json.with_extension(extension), text.as_bytes())?;
    }
    let took = record.arms.iter().flat_map(|a| &a.launches).count();
    say(&format!("wrote {}.{{json,csv,md}} ({took} launches)", json.with_extension("").display()));
    Ok(())
}
