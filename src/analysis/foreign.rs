//! Reads result files into samples: llm-bench's own, llama-bench's and hyperfine's, recognised by
//! their content. Takes samples only, never the means and deviations that a file states.

mod field;
mod hyperfine;
mod llama_bench;
mod plain;
mod record;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::evidence::Launches;
use super::sides::{Earlier, Place};
use super::verdict::Inner;
use crate::identity::{Identity, LineIdentity};
use crate::metric::Metric;
use crate::record::Warning;

/// Far larger than any real result file.
const MAX_FILE: u64 = 256 << 20;
/// The same for other tools' files, which hold a few kilobytes for each test.
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
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Format::LlmBench => "llm-bench",
            Format::LlamaBench => "llama-bench",
            Format::Hyperfine => "hyperfine",
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
    let format = recognise(&bytes).map_err(|e| e.context(file.clone()))?;
    if format != Format::LlmBench && bytes.len() as u64 > MAX_FOREIGN {
        return Err(too_large(MAX_FOREIGN));
    }
    let mut source = match format {
        Format::LlmBench => record::read(path, file)?,
        Format::LlamaBench => llama_bench::read(&bytes, file)?,
        Format::Hyperfine => hyperfine::read(&bytes, file)?,
    };
    source.warnings.extend(left_out);
    Ok(source)
}

/// The keys that distinguish the formats.
#[derive(Deserialize)]
struct Head {
    schema: Option<IgnoredAny>,
    results: Option<IgnoredAny>,
    samples_ns: Option<IgnoredAny>,
    samples_ts: Option<IgnoredAny>,
    n_prompt: Option<IgnoredAny>,
}

fn recognise(bytes: &[u8]) -> Result<Format> {
    // Reads all of it first, so that broken JSON is reported as such in any format.
    for value in serde_json::Deserializer::from_slice(bytes).into_iter::<IgnoredAny>() {
        value.map_err(|e| not_json(bytes, &e))?;
    }
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    let head = match first {
        None => bail!("expected {EXPECTED}, found an empty file"),
        Some(b'[') => return Ok(Format::LlamaBench),
        Some(b'{') => {
            serde_json::Deserializer::from_slice(bytes).into_iter::<Head>().next().transpose()?
        }
        Some(_) => None,
    };
    match head {
        Some(h) if h.schema.is_some() => Ok(Format::LlmBench),
        Some(h) if h.results.is_some() => Ok(Format::Hyperfine),
        Some(h) if [h.samples_ns, h.samples_ts, h.n_prompt].iter().any(Option::is_some) => {
            Ok(Format::LlamaBench)
        }
        _ => bail!(
            "expected {EXPECTED}, found JSON without \"schema\", \"results\" or \"samples_ns\""
        ),
    }
}

const EXPECTED: &str =
    "a result file of `llm-bench run`, `llama-bench -o json|jsonl` or `hyperfine --export-json`";

/// Describes serde_json's error, and names a number that JSON does not have.
fn not_json(bytes: &[u8], error: &serde_json::Error) -> anyhow::Error {
    let line = bytes.split(|b| *b == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    // The column may point at the word's first letter or one after it.
    let start = error.column().saturating_sub(2).min(line.len());
    let near = String::from_utf8_lossy(&line[start..line.len().min(start + 12)]).to_lowercase();
    let near = near.trim_start_matches([' ', ':', ',', '[', '-', '+']);
    if near.starts_with("nan") || near.starts_with("inf") || near.starts_with("an") {
        return anyhow::anyhow!(
            "line {}, column {}: expected a finite number, found NaN or an infinity; a measurement \
             went wrong, so measure again",
            error.line(),
            error.column()
        );
    }
    let line: String = String::from_utf8_lossy(line).chars().take(60).collect();
    anyhow::anyhow!(
        "expected {EXPECTED}; it is not JSON: {error}, where it says {line:?}. If a program logged that \
         among its results, write stdout alone to the file, without `2>&1`"
    )
}
