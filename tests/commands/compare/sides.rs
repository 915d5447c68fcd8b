//! Several files of one tool as one side: `compare A1 A2 -- B1 B2`.

use serde_json::{Value, json};

use super::bench::*;
use crate::support::repository;

/// Writes a file of vLLM with rates and times at a level; returns its name.
fn served(bench: &Bench, name: &str, level: f64) -> String {
    let mut result = bench.read("vllm_serve_2025.json");
    for (field, value) in result.as_object_mut().unwrap() {
        let Some(x) = value.as_f64() else { continue };
        if field.ends_with("_ms") {
            *value = (x / level).into();
        } else if field.ends_with("_throughput") {
            *value = (x * level).into();
        }
    }
    bench.write(name, result.to_string());
    name.to_string()
}

fn side(bench: &Bench, name: &str, levels: &[f64]) -> Vec<String> {
    let one = |(i, level): (usize, &f64)| served(bench, &format!("{name}{i}.json"), *level);
    levels.iter().enumerate().map(one).collect()
}

/// The arguments of two sides; options stand before the files.
fn args<'a>(options: &[&'a str], a: &'a [String], b: &'a [String]) -> Vec<&'a str> {
    let names = |side: &'a [String]| side.iter().map(String::as_str);
    options.iter().copied().chain(names(a)).chain(["--"]).chain(names(b)).collect()
}

fn json_of(bench: &Bench, options: &[&str], a: &[String], b: &[String], status: i32) -> Value {
    let options = [&["-o", "json"][..], options].concat();
    serde_json::from_str(&bench.prints(&args(&options, a, b), status)).unwrap()
}

#[test]
fn each_file_of_a_side_is_a_replicate() {
    let bench = Bench::new();
    let a = side(&bench, "a", &QUIET);
    let same = side(&bench, "s", &QUIET_8);
    let slow = side(&bench, "b", &scaled(&QUIET_8, 0.85));
    let found = json_of(&bench, &["--exit-code"], &a, &slow, 1);
    let pair = &found["candidates"][0]["pairs"][0];
    let ttft = metric(pair, "ttft_s");
    assert_eq!((&ttft["baseline"]["n"], &ttft["candidate"]["n"]), (&json!(5), &json!(8)));
    assert!(ttft["ci95"].is_array() && ttft["decision"] == "regressed", "{ttft:#}");
    assert!(!found.to_string().contains("one_replicate"), "{found:#}");
    assert_eq!(json_of(&bench, &["--exit-code"], &a, &same, 0)["decision"], "not_regressed");
    let printed = bench.prints(&args(&[], &a, &slow), 0);
    insta::with_settings!({snapshot_path => "../snapshots"}, {
        insta::assert_snapshot!("vllm", printed);
    });
}

#[test]
fn one_file_on_each_side_is_as_without_the_dashes() {
    let bench = Bench::new();
    let plain = bench.prints(&["vllm_serve_2025.json", "vllm_serve_detailed.json"], 0);
    let dashes = bench.prints(&["vllm_serve_2025.json", "--", "vllm_serve_detailed.json"], 0);
    assert_eq!(plain, dashes);
    bench.refuses(&["vllm_serve_2025.json"], &["two FILEs", "compare A1 A2 -- B1 B2"]);
    bench.refuses(&["--", "vllm_serve_2025.json"], &["FILE"]);
}

#[test]
fn results_that_vllm_appended_are_replicates_too() {
    let bench = Bench::new();
    let levels = side(&bench, "a", &QUIET);
    let text: Vec<String> =
        levels.iter().map(|f| std::fs::read_to_string(bench.path(f)).unwrap()).collect();
    bench.write("appended.json", text.join("\n"));
    let found = bench.json(&["appended.json", "appended.json"], 0);
    let ttft = metric(&found["candidates"][0]["pairs"][0], "ttft_s").clone();
    assert_eq!(ttft["baseline"]["n"], 5, "{ttft:#}");
    assert!(!found.to_string().contains("one_replicate"), "{found:#}");
    // Another rate is another arm.
    bench.write(
        "rates.json",
        text.join("\n").replacen("\"request_rate\":10.0", "\"request_rate\":30.0", 1),
    );
    let printed = bench.prints(&["rates.json", "rates.json"], 0);
    assert!(printed.contains("vllm-serve request_rate=30.0"), "{printed}");
}

