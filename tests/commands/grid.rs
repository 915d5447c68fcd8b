//! Several quantizations and thread counts in one session: interleaved, in one record, and resumed
//! like any other.

use std::collections::BTreeSet;
use std::process::Stdio;

use crate::support::{
    done, launches, not_tested, only_record, repository, stop, text, wait_for_launches, with_fakes,
};
use llm_bench::metric::Metric;
use llm_bench::record::{Record, Status};
use rustix::process::Signal;

/// Eight launches: two quantizations by two thread counts, twice.
const RUN: [&str; 16] = [
    "run",
    "--model",
    "tiny",
    "--quant",
    "f16,q8_0",
    "--engine",
    "candle",
    "-t",
    "1,2",
    "-r",
    "2",
    "-p",
    "8",
    "-n",
    "4",
    "--no-verify",
];

#[test]
fn quantizations_and_thread_counts_are_interleaved_in_one_record_that_can_be_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let child =
        with_fakes(dir.path(), &RUN).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let path = wait_for_launches(dir.path(), 3);
    stop(child, Signal::INT);
    let before = Record::read(&path).unwrap();
    assert!(!before.run.complete && launches(&before) < 8);

    let file = path.to_str().unwrap();
    let shown = done(with_fakes(dir.path(), &["run", "--resume", file]).output().unwrap());
    for label in ["candle:F16:1t", "candle:F16:2t", "candle:Q8_0:1t", "candle:Q8_0:2t"] {
        assert!(shown.contains(label), "{shown}");
    }
    assert_eq!(only_record(dir.path()), path);
    let after = Record::read(&path).unwrap();
    assert!(after.run.complete);
    for (old, arm) in before.arms.iter().zip(&after.arms) {
        assert_eq!(old.launches, arm.launches[..old.launches.len()]);
        assert_eq!(arm.launches.len(), 2);
        assert!(arm.launches.iter().all(|l| l.status == Status::Ok), "{}", arm.label);
        assert_eq!(arm.metrics[&Metric::DecodeTps].n, 2);
    }
    // Mirrored blocks: the first four launches are all different arms, and the next four run
    // backwards.
    let mut order: Vec<(u32, &str)> = after
        .arms
        .iter()
        .flat_map(|arm| arm.launches.iter().map(|l| (l.order, arm.label.as_str())))
        .collect();
    order.sort_unstable();
    let labels: Vec<&str> = order.iter().map(|(_, label)| *label).collect();
    assert_eq!(labels[..4].iter().collect::<BTreeSet<_>>().len(), 4);
    assert!(labels[..4].iter().eq(labels[4..].iter().rev()), "{labels:?}");
}

#[test]
fn each_arm_says_where_in_the_grid_it_stands_and_the_record_what_all_share() {
    let dir = tempfile::tempdir().unwrap();
    done(with_fakes(dir.path(), &RUN).output().unwrap());
    let path = only_record(dir.path());
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(json["model"]["name"], "tiny");
    assert!(json["model"].get("quant").is_none() && json["model"].get("sha256").is_none());
    assert_eq!(json["run"]["config"]["threads"], serde_json::json!([1, 2]));
    let point = &json["arms"][2]["point"];
    assert_eq!((&point["quant"], &point["threads"]), (&"Q8_0".into(), &1.into()));
    assert_eq!((&point["engine"], &point["device"]), (&"candle".into(), &"cpu".into()));
    assert_ne!(point["model_file"]["sha256"], json["arms"][0]["point"]["model_file"]["sha256"]);

    // A record over several files has no single line in a history; each arm has its own.
    let file = path.to_str().unwrap();
    done(with_fakes(dir.path(), &["history", "add", file]).output().unwrap());
    let listed = done(with_fakes(dir.path(), &["history", "list"]).output().unwrap());
    assert!(listed.contains("Q8_0") && listed.contains("F16"), "{listed}");
    let csv = std::fs::read_to_string(path.with_extension("csv")).unwrap();
    assert!(csv.contains(",Q8_0,") && csv.contains(",F16,"), "{csv}");
}

