//! A LLaMA over mapped weights: `forward` runs tokens of one or several sequences through the
//! layers, `logits` through the output head.

use llm_bench_protocol::{EngineError, ErrorKind};

use crate::attention::{Block, CacheShape, KvCache, Place, Projected};
use crate::config::Config;
use crate::kernels::{Cpu, Isa, with_cpu};
use crate::linear::{Arithmetic, Multiplier};
use crate::math::{all_finite, argmax, rms_norm};
use crate::pool::{Pool, Scatter};
use crate::resident::bytes_in_memory;
use crate::rope::Rope;
use crate::spans::{Spans, Stage};
use crate::weights::{Gguf, Matrix};

/// Tokens that pass through the layers together; a longer prompt takes several passes. Each pass
/// unpacks all weights once more (4 % of the time of 256 tokens), and its buffers take 44 kB per
/// token.
pub const BATCH: usize = 256;

/// The weights of one layer.
pub struct Layer {
    pub attn_norm: Vec<f32>,
    pub q: Matrix,
    pub k: Matrix,
    pub v: Matrix,
    pub o: Matrix,
    pub ffn_norm: Vec<f32>,
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
}

impl Layer {
    pub fn matrices(&self) -> [&Matrix; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }
}

/// The weights: matrices inside the mapped file, vectors as f32.
pub struct Weights {
    pub embedding: Matrix,
    pub layers: Vec<Layer>,
    pub output_norm: Vec<f32>,
    /// The output head, unless it is the embedding.
    pub output: Option<Matrix>,
    pub rope_factors: Option<Vec<f32>>,
}

impl Weights {
    /// Finds every tensor and reads none of the matrices.
    pub fn find(gguf: &Gguf, config: &Config) -> Result<Self, EngineError> {
        let c = config;
        let matrix = |name: &str, rows, columns| gguf.matrix(name, rows, columns);
        let output = match gguf.has("output.weight") {
            true => Some(matrix("output.weight", c.n_vocab, c.hidden)?),
            false => None,
        };
        let mut layers = Vec::with_capacity(c.n_layers.min(1 << 10));
        for i in 0..c.n_layers {
            let name = |part: &str| format!("blk.{i}.{part}.weight");
            layers.push(Layer {
                attn_norm: gguf.vector(&name("attn_norm"), c.hidden)?,
                q: matrix(&name("attn_q"), c.q_dim(), c.hidden)?,
                k: matrix(&name("attn_k"), c.kv_dim(), c.hidden)?,
                v: matrix(&name("attn_v"), c.kv_dim(), c.hidden)?,
                o: matrix(&name("attn_output"), c.hidden, c.q_dim())?,
                ffn_norm: gguf.vector(&name("ffn_norm"), c.hidden)?,
                gate: matrix(&name("ffn_gate"), c.ffn, c.hidden)?,
                up: matrix(&name("ffn_up"), c.ffn, c.hidden)?,
                down: matrix(&name("ffn_down"), c.hidden, c.ffn)?,
            });
        }
        let rope_factors = match gguf.has("rope_freqs.weight") {
            true => Some(gguf.vector("rope_freqs.weight", c.head_dim / 2)?),
            false => None,
        };
        Ok(Self {
            embedding: gguf.matrix("token_embd.weight", c.n_vocab, c.hidden)?,
            layers,
            output_norm: gguf.vector("output_norm.weight", c.hidden)?,
            output,
            rope_factors,
        })
    }

    fn head(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    pub fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.layers.iter().flat_map(Layer::matrices).chain([&self.embedding]).chain(&self.output)
    }

    /// The vectors that norms multiply with.
    pub fn vectors(&self) -> impl Iterator<Item = &[f32]> {
        let layers = self.layers.iter().flat_map(|l| [&l.attn_norm[..], &l.ffn_norm[..]]);
        layers.chain([&self.output_norm[..]])
    }

