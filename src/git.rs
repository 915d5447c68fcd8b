//! Asks git about a repository that may come from anywhere. Its own configuration can name
//! programs (hooks, filters, signature checkers, pagers, transports): none of them is started, and
//! only commands that read objects or make a work tree are used. The user's global configuration
//! holds, with its `safe.directory`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use crate::environment::{self, Purpose};

/// Settings that a repository's own must not overrule.
const NEUTRAL: &[&str] = &[
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.attributesFile=/dev/null",
    "core.pager=cat",
    "log.showSignature=false",
    "protocol.allow=never",
    // A bare repository in a folder of the tree is somebody's trap.
    "safe.bareRepository=explicit",
];

/// git in a folder, with nothing of the repository's configuration that runs.
fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = environment::command("git", Purpose::Run);
    command
        .env("GIT_ALLOW_PROTOCOL", "none")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .arg("--no-pager");
    for setting in NEUTRAL {
        command.args(["-c", setting]);
    }
    command.current_dir(folder).args(args).stdin(Stdio::null());
    command
}

/// What git prints, without the last newline; its first complaint is the error.
pub fn text(folder: &Path, args: &[&str]) -> Result<String> {
    let out = command(folder, args)
        .output()
        .context("cannot start git; install it, or give built programs")?;
    if !out.status.success() {
        let complaint = String::from_utf8_lossy(&out.stderr);
        bail!("git {}: {}", args[0], complaint.lines().next().unwrap_or("failed").trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_string())
}

/// When a commit was made, if the repository around `folder` has it; as `git show --format=%cI`
/// prints it.
pub fn commit_time(folder: &Path, commit: &str) -> Option<String> {
    if commit.is_empty() || !commit.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    committed_at(&text(folder, &["cat-file", "commit", commit]).ok()?)
}

/// The committer's time in the header of a commit.
fn committed_at(object: &str) -> Option<String> {
    let header = object.lines().take_while(|line| !line.is_empty());
    let line = header.filter_map(|line| line.strip_prefix("committer ")).next()?;
    let (rest, zone) = line.rsplit_once(' ')?;
    let (_, seconds) = rest.rsplit_once(' ')?;
    let time = Timestamp::from_second(seconds.parse().ok()?).ok()?;
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("-", digits) => (-1, digits),
        ("+", digits) => (1, digits),
        _ => return None,
    };
    let (hours, minutes) = digits.split_at_checked(2)?;
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    let offset = Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()?;
    Some(time.to_zoned(TimeZone::fixed(offset)).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_commit_is_read_from_its_header_alone() {
        let object = |zone: &str| {
            format!(
                "tree 1\nauthor a <a@x> 1 +0000\ncommitter B C <b@x> 1700000000 {zone}\n\
                 gpgsig -----BEGIN\n committer no <n@x> 5 +0000\n\ncommitter z <z@x> 9 +0000\n"
            )
        };
        assert_eq!(committed_at(&object("+0200")).unwrap(), "2023-11-15T00:13:20+02:00");
        assert_eq!(committed_at(&object("-0930")).unwrap(), "2023-11-14T12:43:20-09:30");
        assert_eq!(committed_at(&object("+0000")).unwrap(), "2023-11-14T22:13:20+00:00");
        for odd in ["", "02:00", "+9", "+zz00", "é000"] {
            assert_eq!(committed_at(&object(odd)), None, "{odd}");
        }
        assert_eq!(committed_at("tree 1\n\ncommitter z <z@x> 9 +0000\n"), None);
    }

    /// A repository with a commit, whose configuration names programs wherever git knows of one.
    #[test]
    fn nothing_that_a_repository_names_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let me = ["-c", "user.name=n", "-c", "user.email=e@example.invalid"];
        text(path, &["init", "-q"]).unwrap();
        std::fs::write(path.join("a"), "text").unwrap();
        text(path, &["add", "a"]).unwrap();
        text(path, &[&me[..], &["commit", "-qm", "first"]].concat()).unwrap();
        let commit = text(path, &["rev-parse", "HEAD"]).unwrap();
        let trap = path.join("trap");
        std::fs::write(&trap, format!("#!/bin/sh\ntouch {}/sprung\n", path.display())).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&trap, mode).unwrap();
        let hooks = path.join(".git/hooks");
        for hook in ["post-checkout", "reference-transaction", "post-index-change"] {
            std::fs::copy(&trap, hooks.join(hook)).unwrap();
        }
        let program = trap.display();
        let config = format!(
            "\n[core]\nfsmonitor = {program}\npager = {program}\nsshCommand = {program}\n\
             hooksPath = {}\nalternateRefsCommand = {program}\naskPass = {program}\n\
             [gpg]\nprogram = {program}\n[log]\nshowSignature = true\n\
             [diff]\nexternal = {program}\n[diff \"t\"]\ntextconv = {program}\n\
             [pager]\ncat-file = true\nrev-parse = true\n\
             [extensions]\npartialClone = origin\n\
             [remote \"origin\"]\nurl = ext::{program}\npromisor = true\nuploadpack = {program}\n\
             [protocol \"ext\"]\nallow = always\n[credential]\nhelper = {program}\n",
            hooks.display()
        );
        let file = path.join(".git/config");
        let before = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, before + &config).unwrap();
        std::fs::write(path.join(".gitattributes"), "* diff=t\n").unwrap();
        assert!(commit_time(path, &commit).is_some());
        assert!(commit_time(path, &commit[..8]).is_some(), "an abbreviated one too");
        // One that is missing would be fetched.
        assert_eq!(commit_time(path, &"1".repeat(40)), None);
        assert_eq!(text(path, &["cat-file", "blob", &format!("{commit}:a")]).unwrap(), "text");
        let tree = path.join("tree");
        text(path, &["worktree", "add", "--force", "--detach", tree.to_str().unwrap(), &commit])
            .unwrap();
        assert!(tree.join("a").is_file());
        assert!(!path.join("sprung").exists(), "a program of the repository was started");
        assert_eq!(commit_time(path, "HEAD"), None);
    }
}
