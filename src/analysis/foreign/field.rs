//! Fields of other tools' JSON, taken one by one, so that an error can name file, place, field,
//! what was expected and what was found.

use std::fmt;

use anyhow::{Result, anyhow};
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
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
        self.number_of(name, "tokens")
    }

    /// A number of things.
    pub fn number_of(&self, name: &str, things: &str) -> Result<u32> {
        let value = self.get(name).and_then(Value::as_u64);
        let count = value.and_then(|n| u32::try_from(n).ok());
        count.ok_or_else(|| self.wrong(name, &format!("a number of {things}")))
    }

    /// A field that is an object itself; `None` if there is none.
    pub fn object(&self, name: &str) -> Result<Option<Object<'a>>> {
        let place = format!("{}: {name}", self.place);
        self.get(name).map(|value| Object::new(place, value)).transpose()
    }

    /// A list with something in it.
    pub fn list(&self, name: &str, things: &str) -> Result<&'a [Value]> {
        match self.get(name) {
            Some(Value::Array(items)) if !items.is_empty() => Ok(items),
            _ => Err(self.wrong(name, &format!("a list of {things}"))),
        }
    }

    /// A number above zero, times `scale`. `None` if there is no such field, or if it is 0: that is
    /// what tools write for what they did not measure.
    pub fn figure(&self, name: &str, scale: f64) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64() {
            Some(0.0) => Ok(None),
            Some(x) if measurable(x) && measurable(x * scale) => Ok(Some(x * scale)),
            _ => Err(self.wrong(name, "a number above 0, up to 1e18")),
        }
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

/// The values of a file, one after the other, without the fields called `skipped`, however deep they
/// lie: a file may hold megabytes of requests of which nothing is read.
pub(super) fn values(bytes: &[u8], file: &str, skipped: &[&str]) -> Result<Vec<Value>> {
    let mut input = serde_json::Deserializer::from_slice(bytes);
    let mut all = Vec::new();
    while input.end().is_err() {
        let value = Without(skipped).deserialize(&mut input);
        all.push(value.map_err(|e| anyhow!("{file}: {e}"))?);
    }
    Ok(all)
}

/// Reads a value without the fields of these names.
#[derive(Clone, Copy)]
struct Without<'s>(&'s [&'s str]);

impl<'de> DeserializeSeed<'de> for Without<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Without<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, x: bool) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_i64<E: Error>(self, x: i64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_u64<E: Error>(self, x: u64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_f64<E: Error>(self, x: f64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(self)? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if self.0.contains(&name.as_str()) {
                map.next_value::<IgnoredAny>()?;
            } else {
                fields.insert(name, map.next_value_seed(self)?);
            }
        }
        Ok(fields.into())
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_are_not_read_are_skipped_at_every_depth() {
        let text = "{\"a\": [{\"b\": 1, \"big\": [1, {}]}, null, true, -2, 0.5, \"t\"], \"big\": 7}\n 3 [] ";
        let expected = [json!({"a": [{"b": 1}, null, true, -2, 0.5, "t"]}), json!(3), json!([])];
        assert_eq!(values(text.as_bytes(), "a", &["big"]).unwrap(), expected);
        assert!(values(b" \n", "a", &[]).unwrap().is_empty());
        assert!(values(b"{\"a\":", "a", &[]).is_err());
    }

    #[test]
    fn a_figure_is_above_zero_in_both_units_or_absent() {
        let value = json!({"zero": 0, "null": null, "ms": 2.5, "text": "2", "minus": -1, "far": 1e300,
            "small": 1e-15});
        let object = Object::new("a.json".into(), &value).unwrap();
        let figure = |name| object.figure(name, 1e-3);
        for absent in ["zero", "null", "missing"] {
            assert_eq!(figure(absent).unwrap(), None, "{absent}");
        }
        assert_eq!(figure("ms").unwrap(), Some(0.0025));
        for wrong in ["text", "minus", "far", "small"] {
            let error = figure(wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("a.json: {wrong}: expected a number")), "{error}");
        }
    }
}
