//! What the machine would allow: the speed at which memory or arithmetic, as measured, would be
//! used up (the roofline).

use super::batching;
use crate::metric::Metric;
use crate::record::{Arm, Launch, Record};
use crate::units::BytesPerSecond;

/// The read bandwidth that an arm had.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bandwidth {
    pub rate: BytesPerSecond,
    /// Measured around its launches; otherwise before the session.
    pub around: bool,
}

pub fn bandwidth(record: &Record, arm: &Arm) -> Option<Bandwidth> {
    let around = |launch: &Launch| launch.environment.read_bandwidth_bytes_per_s;
    let mut rates: Vec<f64> = arm.launches.iter().filter_map(around).flatten().collect();
    rates.sort_by(f64::total_cmp);
    // A card's is read once, before the session, and so it was in early records.
    Some(match rates.get(rates.len() / 2) {
        Some(rate) => Bandwidth { rate: BytesPerSecond(*rate), around: true },
        None => {
            let rate = record.host.read_bandwidth(arm.point.device.unwrap_or_default())?;
            Bandwidth { rate: BytesPerSecond(rate), around: false }
        }
    })
}

/// The decode rate at which a prompt of an arm would use all of the bandwidth: its rate by its MBU.
pub fn decode(arm: &Arm, prompt: &str) -> Option<f64> {
    let metrics = arm.prompt_metrics.get(prompt)?;
    let (rate, mbu) = (metrics.get(&Metric::DecodeTps)?.mean, metrics.get(&Metric::Mbu)?.mean);
    Some(rate / mbu).filter(|ceiling| ceiling.is_finite())
}

/// What bounds the prefill of a prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prefill {
    /// Reading all weights once for the whole prompt.
    pub memory: f64,
    /// Multiplying all weights for each token; absent where the arithmetic was not measured.
    pub arithmetic: Option<f64>,
}

impl Prefill {
    pub fn least(self) -> f64 {
        self.arithmetic.map_or(self.memory, |arithmetic| arithmetic.min(self.memory))
    }
}

/// Prompt tokens per second that the machine would allow for a prompt of `tokens`.
pub fn prefill(record: &Record, arm: &Arm, tokens: u32) -> Option<Prefill> {
    let model = record.model_of(arm);
    let bytes = model.weight_bytes_per_token.filter(|bytes| *bytes > 0)? as f64;
    let memory = bandwidth(record, arm)?.rate.0 / bytes * f64::from(tokens);
    let device = arm.point.device.unwrap_or_default();
    let macs = match record.host.gpu_of(device) {
        // Multiply and add are counted apart.
        Some(card) => card.measured_f16_flops.map(|flops| flops / 2.0),
        None => batching::arithmetic(record, arm).map(|(_, macs)| macs.0),
    };
    let weights = model.weights_per_token.filter(|weights| *weights > 0);
    let arithmetic = macs.zip(weights).map(|(macs, weights)| macs / weights as f64);
    Some(Prefill { memory, arithmetic })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;

    #[test]
    fn a_prompt_of_one_token_is_prefilled_as_fast_as_the_weights_are_read() {
        let record = testing::record();
        let bound = prefill(&record, &record.arms[0], 1).unwrap();
        assert!((bound.memory - 33.4e9 / 803e6).abs() < 1e-9, "{bound:?}");
        assert_eq!((bound.arithmetic, bound.least()), (None, bound.memory));
        let with = Prefill { arithmetic: Some(3.0), ..bound };
        assert_eq!(with.least(), 3.0);
    }

    #[test]
    fn the_ceiling_of_decode_is_its_rate_by_its_share_of_the_bandwidth() {
        let mut record = testing::record();
        for run in record.arms[0].launches.iter_mut().flat_map(|l| &mut l.prompts) {
            if run.metrics.contains_key(&Metric::DecodeTps) {
                run.metrics.insert(Metric::Mbu, 0.5);
            }
        }
        crate::analysis::summarize(&mut record);
        let arm = &record.arms[0];
        let rate = arm.prompt_metrics["doc-512"][&Metric::DecodeTps].mean;
        assert!((decode(arm, "doc-512").unwrap() - 2.0 * rate).abs() < 1e-9);
        assert_eq!(decode(arm, "unknown"), None);
    }
}
