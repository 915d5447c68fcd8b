//! The parts of a report that are shown on request: the use of memory and time, and every
//! generation in order. Produces texts only; the formats set them.

use crate::analysis::{self, DRIFT, Generation, LaunchTiming, OTHER, Phase, Steady};
use crate::metric::Metric;
use crate::number::Form;
use crate::record::{Arm, How, Part, Record, Role};
use crate::report::Sections;
use crate::report::document::{Block, Cell, Column, Content, Document, Medium, Table};
use crate::report::plot::peaks;
use crate::text::clean;
use crate::units::Seconds;

/// A table with sentences beneath.
type Section = (Table, Vec<String>);

/// Adds the requested sections.
pub(super) fn add(document: &mut Document, record: &Record, wanted: Sections, medium: Medium) {
    if wanted.profile {
        put(document, memory(record), medium);
        add_stages(document, record, medium);
    }
    if wanted.timing {
        add_timing(document, record, medium);
    }
}

/// Every part of the peak memory, for a page.
pub(super) fn add_memory(document: &mut Document, record: &Record) {
    put(document, memory(record), Medium::Page);
}

/// Time per token by stage; nothing where none was profiled.
pub(super) fn add_stages(document: &mut Document, record: &Record, medium: Medium) {
    let phases = [Phase::Decode, Phase::Prefill];
    put(document, phases.into_iter().filter_map(|phase| stages(record, phase)), medium);
}

/// Every generation in order.
pub(super) fn add_timing(document: &mut Document, record: &Record, medium: Medium) {
    put(document, record.arms.iter().filter_map(timing), medium);
}

fn put(document: &mut Document, sections: impl IntoIterator<Item = Section>, medium: Medium) {
    for (table, remarks) in sections {
        document.push(Block::Table(table));
        document.footnotes(medium, remarks);
    }
}

/// Columns for title and unit, and one per label.
fn titled(title: &str, labels: impl Iterator<Item = String>) -> Table {
    let columns = [Column::left(title), Column::unit()];
    Table { stub: 2, ..Table::new(columns.into_iter().chain(labels.map(Column::right))) }
}

/// Shares of the peak in whole percent that add up to 100: weights, KV cache, activations, runtime,
/// unaccounted. `None` for an arm without a breakdown.
pub(super) fn memory_shares(arm: &Arm) -> Option<String> {
    const PARTS: [Metric; 5] = [
        Metric::MemoryWeights,
        Metric::MemoryKv,
        Metric::MemoryActivations,
        Metric::MemoryRuntime,
        Metric::MemoryUnaccounted,
    ];
    let bytes = PARTS.map(|metric| arm.metrics.get(&metric).map_or(0.0, |s| s.mean));
    let whole: f64 = bytes.iter().sum();
    arm.metrics.get(&PARTS[4]).filter(|_| whole > 0.0)?;
    let exact = bytes.map(|b| b / whole * 100.0);
    let mut shares = exact.map(f64::floor);
    let left = (100.0 - shares.iter().sum::<f64>()).round() as usize;
    let mut order: Vec<usize> = (0..PARTS.len()).collect();
    order.sort_by(|a, b| (exact[*b] - shares[*b]).total_cmp(&(exact[*a] - shares[*a])));
    order.iter().take(left).for_each(|i| shares[*i] += 1.0);
    Some(shares.map(|s| format!("{s:.0}")).join("/"))
}

fn memory(record: &Record) -> Option<Section> {
    let parts: Vec<_> = record.arms.iter().map(analysis::memory_parts).collect();
    let mut all: Vec<Part> = parts.iter().flatten().map(|p| p.part).collect();
    all.sort();
    all.dedup();
    // Rounds first, so that no "-0.0" appears.
    let megabytes =
        |bytes: f64| Content::Number((bytes / 1e5).round() / 10.0 + 0.0, Form::Fixed(1));
    let mut table = titled("Peak memory", labels(&record.arms));
    let mut push = |title: &str, cells: Vec<Cell>| {
        table.push([title.into(), Cell::unit("MB")].into_iter().chain(cells).collect());
    };
    for part in &all {
        let cell = |of_arm: &Vec<analysis::PartMean>| {
            let found = of_arm.iter().find(|p| p.part == *part)?;
            let bytes = megabytes(found.bytes);
            Some(match found.how {
                How::Computed => Content::Joined(vec![Content::Text("c".into()), bytes], " "),
                How::Measured | How::Remainder => bytes,
            })
        };
        push(part_title(*part), parts.iter().map(|of_arm| cell(of_arm).into()).collect());
    }
    let peak = |parts: &Vec<analysis::PartMean>| {
        let sum: f64 = parts.iter().map(|p| p.bytes).sum();
        Some(sum).filter(|s| *s > 0.0).map(megabytes).into()
    };
    push("= peak", parts.iter().map(peak).collect());
    let negative = |parts: &Vec<analysis::PartMean>| {
        parts.iter().any(|p| p.part == Part::Unaccounted && p.bytes <= -5e4)
    };
    let mut remarks = vec!["c computed from shapes and types; all others measured".to_string()];
    let overlapping = record.arms.iter().zip(&parts).filter(|(_, parts)| negative(parts));
    remarks.extend(overlapping.map(|(arm, _)| {
        format!("{}: unaccounted is negative, so parts overlap by as much", clean(&arm.label))
    }));
    (!all.is_empty()).then_some((table, remarks))
}

