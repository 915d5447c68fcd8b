//! `serve-bench`: levels of load on a server that keeps to a schedule, and failures under load.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::support::mock::{Answer, Mock, vllm};
use crate::support::{llm_bench, only_record, text};
use llm_bench::metric::Metric;
use llm_bench::record::{Record, Role, Status};

/// A server that keeps to a schedule, and fails those of its requests that `fails` names, counted from
/// the cold start's.
fn server(first: u64, step: u64, fails: fn(u32) -> bool) -> Mock {
    let served = AtomicU32::new(0);
    Mock::start(move |request| {
        let asks = request.path == "/v1/completions";
        match asks && fails(served.fetch_add(1, Relaxed)) {
            true => Answer::of("503 Busy", "application/json", Vec::new()),
            false => vllm(request, first, step),
        }
    })
}

fn bench(dir: &std::path::Path, mock: &Mock, args: &[&str]) -> (Option<i32>, String) {
    let endpoint = format!("mock={}", mock.url);
    let common = ["serve-bench", "--model", "tiny", "--endpoint", &endpoint, "-p", "8", "-n", "5"];
    let output = llm_bench(dir, &[&common[..], args].concat()).output().unwrap();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn each_level_has_the_latencies_of_the_schedule_and_its_throughput() {
    let dir = tempfile::tempdir().unwrap();
    let mock = server(20, 5, |_| false);
    let (status, shown) = bench(dir.path(), &mock, &["-c", "1,4", "--requests", "24", "-r", "2"]);
    assert_eq!(status, Some(0), "{shown}");
    let record = Record::read(&only_record(dir.path())).unwrap();
    let arm = &record.arms[0];
    assert!(arm.launches.iter().all(|l| l.status == Status::Ok), "{shown}");
    for (level, users) in [("c1", 1.0), ("c4", 4.0)] {
        let of = |metric: Metric| arm.prompt_metrics[level][&metric].mean;
        // A busy machine may be late, never early: so much at least, and no more tokens than that.
        assert!(of(Metric::Ttft) >= 0.0199, "{level}: {}", of(Metric::Ttft));
        assert!(of(Metric::Tpot) >= 0.0049);
        assert!(of(Metric::OutputThroughput) <= users * 5.0 / 0.0395, "{level}");
        assert_eq!(of(Metric::FailedRequests), 0.0);
    }
    let run = arm.launches[0].prompts.iter().find(|run| run.id == "c4").unwrap();
    let load = run.load.as_ref().unwrap();
    assert_eq!((run.role, load.users, load.requests.len()), (Role::Measured, Some(4), 24));
    assert!(load.requests.iter().all(|r| r.tokens() == 5));
    assert!(load.client_cpu_share.unwrap() < 1.0);
    for word in ["c1", "c4", "TTFT", "TPOT", "Output"] {
        assert!(shown.contains(word), "{word} in {shown}");
    }
    // No two prompts are the same behind the first token.
    let mut prompts: Vec<String> = mock.seen().into_iter().map(|r| r.body).collect();
    prompts.retain(|body| body.contains("prompt"));
    let n = prompts.len();
    let ids = |body: &String| {
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        body["prompt"].to_string()
    };
    let mut ids: Vec<String> = prompts.iter().map(ids).collect();
    ids.sort();
    ids.dedup();
    // Each of the two launches sends the same ones, and one for the cold start.
    assert_eq!((n, ids.len()), (2 * 49, 49));
}

#[test]
fn an_open_loop_sends_whatever_has_been_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mock = server(300, 1, |_| false);
    let args = ["--request-rate", "50", "--arrivals", "constant", "--requests", "20", "-r", "1"];
    let (status, shown) = bench(dir.path(), &mock, &args);
    assert_eq!(status, Some(0), "{shown}");
    let record = Record::read(&only_record(dir.path())).unwrap();
    let run = record.arms[0].launches[0].prompts.iter().find(|run| run.id == "r50").unwrap();
    let load = run.load.as_ref().unwrap();
    let due: Vec<u64> = load.requests.iter().map(|r| (r.due_ns + 500_000) / 1_000_000).collect();
    assert_eq!(due, (0..20).map(|i| 20 * i).collect::<Vec<_>>());
    // All were under way before the first was answered, as far as the machine let them.
    let first = load.requests[0].first_ns.unwrap();
    assert!(load.requests[..10].iter().all(|r| r.sent_ns < first), "{load:?}");
}

#[test]
fn failures_under_load_are_counted_and_the_rest_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let mock = server(2, 1, |i| i % 10 == 9);
    let args = ["-c", "2", "--requests", "40", "-r", "1", "--slo", "ttft=1s"];
    let (status, shown) = bench(dir.path(), &mock, &args);
    assert_eq!(status, Some(0), "{shown}");
    let record = Record::read(&only_record(dir.path())).unwrap();
    let arm = &record.arms[0];
    assert!(arm.metrics[&Metric::FailedRequests].mean > 0.05, "{shown}");
    assert!(arm.metrics.contains_key(&Metric::Goodput));
    let run = arm.launches[0].prompts.iter().find(|run| run.load.is_some()).unwrap();
    let requests = &run.load.as_ref().unwrap().requests;
    assert!(requests.iter().any(|r| r.failure.as_deref() == Some("server_error")));
}

#[test]
fn a_level_of_which_every_request_failed_is_a_failed_launch() {
    let dir = tempfile::tempdir().unwrap();
    let mock = server(2, 1, |i| i > 0);
    let (status, shown) = bench(dir.path(), &mock, &["-c", "2", "--requests", "6", "-r", "1"]);
    assert_eq!(status, Some(2), "{shown}");
    assert!(shown.contains("c2: every request failed: server_error"), "{shown}");
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert_eq!(record.arms[0].launches[0].status, Status::Failed);
    assert!(record.arms[0].metrics.is_empty());
}

#[test]
fn what_cannot_be_loaded_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (args, word) in [
        (&["serve-bench", "--model", "tiny"][..], "no server"),
        (&["serve-bench", "--model", "tiny", "--slo", "speed=1s"], "expected ttft="),
        (
            &["serve-bench", "--model", "tiny", "--endpoint", "http://127.0.0.1:9", "-c", "0"],
            "--concurrency 0: expected 1 to 1024",
        ),
    ] {
        let output = llm_bench(dir.path(), args).output().unwrap();
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{shown}");
        assert!(shown.contains(word), "{word} in {shown}");
    }
}
