//! Reads how much of a file the page cache holds, and brings it to a stated share: all (warm) or
//! none (cold). A warm file is also brought into large pages if the kernel has them. A file that
//! was written or read in small pieces occupies small pages, and mapping it costs each engine a
//! page-table walk for every 4 KiB: a tenth of the decode rate on some machines.

use std::collections::BTreeSet;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use rustix::fs::{Advice, fadvise};

/// The state of the page cache before each launch.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
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
    // SAFETY: only the kernel reads the map, and it fills one byte for each page; the vector has
    // one for each.
    let answer = unsafe {
        let map = memmap2::MmapOptions::new().map(&file)?;
        libc::mincore(map.as_ptr() as *mut libc::c_void, len, pages.as_mut_ptr())
    };
    if answer != 0 {
        bail!("mincore({}): {}", path.display(), std::io::Error::last_os_error());
    }
    let resident = pages.iter().filter(|p| **p & 1 == 1).count();
    Ok(resident as f64 / pages.len() as f64)
}

/// Brings the file into the wanted state and returns the resident share that results.
pub fn bring(path: &Path, state: PageCache) -> Result<f64> {
    let now = resident(path)?;
    match state {
        PageCache::Warm => {
            if now < 1.0 {
                read(path, 0..u64::MAX)?;
            }
            return match enlarge_pages(path)? {
                true => resident(path),
                false => Ok(now.max(resident(path)?)),
            };
        }
        PageCache::Cold => {
            let file = File::open(path)?;
            file.sync_all().with_context(|| format!("cannot sync {}", path.display()))?;
            fadvise(&file, 0, None::<NonZeroU64>, Advice::DontNeed)
                .with_context(|| format!("cannot drop {} from the page cache", path.display()))?;
        }
    }
    resident(path)
}

fn read(path: &Path, range: Range<u64>) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.seek(SeekFrom::Start(range.start))?;
    let mut file = file.take(range.end - range.start);
    let mut chunk = vec![0u8; 4 << 20];
    while file.read(&mut chunk).with_context(|| format!("cannot read {}", path.display()))? > 0 {}
    Ok(())
}

/// Smaller files stay as they are: the gain from large pages would not be visible.
const WORTH_LARGE: u64 = 64 << 20;
/// A large page of most processors.
const LARGE: u64 = 2 << 20;
/// How much of a file is read again to see whether its pages become large.
const PROBE: u64 = 64 << 20;
/// From this share on, pages count as large; the part before the first and after the last border
/// cannot be.
const MOSTLY: f64 = 0.95;

/// Reads a resident file again if it occupies small pages and the kernel would now use large ones;
/// returns whether it did. On a file system without large pages this is tried on part of one file,
/// once per process.
fn enlarge_pages(path: &Path) -> Result<bool> {
    /// The file systems without large pages, by device.
    static WITHOUT: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());
    let (size, device) = path.metadata().map_or((0, 0), |m| (m.len(), m.dev()));
    let without = || WITHOUT.lock().unwrap_or_else(PoisonError::into_inner);
    if size < WORTH_LARGE || without().contains(&device) {
        return Ok(false);
    }
    let small = |range: Range<u64>| in_large_pages(path, range).is_some_and(|share| share < MOSTLY);
    if !small(0..size) {
        return Ok(false);
    }
    for range in [0..PROBE, PROBE..size] {
        if !renew(path, range.clone()) || small(range) {
            without().insert(device);
            break;
        }
    }
    read(path, 0..u64::MAX)?;
    Ok(true)
}

/// Drops `range` (which begins on a large page) from the cache and reads it again through a mapping
/// that asks for large pages; plain reading starts with small ones. Returns whether the request was
/// made.
fn renew(path: &Path, range: Range<u64>) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let len = NonZeroU64::new(range.end - range.start);
    file.sync_all().is_ok()
        && fadvise(&file, range.start, len, Advice::DontNeed).is_ok()
        && touched(&file, range).is_some()
}

/// Maps `range` and reads one byte of each small page.
fn touched(file: &File, range: Range<u64>) -> Option<memmap2::Mmap> {
    let mut options = memmap2::MmapOptions::new();
    options.offset(range.start).len((range.end - range.start) as usize);
    // SAFETY: only single bytes are read, and all are discarded. If the file is truncated
    // meanwhile, the measurement that follows would have hit the same.
    let map = unsafe { options.map(file) }.ok()?;
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    for page in map.chunks(rustix::param::page_size()) {
        black_box(page[0]);
    }
    Some(map)
}

/// The share of `range` (which begins on a large page) that a mapping of the file has in large
/// pages. `None` if the system does not report it.
fn in_large_pages(path: &Path, range: Range<u64>) -> Option<f64> {
    let len = (range.end - range.start) as usize;
    let map = touched(&File::open(path).ok()?, range)?;
    let smaps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let start = format!("{:x}-", map.as_ptr().addr());
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start)).skip(1);
    let large = lines.find_map(|line| line.strip_prefix("FilePmdMapped:"))?;
    let large: u64 = large.trim().strip_suffix(" kB")?.parse().ok()?;
    Some((large << 10) as f64 / (len as u64 / LARGE * LARGE).max(1) as f64)
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
    fn a_file_keeps_its_bytes_and_stays_resident_when_its_pages_are_renewed() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..3 * LARGE as usize + 5).map(|i| (i % 251) as u8).collect();
        // Writes in small pieces, so that the pages are small.
        bytes.chunks(1000).for_each(|piece| file.write_all(piece).unwrap());
        let len = bytes.len() as u64;
        assert!(renew(file.path(), 0..len));
        assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
        assert_eq!(resident(file.path()).unwrap(), 1.0);
        // The kernel decides whether the pages are large now; the result is a share either way.
        let share = in_large_pages(file.path(), 0..len);
        assert!(share.is_none_or(|share| (0.0..=1.0).contains(&share)), "{share:?}");
    }

    #[test]
    fn an_empty_file_counts_as_resident_and_a_missing_one_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(resident(file.path()).unwrap(), 1.0);
        let error = resident(Path::new("/no/such/model.gguf")).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/model.gguf"));
    }
}
