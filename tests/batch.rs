//! `run -b`: several sequences decoded together; through the real command, and engine by engine over
//! the real protocol.

mod support;

use llm_bench::engine::{Engine, Failure};
use llm_bench::metric::Metric;
use llm_bench::model::golden;
use llm_bench::protocol::{Feature, Generate};
use llm_bench::record::{FailureKind, Record, Role, Status};
use support::engine::{logits, question, with_tiny_loaded, with_tiny_loaded_for};
use support::{done, only_record, output, repository, text};

/// How many tokens are generated, and how many each prompt has.
const TOKENS: usize = 24;
const LENGTH: usize = 20;

/// Prompts of one length from the golden texts, all different.
fn prompts(n: usize) -> Vec<Vec<u32>> {
    let cases = golden::cases().unwrap();
    let all: Vec<u32> =
        cases.iter().flat_map(|case| [&case.prompt[..], &case.tokens].concat()).collect();
    (0..n).map(|s| (0..LENGTH).map(|i| all[(s * 13 + i) % all.len()]).collect()).collect()
}

fn alone(process: &mut Engine, prompt: &[u32]) -> Vec<u32> {
    let request = Generate::greedy(process.next_id(), prompt.into(), TOKENS as u32);
    process.generate(request, Some(10_000)).unwrap().value.tokens
}

fn together(process: &mut Engine, prompts: &[Vec<u32>]) -> Result<Vec<Vec<u32>>, Failure> {
    let request = Generate {
        batch: prompts.len() as u32,
        others: prompts[1..].to_vec(),
        ..Generate::greedy(process.next_id(), prompts[0].clone(), TOKENS as u32)
    };
    let generated = process.generate(request, Some(10_000))?.value;
    Ok([vec![generated.tokens], generated.others].concat())
}

/// Whether float32 finds both tokens as likely behind these, within a hundredth of the logits' range:
/// then rounding in another order may choose either.
fn is_near_tie(before: &[u32], [a, b]: [u32; 2]) -> bool {
    let model = repository("models/tiny.gguf");
    let rows = logits("candle-f32", &question(&model, 512, before.to_vec()));
    let row = rows.last().unwrap();
    let best = row.iter().copied().fold(f32::MIN, f32::max);
    let least = row.iter().copied().fold(f32::MAX, f32::min);
    [a, b].iter().all(|id| best - row[*id as usize] < 0.01 * (best - least))
}

/// The same tokens, up to a near tie.
fn assert_same(prompt: &[u32], got: &[u32], expected: &[u32], at: &str) {
    let differs = got.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(i) = differs {
        let before = [prompt, &expected[..i]].concat();
        let tie = is_near_tie(&before, [got[i], expected[i]]);
        assert!(tie, "{at}: token {i} of {got:?}, expected {expected:?}");
    }
}

fn together_gives_the_tokens_of_each_alone(engine: &str, batches: &[usize]) {
    let most = *batches.iter().max().unwrap();
    let prompts = prompts(most);
    let mut process = with_tiny_loaded(engine, 2, 256, serde_json::json!({}));
    assert!(process.has(Feature::Batch));
    let expected: Vec<Vec<u32>> = prompts.iter().map(|p| alone(&mut process, p)).collect();
    assert!(expected.iter().any(|tokens| *tokens != expected[0]), "the prompts make a difference");
    for &n in batches {
        let options = serde_json::json!({});
        let mut process = with_tiny_loaded_for(n as u32, engine, 2, 256, options).unwrap();
        // The second time over what the first one left in the cache.
        for prompts in [&prompts[..n], &prompts[most - n..], &prompts[..n]] {
            let got = together(&mut process, prompts).unwrap();
            for (prompt, got) in prompts.iter().zip(got) {
                let s = self::prompts(most).iter().position(|p| p == prompt).unwrap();
                let at = format!("{engine}, batch {n}, sequence {s}");
                assert_same(prompt, &got, &expected[s], &at);
            }
        }
    }
}

#[test]
fn candle_gives_each_sequence_of_a_batch_the_tokens_that_it_has_alone() {
    together_gives_the_tokens_of_each_alone("candle-f32", &[2, 9]);
    together_gives_the_tokens_of_each_alone("candle", &[2, 3, 8, 33]);
}

#[test]
#[ignore = "needs llama.cpp"]
fn llama_cpp_gives_each_sequence_of_a_batch_the_tokens_that_it_has_alone() {
    together_gives_the_tokens_of_each_alone("llama.cpp", &[2, 8, 33]);
}

#[test]
#[ignore = "needs PyTorch"]
fn pytorch_gives_each_sequence_of_a_batch_the_tokens_that_it_has_alone() {
    together_gives_the_tokens_of_each_alone("pytorch-f32", &[2, 8]);
    together_gives_the_tokens_of_each_alone("pytorch", &[2, 8]);
}

fn refused<T>(result: Result<T, Failure>, word: &str) {
    match result {
        Err(Failure::Engine(e)) => assert!(e.message.contains(word), "{word:?} in {e:?}"),
        _ => panic!("expected an error with {word:?}"),
    }
}

