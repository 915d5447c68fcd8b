//! One launch: a fresh engine process through the whole conversation, from spawn to exit, and
//! the values that it gives. The only code that runs between two timestamps is the engine's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::bandwidth;
use super::memory;
use super::metrics::{self, ReadsPerToken};
use super::page_cache::{self, PageCache};
use super::sensors;
use crate::device::Device;
use crate::engine::provision::Installed;
use crate::engine::{Deadlines, EngineProcess, EngineSpec, Failure, Stamped};
use crate::metric::{Metric, Values};
use crate::protocol::{Context, Feature, Generate, Generated, Load, Loaded, Precision};
use crate::record::{
    Environment, FailureKind, Launch, LaunchError, Memory, Model, PromptRun, Role, Status,
};
use crate::units::{BytesPerSecond, MonoNs};
use crate::workload::Workload;

/// More than this share of the processors busy with something else before a launch marks it as
/// disturbed. Stated here, before any run; a disturbed launch is shown and kept.
pub const BUSY_LIMIT: f64 = 0.10;
/// More than this share of the processors' time taken by the hypervisor marks it as well.
pub const STEAL_LIMIT: f64 = 0.05;

/// Said of an engine without the feature `context`, where there is a depth.
const NO_CONTEXT: &str = "This engine takes a context only as a part of its prompt: at a depth \
                          TTFT, prefill and end-to-end rate are absent, decode is measured.";

/// What every launch of a session shares.
#[derive(Debug, Clone)]
pub struct Settings {
    pub model_path: PathBuf,
    pub device: Device,
    pub threads: u32,
    pub n_ctx: u32,
    /// Generations of each prompt that are run and not measured.
    pub warmup: u32,
    /// Measured generations of each prompt.
    pub iterations: u32,
    pub page_cache: PageCache,
    pub deadlines: Deadlines,
    /// How long the machine is watched before each launch.
    pub idle_window: Duration,
    /// Whether to read the memory's bandwidth before and after each launch, for MBU.
    pub read_bandwidth: bool,
    /// What MBU is a share of where it is not: the session's reading of the device's memory.
    /// Without both there is no MBU.
    pub known_bandwidth: Option<BytesPerSecond>,
    /// One more generation of each prompt, with the time of each stage taken.
    pub profile: bool,
}

/// What an engine told about itself at a launch.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    pub version: BTreeMap<String, String>,
    pub precision: Option<Precision>,
    pub settings: BTreeMap<String, serde_json::Value>,
    pub notes: Vec<String>,
}

/// Everything that one launch gave.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub launch: Launch,
    pub identity: Identity,
}

/// The run was stopped by the user; what the launch had measured so far is not used.
#[derive(Debug)]
pub struct Interrupted;

