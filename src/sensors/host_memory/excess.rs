//! An engine's own book of memory against what the kernel counted.

use crate::device::Device;
use crate::record::Memory;
use crate::units::Bytes;

/// The book may be rounded, and the kernel counts in batches of pages per thread.
const SLACK: f64 = 1.02;
const SLACK_BYTES: u64 = 4 << 20;

/// What the engine claims to hold beyond the peak of its processes, on the host and on the card
/// together; `None` if all of it fits. Mapped weights are left out: pages that were never read are
/// in no memory.
pub fn excess(memory: &Memory, device: Device) -> Option<String> {
    let of_card = match device {
        Device::Cpu => 0,
        Device::Cuda(_) | Device::Metal => memory.gpu.as_ref()?.peak_bytes?,
    };
    let peak = memory.peak_host_bytes?.saturating_add(of_card);
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
    use crate::record::GpuMemory;

    #[test]
    fn a_book_beyond_the_peak_is_seen_in_one_part_and_in_the_sum() {
        let mut memory = Memory { peak_host_bytes: Some(100 << 20), ..Memory::default() };
        assert_eq!(excess(&memory, Device::Cpu), None);
        memory.book.kv_bytes = Some(60 << 20);
        memory.book.activation_bytes = Some(30 << 20);
        assert_eq!(excess(&memory, Device::Cpu), None);
        memory.book.weights_private_bytes = Some(60 << 20);
        assert!(excess(&memory, Device::Cpu).unwrap().contains("together"));
        memory.book.kv_resident_bytes = Some(1 << 20);
        assert_eq!(excess(&memory, Device::Cpu), None, "untouched pages are no memory");
        memory.book.weights_mapped_bytes = Some(900 << 20);
        assert_eq!(excess(&memory, Device::Cpu), None);
        memory.book.weights_private_bytes = Some(300 << 20);
        assert!(excess(&memory, Device::Cpu).unwrap().contains("private weights"));
        assert_eq!(excess(&memory, Device::Cuda(0)), None, "the card's peak is not known");
        let gpu = |peak| Some(GpuMemory { peak_bytes: Some(peak), ..GpuMemory::default() });
        memory.gpu = gpu(250 << 20);
        assert_eq!(excess(&memory, Device::Cuda(0)), None, "they lie on the card");
        memory.gpu = gpu(150 << 20);
        assert!(excess(&memory, Device::Cuda(0)).is_some());
        memory.book.weights_private_bytes = Some(60 << 20);
        memory.book.kv_resident_bytes = Some(u64::MAX);
        assert!(excess(&memory, Device::Cpu).unwrap().contains("KV cache"));
    }
}
