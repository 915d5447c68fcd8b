//! `llm-bench generate` as a user runs it, on the tiny model, which really is trained: what stdout
//! holds, what is refused, and that streaming, sampling, stopping and a kept cache change no token
//! that they should not.

mod support;

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use llm_bench::model::golden;
use llm_bench::protocol::{Feature, Generate, Sampling, Score};
use llm_bench::task::generate::Step;
use llm_bench::worker::sampling::Sampler;
use rustix::process::Signal;
use support::engine::{read_logits, with_tiny_loaded};
use support::{done as said, refused, stop, text, with_fakes};

const STORY: &str = "Mara was a sailor who lived near the lighthouse. She had a good key";
const STORY_GOES_ON: &str = " that she loved very much. One morning the key was gone.";

fn command(dir: &Path, args: &[&str]) -> Command {
    with_fakes(dir, &[&["generate"], args].concat())
}

fn generate(args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    command(dir.path(), &[&["--model", "tiny"], args].concat()).output().unwrap()
}

fn with_stdin(args: &[&str], input: &[u8]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut child = command(dir.path(), &[&["--model", "tiny"], args].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

// ---- completions ----

#[test]
fn the_text_is_the_golden_one_and_nothing_else_is_on_stdout() {
    let out = generate(&["--prompt", STORY, "-n", "48", "--timing"]);
    let whole = said(&out);
    assert!(whole.starts_with(STORY_GOES_ON), "{whole:?}");
    assert!(whole.ends_with("but the"), "{whole:?}");
    let stderr = text(&out.stderr);
    for figure in ["load ", "TTFT ", "prefill ", "decode ", "ITL ", "tokens   48", "stopped "] {
        assert!(stderr.contains(figure), "expected {figure:?} in {stderr:?}");
    }
    assert!(!stderr.contains('\x1b'), "no colour where there is no terminal");
}

#[test]
fn a_prompt_comes_from_an_argument_a_file_or_stdin() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompt.txt");
    std::fs::write(&file, format!("{STORY}\n")).unwrap();
    let expected = said(generate(&["--prompt", STORY, "-n", "16"]));
    let from_file = generate(&["--prompt-file", file.to_str().unwrap(), "-n", "16"]);
    assert_eq!(said(&from_file), expected);
    let line = format!("{STORY}\r\n");
    assert_eq!(said(with_stdin(&["-n", "16"], line.as_bytes())), expected);
    assert_eq!(said(with_stdin(&["-n", "16"], STORY.as_bytes())), expected);
}

#[test]
fn an_end_of_turn_stops_unless_it_is_to_be_ignored() {
    let case = golden::cases().unwrap().into_iter().find(|c| c.id == "chat-template").unwrap();
    let answer = "I am a very small model. I know the harbour, the boats and the people who live \
                  there.\n";
    let chat = |args: &[&str]| {
        let mut all = vec!["--interactive", "--timing"];
        all.extend(args);
        with_stdin(&all, b"Who are you?\n")
    };
    let out = chat(&[]);
    assert_eq!(said(&out), answer);
    assert!(text(&out.stderr).contains("end of text"), "{}", text(&out.stderr));
    let n = case.tokens.len().to_string();
    let on = said(chat(&["--ignore-eos", "-n", &n]));
    assert!(on.starts_with(answer.trim_end()) && on.contains("What is a boat for?"), "{on:?}");
    assert!(!on.contains("<|"), "control tokens have no text: {on:?}");
    // The harness cuts the text of an engine that knows no stop ids, and says so.
    let old = generate(&["--prompt", STORY, "-n", "20", "--engine", "fake-honest", "--timing"]);
    said(&old);
    assert!(text(&old.stderr).contains("does not stream"), "{}", text(&old.stderr));
}

/// Starts the streaming engine on `n` tokens, with its output in pipes.
fn streaming(dir: &Path, n: &str) -> Child {
    let args = ["--model", "tiny", "--prompt", "x", "-n", n, "--engine", "fake-streams"];
    command(dir, &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn tokens_leave_the_pipe_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = streaming(dir.path(), "50");
    let (mut out, mut first) = (child.stdout.take().unwrap(), [0u8; 1]);
    out.read_exact(&mut first).unwrap();
    assert!(child.try_wait().unwrap().is_none(), "the first byte came only at the end");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    // Token i of this engine is id 40 + i % 20, one character each.
    let once: String = ('I'..='\\').collect();
    let whole = format!("{}{rest}", char::from(first[0]));
    assert_eq!(whole, format!("{once}{once}{}", &once[..10]));
}

#[test]
fn whoever_stops_reading_ends_it_without_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = streaming(dir.path(), "500");
    child.stdout.take().unwrap().read_exact(&mut [0u8; 3]).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(out.stderr.is_empty(), "{}", text(&out.stderr));
}

#[test]
fn ctrl_c_ends_the_text_and_says_after_how_many_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = streaming(dir.path(), "500");
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0u8; 3]).unwrap();
    child.stdout = Some(out);
    let ended = stop(child, Signal::INT);
    let (stderr, rest) = (text(&ended.stderr), text(&ended.stdout));
    assert!(stderr.contains("stopped after") && rest.len() < 400, "{stderr} {rest}");
}

