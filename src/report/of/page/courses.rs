//! Speed over what differs among the points and prompts of a record: decode over depth, prefill over
//! length, both over threads, with what the machine would allow drawn in.

use super::load;
use super::names::Names;
use super::speed::value;
use crate::analysis::sustained::{Stretch, stretches};
use crate::analysis::{batching, ceiling};
use crate::device::Device;
use crate::metric::Metric;
use crate::number::Scale;
use crate::record::{Arm, Record, WorkloadPrompt};
use crate::report::document::{Block, Document, Level};
use crate::report::of::page::latency::{MOST_LINES, chosen};
use crate::report::plot::{Axis, Field, Look, Plot, Point, Reach, Series, Shape, Steps};

pub fn add(document: &mut Document, record: &Record, names: &Names) {
    let plots = plots(record, names);
    if plots.is_empty() {
        return;
    }
    document.push(Block::Heading(Level::Part, "Scaling".into()));
    document.blocks.extend(plots.into_iter().map(Block::Plot));
}

pub fn plots(record: &Record, names: &Names) -> Vec<Plot> {
    let prompts = [decode_over_depth(record, names), prefill_over_length(record, names)];
    let points = AXES.iter().flat_map(|axis| over_points(record, names, axis));
    let prompts = prompts.into_iter().flatten().chain(load::plots(record, names));
    prompts.chain(points).chain(over_minutes(record, names)).collect()
}

fn decode_over_depth(record: &Record, names: &Names) -> Option<Plot> {
    over_prompts(
        record,
        names,
        &OverPrompts {
            metric: Metric::DecodeTps,
            title: "Decode over the depth of the context",
            x: "Positions in the cache before the prompt",
            bound: "what the read bandwidth around the launches would allow for weights and cache \
                    (MBU 100 %)",
            place: |prompt| prompt.depth,
            rest: |prompt| (prompt.n_prompt, prompt.n_gen),
            zero: true,
        },
        |arm, prompt| ceiling::decode(arm, &prompt.id),
    )
}

fn prefill_over_length(record: &Record, names: &Names) -> Option<Plot> {
    over_prompts(
        record,
        names,
        &OverPrompts {
            metric: Metric::PrefillTps,
            title: "Prefill over the length of the prompt",
            x: "Tokens of the prompt",
            bound: "what reading all weights once, and the measured arithmetic, would allow",
            place: |prompt| prompt.n_prompt,
            rest: |prompt| (prompt.depth, 0),
            zero: false,
        },
        |arm, prompt| Some(ceiling::prefill(record, arm, prompt.n_prompt)?.least()),
    )
}

/// A metric of prompts over a property of theirs.
struct OverPrompts {
    metric: Metric,
    title: &'static str,
    x: &'static str,
    /// What the broken lines are.
    bound: &'static str,
    place: fn(&WorkloadPrompt) -> u32,
    /// What the prompts of one line have in common.
    rest: fn(&WorkloadPrompt) -> (u32, u32),
    /// Both axes begin at zero; otherwise they are logarithmic.
    zero: bool,
}

