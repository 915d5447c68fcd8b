//! The figures of batched decoding, by the names of llama-batched-bench, and the roofline over the
//! batch: from how many sequences on arithmetic, not memory, limits a step.

use crate::metric::Metric;
use crate::record::{Arm, Record, WorkloadPrompt};
use crate::units::{BytesPerSecond, MacsPerSecond, Seconds};

/// One line of llama-batched-bench. Times follow from the mean rates, so that they agree with each
/// other.
#[derive(Debug, Clone, PartialEq)]
pub struct Batched {
    /// Tokens of each prompt, with its context.
    pub pp: u32,
    /// Decode steps: the first token belongs to the prompt.
    pub tg: u32,
    pub b: u32,
    /// Positions of all caches at the end.
    pub n_kv: u64,
    /// Prompt tokens of all sequences per second; absent where the contexts were not timed apart.
    pub s_pp: Option<f64>,
    /// Decoded tokens of all sequences per second.
    pub s_tg: f64,
}

impl Batched {
    /// Of an arm's measured generations of a prompt.
    pub fn of(arm: &Arm, prompt: &WorkloadPrompt) -> Option<Self> {
        let metrics = arm.prompt_metrics.get(&prompt.id)?;
        let (b, tg) = (arm.point.batch.unwrap_or(1), prompt.n_gen.saturating_sub(1));
        let pp = prompt.depth + prompt.n_prompt;
        Some(Self {
            pp,
            tg,
            b,
            n_kv: u64::from(b) * u64::from(pp + tg),
            s_pp: metrics.get(&Metric::PrefillTps).filter(|_| prompt.depth == 0).map(|s| s.mean),
            s_tg: f64::from(b) * metrics.get(&Metric::DecodeTps)?.mean,
        })
    }

    pub fn t_pp(&self) -> Option<f64> {
        Some(f64::from(self.b) * f64::from(self.pp) / self.s_pp?)
    }

    pub fn t_tg(&self) -> f64 {
        f64::from(self.b) * f64::from(self.tg) / self.s_tg
    }

    pub fn t(&self) -> Option<f64> {
        Some(self.t_pp()? + self.t_tg())
    }

    pub fn s(&self) -> Option<f64> {
        Some(self.n_kv as f64 / self.t()?)
    }
}

/// Whether several sequences were generated together somewhere.
pub fn is_batched(record: &Record) -> bool {
    record.arms.iter().any(|arm| arm.point.batch.is_some())
}

/// What one decode step takes at least, from what the machine was measured to deliver.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    /// Reading the weights, once for all sequences.
    weights: f64,
    /// Reading the keys and values of one sequence, at a middle position.
    cache: f64,
    /// Multiplying the weights for one sequence.
    arithmetic: f64,
}

impl Step {
    /// The smallest batch whose arithmetic takes as long as its reading; `None` if a sequence's
    /// cache takes longer to read than its products to compute.
    fn takes_over(self) -> Option<u32> {
        let each = self.arithmetic - self.cache;
        let batch = (self.weights / each).ceil().max(1.0);
        (each > 0.0 && batch <= 1e6).then_some(batch as u32)
    }
}

/// One sentence for each file and type of arithmetic in a batched record.
pub fn in_words(record: &Record) -> Vec<String> {
    let mut sentences = Vec::new();
    if is_batched(record) {
        for arm in &record.arms {
            if let Some(sentence) = of_arm(record, arm)
                && !sentences.contains(&sentence)
            {
                sentences.push(sentence);
            }
        }
    }
    sentences
}

fn of_arm(record: &Record, arm: &Arm) -> Option<String> {
    let (host, model, precision) = (&record.host, record.model_of(arm), arm.precision.as_ref()?);
    let bandwidth = host.measured_read_bandwidth_bytes_per_s?;
    let compute = precision.compute.split('+').next()?;
    let macs = &host.measured_macs_per_s;
    let (format, peak) = macs.get_key_value(compute).or_else(|| macs.get_key_value("f32"))?;
    let of_setting = |name: &str| arm.settings.get(name).and_then(serde_json::Value::as_u64);
    let bytes = of_setting("weight_bytes_per_token").or(model.weight_bytes_per_token)?;
    let weights = model.weights_per_token?;
    let positions = record
        .workload
        .prompts
        .iter()
        .map(|p| f64::from(p.depth) + f64::from(p.n_prompt) + f64::from(p.n_gen) / 2.0);
    let position = positions.sum::<f64>() / record.workload.prompts.len().max(1) as f64;
    let kv_bytes = if precision.kv.contains("32") { 4.0 } else { 2.0 };
    let step = Step {
        weights: bytes as f64 / bandwidth,
        cache: position * kv_bytes * model.kv_values_per_position? as f64 / bandwidth,
        arithmetic: weights as f64 / peak,
    };
    let limit = match step.takes_over() {
        Some(batch) => format!("Arithmetic takes over at a batch of {batch}"),
        None => "Arithmetic takes over at no batch: reading the caches takes longer".into(),
    };
    Some(format!(
        "{} in {format}: a decode step reads its weights in {} at {}, and multiplies them in {} for \
         each sequence at {}, whose cache it reads in {}. {limit}.",
        model.quant,
        Seconds(step.weights),
        BytesPerSecond(bandwidth),
        Seconds(step.arithmetic),
        MacsPerSecond(*peak),
        Seconds(step.cache),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;

    #[test]
    fn arithmetic_takes_over_where_it_takes_as_long_as_reading() {
        let step = Step { weights: 16.0, cache: 0.0, arithmetic: 1.0 };
        assert_eq!(step.takes_over(), Some(16));
        assert_eq!(Step { cache: 0.5, ..step }.takes_over(), Some(32));
        assert_eq!(Step { cache: 1.0, ..step }.takes_over(), None);
        assert_eq!(Step { arithmetic: 20.0, ..step }.takes_over(), Some(1));
    }

    #[test]
    fn the_columns_agree_with_each_other() {
        let mut record = testing::record();
        crate::analysis::summarize(&mut record);
        let prompt = record.workload.prompts[0].clone();
        let arm = &mut record.arms[0];
        arm.point.batch = Some(4);
        let line = Batched::of(arm, &prompt).unwrap();
        assert_eq!((line.pp, line.tg, line.b), (prompt.n_prompt, prompt.n_gen - 1, 4));
        assert_eq!(line.n_kv, 4 * u64::from(line.pp + line.tg));
        let decode = arm.prompt_metrics[&prompt.id][&Metric::DecodeTps].mean;
        assert!((line.t_tg() - f64::from(line.tg) / decode).abs() < 1e-12);
        let (t, s) = (line.t().unwrap(), line.s().unwrap());
        assert!((s * t - line.n_kv as f64).abs() < 1e-6);
    }
}
