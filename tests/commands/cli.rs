//! The commands as a user types them, on the tiny model: what they print, which files they write,
//! and how they refuse.

use std::process::Output;

use crate::support::{self, done, files, only_record, output, text};
use serde_json::Value;

/// The command is refused with an error that names all of `words`.
fn refused(args: &[&str], words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    support::refused(output(dir.path(), args), words);
}

/// One small run: its folder and what it printed.
fn small_run(extra: &[&str]) -> (tempfile::TempDir, Output) {
    let dir = tempfile::tempdir().unwrap();
    let mut args = vec!["run", "--model", "tiny", "--engine", "candle,candle-stock", "-r", "2"];
    args.extend(["-p", "16", "-n", "8"]);
    args.extend(extra);
    let out = output(dir.path(), &args);
    done(&out);
    (dir, out)
}

#[test]
fn a_run_writes_the_keys_that_other_programs_rely_on() {
    let (dir, out) = small_run(&["-o", "json"]);
    let record: Value = serde_json::from_slice(&out.stdout).unwrap();
    let has = |value: &Value, keys: &[&str]| {
        for key in keys {
            assert!(value.get(key).is_some(), "no {key:?} in {value}");
        }
    };
    has(&record, &["schema", "run", "host", "build", "model", "workload", "arms"]);
    has(&record, &["comparisons", "warnings"]);
    assert_eq!(record["schema"], "llm-bench/1");
    has(&record["run"], &["id", "started_at", "command", "seed", "config", "complete"]);
    assert_eq!(record["run"]["complete"], true);
    has(&record["host"], &["os", "kernel", "cpu_model", "cores", "threads", "isa", "ram_bytes"]);
    has(&record["host"], &["gpu", "measured_read_bandwidth_bytes_per_s"]);
    has(&record["build"], &["version", "features", "target_cpu"]);
    has(
        &record["model"],
        &["name", "file", "sha256", "quant", "weights", "n_params", "size_bytes"],
    );
    has(&record["workload"], &["prompt_set", "sha256", "prompts"]);
    has(&record["workload"]["prompts"][0], &["id", "n_prompt", "n_gen"]);
    for arm in record["arms"].as_array().unwrap() {
        has(arm, &["engine", "label", "version", "precision", "settings", "launches", "metrics"]);
        has(&arm["precision"], &["weights", "compute", "kv"]);
        assert_eq!(arm["launches"].as_array().unwrap().len(), 2);
        let launch = &arm["launches"][0];
        has(launch, &["index", "order", "status", "metrics", "prompts", "memory", "environment"]);
        for name in [
            "model_load_s",
            "cold_start_ttft_s",
            "first_generate_ttft_s",
            "ttft_s",
            "prefill_tps",
            "decode_tps",
            "tpot_s",
            "itl_p50_s",
            "itl_p95_s",
            "itl_max_s",
            "e2e_tps",
            "sustained_tps",
            "warmup_gain",
            "peak_host_bytes",
            "mbu",
            "tps_per_gb",
        ] {
            let value = launch["metrics"][name].as_f64();
            assert!(value.is_some_and(|v| v > 0.0), "{name}: {value:?}");
            has(&arm["metrics"][name], &["unit", "better", "n", "values", "mean", "sd", "cv"]);
            has(&arm["metrics"][name], &["median", "p95", "p99", "min", "max", "ci95"]);
        }
        assert!(launch["metrics"].get("peak_gpu_bytes").is_none(), "missing values are absent");
    }
    let files: Vec<String> = files(&dir.path().join("results"))
        .iter()
        .map(|p| p.file_name().unwrap().to_str().unwrap().to_string())
        .collect();
    for extension in ["json", "csv", "md", "html"] {
        let of_form = |f: &&String| {
            let stamp = f.strip_prefix("benchmark_").and_then(|f| f.strip_suffix(extension));
            stamp.is_some_and(|s| s.len() == "20260101_101010.".len())
        };
        assert_eq!(files.iter().filter(of_form).count(), 1, "{extension}: {files:?}");
    }
}

#[test]
fn report_shows_a_record_again_in_every_form() {
    let (dir, out) = small_run(&[]);
    let record = only_record(dir.path());
    let json = record.to_str().unwrap();
    let again = output(dir.path(), &["report", json]);
    assert_eq!(text(&again.stdout), text(&out.stdout), "the table of the run itself");
    let page = record.with_extension("html");
    let told = text(&out.stderr);
    assert!(told.contains(page.file_name().unwrap().to_str().unwrap()), "{told}");
    for (format, extension) in [("csv", "csv"), ("md", "md"), ("html", "html")] {
        let shown = output(dir.path(), &["report", json, "-o", format]);
        let written = std::fs::read(record.with_extension(extension)).unwrap();
        assert_eq!(text(&shown.stdout), text(&written));
    }
}

#[test]
fn markdown_shows_pictures_from_files_of_their_own() {
    let (dir, _) = small_run(&[]);
    let record = only_record(dir.path());
    let args = ["report", record.to_str().unwrap(), "--pictures", "plots"];
    let refused = output(dir.path(), &args);
    assert_eq!(refused.status.code(), Some(2), "a table holds no pictures");
    let shown = done(output(dir.path(), &[&args[..], &["-o", "md"]].concat()));
    let drawn = files(&dir.path().join("plots"));
    assert!(drawn.len() >= 2, "{drawn:?}");
    for file in drawn {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(shown.contains(&format!("](plots/{name})")), "{name} in {shown}");
        let svg = std::fs::read_to_string(&file).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name}");
    }
}

