//! The catalogue of metrics: name, unit, direction, rank, meaning. A new metric is one entry here
//! and one line where its task computes it; tables, CSV and comparisons follow. No other
//! file spells a metric's name.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Which direction is an improvement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Higher,
    Lower,
}

impl Better {
    /// The sign of a change for the worse: 1 where lower is better.
    pub fn worse_sign(self) -> f64 {
        match self {
            Better::Lower => 1.0,
            Better::Higher => -1.0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    TokensPerSecond,
    PerSecond,
    Bytes,
    BytesPerSecond,
    /// A ratio, no unit.
    Ratio,
    /// A ratio that people read in percent.
    Share,
    TokensPerSecondPerGb,
    JoulesPerToken,
    Megahertz,
}

impl Unit {
    /// As written into records.
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Seconds => "s",
            Unit::TokensPerSecond => "tok/s",
            Unit::PerSecond => "1/s",
            Unit::Bytes => "B",
            Unit::BytesPerSecond => "B/s",
            Unit::Ratio | Unit::Share => "1",
            Unit::TokensPerSecondPerGb => "tok/s/GB",
            Unit::JoulesPerToken => "J/tok",
            Unit::Megahertz => "MHz",
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

/// Which kind of work produces a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Every launch has it, whatever it was asked to do.
    Any,
    /// Generating tokens.
    Generate,
    /// Requests over texts: encoding or tokenizing them.
    Encode,
    /// Answering many requests at once.
    Serve,
    /// Other tools' files hold it; llm-bench measures no such thing.
    Foreign,
}

/// What the catalogue says of a metric.
struct Entry {
    name: &'static str,
    title: &'static str,
    unit: Unit,
    better: Better,
    rank: Rank,
    task: Task,
    meaning: &'static str,
}

macro_rules! metrics {
    ($($metric:ident $name:literal $title:literal $unit:ident $better:ident $rank:ident $task:ident
       $meaning:literal;)*) => {
        /// A metric. Ordered by name, as result files list them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Metric { $(#[doc = $meaning] $metric),* }

        impl Metric {
            /// Every metric, in the order of tables.
            pub const ALL: &[Metric] = &[$(Metric::$metric),*];
        }

        const CATALOGUE: &[Entry] = &[$(Entry {
            name: $name, title: $title, unit: Unit::$unit, better: Better::$better,
            rank: Rank::$rank, task: Task::$task, meaning: $meaning,
        }),*];
    };
}

metrics! {
    ModelLoad "model_load_s" "Model load" Seconds Lower Primary Any
        "open the file until every weight is usable on the device; tokenizer not included";
    ColdStartTtft "cold_start_ttft_s" "TTFT, cold start" Seconds Lower Primary Generate
        "spawn of the process until the id of the first token is on the host; includes interpreter, imports, load, compilation";
    FirstGenerateTtft "first_generate_ttft_s" "TTFT, after load" Seconds Lower Shown Generate
        "model loaded, nothing warmed up: submit until the first token";
    Ttft "ttft_s" "TTFT, warm" Seconds Lower Shown Generate
        "warm: submit until the first token's id is on the host; mean over the prompts";
    TtftP95 "ttft_p95_s" "TTFT p95" Seconds Lower Detail Generate
        "95th percentile of the warm TTFT over the generations of a launch; absent under 20";
    PrefillTps "prefill_tps" "Prefill" TokensPerSecond Higher Primary Generate
        "prompt tokens, of all sequences, divided by the time of their forward pass; over the set, sum by sum";
    DecodeTps "decode_tps" "Decode" TokensPerSecond Higher Primary Generate
        "(n-1) / (t_last - t_first); over the set, sum by sum";
    BatchDecodeTps "s_tg_tps" "S_TG" TokensPerSecond Higher Shown Generate
        "decode_tps of all sequences of a batch together; absent for one sequence";
    Tpot "tpot_s" "TPOT" Seconds Lower Detail Generate
        "(t_last - t_first) / (n-1); over the set, sum by sum";
    ItlP50 "itl_p50_s" "ITL p50" Seconds Lower Shown Generate
        "median gap between consecutive tokens after the first";
    ItlP95 "itl_p95_s" "ITL p95" Seconds Lower Shown Generate "95th percentile of the gaps";
    ItlP99 "itl_p99_s" "ITL p99" Seconds Lower Detail Generate
        "99th percentile of the gaps; absent under 100 gaps";
    ItlMax "itl_max_s" "ITL max" Seconds Lower Detail Generate "longest gap";
    E2eTps "e2e_tps" "End to end" TokensPerSecond Higher Detail Generate
        "n / (t_last - t_submit), prefill included; not a decode rate";
    PeakTps "peak_tps" "Peak" TokensPerSecond Higher Detail Generate
        "tokens in the best one-second bucket of decoding; never the headline";
    SustainedTps "sustained_tps" "Sustained" TokensPerSecond Higher Detail Generate
        "median token rate of the last third of each decode, then the median over the set";
    WarmupGain "warmup_gain" "Warm-up gain" Ratio Higher Detail Generate
        "first decode step of the process divided by the steady median: what JIT or lazy packing costs";
    ColdStart "cold_start_s" "Cold start" Seconds Lower Primary Encode
        "spawn of the process until the first result is on the host; includes interpreter, imports, load, compilation";
    Tokenize "tokenize_s" "Tokenize" Seconds Lower Primary Encode
        "one request is one batch: texts on the host until their token ids are there, by the engine's own tokenizer; mean over the requests, then over the lengths";
    LatencyMean "latency_mean_s" "Latency" Seconds Lower Shown Encode
        "one request is one batch: token ids on the host until its result is on the host; mean over the requests, then over the lengths";
    LatencyP50 "latency_p50_s" "Latency p50" Seconds Lower Shown Encode
        "median over the requests of a length, then the mean over the lengths";
    LatencyP95 "latency_p95_s" "Latency p95" Seconds Lower Shown Encode
        "95th percentile in the same way; absent under 20 requests";
    LatencyP99 "latency_p99_s" "Latency p99" Seconds Lower Detail Encode
        "99th percentile in the same way; absent under 100 requests";
    LatencyCv "latency_cv" "Latency CV" Share Lower Shown Encode
        "sample sd / mean over the requests of a length inside a launch, then the mean over the lengths";
    SequencesPerS "sequences_per_s" "Texts" PerSecond Higher Primary Encode
        "texts divided by the time of their requests; over the lengths, sum by sum";
    RequestsPerS "requests_per_s" "Requests" PerSecond Higher Detail Encode
        "requests divided by their time; over the lengths, sum by sum";
    TokensPerS "tokens_per_s" "Tokens" TokensPerSecond Higher Shown Encode
        "tokens of the texts, padding not among them, divided by the time of their requests; over the lengths, sum by sum";
    TextBytesPerS "text_bytes_per_s" "Text" BytesPerSecond Higher Shown Encode
        "bytes of the texts in UTF-8 divided by the time that their tokenizing takes; over the lengths, sum by sum";
    PeakHostBytes "peak_host_bytes" "Peak memory" Bytes Lower Primary Any
        "the kernel's high-water mark of the process tree (VmHWM)";
    PeakGpuBytes "peak_gpu_bytes" "Peak GPU memory" Bytes Lower Primary Any
        "the most that the engine's processes held of the card, by its driver; where the driver does not say, the rise of the whole card's use";
    MemoryWeights "memory_weights_bytes" "Memory: weights" Bytes Lower Part Any
        "of the peak: weights, mapped and private";
    MemoryKv "memory_kv_bytes" "Memory: KV cache" Bytes Lower Part Generate
        "of the peak: keys and values";
    MemoryActivations "memory_activations_bytes" "Memory: activations" Bytes Lower Part Any
        "of the peak: buffers that stay, and temporaries that were given back since";
    MemoryRuntime "memory_runtime_bytes" "Memory: runtime" Bytes Lower Part Any
        "of the peak: program, interpreter, libraries, compiler, memory held free by the allocator";
    MemoryUnaccounted "memory_unaccounted_bytes" "Memory: unaccounted" Bytes Lower Part Any
        "of the peak: what no reading explains; negative where parts overlap";
    Mbu "mbu" "MBU" Share Higher Shown Generate
        "(weight bytes read per step + mean KV bytes read, of each sequence) / TPOT / read bandwidth of the device";
    ArithmeticShare "arithmetic_share" "Arithmetic" Share Higher Shown Any
        "multiply-adds with weights in the decode steps of a batch, or in the requests of an encoder, / their time / the machine's measured peak in the type that the engine computes in; attention is not counted";
    TpsPerGb "tps_per_gb" "Decode per GB" TokensPerSecondPerGb Higher Shown Generate
        "decode_tps / peak memory of the device in GB (1e9 bytes)";
    JoulesPerToken "joules_per_token" "Energy" JoulesPerToken Lower Shown Generate
        "energy over the decode windows / decode tokens: of the card, or of the processor packages where it ran on them; absent without a counter that resolves the windows";
    JoulesPerTotalToken "joules_per_total_token" "Energy per total token" JoulesPerToken Lower Detail Generate
        "energy from submit to last token / (prompt + output tokens)";
    SmClock "sm_clock_mhz" "SM clock" Megahertz Higher Part Any
        "median clock of the card's multiprocessors over the measured windows";
    Throttled "throttled_s" "Throttled" Seconds Lower Part Any
        "seconds of the measured windows in which the card gave a reason for a lowered clock; seconds with two reasons count twice";
    DecodeCv "decode_cv" "Decode CV over launches" Share Lower Detail Generate
        "sample sd / mean of decode_tps over launches; under 5 % is good, over 10 % warns";
    TtftP50 "ttft_p50_s" "TTFT p50" Seconds Lower Detail Serve
        "median over the requests: due or sent until the first chunk that carries a token";
    TtftP90 "ttft_p90_s" "TTFT p90" Seconds Lower Detail Serve
        "90th percentile of the same; absent under 10 requests";
    TtftP99 "ttft_p99_s" "TTFT p99" Seconds Lower Detail Serve
        "99th percentile of the same; absent under 100 requests";
    TpotP50 "tpot_p50_s" "TPOT p50" Seconds Lower Detail Serve
        "median over the requests of each one's (t_last - t_first) / (n-1)";
    TpotP90 "tpot_p90_s" "TPOT p90" Seconds Lower Detail Serve
        "90th percentile of the same; absent under 10 requests";
    TpotP95 "tpot_p95_s" "TPOT p95" Seconds Lower Detail Serve
        "95th percentile of the same; absent under 20 requests";
    TpotP99 "tpot_p99_s" "TPOT p99" Seconds Lower Detail Serve
        "99th percentile of the same; absent under 100 requests";
    E2eLatencyMean "e2e_latency_mean_s" "E2E latency" Seconds Lower Shown Serve
        "mean over the requests: due or sent until the last token";
    E2eLatencyP50 "e2e_latency_p50_s" "E2E latency p50" Seconds Lower Detail Serve
        "median of the same";
    E2eLatencyP90 "e2e_latency_p90_s" "E2E latency p90" Seconds Lower Detail Serve
        "90th percentile of the same; absent under 10 requests";
    E2eLatencyP95 "e2e_latency_p95_s" "E2E latency p95" Seconds Lower Detail Serve
        "95th percentile of the same; absent under 20 requests";
    E2eLatencyP99 "e2e_latency_p99_s" "E2E latency p99" Seconds Lower Detail Serve
        "99th percentile of the same; absent under 100 requests";
    RequestThroughput "request_throughput_per_s" "Requests" PerSecond Higher Shown Serve
        "requests that succeeded divided by the time of the measurement";
    InputThroughput "input_throughput_tps" "Input" TokensPerSecond Higher Detail Serve
        "prompt tokens of the requests that succeeded divided by the time of the measurement";
    OutputThroughput "output_throughput_tps" "Output" TokensPerSecond Higher Primary Serve
        "generated tokens of the requests that succeeded divided by the time of the measurement";
    Goodput "goodput_per_s" "Goodput" PerSecond Higher Shown Serve
        "requests within the service level objectives divided by the time of the measurement";
    FailedRequests "failed_requests" "Failed" Share Lower Shown Serve
        "share of the requests that failed, for whatever reason";
    Time "time_s" "Time" Seconds Lower Primary Foreign
        "hyperfine: one run of the command, from start to exit; criterion: one iteration inside a process";
    TotalTps "total_tps" "Prompt and decode" TokensPerSecond Higher Primary Foreign
        "prompt and generated tokens divided by the time of both: llama-bench -pg, and all requests of a server";
}

/// The values inside a launch of which a metric is a percentile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// The gaps between consecutive tokens after the first, of all measured generations.
    Gaps,
    /// The times to the first token, of all measured generations.
    FirstTokens,
}

impl Metric {
    /// For the tail of a distribution inside a launch: which percentile, as a share, of what.
    pub fn tail(self) -> Option<(f64, Inside)> {
        match self {
            Metric::TtftP95 => Some((0.95, Inside::FirstTokens)),
            Metric::ItlP95 => Some((0.95, Inside::Gaps)),
            Metric::ItlP99 => Some((0.99, Inside::Gaps)),
            _ => None,
        }
    }