#[test]
fn sampling_is_reproducible_by_its_seed() {
    let ask = |seed: &str, t: &str, p: &str| {
        let args = ["--prompt", STORY, "-n", "40", "--ignore-eos", "--temperature", t];
        let mut all = args.to_vec();
        all.extend(["--top-p", p, "--seed", seed]);
        said(generate(&all))
    };
    let one = ask("1", "3", "0.98");
    assert_eq!(one, ask("1", "3", "0.98"));
    assert_ne!(one, ask("2", "3", "0.98"));
    let greedy = said(generate(&["--prompt", STORY, "-n", "40", "--ignore-eos"]));
    assert_ne!(one, greedy);
    assert_eq!(ask("1", "0", "1"), greedy);
    assert_eq!(ask("1", "0.000001", "1"), greedy);
    assert_eq!(ask("1", "2", "0.000001"), greedy, "the smallest nucleus is the likeliest token");
}

#[test]
fn what_cannot_be_done_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.txt");
    let long = "the harbour and the boat ".repeat(200);
    let cases: &[(&[&str], &[&str])] = &[
        (&["--prompt", ""], &["--prompt", "empty"]),
        (&["--prompt-file", missing.to_str().unwrap()], &["--prompt-file", "missing.txt"]),
        (&["--prompt", &long], &["context 512", "shorten"]),
        (&["--prompt", "one two three", "--n-ctx", "3"], &["context 3"]),
        (&["--prompt", "x", "--n-ctx", "513"], &["--n-ctx 513", "512"]),
        (&["--prompt", "x", "--engine", "candel"], &["candel", "did you mean \"candle\""]),
        (&["--prompt", "x", "--temperature", "-0.5"], &["--temperature -0.5"]),
        (&["--prompt", "x", "--temperature", "NaN"], &["--temperature NaN"]),
        (&["--prompt", "x", "--temperature", "inf"], &["--temperature inf"]),
        (&["--prompt", "x", "--top-p", "0"], &["--top-p 0"]),
        (&["--prompt", "x", "--top-p", "1.01"], &["--top-p 1.01"]),
        (
            &["--prompt", "x", "--engine", "candle-stock", "--device", "cuda"],
            &["--device cuda", "candle-stock runs on cpu"],
        ),
        (
            &["--prompt", "x", "--engine", "fake-honest", "--temperature", "1"],
            &["fake-honest cannot sample"],
        ),
        (&["--prompt", "x", "--engine", "fake-oom"], &["fake-oom in load", "5 GB"]),
        (&["--prompt", "x", "--engine", "fake-exits-at-generate"], &["the last word"]),
        (&["--prompt", "x", "--interactive"], &["--interactive"]),
        (&["--prompt", "x", "--system", "y"], &["--system"]),
        (&["--system", "y"], &["--interactive"]),
    ];
    for (args, words) in cases {
        refused(generate(args), words);
    }
    refused(
        command(dir.path(), &["--model", "tinny", "--prompt", "x"]).output().unwrap(),
        &["tinny"],
    );
    refused(with_stdin(&[], b""), &["stdin", "empty"]);
    refused(with_stdin(&[], b"\n"), &["stdin", "empty"]);
    refused(with_stdin(&[], b"ab\xffcd"), &["stdin", "UTF-8", "offset 2"]);
    refused(with_stdin(&["--interactive"], b"ab\xffcd\n"), &["stdin", "UTF-8"]);
}

