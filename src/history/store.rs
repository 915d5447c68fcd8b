//! Moves rows in and out of the database.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use rusqlite::{
    Connection, OptionalExtension, Statement, Transaction, TransactionBehavior, params,
};

use super::schema::{self, in_words};
use super::session::FORM;
use super::{Filter, Identity, Session};
use crate::interrupt;
use crate::metric::Metric;
use crate::stats;

/// An open history.
pub struct Store {
    db: Connection,
    path: PathBuf,
}

/// The outcome of adding sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    pub new: usize,
    /// Sessions that replaced an earlier version of themselves, which had fewer launches.
    pub replaced: usize,
    /// Sessions that existed already, with the same values.
    pub present: usize,
}

/// An identity and what the history holds of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub id: i64,
    pub identity: Identity,
    pub sessions: u64,
    /// Places of the first and the last session.
    pub first: Timestamp,
    pub last: Timestamp,
}

impl Store {
    /// Opens a history for reading; works in a read-only folder.
    ///
    /// # Errors
    /// The file is missing, damaged or another program's, or has newer tables.
    pub fn open_to_read(path: &Path) -> Result<Self> {
        Ok(Self { db: schema::open_to_read(path)?, path: path.into() })
    }

    /// Opens a history or creates it.
    ///
    /// # Errors
    /// Those of [`Store::open_to_read`], or the file cannot be written.
    pub fn open_to_write(path: &Path) -> Result<Self> {
        Ok(Self { db: schema::open_to_write(path)?, path: path.into() })
    }

    /// Whether sessions can be added: writes, and takes it back.
    ///
    /// # Errors
    /// The file or its folder cannot be written, or the disk is full.
    pub fn try_to_write(&mut self) -> Result<()> {
        schema::try_to_write(&mut self.db).map_err(|e| in_words(&self.path, e))
    }

    /// A history in memory.
    pub(super) fn in_memory(path: &Path) -> Result<Self> {
        let db = schema::in_memory().map_err(|e| in_words(path, e))?;
        Ok(Self { db, path: path.into() })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.db
    }

    pub(super) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.db
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds all sessions or, after any error, none. Adding one again changes nothing.
    ///
    /// # Errors
    /// A session exists with other values; an error of `sessions`; an error of the database.
    pub fn add(&mut self, sessions: impl IntoIterator<Item = Result<Session>>) -> Result<Added> {
        let path = &self.path;
        let all = self.db.transaction_with_behavior(TransactionBehavior::Immediate);
        let all = all.map_err(|e| in_words(path, e))?;
        let mut added = Added::default();
        let mut adder = Adder::new(&all, path).map_err(|e| in_words(path, e))?;
        for session in sessions {
            if interrupt::requested() {
                bail!("stopped; nothing was added to {}", path.display());
            }
            adder.add(&session?, &mut added)?;
        }
        drop(adder);
        all.commit().map_err(|e| in_words(path, e))?;
        Ok(added)
    }

    /// The identities that have sessions and that the filter accepts, by engine, model and number.
    pub fn lines(&self, filter: &Filter) -> Result<Vec<Line>> {
        self.read_lines(filter).map_err(|e| in_words(&self.path, e))?.into_iter().collect()
    }