/// Runs one launch. A failure of the engine is an outcome, not an error.
pub fn launch(
    engine: &EngineSpec,
    installed: &Installed,
    workload: &Workload,
    model: &Model,
    settings: &Settings,
    (index, order): (u32, u32),
) -> Result<Outcome, Interrupted> {
    let mut environment = Environment {
        page_cache_resident: page_cache::bring(&settings.model_path, settings.page_cache).ok(),
        compile_cache: installed
            .compile_cache_populated()
            .map(|p| if p { "populated" } else { "empty" }.to_string()),
        busy_before: sensors::watch_idle(settings.idle_window).map(|s| s.busy),
        load_average_1m: sensors::load_average_1m(),
        cpu_mhz: sensors::cpu_mhz(),
        temperature_c: sensors::temperature_c(),
        ..Environment::default()
    };
    let read_bandwidth = || {
        let read = || bandwidth::sustained(settings.device, settings.threads).ok().flatten();
        settings.read_bandwidth.then(read).flatten()
    };
    let before = read_bandwidth();
    let ceiling = before.or(settings.known_bandwidth);
    let started_at = now();
    let cpu_before = sensors::CpuTimes::now();

    let mut converse = Conversation::new(engine, workload, model, settings, ceiling);
    let result = converse.run(installed);

    environment.steal = cpu_before
        .and_then(|before| sensors::CpuTimes::now()?.shares_since(before))
        .map(|shares| shares.steal);
    environment.read_bandwidth_bytes_per_s =
        before.zip(read_bandwidth()).map(|(before, after)| [before.0, after.0]);
    environment.disturbed = environment.busy_before.is_some_and(|b| b > BUSY_LIMIT)
        || environment.steal.is_some_and(|s| s > STEAL_LIMIT);

    let error = match result {
        Ok(()) => None,
        Err(Failure::Engine(error)) => Some(error),
        Err(Failure::Interrupted) => return Err(Interrupted),
    };
    let Conversation { runs, memory, timeline, load_stages, identity, mut metrics, .. } = converse;
    if error.is_some() {
        metrics.clear(); // half a launch has no value of a launch; its raw times stay
    }
    let mut launch = Launch {
        index,
        order,
        started_at,
        status: if error.is_none() { Status::Ok } else { Status::Failed },
        error,
        metrics,
        prompts: runs,
        memory,
        timeline_ns: timeline,
        load_stages_ns: load_stages,
        environment,
    };
    if let Some([before, after]) = launch.environment.read_bandwidth_bytes_per_s {
        metrics::move_ceiling(&mut launch, before, 0.5 * (before + after));
    }
    Ok(Outcome { launch, identity })
}

/// A launch that could not even begin, as data.
pub fn failed(kind: FailureKind, phase: &str, message: String, at: (u32, u32)) -> Launch {
    Launch {
        index: at.0,
        order: at.1,
        started_at: now(),
        status: Status::Failed,
        error: Some(LaunchError { kind, phase: phase.into(), message, stderr_tail: None }),
        metrics: Values::new(),
        prompts: Vec::new(),
        memory: Memory::default(),
        timeline_ns: BTreeMap::new(),
        load_stages_ns: BTreeMap::new(),
        environment: Environment::default(),
    }
}

/// The local time with its zone, to the second.
pub fn now() -> String {
    let now = jiff::Zoned::now().round(jiff::Unit::Second).unwrap_or_else(|_| jiff::Zoned::now());
    now.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// The state of one launch as it goes on.
struct Conversation<'a> {
    engine: &'a EngineSpec,
    workload: &'a Workload,
    model: &'a Model,
    settings: &'a Settings,
    /// Of memory, just before the launch.
    bandwidth: Option<BytesPerSecond>,
    next_id: u64,
    /// Whether the engine fills a context apart from the generation behind it.
    holds_context: bool,
    /// The prompt whose context the engine holds.
    filled: Option<usize>,
    runs: Vec<PromptRun>,
    memory: Memory,
    timeline: BTreeMap<String, u64>,
    load_stages: BTreeMap<String, u64>,
    identity: Identity,
    metrics: Values,
}

impl<'a> Conversation<'a> {
    fn new(
        engine: &'a EngineSpec,
        workload: &'a Workload,
        model: &'a Model,
        settings: &'a Settings,
        bandwidth: Option<BytesPerSecond>,
    ) -> Self {
        Self {
            engine,
            workload,
            model,
            settings,
            bandwidth,
            next_id: 1,
            holds_context: false,
            filled: None,
            runs: Vec::new(),
            memory: Memory::default(),
            timeline: BTreeMap::new(),
            load_stages: BTreeMap::new(),
            identity: Identity::default(),
            metrics: Values::new(),
        }
    }

