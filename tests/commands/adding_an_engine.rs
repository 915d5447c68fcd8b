//! Checks that docs/ADDING_AN_ENGINE.md works when pasted. Its example, in a folder of the user's,
//! imports the Python code that llm-bench carries, and nothing from the folder where it runs.

use std::path::Path;
use std::process::Output;

use llm_bench::record::{Record, Status};

use crate::support::{done, llm_bench, only_record, text};

/// The first block of code in this language.
fn block(language: &str) -> &'static str {
    let doc = include_str!("../../docs/ADDING_AN_ENGINE.md");
    let (_, rest) = doc.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

/// Runs like a user who has a relative cache folder and the current folder on Python's path.
fn run(dir: &Path, args: &[&str]) -> Output {
    let mut command = llm_bench(dir, args);
    command.env("LLM_BENCH_ENGINES", "repeat").env("LLM_BENCH_CACHE", "cache");
    command.env("PYTHONPATH", ".").output().unwrap()
}

#[test]
fn the_example_of_the_documentation_runs_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("repeat")).unwrap();
    std::fs::write(at("repeat/engine.toml"), block("toml")).unwrap();
    std::fs::write(at("repeat/worker.py"), block("python")).unwrap();
    // Modules that must not be imported.
    for name in ["_shared.py", "json.py"] {
        std::fs::write(at(name), "open('was-here', 'w')\n").unwrap();
    }

    let command = ["run", "--model", "tiny", "--engine", "repeat", "-p", "8", "-n", "6", "-d", "4"];
    done(run(dir.path(), &[&command[..], &["-r", "2", "--no-verify"]].concat()));
    assert!(!at("was-here").exists(), "a file of the current folder was run");
    let record = Record::read(&only_record(dir.path())).unwrap();
    let arm = &record.arms[0];
    assert!(arm.launches.iter().all(|l| l.status == Status::Ok), "{:?}", arm.launches);
    assert_eq!(arm.version["repeat"], "1.0");
    assert!(arm.version.contains_key("python"));
    assert_eq!(arm.settings["first"], false);

    // The script knows the options that the toml sets and rejects all others.
    let typo = block("toml").replace("first = false", "frist = true");
    std::fs::write(at("repeat/engine.toml"), typo).unwrap();
    let stdout = text(&run(dir.path(), &["engines", "check", "repeat"]).stdout);
    assert!(stdout.contains("expected only the options ['first'], found ['frist']"), "{stdout}");
}
