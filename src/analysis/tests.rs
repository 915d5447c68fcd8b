//! Summaries, comparisons, warnings and readings of a hand-made record, one circumstance each.

use super::testing::{CANDLE, CANDLE_STOCK, Engine, PYTORCH_F32, arm, empty, failed_arm, record};
use super::*;
use crate::metric::Metric;
use crate::record::{Comparison, Role, WeightsSource};

/// Candle and the float32 reference on a quiet machine with real weights: the only warnings are
/// about the engines themselves.
fn quiet() -> Record {
    let mut record = Record { arms: vec![arm(&CANDLE, 5), arm(&PYTORCH_F32, 5)], ..empty() };
    record.model.weights = WeightsSource::Hub;
    record
}

fn summarized(mut record: Record) -> Record {
    summarize(&mut record);
    record
}

fn compared<'a>(record: &'a Record, arm: &str, metric: Metric) -> &'a Comparison {
    record.comparisons.iter().find(|c| c.arm == arm && c.metric == metric).unwrap()
}

/// Changes the launches of a quiet record and returns the doubts that follow.
fn doubts_when(change: impl Fn(&mut Launch)) -> Vec<String> {
    let mut record = quiet();
    record.arms.iter_mut().flat_map(|a| &mut a.launches).take(2).for_each(change);
    doubts(&summarized(record))
}

fn doubts(record: &Record) -> Vec<String> {
    let doubts = record.warnings.iter().filter(|w| !is_information(&w.code));
    doubts.map(|w| w.code.clone()).collect()
}

fn message(record: &Record, code: &str) -> String {
    record.warnings.iter().find(|w| w.code == code).map(|w| w.message.clone()).unwrap_or_default()
}

#[test]
fn each_launch_gives_one_value_and_failed_ones_none() {
    let record = summarized(record());
    let decode = &record.arms[0].metrics[&Metric::DecodeTps];
    assert_eq!((decode.n, decode.values.len()), (5, 5));
    assert_eq!(decode.values[0], record.arms[0].launches[0].metrics[&Metric::DecodeTps]);
    assert_eq!(record.arms[0].metrics[&Metric::DecodeCv].values, [decode.cv.unwrap()]);
    let single = &record.arms[1].metrics[&Metric::DecodeTps];
    assert_eq!((single.n, single.sd, single.ci95), (1, None, None));
    assert!(record.arms[2].metrics.is_empty());
}

#[test]
fn iterations_of_a_prompt_are_averaged_within_their_launch_as_time_per_token() {
    let mut record = quiet();
    let runs = record.arms[0].launches[0].prompts.iter_mut();
    let measured = runs.filter(|r| r.id == "chat-16" && r.role == Role::Measured);
    for (run, rate) in measured.zip([30.0, 60.0]) {
        run.metrics.insert(Metric::DecodeTps, rate);
        run.metrics.insert(Metric::Ttft, rate);
    }
    let record = summarized(record);
    let chat = &record.arms[0].prompt_metrics["chat-16"];
    assert_eq!(chat[&Metric::DecodeTps].n, 5);
    assert!((chat[&Metric::DecodeTps].values[0] - 40.0).abs() < 1e-9);
    assert!((chat[&Metric::Ttft].values[0] - 45.0).abs() < 1e-9);
}

#[test]
fn summarising_twice_changes_nothing() {
    let once = summarized(record());
    assert_eq!(summarized(once.clone()), once);
}

#[test]
fn the_baseline_is_pytorch_then_its_float32_then_the_first_that_ran() {
    let of = |arms| baseline(&Record { arms, ..empty() });
    let pytorch = || arm(&Engine { label: "pytorch", ..PYTORCH_F32 }, 2);
    assert_eq!(of(vec![arm(&CANDLE, 2), arm(&PYTORCH_F32, 2), pytorch()]), Some(2));
    assert_eq!(of(vec![arm(&CANDLE, 2), failed_arm("pytorch", 2), arm(&PYTORCH_F32, 2)]), Some(2));
    assert_eq!(of(vec![failed_arm("x", 2), arm(&CANDLE, 2), arm(&CANDLE_STOCK, 2)]), Some(1));
    assert_eq!(of(vec![failed_arm("x", 2)]), None);
    assert_eq!(of(vec![]), None);
}

#[test]
fn better_is_above_one_whatever_the_direction() {
    let record = summarized(record());
    let decode = compared(&record, "candle", Metric::DecodeTps);
    assert!((decode.times_better - 38.4 / 3.81).abs() < 1e-9);
    assert!(decode.p.unwrap() < 1e-6 && !decode.equal_precision);
    let load = compared(&record, "candle", Metric::ModelLoad);
    assert!((load.times_better - 4.87 / 0.0413).abs() < 1e-6);
    assert_eq!(compared(&record, "candle-stock", Metric::DecodeTps).ci95, None);
    let memory = compared(&record, "candle", Metric::PeakHostBytes);
    assert_eq!((memory.times_better, memory.p), (memory.ci95.unwrap()[0], None));
}

