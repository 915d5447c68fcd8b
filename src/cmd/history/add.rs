//! `history add`: result files into the database.

use std::path::Path;

use anyhow::{Result, bail};

use super::report;
use crate::cli::history::AddArgs;
use crate::history::{Session, Store, of_file};
use crate::progress::say;

pub fn add(db: &Path, args: &AddArgs) -> Result<()> {
    let mut sessions = Vec::new();
    for file in &args.files {
        match of_file(file, args.commit.as_deref(), args.incomplete) {
            Ok(found) => sessions.extend(found),
            Err(e) if args.skip => say(&format!("left out: {e:#}")),
            Err(e) if args.files.len() > 1 => {
                return Err(e.context("nothing was added (--skip leaves such files out)"));
            }
            Err(e) => return Err(e),
        }
    }
    if sessions.is_empty() {
        bail!("none of the {} files could be added", args.files.len());
    }
    add_sessions(db, sessions)
}

/// Adds the result of one run.
pub fn add_record(db: &Path, file: &Path, commit: Option<&str>) -> Result<()> {
    add_sessions(db, of_file(file, commit, false)?)
}

/// All of them or, after any error, none.
fn add_sessions(db: &Path, sessions: Vec<Session>) -> Result<()> {
    let added = Store::open_to_write(db)?.add(sessions.into_iter().map(Ok))?;
    report(db, added);
    Ok(())
}
