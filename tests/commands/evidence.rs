//! What a verdict must not pass over: records with something missing, repeated or foreign, through
//! `gate --baseline A --candidate B` and `compare --exit-code` (tests/data/verdict).

use std::process::Output;

use crate::support::{output, repository, text};

fn file(case: &str, side: &str) -> String {
    let path = repository("tests/data/verdict").join(format!("{case}.{side}.json"));
    path.to_str().unwrap().into()
}

fn gate_of([a, b]: [String; 2], more: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let gate = ["gate", "--baseline", &a, "--candidate", &b];
    output(dir.path(), &[&gate[..], more].concat())
}

fn gate(case: &str, more: &[&str]) -> (Option<i32>, String) {
    let output = gate_of([file(case, "a"), file(case, "b")], more);
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn compare(case: &str, more: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (file(case, "a"), file(case, "b"));
    let output = output(dir.path(), &[&["compare", &a, &b, "--exit-code"], more].concat());
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn what_is_missing_on_one_side_never_passes_and_is_named() {
    for (case, word) in [
        ("metric_in_2_of_8_candidate_launches", "in 2 of 8 launches"),
        ("metric_missing_in_candidate", "the candidate has no"),
        ("metric_renamed", "the candidate has no"),
        ("arm_lost_in_candidate", "candle-f32"),
    ] {
        for (code, said) in [gate(case, &[]), compare(case, &[])] {
            assert!(code == Some(4) || code == Some(1), "{case}: {code:?}: {said}");
            assert!(said.split_whitespace().collect::<Vec<_>>().join(" ").contains(word), "{said}");
        }
        let (_, json) = compare(case, &["-o", "json"]);
        // The engine that both measured is judged; the files are not.
        let whole = case != "arm_lost_in_candidate";
        assert!(!(whole && json.contains("\"not_regressed\"")), "{case}: {json}");
        assert!(json.contains("\"comparable\": false"), "{case}: {json}");
    }
}

#[test]
fn an_asked_metric_that_neither_side_has_is_not_comparable() {
    let asked = ["--primary", "decode_tps,prefill_tps"];
    for (code, said) in [
        gate("asked_primary_missing_in_both", &asked),
        compare("asked_primary_missing_in_both", &asked),
    ] {
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains("neither side has"), "{said}");
    }
}

#[test]
fn launches_that_are_there_twice_are_not_comparable() {
    for case in ["same_file_twice", "duplicated_arm_second_slow", "duplicated_launches_same_index"]
    {
        for (code, said) in [gate(case, &[]), compare(case, &[])] {
            assert_eq!(code, Some(4), "{case}: {said}");
        }
    }
    let one = file("zen5_baseline", "a");
    let output = gate_of([one.clone(), one], &[]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stdout));
    assert!(text(&output.stdout).contains("the same launches"), "{}", text(&output.stdout));
}

#[test]
fn failed_launches_are_judged_by_their_counts() {
    let (code, said) = gate("one_candidate_launch_failed", &[]);
    assert_ne!(code, Some(1), "one flaky launch in eight: {said}");
    assert!(said.contains("failed in 1 of 8"), "it is shown: {said}");
    for (code, said) in
        [gate("six_of_eight_failed_on_both", &[]), compare("six_of_eight_failed_on_both", &[])]
    {
        assert_ne!(code, Some(0), "{said}");
        assert!(said.contains("6 of 8"), "{said}");
    }
}

#[test]
fn another_machine_is_not_comparable_before_anything_else() {
    let (code, said) = gate("other_cpu_and_a_failed_launch", &[]);
    assert_eq!(code, Some(4), "{said}");
    let pair = [file("zen5_baseline", "a"), file("zen3_candidate", "b")];
    let output = gate_of(pair, &["--engine", "candle"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stdout));
}

#[test]
fn the_point_rule_does_not_say_that_nothing_is_worse_of_a_drop_by_44_percent() {
    let (_, said) = gate("rule_point_n2_minus44", &["--rule", "point", "--primary", "decode_tps"]);
    assert!(!said.contains("none of") && !said.contains("None of"), "{said}");
}

#[test]
fn what_a_few_launches_of_another_session_leave_open_is_not_passed_and_says_how_many_would_do() {
    for case in ["would_do_near_margin", "skew_passed_at_true_10_percent"] {
        for (code, said) in [gate(case, &[]), compare(case, &[])] {
            let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(code, Some(3), "{case}: {said}");
            assert!(words.contains("fewer than 3 earlier sessions"), "{case}: {said}");
            assert!(words.contains("in one session"), "{case}: {said}");
            assert!(words.contains("launches on each side would do"), "{case}: {said}");
        }
    }
}
