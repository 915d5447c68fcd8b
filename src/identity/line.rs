//! The stored identity of a line of a history: every fact that splits lines, field by field, so
//! that a reader can see in which of them two lines differ.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::alike::Likeness;
use super::{FACTS, InLine};
use crate::record::{Arm, Gpu, Record, WeightsSource};

/// One engine in one configuration on one machine, without what is meant to change over time
/// (commit, versions of engine and kernel).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineIdentity {
    pub engine: String,
    /// Tells arms of one engine apart.
    pub label: String,
    pub model: String,
    pub model_sha256: String,
    pub quant: String,
    pub weights: WeightsSource,
    pub prompt_set: String,
    pub prompts_sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Threads that the engine was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Sequences generated together; absent for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<u32>,
    /// Unmeasured and measured generations of each prompt, and the state of the page cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_cache: Option<String>,
    pub cpu_model: String,
    /// Physical cores, and logical processors that llm-bench might use.
    pub cores: u32,
    pub processors: u32,
    pub ram_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// Names, memory and driver, of which the major number counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
    /// Of llm-bench itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    pub target_cpu: String,
    pub profile: String,
    /// Of the result file.
    pub schema: String,
    /// Family and model of the processor, and its instruction sets; identities of earlier versions
    /// lack them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isa: Option<Vec<String>>,
}

/// How a field is written in one cell of CSV: plain text or a JSON value. Empty means absent,
/// except for required text.
#[derive(Clone, Copy, PartialEq)]
pub enum Cell {
    Text,
    Optional,
    Json,
}

impl LineIdentity {
    /// The fields in their order, as columns of an exported history.
    pub const COLUMNS: &[(&str, Cell)] = &[
        ("engine", Cell::Text),
        ("label", Cell::Text),
        ("model", Cell::Text),
        ("model_sha256", Cell::Text),
        ("quant", Cell::Text),
        ("weights", Cell::Text),
        ("prompt_set", Cell::Text),
        ("prompts_sha256", Cell::Text),
        ("device", Cell::Optional),
        ("threads", Cell::Json),
        ("batch", Cell::Json),
        ("warmup", Cell::Json),
        ("iterations", Cell::Json),
        ("page_cache", Cell::Optional),
        ("cpu_model", Cell::Text),
        ("cores", Cell::Json),
        ("processors", Cell::Json),
        ("ram_bytes", Cell::Json),
        ("governor", Cell::Optional),
        ("gpus", Cell::Json),
        ("features", Cell::Json),
        ("target_cpu", Cell::Text),
        ("profile", Cell::Text),
        ("schema", Cell::Text),
        ("cpu_id", Cell::Optional),
        ("isa", Cell::Json),
    ];
    /// Columns that files of earlier versions lack.
    pub const LATER: [&str; 3] = ["batch", "cpu_id", "isa"];

    /// Of an arm of a record.
    pub fn of(record: &Record, arm: &Arm) -> Self {
        let mut fields = Map::new();
        let mut hold = |name: &str, value: Value| {
            if !value.is_null() {
                fields.insert(name.into(), value);
            }
        };
        for fact in FACTS {
            match (fact.line, (fact.of)(record, arm)) {
                (InLine::Splits(name), value) => hold(name, value),
                (InLine::SplitsTwo(names), Value::Array(pair)) => {
                    names.into_iter().zip(pair).for_each(|(name, value)| hold(name, value));
                }
                _ => {}
            }
        }
        serde_json::from_value(fields.into()).expect("the fields of a typed record")
    }

    /// Whether both may stand on one line: no fact that splits lines differs. What one of them
    /// does not know because an earlier version stored it is no difference.
    pub fn fits(&self, other: &Self) -> bool {
        self.differences(other).is_empty()
    }

    /// The fields that keep both apart.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let [a, b] = [self, other].map(Self::fields);
        let mut names: Vec<String> = Vec::new();
        for fact in FACTS {
            let Some((name, value)) = fact.line.stored() else { continue };
            if fact.likeness(&value(&a), &value(&b)) == Likeness::Other
                && !names.iter().any(|n| n == name)
            {
                names.push(name.into());
            }
        }
        names
    }

    /// Whether the other one knows all that this one knows, and no more.
    pub fn knows_as_much_as(&self, other: &Self) -> bool {
        let [a, b] = [self, other].map(Self::fields);
        later_fields().all(|name| a.contains_key(name) == b.contains_key(name))
    }

    /// This one, with what only the other one knows.
    pub fn completed_with(&self, other: &Self) -> Self {
        let [mut a, b] = [self, other].map(Self::fields);
        for name in later_fields() {
            if let (None, Some(value)) = (a.get(name), b.get(name)) {
                a.insert(name.into(), value.clone());
            }
        }
        serde_json::from_value(a.into()).expect("fields of two identities")
    }

    fn fields(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            _ => unreachable!("a struct of plain values"),
        }
    }
}

/// The fields that identities of earlier versions lack.
fn later_fields() -> impl Iterator<Item = &'static str> {
    FACTS.iter().filter(|fact| fact.later).filter_map(|fact| Some(fact.line.stored()?.0))
}

/// Reads a fact from the fields of a stored identity.
type Stored = Box<dyn Fn(&Map<String, Value>) -> Value>;

impl InLine {
    /// The first field that holds the fact, and how it is read; absent where it splits no line.
    fn stored(self) -> Option<(&'static str, Stored)> {
        let get = |fields: &Map<String, Value>, name: &str| {
            fields.get(name).cloned().unwrap_or(Value::Null)
        };
        match self {
            InLine::Splits(name) => Some((name, Box::new(move |f| get(f, name)))),
            InLine::SplitsTwo(names) => {
                Some((names[0], Box::new(move |f| names.map(|name| get(f, name)).into())))
            }
            InLine::SplitsWithin(name, part) => {
                Some((name, Box::new(move |f| part(&get(f, name)))))
            }
            InLine::WithSession | InLine::No => None,
        }
    }
}
