//! The points of a sweep as rows: size, speed, memory and quality side by side, and which of them
//! no other point beats.

use crate::analysis::front::front;
use crate::metric::Metric;
use crate::number::{Form, Scale};
use crate::record::{Arm, Loss, Record};
use crate::report::document::{Block, Cell, Column, Content, Document, Medium, Table, Tone};
use crate::text::clean;

use super::run::{best, measured};

/// In the order of the columns. A metric that no arm has makes none.
pub(super) const METRICS: [Metric; 10] = [
    Metric::DecodeTps,
    Metric::PrefillTps,
    Metric::Ttft,
    Metric::ColdStartTtft,
    Metric::ModelLoad,
    Metric::PeakHostBytes,
    Metric::PeakGpuBytes,
    Metric::TpsPerGb,
    Metric::Mbu,
    Metric::JoulesPerToken,
];

/// Whether the quality of some arm was judged.
pub fn is_sweep(record: &Record) -> bool {
    record.arms.iter().any(|arm| arm.quality.is_some())
}

/// The tables, and how to read them.
pub fn add(document: &mut Document, record: &Record, medium: Medium) {
    document.push(Block::Table(speed_alone(record)));
    document.push(Block::Table(quality(record)));
    let legend = format!("{SPEED}; {}", quality_legend(record));
    document.footnotes(medium, [legend].into_iter().chain(quantizing(record)).collect());
}

/// Speed and memory alone, for a page.
pub fn add_speed(document: &mut Document, record: &Record) {
    document.push(Block::Table(speed_alone(record)));
    document.push(Block::Legend(vec![format!("{SPEED}.")]));
}

/// Without the words beneath.
pub fn speed_alone(record: &Record) -> Table {
    speed(record, &front(&record.arms))
}

/// Quality alone, for a page.
pub fn add_quality(document: &mut Document, record: &Record) {
    document.push(Block::Table(quality(record)));
    let legend = quality_legend(record);
    document.push(Block::Legend([legend].into_iter().chain(quantizing(record)).collect()));
}

fn titled(record: &Record, title: &str) -> Column {
    let points = record.arms.iter().any(|arm| arm.label != arm.engine);
    Column::left(if points { title } else { "Engine" })
}

fn speed(record: &Record, on: &[bool]) -> Table {
    let summaries = |metric: Metric| -> Vec<_> {
        record.arms.iter().map(|arm| arm.metrics.get(&metric)).collect()
    };
    let metrics: Vec<(Metric, Scale)> = METRICS
        .into_iter()
        .filter(|metric| summaries(*metric).iter().any(Option::is_some))
        .map(|metric| {
            let means = summaries(metric).into_iter().flatten().map(|s| s.mean);
            (metric, Scale::of(metric.unit(), means.collect::<Vec<_>>().into_iter()))
        })
        .collect();
    let head = [titled(record, "Point"), Column::left("Front")];
    let sizes = [("File", "GB"), ("Bits per weight", "")];
    let column = |title: &str, note: &str| Column { note: note.into(), ..Column::right(title) };
    let columns = head
        .into_iter()
        .chain(sizes.map(|(title, note)| column(title, note)))
        .chain(metrics.iter().map(|(metric, scale)| column(metric.title(), scale.unit)));
    let mut table = Table { stub: 2, ..Table::new(columns) };
    for (i, arm) in record.arms.iter().enumerate() {
        let model = record.model_of(arm);
        let (bytes, weights) = (model.size_bytes as f64, model.n_params.max(1) as f64);
        let mut row = vec![
            clean(&arm.label).into(),
            Cell::from(if on[i] { "●" } else { "" }).toned(Tone::Best),
            Cell::number(bytes / 1e9, Form::Significant),
            in_memory(arm).unwrap_or(Some(bytes)).map_or_else(Cell::missing, |bytes| {
                Cell::number(8.0 * bytes / weights, Form::Fixed(2))
            }),
        ];
        for (metric, scale) in &metrics {
            let of = summaries(*metric);
            let cell = of[i].map_or_else(Cell::missing, |s| Cell::from(measured(s, *scale)));
            let is_best = best(metric.better(), &of) == Some(i);
            row.push(cell.toned(if is_best { Tone::Best } else { Tone::Plain }));
        }
        table.push(row);
    }
    table
}

