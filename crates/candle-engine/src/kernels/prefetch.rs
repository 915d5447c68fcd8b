//! Prefetching on x86-64: how far ahead of a kernel, and into which caches.

use std::arch::x86_64::*;
use std::sync::atomic::{AtomicBool, Ordering};

const LINE: usize = 64;

/// How far ahead of a decode step its weights are prefetched in each of the `STREAMS`, in bytes;
/// the hardware's own prefetchers stop at each page. 1 to 2 KiB reached the speed of plain reading
/// on Granite Rapids; half as much lost a tenth of it.
const AHEAD: usize = 1536;

/// Whether weights are best prefetched past the other caches (`NTA`), because each is used once.
/// That holds on Zen 5. On Intel's processors it costs half of the bandwidth: such a prefetch has
/// only the few line buffers of the first cache, while others go through those of the second.
static PAST_CACHES: AtomicBool = AtomicBool::new(false);

/// Chooses the caches for this processor.
pub fn choose() {
    PAST_CACHES.store(llm_bench_cpu::features().is_amd, Ordering::Relaxed);
}

/// Prefetches the `bytes` at `p`, which need not be valid, for use once. Calls for every `bytes` of a
/// stretch cover all of its cache lines.
///
/// # Safety
/// The CPU has SSE.
#[inline(always)]
pub unsafe fn prefetch_once(p: *const u8, bytes: usize) {
    // SAFETY: the caller's promise; a prefetch of any address is harmless.
    unsafe {
        match PAST_CACHES.load(Ordering::Relaxed) {
            true => lines::<_MM_HINT_NTA>(p, bytes),
            false => lines::<_MM_HINT_T0>(p, bytes),
        }
    }
}

/// Prefetches the lines of `bytes` at `p` with a hint.
///
/// # Safety
/// The CPU has SSE.
#[inline(always)]
unsafe fn lines<const HINT: i32>(p: *const u8, bytes: usize) {
    for line in 0..bytes.div_ceil(LINE) {
        // SAFETY: the caller's promise; a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<HINT>(p.wrapping_add(line * LINE).cast()) }
    }
}

/// Prefetches the `bytes` at `p` into all caches: for what is used again.
///
/// # Safety
/// The CPU has SSE.
#[inline(always)]
pub unsafe fn prefetch_near(p: *const u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { lines::<_MM_HINT_T0>(p, bytes) }
}

/// Prefetches the `bytes` that lie `AHEAD` of `p`, for products with `T` tokens. Rows follow each
/// other in the file, so the end of one row fetches the next; the address need not be valid.
///
/// # Safety
/// The CPU has SSE.
#[inline(always)]
pub unsafe fn prefetch_ahead<const T: usize>(p: *const u8, bytes: usize) {
    let p = p.wrapping_add(AHEAD);
    // SAFETY: the caller's promise.
    unsafe {
        // More tokens may follow, and then the weights are used again.
        match T {
            1 => prefetch_once(p, bytes),
            _ => prefetch_near(p, bytes),
        }
    }
}
