//! Pulls one file from the Hugging Face hub: resumable, checked against the size and the sha256
//! that the hub states, with typed errors. The registry decides which file to pull.
//!
//! `hf-hub` provides the layout of the cache, so that files are shared with every other tool, and
//! the addressing of repositories. The transfer itself uses its HTTP client, `ureq`, directly:
//! hf-hub 0.5 sends the token on to the storage host when it asks for the size, has no timeout at
//! all, appends a whole body to a partial file when a server ignores `Range`, and compares neither
//! size nor checksum.

mod config;
pub mod error;
mod http;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hf_hub::{Cache, Repo, RepoType};
use sha2::{Digest, Sha256};

pub use config::{HubConfig, Token};
pub use error::HubError;
pub use http::is_loopback;

use crate::allowance::free_disk;
use crate::units::Bytes;

/// One file of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// `owner/name`.
    pub repo: String,
    /// Path inside the repository.
    pub file: String,
    /// Branch, tag or commit.
    pub revision: String,
}

impl HubFile {
    /// A file on the main branch.
    pub fn new(repo: impl Into<String>, file: impl Into<String>) -> Self {
        Self { repo: repo.into(), file: file.into(), revision: "main".into() }
    }

    fn as_repo(&self) -> Repo {
        Repo::with_revision(self.repo.clone(), RepoType::Model, self.revision.clone())
    }

    /// Refuses names that would leave the cache folder or the repository's address.
    fn validate(&self) -> Result<(), HubError> {
        let plain = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && !part.contains(['\\', '?', '#', '%'])
                && !part.chars().any(char::is_control)
        };
        let bad = |what, expected, found: &str| {
            Err(HubError::BadRequest { what, expected, found: found.to_owned() })
        };
        if self.repo.split('/').count() != 2 || !self.repo.split('/').all(plain) {
            return bad("not a hub repository", "owner/name", &self.repo);
        }
        if !self.file.split('/').all(plain) {
            return bad("not a file of a repository", "a relative path", &self.file);
        }
        if !self.revision.split('/').all(plain) {
            return bad("not a revision", "a branch, tag or commit", &self.revision);
        }
        Ok(())
    }
}

/// Progress of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    pub file: &'a str,
    pub done: u64,
    pub total: u64,
}

/// A file on this machine that matches what the hub states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledFile {
    pub path: PathBuf,
    /// Hex digest of the bytes on disk.
    pub sha256: String,
    pub size: u64,
}

/// What the hub states about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stated {
    commit: String,
    etag: String,
    size: u64,
}

impl Stated {
    /// Large files carry their sha256 as their tag. Small ones carry a git hash, which is not
    /// checked.
    fn sha256(&self) -> Option<&str> {
        let hex = self.etag.len() == 64 && self.etag.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then_some(self.etag.as_str())
    }
}

/// A client of one hub. Remembers within this process that the hub could not be reached.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    client: http::Client,
    cache: Cache,
    away: Mutex<Option<String>>,
}

impl Hub {
    /// Makes the client and sends no request.
    pub fn new(config: HubConfig) -> Result<Self, HubError> {
        Ok(Self {
            client: http::Client::new(&config)?,
            cache: Cache::new(config.cache_dir.clone()),
            away: Mutex::new(config.offline.then(|| "HF_HUB_OFFLINE is set".to_owned())),
            config,
        })
    }

    /// The address in use, without a password.
    pub fn endpoint(&self) -> String {
        self.config.shown_endpoint()
    }

    /// The file, if an earlier pull left it in the cache. Does not use the network.
    pub fn cached(&self, what: &HubFile) -> Option<PathBuf> {
        what.validate().ok()?;
        self.cache.repo(what.as_repo()).get(&what.file)
    }

