//! `--resume FILE`: opens an interrupted session. The file says how it was measured. What would
//! make the new launches differ from the old ones (the model's bytes, the machine, the build, an
//! engine's version) is refused.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::bench::{Bench, Seat};
use super::drive::ArmPlan;
use crate::engine::provision::Installed;
use crate::engine::{Deadlines, Engine, EngineSpec, Failure, Registry};
use crate::interrupt;
use crate::launch;
use crate::measure::host;
use crate::plan::grid::each_once;
use crate::plan::{Planned, Spec};
use crate::progress::say;
use crate::record::{Build, Host, Point, Record, Resumed};

/// A record whose plan is not done.
pub struct Interrupted {
    path: PathBuf,
    record: Record,
    _claim: Claim,
}

/// The lock on a result file while its session runs. It ends with the process, however that ends.
/// Each write replaces the file, so each renews the lock.
pub struct Claim(#[expect(dead_code, reason = "held, not read")] File);

impl Claim {
    /// Fails with [`TryLockError::WouldBlock`] where another process has it. A process that was
    /// killed may leave a child that has not started its own program yet and still holds the
    /// lock: it is given a moment.
    pub fn take(path: &Path) -> Result<Self, TryLockError> {
        let file = File::open(path).map_err(TryLockError::Error)?;
        for _ in 0..20 {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
                other => return other.map(|()| Self(file)),
            }
        }
        Err(TryLockError::WouldBlock)
    }
}

impl Interrupted {
    /// Takes the file for this process alone.
    ///
    /// # Errors
    /// No record, a complete one, or one whose session still runs.
    pub fn open(file: &Path) -> Result<Self> {
        let shown = file.display();
        let claim = match Claim::take(file) {
            Ok(claim) => claim,
            Err(TryLockError::WouldBlock) => {
                bail!("--resume {shown}: expected an interrupted run, found one that still runs")
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

impl Interrupted {
    /// The settings that the file states.
    ///
    /// # Errors
    /// It states none, or such as no command line could.
    pub fn spec(&self) -> Result<Spec> {
        Spec::of(&self.record).with_context(|| self.name())
    }

    /// The engines that the file measures, each once.
    pub fn engines(&self) -> Result<Vec<EngineSpec>> {
        let registry = Registry::load()?;
        let names = each_once(self.record.arms.iter().map(|arm| arm.engine.as_str()));
        names
            .into_iter()
            .map(|name| {
                let engine = registry.find(name).with_context(|| self.name())?;
                match engine.name == name {
                    true => Ok(engine.clone()),
                    false => {
                        bail!("{}: arms: expected {:?}, found {name:?}", self.name(), engine.name)
                    }
                }
            })
            .collect()
    }

    /// `--resume FILE`, as errors begin.
    pub fn name(&self) -> String {
        format!("--resume {}", self.path.display())
    }

    /// Before anything is installed or started: the same model, prompts, machine and build, and
    /// launches that fit the plan.
    pub fn check(&self, bench: &Bench, order: &[Planned]) -> Result<()> {
        let (record, seats) = (&self.record, &bench.seats);
        for (i, arm) in record.arms.iter().enumerate() {
            let fits = |seat: &&Seat| {
                let key = |p: &Point| (p.quant.clone(), p.device, p.threads);
                seat.point.engine == arm.engine && key(&seat.point) == key(&arm.point)
            };
            if seats.len() != record.arms.len() || seats.get(i).filter(fits).is_none() {
                bail!(
                    "{}: arms: expected each point of the grid once, found {} again or another \
                     one; the file was changed. Run anew",
                    self.name(),
                    arm.engine
                );
            }
        }
        let mut differ = Differences::default();
        for (arm, seat) in record.arms.iter().zip(seats) {
            let (then, now) = (record.model_of(arm), &bench.file_of(seat).model);
            differ.of("model.sha256", &then.sha256, &now.sha256);
            differ.of("model.weights", &then.weights, &now.weights);
        }
        differ.of("workload.sha256", &record.workload.sha256, &bench.workload.sha256);
        differ.hosts(&record.host, &host::host());
        differ.builds(&record.build, &super::build());
        self.refuse(differ)?;
        let launches = record.arms.iter().enumerate();
        let mut taken = vec![false; order.len()];
        for (arm, launch) in launches.flat_map(|(i, arm)| arm.launches.iter().map(move |l| (i, l)))
        {
            let planned = Planned { arm, index: launch.index };
            let place = launch.order as usize;
            if order.get(place) != Some(&planned) || std::mem::replace(&mut taken[place], true) {
                bail!(
                    "{}: launch {} of {} has place {place}, which the plan of seed {} does not \
                     give it; the file was changed. Run anew",
                    self.name(),
                    launch.index,
                    record.arms[arm].label,
                    record.run.seed
                );
            }
        }
        Ok(())
    }

    /// The record, with a note that it was resumed, and the base of its files' names. Asks each
    /// engine that has measured already for its versions first.
    pub fn reopen(mut self, bench: &Bench, plans: &[ArmPlan]) -> Result<(Record, PathBuf)> {
        let mut differ = Differences::default();
        for ((arm, plan), seat) in self.record.arms.iter().zip(plans).zip(&bench.seats) {
            if let (false, Ok(installed)) = (arm.version.is_empty(), &plan.installed) {
                let found = versions(installed, seat.threads)
                    .with_context(|| format!("{} does not start", arm.engine))?;
                let field = format!("version of {}", arm.engine);
                differ.of(&field, &listed(&arm.version), &listed(&found));
            }
        }
        self.refuse(differ)?;
        let launches_before = self.record.arms.iter().map(|a| a.launches.len() as u32).sum();
        say(&format!("{}: resuming after {launches_before} launches", self.path.display()));
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
    let engine = Engine::open(installed, threads, Deadlines::default()).map_err(failed)?;
    let versions = engine.ready.versions.clone();
    engine.bye().map_err(failed)?;
    if interrupt::requested() {
        bail!("stopped before anything was measured");
    }
    Ok(versions)
}

/// `torch 2.15.0, numpy 2.3`.
fn listed(versions: &BTreeMap<String, String>) -> String {
    let all: Vec<String> = versions.iter().map(|(name, v)| format!("{name} {v}")).collect();
    all.join(", ")
}
