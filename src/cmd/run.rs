//! `run`: find the model, make the workload, provide the engines, measure, report.

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::list;
use super::models::{DEFAULT_SEED, Found, find_model};
use super::progress::{SessionProgress, say};
use super::report::format_of;
use super::resume::{self, Claim, Interrupted};
use super::verify::{Check, IN_RUN, Subject};
use crate::cli::RunArgs;
use crate::device::Device;
use crate::engine::provision::Provisioner;
use crate::engine::registry::check_device;
use crate::engine::{Deadlines, EngineSpec, Registry};
use crate::measure::bandwidth;
use crate::measure::launch::{self, Settings};
use crate::measure::plan::plan;
use crate::measure::session::{self, ArmPlan, End, Unavailable};
use crate::measure::{host, page_cache};
use crate::metric::Metric;
use crate::model::cache::CacheDir;
use crate::model::quant::Quant;
use crate::record::{
    Build, FailureKind, Model, Record, Run, SCHEMA, Status, Verification, WeightsSource,
};
use crate::report::{Format, Sections, Style, render_with};
use crate::units::{Bytes, BytesPerSecond};
use crate::workload::{PromptSet, Shape, Workload};
use crate::{analysis, interrupt};

const DEFAULT_ENGINES: [&str; 4] = ["candle", "candle-stock", "pytorch", "pytorch-f32"];
pub(super) const BANDWIDTH_BUFFER: Bytes = Bytes(512 << 20);

pub fn run(args: &RunArgs) -> Result<()> {
    each(args, &mut |_| Ok(()))
}

