//! `run --sustained`: the speed of one launch over minutes, here over seconds.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::support::{done, only_record, send, with_fakes};
use llm_bench::metric::Metric;
use llm_bench::record::Record;
use rustix::process::Signal;

const RUN: [&str; 10] =
    ["run", "--model", "tiny", "--engine", "candle", "-p", "8", "-n", "32", "--no-verify"];

#[test]
fn a_speed_that_lasts_is_called_steady_or_by_its_slow_down_with_the_machine_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let args = [&RUN[..], &["--sustained", "0.1"]].concat();
    let shown = done(with_fakes(dir.path(), &args).output().unwrap());
    let record = Record::read(&only_record(dir.path())).unwrap();
    assert!(record.run.complete);
    assert_eq!(record.run.config["sustained_minutes"], 0.1);
    let [launch] = &record.arms[0].launches[..] else { panic!("{:?}", record.arms[0].launches) };
    assert!(launch.metrics.contains_key(&Metric::DecodeTps));
    let run = launch.sustained.as_ref().unwrap();
    assert!(run.moments.len() >= 2, "{run:?}");
    assert!(run.moments.iter().all(|m| m.tokens > 0 && m.decode_s > 0.0), "{run:?}");
    assert!(run.moments.is_sorted_by(|a, b| a.at_s < b.at_s), "{run:?}");
    assert!(run.moments.last().unwrap().at_s >= 6.0);
    // Thousands of generations, of which the record keeps the first.
    assert_eq!(launch.prompts.len(), 3, "cold, warm-up, one measured");
    assert!(shown.contains("candle for 0.1 minutes"), "{shown}");
    let said = ["Steady:", "Throttled from minute 1", "Slower from minute 1"];
    assert!(said.iter().any(|word| shown.contains(word)), "{shown}");
}

#[test]
fn ctrl_c_keeps_the_minutes_that_were_measured() {
    let dir = tempfile::tempdir().unwrap();
    let args = [&RUN[..], &["--sustained", "30"]].concat();
    let mut command = with_fakes(dir.path(), &args);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let seen = lines.by_ref().find(|line| line.as_ref().is_ok_and(|l| l.contains(" s: decode ")));
    assert!(seen.is_some(), "no line of progress");
    send(&child, Signal::INT);
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    child.wait().unwrap();
    let record = Record::read(&only_record(dir.path())).unwrap();
    let launch = record.arms[0].launches.first();
    let run = launch.and_then(|launch| launch.sustained.as_ref());
    assert!(run.is_some_and(|run| !run.moments.is_empty()), "{rest:?}");
}

#[test]
fn no_time_at_all_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let args = [&RUN[..], &["--sustained", "0"]].concat();
    crate::support::refused(with_fakes(dir.path(), &args).output().unwrap(), &["--sustained"]);
}
