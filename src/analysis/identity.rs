//! May two sets of numbers be compared at all? Field by field, so that a refusal can name what
//! differs: what makes numbers another thing is refused, what may move them a little is warned of.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::record::{Arm, Gpu, Record};
use crate::units::{Bytes, BytesPerSecond};

/// What a difference means for the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The numbers are of different things: no verdict.
    Refuse,
    /// It may move the numbers; the reader must know.
    Warn,
}

/// One field in which two sides differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Stable name, for scripts: `cpu_model`, `setting.n_batch`.
    pub field: String,
    /// For readers: `CPU`, `setting n_batch`.
    pub title: String,
    /// Absent where that side's file does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    pub severity: Severity,
}

impl Difference {
    /// Whether it tells one engine or label from another: what a deliberate comparison of two
    /// engines is about.
    pub fn is_engine(&self) -> bool {
        self.field == ENGINE
    }
}

/// The field that holds engine and label.
const ENGINE: &str = "engine";
/// The field that holds which format the numbers came in.
const FORMAT: &str = "schema";
/// Two readings of the memory's size on one machine may differ by what the kernel keeps.
const RAM_TOLERANCE: f64 = 0.02;
/// Readings of the bandwidth differ by some percent on a quiet machine.
const BANDWIDTH_TOLERANCE: f64 = 0.10;

/// Everything about a set of numbers that decides whether another may stand beside it. Measured
/// clock rates are left out: they follow the load.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    fields: BTreeMap<String, Fact>,
}

#[derive(Debug, Clone, PartialEq)]
struct Fact {
    title: String,
    severity: Severity,
    value: Known,
}

/// A value, and by it how two of the kind are compared.
#[derive(Debug, Clone, PartialEq)]
enum Known {
    Text(String),
    /// A hash: shown by its first digits.
    Digest(String),
    Ram(u64),
    Bandwidth(f64),
    /// `580.95.05`: another major number is refused, the rest is warned of.
    Driver(String),
}

impl Known {
    fn shown(&self) -> String {
        match self {
            Known::Text(text) | Known::Driver(text) => text.clone(),
            Known::Digest(digits) => digits.chars().take(12).collect(),
            Known::Ram(bytes) => Bytes(*bytes).to_string(),
            Known::Bandwidth(b) => BytesPerSecond(*b).to_string(),
        }
    }

    /// How much it matters that the two differ; absent where they do not, or not enough.
    fn differs(&self, other: &Known, severity: Severity) -> Option<Severity> {
        let near = |a: f64, b: f64, tolerance: f64| (a - b).abs() <= tolerance * a.max(b);
        let differs = match (self, other) {
            (Known::Ram(a), Known::Ram(b)) => !near(*a as f64, *b as f64, RAM_TOLERANCE),
            (Known::Bandwidth(a), Known::Bandwidth(b)) => !near(*a, *b, BANDWIDTH_TOLERANCE),
            (Known::Driver(a), Known::Driver(b)) if a != b => {
                let major = |v: &str| v.split('.').next().map(str::to_string);
                let same = major(a) == major(b);
                return Some(if same { Severity::Warn } else { Severity::Refuse });
            }
            (a, b) => a != b,
        };
        differs.then_some(severity)
    }
}

impl Identity {
    /// Of one arm of a record.
    pub fn of(record: &Record, arm: &Arm) -> Self {
        use Severity::{Refuse, Warn};
        let (host, build, config) = (&record.host, &record.build, &record.run.config);
        let mut identity = Self::of_format(&record.schema);
        identity.text("os", "operating system", Warn, &host.os);
        identity.text("kernel", "kernel", Warn, &host.kernel);
        identity.text("cpu_model", "CPU", Refuse, &host.cpu_model);
        identity.text("isa", "instruction sets", Warn, host.isa.join(" "));
        identity.text("gpu_model", "GPU", Refuse, gpus(&host.gpu));
        if let Some(driver) = host.gpu.iter().find_map(|gpu| gpu.driver.clone()) {
            identity.insert("driver", "GPU driver", Refuse, Known::Driver(driver));
        }
        identity.text("cores", "cores", Refuse, host.cores.to_string());
        identity.text("threads", "processors", Refuse, host.threads.to_string());
        identity.insert("ram", "memory", Refuse, Known::Ram(host.ram_bytes));
        if let Some(governor) = &host.governor {
            identity.text("power_mode", "power mode (governor)", Refuse, governor);
        }
        if let Some(virtualization) = &host.virtualization {
            identity.text("virtualization", "virtualization", Warn, virtualization);
        }
        if let Some(b) = host.measured_read_bandwidth_bytes_per_s {
            identity.insert("bandwidth", "measured read bandwidth", Warn, Known::Bandwidth(b));
        }
        identity.engine(&arm.engine, &arm.label);
        let mut features = build.features.clone();
        features.sort();
        let features = [features.join(" "), build.target_cpu.clone(), build.profile.clone()];
        identity.text("features", "features of the build", Refuse, joined(&features));
        identity.text("quant", "quantization", Refuse, &record.model_of(arm).quant);
        identity.digest("model_sha256", "model file", &record.model_of(arm).sha256);
        identity.digest("prompt_set", "prompt set", &record.workload.sha256);
        let mut setting = |key: &str, field, title, severity| {
            if let Some(text) = config.get(key).and_then(scalar) {
                identity.text(field, title, severity, text);
            }
        };
        setting("warmup", "warmup", "warm-up generations", Refuse);
        setting("page_cache", "page_cache", "state of the page cache", Refuse);
        setting("device", "device", "device", Refuse);
        setting("threads", "engine_threads", "threads of the engines", Refuse);
        setting("iterations", "iterations", "generations in a launch", Warn);
        setting("delay_s", "delay", "pause before a launch", Warn);
        if let Some(p) = &arm.precision {
            let precision = [&p.weights, &p.compute, &p.kv].map(String::clone);
            identity.text("precision", "precision", Warn, joined(&precision));
        }
        for (name, version) in arm.version.iter().filter(|(name, _)| *name != "llm-bench") {
            let field = format!("version.{name}");
            identity.text(&field, &format!("version of {name}"), Warn, version);
        }
        for (name, value) in arm.settings.iter().filter(|(name, _)| *name != "threads") {
            if let Some(text) = scalar(value) {
                identity.setting(name, &text);
            }
        }
        identity
    }

