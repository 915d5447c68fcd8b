//! The database file: its tables and version, how it is opened, and what its errors mean.
//!
//! It uses a rollback journal rather than a write-ahead log: this is one file, readable from a
//! read-only folder, and writers come once per run. `synchronous = EXTRA` also syncs the folder
//! after the journal is deleted, so that sessions reported as added survive a power cut.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::foreign;
use crate::interrupt;

/// Marks the file as ours: "LLMB".
const APPLICATION_ID: i32 = 0x4c4c_4d42;
/// One step per version of the tables; the first starts from an empty file.
const MIGRATIONS: &[&str] = &[TABLES];
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;

/// How long one writer waits for another.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// `identity.fields` is the JSON of an identity with every field by its name; the columns beside it
/// are derived from it. `session.place` (the time of the commit, if known) and then `measured`
/// order a line, both in milliseconds since 1970. `result.launches` holds one value per launch, so
/// that every test can be repeated; n, mean and sd are derived from it.
const TABLES: &str = "
CREATE TABLE identity (
    id INTEGER PRIMARY KEY,
    fields TEXT NOT NULL UNIQUE,
    engine TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.engine') VIRTUAL,
    label TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.label') VIRTUAL,
    model TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.model') VIRTUAL,
    model_sha256 TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.model_sha256') VIRTUAL,
    quant TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.quant') VIRTUAL,
    prompt_set TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.prompt_set') VIRTUAL,
    cpu_model TEXT NOT NULL GENERATED ALWAYS AS (fields ->> '$.cpu_model') VIRTUAL
) STRICT;
CREATE INDEX identity_by_model ON identity (model_sha256, label);
CREATE TABLE session (
    id INTEGER PRIMARY KEY,
    identity INTEGER NOT NULL REFERENCES identity (id),
    run_id TEXT NOT NULL,
    started_at TEXT NOT NULL,
    complete INTEGER NOT NULL CHECK (complete IN (0, 1)),
    commit_sha TEXT,
    dirty INTEGER CHECK (dirty IN (0, 1)),
    committed_at TEXT,
    version TEXT NOT NULL,
    executable_sha256 TEXT,
    kernel TEXT,
    versions TEXT NOT NULL,
    place INTEGER NOT NULL,
    measured INTEGER NOT NULL,
    UNIQUE (run_id, started_at, identity)
) STRICT;
CREATE INDEX session_by_identity ON session (identity, place, measured);
CREATE TABLE result (
    session INTEGER NOT NULL REFERENCES session (id) ON DELETE CASCADE,
    metric TEXT NOT NULL,
    n INTEGER NOT NULL CHECK (n > 0),
    mean REAL NOT NULL,
    sd REAL,
    launches TEXT NOT NULL,
    PRIMARY KEY (session, metric)
) STRICT, WITHOUT ROWID;
CREATE INDEX result_by_metric ON result (metric, session, n, mean, sd);
";

/// Opens an existing file. Creates and changes nothing.
pub(super) fn open_to_read(path: &Path) -> Result<Connection> {
    if !path.exists() {
        bail!(
            "{}: there is no history yet; make one with `llm-bench track` or `llm-bench history \
             add --skip results/*.json`",
            path.display()
        );
    }
    refuse_what_is_no_file(path)?;
    // Opens for writing, so that SQLite can roll back what a killed writer left. SQLite falls back
    // to reading if the file cannot be written.
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE);
    let db = db.and_then(settle).map_err(|e| in_words(path, e))?;
    db.pragma_update(None, "query_only", true).map_err(|e| in_words(path, e))?;
    match version(&db, path)? {
        VERSION => {
            check_whole(&db, path)?;
            Ok(db)
        }
        0 => bail!("{}: expected a history, found an empty file", path.display()),
        older => bail!(
            "{}: its tables have version {older}, this llm-bench reads {VERSION}; any `llm-bench \
             history add` brings them up to date",
            path.display()
        ),
    }
}

/// Opens or creates a history, brings its tables up to date, and checks that it is intact.
pub(super) fn open_to_write(path: &Path) -> Result<Connection> {
    refuse_what_is_no_file(path)?;
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot make its folder", path.display()))?;
    }
    let db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    );
    let mut db = db.and_then(settle).map_err(|e| in_words(path, e))?;
    let found = version(&db, path)?;
    if found < VERSION {
        migrate(&mut db).map_err(|e| in_words(path, e))?;
    }
    check_whole(&db, path)?;
    foreign::without_end(&mut db).map_err(|e| in_words(path, e))?;
    Ok(db)
}

/// Opens the journal and changes a page, and rolls back: what is only readable says so.
pub(super) fn try_to_write(db: &mut Connection) -> rusqlite::Result<()> {
    let trial = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    trial.execute_batch("CREATE TABLE trial (x); DROP TABLE trial;")?;
    trial.rollback()
}

