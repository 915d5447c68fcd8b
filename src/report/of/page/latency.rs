//! The time per token: its distribution, its course over a generation, and the first generation of
//! a process.

use super::names::Names;
use crate::analysis::front::front;
use crate::analysis::latency::{self, Step};
use crate::metric::Unit;
use crate::number::Scale;
use crate::record::{Arm, Record};
use crate::report::document::{Block, Document, Level};
use crate::report::plot::{
    Axis, Field, Look, Plot, Point, Reach, Row, Rows, Series, Shape, Steps, Value,
};

/// More lines than this cannot be told apart.
pub const MOST_LINES: usize = 6;
/// Places along a line.
const PLACES: usize = 64;
const QUANTILES: [&str; 7] = ["p5", "p25", "p50", "p75", "p95", "p99", "max"];

pub fn add(document: &mut Document, record: &Record, names: &Names) {
    let Some(distribution) = distribution(record, names) else { return };
    document.push(Block::Heading(Level::Part, "Time per token".into()));
    document.push(Block::Plot(distribution));
    let chosen = chosen(record);
    let left_out = match chosen.len() < record.arms.len() {
        true => format!(
            "; {} of {} points are drawn, those of the front first",
            chosen.len(),
            record.arms.len()
        ),
        false => String::new(),
    };
    let over_tokens = curve(
        "Over the tokens of a generation",
        format!(
            "time from the token before: median of the measured generations, in a band from the \
             fastest to the slowest launch{left_out}"
        ),
        &chosen,
        names,
        |arm| latency::over_tokens(arm, PLACES),
    );
    let cold = curve(
        "Warm-up: the first generation of a process",
        format!(
            "time from the token before, with nothing warmed up: median of the launches, in a band \
             from the fastest to the slowest{left_out}"
        ),
        &chosen,
        names,
        |arm| latency::cold(arm, PLACES),
    );
    document.blocks.extend([over_tokens, cold].into_iter().flatten().map(Block::Plot));
}

pub fn distribution(record: &Record, names: &Names) -> Option<Plot> {
    let of = |arm: &Arm| Some((arm_row(arm, names), latency::gap_quantiles(arm)?));
    let found: Vec<_> = record.arms.iter().filter_map(of).collect();
    let values = found.iter().flat_map(|(_, quantiles)| quantiles.iter().flatten().map(|s| s.0));
    let scale = Scale::of(Unit::Seconds, values.collect::<Vec<f64>>().into_iter());
    let rows: Vec<Row> = found
        .iter()
        .map(|((name, hue), quantiles)| Row {
            name: name.clone(),
            hue: *hue,
            best: false,
            value: Value::Spread(quantiles.iter().map(|q| q.map(|s| s.0)).collect()),
        })
        .collect();
    (!rows.is_empty()).then(|| Plot {
        title: "Distribution of the time between tokens".into(),
        facts: format!(
            "{}, less is better; thin from p5 to p99 (p95 under 100 gaps), thick from p25 to p75, a \
             stroke at the median, hollow at the longest gap; each the mean over launches",
            scale.unit
        ),
        shape: Shape::Rows(Rows {
            axis: Axis::new("ITL", scale, Steps::Log),
            parts: QUANTILES.map(String::from).to_vec(),
            rows,
        }),
    })
}

fn arm_row(arm: &Arm, names: &Names) -> (String, usize) {
    (names.name(arm), names.hue(arm))
}

/// Those of the front first, in their order.
pub fn chosen(record: &Record) -> Vec<&Arm> {
    let on = front(&record.arms);
    let (best, rest): (Vec<_>, Vec<_>) = record
        .arms
        .iter()
        .zip(on)
        .filter(|(arm, _)| !arm.metrics.is_empty())
        .partition(|(_, on)| *on);
    let mut chosen: Vec<&Arm> =
        best.into_iter().chain(rest).take(MOST_LINES).map(|(arm, _)| arm).collect();
    let place = |arm: &Arm| record.arms.iter().position(|other| other.label == arm.label);
    chosen.sort_by_key(|arm| place(arm));
    chosen
}

fn curve(
    title: &str,
    facts: String,
    arms: &[&Arm],
    names: &Names,
    steps: impl Fn(&Arm) -> Vec<Step>,
) -> Option<Plot> {
    let point = |step: &Step| {
        let range = Reach::Range([step.least.0, step.most.0]);
        let reach = if step.least == step.most { Reach::None } else { range };
        Point::new(f64::from(step.token), step.median.0, reach)
    };
    let series: Vec<Series> = arms
        .iter()
        .enumerate()
        .map(|(hue, arm)| Series {
            name: names.name(arm),
            hue,
            look: Look::Curve,
            points: steps(arm).iter().map(point).collect(),
        })
        .filter(|series| series.points.len() > 1)
        .collect();
    let values: Vec<f64> = series.iter().flat_map(|s| &s.points).map(|p| p.y).collect();
    let scale = Scale::of(Unit::Seconds, values.iter().copied());
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    // Where the slowest step is many times the fastest, a linear axis shows nothing else.
    let steps = if most > 8.0 * least { Steps::Log } else { Steps::FromZero };
    let field = Field::new(
        Axis::count("Token of the generation", Steps::Linear),
        Axis::new("Time per token", scale, steps),
        series,
    );
    (!values.is_empty()).then(|| Plot {
        title: title.into(),
        facts,
        shape: Shape::Field(Box::new(field)),
    })
}
