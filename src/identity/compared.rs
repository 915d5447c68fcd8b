//! Two sets of numbers side by side: what differs around them, field by field, so that a refusal
//! can name it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::alike::{Alike, Likeness, scalar};
use super::{Compare, ENGINE, FACTS};
use crate::record::{Arm, Record};

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

/// The field that holds which format the numbers came in.
const FORMAT: &str = "schema";

/// Everything about a set of numbers that decides whether another may stand beside it. Measured
/// clock rates are left out: they follow the load.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    fields: BTreeMap<String, Held>,
}

#[derive(Debug, Clone)]
struct Held {
    title: String,
    severity: Severity,
    alike: Alike,
    later: bool,
    value: Value,
}

impl Identity {
    /// Of one arm of a record.
    pub fn of(record: &Record, arm: &Arm) -> Self {
        let mut identity = Self::default();
        for fact in FACTS {
            let (name, severity) = match fact.compare {
                Compare::Refuse(name) => (name, Severity::Refuse),
                Compare::Warn(name) => (name, Severity::Warn),
                Compare::Ignore => continue,
            };
            let mut hold = |field: String, title: String, alike, value: Value| {
                if !value.is_null() {
                    let held = Held { title, severity, alike, later: fact.later, value };
                    identity.fields.insert(field, held);
                }
            };
            match ((fact.of)(record, arm), fact.alike) {
                (Value::Object(all), Alike::Each) => {
                    for (key, value) in all.into_iter().filter(|(_, v)| scalar(v).is_some()) {
                        let of = if fact.key == "version" { " of" } else { "" };
                        let title = format!("{}{of} {key}", fact.title);
                        hold(format!("{name}.{key}"), title, Alike::Exact, value);
                    }
                }
                (value, alike) => hold(name.into(), fact.title.into(), alike, value),
            }
        }
        identity
    }

    /// Nothing known but the format of the file.
    pub fn of_format(format: &str) -> Self {
        let mut identity = Self::default();
        identity.text(FORMAT, "result format", Severity::Refuse, format);
        identity
    }

    /// A setting of the engine: warned of, not refused, because it may be what the comparison is
    /// about.
    pub fn setting(&mut self, name: &str, value: &str) {
        self.text(&format!("setting.{name}"), &format!("setting {name}"), Severity::Warn, value);
    }

    /// A fact of a foreign file, compared as it stands.
    pub fn text(&mut self, field: &str, title: &str, severity: Severity, text: impl Into<String>) {
        let held = Held {
            title: title.into(),
            severity,
            alike: Alike::Exact,
            later: false,
            value: Value::String(text.into()),
        };
        self.fields.insert(field.into(), held);
    }

    /// What differs, the refused first. A field that one side lacks counts as differing, unless
    /// files of earlier versions lack it, or the two come in different formats: then only what
    /// both hold is compared.
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
                (Some(a), Some(b)) => match a.alike.likeness(&a.value, &b.value) {
                    Likeness::Same => return None,
                    Likeness::Near => Severity::Warn,
                    Likeness::Other => a.severity,
                },
                _ if one_format && !fact.later => fact.severity,
                _ => return None,
            };
            Some(Difference {
                field: name.clone(),
                title: fact.title.clone(),
                baseline: a.and_then(Held::shown),
                candidate: b.and_then(Held::shown),
                severity,
            })
        };
        let mut found: Vec<Difference> = names.into_iter().filter_map(difference).collect();
        found.sort_by_key(|d| d.severity);
        found
    }
}

impl Held {
    fn shown(&self) -> Option<String> {
        self.alike.shown(&self.value)
    }
}
