//! `gate`: measures or reads two sides, judges them, says so everywhere it is wanted, and ends
//! with the exit code of the verdict.

mod program;
mod self_check;
mod session;
mod stored;

use std::io::{Write, stdout};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use self::program::Program;
use self::session::{Bench, Length, Measured, Session, go_on_or_stop, warm};
use super::progress::say;
use super::resume::{self, Interrupted};
use crate::analysis::gate::{Gate, Side, judge_arms, lost, precise, precise_ratios};
use crate::analysis::requirement::{self, Requirement};
use crate::analysis::verdict::{BadPair, Decision, Judgement, Look, Rule, Rules};
use crate::cli::RunArgs;
use crate::cli::gate::{GateArgs, GateOutput, OnInconclusive};
use crate::engine::provision::Provisioner;
use crate::engine::{EngineSpec, Launcher, Registry};
use crate::measure::session::ArmPlan;
use crate::model::cache::CacheDir;
use crate::record::{Arm, Record, write_atomically};
use crate::report::{Style, of::gate as report, visible};

/// The key of `run.config` that marks a gate's record and holds its settings.
pub const CONFIG: &str = "gate";

const BASELINE: &str = "baseline";
const CANDIDATE: &str = "candidate";
/// The engine that is measured where none is named.
const ENGINE: &str = "candle";

/// There is nothing to compare with: exit code 4.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BaselineMissing(String);

/// Runs the gate; the exit code of its verdict.
pub fn run(args: &GateArgs) -> Result<u8> {
    match verdict(args) {
        Err(e) if e.downcast_ref::<BaselineMissing>().is_some() => {
            eprintln!("error: {}", visible(&format!("{e:#}")));
            Ok(4)
        }
        other => other,
    }
}

