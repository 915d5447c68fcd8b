//! Model files as strangers make them: what a task does not need does not stop it, text becomes the
//! right ids, and what would be another function is refused by its name.

use std::path::Path;
use std::process::Output;

use crate::support::gguf::Edited;
use crate::support::{done, only_record, output, output_of_input, refused, text};
use llm_bench::model::gguf::write::Value;
use llm_bench::record::Record;

/// The ids that `models tokenize` prints.
fn ids(output: Output) -> Vec<u32> {
    let printed = done(output);
    printed.lines().map(|l| l.split_whitespace().next().unwrap().parse().unwrap()).collect()
}

fn tokenize(dir: &Path, path: &str, text: &str) -> Output {
    output(dir, &["models", "tokenize", path, text])
}

/// A run on random ids, which needs no tokenizer.
fn run(dir: &Path, path: &str) -> Output {
    let args = ["run", "--engine", "candle", "-p", "8", "-n", "2", "-r", "1", "--model", path];
    output(dir, &args)
}

fn chat(dir: &Path, path: &str, more: &[&str]) -> Output {
    let args = [&["generate", "--interactive", "--model", path], more].concat();
    output_of_input(dir, &args, b"Who are you?\n")
}

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";

/// The tiny model's vocabulary as SentencePiece, which has no token for most bytes.
fn sentence_piece() -> Edited {
    let file = Edited::tiny().set(MODEL, "llama").without(PRE).without("tokenizer.ggml.merges");
    let n = file.texts("tokenizer.ggml.tokens").len();
    file.set_f32s("tokenizer.ggml.scores", &vec![0.0; n])
}

#[test]
fn a_tokenizer_that_a_task_does_not_need_does_not_stop_it() {
    let files = [
        ("smollm", Edited::tiny().set(PRE, "smollm"), true),
        ("smaug", Edited::tiny().set(PRE, "smaug-bpe"), true),
        ("missing", Edited::tiny().without(PRE), true),
        ("spm", sentence_piece(), true),
        ("unknown-pre", Edited::tiny().set(PRE, "never-heard-of"), false),
        ("unknown-model", Edited::tiny().set(MODEL, "never-heard-of"), false),
        ("no-tokens", Edited::tiny().without("tokenizer.ggml.tokens"), false),
    ];
    for (name, file, has_text) in files {
        let dir = tempfile::tempdir().unwrap();
        let path = file.write(dir.path(), name);
        done(run(dir.path(), &path));
        let verify = ["verify", "--engine", "candle", "--positions", "64", "--decode", "4"];
        let verify = output(dir.path(), &[&verify[..], &["--model", &path]].concat());
        assert!(done(&verify).contains("pass"), "{name}");
        let tokens = tokenize(dir.path(), &path, "Mara was a sailor");
        let generated = ["generate", "--prompt", "Mara was", "-n", "2", "--model", &path];
        match has_text {
            true => {
                assert!(ids(tokens).len() > 2, "{name}");
                done(output(dir.path(), &generated));
            }
            false => {
                refused(tokens, &["tokenizer.ggml."]);
                refused(output(dir.path(), &generated), &["tokenizer.ggml."]);
                assert!(text(&verify.stderr).contains("random ids instead"), "{name}");
                let set = ["run", "--engine", "candle", "-r", "1", "--model", &path];
                refused(output(dir.path(), &set), &["tokenizer.ggml.", "-p, -n"]);
            }
        }
    }
}

#[test]
fn the_name_of_the_pre_tokenizer_decides_how_text_is_split() {
    let dir = tempfile::tempdir().unwrap();
    let of = |pre: &str| {
        let path = Edited::tiny().set(PRE, pre).write(dir.path(), "pre");
        ids(tokenize(dir.path(), &path, "He said, \"Go.\"\n\nShe went."))
    };
    let llama = of("llama-bpe");
    for same in ["falcon3", "pixtral"] {
        assert_eq!(of(same), llama, "{same}");
    }
    // LLaMA 3's split without its begin-of-text by default; the file states that itself.
    for same in ["smaug-bpe", "dbrx"] {
        let ids = of(same);
        assert!(ids == llama || ids == llama[1..], "{same}");
    }
    for other in ["smollm", "gpt-2", "deepseek-coder"] {
        assert_ne!(of(other), llama, "{other}");
    }
    let path = Edited::tiny().without(PRE).write(dir.path(), "missing");
    let output = tokenize(dir.path(), &path, "a");
    let said = text(&output.stderr);
    assert!(said.contains("warning") && said.contains("tokenizer.ggml.pre"), "{said}");
    assert_eq!(said.matches("warning").count(), 1, "{said}");
}

#[test]
fn a_chat_stops_at_the_end_of_the_turn_whatever_it_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let original = Edited::tiny().write(dir.path(), "original");
    let expected = done(chat(dir.path(), &original, &[]));
    let renamed = |name: &str| {
        Edited::tiny()
            .with_token("<|eot_id|>", name)
            .without("tokenizer.ggml.eot_token_id")
            .template(|t| t.replace("<|eot_id|>", name))
    };
    // By a name that is known, and by the template alone.
    for name in ["<|im_end|>", "<end_of_turn>", "<|end|>", "<|this_model_says_so|>"] {
        let path = renamed(name).write(dir.path(), "renamed");
        let output = chat(dir.path(), &path, &["--timing"]);
        assert_eq!(done(&output), expected, "{name}");
        assert!(text(&output.stderr).contains("end of text"), "{}", text(&output.stderr));
    }
}