#[test]
fn any_arm_can_be_the_baseline_and_an_unknown_one_is_refused_with_the_known() {
    let mut record = record();
    summarize_against(&mut record, "candle").unwrap();
    assert!(compared(&record, "candle-stock", Metric::DecodeTps).times_better < 1.0);
    let before = record.clone();
    let error = summarize_against(&mut record, "mlx").unwrap_err().to_string();
    assert!(error.contains("\"mlx\"") && error.contains("pytorch-f32"), "{error}");
    assert_eq!(record, before);
}

#[test]
fn a_quiet_run_raises_no_doubt() {
    assert_eq!(doubts(&summarized(quiet())), [""; 0]);
}

#[test]
fn metrics_of_a_newer_version_are_named_and_none_of_them_is_taken_for_unchanged() {
    let mut json = serde_json::to_value(quiet()).unwrap();
    json["arms"][1]["launches"][0]["metrics"]["tokens_per_dream"] = 3.0.into();
    json["comparisons"] = serde_json::json!([{"metric": "tokens_per_dream"}]);
    let record = summarized(serde_json::from_value(json.clone()).unwrap());
    assert_eq!(doubts(&record), [UNKNOWN_METRICS]);
    assert!(
        message(&record, UNKNOWN_METRICS)
            .ends_with("1 metric that this llm-bench does not know: tokens_per_dream")
    );
    let written = serde_json::to_value(&record).unwrap();
    assert_eq!(written["arms"][1]["launches"], json["arms"][1]["launches"]);
}

#[test]
fn the_state_of_the_machine_is_doubted_launch_by_launch() {
    assert_eq!(doubts_when(|l| l.environment.busy_before = Some(0.34)), ["busy_machine"]);
    assert_eq!(doubts_when(|l| l.environment.disturbed = true), ["disturbed_launches"]);
    assert_eq!(doubts_when(|l| l.environment.steal = Some(0.03)), ["steal"]);
    let cold = |l: &mut Launch| l.environment.page_cache_resident = Some(0.41);
    assert_eq!(doubts_when(cold), ["page_cache_not_warm"]);
    let mut record = quiet();
    record.arms[0].launches.iter_mut().for_each(cold);
    let warned = summarized(record.clone());
    assert_eq!(
        message(&warned, "page_cache_not_warm"),
        "the model file was not in the page cache before 5 of 10 launches: as little as 41 % of it"
    );
    record.run.config = serde_json::json!({"page_cache": "cold"});
    assert_eq!(doubts(&summarized(record)), [""; 0], "cold on request");
}

#[test]
fn load_at_the_start_counts_only_where_nothing_better_is_known() {
    let mut record = quiet();
    record.host.load_average_1m = Some(1.7);
    assert_eq!(doubts(&summarized(record.clone())), [""; 0]);
    for launch in record.arms.iter_mut().flat_map(|a| &mut a.launches) {
        launch.environment.busy_before = None;
    }
    assert_eq!(doubts(&summarized(record)), ["loaded_machine"]);
}

#[test]
fn numbers_too_good_or_too_scattered_are_doubted() {
    let mbu = |l: &mut Launch| *l.metrics.get_mut(&Metric::Mbu).unwrap() = 1.2;
    assert_eq!(doubts_when(mbu), ["bandwidth_exceeded"]);
    let slow = |l: &mut Launch| *l.metrics.get_mut(&Metric::DecodeTps).unwrap() *= 0.7;
    assert_eq!(doubts_when(slow), ["high_variance"]);
    let nan = |l: &mut Launch| *l.metrics.get_mut(&Metric::Ttft).unwrap() = f64::NAN;
    assert_eq!(doubts_when(nan), ["not_a_number"]);
}

#[test]
fn a_decode_that_slows_down_over_the_launch_is_not_steady() {
    let slowing = |l: &mut Launch| {
        for run in &mut l.prompts {
            let faster = if run.iteration == 2 { 1.2 } else { 1.0 };
            run.token_ns.iter_mut().for_each(|t| *t = (*t as f64 * faster) as u64);
        }
    };
    assert_eq!(doubts_when(slowing), ["not_steady"]);
}

#[test]
fn an_unfinished_run_of_a_debug_build_says_so() {
    let mut record = quiet();
    record.run.complete = false;
    record.build.profile = "dev".into();
    assert_eq!(doubts(&summarized(record)), ["debug_build", "incomplete_run"]);
}

#[test]
fn a_quota_below_the_threads_is_a_doubt_and_one_above_is_not() {
    let with = |quota: f64| {
        let mut record = quiet();
        record.host.processor_quota = Some(quota);
        record.arms[0].point.threads = Some(2);
        doubts(&summarized(record))
    };
    assert_eq!(with(1.5), ["processor_quota"]);
    assert!(with(2.0).is_empty());
}

