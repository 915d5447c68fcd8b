//! llm-bench's own folder in the user's cache: synthesized models, and the checksums of files that
//! it has hashed before.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::digest::hex;
use crate::record::write_atomically;
use crate::user;

/// The cache folder. llm-bench can recreate everything in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDir(PathBuf);

/// What identifies the bytes of a file without reading them.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    size: u64,
    mtime_s: i64,
    mtime_ns: i64,
    inode: u64,
}

#[derive(Serialize, Deserialize)]
struct Digested {
    stamp: Stamp,
    sha256: String,
}

impl CacheDir {
    /// A cache at a given place.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// `$LLM_BENCH_CACHE`, or `llm-bench` in the user's folder of caches; an absolute path.
    ///
    /// # Errors
    /// Nothing names the user's home folder.
    pub fn from_env() -> anyhow::Result<Self> {
        let named = std::env::var_os("LLM_BENCH_CACHE").filter(|v| !v.is_empty());
        Ok(Self(match named {
            Some(named) => std::path::absolute(named)?,
            None => user::cache_dir()?.join("llm-bench"),
        }))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of synthesized and unpacked models.
    pub fn models(&self) -> PathBuf {
        self.0.join("models")
    }

    /// The sha256 of a file, in hex. Remembers it by path, size, modification time and inode, so
    /// that a model is hashed once. A cache that cannot be written only costs time.
    pub fn sha256(&self, path: &Path) -> io::Result<String> {
        let path = path.canonicalize()?;
        let meta = path.metadata()?;
        let stamp = Stamp {
            path: path.clone(),
            size: meta.len(),
            mtime_s: meta.mtime(),
            mtime_ns: meta.mtime_nsec(),
            inode: meta.ino(),
        };
        let key = hex(&Sha256::digest(path.as_os_str().as_encoded_bytes())[..16]);
        let sidecar = self.0.join("sha256").join(format!("{key}.json"));
        let known = std::fs::read(&sidecar)
            .ok()
            .and_then(|json| serde_json::from_slice::<Digested>(&json).ok())
            .filter(|known| known.stamp == stamp);
        if let Some(known) = known {
            return Ok(known.sha256);
        }
        let sha256 = crate::digest::of_file(&path)?;
        if let Ok(json) = serde_json::to_vec(&Digested { stamp, sha256: sha256.clone() })
            && let Err(e) = write_atomically(&sidecar, &json)
        {
            tracing::debug!("the checksum is not remembered: {e:#}");
        }
        Ok(sha256)
    }

    /// Whether the file of this checksum passed a check of this name, now or before. A check that
    /// fails is made again.
    pub fn passed<E>(
        &self,
        check: &str,
        sha256: &str,
        make: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mark = self.0.join(check).join(sha256);
        if !mark.exists() {
            make()?;
            if let Err(e) = write_atomically(&mark, b"") {
                tracing::debug!("the check is not remembered: {e:#}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_remembered_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CacheDir::at(folder.path().join("cache"));
        let file = folder.path().join("abc");
        std::fs::write(&file, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(cache.sha256(&file).unwrap(), abc);
        let sidecar = std::fs::read_dir(cache.path().join("sha256")).unwrap().next().unwrap();
        let sidecar = sidecar.unwrap().path();
        let planted = std::fs::read_to_string(&sidecar).unwrap().replace(abc, "planted");
        std::fs::write(&sidecar, planted).unwrap();
        assert_eq!(cache.sha256(&file).unwrap(), "planted", "the second time nothing is read");
        std::fs::write(&file, "abcd").unwrap();
        assert_ne!(cache.sha256(&file).unwrap(), "planted");
    }
}
