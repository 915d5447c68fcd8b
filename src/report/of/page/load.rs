//! Latency over throughput as the load on servers rises: where a server stops delivering more and
//! only lets its users wait.

use super::names::Names;
use super::speed::value;
use crate::metric::Metric;
use crate::number::Scale;
use crate::record::{Arm, Record};
use crate::report::plot::{Axis, Field, Look, Plot, Point, Series, Shape, Steps};

/// What a user waits for.
const WAITS: [Metric; 2] = [Metric::Ttft, Metric::Tpot];

/// A curve of each wait, where there are several levels of load.
pub fn plots(record: &Record, names: &Names) -> Vec<Plot> {
    WAITS.iter().filter_map(|wait| curve(record, names, *wait)).collect()
}

fn curve(record: &Record, names: &Names, wait: Metric) -> Option<Plot> {
    let levels = levels(record);
    let point = |arm: &Arm, level: &String| -> Option<(f64, Point)> {
        let of_level = arm.prompt_metrics.get(level)?;
        let (throughput, _) = value(of_level, Metric::OutputThroughput)?;
        let (seconds, across) = value(of_level, wait)?;
        Some((throughput, Point::new(throughput, seconds, across)))
    };
    let lines = record.arms.iter().map(|arm| {
        let points: Vec<_> = levels.iter().filter_map(|level| point(arm, level)).collect();
        (names.name(arm), points)
    });
    let lines: Vec<_> = lines.filter(|(_, points)| points.len() > 1).collect();
    let all = || lines.iter().flat_map(|(_, points)| points);
    all().next()?;
    let across = Scale::of(Metric::OutputThroughput.unit(), all().map(|(x, _)| *x));
    let up = Scale::of(wait.unit(), all().map(|(_, point)| point.y));
    let series = lines.into_iter().enumerate().map(|(hue, (name, points))| Series {
        name,
        hue,
        look: Look::Line,
        points: points.into_iter().map(|(_, point)| point).collect(),
    });
    let field = Field::new(
        Axis::new(Metric::OutputThroughput.title(), across, Steps::FromZero),
        Axis::new(wait.title(), up, Steps::FromZero),
        series.collect(),
    );
    Some(Plot {
        title: format!("{} over throughput", wait.title()),
        facts: format!(
            "{}, mean of each level ({}) with its 95 % interval; to the right and down is better",
            up.unit,
            levels.join(", ")
        ),
        shape: Shape::Field(Box::new(field)),
    })
}

/// The levels of load in their order; none in a record of other work.
fn levels(record: &Record) -> Vec<String> {
    let launches = record.arms.iter().flat_map(|arm| &arm.launches);
    let mut levels: Vec<String> = Vec::new();
    for run in launches.flat_map(|launch| &launch.prompts).filter(|run| run.load.is_some()) {
        if !levels.contains(&run.id) {
            levels.push(run.id.clone());
        }
    }
    levels
}