#[test]
fn a_file_of_llama_bench_gives_one_value_to_its_side_and_one_of_hyperfine_its_runs() {
    let bench = Bench::new();
    for (i, luck) in QUIET.iter().enumerate() {
        let name = format!("l{i}.json");
        bench.llama_bench(&name, &scaled(&QUIET, 500.0 * luck), &scaled(&QUIET, 40.0 * luck));
    }
    let files = |range: std::ops::Range<usize>| -> Vec<String> {
        range.map(|i| format!("l{i}.json")).collect()
    };
    let found = json_of(&bench, &[], &files(0..2), &files(2..5), 0);
    let decode = &found["candidates"][0]["pairs"][0]["metrics"][1];
    assert_eq!((&decode["baseline"]["n"], &decode["candidate"]["n"]), (&json!(2), &json!(3)));
    let mean = decode["baseline"]["mean"].as_f64().unwrap();
    assert!((mean / 40.24 - 1.0).abs() < 0.001, "{mean}");
    assert!(!found.to_string().contains("samples_of_one_process"), "{found:#}");
    let runs = ["hyperfine_50ms.json", "hyperfine_50ms_again.json"].map(String::from);
    let found = json_of(&bench, &["--exit-code"], &runs, &["hyperfine_60ms.json".into()], 1);
    let time = metric(&found["candidates"][0]["pairs"][0], "time_s").clone();
    assert_eq!((&time["baseline"]["n"], &time["candidate"]["n"]), (&json!(17), &json!(10)));
}

#[test]
fn a_benchmark_of_criterion_has_a_value_from_each_of_its_runs() {
    let bench = Bench::new();
    let sample = |run: &str| {
        let file = format!("tests/data/foreign/criterion/{run}/sums/forward/new/sample.json");
        repository(&file).display().to_string()
    };
    let (base, lines) = ([sample("base"), sample("head")], ["cargo_criterion.jsonl".to_string()]);
    let found = json_of(&bench, &[], &base, &lines, 0);
    let time = metric(&found["candidates"][0]["pairs"][0], "time_s").clone();
    assert_eq!((&time["baseline"]["n"], &time["candidate"]["n"]), (&json!(2), &json!(1)));
}

#[test]
fn files_that_are_no_repetitions_are_refused_or_reported() {
    let bench = Bench::new();
    let a = side(&bench, "a", &QUIET);
    let refused = |files: &[&str], words: &[&str]| {
        bench.refuses(&[files, &["--", "a4.json"]].concat(), words);
    };
    let change = |name: &str, field: &str, value: Value| {
        let mut result = bench.read("a1.json");
        result[field] = value;
        bench.write(name, result.to_string());
    };
    refused(&["a0.json", "a0.json"], &["a0.json", "the numbers of a file before it"]);
    refused(
        &["a0.json", "aiperf_0.2.json"],
        &["aiperf_0.2.json", "a file of vllm-serve", "aiperf"],
    );
    change("model.json", "model_id", json!("another"));
    refused(&["a0.json", "model.json"], &["model.json", "what a0.json measured"]);
    change("rate.json", "request_rate", json!(30.0));
    refused(&["a0.json", "rate.json"], &["rate.json", "what a0.json measured"]);
    let found = bench.read("guidellm_0.8.json");
    let mut fewer = found.clone();
    fewer["benchmarks"].as_array_mut().unwrap().pop();
    let mean = "/benchmarks/0/metrics/time_to_first_token_ms/successful/mean";
    *fewer.pointer_mut(mean).unwrap() = json!(61.0);
    bench.write("fewer.json", fewer.to_string());
    let words = ["fewer.json", "found no \"guidellm rate=2.0 type_=constant\""];
    bench.refuses(&["guidellm_0.8.json", "fewer.json", "--", "guidellm_0.8.json"], &words);
    bench.record("ours.json", &QUIET, |_| {});
    bench.refuses(
        &["ours.json", "record.json", "--", "ours.json"],
        &["ours.json", "holds its launches already"],
    );
    // Another number of generated tokens is no other measurement, and is reported.
    change("tokens.json", "total_output_tokens", json!(81000));
    let files = [a[0].clone(), "tokens.json".into()];
    let printed = bench.prints(&args(&[], &files, &a[3..]), 0);
    let text = printed.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("generated tokens of all requests: 81050 and 81000"), "{printed}");
}
