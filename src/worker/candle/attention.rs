//! The KV cache and causal attention over its filled part. Query heads that share a key/value
//! head are computed together, so nothing is repeated in memory.

use std::cell::RefCell;

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::math::{madd, softmax};
use super::pool::{Pool, Scatter};
use crate::worker::resident::bytes_in_memory;

/// Positions whose keys lie interleaved: one vector register of scores.
const SPAN: usize = 16;
/// Tokens of a prompt that share one pass over the cache.
const TOKENS: usize = 8;

/// The type in which keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvType {
    F16,
    F32,
}

impl KvType {
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

/// Keys and values of every position.
pub enum KvCache {
    F16(Cache<u16>),
    F32(Cache<f32>),
}

/// A number as it lies in the cache. Its zero is all zero bits, so that a new cache is untouched
/// memory.
pub trait Stored: Copy + Send + Sync + 'static {
    const ZERO: Self;
    fn narrow(values: &[f32], out: &mut [Self]);
    fn widen(values: &[Self], out: &mut [f32]);
}

/// The bits of an f16.
impl Stored for u16 {
    const ZERO: Self = 0;

    fn narrow(values: &[f32], out: &mut [Self]) {
        let slots: &mut [f16] = out.reinterpret_cast_mut();
        slots.convert_from_f32_slice(values);
    }

    fn widen(values: &[Self], out: &mut [f32]) {
        let halves: &[f16] = values.reinterpret_cast();
        halves.convert_to_f32_slice(out);
    }
}

impl Stored for f32 {
    const ZERO: Self = 0.0;

    fn narrow(values: &[f32], out: &mut [Self]) {
        out.copy_from_slice(values);
    }

    fn widen(values: &[Self], out: &mut [f32]) {
        out.copy_from_slice(values);
    }
}

/// The cache in one type.
pub struct Cache<E> {
    /// `[layer][kv_head][position / 16][head_dim][16]`: sixteen scores need no horizontal sum.
    keys: Vec<E>,
    /// `[layer][kv_head][position][head_dim]`.
    values: Vec<E>,
    n_kv_heads: usize,
    head_dim: usize,
    /// Positions, rounded up to whole spans.
    capacity: usize,
}

/// Rotated queries: row `t` starts at `t * stride` and holds `[n_heads, head_dim]`.
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub n_heads: usize,
}

impl KvCache {
    /// Bytes of a cache of this shape; `None` if that is no number.
    pub fn bytes_for(
        kind: KvType,
        n_layers: usize,
        n_kv_heads: usize,
        head_dim: usize,
        n_ctx: usize,
    ) -> Option<usize> {
        let positions = n_ctx.checked_next_multiple_of(SPAN)?;
        let element = match kind {
            KvType::F16 => size_of::<u16>(),
            KvType::F32 => size_of::<f32>(),
        };
        [n_layers, n_kv_heads, head_dim, 2 * element]
            .iter()
            .try_fold(positions, |n, &f| n.checked_mul(f))
    }

    /// An empty cache. Its zero pages take no memory before they are written.
    pub fn new(
        kind: KvType,
        n_layers: usize,
        n_kv_heads: usize,
        head_dim: usize,
        n_ctx: usize,
    ) -> Self {
        match kind {
            KvType::F16 => Self::F16(Cache::new(n_layers, n_kv_heads, head_dim, n_ctx)),
            KvType::F32 => Self::F32(Cache::new(n_layers, n_kv_heads, head_dim, n_ctx)),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::F16(cache) => cache.bytes(),
            Self::F32(cache) => cache.bytes(),
        }
    }

    /// Bytes that lie in memory: positions that were never written do not.
    pub fn bytes_in_memory(&self) -> Option<u64> {
        match self {
            Self::F16(c) => Some(bytes_in_memory(&c.keys)? + bytes_in_memory(&c.values)?),
            Self::F32(c) => Some(bytes_in_memory(&c.keys)? + bytes_in_memory(&c.values)?),
        }
    }

    /// Stores one position's key and value, both `[n_kv_heads, head_dim]`.
    pub fn store(&mut self, layer: usize, position: usize, key: &[f32], value: &[f32]) {
        match self {
            Self::F16(cache) => cache.store(layer, position, key, value),
            Self::F32(cache) => cache.store(layer, position, key, value),
        }
    }

    /// `out[t] = softmax(q[t] · K / √head_dim) · V` over positions `0..=first + t`; `out` is
    /// `[m, n_heads * head_dim]`.
    pub fn attend(
        &self,
        pool: &mut Pool,
        layer: usize,
        first: usize,
        queries: Queries<'_>,
        out: &mut [f32],
    ) {
        match self {
            Self::F16(cache) => cache.attend(pool, layer, first, queries, out),
            Self::F32(cache) => cache.attend(pool, layer, first, queries, out),
        }
    }
}