fn verdict(args: &GateArgs) -> Result<u8> {
    if !(0.0..=10_000.0).contains(&args.max_minutes) {
        bail!("--max-minutes {:e}: expected minutes from 0 to 10000", args.max_minutes);
    }
    if args.self_check {
        return self_check::run(args);
    }
    let gate = if let Some(file) = &args.resume {
        resumed(args, file)?
    } else if let Some(file) = &args.baseline {
        stored::run(args, file)?
    } else if args.baseline_bin.is_some() || args.baseline_rev.is_some() {
        two_builds(args)?
    } else if !args.require.is_empty() {
        ratios(args)?
    } else {
        bail!(
            "expected a baseline: --baseline-rev REV or --baseline-bin PROGRAM (two builds, the \
             best form), --baseline FILE (a stored result), or --require 'A/B METRIC >= X' (a \
             ratio)"
        );
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

/// What a gate of two builds was asked for, as its record keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stated {
    baseline: Program,
    candidate: Program,
    length: Length,
    margin: f64,
    margins: std::collections::BTreeMap<String, f64>,
    alpha: f64,
    rule: Rule,
    primary: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slow_candidate: Option<f64>,
}

impl Stated {
    fn rules(&self) -> Rules {
        Rules {
            margin: self.margin,
            margins: self.margins.clone(),
            alpha: self.alpha,
            rule: self.rule,
            primary: self.primary.clone(),
        }
    }
}

/// Fresh processes of two builds, in one session, over the same file.
fn two_builds(args: &GateArgs) -> Result<Gate> {
    let engine = builtin(args)?;
    let provisioner = Provisioner::new(CacheDir::from_env().path().into(), !args.no_install)?;
    let baseline = match (&args.baseline_bin, &args.baseline_rev) {
        (Some(path), _) if !path.exists() => {
            let path = path.display();
            bail!(BaselineMissing(format!("--baseline-bin {path}: there is no such program")))
        }
        (Some(path), _) => Program::built("--baseline-bin", path)?,
        (None, Some(rev)) => Program::of_revision(&provisioner, rev, &say)
            .with_context(|| format!("--baseline-rev {rev}"))?,
        (None, None) => unreachable!("two builds need a baseline"),
    };
    let candidate = match (&args.candidate_bin, &args.candidate_rev) {
        (Some(path), _) => Program::built("--candidate-bin", path)?,
        (None, Some(rev)) => Program::of_revision(&provisioner, rev, &say)
            .with_context(|| format!("--candidate-rev {rev}"))?,
        (None, None) => Program::own()?,
    };
    let rules = args.rules.rules();
    let stated = Stated {
        baseline,
        candidate,
        length: length(args)?,
        margin: rules.margin,
        margins: rules.margins,
        alpha: rules.alpha,
        rule: rules.rule,
        primary: rules.primary,
        slow_candidate: args.slow_candidate,
    };
    let bench = Bench::new(run_args(args, vec![engine.name.clone()])?, quant(args)?)?;
    measure_builds(args, &stated, &bench, &engine, None)
}

/// Goes on with an interrupted gate of two builds.
fn resumed(args: &GateArgs, file: &Path) -> Result<Gate> {
    let shown = file.display();
    let earlier = Interrupted::open(file)?;
    let record = earlier.record();
    let Some(config) = record.run.config.get(CONFIG) else {
        bail!(
            "--resume {shown}: expected a gate of two builds, found none; a run is gone on with \
               by `llm-bench run --resume {shown}`"
        );
    };
    let told = || format!("--resume {shown}");
    let stated: Stated = serde_json::from_value(config.clone()).with_context(|| {
        format!("--resume {shown}: run.config.{CONFIG} does not state the gate")
    })?;
    let labels: Vec<&str> = record.arms.iter().map(|arm| arm.label.as_str()).collect();
    let length = stated.length;
    let fits = (2..=1000).contains(&length.most)
        && length.least <= length.most
        && (0.0..=10_000.0).contains(&length.minutes);
    if labels != [BASELINE, CANDIDATE] || !fits {
        bail!("--resume {shown}: the file was changed. Run anew");
    }
    let (run_args, quant) = resume::arguments(record, &resume::defaults()?).with_context(told)?;
    let registry = Registry::load()?;
    let engine = registry.find(&record.arms[0].engine).with_context(told)?.clone();
    for program in [&stated.baseline, &stated.candidate] {
        program.check_unchanged().with_context(told)?;
    }
    let bench = Bench::new(run_args, quant)?;
    measure_builds(args, &stated, &bench, &engine, Some(earlier))
}

fn measure_builds(
    args: &GateArgs,
    stated: &Stated,
    bench: &Bench,
    engine: &EngineSpec,
    earlier: Option<Interrupted>,
) -> Result<Gate> {
    if stated.baseline.sha256 == stated.candidate.sha256 {
        say("note: baseline and candidate are the same program");
    }
    let arms = build_arms(bench, engine, stated)?;
    go_on_or_stop()?;
    let rules = stated.rules();
    let judge = Judge { rules: &rules, length: stated.length };
    let measured = bench.session(
        Session {
            arms: &arms,
            labels: &[BASELINE, CANDIDATE],
            length: stated.length,
            seed: earlier.as_ref().map_or(args.seed, |e| e.record().run.seed),
            config: serde_json::to_value(stated)?,
            base: None,
            earlier,
        },
        &mut |record, launches| judge.enough(&record.arms[0], &record.arms[1], launches),
    )?;
    let gate = of_builds(&measured, stated)?;
    let level = look_alpha(stated.length, rules.alpha);
    let requirements = check_ratios(&measured.record, &args.require, level)?;
    Ok(Gate { requirements, ..gate })
}

/// One engine of two programs.
fn build_arms(bench: &Bench, engine: &EngineSpec, stated: &Stated) -> Result<Vec<ArmPlan>> {
    let mut arms = Vec::new();
    for (program, slow) in [(&stated.baseline, None), (&stated.candidate, stated.slow_candidate)] {
        warm(&program.path);
        let mut engine = engine.clone();
        if let Some(slow) = slow {
            engine.options.insert("slow_down".into(), (1.0 + slow).into());
        }
        let cache = CacheDir::from_env().path().into();
        let provisioner =
            Provisioner { program: program.path.clone(), ..Provisioner::new(cache, false)? };
        arms.extend(bench.provide(&[engine], &provisioner));
    }
    Ok(arms)
}

/// The verdict over a session of two builds.
fn of_builds(measured: &Measured, stated: &Stated) -> Result<Gate> {
    let record = &measured.record;
    let [baseline, candidate] = &record.arms[..] else {
        bail!("{}: expected two arms", measured.path.display());
    };
    must_have_measured(baseline, "the baseline")?;
    let rules = stated.rules();
    let judge = Judge { rules: &rules, length: stated.length };
    let side = |program: &Program, arm: &Arm| {
        let program = program.clone();
        Some(Side::new(program.what, program.commit, Some(program.sha256), arm))
    };
    Ok(Gate {
        judgement: judge.judgement(baseline, candidate)?,
        lost: lost(baseline, candidate, &rules),
        baseline: side(&stated.baseline, baseline),
        candidate: side(&stated.candidate, candidate),
        alpha: stated.alpha,
        ended: Some(stated.length.told(measured.ended)),
        records: vec![measured.path.display().to_string()],
        ..Gate::new(record)
    })
}

/// Ratios between engines, measured here or read from `--candidate`.
fn ratios(args: &GateArgs) -> Result<Gate> {
    let alpha = args.rules.alpha;
    if let Some(file) = &args.candidate {
        let mut record = Record::read(file)?;
        crate::analysis::summarize(&mut record);
        let requirements = check_ratios(&record, &args.require, alpha)?;
        let records = vec![file.display().to_string()];
        return Ok(Gate { requirements, records, alpha, ..Gate::new(&record) });
    }
    if args.candidate_bin.is_some() || args.candidate_rev.is_some() {
        bail!("--require alone measures this llm-bench; give a baseline to measure two builds");
    }
    let registry = Registry::load()?;
    let mut engines: Vec<EngineSpec> = Vec::new();
    for name in args.require.iter().flat_map(|r| [&r.arm, &r.reference]) {
        let engine = registry.find(name).with_context(|| format!("--require: {name}"))?;
        if !engines.iter().any(|e| e.name == engine.name) {
            engines.push(engine.clone());
        }
    }
    let names: Vec<String> = engines.iter().map(|e| e.name.clone()).collect();
    let labels: Vec<&str> = names.iter().map(String::as_str).collect();
    let bench = Bench::new(run_args(args, names.clone())?, quant(args)?)?;
    let provisioner = Provisioner::new(CacheDir::from_env().path().into(), !args.no_install)?;
    let arms = bench.provide(&engines, &provisioner);
    go_on_or_stop()?;
    let length = length(args)?;
    let rules = args.rules.rules();
    let look = look_alpha(length, alpha);
    let measured = bench.session(
        Session {
            arms: &arms,
            labels: &labels,
            length,
            seed: args.seed,
            config: serde_json::Value::Null,
            base: None,
            earlier: None,
        },
        &mut |record, launches| match requirement::check(record, &args.require, look) {
            Ok(checked) if length.extension => {
                let open = |c: &requirement::Checked| c.state == requirement::State::Inconclusive;
                launches == length.least && !checked.iter().any(open)
            }
            Ok(checked) => precise_ratios(&checked, &rules),
            Err(_) => true,
        },
    )?;
    Ok(Gate {
        requirements: check_ratios(&measured.record, &args.require, look)?,
        alpha,
        ended: Some(length.told(measured.ended)),
        records: vec![measured.path.display().to_string()],
        ..Gate::new(&measured.record)
    })
}

fn check_ratios(
    record: &Record,
    requirements: &[Requirement],
    alpha: f64,
) -> Result<Vec<requirement::Checked>> {
    requirement::check(record, requirements, alpha).context("--require")
}

/// Judges two arms, and says when it is enough.
struct Judge<'a> {
    rules: &'a Rules,
    length: Length,
}

