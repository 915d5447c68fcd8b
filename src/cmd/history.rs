//! `history`: results over commits, in and out of one database file.

mod add;
mod exchange;
mod look;

use std::path::Path;

use anyhow::Result;

pub use self::add::add_record;
use crate::cli::history::{HistoryArgs, HistoryCommand};
use crate::history::Added;
use crate::progress::say;

pub fn run(args: &HistoryArgs) -> Result<()> {
    let db = &args.db;
    match &args.command {
        HistoryCommand::Add(args) => add::add(db, args),
        HistoryCommand::List(args) => look::list(db, args),
        HistoryCommand::Show(args) => look::show(db, args),
        HistoryCommand::Plot(args) => look::plot(db, args),
        HistoryCommand::Changes(args) => look::changes(db, args),
        HistoryCommand::Html(args) => look::html(db, args),
        HistoryCommand::Import(args) => exchange::import(db, args),
        HistoryCommand::Export(args) => exchange::export(db, args),
    }
}

fn report(db: &Path, added: Added) {
    let mut parts = vec![match added.new {
        1 => "added 1 session".to_string(),
        n => format!("added {n} sessions"),
    }];
    if added.replaced > 0 {
        parts.push(format!("completed {}", added.replaced));
    }
    if added.present > 0 {
        parts.push(format!("{} were there already", added.present));
    }
    say(&format!("{}: {}", db.display(), parts.join(", ")));
}