    /// The first matrix, in the order of computation, with a weight that is no finite number: its
    /// name, the index of the weight, and its value. Reads them all.
    pub fn first_not_finite(&self) -> Option<(String, usize, f32)> {
        let mut named = vec![("token_embd.weight".to_string(), &self.embedding)];
        for (i, l) in self.layers.iter().enumerate() {
            let parts = [
                ("attn_q", &l.q),
                ("attn_k", &l.k),
                ("attn_v", &l.v),
                ("attn_output", &l.o),
                ("ffn_gate", &l.gate),
                ("ffn_up", &l.up),
                ("ffn_down", &l.down),
            ];
            named.extend(parts.map(|(part, matrix)| (format!("blk.{i}.{part}.weight"), matrix)));
        }
        named.extend(self.output.iter().map(|matrix| ("output.weight".to_string(), matrix)));
        named.into_iter().find_map(|(name, matrix)| {
            matrix.first_not_finite().map(|(index, value)| (name, index, value))
        })
    }

    /// Bytes that the matrices take in the file.
    pub fn mapped_bytes(&self) -> usize {
        self.matrices().map(Matrix::bytes).sum()
    }

    /// Bytes of the matrices that a decode step multiplies with, by stage.
    pub fn bytes_by_stage(&self) -> [(Stage, usize); 3] {
        let sum = |of: fn(&Layer) -> [&Matrix; 4]| {
            self.layers.iter().flat_map(of).map(Matrix::bytes).sum::<usize>()
        };
        let mlp = |l: &Layer| [&l.gate, &l.up, &l.down].map(Matrix::bytes).iter().sum::<usize>();
        [
            (Stage::Projections, sum(|l| [&l.q, &l.k, &l.v, &l.o])),
            (Stage::Mlp, self.layers.iter().map(mlp).sum()),
            (Stage::Head, self.head().bytes()),
        ]
    }

    /// Bytes of the vectors, which are copied.
    pub fn private_bytes(&self) -> usize {
        let norms = self.layers.iter().map(|l| l.attn_norm.len() + l.ffn_norm.len()).sum::<usize>();
        let factors = self.rope_factors.as_ref().map_or(0, Vec::len);
        size_of::<f32>() * (norms + self.output_norm.len() + factors)
    }

    /// Encodings of the matrices that a decode step reads, in order of bytes, the largest first.
    pub fn encodings(&self) -> Vec<crate::weights::Encoding> {
        let mut by_bytes: Vec<(crate::weights::Encoding, usize)> = Vec::new();
        for matrix in self.layers.iter().flat_map(Layer::matrices).chain([self.head()]) {
            match by_bytes.iter_mut().find(|(e, _)| *e == matrix.encoding()) {
                Some((_, bytes)) => *bytes += matrix.bytes(),
                None => by_bytes.push((matrix.encoding(), matrix.bytes())),
            }
        }
        by_bytes.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        by_bytes.into_iter().map(|(e, _)| e).collect()
    }
}

/// The model with its cache and buffers.
pub struct Model {
    pub config: Config,
    pub weights: Weights,
    rope: Rope,
    cache: KvCache,
    pool: Pool,
    multiplier: Multiplier,
    buffers: Buffers,
    /// Sequences, and positions of each.
    sequences: usize,
    n_ctx: usize,
    isa: Isa,
    /// Where the time goes, while a profile is being taken.
    pub spans: Spans,
    /// The seed by which each layer's result is perturbed, if it is.
    pub jitter: Option<u64>,
    /// While a fault is looked for: the first layer behind which a value was no finite number.
    watch: Option<FirstBad>,
}

/// The first layer whose result has a value that is no finite number.
#[derive(Default)]
struct FirstBad(Option<usize>);

/// Consecutive tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    pub sequence: usize,
    /// The position of the first token.
    pub first: usize,
    pub tokens: &'a [u32],
}

/// Activations of one batch; rows are tokens.
struct Buffers {
    /// The residual stream, `[BATCH, hidden]`.
    x: Vec<f32>,
    /// After a norm, `[BATCH, hidden]`; then attention's result, `[BATCH, q_dim]`.
    h: Vec<f32>,
    /// `[BATCH, q | k | v]`.
    qkv: Vec<f32>,
    /// `[BATCH, rope pairs]`.
    angles: Vec<(f32, f32)>,
    blocks: Vec<Block>,
    /// `[sequences, n_vocab]`.
    logits: Vec<f32>,
}