    fn run(&mut self, installed: &Installed) -> Result<(), Failure> {
        let command = installed.command(self.settings.threads);
        let mut process =
            EngineProcess::spawn(command, self.settings.threads, self.settings.deadlines)?;
        let spawned = process.spawned;
        let since_spawn = |t_ns: u64| t_ns.saturating_sub(spawned.0);

        let hello = process.hello()?;
        self.timeline.insert("entry".into(), since_spawn(hello.value.t_entry_ns));
        let ready = process.ready(&hello)?;
        self.timeline.insert("ready".into(), since_spawn(ready.value.t_ns));
        self.holds_context = ready.value.features.contains(&Feature::Context);
        self.identity.version = ready.value.versions;
        if let Some(tree) = sensors::tree_memory(process.pid()) {
            self.memory.before_load_bytes = Some(tree.resident);
            self.memory.before_load_file_bytes = Some(tree.file);
        }

        let loaded = process.load(self.load_request())?;
        if let Some((peak, resident)) = sensors::process_memory(process.pid()) {
            self.memory.peak_after_load_bytes = Some(peak);
            self.memory.after_load_bytes = Some(resident);
        }
        self.timeline.insert("load_begin".into(), since_spawn(loaded.value.t_begin_ns));
        self.timeline.insert("load_end".into(), since_spawn(loaded.value.t_end_ns));
        let reads = self.take_loaded(loaded);

        let cold = self.generate(&mut process, 0, Role::Cold, 0, &reads)?;
        if let Some(first) = cold.value.t_tokens_ns.first() {
            self.timeline.insert("first_token".into(), since_spawn(*first));
            let since = |from: MonoNs| MonoNs(*first).since(from).0;
            self.metrics.insert(Metric::ColdStartTtft, since(spawned));
            self.metrics.insert(Metric::FirstGenerateTtft, since(cold.sent));
        }
        for prompt in 0..self.workload.prompts.len() {
            // The cold generation was the first warm-up of the first prompt, if that has no depth.
            let was_cold = prompt == 0 && self.workload.prompts[0].context.is_empty();
            let warmups = self.settings.warmup.saturating_sub(u32::from(was_cold));
            for iteration in 0..warmups {
                self.generate(&mut process, prompt, Role::Warmup, iteration, &reads)?;
            }
            for iteration in 0..self.settings.iterations {
                self.generate(&mut process, prompt, Role::Measured, iteration, &reads)?;
            }
        }

        self.read_memory(&mut process)?;
        if self.settings.profile {
            for prompt in 0..self.workload.prompts.len() {
                self.generate(&mut process, prompt, Role::Profiled, 0, &reads)?;
            }
        }
        process.bye()?;
        self.finish(&reads);
        Ok(())
    }

    /// The engine's book and the kernel's readings, between two requests.
    fn read_memory(&mut self, process: &mut EngineProcess) -> Result<(), Failure> {
        self.memory.book = process.memory()?;
        if let Some(tree) = sensors::tree_memory(process.pid()) {
            self.memory.peak_host_bytes = Some(tree.peak);
            self.memory.rss_anon_bytes = Some(tree.anon);
            self.memory.rss_file_bytes = Some(tree.file);
            self.memory.rss_shmem_bytes = Some(tree.shmem);
        }
        let path = &self.settings.model_path;
        let mapped = sensors::tree(process.pid());
        let mapped = mapped.into_iter().map(|pid| memory::mapped_pages(pid, path));
        self.memory.model_file_bytes = mapped.sum();
        self.memory.breakdown = memory::breakdown(&self.memory);
        Ok(())
    }

    fn load_request(&self) -> Load {
        Load {
            path: self.settings.model_path.to_string_lossy().into_owned(),
            device: self.settings.device.to_string(),
            threads: self.settings.threads,
            n_ctx: self.settings.n_ctx,
            options: self.engine.options.clone(),
        }
    }

