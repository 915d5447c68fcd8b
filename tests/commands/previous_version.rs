//! Files that the previous version wrote can still be read: a record, a history in each of its
//! forms, a configuration file. tests/data/previous holds them.

use std::path::Path;

use crate::support::{done, edit_json, llm_bench, output, repository, text};
use llm_bench::record::Record;
use serde_json::{Value, json};

fn previous(name: &str) -> std::path::PathBuf {
    repository("tests/data/previous").join(name)
}

fn with(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::copy(previous(name), dir.path().join(name)).unwrap();
    }
    dir
}

fn history(dir: &Path, args: &[&str]) -> std::process::Output {
    llm_bench(dir, &[&["history", "--db", "history.sqlite"], args].concat()).output().unwrap()
}

/// Sessions of each line.
fn lines(dir: &Path) -> Vec<u64> {
    let list: Vec<Value> =
        serde_json::from_str(&done(history(dir, &["list", "-o", "json"]))).unwrap();
    list.iter().map(|line| line["sessions"].as_u64().unwrap()).collect()
}

#[test]
fn a_record_keeps_every_value_and_is_reported() {
    let dir = with(&["record.json"]);
    let file = dir.path().join("record.json");
    let before: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let record = Record::read(&file).unwrap();
    record.write(&file).unwrap();
    let mut after: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for arm in after["arms"].as_array_mut().unwrap() {
        let point = arm.as_object_mut().unwrap().remove("point").unwrap();
        assert_eq!((&point["threads"], &point["device"]), (&json!(2), &json!("cpu")));
    }
    assert_eq!(after, before);
    let table = done(output(dir.path(), &["report", "record.json"]));
    assert!(table.contains("candle-stock") && table.contains("Decode"), "{table}");
}

#[test]
fn a_history_goes_on_its_lines_and_another_processor_of_the_same_name_starts_its_own() {
    let dir = with(&["record.json", "history.sqlite"]);
    assert_eq!(lines(dir.path()), [2, 2]);
    let again = history(dir.path(), &["add", "record.json"]);
    assert!(text(&again.stderr).contains("2 were there already"), "{}", text(&again.stderr));
    let mut day = 0;
    let mut measure = |cpu_id: Option<&str>, isa: Option<Value>| {
        day += 1;
        let name = format!("day{day}.json");
        std::fs::copy(previous("record.json"), dir.path().join(&name)).unwrap();
        edit_json(&dir.path().join(&name), |r| {
            r["run"]["id"] = format!("day-{day}").into();
            r["arms"].as_array_mut().unwrap().truncate(1);
            if let Some(cpu_id) = cpu_id {
                r["host"]["cpu_id"] = cpu_id.into();
            }
            if let Some(isa) = isa {
                r["host"]["isa"] = isa;
            }
        });
        done(history(dir.path(), &["add", &name]));
        lines(dir.path())
    };
    let zen5 = "AuthenticAMD family 26 model 2 stepping 1";
    let zen3 = "AuthenticAMD family 25 model 1 stepping 1";
    assert_eq!(measure(Some(zen5), None), [3, 2], "the line learns its processor");
    assert_eq!(measure(Some(zen3), None), [3, 1, 2], "the name alone is not the processor");
    assert_eq!(measure(None, Some(json!(["avx2", "fma", "f16c"]))), [3, 1, 1, 2]);
    assert_eq!(measure(Some(zen5), None), [4, 1, 1, 2]);
}

#[test]
fn a_history_as_text_is_imported_in_each_of_its_forms() {
    for form in ["csv", "jsonl", "sql"] {
        let name = format!("history.{form}");
        let dir = with(&[&name]);
        done(history(dir.path(), &["import", &name]));
        assert_eq!(lines(dir.path()), [2, 2], "{form}");
    }
}

#[test]
fn a_configuration_file_still_sets_what_it_set() {
    let dir = with(&["llm-bench.toml", "record.json"]);
    let plan = done(output(dir.path(), &["run", "--list"]));
    assert_eq!(plan.matches(" candle #").count(), 2, "{plan}");
    std::fs::copy(dir.path().join("record.json"), dir.path().join("other.json")).unwrap();
    edit_json(&dir.path().join("other.json"), |r| r["run"]["id"] = "other".into());
    let gate = ["gate", "--baseline", "record.json", "--candidate", "other.json", "-o", "json"];
    let gate = output(dir.path(), &gate);
    let verdict: Value = serde_json::from_slice(&gate.stdout).unwrap();
    let margins: Vec<(&str, f64)> = verdict["judgement"]["metrics"]
        .as_array()
        .unwrap_or_else(|| panic!("{}", text(&gate.stderr)))
        .iter()
        .filter(|m| m["primary"] == true)
        .map(|m| (m["metric"].as_str().unwrap(), m["margin"].as_f64().unwrap()))
        .collect();
    assert_eq!(margins.len(), 5, "{margins:?}");
    assert!(
        margins.iter().all(|(m, share)| *share == if *m == "decode_tps" { 0.03 } else { 0.05 })
    );
}