#[test]
fn an_engine_that_streams_something_else_is_caught() {
    let ask = |engine: &str| {
        let args = ["--prompt", "x", "-n", "4", "--engine", engine];
        let out = generate(&args);
        assert_eq!(out.status.code(), Some(2), "{engine}");
        text(&out.stderr)
    };
    for (engine, words) in [
        ("fake-streams-otherwise", "are not the 4 of the end"),
        ("fake-streams-foreign", "10000000 is outside the vocabulary"),
        ("fake-short-count", "asked for 4 tokens, got 3"),
        ("fake-foreign-token", "10000000 is outside the vocabulary"),
        ("fake-time-travel", "t_begin_ns"),
    ] {
        let stderr = ask(engine);
        assert!(stderr.contains(words), "{engine}: expected {words:?} in {stderr:?}");
    }
}

// ---- chats through pipes ----

#[test]
fn a_chat_from_a_pipe_goes_turn_by_turn_on_the_kept_cache() {
    let input = b"Who are you?\nWhat is a boat for?\n/reset\nWho are you?\n/dance\n/exit\nnever\n";
    let out = with_stdin(&["--interactive", "--timing"], input);
    let answers = said(&out);
    let lines: Vec<&str> = answers.lines().collect();
    assert_eq!(lines.len(), 3, "{answers}");
    assert!(lines[0].starts_with("I am a very small model."), "{answers}");
    assert!(lines[1].starts_with("A boat is for sailing"), "{answers}");
    assert_eq!(lines[0], lines[2], "nothing is left after /reset");
    let stderr = text(&out.stderr);
    // The second prompt holds the first one (15 tokens) and its answer (35 without its end).
    assert!(stderr.contains("(18 tokens + 50 cached)"), "{stderr}");
    assert!(stderr.contains("no command is called /dance"), "{stderr}");

    // The same conversation without a kept cache.
    let stock = with_stdin(&["--interactive", "--timing", "--engine", "candle-stock"], input);
    let stderr = text(&stock.stderr);
    assert!(!stderr.contains(" cached)"), "{stderr}");
    assert!(stderr.contains("rope_freqs.weight"), "the known difference is shown: {stderr}");
}

#[test]
fn the_end_of_the_context_is_a_message_and_reset_helps() {
    let input = b"Who are you?\nWhat is a boat for?\n/reset\nWho are you?\n";
    let out = with_stdin(&["--interactive", "--n-ctx", "60"], input);
    let answers = said(&out);
    assert_eq!(answers.lines().count(), 2, "{answers}");
    let stderr = text(&out.stderr);
    assert!(stderr.contains("68 tokens, the context 60"), "{stderr}");
    let cut = with_stdin(&["--interactive", "--n-ctx", "24"], b"Who are you?\n");
    assert!(said(&cut).starts_with("I am a very sma"), "{}", text(&cut.stdout));
    assert!(text(&cut.stderr).contains("the context of 24 is full"), "{}", text(&cut.stderr));
    let none = with_stdin(&["--interactive", "--n-ctx", "8"], b"Who are you?\n");
    refused(&none, &["the template and the system message", "--n-ctx"]);
}

