//! Measures several times what the hardware delivers, read bandwidth and arithmetic, and derives
//! the roofline of a model's decode and prefill.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{Finding, ModelNeed};
use crate::interrupt;
use crate::measure::arithmetic::{self, Format, Peak};
use crate::number::{Form, text};
use crate::sensors::bandwidth;
use crate::units::{Bytes, BytesPerSecond, three_digits};

/// Repetitions of the bandwidth measurement, each the best of its own passes.
const REPETITIONS: usize = 7;
/// Far larger than any cache, and still read in a fraction of a second.
const BUFFER: Bytes = Bytes(256 << 20);
/// A spread above this share of the median shifts every ceiling computed from it.
const STEADY: f64 = 0.05;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// One value per repetition, in order.
    #[serde(rename = "read_bandwidths_bytes_per_s")]
    pub bandwidths: Vec<BytesPerSecond>,
    pub peaks: Vec<Peak>,
}

/// The highest speed that a model could reach here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Roofline {
    pub model: String,
    /// Tokens per second when decoding at short contexts: read bandwidth over the weights that a
    /// token reads.
    pub decode_tps: f64,
    /// Tokens per second of a long prompt: arithmetic over the multiply-adds of a token.
    /// Attention is left out.
    pub prefill_tps: f64,
    /// The format that the prefill ceiling multiplies in.
    pub format: Format,
    /// Prompts shorter than this are limited by reading the weights, not by arithmetic.
    pub balance_tokens: f64,
}

/// Takes a few seconds.
///
/// # Errors
/// There is not enough memory, or the user asked to stop.
pub fn measure(threads: u32) -> Result<Measured> {
    let mut bandwidths = Vec::with_capacity(REPETITIONS);
    for _ in 0..REPETITIONS {
        ensure!(!interrupt::requested(), "stopped");
        bandwidths.push(bandwidth::measure(threads, BUFFER)?.rate);
    }
    ensure!(!interrupt::requested(), "stopped");
    Ok(Measured { bandwidths, peaks: arithmetic::measure(threads)? })
}

impl Measured {
    /// The best reading: other work only lowers it.
    pub fn bandwidth(&self) -> BytesPerSecond {
        let best = self.bandwidths.iter().map(|b| b.0).fold(0.0, f64::max);
        BytesPerSecond(best)
    }

    /// Largest minus smallest reading, over the median.
    pub fn spread(&self) -> f64 {
        let mut sorted: Vec<f64> = self.bandwidths.iter().map(|b| b.0).collect();
        sorted.sort_by(f64::total_cmp);
        match (sorted.first(), sorted.last(), sorted.get(sorted.len() / 2)) {
            (Some(low), Some(high), Some(middle)) => (high - low) / middle,
            _ => 0.0,
        }
    }

    /// The peak of a format, or of f32 if the processor has no instruction for it.
    fn peak(&self, format: Format) -> Option<&Peak> {
        let of = |format| self.peaks.iter().find(|p| p.format == format);
        of(format).or_else(|| of(Format::F32))
    }

    pub fn findings(&self) -> Vec<Finding> {
        let spread = self.spread();
        let found = format!(
            "{}, {} readings within {}",
            self.bandwidth(),
            self.bandwidths.len(),
            text(spread, Form::Percent(1))
        );
        let bandwidth = match spread > STEADY {
            false => Finding::ok("read bandwidth", found),
            true => Finding::warn(
                "read bandwidth",
                found,
                "it moves, by other work or by this host: decode speeds move with it; take more \
                 launches, and compare only what was measured interleaved",
            ),
        };
        std::iter::once(bandwidth).chain(self.peaks.iter().map(arithmetic_finding)).collect()
    }
}

fn arithmetic_finding(peak: &Peak) -> Finding {
    let check = match peak.format {
        Format::Int8 => "int8 arithmetic",
        Format::Bf16 => "bf16 arithmetic",
        Format::F32 => "f32 arithmetic",
    };
    let mut found = format!("{} ({})", peak.rate, peak.instruction);
    if let Some(per_cycle) = peak.per_cycle {
        found += &format!(", {} a cycle of each thread", three_digits(per_cycle));
    }
    match (peak.per_cycle, peak.possible_per_cycle) {
        (Some(is), Some(possible)) if is > 1.1 * possible => Finding::warn(
            check,
            found,
            format!(
                "two instructions a cycle give {possible}: a bug of the measurement until proven otherwise"
            ),
        ),
        _ if peak.apart.0 > 1.2 * peak.rate.0 => Finding::warn(
            check,
            format!("{found}; {} if each thread's best moment counts alone", peak.apart),
            "the threads share the units of a core, or other work never left all of them alone \
             at once: the prefill ceiling is too low then",
        ),
        _ => Finding::ok(check, found),
    }
}

/// The ceilings of each model.
pub fn rooflines(measured: &Measured, models: &[ModelNeed]) -> Vec<Roofline> {
    let roofline = |m: &ModelNeed| {
        let peak = measured.peak(m.format)?;
        let decode_tps = measured.bandwidth().0 / m.read_per_token.0 as f64;
        let prefill_tps = peak.rate.0 / m.macs_per_token;
        Some(Roofline {
            model: m.name.clone(),
            decode_tps,
            prefill_tps,
            format: peak.format,
            balance_tokens: prefill_tps / decode_tps,
        })
    };
    models.iter().filter_map(roofline).collect()
}