#[test]
fn user_defined_tokens_are_found_in_text_and_control_tokens_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = Edited::tiny().with_tokens(&[("<think>", 4), ("</think>", 4), ("<hidden>", 3)]);
    let path = file.write(dir.path(), "user");
    let found = ids(tokenize(dir.path(), &path, "a<think>b</think>"));
    assert_eq!(found[found.len() - 4..], [64, 512, 65, 513]);
    let plain = ids(tokenize(dir.path(), &path, "<hidden><|eot_id|>"));
    assert!(!plain.contains(&514) && !plain.contains(&511), "{plain:?}");
}

#[test]
fn metadata_that_changes_the_function_is_refused_by_name_and_unknown_keys_are_said_once() {
    let dir = tempfile::tempdir().unwrap();
    for (key, file) in [
        ("llama.rope.scale_linear", Edited::tiny().set("llama.rope.scale_linear", Value::F32(4.0))),
        (
            "llama.rope.scaling.factor",
            Edited::tiny().set("llama.rope.scaling.factor", Value::F32(2.0)),
        ),
        (
            "llama.attention.causal",
            Edited::tiny().set("llama.attention.causal", Value::Bool(false)),
        ),
        ("llama.logit_scale", Edited::tiny().set("llama.logit_scale", Value::F32(0.5))),
        (
            "llama.attention.sliding_window",
            Edited::tiny().set("llama.attention.sliding_window", Value::U32(8)),
        ),
    ] {
        let path = file.write(dir.path(), "other");
        refused(run(dir.path(), &path), &[key]);
        refused(output(dir.path(), &["verify", "--engine", "candle", "--model", &path]), &[key]);
        refused(output(dir.path(), &["generate", "--prompt", "a", "--model", &path]), &[key]);
        let shown = done(output(dir.path(), &["models", "inspect", &path]));
        assert!(shown.contains("not runnable") && shown.contains(key), "{shown}");
    }
    let path = Edited::tiny().set("llama.brand.new", Value::U32(1)).write(dir.path(), "new");
    let run = run(dir.path(), &path);
    let said = text(&run.stderr);
    done(&run);
    assert_eq!(said.matches("llama.brand.new").count(), 1, "{said}");
    let shown = done(output(dir.path(), &["models", "inspect", &path]));
    assert!(shown.contains("unknown keys     llama.brand.new"), "{shown}");
    let json = done(output(dir.path(), &["models", "inspect", &path, "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["unknown_keys"], serde_json::json!(["llama.brand.new"]));
}

#[test]
fn a_type_that_is_not_computed_is_refused_by_its_name_and_the_rest_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    for (number, name) in [(39, "MXFP4"), (34, "TQ1_0"), (16, "IQ2_XXS"), (999, "type 999")] {
        let mut file = Edited::tiny();
        file.tensor("blk.0.ffn_down.weight").dtype = number;
        let path = file.write(dir.path(), "type");
        refused(run(dir.path(), &path), &["blk.0.ffn_down.weight", name]);
        let shown = done(output(dir.path(), &["models", "inspect", &path]));
        for part in [name, "F16", "F32", "llama.block_count", "not runnable"] {
            assert!(shown.contains(part), "{part} not in {shown}");
        }
    }
}

#[test]
fn a_recipe_whose_rows_fell_back_is_labelled_with_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["models", "quantize", "tiny", "--to", "q4_k_m", "--out", "q.gguf"];
    done(output(dir.path(), &args));
    let shown = done(output(dir.path(), &["models", "inspect", "./q.gguf"]));
    let label = shown.lines().find(|l| l.starts_with("quantization")).unwrap();
    assert!(label.contains("Q4_K_M+") && label.contains("Q5_0"), "{label}");
    // By its recipe it is still what was asked for.
    let args = ["run", "--engine", "candle", "--quant", "q4_k_m", "-p", "8", "-n", "2", "-r", "1"];
    done(output(dir.path(), &[&args[..], &["--model", "tiny"]].concat()));
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert!(record.model.quant.starts_with("Q4_K_M+"), "{}", record.model.quant);
}

/// The tiny model in three files, as llama-gguf-split makes them.
fn split(dir: &Path) -> Vec<String> {
    let whole = Edited::tiny();
    let n = whole.tensors.len();
    let parts = (0..3).map(|i| {
        let mut part = if i == 0 { whole.clone() } else { whole.clone().bare() };
        part.tensors = whole.tensors[i * n / 3..(i + 1) * n / 3].to_vec();
        let part = part
            .set("split.no", Value::U32(i as u32))
            .set("split.count", Value::U32(3))
            .set("split.tensors.count", Value::U32(n as u32));
        part.write(dir, &format!("m-{:05}-of-00003", i + 1))
    });
    parts.collect()
}

#[test]
fn a_model_in_several_files_is_loaded_from_any_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let parts = split(dir.path());
    let generate = |model: &str| {
        let args = ["generate", "--prompt", "Mara was a sailor", "-n", "12", "--model", model];
        output(dir.path(), &args)
    };
    let expected = done(generate("tiny"));
    for part in &parts {
        assert_eq!(done(generate(part)), expected, "{part}");
    }
    done(run(dir.path(), &parts[2]));
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert_eq!((record.model.name.as_str(), record.model.quant.as_str()), ("m", "F16"));
    let shown = done(output(dir.path(), &["models", "inspect", &parts[1]]));
    assert!(shown.contains("split.count") && shown.contains("3 parts"), "{shown}");
    std::fs::remove_file(&parts[1]).unwrap();
    for part in [&parts[0], &parts[2]] {
        refused(generate(part), &["m-00002-of-00003.gguf", "missing", "3 parts"]);
    }
}
