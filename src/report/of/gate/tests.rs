//! Tests of a gate's report in each format.

use super::*;
use crate::analysis::gate::{faults, judge_arms};
use crate::analysis::requirement;
use crate::analysis::sides::Origin;
use crate::analysis::testing::{self, CANDLE, Engine};
use crate::analysis::verdict::Rules;
use crate::record::Arm;

fn arms(decode: f64) -> (Arm, Arm) {
    let other = Engine { decode_tps: CANDLE.decode_tps * decode, ..CANDLE };
    let named =
        |engine: &Engine, label: &str| Arm { label: label.into(), ..testing::arm(engine, 10) };
    (named(&CANDLE, "baseline"), named(&other, "candidate"))
}

fn gate(decode: f64) -> Gate {
    let (baseline, candidate) = arms(decode);
    let rules = Rules::default();
    let mut record = testing::empty();
    record.arms = vec![baseline.clone(), candidate.clone()];
    crate::analysis::summarize(&mut record);
    let side = |what: &str, arm: &Arm| Some(Side::new(what.into(), None, None, arm));
    let ratio = ["candidate/baseline decode_tps >= 0.9".parse().unwrap()];
    Gate {
        judgement: Some(judge_arms(&baseline, &candidate, Origin::OneSession, &rules).unwrap()),
        vanished: faults(&baseline, &candidate, &rules, false).vanished,
        baseline: side("revision 1f2e3d4c5b6a (main)", &baseline),
        candidate: side("this llm-bench", &candidate),
        requirements: requirement::check(&record, &ratio, 0.05).unwrap(),
        ended: Some("every deciding metric is known to half its margin".into()),
        records: vec!["results/gate_20260301_101530.json".into()],
        ..Gate::new(&record)
    }
    .conclude(None)
}

#[test]
fn a_summary_tells_the_verdict_first_and_then_what_it_rests_on() {
    insta::assert_snapshot!(markdown(&gate(0.8), "Performance gate"));
}

#[test]
fn the_terminal_shows_change_interval_verdict_p_n_and_mde_and_ends_with_the_verdict() {
    insta::assert_snapshot!(table(&gate(1.0), Style { color: false, width: 120 }));
}

#[test]
fn json_has_the_outcome_its_exit_code_and_no_nulls() {
    let json = json(&gate(0.8));
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (value["outcome"].as_str(), value["exit_code"].as_u64()),
        (Some("regressed"), Some(1))
    );
    assert!(!json.contains("null"), "{json}");
}

#[test]
fn a_comment_begins_with_a_mark_that_its_title_decides() {
    let body = comment(&gate(1.0), "Performance gate");
    assert!(body.starts_with("<!-- llm-bench gate: Performance gate -->\n### Performance gate: "));
    assert_ne!(comment_mark("CPU"), comment_mark("GPU"));
    assert_eq!(comment_mark("--> <script>"), "<!-- llm-bench gate:  script -->");
}

#[test]
fn text_from_a_record_is_no_markup() {
    let mut gate = gate(1.0);
    gate.setting.cpu_model = "<img src=x> @you\u{1b}[31m |".into();
    let text = markdown(&gate, "x | <b>");
    assert!(!text.contains("<img") && !text.contains("<b>") && !text.contains('\u{1b}'), "{text}");
    assert!(!text.contains(" @you"), "{text}");
}

#[test]
fn without_color_no_escape_is_written_and_with_it_the_verdict_is_bold() {
    let style = |color| Style { color, width: 100 };
    assert!(!table(&gate(0.8), style(false)).contains('\u{1b}'));
    assert!(table(&gate(0.8), style(true)).contains("\u{1b}[1m"));
}
