//! Turns raw times into the metrics of one generation and of one launch. Definitions:
//! docs/METHODOLOGY.md; names: `metric`.

use super::Measured;
use crate::device::DeviceKind;
use crate::metric::{Metric, Values};
use crate::record::{Energy, Model, PromptRun, Role};
use crate::stats::Sample;
use crate::units::{BytesPerSecond, MacsPerSecond, Seconds};

/// The known part of what one decoded token must read from memory.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ReadsPerToken {
    weight_bytes: u64,
    /// Bytes per position in the cache.
    kv_bytes_per_position: u64,
    /// Multiply-adds with weights, as a share of what the machine makes in a second, if both are
    /// known.
    seconds_of_arithmetic: Option<f64>,
    /// The ceiling.
    bandwidth: BytesPerSecond,
}

impl ReadsPerToken {
    fn of(measured: &Measured<'_>, model: &Model) -> Option<Self> {
        let kv_bytes = if measured.loaded.precision.kv.contains("32") { 4 } else { 2 };
        Some(Self {
            weight_bytes: measured.loaded.weight_bytes_per_token.or(model.weight_bytes_per_token)?,
            kv_bytes_per_position: model.kv_values_per_position? * kv_bytes,
            seconds_of_arithmetic: measured
                .peak_macs(&measured.loaded.precision.compute)
                .zip(model.weights_per_token)
                .map(|(MacsPerSecond(peak), macs)| macs as f64 / peak),
            bandwidth: measured.bandwidth?,
        })
    }
}

/// Sums from which the metrics of a generation or of a set are computed.
#[derive(Debug, Clone)]
struct Sums {
    prompt_tokens: f64,
    prefill: f64,
    ttft: Vec<f64>,
    gaps: Vec<f64>,
    /// Decode steps, once for each sequence.
    decoded: f64,
    tokens: f64,
    whole: f64,
    read_bytes: f64,
    peak: Option<f64>,
    sustained: Vec<f64>,
    prefill_known: bool,
    /// Whether every request held its prompt alone, so that the request's time begins at its
    /// submit.
    submit_known: bool,
}

/// Metrics of one generation, without those that need facts about model and memory.
pub fn of_generation(run: &PromptRun) -> Values {
    of_runs([run], None)
}

fn of_runs<'a>(
    runs: impl IntoIterator<Item = &'a PromptRun>,
    reads: Option<&ReadsPerToken>,
) -> Values {
    let mut sums = Sums::new();
    runs.into_iter().for_each(|run| sums.add(run, reads));
    sums.metrics(reads)
}

/// Fills in the metrics of each measured generation, and of the launch over all of them: rates from
/// sums, gaps pooled. Load and cold start are already filled in.
pub fn of_launch(measured: &mut Measured<'_>, model: &Model) {
    let reads = ReadsPerToken::of(measured, model);
    let device = measured.device;
    let launch = &mut *measured.launch;
    for run in launch.prompts.iter_mut().filter(|run| run.role == Role::Measured) {
        run.metrics = of_runs([&*run], reads.as_ref());
    }
    let mut values = of_prompts(&launch.prompts, reads.as_ref());
    let decode = values.get(&Metric::DecodeTps).copied();
    let gpu_peak = launch.memory.gpu.as_ref().and_then(|gpu| gpu.peak_bytes);
    let peak = match device.kind() {
        DeviceKind::Cpu => launch.memory.peak_host_bytes,
        DeviceKind::Cuda | DeviceKind::Metal => gpu_peak,
    };
    if let (Some(rate), Some(peak)) = (decode, peak.filter(|peak| *peak > 0)) {
        values.insert(Metric::TpsPerGb, rate / (peak as f64 / 1e9));
    }
    let energy = match device.kind() {
        DeviceKind::Cpu => &launch.energy,
        DeviceKind::Cuda | DeviceKind::Metal => &launch.gpu_energy,
    };
    values.extend(energy.iter().flat_map(|energy| of_energy(energy, &launch.prompts)));
    launch.metrics.extend(values);
    measured.machine();
}

/// The launch metrics that come from its generations.
fn of_prompts(runs: &[PromptRun], reads: Option<&ReadsPerToken>) -> Values {
    let measured = || runs.iter().filter(|r| r.role == Role::Measured);
    let mut values = of_runs(measured(), reads);
    let gaps: Vec<f64> = measured().flat_map(gaps).collect();
    // The process's first step has an empty context, so deep ones do not compare with it.
    if runs.iter().all(|run| run.depth == 0)
        && let (Some(first), Some(steady)) = (first_decode_step(runs), quantile(&gaps, 0.5))
    {
        values.insert(Metric::WarmupGain, first / steady);
    }
    values
}