    /// Downloads a file into the hub's cache, or finds it there; calls `progress` as bytes arrive.
    /// Keeps a partial download and continues it, even in a later process.
    pub fn pull(
        &self,
        what: &HubFile,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PulledFile, HubError> {
        what.validate()?;
        let away = self.away.lock().unwrap_or_else(|e| e.into_inner()).clone();
        if let Some(reason) = away {
            return Err(HubError::Unreachable { endpoint: self.endpoint(), reason });
        }
        let result = self.pull_now(what, progress);
        if let Err(HubError::Unreachable { reason, .. }) = &result {
            *self.away.lock().unwrap_or_else(|e| e.into_inner()) = Some(reason.clone());
        }
        result
    }

    fn pull_now(
        &self,
        what: &HubFile,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PulledFile, HubError> {
        let stated = self.retrying(|| 0, || self.client.stated(what))?;
        let repo = self.cache.repo(what.as_repo());
        let blob = repo.blob_path(&stated.etag);
        let folder = blob.parent().unwrap_or(Path::new(".")).to_owned();
        std::fs::create_dir_all(&folder).map_err(io_at(&folder))?;
        let _lock = Lock::take(blob.with_extension("lock"))?;

        let complete = std::fs::metadata(&blob).is_ok_and(|m| m.len() == stated.size);
        let sha256 = if complete && self.blob_is_intact(&blob, &stated)? {
            progress(Progress { file: &what.file, done: stated.size, total: stated.size });
            match stated.sha256() {
                Some(sha) => sha.to_owned(),
                None => Part::open(&blob)?.digest(),
            }
        } else {
            self.download(what, &stated, &blob, progress)?
        };
        let pointer = repo.pointer_path(&stated.commit).join(&what.file);
        point_at(&pointer, &what.file, &stated.etag).map_err(io_at(&pointer))?;
        // In hf-hub's layout a revision that is the commit itself needs no reference, but its
        // lookup uses one.
        repo.create_ref(&stated.commit).map_err(io_at(&pointer))?;
        Ok(PulledFile { path: pointer, sha256, size: stated.size })
    }

    fn blob_is_intact(&self, blob: &Path, stated: &Stated) -> Result<bool, HubError> {
        Ok(match stated.sha256() {
            Some(expected) => Part::open(blob)?.digest() == expected,
            None => true,
        })
    }

    /// Fetches into `BLOB.part`, as hf-hub does, and renames once everything is right.
    fn download(
        &self,
        what: &HubFile,
        stated: &Stated,
        blob: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<String, HubError> {
        let part_path = blob.with_extension("part");
        let mut part = Part::open(&part_path)?;
        if part.len > stated.size {
            part.restart()?;
        }
        check_space(&part_path, stated.size - part.len)?;
        let part = std::cell::RefCell::new(part);
        self.retrying(
            || part.borrow().len,
            || {
                let mut part = part.borrow_mut();
                progress(Progress { file: &what.file, done: part.len, total: stated.size });
                if part.len == stated.size {
                    return Ok(());
                }
                let (mut body, from) = self.client.body(what, part.len)?;
                if from != part.len {
                    part.restart()?;
                }
                self.append(what, stated, &mut body, &mut part, progress)
            },
        )?;
        let part = part.into_inner();
        part.file.sync_all().map_err(io_at(&part_path))?;
        let found = part.digest();
        if let Some(expected) = stated.sha256().filter(|expected| *expected != found) {
            let _ = std::fs::remove_file(&part_path);
            return Err(HubError::ChecksumMismatch {
                repo: what.repo.clone(),
                file: what.file.clone(),
                expected: expected.to_owned(),
                found,
            });
        }
        std::fs::rename(&part_path, blob).map_err(io_at(blob))?;
        Ok(found)
    }

    fn append(
        &self,
        what: &HubFile,
        stated: &Stated,
        body: &mut impl Read,
        part: &mut Part,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), HubError> {
        let mut buffer = vec![0u8; 256 * 1024];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => return Err(self.client.broken_body(what, e, part.len, stated.size)),
            };
            if part.len + n as u64 > stated.size {
                let found = part.len + n as u64;
                let _ = std::fs::remove_file(&part.path);
                return Err(HubError::SizeMismatch {
                    repo: what.repo.clone(),
                    file: what.file.clone(),
                    expected: stated.size,
                    found,
                });
            }
            part.write(&buffer[..n], stated.size)?;
            progress(Progress { file: &what.file, done: part.len, total: stated.size });
        }
        if part.len < stated.size {
            return Err(HubError::Interrupted {
                repo: what.repo.clone(),
                file: what.file.clone(),
                done: part.len,
                total: stated.size,
                reason: "the body ended early".into(),
            });
        }
        Ok(())
    }

    /// Retries transient failures with growing pauses. Progress resets the count, so a long
    /// download survives many short network failures.
    fn retrying<T>(
        &self,
        gained: impl Fn() -> u64,
        mut attempt: impl FnMut() -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        let mut failures = 0;
        let mut best = gained();
        loop {
            let mut error = match attempt() {
                Ok(value) => return Ok(value),
                Err(e) if e.is_transient() => e,
                Err(e @ HubError::Unreachable { .. }) if gained() > 0 => e,
                Err(e) => return Err(e),
            };
            if gained() > best {
                best = gained();
                failures = 0;
            }
            failures += 1;
            if failures > self.config.retries {
                if let HubError::Server { attempts, .. } = &mut error {
                    *attempts = failures;
                }
                return Err(error);
            }
            tracing::debug!("attempt {failures} failed, trying again: {error}");
            std::thread::sleep(self.config.backoff * 2u32.saturating_pow((failures - 1).min(6)));
        }
    }
}

/// The bytes so far and their sha256.
struct Part {
    path: PathBuf,
    file: File,
    len: u64,
    sha: Sha256,
}

impl Part {
    /// Opens or creates the file and hashes its present content.
    fn open(path: &Path) -> Result<Self, HubError> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(io_at(path))?;
        let mut sha = Sha256::new();
        let mut len = 0;
        let mut buffer = vec![0u8; 1 << 20];
        loop {
            match file.read(&mut buffer).map_err(io_at(path))? {
                0 => break,
                n => {
                    sha.update(&buffer[..n]);
                    len += n as u64;
                }
            }
        }
        Ok(Self { path: path.to_owned(), file, len, sha })
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(io_at(&self.path))?;
        self.len = 0;
        self.sha = Sha256::new();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], total: u64) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                HubError::DiskFull {
                    folder: self.path.parent().unwrap_or(Path::new(".")).to_owned(),
                    needed: total - self.len,
                    available: free_disk(&self.path).map_or(0, |free| free.0),
                }
            }
            _ => HubError::Io { path: self.path.clone(), source: e },
        })?;
        self.sha.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn digest(&self) -> String {
        crate::digest::hex(&self.sha.clone().finalize())
    }
}