#[test]
fn a_grid_is_planned_before_it_runs_and_a_gate_takes_one_point_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let plan = done(with_fakes(dir.path(), &[&RUN[..], &["--list"]].concat()).output().unwrap());
    assert!(
        plan.contains("8 launches of 4 points") && plan.contains("candle:Q8_0:2t #2"),
        "{plan}"
    );
    let gate = ["gate", "--self-check", "--model", "tiny", "-t", "1,2"];
    let refused = with_fakes(dir.path(), &gate).output().unwrap();
    let stderr = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("one number of threads"), "{stderr}");
}

#[test]
fn a_time_that_holds_too_few_launches_leaves_three_of_each_spread_over_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    let options = ["-r", "7", "--max-minutes", "0", "--engine", "candle,candle-stock"];
    let run = ["run", "--model", "tiny", "-p", "8", "-n", "4", "--no-verify"];
    let out = with_fakes(dir.path(), &[&run[..], &options].concat()).output().unwrap();
    let stderr = text(&out.stderr);
    assert!(
        stderr.contains("the time allows launches: 3 of candle, 3 of candle-stock"),
        "{stderr}"
    );
    done(out);
    let path = only_record(dir.path());
    let record = Record::read(&path).unwrap();
    assert!(record.run.complete);
    assert_eq!(record.run.config["max_minutes"], 0.0);
    for arm in &record.arms {
        let blocks: Vec<u32> = arm.launches.iter().map(|l| l.index).collect();
        assert_eq!(blocks, [0, 2, 4], "{}", arm.label);
        assert_eq!(arm.metrics[&Metric::DecodeTps].n, 3);
    }

    // The plan of the same command knows from the record that no more fit.
    let listed = [&run[..], &options, &["--list", "-o", "json"]].concat();
    let plan = done(with_fakes(dir.path(), &listed).output().unwrap());
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["arms"][0]["launches"], 3);
    assert_eq!(plan["order"].as_array().unwrap().len(), 6);
}

#[test]
fn several_models_are_points_of_one_record_and_what_does_not_fit_stays_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(repository("models/tiny.gguf"), dir.path().join("other.gguf")).unwrap();
    let large = std::fs::read_to_string("/proc/meminfo").unwrap();
    let large = large.lines().find_map(|l| l.strip_prefix("MemAvailable:")).unwrap();
    let large: u64 = large.trim().trim_end_matches(" kB").parse().unwrap();
    if large > 130_000_000 {
        return not_tested("this machine holds a model of 141 GB");
    }
    let run =
        ["run", "--model", "tiny,other.gguf,llama3-70b", "--quant", "f16", "--engine", "candle"];
    let rest = ["-r", "2", "-p", "8", "-n", "4", "--no-verify"];
    let out = with_fakes(dir.path(), &[&run[..], &rest].concat()).output().unwrap();
    let stderr = text(&out.stderr);
    assert!(stderr.contains("left out: llama3-70b F16 needs 141 GB of memory"), "{stderr}");
    let shown = done(out);
    assert!(shown.contains("does_not_fit") && shown.contains("141 GB of memory"), "{shown}");
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert!(record.run.complete);
    let labels: Vec<&str> = record.arms.iter().map(|arm| arm.label.as_str()).collect();
    assert_eq!(labels, ["candle:tiny", "candle:other", "candle:llama3-70b"]);
    for arm in &record.arms[..2] {
        assert_eq!(arm.metrics[&Metric::DecodeTps].n, 2, "{}", arm.label);
    }
    assert_eq!(record.arms[2].launches[0].status, Status::Failed);
    // The file was not made.
    let made = std::fs::read_dir(dir.path().join("cache/models")).into_iter().flatten().flatten();
    assert!(made.map(|e| e.file_name()).all(|name| !name.to_string_lossy().contains("70b")));

    let alone = ["run", "--model", "llama3-70b", "--quant", "f16", "--engine", "candle"];
    let none = with_fakes(dir.path(), &alone).output().unwrap();
    crate::support::refused(none, &["nothing fits into this machine", "141 GB"]);
}
