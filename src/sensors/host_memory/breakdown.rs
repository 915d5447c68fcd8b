//! The parts of an engine's peak memory. Turns readings of the kernel and the engine's own account
//! into rows that add up to the peak. Pure, apart from `mapped_pages`.

use std::path::Path;

use crate::record::{How, Memory, MemoryPart, Part};

/// Fills `memory.breakdown` from the other fields: parts that sum to `peak_host_bytes` exactly.
/// Empty if the peak is not known.
///
/// Parts describe the end of the launch. What the process held at its peak and freed before the end
/// is a separate part. Only `Unaccounted` is computed from the other parts.
pub fn breakdown(memory: &Memory) -> Vec<MemoryPart> {
    let Some(peak) = memory.peak_host_bytes else { return Vec::new() };
    let book = &memory.book;
    let mut parts = Vec::new();
    let mut put = |part, bytes: Option<i64>, how| {
        if let Some(bytes) = bytes {
            parts.push(MemoryPart { part, bytes, how });
        }
    };
    let signed = |bytes: Option<u64>| bytes.map(|b| b as i64);
    let of_book = |resident: Option<u64>, computed: Option<u64>| match resident {
        Some(bytes) => (Some(bytes as i64), How::Measured),
        None => (signed(computed), How::Computed),
    };

    match memory.model_file_bytes {
        Some(_) => put(Part::WeightsMapped, signed(memory.model_file_bytes), How::Measured),
        None => put(Part::WeightsMapped, signed(book.weights_mapped_bytes), How::Computed),
    }
    let (bytes, how) = of_book(book.weights_private_resident_bytes, book.weights_private_bytes);
    put(Part::WeightsPrivate, bytes, how);
    let (bytes, how) = of_book(book.kv_resident_bytes, book.kv_bytes);
    put(Part::KvCache, bytes, how);
    let (bytes, how) = of_book(book.activation_resident_bytes, book.activation_bytes);
    put(Part::Activations, bytes, how);

    let resident = [memory.rss_anon_bytes, memory.rss_file_bytes, memory.rss_shmem_bytes];
    let resident = resident.into_iter().try_fold(0, |sum, part| Some(sum + part?));
    let released = resident.map(|resident: u64| peak as i64 - resident as i64);
    // The high-water mark did not rise after the load, so the load reached it.
    let in_load = memory.peak_after_load_bytes.is_some_and(|loaded| loaded >= peak);
    let temporaries = if in_load { Part::LoadTemporaries } else { Part::GenerationTemporaries };
    put(temporaries, released, How::Measured);

    put(Part::BeforeLoad, signed(memory.before_load_bytes), How::Measured);
    let libraries = || {
        let mapped = memory.model_file_bytes?;
        let (end, before) = (memory.rss_file_bytes?, memory.before_load_file_bytes?);
        Some(end as i64 - mapped as i64 - before as i64)
    };
    put(Part::Libraries, libraries(), How::Measured);
    put(Part::Compiler, signed(book.compiler_bytes), How::Measured);
    put(Part::AllocatorFree, signed(book.allocator_free_bytes), How::Measured);

    let known: i64 = parts.iter().map(|p| p.bytes).sum();
    let rest = peak as i64 - known;
    parts.push(MemoryPart { part: Part::Unaccounted, bytes: rest, how: How::Remainder });
    parts
}

/// Resident bytes of file `path` in the maps of process `pid`, without copies that were written to;
/// `None` if the kernel does not report them. Device and inode identify the file.
pub fn mapped_pages(pid: u32, path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(path).ok()?;
    let (major, minor) = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    Some(resident_in(&smaps, &format!("{major:02x}:{minor:02x}"), file.ino()))
}

/// Sums the maps of one inode in the text of /proc/PID/smaps.
fn resident_in(smaps: &str, device: &str, inode: u64) -> u64 {
    let (mut ours, mut sum) = (false, 0);
    for line in smaps.lines() {
        let kib = |name: &str| -> Option<u64> {
            line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok()
        };
        if let Some(rss) = kib("Rss:") {
            sum += if ours { rss * 1024 } else { 0 };
        } else if let Some(private) = kib("Anonymous:") {
            sum -= if ours { private * 1024 } else { 0 };
        } else if let Some((dev, ino)) = map_header(line) {
            ours = dev == device && ino == inode;
        }
    }
    sum
}

