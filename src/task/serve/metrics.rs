//! Turns the requests of a load into metrics, of each level and of the launch. Names and definitions
//! are those of vLLM and AIPerf (docs/METHODOLOGY.md); a request's time counts from when it was due.

use super::Measured;
use crate::metric::{Metric, Values};
use crate::plan::Slo;
use crate::record::{LoadRequest, LoadRun, Role};
use crate::stats::Sample;
use crate::units::Seconds;

/// A distribution over requests: its mean, and its percentiles with the least number of requests
/// that they need.
struct Distribution {
    mean: Option<Metric>,
    quantiles: [(f64, usize, Metric); 4],
}

const TTFT: Distribution = Distribution {
    mean: Some(Metric::Ttft),
    quantiles: [
        (0.50, 1, Metric::TtftP50),
        (0.90, 10, Metric::TtftP90),
        (0.95, 20, Metric::TtftP95),
        (0.99, 100, Metric::TtftP99),
    ],
};
const TPOT: Distribution = Distribution {
    mean: Some(Metric::Tpot),
    quantiles: [
        (0.50, 1, Metric::TpotP50),
        (0.90, 10, Metric::TpotP90),
        (0.95, 20, Metric::TpotP95),
        (0.99, 100, Metric::TpotP99),
    ],
};
const E2E: Distribution = Distribution {
    mean: Some(Metric::E2eLatencyMean),
    quantiles: [
        (0.50, 1, Metric::E2eLatencyP50),
        (0.90, 10, Metric::E2eLatencyP90),
        (0.95, 20, Metric::E2eLatencyP95),
        (0.99, 100, Metric::E2eLatencyP99),
    ],
};
const ITL: Distribution = Distribution {
    mean: None,
    quantiles: [
        (0.50, 1, Metric::ItlP50),
        (0.95, 20, Metric::ItlP95),
        (0.99, 100, Metric::ItlP99),
        (1.00, 1, Metric::ItlMax),
    ],
};

impl Distribution {
    fn of(&self, seconds: &[f64], values: &mut Values) {
        let Ok(sample) = Sample::new(seconds) else { return };
        values.extend(self.mean.map(|metric| (metric, sample.mean())));
        let enough = self.quantiles.iter().filter(|(_, least, _)| seconds.len() >= *least);
        values.extend(enough.map(|(q, _, metric)| (*metric, sample.quantile(*q))));
    }
}

/// The time in which the load is steady; `None` if it never is.
///
/// A closed loop is steady from when every user's first request was answered until the first user
/// found no further one. An open loop is steady in the middle eight tenths of its schedule.
pub fn window(load: &LoadRun) -> Option<[u64; 2]> {
    let due = |r: &LoadRequest| r.due_ns;
    let last_due = load.requests.iter().map(due).max()?;
    let Some(users) = load.users else {
        let (begin, end) = (last_due / 10, last_due - last_due / 10);
        return (end > begin).then_some([begin, end]);
    };
    let ends = || load.requests.iter().filter_map(LoadRequest::last_ns);
    let first = load.requests.iter().take(users as usize).map(|r| r.last_ns().unwrap_or(r.sent_ns));
    let begin = first.max()?;
    let end = ends().filter(|t| *t > last_due).min()?;
    (end > begin).then_some([begin, end])
}

/// Whether a request counts: in a closed loop it lies inside the window, in an open one it is due
/// there.
fn counts(load: &LoadRun, request: &LoadRequest) -> bool {
    let [begin, end] = load.window_ns;
    match load.users {
        None => (begin..=end).contains(&request.due_ns),
        Some(_) => request.sent_ns >= begin && request.last_ns().unwrap_or(request.sent_ns) <= end,
    }
}

/// Fills in the metrics of each level, and of the launch: the mean over its levels.
pub fn of_launch(measured: &mut Measured<'_>, slo: Option<Slo>) {
    let mut levels = Vec::new();
    for run in measured.launch.prompts.iter_mut().filter(|run| run.role == Role::Measured) {
        let Some(load) = &run.load else { continue };
        run.metrics = of_level(load, slo.unwrap_or_default());
        levels.push(run.metrics.clone());
    }
    let metrics = levels.first().into_iter().flat_map(|first| first.keys().copied());
    let means = metrics.filter_map(|metric| {
        // A level that lacks it has too few requests, and then so has the mean.
        let each: Option<Vec<f64>> = levels.iter().map(|m| m.get(&metric).copied()).collect();
        Some((metric, Sample::new(&each?).ok()?.mean()))
    });
    measured.launch.metrics.extend(means.collect::<Values>());
    measured.machine();
}