impl Model {
    /// Allocates cache and buffers for some sequences of `n_ctx` positions each; refuses more than
    /// the machine can hold.
    pub fn new(
        path: &str,
        config: Config,
        weights: Weights,
        (sequences, n_ctx): (usize, usize),
        threads: usize,
        arithmetic: Arithmetic,
    ) -> Result<Self, EngineError> {
        assert!(sequences <= BATCH);
        let c = &config;
        let ram = total_ram();
        let kv_type = arithmetic.kv_type();
        let shape = CacheShape {
            sequences,
            layers: c.n_layers,
            kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            n_ctx,
        };
        let kv = KvCache::bytes_for(kv_type, shape);
        if kv.is_none_or(|bytes| bytes as u64 > ram) {
            let need = kv.map_or("more than 2^64".to_string(), |bytes| bytes.to_string());
            let (each, fewer) = match sequences {
                1 => (String::new(), "ask for a smaller n_ctx"),
                n => (format!(" for each of {n} sequences"), "ask for a smaller n_ctx or batch"),
            };
            return Err(EngineError::new(
                ErrorKind::Oom,
                format!(
                    "{path}: a KV cache of {n_ctx} positions{each} takes {need} bytes, this machine \
                     has {ram}; {fewer}"
                ),
            ));
        }
        let pool = Pool::new(threads).map_err(|e| {
            EngineError::new(ErrorKind::Internal, format!("cannot start {threads} threads: {e}"))
        })?;
        let batch = BATCH.min(sequences.saturating_mul(n_ctx));
        let rope = Rope::new(c.rope_base, c.head_dim, weights.rope_factors.as_deref());
        let buffers = Buffers {
            x: vec![0.0; batch * c.hidden],
            h: vec![0.0; batch * c.hidden.max(c.q_dim())],
            qkv: vec![0.0; batch * (c.q_dim() + 2 * c.kv_dim())],
            angles: vec![(1.0, 0.0); batch * rope.pairs()],
            blocks: Vec::new(),
            logits: vec![0.0; sequences * c.n_vocab],
        };
        Ok(Self {
            cache: KvCache::new(kv_type, shape),
            multiplier: Multiplier::new(arithmetic),
            rope,
            pool,
            buffers,
            sequences,
            n_ctx,
            isa: arithmetic.isa,
            spans: Spans::default(),
            jitter: None,
            watch: None,
            config,
            weights,
        })
    }

    /// Positions that the cache has room for, of each sequence.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Sequences that the cache has room for.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    pub fn kv_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// How many of those bytes are in memory now; `None` if the kernel does not report it.
    pub fn kv_bytes_in_memory(&self) -> Option<u64> {
        self.cache.bytes_in_memory()
    }

    /// Bytes of the activation buffers that are in memory now.
    pub fn activation_bytes_in_memory(&self) -> Option<u64> {
        let b = &self.buffers;
        let floats = [&b.x, &b.h, &b.qkv, &b.logits];
        let floats = floats.into_iter().map(|v| bytes_in_memory(v)).sum::<Option<u64>>()?;
        Some(floats + bytes_in_memory(&b.angles)? + self.multiplier.bytes_in_memory()?)
    }

    /// Bytes of the activation buffers.
    pub fn activation_bytes(&self) -> usize {
        let b = &self.buffers;
        let floats = [&b.x, &b.h, &b.qkv, &b.logits];
        floats.iter().map(|v| size_of_val(&v[..])).sum::<usize>()
            + size_of_val(&b.angles[..])
            + self.multiplier.bytes()
    }

    /// Runs at most `BATCH` tokens of the first sequence at positions `first..` through all layers.
    /// Their final residuals stay in row 0.. for `logits`.
    pub fn forward(&mut self, tokens: &[u32], first: usize) {
        self.forward_parts(&[Part { sequence: 0, first, tokens }]);
    }

