//! The options of `compare`.

use std::path::PathBuf;

use clap::Args;

use super::OutputArgs;
use super::rules::RulesArgs;

#[derive(Debug, Args)]
#[command(after_help = "Files: results of llm-bench run, llama-bench -o json or jsonl, hyperfine \
--export-json, vllm bench serve, latency or throughput, GuideLLM, AIPerf, llama-benchy, \
llama-batched-bench, and criterion. compare A1 A2 -- B1 B2 makes each file of another tool a \
replicate of its side.

Exit codes: 0 compared, 2 usage or tool error, 4 nothing in the files belongs together; with
--exit-code also 1 regressed, 3 inconclusive, 4 not comparable.")]
pub struct CompareArgs {
    /// Result files; the first is the baseline. Before `--`: all are the baseline's
    #[arg(required = true, num_args = 1.., value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// After `--`: the files of the candidate, all of one tool
    #[arg(last = true, value_name = "CANDIDATE")]
    pub candidate: Vec<PathBuf>,
    /// Arms that belong together although their labels differ; repeatable
    #[arg(long, value_name = "BASELINE=CANDIDATE")]
    pub pair: Vec<String>,
    /// Also the metrics that do not decide
    #[arg(long)]
    pub all: bool,
    /// Also every prompt of the set by itself
    #[arg(long)]
    pub per_prompt: bool,
    #[command(flatten)]
    pub rules: RulesArgs,
    /// Earlier sessions, which show how much sessions differ; results of two sessions cannot pass
    /// without three of them [default: results/history.sqlite, if it is there]
    #[arg(long, value_name = "FILE")]
    pub history_db: Option<PathBuf>,
    /// End with the verdict's status: 0 passed, 1 regressed, 3 inconclusive, 4 not comparable
    #[arg(long)]
    pub exit_code: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}
