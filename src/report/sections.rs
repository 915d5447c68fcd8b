//! The parts of a report that are shown on request: what memory and time went into, and every
//! generation in order. Texts only; the formats set them.

use super::Sections;
use super::text::clean;
use crate::analysis::{self, DRIFT, Generation, LaunchTiming, OTHER, Phase, Steady};
use crate::metric::Metric;
use crate::record::{Arm, How, Part, Record, Role};
use crate::units::{Seconds, three_digits};

/// A table of texts with sentences beneath. All texts are clean.
#[derive(Debug)]
pub(super) struct Block {
    /// Stands over the titles of the lines.
    pub title: String,
    pub columns: Vec<String>,
    pub lines: Vec<BlockLine>,
    pub remarks: Vec<String>,
}

/// One line: title, unit, one cell for each column.
#[derive(Debug)]
pub(super) struct BlockLine {
    pub title: String,
    pub unit: &'static str,
    pub cells: Vec<Option<String>>,
}

pub(super) fn blocks(record: &Record, wanted: Sections) -> Vec<Block> {
    let mut blocks = Vec::new();
    if wanted.profile {
        blocks.extend(memory(record));
        blocks.extend(stages(record, Phase::Decode));
        blocks.extend(stages(record, Phase::Prefill));
    }
    if wanted.timing {
        blocks.extend(record.arms.iter().filter_map(timing));
    }
    blocks
}

/// Shares of the peak in whole percent that add up to 100: weights, KV cache, activations,
/// runtime, unaccounted. Absent for an arm without a breakdown.
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

/// What the signs of `memory_shares` mean.
pub(super) const SHARES_LEGEND: &str = "w/kv/act/run/? weights, KV cache, activations, runtime, \
                                        unaccounted in % of the peak";