/// Energy per token, over the measured windows and over the whole requests.
fn of_energy(energy: &Energy, runs: &[PromptRun]) -> Values {
    let measured = || runs.iter().filter(|run| run.role == Role::Measured);
    let sequences = |run: &PromptRun| run.batch.unwrap_or(1) as usize;
    let steps = |run: &PromptRun| sequences(run) * run.token_ns.len().saturating_sub(1);
    let decoded: usize = measured().map(steps).sum();
    let all = |run: &PromptRun| sequences(run) * (run.n_prompt as usize + run.token_ns.len());
    let total: usize = measured().map(all).sum();
    let mut values = Values::new();
    if decoded > 0 {
        values.insert(Metric::JoulesPerToken, energy.joules / decoded as f64);
    }
    // A request that holds its context costs what that takes too.
    if let Some(joules) = energy.request_joules
        && measured().all(|run| !run.context_in_request)
        && total > 0
    {
        values.insert(Metric::JoulesPerTotalToken, joules / total as f64);
    }
    values
}

/// The first decode step of the process.
fn first_decode_step(runs: &[PromptRun]) -> Option<f64> {
    let cold = runs.iter().find(|r| r.role == Role::Cold)?;
    gaps(cold).next()
}

fn gaps(run: &PromptRun) -> impl Iterator<Item = f64> + '_ {
    run.token_ns.windows(2).map(|w| Seconds::from_ns(w[1] - w[0]).0)
}

impl Sums {
    fn new() -> Self {
        Self {
            prompt_tokens: 0.0,
            prefill: 0.0,
            ttft: Vec::new(),
            gaps: Vec::new(),
            decoded: 0.0,
            tokens: 0.0,
            whole: 0.0,
            read_bytes: 0.0,
            peak: None,
            sustained: Vec::new(),
            prefill_known: true,
            submit_known: true,
        }
    }

    fn add(&mut self, run: &PromptRun, reads: Option<&ReadsPerToken>) {
        let (Some(&first), Some(&last)) = (run.token_ns.first(), run.token_ns.last()) else {
            return;
        };
        let sequences = f64::from(run.batch.unwrap_or(1));
        self.submit_known &= !run.context_in_request;
        self.ttft.push(Seconds::from_ns(first).0);
        self.tokens += run.token_ns.len() as f64;
        self.whole += Seconds::from_ns(last).0;
        match run.begin_ns.zip(run.prefill_end_ns) {
            Some((begin, end)) if end > begin && !run.context_in_request => {
                self.prompt_tokens += sequences * f64::from(run.n_prompt);
                self.prefill += Seconds::from_ns(end - begin).0;
            }
            _ => self.prefill_known = false,
        }
        let steps = run.token_ns.len() - 1;
        if steps == 0 {
            return;
        }
        self.gaps.extend(gaps(run));
        self.decoded += sequences * steps as f64;
        if let Some(reads) = reads {
            // Step i (from 1) attends to the context, the prompt and the i tokens so far.
            let before = f64::from(run.depth) + f64::from(run.n_prompt);
            let mean_depth = before + (steps as f64 + 1.0) / 2.0;
            self.read_bytes += steps as f64
                * (reads.weight_bytes as f64
                    + sequences * mean_depth * reads.kv_bytes_per_position as f64);
        }
        self.peak = [self.peak, best_second(&run.token_ns)].into_iter().flatten().reduce(f64::max);
        self.sustained.extend(last_third_rate(run));
    }

