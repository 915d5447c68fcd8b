//! Turns runs of other tools into arms, with one value per process and metric. Requests and
//! iterations of one process share its luck, so they are never replicates.

use std::collections::BTreeMap;

use super::{Format, SampledArm, Series, Source};
use crate::analysis::sides::Earlier;
use crate::identity::Identity;
use crate::metric::{Better, Metric};
use crate::record::Warning;

/// A warning that holds only as long as a file stands alone.
pub(super) const ONE_REPLICATE: &str = "one_replicate";
/// Milliseconds in seconds.
pub(super) const MS: f64 = 1e-3;

/// What one process of a tool measured of one thing.
pub(super) struct Run {
    /// The number of the process in the file: what it repeats gives one value.
    pub process: usize,
    pub label: String,
    /// The model, where the file names it.
    pub on: String,
    /// They are part of what was measured: runs with other settings are another arm.
    pub settings: BTreeMap<String, String>,
    pub identity: Identity,
    pub figures: Vec<Figure>,
}

/// One value of a metric.
pub(super) struct Figure {
    pub metric: Metric,
    /// As [`Series::test`].
    pub test: Option<String>,
    pub decides: bool,
    pub value: f64,
}

/// The figures of requests to a server, under the rules for our own.
#[derive(Default)]
pub(super) struct Requests(Vec<(Metric, f64)>);

impl Requests {
    /// Adds a value that is a statistic of `n` requests or gaps. A percentile of too few is left out,
    /// and so is a second value of a metric.
    pub fn add(&mut self, metric: Metric, value: Option<f64>, n: f64) {
        use Metric::*;
        let enough = match metric {
            TtftP95 | TpotP95 | E2eLatencyP95 => n >= 20.0,
            TtftP99 | TpotP99 | E2eLatencyP99 | ItlP99 => n >= 100.0,
            _ => true,
        };
        let known = self.0.iter().any(|(other, _)| *other == metric);
        if let Some(value) = value.filter(|_| enough && !known) {
            self.0.push((metric, value));
        }
    }

    /// TTFT, TPOT and the output throughput decide; where requests generate no tokens, their latency
    /// and throughput do.
    pub fn figures(self) -> Vec<Figure> {
        use Metric::*;
        let generated = [Ttft, Tpot, OutputThroughput];
        let has_tokens = self.0.iter().any(|(metric, _)| generated.contains(metric));
        let decides = |metric| match has_tokens {
            true => generated.contains(&metric),
            false => [E2eLatencyMean, RequestThroughput].contains(&metric),
        };
        let figure =
            |(metric, value)| Figure { metric, test: None, decides: decides(metric), value };
        self.0.into_iter().map(figure).collect()
    }
}

/// How a tool's figures differ from ours.
pub(super) struct Tool {
    pub format: Format,
    /// What the runs of one file share, so that it is one replicate.
    pub one_process: &'static str,
    /// One sentence.
    pub differs: &'static str,
    /// What the file does not say: `on which machine it was made`.
    pub unknown: &'static str,
}

impl Tool {
    /// A file with its runs grouped into arms.
    pub fn source(
        &self,
        file: String,
        facts: Vec<String>,
        runs: &[Run],
        mut warnings: Vec<Warning>,
    ) -> Source {
        let name = self.format.name();
        let arms = arms(runs);
        let note = |code: &str, message, advice: &str| Warning {
            code: code.into(),
            arm: None,
            message,
            advice: advice.into(),
        };
        if arms.iter().flat_map(|arm| &arm.series).all(|series| series.values.len() == 1) {
            warnings.push(note(
                ONE_REPLICATE,
                format!(
                    "a file of {name} is one replicate, with one value of each metric and no \
                     interval: {}",
                    self.one_process
                ),
                "measure several times and give the files of each side: compare A1 A2 -- B1 B2",
            ));
        }
        warnings.push(note(
            "other_definition",
            self.differs.into(),
            "docs/OTHER_TOOLS.md lists which figure is read as which metric",
        ));
        warnings.push(note(
            "machine_unknown",
            format!("a file of {name} does not say {}", self.unknown),
            "compare only what one machine measured; nothing here can check that",
        ));
        Source {
            file,
            format: self.format,
            facts: facts.into_iter().filter(|fact| !fact.is_empty()).collect(),
            synthetic: false,
            session: None,
            executable: None,
            arms,
            warnings,
        }
    }
}

