//! llm-bench's own result files: one arm per engine and one value per good launch.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};

use super::{Format, SampledArm, Series, Source, measurable};
use crate::analysis::evidence::Launches;
use crate::analysis::sides::{self, Earlier};
use crate::analysis::{UNKNOWN_METRICS, ok_launches, summarize};
use crate::identity::{Identity, LineIdentity};
use crate::metric::{Metric, Rank, Values};
use crate::record::{Arm, MetricSummary, Record, Warning, WeightsSource};

/// Warnings of a record that bear on a comparison with another record. Warnings that compare the
/// record's own engines are left out, and so is the number of launches, which the verdict covers.
const KEPT: [&str; 10] = [
    "debug_build",
    "incomplete_run",
    UNKNOWN_METRICS,
    "resumed",
    "failed_launches",
    "busy_machine",
    "loaded_machine",
    "disturbed_launches",
    "steal",
    "page_cache_not_warm",
];

pub(super) fn read(path: &Path, file: String) -> Result<Source> {
    let mut record = Record::read(path)?;
    values_are_positive(&record, &file)?;
    summarize(&mut record);
    let build = &record.build;
    let mut warnings: Vec<Warning> = record.warnings.clone();
    warnings.retain(|w| KEPT.contains(&w.code.as_str()));
    let mut arms = Vec::new();
    for arm in &record.arms {
        arms.push(sampled(&record, arm, &mut warnings));
    }
    Ok(Source {
        file,
        format: Format::LlmBench,
        facts: vec![
            build.to_string(),
            record.run.started_at.clone(),
            record.host.cpu_model.clone(),
        ],
        synthetic: record.models().iter().any(|m| m.weights == WeightsSource::Synthetic),
        session: Some(record.run.id.clone()),
        executable: build.executable_sha256.clone(),
        arms,
        warnings,
    })
}

/// A gated metric that is not above zero was not measured: refuses the record.
fn values_are_positive(record: &Record, file: &str) -> Result<()> {
    for arm in &record.arms {
        for launch in ok_launches(arm) {
            for metric in Metric::of_rank(Rank::Primary) {
                match launch.metrics.get(&metric) {
                    Some(x) if !measurable(*x) => bail!(
                        "{file}: {}, launch {}: {metric}: expected a number above 0, up to 1e18, found {x}",
                        arm.label,
                        launch.index,
                    ),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

fn sampled(record: &Record, arm: &Arm, warnings: &mut Vec<Warning>) -> SampledArm {
    let model = record.model_of(arm);
    let mut series = Vec::new();
    let mut left_out: Vec<&str> = Vec::new();
    let mut add = |metrics: &Values<MetricSummary>, prompt: Option<&String>| {
        let wanted =
            Metric::measured().filter(|m| m.rank() != Rank::Part && *m != Metric::DecodeCv);
        for (metric, summary) in wanted.filter_map(|m| Some((m, metrics.get(&m)?))) {
            if !(measurable(summary.min) && measurable(summary.max)) {
                left_out.push(metric.name());
                continue;
            }
            series.push(Series {
                metric,
                test: prompt.cloned(),
                decides: prompt.is_none() && metric.rank() == Rank::Primary,
                part: prompt.is_some(),
                values: summary.values.clone(),
                of_process: None,
                places: match prompt {
                    None => sides::values(arm, metric).1,
                    Some(_) => Vec::new(),
                },
                tail: prompt.is_none().then(|| sides::tail(arm, metric)).flatten(),
            });
        }
    };
    add(&arm.metrics, None);
    if arm.prompt_metrics.len() > 1 {
        // Keeps the order of the workload.
        let place = |id: &&String| record.workload.prompts.iter().position(|p| p.id == **id);
        let mut ids: Vec<&String> = arm.prompt_metrics.keys().collect();
        ids.sort_by_key(place);
        ids.iter().for_each(|id| add(&arm.prompt_metrics[*id], Some(id)));
    }
    left_out.sort_unstable();
    left_out.dedup();
    if !left_out.is_empty() {
        warnings.push(Warning {
            code: "not_positive".into(),
            arm: Some(arm.label.clone()),
            message: format!("{}: left out, not above 0: {}", arm.label, left_out.join(", ")),
            advice: "a change in percent needs values above 0".into(),
        });
    }
    SampledArm {
        key: format!("{}\n{}\n{}", arm.label, model.quant, record.workload.prompt_set),
        settings: BTreeMap::new(),
        label: arm.label.clone(),
        on: format!("{} {} · prompt set {}", model.name, model.quant, record.workload.prompt_set),
        identity: Identity::of(record, arm),
        launches: Some(Launches::of(arm)),
        line: Some(LineIdentity::of(record, arm)),
        earlier: Earlier::default(),
        series,
    }
}
