//! Loads a server level by level: so many users, or so many requests a second. This task measures
//! latencies and throughput under load.

mod metrics;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Columns, Measured, Running, Task};
use crate::engine::{Engine, Failure, Stamped};
use crate::measure::host::available_threads;
use crate::metric::Metric;
use crate::plan::{Level, Serving, Spacing};
use crate::protocol::{Arrivals, Feature, Generate, Reply, Request, Serve, Served};
use crate::record::{FailureKind, LoadRequest, LoadRun, Model, PromptRun, Role};
use crate::sensors::Mark;
use crate::units::MonoNs;
use crate::workload::Workload;

/// Of metrics that no other task has; the mean TTFT stands among those of a generation.
pub const COLUMNS: Columns = Columns {
    line: &[
        ("output", Metric::OutputThroughput),
        ("TTFT p50", Metric::TtftP50),
        ("TPOT p50", Metric::TpotP50),
    ],
    per_prompt: &[
        Metric::OutputThroughput,
        Metric::TtftP50,
        Metric::TpotP50,
        Metric::E2eLatencyMean,
        Metric::Goodput,
        Metric::FailedRequests,
    ],
};

/// The most requests of one level, where a duration ends it.
const MOST: usize = 20_000;

/// What a launch asks of a server.
#[derive(Debug, Clone, Copy)]
pub struct Loading<'a> {
    pub model: &'a Model,
    pub workload: &'a Workload,
    pub serving: &'a Serving,
    /// The vocabulary's ordinary ids, from which prompts are varied.
    pub normal: &'a [u32],
    pub seed: u64,
}

impl Task for Loading<'_> {
    type Answer = ();

    fn needs(&self) -> &[Feature] {
        &[Feature::Serve]
    }

    fn script(&self, launch: &mut Running<'_>) -> Result<(), Failure> {
        self.cold(launch)?;
        for (i, level) in self.serving.levels().into_iter().enumerate() {
            let id = launch.engine.next_id();
            let request = self.request(id, level, i as u64);
            let prompts: Vec<u32> = request.prompts.iter().map(|p| p.len() as u32).collect();
            let n = request.n.first().copied().unwrap_or(0);
            let served = launch.engine.serve(request)?;
            // A level of which nothing is left must not look like one that was measured.
            let first_error = served.value.requests.iter().find_map(|r| r.error.as_ref());
            if let Some(e) = first_error
                && served.value.requests.iter().all(|r| r.error.is_some())
            {
                let m = format!("{}: every request failed: {}: {}", level.id(), e.kind, e.message);
                return Err(launch.engine.fail(FailureKind::ServerError, m));
            }
            let load = self.kept(level, &served.value, &prompts);
            let at = |ns: u64| MonoNs(served.value.t_begin_ns + ns);
            launch.mark(Mark::Submit, MonoNs(served.value.t_begin_ns));
            launch.mark(Mark::WindowBegin, at(load.window_ns[0]));
            launch.mark(Mark::WindowEnd, at(load.window_ns[1]));
            launch.keep(PromptRun {
                id: level.id(),
                n_prompt: prompts.first().copied().unwrap_or(0),
                n_gen: n,
                load: Some(load),
                ..PromptRun::new(Role::Measured)
            });
        }
        launch.finished()
    }

    fn metrics(&self, measured: &mut Measured<'_>) {
        metrics::of_launch(measured, self.serving.slo);
    }
}

