//! Attention over the KV cache: scores of a span of keys, weighted sums of values, and the cache's
//! half-precision numbers.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::SPAN;
#[cfg(target_arch = "x86_64")]
use super::prefetch::prefetch_once;

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod portable;

/// Generates `weigh_part`, which adds to `V` registers of each sum, from the features that it may use
/// and the instructions that load, store, splat, and compute `a · b + c`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! weigh_part {
    ([$($features:literal)?] $load:expr, $store:expr, $splat:expr, $fma:expr) => {
        /// `V` registers of each sum, from `start` on.
        $(#[target_feature(enable = $features)])?
        #[inline]
        fn weigh_part<const Q: usize, const V: usize>(
            values: &[f32],
            weights: &[&[f32]; Q],
            sums: &mut [&mut [f32]; Q],
            start: usize,
            dim: usize,
        ) {
            // SAFETY: this function has the features. `super::weigh` has checked that `values` is
            // `[weights[i].len(), dim]` and each sum `dim` long; `start + V` registers end at `dim`.
            unsafe {
                let mut acc = [[$splat(0.0); V]; Q];
                for i in 0..Q {
                    acc[i] = from_fn(|v| $load(sums[i].as_ptr().add(start + LANES * v)));
                }
                for j in 0..weights[0].len() {
                    let at = values.as_ptr().add(j * dim + start);
                    let value: [_; V] = from_fn(|v| $load(at.add(LANES * v)));
                    for i in 0..Q {
                        let w = $splat(*weights[i].get_unchecked(j));
                        for v in 0..V {
                            acc[i][v] = $fma(w, value[v], acc[i][v]);
                        }
                    }
                }
                for i in 0..Q {
                    for v in 0..V {
                        $store(sums[i].as_mut_ptr().add(start + LANES * v), acc[i][v]);
                    }
                }
            }
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use weigh_part;

/// See `Cpu::weigh`: calls `part(sums, start, wide)` for stretches of `wide` lanes (`true`), then
/// of `lanes` (`false`), that begin at `start`; adds the remainder in plain code. Checks the
/// lengths.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn weigh<const Q: usize>(
    [wide, lanes]: [usize; 2],
    values: &[f32],
    weights: &[&[f32]; Q],
    mut sums: [&mut [f32]; Q],
    mut part: impl FnMut(&mut [&mut [f32]; Q], usize, bool),
) {
    let (dim, n) = (sums[0].len(), weights[0].len());
    assert!(values.len() == n * dim);
    assert!(sums.iter().all(|s| s.len() == dim) && weights.iter().all(|w| w.len() == n));
    let mut start = 0;
    while start + wide <= dim {
        part(&mut sums, start, true);
        start += wide;
    }
    while start + lanes <= dim {
        part(&mut sums, start, false);
        start += lanes;
    }
    for (sum, weights) in sums.iter_mut().zip(weights) {
        for (value, w) in values.chunks_exact(dim).zip(*weights) {
            for (sum, v) in sum[start..].iter_mut().zip(&value[start..]) {
                *sum = w.mul_add(*v, *sum);
            }
        }
    }
}

/// See `Cpu::scores`: four queries at a time, then one.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn scores<const Q: usize>(
    queries: [&[f32]; Q],
    four: impl Fn(&[&[f32]; 4]) -> [[f32; SPAN]; 4],
    one: impl Fn(&[&[f32]; 1]) -> [[f32; SPAN]; 1],
) -> [[f32; SPAN]; Q] {
    let mut out = [[0.0; SPAN]; Q];
    let ((fours, few), (sums, rest)) = (queries.as_chunks::<4>(), out.as_chunks_mut::<4>());
    for (queries, sums) in fours.iter().zip(sums) {
        *sums = four(queries);
    }
    for (query, sums) in few.iter().zip(rest) {
        [*sums] = one(&[query]);
    }
    out
}

/// Prefetches the cache line that lies some way ahead of `halves`, so that the data after a span is
/// requested while the span is multiplied.
///
/// # Safety
/// The CPU has SSE.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn prefetch_cache(halves: &[u16]) {
    const AHEAD: usize = 2048;
    const LINE: usize = 64;
    // SAFETY: the caller's promise.
    unsafe { prefetch_once(halves.as_ptr().wrapping_add(AHEAD).cast(), LINE) }
}

/// See `Cpu::widen`: calls `chunk(number, halves, out)` for `N` at a time; the rest in plain code.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn widen<const N: usize>(
    halves: &[u16],
    out: &mut [f32],
    mut chunk: impl FnMut(usize, &[u16; N], &mut [f32; N]),
) {
    let ((halves, few), (out, rest)) = (halves.as_chunks::<N>(), out.as_chunks_mut::<N>());
    for (i, (halves, out)) in halves.iter().zip(out).enumerate() {
        chunk(i, halves, out);
    }
    portable::widen(few, rest);
}

/// See `Cpu::narrow`: calls `chunk(values, out)` for `N` at a time; the rest in plain code.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn narrow<const N: usize>(
    values: &[f32],
    out: &mut [u16],
    mut chunk: impl FnMut(&[f32; N], &mut [u16; N]),
) {
    let ((values, few), (out, rest)) = (values.as_chunks::<N>(), out.as_chunks_mut::<N>());
    for (values, out) in values.iter().zip(out) {
        chunk(values, out);
    }
    portable::narrow(few, rest);
}
