//! A folder with real result files and those that a test derives, and the command run in it.

use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{self, files, repository, text};

/// Quiet samples: a CV of 1 %.
pub const QUIET: [f64; 5] = [1.0, 1.012, 0.991, 1.004, 0.993];
pub const QUIET_8: [f64; 8] = [0.992, 1.007, 1.011, 0.996, 1.003, 0.989, 1.001, 1.006];

/// A folder with the real files and those that a test adds.
pub struct Bench {
    dir: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["tests/data/compare", "tests/data/foreign"];
        let files = folders.iter().flat_map(|folder| files(&repository(folder)));
        for path in files.filter(|path| path.is_file()) {
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }

    pub fn compare(&self, args: &[&str]) -> Output {
        let output = support::output(self.dir.path(), &[&["compare"], args].concat());
        assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
        output
    }

    /// The output of a command that ends with this status.
    pub fn prints(&self, args: &[&str], status: i32) -> String {
        let output = self.compare(args);
        let printed = text(&output.stdout);
        assert_eq!(output.status.code(), Some(status), "{printed}{}", text(&output.stderr));
        printed
    }

    /// The JSON form.
    pub fn json(&self, args: &[&str], status: i32) -> Value {
        let args = [args, &["-o", "json"]].concat();
        serde_json::from_str(&self.prints(&args, status)).unwrap()
    }

    /// The command is refused with an error that contains all of `words`.
    pub fn refuses(&self, args: &[&str], words: &[&str]) {
        support::refused(self.compare(args), words);
    }

    /// Derives a record from the real one. `change` receives it, with quiet metrics in its arms.
    pub fn record(&self, name: &str, luck: &[f64], change: impl FnOnce(&mut Value)) {
        let mut record = self.read("record.json");
        record["run"]["id"] = name.into();
        record["build"]["profile"] = "release".into();
        for arm in record["arms"].as_array_mut().unwrap() {
            let slower = if arm["label"] == "candle" { 1.0 } else { 2.0 };
            let launch = arm["launches"][0].clone();
            let launches = luck.iter().enumerate().map(|(i, luck)| {
                let mut launch = launch.clone();
                launch["index"] = i.into();
                launch["environment"] = json!({"busy_before": 0.01, "page_cache_resident": 1.0});
                launch["metrics"] = json!({
                    "model_load_s": 0.05 * slower * luck, "cold_start_ttft_s": 0.2 * slower / luck,
                    "prefill_tps": 800.0 / slower * luck, "decode_tps": 40.0 / slower / luck,
                    "ttft_s": 0.02 * slower * luck, "peak_host_bytes": 1e9 * slower,
                });
                launch
            });
            arm["launches"] = launches.collect();
        }
        change(&mut record);
        self.write(name, record.to_string());
    }

    /// Adds earlier sessions of the record to the history, each at its level.
    pub fn earlier_sessions(&self, levels: &[f64]) {
        let mut names = Vec::new();
        for (i, level) in levels.iter().enumerate() {
            let name = format!("earlier_{i}_{level}.json");
            self.record(&name, &QUIET, |record| {
                record["run"]["started_at"] = format!("2026-01-{:02}T10:00:00Z", i + 1).into();
                at_level(record, *level);
            });
            names.push(name);
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        std::fs::create_dir_all(self.path("results")).unwrap();
        support::done(support::output(
            self.dir.path(),
            &[&["history", "add"], &names[..]].concat(),
        ));
    }

    /// llama-bench's real file with these samples of prefill and decode, in tokens per second.
    pub fn llama_bench(&self, name: &str, prefill: &[f64], decode: &[f64]) {
        let mut tests = self.read("llama_bench.json");
        for (test, rates) in tests.as_array_mut().unwrap().iter_mut().zip([prefill, decode]) {
            let tokens = (test["n_prompt"].as_f64().unwrap()) + test["n_gen"].as_f64().unwrap();
            let ns = rates.iter().map(|rate| (tokens * 1e9 / rate).round() as u64);
            test["samples_ns"] = ns.collect();
            test["samples_ts"] = rates.iter().copied().collect();
        }
        self.write(name, tests.to_string());
    }

    pub fn hyperfine(&self, name: &str, command: &str, times: &[f64]) {
        let file = json!({"results": [{"command": command, "mean": 1, "stddev": 1e-9,
                                       "times": times, "exit_codes": vec![0; times.len()]}]});
        self.write(name, file.to_string());
    }
}

/// The digits that no other order of summation can change.
pub fn six_digits(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap()
}

pub fn round(value: &mut Value) {
    match value {
        Value::Number(n) if n.is_f64() => *value = six_digits(n.as_f64().unwrap()).into(),
        Value::Array(items) => items.iter_mut().for_each(round),
        Value::Object(fields) => fields.values_mut().for_each(round),
        _ => {}
    }
}

pub fn scaled(values: &[f64], factor: f64) -> Vec<f64> {
    values.iter().map(|x| x * factor).collect()
}

/// Multiplies one metric in every launch of an arm.
pub fn scale(record: &mut Value, arm: usize, metric: &str, factor: f64) {
    for launch in record["arms"][arm]["launches"].as_array_mut().unwrap() {
        let value = &mut launch["metrics"][metric];
        *value = (value.as_f64().unwrap() * factor).into();
    }
}

/// Multiplies each rate by `level` and divides each time by it, in every launch.
pub fn at_level(record: &mut Value, level: f64) {
    for arm in record["arms"].as_array_mut().unwrap() {
        for launch in arm["launches"].as_array_mut().unwrap() {
            for (name, value) in launch["metrics"].as_object_mut().unwrap() {
                let better = match name.as_str() {
                    name if name.ends_with("_tps") => level,
                    name if name.ends_with("_s") => 1.0 / level,
                    _ => 1.0,
                };
                *value = (value.as_f64().unwrap() * better).into();
            }
        }
    }
}

pub fn metric<'a>(pair: &'a Value, name: &str) -> &'a Value {
    let metrics = pair["metrics"].as_array().unwrap();
    metrics.iter().find(|m| m["metric"] == name).unwrap_or_else(|| panic!("{name} in {pair:#}"))
}

/// Levels of sessions of a quiet machine.
pub const CALM: [f64; 4] = [1.0, 1.002, 0.998, 1.001];

/// Two records: candle decodes 12 % slower and loads 9 % faster; candle-stock is unchanged. Four
/// earlier sessions are alike.
pub fn two_records() -> Bench {
    let bench = Bench::new();
    bench.earlier_sessions(&CALM);
    bench.record("base.json", &QUIET, |_| {});
    bench.record("head.json", &QUIET_8, |record| {
        let place = |label: &str| {
            let arms = record["arms"].as_array().unwrap();
            arms.iter().position(|a| a["label"] == label).unwrap()
        };
        let candle = place("candle");
        scale(record, candle, "decode_tps", 0.88);
        scale(record, candle, "model_load_s", 0.91);
        record["host"]["kernel"] = "6.18.45".into();
    });
    bench
}
