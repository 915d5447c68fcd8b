//! From raw times to the metrics of one generation and of one launch. Pure. Definitions:
//! docs/METHODOLOGY.md; names: `metric`.

use std::collections::BTreeMap;

use crate::record::{Launch, MemoryPart, Part, PromptRun, Role};
use crate::stats::Sample;
use crate::units::{BytesPerSecond, Seconds};

type Values = BTreeMap<String, f64>;

/// What one decoded token must read from memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadsPerToken {
    pub weight_bytes: u64,
    /// For each position in the cache.
    pub kv_bytes_per_position: u64,
    /// The ceiling; without it there is no MBU.
    pub bandwidth: Option<BytesPerSecond>,
}

/// Sums from which both a generation's and a set's metrics come.
#[derive(Debug, Clone)]
struct Sums {
    prompt_tokens: f64,
    prefill: f64,
    ttft: Vec<f64>,
    gaps: Vec<f64>,
    tokens: f64,
    whole: f64,
    read_bytes: f64,
    peak: Option<f64>,
    sustained: Vec<f64>,
    prefill_known: bool,
    /// Whether every request held its prompt alone, so that its submit is where its time begins.
    submit_known: bool,
}

/// Metrics of one generation.
pub fn of_generation(run: &PromptRun, reads: &ReadsPerToken) -> Values {
    let mut sums = Sums::new();
    sums.add(run, reads);
    sums.metrics(reads)
}

/// Metrics of a launch over its measured generations: rates sum by sum, gaps taken together.
/// Load, cold start and memory are the launch's own and come from elsewhere.
pub fn of_launch(runs: &[PromptRun], reads: &ReadsPerToken) -> Values {
    let mut sums = Sums::new();
    for run in runs.iter().filter(|r| r.role == Role::Measured) {
        sums.add(run, reads);
    }
    let mut values = sums.metrics(reads);
    // The process's first step is on an empty context: deep ones do not compare with it.
    if runs.iter().all(|run| run.depth == 0)
        && let (Some(first), Some(steady)) = (first_decode_step(runs), quantile(&sums.gaps, 0.5))
    {
        values.insert("warmup_gain".into(), first / steady);
    }
    values
}

/// Restates every MBU of a launch, a share of `from`, as one of `to` (bytes per second).
pub fn move_ceiling(launch: &mut Launch, from: f64, to: f64) {
    let of_generations = launch.prompts.iter_mut().map(|run| &mut run.metrics);
    for metrics in of_generations.chain([&mut launch.metrics]) {
        if let Some(mbu) = metrics.get_mut("mbu") {
            *mbu *= from / to;
        }
    }
}

/// The peak in five parts that add up to it; none where there is no breakdown.
pub fn of_memory(breakdown: &[MemoryPart]) -> Values {
    let mut values = Values::new();
    for MemoryPart { part, bytes, .. } in breakdown {
        let name = match part {
            Part::WeightsMapped | Part::WeightsPrivate => "memory_weights_bytes",
            Part::KvCache => "memory_kv_bytes",
            Part::Activations | Part::LoadTemporaries | Part::GenerationTemporaries => {
                "memory_activations_bytes"
            }
            Part::BeforeLoad | Part::Libraries | Part::Compiler | Part::AllocatorFree => {
                "memory_runtime_bytes"
            }
            Part::Unaccounted => "memory_unaccounted_bytes",
        };
        *values.entry(name.into()).or_insert(0.0) += *bytes as f64;
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
            tokens: 0.0,
            whole: 0.0,
            read_bytes: 0.0,
            peak: None,
            sustained: Vec::new(),
            prefill_known: true,
            submit_known: true,
        }
    }

    fn add(&mut self, run: &PromptRun, reads: &ReadsPerToken) {
        let (Some(&first), Some(&last)) = (run.token_ns.first(), run.token_ns.last()) else {
            return;
        };
        self.submit_known &= !run.context_in_request;
        self.ttft.push(Seconds::from_ns(first).0);
        self.tokens += run.token_ns.len() as f64;
        self.whole += Seconds::from_ns(last).0;
        match run.prefill_end_ns {
            Some(end) if end > run.begin_ns && !run.context_in_request => {
                self.prompt_tokens += f64::from(run.n_prompt);
                self.prefill += Seconds::from_ns(end - run.begin_ns).0;
            }
            _ => self.prefill_known = false,
        }
        let steps = run.token_ns.len() - 1;
        if steps == 0 {
            return;
        }
        self.gaps.extend(gaps(run));
        // Step i (from 1) attends to the context, the prompt and the i tokens so far.
        let before = f64::from(run.depth) + f64::from(run.n_prompt);
        let mean_depth = before + (steps as f64 + 1.0) / 2.0;
        self.read_bytes += steps as f64
            * (reads.weight_bytes as f64 + mean_depth * reads.kv_bytes_per_position as f64);
        self.peak = [self.peak, best_second(&run.token_ns)].into_iter().flatten().reduce(f64::max);
        self.sustained.extend(last_third_rate(run));
    }

    fn metrics(&self, reads: &ReadsPerToken) -> Values {
        let mut values = Values::new();
        let mut put = |name: &str, value: Option<f64>| {
            if let Some(v) = value.filter(|v| v.is_finite()) {
                debug_assert!(
                    crate::metric::find(name).is_some(),
                    "{name} is not in the catalogue"
                );
                values.insert(name.into(), v);
            }
        };
        put("ttft_s", mean(&self.ttft).filter(|_| self.submit_known));
        if self.prefill_known && self.prefill > 0.0 {
            put("prefill_tps", Some(self.prompt_tokens / self.prefill));
        }
        if self.whole > 0.0 && self.submit_known {
            put("e2e_tps", Some(self.tokens / self.whole));
        }
        let decode: f64 = self.gaps.iter().sum();
        if decode > 0.0 {
            let steps = self.gaps.len() as f64;
            put("decode_tps", Some(steps / decode));
            put("tpot_s", Some(decode / steps));
            put("itl_p50_s", quantile(&self.gaps, 0.50));
            put("itl_p95_s", quantile(&self.gaps, 0.95));
            put("itl_p99_s", quantile(&self.gaps, 0.99).filter(|_| self.gaps.len() >= 100));
            put("itl_max_s", quantile(&self.gaps, 1.0));
            put("mbu", reads.bandwidth.map(|b| self.read_bytes / decode / b.0));
        }
        put("peak_tps", self.peak);
        put("sustained_tps", quantile(&self.sustained, 0.5));
        values
    }
}