/// Reads every page once. A page that two places lead to would make reading endless.
fn check_whole(db: &Connection, path: &Path) -> Result<()> {
    let whole: String = db
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|e| in_words(path, e))?;
    match &*whole {
        "ok" => Ok(()),
        why => Err(damaged(path, why)),
    }
}

/// An empty history in memory.
pub(super) fn in_memory() -> rusqlite::Result<Connection> {
    let mut db = settle(Connection::open_in_memory()?)?;
    migrate(&mut db)?;
    foreign::without_end(&mut db)?;
    Ok(db)
}

/// An empty database with the tables of a version.
fn tables_of(version: i32) -> rusqlite::Result<Connection> {
    let db = Connection::open_in_memory()?;
    let steps = MIGRATIONS.iter().take(version.try_into().unwrap_or(0));
    steps.copied().try_for_each(|tables| db.execute_batch(tables))?;
    Ok(db)
}

/// The statements that make the tables and mark the file as ours.
pub(super) fn tables() -> String {
    let tables = TABLES.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ");
    let tables = tables.replace("CREATE INDEX ", "CREATE INDEX IF NOT EXISTS ");
    format!("PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {VERSION};{tables}")
}

fn settle(mut db: Connection) -> rusqlite::Result<Connection> {
    db.busy_handler(Some(|tries: i32| {
        std::thread::sleep(PAUSE);
        PAUSE * tries.unsigned_abs() < PATIENCE && !interrupt::requested()
    }))?;
    foreign::disarm(&mut db)?;
    db.execute_batch(
        "PRAGMA cell_size_check = ON; PRAGMA foreign_keys = ON;
         PRAGMA synchronous = EXTRA; PRAGMA cache_size = -65536;",
    )?;
    Ok(db)
}

/// The version of the tables; 0 for a file without any. Refuses databases of other programs and
/// newer tables.
fn version(db: &Connection, path: &Path) -> Result<i32> {
    let number = |pragma: &str| {
        db.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get::<_, i32>(0))
            .map_err(|e| in_words(path, e))
    };
    let (mark, found) = (number("application_id")?, number("user_version")?);
    let tables: i32 = db
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|e| in_words(path, e))?;
    let shown = path.display();
    if mark != APPLICATION_ID && (tables > 0 || found != 0 || mark != 0) {
        bail!("{shown}: expected a history of llm-bench, found another program's database");
    }
    if found > VERSION {
        bail!(
            "{shown}: its tables have version {found}, this llm-bench knows {VERSION}; use the \
             llm-bench that wrote it"
        );
    }
    let ours = tables_of(found).map_err(|e| in_words(path, e))?;
    foreign::compare_schema(db, path, &ours)?;
    Ok(found)
}

fn migrate(db: &mut Connection) -> rusqlite::Result<()> {
    let step = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have migrated the file while this one waited.
    let found: i32 = step.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for tables in MIGRATIONS.iter().skip(found.try_into().unwrap_or(0)) {
        step.execute_batch(tables)?;
    }
    step.pragma_update(None, "application_id", APPLICATION_ID)?;
    step.pragma_update(None, "user_version", VERSION)?;
    step.commit()
}

/// Otherwise SQLite would wait for a device or a pipe, and report a folder as a full disk.
fn refuse_what_is_no_file(path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(found) if !found.is_file() => {
            bail!("{}: expected a file, found a folder or a device", path.display())
        }
        _ => foreign::refuse_planted_files(path),
    }
}

/// Explains an error of SQLite: the file, what happened, whether anything was lost, what to do.
pub(super) fn in_words(path: &Path, error: rusqlite::Error) -> anyhow::Error {
    let shown = path.display();
    let code = error.sqlite_error_code();
    let why = error.to_string();
    match code {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => damaged(path, &why),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) if interrupt::requested() => {
            anyhow!("stopped while {shown} was in use by another process; nothing was added")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => anyhow!(
            "{shown} has been in use by another process for {} s; nothing was added; try again \
             when that one is done",
            PATIENCE.as_secs()
        ),
        Some(ErrorCode::OperationInterrupted) if interrupt::requested() => {
            anyhow!("stopped; nothing was added to {shown}")
        }
        Some(ErrorCode::OperationInterrupted) => anyhow!(
            "{shown}: reading it took more than {} s; it is damaged, or made to take forever",
            foreign::READING_ENDS_AFTER.as_secs()
        ),
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => anyhow!(
            "cannot write {shown}: {why}; nothing of this command was added, what was there \
             before still is; make room and try again"
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            anyhow!(
                "cannot write {shown}: {why}; choose a place that can be written with --db (a \
                 history whose writer was killed must be read once where it can be written)"
            )
        }
        _ => anyhow!("{shown}: {why}"),
    }
}

fn damaged(path: &Path, why: &str) -> anyhow::Error {
    let shown = path.display();
    anyhow!(
        "{shown} is damaged or no history: {why}; it is unchanged. Make a new one from the \
         result files (`llm-bench history --db NEW.sqlite add --skip results/*.json`), or save what can be \
         read with `sqlite3 {} .recover`",
        crate::shell::path(path)
    )
}
