//! What a configuration file may set. A file that the user named, or keeps in the configuration
//! folder, may set every option. One that merely lies in the current folder came with that folder:
//! it may say what is measured, and it may name files inside its folder, but no program, no path
//! that leads out, nothing to be written over.

use std::any::TypeId;
use std::path::{Component, Path, PathBuf};

use clap::{Arg, Command};

/// Whose word a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Named with `--config`, or in the user's configuration folder.
    User,
    /// Found in the current folder.
    Folder,
}

/// What an option of the command line can do in the hands of a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Decides what is measured and how it is shown.
    Measuring,
    /// Names a file to read, or the folder of results: inside the file's own folder.
    Inside,
    /// Not for a stranger, and why.
    Refused(&'static str),
}

/// Options that decide what is measured, which lines are shown, and in which form.
const MEASURING: &[&str] = &[
    "all",
    "allow-requantize",
    "alpha",
    "arrivals",
    "batch",
    "col",
    "commit",
    "concurrency",
    "cuda",
    "decode",
    "delay",
    "depth",
    "device",
    "duration",
    "engine",
    "exit-code",
    "extend",
    "fair-comparison",
    "form",
    "gen-len",
    "host",
    "identity",
    "ignore-eos",
    "incomplete",
    "interactive",
    "iterations",
    "json",
    "last",
    "launches",
    "like",
    "margin",
    "max-launches",
    "max-minutes",
    "metric",
    "n-ctx",
    "no-install",
    "no-quality",
    "no-verify",
    "noise",
    "on-inconclusive",
    "output",
    "page-cache",
    "pair",
    "per-prompt",
    "positions",
    "primary",
    "profile",
    "prompt",
    "prompt-len",
    "pytorch-no-compile",
    "pytorch-no-half",
    "pytorch-path",
    "quant",
    "reference",
    "request-rate",
    "requests",
    "require",
    "row",
    "rule",
    "runs",
    "seconds",
    "seed",
    "self-check",
    "shared-prefix",
    "since",
    "skip",
    "slow",
    "slo",
    "slow-candidate",
    "sustained",
    "system",
    "table",
    "temperature",
    "threads",
    "timeout",
    "timing",
    "title",
    "to",
    "top-p",
    "warmup",
    "weights",
];

/// Commands that put their results into a folder, under names of their own.
const MEASURE: &[&str] = &["run", "sweep", "encode", "tokenize", "gate", "track", "serve-bench"];

/// An option that is in no list is refused: one that is added here needs a decision.
fn reach(leaf: &Command, arg: &Arg) -> Reach {
    let long = arg.get_long().unwrap_or_default();
    let names_a_path = arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
    match long {
        "baseline-bin" | "candidate-bin" | "python" => Reach::Refused("it names a program to run"),
        "baseline-rev" | "candidate-rev" => Reach::Refused("it names code to build and run"),
        "engine-option" => Reach::Refused("the engine decides what it means"),
        "endpoint" => Reach::Refused("it names who gets the prompts and the key"),
        "resume" => Reach::Refused("it names a session to resume"),
        "force" | "force-incomparable" => Reach::Refused("it switches a protection off"),
        "data" | "model" | "prompts" | "prompt-file" | "text" | "baseline" | "candidate"
        | "history-db" => Reach::Inside,
        "output-dir" if MEASURE.contains(&leaf.get_name()) => Reach::Inside,
        _ if names_a_path => Reach::Refused("it names a file or folder to write"),
        _ if MEASURING.contains(&long) => Reach::Measuring,
        _ => Reach::Refused("it is no measuring option"),
    }
}

/// Why a file that lies in `folder` may not set this option to `value`; none where it may.
pub fn refusal(leaf: &Command, arg: &Arg, value: &str, folder: &Path) -> Option<String> {
    let defaults: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
    // What holds anyway says nothing: files that `--print-config` wrote are read back.
    if !defaults.is_empty() && defaults.join(",") == value {
        return None;
    }
    match reach(leaf, arg) {
        Reach::Measuring => None,
        Reach::Inside if is_inside(folder, Path::new(value)) => None,
        Reach::Inside => Some(format!("{value:?} leads out of the folder")),
        Reach::Refused(why) => Some(why.to_string()),
    }
}

