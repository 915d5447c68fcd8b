//! Walks a GGUF header before anything is allocated from it. Checks counts, string and array
//! lengths, tensor shapes, types and offsets against the length of the file and against limits.

use std::ops::Range;
use std::path::Path;

use super::{GgufError, StoredType};

/// More than any real model has; a header that claims more is refused.
const MAX_TENSORS: u64 = 1 << 17;
const MAX_METADATA: u64 = 1 << 16;
const MAX_STRING: u64 = 1 << 26;
/// Limit over all arrays together; each element becomes a value of 32 bytes.
const MAX_ELEMENTS: u64 = 1 << 22;
const MAX_HEADER: u64 = 1 << 27;
const MAX_NAME: u64 = 1 << 12;
const MAX_DIMS: u32 = 4;

/// The place of a metadata entry in the file: its key's length, key, type and value.
pub(super) struct Entry {
    pub key: String,
    pub at: Range<usize>,
}

/// A consistent header.
pub(super) struct Scanned {
    /// Where it ends.
    pub end: usize,
    /// The metadata in the file's order.
    pub entries: Vec<Entry>,
    /// The tensors whose type candle does not know, and the place of each one's type number.
    pub foreign: Vec<(String, StoredType, Range<usize>)>,
}

/// Why a scan ended early.
pub(super) enum Stop {
    /// The header continues beyond the given bytes, within the file.
    Short,
    Bad(GgufError),
}

/// Checks a header that begins in `bytes`, in a file of `len` bytes. Returns the places of the
/// header and its entries within `bytes`.
pub(super) fn scan(path: &Path, bytes: &[u8], len: u64) -> Result<Scanned, Stop> {
    let mut s = Scanner { path, bytes, len, at: 0, elements: 0 };
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
        let key = s.name("a metadata key")?;
        if !keys.insert(key) {
            return s.fail("the metadata", "each key once", format!("{key:?} twice"));
        }
        entries.push(Entry { key: key.to_owned(), at: start..start });
        let kind = s.u32("a metadata type")?;
        if key == "general.alignment" {
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
    let mut foreign = Vec::new();
    for _ in 0..tensors {
        let name = s.name("a tensor name")?;
        if !names.insert(name) {
            return s.fail("the tensors", "each name once", format!("{name:?} twice"));
        }
        let dims = s.u32("a tensor's dimensions")?;
        if dims == 0 || dims > MAX_DIMS {
            return s.fail(&format!("tensor {name:?}"), "1 to 4 dimensions", dims);
        }
        let mut elements = 1u64;
        for _ in 0..dims {
            let dim = s.u64("a tensor's shape")?;
            elements = match elements.checked_mul(dim) {
                Some(n) if n > 0 && n < 1 << 48 => n,
                _ => return s.fail(&format!("tensor {name:?}"), "a possible shape", dim),
            };
        }
        let dtype = StoredType::of(s.u32("a tensor's type")?);
        if !matches!(dtype, StoredType::Candle(_)) {
            foreign.push((name.to_owned(), dtype, s.at - size_of::<u32>()..s.at));
        }
        // The end is checked once the sizes are known; this check keeps the sums from overflowing.
        let offset = s.u64("a tensor's offset")?;
        if offset > len {
            let expected = format!("an offset inside the file of {len} bytes");
            return s.fail(&format!("tensor {name:?}"), expected, offset);
        }
    }
    Ok(Scanned { end: s.at, entries, foreign })
}

struct Scanner<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    len: u64,
    at: usize,
    /// Elements of the arrays so far.
    elements: u64,
}

impl<'a> Scanner<'a> {
    fn fail<T>(
        &self,
        what: &str,
        expected: impl ToString,
        found: impl ToString,
    ) -> Result<T, Stop> {
        Err(Stop::Bad(GgufError::Malformed {
            path: self.path.to_owned(),
            what: format!("{what} (near byte {})", self.at),
            expected: expected.to_string(),
            found: found.to_string(),
        }))
    }

    fn left(&self) -> u64 {
        self.len - self.at as u64
    }

    fn take(&mut self, what: &str, n: u64) -> Result<&'a [u8], Stop> {
        if n > self.left() {
            let found = format!("{} left of a file of {}: is it truncated?", self.left(), self.len);
            return self.fail(what, format!("{n} bytes"), found);
        }
        if self.at as u64 + n > MAX_HEADER {
            return self.fail(what, format!("a header of at most {MAX_HEADER} bytes"), "more");
        }
        let end = self.at + n as usize;
        let taken = self.bytes.get(self.at..end).ok_or(Stop::Short)?;
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Stop> {
        let b = self.take(what, 4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Stop> {
        let b = self.take(what, 8)?;
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    /// A count of items of at least `smallest` bytes each.
    fn count(&mut self, what: &str, most: u64, smallest: u64) -> Result<u64, Stop> {
        let n = self.u64(what)?;
        let fit = self.left() / smallest;
        if n > most.min(fit) {
            let expected = format!("at most {} in a file of {} bytes", most.min(fit), self.len);
            return self.fail(what, expected, n);
        }
        Ok(n)
    }

    /// Does not divide like `count`, because a vocabulary has hundreds of thousands of strings.
    fn string(&mut self, what: &str, most: u64) -> Result<&'a [u8], Stop> {
        let len = self.u64(what)?;
        if len > most {
            return self.fail(what, format!("a text of at most {most} bytes"), len);
        }
        self.take(what, len)
    }

    /// A key or a tensor's name, as text that candle can read.
    fn name(&mut self, what: &str) -> Result<&'a str, Stop> {
        let bytes = self.string(what, MAX_NAME)?;
        match std::str::from_utf8(bytes) {
            Ok(name) => Ok(name.trim_end_matches('\0')),
            Err(_) => self.fail(what, "UTF-8", bytes.escape_ascii()),
        }
    }

    /// The number of an array's elements.
    fn elements(&mut self, key: &str, smallest: u64) -> Result<u64, Stop> {
        let n = self.count(key, MAX_ELEMENTS - self.elements, smallest)?;
        self.elements += n;
        Ok(n)
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<(), Stop> {
        const STRING: u32 = 8;
        const ARRAY: u32 = 9;
        match kind {
            STRING => {
                self.string(key, MAX_STRING)?;
            }
            ARRAY => {
                let element = self.u32(key)?;
                match element {
                    STRING => {
                        for _ in 0..self.elements(key, 8)? {
                            self.string(key, MAX_STRING)?;
                        }
                    }
                    ARRAY => return self.fail(key, "an array of plain values", "nested arrays"),
                    _ => {
                        let size = self.scalar(key, element)?;
                        let n = self.elements(key, size)?;
                        self.take(key, n * size)?;
                    }
                }
            }
            _ => {
                let size = self.scalar(key, kind)?;
                self.take(key, size)?;
            }
        }
        Ok(())
    }

    fn scalar(&self, key: &str, kind: u32) -> Result<u64, Stop> {
        match kind {
            0 | 1 | 7 => Ok(1),
            2 | 3 => Ok(2),
            4..=6 => Ok(4),
            10..=12 => Ok(8),
            other => self.fail(key, "a value type from 0 to 12", other),
        }
    }
}