    fn read_lines(&self, filter: &Filter) -> rusqlite::Result<Vec<Result<Line>>> {
        let mut select = self.db.prepare(
            "SELECT i.id, i.fields, count(*), min(s.place), max(s.place)
             FROM identity i JOIN session s ON s.identity = i.id AND s.place >= ?1
             GROUP BY i.id ORDER BY i.model, i.quant, i.engine, i.label, i.id",
        )?;
        let since = filter.since.map_or(i64::MIN, |t| t.as_millisecond());
        let mut rows = select.query([since])?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next()? {
            let id = row.get(0)?;
            let line = |fields: String, sessions: i64, first: i64, last: i64| {
                let identity = self.identity(id, &fields)?;
                let time = |ms| Timestamp::from_millisecond(ms).context("session.place");
                let (first, last) = (time(first)?, time(last)?);
                Ok(Line { id, identity, sessions: sessions as u64, first, last })
            };
            let line = line(row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
            if line.as_ref().map_or(true, |line| filter.takes(id, &line.identity)) {
                lines.push(line);
            }
        }
        Ok(lines)
    }

    /// The identities that the filter accepts, in the order of [`Store::lines`], with or without
    /// sessions.
    pub(super) fn identities(&self, filter: &Filter) -> Result<Vec<(i64, Identity)>> {
        let read = || -> rusqlite::Result<Vec<(i64, String)>> {
            let mut select = self.db.prepare(
                "SELECT id, fields FROM identity ORDER BY model, quant, engine, label, id",
            )?;
            select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        let mut identities = Vec::new();
        for (id, fields) in read().map_err(|e| in_words(&self.path, e))? {
            let identity = self.identity(id, &fields)?;
            if filter.takes(id, &identity) {
                identities.push((id, identity));
            }
        }
        Ok(identities)
    }

    fn identity(&self, id: i64, fields: &str) -> Result<Identity> {
        serde_json::from_str(fields)
            .with_context(|| format!("{}: identity {id} is not readable", self.path.display()))
    }

    /// Calls `take` with every session that the filter accepts, in the order of their lines.
    pub fn each(&self, filter: &Filter, mut take: impl FnMut(Session) -> Result<()>) -> Result<()> {
        let sql = |e| in_words(&self.path, e);
        let since = filter.since.map_or(i64::MIN, |t| t.as_millisecond());
        let select = "SELECT id, run_id, started_at, complete, commit_sha, dirty, committed_at,
                             version, executable_sha256, kernel, versions
                      FROM session WHERE identity = ?1 AND place >= ?2 ORDER BY place, measured, id";
        let mut select = self.db.prepare(select).map_err(sql)?;
        let results = "SELECT metric, launches FROM result WHERE session = ?1 ORDER BY metric";
        let mut results = self.db.prepare(results).map_err(sql)?;
        for line in self.lines(filter)? {
            let mut rows = select.query(params![line.id, since]).map_err(sql)?;
            while let Some(row) = rows.next().map_err(sql)? {
                let (id, mut session, versions) = bare_session(row, &line).map_err(sql)?;
                let whose = || format!("{}: session {id} is not readable", self.path.display());
                session.versions = serde_json::from_str(&versions).with_context(whose)?;
                let mut values = results.query([id]).map_err(sql)?;
                while let Some(row) = values.next().map_err(sql)? {
                    let launches: String = row.get(1).map_err(sql)?;
                    let launches = serde_json::from_str(&launches).with_context(whose)?;
                    session.metrics.insert(row.get(0).map_err(sql)?, launches);
                }
                take(session)?;
            }
        }
        Ok(())
    }

    /// Calls `take` with a row for each session that has the metric, in no particular order:
    /// identity, place, measured, session, n, mean, sd, commit, dirty, executable, complete.
    pub(super) fn points(
        &self,
        metric: Metric,
        since: Option<Timestamp>,
        mut take: impl FnMut(&rusqlite::Row) -> rusqlite::Result<()>,
    ) -> Result<()> {
        // The cross join keeps this order: the metric's part of the index first, then each session.
        let select =
            "SELECT s.identity, s.place, s.measured, s.id, r.n, r.mean, r.sd, s.commit_sha,
                             s.dirty, s.executable_sha256, s.complete
                      FROM result r CROSS JOIN session s ON s.id = r.session
                      WHERE r.metric = ?1 AND s.place >= ?2";
        let mut run = || {
            let mut select = self.db.prepare(select)?;
            let since = since.map_or(i64::MIN, |t| t.as_millisecond());
            let mut rows = select.query(params![metric.name(), since])?;
            while let Some(row) = rows.next()? {
                take(row)?;
            }
            Ok(())
        };
        run().map_err(|e| in_words(&self.path, e))
    }
}

/// A session without its versions and values, its number, and the versions as stored.
fn bare_session(row: &rusqlite::Row, line: &Line) -> rusqlite::Result<(i64, Session, String)> {
    let session = Session {
        form: FORM.into(),
        run_id: row.get(1)?,
        started_at: row.get(2)?,
        complete: row.get(3)?,
        commit: row.get(4)?,
        dirty: row.get(5)?,
        committed_at: row.get(6)?,
        version: row.get(7)?,
        executable_sha256: row.get(8)?,
        kernel: row.get(9)?,
        versions: Default::default(),
        identity: line.identity.clone(),
        metrics: Default::default(),
    };
    Ok((row.get(0)?, session, row.get(10)?))
}

/// Adds sessions within one transaction.
struct Adder<'t> {
    path: &'t Path,
    identities: Statement<'t>,
    complete_identity: Statement<'t>,
    new_identity: Statement<'t>,
    there: Statement<'t>,
    remove: Statement<'t>,
    new_session: Statement<'t>,
    new_result: Statement<'t>,
    values: Statement<'t>,
    /// Numbers by the JSON of the identity's fields.
    known: HashMap<String, i64>,
}

impl<'t> Adder<'t> {
    fn new(db: &'t Transaction<'_>, path: &'t Path) -> rusqlite::Result<Self> {
        Ok(Self {
            path,
            identities: db.prepare(
                "SELECT id, fields FROM identity WHERE model_sha256 = ?1 AND label = ?2",
            )?,
            complete_identity: db.prepare("UPDATE identity SET fields = ?2 WHERE id = ?1")?,
            new_identity: db.prepare("INSERT INTO identity (fields) VALUES (?1)")?,
            there: db.prepare(
                "SELECT id, complete FROM session
                 WHERE run_id = ?1 AND started_at = ?2 AND identity = ?3",
            )?,
            remove: db.prepare("DELETE FROM session WHERE id = ?1")?,
            new_session: db.prepare(
                "INSERT INTO session (identity, run_id, started_at, complete, commit_sha, dirty,
                                      committed_at, version, executable_sha256, kernel, versions,
                                      place, measured)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?,
            new_result: db.prepare(
                "INSERT INTO result (session, metric, n, mean, sd, launches)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?,
            values: db.prepare("SELECT metric, n, launches FROM result WHERE session = ?1")?,
            known: HashMap::new(),
        })
    }

    fn add(&mut self, session: &Session, added: &mut Added) -> Result<()> {
        session.check().with_context(|| format!("run {:?}", session.run_id))?;
        let times = session.place()?;
        let path = self.path;
        let identity = self.identity(&session.identity).map_err(|e| in_words(path, e))?;
        let key = params![session.run_id, session.started_at, identity];
        let there = self.there.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional();
        let there: Option<(i64, bool)> = there.map_err(|e| in_words(path, e))?;
        if let Some((id, complete)) = there {
            let before = self.stored(id).map_err(|e| in_words(path, e))?;
            let now = &session.metrics;
            // If one of the two llm-bench versions did not know a metric, that is no difference.
            let equal = |m: &String| now.get(m).is_none_or(|v| json(v) == before[m].1);
            if complete == session.complete && before.keys().all(equal) {
                added.present += 1;
                return Ok(());
            }
            let most = before.values().map(|(n, _)| *n).max().unwrap_or(0);
            if complete || most > now.values().map(Vec::len).max().unwrap_or(0) {
                bail!(
                    "run {:?}, engine {:?}: {} has it already, with other values{}; a history is \
                     not written over",
                    session.run_id,
                    session.identity.label,
                    path.display(),
                    if complete { "" } else { " of more launches" },
                );
            }
            self.remove.execute([id]).map_err(|e| in_words(path, e))?;
            added.replaced += 1;
        } else {
            added.new += 1;
        }
        self.insert(session, identity, times).map_err(|e| in_words(path, e))
    }

    /// The number of the line for an identity. Among the lines that fit, it is the one that knows
    /// as much as the identity. Otherwise it is the only one that fits, which then takes over what
    /// it lacked. If none fits, or several fit and the identity is too old to tell them apart, it
    /// is a new line.
    fn identity(&mut self, identity: &Identity) -> rusqlite::Result<i64> {
        let fields = json(identity);
        if let Some(id) = self.known.get(&fields) {
            return Ok(*id);
        }
        let mut rows = self.identities.query(params![identity.model_sha256, identity.label])?;
        let mut fitting: Vec<(i64, Identity)> = Vec::new();
        while let Some(row) = rows.next()? {
            let stored: String = row.get(1)?;
            if let Ok(stored) = serde_json::from_str::<Identity>(&stored)
                && stored.fits(identity)
            {
                fitting.push((row.get(0)?, stored));
            }
        }
        drop(rows);
        let as_known = fitting.iter().find(|(_, stored)| stored.knows_as_much_as(identity));
        let id = match (as_known, &fitting[..]) {
            (Some((id, _)), _) => *id,
            (None, [(id, stored)]) => {
                let completed = stored.completed_with(identity);
                if completed != *stored {
                    self.complete_identity.execute(params![id, json(&completed)])?;
                }
                *id
            }
            (None, _) => self.new_identity.insert([&fields])?,
        };
        self.known.insert(fields, id);
        Ok(id)
    }

    /// The stored metrics, each with its number of launches and its values.
    fn stored(&mut self, session: i64) -> rusqlite::Result<BTreeMap<String, (usize, String)>> {
        let row = |row: &rusqlite::Row| {
            let n: i64 = row.get(1)?;
            Ok((row.get(0)?, (n as usize, row.get(2)?)))
        };
        self.values.query_map([session], row)?.collect()
    }

    fn insert(
        &mut self,
        s: &Session,
        identity: i64,
        (place, measured): (i64, i64),
    ) -> rusqlite::Result<()> {
        let id = self.new_session.insert(params![
            identity,
            s.run_id,
            s.started_at,
            s.complete,
            s.commit,
            s.dirty,
            s.committed_at,
            s.version,
            s.executable_sha256,
            s.kernel,
            json(&s.versions),
            place,
            measured
        ])?;
        for (metric, values) in &s.metrics {
            let sample = stats::Sample::new(values).expect("the session was checked");
            self.new_result.execute(params![
                id,
                metric,
                values.len() as i64,
                sample.mean(),
                sample.sd(),
                json(values)
            ])?;
        }
        Ok(())
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("texts and finite numbers")
}