fn memory(record: &Record) -> Option<Block> {
    let parts: Vec<_> = record.arms.iter().map(analysis::memory_parts).collect();
    let mut all: Vec<Part> = parts.iter().flatten().map(|p| p.part).collect();
    all.sort();
    all.dedup();
    // Rounded first: no "-0.0".
    let megabytes = |bytes: f64| format!("{:.1}", (bytes / 1e5).round() / 10.0 + 0.0);
    let line = |part: &Part| BlockLine {
        title: part_title(*part).into(),
        unit: "MB",
        cells: parts
            .iter()
            .map(|of_arm| {
                let found = of_arm.iter().find(|p| p.part == *part)?;
                let mark = if found.how == How::Computed { "c " } else { "" };
                Some(format!("{mark}{}", megabytes(found.bytes)))
            })
            .collect(),
    };
    let mut lines: Vec<BlockLine> = all.iter().map(line).collect();
    let sum = |parts: &Vec<analysis::PartMean>| parts.iter().map(|p| p.bytes).sum::<f64>();
    let peak = |parts| Some(sum(parts)).filter(|s| *s > 0.0).map(megabytes);
    lines.push(BlockLine {
        title: "= peak".into(),
        unit: "MB",
        cells: parts.iter().map(peak).collect(),
    });
    let negative = |parts: &Vec<analysis::PartMean>| {
        parts.iter().any(|p| p.part == Part::Unaccounted && p.bytes <= -5e4)
    };
    let mut remarks = vec!["c computed from shapes and types; all others measured".to_string()];
    let overlapping = record.arms.iter().zip(&parts).filter(|(_, parts)| negative(parts));
    remarks.extend(overlapping.map(|(arm, _)| {
        format!("{}: unaccounted is negative, so parts overlap by as much", clean(&arm.label))
    }));
    let block = Block { title: "Peak memory".into(), columns: labels(record), lines, remarks };
    (!all.is_empty()).then_some(block)
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

/// Time per token by stage; where the engine tells the bytes, decode has GB/s beside it.
fn stages(record: &Record, phase: Phase) -> Option<Block> {
    let told = |arm: &&Arm| !analysis::stages(arm, phase).is_empty();
    let (engines, silent): (Vec<&Arm>, Vec<&Arm>) = record.arms.iter().partition(told);
    let arms: Vec<_> = engines.iter().map(|arm| analysis::stages(arm, phase)).collect();
    let mut names: Vec<String> = Vec::new();
    let known = analysis::STAGES.iter().map(|s| s.to_string());
    let told = arms.iter().flatten().map(|s| s.stage.clone());
    for name in known.chain(told.clone().filter(|s| s != OTHER)).chain([OTHER.to_string()]) {
        if !names.contains(&name) && told.clone().any(|s| s == name) {
            names.push(name);
        }
    }
    let wholes = arms.iter().map(|arm| arm.iter().map(|s| s.mean.0 * 1e3).sum::<f64>());
    let digits = wholes.reduce(f64::min).map_or(0, decimals);
    let cell = |s: &analysis::StageTime| {
        let rate = s.rate.map(|r| format!("  {:>5} GB/s", three_digits(r.0 / 1e9)));
        let rate = rate.unwrap_or_else(|| match phase {
            Phase::Decode => " ".repeat(12),
            Phase::Prefill => String::new(),
        });
        format!("{:.digits$} {:>4.1} %{rate}", s.mean.0 * 1e3, s.share * 100.0)
    };
    let line = |name: &String| BlockLine {
        title: clean(name),
        unit: "ms",
        cells: arms.iter().map(|arm| arm.iter().find(|s| s.stage == *name).map(cell)).collect(),
    };
    let mut lines: Vec<BlockLine> = names.iter().map(line).collect();
    let whole = |arm: &Vec<analysis::StageTime>| {
        let sum: f64 = arm.iter().map(|s| s.mean.0).sum();
        let gap = if phase == Phase::Decode { " ".repeat(12) } else { String::new() };
        Some(format!("{:.digits$}  100 %{gap}", sum * 1e3))
    };
    lines.push(BlockLine {
        title: "= all".into(),
        unit: "ms",
        cells: arms.iter().map(whole).collect(),
    });
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
    let title = match phase {
        Phase::Decode => "Decode, by stage",
        Phase::Prefill => "Prefill, by stage",
    };
    let columns = engines.iter().map(|arm| clean(&arm.label)).collect();
    let block = Block { title: title.into(), columns, lines, remarks };
    (!names.is_empty()).then_some(block)
}

/// Decimals that leave four digits of the least whole, so that small stages are no zeros.
fn decimals(whole: f64) -> usize {
    if whole > 0.0 { (3.0 - whole.log10().floor()).clamp(0.0, 9.0) as usize } else { 0 }
}

fn labels(record: &Record) -> Vec<String> {
    record.arms.iter().map(|arm| clean(&arm.label)).collect()
}

fn timing(arm: &Arm) -> Option<Block> {
    let launches = analysis::timing(arm);
    let line = |launch: &LaunchTiming, g: &Generation| {
        let milliseconds = |s: Seconds| format!("{:.1}", s.0 * 1e3);
        let rate = g.step.filter(|s| s.0 > 0.0).map(|s| three_digits(1.0 / s.0));
        BlockLine {
            title: format!("#{} {} {}", launch.index + 1, role(g), clean(&g.prompt)),
            unit: "ms",
            cells: vec![
                Some(milliseconds(g.ttft)),
                g.first_step.map(milliseconds),
                g.step.map(milliseconds),
                rate,
                g.compile.map(milliseconds),
            ],
        }
    };
    let lines: Vec<BlockLine> =
        launches.iter().flat_map(|l| l.generations.iter().map(move |g| line(l, g))).collect();
    let remarks = launches.iter().flat_map(remarks).collect();
    let columns = ["TTFT", "first step", "step p50", "tok/s", "compile"].map(String::from).into();
    let title = clean(&arm.label);
    (!lines.is_empty()).then_some(Block { title, columns, lines, remarks })
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
            sparkline(&steps),
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

/// At most 40 bars, from an eighth to eight of them; each the largest value of its bin, so that a
/// single slow step is seen. Bars start at zero: half the height is half the time.
fn sparkline(values: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let high = values.iter().copied().fold(0.0, f64::max);
    let bin = values.len().div_ceil(40).max(1);
    values
        .chunks(bin)
        .map(|c| {
            let value = c.iter().copied().fold(0.0, f64::max);
            let eighth = if high > 0.0 { (value / high * 8.0).ceil() as usize } else { 1 };
            BARS[eighth.clamp(1, 8) - 1]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_first_step_stands_out_of_the_curve() {
        assert_eq!(sparkline(&[8.0, 1.0, 1.0, 4.0]), "█▁▁▄");
        assert_eq!(sparkline(&[]), "");
        let mut many = vec![1.0; 100];
        many[99] = 8.0;
        let curve = sparkline(&many);
        assert_eq!((curve.chars().count(), curve.chars().last()), (34, Some('█')));
    }

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
