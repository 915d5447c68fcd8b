//! What a report says, before any format: cleaned texts, rows and columns.

use super::Sections;
use super::grid::{self, Row};
use super::sections::{self, Block};
use super::text::clean;
use super::verification;
use crate::analysis;
use crate::metric::{Metric, Rank};
use crate::record::{Arm, Comparison, MetricSummary, Record, WeightsSource};
use crate::units::{Bytes, BytesPerSecond, Seconds, three_digits};

/// The metrics that are shown prompt by prompt.
const PER_PROMPT: [Metric; 3] = [Metric::DecodeTps, Metric::PrefillTps, Metric::Ttft];

/// Said above every number that was measured with such weights.
pub(super) const SYNTHETIC: &str =
    "SYNTHETIC WEIGHTS: random values. Speed and memory hold; the text means nothing.";

/// The row beneath the peak memory.
pub(super) const SHARES_TITLE: &str = "  w/kv/act/run/?";

/// Whether the row of shares stands beneath this one.
pub(super) fn is_peak(row: &Row) -> bool {
    row.title == Metric::PeakHostBytes.title()
}

/// A report without a format. All texts are clean: one line each, no control characters.
#[derive(Debug)]
pub(super) struct Document {
    /// Model, quantization, size, where the weights came from.
    pub title: String,
    /// Said loudly where the weights are synthetic.
    pub synthetic: Option<&'static str>,
    /// Host, workload, run.
    pub facts: Vec<(&'static str, String)>,
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
    /// Shares of the peak memory, by arm; empty where no arm has a breakdown.
    pub memory_shares: Vec<Option<String>>,
    /// Rows that only the long formats show.
    pub details: Vec<Row>,
    /// One block per metric, one row per prompt; empty where there is one prompt.
    pub prompts: Vec<(&'static str, Vec<Row>)>,
    /// What was asked for beside the comparison.
    pub blocks: Vec<Block>,
    pub reading: Vec<String>,
    pub warnings: Vec<Remark>,
    /// What engines say of themselves.
    pub notes: Vec<String>,
    /// How to read the signs.
    pub legend: Vec<String>,
}

/// An arm.
#[derive(Debug)]
pub(super) struct Column {
    pub label: String,
    /// `baseline`, `failed: compile_failed`, or nothing.
    pub state: String,
    pub failed: bool,
    pub launches: String,
    /// Weights, compute, KV cache.
    pub precision: [Option<String>; 3],
    /// `pass 2.5e-7`: the same function as the reference; absent where nothing was checked.
    pub verified: Option<String>,
}

/// A warning.
#[derive(Debug)]
pub(super) struct Remark {
    pub information: bool,
    pub message: String,
    pub advice: String,
}

impl Document {
    /// Expects the record to be summarised.
    pub fn new(record: &Record, wanted: Sections) -> Self {
        let baseline = baseline_label(record);
        let rows = |wanted: fn(Rank) -> bool| {
            Metric::measured()
                .filter(|m| wanted(m.rank()))
                .filter_map(|m| metric_row(record, m))
                .collect()
        };
        let shares: Vec<_> = record.arms.iter().map(sections::memory_shares).collect();
        Self {
            title: title(record),
            synthetic: (record.model.weights == WeightsSource::Synthetic).then_some(SYNTHETIC),
            facts: facts(record),
            columns: record.arms.iter().map(|arm| column(arm, baseline.as_deref())).collect(),
            rows: rows(|rank| rank < Rank::Detail),
            memory_shares: match shares.iter().any(Option::is_some) {
                true => shares,
                false => Vec::new(),
            },
            details: rows(|rank| rank == Rank::Detail),
            prompts: prompt_blocks(record),
            blocks: sections::blocks(record, wanted),
            reading: analysis::reading(record).iter().map(|s| clean(s)).collect(),
            warnings: remarks(record),
            notes: notes(record),
            legend: legend(record, baseline.as_deref()),
        }
    }
}

fn baseline_label(record: &Record) -> Option<String> {
    record.comparisons.first().map(|c| c.baseline.clone())
}

fn title(record: &Record) -> String {
    let model = &record.model;
    let weights = match model.weights {
        WeightsSource::Hub => "weights from the hub",
        WeightsSource::File => "weights from a file",
        WeightsSource::Synthetic => "SYNTHETIC weights",
    };
    let parameters = match model.n_params as f64 {
        n if n >= 999.5e6 => format!("{} B parameters", three_digits(n / 1e9)),
        n => format!("{} M parameters", three_digits(n / 1e6)),
    };
    joined([
        model.name.clone(),
        model.quant.clone(),
        parameters,
        Bytes(model.size_bytes).to_string(),
        weights.into(),
    ])
}

fn facts(record: &Record) -> Vec<(&'static str, String)> {
    let host = &record.host;
    let threads = record.run.config.get("threads").and_then(|t| t.as_u64());
    let bandwidth = match host.measured_read_bandwidth_bytes_per_s {
        Some(b) => format!("read bandwidth {}", BytesPerSecond(b)),
        None => "read bandwidth not measured".into(),
    };
    let machine = host.gpu.iter().map(|gpu| gpu.name.clone());
    let cpu = [
        host.cpu_model.clone(),
        count(threads.unwrap_or(u64::from(host.threads)), "thread"),
        Bytes(host.ram_bytes).to_string(),
    ];
    vec![
        ("Host", joined(cpu.into_iter().chain(machine).chain([bandwidth]))),
        ("Workload", workload(record)),
        (
            "Run",
            joined([
                record.run.started_at.clone(),
                format!("seed {}", record.run.seed),
                record.build.to_string(),
            ]),
        ),
    ]
}

fn workload(record: &Record) -> String {
    let prompts = &record.workload.prompts;
    let lengths = |of: fn(&crate::record::WorkloadPrompt) -> u32| {
        let (low, high) = (prompts.iter().map(of).min(), prompts.iter().map(of).max());
        match (low, high) {
            (Some(low), Some(high)) if low == high => low.to_string(),
            (Some(low), Some(high)) => format!("{low} to {high}"),
            _ => "no".into(),
        }
    };
    let depth = match prompts.iter().any(|p| p.depth > 0) {
        true => format!("behind a context of {} (d)", lengths(|p| p.depth)),
        false => String::new(),
    };
    joined([
        format!("set {}", record.workload.prompt_set),
        count(prompts.len() as u64, "prompt"),
        format!("{} tokens in", lengths(|p| p.n_prompt)),
        format!("{} tokens out", lengths(|p| p.n_gen)),
        depth,
    ])
}

fn column(arm: &Arm, baseline: Option<&str>) -> Column {
    let (good, all) = (analysis::ok_launches(arm).count(), arm.launches.len());
    let failure = analysis::failure(arm);
    let state = match failure {
        Some(error) => format!("failed: {}", analysis::kind_name(error.kind)),
        None if good == 0 && all > 0 => "failed".into(),
        None if Some(arm.label.as_str()) == baseline => "baseline".into(),
        None => String::new(),
    };
    let precision = |of: fn(&crate::record::Precision) -> &String| {
        arm.precision.as_ref().map(of).filter(|text| !text.is_empty()).map(|text| clean(text))
    };
    Column {
        label: clean(&arm.label),
        state,
        failed: good == 0 && all > 0,
        launches: if good == all { good.to_string() } else { format!("{good} of {all}") },
        precision: [precision(|p| &p.weights), precision(|p| &p.compute), precision(|p| &p.kv)],
        verified: arm.verification.as_ref().map(verification::short),
    }
}

fn metric_row(record: &Record, metric: Metric) -> Option<Row> {
    let summaries: Vec<Option<&MetricSummary>> =
        record.arms.iter().map(|arm| arm.metrics.get(&metric)).collect();
    let comparison = |arm: &Arm| -> Option<&Comparison> {
        record.comparisons.iter().find(|c| c.arm == arm.label && c.metric == metric)
    };
    let comparisons: Vec<_> = record.arms.iter().map(comparison).collect();
    grid::row(metric.title().to_string(), metric, &summaries, &comparisons)
}

/// The prompts in the order of the workload, then others that engines ran.
fn prompt_blocks(record: &Record) -> Vec<(&'static str, Vec<Row>)> {
    let mut ids: Vec<&String> = record.workload.prompts.iter().map(|p| &p.id).collect();
    for id in record.arms.iter().flat_map(|arm| arm.prompt_metrics.keys()) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    if ids.len() < 2 {
        return Vec::new();
    }
    let block = |metric: Metric| {
        let rows: Vec<Row> = ids
            .iter()
            .filter_map(|id| {
                let of = |arm: &'_ Arm| arm.prompt_metrics.get(*id)?.get(&metric).cloned();
                let summaries: Vec<_> = record.arms.iter().map(of).collect();
                let summaries: Vec<_> = summaries.iter().map(Option::as_ref).collect();
                grid::row(clean(id), metric, &summaries, &[])
            })
            .collect();
        (!rows.is_empty()).then_some((metric.title(), rows))
    };
    PER_PROMPT.into_iter().filter_map(block).collect()
}

fn remarks(record: &Record) -> Vec<Remark> {
    let mut remarks: Vec<Remark> = record
        .warnings
        .iter()
        .map(|w| Remark {
            information: analysis::is_information(&w.code),
            message: clean(&w.message),
            advice: clean(&w.advice),
        })
        .collect();
    // Doubts before circumstances; otherwise in their order.
    remarks.sort_by_key(|r| r.information);
    remarks
}

fn notes(record: &Record) -> Vec<String> {
    let of = |arm: &Arm| -> Vec<String> {
        let prepared = arm.preparation.get("cold_start_ttft_s_empty_compile_cache").map(|s| {
            let took = Seconds(*s);
            format!(
                "with an empty compile cache its cold start took {took} (once, not in the table)"
            )
        });
        let notes = arm.notes.iter().cloned().chain(prepared);
        notes.map(|note| format!("{}: {}", clean(&arm.label), clean(&note))).collect()
    };
    record.arms.iter().flat_map(of).collect()
}

fn legend(record: &Record, baseline: Option<&str>) -> Vec<String> {
    let mut legend = Vec::new();
    if record.arms.iter().flat_map(|arm| arm.metrics.values()).any(|s| s.ci95.is_some()) {
        legend.push("± half of the 95 % interval over launches (Student's t)".to_string());
    }
    if let Some(baseline) = baseline {
        legend.push(format!("× how many times better than {}", clean(baseline)));
    }
    let open = |c: &Comparison| c.ci95.is_some_and(|[low, high]| low <= 1.0 && 1.0 <= high);
    if record.comparisons.iter().any(open) {
        legend.push("~ the difference is not resolved".to_string());
    }
    let verified = record.arms.iter().find_map(|arm| {
        let v = arm.verification.as_ref()?;
        Some((&v.reference, v.divergence.as_ref()?))
    });
    if let Some((reference, d)) = verified {
        legend.push(format!(
            "Verified: NMSE of the logits against {} over {} positions",
            clean(reference),
            d.positions
        ));
    }
    if record.arms.iter().any(|arm| sections::memory_shares(arm).is_some()) {
        legend.push(sections::SHARES_LEGEND.to_string());
    }
    legend
}

/// The parts that are not empty, cleaned, with dots between.
pub(super) fn joined(parts: impl IntoIterator<Item = String>) -> String {
    let parts: Vec<String> =
        parts.into_iter().map(|p| clean(&p)).filter(|p| !p.is_empty()).collect();
    parts.join(" · ")
}

fn count(n: u64, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}
