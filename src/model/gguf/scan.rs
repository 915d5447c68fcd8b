//! Walks a GGUF header over the mapped bytes before anything is allocated from it: counts, string
//! and array lengths, tensor shapes and offsets are held against the length of the file.

use std::ops::Range;
use std::path::Path;

use super::GgufError;

/// Above any real model; a header that claims more is not worth reading.
const MAX_TENSORS: u64 = 1 << 17;
const MAX_METADATA: u64 = 1 << 16;
const MAX_STRING: u64 = 1 << 26;
const MAX_ARRAY: u64 = 1 << 24;
const MAX_NAME: u64 = 1 << 12;
const MAX_DIMS: u32 = 4;

/// Where a metadata entry lies in the file: its key's length, key, type and value.
pub(super) struct Entry {
    pub key: String,
    pub at: Range<usize>,
}

/// Checks a header; returns its metadata entries in the file's order.
pub(super) fn scan(path: &Path, bytes: &[u8]) -> Result<Vec<Entry>, GgufError> {
    let mut s = Scanner { path, bytes, at: 0 };
    let magic = s.take("the magic", 4)?;
    if magic != b"GGUF" {
        let found = match std::str::from_utf8(magic) {
            Ok(text) if text.chars().all(|c| c.is_ascii_graphic()) => format!("{text:?}"),
            _ => format!("bytes {magic:02x?}"),
        };
        return s.fail("the magic", "\"GGUF\"", found);
    }
    let version = s.u32("the version")?;
    if !(2..=3).contains(&version) {
        return s.fail("the version", "2 or 3, little-endian", version);
    }
    let tensors = s.count("the tensor count", MAX_TENSORS, 8 + 4 + 8 + 4 + 8)?;
    let metadata = s.count("the metadata count", MAX_METADATA, 8 + 4 + 1)?;
    let mut keys = std::collections::HashSet::new();
    let mut entries: Vec<Entry> = Vec::new();
    for _ in 0..metadata {
        let start = s.at;
        if let Some(last) = entries.last_mut() {
            last.at.end = start;
        }
        let key = s.string("a metadata key", MAX_NAME)?;
        if !keys.insert(key) {
            let key = String::from_utf8_lossy(key).into_owned();
            return s.fail("the metadata", "each key once", format!("{key:?} twice"));
        }
        let shown = String::from_utf8_lossy(key).into_owned();
        entries.push(Entry { key: shown, at: start..start });
        let kind = s.u32("a metadata type")?;
        if key == b"general.alignment" {
            if kind != 4 {
                return s.fail("general.alignment", "type u32 (4)", kind);
            }
            let alignment = s.u32("general.alignment")?;
            if !alignment.is_power_of_two() || alignment > 1 << 16 {
                return s.fail("general.alignment", "a power of two up to 65536", alignment);
            }
            continue;
        }
        s.value(key, kind)?;
    }
    if let Some(last) = entries.last_mut() {
        last.at.end = s.at;
    }
    let mut names = std::collections::HashSet::new();
    let mut last_offset = 0;
    for _ in 0..tensors {
        let name = s.string("a tensor name", MAX_NAME)?;
        let shown = String::from_utf8_lossy(name).into_owned();
        if !names.insert(name) {
            return s.fail("the tensors", "each name once", format!("{shown:?} twice"));
        }
        let dims = s.u32("a tensor's dimensions")?;
        if dims == 0 || dims > MAX_DIMS {
            return s.fail(&format!("tensor {shown}"), "1 to 4 dimensions", dims);
        }
        let mut elements = 1u64;
        for _ in 0..dims {
            let dim = s.u64("a tensor's shape")?;
            elements = match elements.checked_mul(dim) {
                Some(n) if n > 0 && n < 1 << 48 => n,
                _ => return s.fail(&format!("tensor {shown}"), "a possible shape", dim),
            };
        }
        s.u32("a tensor's type")?;
        last_offset = last_offset.max(s.u64("a tensor's offset")?);
    }
    // The sizes are checked once the types are known; this keeps the sums from overflowing.
    if last_offset > bytes.len() as u64 {
        let expected = format!("offsets inside the file of {} bytes", bytes.len());
        return s.fail("the tensors", expected, last_offset);
    }
    Ok(entries)
}

struct Scanner<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn fail<T>(
        &self,
        what: &str,
        expected: impl ToString,
        found: impl ToString,
    ) -> Result<T, GgufError> {
        Err(GgufError::Malformed {
            path: self.path.to_owned(),
            what: format!("{what} (near byte {})", self.at),
            expected: expected.to_string(),
            found: found.to_string(),
        })
    }

    fn take(&mut self, what: &str, n: u64) -> Result<&'a [u8], GgufError> {
        let left = (self.bytes.len() - self.at) as u64;
        if n > left {
            let file = self.bytes.len();
            let found = format!("{left} left of a file of {file}: is it truncated?");
            return self.fail(what, format!("{n} bytes"), found);
        }
        let from = self.at;
        self.at += n as usize;
        Ok(&self.bytes[from..self.at])
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        let b = self.take(what, 4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        let b = self.take(what, 8)?;
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    /// A number of things of at least `smallest` bytes each.
    fn count(&mut self, what: &str, most: u64, smallest: u64) -> Result<u64, GgufError> {
        let n = self.u64(what)?;
        let fit = (self.bytes.len() - self.at) as u64 / smallest;
        if n > most.min(fit) {
            let expected = format!("at most {} in a file of {}", most.min(fit), self.bytes.len());
            return self.fail(what, expected, n);
        }
        Ok(n)
    }

    fn string(&mut self, what: &str, most: u64) -> Result<&'a [u8], GgufError> {
        let len = self.count(what, most, 1)?;
        self.take(what, len)
    }

    fn value(&mut self, key: &[u8], kind: u32) -> Result<(), GgufError> {
        const STRING: u32 = 8;
        const ARRAY: u32 = 9;
        let key = String::from_utf8_lossy(key);
        match kind {
            STRING => {
                self.string(&key, MAX_STRING)?;
            }
            ARRAY => {
                let element = self.u32(&key)?;
                match element {
                    STRING => {
                        for _ in 0..self.count(&key, MAX_ARRAY, 8)? {
                            self.string(&key, MAX_STRING)?;
                        }
                    }
                    ARRAY => return self.fail(&key, "an array of plain values", "nested arrays"),
                    _ => {
                        let size = self.scalar(&key, element)?;
                        let n = self.count(&key, MAX_ARRAY, size)?;
                        self.take(&key, n * size)?;
                    }
                }
            }
            _ => {
                let size = self.scalar(&key, kind)?;
                self.take(&key, size)?;
            }
        }
        Ok(())
    }

    fn scalar(&self, key: &str, kind: u32) -> Result<u64, GgufError> {
        match kind {
            0 | 1 | 7 => Ok(1),
            2 | 3 => Ok(2),
            4..=6 => Ok(4),
            10..=12 => Ok(8),
            other => self.fail(key, "a value type from 0 to 12", other),
        }
    }
}
