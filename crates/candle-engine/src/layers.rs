//! The engine's products and attention one at a time, over memory of the caller's, for programs that
//! bring the rest of the model: `crates/candle-abi` passes them on to other languages.

use llm_bench_gguf::StoredType;

use crate::attention::{Block, CacheShape, Place, Projected, attend_in};
use crate::kernels::{Isa, SPAN};
use crate::linear::{Arithmetic, Multiplier};
use crate::math::all_finite;
use crate::model::BATCH;
use crate::pool::Pool;
use crate::weights::{Encoding, Matrix};

/// One tensor of a layer, in the blocks of a GGUF file.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// `ggml_type`.
    pub kind: u32,
    pub rows: usize,
    pub columns: usize,
    pub bytes: &'static [u8],
}

/// Matrices that read the same input; their products follow one another.
pub struct Layer {
    matrices: Vec<Matrix>,
    rows: usize,
    columns: usize,
}

impl Layer {
    /// A layer over these bytes, which are used in place. The error says which type or length does
    /// not fit.
    pub fn new(parts: &[Part]) -> Result<Self, String> {
        let columns = parts.first().ok_or("expected at least one tensor, found none")?.columns;
        let matrices = parts.iter().map(|part| matrix(part, columns));
        let matrices = matrices.collect::<Result<Vec<_>, _>>()?;
        let rows = parts.iter().try_fold(0usize, |sum, part| sum.checked_add(part.rows));
        Ok(Self { matrices, rows: rows.ok_or("the rows overflow")?, columns })
    }
}

fn matrix(part: &Part, columns: usize) -> Result<Matrix, String> {
    let Part { kind, rows, bytes, .. } = *part;
    let stored = StoredType::of(kind);
    let encoding = encoding(kind)?;
    if part.columns != columns || rows == 0 || columns == 0 {
        let found = part.columns;
        return Err(format!("expected rows, and {columns} columns: found {rows} rows of {found}"));
    }
    if !columns.is_multiple_of(stored.block_size()) {
        let size = stored.block_size();
        return Err(format!("{columns} columns of {}: expected blocks of {size}", encoding.name()));
    }
    let size = (columns / stored.block_size()).checked_mul(stored.block_bytes());
    let size = size.and_then(|row| row.checked_mul(rows));
    if size != Some(bytes.len()) || !bytes.as_ptr().addr().is_multiple_of(4) {
        let (name, found) = (encoding.name(), bytes.len());
        let expected = size.map_or("more than fit".into(), |size| size.to_string());
        return Err(format!(
            "{rows} rows of {columns} as {name}: expected {expected} bytes at a multiple of 4, \
             found {found} at {:p}",
            bytes.as_ptr()
        ));
    }
    Ok(Matrix::in_memory(bytes, encoding, rows, columns))
}

/// The encoding of a `ggml_type`.
fn encoding(kind: u32) -> Result<Encoding, String> {
    let stored = StoredType::of(kind);
    Encoding::of(stored).ok_or_else(|| {
        format!(
            "ggml type {kind} ({}): expected one of {}",
            stored.label(),
            Encoding::NAMES.join(", ")
        )
    })
}

/// The heads of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

/// Threads and buffers for products and attention.
pub struct Kernels {
    arithmetic: Arithmetic,
    pool: Pool,
    multiplier: Multiplier,
    angles: Vec<(f32, f32)>,
    blocks: Vec<Block>,
}

impl Kernels {
    /// The best kernels for this processor, on `threads` threads, of which the caller's is one.
    pub fn new(threads: usize) -> Result<Self, String> {
        if threads == 0 {
            return Err("expected at least one thread".into());
        }
        let pool =
            Pool::new(threads).map_err(|e| format!("cannot start {threads} threads: {e}"))?;
        let arithmetic = Arithmetic::new(Isa::detect());
        let multiplier = Multiplier::new(arithmetic);
        Ok(Self { arithmetic, pool, multiplier, angles: Vec::new(), blocks: Vec::new() })
    }

