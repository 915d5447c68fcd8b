//! `llm-bench.toml` and `--print-config`: what a file sets, what the command line overrides, and
//! how a wrong file is refused with its line.

use std::process::{Command, Output};

use crate::support::{self, PROGRAM, output, text};

fn stdout(out: &Output) -> String {
    text(&out.stdout)
}

fn stderr(out: &Output) -> String {
    text(&out.stderr)
}

fn folder(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("llm-bench.toml"), config).unwrap();
    dir
}

const SMALL: &str = "[run]\nmodel = \"tiny\"\nengine = [\"candle\"]\nlaunches = 4\n\
                     prompt-len = [8, 16]\ngen_len = 4\nno-verify = true\n";

#[test]
fn a_file_in_the_current_folder_sets_what_the_command_line_leaves_open() {
    let dir = folder(SMALL);
    let plan = stdout(&output(dir.path(), &["run", "--list"]));
    assert_eq!(plan.matches("candle #").count(), 4, "{plan}");
    let row = |prompt: &str| {
        let line = plan.lines().find(|line| line.starts_with(prompt)).unwrap();
        line.split_whitespace().map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(row("p16-n4"), ["p16-n4", "16", "4"], "{plan}");
    assert_eq!(row("p8-n4"), ["p8-n4", "8", "4"], "{plan}");
}

#[test]
fn the_command_line_overrides_the_file_also_where_options_exclude_each_other() {
    let dir = folder(SMALL);
    let plan = stdout(&output(dir.path(), &["run", "--list", "-r", "2"]));
    assert_eq!(plan.matches("candle #").count(), 2, "{plan}");
    // --prompts excludes -p and -n, which the file sets.
    let plan = stdout(&output(dir.path(), &["run", "--list", "--prompts", "tiny"]));
    assert!(plan.contains("opening-16"), "{plan}");
}

#[test]
fn another_file_can_be_named_and_none_at_all() {
    let dir = folder(SMALL);
    std::fs::write(dir.path().join("other.toml"), SMALL.replace("= 4\nprompt", "= 3\nprompt"))
        .unwrap();
    let plan = stdout(&output(dir.path(), &["--config", "other.toml", "run", "--list"]));
    assert_eq!(plan.matches("candle #").count(), 3, "{plan}");
    let args = ["run", "--config", "none", "--model", "tiny", "--engine", "candle", "--list"];
    let plan = stdout(&output(dir.path(), &args));
    assert_eq!(plan.matches("candle #").count(), 5, "{plan}");
}

#[test]
fn print_config_shows_every_default_and_can_be_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let shown = stdout(&output(dir.path(), &["run", "--print-config"]));
    for line in ["model = \"llama3-1b\"", "warmup = 1", "delay = 0.0", "no-install = false"] {
        assert!(shown.contains(line) || shown.contains(&line.replace("0.0", "0")), "{shown}");
    }
    assert!(shown.contains("# threads ="), "an option without a value is a comment: {shown}");
    std::fs::write(dir.path().join("llm-bench.toml"), &shown).unwrap();
    let again = output(dir.path(), &["run", "--print-config"]);
    assert_eq!(stdout(&again), shown, "{}", stderr(&again));
    let changed = stdout(&output(dir.path(), &["run", "-r", "9", "--print-config"]));
    assert_eq!(changed, shown.replace("# launches =", "launches = 9"));
    for command in [&["gate"][..], &["track"], &["verify"], &["history", "show", "decode_tps"]] {
        let print = [&["--config", "other.toml"], command, &["--print-config"]].concat();
        let shown = stdout(&output(dir.path(), &print[2..]));
        std::fs::write(dir.path().join("other.toml"), &shown).unwrap();
        let again = output(dir.path(), &print);
        assert_eq!(stdout(&again), shown, "{command:?}: {}", stderr(&again));
    }
}

#[test]
fn a_resumed_run_takes_its_settings_from_its_record_alone() {
    let dir = folder(SMALL);
    support::refused(output(dir.path(), &["run", "--resume", "no.json"]), &["no.json"]);
}

/// Exit code 2 and one error with the place and all of `words`.
fn refused(config: &str, line: u32, words: &[&str]) {
    let dir = folder(config);
    let place = format!("llm-bench.toml:{line}: ");
    support::refused(output(dir.path(), &["run", "--list"]), &[&[place.as_str()], words].concat());
}

#[test]
fn malformed_toml_is_refused_with_its_line() {
    refused("[run]\nmodel = \"tiny\nlaunches = 3\n", 2, &["llm-bench.toml"]);
}

#[test]
fn a_misspelt_key_gets_the_nearest_name() {
    refused("[run]\nmodel = \"tiny\"\nlaunchs = 3\n", 3, &["launchs", "launches"]);
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_with_its_line() {
    refused("[run]\nno-verify = 3\n", 2, &["no-verify", "true or false", "integer"]);
    refused("[run]\n\nlaunches = 0\n", 3, &["launches", "1..=1000"]);
    refused("[run]\nmodel = { a = 1 }\n", 2, &["model", "string or a number"]);
    refused("run = 1\n", 1, &["[run]"]);
}

#[test]
fn a_table_for_no_command_lists_the_commands() {
    refused("[runn]\nmodel = \"tiny\"\n", 1, &["runn", "run", "verify"]);
}

#[test]
fn a_file_that_was_named_and_is_missing_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let out = output(dir.path(), &["run", "--config", "no.toml", "--list"]);
    support::refused(out, &["no.toml"]);
}

#[test]
fn completions_know_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&output(dir.path(), &["completions", shell]));
        assert!(script.contains("verify") && script.contains("models"), "{shell}");
    }
}

#[test]
fn a_full_disk_behind_stdout_is_an_error_and_no_panic() {
    for args in [&["completions", "bash"][..], &["run", "--print-config"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = Command::new(PROGRAM).args(args).stdout(full).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(stderr(&out).starts_with("error: ") && !stderr(&out).contains("panicked"));
    }
}