impl<E: Stored> Cache<E> {
    fn new(n_layers: usize, n_kv_heads: usize, head_dim: usize, n_ctx: usize) -> Self {
        let capacity = n_ctx.next_multiple_of(SPAN);
        let n = n_layers * n_kv_heads * head_dim * capacity;
        Self { keys: vec![E::ZERO; n], values: vec![E::ZERO; n], n_kv_heads, head_dim, capacity }
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.keys[..]) + size_of_val(&self.values[..])
    }

    /// Where a head's keys (and values) begin.
    fn base(&self, layer: usize, kv_head: usize) -> usize {
        (layer * self.n_kv_heads + kv_head) * self.capacity * self.head_dim
    }

    fn store(&mut self, layer: usize, position: usize, key: &[f32], value: &[f32]) {
        assert!(position < self.capacity);
        let dim = self.head_dim;
        for (head, (k, v)) in key.chunks_exact(dim).zip(value.chunks_exact(dim)).enumerate() {
            let base = self.base(layer, head);
            let span = &mut self.keys[base + position / SPAN * SPAN * dim..][..SPAN * dim];
            for (row, &k) in span.chunks_exact_mut(SPAN).zip(k) {
                E::narrow(&[k], &mut row[position % SPAN..][..1]);
            }
            E::narrow(v, &mut self.values[base + position * dim..][..dim]);
        }
    }

    fn attend(
        &self,
        pool: &mut Pool,
        layer: usize,
        first: usize,
        queries: Queries<'_>,
        out: &mut [f32],
    ) {
        let n_heads = queries.n_heads;
        let width = n_heads * self.head_dim;
        let m = out.len() / width;
        let blocks = m.div_ceil(TOKENS);
        let out = Scatter::new(out);
        pool.run(blocks * self.n_kv_heads, 1, |items| {
            for item in items {
                // The last tokens of a prompt have the most to do: they come first.
                let block = blocks - 1 - item / self.n_kv_heads;
                let tokens = block * TOKENS..m.min((block + 1) * TOKENS);
                let task = Task {
                    cache: self,
                    layer,
                    kv_head: item % self.n_kv_heads,
                    group: n_heads / self.n_kv_heads,
                    first,
                    queries,
                };
                task.run(tokens, |t, start, result| {
                    let at = t * width + start;
                    // SAFETY: each item has its own tokens and heads.
                    unsafe { out.get(at..at + result.len()) }.copy_from_slice(result);
                });
            }
        });
    }
}

/// Some tokens' query heads that share one key/value head.
struct Task<'a, E> {
    cache: &'a Cache<E>,
    layer: usize,
    kv_head: usize,
    group: usize,
    first: usize,
    queries: Queries<'a>,
}

/// A thread's buffers.
#[derive(Default)]
struct Scratch {
    /// `[queries, positions]`.
    scores: Vec<f32>,
    /// One span of keys or values in f32.
    span: Vec<f32>,
    /// `[queries, head_dim]`.
    sums: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<E: Stored> Task<'_, E> {
    /// Calls `put(token, start of the head in a row, values)` for each query.
    fn run(&self, tokens: std::ops::Range<usize>, mut put: impl FnMut(usize, usize, &[f32])) {
        let dim = self.cache.head_dim;
        let n_queries = tokens.len() * self.group;
        // Query i: token i / group, head i % group of this group.
        let heads = self.kv_head * self.group;
        let query = |i: usize| {
            let at = (tokens.start + i / self.group) * self.queries.stride;
            &self.queries.values[at + (heads + i % self.group) * dim..][..dim]
        };
        let visible = |i: usize| self.first + tokens.start + i / self.group + 1;
        let longest = self.first + tokens.end;
        let padded = longest.next_multiple_of(SPAN);
        let base = self.cache.base(self.layer, self.kv_head);

        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { scores, span, sums } = scratch;
            scores.resize(n_queries * padded, 0.0);
            span.resize(SPAN * dim, 0.0);
            sums.clear();
            sums.resize(n_queries * dim, 0.0);

            let scale = 1.0 / (dim as f32).sqrt();
            for start in (0..padded).step_by(SPAN) {
                E::widen(&self.cache.keys[base + start * dim..][..SPAN * dim], span);
                for i in 0..n_queries {
                    let mut lanes = [0.0f32; SPAN];
                    for (keys, &q) in span.chunks_exact(SPAN).zip(query(i)) {
                        for (lane, &k) in lanes.iter_mut().zip(keys) {
                            *lane = madd(k, q, *lane);
                        }
                    }
                    let row = &mut scores[i * padded + start..][..SPAN];
                    for (score, lane) in row.iter_mut().zip(lanes) {
                        *score = lane * scale;
                    }
                }
            }
            for i in 0..n_queries {
                let (seen, unseen) = scores[i * padded..][..padded].split_at_mut(visible(i));
                softmax(seen);
                unseen.fill(0.0);
            }
            for start in (0..longest).step_by(SPAN) {
                let n = SPAN.min(longest - start);
                let values = &mut span[..n * dim];
                E::widen(&self.cache.values[base + start * dim..][..n * dim], values);
                for (i, sum) in sums.chunks_exact_mut(dim).enumerate() {
                    let weights = &scores[i * padded + start..][..n];
                    // Four positions per pass: a quarter of the loads and stores of `sum`.
                    for (weights, values) in weights.chunks(4).zip(values.chunks(4 * dim)) {
                        add_weighted(sum, weights, values);
                    }
                }
            }
            for (i, sum) in sums.chunks_exact(dim).enumerate() {
                put(tokens.start + i / self.group, (heads + i % self.group) * dim, sum);
            }
        });
    }
}

/// `sum += Σ weights[j] · values[j]`, with `values` `[len of weights, len of sum]`.
fn add_weighted(sum: &mut [f32], weights: &[f32], values: &[f32]) {
    let dim = sum.len();
    if let (&[a, b, c, d], true) = (weights, values.len() == 4 * dim) {
        let (first, second) = values.split_at(2 * dim);
        let ((v0, v1), (v2, v3)) = (first.split_at(dim), second.split_at(dim));
        for ((((s, v0), v1), v2), v3) in sum.iter_mut().zip(v0).zip(v1).zip(v2).zip(v3) {
            *s = madd(d, *v3, madd(c, *v2, madd(b, *v1, madd(a, *v0, *s))));
        }
        return;
    }
    for (&w, value) in weights.iter().zip(values.chunks_exact(dim)) {
        for (s, v) in sum.iter_mut().zip(value) {
            *s = madd(w, *v, *s);
        }
    }
}