impl Judge<'_> {
    /// Absent where the candidate has no launch that succeeded: its failures are then the verdict.
    fn judgement(&self, baseline: &Arm, candidate: &Arm) -> Result<Option<Judgement>> {
        if crate::analysis::ok_launches(candidate).next().is_none() {
            return Ok(None);
        }
        Ok(Some(self.judge(baseline, candidate)?))
    }

    fn judge(&self, baseline: &Arm, candidate: &Arm) -> Result<Judgement, BadPair> {
        let alpha = look_alpha(self.length, self.rules.alpha);
        judge_arms(baseline, candidate, &Rules { alpha, ..self.rules.clone() })
    }

    fn enough(&self, baseline: &Arm, candidate: &Arm, launches: u32) -> bool {
        match self.judge(baseline, candidate) {
            Ok(j) if self.length.extension => {
                launches == self.length.least && j.decision != Decision::Inconclusive
            }
            Ok(judgement) => precise(&judgement),
            // Told when the verdict is drawn.
            Err(_) => true,
        }
    }
}

/// The level of each test, so that measuring which may end early spends no more than `alpha`.
fn look_alpha(length: Length, alpha: f64) -> f64 {
    let look = match length.extension {
        true => Look::First,
        false if length.least < length.most => Look::Precise,
        false => Look::Only,
    };
    look.alpha(alpha)
}