    /// What llm-bench itself measures, in the order of tables.
    pub fn measured() -> impl Iterator<Item = Metric> {
        Metric::ALL.iter().copied().filter(|m| m.task() != Task::Foreign)
    }

    /// Of a rank, in the order of tables, those of other tools left out.
    pub fn of_rank(rank: Rank) -> impl Iterator<Item = Metric> {
        Metric::measured().filter(move |m| m.rank() == rank)
    }

    fn entry(self) -> &'static Entry {
        &CATALOGUE[self as usize]
    }

    /// The fixed name, with the unit in it where it has one.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// For readers.
    pub fn title(self) -> &'static str {
        self.entry().title
    }

    pub fn unit(self) -> Unit {
        self.entry().unit
    }

    pub fn better(self) -> Better {
        self.entry().better
    }

    pub fn rank(self) -> Rank {
        self.entry().rank
    }

    pub fn task(self) -> Task {
        self.entry().task
    }

    /// The definition, in a few words.
    pub fn meaning(self) -> &'static str {
        self.entry().meaning
    }
}

impl Ord for Metric {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

impl PartialOrd for Metric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No metric has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownMetric {
    #[error("no metric is called {name:?}; did you mean {:?}?", nearest.name())]
    Misspelt { name: String, nearest: Metric },
    #[error("no metric is called {name:?}; there are: {}", names())]
    Unlike { name: String },
}

fn names() -> String {
    Metric::ALL.iter().map(|m| m.name()).collect::<Vec<_>>().join(", ")
}

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(text: &str) -> Result<Self, UnknownMetric> {
        if let Some(found) = Metric::ALL.iter().find(|m| m.name() == text) {
            return Ok(*found);
        }
        let name = text.to_string();
        let nearest = Metric::ALL
            .iter()
            .map(|m| (strsim::jaro_winkler(m.name(), text), *m))
            .filter(|(score, _)| *score > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        Err(match nearest {
            Some((_, nearest)) => UnknownMetric::Misspelt { name, nearest },
            None => UnknownMetric::Unlike { name },
        })
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Metric {
    fn schema_name() -> Cow<'static, str> {
        "Metric".into()
    }

    /// Any name: a newer version may know more.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string"})
    }
}

/// What a record holds by metric. A name that this version does not know (a newer one wrote it) is
/// neither an error nor lost: its value is kept as it came, written back, and listed by
/// [`Values::unknown`].
#[derive(Debug, Clone, PartialEq)]
pub struct Values<T = f64> {
    known: BTreeMap<Metric, T>,
    unknown: BTreeMap<String, serde_json::Value>,
}

impl<T> Values<T> {
    pub fn new() -> Self {
        Self { known: BTreeMap::new(), unknown: BTreeMap::new() }
    }

