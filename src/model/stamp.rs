//! Which file lies at a path: a model that is replaced while it is measured must not pass for the
//! one that was hashed.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What changes when a file is replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds: of the content, and of anything (which no program can set back).
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// # Errors
    /// There is no such file, or it may not be looked at.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let m = std::fs::metadata(path)?;
        Ok(Self {
            device: m.dev(),
            inode: m.ino(),
            size: m.size(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        })
    }

    /// A sentence on how the file at `path` differs now; `None` if it is the same one.
    pub fn difference(&self, path: &Path) -> Option<String> {
        let shown = path.display();
        let now = match Self::of(path) {
            Ok(now) if now == *self => return None,
            Ok(now) => now,
            Err(e) => return Some(format!("{shown} cannot be read any more: {e}")),
        };
        Some(match (now.device, now.inode) == (self.device, self.inode) {
            false => format!("{shown} was replaced by another file since the session began"),
            true if now.size != self.size => {
                let (then, now) = (self.size, now.size);
                format!("{shown} had {then} bytes when the session began and has {now} now")
            }
            true => format!("{shown} was written to since the session began"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_replaced_written_or_cut_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, b"weights").unwrap();
        let stamp = || Stamp::of(&path).unwrap();
        assert_eq!(stamp().difference(&path), None);

        let before = stamp();
        std::fs::write(&path, b"weight").unwrap();
        assert!(before.difference(&path).unwrap().contains("had 7 bytes"));

        // The same bytes and times in another file.
        let before = stamp();
        let times = std::fs::metadata(&path).unwrap().modified().unwrap();
        let copy = folder.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::File::options().write(true).open(&copy).unwrap().set_modified(times).unwrap();
        std::fs::rename(&copy, &path).unwrap();
        assert!(before.difference(&path).unwrap().contains("replaced"));

        // Written in place, with its time set back.
        let before = stamp();
        std::fs::write(&path, b"widget").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
        assert!(before.difference(&path).unwrap().contains("written to"));

        let before = stamp();
        std::fs::remove_file(&path).unwrap();
        assert!(before.difference(&path).unwrap().contains("cannot be read any more"));
    }
}
