//! One step of an installation: a command whose output is shown as progress, which Ctrl-C ends, and
//! whose own words explain a failure.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::threads::start;

/// Runs one step of an installation. Its output becomes progress, and part of any error.
pub fn run_step(command: &mut Command, what: &str, advice: &str, say: &dyn Fn(&str)) -> Result<()> {
    say(what);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("{what}: cannot start {:?}", command.get_program()))?;
    crate::interrupt::guard_group(child.id());
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let errors = start(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let (sender, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let reader =
        start(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let errors = match reader.and(errors) {
        Ok(errors) => errors,
        Err(e) => {
            crate::interrupt::kill_group(child.id());
            let _ = child.wait();
            crate::interrupt::release_group(child.id());
            return Err(e).with_context(|| what.to_string());
        }
    };
    let (mut last, mut complaint, mut tenths) = (String::new(), None, 0);
    // A step may be silent for long, so this checks for a request to stop all the time.
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => {
                worth_showing(&line, &mut tenths).iter().for_each(|shown| say(shown));
                if complaint.is_none() && line.to_ascii_lowercase().contains("error:") {
                    complaint = Some(line.clone());
                }
                last = line;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if crate::interrupt::requested() {
            crate::interrupt::kill_group(child.id());
        }
    }
    let status = child.wait();
    crate::interrupt::release_group(child.id());
    let status = status?;
    if crate::interrupt::requested() {
        bail!("{what}: stopped; the same command starts it again");
    }
    let errors = errors.join().unwrap_or_default();
    if !status.success() {
        // Compilers complain on stdout, through the program that runs them; the first complaint
        // counts.
        let reason = complaint
            .as_deref()
            .or_else(|| errors.lines().rev().find(|l| !l.trim().is_empty()))
            .unwrap_or(&last);
        bail!("{what} failed ({status}): {}; {advice}", reason.trim());
    }
    Ok(())
}

/// The lines of pip, cargo and a build that are worth showing to somebody who waits. A build counts
/// its files as `[n/m]`; `tenths` is how many tenths have been shown.
fn worth_showing(line: &str, tenths: &mut usize) -> Option<String> {
    let line = line.trim();
    if let Some((done, of)) = counted(line) {
        let reached = 10 * done / of;
        let shown = (reached > *tenths).then(|| format!("{done} of {of} files compiled"));
        *tenths = reached.max(*tenths);
        return shown;
    }
    let shown = ["Collecting ", "Downloading ", "Installing collected packages", "Compiling "];
    shown.iter().any(|t| line.starts_with(t)).then(|| {
        let mut s = line.to_string();
        s.truncate(s.floor_char_boundary(76));
        s
    })
}

/// `(n, m)` from a line that begins with `[n/m] `.
fn counted(line: &str) -> Option<(usize, usize)> {
    let (count, _) = line.strip_prefix('[')?.split_once("] ")?;
    let (done, of) = count.split_once('/')?;
    let (done, of) = (done.trim().parse().ok()?, of.trim().parse().ok()?);
    (1..=of).contains(&done).then_some((done, of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_shows_each_tenth_once() {
        let mut tenths = 0;
        let lines = (1..=74).map(|n| format!("[{n}/74] Building CXX object x.o"));
        let shown: Vec<_> = lines.filter_map(|l| worth_showing(&l, &mut tenths)).collect();
        assert_eq!(shown.len(), 10, "{shown:?}");
        assert_eq!(shown[9], "74 of 74 files compiled");
        assert_eq!(worth_showing("[0/0] x", &mut tenths), None);
        assert_eq!(worth_showing("[x/3] y", &mut tenths), None);
    }

    #[test]
    fn a_failed_step_tells_the_first_complaint_and_what_to_do() {
        let script = "echo '[1/2] c++ a.cpp'; echo 'a.cpp:1: error: no'; echo stopped; exit 3";
        let error = run_step(Command::new("sh").args(["-c", script]), "compiling", "try", &|_| {})
            .unwrap_err()
            .to_string();
        assert!(error.contains("compiling failed") && error.contains("a.cpp:1: error: no; try"));
    }
}
