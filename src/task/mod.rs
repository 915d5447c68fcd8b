//! Tasks: what a launch asks of an engine. A task knows its requests, the script of a launch, its
//! checks and its metrics, in a file of its own; `record` and `metric` hold the vocabulary.
//! Outside, a task is chosen once and then only used through the trait.

pub mod generate;
pub mod score;

use std::collections::BTreeMap;

use crate::engine::{Engine, Failure, Observes};
use crate::metric::Metric;
use crate::protocol::{Feature, Load, Loaded, Precision};
use crate::record::{Launch, PromptRun};
use crate::sensors::{HostMemory, Mark, Sensors};
use crate::units::{BytesPerSecond, MonoNs};

/// What a launch asks, and what follows from the answers.
pub trait Task {
    /// What the script returns, beside what it keeps in the launch: nothing where it is measured.
    type Answer;

    /// Features that an engine must declare.
    fn needs(&self) -> &[Feature] {
        &[]
    }

    /// All requests of a launch. The model is loaded, nothing was asked yet.
    fn script(&self, launch: &mut Running<'_>) -> Result<Self::Answer, Failure>;

    /// Fills the values of each run and of the launch. Called once the sensors have reported, also
    /// for a launch that failed after its load.
    fn metrics(&self, measured: &mut Measured<'_>);
}

/// An engine's own account of itself at a launch.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    pub version: BTreeMap<String, String>,
    pub precision: Option<Precision>,
    pub settings: BTreeMap<String, serde_json::Value>,
    pub notes: Vec<String>,
}

/// What is kept of a launch while it goes on, whether it ends well or not.
pub struct Notes {
    pub launch: Launch,
    pub identity: Identity,
    /// Absent until the model is loaded.
    pub loaded: Option<Loaded>,
    pub sensors: Sensors,
}

impl Notes {
    /// Nothing is known of `launch` yet, and no sensor looks.
    pub fn new(launch: Launch) -> Self {
        let (identity, loaded, sensors) = (Identity::default(), None, Sensors::default());
        Self { launch, identity, loaded, sensors }
    }
}

/// A launch as a script sees it.
pub struct Running<'a> {
    pub engine: &'a mut Engine,
    /// The engine's account of the model.
    pub loaded: &'a Loaded,
    pub identity: &'a mut Identity,
    launch: &'a mut Launch,
    sensors: &'a mut Sensors,
}

/// A launch that is over, for the metrics of its task.
pub struct Measured<'a> {
    pub launch: &'a mut Launch,
    pub loaded: &'a Loaded,
    /// What the device's memory delivers: the ceiling of decoding, if it is known.
    pub bandwidth: Option<BytesPerSecond>,
}

impl Running<'_> {
    /// Tells the sensors what happened at `at`.
    pub fn mark(&mut self, mark: Mark, at: MonoNs) {
        self.sensors.mark(mark, at);
    }

    /// A point of the time line, which begins at the spawn; without one there is none.
    pub fn milestone(&mut self, name: &str, at: MonoNs) {
        milestone(self.launch, self.engine.observes(), name, at);
    }

    /// A value of the launch.
    pub fn put(&mut self, metric: Metric, value: f64) {
        self.launch.metrics.insert(metric, value);
    }

    /// Keeps a request in the record.
    pub fn keep(&mut self, run: PromptRun) {
        self.launch.prompts.push(run);
    }

    /// The measured requests are over: reads the memory, by the engine's book and the kernel's.
    pub fn finished(&mut self) -> Result<(), Failure> {
        self.launch.memory.book = self.engine.memory()?;
        self.mark(Mark::Finished, MonoNs::now());
        Ok(())
    }
}

fn milestone(launch: &mut Launch, observes: Observes, name: &str, at: MonoNs) {
    if let Some(spawned) = observes.spawned {
        launch.timeline_ns.insert(name.into(), at.0.saturating_sub(spawned.0));
    }
}

/// One engine from its start to its end: opens it, loads the model, runs the script.
pub fn converse<A>(
    task: &dyn Task<Answer = A>,
    open: impl FnOnce() -> Result<Engine, Failure>,
    load: Load,
    notes: &mut Notes,
) -> Result<A, Failure> {
    let Notes { launch, identity, loaded, sensors } = notes;
    let mut engine = open()?;
    let observes = engine.observes();
    if let Some(entered) = engine.entered {
        milestone(launch, observes, "entry", entered);
        milestone(launch, observes, "ready", MonoNs(engine.ready.t_ns));
    }
    identity.version = engine.ready.versions.clone();
    if let Some(pid) = observes.pid {
        sensors.add(HostMemory::of(pid, load.path.as_ref()));
    }
    sensors.mark(Mark::Ready, MonoNs::now());
    engine.require(task.needs())?;

    let answer = engine.load(load)?;
    sensors.mark(Mark::Loaded, answer.arrived);
    let stated = loaded.insert(answer.value);
    if observes.clock {
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
    engine.bye()?;
    Ok(answer)
}
