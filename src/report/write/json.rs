//! Writes values as JSON: a whole value unchanged, rows as an array of objects. Missing values are
//! absent.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::plain;
use crate::number::Form;
use crate::report::document::{Content, Table};
use crate::text::escaped_json;

/// Writes one of our values; ends with a newline.
pub fn whole(value: &impl Serialize) -> String {
    // String keys and plain values: JSON can hold them all.
    let json = serde_json::to_string_pretty(value).expect("a value of ours is valid JSON");
    escaped_json(&json) + "\n"
}

/// Rows, by the keys of their columns.
pub fn rows(table: &Table) -> String {
    let object = |row: &Vec<crate::report::document::Cell>| {
        let keys = table.columns.iter().map(|c| c.title.clone().unwrap_or_default());
        let values = row.iter().map(|cell| value(&cell.content));
        Value::Object(keys.zip(values).filter_map(|(k, v)| Some((k, v?))).collect::<Map<_, _>>())
    };
    whole(&table.rows.iter().map(object).collect::<Vec<_>>())
}

fn value(content: &Content) -> Option<Value> {
    match content {
        Content::Empty | Content::Missing => None,
        Content::Flag(flag) => Some(json!(flag)),
        Content::Number(x, Form::Count) => Some(json!(*x as i64)),
        Content::Number(x, _) => Some(json!(x)),
        Content::Measured(m) => Some(json!(m.mean)),
        content => Some(json!(plain(content))),
    }
}
