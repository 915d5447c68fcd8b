//! Turns the times of requests over texts into metrics, of each length and of the launch.
//! Definitions: docs/METHODOLOGY.md; names: `metric`.

use crate::metric::{Metric, Values};
use crate::record::{PromptRun, Role};
use crate::stats::Sample;
use crate::task::Measured;
use crate::units::Seconds;

/// Metrics that are times of single requests, beside their mean: the launch's value is the mean over
/// the lengths.
const OF_REQUESTS: [Metric; 4] =
    [Metric::LatencyP50, Metric::LatencyP95, Metric::LatencyP99, Metric::LatencyCv];

/// What was done in which time.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    requests: f64,
    texts: f64,
    tokens: f64,
    text_bytes: f64,
    seconds: f64,
}

impl Sums {
    fn add(&mut self, run: &PromptRun) {
        let requests = run.request_ns.len() as f64;
        self.requests += requests;
        self.texts += requests * f64::from(run.batch.unwrap_or(1));
        self.tokens += run.request_tokens as f64;
        self.text_bytes += run.request_text_bytes as f64;
        self.seconds += Seconds::from_ns(run.request_ns.iter().sum()).0;
    }

    /// Rates; `token_s`: the seconds that one token's products take at the machine's peak.
    fn metrics(&self, token_s: Option<f64>) -> Values {
        let mut values = Values::new();
        if self.seconds > 0.0 {
            values.insert(Metric::SequencesPerS, self.texts / self.seconds);
            values.insert(Metric::RequestsPerS, self.requests / self.seconds);
            values.insert(Metric::TokensPerS, self.tokens / self.seconds);
            if self.text_bytes > 0.0 {
                values.insert(Metric::TextBytesPerS, self.text_bytes / self.seconds);
            }
            let share = token_s.map(|s| self.tokens * s / self.seconds);
            values.extend(share.map(|share| (Metric::ArithmeticShare, share)));
        }
        values
    }
}

/// Fills in the metrics of the measured requests of each length, and of the launch over all of
/// them. `mean` is the mean time of a request; `token_s` as for the rates.
pub fn of_launch(measured: &mut Measured<'_>, mean: Metric, token_s: Option<f64>) {
    let mut all = Sums::default();
    let mut lengths = Vec::new();
    for run in measured.launch.prompts.iter_mut().filter(|run| run.role == Role::Measured) {
        let mut sums = Sums::default();
        sums.add(run);
        all.add(run);
        run.metrics = sums.metrics(token_s);
        run.metrics.extend(of_requests(&run.request_ns, mean));
        lengths.push(run.metrics.clone());
    }
    let mut values = all.metrics(token_s);
    for metric in OF_REQUESTS.into_iter().chain([mean]) {
        // A length that lacks the percentile has too few requests, and then so has the mean.
        let each: Option<Vec<f64>> = lengths.iter().map(|m| m.get(&metric).copied()).collect();
        if let Some(mean) = each.and_then(|each| Some(Sample::new(&each).ok()?.mean())) {
            values.insert(metric, mean);
        }
    }
    measured.launch.metrics.extend(values);
    measured.machine();
}

/// The distribution of one length's requests.
fn of_requests(request_ns: &[u64], mean: Metric) -> Values {
    let seconds: Vec<f64> = request_ns.iter().map(|ns| Seconds::from_ns(*ns).0).collect();
    let mut values = Values::new();
    let Ok(sample) = Sample::new(&seconds) else { return values };
    values.insert(mean, sample.mean());
    values.insert(Metric::LatencyP50, sample.quantile(0.5));
    let tails = [(Metric::LatencyP95, 0.95, 20), (Metric::LatencyP99, 0.99, 100)];
    let tails = tails.into_iter().filter(|(_, _, least)| seconds.len() >= *least);
    values.extend(tails.map(|(metric, share, _)| (metric, sample.quantile(share))));
    values.extend(sample.cv().map(|cv| (Metric::LatencyCv, cv)));
    values
}
