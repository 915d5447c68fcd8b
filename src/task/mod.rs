//! Tasks: what a launch asks of an engine. Each task has its own file with its requests, the script
//! of a launch, its checks and its metrics; `record` and `metric` hold the vocabulary. Other
//! modules choose a task once and then use it only through the trait.

pub mod encode;
pub mod generate;
mod machine;
pub mod requests;
pub mod score;
pub mod serve;
pub mod sustain;
pub mod tokenize;
pub mod vectors;
pub mod windows;

use std::collections::BTreeMap;
use std::path::Path;

use crate::device::{Device, DeviceKind};
use crate::engine::{Engine, Failure, Observes};
use crate::metric::Metric;
use crate::protocol::{Feature, Load, Loaded, Precision};
use crate::record::{Launch, PromptRun};
use crate::sensors::{HostMemory, Mark, Sensors};
use crate::units::{BytesPerSecond, MacsPerSecond, MonoNs};

/// The requests of a launch, and the conclusions from the answers.
pub trait Task {
    /// The script's result besides what it keeps in the launch; `()` for a measuring task.
    type Answer;

    /// Features that an engine must declare.
    fn needs(&self) -> &[Feature] {
        &[]
    }

    /// Sends all requests of a launch. The model is loaded and has received no request yet.
    fn script(&self, launch: &mut Running<'_>) -> Result<Self::Answer, Failure>;

    /// Why the times of a launch that succeeded cannot be true; `None` if they can.
    fn doubt(&self, _measured: &Measured<'_>) -> Option<String> {
        None
    }

    /// Fills the values of each run and of the launch. Called once the sensors have reported, even
    /// for a launch that failed after its load.
    fn metrics(&self, measured: &mut Measured<'_>);
}

/// What a task's reports show besides the summary of every metric.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// A launch in one line: each figure's short name, and its metric.
    pub line: &'static [(&'static str, Metric)],
    /// Shown prompt by prompt.
    pub per_prompt: &'static [Metric],
}

/// The columns of every task that measures. A record has the metrics of one of them.
pub const COLUMNS: &[Columns] =
    &[generate::COLUMNS, encode::COLUMNS, tokenize::COLUMNS, serve::COLUMNS];

/// An engine's own account of itself in a launch.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    pub version: BTreeMap<String, String>,
    pub precision: Option<Precision>,
    pub settings: BTreeMap<String, serde_json::Value>,
    pub notes: Vec<String>,
}

/// What a launch keeps while it runs, whether it succeeds or fails.
pub struct Notes {
    pub launch: Launch,
    pub identity: Identity,
    /// Absent until the model is loaded.
    pub loaded: Option<Loaded>,
    pub sensors: Sensors,
    /// Whether the engine computes in a process of this machine that is known, so that what the
    /// machine shows is the engine's.
    pub here: bool,
}

impl Notes {
    /// Starts with an empty identity and no sensors.
    pub fn new(launch: Launch) -> Self {
        let (identity, loaded, sensors) = (Identity::default(), None, Sensors::default());
        Self { launch, identity, loaded, sensors, here: false }
    }
}

/// A launch as its script sees it.
pub struct Running<'a> {
    pub engine: &'a mut Engine,
    /// The engine's account of the model.
    pub loaded: &'a Loaded,
    pub identity: &'a mut Identity,
    launch: &'a mut Launch,
    sensors: &'a mut Sensors,
}

/// A finished launch, for the metrics of its task.
pub struct Measured<'a> {
    pub launch: &'a mut Launch,
    pub loaded: &'a Loaded,
    /// The bandwidth of the device's memory, the ceiling of decoding, if known.
    pub bandwidth: Option<BytesPerSecond>,
    /// Peak arithmetic by format, if it was measured.
    pub macs: &'a BTreeMap<String, f64>,
    pub device: Device,
    pub threads: u32,
    /// Bytes of the largest cache of a processor, if the system reports it.
    pub last_level_cache: Option<u64>,
}