impl Loading<'_> {
    /// The first request of the process, and what its time means.
    fn cold(&self, launch: &mut Running<'_>) -> Result<(), Failure> {
        let prompt = &self.workload.prompts[0];
        let request = Generate::greedy(launch.engine.next_id(), prompt.ids.clone(), prompt.n_gen);
        let cold = launch.engine.generate(request, self.model.n_vocab)?;
        if let Some(first) = cold.value.t_tokens_ns.first().copied().map(MonoNs) {
            if let Some(spawned) = launch.engine.observes().spawned {
                launch.milestone("first_token", first);
                launch.put(Metric::ColdStartTtft, first.since(spawned).0);
            }
            launch.put(Metric::FirstGenerateTtft, first.since(cold.sent).0);
        }
        let observes = launch.engine.observes();
        launch.keep(PromptRun {
            id: prompt.id.clone(),
            n_prompt: prompt.ids.len() as u32,
            n_gen: prompt.n_gen,
            ..super::generate::run_of(Role::Cold, &cold, observes)
        });
        Ok(())
    }

    /// The requests of a level: the prompts of the workload round and round, each with other random
    /// ids behind what they share, so that no work on one can serve another.
    fn request(&self, id: u64, level: Level, index: u64) -> Serve {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(3 << 32 | index);
        let duration = self.serving.duration_s;
        let expected = match level {
            Level::Users(_) => MOST,
            Level::Rate(rate) => ((rate * duration).ceil() as usize).clamp(1, MOST),
        };
        let count = self.serving.requests.map_or(expected, |n| n as usize);
        let arrivals = match level {
            Level::Users(n) => Arrivals::Users(n),
            Level::Rate(rate) => Arrivals::At(times(rate, count, self.serving.arrivals, &mut rng)),
        };
        let pool = &self.workload.prompts;
        // A closed loop cannot tell how many it will need: the rest of the time is not spent drawing.
        let varied = |i: usize| {
            let prompt = &pool[i % pool.len()];
            // Begin-of-text and what is shared stay.
            let kept = (self.serving.shared_prefix as usize).clamp(1, prompt.ids.len());
            let mut ids = prompt.ids.clone();
            let mut rng = rng.clone();
            rng.set_word_pos(i as u128 * 4096);
            for id in &mut ids[kept..] {
                *id = self.normal[rng.random_range(0..self.normal.len())];
            }
            ids
        };
        Serve {
            id,
            prompts: (0..count).map(varied).collect(),
            n: (0..count).map(|i| pool[i % pool.len()].n_gen).collect(),
            arrivals,
            for_ns: Some((duration * 1e9) as u64),
        }
    }

    /// A level in the form of the record.
    fn kept(&self, level: Level, served: &Served, prompts: &[u32]) -> LoadRun {
        let requests = served.requests.iter().zip(prompts).map(|(r, n_prompt)| LoadRequest {
            due_ns: r.due_ns,
            sent_ns: r.sent_ns,
            n_prompt: *n_prompt,
            first_ns: r.token_ns.first().copied(),
            gaps_us: r.token_ns.windows(2).map(|w| ((w[1] - w[0] + 500) / 1000) as u32).collect(),
            failure: r.error.as_ref().map(|e| e.kind.clone()),
        });
        let (users, rate_per_s) = match level {
            Level::Users(n) => (Some(n), None),
            Level::Rate(rate) => (None, Some(rate)),
        };
        let whole = served.t_end_ns.saturating_sub(served.t_begin_ns).max(1);
        let cores = f64::from(available_threads());
        let mut load = LoadRun {
            users,
            rate_per_s,
            window_ns: [0, whole],
            client_cpu_share: served.client_cpu_ns.map(|ns| ns as f64 / whole as f64 / cores),
            requests: requests.collect(),
        };
        load.window_ns = metrics::window(&load).unwrap_or(load.window_ns);
        load
    }
}

/// When the requests of an open loop are due.
fn times(rate: f64, count: usize, spacing: Spacing, rng: &mut ChaCha8Rng) -> Vec<u64> {
    let mut at = 0.0;
    let mut next = || {
        let gap = match spacing {
            Spacing::Constant => 1.0,
            // Exponential gaps, from the other end of (0, 1].
            Spacing::Poisson => -(1.0 - rng.random::<f64>()).ln(),
        };
        let due = at;
        at += gap / rate;
        (due * 1e9) as u64
    };
    (0..count).map(|_| next()).collect()
}

impl Engine {
    /// Many requests. Checks that each that was answered has rising times inside the whole.
    pub fn serve(&mut self, request: Serve) -> Result<Stamped<Served>, Failure> {
        let (id, most) = (request.id, request.prompts.len());
        // The requests that begin last still get the time of one.
        let limit = self.limit() + std::time::Duration::from_nanos(request.for_ns.unwrap_or(0));
        let served = self.ask("serve", Request::Serve(request), limit, |r| match r {
            Reply::Served(s) => Ok(s),
            other => Err(Box::new(other)),
        })?;
        let s = &served.value;
        if s.id != id || s.requests.len() > most || s.requests.is_empty() {
            let m = format!(
                "asked for {most} requests (id {id}), got {} (id {})",
                s.requests.len(),
                s.id
            );
            return Err(self.fail(FailureKind::Protocol, m));
        }
        let times = [("t_begin_ns", s.t_begin_ns), ("t_end_ns", s.t_end_ns)];
        self.check_times(served.sent, served.arrived, &times)?;
        let whole = served.value.t_end_ns - served.value.t_begin_ns;
        let wrong = |r: &crate::protocol::ServedRequest| {
            let times = || std::iter::once(&r.sent_ns).chain(&r.token_ns);
            !times().is_sorted() || times().any(|t| *t > whole)
        };
        if let Some(i) = served.value.requests.iter().position(wrong) {
            let m = format!("the times of request {i} do not rise inside the {whole} ns of all");
            return Err(self.fail(FailureKind::Lied, m));
        }
        Ok(served)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poisson_stream_has_its_rate_and_its_spread() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let at = times(100.0, 20_000, Spacing::Poisson, &mut rng);
        let gaps: Vec<f64> = at.windows(2).map(|w| (w[1] - w[0]) as f64 / 1e9).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let square = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Mean and standard deviation are both 10 ms; the errors of 20,000 are 0.07 and 0.1 ms.
        assert!((mean - 0.01).abs() < 3e-4, "{mean}");
        assert!((square.sqrt() - 0.01).abs() < 5e-4, "{}", square.sqrt());
        let constant = times(4.0, 3, Spacing::Constant, &mut rng);
        assert_eq!(constant, [0, 250_000_000, 500_000_000]);
    }
}
