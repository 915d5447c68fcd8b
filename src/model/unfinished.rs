//! A large file while it is being written. Checks free disk first, lets several threads fill it in
//! pieces, and gives it its name only when it is complete. The caller decides the contents.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::{Context, Result, bail, ensure};

use crate::allowance::free_disk;
use crate::progress::say;
use crate::units::Bytes;

/// How the names of unfinished files end.
const SUFFIX: &str = ".partial";

/// A file that has its size but no name yet. Dropping it leaves nothing behind; what a killed
/// process left is removed by the next one that writes into the folder. The lock on it ends with
/// the process and says that somebody still writes it.
pub struct Unfinished {
    out: PathBuf,
    temporary: tempfile::NamedTempFile,
}

impl Unfinished {
    /// Starts a file of `size` beside `out`, which it will replace. Creates the folder.
    pub fn create(out: &Path, size: Bytes) -> Result<Self> {
        let name =
            out.file_name().with_context(|| format!("{} does not name a file", out.display()))?;
        // The final rename would replace a device node with the file.
        ensure!(
            out.metadata().is_ok_and(|m| m.is_file()) || !out.exists(),
            "{}: expected the name of a file, found a folder or a device",
            out.display()
        );
        let folder = folder_of(out);
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        remove_abandoned(folder);
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        prefix.push(".");
        let attempt = || -> io::Result<tempfile::NamedTempFile> {
            let temporary = loop {
                let made = tempfile::Builder::new()
                    .prefix(&prefix)
                    .suffix(SUFFIX)
                    .permissions(std::fs::Permissions::from_mode(0o644))
                    .tempfile_in(folder)?;
                // Where the file system knows no locks, abandoned files stay.
                let locked = made.as_file().try_lock();
                // Another process may have taken it for abandoned before the lock.
                if locked.is_err() || made.as_file().metadata()?.nlink() > 0 {
                    break made;
                }
            };
            temporary.as_file().set_len(size.0)?;
            Ok(temporary)
        };
        let temporary = attempt().with_context(|| format!("cannot write {}", out.display()))?;
        Ok(Self { out: out.to_owned(), temporary })
    }

    /// Writes at an offset. Threads may write different ranges at once.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.temporary.as_file().write_all_at(bytes, offset)
    }

    /// Syncs the file and gives it its name. A crash leaves no half-written file under that name,
    /// and a measurement that follows does not compete with the write-back.
    pub fn finish(self) -> Result<()> {
        let Self { out, temporary } = self;
        let attempt = || -> io::Result<()> {
            temporary.as_file().sync_data()?;
            temporary.persist(&out).map_err(|e| e.error)?;
            Ok(())
        };
        attempt().with_context(|| format!("cannot write {}", out.display()))
    }
}

/// Removes the unfinished files in a folder that no process writes any more: `.NAME.gguf.XXXXXX.partial`
/// without a lock. What cannot be removed stays.
fn remove_abandoned(folder: &Path) {
    let unfinished = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let parts = name.strip_prefix('.').and_then(|n| n.strip_suffix(SUFFIX));
        let parts = parts.and_then(|n| n.rsplit_once('.'));
        let made =
            |random: &str| random.len() == 6 && random.bytes().all(|b| b.is_ascii_alphanumeric());
        parts.is_some_and(|(out, random)| out.ends_with(".gguf") && made(random))
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(unfinished) {
        let Ok(found) = path.symlink_metadata() else { continue };
        // Neither a link nor a pipe is ours, and opening one could do or wait for anything.
        let Some(file) = found.is_file().then(|| File::open(&path).ok()).flatten() else {
            continue;
        };
        if file.try_lock().is_ok() && std::fs::remove_file(&path).is_ok() {
            say(&format!(
                "removed {}, which an earlier process left unfinished ({})",
                path.display(),
                Bytes(found.len())
            ));
        }
    }
}

/// The folder of a file; `.` if its path names none.
pub fn folder_of(out: &Path) -> &Path {
    match out.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Refuses what the disk cannot hold. If the folder does not exist yet, uses its nearest existing
/// parent.
pub fn check_free_disk(folder: &Path, out: &Path, needed: Bytes) -> Result<()> {
    let available = free_disk(folder)
        .with_context(|| format!("cannot read the free disk of {}", folder.display()))?;
    ensure!(
        available >= needed,
        "not enough free disk for {}: needs {needed}, and {} has {available}; free some or choose another folder",
        out.display(),
        folder.display(),
    );
    Ok(())
}

/// Calls `work` for each number below `count` on `threads` threads (0 uses as many as the process
/// may use), each with its own buffer. `done` receives the result of each call on the calling
/// thread.
///
/// # Errors
/// The first error of a call, or the user's request to stop; the other threads then end too.
pub fn in_parallel<Buffer: Default>(
    threads: usize,
    count: usize,
    work: impl Fn(usize, &mut Buffer) -> Result<u64> + Sync,
    done: &mut dyn FnMut(u64),
) -> Result<()> {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    };
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel::<Result<u64>>();
    std::thread::scope(|scope| {
        for i in 0..threads.min(count) {
            let sender = sender.clone();
            let (work, next, stop) = (&work, &next, &stop);
            let started = std::thread::Builder::new().spawn_scoped(scope, move || {
                let mut buffer = Buffer::default();
                while !stop.load(Ordering::Relaxed) {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count || sender.send(work(i, &mut buffer)).is_err() {
                        break;
                    }
                }
            });
            // Fewer threads do the same work.
            if let Err(e) = started {
                ensure!(i > 0, "the system starts no thread ({e}); raise `ulimit -u`");
                break;
            }
        }
        drop(sender);
        for result in receiver {
            match result {
                Ok(_) if crate::interrupt::requested() => {
                    stop.store(true, Ordering::Relaxed);
                    bail!("stopped; nothing was kept");
                }
                Ok(amount) => done(amount),
                Err(e) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(e);
                }
            }
        }
        Ok(())
    })
}
