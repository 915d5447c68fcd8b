//! A result file as sessions of the history.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::session::{Session, sessions};
use crate::git;
use crate::record::Record;
use crate::shell;

/// The sessions of a result file. `commit` takes the place of the build's own; `incomplete` lets
/// an interrupted run in.
///
/// # Errors
/// The file is no result of one build, was cut off, or holds nothing that succeeded.
pub fn of_file(file: &Path, commit: Option<&str>, incomplete: bool) -> Result<Vec<Session>> {
    let shown = file.display();
    let record = Record::read(file)?;
    if record.run.config.get("gate").is_some() {
        bail!(
            "{shown}: expected the result of one build, found a gate's, which has two under one \
             name; measure the build alone with `llm-bench track`"
        );
    }
    if !record.run.complete && !incomplete {
        bail!(
            "{shown}: the run was cut off, and the mean of a part of its plan is not that of the \
             whole; finish it with `llm-bench run --resume {}`, or add it as it is with \
             --incomplete",
            shell::path(file)
        );
    }
    let mut sessions = sessions(&record).with_context(|| shown.to_string())?;
    if sessions.is_empty() {
        bail!("{shown}: no engine has a launch that succeeded; there is nothing to add");
    }
    if let Some(commit) = commit {
        for session in &mut sessions {
            (session.commit, session.dirty) = (Some(commit.to_string()), None);
        }
    }
    let time = sessions[0].commit.as_deref().and_then(|c| git::commit_time(Path::new("."), c));
    sessions.iter_mut().for_each(|s| s.committed_at = time.clone());
    Ok(sessions)
}