    fn take_loaded(&mut self, loaded: Stamped<Loaded>) -> ReadsPerToken {
        let l = loaded.value;
        let took = MonoNs(l.t_end_ns).since(MonoNs(l.t_begin_ns));
        self.metrics.insert(Metric::ModelLoad, took.0);
        self.load_stages = l.stages;
        let kv_bytes = if l.precision.kv.contains("32") { 4 } else { 2 };
        let reads = ReadsPerToken {
            weight_bytes: l.weight_bytes_per_token.unwrap_or(self.model.weight_bytes_per_token),
            kv_bytes_per_position: self.model.kv_values_per_position * kv_bytes,
            bandwidth: self.bandwidth,
        };
        self.identity.precision = Some(l.precision);
        self.identity.settings = l.settings;
        self.identity.settings.insert("weight_bytes_per_token".into(), reads.weight_bytes.into());
        self.identity.notes = l.notes;
        if !self.holds_context && self.workload.prompts.iter().any(|p| !p.context.is_empty()) {
            self.identity.notes.push(NO_CONTEXT.into());
        }
        reads
    }

    fn generate(
        &mut self,
        process: &mut EngineProcess,
        prompt: usize,
        role: Role,
        iteration: u32,
        reads: &ReadsPerToken,
    ) -> Result<Stamped<Generated>, Failure> {
        let p = &self.workload.prompts[prompt];
        // A warm-up needs the prompt's shapes and one decode step, not the whole length.
        let n = if role == Role::Warmup { p.n_gen.min(2) } else { p.n_gen };
        // The cold start is that of the prompt alone, whatever the depth.
        let context = if role == Role::Cold { &[][..] } else { &p.context };
        let depth = context.len() as u32;
        let apart = depth > 0 && self.holds_context;
        let request = match apart {
            true => {
                self.fill(process, prompt)?;
                Generate { depth, ..Generate::greedy(self.next_id, p.ids.clone(), n) }
            }
            false => {
                self.filled = None;
                Generate::greedy(self.next_id, [context, &p.ids].concat(), n)
            }
        };
        let request = Generate { profile: role == Role::Profiled, ..request };
        self.next_id += 1;
        let generated = process.generate(request, self.model.n_vocab)?;
        let (sent, g) = (generated.sent.0, &generated.value);
        let mut run = PromptRun {
            id: p.id.clone(),
            role,
            iteration,
            n_prompt: p.ids.len() as u32,
            n_gen: n,
            depth,
            context_in_request: depth > 0 && !apart,
            begin_ns: g.t_begin_ns - sent,
            prefill_end_ns: g.t_prefill_end_ns.map(|t| t - sent),
            token_ns: g.t_tokens_ns.iter().map(|t| t - sent).collect(),
            compile_ns: g.compile_ns,
            tokens_hash: hash_ids(&g.tokens),
            tokens: (role == Role::Measured && iteration == 0).then(|| g.tokens.clone()),
            profile: g.profile.clone(),
            metrics: Values::new(),
        };
        if role == Role::Measured {
            run.metrics = metrics::of_generation(&run, reads);
        }
        self.runs.push(run);
        Ok(generated)
    }

    /// Has the engine fill the context of a prompt, unless it holds it. Not measured.
    fn fill(&mut self, process: &mut EngineProcess, prompt: usize) -> Result<(), Failure> {
        if self.filled != Some(prompt) {
            let tokens = self.workload.prompts[prompt].context.clone();
            process.context(Context { id: self.next_id, tokens })?;
            self.next_id += 1;
            self.filled = Some(prompt);
        }
        Ok(())
    }

    fn finish(&mut self, reads: &ReadsPerToken) {
        self.metrics.extend(metrics::of_launch(&self.runs, reads));
        if let Some(peak) = self.memory.peak_host_bytes {
            self.metrics.insert(Metric::PeakHostBytes, peak as f64);
            self.metrics.extend(metrics::of_memory(&self.memory.breakdown));
            if let Some(decode) = self.metrics.get(&Metric::DecodeTps).copied() {
                self.metrics.insert(Metric::TpsPerGb, decode / (peak as f64 / 1e9));
            }
        }
    }
}

fn hash_ids(ids: &[u32]) -> String {
    let mut hash = Sha256::new();
    ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
    hash.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect()
}
