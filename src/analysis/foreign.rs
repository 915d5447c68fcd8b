//! Reads result files into samples: llm-bench's own and those of other tools, recognised by their
//! content. A sample is one value per process; where a process holds many requests or iterations, it
//! is one statistic of them, and deviations that a file states are never used.

mod aiperf;
mod batched_bench;
mod criterion;
mod field;
mod guidellm;
mod hyperfine;
mod join;
mod llama_bench;
mod llama_benchy;
mod plain;
mod recognise;
mod record;
mod runs;
#[cfg(test)]
mod tests;
mod vllm;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::evidence::Launches;
use super::sides::{Earlier, Place};
use super::verdict::Inner;
use crate::identity::{Identity, LineIdentity};
use crate::metric::Metric;
use crate::record::Warning;

/// Far larger than any real result file.
const MAX_FILE: u64 = 256 << 20;
/// The same for files that hold a few kilobytes for each test, and not every request with its text.
const MAX_FOREIGN: u64 = 16 << 20;

/// Whether a measurement can give this value. No seconds, bytes or rates lie beyond these bounds,
/// and ratios of larger values would overflow.
fn measurable(x: f64) -> bool {
    (1e-15..=1e18).contains(&x)
}

/// One result file.
#[derive(Debug)]
pub struct Source {
    /// The file's name as given on the command line.
    pub file: String,
    pub format: Format,
    /// Program, date and machine; the report joins them into one line.
    pub facts: Vec<String>,
    /// The weights are random values of the right shapes.
    pub synthetic: bool,
    /// Identifies the session, if the format has such a name.
    pub session: Option<String>,
    /// The program file that was measured with, if the format records it.
    pub executable: Option<String>,
    pub arms: Vec<SampledArm>,
    /// What a reader must know before trusting its numbers.
    pub warnings: Vec<Warning>,
}

/// Which tool wrote a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    LlmBench,
    LlamaBench,
    Hyperfine,
    VllmServe,
    VllmLatency,
    VllmThroughput,
    Guidellm,
    Aiperf,
    LlamaBenchy,
    LlamaBatchedBench,
    Criterion,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Format::LlmBench => "llm-bench",
            Format::LlamaBench => "llama-bench",
            Format::Hyperfine => "hyperfine",
            Format::VllmServe => "vllm-serve",
            Format::VllmLatency => "vllm-latency",
            Format::VllmThroughput => "vllm-throughput",
            Format::Guidellm => "guidellm",
            Format::Aiperf => "aiperf",
            Format::LlamaBenchy => "llama-benchy",
            Format::LlamaBatchedBench => "llama-batched-bench",
            Format::Criterion => "criterion",
        }
    }

    fn largest(self) -> u64 {
        match self {
            Format::LlmBench | Format::VllmServe | Format::Guidellm => MAX_FILE,
            _ => MAX_FOREIGN,
        }
    }
}

/// One thing that was measured: an engine on a model, or a command.
#[derive(Debug)]
pub struct SampledArm {
    /// Arms of two files with the same key are a pair, where the settings that both record agree.
    pub key: String,
    /// By name, where the key does not hold them: versions of a tool record different ones.
    pub settings: BTreeMap<String, String>,
    /// Short name, unique within its file, for `--pair`.
    pub label: String,
    /// Model, quantization and prompt set. Empty if the label says it all.
    pub on: String,
    pub identity: Identity,
    /// Absent where the tool counts something else.
    pub launches: Option<Launches>,
    /// Its line in a history; absent for files of other tools.
    pub line: Option<LineIdentity>,
    /// What a history shows of sessions like this one, if it was asked.
    pub earlier: Earlier,
    pub series: Vec<Series>,
}

/// The values of one metric, one per replicate, all above zero and of a measurable size.
#[derive(Debug)]
pub struct Series {
    pub metric: Metric,
    /// The prompt or test; `None` for a whole prompt set.
    pub test: Option<String>,
    /// Whether the series counts for the verdict by default.
    pub decides: bool,
    /// A part of another series, shown on request.
    pub part: bool,
    pub values: Vec<f64>,
    /// The one value that stands for all, where they come from one process.
    pub of_process: Option<f64>,
    /// Where the launch of each value stood in its session; empty where that is not recorded.
    pub places: Vec<Place>,
    /// Of a percentile inside a launch: which one, and the values inside each launch.
    pub tail: Option<Inner>,
}

/// Reads a file in any of the formats.
///
/// # Errors
/// The file cannot be read, is too large, is not JSON, is in none of the formats or in a newer one,
/// or holds a value that no measurement gives. The error names file, field, expected and found.
pub fn read(path: &Path) -> Result<Source> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    let file = path.display().to_string();
    let too_large = |limit: u64| {
        anyhow::anyhow!("{file}: expected a result file, found more than {} MiB", limit >> 20)
    };
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large(MAX_FILE));
    }
    let (bytes, left_out) = plain::json_of(bytes).map_err(|e| e.context(file.clone()))?;
    let format = recognise::recognise(&bytes).map_err(|e| e.context(file.clone()))?;
    if bytes.len() as u64 > format.largest() {
        return Err(too_large(format.largest()));
    }
    let mut source = match format {
        Format::LlmBench => record::read(path, file)?,
        Format::LlamaBench => llama_bench::read(&bytes, file)?,
        Format::Hyperfine => hyperfine::read(&bytes, file)?,
        Format::VllmServe => vllm::serve(&bytes, file)?,
        Format::VllmLatency => vllm::latency(&bytes, file)?,
        Format::VllmThroughput => vllm::throughput(&bytes, file)?,
        Format::Guidellm => guidellm::read(&bytes, file)?,
        Format::Aiperf => aiperf::read(&bytes, file)?,
        Format::LlamaBenchy => llama_benchy::read(&bytes, file)?,
        Format::LlamaBatchedBench => batched_bench::read(&bytes, file)?,
        Format::Criterion => criterion::read(path, &bytes, file)?,
    };
    source.warnings.extend(left_out);
    Ok(source)
}

/// Reads the files of one side: several of one tool are its replicates.
///
/// # Errors
/// As for [`read`], and where the files do not belong together.
pub fn read_side(paths: &[PathBuf]) -> Result<Source> {
    join::join(paths.iter().map(|path| read(path)).collect::<Result<_>>()?)
}
