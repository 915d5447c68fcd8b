//! `doctor` as a user types it, on whatever machine runs the tests.

use std::process::Output;

use crate::support::{self, done, text};

fn doctor(args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    support::output(dir.path(), &[&["doctor"], args].concat())
}

#[test]
fn the_doctor_answers_every_check_and_says_what_the_hardware_allows() {
    let out = done(doctor(&["-t", "1", "-o", "json"]));
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found["schema"], "llm-bench-doctor/1");
    assert_eq!(found["threads"], 1);
    let checks = found["checks"].as_array().unwrap();
    for check in checks {
        assert!(["ok", "warn", "unknown"].contains(&check["state"].as_str().unwrap()), "{check}");
        assert!(!check["found"].as_str().unwrap().is_empty(), "{check}");
        if check["state"] == "warn" {
            assert!(!check["advice"].as_str().unwrap().is_empty(), "{check}");
        }
    }
    for name in [
        "processor",
        "governor",
        "other load",
        "memory limit",
        "read bandwidth",
        "Python",
        "engines",
    ] {
        assert!(checks.iter().any(|c| c["check"] == name), "no {name:?}");
    }
    assert_eq!(found["measured"]["read_bandwidths_bytes_per_s"].as_array().unwrap().len(), 7);
    for peak in found["measured"]["peaks"].as_array().unwrap() {
        assert!(peak["macs_per_s"].as_f64().unwrap() > 1e7, "{peak}");
    }
    for roofline in found["rooflines"].as_array().unwrap() {
        let of = |key: &str| roofline[key].as_f64().unwrap();
        assert!(of("prefill_tps") > 0.0 && of("decode_tps") > 0.0, "{roofline}");
    }
}

#[test]
fn noise_is_measured_on_a_kernel_and_on_launches_and_says_what_a_margin_takes() {
    let out = done(doctor(&["-t", "1", "--noise", "-o", "json"]));
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    let noise = &found["noise"];
    assert_eq!((&noise["kernel"]["n"], &noise["kernel"]["unit"]), (&30.into(), &"B/s".into()));
    let whats: Vec<&str> =
        noise["launches"].as_array().unwrap().iter().map(|s| s["what"].as_str().unwrap()).collect();
    assert_eq!(whats, ["model_load_s", "cold_start_ttft_s", "prefill_tps", "decode_tps"]);
    for spread in noise["launches"].as_array().unwrap() {
        assert!(spread["n"] == 30 && spread["cv"].as_f64().unwrap() >= 0.0, "{spread}");
        assert!(spread["launches_needed"].as_u64().unwrap() >= 2, "{spread}");
    }
    let checks = found["checks"].as_array().unwrap();
    let of = |name: &str| checks.iter().filter(|c| c["check"] == name).count();
    assert_eq!((of("kernel noise"), of("launch noise")), (1, 4));
}

#[test]
fn a_pipe_gets_a_table_without_colour() {
    let text = text(&doctor(&["-t", "1"]).stdout);
    assert!(text.contains("read bandwidth") && text.contains("llama3-1b Q4_0: at most"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_format_that_it_does_not_have_is_refused() {
    support::refused(doctor(&["-o", "csv"]), &["table or json"]);
}