    /// The names that this version does not know.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.unknown.keys().map(String::as_str)
    }
}

impl<T> Default for Values<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for Values<T> {
    type Target = BTreeMap<Metric, T>;

    fn deref(&self) -> &Self::Target {
        &self.known
    }
}

impl<T> DerefMut for Values<T> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.known
    }
}

impl<T> FromIterator<(Metric, T)> for Values<T> {
    fn from_iter<I: IntoIterator<Item = (Metric, T)>>(values: I) -> Self {
        Self { known: values.into_iter().collect(), unknown: BTreeMap::new() }
    }
}

impl<T, const N: usize> From<[(Metric, T); N]> for Values<T> {
    fn from(values: [(Metric, T); N]) -> Self {
        values.into_iter().collect()
    }
}

impl<T> IntoIterator for Values<T> {
    type Item = (Metric, T);
    type IntoIter = std::collections::btree_map::IntoIter<Metric, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.known.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Values<T> {
    type Item = (&'a Metric, &'a T);
    type IntoIter = std::collections::btree_map::Iter<'a, Metric, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.known.iter()
    }
}

impl<T: Serialize> Serialize for Values<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(self.known.len() + self.unknown.len()))?;
        for (metric, value) in &self.known {
            map.serialize_entry(metric, value)?;
        }
        for (name, value) in &self.unknown {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<T: JsonSchema> JsonSchema for Values<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("ByMetric_{}", T::schema_name()).into()
    }

    /// An object with the metrics of this version, each with its definition; others are allowed.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = |metric: Metric| {
            let mut schema = generator.subschema_for::<T>();
            let meaning =
                format!("{}, {}: {}", metric.title(), metric.unit().as_str(), metric.meaning());
            schema.insert("description".into(), meaning.into());
            (metric.name().to_string(), schema.to_value())
        };
        let properties: serde_json::Map<_, _> = Metric::measured().map(one).collect();
        json_schema!({"type": "object", "properties": properties})
    }
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for Values<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let mut values = Self::new();
        for (name, value) in BTreeMap::<String, serde_json::Value>::deserialize(deserializer)? {
            match name.parse::<Metric>() {
                Ok(metric) => {
                    let value = serde_json::from_value(value)
                        .map_err(|e| D::Error::custom(format!("{name}: {e}")))?;
                    values.known.insert(metric, value);
                }
                Err(_) => _ = values.unknown.insert(name, value),
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_is_listed_once_and_explained() {
        for (i, m) in Metric::ALL.iter().enumerate() {
            assert_eq!(m.name().parse(), Ok(*m));
            assert!(Metric::ALL[i + 1..].iter().all(|other| other.name() != m.name()), "{m}");
            assert!(!m.meaning().is_empty(), "{m}");
        }
        assert_eq!(Metric::DecodeTps.better(), Better::Higher);
        assert!(Metric::measured().all(|m| m != Metric::Time));
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_the_nearest_or_with_all() {
        let error = |name: &str| name.parse::<Metric>().unwrap_err().to_string();
        assert!(error("decode_tsp").ends_with("did you mean \"decode_tps\"?"), "{}", error("x"));
        assert!(error("42").contains("there are: model_load_s, cold_start_ttft_s"));
    }

    #[test]
    fn values_of_a_newer_version_are_kept_and_named() {
        let text = r#"{"decode_tps":2.0,"model_load_s":1.5,"tokens_per_dream":{"deep":1}}"#;
        let values: Values = serde_json::from_str(text).unwrap();
        assert_eq!(values[&Metric::DecodeTps], 2.0);
        assert_eq!(
            (values.len(), values.unknown().collect::<Vec<_>>()),
            (2, vec!["tokens_per_dream"])
        );
        assert_eq!(serde_json::to_string(&values).unwrap(), text);
        let wrong = serde_json::from_str::<Values>(r#"{"mbu":"much"}"#).unwrap_err().to_string();
        assert!(wrong.contains("mbu: invalid type"), "{wrong}");
    }

    #[test]
    fn no_other_file_spells_a_metrics_name() {
        fn visit(folder: &std::path::Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let rust = path.extension().is_some_and(|e| e == "rs");
                if path.is_dir() {
                    visit(&path, found);
                } else if rust && !path.ends_with("src/metric.rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let spelt = |m: &&Metric| text.contains(&format!("\"{m}\""));
                    let spelt = Metric::ALL.iter().filter(spelt);
                    found.extend(spelt.map(|m| format!("{m} in {}", path.display())));
                }
            }
        }
        let mut found = Vec::new();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in [root.join("src"), root.join("crates")].iter().filter(|f| f.exists()) {
            visit(folder, &mut found);
        }
        assert_eq!(found, [""; 0]);
    }
}