/// An advisory lock on the file name that hf-hub locks too; the kernel releases it with the
/// process.
struct Lock {
    _file: File,
}

impl Lock {
    fn take(path: PathBuf) -> Result<Self, HubError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_at(&path))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| HubError::Busy { lock: path })?;
        Ok(Self { _file: file })
    }
}

/// Refuses a download that cannot fit.
fn check_space(part: &Path, needed: u64) -> Result<(), HubError> {
    // If the file system does not report its free space, try anyway.
    let Some(Bytes(available)) = free_disk(part) else { return Ok(()) };
    if needed > available {
        let folder = part.parent().unwrap_or(Path::new(".")).to_owned();
        return Err(HubError::DiskFull { folder, needed, available });
    }
    Ok(())
}

/// Makes `snapshots/COMMIT/FILE` a relative link to `blobs/ETAG`.
fn point_at(pointer: &Path, file: &str, etag: &str) -> std::io::Result<()> {
    let folder = pointer.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let target = format!("{}blobs/{etag}", "../".repeat(2 + file.matches('/').count()));
    if std::fs::read_link(pointer).is_ok_and(|t| t == Path::new(&target)) {
        return Ok(());
    }
    if pointer.symlink_metadata().is_ok() {
        std::fs::remove_file(pointer)?;
    }
    std::os::unix::fs::symlink(target, pointer)
}

fn io_at(path: &Path) -> impl Fn(std::io::Error) -> HubError {
    let path = path.to_owned();
    move |source| HubError::Io { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_cache_are_refused() {
        for (repo, file) in [
            ("owner/name", "../../token"),
            ("owner/name", "/etc/passwd"),
            ("owner/..", "a.gguf"),
            ("name-only", "a.gguf"),
            ("owner/name", "a.gguf?x=1"),
        ] {
            assert!(HubFile::new(repo, file).validate().is_err(), "{repo} {file}");
        }
        assert!(HubFile::new("owner/name", "folder/a b.gguf").validate().is_ok());
    }
}
