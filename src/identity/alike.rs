//! How two values of a fact are compared, and how one is shown.

use serde_json::{Map, Value};

use crate::record::{Build, Gpu};
use crate::units::{Bytes, BytesPerSecond};

/// Instruction sets that every version looked for. Names that later versions look for too are no
/// sign of another processor.
const ALWAYS_LOOKED_FOR: [&str; 9] = [
    "avx2",
    "fma",
    "f16c",
    "avxvnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512vnni",
    "avx512bf16",
];

/// By which rule two values are compared.
#[derive(Debug, Clone, Copy)]
pub(super) enum Alike {
    Exact,
    /// A hash: exact, shown by its first digits.
    Digest,
    /// Bytes, within a share of the larger one.
    Bytes {
        within: f64,
    },
    /// Bytes per second, within a share of the larger one.
    Rate {
        within: f64,
    },
    /// `580.95.05`: another major number is another thing, the rest is near.
    Major,
    /// `AuthenticAMD family 26 model 2 stepping 1`: another stepping is near.
    Stepping,
    InstructionSets,
    /// Texts in any order.
    Set,
    /// Texts in their order.
    List,
    /// A list of GPUs, whatever their driver.
    Gpus,
    /// A build: the same program file, or the same commit without changes.
    Program,
    /// Engine and label.
    Engine,
    /// A table of texts, each a fact of its own.
    Each,
}

/// How close two values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Likeness {
    Same,
    /// Differs in a way that may move numbers a little.
    Near,
    Other,
}

impl Alike {
    /// Of two values that are both known.
    pub fn likeness(self, a: &Value, b: &Value) -> Likeness {
        let same = |same: bool| if same { Likeness::Same } else { Likeness::Other };
        let near = |near: bool| if near { Likeness::Near } else { Likeness::Other };
        let within = |share: f64| match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => same((a - b).abs() <= share * a.max(b)),
            _ => same(a == b),
        };
        match self {
            Alike::Bytes { within: share } | Alike::Rate { within: share } => within(share),
            _ if a == b => Likeness::Same,
            Alike::Exact | Alike::Digest | Alike::List | Alike::Engine | Alike::Each => {
                Likeness::Other
            }
            Alike::Major => near(before(a, ".") == before(b, ".")),
            Alike::Stepping => near(before(a, " stepping ") == before(b, " stepping ")),
            Alike::Set => same(sorted(a) == sorted(b)),
            Alike::InstructionSets => {
                let known = |v: &Value| {
                    let mut names = sorted(v);
                    names.retain(|name| ALWAYS_LOOKED_FOR.contains(&name.as_str()));
                    names
                };
                match sorted(a) == sorted(b) {
                    true => Likeness::Same,
                    false => near(known(a) == known(b)),
                }
            }
            Alike::Gpus => {
                let models = |v: &Value| gpus(v).into_iter().map(|g| (g.name, g.memory_bytes));
                same(models(a).eq(models(b)))
            }
            Alike::Program => {
                let (Some(a), Some(b)) = (build(a), build(b)) else { return Likeness::Other };
                let one_file =
                    a.executable_sha256.is_some() && a.executable_sha256 == b.executable_sha256;
                let clean = |b: &Build| b.git_commit.is_some() && b.git_dirty == Some(false);
                let commit = |b: &Build| (b.git_commit.clone(), b.version.clone());
                same(one_file || clean(&a) && clean(&b) && commit(&a) == commit(&b))
            }
        }
    }

    /// For readers; absent for a value that is not known.
    pub fn shown(self, value: &Value) -> Option<String> {
        let text = match (self, value) {
            (_, Value::Null) => return None,
            (Alike::Digest, Value::String(digits)) => digits.chars().take(12).collect(),
            (Alike::Bytes { .. }, v) => Bytes(v.as_u64()?).to_string(),
            (Alike::Rate { .. }, v) => BytesPerSecond(v.as_f64()?).to_string(),
            (Alike::Set | Alike::InstructionSets, Value::Array(_)) => texts(value).join(" "),
            (Alike::List, Value::Array(_)) => {
                let mut parts = texts(value);
                parts.retain(|part| !part.is_empty());
                parts.join(", ")
            }
            (Alike::Gpus, Value::Array(all)) if all.is_empty() => "none".into(),
            (Alike::Gpus, _) => {
                let named = gpus(value).into_iter();
                let named = named.map(|gpu| format!("{}, {}", gpu.name, Bytes(gpu.memory_bytes)));
                named.collect::<Vec<_>>().join("; ")
            }
            (Alike::Engine, Value::Array(pair)) => match &pair[..] {
                [Value::String(engine), Value::String(label)] if engine == label => label.clone(),
                [Value::String(engine), Value::String(label)] => format!("{label} ({engine})"),
                _ => return None,
            },
            (Alike::Program, _) => {
                let build = build(value)?;
                let digits = build.executable_sha256.as_deref().unwrap_or("unknown");
                let digits: String = digits.chars().take(12).collect();
                format!("{build}, program file {digits}")
            }
            (_, Value::Object(all)) => listed(all),
            (_, value) => scalar(value)?,
        };
        Some(text)
    }

    /// For the table of the documentation; empty where values are compared exactly.
    #[cfg(test)]
    pub fn rule(self) -> String {
        match self {
            Alike::Bytes { within } | Alike::Rate { within } => {
                format!("within {}", crate::number::text(within, crate::number::Form::Percent(0)))
            }
            Alike::Major => "another minor number is warned of and splits nothing".into(),
            Alike::Stepping => "another stepping is warned of and splits nothing".into(),
            Alike::InstructionSets => {
                "names that only later versions look for are warned of and split nothing".into()
            }
            _ => String::new(),
        }
    }

    /// For the refusal of a resumed session: texts in quotes, numbers to their last digit.
    pub fn exactly(self, value: &Value) -> String {
        match (self, value) {
            (Alike::Each | Alike::Program, _) => {
                format!("{:?}", self.shown(value).unwrap_or_default())
            }
            _ => value.to_string(),
        }
    }
}

/// Which cards there are, without what was measured of them and which of its kind each is.
pub(super) fn kinds(all: &[Gpu]) -> Value {
    let kind = |gpu: &Gpu| Gpu {
        name: gpu.name.clone(),
        memory_bytes: gpu.memory_bytes,
        driver: gpu.driver.clone(),
        ..Gpu::default()
    };
    serde_json::json!(all.iter().map(kind).collect::<Vec<_>>())
}

/// The driver of a list of GPUs.
pub(super) fn driver(value: &Value) -> Value {
    gpus(value).into_iter().find_map(|gpu| gpu.driver).map_or(Value::Null, Value::String)
}

/// A single value of JSON as text; absent for null, lists and tables.
pub fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn gpus(value: &Value) -> Vec<Gpu> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn build(value: &Value) -> Option<Build> {
    serde_json::from_value(value.clone()).ok()
}

fn before<'a>(value: &'a Value, separator: &str) -> Option<&'a str> {
    value.as_str()?.split(separator).next()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(scalar).collect()
}

fn sorted(value: &Value) -> Vec<String> {
    let mut all = texts(value);
    all.sort();
    all
}

/// `torch 2.15.0, numpy 2.3`.
fn listed(all: &Map<String, Value>) -> String {
    let each = all.iter().map(|(name, v)| format!("{name} {}", scalar(v).unwrap_or_default()));
    each.collect::<Vec<_>>().join(", ")
}