/// Most tokens that fall into one second after the first token; absent for a decode of less
/// than a second, which would not fill the bucket.
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

/// Median token rate of the last third of the gaps.
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
        bandwidth: Some(BytesPerSecond(1e9)),
    };

    /// 16 prompt tokens in 0.8 s, then five tokens 100 ms apart.
    fn run(role: Role) -> PromptRun {
        PromptRun {
            id: "p".into(),
            role,
            iteration: 0,
            n_prompt: 16,
            n_gen: 5,
            depth: 0,
            context_in_request: false,
            begin_ns: 10_000_000,
            prefill_end_ns: Some(810_000_000),
            token_ns: (0..5).map(|i| 900_000_000 + i * 100_000_000).collect(),
            compile_ns: None,
            tokens_hash: String::new(),
            tokens: None,
            profile: None,
            metrics: Values::new(),
        }
    }

    fn close(values: &Values, name: &str, expected: f64) {
        let v = values[name];
        assert!((v - expected).abs() < 1e-9 * expected.abs(), "{name}: {v}, expected {expected}");
    }

    #[test]
    fn the_metrics_of_a_generation_follow_their_definitions() {
        let v = of_generation(&run(Role::Measured), &READS);
        close(&v, "ttft_s", 0.9);
        close(&v, "prefill_tps", 16.0 / 0.8);
        close(&v, "decode_tps", 10.0);
        close(&v, "tpot_s", 0.1);
        close(&v, "itl_p50_s", 0.1);
        close(&v, "e2e_tps", 5.0 / 1.3);
        close(&v, "sustained_tps", 10.0);
        // 1 MB of weights and 18.5 positions of 1 kB in 0.1 s, of 1 GB/s.
        close(&v, "mbu", (1_000_000.0 + 18_500.0) / 0.1 / 1e9);
        assert!(!v.contains_key("itl_p99_s"), "under 100 gaps there is no p99");
        assert!(!v.contains_key("peak_tps"), "the decode took less than a second");
    }

    #[test]
    fn a_launch_counts_measured_generations_only() {
        let mut slow = run(Role::Measured);
        slow.token_ns = (0..5).map(|i| 900_000_000 + i * 300_000_000).collect();
        let mut cold = run(Role::Cold);
        cold.token_ns[1] += 700_000_000;
        cold.token_ns[2..].iter_mut().for_each(|t| *t += 700_000_000);
        let v = of_launch(&[cold, run(Role::Warmup), run(Role::Measured), slow], &READS);
        close(&v, "decode_tps", 8.0 / (0.4 + 1.2));
        close(&v, "warmup_gain", 0.8 / 0.2);
    }

    #[test]
    fn one_token_has_a_ttft_but_no_decode_rate() {
        let mut one = run(Role::Measured);
        one.token_ns.truncate(1);
        let v = of_generation(&one, &READS);
        assert!(v.contains_key("ttft_s") && !v.contains_key("decode_tps"));
    }

    #[test]
    fn without_an_end_of_prefill_there_is_no_prefill_rate() {
        let mut unknown = run(Role::Measured);
        unknown.prefill_end_ns = None;
        assert!(!of_launch(&[run(Role::Measured), unknown], &READS).contains_key("prefill_tps"));
    }

    #[test]
    fn at_a_depth_the_mbu_counts_the_keys_and_values_of_the_context() {
        let deep = PromptRun { depth: 2000, ..run(Role::Measured) };
        let v = of_generation(&deep, &READS);
        close(&v, "ttft_s", 0.9);
        close(&v, "prefill_tps", 16.0 / 0.8);
        close(&v, "mbu", (1_000_000.0 + 2_018_500.0) / 0.1 / 1e9);
        let launch = of_launch(&[run(Role::Cold), deep], &READS);
        assert!(!launch.contains_key("warmup_gain"), "the first step was not at this depth");
    }

    #[test]
    fn a_context_inside_the_request_leaves_decode_alone() {
        let within = PromptRun { depth: 2000, context_in_request: true, ..run(Role::Measured) };
        let v = of_generation(&within, &READS);
        close(&v, "decode_tps", 10.0);
        close(&v, "mbu", (1_000_000.0 + 2_018_500.0) / 0.1 / 1e9);
        let launch = of_launch(&[run(Role::Measured), within], &READS);
        for name in ["ttft_s", "prefill_tps", "e2e_tps"] {
            assert!(!v.contains_key(name) && !launch.contains_key(name), "{name}");
        }
    }

    #[test]
    fn the_best_second_slides() {
        // 1 token a second, but three within the half second after t = 5 s.
        let ms = [0u64, 1000, 2000, 3000, 4000, 5000, 5200, 5400, 6400];
        let ns: Vec<u64> = ms.iter().map(|t| t * 1_000_000).collect();
        assert_eq!(best_second(&ns), Some(3.0));
    }
}
