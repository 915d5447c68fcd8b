//! `tokenize`: batches and lengths of texts, engines whose ids are others, and what it refuses.

use crate::support::{
    done, edit_json, first_launch, only_record, output, refused, text, with_fakes,
};
use llm_bench::metric::Metric;
use llm_bench::record::{FailureKind, Record, Role, Status};

const SHORT: [&str; 8] =
    ["tokenize", "--model", "tiny", "--warmup", "1", "--iterations", "3", "--engine"];

fn tokenize(dir: &std::path::Path, args: &[&str]) -> std::process::Output {
    with_fakes(dir, &[&SHORT[..], args].concat()).output().unwrap()
}

#[test]
fn each_batch_and_length_has_its_time_and_its_rates() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["candle,candle-stock", "-b", "1,4", "-p", "8,16", "-r", "2"];
    let shown = done(tokenize(dir.path(), &args));
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert_eq!(record.run.config["encoding"], serde_json::json!({"tokenize": true}));
    assert_eq!(record.workload.prompt_set, "standard");
    let labels: Vec<&str> = record.arms.iter().map(|arm| arm.label.as_str()).collect();
    assert_eq!(labels, ["candle:b1", "candle-stock:b1", "candle:b4", "candle-stock:b4"]);
    for arm in &record.arms {
        assert_eq!(arm.launches.len(), 2);
        let rates = [Metric::SequencesPerS, Metric::TokensPerS, Metric::TextBytesPerS];
        for metric in [Metric::Tokenize, Metric::LatencyP50].iter().chain(&rates) {
            assert!(arm.metrics[metric].mean > 0.0, "{metric}");
        }
        assert!(!arm.metrics.contains_key(&Metric::LatencyMean));
        assert_eq!(arm.settings["tokenizer_threads"], 1);
        assert!(arm.notes.iter().any(|n| n.contains("tokenizer: llm-bench")), "{:?}", arm.notes);
        assert!(arm.verification.is_none());
        let texts = u64::from(arm.point.batch.unwrap_or(1));
        let measured = arm.launches[0].prompts.iter().filter(|run| run.role == Role::Measured);
        for (run, length) in measured.zip([8, 16]) {
            assert_eq!((run.request_ns.len(), run.request_tokens), (3, 3 * texts * length));
            let bytes = run.request_text_bytes;
            assert!((run.request_tokens..20 * run.request_tokens).contains(&bytes), "{bytes}");
        }
    }
    for word in ["4 × 16 tokens", "Tokenize", "Texts", "Text ", "MB/s", "tokenizes"] {
        assert!(shown.contains(word), "{word} in {shown}");
    }
    let page = std::fs::read_to_string(only_record(dir.path()).with_extension("html")).unwrap();
    assert!(page.contains("text_bytes_per_s") && page.contains("tokenize_s"));
}

#[test]
fn other_ids_than_ours_fail_the_launch_and_name_the_first_text_and_position() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["candle,fake-tokenizes,fake-tokenizes-less,fake-honest", "-b", "1", "-p", "8"];
    let shown = done(tokenize(dir.path(), &[&args[..], &["-r", "1"]].concat()));
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert_eq!(first_launch(&record, "candle").status, Status::Ok);
    let failed = |label: &str, kind: FailureKind, words: &[&str]| {
        let error = first_launch(&record, label).error.as_ref().unwrap();
        assert_eq!(error.kind, kind, "{}", error.message);
        for word in words {
            assert!(error.message.contains(word), "{word} in {}", error.message);
        }
    };
    let words = ["p8, text 1 of 64 (", "at position 0, found token"];
    failed("fake-tokenizes", FailureKind::WrongTokens, &words);
    failed("fake-tokenizes-less", FailureKind::Protocol, &["the ids of 64 texts"]);
    failed("fake-honest", FailureKind::Unsupported, &["name `tokenize` among its features"]);
    assert!(shown.contains("expected token"), "{shown}");
}

#[test]
fn an_interrupted_session_is_resumed_with_its_own_settings() {
    let dir = tempfile::tempdir().unwrap();
    done(tokenize(dir.path(), &["candle", "-b", "1,2", "-p", "8", "-r", "2"]));
    let file = only_record(dir.path());
    edit_json(&file, |json| {
        json["run"]["complete"] = false.into();
        json["arms"][1]["launches"].as_array_mut().unwrap().pop();
    });
    done(output(dir.path(), &["tokenize", "--resume", &file.to_string_lossy()]));
    let record = Record::read(&file).unwrap();
    assert!(record.run.complete);
    assert!(record.arms.iter().all(|arm| arm.launches.len() == 2));
    let compared =
        output(dir.path(), &["compare", &file.to_string_lossy(), &file.to_string_lossy()]);
    assert!(text(&compared.stdout).contains("Tokenize"), "{}", text(&compared.stdout));
}

#[test]
fn lengths_that_no_text_has_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    refused(tokenize(dir.path(), &["candle", "-p", "0"]), &["-p 0: expected", "to 32768 tokens"]);
    let too_many = ["candle", "-p", "2", "-b", "1024"];
    refused(tokenize(dir.path(), &too_many), &["expected 1024 different texts"]);
}
