//! `run -d`: prefill and decode after a context that was filled unmeasured; through the real
//! command, and engine by engine over the real protocol.

mod support;

use llm_bench::engine::{Engine, Failure};
use llm_bench::metric::Metric;
use llm_bench::model::golden;
use llm_bench::protocol::{Context, Feature, Generate};
use llm_bench::record::{PromptRun, Record, Role};
use support::engine::with_tiny_loaded;
use support::{done, only_record, output, text};

const SWEEP: [&str; 11] =
    ["run", "--model", "tiny", "--no-verify", "-p", "1,16", "-n", "8", "-d", "64,0", "-r2"];

/// The record of a small sweep, its table, its Markdown and its CSV.
fn sweep() -> (Record, [String; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let args = [&SWEEP[..], &["--engine", "candle,candle-stock"]].concat();
    let table = done(output(dir.path(), &args));
    let json = only_record(dir.path());
    let read = |extension| std::fs::read_to_string(json.with_extension(extension)).unwrap();
    (Record::read(&json).unwrap(), [table, read("md"), read("csv")])
}

#[test]
fn each_shape_of_a_sweep_can_be_read_for_each_engine_in_every_format() {
    let (record, [table, markdown, csv]) = sweep();
    let shapes: Vec<_> =
        record.workload.prompts.iter().map(|p| (p.id.as_str(), p.n_prompt, p.depth)).collect();
    let expected =
        [("p1-n8 @ d64", 1, 64), ("p16-n8 @ d64", 16, 64), ("p1-n8", 1, 0), ("p16-n8", 16, 0)];
    assert_eq!(shapes, expected);
    let [candle, stock] = [&record.arms[0].prompt_metrics, &record.arms[1].prompt_metrics];
    for (id, _, depth) in expected {
        for metric in [Metric::DecodeTps, Metric::Tpot, Metric::ItlP50, Metric::Mbu] {
            let n = [&candle[id], &stock[id]].map(|metrics| metrics[&metric].n);
            assert_eq!(n, [2, 2], "{id} {metric}");
        }
        for metric in [Metric::PrefillTps, Metric::Ttft, Metric::E2eTps] {
            assert_eq!(candle[id][&metric].n, 2, "{id} {metric}");
            // The stock engine runs the context with the prompt, so it reports no number rather
            // than a wrong one.
            assert_eq!(stock[id].contains_key(&metric), depth == 0, "{id} {metric}");
        }
        for title in ["Decode", "Prefill", "TTFT, warm"] {
            let row = format!("| {title}, {id} |");
            assert!(markdown.contains(&row), "{row} in\n{markdown}");
        }
        let row = |line: &&str| {
            let rest = line.strip_prefix(&format!("  {id} ")).map(str::trim_start);
            rest.is_some_and(|rest| !rest.starts_with('@'))
        };
        assert_eq!(table.lines().filter(row).count(), 3, "{id} in\n{table}");
        let (p, d) = (if id.starts_with("p16") { 16 } else { 1 }, depth);
        let lines = |engine: &str, metric: &str| {
            let start = format!("{engine},{engine},tiny,file,F16,{id},{metric},");
            let lines: Vec<_> = csv.lines().filter(|l| l.starts_with(&start)).collect();
            assert!(lines.iter().all(|l| l.ends_with(&format!(",ok,{p},8,{d}"))), "{lines:?}");
            lines.len()
        };
        assert_eq!((lines("candle", "prefill_tps"), lines("candle", "decode_tps")), (1, 1));
        let at_depth = usize::from(depth == 0);
        assert_eq!(lines("candle-stock", "prefill_tps"), at_depth);
        assert_eq!(lines("candle-stock", "decode_tps"), 1);
    }
    let whole = |arm: usize, metric| record.arms[arm].metrics.contains_key(&metric);
    assert!(whole(0, Metric::PrefillTps) && whole(0, Metric::Ttft) && whole(1, Metric::DecodeTps));
    assert!(
        !whole(1, Metric::PrefillTps) && !whole(1, Metric::Ttft),
        "a part of the set is not the set"
    );
    let note = |arm: usize| record.arms[arm].notes.iter().any(|n| n.contains("context"));
    assert!(!note(0) && note(1), "{:?}", record.arms[1].notes);
    assert!(table.contains("behind a context of 0 to 64"), "{table}");
    assert!(record.warnings.iter().all(|w| w.code != "nondeterministic"), "{:?}", record.warnings);
}

#[test]
fn the_cold_start_is_that_of_the_prompt_alone_and_the_depth_gets_its_own_warm_up() {
    let (record, _) = sweep();
    for arm in &record.arms {
        for launch in &arm.launches {
            let of = |id: &str, role| -> Vec<&PromptRun> {
                launch.prompts.iter().filter(|r| r.id == id && r.role == role).collect()
            };
            let first = "p1-n8 @ d64";
            assert_eq!(of(first, Role::Cold)[0].depth, 0);
            assert_eq!(of(first, Role::Warmup)[0].depth, 64);
            let measured = of(first, Role::Measured)[0];
            assert_eq!((measured.depth, measured.n_prompt), (64, 1));
            assert_eq!(measured.context_in_request, arm.engine == "candle-stock");
            assert_eq!(of("p16-n8", Role::Measured)[0].depth, 0);
            for metric in [Metric::ColdStartTtft, Metric::FirstGenerateTtft] {
                assert!(launch.metrics.contains_key(&metric), "{metric}");
            }
            assert!(!launch.metrics.contains_key(&Metric::WarmupGain), "other depths, other steps");
        }
    }
}

#[test]
fn a_depth_is_planned_and_resumed_and_refused_beyond_the_context() {
    let dir = tempfile::tempdir().unwrap();
    let list = |extra: &[&str]| {
        output(dir.path(), &[&["run", "--model", "tiny", "--list"], extra].concat())
    };
    let plan = text(&list(&["-d", "128", "-p", "16"]).stdout);
    let row: Vec<&str> =
        plan.lines().find(|l| l.starts_with("p16-n64")).unwrap().split("  ").collect();
    let cells: Vec<&str> = row.into_iter().map(str::trim).filter(|c| !c.is_empty()).collect();
    assert_eq!(cells, ["p16-n64 @ d128", "16", "64", "128"], "{plan}");
    let refused = |extra: &[&str], words: &[&str]| support::refused(list(extra), words);
    let too_long = ["a context of 500, 16 prompt tokens and 64", "need 580", "has 512", "`-d`"];
    refused(&["-d", "500", "-p", "16"], &too_long);
    refused(&["-d", "128"], &["p512-n64 @ d128"]);
    refused(&["-d", "4294967295", "-p", "16"], &["need 4294967375 positions"]);
    refused(&["-d", "64", "-p", "0"], &["-d 2048 -p 1"]);
    refused(&["-d", "64", "--prompts", "tiny"], &["--prompts", "--depth"]);

    let args = ["run", "--model", "tiny", "--engine", "candle", "--no-verify", "-r", "2"];
    done(output(dir.path(), &[&args[..], &["-d", "32", "-p", "4", "-n", "4"]].concat()));
    let json = only_record(dir.path());
    let mut record = Record::read(&json).unwrap();
    record.run.complete = false;
    record.arms[0].launches.pop();
    record.write(&json).unwrap();
    done(output(dir.path(), &["run", "--resume", json.to_str().unwrap()]));
    let record = Record::read(&json).unwrap();
    let last = record.arms[0].launches.last().unwrap();
    assert!(record.run.complete && last.prompts.iter().any(|run| run.depth == 32));
}

/// How many tokens are generated.
const TOKENS: usize = 24;

/// An engine with the tiny model loaded.
struct Loaded {
    process: Engine,
    next_id: u64,
}

impl Loaded {
    fn new(engine: &str) -> Self {
        let process = with_tiny_loaded(engine, 1, 256, serde_json::json!({}));
        Self { process, next_id: 1 }
    }

    fn fill(&mut self, tokens: &[u32]) -> Result<(), Failure> {
        self.next_id += 1;
        let context = Context { id: self.next_id, tokens: tokens.into() };
        self.process.context(context).map(drop)
    }

    fn generate(&mut self, prompt: &[u32], depth: u32) -> Result<Vec<u32>, Failure> {
        self.next_id += 1;
        let request =
            Generate { depth, ..Generate::greedy(self.next_id, prompt.into(), TOKENS as u32) };
        Ok(self.process.generate(request, Some(10_000))?.value.tokens)
    }
}

/// Ids of ordinary tokens of the tiny model.
fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| 260 + i * 7919 % 200).collect()
}

