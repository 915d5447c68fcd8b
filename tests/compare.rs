//! `compare` as a user types it: result files of three tools, real ones and ones made from them,
//! what it says of each, its exit codes, and how it refuses.

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Quiet samples: a CV of 1 %.
const QUIET: [f64; 5] = [1.0, 1.012, 0.991, 1.004, 0.993];
const QUIET_8: [f64; 8] = [0.992, 1.007, 1.011, 0.996, 1.003, 0.989, 1.001, 1.006];

/// A folder with the real files and those that a test adds.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/compare");
        for entry in std::fs::read_dir(data).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn read(&self, name: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }

    fn compare(&self, args: &[&str]) -> Output {
        let mut command = Command::cargo_bin("llm-bench").unwrap();
        command.arg("compare").args(args).current_dir(self.dir.path());
        let output = command.output().unwrap();
        assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
        output
    }

    /// What it prints, where it ends with this status.
    fn prints(&self, args: &[&str], status: i32) -> String {
        let output = self.compare(args);
        let printed = text(&output.stdout);
        assert_eq!(output.status.code(), Some(status), "{printed}{}", text(&output.stderr));
        printed
    }

    /// The JSON form.
    fn json(&self, args: &[&str], status: i32) -> Value {
        let args = [args, &["-o", "json"]].concat();
        serde_json::from_str(&self.prints(&args, status)).unwrap()
    }

    /// Status 2, nothing on stdout, one error that holds all of `words`.
    fn refuses(&self, args: &[&str], words: &[&str]) {
        let output = self.compare(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{}{stderr}", text(&output.stdout));
        assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
        for word in words {
            assert!(stderr.contains(word), "expected {word:?} in {stderr:?}");
        }
        assert!(!stderr.contains(|c: char| c.is_control() && c != '\n'), "{stderr:?}");
    }

    /// A record made from the real one: `change` gets it, with its arms' metrics quiet.
    fn record(&self, name: &str, luck: &[f64], change: impl FnOnce(&mut Value)) {
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

    /// llama-bench's real file with these samples of prefill and decode, in tokens per second.
    fn llama_bench(&self, name: &str, prefill: &[f64], decode: &[f64]) {
        let mut tests = self.read("llama_bench.json");
        for (test, rates) in tests.as_array_mut().unwrap().iter_mut().zip([prefill, decode]) {
            let tokens = (test["n_prompt"].as_f64().unwrap()) + test["n_gen"].as_f64().unwrap();
            let ns = rates.iter().map(|rate| (tokens * 1e9 / rate).round() as u64);
            test["samples_ns"] = ns.collect();
            test["samples_ts"] = rates.iter().copied().collect();
        }
        self.write(name, tests.to_string());
    }

    fn hyperfine(&self, name: &str, command: &str, times: &[f64]) {
        let file = json!({"results": [{"command": command, "mean": 1, "stddev": 1e-9,
                                       "times": times, "exit_codes": vec![0; times.len()]}]});
        self.write(name, file.to_string());
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn scaled(values: &[f64], factor: f64) -> Vec<f64> {
    values.iter().map(|x| x * factor).collect()
}

/// Every launch of an arm, one of its metrics multiplied.
fn scale(record: &mut Value, arm: usize, metric: &str, factor: f64) {
    for launch in record["arms"][arm]["launches"].as_array_mut().unwrap() {
        let value = &mut launch["metrics"][metric];
        *value = (value.as_f64().unwrap() * factor).into();
    }
}

fn metric<'a>(pair: &'a Value, name: &str) -> &'a Value {
    let metrics = pair["metrics"].as_array().unwrap();
    metrics.iter().find(|m| m["metric"] == name).unwrap_or_else(|| panic!("{name} in {pair:#}"))
}

/// Two records: candle's decode is 12 % slower, its load 9 % faster; candle-stock is as it was.
fn two_records() -> Bench {
    let bench = Bench::new();
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

#[test]
fn two_records_are_compared_as_it_was_approved_in_every_form() {
    let bench = two_records();
    let files = ["base.json", "head.json"];
    insta::assert_snapshot!("table", bench.prints(&files, 0));
    for form in ["md", "csv", "json"] {
        let printed = bench.prints(&["base.json", "head.json", "-o", form], 0);
        insta::assert_snapshot!(form, printed);
    }
}

#[test]
fn prompts_and_other_metrics_are_shown_on_request_and_do_not_decide() {
    let bench = two_records();
    let plain = bench.json(&["base.json", "head.json"], 0);
    let all = bench.json(&["base.json", "head.json", "--all"], 0);
    let pair = |value: &Value| value["candidates"][0]["pairs"][0].clone();
    assert!(pair(&plain)["metrics"].as_array().unwrap().iter().all(|m| m["primary"] == true));
    assert_eq!(metric(&pair(&all), "ttft_s")["primary"], false);
    assert_eq!(pair(&plain)["decision"], pair(&all)["decision"]);
}

#[test]
fn the_real_files_of_llama_bench_are_compared_test_by_test() {
    let bench = Bench::new();
    insta::assert_snapshot!(
        "llama_bench",
        bench.prints(&["llama_bench.json", "llama_bench_8.jsonl"], 0)
    );
    let tests = bench.json(&["llama_bench_depth.json", "llama_bench_depth.json"], 0);
    let metrics = tests["candidates"][0]["pairs"][0]["metrics"].as_array().unwrap().clone();
    let names: Vec<&str> = metrics.iter().map(|m| m["test"].as_str().unwrap()).collect();
    let expected = ["pp64", "tg32", "pp64+tg16", "pp64 @ d128", "tg32 @ d128", "pp64+tg16 @ d128"];
    assert_eq!(names, expected);
    let of = |test: &str| metrics.iter().find(|m| m["test"] == test).unwrap()["name"].clone();
    assert_eq!(of("pp64 @ d128"), "prefill_tps");
    assert_eq!(of("tg32"), "decode_tps");
    assert_eq!(of("pp64+tg16"), "total_tps");
}

#[test]
fn llama_bench_is_judged_by_its_samples_and_not_by_what_it_says_of_them() {
    let bench = Bench::new();
    bench.llama_bench("a.json", &scaled(&QUIET, 500.0), &scaled(&QUIET, 40.0));
    bench.llama_bench("same.json", &scaled(&QUIET_8, 500.0), &scaled(&QUIET_8, 40.0));
    bench.llama_bench("slow.json", &scaled(&QUIET_8, 500.0), &scaled(&QUIET_8, 35.0));
    bench.llama_bench("fast.json", &scaled(&QUIET, 500.0), &scaled(&QUIET_8, 50.0));
    // The files state the deviations of other samples.
    assert_eq!(bench.json(&["a.json", "same.json"], 0)["decision"], "not_regressed");
    assert_eq!(bench.json(&["a.json", "fast.json", "--exit-code"], 0)["decision"], "improved");
    let slow = bench.json(&["a.json", "slow.json", "--exit-code"], 1);
    let pair = &slow["candidates"][0]["pairs"][0];
    let (prefill, decode) = (&pair["metrics"][0], &pair["metrics"][1]);
    assert_eq!(
        (&prefill["decision"], &decode["decision"]),
        (&"not_regressed".into(), &"regressed".into())
    );
    assert_eq!((&decode["baseline"]["n"], &decode["candidate"]["n"]), (&5.into(), &8.into()));
    let change = decode["change"].as_f64().unwrap();
    assert!((change + 0.125).abs() < 0.01, "{change}");
}

#[test]
fn several_runs_of_llama_bench_in_one_file_are_launches() {
    let bench = Bench::new();
    let mut lines = String::new();
    for luck in QUIET {
        bench.llama_bench("one.json", &scaled(&QUIET, 500.0 * luck), &scaled(&QUIET, 40.0 * luck));
        for test in bench.read("one.json").as_array().unwrap() {
            lines += &format!("{test}\n");
        }
    }
    bench.write("runs.jsonl", &lines);
    let found = bench.json(&["runs.jsonl", "runs.jsonl"], 0);
    let decode = &found["candidates"][0]["pairs"][0]["metrics"][1];
    assert_eq!(decode["baseline"]["n"], 5);
    let mean = decode["baseline"]["mean"].as_f64().unwrap();
    assert!((mean / 40.0 - 1.0).abs() < 0.01, "{mean}");
    let told = |value: &Value| value.to_string().contains("samples_of_one_process");
    assert!(!told(&found));
    assert!(told(&bench.json(&["one.json", "one.json"], 0)));
}

#[test]
fn the_real_files_of_hyperfine_get_the_verdicts_that_were_built_into_them() {
    let bench = Bench::new();
    let base = "hyperfine_50ms.json";
    let again = bench.prints(&[base, "hyperfine_50ms_again.json", "--exit-code"], 0);
    assert!(again.contains("not regressed"), "{again}");
    let slow = bench.prints(&[base, "hyperfine_60ms.json", "--exit-code"], 1);
    insta::assert_snapshot!("hyperfine", slow);
    let fast = bench.json(&["hyperfine_60ms.json", base, "--exit-code"], 0);
    assert_eq!(fast["decision"], "improved");
}

#[test]
fn a_single_sample_is_inconclusive_and_says_how_many_are_needed() {
    let bench = Bench::new();
    let single = bench.prints(&["hyperfine_50ms.json", "hyperfine_single.json", "--exit-code"], 3);
    assert!(
        single.contains("inconclusive") && single.contains("on each side would do"),
        "{single}"
    );
    let both =
        bench.prints(&["llama_bench_single.json", "llama_bench_single.json", "--exit-code"], 3);
    assert!(both.contains("on each side would do"), "{both}");
}

#[test]
fn the_order_of_arms_and_tests_does_not_matter_and_that_of_files_does() {
    let bench = two_records();
    let mut turned = bench.read("head.json");
    turned["arms"].as_array_mut().unwrap().reverse();
    bench.write("turned.json", turned.to_string());
    let decode = |files: [&str; 2]| {
        let found = bench.json(&files, 0);
        let pairs = found["candidates"][0]["pairs"].as_array().unwrap().clone();
        let candle = pairs.iter().find(|p| p["baseline"] == "candle").unwrap();
        metric(candle, "decode_tps")["change"].as_f64().unwrap()
    };
    assert_eq!(decode(["base.json", "head.json"]), decode(["base.json", "turned.json"]));
    let back = decode(["head.json", "base.json"]);
    assert!(((1.0 + back) * (1.0 + decode(["base.json", "head.json"])) - 1.0).abs() < 1e-9);
    bench.llama_bench("a.json", &scaled(&QUIET, 500.0), &scaled(&QUIET, 40.0));
    let mut tests = bench.read("a.json");
    tests.as_array_mut().unwrap().reverse();
    bench.write("b.json", tests.to_string());
    assert_eq!(bench.json(&["a.json", "b.json"], 0)["decision"], "not_regressed");
}

#[test]
fn one_file_twice_is_told_and_changed_by_nothing() {
    let bench = two_records();
    let found = bench.json(&["base.json", "base.json"], 0);
    for pair in found["candidates"][0]["pairs"].as_array().unwrap() {
        for metric in pair["metrics"].as_array().unwrap() {
            assert_eq!(metric["change"], 0.0, "{metric:#}");
            assert_eq!(metric["decision"], "not_regressed", "{metric:#}");
        }
    }
    assert!(found.to_string().contains("one_session"));
}

#[test]
fn several_candidates_each_stand_against_the_first_file() {
    let bench = two_records();
    let found = bench.json(&["base.json", "head.json", "base.json", "--exit-code"], 1);
    let decisions: Vec<&Value> = found["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["pairs"][0]["decision"])
        .collect();
    assert_eq!(decisions, ["regressed", "not_regressed"]);
    let printed = bench.prints(&["base.json", "head.json", "base.json"], 0);
    assert!(printed.contains("── head.json ──") && printed.contains("candidate 2"), "{printed}");
}

#[test]
fn margin_alpha_rule_and_primary_metrics_are_heard() {
    let bench = two_records();
    let run = |extra: &[&str], status| {
        bench.json(&[&["base.json", "head.json", "--exit-code"], extra].concat(), status)
    };
    run(&["--margin", "20%"], 0);
    run(&["--margin", "decode_tps=20%"], 0);
    run(&["--primary", "prefill_tps,peak_host_bytes"], 0);
    let point = run(&["--rule", "point"], 1);
    let pair = &point["candidates"][0]["pairs"][0];
    let decode = metric(pair, "decode_tps");
    assert_eq!(
        (&decode["margin_rule"], &decode["point_rule"]),
        (&"regressed".into(), &"regressed".into())
    );
    // A metric that neither file has cannot pass.
    run(&["--primary", "peak_gpu_bytes"], 3);
    bench.write(
        "llm-bench.toml",
        "[compare]\nmargin = [\"5%\", \"decode_tps=20%\"]\nexit-code = true",
    );
    bench.prints(&["base.json", "head.json"], 0);
    bench.prints(&["base.json", "head.json", "--margin", "5%"], 1);
    std::fs::remove_file(bench.path("llm-bench.toml")).unwrap();
    bench.refuses(&["base.json", "head.json", "--margin", "5"], &["--margin", "such as 5%"]);
    bench.refuses(
        &["base.json", "head.json", "--primary", "decode_tsp"],
        &["--primary", "decode_tps"],
    );
    bench.refuses(&["base.json"], &["FILE"]);
}

#[test]
fn another_machine_is_told_and_has_no_verdict() {
    let bench = two_records();
    let mut other = bench.read("head.json");
    other["host"]["cpu_model"] = "Another CPU".into();
    bench.write("other.json", other.to_string());
    let printed = bench.prints(&["base.json", "other.json"], 0);
    assert!(printed.contains("✗ CPU differs:") && printed.contains("Not comparable"), "{printed}");
    let found = bench.json(&["base.json", "other.json", "--exit-code"], 4);
    assert_eq!(found["comparable"], false);
    let differences = found["candidates"][0]["differences"].as_array().unwrap().clone();
    let severities: Vec<(&str, &str)> = differences
        .iter()
        .map(|d| (d["field"].as_str().unwrap(), d["severity"].as_str().unwrap()))
        .collect();
    assert_eq!(severities, [("cpu_model", "refuse"), ("kernel", "warn")]);
}

#[test]
fn arms_are_paired_by_label_or_as_asked_and_the_rest_is_listed() {
    let bench = two_records();
    bench.record("one.json", &QUIET, |record| {
        record["arms"].as_array_mut().unwrap().retain(|a| a["label"] == "candle");
    });
    bench.record("stock.json", &QUIET, |record| {
        record["arms"].as_array_mut().unwrap().retain(|a| a["label"] == "candle-stock");
    });
    let missing = bench.prints(&["base.json", "one.json"], 0);
    assert!(missing.contains("only in the baseline: candle-stock"), "{missing}");
    // The only ones are a pair, and told to be two engines.
    let only = bench.prints(&["one.json", "stock.json"], 0);
    assert!(only.contains("each file has one arm") && only.contains("engine differs"), "{only}");
    bench.prints(&["one.json", "stock.json", "--exit-code"], 4);
    // Asked for, it is a comparison like any other.
    let asked = ["one.json", "stock.json", "--pair", "candle=candle-stock", "--exit-code"];
    assert_eq!(bench.json(&asked, 1)["decision"], "regressed");
    let crossed = bench.json(&["base.json", "head.json", "--pair", "candle=candle-stock"], 0);
    assert_eq!(crossed["candidates"][0]["only_in_baseline"], json!(["candle-stock"]));
    assert_eq!(crossed["candidates"][0]["only_in_candidate"], json!(["candle"]));
    bench.refuses(
        &["base.json", "head.json", "--pair", "candle=pytorch"],
        &["--pair", "\"candle-stock\"", "BASELINE_LABEL=CANDIDATE_LABEL"],
    );
}

#[test]
fn files_with_nothing_in_common_end_with_status_4() {
    let bench = two_records();
    bench.write(
        "two.json",
        json!({"results": [{"command": "a", "times": [1.0, 1.1]},
                                               {"command": "b", "times": [1.0, 1.1]}]})
        .to_string(),
    );
    let printed = bench.prints(&["base.json", "two.json"], 4);
    assert!(printed.contains("nothing in the two files belongs together"), "{printed}");
    assert!(printed.contains("--pair 'candle=a'"), "{printed}");
}

#[test]
fn an_engine_that_failed_in_the_candidate_does_not_pass() {
    let bench = two_records();
    bench.record("failed.json", &QUIET, |record| {
        for launch in record["arms"][0]["launches"].as_array_mut().unwrap() {
            launch["status"] = "failed".into();
            launch["error"] = json!({"kind": "oom", "phase": "load", "message": "no memory"});
            launch["metrics"] = json!({});
        }
    });
    let printed = bench.prints(&["base.json", "failed.json", "--exit-code"], 3);
    assert!(printed.contains("Only the baseline has"), "{printed}");
    assert!(printed.contains("failed in 5 of 5 launches"), "{printed}");
}

#[test]
fn synthetic_weights_are_named_in_every_form() {
    let bench = two_records();
    let mut synthetic = bench.read("head.json");
    synthetic["model"]["weights"] = "synthetic".into();
    bench.write("synthetic.json", synthetic.to_string());
    for form in ["table", "md", "json"] {
        let printed = bench.prints(&["base.json", "synthetic.json", "-o", form], 0);
        assert!(printed.to_lowercase().contains("synthetic"), "{form}: {printed}");
    }
}

#[test]
fn a_newer_schema_and_foreign_files_are_refused_by_name() {
    let bench = two_records();
    let mut newer = bench.read("head.json");
    newer["schema"] = "llm-bench/2".into();
    bench.write("newer.json", newer.to_string());
    bench.refuses(&["base.json", "newer.json"], &["newer.json", "llm-bench/2", "llm-bench/1"]);
    let known = ["llm-bench run", "llama-bench -o json", "hyperfine --export-json"];
    for content in ["", "42", "{}", "{\"a\": 1}", "# a table\n| model |", "\u{feff}{}", "\"text\""]
    {
        bench.write("odd.json", content);
        bench.refuses(&["base.json", "odd.json"], &[&["odd.json"], &known[..]].concat());
    }
    bench.refuses(&["base.json", "absent.json"], &["absent.json", "No such file"]);
    bench.refuses(&["base.json", "."], &["cannot read ."]);
}

#[test]
fn a_number_that_is_none_is_refused_in_every_format() {
    let bench = Bench::new();
    bench.record("base.json", &QUIET, |_| {});
    let file = |name: &str| std::fs::read_to_string(bench.path(name)).unwrap();
    let record = file("base.json");
    for odd in ["NaN", "Infinity", "-Infinity", "nan", "inf"] {
        let at = record.find("\"decode_tps\":").unwrap() + "\"decode_tps\":".len();
        let end = at + record[at..].find([',', '}']).unwrap();
        bench.write("nan.json", format!("{}{odd}{}", &record[..at], &record[end..]));
        bench.refuses(&["base.json", "nan.json"], &["nan.json", "finite number"]);
        bench.write(
            "nan.json",
            format!("{{\"results\": [{{\"command\": \"a\", \"times\": [1.0, {odd}]}}]}}"),
        );
        bench.refuses(&["nan.json", "nan.json"], &["nan.json", "finite number", "line 1"]);
        bench.write(
            "nan.json",
            format!("[\n{{\"n_prompt\": 1, \"samples_ts\": [ 1.5,\n {odd} ]}}]"),
        );
        bench.refuses(&["nan.json", "nan.json"], &["nan.json", "finite number", "line 3"]);
    }
    for odd in [-1.0, 0.0] {
        bench.record("odd.json", &QUIET, |r| scale(r, 0, "prefill_tps", odd));
        bench.refuses(&["base.json", "odd.json"], &["odd.json", "prefill_tps", "above 0"]);
    }
    bench.record("null.json", &QUIET, |r| {
        r["arms"][0]["launches"][0]["metrics"]["decode_tps"] = Value::Null;
    });
    bench.refuses(&["base.json", "null.json"], &["null.json", "null"]);
    bench.write("big.json", "{\"results\": [{\"command\": \"a\", \"times\": [1e999]}]}");
    bench.refuses(&["big.json", "big.json"], &["big.json", "number out of range"]);
}

#[test]
fn what_no_tool_writes_is_refused_with_place_field_expected_and_found() {
    let bench = Bench::new();
    let hyperfine = |result: Value, words: &[&str]| {
        bench.write("odd.json", json!({"results": [result]}).to_string());
        bench.refuses(
            &["hyperfine_50ms.json", "odd.json"],
            &[&["odd.json: results[0]"], words].concat(),
        );
    };
    hyperfine(json!({"command": "a", "mean": 1.0, "stddev": 0.1}), &["times", "none"]);
    hyperfine(json!({"command": "a", "times": "1.0"}), &["times", "a list of times", "\"1.0\""]);
    hyperfine(json!({"command": "a", "times": []}), &["times", "found 0"]);
    hyperfine(json!({"command": "a", "times": [1.0, -2.0]}), &["at place 2", "above 0", "-2"]);
    hyperfine(json!({"command": "a", "times": [1.0, "x"]}), &["at place 2", "the text \"x\""]);
    hyperfine(json!({"command": 7, "times": [1.0]}), &["command: expected a text, found 7"]);
    hyperfine(json!([1]), &["expected an object, found a list of 1"]);
    bench.write("odd.json", r#"{"results": []}"#);
    bench.refuses(&["odd.json", "odd.json"], &["odd.json: results"]);
    bench.write(
        "odd.json",
        json!({"results": [{"command": "a", "times": [1.0]},
                                               {"command": "a", "times": [1.0]}]})
        .to_string(),
    );
    bench.refuses(&["odd.json", "odd.json"], &["results[1]", "\"a\" again"]);

    let llama = |field: &str, value: Value, words: &[&str]| {
        let mut tests = bench.read("llama_bench.json");
        match value {
            Value::Null => _ = tests[1].as_object_mut().unwrap().remove(field),
            value => tests[1][field] = value,
        }
        bench.write("odd.json", tests.to_string());
        bench.refuses(
            &["llama_bench.json", "odd.json"],
            &[&["odd.json: entry 2", field], words].concat(),
        );
    };
    llama("n_gen", json!("128"), &["a number of tokens", "the text \"128\""]);
    llama("n_gen", json!(-1), &["a number of tokens", "-1"]);
    llama("n_gen", json!(1e12), &["a number of tokens"]);
    llama("n_gen", Value::Null, &["found nothing"]);
    llama("samples_ns", json!([1, 2, 0]), &["at place 3"]);
    llama("samples_ns", json!({}), &["a list of times", "an object"]);
    llama("samples_ts", json!([1.0, 2.0, 3.0, 4.0, 5.0]), &["follow from samples_ns"]);
    llama("model_filename", json!(null), &["a text"]);
    let mut tests = bench.read("llama_bench.json");
    for test in tests.as_array_mut().unwrap() {
        let fields = test.as_object_mut().unwrap();
        fields.retain(|name, _| !name.starts_with("samples"));
    }
    bench.write("odd.json", tests.to_string());
    bench.refuses(&["llama_bench.json", "odd.json"], &["samples_ns", "stddev_ts are no samples"]);
    bench.write("odd.json", "[]");
    bench.refuses(&["odd.json", "odd.json"], &["odd.json", "an empty list"]);
    bench.write("odd.json", "[".repeat(100_000));
    bench.refuses(&["odd.json", "odd.json"], &["odd.json", "not JSON"]);
    bench.write("odd.json", format!("[{}{}]", "[".repeat(10_000), "]".repeat(10_000)));
    bench.refuses(&["odd.json", "odd.json"], &["odd.json", "recursion limit"]);
    bench.write("odd.json", format!("[{}1]", "1,".repeat(9 << 20)));
    bench.refuses(&["odd.json", "odd.json"], &["odd.json", "more than 16 MiB"]);
    let many = vec!["1"; 1_000_001].join(",");
    bench.write("odd.json", format!("{{\"results\":[{{\"command\":\"a\",\"times\":[{many}]}}]}}"));
    bench.refuses(&["odd.json", "odd.json"], &["1 to 1000000 times", "1000001"]);
}

#[test]
fn the_settings_of_llama_bench_that_differ_are_told() {
    let bench = Bench::new();
    bench.llama_bench("a.json", &scaled(&QUIET, 500.0), &scaled(&QUIET, 40.0));
    let mut tests = bench.read("a.json");
    for test in tests.as_array_mut().unwrap() {
        test["flash_attn"] = 1.into();
        test["build_commit"] = "abcdef0".into();
    }
    bench.write("b.json", tests.to_string());
    let printed = bench.prints(&["a.json", "b.json", "--exit-code"], 0);
    assert!(printed.contains("! setting flash_attn differs: -1 → 1"), "{printed}");
    assert!(printed.contains("build abcdef0"), "{printed}");
    for test in tests.as_array_mut().unwrap() {
        test["n_threads"] = 64.into();
    }
    bench.write("c.json", tests.to_string());
    bench.prints(&["a.json", "c.json", "--exit-code"], 4);
    // Both settings in one file: a label tells them apart, and the equal one is the partner.
    let both = [bench.read("a.json"), bench.read("c.json")].map(|t| t.as_array().unwrap().clone());
    bench.write("both.json", Value::from(both.concat()).to_string());
    let found = bench.json(&["a.json", "both.json"], 0);
    let candidate = &found["candidates"][0];
    assert_eq!(candidate["pairs"].as_array().unwrap().len(), 1);
    let other = candidate["only_in_candidate"][0].as_str().unwrap();
    assert!(other.contains("n_threads=64"), "{other}");
    let pair = format!("llama.cpp={other}");
    let asked = bench.json(&["a.json", "both.json", "--pair", &pair], 0);
    assert_eq!(asked["candidates"][0]["pairs"][0]["candidate"], *other);
}

#[test]
fn text_of_a_file_cannot_steer_the_terminal_or_break_a_table() {
    let bench = Bench::new();
    let evil = "\u{1b}[2J|evil|\n<script>\u{7}\u{202e}";
    bench.hyperfine("a.json", evil, &QUIET);
    bench.hyperfine("b.json", "plain", &QUIET_8);
    for form in ["table", "md", "csv"] {
        let printed = bench.prints(&["a.json", "b.json", "-o", form], 0);
        let bad = |c: char| c != '\n' && c.is_control() || c == '\u{202e}';
        assert!(!printed.contains(bad), "{form}: {printed:?}");
        assert!(form != "md" || !printed.contains("<script>"), "{printed}");
    }
    bench.write("c.json", json!({"results": [{"command": evil, "times": "x"}]}).to_string());
    bench.refuses(&["a.json", "c.json"], &["c.json: results[0]: times"]);
}

#[test]
fn a_run_that_failed_and_a_program_that_measured_both_are_told() {
    let bench = two_records();
    bench.write(
        "f.json",
        json!({"results": [{"command": "a", "times": [1.0, 1.1],
                                              "exit_codes": [0, 1]}]})
        .to_string(),
    );
    let printed = bench.prints(&["f.json", "f.json"], 0);
    assert!(printed.contains("1 of 2 runs did not end with status 0"), "{printed}");
    let printed = bench.prints(&["base.json", "head.json"], 0);
    assert!(printed.contains("one and the same program file"), "{printed}");
}