#[test]
fn list_prints_the_plan_and_runs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["run", "--model", "tiny", "--engine", "candle,candle-stock", "-r", "3", "--list"];
    let out = output(dir.path(), &args);
    let plan = text(&out.stdout);
    assert!(out.status.success() && plan.contains("2 engines"), "{plan}");
    let prompt = plan.lines().find(|line| line.starts_with("opening-16")).unwrap();
    assert_eq!(prompt.split_whitespace().collect::<Vec<_>>(), ["opening-16", "16", "32"]);
    assert_eq!(plan.matches("candle #").count(), 3);
    assert!(!dir.path().join("results").exists());
}

#[test]
fn list_estimates_the_time_from_earlier_results() {
    let (dir, _) = small_run(&[]);
    let args = ["run", "--model", "tiny", "--engine", "candle,candle-f32", "-r", "4", "--list"];
    let plan = text(&output(dir.path(), &args).stdout);
    assert!(plan.contains("One takes") && plan.contains("what candle-f32 takes"), "{plan}");
}

#[test]
fn the_same_seed_gives_the_same_plan() {
    let dir = tempfile::tempdir().unwrap();
    let plan = |seed: &str| {
        let args = ["run", "--model", "tiny", "--engine", "candle,candle-stock", "--list"];
        text(&output(dir.path(), &[&args[..], &["--seed", seed]].concat()).stdout)
    };
    assert_eq!(plan("7"), plan("7"));
    let order = |plan: String| -> Vec<String> {
        plan.lines().filter(|l| l.contains(" #")).map(str::to_string).collect()
    };
    assert!((0..20).any(|s| order(plan(&s.to_string())) != order(plan("7"))));
}

#[test]
fn tokenize_shows_ids_and_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let out = output(dir.path(), &["models", "tokenize", "tiny", "the harbour"]);
    let shown = text(&out.stdout);
    assert!(shown.contains("<|begin_of_text|>") && shown.contains("harbour"), "{shown}");
}

#[test]
fn inspect_names_shapes_and_types() {
    let dir = tempfile::tempdir().unwrap();
    let out = output(dir.path(), &["models", "inspect", "tiny", "--json"]);
    let shown: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(shown["quant"], "F16");
    assert_eq!(shown["config"]["n_kv_heads"], 2);
    assert_eq!(shown["config"]["tied"], true);
    assert_eq!(shown["config"]["has_rope_freqs"], true);
}

#[test]
fn the_shipped_model_is_the_one_that_the_golden_values_belong_to() {
    let dir = tempfile::tempdir().unwrap();
    let (_dir, out) = small_run(&["-o", "json"]);
    let record: Value = serde_json::from_slice(&out.stdout).unwrap();
    let golden = llm_bench::model::golden::sha256().unwrap();
    assert_eq!(record["model"]["sha256"].as_str().unwrap(), golden);
    let check = output(dir.path(), &["engines", "check", "candle"]);
    assert!(done(check).contains("384 of 384 golden tokens"));
}

#[test]
fn an_unknown_engine_gets_the_nearest_name() {
    refused(&["run", "--model", "tiny", "--engine", "candel"], &["candel", "candle"]);
}

#[test]
fn an_unknown_model_gets_the_nearest_name() {
    refused(&["run", "--model", "llama3-1bb"], &["llama3-1bb", "llama3-1b"]);
}

#[test]
fn an_unknown_quantization_lists_what_there_is() {
    refused(&["run", "--model", "llama3-1b", "--quant", "Q3"], &["Q3", "Q4_0"]);
}

#[test]
fn a_file_that_is_no_gguf_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("not.gguf");
    std::fs::write(&path, "hello").unwrap();
    refused(&["run", "--model", path.to_str().unwrap()], &["not.gguf", "GGUF"]);
}

#[test]
fn a_missing_file_is_refused_with_its_name() {
    refused(&["run", "--model", "/no/such/model.gguf"], &["/no/such/model.gguf"]);
}

#[test]
fn a_prompt_beyond_the_context_is_refused_with_its_numbers() {
    refused(&["run", "--model", "tiny", "-p", "600", "-n", "8"], &["600", "512"]);
}

#[test]
fn a_device_that_no_engine_declares_is_refused() {
    let candle = ["run", "--model", "tiny", "--engine", "candle-f32,candle-stock", "--device"];
    refused(&[&candle[..], &["cuda"]].concat(), &["cuda:0", "candle-stock runs on cpu"]);
    refused(&[&candle[..], &["metal"]].concat(), &["metal", "candle-f32 runs on cpu"]);
}

#[test]
fn a_result_file_of_another_schema_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.json");
    std::fs::write(&path, r#"{"schema": "llm-bench/99"}"#).unwrap();
    refused(&["report", path.to_str().unwrap()], &["llm-bench/99", "llm-bench/1"]);
}

#[test]
fn an_output_folder_that_cannot_be_made_is_reported_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let args =
        ["run", "--model", "tiny", "--engine", "candle", "--output-dir", file.to_str().unwrap()];
    support::refused(output(dir.path(), &args), &["--output-dir"]);
}
