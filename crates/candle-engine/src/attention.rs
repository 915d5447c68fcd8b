//! The KV cache and causal attention over its filled part. Query heads that share a key/value head
//! are computed together, so nothing is repeated in memory.

use std::array::from_fn;
use std::cell::RefCell;
use std::ops::Range;

use crate::kernels::{Cpu, Isa, SPAN, with_cpu};
use crate::math::softmax;
use crate::pool::{Pool, Scatter};
use crate::resident::bytes_in_memory;
use crate::rope::rotate;

/// Tokens of a prompt that share one pass over the cache.
const TOKENS: usize = 8;
/// Queries whose scores, and whose weighted values, are computed at once.
const SCORED: usize = 8;
const WEIGHED: usize = 4;

/// The type in which the cache keeps keys and values.
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

/// A number as the cache stores it. Its zero is all zero bits, so that a new cache is untouched
/// memory.
pub trait Stored: Copy + Send + Sync + 'static {
    const ZERO: Self;
    fn narrow<C: Cpu>(cpu: C, values: &[f32], out: &mut [Self]);
    fn widen<C: Cpu>(cpu: C, values: &[Self], out: &mut [f32]);
}

/// The bits of an f16.
impl Stored for u16 {
    const ZERO: Self = 0;

    fn narrow<C: Cpu>(cpu: C, values: &[f32], out: &mut [Self]) {
        cpu.narrow(values, out);
    }

    fn widen<C: Cpu>(cpu: C, values: &[Self], out: &mut [f32]) {
        cpu.widen(values, out);
    }
}

impl Stored for f32 {
    const ZERO: Self = 0.0;

    fn narrow<C: Cpu>(_: C, values: &[f32], out: &mut [Self]) {
        out.copy_from_slice(values);
    }

    fn widen<C: Cpu>(_: C, values: &[Self], out: &mut [f32]) {
        out.copy_from_slice(values);
    }
}

/// The cache in one type.
pub struct Cache<E> {
    /// `[sequence][layer][kv_head][position / 16][head_dim][16]`: sixteen scores need no horizontal
    /// sum.
    keys: Vec<E>,
    /// `[sequence][layer][kv_head][position][head_dim]`.
    values: Vec<E>,
    /// With positions rounded up to whole spans.
    shape: CacheShape,
}

/// What a cache has room for.
#[derive(Debug, Clone, Copy)]
pub struct CacheShape {
    pub sequences: usize,
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Positions of each sequence.
    pub n_ctx: usize,
}

/// Keys and values in one type: the cache's own, or memory of a caller's.
struct Slots<'a, E> {
    keys: &'a mut [E],
    values: &'a mut [E],
    shape: CacheShape,
}

impl CacheShape {
    /// Index at which a head's keys (and values) begin.
    fn base(self, sequence: usize, layer: usize, kv_head: usize) -> usize {
        let heads = (sequence * self.layers + layer) * self.kv_heads + kv_head;
        heads * self.n_ctx * self.head_dim
    }
}

/// Tokens' rows of queries, keys and values: row `t` starts at `t * stride` and holds
/// `[n_heads + 2 n_kv_heads, head_dim]`.
pub struct Projected<'a> {
    pub values: &'a mut [f32],
    pub stride: usize,
    pub n_heads: usize,
}

/// Rotated queries, as in `Projected`.
#[derive(Clone, Copy)]
struct Queries<'a> {
    values: &'a [f32],
    stride: usize,
}

impl KvCache {
    /// Bytes of a cache of this shape; `None` on overflow.
    pub fn bytes_for(kind: KvType, shape: CacheShape) -> Option<usize> {
        let CacheShape { sequences, layers, kv_heads, head_dim, n_ctx } = shape;
        let positions = n_ctx.checked_next_multiple_of(SPAN)?;
        let element = match kind {
            KvType::F16 => size_of::<u16>(),
            KvType::F32 => size_of::<f32>(),
        };
        [sequences, layers, kv_heads, head_dim, 2 * element]
            .iter()
            .try_fold(positions, |n, &f| n.checked_mul(f))
    }

