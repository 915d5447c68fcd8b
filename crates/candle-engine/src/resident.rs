//! The memory that this process holds, by the counts of the kernel and the C allocator. Read
//! between requests, never in a timed region.

/// How many bytes of `values` are in memory. Untouched pages of a zeroed allocation are not. `None`
/// if the kernel does not report it.
pub fn bytes_in_memory<T>(values: &[T]) -> Option<u64> {
    let page = rustix::param::page_size();
    let (start, len) = (values.as_ptr() as usize, size_of_val(values));
    if len == 0 {
        return Some(0);
    }
    let (first, end) = (start / page * page, start + len);
    let mut pages = vec![0u8; (end - first).div_ceil(page)];
    // SAFETY: the kernel only looks at its page tables and fills one byte for each page from
    // `first` to `end`; the vector has one for each, and both ends lie in pages of `values`.
    let failed =
        unsafe { libc::mincore(first as *mut libc::c_void, end - first, pages.as_mut_ptr()) };
    let within = |i: usize| {
        let (a, b) = ((first + i * page).max(start), (first + (i + 1) * page).min(end));
        (b - a) as u64
    };
    let here = pages.iter().enumerate().filter(|(_, p)| **p & 1 == 1);
    (failed == 0).then(|| here.map(|(i, _)| within(i)).sum())
}

/// Bytes that the allocator keeps for reuse: freed by their user but not returned to the kernel.
/// `None` without glibc.
pub fn allocator_free() -> Option<u64> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: reads the allocator's own counters, under its locks.
        Some(unsafe { libc::mallinfo2() }.fordblks as u64)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        None
    }
}

/// Returns memory that the allocator keeps for reuse to the kernel, if it can. A load frees some
/// megabytes of header and vocabulary, which would otherwise count as the engine's for good.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: takes the allocator's locks and only touches free memory.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_count_when_they_are_touched() {
        let mut zeros = vec![0u64; 8 << 20];
        let before = bytes_in_memory(&zeros).unwrap();
        let half = zeros.len() / 2;
        zeros[..half].fill(1);
        let after = bytes_in_memory(&zeros).unwrap();
        assert!(before < 1 << 20, "{before} of an untouched allocation");
        // Huge pages may bring neighbouring pages along.
        assert!((32 << 20..36 << 20).contains(&after), "{after} after touching 32 MiB");
        assert_eq!(bytes_in_memory::<u8>(&[]), Some(0));
        assert_eq!(bytes_in_memory(&zeros[..3]), Some(24));
    }
}
