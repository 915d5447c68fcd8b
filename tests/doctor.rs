//! `doctor` as a user types it, on whatever machine runs the tests.

use std::process::{Command, Output};

fn doctor(args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    Command::new(assert_cmd::cargo::cargo_bin!("llm-bench"))
        .arg("doctor")
        .args(args)
        .env("LLM_BENCH_CACHE", dir.path())
        .output()
        .unwrap()
}

#[test]
fn the_doctor_answers_every_check_and_says_what_the_hardware_allows() {
    let out = doctor(&["-t", "1", "-o", "json"]);
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(told["schema"], "llm-bench-doctor/1");
    assert_eq!(told["threads"], 1);
    let checks = told["checks"].as_array().unwrap();
    for check in checks {
        assert!(["ok", "warn", "unknown"].contains(&check["state"].as_str().unwrap()), "{check}");
        assert!(!check["found"].as_str().unwrap().is_empty(), "{check}");
        if check["state"] == "warn" {
            assert!(!check["advice"].as_str().unwrap().is_empty(), "{check}");
        }
    }
    for name in ["processor", "governor", "other load", "memory limit", "read bandwidth", "engines"]
    {
        assert!(checks.iter().any(|c| c["check"] == name), "no {name:?}");
    }
    assert_eq!(told["measured"]["read_bandwidths_bytes_per_s"].as_array().unwrap().len(), 7);
    for peak in told["measured"]["peaks"].as_array().unwrap() {
        assert!(peak["macs_per_s"].as_f64().unwrap() > 1e7, "{peak}");
    }
    for roofline in told["rooflines"].as_array().unwrap() {
        let of = |key: &str| roofline[key].as_f64().unwrap();
        assert!(of("prefill_tps") > 0.0 && of("decode_tps") > 0.0, "{roofline}");
    }
}

#[test]
fn a_pipe_gets_a_table_without_colour() {
    let out = doctor(&["-t", "1"]);
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("read bandwidth") && text.contains("llama3-1b Q4_0: at most"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_format_that_it_does_not_have_is_refused() {
    let out = doctor(&["-o", "csv"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("table or json"));
}