#[test]
fn a_batch_that_the_model_was_not_loaded_for_is_an_error_of_the_engine() {
    let of = |batch| with_tiny_loaded_for(batch, "candle", 1, 64, serde_json::json!({}));
    refused(together(&mut of(4).unwrap(), &prompts(3)), "loaded for 4 sequences");
    refused(together(&mut of(1).unwrap(), &prompts(2)), "loaded for 1 sequences");
    let mut unequal = prompts(2);
    unequal[1].pop();
    refused(together(&mut of(2).unwrap(), &unequal), "prompts of 20 and 19 tokens");
    refused(of(1000), "at most 256 sequences");
}

const RUN: [&str; 9] = ["run", "--model", "tiny", "--no-verify", "-p", "16", "-n", "9", "-r2"];

#[test]
fn each_batch_is_a_point_with_its_own_tokens_and_rates() {
    let dir = tempfile::tempdir().unwrap();
    let args = [&RUN[..], &["--engine", "candle,candle-stock", "-b", "1,4"]].concat();
    let table = done(output(dir.path(), &args));
    let record = Record::read(&only_record(dir.path())).unwrap();
    let labels: Vec<&str> = record.arms.iter().map(|arm| arm.label.as_str()).collect();
    assert_eq!(labels, ["candle:b1", "candle-stock:b1", "candle:b4", "candle-stock:b4"]);
    let batches: Vec<Option<u32>> = record.arms.iter().map(|arm| arm.point.batch).collect();
    assert_eq!(batches, [None, None, Some(4), Some(4)]);
    // The engine that offers no batch says so, and its other point is measured.
    let error = record.arms[3].launches[0].error.as_ref().unwrap();
    assert_eq!(error.kind, FailureKind::Unsupported);
    assert!(error.message.contains("`batch`"), "{error:?}");
    assert!(record.arms[1].launches.iter().all(|launch| launch.status == Status::Ok));

    let (one, four) = (&record.arms[0], &record.arms[2]);
    let measured = |arm: usize| {
        let mut runs = record.arms[arm].launches[0].prompts.iter();
        runs.find(|run| run.role == Role::Measured).unwrap()
    };
    assert_eq!((measured(0).batch, measured(2).batch), (None, Some(4)));
    assert_eq!(measured(2).other_tokens.iter().map(Vec::len).collect::<Vec<_>>(), [9, 9, 9]);
    assert_eq!(measured(0).tokens, measured(2).tokens, "the first sequence is the prompt itself");
    assert!(measured(0).other_tokens.is_empty());
    for launch in &four.launches {
        let value = |metric| launch.metrics[&metric];
        let ratio = value(Metric::BatchDecodeTps) / value(Metric::DecodeTps);
        assert!((ratio - 4.0).abs() < 1e-9, "{ratio}");
        assert!(value(Metric::ArithmeticShare) > 0.0);
    }
    assert!(!one.metrics.contains_key(&Metric::BatchDecodeTps));
    let kv = |arm: usize| record.arms[arm].launches[0].memory.book.kv_bytes.unwrap();
    assert_eq!(kv(2), 4 * kv(0));
    assert!(record.warnings.iter().all(|w| w.code != "nondeterministic"), "{:?}", record.warnings);
    let columns = ["PP", "TG", "B", "N_KV", "T_PP", "S_PP", "T_TG", "S_TG", "T", "S"];
    let heads: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(heads.iter().any(|head| head.windows(10).any(|part| part == columns)), "{table}");
    for line in ["candle:b1 16 8 1 24 ", "candle:b4 16 8 4 96 "] {
        let found = heads.iter().any(|row| format!("{} ", row.join(" ")).starts_with(line));
        assert!(found, "{line} in\n{table}");
    }
    let flat = table.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("Arithmetic takes over at"), "{table}");
    let json = only_record(dir.path());
    let read = |extension| std::fs::read_to_string(json.with_extension(extension)).unwrap();
    assert!(read("md").contains("| PP | TG | B | N\\_KV |"), "{}", read("md"));
    let csv = read("csv");
    assert!(csv.lines().next().unwrap().ends_with(",n_prompt,n_gen,depth,batch"), "{csv}");
    let rates = csv.lines().filter(|l| l.contains(",s_tg_tps,")).collect::<Vec<_>>();
    assert!(rates.len() == 2 && rates.iter().all(|l| l.ends_with(",4")), "{rates:?}");
}

#[test]
fn a_batch_is_planned_resumed_and_refused_beyond_what_it_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let run =
        |extra: &[&str]| output(dir.path(), &[&RUN[..], &["--engine", "candle"], extra].concat());
    let plan = text(&run(&["-b", "2,4", "--list"]).stdout);
    assert!(plan.contains("candle:b2 #1") && plan.contains("candle:b4 #2"), "{plan}");
    for wrong in ["0", "257", "many"] {
        support::refused(run(&["-b", wrong]), &["--batch", wrong]);
    }
    done(run(&["-b", "2,4"]));
    let json = only_record(dir.path());
    let mut record = Record::read(&json).unwrap();
    record.run.complete = false;
    record.arms[1].launches.pop();
    record.write(&json).unwrap();
    done(output(dir.path(), &["run", "--resume", json.to_str().unwrap()]));
    let record = Record::read(&json).unwrap();
    assert!(record.run.complete);
    assert!(record.arms[1].launches.last().unwrap().prompts.iter().all(|r| r.batch == Some(4)));
}