/// The metrics of one level.
pub fn of_level(load: &LoadRun, slo: Slo) -> Values {
    let inside: Vec<&LoadRequest> = load.requests.iter().filter(|r| counts(load, r)).collect();
    let (mut ttft, mut tpot, mut e2e, mut gaps) = (vec![], vec![], vec![], vec![]);
    let (mut answered, mut good, mut prompt_tokens) = (0.0, 0.0, 0.0);
    for request in &inside {
        let (Some(first), Some(last)) = (request.first_ns, request.last_ns()) else { continue };
        let since_due = |t: u64| Seconds::from_ns(t.saturating_sub(request.due_ns)).0;
        let (to_first, whole) = (since_due(first), since_due(last));
        let steps = request.gaps_us.len();
        let per_token = (steps > 0).then(|| Seconds::from_ns(last - first).0 / steps as f64);
        let keeps = |found: Option<f64>, most: Option<f64>| match (found, most) {
            (Some(found), Some(most)) => found <= most,
            _ => true,
        };
        answered += 1.0;
        prompt_tokens += f64::from(request.n_prompt);
        let is_good = keeps(Some(to_first), slo.ttft_s)
            && keeps(per_token, slo.tpot_s)
            && keeps(Some(whole), slo.e2e_s);
        good += f64::from(u8::from(is_good));
        ttft.push(to_first);
        tpot.extend(per_token);
        e2e.push(whole);
        gaps.extend(request.gaps_us.iter().map(|us| f64::from(*us) * 1e-6));
    }
    let mut values = Values::new();
    for (distribution, seconds) in [(TTFT, &ttft), (TPOT, &tpot), (E2E, &e2e), (ITL, &gaps)] {
        distribution.of(seconds, &mut values);
    }
    let [begin, end] = load.window_ns;
    let seconds = Seconds::from_ns(end.saturating_sub(begin)).0;
    if seconds > 0.0 {
        // Every token that came in the window, whoever asked for it: what the server delivered.
        let tokens = load.requests.iter().map(|r| tokens_within(r, begin, end)).sum::<usize>();
        values.insert(Metric::OutputThroughput, tokens as f64 / seconds);
        values.insert(Metric::RequestThroughput, answered / seconds);
        values.insert(Metric::InputThroughput, prompt_tokens / seconds);
        if slo != Slo::default() {
            values.insert(Metric::Goodput, good / seconds);
        }
    }
    let failed = load.requests.iter().filter(|r| r.failure.is_some()).count();
    values.insert(Metric::FailedRequests, failed as f64 / load.requests.len().max(1) as f64);
    values
}

/// Tokens of a request that came between two times.
fn tokens_within(request: &LoadRequest, begin: u64, end: u64) -> usize {
    let Some(mut at) = request.first_ns else { return 0 };
    let mut tokens = usize::from((begin..end).contains(&at));
    for us in &request.gaps_us {
        at += u64::from(*us) * 1000;
        tokens += usize::from((begin..end).contains(&at));
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Sent at a time in ms, first token 10 ms later, then four tokens 5 ms apart.
    fn request(sent: u64) -> LoadRequest {
        LoadRequest {
            due_ns: sent * MS,
            sent_ns: sent * MS,
            n_prompt: 8,
            first_ns: Some((sent + 10) * MS),
            gaps_us: vec![5000; 4],
            failure: None,
        }
    }

    /// Two users who send ten requests one after the other, each of 30 ms.
    fn closed() -> LoadRun {
        let sent = (0..10).flat_map(|i| [30 * i, 30 * i]);
        let mut load =
            LoadRun { users: Some(2), requests: sent.map(request).collect(), ..LoadRun::default() };
        load.window_ns = window(&load).unwrap();
        load
    }

    fn near(values: &Values, metric: Metric, expected: f64) {
        let found = values[&metric];
        assert!((found / expected - 1.0).abs() < 1e-9, "{metric}: {found}, expected {expected}");
    }

    #[test]
    fn a_closed_loop_counts_from_the_first_answers_until_a_user_leaves() {
        let load = closed();
        assert_eq!(load.window_ns, [30 * MS, 300 * MS]);
        let v = of_level(&load, Slo::default());
        near(&v, Metric::Ttft, 0.010);
        near(&v, Metric::Tpot, 0.005);
        near(&v, Metric::E2eLatencyMean, 0.030);
        near(&v, Metric::ItlP50, 0.005);
        // The token at 300 ms lies on the end: 2 users · (9 · 5 − 1 + 1 at 30 ms) tokens.
        near(&v, Metric::OutputThroughput, 2.0 * 45.0 / 0.27);
        near(&v, Metric::RequestThroughput, 18.0 / 0.27);
        assert!(!v.contains_key(&Metric::Goodput) && !v.contains_key(&Metric::TtftP99));
        assert_eq!(v[&Metric::FailedRequests], 0.0);
    }

    #[test]
    fn goodput_counts_those_that_keep_every_objective() {
        let slo = |text: &str| of_level(&closed(), text.parse().unwrap())[&Metric::Goodput];
        assert!((slo("ttft=10ms,tpot=5ms") - 18.0 / 0.27).abs() < 1e-9);
        assert_eq!(slo("ttft=9ms"), 0.0);
        assert_eq!(slo("e2e=29ms"), 0.0);
    }

    #[test]
    fn in_an_open_loop_time_counts_from_when_a_request_was_due() {
        let mut requests: Vec<LoadRequest> = (0..11).map(|i| request(100 * i)).collect();
        // The client was 40 ms late with one in the middle: its user waited.
        requests[5] = LoadRequest { due_ns: 460 * MS, ..request(500) };
        let mut load = LoadRun { rate_per_s: Some(10.0), requests, ..LoadRun::default() };
        load.window_ns = window(&load).unwrap();
        assert_eq!(load.window_ns, [100 * MS, 900 * MS]);
        let v = of_level(&load, Slo::default());
        near(&v, Metric::Ttft, (8.0 * 0.010 + 0.050) / 9.0);
    }

    #[test]
    fn failed_requests_have_a_share_and_no_times() {
        let mut load = closed();
        load.requests[7] = LoadRequest {
            first_ns: None,
            gaps_us: Vec::new(),
            failure: Some("timeout".into()),
            ..request(90)
        };
        let v = of_level(&load, Slo::default());
        near(&v, Metric::FailedRequests, 0.05);
        near(&v, Metric::RequestThroughput, 17.0 / 0.27);
    }
}
