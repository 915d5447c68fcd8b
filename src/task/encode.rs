//! Encodes batches of texts again and again, length by length. This task measures latency, rates
//! and the cold start of encoders.

mod metrics;

use std::time::Instant;

use super::{Columns, Measured, Running, Task};
use crate::engine::{Engine, Failure, Stamped};
use crate::metric::Metric;
use crate::plan;
use crate::protocol::{Encode, Encoded, Feature, Reply, Request};
use crate::record::{FailureKind, Model, PromptRun, Role};
use crate::sensors::Mark;
use crate::units::{MonoNs, three_digits};
use crate::workload::{Prompt, Workload};

pub const COLUMNS: Columns = Columns {
    line: &[
        ("cold start", Metric::ColdStart),
        ("latency", Metric::LatencyMean),
        ("texts", Metric::SequencesPerS),
    ],
    per_prompt: &[Metric::LatencyMean, Metric::SequencesPerS],
};

/// Requests of a length that the clock does not end: a rate needs more than one.
const LEAST: u32 = 3;

/// What a launch encodes, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Encoding<'a> {
    pub model: &'a Model,
    /// Each prompt is a pool of texts; a request takes the next ones of it.
    pub workload: &'a Workload,
    /// How many requests of each.
    pub plan: &'a plan::Workload,
    /// The time that ends the requests of each earlier, if one does.
    pub seconds: Option<f64>,
    /// Texts of a request.
    pub batch: u32,
}

impl Task for Encoding<'_> {
    type Answer = ();

    fn needs(&self) -> &[Feature] {
        &[Feature::Encode]
    }

    fn script(&self, launch: &mut Running<'_>) -> Result<(), Failure> {
        let prompts = &self.workload.prompts;
        let mut cold = run_of(&prompts[0], Role::Cold, self.batch);
        let first = self.encode(launch, &prompts[0], 0, &mut cold)?;
        let end = MonoNs(first.value.t_end_ns);
        launch.milestone("first_result", end);
        if let Some(spawned) = launch.engine.observes().spawned {
            launch.put(Metric::ColdStart, end.since(spawned).0);
        }
        launch.keep(cold);
        for prompt in prompts {
            let (warmups, measured) = (self.plan.warmup, self.plan.iterations);
            let third = self.seconds.map(|s| s / 3.0);
            self.requests(launch, prompt, Role::Warmup, (warmups, third))?;
            self.requests(launch, prompt, Role::Measured, (measured, self.seconds))?;
        }
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
        metrics::of_launch(measured, self.model);
    }
}

impl Encoding<'_> {
    /// Sends up to `n` requests over the texts of a prompt, fewer if `seconds` end them, and keeps
    /// them as one run.
    fn requests(
        &self,
        launch: &mut Running<'_>,
        prompt: &Prompt,
        role: Role,
        (n, seconds): (u32, Option<f64>),
    ) -> Result<(), Failure> {
        let mut run = run_of(prompt, role, self.batch);
        let began = Instant::now();
        for i in 0..n {
            let is_over = seconds.is_some_and(|s| began.elapsed().as_secs_f64() >= s);
            if is_over && (role == Role::Warmup || i >= LEAST) {
                break;
            }
            let one = self.encode(launch, prompt, i, &mut run)?;
            if role == Role::Measured {
                launch.mark(Mark::Submit, one.sent);
                launch.mark(Mark::WindowBegin, MonoNs(one.value.t_begin_ns));
                launch.mark(Mark::WindowEnd, MonoNs(one.value.t_end_ns));
            }
        }
        launch.keep(run);
        Ok(())
    }

    /// Sends request `i` over the texts of a prompt and adds it to the run.
    fn encode(
        &self,
        launch: &mut Running<'_>,
        prompt: &Prompt,
        i: u32,
        run: &mut PromptRun,
    ) -> Result<Stamped<Encoded>, Failure> {
        let texts = prompt.request(i, self.batch);
        let tokens: usize = texts.iter().map(Vec::len).sum();
        let id = launch.engine.next_id();
        let encoded = launch.engine.encode(Encode { id, texts, ..Encode::default() })?;
        let Encoded { t_begin_ns, t_end_ns, compile_ns, .. } = encoded.value;
        let took = match launch.engine.observes().clock {
            true => MonoNs(t_end_ns).0 - t_begin_ns,
            false => encoded.arrived.0 - encoded.sent.0,
        };
        run.request_ns.push(took);
        run.request_tokens += tokens as u64;
        if let Some(ns) = compile_ns {
            *run.compile_ns.get_or_insert(0) += ns;
        }
        Ok(encoded)
    }
}

/// The requests of one kind, before there are any.
fn run_of(prompt: &Prompt, role: Role, batch: u32) -> PromptRun {
    PromptRun {
        id: prompt.id.clone(),
        n_prompt: prompt.ids.len() as u32,
        batch: Some(batch).filter(|n| *n > 1),
        ..PromptRun::new(role)
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
    use crate::protocol::Loaded;
    use crate::record::Launch;

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
        let task =
            Encoding { model: &model, workload: &workload, plan: &plan, seconds: None, batch: 2 };
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
