//! The findings about a machine, and what its hardware allows.

use crate::measure::doctor::{Diagnosis, Finding, State};
use crate::number::{count, three_digits};
use crate::report::document::{Block, Document, Level, Mark, Medium, Remark, Remarks, Tone};
use crate::report::{Format, Style, write};
use crate::text::clean;

/// Writes a diagnosis in one of the formats; ends with a newline.
///
/// # Panics
/// For CSV, which cannot hold findings.
pub fn render(diagnosis: &Diagnosis, format: Format, style: Style) -> String {
    match format {
        Format::Json => write::json::whole(diagnosis),
        _ => write::for_readers(format, style, |medium| document(diagnosis, medium)),
    }
}

fn document(d: &Diagnosis, medium: Medium) -> Document {
    let mut document = Document::default();
    if medium == Medium::Page {
        document.push(Block::Heading(Level::Report, "Is this machine fit to measure on?".into()));
    }
    document.remarks(Remarks { title: "", items: d.checks.iter().map(remark).collect() });
    let of = |state| d.checks.iter().filter(|f| f.state == state).count();
    document.push(Block::Text(format!(
        "warnings: {}; unknown: {}; ok: {}; measured with {}",
        of(State::Warn),
        of(State::Unknown),
        of(State::Ok),
        count(d.threads as usize, "thread")
    )));
    for r in &d.rooflines {
        document.push(Block::Text(format!(
            "{}: at most {} tok/s of decode (read bandwidth), {} tok/s of prefill ({} arithmetic)",
            r.model,
            three_digits(r.decode_tps),
            three_digits(r.prefill_tps),
            r.format.name()
        )));
    }
    for r in &d.card_rooflines {
        let prefill = r.prefill_tps.map_or(String::new(), |tps| {
            format!(", {} tok/s of prefill (f16 arithmetic)", three_digits(tps))
        });
        document.push(Block::Text(format!(
            "{} on {}: at most {} tok/s of decode (read bandwidth){prefill}",
            r.model,
            r.device,
            three_digits(r.decode_tps)
        )));
    }
    document
}

fn remark(finding: &Finding) -> Remark {
    let (state, tone) = match finding.state {
        State::Ok => ("ok", Tone::Good),
        State::Warn => ("warn", Tone::Doubt),
        State::Unknown => ("?", Tone::Soft),
    };
    Remark {
        mark: Mark::State(state, tone),
        about: Some(finding.check),
        text: clean(&finding.found),
        advice: finding.advice.as_deref().map(clean),
    }
}
