//! Result files to samples: llm-bench's own, llama-bench's and hyperfine's, recognised by what is
//! in them. Only samples are taken over; means and deviations that a file states are not.

mod field;
mod hyperfine;
mod llama_bench;
mod record;

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::metric::Metric;
use crate::record::Warning;

/// Far above any real result file.
const MAX_FILE: u64 = 256 << 20;
/// The same for other tools' files, which hold a few kilobytes for each test.
const MAX_FOREIGN: u64 = 16 << 20;

/// Whether a measurement can give this value. No seconds, bytes or rates lie beyond these bounds,
/// and ratios of such values would overflow.
fn measurable(x: f64) -> bool {
    (1e-15..=1e18).contains(&x)
}

/// One result file.
#[derive(Debug)]
pub struct Source {
    /// As it was named on the command line.
    pub file: String,
    pub format: Format,
    /// Program, date and machine; the report joins them into one line.
    pub facts: Vec<String>,
    /// The weights are random values of the right shapes.
    pub synthetic: bool,
    /// Tells one session from another, where the format has such a name.
    pub session: Option<String>,
    /// The program file that measured, where the format says so.
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
    /// Arms of two files with the same key are a pair.
    pub key: String,
    /// Short name, unique in its file, for `--pair`.
    pub label: String,
    /// Model, quantization and prompt set. Empty where the label says it all.
    pub on: String,
    pub identity: Identity,
    pub series: Vec<Series>,
}

/// The values of one metric, one for each replicate, all above zero and of a size that can be
/// measured.
#[derive(Debug)]
pub struct Series {
    pub metric: Metric,
    /// The prompt or the test that it is of; absent for a whole prompt set.
    pub test: Option<String>,
    /// Whether it counts for the verdict, unless something else is asked for.
    pub decides: bool,
    /// A part of another series: shown on request.
    pub part: bool,
    pub values: Vec<f64>,
}

/// Reads a file of any of the formats.
///
/// # Errors
/// A file that cannot be read, is too large, is not JSON, is of none of the formats or of a newer
/// one, or has a value that no measurement gives: with file, field, expected and found.
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
    let format = recognise(&bytes).map_err(|e| e.context(file.clone()))?;
    if format != Format::LlmBench && bytes.len() as u64 > MAX_FOREIGN {
        return Err(too_large(MAX_FOREIGN));
    }
    match format {
        Format::LlmBench => record::read(path, file),
        Format::LlamaBench => llama_bench::read(&bytes, file),
        Format::Hyperfine => hyperfine::read(&bytes, file),
    }
}

/// The keys that tell formats apart.
#[derive(Deserialize)]
struct Head {
    schema: Option<IgnoredAny>,
    results: Option<IgnoredAny>,
    samples_ns: Option<IgnoredAny>,
    samples_ts: Option<IgnoredAny>,
    n_prompt: Option<IgnoredAny>,
}

fn recognise(bytes: &[u8]) -> Result<Format> {
    // All of it, so that broken JSON is reported as such, whatever the format.
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

/// What serde_json found wrong, and whether it is a number that JSON does not have.
fn not_json(bytes: &[u8], error: &serde_json::Error) -> anyhow::Error {
    let line = bytes.split(|b| *b == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    // The column may be that of the word's first letter or a letter behind it.
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
    anyhow::anyhow!("expected {EXPECTED}; it is not JSON: {error}")
}
