//! `run --resume FILE`: goes on with an interrupted run. The file says how it was measured; what
//! would make the new launches other than the old ones (the model's bytes, the machine, the
//! build, an engine's version) is refused. The rest is `run`'s.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, ValueEnum};
use serde::Deserialize;

use super::progress::say;
use super::run;
use crate::cli::{Cli, Command, RunArgs};
use crate::device::Device;
use crate::engine::provision::Installed;
use crate::engine::{Deadlines, EngineProcess, EngineSpec, Failure, Registry};
use crate::interrupt;
use crate::measure::page_cache::PageCache;
use crate::measure::plan::Planned;
use crate::measure::session::ArmPlan;
use crate::measure::{host, launch};
use crate::model::quant::Quant;
use crate::record::{Build, Host, Model, Record, Resumed, Workload};

/// The part of `run.config` that decides what is measured.
#[derive(Debug, Deserialize)]
struct Config {
    model: String,
    quant: Vec<Quant>,
    prompts: Option<String>,
    prompt_len: Vec<u32>,
    gen_len: Vec<u32>,
    #[serde(default)]
    depth: Vec<u32>,
    launches: u32,
    threads: u32,
    warmup: u32,
    iterations: u32,
    delay_s: f64,
    device: Device,
    page_cache: String,
    timeout_s: Option<f64>,
    weights: String,
}

/// A record whose plan is not done.
pub struct Interrupted {
    path: PathBuf,
    record: Record,
    _claim: Claim,
}