/// Device and inode of `7f00-7f10 r--p 00000000 fe:00 1234   /path`; none for other lines.
fn map_header(line: &str) -> Option<(&str, u64)> {
    let mut fields = line.split_ascii_whitespace();
    fields.next().filter(|range| range.contains('-') && !range.ends_with(':'))?;
    let device = fields.nth(2)?;
    Some((device, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::MemoryBook;
    use proptest::prelude::*;

    fn engine() -> Memory {
        Memory {
            peak_host_bytes: Some(1000),
            rss_anon_bytes: Some(500),
            rss_file_bytes: Some(400),
            rss_shmem_bytes: Some(0),
            before_load_bytes: Some(90),
            before_load_file_bytes: Some(60),
            model_file_bytes: Some(300),
            peak_after_load_bytes: Some(700),
            after_load_bytes: Some(650),
            book: MemoryBook {
                weights_mapped_bytes: Some(310),
                weights_private_bytes: Some(200),
                kv_bytes: Some(150),
                kv_resident_bytes: Some(50),
                allocator_free_bytes: Some(30),
                ..MemoryBook::default()
            },
            gpu: None,
            breakdown: Vec::new(),
        }
    }

    fn find(parts: &[MemoryPart], part: Part) -> (i64, How) {
        parts.iter().find(|p| p.part == part).map(|p| (p.bytes, p.how)).unwrap()
    }

    #[test]
    fn parts_add_up_and_a_reading_goes_before_a_belief() {
        let parts = breakdown(&engine());
        assert_eq!(parts.iter().map(|p| p.bytes).sum::<i64>(), 1000);
        assert_eq!(find(&parts, Part::WeightsMapped), (300, How::Measured));
        assert_eq!(find(&parts, Part::WeightsPrivate), (200, How::Computed));
        assert_eq!(find(&parts, Part::KvCache), (50, How::Measured));
        assert_eq!(find(&parts, Part::GenerationTemporaries), (100, How::Measured));
        assert_eq!(find(&parts, Part::Libraries), (40, How::Measured));
        assert_eq!(find(&parts, Part::Unaccounted), (190, How::Remainder));
        assert!(parts.iter().all(|p| p.part != Part::Activations), "no book, no row");
    }

    #[test]
    fn a_peak_that_the_load_reached_is_told_from_one_of_a_generation() {
        let memory = Memory { peak_after_load_bytes: Some(1000), ..engine() };
        assert_eq!(find(&breakdown(&memory), Part::LoadTemporaries), (100, How::Measured));
    }

    #[test]
    fn parts_that_overlap_leave_a_negative_remainder_in_sight() {
        let mut memory = engine();
        memory.book.weights_private_bytes = Some(900);
        assert_eq!(find(&breakdown(&memory), Part::Unaccounted), (-510, How::Remainder));
    }

    #[test]
    fn without_a_peak_there_are_no_parts() {
        assert!(breakdown(&Memory::default()).is_empty());
        let peak_only = Memory { peak_host_bytes: Some(7), ..Memory::default() };
        assert_eq!(find(&breakdown(&peak_only), Part::Unaccounted), (7, How::Remainder));
    }

    #[test]
    fn pages_are_counted_by_inode_without_their_private_copies() {
        let smaps = "\
7f00-7f10 r--p 00000000 fe:00 42    /models/a b.gguf
Size:               4096 kB
Rss:                 100 kB
Anonymous:             4 kB
VmFlags: rd mr mw me
7f10-7f20 r-xp 00000000 fe:00 43    /usr/lib/libc.so.6
Rss:                 999 kB
Anonymous:             0 kB
7f20-7f30 rw-p 00000000 00:00 0
Rss:                  50 kB
Anonymous:            50 kB
7f30-7f40 r--p 00001000 fe:00 42    /models/a b.gguf
Rss:                  10 kB
Anonymous:             0 kB
";
        assert_eq!(resident_in(smaps, "fe:00", 42), 106 * 1024);
        assert_eq!(resident_in(smaps, "fe:01", 42), 0);
    }

    #[test]
    fn the_pages_of_a_file_that_this_process_maps_are_seen() {
        use std::io::Write;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![1u8; 1 << 20]).unwrap();
        // SAFETY: nothing writes the file while it is mapped.
        let map = unsafe { memmap2::Mmap::map(file.as_file()) }.unwrap();
        assert_eq!(map.iter().map(|b| u64::from(*b)).sum::<u64>(), 1 << 20);
        let seen = mapped_pages(std::process::id(), file.path());
        assert!(seen.is_none_or(|bytes| bytes == 1 << 20), "{seen:?}");
    }

    proptest! {
        #[test]
        fn parts_add_up_whatever_was_read(
            bytes in proptest::collection::vec(proptest::option::of(0u64..1 << 40), 12),
            peak in 0u64..1 << 40,
        ) {
            let memory = Memory {
                peak_host_bytes: Some(peak),
                rss_anon_bytes: bytes[0],
                rss_file_bytes: bytes[1],
                rss_shmem_bytes: bytes[2],
                before_load_bytes: bytes[3],
                before_load_file_bytes: bytes[4],
                model_file_bytes: bytes[5],
                peak_after_load_bytes: bytes[6],
                after_load_bytes: None,
                book: MemoryBook {
                    weights_private_bytes: bytes[7],
                    kv_bytes: bytes[8],
                    kv_resident_bytes: bytes[9],
                    compiler_bytes: bytes[10],
                    allocator_free_bytes: bytes[11],
                    ..MemoryBook::default()
                },
                gpu: None,
                breakdown: Vec::new(),
            };
            let sum: i64 = breakdown(&memory).iter().map(|p| p.bytes).sum();
            prop_assert_eq!(sum, peak as i64);
        }
    }
}
