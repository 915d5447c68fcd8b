//! Results of two sessions through `gate --baseline` and `compare --exit-code`: what earlier sessions
//! in the history show of how much sessions differ decides with the launches, and without them
//! nothing passes.

use serde_json::Value;

use crate::compare::bench::*;
use crate::support::{output, text};

/// A baseline and a candidate of other sessions, which decodes and prefills `level` times as fast.
fn bench(level: f64) -> Bench {
    let bench = Bench::new();
    bench.record("base.json", &QUIET_8, |_| {});
    bench.record("head.json", &[&QUIET_8[3..], &QUIET_8[..3]].concat(), |record| {
        at_level(record, level);
    });
    bench
}

/// The status of `gate` and its JSON, held against the status of `compare --exit-code`.
fn verdict(bench: &Bench, more: &[&str]) -> (i32, Value) {
    let gate = ["gate", "--baseline", "base.json", "--candidate", "head.json", "-o", "json"];
    let gate = [&gate[..], &["--engine", "candle"], more].concat();
    let out = output(bench.path(".").as_path(), &gate);
    let status = out.status.code().unwrap();
    let all = ["base.json", "head.json", "--exit-code"];
    bench.prints(&[&all[..], more].concat(), status);
    let printed = text(&out.stdout);
    let json = serde_json::from_str(&printed);
    (status, json.unwrap_or_else(|e| panic!("{e}: {printed}{}", text(&out.stderr))))
}

fn decode(gate: &Value) -> &Value {
    let metrics = gate["judgement"]["metrics"].as_array().unwrap();
    metrics.iter().find(|m| m["metric"] == "decode_tps").unwrap()
}

#[test]
fn nothing_passes_before_three_earlier_sessions_are_known() {
    let bench = bench(1.0);
    for known in 0..3 {
        let (status, gate) = verdict(&bench, &[]);
        assert_eq!((status, &gate["earlier_sessions"]), (3, &known.into()), "{gate:#}");
        assert_eq!(decode(&gate)["decision"], "inconclusive");
        let why = gate["why"].as_str().unwrap();
        assert!(why.contains("history add") && why.contains("--baseline-rev"), "{why}");
        assert!(gate["warnings"].to_string().contains("few_sessions"), "{gate:#}");
        bench.earlier_sessions(&CALM[..=known]);
    }
    let (status, gate) = verdict(&bench, &[]);
    assert_eq!((status, &gate["earlier_sessions"]), (0, &3.into()), "{gate:#}");
    assert_eq!(decode(&gate)["decided_by"], "rank_sum_over_sessions");
    let spread = decode(&gate)["between_sessions"].as_f64().unwrap();
    assert!((0.0015..0.0025).contains(&spread), "{spread}");
    let elsewhere = ["--history-db", "nowhere.sqlite"];
    let refused = bench.compare(&[&["base.json", "head.json"], &elsewhere[..]].concat());
    crate::support::refused(refused, &["--history-db", "nowhere.sqlite"]);
}

#[test]
fn a_large_regression_is_found_without_earlier_sessions() {
    let bench = bench(0.7);
    let (status, gate) = verdict(&bench, &[]);
    assert_eq!((status, &gate["outcome"]), (1, &"regressed".into()), "{gate:#}");
}

#[test]
fn sessions_that_differ_widely_keep_a_gate_from_deciding() {
    let bench = bench(1.0);
    bench.earlier_sessions(&[1.0, 1.05, 0.96, 1.04]);
    let (status, gate) = verdict(&bench, &["--primary", "decode_tps"]);
    assert_eq!(status, 3, "{gate:#}");
    assert!(decode(&gate)["between_sessions"].as_f64().unwrap() > 0.03);
    assert_eq!(decode(&gate)["welch"]["p_ok"].as_f64().map(|p| p < 0.01), Some(true), "{gate:#}");
}

#[test]
fn sessions_of_another_machine_and_the_candidate_itself_do_not_count() {
    let bench = bench(1.0);
    for name in ["a.json", "b.json", "c.json"] {
        bench.record(name, &QUIET, |record| record["host"]["cpu_model"] = "Z80".into());
    }
    std::fs::create_dir_all(bench.path("results")).unwrap();
    let files = ["a.json", "b.json", "c.json", "base.json", "head.json"];
    let add = [&["history", "add"], &files[..]].concat();
    crate::support::done(output(bench.path(".").as_path(), &add));
    let (status, gate) = verdict(&bench, &[]);
    assert_eq!((status, &gate["earlier_sessions"]), (3, &1.into()), "the baseline: {gate:#}");
}
