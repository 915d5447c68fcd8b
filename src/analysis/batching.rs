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

/// Decoded tokens of all sequences together per second, with its interval.
pub fn together(arm: &Arm) -> Option<(f64, Option<[f64; 2]>)> {
    let (b, decode) =
        (f64::from(arm.point.batch.unwrap_or(1)), arm.metrics.get(&Metric::DecodeTps)?);
    Some((b * decode.mean, decode.ci95.map(|ends| ends.map(|end| b * end))))
}

/// Tokens of all sequences per second that the machine would allow at the batch of an arm.
pub fn ceiling(record: &Record, arm: &Arm) -> Option<f64> {
    let b = f64::from(arm.point.batch.unwrap_or(1));
    let step = Limits::of(record, arm)?.step;
    Some(b / (step.weights + b * step.cache).max(b * step.arithmetic))
}

/// What bounds an arm's decode steps.
struct Limits<'a> {
    step: Step,
    bandwidth: f64,
    format: &'a str,
    peak: f64,
}

impl<'a> Limits<'a> {
    fn of(record: &'a Record, arm: &Arm) -> Option<Self> {
        let (host, model) = (&record.host, record.model_of(arm));
        let precision = arm.precision.as_ref()?;
        let bandwidth = host.measured_read_bandwidth_bytes_per_s?;
        let (format, peak) = arithmetic(record, arm)?;
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
            arithmetic: weights as f64 / peak.0,
        };
        Some(Self { step, bandwidth, format, peak: peak.0 })
    }
}

/// The arithmetic that an arm computes in and the processor's measured peak of it, that of f32 where
/// its own was not measured.
pub fn arithmetic<'a>(record: &'a Record, arm: &Arm) -> Option<(&'a str, MacsPerSecond)> {
    let compute = arm.precision.as_ref()?.compute.split('+').next()?;
    let macs = &record.host.measured_macs_per_s;
    let (format, peak) = macs.get_key_value(compute).or_else(|| macs.get_key_value("f32"))?;
    Some((format, MacsPerSecond(*peak)))
}

fn of_arm(record: &Record, arm: &Arm) -> Option<String> {
    let model = record.model_of(arm);
    let Limits { step, bandwidth, format, peak } = Limits::of(record, arm)?;
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
        MacsPerSecond(peak),
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
    fn the_ceiling_grows_with_the_batch_until_arithmetic_takes_over() {
        let mut record = testing::record();
        record.host.measured_macs_per_s.insert("int8".into(), 1.0e12);
        let at = |batch: u32| {
            let mut arm = record.arms[0].clone();
            arm.point.batch = Some(batch);
            ceiling(&record, &arm).unwrap()
        };
        // 803 MB at 33.4 GB/s, and 1.24 G products at 1 T a second.
        assert!((at(1) - 41.4).abs() < 1.0, "{}", at(1));
        assert!(at(8) > 7.0 * at(1));
        assert!((at(512) - 1.0e12 / 1.24e9).abs() < 1.0, "{}", at(512));
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