    /// `forward` for parts of several sequences, each at most once, with at most `BATCH` tokens
    /// together. Rows are in the order of the parts.
    pub fn forward_parts(&mut self, parts: &[Part<'_>]) {
        let c = &self.config;
        let m: usize = parts.iter().map(|part| part.tokens.len()).sum();
        assert!(m <= BATCH && parts.iter().all(|p| p.first + p.tokens.len() <= self.n_ctx));
        let (hidden, q_dim, kv_dim) = (c.hidden, c.q_dim(), c.kv_dim());
        let width = q_dim + 2 * kv_dim;
        let pairs = self.rope.pairs();
        let (pool, multiplier) = (&mut self.pool, &mut self.multiplier);
        let (isa, spans) = (self.isa, &mut self.spans);
        let b = &mut self.buffers;
        let x = &mut b.x[..m * hidden];
        let shared = &mut b.h;
        let qkv = &mut b.qkv[..m * width];
        let angles = &mut b.angles[..m * pairs];

        spans.resume();
        b.blocks.clear();
        let mut row = 0;
        for Part { sequence, first, tokens } in parts {
            b.blocks.extend(Block::cut(*sequence, *first, row..row + tokens.len()));
            for (t, &token) in tokens.iter().enumerate() {
                let x = &mut x[row * hidden..][..hidden];
                self.weights.embedding.dequantize_row(token as usize, x);
                self.rope.angles(first + t, &mut angles[row * pairs..][..pairs]);
                row += 1;
            }
        }
        Block::order(&mut b.blocks);
        spans.end(Stage::Embedding);
        for (i, layer) in self.weights.layers.iter().enumerate() {
            let h = &mut shared[..m * hidden];
            norm_rows(isa, pool, x, &layer.attn_norm, c.norm_eps, h);
            spans.end(Stage::Norm);
            multiplier.multiply(pool, &[&layer.q, &layer.k, &layer.v], h, qkv, false);
            spans.end(Stage::Projections);
            let attended = &mut shared[..m * q_dim];
            let place = Place { layer: i, blocks: &b.blocks, angles };
            let projected = Projected { values: qkv, stride: width, n_heads: c.n_heads };
            self.cache.attend(isa, pool, place, projected, attended);
            spans.end(Stage::Attention);
            multiplier.multiply(pool, &[&layer.o], attended, x, true);
            spans.end(Stage::Projections);

            let h = &mut shared[..m * hidden];
            norm_rows(isa, pool, x, &layer.ffn_norm, c.norm_eps, h);
            spans.end(Stage::Norm);
            multiplier.mlp(pool, [&layer.gate, &layer.up, &layer.down], h, x);
            spans.end(Stage::Mlp);
            if let Some(seed) = self.jitter {
                let mut rest = &mut *x;
                for part in parts {
                    let (rows, after) = rest.split_at_mut(part.tokens.len() * hidden);
                    jitter(rows, seed ^ ((i as u64) << 32), part.first * hidden);
                    rest = after;
                }
            }
            if let Some(FirstBad(found @ None)) = &mut self.watch
                && !all_finite(x)
            {
                *found = Some(i);
            }
        }
    }

    /// Runs tokens as `forward` does, and says behind which layer a value is first no finite
    /// number.
    pub fn first_bad_layer(&mut self, tokens: &[u32], first: usize) -> Option<usize> {
        self.watch = Some(FirstBad::default());
        self.forward(tokens, first);
        self.watch.take().and_then(|FirstBad(layer)| layer)
    }

    /// Computes the logits of row `t` of the last `forward`, for `last_logits`. They are NaN where the
    /// row is not finite: rounding to int8 would hide it.
    pub fn logits(&mut self, t: usize) {
        let hidden = self.config.hidden;
        let b = &mut self.buffers;
        let h = &mut b.h[..hidden];
        let x = &b.x[t * hidden..][..hidden];
        self.spans.resume();
        norm_rows(self.isa, &mut self.pool, x, &self.weights.output_norm, self.config.norm_eps, h);
        self.spans.end(Stage::Norm);
        let (head, logits) = (self.weights.head(), &mut b.logits[..self.config.n_vocab]);
        self.multiplier.multiply(&mut self.pool, &[head], h, logits, false);
        if !all_finite(x) {
            logits.fill(f32::NAN);
        }
        self.spans.end(Stage::Head);
    }

    /// The latest result of `logits`: `[n_vocab]`.
    pub fn last_logits(&self) -> &[f32] {
        &self.buffers.logits[..self.config.n_vocab]
    }

    /// The final residual of row `t` of the last `forward_parts`: `[hidden]`.
    pub fn residual(&self, t: usize) -> &[f32] {
        let hidden = self.config.hidden;
        &self.buffers.x[t * hidden..][..hidden]
    }

    /// Puts final residuals back, from row 0 on: `[rows, hidden]`.
    pub fn set_residuals(&mut self, rows: &[f32]) {
        self.buffers.x[..rows.len()].copy_from_slice(rows);
    }

    /// Computes the logits of row s for each sequence s, and chooses the likeliest token of each:
    /// calls `put(s, token, whether its logit is finite)` in order.
    pub fn choose(&mut self, mut put: impl FnMut(usize, u32, bool)) {
        let (n, n_vocab) = (self.sequences, self.config.n_vocab);
        self.spans.resume();
        let mut logits = std::mem::take(&mut self.buffers.logits);
        self.logits_of(0..n, &mut logits);
        self.spans.end(Stage::Head);
        let mut best = vec![0usize; n];
        let choices = Scatter::new(&mut best);
        self.pool.run(n, 1, |rows| {
            for s in rows {
                // SAFETY: each sequence belongs to one piece of work.
                let choice = unsafe { choices.get(s..s + 1) };
                choice[0] = argmax(&logits[s * n_vocab..][..n_vocab]);
            }
        });
        for (s, &at) in best.iter().enumerate() {
            put(s, at as u32, logits[s * n_vocab + at].is_finite());
        }
        self.buffers.logits = logits;
        self.spans.end(Stage::Sampling);
    }

    /// The logits of sequence `s` by the last `choose`: `[n_vocab]`.
    pub fn logits_of_sequence(&self, s: usize) -> &[f32] {
        let n_vocab = self.config.n_vocab;
        &self.buffers.logits[s * n_vocab..][..n_vocab]
    }

    /// Writes the logits of rows `rows` of the last `forward`, `[rows, n_vocab]`, to `out`.
    pub fn logits_of(&mut self, rows: std::ops::Range<usize>, out: &mut [f32]) {
        let hidden = self.config.hidden;
        let b = &mut self.buffers;
        let h = &mut b.h[..rows.len() * hidden];
        let x = &b.x[rows.start * hidden..rows.end * hidden];
        norm_rows(self.isa, &mut self.pool, x, &self.weights.output_norm, self.config.norm_eps, h);
        self.multiplier.multiply(&mut self.pool, &[self.weights.head()], h, out, false);
        let n_vocab = self.config.n_vocab;
        for (row, x) in out.chunks_exact_mut(n_vocab).zip(x.chunks_exact(hidden)) {
            if !all_finite(x) {
                row.fill(f32::NAN);
            }
        }
    }
}

/// Multiplies each value by 1 + u·2⁻¹¹, half a step of f16, which keys, values and weights are
/// rounded to. u is uniform in ±1 and depends on the seed and on the value's place alone; `place` is
/// that of the first one.
fn jitter(x: &mut [f32], seed: u64, place: usize) {
    const STEP: f32 = 1.0 / 2048.0;
    for (i, value) in x.iter_mut().enumerate() {
        // SplitMix64 (Steele, Lea and Flood 2014).
        let mut z = ((place + i) as u64 ^ seed.rotate_left(17)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let u = ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        *value *= 1.0 + u * STEP;
    }
}

/// Normalizes rows of the length of `weight`.
fn norm_rows(isa: Isa, pool: &mut Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    let (m, out) = (x.len() / n, Scatter::new(out));
    with_cpu!(isa, cpu => pool.run(m, 4, |tokens| {
        for t in tokens {
            // SAFETY: each token's row belongs to one piece of work.
            let out = unsafe { out.get(t * n..(t + 1) * n) };
            cpu.run(|| rms_norm(&x[t * n..][..n], weight, eps, out));
        }
    }));
}

/// Physical memory of the machine in bytes; unlimited if unknown.
fn total_ram() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let info = rustix::system::sysinfo();
        info.totalram as u64 * info.mem_unit as u64
    }
    #[cfg(not(target_os = "linux"))]
    {
        u64::MAX
    }
}