fn part_title(part: Part) -> &'static str {
    match part {
        Part::WeightsMapped => "weights, mapped",
        Part::WeightsPrivate => "weights, private",
        Part::KvCache => "KV cache",
        Part::Activations => "activations",
        Part::LoadTemporaries => "temporaries, load",
        Part::GenerationTemporaries => "temporaries, gen.",
        Part::BeforeLoad => "before the load",
        Part::Libraries => "libraries",
        Part::Compiler => "compiler",
        Part::AllocatorFree => "allocator, free",
        Part::Unaccounted => "unaccounted",
    }
}

/// Time per token by stage; decode also has GB/s if the engine reports the bytes.
fn stages(record: &Record, phase: Phase) -> Option<Section> {
    let reported = |arm: &&Arm| !analysis::stages(arm, phase).is_empty();
    let (engines, silent): (Vec<&Arm>, Vec<&Arm>) = record.arms.iter().partition(reported);
    let arms: Vec<_> = engines.iter().map(|arm| analysis::stages(arm, phase)).collect();
    let mut names: Vec<String> = Vec::new();
    let known = analysis::STAGES.iter().map(|s| s.to_string());
    let reported = arms.iter().flatten().map(|s| s.stage.clone());
    for name in known.chain(reported.clone().filter(|s| s != OTHER)).chain([OTHER.to_string()]) {
        if !names.contains(&name) && reported.clone().any(|s| s == name) {
            names.push(name);
        }
    }
    let wholes = arms.iter().map(|arm| arm.iter().map(|s| s.mean.0 * 1e3).sum::<f64>());
    let digits = wholes.reduce(f64::min).map_or(0, decimals);
    // Time, share and rate; the share is aligned with a time beside it.
    let cell = |seconds: f64, share: Content, rate: Option<f64>| {
        let mut parts = vec![(0, Content::Number(seconds * 1e3, Form::Fixed(digits))), (6, share)];
        if phase == Phase::Decode {
            let rate = rate.map(|rate| {
                let number = Content::Number(rate / 1e9, Form::Significant);
                Content::Joined(vec![number, Content::Text("GB/s".into())], " ")
            });
            parts.push((11, rate.unwrap_or(Content::Empty)));
        }
        Content::Aligned(parts)
    };
    let title = match phase {
        Phase::Decode => "Decode, by stage",
        Phase::Prefill => "Prefill, by stage",
    };
    let mut table = titled(title, labels(engines.iter().copied()));
    let mut push = |title: &str, cells: Vec<Cell>| {
        table.push([title.into(), Cell::unit("ms")].into_iter().chain(cells).collect());
    };
    for name in &names {
        let of = |arm: &Vec<analysis::StageTime>| {
            let s = arm.iter().find(|s| s.stage == *name)?;
            let share = Content::Number(s.share, Form::Percent(1));
            Some(cell(s.mean.0, share, s.rate.map(|r| r.0)))
        };
        push(&clean(name), arms.iter().map(|arm| of(arm).into()).collect());
    }
    let whole = |arm: &Vec<analysis::StageTime>| {
        let sum: f64 = arm.iter().map(|s| s.mean.0).sum();
        cell(sum, Content::Number(1.0, Form::Percent(0)), None).into()
    };
    push("= all", arms.iter().map(whole).collect());
    let mut remarks = vec![match phase {
        Phase::Decode => "ms per token after the first, in generations of their own; GB/s: the \
                          stage's weight bytes by its time"
            .to_string(),
        Phase::Prefill => "ms per prompt token, from the request to the first token".to_string(),
    }];
    if phase == Phase::Decode {
        let cost = |arm: &Arm| {
            let cost = analysis::profiling_cost(arm)? * 100.0;
            Some(format!("{} {cost:+.1} %", clean(&arm.label)))
        };
        let costs: Vec<String> = engines.iter().filter_map(|arm| cost(arm)).collect();
        let costs = costs.join(", ");
        remarks.push(format!("against the measured generations of the same launches: {costs}"));
    }
    if names.iter().any(|n| n == "layers") {
        remarks.push(
            "layers: norms, projections, attention and MLP that the engine cannot tell apart"
                .into(),
        );
    }
    let silent: Vec<String> = silent.iter().map(|arm| clean(&arm.label)).collect();
    if !silent.is_empty() {
        remarks.push(format!("no stages from {}", silent.join(", ")));
    }
    (!names.is_empty()).then_some((table, remarks))
}

