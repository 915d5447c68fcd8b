//! An engine's own book of memory against what the kernel counted.

use crate::record::Memory;
use crate::units::Bytes;

/// The book may be rounded, and the kernel counts in batches of pages per thread.
const SLACK: f64 = 1.02;
const SLACK_BYTES: u64 = 4 << 20;

/// What the engine claims to hold beyond the peak of its processes; `None` if all of it fits.
/// Mapped weights are left out: pages that were never read are in no memory.
pub fn excess(memory: &Memory) -> Option<String> {
    let peak = memory.peak_host_bytes?;
    let most = (peak as f64 * SLACK) as u64 + SLACK_BYTES;
    let book = &memory.book;
    let held = [
        ("private weights", book.weights_private_resident_bytes.or(book.weights_private_bytes)),
        ("KV cache", book.kv_resident_bytes.or(book.kv_bytes)),
        ("activations", book.activation_resident_bytes.or(book.activation_bytes)),
        ("compiler", book.compiler_bytes),
        ("free in the allocator", book.allocator_free_bytes),
    ];
    let sum = held.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(bytes.unwrap_or(0)));
    let all = [("the whole process", book.resident_bytes), ("all parts together", Some(sum))];
    let (name, bytes) = held
        .into_iter()
        .chain(all)
        .filter_map(|(name, bytes)| Some((name, bytes?)))
        .find(|(_, bytes)| *bytes > most)?;
    Some(format!(
        "the engine accounts for {} ({name}); its processes never held more than {}",
        Bytes(bytes),
        Bytes(peak)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_beyond_the_peak_is_seen_in_one_part_and_in_the_sum() {
        let mut memory = Memory { peak_host_bytes: Some(100 << 20), ..Memory::default() };
        assert_eq!(excess(&memory), None);
        memory.book.kv_bytes = Some(60 << 20);
        memory.book.activation_bytes = Some(30 << 20);
        assert_eq!(excess(&memory), None);
        memory.book.weights_private_bytes = Some(60 << 20);
        assert!(excess(&memory).unwrap().contains("together"));
        memory.book.kv_resident_bytes = Some(1 << 20);
        assert_eq!(excess(&memory), None, "untouched pages are no memory");
        memory.book.weights_mapped_bytes = Some(900 << 20);
        assert_eq!(excess(&memory), None);
        memory.book.kv_resident_bytes = Some(u64::MAX);
        assert!(excess(&memory).unwrap().contains("KV cache"));
    }
}