/// Whether `path`, seen from `folder`, leads to a place in `folder` through all links, and not into
/// its git repository. A link to nothing does not: something may be made through it.
fn is_inside(folder: &Path, path: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    let mut at = folder.clone();
    for part in path.components() {
        match part {
            Component::Prefix(_) | Component::RootDir => at = PathBuf::from("/"),
            Component::CurDir => {}
            Component::ParentDir => drop(at.pop()),
            Component::Normal(name) => at.push(name),
        }
        if at.symlink_metadata().is_ok() {
            match at.canonicalize() {
                Ok(real) => at = real,
                Err(_) => return false,
            }
        }
    }
    at.strip_prefix(&folder).is_ok_and(|rest| rest.components().all(|c| c.as_os_str() != ".git"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;
    use crate::cli::config::options;

    /// Every option of every command, with its command.
    fn all(command: &Command, found: &mut Vec<(Command, Arg)>) {
        found.extend(options(command).map(|arg| (command.clone(), arg.clone())));
        command.get_subcommands().for_each(|sub| all(sub, found));
    }

    #[test]
    fn every_option_is_either_for_measuring_or_refused_for_a_reason() {
        let mut found = Vec::new();
        let mut command = Cli::command();
        command.build();
        all(&command, &mut found);
        assert!(found.len() > 100, "{}", found.len());
        for (leaf, arg) in &found {
            let undecided = Reach::Refused("it is no measuring option");
            let long = arg.get_long().unwrap();
            assert_ne!(reach(leaf, arg), undecided, "{} --{long}: decide", leaf.get_name());
        }
        let names = |wanted: fn(&Reach) -> bool| -> Vec<String> {
            let names = found.iter().filter(|(leaf, arg)| wanted(&reach(leaf, arg)));
            let mut names: Vec<String> = names
                .map(|(leaf, arg)| format!("{}.{}", leaf.get_name(), arg.get_long().unwrap()))
                .collect();
            names.sort();
            names
        };
        assert_eq!(
            names(|r| matches!(r, Reach::Refused(_))),
            [
                "check.python",
                "doctor.python",
                "encode.endpoint",
                "encode.engine-option",
                "encode.python",
                "encode.resume",
                "export.output",
                "gate.baseline-bin",
                "gate.baseline-rev",
                "gate.candidate-bin",
                "gate.candidate-rev",
                "gate.comment",
                "gate.endpoint",
                "gate.engine-option",
                "gate.force-incomparable",
                "gate.python",
                "gate.resume",
                "gate.summary",
                "gate.verdict",
                "generate.endpoint",
                "generate.engine-option",
                "generate.python",
                "html.output-dir",
                "install.python",
                "list.python",
                "plot.output",
                "quantize.force",
                "quantize.out",
                "quantize.out-dir",
                "report.pictures",
                "run.endpoint",
                "run.engine-option",
                "run.python",
                "run.resume",
                "serve-bench.endpoint",
                "serve-bench.engine-option",
                "serve-bench.python",
                "serve-bench.resume",
                "sweep.endpoint",
                "sweep.engine-option",
                "sweep.python",
                "sweep.resume",
                "synth.out",
                "tokenize.endpoint",
                "tokenize.engine-option",
                "tokenize.python",
                "tokenize.resume",
                "track.endpoint",
                "track.engine-option",
                "track.python",
                "track.resume",
                "verify.endpoint",
                "verify.engine-option",
                "verify.python",
            ]
        );
    }

    #[test]
    fn a_path_is_inside_only_if_it_is_there_through_all_links() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("folder");
        let at = |name: &str| folder.join(name);
        std::fs::create_dir_all(at("sub")).unwrap();
        std::fs::create_dir_all(at(".git/hooks")).unwrap();
        std::fs::write(outer.path().join("secret"), "x").unwrap();
        std::fs::write(at("sub/file"), "x").unwrap();
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, at(name)).unwrap();
        link("..", "up");
        link("../secret", "linked");
        link("/nowhere/at/all", "dangling");
        link("sub", "to-sub");
        let absolute = at("sub/file");
        for fine in ["tiny", "sub/file", "./sub/../sub/new", "to-sub/x", absolute.to_str().unwrap()]
        {
            assert!(is_inside(&folder, Path::new(fine)), "{fine}");
        }
        for out in [
            "..",
            "../secret",
            "sub/../../secret",
            "up",
            "up/secret",
            "linked",
            "dangling",
            "dangling/x",
            "/etc/passwd",
            "to-sub/../../secret",
            "new/../../secret",
            ".git/hooks",
            "sub/../.git/config",
        ] {
            assert!(!is_inside(&folder, Path::new(out)), "{out}");
        }
    }
}
