//! The result file: what was run, on what, and every raw sample. Versioned. A missing value is
//! absent. `disk` reads and writes it.

mod disk;
mod verification;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::metric::{Better, Metric, Values};
pub use crate::protocol::{MemoryBook, Precision, Profile};
pub use disk::write_atomically;
pub use verification::{Divergence, FreeRunning, Limit, Verdict, Verification};

/// Name and version of the format; the major number changes when old readers would misread.
pub const SCHEMA: &str = "llm-bench/1";

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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub id: String,
    /// RFC 3339, with the zone.
    pub started_at: String,
    /// The command line, as typed.
    pub command: String,
    pub seed: u64,
    /// Every setting in force, defaults included.
    pub config: serde_json::Value,
    /// False until the last planned launch is in.
    pub complete: bool,
    /// When `run --resume` went on with it, one entry for each time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<Resumed>,
}

/// One time that an interrupted run was gone on with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resumed {
    /// RFC 3339, with the zone.
    pub at: String,
    /// Launches that were there by then.
    pub launches_before: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub os: String,
    pub kernel: String,
    pub cpu_model: String,
    /// Physical cores as far as the system tells.
    pub cores: u32,
    /// Logical processors that this process may use.
    pub threads: u32,
    pub isa: Vec<String>,
    pub ram_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtualization: Option<String>,
    pub gpu: Vec<Gpu>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_read_bandwidth_bytes_per_s: Option<f64>,
    /// With how many threads, over how large a buffer, the median of how many passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_average_1m: Option<f64>,
    /// Two back-to-back readings of the clock, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer_overhead_ns: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    pub name: String,
    pub memory_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Build {
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git_dirty: Option<bool>,
    /// Of the program file itself: tells builds of one commit apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable_sha256: Option<String>,
    pub features: Vec<String>,
    pub target_cpu: String,
    pub profile: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    pub name: String,
    pub file: String,
    pub sha256: String,
    pub quant: String,
    pub weights: WeightsSource,
    pub n_params: u64,
    pub size_bytes: u64,
    /// From here on: what a model that generates text has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_vocab: Option<u32>,
    /// Bytes of the tensors that one decoded token reads (tied embedding once, lookup rows not).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_bytes_per_token: Option<u64>,
    /// Values in the KV cache for one position: 2 · layers · kv_heads · head_dim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_values_per_position: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
}

/// Where the weights came from. Synthetic ones have the exact shapes and recipe of the model
/// and seeded random values: speed and memory hold, the text means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsSource {
    Hub,
    File,
    Synthetic,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    pub prompt_set: String,
    /// Of the token ids and lengths.
    pub sha256: String,
    pub prompts: Vec<WorkloadPrompt>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkloadPrompt {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    pub n_prompt: u32,
    pub n_gen: u32,
    /// Positions that the context holds before the prompt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: u32,
}

/// Where in the grid of a session an arm stands. Files from before there were grids state it once
/// for the whole run; it is filled in from there when they are read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Name of the model.
    pub model: String,
    /// Recipe of the file, such as `Q4_0`.
    pub quant: String,
    pub engine: String,
    /// Where the model ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// Threads that the engine was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Engine options that differ from the engine's own.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub options: serde_json::Map<String, serde_json::Value>,
    /// The file, where the arms of the record measured several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_file: Option<Model>,
}

/// One engine in one configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    pub engine: String,
    /// What the table's column says.
    pub label: String,
    #[serde(default)]
    pub point: Point,
    pub version: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    pub settings: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    pub notes: Vec<String>,
    /// What had to be done once before the measured launches, such as the cold start with an
    /// empty compile cache. Not in the table's figures.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub preparation: BTreeMap<String, f64>,
    /// Whether it computes the same function as the reference; absent if that was not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    pub launches: Vec<Launch>,
    /// Over the launches that are ok; filled by `analysis`.
    #[serde(default)]
    pub metrics: Values<MetricSummary>,
    /// The same for each prompt alone, by its id.
    #[serde(default)]
    pub prompt_metrics: BTreeMap<String, Values<MetricSummary>>,
}

/// One fresh process: one replicate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Of this arm, from 0.
    pub index: u32,
    /// Position in the whole session, from 0.
    pub order: u32,
    pub started_at: String,
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<LaunchError>,
    /// One value of each metric; see METHODOLOGY.md.
    pub metrics: Values,
    /// Every generation of this launch, the cold one first.
    pub prompts: Vec<PromptRun>,
    pub memory: Memory,
    /// Milestones as nanoseconds after the spawn: entry, ready, load_begin, load_end, first_token.
    #[serde(default)]
    pub timeline_ns: BTreeMap<String, u64>,
    /// Nanoseconds of each stage of the load, by the engine's own book.
    #[serde(default)]
    pub load_stages_ns: BTreeMap<String, u64>,
    pub environment: Environment,
    /// Absent without a counter that can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<Energy>,
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
        }
    }
}

/// Energy over the measured windows of a launch: of a generation, first token to last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    /// Which counters were added up: `RAPL package-0`.
    pub source: String,
    pub joules: f64,
    /// Length of the windows together.
    pub seconds: f64,
    /// How often the counter was seen to move inside them.
    pub steps: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    Failed,
}

/// Why a launch failed, as data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchError {
    pub kind: FailureKind,
    /// In which phase: spawn, hello, ready, load, context, generate, memory, bye.
    pub phase: String,
    pub message: String,
    /// The end of the engine's stderr.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_tail: Option<String>,
}