    /// An empty cache. Its zero pages take no memory until they are written.
    pub fn new(kind: KvType, shape: CacheShape) -> Self {
        match kind {
            KvType::F16 => Self::F16(Cache::new(shape)),
            KvType::F32 => Self::F32(Cache::new(shape)),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::F16(cache) => cache.bytes(),
            Self::F32(cache) => cache.bytes(),
        }
    }

    /// Bytes in memory; positions that were never written take none.
    pub fn bytes_in_memory(&self) -> Option<u64> {
        match self {
            Self::F16(c) => Some(bytes_in_memory(&c.keys)? + bytes_in_memory(&c.values)?),
            Self::F32(c) => Some(bytes_in_memory(&c.keys)? + bytes_in_memory(&c.values)?),
        }
    }

    /// Rotates the tokens' queries and keys by `angles` (`[m, pairs]`), stores keys and values at
    /// their positions, and computes `out[t] = softmax(q[t] · K / √head_dim) · V` over the positions
    /// of the token's sequence up to its own; `out` is `[m, n_heads * head_dim]`.
    pub fn attend(
        &mut self,
        isa: Isa,
        pool: &mut Pool,
        at: Place<'_>,
        projected: Projected<'_>,
        out: &mut [f32],
    ) {
        with_cpu!(isa, cpu => match self {
            Self::F16(cache) => cache.slots().attend(cpu, pool, at, projected, out),
            Self::F32(cache) => cache.slots().attend(cpu, pool, at, projected, out),
        })
    }
}

/// `KvCache::attend` over a cache of f16 bits in memory of the caller's: `keys` and `values` as in
/// `Cache`, in which `n_ctx` is whole spans.
///
/// # Panics
/// If a length is not what `shape` implies.
pub fn attend_in(
    isa: Isa,
    pool: &mut Pool,
    (keys, values, shape): (&mut [u16], &mut [u16], CacheShape),
    at: Place<'_>,
    projected: Projected<'_>,
    out: &mut [f32],
) {
    assert!(shape.n_ctx.is_multiple_of(SPAN) && at.layer < shape.layers);
    assert_eq!([keys.len(), values.len()], [shape.base(shape.sequences, 0, 0); 2]);
    let mut slots = Slots { keys, values, shape };
    with_cpu!(isa, cpu => slots.attend(cpu, pool, at, projected, out));
}

/// The place of the tokens in the model.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub layer: usize,
    /// All tokens, once each.
    pub blocks: &'a [Block],
    /// Cosine and sine of each pair's angle, `[tokens, pairs]`.
    pub angles: &'a [(f32, f32)],
}

/// Consecutive tokens of one sequence that share a pass over its cache.
#[derive(Debug, Clone)]
pub struct Block {
    sequence: usize,
    /// The position of the first token.
    first: usize,
    /// Their rows, at most `TOKENS`.
    rows: Range<usize>,
}

impl Block {
    /// The blocks of tokens at positions `first..` of a sequence, in these rows.
    pub fn cut(sequence: usize, first: usize, rows: Range<usize>) -> impl Iterator<Item = Self> {
        rows.clone().step_by(TOKENS).map(move |row| Self {
            sequence,
            first: first + row - rows.start,
            rows: row..rows.end.min(row + TOKENS),
        })
    }

    /// Puts those with the most work first, so that no thread ends with one of them.
    pub fn order(blocks: &mut [Self]) {
        blocks.sort_by_key(|block| std::cmp::Reverse(block.end()));
    }

    /// The position after the last token.
    fn end(&self) -> usize {
        self.first + self.rows.len()
    }
}

impl<E: Stored> Cache<E> {
    fn new(shape: CacheShape) -> Self {
        let shape = CacheShape { n_ctx: shape.n_ctx.next_multiple_of(SPAN), ..shape };
        let n = shape.base(shape.sequences, 0, 0);
        Self { keys: vec![E::ZERO; n], values: vec![E::ZERO; n], shape }
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.keys[..]) + size_of_val(&self.values[..])
    }

    fn slots(&mut self) -> Slots<'_, E> {
        Slots { keys: &mut self.keys, values: &mut self.values, shape: self.shape }
    }
}

