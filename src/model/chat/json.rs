//! The filter `tojson` as transformers has it: Python's `json.dumps`, with its arguments.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde_json::Value as Json;

/// How JSON is laid out.
struct Layout {
    ensure_ascii: bool,
    /// One step; absent for everything on one line.
    indent: Option<String>,
    between: String,
    colon: String,
    sort_keys: bool,
}

/// `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`; minijinja's own filter
/// escapes for HTML.
pub fn to_json(
    value: &Value,
    ensure_ascii: Option<Value>,
    indent: Option<Value>,
    separators: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let wrong = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}"));
    let or = |given: Option<Value>, name: &str| -> Result<Option<Value>, Error> {
        let value = given.map_or_else(|| named.get::<Option<Value>>(name), |v| Ok(Some(v)))?;
        Ok(value.filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let indent = match or(indent, "indent")? {
        None => None,
        Some(step) => Some(match (step.as_str(), usize::try_from(step.clone())) {
            (Some(text), _) => text.to_owned(),
            (_, Ok(n)) if n <= 64 => " ".repeat(n),
            _ => return Err(wrong("indent: expected a number of spaces or a text")),
        }),
    };
    let (mut between, mut colon) =
        (if indent.is_some() { "," } else { ", " }.to_string(), ": ".into());
    if let Some(both) = or(separators, "separators")? {
        let both: Vec<Value> = both.try_iter()?.collect();
        match both.iter().map(Value::as_str).collect::<Option<Vec<_>>>().as_deref() {
            Some([a, b]) => (between, colon) = (a.to_string(), b.to_string()),
            _ => return Err(wrong("separators: expected two texts")),
        }
    }
    let ensure_ascii = or(ensure_ascii, "ensure_ascii")?.is_some_and(|v| v.is_true());
    let sort_keys = or(None, "sort_keys")?.is_some_and(|v| v.is_true());
    named.assert_all_used()?;
    if value.is_undefined() {
        return Err(wrong("the value is undefined"));
    }
    let json = serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let layout = Layout { ensure_ascii, indent, between, colon, sort_keys };
    let mut out = String::new();
    layout.write(&json, 0, &mut out);
    Ok(Value::from(out))
}

impl Layout {
    fn write(&self, json: &Json, depth: usize, out: &mut String) {
        match json {
            Json::Array(items) => {
                self.all(['[', ']'], items, depth, out, |item, out| {
                    self.write(item, depth + 1, out);
                });
            }
            Json::Object(fields) => {
                let mut fields: Vec<(&String, &Json)> = fields.iter().collect();
                if self.sort_keys {
                    fields.sort_by_key(|(key, _)| *key);
                }
                self.all(['{', '}'], &fields, depth, out, |(key, value), out| {
                    self.string(key, out);
                    out.push_str(&self.colon);
                    self.write(value, depth + 1, out);
                });
            }
            Json::String(text) => self.string(text, out),
            plain => out.push_str(&plain.to_string()),
        }
    }

    fn all<T>(
        &self,
        [open, close]: [char; 2],
        items: &[T],
        depth: usize,
        out: &mut String,
        mut one: impl FnMut(&T, &mut String),
    ) {
        let line = |out: &mut String, depth: usize| {
            if let Some(step) = &self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(step.as_str(), depth));
            }
        };
        out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(&self.between);
            }
            line(out, depth + 1);
            one(item, out);
        }
        if !items.is_empty() {
            line(out, depth);
        }
        out.push(close);
    }

    fn string(&self, text: &str, out: &mut String) {
        // Escapes as Python does, but for what is not ASCII.
        let quoted = Json::from(text).to_string();
        for c in quoted.chars() {
            match c.is_ascii() || !self.ensure_ascii {
                true => out.push(c),
                false => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
            }
        }
    }
}