    fn metrics(&self, reads: Option<&ReadsPerToken>) -> Values {
        let mut values = Values::new();
        let mut put = |metric: Metric, value: Option<f64>| {
            if let Some(v) = value.filter(|v| v.is_finite()) {
                values.insert(metric, v);
            }
        };
        put(Metric::Ttft, mean(&self.ttft).filter(|_| self.submit_known));
        let enough = self.submit_known && self.ttft.len() >= 20;
        put(Metric::TtftP95, quantile(&self.ttft, 0.95).filter(|_| enough));
        if self.prefill_known && self.prefill > 0.0 {
            put(Metric::PrefillTps, Some(self.prompt_tokens / self.prefill));
        }
        if self.whole > 0.0 && self.submit_known {
            put(Metric::E2eTps, Some(self.tokens / self.whole));
        }
        let decode: f64 = self.gaps.iter().sum();
        if decode > 0.0 {
            let steps = self.gaps.len() as f64;
            put(Metric::DecodeTps, Some(steps / decode));
            put(Metric::Tpot, Some(decode / steps));
            put(Metric::ItlP50, quantile(&self.gaps, 0.50));
            put(Metric::ItlP95, quantile(&self.gaps, 0.95));
            put(Metric::ItlP99, quantile(&self.gaps, 0.99).filter(|_| self.gaps.len() >= 100));
            put(Metric::ItlMax, quantile(&self.gaps, 1.0));
            put(Metric::Mbu, reads.map(|r| self.read_bytes / decode / r.bandwidth.0));
            if self.decoded > steps {
                put(Metric::BatchDecodeTps, Some(self.decoded / decode));
                let share = reads.and_then(|r| r.seconds_of_arithmetic);
                put(Metric::ArithmeticShare, share.map(|s| s * self.decoded / decode));
            }
        }
        put(Metric::PeakTps, self.peak);
        put(Metric::SustainedTps, quantile(&self.sustained, 0.5));
        values
    }
}

/// The most tokens within any one second after the first token. `None` for a decode shorter than a
/// second, which could not fill that window.
fn best_second(token_ns: &[u64]) -> Option<f64> {
    const SECOND: u64 = 1_000_000_000;
    let decoded = &token_ns[1..];
    if token_ns.last()? - token_ns.first()? < SECOND {
        return None;
    }
    let mut begin = 0;
    let mut best = 0;
    for (end, t) in decoded.iter().enumerate() {
        while t - decoded[begin] >= SECOND {
            begin += 1;
        }
        best = best.max(end + 1 - begin);
    }
    Some(best as f64)
}

/// Median token rate over the last third of the gaps.
fn last_third_rate(run: &PromptRun) -> Option<f64> {
    let gaps: Vec<f64> = gaps(run).collect();
    let third = &gaps[gaps.len() - gaps.len().div_ceil(3)..];
    quantile(third, 0.5).filter(|g| *g > 0.0).map(|g| 1.0 / g)
}

fn mean(xs: &[f64]) -> Option<f64> {
    (!xs.is_empty()).then(|| xs.iter().sum::<f64>() / xs.len() as f64)
}

fn quantile(xs: &[f64], q: f64) -> Option<f64> {
    Sample::new(xs).ok().map(|s| s.quantile(q))
}

#[cfg(test)]
mod tests {
    use super::*;

    const READS: ReadsPerToken = ReadsPerToken {
        weight_bytes: 1_000_000,
        kv_bytes_per_position: 1_000,
        seconds_of_arithmetic: Some(1e-3),
        bandwidth: BytesPerSecond(1e9),
    };

    /// 16 prompt tokens in 0.8 s, then five tokens 100 ms apart.
    fn run(role: Role) -> PromptRun {
        PromptRun {
            id: "p".into(),
            n_prompt: 16,
            n_gen: 5,
            begin_ns: Some(10_000_000),
            prefill_end_ns: Some(810_000_000),
            token_ns: (0..5).map(|i| 900_000_000 + i * 100_000_000).collect(),
            ..PromptRun::new(role)
        }
    }

    fn alone(run: &PromptRun) -> Values {
        of_runs([run], Some(&READS))
    }

    fn of_launch(runs: &[PromptRun]) -> Values {
        of_prompts(runs, Some(&READS))
    }

    fn close(values: &Values, metric: Metric, expected: f64) {
        let v = values[&metric];
        assert!((v - expected).abs() < 1e-9 * expected.abs(), "{metric}: {v}, expected {expected}");
    }

    #[test]
    fn the_metrics_of_a_generation_follow_their_definitions() {
        let v = alone(&run(Role::Measured));
        close(&v, Metric::Ttft, 0.9);
        close(&v, Metric::PrefillTps, 16.0 / 0.8);
        close(&v, Metric::DecodeTps, 10.0);
        close(&v, Metric::Tpot, 0.1);
        close(&v, Metric::ItlP50, 0.1);
        close(&v, Metric::E2eTps, 5.0 / 1.3);
        close(&v, Metric::SustainedTps, 10.0);
        // 1 MB of weights and 18.5 positions of 1 kB in 0.1 s, against 1 GB/s.
        close(&v, Metric::Mbu, (1_000_000.0 + 18_500.0) / 0.1 / 1e9);
        assert!(!v.contains_key(&Metric::ItlP99), "under 100 gaps there is no p99");
        assert!(!v.contains_key(&Metric::PeakTps), "the decode took less than a second");
    }

