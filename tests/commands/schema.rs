//! docs/result.schema.json is the schema of the program's own types, and records conform to it.

use std::path::{Path, PathBuf};

use llm_bench::record::{Record, json_schema};
use serde_json::Value;

use crate::support;

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/result.schema.json")
}

/// The parts of a value that violate the committed schema.
fn violations(value: &Value, strict: bool) -> Vec<String> {
    let root = read(&committed());
    let mut check = Check { root: &root, strict, found: Vec::new() };
    check.value(value, &root, "");
    check.found
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// JSON files below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        match entry.unwrap().path() {
            path if path.is_dir() => files(&path, found),
            path if path.extension().is_some_and(|e| e == "json") => found.push(path),
            _ => {}
        }
    }
}

#[test]
fn the_committed_schema_is_that_of_the_types() {
    let schema = format!("{:#}\n", json_schema());
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(committed(), &schema).unwrap();
    }
    let kept = std::fs::read_to_string(committed()).unwrap();
    assert!(!schema.contains("%20"), "names of definitions are words");
    assert!(
        kept == schema,
        "run UPDATE_SCHEMA=1 cargo test --test commands schema, and commit the file"
    );
}

#[test]
fn every_record_that_is_kept_for_tests_keeps_to_the_schema() {
    let mut found = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"), &mut found);
    let mut records = 0;
    for path in found {
        let value = read(&path);
        if value["schema"] == llm_bench::record::SCHEMA {
            assert_eq!(violations(&value, false), [""; 0], "{}", path.display());
            records += 1;
        }
    }
    assert!(records > 0);
}

#[test]
fn a_fresh_record_keeps_to_the_schema_and_says_nothing_beyond_it() {
    let dir = tempfile::tempdir().unwrap();
    let args = "run --model tiny --engine candle,candle-f32 -p 8 -n 4 -r 1 --profile -o json";
    let output = support::llm_bench(dir.path(), &args.split(' ').collect::<Vec<_>>()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(violations(&record, true), [""; 0]);
}

#[test]
fn what_is_no_record_does_not_keep_to_the_schema() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/compare/record.json");
    let good = read(&path);
    let broken = |change: fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        !violations(&value, false).is_empty()
    };
    assert!(broken(|v| v["schema"] = "llm-bench/9".into()));
    assert!(broken(|v| v["run"]["seed"] = (-1).into()));
    assert!(broken(|v| v["arms"][0]["launches"][0]["status"] = "perhaps".into()));
    assert!(broken(|v| v["arms"][0]["metrics"]["decode_tps"]["mean"] = "fast".into()));
    assert!(broken(|v| _ = v.as_object_mut().unwrap().remove("arms")));
}

/// The types can read what the schema allows to be absent.
#[test]
fn the_record_kept_for_tests_still_reads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/compare/record.json");
    assert!(!Record::read(&path).unwrap().arms.is_empty());
}

/// The keywords of JSON Schema 2020-12 that schemars writes, and no others: an unchecked keyword
/// fails the test.
struct Check<'a> {
    root: &'a Value,
    /// Whether a key that the schema does not name is a violation.
    strict: bool,
    found: Vec<String>,
}

impl Check<'_> {
    fn fits(&self, value: &Value, schema: &Value) -> bool {
        let mut inner = Check { root: self.root, strict: false, found: Vec::new() };
        inner.value(value, schema, "");
        inner.found.is_empty()
    }

    fn value(&mut self, value: &Value, schema: &Value, at: &str) {
        let Some(schema) = schema.as_object() else {
            return assert_eq!(schema, &Value::Bool(true), "{at}");
        };
        for (keyword, wanted) in schema {
            let kept = match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" | "default" => true,
                "format" => {
                    ["double", "int64", "uint32", "uint64"].contains(&wanted.as_str().unwrap())
                }
                "type" => match wanted {
                    Value::Array(types) => types.iter().any(|t| is_of_type(value, t)),
                    one => is_of_type(value, one),
                },
                "const" => value == wanted,
                "enum" => wanted.as_array().unwrap().contains(value),
                "minimum" => value.as_f64().is_none_or(|x| x >= wanted.as_f64().unwrap()),
                "minItems" | "maxItems" => value.as_array().is_none_or(|items| {
                    let n = wanted.as_u64().unwrap() as usize;
                    if keyword == "minItems" { items.len() >= n } else { items.len() <= n }
                }),
                "required" => value.as_object().is_none_or(|fields| {
                    wanted
                        .as_array()
                        .unwrap()
                        .iter()
                        .all(|k| fields.contains_key(k.as_str().unwrap()))
                }),
                "$ref" => {
                    let target = self.root.pointer(&wanted.as_str().unwrap()[1..]).unwrap();
                    self.value(value, target, at);
                    true
                }
                "anyOf" | "oneOf" => {
                    let fitting: Vec<&Value> =
                        wanted.as_array().unwrap().iter().filter(|s| self.fits(value, s)).collect();
                    fitting.iter().for_each(|schema| self.value(value, schema, at));
                    if keyword == "anyOf" { !fitting.is_empty() } else { fitting.len() == 1 }
                }
                "items" => {
                    for item in value.as_array().into_iter().flatten() {
                        self.value(item, wanted, at);
                    }
                    true
                }
                "properties" | "additionalProperties" => {
                    let named = schema.get("properties").and_then(Value::as_object);
                    for (key, value) in value.as_object().into_iter().flatten() {
                        let at = format!("{at}/{key}");
                        match (named.and_then(|named| named.get(key)), keyword.as_str()) {
                            (Some(schema), "properties") => self.value(value, schema, &at),
                            (None, "additionalProperties") => self.value(value, wanted, &at),
                            (None, _)
                                if self.strict && !schema.contains_key("additionalProperties") =>
                            {
                                self.found.push(format!("{at} is not in the schema"));
                            }
                            _ => {}
                        }
                    }
                    true
                }
                other => panic!("{at}: the schema has {other:?}, which is not checked here"),
            };
            if !kept {
                self.found.push(format!("{at}: {keyword} {wanted} is not kept by {value}"));
            }
        }
    }
}

fn is_of_type(value: &Value, name: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("no type {other:?}"),
    }
}
