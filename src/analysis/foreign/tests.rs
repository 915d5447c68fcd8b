//! Files of other tools with damage in every place: each is read or refused with its name.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;

/// The real files and those in real forms, by their paths.
fn real_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/foreign");
    let mut pending = vec![folder];
    let mut files = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if !path.ends_with("README.md") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Every value inside a value, by its place.
fn places(value: &Value, place: String, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, v)| places(v, format!("{place}/{name}"), all));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, v)| places(v, format!("{place}/{i}"), all));
        }
        _ => {}
    }
    if !place.is_empty() {
        all.push(place);
    }
}

/// Reads a file with this content; what is refused is refused in one line that names the file.
fn read_as(path: &Path, content: &[u8]) -> Option<Source> {
    std::fs::write(path, content).unwrap();
    match read(path) {
        Ok(source) => Some(source),
        Err(error) => {
            let text = format!("{error:#}");
            assert!(text.contains("damaged") && text.lines().count() == 1, "{text}");
            None
        }
    }
}

#[test]
fn every_file_is_one_replicate_of_measurable_values() {
    let files = real_files();
    assert!(files.len() > 12, "{files:?}");
    for path in files {
        let source = read(&path).unwrap();
        let series: Vec<&Series> = source.arms.iter().flat_map(|arm| &arm.series).collect();
        assert!(series.iter().any(|s| s.decides), "{}", path.display());
        for series in series {
            assert_eq!(series.values.len(), 1, "{}: {series:?}", path.display());
            assert!(measurable(series.values[0]), "{}: {series:?}", path.display());
        }
        let codes: Vec<&str> = source.warnings.iter().map(|w| w.code.as_str()).collect();
        for code in ["one_replicate", "other_definition", "machine_unknown"] {
            assert!(codes.contains(&code), "{}: {codes:?}", path.display());
        }
    }
}

#[test]
fn damage_in_any_place_is_read_or_refused_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let damaged = dir.path().join("damaged.json");
    let hostile = [
        json!(null),
        json!("x"),
        json!([]),
        json!({}),
        json!(true),
        json!(0),
        json!(-1),
        json!(1e300),
        json!(1e-300),
        json!([null]),
    ];
    let (mut read, mut refused) = (0, 0);
    for path in real_files() {
        let text = std::fs::read_to_string(&path).unwrap();
        let Ok(whole) = serde_json::from_str::<Value>(text.lines().next().unwrap())
            .or_else(|_| serde_json::from_str(&text))
        else {
            continue;
        };
        let mut all = Vec::new();
        places(&whole, String::new(), &mut all);
        // Of the largest files, some places of each kind.
        for place in all.iter().step_by(1 + all.len() / 100) {
            for value in &hostile {
                let mut broken = whole.clone();
                *broken.pointer_mut(place).unwrap() = value.clone();
                match read_as(&damaged, broken.to_string().as_bytes()) {
                    Some(source) => {
                        read += 1;
                        let series = source.arms.iter().flat_map(|arm| &arm.series);
                        let values: Vec<f64> = series.flat_map(|s| s.values.clone()).collect();
                        assert!(
                            values.iter().all(|x| measurable(*x)),
                            "{place} {value}: {values:?}"
                        );
                    }
                    None => refused += 1,
                }
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} were read, {refused} were refused");
}

#[test]
fn a_file_that_ends_early_is_refused_at_every_length() {
    let dir = tempfile::tempdir().unwrap();
    let damaged = dir.path().join("damaged.json");
    for path in real_files() {
        let bytes = std::fs::read(&path).unwrap();
        for end in (0..bytes.len()).step_by(1 + bytes.len() / 40) {
            // Whole lines of a file of lines, and whole rows of a table, are a file.
            read_as(&damaged, &bytes[..end]);
        }
    }
}
