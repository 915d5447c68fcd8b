//! How much of a file the page cache holds, and bringing it to a stated share: all of it (warm)
//! or none (cold).

use std::fs::File;
use std::io::Read;
use std::num::NonZeroU64;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{Advice, fadvise};

/// The state of the page cache before each launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PageCache {
    /// The whole file is resident.
    Warm,
    /// The file was dropped from the cache.
    Cold,
}

/// The resident share of the file, 0 to 1.
pub fn resident(path: &Path) -> Result<f64> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let len = file.metadata()?.len() as usize;
    if len == 0 {
        return Ok(1.0);
    }
    let page = rustix::param::page_size();
    let mut pages = vec![0u8; len.div_ceil(page)];
    // SAFETY: the map is read by the kernel alone, which fills one byte for each page of it; the
    // vector has one for each.
    let told = unsafe {
        let map = memmap2::MmapOptions::new().map(&file)?;
        libc::mincore(map.as_ptr() as *mut libc::c_void, len, pages.as_mut_ptr())
    };
    if told != 0 {
        bail!("mincore({}): {}", path.display(), std::io::Error::last_os_error());
    }
    let resident = pages.iter().filter(|p| **p & 1 == 1).count();
    Ok(resident as f64 / pages.len() as f64)
}

/// Brings the file into the wanted state and returns the resident share that resulted.
pub fn bring(path: &Path, state: PageCache) -> Result<f64> {
    let now = resident(path)?;
    match state {
        PageCache::Warm if now >= 1.0 => return Ok(now),
        PageCache::Warm => read_through(path)?,
        PageCache::Cold => {
            let file = File::open(path)?;
            file.sync_all().with_context(|| format!("cannot sync {}", path.display()))?;
            fadvise(&file, 0, None::<NonZeroU64>, Advice::DontNeed)
                .with_context(|| format!("cannot drop {} from the page cache", path.display()))?;
        }
    }
    resident(path)
}

fn read_through(path: &Path) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut chunk = vec![0u8; 4 << 20];
    while file.read(&mut chunk).with_context(|| format!("cannot read {}", path.display()))? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_that_was_just_written_is_resident() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![1u8; 100_000]).unwrap();
        assert_eq!(bring(file.path(), PageCache::Warm).unwrap(), 1.0);
    }

    #[test]
    fn an_empty_file_counts_as_resident_and_a_missing_one_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(resident(file.path()).unwrap(), 1.0);
        let error = resident(Path::new("/no/such/model.gguf")).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/model.gguf"));
    }
}
