//! `--resume FILE`: opens an interrupted session. The file says how it was measured. What would
//! make the new launches differ from the old ones (the model's bytes, the machine, the build, an
//! engine's version) is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::bench::{Bench, Seat};
use super::drive::ArmPlan;
use crate::engine::provision::{Installed, Reach};
use crate::engine::{Deadlines, Engine, EngineSpec, Failure, Registry};
use crate::identity::unlike;
use crate::interrupt;
use crate::launch;
use crate::measure::host;
use crate::plan::grid::each_once;
use crate::plan::{Planned, Spec};
use crate::progress::say;
use crate::record::{Arm, Point, Record, Resumed, Workload};
use crate::shell;

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
    /// lock: it is given a moment. A session that runs replaces its file meanwhile, so each attempt
    /// opens it again, and a lock on a file that is no longer at `path` is none.
    pub fn take(path: &Path) -> Result<Self, TryLockError> {
        for _ in 0..20 {
            let file = File::open(path).map_err(TryLockError::Error)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, path).map_err(TryLockError::Error)? => {
                    return Ok(Self(file));
                }
                Ok(()) | Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error),
            }
        }
        Err(TryLockError::WouldBlock)
    }
}

/// Whether `path` still leads to this open file.
fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (open, now) = (file.metadata()?, std::fs::metadata(path)?);
    Ok((open.dev(), open.ino()) == (now.dev(), now.ino()))
}

impl Interrupted {
    /// Takes the file for this process alone. `lacks` says whether a record whose launches are all in
    /// lacks something else.
    ///
    /// # Errors
    /// No record, a complete one, or one whose session still runs.
    pub fn open(file: &Path, lacks: fn(&Record) -> bool) -> Result<Self> {
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
        if record.run.complete && !lacks(&record) {
            bail!(
                "--resume {shown}: expected an interrupted run, found a complete one; `llm-bench report \
                 {}` shows it",
                shell::path(file)
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
                    true => {
                        let mut engine = engine.clone();
                        let arm = self.record.arms.iter().find(|arm| arm.engine == name);
                        for (key, value) in arm.iter().flat_map(|arm| &arm.point.options) {
                            engine.set_option(key, value);
                        }
                        Ok(engine)
                    }
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
        // Behind the points that are measured come those that the machine cannot hold.
        let measured = &record.arms[..seats.len().min(record.arms.len())];
        for (i, arm) in measured.iter().enumerate() {
            let fits = |seat: &&Seat| {
                let key =
                    |p: &Point| (p.model.clone(), p.quant.clone(), p.device, p.threads, p.batch);
                seat.point.engine == arm.engine && key(&seat.point) == key(&arm.point)
            };
            let all = seats.len() + bench.unfit.len();
            if all != record.arms.len() || seats.get(i).filter(fits).is_none() {
                bail!(
                    "{}: arms: expected each point of the grid once, found {} again or another \
                     one; the file was changed, or other models fit into this machine than then. \
                     Run anew",
                    self.name(),
                    arm.engine
                );
            }
        }
        let here = Record {
            host: host::host(),
            build: super::build(),
            workload: Workload { sha256: bench.workload.sha256.clone(), ..record.workload.clone() },
            ..record.clone()
        };
        self.refuse(record.arms.iter().zip(seats).flat_map(|(arm, seat)| {
            let model_file = Some(bench.file_of(seat).model.clone());
            let now = Arm { point: Point { model_file, ..arm.point.clone() }, ..arm.clone() };
            unlike((record, arm), (&here, &now))
        }))?;
        let launches = measured.iter().enumerate();
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
        let mut differ = Vec::new();
        for ((arm, plan), seat) in self.record.arms.iter().zip(plans).zip(&bench.seats) {
            if let (false, Ok(installed)) = (arm.version.is_empty(), &plan.installed) {
                let found = versions(installed, seat.threads)
                    .with_context(|| format!("{} does not start", arm.engine))?;
                let now = Arm { version: found, ..arm.clone() };
                differ.extend(unlike((&self.record, arm), (&self.record, &now)));
            }
        }
        self.refuse(differ)?;
        let launches_before = self.record.arms.iter().map(|a| a.launches.len() as u32).sum();
        say(&format!("{}: resuming after {launches_before} launches", self.path.display()));
        self.record.run.resumed.push(Resumed { at: launch::now(), launches_before });
        Ok((self.record, self.path.with_extension("")))
    }

    fn refuse(&self, differ: impl IntoIterator<Item = String>) -> Result<()> {
        let mut differ: Vec<String> = differ.into_iter().collect();
        // What all arms share differs for each of them.
        let mut said = BTreeSet::new();
        differ.retain(|one| said.insert(one.clone()));
        if differ.is_empty() {
            return Ok(());
        }
        bail!(
            "--resume {}: the launches to come would not be of the same kind: {}. Run anew",
            self.path.display(),
            differ.join("; ")
        )
    }
}

/// What an engine says of its versions. Starts it and ends it, without a model.
fn versions(installed: &Installed, threads: u32) -> Result<BTreeMap<String, String>> {
    let failed = |failure: Failure| match failure {
        Failure::Interrupted => anyhow!("stopped before anything was measured"),
        Failure::Engine(e) => anyhow!("{}", crate::text::clean(&e.message)),
    };
    if !matches!(installed.reach, Reach::Pipes) {
        return Ok(BTreeMap::new()); // A server says its version with its model.
    }
    let engine = Engine::over_pipes(installed, threads, Deadlines::default()).map_err(failed)?;
    let versions = engine.ready.versions.clone();
    engine.bye().map_err(failed)?;
    if interrupt::requested() {
        bail!("stopped before anything was measured");
    }
    Ok(versions)
}
