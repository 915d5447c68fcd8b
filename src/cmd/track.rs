//! `track`: `run`, and the result goes into the history.

use anyhow::{Context, Result};

use super::{history, run};
use crate::cli::history::TrackArgs;

pub fn run(args: &TrackArgs) -> Result<()> {
    let db = &args.history_db;
    // A place that cannot be written is an error before anything is measured.
    if !args.run.list {
        drop(crate::history::Store::open_to_write(db)?);
    }
    let Some(record) = run::run(&args.run)? else { return Ok(()) };
    history::add_record(db, &record, args.commit.as_deref()).with_context(|| {
        let record = record.display();
        format!(
            "the result is kept in {record} but not in the history; add it with `llm-bench \
             history --db {} add {record}`",
            db.display()
        )
    })
}