#[test]
fn a_system_message_changes_the_answer_and_survives_a_reset() {
    let input = b"Who are you?\n/reset\nWho are you?\n/system\nWho are you?\n";
    let args = ["--interactive", "--system", "You are a cook on the island.", "--timing"];
    let out = with_stdin(&args, input);
    let stderr = text(&out.stderr);
    let prompts: Vec<&str> = stderr.lines().filter(|l| l.contains("prefill")).collect();
    assert_eq!(prompts.len(), 3, "{stderr}");
    // The cache holds all but the last token of the same prompt; without the message it is short.
    assert!(prompts[1].contains("(1 token + "), "{stderr}");
    assert!(said(&out).ends_with("the people who live there.\n"), "{}", text(&out.stdout));
}

// ---- the protocol, engine by engine ----

struct Engine {
    process: llm_bench::engine::Engine,
    id: u64,
}

impl Engine {
    /// Starts an engine on the tiny model.
    fn start(name: &str, options: serde_json::Value) -> Self {
        let process = with_tiny_loaded(name, 2, 512, options);
        Self { process, id: 0 }
    }

    /// The tokens, how many were reused, and whether `keep` ended it early.
    fn ask(&mut self, request: Generate, keep: &mut dyn FnMut(usize) -> bool) -> (Vec<u32>, u32) {
        self.id += 1;
        let request = Generate { id: self.id, ..request };
        let mut seen = 0;
        let answer = self
            .process
            .follow(request, Some(512), &mut |step| {
                seen += usize::from(step != Step::Waiting);
                match keep(seen) {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            })
            .unwrap();
        let generated = answer.generated.value;
        (generated.tokens, generated.reused.unwrap_or(0))
    }

    fn all(&mut self, request: Generate) -> (Vec<u32>, u32) {
        self.ask(request, &mut |_| true)
    }
}

fn no_options() -> serde_json::Value {
    serde_json::json!({})
}

/// Compares greedy tokens with and without everything that may not change them.
fn reuse_and_streaming_change_no_token(engine: &str) {
    let mut engine = Engine::start(engine, no_options());
    let reuses = engine.process.has(Feature::Reuse);
    for case in golden::cases().unwrap() {
        let n = case.tokens.len() as u32;
        let plain = Generate::greedy(0, case.prompt.clone(), n);
        let (measured, _) = engine.all(plain.clone());
        let streamed = Generate { stream: true, reuse: true, ..plain.clone() };
        let (cold, none) = engine.all(streamed.clone());
        assert_eq!(cold, measured, "{}", case.id);
        assert_eq!(none, 0, "a measured generation leaves nothing to build on");
        let (warm, kept) = engine.all(streamed.clone());
        assert_eq!(warm, measured, "{}", case.id);
        assert_eq!(kept > 0, reuses);
        // A longer prompt on top of the cache's contents, and the same prompt from an empty
        // context.
        let mut longer = case.prompt.clone();
        longer.extend(&warm[..20]);
        longer.push(13);
        let longer = Generate { prompt: longer, n: 30, ..streamed };
        let (on_top, kept) = engine.all(longer.clone());
        assert_eq!(kept as usize, if reuses { case.prompt.len() + 20 } else { 0 });
        let (afresh, _) = engine.all(Generate { reuse: false, ..longer });
        assert_eq!(on_top, afresh, "{}", case.id);
        // A stop id ends the generation and is its last token.
        let stop = vec![measured[10]];
        let at = measured.iter().position(|t| *t == stop[0]).unwrap();
        let (stopped, _) = engine.all(Generate { stop, stream: true, ..plain });
        assert_eq!(stopped, measured[..=at]);
    }
}

#[test]
fn reuse_and_streaming_change_no_token_of_candle() {
    reuse_and_streaming_change_no_token("candle");
}

#[test]
fn streaming_changes_no_token_of_candle_stock() {
    reuse_and_streaming_change_no_token("candle-stock");
}

#[test]
#[ignore = "needs PyTorch"]
fn reuse_and_streaming_change_no_token_of_pytorch() {
    reuse_and_streaming_change_no_token("pytorch-f32");
    reuse_and_streaming_change_no_token("pytorch");
}

/// Sampled tokens of one engine, continuing the beginnings of the golden prompts.
fn sampled(
    engine: &mut Engine,
    temperature: f64,
    top_p: f64,
) -> Vec<(Sampling, Vec<u32>, Vec<u32>)> {
    let mut all = Vec::new();
    for case in golden::cases().unwrap() {
        for seed in 0..4 {
            let prompt = case.prompt[..5].to_vec();
            let sampling = Sampling { temperature, top_p, seed };
            let request = Generate::greedy(0, prompt.clone(), 24);
            let request = Generate { sampling: Some(sampling), ..request };
            all.push((sampling, prompt, engine.all(request).0));
        }
    }
    all
}

#[test]
#[ignore = "needs PyTorch"]
fn candle_and_pytorch_draw_the_same_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut candle = Engine::start("candle", no_options());
    let mut pytorch = Engine::start("pytorch-f32", no_options());
    let ours = sampled(&mut candle, 0.8, 0.9);
    assert_eq!(ours, sampled(&mut pytorch, 0.8, 0.9));
    let different: std::collections::BTreeSet<&Vec<u32>> = ours.iter().map(|(.., t)| t).collect();
    assert!(different.len() > ours.len() / 2, "{} of {}", different.len(), ours.len());

