//! What a record of an encoder or a tokenizer says: rates over all cells of batch and length, the
//! start, memory.

use std::collections::BTreeMap;

use super::{and, baseline_arm, failures, memory_compared};
use crate::analysis::at_prompt;
use crate::metric::Metric;
use crate::record::{Arm, Record};
use crate::units::{Seconds, three_digits};

/// Whether the record is of an encoder or a tokenizer.
pub fn is_encoding(record: &Record) -> bool {
    record.arms.iter().any(|arm| arm.metrics.contains_key(&Metric::SequencesPerS))
}

/// Whether the record is of a tokenizer: the models beside it ran nothing.
pub fn is_tokenizing(record: &Record) -> bool {
    record.arms.iter().any(|arm| arm.metrics.contains_key(&Metric::Tokenize))
}

/// What is done with the texts.
fn verb(record: &Record) -> &'static str {
    if is_tokenizing(record) { "tokenizes" } else { "encodes" }
}

/// The ratios of one engine to the baseline, cell by cell.
#[derive(Default)]
struct Ratios {
    least: f64,
    most: f64,
    faster: u32,
    slower: u32,
    of: u32,
}

pub fn reading(record: &Record) -> Vec<String> {
    let mut sentences = Vec::new();
    let base = baseline_arm(record);
    let mut engines: BTreeMap<usize, (String, Ratios)> = BTreeMap::new();
    for arm in &record.arms {
        let name = series(arm);
        let place = record.arms.iter().position(|other| series(other) == name);
        let (_, ratios) =
            engines.entry(place.unwrap_or(0)).or_insert_with(|| (name, Ratios::default()));
        for prompt in &record.workload.prompts {
            if let Some(c) = at_prompt(record, arm, &prompt.id, Metric::SequencesPerS) {
                ratios.add(c.times_better, c.ci95);
            }
        }
    }
    if let Some(base) = base {
        let said =
            |(name, ratios): &(String, Ratios)| ratios.said(name, verb(record), &series(base));
        sentences.extend(engines.values().filter_map(said));
        let subject = record.arms.iter().find(|arm| series(arm) != series(base));
        match subject {
            Some(subject) => {
                sentences.extend(start_compared(record, subject));
                let same = |arm: &&Arm| {
                    series(arm) == series(base) && arm.point.batch == subject.point.batch
                };
                let base = record.arms.iter().find(same);
                sentences.extend(base.and_then(|base| memory_compared(subject, base)));
            }
            None => sentences.extend(alone(record, base)),
        }
    }
    sentences.extend(failures(record));
    sentences
}

impl Ratios {
    fn add(&mut self, ratio: f64, ci95: Option<[f64; 2]>) {
        self.least = if self.of == 0 { ratio } else { self.least.min(ratio) };
        self.most = self.most.max(ratio);
        self.faster += u32::from(ci95.is_some_and(|[low, _]| low > 1.0));
        self.slower += u32::from(ci95.is_some_and(|[_, high]| high < 1.0));
        self.of += 1;
    }

    /// "candle encodes 1.21 to 2.40 times as many texts a second as pytorch (faster in 5 of 6 cells of
    /// batch and length, slower in none)."
    fn said(&self, name: &str, verb: &str, base: &str) -> Option<String> {
        if self.of == 0 {
            return None;
        }
        let number = |n: u32| if n == 0 { "none".to_string() } else { n.to_string() };
        let (least, most) = (three_digits(self.least), three_digits(self.most));
        let times = if least == most { least } else { format!("{least} to {most}") };
        Some(format!(
            "{name} {verb} {times} times as many texts a second as {base} (95 % intervals: faster in \
             {} of {} cells of batch and length, slower in {}).",
            number(self.faster),
            self.of,
            number(self.slower)
        ))
    }
}

/// "candle:b1 starts 12.1 times as fast as pytorch:b1, to the first result."
fn start_compared(record: &Record, arm: &Arm) -> Option<String> {
    let c = super::comparison(record, &arm.label, Metric::ColdStart)?;
    Some(match super::unresolved(c) {
        true => format!(
            "No difference in cold start was resolved between {}.",
            and(&[c.baseline.as_str(), arm.label.as_str(),])
        ),
        false => format!(
            "{} has its first result {} times as fast as {}, from the start of the process.",
            arm.label,
            three_digits(c.times_better),
            c.baseline
        ),
    })
}

/// One engine, nothing beside it.
fn alone(record: &Record, arm: &Arm) -> Option<String> {
    let rates = record.arms.iter().flat_map(|arm| arm.prompt_metrics.values());
    let rates: Vec<f64> =
        rates.filter_map(|metrics| Some(metrics.get(&Metric::SequencesPerS)?.mean)).collect();
    let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let most = rates.iter().copied().fold(0.0, f64::max);
    let rates = format!(
        "{} {} {} to {} texts a second, by batch and length",
        series(arm),
        verb(record),
        three_digits(least),
        three_digits(most)
    );
    let cold = arm.metrics.get(&Metric::ColdStart).map(|s| Seconds(s.mean));
    let start =
        cold.map(|cold| format!("; its first result comes {cold} after the start of its process"));
    (most > 0.0).then(|| format!("{rates}{}.", start.unwrap_or_default()))
}

/// The label without the batch: one engine, file, device and number of threads.
pub fn series(arm: &Arm) -> String {
    let batch = format!(":b{}", arm.point.batch.unwrap_or(1));
    arm.label.strip_suffix(&batch).unwrap_or(&arm.label).to_string()
}