    #[test]
    fn a_launch_counts_measured_generations_only() {
        let mut slow = run(Role::Measured);
        slow.token_ns = (0..5).map(|i| 900_000_000 + i * 300_000_000).collect();
        let mut cold = run(Role::Cold);
        cold.token_ns[1] += 700_000_000;
        cold.token_ns[2..].iter_mut().for_each(|t| *t += 700_000_000);
        let v = of_launch(&[cold, run(Role::Warmup), run(Role::Measured), slow]);
        close(&v, Metric::DecodeTps, 8.0 / (0.4 + 1.2));
        close(&v, Metric::WarmupGain, 0.8 / 0.2);
    }

    #[test]
    fn one_token_has_a_ttft_but_no_decode_rate() {
        let mut one = run(Role::Measured);
        one.token_ns.truncate(1);
        let v = alone(&one);
        assert!(v.contains_key(&Metric::Ttft) && !v.contains_key(&Metric::DecodeTps));
    }

    #[test]
    fn without_an_end_of_prefill_there_is_no_prefill_rate() {
        let mut unknown = run(Role::Measured);
        unknown.prefill_end_ns = None;
        assert!(!of_launch(&[run(Role::Measured), unknown]).contains_key(&Metric::PrefillTps));
    }

    #[test]
    fn at_a_depth_the_mbu_counts_the_keys_and_values_of_the_context() {
        let deep = PromptRun { depth: 2000, ..run(Role::Measured) };
        let v = alone(&deep);
        close(&v, Metric::Ttft, 0.9);
        close(&v, Metric::PrefillTps, 16.0 / 0.8);
        close(&v, Metric::Mbu, (1_000_000.0 + 2_018_500.0) / 0.1 / 1e9);
        let launch = of_launch(&[run(Role::Cold), deep]);
        assert!(!launch.contains_key(&Metric::WarmupGain), "the first step was not at this depth");
    }

    #[test]
    fn a_batch_reads_weights_once_and_each_sequences_cache() {
        let four = PromptRun { batch: Some(4), ..run(Role::Measured) };
        let v = alone(&four);
        close(&v, Metric::PrefillTps, 4.0 * 16.0 / 0.8);
        close(&v, Metric::DecodeTps, 10.0);
        close(&v, Metric::BatchDecodeTps, 40.0);
        close(&v, Metric::Mbu, (1_000_000.0 + 4.0 * 18_500.0) / 0.1 / 1e9);
        close(&v, Metric::ArithmeticShare, 4.0 * 1e-3 / 0.1);
        let one = alone(&run(Role::Measured));
        for metric in [Metric::BatchDecodeTps, Metric::ArithmeticShare] {
            assert!(!one.contains_key(&metric), "{metric}");
        }
    }

    #[test]
    fn a_context_inside_the_request_leaves_decode_alone() {
        let within = PromptRun { depth: 2000, context_in_request: true, ..run(Role::Measured) };
        let v = alone(&within);
        close(&v, Metric::DecodeTps, 10.0);
        close(&v, Metric::Mbu, (1_000_000.0 + 2_018_500.0) / 0.1 / 1e9);
        let launch = of_launch(&[run(Role::Measured), within]);
        for metric in [Metric::Ttft, Metric::PrefillTps, Metric::E2eTps] {
            assert!(!v.contains_key(&metric) && !launch.contains_key(&metric), "{metric}");
        }
    }

    #[test]
    fn energy_is_shared_among_the_tokens_of_its_windows() {
        let energy = Energy {
            source: "x".into(),
            joules: 8.0,
            seconds: 0.4,
            steps: 10,
            resolution_s: None,
            request_joules: Some(21.0),
            request_seconds: Some(1.3),
        };
        let v = of_energy(&energy, &[run(Role::Cold), run(Role::Measured)]);
        close(&v, Metric::JoulesPerToken, 8.0 / 4.0);
        close(&v, Metric::JoulesPerTotalToken, 21.0 / (16.0 + 5.0));
        let within = PromptRun { depth: 9, context_in_request: true, ..run(Role::Measured) };
        assert!(!of_energy(&energy, &[within]).contains_key(&Metric::JoulesPerTotalToken));
    }

    #[test]
    fn the_best_second_slides() {
        // 1 token a second, but three within half a second after t = 5 s.
        let ms = [0u64, 1000, 2000, 3000, 4000, 5000, 5200, 5400, 6400];
        let ns: Vec<u64> = ms.iter().map(|t| t * 1_000_000).collect();
        assert_eq!(best_second(&ns), Some(3.0));
    }
}
