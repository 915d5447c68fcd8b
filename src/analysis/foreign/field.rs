//! Fields of other tools' JSON, taken one by one, so that an error can name file, place, field,
//! what was expected and what was found.

use anyhow::{Result, anyhow};
use serde_json::{Map, Value};

use super::measurable;

/// No benchmark has more replicates than this.
const MOST_SAMPLES: usize = 1_000_000;

/// An object of a file, and its place there.
pub(super) struct Object<'a> {
    /// `a.json: entry 3`
    pub place: String,
    pub fields: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    pub fn new(place: String, value: &'a Value) -> Result<Self> {
        match value {
            Value::Object(fields) => Ok(Self { place, fields }),
            other => Err(anyhow!("{place}: expected an object, found {}", kind(other))),
        }
    }

    /// `None` if the field is missing or null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|v| !v.is_null())
    }

    pub fn error(&self, name: &str, expected: &str, found: &str) -> anyhow::Error {
        anyhow!("{}: {name}: expected {expected}, found {found}", self.place)
    }

    fn wrong(&self, name: &str, expected: &str) -> anyhow::Error {
        self.error(name, expected, &self.get(name).map_or("nothing".into(), kind))
    }

    pub fn text(&self, name: &str) -> Result<&'a str> {
        self.get(name).and_then(Value::as_str).ok_or_else(|| self.wrong(name, "a text"))
    }

    /// A number of tokens.
    pub fn count(&self, name: &str) -> Result<u32> {
        let value = self.get(name).and_then(Value::as_u64);
        let count = value.and_then(|n| u32::try_from(n).ok());
        count.ok_or_else(|| self.wrong(name, "a number of tokens"))
    }

    /// A list of numbers above zero; `None` if there is no such field.
    pub fn samples(&self, name: &str, what: &str) -> Result<Option<Vec<f64>>> {
        let items = match self.get(name) {
            None => return Ok(None),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(self.wrong(name, &format!("a list of {what}s"))),
        };
        if items.is_empty() || items.len() > MOST_SAMPLES {
            let expected = format!("1 to {MOST_SAMPLES} {what}s");
            return Err(self.error(name, &expected, &items.len().to_string()));
        }
        let number = |(i, item): (usize, &Value)| match item.as_f64() {
            Some(x) if measurable(x) => Ok(x),
            found => {
                let found = found.map_or_else(|| kind(item), |x| format!("{x:?}"));
                let expected = format!("a {what} above 0, up to 1e18, at place {}", i + 1);
                Err(self.error(name, &expected, &found))
            }
        };
        items.iter().enumerate().map(number).collect::<Result<_>>().map(Some)
    }
}

/// The kind of a value, in words.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(text) => format!("the text {:?}", text.chars().take(40).collect::<String>()),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".into(),
    }
}
