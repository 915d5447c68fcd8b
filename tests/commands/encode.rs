//! `encode`: batches and lengths of a small encoder, labels of texts, and what it refuses.

use std::path::Path;

use crate::support::{done, only_record, output, refused, with_fakes};
use llm_bench::metric::Metric;
use llm_bench::model::encoder::{Activation, EncoderSpec, Pooling};
use llm_bench::model::quant::Quant;
use llm_bench::model::synth::encoder::synthesize;
use llm_bench::record::{Record, Role, Verdict};

const SHORT: [&str; 4] = ["--warmup", "1", "--iterations", "3"];

/// An encoder of two small layers; a classifier if it has labels.
fn encoder(folder: &Path, labels: &[&str]) -> String {
    let spec = EncoderSpec {
        name: "small".into(),
        n_layers: 2,
        n_embd: 64,
        n_ff: 128,
        n_heads: 2,
        n_vocab: 30522,
        context_length: 64,
        n_types: 2,
        norm_eps: 1e-12,
        pooling: labels.is_empty().then_some(Pooling::Mean),
        labels: labels.iter().map(|l| l.to_string()).collect(),
        activation: (!labels.is_empty()).then_some(Activation::Tanh),
        lowercase: true,
    };
    let path = folder.join("small.gguf");
    synthesize(&spec, Quant::F32, 7, &path, 2, &mut |_, _| {}).unwrap();
    path.to_string_lossy().into_owned()
}

fn encode(dir: &Path, model: &str, args: &[&str]) -> std::process::Output {
    let engines = ["encode", "--model", model, "--engine", "candle-f32,candle"];
    with_fakes(dir, &[&engines[..], &SHORT, args].concat()).output().unwrap()
}

#[test]
fn each_batch_and_length_has_its_latency_and_its_rate() {
    let dir = tempfile::tempdir().unwrap();
    let model = encoder(dir.path(), &[]);
    let shown = done(encode(dir.path(), &model, &["-b", "1,4", "-p", "8,16", "-r", "2"]));
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert_eq!(record.run.config["encoding"], serde_json::json!({}));
    let labels: Vec<&str> = record.arms.iter().map(|arm| arm.label.as_str()).collect();
    assert_eq!(labels, ["candle-f32:b1", "candle:b1", "candle-f32:b4", "candle:b4"]);
    for arm in &record.arms {
        assert_eq!(arm.launches.len(), 2);
        for metric in [Metric::ColdStart, Metric::LatencyMean, Metric::SequencesPerS] {
            assert!(arm.metrics[&metric].mean > 0.0, "{metric}");
        }
        assert_eq!(arm.prompt_metrics.keys().collect::<Vec<_>>(), ["p16", "p8"]);
        let measured = arm.launches[0].prompts.iter().filter(|run| run.role == Role::Measured);
        for (run, length) in measured.zip([8, 16]) {
            let texts = u64::from(arm.point.batch.unwrap_or(1));
            assert_eq!((run.request_ns.len(), run.request_tokens), (3, 3 * texts * length));
        }
    }
    let verified = |label: &str| {
        let arm = record.arms.iter().find(|arm| arm.label == label).unwrap();
        arm.verification.clone().unwrap()
    };
    assert_eq!(verified("candle-f32:b1").verdict, Verdict::Reference);
    let candle = verified("candle:b4");
    let vectors = candle.vectors.unwrap();
    assert_eq!((candle.verdict, vectors.texts, vectors.columns), (Verdict::Pass, 5, 64));
    assert_eq!(vectors.layers.len(), 3);
    for word in ["4 × 16 tokens", "SYNTHETIC", "Latency", "Texts", "reference"] {
        assert!(shown.contains(word), "{word} in {shown}");
    }
}

#[test]
fn labels_are_counted_by_category_and_misses_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = encoder(dir.path(), &["NEGATIVE", "POSITIVE"]);
    let data = ["--data", "sentiment-validation", "-b", "2", "-r", "1"];
    let shown = done(encode(dir.path(), &model, &data));
    let record = Record::read(&only_record(dir.path())).unwrap();
    for arm in &record.arms {
        let found = arm.classification.as_ref().unwrap();
        assert!(
            found.right.of >= 120
                && found.misses.len() as u32 == found.right.of - found.right.agree
        );
        let [low, high] = found.ci95;
        assert!(low < found.accuracy && found.accuracy < high);
        let sum = found.categories.values().map(|c| c.of).sum::<u32>();
        assert_eq!(sum, found.right.of);
        assert_eq!(arm.verification.as_ref().unwrap().vectors.is_some(), arm.engine == "candle");
    }
    assert!(shown.contains("accuracy") && shown.contains("in place of"), "{shown}");
}

#[test]
fn an_interrupted_session_is_resumed_with_its_own_settings() {
    let dir = tempfile::tempdir().unwrap();
    let model = encoder(dir.path(), &[]);
    done(encode(dir.path(), &model, &["-b", "1", "-p", "8", "-r", "2", "--no-verify"]));
    let file = only_record(dir.path());
    crate::support::edit_json(&file, |json| {
        json["run"]["complete"] = false.into();
        json["arms"][1]["launches"].as_array_mut().unwrap().pop();
    });
    let path = file.to_string_lossy();
    done(output(dir.path(), &["encode", "--resume", &path, "--no-verify"]));
    let record = Record::read(&file).unwrap();
    assert!(record.run.complete);
    assert!(record.arms.iter().all(|arm| arm.launches.len() == 2));
}

#[test]
fn what_does_not_fit_together_is_refused_with_the_command_that_does() {
    let dir = tempfile::tempdir().unwrap();
    let model = encoder(dir.path(), &[]);
    let run = |args: &[&str]| output(dir.path(), args);
    refused(
        run(&["encode", "--model", "tiny"]),
        &["expected an encoder", "llm-bench run --model tiny"],
    );
    refused(run(&["run", "--model", &model]), &["found an encoder", "llm-bench encode --model"]);
    refused(encode(dir.path(), &model, &["-p", "2"]), &["-p 2: expected 3 to 64"]);
    refused(encode(dir.path(), &model, &["-p", "65"]), &["-p 65: expected 3 to 64"]);
    let data = ["--data", "sentiment-validation"];
    refused(encode(dir.path(), &model, &data), &["expected a classifier"]);
    refused(encode(dir.path(), &model, &["--seconds", "0"]), &["--seconds"]);
    let other = encoder(dir.path(), &["left", "right"]);
    refused(
        encode(dir.path(), &other, &data),
        &["expected one of the model's labels (left, right)"],
    );
}

#[test]
fn an_engine_without_hidden_states_is_verified_by_its_vectors() {
    let dir = tempfile::tempdir().unwrap();
    let model = encoder(dir.path(), &[]);
    let engines = ["verify", "--model", &model, "--engine", "candle-stock,candle"];
    let args = [&engines[..], &["--reference", "candle-f32"]].concat();
    let shown = done(output(dir.path(), &args));
    assert_eq!(shown.matches(" pass ").count(), 2, "{shown}");
    assert!(shown.contains("embeddings") && shown.contains("layer 1"), "{shown}");
}