fn arms(runs: &[Run]) -> Vec<SampledArm> {
    let mut groups: Vec<Vec<&Run>> = Vec::new();
    let alike = |a: &Run, b: &Run| (&a.label, &a.on, &a.settings) == (&b.label, &b.on, &b.settings);
    for run in runs {
        match groups.iter_mut().find(|group| alike(group[0], run)) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    let firsts: Vec<&Run> = groups.iter().map(|group| group[0]).collect();
    let arm = |group: &Vec<&Run>| {
        let first = group[0];
        SampledArm {
            key: format!("{}\n{}", first.label, first.on),
            settings: first.settings.clone(),
            label: label(first, &firsts),
            on: first.on.clone(),
            identity: first.identity.clone(),
            launches: None,
            line: None,
            earlier: Earlier::default(),
            series: series(group),
        }
    };
    groups.iter().map(arm).collect()
}

/// The label of a run, and what distinguishes it from the others in its file.
fn label(run: &Run, all: &[&Run]) -> String {
    let mut parts = vec![run.label.clone()];
    let others = || all.iter().filter(|other| other.label == run.label);
    if others().any(|other| other.on != run.on) {
        parts.push(run.on.clone());
    }
    for (name, value) in &run.settings {
        if others().any(|other| other.settings.get(name) != Some(value)) {
            parts.push(format!("{name}={value}"));
        }
    }
    parts.join(" ")
}

fn series(group: &[&Run]) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for figure in group.iter().flat_map(|run| &run.figures) {
        if all.iter().any(|s| s.metric == figure.metric && s.test == figure.test) {
            continue;
        }
        let mut processes: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for run in group {
            let same = |f: &&Figure| f.metric == figure.metric && f.test == figure.test;
            let found = run.figures.iter().filter(same).map(|f| f.value);
            processes.entry(run.process).or_default().extend(found);
        }
        processes.retain(|_, values| !values.is_empty());
        let mean = |values: Vec<f64>| mean(figure.metric, &values);
        all.push(Series {
            metric: figure.metric,
            test: figure.test.clone(),
            decides: figure.decides,
            part: false,
            values: processes.into_values().map(mean).collect(),
            of_process: None,
            places: Vec::new(),
            tail: None,
        });
    }
    all
}

/// The mean of values inside a process: harmonic for rates, because times add up and rates do not.
pub(super) fn mean(metric: Metric, values: &[f64]) -> f64 {
    let n = values.len() as f64;
    match metric.better() {
        Better::Higher => n / values.iter().map(|rate| 1.0 / rate).sum::<f64>(),
        Better::Lower => values.iter().sum::<f64>() / n,
    }
}

/// A warning that requests failed.
pub(super) fn failed(label: &str, failed: f64, all: f64) -> Option<Warning> {
    (failed > 0.0).then(|| Warning {
        code: "failed_runs".into(),
        arm: Some(label.into()),
        message: format!("{label}: {failed} of {all} requests failed: they are in no figure"),
        advice: "look at why they failed before trusting the others".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(process: usize, rate: f64, setting: &str) -> Run {
        Run {
            process,
            label: "tool".into(),
            on: "model".into(),
            settings: BTreeMap::from([("rate".into(), setting.into())]),
            identity: Identity::of_format("tool"),
            figures: vec![Figure {
                metric: Metric::DecodeTps,
                test: None,
                decides: true,
                value: rate,
            }],
        }
    }

    #[test]
    fn what_one_process_repeats_is_one_value_and_another_setting_another_arm() {
        let arms =
            arms(&[run(0, 10.0, "1"), run(0, 30.0, "1"), run(1, 20.0, "1"), run(0, 5.0, "2")]);
        let values: Vec<&Vec<f64>> = arms.iter().map(|arm| &arm.series[0].values).collect();
        assert_eq!(values, [&vec![15.0, 20.0], &vec![5.0]]);
        let labels: Vec<&str> = arms.iter().map(|arm| arm.label.as_str()).collect();
        assert_eq!(labels, ["tool rate=1", "tool rate=2"]);
    }

    #[test]
    fn percentiles_of_too_few_requests_are_left_out_and_something_always_decides() {
        let mut requests = Requests::default();
        requests.add(Metric::E2eLatencyMean, Some(1.0), 99.0);
        requests.add(Metric::E2eLatencyP95, Some(2.0), 99.0);
        requests.add(Metric::E2eLatencyP99, Some(3.0), 99.0);
        requests.add(Metric::E2eLatencyP50, None, 99.0);
        requests.add(Metric::E2eLatencyMean, Some(4.0), 99.0);
        let figures = requests.figures();
        let found: Vec<(Metric, f64, bool)> =
            figures.iter().map(|f| (f.metric, f.value, f.decides)).collect();
        let expected = [(Metric::E2eLatencyMean, 1.0, true), (Metric::E2eLatencyP95, 2.0, false)];
        assert_eq!(found, expected);
    }
}