#[test]
fn few_launches_are_named_once_for_all_or_arm_by_arm() {
    let of = |a, b| {
        let record = Record { arms: vec![arm(&CANDLE, a), arm(&PYTORCH_F32, b)], ..empty() };
        let warnings = summarized(record).warnings;
        let few = warnings.into_iter().filter(|w| w.code == "few_launches");
        few.map(|w| (w.arm, w.message)).collect::<Vec<_>>()
    };
    assert_eq!(of(1, 1), [(None, "1 launch: no interval, no test".to_string())]);
    assert_eq!(of(5, 2)[0].0.as_deref(), Some("pytorch-f32"));
    assert_eq!(of(5, 2).len(), 1);
    assert_eq!(of(5, 4), []);
}

#[test]
fn a_failure_is_reported_with_its_kind_and_first_line() {
    assert_eq!(
        message(&summarized(record()), "failed_launches"),
        "pytorch failed in 5 of 5 launches: compile_failed: InductorError: g++ was not found"
    );
}

#[test]
fn tokens_that_change_from_launch_to_launch_are_doubted() {
    let other = |l: &mut Launch| {
        if l.index == 1 {
            l.prompts.iter_mut().for_each(|run| run.tokens_hash = Some("other".into()));
        }
    };
    assert_eq!(doubts_when(other), ["nondeterministic"]);
}

#[test]
fn the_token_at_which_an_engine_leaves_the_reference_is_reported() {
    let record = summarized(record());
    let found: Vec<_> = record.warnings.iter().filter(|w| w.code == "tokens_differ").collect();
    assert_eq!(found.len(), 2);
    assert_eq!(
        found[1].message,
        "candle-stock and pytorch-f32 agree for the first 12 of 64 tokens of chat-16; \
         3 of 3 prompts differ"
    );
}

#[test]
fn every_finding_has_a_code_a_message_and_an_advice() {
    let mut record = record();
    record.run.complete = false;
    for warning in summarized(record).warnings {
        assert!(!warning.code.is_empty() && !warning.message.is_empty());
        assert!(!warning.advice.is_empty(), "{}", warning.code);
        assert!(!warning.message.ends_with('.') && !warning.advice.ends_with('.'));
    }
}

#[test]
fn the_reading_tells_faster_slower_and_failed() {
    assert_eq!(
        reading(&summarized(record())),
        [
            "candle decodes 10.1 times as fast as pytorch-f32 (95 % interval 9.96–10.2); \
             candle-stock decodes 5.77 times as fast (too few launches for an interval).",
            "candle loads 118 times as fast; its cold start to the first token is 45.5 times as \
             fast.",
            "candle peaks at 1.02 GB of memory, pytorch-f32 at 5.61 GB.",
            "At 38.4 tok/s candle uses 92 % of the read bandwidth of 33.4 GB/s around its \
             launches; the ceiling for this file and these contexts is 41.6 tok/s.",
            "pytorch failed (compile_failed): InductorError: g++ was not found.",
        ]
    );
    let mut record = record();
    summarize_against(&mut record, "candle").unwrap();
    let slower = &reading(&record)[0];
    assert!(slower.contains("pytorch-f32 decodes 0.0992 times as fast"), "{slower}");
}

#[test]
fn a_difference_that_is_not_resolved_is_not_claimed() {
    let twin = Engine { label: "pytorch", ..CANDLE };
    let record = Record { arms: vec![arm(&CANDLE, 5), arm(&twin, 5)], ..empty() };
    let sentences = reading(&summarized(record));
    assert_eq!(
        sentences[0],
        "No difference in decode speed was resolved between pytorch and candle."
    );
    assert_eq!(
        sentences[1],
        "candle: no difference in load time was resolved; no difference in cold start was resolved."
    );
    assert_eq!(sentences.last().unwrap(), "The engines gave the same tokens for all 3 prompts.");
}

#[test]
fn one_arm_is_read_without_a_comparison() {
    let alone = |n| reading(&summarized(Record { arms: vec![arm(&CANDLE, n)], ..empty() }));
    assert_eq!(
        alone(5)[0],
        "candle decodes at 38.4 tok/s (95 % interval 38.0–38.8 over 5 launches)."
    );
    assert_eq!(alone(1)[0], "candle decodes at 38.4 tok/s (one launch, no interval).");
    assert!(alone(1)[1].starts_with("It loads in 41.3 ms; its first token comes 212 ms after"));
}

#[test]
fn a_record_without_good_launches_has_only_its_failures_to_read() {
    let record = Record { arms: vec![failed_arm("pytorch", 1)], ..empty() };
    assert_eq!(reading(&summarized(record)).len(), 1);
    assert!(reading(&summarized(empty())).is_empty());
}

#[test]
fn engines_of_other_precision_are_named_unless_their_tokenizers_alone_ran() {
    let of_texts = summarized(super::testing::encoding());
    assert!(message(&of_texts, "unequal_precision").contains("candle:b8"));
    let mut tokenized = super::testing::encoding();
    for launch in tokenized.arms.iter_mut().flat_map(|arm| &mut arm.launches) {
        launch.metrics.insert(Metric::Tokenize, 0.002);
    }
    let tokenized = summarized(tokenized);
    assert_eq!(message(&tokenized, "unequal_precision"), "");
    assert!(reading(&tokenized)[0].contains("tokenizes 2.00 times as many texts"));
}
