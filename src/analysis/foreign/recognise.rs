//! Which tool wrote a file, by the keys that only its files have.

use anyhow::{Result, bail};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Format, batched_bench};

/// The keys that distinguish the formats.
#[derive(Deserialize)]
struct Head {
    schema: Option<IgnoredAny>,
    // hyperfine
    results: Option<IgnoredAny>,
    // llama-bench
    samples_ns: Option<IgnoredAny>,
    samples_ts: Option<IgnoredAny>,
    n_prompt: Option<IgnoredAny>,
    // vLLM
    model_id: Option<IgnoredAny>,
    completed: Option<IgnoredAny>,
    avg_latency: Option<IgnoredAny>,
    latencies: Option<IgnoredAny>,
    elapsed_time: Option<IgnoredAny>,
    requests_per_second: Option<IgnoredAny>,
    // GuideLLM and llama-benchy
    benchmarks: Option<IgnoredAny>,
    latency_mode: Option<IgnoredAny>,
    // AIPerf
    aiperf_version: Option<IgnoredAny>,
    input_config: Option<IgnoredAny>,
    request_latency: Option<IgnoredAny>,
    // llama-batched-bench
    speed_pp: Option<IgnoredAny>,
    speed_tg: Option<IgnoredAny>,
    // criterion's sample.json, estimates.json and benchmark.json, and cargo-criterion
    iters: Option<IgnoredAny>,
    times: Option<IgnoredAny>,
    median_abs_dev: Option<IgnoredAny>,
    std_dev: Option<IgnoredAny>,
    group_id: Option<IgnoredAny>,
    full_id: Option<IgnoredAny>,
    reason: Option<IgnoredAny>,
}

impl Head {
    fn format(self) -> Option<Format> {
        let all = |keys: &[&Option<IgnoredAny>]| keys.iter().all(|key| key.is_some());
        let any = |keys: &[&Option<IgnoredAny>]| keys.iter().any(|key| key.is_some());
        let tests: [(bool, Format); 14] = [
            (all(&[&self.schema]), Format::LlmBench),
            (all(&[&self.results]), Format::Hyperfine),
            (any(&[&self.samples_ns, &self.samples_ts, &self.n_prompt]), Format::LlamaBench),
            (all(&[&self.model_id, &self.completed]), Format::VllmServe),
            (all(&[&self.avg_latency, &self.latencies]), Format::VllmLatency),
            (all(&[&self.elapsed_time, &self.requests_per_second]), Format::VllmThroughput),
            (all(&[&self.benchmarks, &self.latency_mode]), Format::LlamaBenchy),
            (all(&[&self.benchmarks]), Format::Guidellm),
            (
                any(&[&self.aiperf_version, &self.input_config, &self.request_latency]),
                Format::Aiperf,
            ),
            (all(&[&self.speed_pp, &self.speed_tg]), Format::LlamaBatchedBench),
            (all(&[&self.iters, &self.times]), Format::Criterion),
            (all(&[&self.median_abs_dev, &self.std_dev]), Format::Criterion),
            (all(&[&self.group_id, &self.full_id]), Format::Criterion),
            (all(&[&self.reason]), Format::Criterion),
        ];
        tests.into_iter().find(|(holds, _)| *holds).map(|(_, format)| format)
    }
}

/// The format of a file's first value, or of its table.
///
/// # Errors
/// The text is not JSON, or it is of no tool that is known.
pub(super) fn recognise(bytes: &[u8]) -> Result<Format> {
    if batched_bench::is_table(bytes) {
        return Ok(Format::LlamaBatchedBench);
    }
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
    match head.and_then(Head::format) {
        Some(format) => Ok(format),
        None => bail!("expected {EXPECTED}, found JSON with the keys of none of them"),
    }
}

const EXPECTED: &str = "a result file of `llm-bench run`, `llama-bench -o json|jsonl`, \
    `hyperfine --export-json`, `vllm bench serve|latency|throughput`, GuideLLM, AIPerf, llama-benchy, \
    `llama-batched-bench` or criterion";

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