/// Decimals that leave four digits of the smallest whole, so that small stages are not shown as
/// zeros.
fn decimals(whole: f64) -> usize {
    if whole > 0.0 { (3.0 - whole.log10().floor()).clamp(0.0, 9.0) as usize } else { 0 }
}

fn labels<'a>(arms: impl IntoIterator<Item = &'a Arm>) -> impl Iterator<Item = String> {
    arms.into_iter().map(|arm| clean(&arm.label))
}

fn timing(arm: &Arm) -> Option<Section> {
    let launches = analysis::timing(arm);
    let columns = ["TTFT", "first step", "step p50", "tok/s", "compile"].map(String::from);
    let mut table = titled(&clean(&arm.label), columns.into_iter());
    let milliseconds = |s: Option<Seconds>| Cell::maybe(s.map(|s| s.0 * 1e3), Form::Fixed(1));
    let row = |launch: &LaunchTiming, g: &Generation| {
        let rate = g.step.filter(|s| s.0 > 0.0).map(|s| 1.0 / s.0);
        vec![
            format!("#{} {} {}", launch.index + 1, role(g), clean(&g.prompt)).into(),
            Cell::unit("ms"),
            milliseconds(Some(g.ttft)),
            milliseconds(g.first_step),
            milliseconds(g.step),
            Cell::maybe(rate, Form::Significant),
            milliseconds(g.compile),
        ]
    };
    for launch in &launches {
        launch.generations.iter().for_each(|g| table.push(row(launch, g)));
    }
    let remarks = launches.iter().flat_map(remarks).collect();
    (!table.rows.is_empty()).then_some((table, remarks))
}

fn role(g: &Generation) -> String {
    match g.role {
        Role::Cold => "cold".into(),
        Role::Warmup => format!("warm-up {}", g.iteration + 1),
        Role::Measured => format!("measured {}", g.iteration + 1),
        Role::Profiled => "profiled".into(),
    }
}

/// The curve of the cold generation, and the verdict on the measured ones.
fn remarks(launch: &LaunchTiming) -> Vec<String> {
    let n = launch.index + 1;
    let mut remarks = Vec::new();
    let steps: Vec<f64> = launch.cold_steps.iter().map(|s| s.0).collect();
    if let (Some(low), Some(high)) =
        (steps.iter().copied().reduce(f64::min), steps.iter().copied().reduce(f64::max))
    {
        remarks.push(format!(
            "#{n} time per token of the cold generation: {} ({} to {})",
            peaks(&steps),
            Seconds(low),
            Seconds(high)
        ));
    }
    remarks.push(format!("#{n} {}", verdict(&launch.steady)));
    remarks
}

fn verdict(steady: &Steady) -> String {
    let Some(drift) = steady.drift else {
        return "too few tokens to test for a steady state (12 gaps in a prompt)".into();
    };
    let outcome = match steady.reached() {
        Some(true) => "steady",
        _ => "NOT steady",
    };
    let correlation = match steady.autocorrelation {
        Some(r) => format!("; lag-1 autocorrelation {r:.2}"),
        None => String::new(),
    };
    format!(
        "{outcome}: the last third of the measured tokens took {:+.1} % against the first third \
         (limit ±{:.0} %){correlation}",
        drift * 100.0,
        DRIFT * 100.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_peak_add_up_to_a_hundred() {
        let mut arm = crate::analysis::testing::arm(&crate::analysis::testing::CANDLE, 1);
        assert_eq!(memory_shares(&arm), None);
        let launch = &mut arm.launches[0].metrics;
        launch.extend([
            (Metric::MemoryWeights, 2.0),
            (Metric::MemoryKv, 1.0),
            (Metric::MemoryActivations, 1.0),
            (Metric::MemoryRuntime, 2.0),
            (Metric::MemoryUnaccounted, -0.1),
        ]);
        let mut record = crate::analysis::testing::empty();
        record.arms.push(arm);
        analysis::summarize(&mut record);
        // 33.9, 16.9, 16.9, 33.9 and −1.7 percent.
        assert_eq!(memory_shares(&record.arms[0]).unwrap(), "34/17/17/34/-2");
    }
}
