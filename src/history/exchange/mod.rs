//! Writes a history as text and reads it back: lines of JSON, CSV, SQL. A file may come from
//! anywhere, so every session is checked as hostile input, and either all are added or none.

mod csv;
mod jsonl;
mod sql;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Added, Filter, Session, Store};

/// Limit for the length of a line or statement.
const LONGEST_LINE: u64 = 16 << 20;

/// A text form of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One line per session.
    Jsonl,
    /// One line per session and metric; RFC 4180.
    Csv,
    /// The tables themselves, for `sqlite3`.
    Sql,
}

impl Form {
    /// The form that a file name's extension stands for.
    pub fn of_name(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Some(Form::Jsonl),
            "csv" => Some(Form::Csv),
            "sql" => Some(Form::Sql),
            _ => None,
        }
    }
}

/// Writes the sessions that the filter accepts, one history line after the other, each in order.
///
/// # Errors
/// Errors of the store and of `out`.
pub fn write_out(store: &Store, filter: &Filter, form: Form, out: &mut dyn Write) -> Result<()> {
    match form {
        Form::Jsonl => jsonl::write(store, filter, out),
        Form::Csv => csv::write(store, filter, out),
        Form::Sql => sql::write(store, filter, out),
    }
}

/// Adds the sessions of a file.
///
/// # Errors
/// The content cannot be read or is not a session (the error names file and line), or the store
/// fails.
pub fn import(store: &mut Store, path: &Path, form: Form) -> Result<Added> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !file.metadata().is_ok_and(|m| m.is_file()) {
        bail!("{}: expected a file, found a folder or a device", path.display());
    }
    let file = BufReader::with_capacity(1 << 20, file);
    match form {
        Form::Jsonl => store.add(jsonl::read(path, file)),
        Form::Csv => store.add(csv::read(path, file)?),
        Form::Sql => sql::read(path, file, store),
    }
}

/// Numbered lines, from 1, of limited length. A line keeps its line end.
struct Lines<'p, R> {
    path: &'p Path,
    from: R,
    number: usize,
}

impl<'p, R: BufRead> Lines<'p, R> {
    fn new(path: &'p Path, from: R) -> Self {
        Self { path, from, number: 0 }
    }

    /// The place of the line that was read last, for errors.
    fn at(&self) -> String {
        format!("{}:{}", self.path.display(), self.number)
    }
}

impl<R: BufRead> Iterator for Lines<'_, R> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.number += 1;
        let mut bytes = Vec::new();
        let read = (&mut self.from).take(LONGEST_LINE + 1).read_until(b'\n', &mut bytes);
        match read.with_context(|| format!("cannot read {}", self.path.display())) {
            Ok(0) => None,
            Ok(n) if n as u64 > LONGEST_LINE => Some(Err(anyhow::anyhow!(
                "{}: expected a line of at most {LONGEST_LINE} bytes",
                self.at()
            ))),
            Ok(_) => Some(
                String::from_utf8(bytes)
                    .with_context(|| format!("{} is not UTF-8 text", self.at())),
            ),
            Err(e) => Some(Err(e)),
        }
    }
}

/// Checks a session; the error names `place`.
fn checked(session: Session, place: &str) -> Result<Session> {
    session.check().with_context(|| place.to_string())?;
    Ok(session)
}
