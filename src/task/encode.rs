//! Encodes batches of texts again and again, length by length. This task measures latency, rates
//! and the cold start of encoders.

use super::requests::{self, Requests, Span};
use super::{Columns, Measured, Running, Task};
use crate::engine::{Engine, Failure, Stamped};
use crate::metric::Metric;
use crate::protocol::{Encode, Encoded, Feature, Reply, Request};
use crate::record::{FailureKind, Model, PromptRun};
use crate::units::{MacsPerSecond, MonoNs, three_digits};
use crate::workload::Prompt;

pub const COLUMNS: Columns = Columns {
    line: &[
        ("cold start", Metric::ColdStart),
        ("latency", Metric::LatencyMean),
        ("texts", Metric::SequencesPerS),
    ],
    per_prompt: &[Metric::LatencyMean, Metric::SequencesPerS],
};

/// What a launch encodes, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Encoding<'a> {
    pub model: &'a Model,
    pub requests: Requests<'a>,
}

impl Task for Encoding<'_> {
    type Answer = ();

    fn needs(&self) -> &[Feature] {
        &[Feature::Encode]
    }

    fn script(&self, launch: &mut Running<'_>) -> Result<(), Failure> {
        let mut ask = |launch: &mut Running<'_>, prompt: &Prompt, i, run: &mut PromptRun| {
            self.encode(launch, prompt, i, run)
        };
        let first = self.requests.cold(launch, &mut ask)?;
        launch.milestone("first_result", first.end);
        if let Some(spawned) = launch.engine.observes().spawned {
            launch.put(Metric::ColdStart, first.end.since(spawned).0);
        }
        self.requests.all(launch, &mut ask)?;
        launch.finished()
    }

    /// Each token passes through the weights of the layers once.
    fn doubt(&self, measured: &Measured<'_>) -> Option<String> {
        let weights = self.model.weights_per_token? as f64;
        let most = measured.most_macs();
        measured.launch.prompts.iter().find_map(|run| {
            let seconds = run.request_ns.iter().sum::<u64>().max(1) as f64 / 1e9;
            let rate = run.request_tokens as f64 * weights / seconds;
            (rate > most).then(|| {
                format!(
                    "{}: {} tokens in {} s are {rate:.0e} multiply-adds a second; {} cannot make \
                     {most:.0e}",
                    run.id,
                    run.request_tokens,
                    three_digits(seconds),
                    measured.whereabouts(),
                )
            })
        })
    }

    fn metrics(&self, measured: &mut Measured<'_>) {
        // The seconds that one token's products take at the machine's peak.
        let token_s = measured
            .peak_macs(&measured.loaded.precision.compute)
            .zip(self.model.weights_per_token)
            .map(|(MacsPerSecond(peak), macs)| macs as f64 / peak);
        requests::of_launch(measured, Metric::LatencyMean, token_s);
    }
}

impl Encoding<'_> {
    /// Sends request `i` over the texts of a prompt and adds it to the run.
    fn encode(
        &self,
        launch: &mut Running<'_>,
        prompt: &Prompt,
        i: u32,
        run: &mut PromptRun,
    ) -> Result<Span, Failure> {
        let texts = prompt.request(i, self.requests.batch);
        run.request_tokens += texts.iter().map(Vec::len).sum::<usize>() as u64;
        let id = launch.engine.next_id();
        let Stamped { sent, arrived, value } =
            launch.engine.encode(Encode { id, texts, ..Encode::default() })?;
        if let Some(ns) = value.compile_ns {
            *run.compile_ns.get_or_insert(0) += ns;
        }
        let (begin, end) = (MonoNs(value.t_begin_ns), MonoNs(value.t_end_ns));
        Ok(Span { sent, arrived, begin, end })
    }
}

impl Engine {
    /// One batch of texts. Checks that there is a row for each and that the times can be true.
    pub fn encode(&mut self, request: Encode) -> Result<Stamped<Encoded>, Failure> {
        let (id, texts) = (request.id, request.texts.len());
        // What goes into files is written, and hidden states are computed, outside the claimed time.
        let is_measured = request.vectors_path.is_none() && request.hidden_path.is_none();
        let encoded = self.ask("encode", Request::Encode(request), self.limit(), |r| match r {
            Reply::Encoded(e) => Ok(e),
            other => Err(Box::new(other)),
        })?;
        let e = encoded.value;
        if e.id != id || e.rows as usize != texts || e.columns == 0 {
            let m = format!(
                "asked for the results of {texts} texts (id {id}), got {} rows of {} values (id {})",
                e.rows, e.columns, e.id
            );
            return Err(self.fail(FailureKind::Protocol, m));
        }
        let times = [("t_begin_ns", e.t_begin_ns), ("t_end_ns", e.t_end_ns)];
        self.check_times(encoded.sent, encoded.arrived, &times)?;
        let claimed = MonoNs(e.t_end_ns).since(MonoNs(e.t_begin_ns));
        if is_measured {
            self.check_claim(encoded.arrived.since(encoded.sent), claimed)?;
        }
        Ok(encoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing;
    use crate::device::Device;
    use crate::plan;
    use crate::protocol::Loaded;
    use crate::record::{Launch, Role};
    use crate::workload::Workload;

    /// A launch of ten requests with two texts of 32 tokens, each of which took `ms`.
    fn measured(ms: u64, test: impl FnOnce(&mut Measured<'_>, &Encoding<'_>)) {
        let mut launch = Launch::new((0, 0), String::new());
        launch.prompts.push(PromptRun {
            id: "p32".into(),
            n_prompt: 32,
            batch: Some(2),
            request_ns: (0..10).map(|i| ms * 1_000_000 + i % 2 * 1000).collect(),
            request_tokens: 640,
            ..PromptRun::new(Role::Measured)
        });
        let model = Model { weights_per_token: Some(10_000_000), ..testing::record().model };
        let workload = Workload::new("random", Vec::new());
        let plan = plan::Workload::repeated(1, 10);
        let requests = Requests { workload: &workload, plan: &plan, seconds: None, batch: 2 };
        let task = Encoding { model: &model, requests };
        let macs = [("f32".to_string(), 256e9)].into();
        test(
            &mut Measured {
                launch: &mut launch,
                loaded: &Loaded::default(),
                bandwidth: None,
                macs: &macs,
                device: Device::default(),
                threads: 2,
                last_level_cache: None,
            },
            &task,
        );
    }

    #[test]
    fn rates_are_sums_by_sums_and_latencies_those_of_the_requests() {
        measured(10, |m, task| {
            assert_eq!(task.doubt(m), None);
            task.metrics(m);
            let value = |metric| m.launch.metrics[&metric];
            let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-3);
            near(value(Metric::LatencyMean), 0.010);
            near(value(Metric::SequencesPerS), 200.0);
            near(value(Metric::RequestsPerS), 100.0);
            near(value(Metric::TokensPerS), 6400.0);
            near(value(Metric::ArithmeticShare), 6400.0 * 1e7 / 256e9);
            assert!(value(Metric::LatencyCv) < 1e-3);
            assert!(!m.launch.metrics.contains_key(&Metric::LatencyP95), "ten are too few");
            assert_eq!(
                m.launch.prompts[0].metrics[&Metric::LatencyMean],
                value(Metric::LatencyMean)
            );
        });
    }

    #[test]
    fn requests_faster_than_any_arithmetic_are_doubted() {
        measured(0, |m, task| {
            let said = task.doubt(m).unwrap();
            assert!(said.contains("640 tokens") && said.contains("multiply-adds"), "{said}");
        });
    }
}