fn a_context_apart_gives_the_golden_tokens(engine: &str) {
    let mut loaded = Loaded::new(engine);
    assert!(loaded.process.has(Feature::Context));
    for case in golden::cases().unwrap().iter().filter(|case| case.prompt.len() < 200) {
        let golden = &case.tokens[..TOKENS];
        for depth in [1, case.prompt.len() / 2, case.prompt.len() - 1] {
            let (context, rest) = case.prompt.split_at(depth);
            loaded.fill(context).unwrap();
            // The context stays for later generations.
            for _ in 0..2 {
                let apart = loaded.generate(rest, depth as u32).unwrap();
                assert_eq!(apart, golden, "{engine}, {}, context {depth}", case.id);
            }
        }
        let last = &case.prompt[case.prompt.len() - 1..];
        let alone = loaded.generate(last, 0).unwrap();
        assert_ne!(alone, golden, "{engine}, {}: the context makes no difference", case.id);
    }
}

#[test]
fn candle_gives_the_same_tokens_whether_the_context_came_apart_or_with_the_prompt() {
    for engine in ["candle-f32", "candle"] {
        a_context_apart_gives_the_golden_tokens(engine);
    }
}

#[test]
#[ignore = "needs PyTorch"]
fn pytorch_gives_the_same_tokens_whether_the_context_came_apart_or_with_the_prompt() {
    a_context_apart_gives_the_golden_tokens("pytorch-f32");
    a_context_apart_gives_the_golden_tokens("pytorch");
}

fn refused<T>(result: Result<T, Failure>, word: &str) {
    match result {
        Err(Failure::Engine(e)) => assert!(e.message.contains(word), "{word:?} in {e:?}"),
        _ => panic!("expected an error with {word:?}"),
    }
}

#[test]
fn a_depth_that_the_context_does_not_have_is_an_error_of_the_engine() {
    let all = tokens(250);
    let mut loaded = Loaded::new("candle");
    loaded.fill(&all[..40]).unwrap();
    refused(loaded.generate(&all[40..50], 41), "the context holds 40 positions");
    let mut loaded = Loaded::new("candle");
    loaded.fill(&all[..40]).unwrap();
    loaded.generate(&all[..10], 0).unwrap();
    refused(loaded.generate(&all[40..50], 40), "the context holds 0 positions");
    let mut loaded = Loaded::new("candle");
    loaded.fill(&all).unwrap();
    refused(loaded.generate(&all[..10], 250), "6");
    refused(Loaded::new("candle").fill(&tokens(257)), "257");
    refused(Loaded::new("candle-stock").fill(&all[..40]), "only as a part of its prompt");
}