/// Kinds of failure: the engine's own, then those that only the harness can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// What a generation was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The first of the process, nothing warmed up.
    Cold,
    /// Not measured.
    Warmup,
    Measured,
    /// With the time of each stage taken; not measured.
    Profiled,
}

/// One generation. Times are nanoseconds after the submit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PromptRun {
    pub id: String,
    pub role: Role,
    pub iteration: u32,
    pub n_prompt: u32,
    /// Tokens that were asked for; of a request that generates none, absent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub n_gen: u32,
    /// Positions that the context held before the prompt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: u32,
    /// The engine cannot hold a context: this request ran it as a part of its prompt. Its times
    /// until the first token are then not those of the prompt at that depth.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub context_in_request: bool,
    /// The engine had decoded the request, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill_end_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_ns: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile_ns: Option<u64>,
    /// First 16 hex digits of the sha256 of the ids, where they can be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_hash: Option<String>,
    /// The ids themselves, once per prompt and launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<u32>>,
    /// Where the time went, of a profiled generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Metrics of this generation alone, where it was measured.
    #[serde(default)]
    pub metrics: Values,
}

impl PromptRun {
    /// A request of which nothing is known yet.
    pub fn new(role: Role) -> Self {
        Self {
            id: String::new(),
            role,
            iteration: 0,
            n_prompt: 0,
            n_gen: 0,
            depth: 0,
            context_in_request: false,
            begin_ns: None,
            prefill_end_ns: None,
            token_ns: Vec::new(),
            compile_ns: None,
            tokens_hash: None,
            tokens: None,
            profile: None,
            metrics: Values::new(),
        }
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What the kernel says of the process tree at its high-water mark, and the engine's own book.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_host_bytes: Option<u64>,
    /// At the end of the launch, of the process tree: anonymous, file-backed, shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_anon_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_file_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_shmem_bytes: Option<u64>,
    /// Resident before the load: interpreter, imports, libraries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_load_bytes: Option<u64>,
    /// By the engine's own book.
    #[serde(default)]
    pub book: MemoryBook,
    /// Right after the load, of the engine's process: its high-water mark and what it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_after_load_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_load_bytes: Option<u64>,
    /// Pages of the model file that are mapped and resident at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_file_bytes: Option<u64>,
    /// File-backed pages before the load: libraries and the program itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_load_file_bytes: Option<u64>,
    /// Parts that add up to the peak exactly; empty where the peak is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breakdown: Vec<MemoryPart>,
}

/// One part of the peak.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPart {
    pub part: Part,
    /// Negative where parts overlap or pages were given back.
    pub bytes: i64,
    pub how: How,
}

/// What memory is held for; METHODOLOGY.md tells how each is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Pages of the model file that are mapped.
    WeightsMapped,
    /// Weights in memory of the engine's own.
    WeightsPrivate,
    KvCache,
    /// Buffers that stay.
    Activations,
    /// Held when the peak was reached and given back since, when that was in the load.
    LoadTemporaries,
    /// The same, when it was in a generation.
    GenerationTemporaries,
    /// Held at `ready`: program, interpreter, imports.
    BeforeLoad,
    /// Pages of programs and libraries that came after `ready`.
    Libraries,
    /// Imports after `ready` and just-in-time compilation.
    Compiler,
    /// Freed, but kept by the allocator.
    AllocatorFree,
    /// What no reading explains.
    Unaccounted,
}

/// How a number came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    Measured,
    /// From shapes and types.
    Computed,
    /// What is left of the peak.
    Remainder,
}

/// The state of the machine around one launch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Share of the model file in the page cache before the spawn, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_cache_resident: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_average_1m: Option<f64>,
    /// Share of all processors' time that others used while nothing of ours ran, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_before: Option<f64>,
    /// Share of all processors' time stolen by the hypervisor during the launch, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_mhz: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<f64>,
    /// `empty` or `populated`: the engine's compile cache before the spawn; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile_cache: Option<String>,
    /// What plain reading of memory reached just before and just after the launch, bytes per
    /// second: the ceiling that `mbu` is a share of is their mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bandwidth_bytes_per_s: Option<[f64; 2]>,
    /// By the rule stated before the run; shown, not excluded.
    #[serde(default)]
    pub disturbed: bool,
}

/// One metric over the launches of an arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricSummary {
    pub unit: String,
    pub better: Better,
    pub n: u32,
    pub values: Vec<f64>,
    pub mean: f64,
    /// Sample standard deviation; absent for one value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sd: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cv: Option<f64>,
    pub median: f64,
    pub p95: f64,
    pub p99: f64,
    pub min: f64,
    pub max: f64,
    /// Student's t over launches; absent for one value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95: Option<[f64; 2]>,
}

/// One metric of one arm against the baseline arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub metric: Metric,
    pub arm: String,
    pub baseline: String,
    /// How many times better the arm is: above 1 is better whatever the direction. Ratio of the
    /// geometric means.
    pub times_better: f64,
    /// Welch on the log scale; absent where an arm has fewer than two launches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// Weights, compute and KV precision are the same in both.
    pub equal_precision: bool,
}

/// Something that a reader must know before quoting a number. Travels with the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// Stable name, for scripts: `high_variance`, `busy_machine`, …
    pub code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
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
