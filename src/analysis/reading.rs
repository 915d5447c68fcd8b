//! States the result in a few sentences that claim no more than the numbers do.

pub mod encoded;
mod judged;

use super::{baseline, batching, ceiling, failure, kind_name, ok_launches, tokens};
use crate::metric::Metric;
use crate::number::{Form, text};
use crate::record::{Arm, Comparison, Record};
use crate::units::{Bytes, Seconds, three_digits};

/// The result in plain sentences, each of which can be quoted alone. Expects summaries and
/// comparisons to be filled; empty if no launch succeeded and none failed.
pub fn reading(record: &Record) -> Vec<String> {
    if record.arms.iter().any(|arm| arm.quality.is_some()) {
        return judged::reading(record);
    }
    if encoded::is_encoding(record) {
        return encoded::reading(record);
    }
    let base = baseline_arm(record);
    let others: Vec<&Arm> = record
        .arms
        .iter()
        .filter(|arm| ok_launches(arm).next().is_some())
        .filter(|arm| base.is_none_or(|b| b.label != arm.label))
        .collect();
    let mut sentences = Vec::new();
    match (others.first(), base) {
        (Some(subject), Some(base)) => {
            sentences.extend(decode_compared(record, &others));
            sentences.extend(start_compared(record, subject));
            sentences.extend(memory_compared(subject, base));
            sentences.extend(bandwidth(record, subject));
        }
        (None, Some(only)) => {
            sentences.extend(decode_alone(only));
            sentences.extend(start_alone(only));
            sentences.extend(bandwidth(record, only));
        }
        (_, None) => {}
    }
    sentences.extend(batching::in_words(record));
    sentences.extend(same_tokens(record));
    sentences.extend(failures(record));
    sentences
}

fn failures(record: &Record) -> impl Iterator<Item = String> {
    record.arms.iter().filter_map(|arm| {
        let error = failure(arm)?;
        let line = error.message.lines().find(|l| !l.trim().is_empty()).unwrap_or("no message");
        Some(format!("{} failed ({}): {}.", arm.label, kind_name(error.kind), trimmed(line)))
    })
}

/// The arm that the comparisons name, otherwise the default baseline.
fn baseline_arm(record: &Record) -> Option<&Arm> {
    let named = record.comparisons.first().map(|c| c.baseline.as_str());
    let index = match named.and_then(|n| record.arms.iter().position(|a| a.label == n)) {
        Some(index) => index,
        None => baseline(record)?,
    };
    record.arms.get(index)
}

fn comparison<'a>(record: &'a Record, arm: &str, metric: Metric) -> Option<&'a Comparison> {
    record.comparisons.iter().find(|c| c.arm == arm && c.metric == metric)
}

/// Whether the interval leaves "no difference" open. Without an interval, the reading claims
/// nothing.
fn unresolved(c: &Comparison) -> bool {
    c.ci95.is_some_and(|[low, high]| low <= 1.0 && 1.0 <= high)
}

/// "candle decodes 2.41 times as fast as pytorch (95 % interval 2.34–2.48)."
fn decode_compared(record: &Record, others: &[&Arm]) -> Vec<String> {
    let compared = |arm: &&Arm| comparison(record, &arm.label, Metric::DecodeTps);
    let (open, settled): (Vec<_>, Vec<_>) =
        others.iter().filter_map(compared).partition(|c| unresolved(c));
    let mut sentences = Vec::new();
    for (i, c) in settled.iter().enumerate() {
        let interval = match c.ci95 {
            Some([low, high]) => {
                format!("95 % interval {}–{}", three_digits(low), three_digits(high))
            }
            None => "too few launches for an interval".to_string(),
        };
        let times = three_digits(c.times_better);
        let before = i.checked_sub(1).and_then(|i| settled.get(i));
        let against = match before.is_some_and(|before| before.baseline == c.baseline) {
            true => String::new(),
            false => format!(" as {}", c.baseline),
        };
        sentences.push(format!("{} decodes {times} times as fast{against} ({interval})", c.arm));
    }
    let mut result = Vec::new();
    if !sentences.is_empty() {
        result.push(format!("{}.", sentences.join("; ")));
    }
    for group in open.chunk_by(|a, b| a.baseline == b.baseline) {
        let names: Vec<_> = group.iter().map(|c| c.arm.as_str()).collect();
        result.push(format!(
            "No difference in decode speed was resolved between {} and {}.",
            group[0].baseline,
            and(&names)
        ));
    }
    result
}