/// Hands the result file of every run that was completed to `completed`.
pub(super) fn each(args: &RunArgs, completed: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    if let Some(file) = &args.resume {
        resume::run(file, args)?;
        return completed(file);
    }
    check(args)?;
    let engines = engines(args)?;
    check_device(&engines, args.device)?;
    let quants: Vec<Option<Quant>> = match args.quant.is_empty() {
        true => vec![None],
        false => args.quant.iter().map(|q| Ok(Some(q.parse()?))).collect::<Result<_>>()?,
    };
    // A result for one quantization stands even if the next one fails.
    let mut first_error = None;
    for quant in quants {
        let written = one_session(args, quant, &engines, None);
        let kept = written.and_then(|file| file.map_or(Ok(()), |file| completed(&file)));
        if let Err(e) = kept {
            if interrupt::requested() || args.quant.len() < 2 {
                return Err(e);
            }
            say(&format!("error: {e:#}"));
            first_error.get_or_insert(e);
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// What clap cannot check.
pub(super) fn check(args: &RunArgs) -> Result<()> {
    let limit = args.timeout.unwrap_or(1.0);
    if !(0.001..=1e6).contains(&limit) {
        bail!("--timeout {limit:e}: expected seconds from 0.001 to 1000000");
    }
    if !(0.0..=86_400.0).contains(&args.delay) {
        bail!("--delay {:e}: expected seconds from 0 to 86400", args.delay);
    }
    Ok(())
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

/// One record: a new one, or `earlier`, which is gone on with. Gives its file, none for `--list`.
pub(super) fn one_session(
    args: &RunArgs,
    quant: Option<Quant>,
    engines: &[EngineSpec],
    earlier: Option<Interrupted>,
) -> Result<Option<PathBuf>> {
    let found = find_model(&args.model, quant, args.weights, DEFAULT_SEED)?;
    let workload = workload(args, &found)?;
    let threads = args.threads.unwrap_or_else(host::available_threads);
    let order = plan(engines.len(), args.launches, args.seed);
    if args.list {
        list::print(args, engines, &found.model, &workload, threads, &order)?;
        return Ok(None);
    }
    if let Some(earlier) = &earlier {
        earlier.check(&found.model, &workload.record(), &order)?;
    }

    let provisioner = Provisioner::new(CacheDir::from_env().path().into(), !args.no_install)?;
    let n_ctx = workload.n_ctx().next_multiple_of(256).min(found.model.context_length);
    // Compiled code is for these shapes and this many threads.
    let work = format!("{} n_ctx {n_ctx} threads {threads}", found.model.sha256);
    let arms = provide(engines, &found.model, args.device, &provisioner, &work);
    if interrupt::requested() {
        bail!("stopped before anything was measured");
    }

    let (mut record, base) = match earlier {
        Some(earlier) => earlier.reopen(&arms, threads)?,
        None => {
            let verdicts = match args.no_verify {
                true => Vec::new(),
                false => verdicts(args, &arms, &found, threads, &provisioner)?,
            };
            let bandwidth = bandwidth::measure(threads, BANDWIDTH_BUFFER)?;
            let mut record = Record {
                schema: SCHEMA.into(),
                run: identity(args, quant, threads),
                host: host::host(),
                build: build(),
                arms: session::arms(&arms, &found.model, args.device, threads),
                model: found.model,
                workload: workload.record(),
                comparisons: Vec::new(),
                warnings: Vec::new(),
            };
            for (name, verdict) in verdicts {
                let arm = record.arms.iter_mut().find(|arm| arm.engine == name);
                arm.into_iter().for_each(|arm| arm.verification = Some(verdict.clone()));
            }
            record.host.measured_read_bandwidth_bytes_per_s = Some(bandwidth.rate.0);
            record.host.bandwidth_method = Some(bandwidth.method);
            (record, output_base(&args.output_dir, "benchmark")?)
        }
    };
    let settings = settings(args, &found.path, &record, n_ctx, threads);
    announce(&record, &workload, threads);
    page_cache::bring(&settings.model_path, args.page_cache)?;

    let json = base.with_extension("json");
    record.write(&json)?; // a folder that cannot be written is told before the first launch
    let mut claim = Claim::take(&json).ok();
    let mut keep_error = None;
    let mut keep = |record: &mut Record| {
        analysis::summarize(record);
        match record.write(&json) {
            Ok(()) => claim = Claim::take(&json).ok(),
            Err(e) => drop(keep_error.get_or_insert(e)),
        }
    };
    prepare_compilers(&mut record, &arms, &workload, &settings);
    let mut observer = SessionProgress::new(order.len(), &mut keep);
    let delay = Duration::from_secs_f64(args.delay);
    let end = session::run(&mut record, &arms, &order, &workload, &settings, delay, &mut observer);
    observer.close();

    record.run.complete = end == End::Complete;
    analysis::summarize(&mut record);
    let wanted = Sections { profile: args.profile, timing: args.timing };
    let written = write_all(&record, &base, wanted);
    // Shown even where it could not be written: it is all that is left then.
    let text = render_with(&record, format_of(args.output.output), Style::of_stdout(), wanted);
    let shown = stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush());
    written?;
    if let Some(e) = keep_error {
        say(&format!("warning: the record could not be kept after each launch: {e:#}"));
    }
    let measured = record.arms.iter().flat_map(|a| &a.launches).filter(|l| l.status == Status::Ok);
    let measured = measured.count();
    if end == End::Interrupted {
        let (of, json) = (order.len(), json.display());
        bail!(
            "stopped: {measured} of {of} launches are kept in {json}; go on with \
             `llm-bench run --resume {json}`"
        );
    }
    if measured == 0 {
        bail!("nothing was measured: every launch failed; the reasons are in {}", json.display());
    }
    shown.context("cannot write to stdout")?;
    Ok(Some(json))
}

pub(super) fn workload(args: &RunArgs, found: &Found) -> Result<Workload> {
    let tokenizer = found.tokenizer()?;
    let shapes = [&args.prompt_len, &args.gen_len, &args.depth];
    let workload = if shapes.iter().all(|list| list.is_empty()) {
        let default = if found.model.name == "tiny" { "tiny" } else { "quick" };
        let set = PromptSet::find(args.prompts.as_deref().unwrap_or(default))?;
        Workload::from_set(&set, &tokenizer, None)?
    } else {
        let or = |list: &[u32], default: u32| match list.is_empty() {
            true => vec![default],
            false => list.to_vec(),
        };
        let [p, n, d] = [(shapes[0], 512), (shapes[1], 64), (shapes[2], 0)].map(|(l, x)| or(l, x));
        let shapes = Shape::grid(&p, &n, &d);
        Workload::from_shapes(&shapes, &tokenizer, found.model.context_length, args.seed)?
    };
    workload.check_context(found.model.context_length)?;
    Ok(workload)
}

/// Makes every engine startable; one that cannot be is an arm with a reason.
pub(super) fn provide(
    engines: &[EngineSpec],
    model: &Model,
    device: Device,
    provisioner: &Provisioner,
    work: &str,
) -> Vec<ArmPlan> {
    engines
        .iter()
        .map(|engine| {
            let installed = match engine.refusal(&model.quant, device) {
                Some((kind, message)) => Err(Unavailable { kind, message }),
                None => provisioner.provide(engine, work, &say).map_err(|e| Unavailable {
                    kind: FailureKind::MissingDependency,
                    message: format!("{e:#}"),
                }),
            };
            if let Err(why) = &installed {
                say(&format!("{}: {}", engine.name, why.message));
            }
            ArmPlan { engine: engine.clone(), installed }
        })
        .collect()
}

/// Whether the engines compute the same function. One that cannot be checked is measured all the
/// same, and has no verdict.
pub(super) fn verdicts(
    args: &RunArgs,
    arms: &[ArmPlan],
    found: &Found,
    threads: u32,
    provisioner: &Provisioner,
) -> Result<Vec<(String, Verification)>> {
    let check = Check::new(found, threads, deadlines(args), IN_RUN)?;
    let startable = arms.iter().filter(|arm| arm.installed.is_ok());
    let subjects = startable
        .map(|arm| {
            let installed = provisioner.provide(&arm.engine, &check.work(found), &say)?;
            Ok(Subject { engine: arm.engine.clone(), installed })
        })
        .collect::<Result<Vec<_>>>()?;
    let reference = check.reference(&Registry::load()?, found, None)?;
    match check.for_run(&reference, subjects, found) {
        Ok(verdicts) => Ok(verdicts),
        Err(e) if interrupt::requested() => Err(e),
        Err(e) => {
            say(&format!("warning: the engines are not verified: {e:#}"));
            Ok(Vec::new())
        }
    }
}

/// An engine that compiles starts with a populated cache in every measured launch; filling an
/// empty one is a launch of its own, told apart.
fn prepare_compilers(record: &mut Record, arms: &[ArmPlan], work: &Workload, settings: &Settings) {
    for (i, arm) in arms.iter().enumerate() {
        let Ok(installed) = &arm.installed else { continue };
        if installed.compile_cache_populated() != Some(false) || interrupt::requested() {
            continue;
        }
        say(&format!("{}: filling its empty compile cache (not in the table)", arm.engine.name));
        let launched =
            launch::launch(&arm.engine, installed, work, &record.model, settings, (0, 0));
        if let Ok(outcome) = launched
            && let Some(cold) = outcome.launch.metrics.get(&Metric::ColdStartTtft)
        {
            let settings = &mut record.arms[i].preparation;
            settings.insert("cold_start_ttft_s_empty_compile_cache".into(), *cold);
        }
    }
}

pub(super) fn identity(args: &RunArgs, quant: Option<Quant>, threads: u32) -> Run {
    let started = jiff::Zoned::now();
    let config = serde_json::json!({
        "model": args.model, "quant": quant.iter().map(Quant::to_string).collect::<Vec<_>>(), "engine": args.engine,
        "prompts": args.prompts, "prompt_len": args.prompt_len, "gen_len": args.gen_len,
        "depth": args.depth,
        "launches": args.launches, "threads": threads, "warmup": args.warmup,
        "iterations": args.iterations, "delay_s": args.delay, "device": args.device,
        "profile": args.profile,
        "page_cache": format!("{:?}", args.page_cache).to_lowercase(),
        "timeout_s": args.timeout, "weights": args.weights.to_string(),
        "disturbed_if": {"busy_before_above": launch::BUSY_LIMIT, "steal_above": launch::STEAL_LIMIT},
    });
    let command: Vec<String> = std::env::args().collect();
    Run {
        id: format!("{}-{:04x}", started.strftime("%Y%m%dT%H%M%S"), std::process::id() & 0xffff),
        started_at: launch::now(),
        command: command.join(" "),
        seed: args.seed,
        config,
        complete: false,
        resumed: Vec::new(),
    }
}

/// This build, with what tells it from others of the same commit.
pub(super) fn build() -> Build {
    let program = std::env::current_exe();
    let sha256 = program.and_then(|program| CacheDir::from_env().sha256(&program));
    Build { executable_sha256: sha256.ok(), ..host::build() }
}

pub(super) fn settings(
    args: &RunArgs,
    path: &Path,
    record: &Record,
    n_ctx: u32,
    threads: u32,
) -> Settings {
    /// Weights of fewer bytes stay in the caches of many machines: the rate of the memory around
    /// a launch says nothing of it then, and the session's own does.
    const IN_MEMORY: u64 = 64 << 20;
    Settings {
        model_path: path.to_path_buf(),
        device: args.device,
        threads,
        n_ctx,
        warmup: args.warmup,
        iterations: args.iterations,
        page_cache: args.page_cache,
        deadlines: deadlines(args),
        idle_window: Duration::from_millis(200),
        read_bandwidth: record.model.weight_bytes_per_token >= IN_MEMORY,
        known_bandwidth: bandwidth::of_session(&record.host, args.device),
        profile: args.profile,
    }
}

fn deadlines(args: &RunArgs) -> Deadlines {
    let all = |s: f64| Deadlines::all(Duration::from_secs_f64(s));
    args.timeout.map_or_else(Deadlines::default, all)
}

pub(super) fn announce(record: &Record, workload: &Workload, threads: u32) {
    let m = &record.model;
    let source = match m.weights {
        WeightsSource::Synthetic => ", SYNTHETIC weights: speed and memory hold, text does not",
        WeightsSource::Hub | WeightsSource::File => "",
    };
    say(&format!("{} {} ({}{source})", m.name, m.quant, Bytes(m.size_bytes)));
    say(&format!(
        "{}, {threads} threads, reads {}; prompts: {} ({})",
        record.host.cpu_model,
        BytesPerSecond(record.host.measured_read_bandwidth_bytes_per_s.unwrap_or_default()),
        workload.name,
        workload.prompts.len(),
    ));
}

/// `DIR/KIND_YYYYMMDD_HHMMSS`, with a suffix where that name is taken.
pub(super) fn output_base(dir: &Path, kind: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(dir)
        .with_context(|| format!("--output-dir: cannot make {}", dir.display()))?;
    let stamp = jiff::Zoned::now().strftime("%Y%m%d_%H%M%S").to_string();
    let names = std::iter::once(format!("{kind}_{stamp}"))
        .chain((2..).map(|i| format!("{kind}_{stamp}_{i}")));
    let free = names.map(|n| dir.join(n)).find(|base| !base.with_extension("json").exists());
    Ok(free.expect("the names never end"))
}

fn write_all(record: &Record, base: &Path, wanted: Sections) -> Result<()> {
    record.write(&base.with_extension("json"))?;
    for (extension, format) in [("csv", Format::Csv), ("md", Format::Markdown)] {
        let text = render_with(record, format, Style::PLAIN, wanted);
        crate::record::write_atomically(&base.with_extension(extension), text.as_bytes())?;
    }
    let took = record.arms.iter().flat_map(|a| &a.launches).count();
    say(&format!("wrote {}.{{json,csv,md}} ({took} launches)", base.display()));
    Ok(())
}