    /// Nothing known but the format of the file.
    pub(super) fn of_format(format: &str) -> Self {
        let mut identity = Self::default();
        identity.text(FORMAT, "result format", Severity::Refuse, format);
        identity
    }

    pub(super) fn engine(&mut self, engine: &str, label: &str) {
        let shown = match engine == label {
            true => label.to_string(),
            false => format!("{label} ({engine})"),
        };
        self.text(ENGINE, "engine", Severity::Refuse, shown);
    }

    /// A setting of the engine: told, not refused, as it may be what the comparison is about.
    pub(super) fn setting(&mut self, name: &str, value: &str) {
        self.text(&format!("setting.{name}"), &format!("setting {name}"), Severity::Warn, value);
    }

    pub(super) fn text(
        &mut self,
        field: &str,
        title: &str,
        severity: Severity,
        text: impl Into<String>,
    ) {
        self.insert(field, title, severity, Known::Text(text.into()));
    }

    fn digest(&mut self, field: &str, title: &str, digits: &str) {
        self.insert(field, title, Severity::Refuse, Known::Digest(digits.to_string()));
    }

    fn insert(&mut self, field: &str, title: &str, severity: Severity, value: Known) {
        self.fields.insert(field.into(), Fact { title: title.into(), severity, value });
    }

    /// What differs, the refused first. A field that one side does not tell counts as differing,
    /// unless the two come in different formats: then only what both tell is compared.
    pub fn differences(&self, candidate: &Identity) -> Vec<Difference> {
        let format = |identity: &Identity| identity.fields.get(FORMAT).map(|f| f.value.clone());
        let one_format = format(self) == format(candidate);
        let mut names: Vec<&String> = self.fields.keys().chain(candidate.fields.keys()).collect();
        names.sort();
        names.dedup();
        let difference = |name: &String| {
            let (a, b) = (self.fields.get(name), candidate.fields.get(name));
            let fact = a.or(b)?;
            let severity = match (a, b) {
                (Some(a), Some(b)) => a.value.differs(&b.value, a.severity)?,
                _ if one_format => fact.severity,
                _ => return None,
            };
            Some(Difference {
                field: name.clone(),
                title: fact.title.clone(),
                baseline: a.map(|f| f.value.shown()),
                candidate: b.map(|f| f.value.shown()),
                severity,
            })
        };
        let mut found: Vec<Difference> = names.into_iter().filter_map(difference).collect();
        found.sort_by_key(|d| d.severity);
        found
    }
}

fn gpus(gpus: &[Gpu]) -> String {
    let named = gpus.iter().map(|gpu| format!("{}, {}", gpu.name, Bytes(gpu.memory_bytes)));
    match gpus {
        [] => "none".into(),
        _ => named.collect::<Vec<_>>().join("; "),
    }
}

fn joined(parts: &[String]) -> String {
    parts.iter().filter(|p| !p.is_empty()).cloned().collect::<Vec<_>>().join(", ")
}