    // Far out in the tail the engines' rounding decides, so each draw there is checked against the
    // definition over PyTorch's own logits.
    for (sampling, prompt, tokens) in sampled(&mut pytorch, 3.0, 0.98) {
        let path = folder.path().join("logits.f32");
        let first = prompt.len() as u32 - 1;
        let all: Vec<u32> = prompt.into_iter().chain(tokens.iter().copied()).collect();
        let logits_path = path.to_str().unwrap().to_string();
        pytorch
            .process
            .score(Score { id: 99, tokens: all, logits_path, first, decode_from: None })
            .unwrap();
        let logits = read_logits(&path, 512);
        let mut sampler = Sampler::new(sampling).unwrap();
        for ((step, token), row) in (0..).zip(&tokens).zip(&logits) {
            assert_eq!(sampler.draw(row, step), *token, "seed {}, step {step}", sampling.seed);
        }
    }
}

fn a_cancelled_answer_leaves_a_working_engine(engine: &str, options: serde_json::Value) {
    let mut engine = Engine::start(engine, options);
    let prompt = golden::cases().unwrap()[0].prompt.clone();
    let request =
        Generate { stream: true, reuse: true, ..Generate::greedy(0, prompt.clone(), 480) };
    let mut asked_to_stop = false;
    let (cut, _) = engine.ask(request.clone(), &mut |seen| {
        // Only once: a second request to stop would kill it.
        let go_on = seen < 3 || asked_to_stop;
        asked_to_stop |= seen >= 3;
        go_on
    });
    assert!((3..480).contains(&cut.len()), "{} tokens", cut.len());
    let short = Generate { n: 8, ..request };
    let (again, kept) = engine.all(short);
    let shared = cut.len().min(again.len());
    assert_eq!(again[..shared], cut[..shared]);
    assert_eq!(kept as usize, prompt.len() - 1);
}

#[test]
fn a_cancelled_answer_leaves_a_working_candle() {
    let slow = serde_json::json!({"slow_down": 100});
    a_cancelled_answer_leaves_a_working_engine("candle", slow);
}

#[test]
#[ignore = "needs PyTorch"]
fn a_cancelled_answer_leaves_a_working_pytorch() {
    a_cancelled_answer_leaves_a_working_engine("pytorch-eager", no_options());
}
