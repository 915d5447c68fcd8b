//! `track`: `run`, and the result goes into the history.

use anyhow::{Context, Result};

use super::{history, run};
use crate::cli::history::TrackArgs;
use crate::shell;

pub fn run(args: &TrackArgs) -> Result<()> {
    let db = &args.history_db;
    // A place that cannot be written is an error before anything is measured.
    if !args.run.session.list {
        crate::history::Store::open_to_write(db)?.try_to_write()?;
    }
    let Some(record) = run::run(&args.run)? else { return Ok(()) };
    history::add_record(db, &record, args.commit.as_deref()).with_context(|| {
        let [db, file] = [db, &record].map(|path| path.to_string_lossy());
        let command = shell::command(["llm-bench", "history", "--db", &db, "add", &file]);
        format!("the result is kept in {file} but not in the history; add it with `{command}`")
    })
}