fn over_prompts(
    record: &Record,
    names: &Names,
    of: &OverPrompts,
    ceiling: impl Fn(&Arm, &WorkloadPrompt) -> Option<f64>,
) -> Option<Plot> {
    let mut prompts: Vec<&WorkloadPrompt> = record.workload.prompts.iter().collect();
    prompts.sort_by_key(|prompt| (of.place)(prompt));
    let mut lines: Vec<(u32, u32)> = prompts.iter().map(|p| (of.rest)(p)).collect();
    lines.sort_unstable();
    lines.dedup();
    let arms = chosen(record);
    let mut series = Vec::new();
    let mut bounds: Vec<Series> = Vec::new();
    for (hue, arm) in arms.iter().enumerate() {
        for rest in &lines {
            let here = || prompts.iter().filter(|prompt| (of.rest)(prompt) == *rest);
            let point = |prompt: &&WorkloadPrompt| {
                let (y, across) = value(arm.prompt_metrics.get(&prompt.id)?, of.metric)?;
                Some(Point::new(f64::from((of.place)(prompt)), y, across))
            };
            let points: Vec<Point> = here().filter_map(point).collect();
            let name = names.name(arm);
            let name =
                if lines.len() > 1 { format!("{name}, {}+{}", rest.0, rest.1) } else { name };
            let bound = |prompt: &&WorkloadPrompt| {
                let y = ceiling(arm, prompt)?;
                Some(Point::new(f64::from((of.place)(prompt)), y, Reach::None))
            };
            let of_file = format!("{} allows", record.model_of(arm).quant);
            let known = bounds.iter().any(|b| b.name == of_file);
            let line: Vec<Point> = here().filter_map(bound).collect();
            if is_course(&line) && !known {
                let look = Look::Bound;
                bounds.push(Series { name: of_file, hue, look, points: line });
            }
            if is_course(&points) {
                series.push(Series { name, hue, look: Look::Line, points });
            }
        }
    }
    if let [bound] = &mut bounds[..] {
        bound.name = "the machine allows".into();
    }
    let values = series.iter().flat_map(|s| &s.points).map(|p| p.y).collect::<Vec<f64>>();
    let scale = Scale::of(of.metric.unit(), values.into_iter());
    let [x, y] = match of.zero {
        true => [Steps::FromZero, Steps::FromZero],
        false => [Steps::Log, Steps::Log],
    };
    let none = series.is_empty();
    let bound = match bounds.is_empty() {
        true => String::new(),
        false => format!("; broken: {}", of.bound),
    };
    series.extend(bounds);
    let field = Field::new(Axis::count(of.x, x), Axis::new(of.metric.title(), scale, y), series);
    let facts = format!("{}, each with its 95 % interval{bound}", scale.unit);
    (!none).then(|| Plot { title: of.title.into(), facts, shape: Shape::Field(Box::new(field)) })
}

/// Whether the points have more than one place.
fn is_course(points: &[Point]) -> bool {
    points.first().is_some_and(|first| points.iter().any(|p| p.x != first.x))
}

/// A property of points that may differ, and what is drawn over it.
struct PointAxis {
    title: &'static str,
    of: fn(&Arm) -> Option<u32>,
    /// The other such property, which the points of a line share.
    other: fn(&Arm) -> Option<u32>,
    /// Both axes are logarithmic; otherwise they begin at zero.
    log: bool,
    lines: &'static [Line],
}

/// A figure of points.
struct Line {
    title: &'static str,
    metric: Metric,
    of: fn(&Arm) -> Option<(f64, Reach)>,
    /// What the machine would allow.
    bound: Option<fn(&Record, &Arm) -> Option<f64>>,
}

const DECODE: Line = Line {
    title: "Decode",
    metric: Metric::DecodeTps,
    of: |arm| value(&arm.metrics, Metric::DecodeTps),
    bound: None,
};
const PREFILL: Line = Line {
    title: "Prefill",
    metric: Metric::PrefillTps,
    of: |arm| value(&arm.metrics, Metric::PrefillTps),
    bound: None,
};
const TOGETHER: Line = Line {
    title: "Decode of all sequences together",
    metric: Metric::DecodeTps,
    of: |arm| {
        let (mean, ends) = batching::together(arm)?;
        Some((mean, Reach::half(ends.map(|[low, high]| (high - low) / 2.0))))
    },
    bound: Some(batching::ceiling),
};

const AXES: [PointAxis; 2] = [
    PointAxis {
        title: "Threads",
        of: |arm| arm.point.threads,
        other: |arm| arm.point.batch,
        log: false,
        lines: &[DECODE, PREFILL],
    },
    PointAxis {
        title: "Batch",
        of: |arm| Some(arm.point.batch.unwrap_or(1)),
        other: |arm| arm.point.threads,
        log: true,
        lines: &[TOGETHER, DECODE],
    },
];

/// Engine, quantization, device, and threads or batch.
type Group<'a> = (&'a str, &'a str, Option<Device>, Option<u32>);

fn over_points(record: &Record, names: &Names, axis: &PointAxis) -> Vec<Plot> {
    let places: Vec<u32> = record.arms.iter().filter_map(axis.of).collect();
    if places.first().is_none_or(|first| places.iter().all(|place| place == first)) {
        return Vec::new();
    }
    axis.lines.iter().filter_map(|line| over_axis(record, names, axis, line)).collect()
}