impl Running<'_> {
    /// Reports to the sensors what happened at `at`.
    pub fn mark(&mut self, mark: Mark, at: MonoNs) {
        self.sensors.mark(mark, at);
    }

    /// Adds a point to the time line, which begins at the spawn. Does nothing if the spawn was not
    /// observed.
    pub fn milestone(&mut self, name: &str, at: MonoNs) {
        milestone(self.launch, self.engine.observes(), name, at);
    }

    /// Sets a metric of the launch.
    pub fn put(&mut self, metric: Metric, value: f64) {
        self.launch.metrics.insert(metric, value);
    }

    /// Keeps a request in the record.
    pub fn keep(&mut self, run: PromptRun) {
        self.launch.prompts.push(run);
    }

    /// Ends the measured requests: reads the memory by the engine's account and the kernel's.
    pub fn finished(&mut self) -> Result<(), Failure> {
        self.launch.memory.book = self.engine.memory()?;
        self.mark(Mark::Finished, MonoNs::now());
        Ok(())
    }
}

impl Measured<'_> {
    /// The peak for products that an engine computes in this type, such as `int8` or `f16+f32`.
    /// Types without an instruction of their own are computed in float32.
    pub fn peak_macs(&self, compute: &str) -> Option<MacsPerSecond> {
        let first = compute.split('+').next().unwrap_or_default();
        let peak = self.macs.get(first).or_else(|| self.macs.get("f32"))?;
        Some(MacsPerSecond(*peak))
    }

    /// Multiply-adds per second that no such machine makes, whatever the type: a core makes 1024 of
    /// int8 in a cycle (AMX) at less than 6 GHz; an accelerator at most ten times a current one's
    /// 4-bit rate.
    pub fn most_macs(&self) -> f64 {
        match self.device.kind() {
            DeviceKind::Cpu => f64::from(self.threads) * 1024.0 * 6e9,
            DeviceKind::Cuda | DeviceKind::Metal => 1e17,
        }
    }

    /// "cpu with 2 threads".
    pub fn whereabouts(&self) -> String {
        format!("{} with {} threads", self.device, self.threads)
    }

    /// Sets the metrics of memory and of the card, which every task has.
    pub fn machine(&mut self) {
        machine::of_launch(self);
    }
}

/// A path for an engine, whose working folder is not ours.
fn absolute(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    path.to_string_lossy().into_owned()
}

fn milestone(launch: &mut Launch, observes: Observes, name: &str, at: MonoNs) {
    if let Some(spawned) = observes.spawned {
        launch.timeline_ns.insert(name.into(), at.0.saturating_sub(spawned.0));
    }
}

/// Runs one engine from start to end: opens it, loads the model, runs the script.
pub fn converse<A>(
    task: &dyn Task<Answer = A>,
    open: impl FnOnce(&Load) -> Result<Engine, Failure>,
    load: Load,
    notes: &mut Notes,
) -> Result<A, Failure> {
    let Notes { launch, identity, loaded, sensors, here } = notes;
    let mut engine = open(&load)?;
    let observes = engine.observes();
    *here = observes.pid.is_some();
    if let Some(entered) = engine.entered {
        milestone(launch, observes, "entry", entered);
        milestone(launch, observes, "ready", MonoNs(engine.ready.t_ns));
    }
    identity.version = engine.ready.versions.clone();
    if let Some(pid) = observes.pid {
        sensors.process(pid);
        sensors.add(HostMemory::of(
            pid,
            load.path.as_ref(),
            load.device.parse().unwrap_or_default(),
        ));
    }
    sensors.mark(Mark::Ready, MonoNs::now());
    engine.require(task.needs())?;

    let answer = engine.load(load)?;
    sensors.mark(Mark::Loaded, answer.arrived);
    let stated = loaded.insert(answer.value);
    // Without a spawn of ours, the model was there before.
    if observes.spawned.is_some() {
        let (begin, end) = (MonoNs(stated.t_begin_ns), MonoNs(stated.t_end_ns));
        milestone(launch, observes, "load_begin", begin);
        milestone(launch, observes, "load_end", end);
        launch.metrics.insert(Metric::ModelLoad, end.since(begin).0);
    }
    launch.load_stages_ns = stated.stages.clone();
    identity.precision = Some(stated.precision.clone());
    identity.settings = stated.settings.clone();
    identity.notes = stated.notes.clone();

    let (engine_ref, loaded) = (&mut engine, &*stated);
    let mut running = Running { engine: engine_ref, loaded, identity, launch, sensors };
    let answer = task.script(&mut running)?;
    let left = engine.bye()?;
    if !left.is_empty() {
        identity
            .notes
            .push(format!("It left processes running, which were ended: {}.", left.join(", ")));
    }
    Ok(answer)
}