fn must_have_measured(arm: &Arm, what: &str) -> Result<()> {
    if crate::analysis::ok_launches(arm).next().is_some() {
        return Ok(());
    }
    let reason = crate::analysis::failure(arm).map_or("it was not launched", |e| &e.message);
    bail!("{what} could not be measured: {}", reason.lines().next().unwrap_or_default())
}

/// Of each side, even: half a mirrored block is no balance.
fn length(args: &GateArgs) -> Result<Length> {
    let even = |n: u32| n + n % 2;
    let least = even(args.launches);
    let minutes = args.max_minutes;
    match args.extend {
        Some(more) if more > args.launches => bail!(
            "--extend {more}: expected at most {}, the launches of -r: two looks at equal distance \
             are what the level is for",
            args.launches
        ),
        Some(more) => Ok(Length { least, most: least + even(more), minutes, extension: true }),
        None => {
            let most = even(args.max_launches).max(least);
            Ok(Length { least, most, minutes, extension: false })
        }
    }
}

/// The engine of a gate of two builds: its worker must be inside the programs.
fn builtin(args: &GateArgs) -> Result<EngineSpec> {
    let registry = Registry::load()?;
    let engine = registry.find(args.engine.as_deref().unwrap_or(ENGINE))?.clone();
    if !matches!(engine.launcher, Launcher::Builtin) {
        bail!(
            "--engine {}: two builds are compared by an engine inside the program (candle, \
             candle-f32, candle-stock); gate this one against a stored result (--baseline FILE)",
            engine.name
        );
    }
    Ok(engine)
}

fn quant(args: &GateArgs) -> Result<Option<crate::model::quant::Quant>> {
    Ok(args.quant.as_deref().map(str::parse).transpose()?)
}

/// The same workload as a command line of `run`.
fn run_args(args: &GateArgs, engine: Vec<String>) -> Result<RunArgs> {
    Ok(RunArgs {
        model: args.model.clone(),
        quant: args.quant.clone().into_iter().collect(),
        engine,
        prompts: args.prompts.clone(),
        prompt_len: args.prompt_len.clone(),
        gen_len: args.gen_len.clone(),
        depth: args.depth.clone(),
        launches: length(args)?.most,
        threads: args.threads,
        warmup: args.warmup,
        iterations: args.iterations,
        delay: args.delay,
        seed: args.seed,
        page_cache: args.page_cache,
        weights: args.weights,
        no_install: args.no_install,
        timeout: args.timeout,
        output_dir: args.output_dir.clone(),
        ..resume::defaults()?
    })
}