    /// Threads that they run on.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set.
    pub fn isa(&self) -> &'static str {
        self.arithmetic.name()
    }

    /// A note for readers if prefill computes products in another type than decode.
    pub fn of_prompts(&self) -> Option<String> {
        self.arithmetic.of_prompts()
    }

    /// The type in which decode computes products of a `ggml_type`.
    pub fn compute(&self, kind: u32) -> Result<&'static str, String> {
        encoding(kind).map(|encoding| self.arithmetic.compute(encoding))
    }

    /// `out[t] = layer · x[t]`: `x` is `[tokens, columns]`, `out` is `[tokens, rows]`. Where a token's
    /// `x` is not finite, its products are NaN: rounding to int8 would hide it.
    pub fn multiply(&mut self, layer: &Layer, x: &[f32], out: &mut [f32]) -> Result<(), String> {
        let Layer { matrices, rows, columns } = layer;
        let tokens = x.len() / columns;
        if tokens == 0 || [x.len(), out.len()] != [tokens * columns, tokens.saturating_mul(*rows)] {
            return Err(format!(
                "expected tokens of {columns} values and {rows} products, found {} and {}",
                x.len(),
                out.len()
            ));
        }
        let parts: Vec<&Matrix> = matrices.iter().collect();
        for (x, out) in x.chunks(BATCH * columns).zip(out.chunks_mut(BATCH * rows)) {
            self.multiplier.multiply(&mut self.pool, &parts, x, out, false);
        }
        for (x, out) in x.chunks_exact(*columns).zip(out.chunks_exact_mut(*rows)) {
            if !all_finite(x) {
                out.fill(f32::NAN);
            }
        }
        Ok(())
    }

    /// Rotates the tokens' queries and keys in place by their angles, stores keys and values at
    /// positions `first`…, and computes causal attention over all positions up to each token's own.
    ///
    /// `qkv` is `[tokens, heads + 2 kv_heads, head_dim]`; `angles` is `[tokens, 2, head_dim / 2]`, the
    /// cosines of pairs (2i, 2i + 1) and then their sines; `out` is `[tokens, heads, head_dim]`. The
    /// cache is f16 bits in whole spans of 16 positions: `keys` `[kv_heads, positions / 16, head_dim,
    /// 16]`, `values` `[kv_heads, positions, head_dim]`.
    pub fn attend(
        &mut self,
        heads: Heads,
        (keys, values): (&mut [u16], &mut [u16]),
        first: usize,
        (qkv, angles): (&mut [f32], &[f32]),
        out: &mut [f32],
    ) -> Result<(), String> {
        let Heads { heads: n_heads, kv_heads, head_dim } = heads;
        let sizes = [n_heads, kv_heads, head_dim].iter().all(|n| (1..1 << 16).contains(n));
        if !sizes || !n_heads.is_multiple_of(kv_heads) || !head_dim.is_multiple_of(2) {
            return Err(format!(
                "expected heads in groups for each key/value head, of an even size: found {heads:?}"
            ));
        }
        let stride = (n_heads + 2 * kv_heads) * head_dim;
        let (tokens, n_ctx) = (qkv.len() / stride, keys.len() / (kv_heads * head_dim));
        let fits = n_ctx.is_multiple_of(SPAN)
            && tokens > 0
            && [keys.len(), values.len()] == [n_ctx * kv_heads * head_dim; 2]
            && [qkv.len(), angles.len(), out.len()]
                == [tokens * stride, tokens * head_dim, tokens * n_heads * head_dim];
        if !fits {
            return Err(format!(
                "{heads:?}: expected keys, values, queries with keys and values, angles and results \
                 in whole spans and tokens, found {:?}",
                [keys.len(), values.len(), qkv.len(), angles.len(), out.len()]
            ));
        }
        if first.checked_add(tokens).is_none_or(|end| end > n_ctx) {
            return Err(format!("{tokens} tokens from position {first}: the cache has {n_ctx}"));
        }
        self.angles.clear();
        for of_token in angles.chunks_exact(head_dim) {
            let (cos, sin) = of_token.split_at(head_dim / 2);
            self.angles.extend(cos.iter().copied().zip(sin.iter().copied()));
        }
        self.blocks.clear();
        self.blocks.extend(Block::cut(0, first, 0..tokens));
        Block::order(&mut self.blocks);
        let shape = CacheShape { sequences: 1, layers: 1, kv_heads, head_dim, n_ctx };
        let at = Place { layer: 0, blocks: &self.blocks, angles: &self.angles };
        let projected = Projected { values: qkv, stride, n_heads };
        let cache = (keys, values, shape);
        attend_in(self.arithmetic.isa, &mut self.pool, cache, at, projected, out);
        Ok(())
    }
}
