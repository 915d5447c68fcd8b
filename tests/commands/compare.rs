//! `compare` as a user types it, on result files of three tools, both real and derived: its output,
//! its exit codes, and how it refuses.

pub mod bench;
mod others;
mod refusals;
mod saved;
mod sides;
use serde_json::{Value, json};

use bench::*;

#[test]
fn two_records_are_compared_as_it_was_approved_in_every_form() {
    let bench = two_records();
    let files = ["base.json", "head.json"];
    insta::assert_snapshot!("table", bench.prints(&files, 0));
    insta::assert_snapshot!("md", bench.prints(&["base.json", "head.json", "-o", "md"], 0));
    let mut json = bench.json(&files, 0);
    round(&mut json);
    insta::assert_snapshot!("json", format!("{json:#}"));
    let csv = bench.prints(&["base.json", "head.json", "-o", "csv"], 0);
    let rounded = |field: &str| match field.parse::<f64>() {
        Ok(x) => six_digits(x).to_string(),
        Err(_) => field.to_string(),
    };
    let line = |line: &str| line.split(',').map(rounded).collect::<Vec<_>>().join(",");
    insta::assert_snapshot!("csv", csv.lines().map(line).collect::<Vec<_>>().join("\n"));
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
    let warned = |value: &Value| value.to_string().contains("samples_of_one_process");
    assert!(!warned(&found));
    assert!(warned(&bench.json(&["one.json", "one.json"], 0)));
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
fn the_widest_samples_that_can_be_read_give_numbers_in_every_form() {
    let bench = Bench::new();
    bench.hyperfine("wild.json", "a", &[1e-15, 1e18, 1e-15]);
    bench.hyperfine("calm.json", "a", &[9e17, 1e18]);
    bench.hyperfine("tiny.json", "a", &[1e-15, 1.1e-15]);
    for (a, b) in [("wild", "calm"), ("calm", "wild"), ("tiny", "calm"), ("calm", "tiny")] {
        let files = [format!("{a}.json"), format!("{b}.json")];
        let files = files.each_ref().map(String::as_str);
        assert!(!bench.prints(&[files[0], files[1], "-o", "json"], 0).contains("null"));
        let table = bench.prints(&files, 0);
        let row = table.lines().find(|l| l.starts_with("Time")).unwrap();
        assert!(row.chars().count() < 120 && !row.contains("inf"), "{row}");
    }
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
fn one_file_twice_is_reported_and_changed_by_nothing() {
    let bench = two_records();
    let found = bench.json(&["base.json", "base.json"], 0);
    for pair in found["candidates"][0]["pairs"].as_array().unwrap() {
        for metric in pair["metrics"].as_array().unwrap() {
            assert_eq!(metric["change"], 0.0, "{metric:#}");
            assert_eq!(metric["decision"], "inconclusive", "{metric:#}");
        }
    }
    assert!(found.to_string().contains("one_session"));
}

#[test]
fn several_candidates_each_stand_against_the_first_file() {
    let bench = two_records();
    let found = bench.json(&["base.json", "head.json", "base.json", "--exit-code"], 4);
    let decisions: Vec<&Value> = found["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["pairs"][0]["decision"])
        .collect();
    assert_eq!(decisions, ["regressed", "inconclusive"], "the second is the baseline itself");
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
    run(&["--primary", "peak_gpu_bytes"], 4);
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
fn another_machine_is_reported_and_has_no_verdict() {
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
    // The only arms form a pair and are reported as two engines.
    let only = bench.prints(&["one.json", "stock.json"], 0);
    assert!(only.contains("each file has one arm") && only.contains("engine differs"), "{only}");
    bench.prints(&["one.json", "stock.json", "--exit-code"], 4);
    // If requested, the pair is compared like any other.
    let asked = ["one.json", "stock.json", "--pair", "candle=candle-stock", "--exit-code"];
    assert_eq!(bench.json(&asked, 1)["decision"], "regressed");
    assert!(bench.prints(&asked, 1).contains("! engine differs: candle → candle-stock"));
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
    let printed = bench.prints(&["base.json", "failed.json", "--exit-code"], 1);
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
fn the_settings_of_llama_bench_that_differ_are_reported() {
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
    // Both settings are in one file: a label distinguishes them, and the equal one is the partner.
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
fn a_run_that_failed_and_a_program_that_measured_both_are_reported() {
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