impl<E: Stored> Slots<'_, E> {
    fn attend<C: Cpu>(
        &mut self,
        cpu: C,
        pool: &mut Pool,
        at: Place<'_>,
        projected: Projected<'_>,
        out: &mut [f32],
    ) {
        let Projected { values, stride, n_heads } = projected;
        self.store(cpu, pool, at, Projected { values, stride, n_heads });
        let this = &*self;
        let queries = Queries { values, stride };
        let kv_heads = this.shape.kv_heads;
        let width = n_heads * this.shape.head_dim;
        let out = Scatter::new(out);
        pool.run(at.blocks.len() * kv_heads, 1, |items| {
            for item in items {
                let task = Task {
                    cache: this,
                    layer: at.layer,
                    kv_head: item % kv_heads,
                    group: n_heads / kv_heads,
                    block: &at.blocks[item / kv_heads],
                    queries,
                };
                task.run(cpu, |t, start, result| {
                    let at = t * width + start;
                    // SAFETY: each item has its own rows and heads.
                    unsafe { out.get(at..at + result.len()) }.copy_from_slice(result);
                });
            }
        });
    }

    /// Rotates queries and keys in place; copies keys and values into the cache.
    fn store<C: Cpu>(&mut self, cpu: C, pool: &mut Pool, at: Place<'_>, rows: Projected<'_>) {
        let shape = self.shape;
        let (dim, n_kv) = (shape.head_dim, shape.kv_heads);
        let pairs = dim / 2;
        let m = at.angles.len() / pairs;
        let (stride, q_dim, kv_dim) = (rows.stride, rows.n_heads * dim, n_kv * dim);
        assert!(rows.values.len() >= m * stride);
        for block in at.blocks {
            assert!(block.end() <= shape.n_ctx && block.rows.end <= m);
            assert!(block.sequence < shape.sequences);
        }
        let values = Scatter::new(rows.values);
        let (cached_keys, cached_values) =
            (Scatter::new(&mut *self.keys), Scatter::new(&mut *self.values));
        // About `SPAN` tokens at a time, so that a decode step needs no other thread.
        let chunk = (SPAN * at.blocks.len()).div_ceil(m.max(1));
        pool.run(at.blocks.len(), chunk, |blocks| {
            let mut stored = vec![E::ZERO; kv_dim];
            let tokens = at.blocks[blocks].iter().flat_map(|b| b.rows.clone().map(move |t| (b, t)));
            for (block, t) in tokens {
                let base = |head| shape.base(block.sequence, at.layer, head);
                // SAFETY: each token's row, and each position of a sequence's cache, belongs to one
                // block.
                let row = unsafe { values.get(t * stride..t * stride + q_dim + 2 * kv_dim) };
                let (qk, v) = row.split_at_mut(q_dim + kv_dim);
                cpu.run(|| rotate(qk, dim, &at.angles[t * pairs..][..pairs]));
                E::narrow(cpu, &qk[q_dim..], &mut stored);
                let position = block.first + t - block.rows.start;
                let span = position / SPAN * SPAN * dim + position % SPAN;
                for (head, keys) in stored.chunks_exact(dim).enumerate() {
                    for (d, &key) in keys.iter().enumerate() {
                        let slot = base(head) + span + d * SPAN;
                        // SAFETY: as above.
                        unsafe { cached_keys.get(slot..slot + 1)[0] = key };
                    }
                }
                E::narrow(cpu, v, &mut stored);
                for (head, values) in stored.chunks_exact(dim).enumerate() {
                    let slot = base(head) + position * dim;
                    // SAFETY: as above.
                    unsafe { cached_values.get(slot..slot + dim) }.copy_from_slice(values);
                }
            }
        });
    }
}