/// A single value of JSON as text; absent for null, lists and tables.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{self, CANDLE, PYTORCH_F32};

    fn identity(change: impl Fn(&mut Record)) -> Identity {
        let mut record = testing::empty();
        record.arms = vec![testing::arm(&CANDLE, 2)];
        record.run.config = serde_json::json!({"threads": 2, "warmup": 1, "page_cache": "warm"});
        record.host.governor = Some("performance".into());
        record.host.gpu = vec![Gpu {
            name: "RTX 4090".into(),
            memory_bytes: 24 << 30,
            driver: Some("580.95.05".into()),
        }];
        change(&mut record);
        Identity::of(&record, &record.arms[0])
    }

    fn changed(change: impl Fn(&mut Record)) -> Vec<(String, Severity)> {
        let found = identity(|_| ()).differences(&identity(change));
        found.into_iter().map(|d| (d.field, d.severity)).collect()
    }

    #[test]
    fn each_field_that_makes_the_numbers_another_thing_is_refused() {
        let refused = |field: &str, change: &dyn Fn(&mut Record)| {
            assert_eq!(changed(change), [(field.to_string(), Severity::Refuse)], "{field}");
        };
        refused("schema", &|r| r.schema = "llm-bench/0".into());
        refused("cpu_model", &|r| r.host.cpu_model = "Xeon".into());
        refused("gpu_model", &|r| r.host.gpu[0].name = "RTX 4080".into());
        refused("driver", &|r| r.host.gpu[0].driver = Some("570.95.05".into()));
        refused("cores", &|r| r.host.cores = 8);
        refused("threads", &|r| r.host.threads = 4);
        refused("ram", &|r| r.host.ram_bytes *= 2);
        refused("power_mode", &|r| r.host.governor = Some("powersave".into()));
        refused("power_mode", &|r| r.host.governor = None);
        refused("engine", &|r| r.arms[0].label = "candle-stock".into());
        refused("features", &|r| r.build.features = vec!["cuda".into()]);
        refused("features", &|r| r.build.profile = "debug".into());
        refused("quant", &|r| r.model.quant = "Q8_0".into());
        refused("model_sha256", &|r| r.model.sha256 = "00ff".into());
        refused("prompt_set", &|r| r.workload.sha256 = "22bb".into());
        refused("warmup", &|r| r.run.config["warmup"] = 0.into());
        refused("page_cache", &|r| r.run.config["page_cache"] = "cold".into());
        refused("engine_threads", &|r| r.run.config["threads"] = 1.into());
    }

    #[test]
    fn what_may_move_the_numbers_a_little_is_warned_of() {
        let warned = |field: &str, change: &dyn Fn(&mut Record)| {
            assert_eq!(changed(change), [(field.to_string(), Severity::Warn)], "{field}");
        };
        warned("kernel", &|r| r.host.kernel = "6.8.1".into());
        warned("driver", &|r| r.host.gpu[0].driver = Some("580.105.08".into()));
        warned("bandwidth", &|r| r.host.measured_read_bandwidth_bytes_per_s = Some(25e9));
        warned("precision", &|r| r.arms[0].precision.as_mut().unwrap().kv = "f32".into());
        warned("version.rust", &|r| _ = r.arms[0].version.insert("rust".into(), "1.95".into()));
        warned("setting.kernels", &|r| {
            r.arms[0].settings.insert("kernels".into(), "avx2".into());
        });
    }

    #[test]
    fn what_follows_from_the_moment_is_ignored() {
        let same = changed(|r| {
            r.host.load_average_1m = Some(7.0);
            r.host.ram_bytes += r.host.ram_bytes / 100;
            r.host.measured_read_bandwidth_bytes_per_s = Some(32.0e9);
            r.host.timer_overhead_ns = Some(99.0);
            r.build.git_commit = Some("another".into());
            r.build.features.reverse();
            r.run.id = "another".into();
            r.run.seed = 7;
            for launch in &mut r.arms[0].launches {
                launch.environment.cpu_mhz = Some(4000.0);
            }
        });
        assert_eq!(same, []);
    }

    #[test]
    fn the_refused_come_first_and_another_engine_can_be_told_apart() {
        let mut record = testing::empty();
        record.host.kernel = "6.9.0".into();
        record.arms = vec![testing::arm(&CANDLE, 2), testing::arm(&PYTORCH_F32, 2)];
        let base = testing::empty();
        let found = Identity::of(&base, &record.arms[0])
            .differences(&Identity::of(&record, &record.arms[1]));
        let fields: Vec<&str> = found.iter().map(|d| d.field.as_str()).collect();
        assert_eq!(fields, ["engine", "kernel", "precision"]);
        assert!(found[0].is_engine() && !found[1].is_engine());
        assert_eq!(found[0].baseline.as_deref(), Some("candle"));
    }

    #[test]
    fn two_formats_are_compared_by_what_both_tell() {
        let mut other = Identity::of_format("llama-bench");
        other.text("cpu_model", "CPU", Severity::Refuse, "Xeon");
        let found = identity(|_| ()).differences(&other);
        let fields: Vec<&str> = found.iter().map(|d| d.field.as_str()).collect();
        assert_eq!(fields, ["cpu_model", "schema"]);
    }
}
