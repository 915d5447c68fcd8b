//! Finds the Python that runs engines with scripts and builds native ones.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::environment::{self, Purpose};

/// Names the Python that makes the venvs, instead of the first one on PATH.
pub const PYTHON: &str = "LLM_BENCH_PYTHON";

/// How long a Python may take to print its version.
const PYTHON_ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// A Python and its version.
pub struct Python {
    pub path: PathBuf,
    pub version: (u32, u32),
}

/// The first Python on PATH that is new enough, or the one that `LLM_BENCH_PYTHON` names.
pub fn find_python(bound: (u32, u32)) -> Result<Python> {
    let named = std::env::var_os(PYTHON).map(PathBuf::from);
    let candidates: Vec<PathBuf> = match &named {
        Some(path) => vec![path.clone()],
        None => ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"]
            .map(PathBuf::from)
            .to_vec(),
    };
    let mut seen = Vec::new();
    for path in candidates {
        let Some(version) = python_version(&path) else {
            continue;
        };
        if version >= bound {
            return Ok(Python { path, version });
        }
        seen.push(format!("{} is {}.{}", path.display(), version.0, version.1));
    }
    let found = match (&named, seen.is_empty()) {
        (Some(path), true) => format!("{PYTHON}={}, which is not a Python", path.display()),
        (None, true) => "no python3 on PATH".to_string(),
        _ => seen.join(", "),
    };
    bail!(
        "expected Python {}.{} or newer, found: {found}; install it, or name one with {PYTHON}=…, \
         or measure without it: --engine candle",
        bound.0,
        bound.1
    )
}

/// The version that a Python prints; `None` if it is not a Python, hangs, or prints without end.
fn python_version(path: &Path) -> Option<(u32, u32)> {
    let program = "import sys; print('%d.%d' % sys.version_info[:2])";
    let mut child = environment::python(path, Purpose::Run)
        .args(["-c", program])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let (sender, answer) = channel();
    let reader = crate::threads::start(move || {
        let mut text = String::new();
        let read = stdout.take(64).read_to_string(&mut text);
        let _ = sender.send(read.ok().map(|_| text));
    });
    let text = reader.ok().and_then(|_| answer.recv_timeout(PYTHON_ANSWERS_WITHIN).ok().flatten());
    crate::interrupt::kill_group(child.id());
    let _ = child.wait();
    let (major, minor) = text.as_deref()?.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impossible_python_bound_says_what_was_found_and_what_to_do() {
        let error = find_python((99, 0)).err().unwrap().to_string();
        assert!(error.contains("99.0") && error.contains(PYTHON), "{error}");
    }
}