/// A block's query heads that share one key/value head.
struct Task<'a, E> {
    cache: &'a Slots<'a, E>,
    layer: usize,
    kv_head: usize,
    group: usize,
    block: &'a Block,
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
    /// Index at which each query begins.
    starts: Vec<usize>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<E: Stored> Task<'_, E> {
    /// Calls `put(row, start of the head in it, values)` for each query.
    fn run<C: Cpu>(&self, cpu: C, mut put: impl FnMut(usize, usize, &[f32])) {
        let (block, tokens) = (self.block, &self.block.rows);
        let dim = self.cache.shape.head_dim;
        let n_queries = tokens.len() * self.group;
        // Query i: row i / group of the block, head i % group of this group.
        let heads = self.kv_head * self.group;
        let start = |i: usize| {
            let token = tokens.start + i / self.group;
            token * self.queries.stride + (heads + i % self.group) * dim
        };
        let visible = |i: usize| block.first + i / self.group + 1;
        let longest = block.end();
        let padded = longest.next_multiple_of(SPAN);
        let base = self.cache.shape.base(block.sequence, self.layer, self.kv_head);

        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { scores, span, sums, starts } = scratch;
            starts.clear();
            starts.extend((0..n_queries).map(start));
            let query = |i: usize| &self.queries.values[starts[i]..][..dim];
            scores.resize(n_queries * padded, 0.0);
            span.resize(SPAN * dim, 0.0);
            sums.clear();
            sums.resize(n_queries * dim, 0.0);

            for start in (0..padded).step_by(SPAN) {
                E::widen(cpu, &self.cache.keys[base + start * dim..][..SPAN * dim], span);
                let mut put = |i: usize, values: &[f32; SPAN]| {
                    scores[i * padded + start..][..SPAN].copy_from_slice(values);
                };
                tiles::<SCORED, WEIGHED>(n_queries, |i, n| match n {
                    SCORED => {
                        let got = cpu.scores::<SCORED>(span, from_fn(|j| query(i + j)));
                        got.iter().enumerate().for_each(|(j, values)| put(i + j, values));
                    }
                    WEIGHED => {
                        let got = cpu.scores::<WEIGHED>(span, from_fn(|j| query(i + j)));
                        got.iter().enumerate().for_each(|(j, values)| put(i + j, values));
                    }
                    _ => put(i, &cpu.scores::<1>(span, [query(i)])[0]),
                });
            }
            let scale = 1.0 / (dim as f32).sqrt();
            cpu.run(|| {
                for i in 0..n_queries {
                    let (seen, unseen) = scores[i * padded..][..padded].split_at_mut(visible(i));
                    softmax(cpu, seen, scale);
                    unseen.fill(0.0);
                }
            });
            for start in (0..longest).step_by(SPAN) {
                let n = SPAN.min(longest - start);
                let values = &mut span[..n * dim];
                E::widen(cpu, &self.cache.values[base + start * dim..][..n * dim], values);
                let weights = |i: usize| &scores[i * padded + start..][..n];
                let mut sums = &mut sums[..];
                tiles::<WEIGHED, 1>(n_queries, |i, n| {
                    let (these, rest) = std::mem::take(&mut sums).split_at_mut(n * dim);
                    sums = rest;
                    let mut these = these.chunks_exact_mut(dim);
                    let mut next = || these.next().expect("n sums");
                    match n {
                        WEIGHED => {
                            let sums: [&mut [f32]; WEIGHED] = from_fn(|_| next());
                            cpu.weigh::<WEIGHED>(values, from_fn(|j| weights(i + j)), sums);
                        }
                        _ => cpu.weigh::<1>(values, [weights(i)], [next()]),
                    }
                });
            }
            for (i, sum) in sums.chunks_exact(dim).enumerate() {
                put(tokens.start + i / self.group, (heads + i % self.group) * dim, sum);
            }
        });
    }
}

/// Covers `0..n` in steps of `A`, `B` or 1; calls `each(first, how many)`.
#[inline(always)]
fn tiles<const A: usize, const B: usize>(n: usize, mut each: impl FnMut(usize, usize)) {
    let mut i = 0;
    while i < n {
        let take = [A, B].into_iter().find(|&size| i + size <= n).unwrap_or(1);
        each(i, take);
        i += take;
    }
}
