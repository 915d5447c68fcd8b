//! SQL: the tables unchanged, so that `sqlite3 NEW.sqlite < history.sql` makes a history. Reading
//! does not run the file as a program. Only INSERTs of plain values into these three tables are
//! executed, in a database in memory, and the result is checked like any other session.

use std::io::{BufRead, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;

use super::{LONGEST_LINE, Lines, checked};
use crate::history::schema::{self, in_words};
use crate::history::{Added, Filter, Store};
use crate::interrupt;

const TABLES: [&str; 3] = ["identity", "session", "result"];

pub(super) fn write(store: &Store, filter: &Filter, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "{}\nBEGIN;", schema::tables())?;
    let db = store.connection();
    let sql = |e| in_words(store.path(), e);
    let session = "SELECT id, identity, run_id, started_at, complete, commit_sha, dirty,
                          committed_at, version, executable_sha256, kernel, versions, place,
                          measured
                   FROM session WHERE identity = ?1 AND place >= ?2 ORDER BY place, measured, id";
    let mut sessions = db.prepare(session).map_err(sql)?;
    let result = "SELECT session, metric, n, mean, sd, launches FROM result
                  WHERE session = ?1 ORDER BY metric";
    let mut results = db.prepare(result).map_err(sql)?;
    let since = filter.since.map_or(i64::MIN, |t| t.as_millisecond());
    for line in store.lines(filter)? {
        let fields = serde_json::to_string(&line.identity)?;
        writeln!(
            out,
            "INSERT INTO identity (id, fields) VALUES ({}, {});",
            line.id,
            quoted(&fields)
        )?;
        let mut rows = sessions.query(rusqlite::params![line.id, since]).map_err(sql)?;
        while let Some(row) = rows.next().map_err(sql)? {
            insert(out, "session", row).map_err(|e| e.in_history(store))?;
            let id: i64 = row.get(0).map_err(sql)?;
            let mut rows = results.query([id]).map_err(sql)?;
            while let Some(row) = rows.next().map_err(sql)? {
                insert(out, "result", row).map_err(|e| e.in_history(store))?;
            }
        }
    }
    writeln!(out, "COMMIT;")?;
    Ok(())
}

/// A row could not be read, or its statement could not be written.
enum Broken {
    Read(rusqlite::Error),
    Write(std::io::Error),
}

impl Broken {
    fn in_history(self, store: &Store) -> anyhow::Error {
        match self {
            Broken::Read(e) => in_words(store.path(), e),
            Broken::Write(e) => e.into(),
        }
    }
}

fn insert(out: &mut dyn Write, table: &str, row: &rusqlite::Row) -> Result<(), Broken> {
    use rusqlite::types::ValueRef;
    let names: Vec<&str> = row.as_ref().column_names().collect();
    let mut values = Vec::with_capacity(names.len());
    for i in 0..names.len() {
        values.push(match row.get_ref(i).map_err(Broken::Read)? {
            ValueRef::Null => "NULL".to_string(),
            ValueRef::Integer(n) => n.to_string(),
            ValueRef::Real(x) => format!("{x:e}"),
            ValueRef::Text(text) => quoted(&String::from_utf8_lossy(text)),
            ValueRef::Blob(_) => unreachable!("no column of these strict tables holds bytes"),
        });
    }
    let (names, values) = (names.join(", "), values.join(", "));
    writeln!(out, "INSERT INTO {table} ({names}) VALUES ({values});").map_err(Broken::Write)
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(super) fn read(path: &Path, from: impl BufRead, store: &mut Store) -> Result<Added> {
    let mut scratch = Store::in_memory(path)?;
    let db = scratch.connection_mut();
    db.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST_LINE as i32)?;
    db.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    db.authorizer(Some(only_plain_inserts))?;
    let mut lines = Lines::new(path, from);
    let mut statement = String::new();
    let (mut open, mut in_text) = (false, false);
    db.execute_batch("BEGIN").map_err(|e| in_words(path, e))?;
    while let Some(line) = lines.next() {
        let line = line?;
        if interrupt::requested() {
            bail!("stopped; nothing was added");
        }
        // A statement ends with a semicolon outside of texts. Each byte is looked at once, and each
        // statement is compiled alone, whatever stands behind it on its line.
        let mut rest = &line[..];
        while let Some(at) = rest.find(|c| c == '\'' || c == ';' && !in_text) {
            let (part, behind) = rest.split_at(at + 1);
            statement += part;
            rest = behind;
            if part.ends_with('\'') {
                in_text = !in_text;
                continue;
            }
            match kind(&statement) {
                Kind::Insert => db
                    .execute_batch(&statement)
                    .map_err(|e| anyhow!("{}: {e}; expected plain values", lines.at()))?,
                Kind::Begin => open = true,
                Kind::Commit => open = false,
                Kind::Tables => {}
                Kind::Other => {
                    let start: String = statement.trim().chars().take(60).collect();
                    bail!(
                        "{}: expected INSERT INTO one of {TABLES:?}, found {start:?}",
                        lines.at()
                    );
                }
            }
            statement.clear();
        }
        if !(statement.is_empty() && rest.trim().is_empty()) {
            statement += rest;
        }
        if statement.len() as u64 > LONGEST_LINE {
            bail!("{}: expected a statement of at most {LONGEST_LINE} bytes", lines.at());
        }
    }
    if open || !statement.trim().is_empty() {
        bail!("{}: ends in the middle: expected COMMIT at its end", path.display());
    }
    let mut sessions = Vec::new();
    db.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    db.execute_batch("COMMIT").map_err(|e| in_words(path, e))?;
    scratch.each(&Filter::default(), |session| {
        let place = format!("{}: run {:?}", path.display(), session.run_id);
        sessions.push(checked(session, &place)?);
        Ok(())
    })?;
    store.add(sessions.into_iter().map(Ok)).context(path.display().to_string())
}

/// SQLite's authorizer: called before it compiles any part of a statement.
fn only_plain_inserts(asked: AuthContext<'_>) -> Authorization {
    let ours = |table: &str| TABLES.contains(&table);
    let fine = match asked.action {
        AuthAction::Insert { table_name } => ours(table_name),
        // Reads of the columns that are derived from `fields`.
        AuthAction::Read { table_name, .. } => ours(table_name),
        AuthAction::Function { function_name } => function_name == "->>",
        AuthAction::Transaction { .. } => true,
        _ => false,
    };
    if fine { Authorization::Allow } else { Authorization::Deny }
}

enum Kind {
    Insert,
    Begin,
    Commit,
    /// Statements that make the tables, which exist already.
    Tables,
    Other,
}

fn kind(statement: &str) -> Kind {
    let words: Vec<String> =
        statement.split_whitespace().take(2).map(|w| w.to_ascii_uppercase()).collect();
    let words: Vec<&str> = words.iter().map(|w| w.trim_end_matches(';')).collect();
    match words[..] {
        ["INSERT", "INTO"] => Kind::Insert,
        ["BEGIN", ..] => Kind::Begin,
        ["COMMIT" | "END", ..] => Kind::Commit,
        ["PRAGMA", _] | ["CREATE", "TABLE" | "INDEX"] => Kind::Tables,
        _ => Kind::Other,
    }
}