/// For an arm whose engine quantizes the weights itself: the bytes that it holds of them, if it
/// accounts for them.
fn in_memory(arm: &Arm) -> Option<Option<f64>> {
    arm.quality.as_ref()?.reference_engine.as_ref()?;
    let mut books = arm.launches.iter().map(|launch| &launch.memory.book);
    let held = books.find_map(|b| Some(b.weights_mapped_bytes? + b.weights_private_bytes?));
    Some(held.map(|bytes| bytes as f64))
}

fn quality(record: &Record) -> Table {
    let head = [titled(record, "Quality")];
    let titles = [
        "PPL",
        "ln PPL ratio",
        "KL mean",
        "KL median",
        "KL p90",
        "KL p99",
        "KL p99.9",
        "Top-1",
        "RMS Δp",
    ];
    let mut table =
        Table { stub: 1, ..Table::new(head.into_iter().chain(titles.map(Column::right))) };
    let mut floors: Vec<(String, Loss)> = Vec::new();
    for arm in &record.arms {
        let Some(quality) = &arm.quality else {
            let missing = titles.map(|_| Cell::missing());
            table.push([clean(&arm.label).into()].into_iter().chain(missing).collect());
            continue;
        };
        let ppl = Cell::number(quality.ppl, Form::Fixed(3));
        let row = match &quality.loss {
            Some(loss) => losses(loss),
            None => ["reference".into()]
                .into_iter()
                .chain((2..titles.len()).map(|_| Cell::missing()))
                .collect(),
        };
        table.push([clean(&arm.label).into(), ppl].into_iter().chain(row).collect());
        if let Some(floor) = &quality.floor {
            let name = format!("{}, noise floor", clean(&arm.engine));
            if !floors.iter().any(|(known, _)| *known == name) {
                floors.push((name, floor.clone()));
            }
        }
    }
    for (name, floor) in floors {
        let row = [name.into(), Cell::missing()].into_iter().chain(losses(&floor));
        table.push(row.map(|cell: Cell| cell.toned(Tone::Soft)).collect());
    }
    table
}

/// The cells behind the perplexity.
fn losses(loss: &Loss) -> Vec<Cell> {
    let ratio = match loss.ln_ppl_ratio_se {
        Some(se) => format!("{:+.5} ± {se:.5}", loss.ln_ppl_ratio),
        None => format!("{:+.5}", loss.ln_ppl_ratio),
    };
    let kl = |x: f64| Cell::number(x, Form::Scientific(2));
    let mean = match loss.kl_se {
        Some(se) => {
            let number = |x: f64, places| Content::Number(x, Form::Scientific(places));
            Content::Joined(vec![number(loss.kl.mean, 2), number(se, 0)], " ± ").into()
        }
        None => kl(loss.kl.mean),
    };
    let k = &loss.kl;
    let quantiles = [k.median, k.p90, k.p99, k.p999].map(kl);
    let shares = [loss.top1, loss.rms_delta_p].map(|x| Cell::number(x, Form::Percent(2)));
    [ratio.into(), mean].into_iter().chain(quantiles).chain(shares).collect()
}

/// Beneath the first table.
const SPEED: &str = "● no other point is as good in decode, KL and memory and better in one of them \
     beyond the noise; ± half of the 95 % interval over launches";

fn quality_legend(record: &Record) -> String {
    let Some(quality) = record.arms.iter().find_map(|arm| arm.quality.as_ref()) else {
        return String::new();
    };
    format!(
        "± of quality: the standard error over windows; KL: of the next token's distribution from \
         that on {}, in nats, over {} positions in {} windows of the text {}; noise floor: the \
         reference against itself, perturbed by the size of its rounding: smaller differences mean \
         nothing.",
        clean(&quality.reference),
        quality.positions,
        quality.windows,
        clean(&quality.text)
    )
}

/// What is different about engines that quantize the weights themselves.
fn quantizing(record: &Record) -> Option<String> {
    let mut each: Vec<String> = Vec::new();
    for arm in &record.arms {
        let Some(quality) = &arm.quality else { continue };
        let Some(reference) = &quality.reference_engine else { continue };
        let [engine, reference, quant] =
            [&arm.engine, reference, &quality.reference].map(|text| clean(text));
        let line = format!(
            "{engine} quantizes the weights of the file itself: KL from {reference} on {quant}"
        );
        if !each.contains(&line) {
            each.push(line);
        }
    }
    (!each.is_empty()).then(|| format!("{}; bits per weight as held in memory.", each.join("; ")))
}
