//! Keeps the record after each launch, and room for the next one: a session that cannot keep its
//! launches any more is stopped while what it has still fits.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::resume::Claim;
use crate::analysis;
use crate::model::folder_of;
use crate::progress::say;
use crate::record::Record;

/// What a record may grow by in one launch, beside its own size.
const GROWTH: u64 = 256 << 10;

/// Writes the record after each launch, holds the lock on its file, and holds room on the disk.
pub struct Keeper {
    path: PathBuf,
    claim: Option<Claim>,
    /// A file without a name, which ends with the process.
    room: Option<File>,
    /// Why the session was stopped.
    pub error: Option<anyhow::Error>,
}

impl Keeper {
    /// A folder that cannot be written is an error before the first launch, and so is a full disk.
    pub fn new(record: &Record, path: &Path) -> Result<Self> {
        record.write(path)?;
        let claim = Claim::take(path).ok();
        let mut keeper = Self { path: path.into(), claim, room: None, error: None };
        keeper.hold_room()?;
        Ok(keeper)
    }

    /// Whether the session may go on.
    pub fn keep(&mut self, record: &mut Record) -> bool {
        analysis::summarize(record);
        if let Err(e) = self.write(record) {
            say(&format!("{e:#}; stopping"));
            self.error.get_or_insert(e);
        }
        self.error.is_none()
    }

    /// The room that was held is for this record; without more of it this launch is the last.
    fn write(&mut self, record: &Record) -> Result<()> {
        if let Err(e) = record.write(&self.path) {
            self.room.take().ok_or(e)?;
            record.write(&self.path)?;
            self.claim = Claim::take(&self.path).ok();
            return Err(self.full(Errno::NOSPC));
        }
        self.claim = Claim::take(&self.path).ok();
        self.hold_room()
    }

    /// Room for the record as it is, once more and with another launch in it. File systems that
    /// cannot hold room do without.
    fn hold_room(&mut self) -> Result<()> {
        let size = 2 * self.path.metadata().map_or(0, |m| m.len()) + GROWTH;
        if self.room.is_none() {
            self.room = tempfile::tempfile_in(folder_of(&self.path)).ok();
        }
        let Some(room) = &self.room else { return Ok(()) };
        match fallocate(room, FallocateFlags::empty(), 0, size) {
            Err(e @ (Errno::NOSPC | Errno::DQUOT)) => Err(self.full(e)),
            _ => Ok(()),
        }
    }

    fn full(&self, e: Errno) -> anyhow::Error {
        let what = format!("{}: there is no room for another launch", self.path.display());
        anyhow!(std::io::Error::from(e)).context(what)
    }
}

/// The launches that a result file holds.
pub fn kept(path: &Path) -> Result<usize> {
    let record = Record::read(path).context("what was kept before is not there any more")?;
    Ok(record.arms.iter().map(|arm| arm.launches.len()).sum())
}