/// "candle loads 31.2 times as fast; its cold start to the first token is 12.1 times as fast."
fn start_compared(record: &Record, arm: &Arm) -> Option<String> {
    let part = |metric: Metric, better: &str, same: &str| {
        let c = comparison(record, &arm.label, metric)?;
        Some(match unresolved(c) {
            true => format!("no difference in {same} was resolved"),
            false => format!("{better} {} times as fast", three_digits(c.times_better)),
        })
    };
    let load = part(Metric::ModelLoad, "loads", "load time");
    let cold = part(Metric::ColdStartTtft, "its cold start to the first token is", "cold start");
    let parts: Vec<String> = load.into_iter().chain(cold).collect();
    let colon = if parts.first()?.starts_with("loads") { "" } else { ":" };
    Some(format!("{}{colon} {}.", arm.label, parts.join("; ")))
}

fn memory_compared(arm: &Arm, base: &Arm) -> Option<String> {
    let peak = |metric, arm: &Arm| arm.metrics.get(&metric).map(|s| Bytes(s.mean as u64));
    let both = |metric| Some((peak(metric, arm)?, peak(metric, base)?));
    let (of, (ours, theirs)) = match both(Metric::PeakGpuBytes) {
        Some(peaks) => ("the card's memory", peaks),
        None => ("memory", both(Metric::PeakHostBytes)?),
    };
    Some(format!("{} peaks at {ours} of {of}, {} at {theirs}.", arm.label, base.label))
}

/// "At 24.1 tok/s candle uses 78 % of the read bandwidth of 33.4 GB/s around its launches; …"
fn bandwidth(record: &Record, arm: &Arm) -> Option<String> {
    let rate = arm.metrics.get(&Metric::DecodeTps)?.mean;
    let mbu = arm.metrics.get(&Metric::Mbu)?.mean;
    let read = ceiling::bandwidth(record, arm)?;
    let when = if read.around { " around its launches" } else { "" };
    let ceiling = rate / mbu;
    ceiling.is_finite().then(|| {
        format!(
            "At {} tok/s {} uses {} of the read bandwidth of {}{when}; the ceiling for this \
             file and these contexts is {} tok/s.",
            three_digits(rate),
            arm.label,
            text(mbu, Form::Percent(0)),
            read.rate,
            three_digits(ceiling)
        )
    })
}

fn decode_alone(arm: &Arm) -> Option<String> {
    let s = arm.metrics.get(&Metric::DecodeTps)?;
    let interval = match s.ci95 {
        Some([low, high]) => format!(
            "95 % interval {}–{} over {} launches",
            three_digits(low),
            three_digits(high),
            s.n
        ),
        None => "one launch, no interval".to_string(),
    };
    Some(format!("{} decodes at {} tok/s ({interval}).", arm.label, three_digits(s.mean)))
}

fn start_alone(arm: &Arm) -> Option<String> {
    let load = Seconds(arm.metrics.get(&Metric::ModelLoad)?.mean);
    let cold = Seconds(arm.metrics.get(&Metric::ColdStartTtft)?.mean);
    Some(format!(
        "It loads in {load}; its first token comes {cold} after the start of its process."
    ))
}

/// Only if it holds for every arm that was compared.
fn same_tokens(record: &Record) -> Option<String> {
    let agreements = tokens::agreements(record);
    let prompts = agreements.iter().map(|a| a.prompts).min()?;
    let all = agreements.iter().all(|a| a.divergences.is_empty());
    let which = if prompts == 1 { "the prompt".into() } else { format!("all {prompts} prompts") };
    all.then(|| format!("The engines gave the same tokens for {which}."))
}

fn trimmed(line: &str) -> &str {
    line.trim().trim_end_matches('.')
}

/// `a`, `a and b`, `a, b and c`.
fn and(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => one.to_string(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}