fn over_axis(record: &Record, names: &Names, axis: &PointAxis, line: &Line) -> Option<Plot> {
    let mut groups: Vec<(Group<'_>, Series, Series)> = Vec::new();
    for arm in &record.arms {
        let (Some(place), Some((y, across))) = ((axis.of)(arm), (line.of)(arm)) else { continue };
        let p = &arm.point;
        let group = (p.engine.as_str(), p.quant.as_str(), p.device, (axis.other)(arm));
        let at = match groups.iter().position(|(known, ..)| *known == group) {
            Some(at) => at,
            None => {
                let (name, hue) = (names.of_group(record, arm), groups.len());
                let bound = format!("{name} allows");
                let series = |name, look| Series { name, hue, look, points: Vec::new() };
                groups.push((group, series(name, Look::Line), series(bound, Look::Bound)));
                groups.len() - 1
            }
        };
        let (_, course, bound) = &mut groups[at];
        course.points.push(Point::new(f64::from(place), y, across));
        let ceiling = line.bound.and_then(|bound| bound(record, arm));
        let point = |y| Point::new(f64::from(place), y, Reach::None);
        bound.points.extend(ceiling.map(point));
    }
    groups.retain(|(_, course, _)| is_course(&course.points));
    groups.truncate(MOST_LINES);
    let (courses, bounds): (Vec<Series>, Vec<Series>) =
        groups.into_iter().map(|(_, course, bound)| (course, bound)).unzip();
    let bounds: Vec<Series> = bounds.into_iter().filter(|b| is_course(&b.points)).collect();
    let bounded = !bounds.is_empty();
    let mut series: Vec<Series> = courses.into_iter().chain(bounds).collect();
    series.iter_mut().for_each(|s| s.points.sort_by(|a, b| a.x.total_cmp(&b.x)));
    let values: Vec<f64> = series.iter().flat_map(|s| &s.points).map(|p| p.y).collect();
    let scale = Scale::of(line.metric.unit(), values.iter().copied());
    let steps = if axis.log { Steps::Log } else { Steps::FromZero };
    let field = Field::new(
        Axis::count(axis.title, steps.clone()),
        Axis::new(line.title, scale, steps),
        series,
    );
    let bound = match bounded {
        true => "; broken: what the measured bandwidth and arithmetic would allow",
        false => "",
    };
    (!values.is_empty()).then(|| Plot {
        title: format!("{} over {}", line.title, axis.title.to_lowercase()),
        facts: format!("{}, each with its 95 % interval{bound}", scale.unit),
        shape: Shape::Field(Box::new(field)),
    })
}

/// The speed while an arm was kept busy for minutes.
fn over_minutes(record: &Record, names: &Names) -> Option<Plot> {
    let point = |s: &Stretch| Point::new((s.from_s + s.to_s) / 120.0, s.decode_tps, Reach::None);
    let busy = record.arms.iter().filter_map(|arm| {
        let run = arm.launches.iter().find_map(|launch| launch.sustained.as_ref())?;
        Some((names.name(arm), stretches(run)))
    });
    let series: Vec<Series> = busy
        .enumerate()
        .map(|(hue, (name, of))| Series {
            name,
            hue,
            look: Look::Curve,
            points: of.iter().map(point).collect(),
        })
        .filter(|series| is_course(&series.points))
        .collect();
    let values: Vec<f64> = series.iter().flat_map(|s| &s.points).map(|p| p.y).collect();
    let scale = Scale::of(Metric::DecodeTps.unit(), values.iter().copied());
    let minutes = Scale { unit: "min", factor: 1.0, digits: Some(1) };
    let field = Field::new(
        Axis::new("Time", minutes, Steps::FromZero),
        Axis::new(Metric::DecodeTps.title(), scale, Steps::FromZero),
        series,
    );
    (!values.is_empty()).then(|| Plot {
        title: "Decode over minutes".into(),
        facts: format!("{}, stretch by stretch, while the engine was kept busy", scale.unit),
        shape: Shape::Field(Box::new(field)),
    })
}
