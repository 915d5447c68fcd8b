//! The result of a sweep in sentences: what each quantization gains, and what it loses.

use super::{and, failures, unresolved};
use crate::analysis::comparison::compare;
use crate::analysis::front::front;
use crate::metric::Metric;
use crate::number::{Form, text};
use crate::record::{Arm, Loss, Record};
use crate::units::{Bytes, three_digits};

/// The table has the others.
const MOST_SAID: usize = 5;
const MOST_NAMED: usize = 6;

/// Points of the front first, the fastest of them at the top.
pub fn reading(record: &Record) -> Vec<String> {
    let on = front(&record.arms);
    let rate = |arm: &Arm| arm.metrics.get(&Metric::DecodeTps).map_or(0.0, |s| s.mean);
    let mut judged: Vec<(&Arm, &Arm, &Loss)> = (record.arms.iter().zip(&on))
        .filter(|(_, on)| **on)
        .filter_map(|(arm, _)| {
            let loss = arm.quality.as_ref()?.loss.as_ref()?;
            Some((arm, reference(record, arm)?, loss))
        })
        .collect();
    judged.sort_by(|a, b| rate(b.0).total_cmp(&rate(a.0)));
    let said = judged.iter().take(MOST_SAID);
    let mut sentences: Vec<String> = said.map(|(arm, base, loss)| one(arm, base, loss)).collect();
    if judged.len() > MOST_SAID {
        sentences.push(format!(
            "{} further points are beaten by none; the table has them.",
            judged.len() - MOST_SAID
        ));
    }
    let mut beaten: Vec<&str> = (record.arms.iter().zip(&on))
        .filter(|(arm, on)| !**on && arm.metrics.contains_key(&Metric::DecodeTps))
        .map(|(arm, _)| arm.label.as_str())
        .collect();
    match beaten.len() {
        0 => {}
        n if n > MOST_NAMED => {
            sentences.push(format!("{n} points are beaten by others in speed, loss and memory."));
        }
        n => {
            beaten.sort_unstable();
            let (is, another) = if n == 1 { ("is", "another point") } else { ("are", "others") };
            sentences.push(format!(
                "{} {is} beaten by {another} in speed, loss and memory.",
                and(&beaten)
            ));
        }
    }
    sentences.extend(failures(record));
    sentences
}

/// The arm on the reference file that differs in nothing else.
fn reference<'a>(record: &'a Record, arm: &Arm) -> Option<&'a Arm> {
    let point = &arm.point;
    record.arms.iter().find(|other| {
        let same = (&other.engine, other.point.threads, other.point.device)
            == (&arm.engine, point.threads, point.device);
        same && other.quality.as_ref().is_some_and(|quality| quality.loss.is_none())
    })
}

/// "candle:Q4_0 decodes 2.31 times as fast as candle:F16 (95 % interval 1.90–2.81) and peaks at 110
/// MB of memory instead of 289 MB; it loses 0.283 nats a token and keeps 69.3 % of the first
/// choices."
fn one(arm: &Arm, base: &Arm, loss: &Loss) -> String {
    let (label, reference) = (&arm.label, &base.label);
    let (before, subject) = match compare(arm, base, Metric::DecodeTps) {
        Some(c) if unresolved(&c) => {
            let open = "No difference in decode speed between";
            (format!("{open} {label} and {reference} was resolved. "), label.clone())
        }
        Some(c) => {
            let interval = match c.ci95 {
                Some([low, high]) => {
                    format!("95 % interval {}–{}", three_digits(low), three_digits(high))
                }
                None => "too few launches for an interval".to_string(),
            };
            let times = three_digits(c.times_better);
            let and = format!("{label} decodes {times} times as fast as {reference} ({interval})");
            (String::new(), and + " and")
        }
        None => (String::new(), label.clone()),
    };
    let metric = match arm.metrics.contains_key(&Metric::PeakGpuBytes) {
        true => Metric::PeakGpuBytes,
        false => Metric::PeakHostBytes,
    };
    let peak = |arm: &Arm| arm.metrics.get(&metric).map(|s| Bytes(s.mean as u64));
    let memory = match (peak(arm), peak(base)) {
        (Some(ours), Some(theirs)) => format!("peaks at {ours} of memory instead of {theirs}"),
        _ => "has no peak of memory".into(),
    };
    let floor = base.quality.as_ref().and_then(|quality| quality.floor.as_ref());
    let lost = match floor {
        Some(floor) if loss.kl.mean <= floor.kl.mean => {
            "; what it loses is within the noise floor".to_string()
        }
        _ => format!(
            "; it loses {} nats a token and keeps {} of the first choices",
            text(loss.kl.mean, Form::Significant),
            text(loss.top1, Form::Percent(1))
        ),
    };
    format!("{before}{subject} {memory}{lost}.")
}
