//! `--endpoint`: a server beside an engine, what cannot be seen of it, and its key.

use crate::support::mock::{Mock, vllm};
use crate::support::{only_record, text, with_fakes};
use llm_bench::metric::Metric;
use llm_bench::record::{FailureKind, Record, Status};

const KEY: &str = "sesame-open-sesame-0123456789";

/// Its status, and what it printed.
fn run(dir: &std::path::Path, args: &[&str]) -> (Option<i32>, String) {
    let common = ["run", "--model", "tiny", "-p", "8", "-n", "4", "-r", "2", "--no-verify"];
    let mut command = with_fakes(dir, &[&common[..], args].concat());
    let output = command.env("LLM_BENCH_API_KEY", KEY).output().unwrap();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn a_server_stands_beside_an_engine_with_what_can_be_seen_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mock = Mock::start(|request| vllm(request, 5, 1));
    let endpoint = format!("mock={}/v1", mock.url);
    let (status, shown) = run(dir.path(), &["--engine", "candle", "--endpoint", &endpoint]);
    assert_eq!(status, Some(0), "{shown}");
    let path = only_record(dir.path());
    let record = Record::read(&path).unwrap();
    let [candle, served] = &record.arms[..] else { panic!("{shown}") };
    assert_eq!((&*candle.engine, &*served.engine), ("candle", "mock"));
    assert!(served.launches.iter().all(|l| l.status == Status::Ok), "{shown}");
    for metric in [Metric::Ttft, Metric::DecodeTps, Metric::FirstGenerateTtft] {
        assert!(served.metrics.contains_key(&metric), "{metric}");
    }
    for metric in [
        Metric::ModelLoad,
        Metric::ColdStartTtft,
        Metric::PeakHostBytes,
        Metric::PrefillTps,
        Metric::Mbu,
        Metric::JoulesPerToken,
    ] {
        assert!(!served.metrics.contains_key(&metric), "{metric}");
    }
    assert!(served.metrics[&Metric::Ttft].mean >= 0.005);
    assert_eq!(served.settings["server"], "vLLM");
    assert_eq!(served.launches[0].prompts[0].tokens_hash.as_deref().map(str::len), Some(16));

    let asked = mock.seen();
    let bearer = format!("authorization: bearer {KEY}");
    assert!(asked.iter().all(|request| request.headers.contains(&bearer)));
    let text = std::fs::read_to_string(path).unwrap();
    assert!(!text.contains(KEY) && !shown.contains(KEY), "the key shows");
}

#[test]
fn a_server_that_is_not_there_is_a_failed_launch_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (_, shown) = run(dir.path(), &["--engine", "candle", "--endpoint", "http://127.0.0.1:9"]);
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert!(record.arms[0].metrics.contains_key(&Metric::DecodeTps));
    let error = record.arms[1].launches[0].error.as_ref().unwrap();
    assert_eq!(error.kind, FailureKind::Unreachable, "{shown}");
}

#[test]
fn an_address_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (endpoint, word) in [
        ("localhost:8080", "expected [NAME=]http://"),
        ("candle=http://127.0.0.1:9", "another engine is called"),
        ("http://me:sesame@host", "without a password"),
    ] {
        let (status, shown) = run(dir.path(), &["--endpoint", endpoint]);
        assert_eq!(status, Some(2), "{shown}");
        assert!(shown.contains(word) && !shown.contains("sesame@"), "{shown}");
    }
}