/// The lock on a result file that says: its run goes on. It ends with the process, however that
/// ends. Each write puts a new file in the place of the old one, so each renews it.
pub struct Claim(#[expect(dead_code, reason = "held, not read")] File);

impl Claim {
    /// Fails with [`TryLockError::WouldBlock`] where another process has it.
    pub fn take(path: &Path) -> Result<Self, TryLockError> {
        let file = File::open(path).map_err(TryLockError::Error)?;
        file.try_lock()?;
        Ok(Self(file))
    }
}

/// Goes on with the run of `file`. Of `given`, only what does not touch the measurement counts.
pub fn run(file: &Path, given: &RunArgs) -> Result<()> {
    let shown = file.display();
    let earlier = Interrupted::open(file)?;
    if earlier.record.run.config.get(super::gate::CONFIG).is_some() {
        bail!("--resume {shown}: expected a run, found a gate; `llm-bench gate --resume {shown}`");
    }
    let told = || format!("--resume {shown}");
    let (args, quant) = arguments(&earlier.record, given).with_context(told)?;
    let engines = engines(&earlier.record).with_context(told)?;
    run::one_session(&args, quant, &engines, Some(earlier)).map(drop)
}

impl Interrupted {
    /// Takes the file for this process alone.
    ///
    /// # Errors
    /// No record, a complete one, or one that another process goes on with.
    pub fn open(file: &Path) -> Result<Self> {
        let shown = file.display();
        let claim = match Claim::take(file) {
            Ok(claim) => claim,
            Err(TryLockError::WouldBlock) => {
                bail!("--resume {shown}: expected an interrupted run, found one that still goes on")
            }
            Err(TryLockError::Error(e)) => return Err(e).context(format!("cannot read {shown}")),
        };
        let record = Record::read(file)?;
        if file.extension().is_none_or(|e| e != "json") {
            bail!("--resume {shown}: expected the .json file that `llm-bench run` wrote");
        }
        if record.run.complete {
            bail!(
                "--resume {shown}: expected an interrupted run, found a complete one; `llm-bench report \
             {shown}` shows it"
            );
        }
        Ok(Self { path: file.into(), record, _claim: claim })
    }

    pub fn record(&self) -> &Record {
        &self.record
    }
}

/// The command line of `run` without any option.
pub(super) fn defaults() -> Result<RunArgs> {
    let defaults = Cli::try_parse_from(["llm-bench", "run"])?;
    let Command::Run(defaults) = defaults.command else { unreachable!("`run` was parsed") };
    Ok(*defaults)
}

/// The command line that the record's settings amount to. Of `given`, only what does not touch the
/// measurement counts.
pub(super) fn arguments(record: &Record, given: &RunArgs) -> Result<(RunArgs, Option<Quant>)> {
    let config: Config = serde_json::from_value(record.run.config.clone())
        .context("run.config does not state the settings")?;
    settings(&config, record, given).context("run.config")
}

fn settings(c: &Config, record: &Record, given: &RunArgs) -> Result<(RunArgs, Option<Quant>)> {
    for (name, found, range) in [
        ("launches", c.launches, 1..=1000),
        ("threads", c.threads, 1..=1024),
        ("warmup", c.warmup, 0..=100),
        ("iterations", c.iterations, 1..=1000),
    ] {
        if !range.contains(&found) {
            let (least, most) = range.into_inner();
            bail!("{name}: expected {least} to {most}, found {found}");
        }
    }
    let quant = match c.quant[..] {
        [] => None,
        [quant] => Some(quant),
        _ => bail!("quant: expected the one of this file, found {}", c.quant.len()),
    };
    let args = RunArgs {
        model: c.model.clone(),
        quant: quant.iter().map(Quant::to_string).collect(),
        engine: record.arms.iter().map(|arm| arm.engine.clone()).collect(),
        prompts: c.prompts.clone(),
        prompt_len: c.prompt_len.clone(),
        gen_len: c.gen_len.clone(),
        depth: c.depth.clone(),
        launches: c.launches,
        threads: Some(c.threads),
        warmup: c.warmup,
        iterations: c.iterations,
        delay: c.delay_s,
        seed: record.run.seed,
        device: c.device,
        page_cache: PageCache::from_str(&c.page_cache, true)
            .map_err(|_| anyhow!("page_cache: expected warm or cold, found {:?}", c.page_cache))?,
        weights: c.weights.parse().map_err(|e| anyhow!("weights: {e}"))?,
        timeout: c.timeout_s,
        no_install: given.no_install,
        list: given.list,
        output: crate::cli::OutputArgs { output: given.output.output },
        ..defaults()?
    };
    run::check(&args)?;
    Ok((args, quant))
}

/// The record's engines, each once.
fn engines(record: &Record) -> Result<Vec<EngineSpec>> {
    let registry = Registry::load()?;
    let mut engines: Vec<EngineSpec> = Vec::new();
    for arm in &record.arms {
        let engine = registry.find(&arm.engine)?;
        if engine.name != arm.engine || engines.iter().any(|e| e.name == engine.name) {
            bail!("arms: expected each engine once, found {:?} again", arm.engine);
        }
        engines.push(engine.clone());
    }
    Ok(engines)
}

impl Interrupted {
    /// Before anything is installed or started: the same model, prompts, machine and build, and
    /// launches that fit the plan.
    pub fn check(&self, model: &Model, workload: &Workload, order: &[Planned]) -> Result<()> {
        let mut differ = Differences::default();
        differ.of("model.sha256", &self.record.model.sha256, &model.sha256);
        differ.of("model.weights", &self.record.model.weights, &model.weights);
        differ.of("workload.sha256", &self.record.workload.sha256, &workload.sha256);
        differ.hosts(&self.record.host, &host::host());
        differ.builds(&self.record.build, &run::build());
        self.refuse(differ)?;
        let launches = self.record.arms.iter().enumerate();
        let mut taken = vec![false; order.len()];
        for (arm, launch) in launches.flat_map(|(i, arm)| arm.launches.iter().map(move |l| (i, l)))
        {
            let planned = Planned { arm, index: launch.index };
            let place = launch.order as usize;
            if order.get(place) != Some(&planned) || std::mem::replace(&mut taken[place], true) {
                bail!(
                    "--resume {}: launch {} of {} has place {place}, which the plan of seed {} \
                     does not give it; the file was changed. Run anew",
                    self.path.display(),
                    launch.index,
                    self.record.arms[arm].engine,
                    self.record.run.seed
                );
            }
        }
        Ok(())
    }

    /// The record, with a note that it was gone on with, and the base of its files' names.
    /// Asks each engine that has measured already for its versions first.
    pub fn reopen(mut self, arms: &[ArmPlan], threads: u32) -> Result<(Record, PathBuf)> {
        let mut differ = Differences::default();
        for (arm, plan) in self.record.arms.iter().zip(arms) {
            if let (false, Ok(installed)) = (arm.version.is_empty(), &plan.installed) {
                let found = versions(installed, threads)
                    .with_context(|| format!("{} does not start", arm.engine))?;
                let field = format!("version of {}", arm.engine);
                differ.of(&field, &told(&arm.version), &told(&found));
            }
        }
        self.refuse(differ)?;
        let launches_before = self.record.arms.iter().map(|a| a.launches.len() as u32).sum();
        say(&format!("{}: going on after {launches_before} launches", self.path.display()));
        self.record.run.resumed.push(Resumed { at: launch::now(), launches_before });
        Ok((self.record, self.path.with_extension("")))
    }

    fn refuse(&self, differ: Differences) -> Result<()> {
        if differ.0.is_empty() {
            return Ok(());
        }
        bail!(
            "--resume {}: the launches to come would not be of the same kind: {}. Run anew",
            self.path.display(),
            differ.0.join("; ")
        )
    }
}

/// What differs between the record and now, as text.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn of<T: PartialEq + std::fmt::Debug + ?Sized>(&mut self, field: &str, then: &T, now: &T) {
        if then != now {
            self.0.push(format!("{field}: expected {then:?}, found {now:?}"));
        }
    }

    fn hosts(&mut self, then: &Host, now: &Host) {
        self.of("host.os", &then.os, &now.os);
        self.of("host.kernel", &then.kernel, &now.kernel);
        self.of("host.cpu_model", &then.cpu_model, &now.cpu_model);
        self.of("host.cores", &then.cores, &now.cores);
        self.of("host.threads", &then.threads, &now.threads);
        self.of("host.isa", &then.isa, &now.isa);
        self.of("host.governor", &then.governor, &now.governor);
        self.of("host.virtualization", &then.virtualization, &now.virtualization);
        self.of("host.gpu", &then.gpu, &now.gpu);
        // What firmware and kernel keep for themselves varies a little from boot to boot.
        if then.ram_bytes.abs_diff(now.ram_bytes) > then.ram_bytes / 100 {
            self.of("host.ram_bytes", &then.ram_bytes, &now.ram_bytes);
        }
    }

    /// The same program file, or another build of the same commit, where both are clean.
    fn builds(&mut self, then: &Build, now: &Build) {
        if then.executable_sha256.is_some() && then.executable_sha256 == now.executable_sha256 {
            return;
        }
        let clean = |b: &Build| b.git_commit.is_some() && b.git_dirty == Some(false);
        if !(clean(then) && clean(now)) {
            return self.0.push(
                "build: expected the same program file, because a build of uncommitted changes is \
                 like no other; found another"
                    .into(),
            );
        }
        self.of("build.git_commit", &then.git_commit, &now.git_commit);
        self.of("build.version", &then.version, &now.version);
        self.of("build.features", &then.features, &now.features);
        self.of("build.target_cpu", &then.target_cpu, &now.target_cpu);
        self.of("build.profile", &then.profile, &now.profile);
    }
}

/// What an engine says of its versions. Starts it and ends it, without a model.
fn versions(installed: &Installed, threads: u32) -> Result<BTreeMap<String, String>> {
    let failed = |failure: Failure| match failure {
        Failure::Interrupted => anyhow!("stopped before anything was measured"),
        Failure::Engine(e) => anyhow!("{}", crate::report::clean(&e.message)),
    };
    let command = installed.command(threads);
    let mut process =
        EngineProcess::spawn(command, threads, Deadlines::default()).map_err(failed)?;
    let hello = process.hello().map_err(failed)?;
    let ready = process.ready(&hello).map_err(failed)?;
    process.bye().map_err(failed)?;
    if interrupt::requested() {
        bail!("stopped before anything was measured");
    }
    Ok(ready.value.versions)
}

/// `torch 2.15.0, numpy 2.3`.
fn told(versions: &BTreeMap<String, String>) -> String {
    let all: Vec<String> = versions.iter().map(|(name, v)| format!("{name} {v}")).collect();
    all.join(", ")
}
