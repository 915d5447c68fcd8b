//! Golden reports of a hand-made record, and odd records that must not break a report.

use super::*;
use crate::analysis::testing::{self, CANDLE, CANDLE_STOCK, PYTORCH_F32};
use crate::metric::Metric;
use crate::record::{Arm, Record};

const FORMATS: [Format; 5] =
    [Format::Table, Format::Markdown, Format::Html, Format::Csv, Format::Json];

fn plain(record: &Record, format: Format) -> String {
    render(record, format, Style::PLAIN)
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

/// Arms that are each 10 % slower than the previous one.
fn arms(labels: &[&'static str]) -> Vec<Arm> {
    let engine = |(i, label): (i32, &&'static str)| {
        let slower = 1.1f64.powi(i);
        testing::Engine {
            label,
            decode_tps: CANDLE.decode_tps / slower,
            load_s: CANDLE.load_s * slower,
            peak_bytes: CANDLE.peak_bytes * slower,
            ..CANDLE
        }
    };
    (0..).zip(labels).map(engine).map(|engine| testing::arm(&engine, 3)).collect()
}

#[test]
fn the_table_of_four_arms_is_as_it_was_approved() {
    let table = plain(&testing::record(), Format::Table);
    assert!(widest(&table) <= 100, "{} columns", widest(&table));
    insta::assert_snapshot!("table", table);
}

#[test]
fn the_markdown_of_four_arms_is_as_it_was_approved() {
    insta::assert_snapshot!("markdown", plain(&testing::record(), Format::Markdown));
}

#[test]
fn the_csv_of_four_arms_is_as_it_was_approved() {
    insta::assert_snapshot!("csv", plain(&testing::record(), Format::Csv));
}

/// The record of four arms, two of them profiled.
fn profiled() -> Record {
    let mut record = testing::record();
    let told = [("embedding", 0.01), ("norm", 0.01), ("projections", 0.2), ("attention", 0.1)];
    let told = [&told[..], &[("mlp", 0.5), ("head", 0.15), ("sampling", 0.02)]].concat();
    for launch in &mut record.arms[0].launches {
        launch.prompts.push(testing::profiled(&CANDLE, &told));
    }
    for launch in &mut record.arms[3].launches {
        let told = [("layers", 0.8), ("head", 0.19)];
        launch.prompts.push(testing::profiled(&PYTORCH_F32, &told));
    }
    record
}

const ALL: Sections = Sections { profile: true, timing: true };

#[test]
fn memory_stages_and_generations_are_shown_as_they_were_approved() {
    let mut record = profiled();
    record.arms.iter_mut().for_each(|arm| arm.launches.truncate(1));
    let table = render_with(&record, Format::Table, Style::PLAIN, ALL);
    assert!(widest(&table) <= 100, "{} columns", widest(&table));
    let begin = table.find("Peak memory      ").unwrap();
    let begin = begin + table[begin + 1..].find("\nPeak memory").unwrap();
    insta::assert_snapshot!("sections", &table[begin..table.find("\nReading").unwrap()]);
    let markdown = render_with(&record, Format::Markdown, Style::PLAIN, ALL);
    let begin = markdown.find("\n| Peak memory |  | candle").unwrap();
    let end = markdown.find("\n| candle |  | TTFT").unwrap();
    insta::assert_snapshot!("sections_markdown", &markdown[begin..end]);
}

#[test]
fn the_csv_of_a_profiled_run_has_its_stages() {
    let csv = plain(&profiled(), Format::Csv);
    let line = |start: &str| csv.lines().filter(|l| l.starts_with(start)).count();
    assert_eq!(
        line("candle,candle,llama3-1b,synthetic,Q4_K_M,,profile_decode_mlp_s,s,lower,5,"),
        1
    );
    assert_eq!(line("candle,candle,llama3-1b,synthetic,Q4_K_M,,profile_prefill_other_s,"), 1);
    assert_eq!(line("candle,candle,llama3-1b,synthetic,Q4_K_M,,memory_unaccounted_bytes,B,"), 1);
}

#[test]
fn four_good_arms_fit_beside_each_other_in_100_columns() {
    let mut record = testing::record();
    let compiled = testing::Engine { label: "pytorch", decode_tps: 10.8, ..PYTORCH_F32 };
    record.arms[1] = testing::arm(&CANDLE_STOCK, 5);
    record.arms[2] = testing::arm(&compiled, 5);
    let table = plain(&record, Format::Table);
    assert!(widest(&table) <= 100, "{} columns", widest(&table));
    let decode = table.lines().find(|line| line.starts_with("Decode  ")).unwrap_or_default();
    assert_eq!(decode.matches('×').count(), 3, "{table}");
}

#[test]
fn six_arms_put_their_ratios_beneath_the_values() {
    let labels = ["candle", "candle-stock", "llama.cpp", "pytorch", "pytorch-f32", "onnxruntime"];
    let record = Record { arms: arms(&labels), ..testing::empty() };
    let table = plain(&record, Format::Table);
    assert!(widest(&table) <= 100, "{} columns", widest(&table));
    insta::assert_snapshot!("table_of_six", table);
}

#[test]
fn arms_beyond_the_width_continue_in_a_second_table() {
    let labels = ["a-long-name-of-an-engine-on-cuda", "b", "c", "d", "e", "f"];
    let record = Record { arms: arms(&labels), ..testing::empty() };
    let narrow = render(&record, Format::Table, Style { color: false, width: 60 });
    assert!(widest(&narrow) <= 60, "{} columns\n{narrow}", widest(&narrow));
    assert!(narrow.matches("TTFT, cold start").count() > 1);
}

#[test]
fn one_arm_alone_has_a_table_without_ratios() {
    let record = Record { arms: vec![testing::arm(&CANDLE, 5)], ..testing::empty() };
    let table = plain(&record, Format::Table);
    assert!(table.contains("38.4 ± 0.4"), "{table}");
    assert!(!table.contains('×'), "{table}");
}

#[test]
fn colour_comes_only_when_asked_for_and_changes_no_letter() {
    let record = testing::record();
    let painted = render(&record, Format::Table, Style { color: true, width: 100 });
    assert!(painted.contains('\u{1b}'));
    let plain = plain(&record, Format::Table);
    assert!(!plain.contains('\u{1b}'));
    let words = |text: &str| -> Vec<String> {
        let lines = text.lines().map(crate::text::clean);
        lines.flat_map(|l| l.split_whitespace().map(str::to_string).collect::<Vec<_>>()).collect()
    };
    assert_eq!(words(&painted), words(&plain));
}

#[test]
fn synthetic_weights_are_named_in_every_format() {
    for format in FORMATS {
        let text = plain(&testing::record(), format).to_lowercase();
        assert!(text.contains("synthetic"), "{format:?}");
    }
}

#[test]
fn json_is_the_summarised_record_and_reads_back() {
    let record = testing::record();
    let back: Record = serde_json::from_str(&plain(&record, Format::Json)).unwrap();
    assert_eq!(back, of::run::summarized(&record));
    assert!(!back.comparisons.is_empty() && !back.warnings.is_empty());
}

#[test]
fn a_report_keeps_the_baseline_that_was_chosen() {
    let mut record = testing::record();
    crate::analysis::summarize_against(&mut record, "candle-stock").unwrap();
    let table = plain(&record, Format::Table);
    assert!(table.contains("better than candle-stock"), "{table}");
}

#[test]
fn odd_records_make_short_reports_and_no_panic() {
    let mut nan = testing::record();
    nan.arms[0].launches[0].metrics.insert(Metric::DecodeTps, f64::NAN);
    nan.arms[1].launches[0].metrics.insert(Metric::Ttft, 0.0);
    nan.arms[3].launches[0].metrics.insert(Metric::PeakHostBytes, -1.0);
    let mut hollow = testing::record();
    for arm in &mut hollow.arms {
        for launch in &mut arm.launches {
            launch.metrics.clear();
            launch.prompts.clear();
            launch.error = None;
        }
    }
    hollow.workload.prompts.clear();
    let never_launched = Record { arms: vec![testing::arm(&CANDLE, 0)], ..testing::empty() };
    let all_failed = Record { arms: vec![testing::failed_arm("pytorch", 2)], ..testing::empty() };
    for record in [testing::empty(), nan, hollow, never_launched, all_failed] {
        for format in FORMATS {
            for width in [0, 40, 100, u16::MAX] {
                assert!(render(&record, format, Style { color: true, width }).ends_with('\n'));
            }
        }
    }
}

#[test]
fn text_of_an_engine_cannot_steer_the_terminal_or_break_a_table() {
    let evil = "\u{1b}[2J|evil|\n<script>\u{7}\u{202e}";
    let mut record = testing::record();
    record.model.name = evil.into();
    record.host.cpu_model = evil.into();
    record.arms[0].label = evil.into();
    record.arms[0].notes.push(evil.into());
    record.arms[0].precision.as_mut().unwrap().weights = evil.into();
    record.arms[2].launches[0].error.as_mut().unwrap().message = evil.into();
    record.workload.prompts[0].id = evil.into();
    for format in [Format::Table, Format::Markdown, Format::Html, Format::Csv] {
        let text = plain(&record, format);
        let bad = |c: char| c != '\n' && c.is_control() || c == '\u{202e}';
        assert!(!text.contains(bad), "{format:?}: {text:?}");
    }
    let markdown = plain(&record, Format::Markdown);
    assert!(!markdown.contains("<script>") && markdown.contains("\\|evil\\|"), "{markdown}");
    let html = plain(&record, Format::Html);
    assert!(!html.contains("<script") && html.contains("|evil| &lt;script&gt;"), "{html}");
}

#[test]
fn every_line_of_csv_has_as_many_fields_as_the_header() {
    let mut record = testing::record();
    record.arms[0].label = "a,\"b\"".into();
    let csv = plain(&record, Format::Csv);
    let fields = |line: &str| {
        let mut quoted = false;
        let commas = line.chars().filter(|c| {
            quoted ^= *c == '"';
            *c == ',' && !quoted
        });
        commas.count() + 1
    };
    for line in csv.lines() {
        assert_eq!(fields(line), 26, "{line}");
    }
}

#[test]
fn a_note_that_several_engines_make_is_shown_once() {
    let mut record = testing::record();
    record.arms.iter_mut().for_each(|arm| arm.notes = vec!["weights are mapped".into()]);
    record.arms[0].notes.push("packs its weights".into());
    record.arms[3].notes.push("packs its weights".into());
    let table = plain(&record, Format::Table);
    assert_eq!(table.matches("weights are mapped").count(), 1, "{table}");
    assert!(table.contains("all: weights are mapped"), "{table}");
    assert!(table.contains("candle, pytorch-f32: packs its weights"), "{table}");
}

#[test]
fn arms_without_tokens_in_common_are_still_reported() {
    let mut record = testing::record();
    record.arms = vec![testing::arm(&CANDLE_STOCK, 2), testing::arm(&PYTORCH_F32, 2)];
    for launch in &mut record.arms[0].launches {
        launch.prompts.truncate(1);
    }
    assert!(plain(&record, Format::Table).contains("tokens of chat-16"));
}

#[test]
fn several_results_make_one_page_that_needs_nothing_from_elsewhere() {
    let records = [testing::record(), testing::record()];
    let html = render_all(&records, Format::Html, Style::PLAIN, ALL);
    assert_eq!(html.matches("<!DOCTYPE").count(), 1);
    assert_eq!(html.matches("<h1>llama3-1b").count(), 2);
    assert_eq!(html.matches("<tr>").count(), html.matches("</tr>").count());
    assert!(html.contains("SYNTHETIC WEIGHTS") && html.contains("38.4 ± 0.4"), "{html}");
    for foreign in ["http:", "https:", "src=", "url(", "@import", "<script"] {
        assert!(!html.replace("http://www.w3.org/2000/svg", "").contains(foreign), "{foreign}");
    }
}
