//! One launch: a task on one engine over one connection, with sensors around it, and the record of
//! the result. Between two timestamps, only the engine's code runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::device::Device;
use crate::engine::provision::Installed;
use crate::engine::{Deadlines, Engine, EngineSpec, Failure};
use crate::model::stamp::Stamp;
use crate::protocol::Load;
use crate::record::{FailureKind, Launch, LaunchError, Status};
use crate::sensors::bandwidth::last_level_cache;
use crate::sensors::host_memory::excess;
use crate::sensors::page_cache::{self, PageCache};
use crate::sensors::rapl::POWERCAP;
use crate::sensors::{Busy, Clocks, GpuCard, Rapl, ReadBandwidth, Sensors, Steal};
pub use crate::task::Identity;
use crate::task::{Measured, Notes, Task, converse};
use crate::units::BytesPerSecond;

/// More than the caches of a graphics processor hold.
const CACHE_OF_A_GPU: u64 = 128 << 20;

/// The subject of a launch.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub engine: &'a EngineSpec,
    pub installed: &'a Installed,
    pub task: &'a dyn Task<Answer = ()>,
    pub settings: &'a Settings,
}

/// Where and how a launch runs, whatever its task.
#[derive(Debug, Clone)]
pub struct Settings {
    pub model_path: PathBuf,
    /// The file that the session looked at; another one at that path is not measured.
    pub stamp: Option<Stamp>,
    pub device: Device,
    pub threads: u32,
    /// Sequences that are generated together.
    pub batch: u32,
    pub n_ctx: u32,
    pub page_cache: PageCache,
    pub deadlines: Deadlines,
    /// How long to watch the machine before each launch.
    pub idle_window: Duration,
    /// Whether to read the memory's bandwidth before and after each launch, for MBU.
    pub read_bandwidth: bool,
    /// The bandwidth for MBU if it is not read around the launch: the session's reading of the
    /// device's memory. Without either there is no MBU.
    pub known_bandwidth: Option<BytesPerSecond>,
    /// Peak arithmetic of the processor by format, where the session measured it.
    pub macs: BTreeMap<String, f64>,
}

/// Everything that one launch produced.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub launch: Launch,
    pub identity: Identity,
}

/// The user stopped the run; what the launch had measured so far is discarded.
#[derive(Debug)]
pub struct Interrupted;

/// Launches in a fresh process. `at` holds the number of this launch within its arm and its place
/// in the session. A failure of the engine is an outcome, not an error.
pub fn launch(subject: &Subject<'_>, at: (u32, u32)) -> Result<Outcome, Interrupted> {
    let deadlines = subject.settings.deadlines;
    over(subject, at, |load| Engine::open(subject.installed, load, deadlines), Sensors::default())
}

/// The same over any connection, with sensors besides those of the machine.
fn over(
    Subject { engine, installed, task, settings }: &Subject<'_>,
    at: (u32, u32),
    open: impl FnOnce(&Load) -> Result<Engine, Failure>,
    sensors: Sensors,
) -> Result<Outcome, Interrupted> {
    let changed = || settings.stamp?.difference(&settings.model_path);
    if let Some(message) = changed() {
        let launch = failed(FailureKind::BadModel, "load", message, at);
        return Ok(Outcome { launch, identity: Identity::default() });
    }
    let mut notes = Notes { sensors, ..Notes::new(Launch::new(at, String::new())) };
    let environment = &mut notes.launch.environment;
    environment.page_cache_resident =
        page_cache::bring(&settings.model_path, settings.page_cache).ok();
    let populated = installed.compile_cache_populated();
    environment.compile_cache = populated.map(|p| if p { "populated" } else { "empty" }.into());
    if let Device::Cuda(index) = settings.device {
        notes.sensors.add(GpuCard::of(index));
    }
    notes.sensors.add(Busy::over(settings.idle_window));
    notes.sensors.add(Clocks::default());
    if settings.read_bandwidth {
        notes.sensors.add(ReadBandwidth::of(settings.device, settings.threads));
    }
    if let Some(rapl) = Rapl::open(POWERCAP.as_ref()) {
        notes.sensors.add(rapl);
    }
    notes.launch.started_at = now();
    notes.sensors.add(Steal::default());

    let load = Load {
        path: settings.model_path.to_string_lossy().into_owned(),
        device: settings.device.to_string(),
        threads: settings.threads,
        n_ctx: settings.n_ctx,
        batch: settings.batch,
        options: engine.options.clone(),
    };
    let mut error = match converse(*task, open, load, &mut notes) {
        Ok(()) => changed().map(|message| refused(FailureKind::BadModel, message)),
        Err(Failure::Engine(error)) => Some(error),
        // What minutes have shown is not lost with the last generation.
        Err(Failure::Interrupted) if notes.launch.sustained.is_some() => None,
        Err(Failure::Interrupted) => return Err(Interrupted),
    };
    let Notes { mut launch, identity, loaded, mut sensors, here } = notes;
    sensors.end(&mut launch);
    if !here {
        (launch.energy, launch.gpu_energy) = (None, None);
    }
    if let Some(loaded) = &loaded {
        let around = launch.environment.read_bandwidth_bytes_per_s;
        let mean = around.map(|[before, after]| BytesPerSecond(0.5 * (before + after)));
        let bandwidth = mean.or(settings.known_bandwidth).filter(|_| here);
        let mut measured = Measured {
            launch: &mut launch,
            loaded,
            bandwidth,
            macs: &settings.macs,
            device: settings.device,
            threads: settings.threads,
            last_level_cache: match settings.device {
                Device::Cpu => last_level_cache(),
                Device::Cuda(_) | Device::Metal => Some(CACHE_OF_A_GPU),
            },
        };
        let doubt =
            || excess(&measured.launch.memory, settings.device).or_else(|| task.doubt(&measured));
        // What this machine can do says nothing of another one.
        let doubt = || if here { doubt() } else { None };
        if error.is_none()
            && let Some(message) = doubt()
        {
            error = Some(refused(FailureKind::Implausible, message));
        }
        task.metrics(&mut measured);
    }
    if error.is_some() {
        launch.metrics.clear(); // a failed launch has no metrics, but keeps its raw times
        launch.status = Status::Failed;
    }
    launch.error = error;
    Ok(Outcome { launch, identity })
}

/// A launch that ended well and whose numbers are refused.
fn refused(kind: FailureKind, message: String) -> LaunchError {
    LaunchError { kind, phase: "bye".into(), message, stderr_tail: None }
}

/// Records a launch that could not even begin.
pub fn failed(kind: FailureKind, phase: &str, message: String, at: (u32, u32)) -> Launch {
    Launch {
        status: Status::Failed,
        error: Some(LaunchError { kind, phase: phase.into(), message, stderr_tail: None }),
        ..Launch::new(at, now())
    }
}

/// The local time with its zone, to the second.
pub fn now() -> String {
    let now = jiff::Zoned::now().round(jiff::Unit::Second).unwrap_or_else(|_| jiff::Zoned::now());
    now.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

#[cfg(test)]
mod tests;
