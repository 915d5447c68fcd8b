//! `track`: `run`, and the result goes into the history.

use std::path::Path;

use anyhow::{Context, Result};

use super::{history, run};
use crate::cli::history::TrackArgs;

pub fn run(args: &TrackArgs) -> Result<()> {
    let db = &args.history_db;
    // A place that cannot be written is told before anything is measured.
    if !args.run.list {
        drop(crate::history::Store::open_to_write(db)?);
    }
    run::each(&args.run, &mut |record: &Path| {
        history::add_record(db, record, args.commit.as_deref()).with_context(|| {
            let record = record.display();
            format!(
                "the result is kept in {record} but not in the history; add it with `llm-bench \
                 history --db {} add {record}`",
                db.display()
            )
        })
    })
}
