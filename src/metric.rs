//! The catalogue of metrics: name, unit, direction, meaning. A new metric is one entry here and
//! one line where `measure::metrics` computes it; tables, CSV and comparisons follow.

use serde::{Deserialize, Serialize};

/// Which direction is an improvement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Higher,
    Lower,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    TokensPerSecond,
    Bytes,
    /// A ratio, no unit.
    Ratio,
    /// A ratio that people read in percent.
    Share,
    TokensPerSecondPerGb,
    JoulesPerToken,
}

impl Unit {
    /// As written into records.
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Seconds => "s",
            Unit::TokensPerSecond => "tok/s",
            Unit::Bytes => "B",
            Unit::Ratio | Unit::Share => "1",
            Unit::TokensPerSecondPerGb => "tok/s/GB",
            Unit::JoulesPerToken => "J/tok",
        }
    }
}

/// Where a metric appears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Gated, and at the top of the table.
    Primary,
    /// In the table.
    Shown,
    /// In record, CSV and Markdown only.
    Detail,
    /// A part of another metric: summarised, but neither better nor worse than another engine's.
    Part,
}

#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub title: &'static str,
    pub unit: Unit,
    pub better: Better,
    pub rank: Rank,
    pub meaning: &'static str,
}

macro_rules! metrics {
    ($($name:literal $title:literal $unit:ident $better:ident $rank:ident $meaning:literal;)*) => {
        /// Every metric, in the order of the table.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name, title: $title, unit: Unit::$unit, better: Better::$better,
            rank: Rank::$rank, meaning: $meaning,
        }),*];
    };
}

metrics! {
    "model_load_s" "Model load" Seconds Lower Primary
        "open the file until every weight is usable on the device; tokenizer not included";
    "cold_start_ttft_s" "TTFT, cold start" Seconds Lower Primary
        "spawn of the process until the id of the first token is on the host; includes interpreter, imports, load, compilation";
    "first_generate_ttft_s" "TTFT, after load" Seconds Lower Shown
        "model loaded, nothing warmed up: submit until the first token";
    "ttft_s" "TTFT, warm" Seconds Lower Shown
        "warm: submit until the first token's id is on the host; mean over the prompts";
    "prefill_tps" "Prefill" TokensPerSecond Higher Primary
        "prompt tokens divided by the time of their forward pass; over the set, sum by sum";
    "decode_tps" "Decode" TokensPerSecond Higher Primary
        "(n-1) / (t_last - t_first); over the set, sum by sum";
    "tpot_s" "TPOT" Seconds Lower Detail
        "(t_last - t_first) / (n-1); over the set, sum by sum";
    "itl_p50_s" "ITL p50" Seconds Lower Shown
        "median gap between consecutive tokens after the first";
    "itl_p95_s" "ITL p95" Seconds Lower Shown "95th percentile of the gaps";
    "itl_p99_s" "ITL p99" Seconds Lower Detail
        "99th percentile of the gaps; absent under 100 gaps";
    "itl_max_s" "ITL max" Seconds Lower Detail "longest gap";
    "e2e_tps" "End to end" TokensPerSecond Higher Detail
        "n / (t_last - t_submit), prefill included; not a decode rate";
    "peak_tps" "Peak" TokensPerSecond Higher Detail
        "tokens in the best one-second bucket of decoding; never the headline";
    "sustained_tps" "Sustained" TokensPerSecond Higher Detail
        "median token rate of the last third of each decode, then the median over the set";
    "warmup_gain" "Warm-up gain" Ratio Higher Detail
        "first decode step of the process divided by the steady median: what JIT or lazy packing costs";
    "peak_host_bytes" "Peak memory" Bytes Lower Primary
        "the kernel's high-water mark of the process tree (VmHWM)";
    "memory_weights_bytes" "Memory: weights" Bytes Lower Part
        "of the peak: weights, mapped and private";
    "memory_kv_bytes" "Memory: KV cache" Bytes Lower Part "of the peak: keys and values";
    "memory_activations_bytes" "Memory: activations" Bytes Lower Part
        "of the peak: buffers that stay, and temporaries that were given back since";
    "memory_runtime_bytes" "Memory: runtime" Bytes Lower Part
        "of the peak: program, interpreter, libraries, compiler, memory held free by the allocator";
    "memory_unaccounted_bytes" "Memory: unaccounted" Bytes Lower Part
        "of the peak: what no reading explains; negative where parts overlap";
    "peak_gpu_bytes" "Peak GPU memory" Bytes Lower Primary "NVML, this process";
    "mbu" "MBU" Share Higher Shown
        "(weight bytes read per token + mean KV bytes read) / TPOT / read bandwidth around the launch";
    "tps_per_gb" "Decode per GB" TokensPerSecondPerGb Higher Shown
        "decode_tps / peak memory in GB (1e9 bytes)";
    "joules_per_token" "Energy" JoulesPerToken Lower Shown
        "energy counter over the decode windows / decode tokens; absent without a counter";
    "decode_cv" "Decode CV over launches" Share Lower Detail
        "sample sd / mean of decode_tps over launches; under 5 % is good, over 10 % warns";
}

/// What other tools' files hold; llm-bench itself measures none of these.
pub const FOREIGN: &[Metric] = &[
    Metric {
        name: "time_s",
        title: "Time",
        unit: Unit::Seconds,
        better: Better::Lower,
        rank: Rank::Primary,
        meaning: "hyperfine: one run of the command, from start to exit",
    },
    Metric {
        name: "total_tps",
        title: "Prompt and decode",
        unit: Unit::TokensPerSecond,
        better: Better::Higher,
        rank: Rank::Primary,
        meaning: "llama-bench -pg: prompt and generated tokens divided by the time of both",
    },
];

/// Looks a metric up by its name, those of other tools included.
pub fn find_any(name: &str) -> Option<&'static Metric> {
    find(name).or_else(|| FOREIGN.iter().find(|m| m.name == name))
}

/// Looks a metric up by its name.
pub fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|m| m.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_is_listed_once_and_explained() {
        for (i, m) in METRICS.iter().enumerate() {
            assert!(METRICS[i + 1..].iter().all(|other| other.name != m.name), "{}", m.name);
            assert!(!m.meaning.is_empty());
        }
        assert_eq!(find("decode_tps").unwrap().better, Better::Higher);
        assert!(find("tok/s").is_none());
    }
}
