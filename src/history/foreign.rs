//! What keeps a database file from anywhere harmless: nothing planted beside it is followed, its
//! tables are exactly ours before a row is read, and no statement runs without end.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

use super::schema::in_words;
use crate::interrupt;

/// How long one command may read a history, and opening one may take: a hundred times what a
/// million rows need.
pub(super) const READING_ENDS_AFTER: Duration = Duration::from_secs(600);
/// Steps of SQLite's machine between two looks at the clock: some milliseconds.
const STEPS: i32 = 1_000_000;
/// The longest text of a row.
const LONGEST_TEXT: i32 = 64 << 20;
/// Ends a journal that names another journal, which SQLite would delete.
const JOURNAL_END: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// What `ANALYZE` adds.
const STATISTICS: [&str; 2] = ["sqlite_stat1", "sqlite_stat4"];

/// Refuses what SQLite would write through or act upon beside the file: links in the place of its
/// journals, and a journal that names a further file to delete. We write neither.
pub(super) fn refuse_planted_files(path: &Path) -> Result<()> {
    if path.is_symlink() && !path.exists() {
        bail!("{}: expected a file, found a link to one that does not exist", path.display());
    }
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    for suffix in ["-journal", "-wal", "-shm"] {
        let mut name = real.clone().into_os_string();
        name.push(suffix);
        let beside = PathBuf::from(name);
        let Ok(found) = beside.symlink_metadata() else { continue };
        let shown = beside.display();
        if !found.is_file() {
            bail!("{shown}: expected no such file or a file, found a link or a folder; remove it");
        }
        if suffix == "-journal" && names_another(&beside).unwrap_or(false) {
            bail!(
                "{shown}: expected the journal of one database, found one that names a file to \
                 delete; llm-bench never writes such a journal. Remove it"
            );
        }
    }
    Ok(())
}

fn names_another(journal: &Path) -> std::io::Result<bool> {
    let mut file = File::open(journal)?;
    let mut end = [0; JOURNAL_END.len()];
    file.seek(SeekFrom::End(-(end.len() as i64)))?;
    file.read_exact(&mut end)?;
    Ok(end == JOURNAL_END)
}

/// Switches off what a schema could run, and limits sizes and time.
pub(super) fn disarm(db: &mut Connection) -> rusqlite::Result<()> {
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    ] {
        db.set_db_config(setting, on)?;
    }
    db.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST_TEXT)?;
    db.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    let end = Instant::now() + READING_ENDS_AFTER;
    db.progress_handler(STEPS, Some(move || interrupt::requested() || Instant::now() > end))
}

/// Writing may take as long as it takes; the tables are ours by then.
pub(super) fn without_end(db: &mut Connection) -> rusqlite::Result<()> {
    db.progress_handler(STEPS, Some(interrupt::requested))
}

/// One thing of a schema: type, name, table and SQL.
type Entry = (String, String, String, Option<String>);

/// Everything that the schema of a database holds, but for statistics.
fn entries(db: &Connection) -> rusqlite::Result<Vec<Entry>> {
    let most = 1000;
    let mut select = db.prepare(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name LIMIT ?1",
    )?;
    let rows =
        select.query_map([most], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    let statistics = |e: &Entry| e.0 == "table" && STATISTICS.contains(&&*e.1);
    rows.filter(|row| row.as_ref().map_or(true, |e| !statistics(e))).collect()
}

/// That the database has the tables and indexes of `ours`, and nothing else: no trigger, no view,
/// no column of another definition.
pub(super) fn compare_schema(db: &Connection, path: &Path, ours: &Connection) -> Result<()> {
    let sql = |e| in_words(path, e);
    let (found, expected) = (entries(db).map_err(sql)?, entries(ours).map_err(sql)?);
    let missing = expected.iter().find(|e| !found.contains(e));
    let other = found.iter().find(|e| !expected.contains(e));
    let what = match (other, missing) {
        (None, None) => return Ok(()),
        (Some((kind, name, table, _)), _) => {
            format!("found {kind} {name:?} of table {table:?}, which differs or is none of them")
        }
        (None, Some((kind, name, ..))) => format!("found no {kind} {name:?}"),
    };
    Err(anyhow::anyhow!("expected the tables of a history, {what}")).with_context(|| {
        format!(
            "{}: it is not read: another program changed its tables. Export what you trust with \
             sqlite3, or make a new history from the result files",
            path.display()
        )
    })
}
