//! `--profile` and `--timing` on real launches of the tiny model: the parts of memory and of time
//! add up, measured generations stay unaffected, and `report` shows the same again.

use std::path::{Path, PathBuf};

use crate::support::{done, first_launch, only_record, output};
use llm_bench::analysis::{Phase, stages};
use llm_bench::metric::{Metric, Rank};
use llm_bench::record::{Part, Record, Role};

const RUN: [&str; 10] =
    ["run", "--model", "tiny", "--engine", "candle,candle-stock", "-r", "1", "-p", "40", "-n"];

/// Runs both built-in engines; returns the record, its file, and stdout.
fn run(dir: &Path, extra: &[&str]) -> (Record, PathBuf, String) {
    let arguments = [&RUN[..], &["24", "--iterations", "2"], extra].concat();
    let stdout = done(output(dir, &arguments));
    let path = only_record(dir);
    (Record::read(&path).unwrap(), path, stdout)
}

#[test]
fn the_parts_of_a_real_peak_add_up_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let (record, ..) = run(dir.path(), &[]);
    for label in ["candle", "candle-stock"] {
        let memory = &first_launch(&record, label).memory;
        let sum: i64 = memory.breakdown.iter().map(|p| p.bytes).sum();
        assert_eq!(Some(sum as u64), memory.peak_host_bytes, "{label}: {memory:?}");
        let metrics = &first_launch(&record, label).metrics;
        let parts = metrics.iter().filter(|(metric, _)| metric.rank() == Rank::Part);
        let sum: f64 = parts.map(|(_, bytes)| bytes).sum();
        assert_eq!(sum, metrics[&Metric::PeakHostBytes], "{label}: {metrics:?}");
    }
    let memory = &first_launch(&record, "candle").memory;
    let part = |part| memory.breakdown.iter().find(|p| p.part == part).unwrap().bytes;
    let file = std::fs::metadata(&record.model.file).map_or(1 << 20, |m| m.len() as i64);
    assert!(part(Part::WeightsMapped) <= file + 4096, "{memory:?}");
    assert!(part(Part::WeightsMapped) > file / 2, "most of the file was read: {memory:?}");
    assert!(part(Part::KvCache) > 0 && part(Part::Activations) > 0, "{memory:?}");
    // The kernel counts pages in batches per thread, which matters in a process of 12 MB.
    let peak = memory.peak_host_bytes.unwrap() as i64;
    assert!(part(Part::Unaccounted).abs() < peak / 10, "{memory:?}");
}

#[test]
fn stages_are_timed_in_generations_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (record, path, stdout) = run(dir.path(), &["--profile", "--timing"]);
    let launch = first_launch(&record, "candle");
    let roles: Vec<Role> = launch.prompts.iter().map(|run| run.role).collect();
    assert_eq!(roles, [Role::Cold, Role::Measured, Role::Measured, Role::Profiled]);
    for run in &launch.prompts {
        assert_eq!(run.profile.is_some(), run.role == Role::Profiled);
        assert_eq!(run.metrics.is_empty(), run.role != Role::Measured);
    }
    let profiled = &launch.prompts[3];
    assert_eq!(profiled.tokens_hash, launch.prompts[1].tokens_hash, "it computes the same");

    for (phase, tokens) in [(Phase::Decode, 23.0), (Phase::Prefill, 40.0)] {
        let (first, last) = (profiled.token_ns[0], profiled.token_ns[23]);
        let whole = match phase {
            Phase::Decode => last - first,
            Phase::Prefill => first - profiled.begin_ns.unwrap(),
        };
        let stages = stages(&record.arms[0], phase);
        let sum: f64 = stages.iter().map(|s| s.mean.0 * tokens * 1e9).sum();
        assert!((sum - whole as f64).abs() < 10.0, "{sum} of {whole} ns: {stages:?}");
        assert!(stages.iter().all(|s| s.mean.0 >= 0.0), "{stages:?}");
        assert!(stages.iter().any(|s| s.stage == "mlp"), "{stages:?}");
        assert_eq!(stages.last().unwrap().stage, "other");
    }
    for shown in ["= peak", "Decode, by stage", "Prefill, by stage", "cold generation", "steady"] {
        assert!(stdout.contains(shown), "{shown}: {stdout}");
    }
    let path = path.to_str().unwrap();
    let again = done(output(dir.path(), &["report", path, "--profile", "--timing"]));
    assert_eq!(again, stdout);
    let markdown = std::fs::read_to_string(path.replace(".json", ".md")).unwrap();
    assert!(markdown.contains("| Decode, by stage |"), "{markdown}");
    let csv = std::fs::read_to_string(path.replace(".json", ".csv")).unwrap();
    assert!(csv.contains(",profile_decode_mlp_s,s,"), "{csv}");
}

#[test]
fn nothing_is_profiled_that_was_not_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (record, path, stdout) = run(dir.path(), &[]);
    assert!(first_launch(&record, "candle").prompts.iter().all(|run| run.role != Role::Profiled));
    assert!(!stdout.contains("by stage") && !stdout.contains("= peak"), "{stdout}");
    // Every record holds memory and times, so they can be shown later.
    let report = ["report", path.to_str().unwrap(), "--profile", "--timing"];
    let later = done(output(dir.path(), &report));
    assert!(later.contains("= peak") && later.contains("cold generation"), "{later}");
    assert!(!later.contains("by stage"), "{later}");
    let page = |more: &[&str]| {
        let args = [&["report", path.to_str().unwrap(), "-o", "html"], more].concat();
        done(output(dir.path(), &args))
    };
    assert!(page(&["--timing"]).contains("Every generation in order"));
    assert!(!page(&[]).contains("Every generation in order"), "the plots alone");
}
