//! A LLaMA in a card's memory: weights uploaded once, a step as one launch, a prompt as a few for
//! each layer.

#[cfg(all(test, target_arch = "x86_64"))]
pub mod product;

use std::fs::File;
use std::mem::offset_of;

use super::device::{Address, Device, Fault, Launch, Result, launch};
use super::layout::{Matrix, is_float, vector_bytes};
use super::upload::{Upload, sizes};
use crate::config::Config;
use crate::model::Weights;
use crate::rope::Rope;
use crate::weights;

/// Tokens of a prompt that pass through the layers together.
pub const BATCH: usize = 1024;

/// The warps of a step's block, each of which has a ring of weights in shared memory.
const WARPS: usize = STEP_THREADS as usize / 32;
/// The most bytes of such a ring: more is of no use.
pub const RING: usize = 16 << 10;

const STEP_THREADS: u32 = 512;
/// Query heads that share a pass over the keys: `HEADS_AT_ONCE` of `attention.cuh`.
const HEADS_AT_ONCE: usize = 4;
/// `WORKS_OF_LAYER` of `step.cuh`, and bytes of a `Work` of `ring.cuh`.
const WORKS_OF_LAYER: usize = 6;
const WORK_BYTES: usize = 72;
/// `ARRIVALS_BYTES` of `ring.cuh`: before each warp's ring.
const ARRIVALS_BYTES: usize = 64;
/// The sizes of `multiply` and of `flash_…` in `prompt.cuh`.
const TILE: [u32; 2] = [128, 256];
const DEPTH: u32 = 64;
const STAGE_BYTES: usize = (128 + 256) * 64 * 2;
const QUERIES: usize = 64;

/// `Layer` of `step.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Layer {
    q: Matrix,
    k: Matrix,
    v: Matrix,
    o: Matrix,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    attn_norm: Address,
    ffn_norm: Address,
    keys: Address,
    values: Address,
}

/// `Model` of `step.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Shape {
    embedding: Matrix,
    head: Matrix,
    output_norm: Address,
    angles: Address,
    layers: Address,
    n_layers: u32,
    hidden: u32,
    ffn: u32,
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    n_ctx: u32,
    n_vocab: u32,
    eps: f32,
    ring: u32,
    head_shift: u32,
    before_rings: u32,
}

/// `State` of `step.cuh`.
#[repr(C)]
#[derive(Clone, Copy)]
struct State {
    counter: Address,
    token: Address,
    x: Address,
    q: Address,
    parts: Address,
    h: Address,
    logits: Address,
    best: Address,
    best_at: Address,
    result: Address,
    trace: Address,
    slow_down: f32,
    unused: u32,
}

// The layouts of `step.cuh`, in bytes.
const _: () = assert!(size_of::<Layer>() == 200 && offset_of!(Layer, keys) == 184);
const _: () = assert!(size_of::<Shape>() == 120 && size_of::<State>() == 96);

/// Values that the stages of a prompt pass on.
struct Rows {
    /// f32 `[BATCH, hidden]`.
    x: Address,
    /// f16 `[BATCH, max(hidden, q_dim)]`.
    h: Address,
    /// f16 `[BATCH, q_dim]`.
    q16: Address,
    /// f32 `[BATCH, q_dim]`, where attention takes f32.
    q: Address,
    /// f32 `[BATCH, q | k | v]`, then f16 `[BATCH, ffn]`.
    wide: Address,
    /// u32 `[BATCH]`.
    tokens: Address,
    /// One matrix in f16.
    widened: Address,
    /// f32 sums of products whose columns several blocks share.
    parts: Address,
    /// Blocks of products that the card holds at the same time.
    blocks: u32,
}

/// What a step chose: the likeliest token, and whether every logit is a finite number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    pub token: u32,
    pub finite: bool,
}

pub struct Model<D: Device> {
    pub device: D,
    pub config: Config,
    layers: Vec<Layer>,
    shape: Shape,
    state: State,
    rows: Rows,
    batch: usize,
    step_shared: usize,
    /// How many steps have been started that choose a token.
    chosen: u32,
    /// Bytes of the weights, of the cache, and of everything else on the card.
    pub weight_bytes: usize,
    pub kv_bytes: usize,
    pub other_bytes: usize,
}

/// What the kernels cannot compute, for readers.
pub fn refusal(config: &Config) -> Option<String> {
    let c = config;
    let d = c.head_dim;
    if !d.is_multiple_of(8) || d > 256 || !c.hidden.is_multiple_of(8) || !c.ffn.is_multiple_of(8) {
        return Some(format!(
            "a head dimension of {d}, width {} and feed-forward width {}: on CUDA, expected multiples of 8, and at \
             most 256 for a head",
            c.hidden, c.ffn
        ));
    }
    None
}

impl<D: Device> Model<D> {
    /// Uploads the weights, from the `file` in which they were found, and allocates everything that a context of `n_ctx` needs.
    pub fn new(
        mut device: D,
        config: Config,
        found: &Weights,
        file: &File,
        n_ctx: usize,
        ring: usize,
    ) -> Result<Self> {
        if let Some(why) = refusal(&config) {
            return Err(Fault::Other(why));
        }
        let c = &config;
        let (q_dim, kv_dim, d) = (c.q_dim(), c.kv_dim(), c.head_dim);
        let (bytes, scratch_bytes) = sizes(found)?;
        let mut upload = Upload::begin(&mut device, Some(file), bytes, scratch_bytes)?;
        let embedding = upload.matrix(&found.embedding)?;
        let head = match &found.output {
            Some(output) => upload.matrix(output)?,
            None => embedding,
        };
        let mut layers = Vec::with_capacity(c.n_layers);
        for layer in &found.layers {
            layers.push(Layer {
                q: upload.matrix(&layer.q)?,
                k: upload.matrix(&layer.k)?,
                v: upload.matrix(&layer.v)?,
                o: upload.matrix(&layer.o)?,
                gate: upload.matrix(&layer.gate)?,
                up: upload.matrix(&layer.up)?,
                down: upload.matrix(&layer.down)?,
                attn_norm: upload.vector(&layer.attn_norm)?,
                ffn_norm: upload.vector(&layer.ffn_norm)?,
                ..Layer::default()
            });
        }
        let output_norm = upload.vector(&found.output_norm)?;
        let (scratch, weight_bytes) = (upload.scratch, upload.end);

        let rope = Rope::new(c.rope_base, d, found.rope_factors.as_deref());
        let mut angles = vec![(0.0, 0.0); n_ctx * rope.pairs()];
        for (position, row) in angles.chunks_exact_mut(rope.pairs()).enumerate() {
            rope.angles(position, row);
        }
        let angles: Vec<f32> = angles.into_iter().flat_map(|(cos, sin)| [cos, sin]).collect();
        let angles_at = device.allocate(size_of_val(&angles[..]))?;
        device.upload(angles_at, weights::f32_bytes(&angles))?;

        let per_head = n_ctx * d * 2;
        let kv_bytes = 2 * c.n_layers * c.n_kv_heads * per_head;
        let cache = device.allocate(kv_bytes)?;
        // A key that no token wrote must not be NaN: a weight of zero would not hide it.
        device.clear(cache, kv_bytes)?;
        for (i, layer) in layers.iter_mut().enumerate() {
            layer.keys = cache + (2 * i * c.n_kv_heads * per_head) as u64;
            layer.values = layer.keys + (c.n_kv_heads * per_head) as u64;
        }
        let layers_at = device.allocate(layers.len() * size_of::<Layer>())?;
        device.upload(layers_at, bytes_of(&layers))?;

        let processors = device.processors() as usize;
        let batch = BATCH.min(n_ctx);
        let blocks = processors as u32;
        // At most `blocks` tiles, each of which may be smaller than it could be.
        let parts_bytes = 4 * (TILE[0] * TILE[1] * blocks) as usize;
        let flash = matches!(d, 64 | 128);
        let mut small = |bytes: usize| device.allocate(bytes);
        let counter = small(256)?;
        let state = State {
            counter,
            token: counter + 128,
            x: small(4 * c.hidden)?,
            q: small(4 * q_dim)?,
            parts: small(4 * c.n_heads * 16 * (d + 2))?,
            h: small(4 * c.ffn)?,
            logits: small(4 * c.n_vocab)?,
            best: small(4 * processors)?,
            best_at: small(4 * processors)?,
            result: 0,
            trace: 0,
            slow_down: 1.0,
            unused: 0,
        };
        let rows = Rows {
            x: small(4 * batch * c.hidden)?,
            h: small(2 * batch * c.hidden.max(q_dim))?,
            q16: small(2 * batch * q_dim)?,
            q: small(if flash { 0 } else { 4 * batch * q_dim })?,
            wide: small(batch * (4 * (q_dim + 2 * kv_dim)).max(2 * c.ffn))?,
            tokens: small(4 * batch)?,
            widened: scratch,
            parts: small(parts_bytes)?,
            blocks,
        };
        device.clear(counter, 256)?;
        let state = State { result: device.mailbox().0, ..state };
        let before_rings = shared_bytes(c, &layers, &head, n_ctx, processors);
        let free = device.shared_memory().checked_sub(before_rings).ok_or_else(|| {
            Fault::Other(format!(
                "a step needs {before_rings} bytes of shared memory a block; {} has {}",
                device.name(),
                device.shared_memory()
            ))
        })?;
        let ring = ring.min((free / WARPS).saturating_sub(ARRIVALS_BYTES)) / 128 * 128;
        let shape = Shape {
            embedding,
            head,
            output_norm,
            angles: angles_at,
            layers: layers_at,
            n_layers: c.n_layers as u32,
            hidden: c.hidden as u32,
            ffn: c.ffn as u32,
            n_heads: c.n_heads as u32,
            n_kv_heads: c.n_kv_heads as u32,
            head_dim: d as u32,
            n_ctx: n_ctx as u32,
            n_vocab: c.n_vocab as u32,
            eps: c.norm_eps,
            ring: ring as u32,
            head_shift: if d.is_power_of_two() { d.ilog2() } else { 32 },
            before_rings: before_rings as u32,
        };
        device.wait()?;
        let other_bytes = device.allocated() - weight_bytes - kv_bytes;
        Ok(Self {
            device,
            layers,
            shape,
            state,
            rows,
            batch,
            step_shared: before_rings + WARPS * (ARRIVALS_BYTES + ring),
            chosen: 0,
            weight_bytes,
            kv_bytes,
            other_bytes,
            config,
        })
    }

    pub fn n_ctx(&self) -> usize {
        self.shape.n_ctx as usize
    }

    /// Starts one token at `position`, up to its logits and the choice; `None` is the token that the
    /// step before chooses.
    pub fn step(&mut self, token: Option<u32>, position: usize) -> Result<()> {
        assert!(position < self.n_ctx());
        let grid = [self.device.processors(), 1, 1];
        let at = Launch { together: true, ..Launch::of("decode_step", grid, STEP_THREADS) }
            .shared(self.step_shared);
        launch!(
            self.device,
            at,
            self.shape,
            self.state,
            token.unwrap_or(u32::MAX),
            position as u32
        )?;
        self.chosen = self.chosen.wrapping_add(1);
        Ok(())
    }

    /// Makes every step take `factor` times as long.
    pub fn slow_down(&mut self, factor: f64) {
        self.state.slow_down = factor as f32;
    }

    /// Starts tokens at positions `first..`, at most `BATCH`, through all layers. `head` makes the
    /// logits of one of them.
    pub fn prompt(&mut self, tokens: &[u32], first: usize) -> Result<()> {
        let m = tokens.len();
        assert!(m > 0 && m <= self.batch && first + m <= self.n_ctx());
        let c = &self.config;
        let (q_dim, kv_dim, d) = (c.q_dim(), c.kv_dim(), c.head_dim);
        let (hidden, ffn) = (c.hidden as u32, c.ffn as u32);
        let (heads, kv_heads) = (c.n_heads as u32, c.n_kv_heads as u32);
        let (n_ctx, eps, first) = (self.shape.n_ctx, self.shape.eps, first as u32);
        let r = &self.rows;
        let width = (q_dim + 2 * kv_dim) as u32;
        let (m, rows_of) =
            (m as u32, |kernel, threads| Launch::of(kernel, [m as u32, 1, 1], threads));
        let device = &mut self.device;
        let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        device.upload(r.tokens, &bytes)?;
        launch!(device, rows_of("embed_rows", 256), self.shape.embedding, r.tokens, r.x)?;
        for layer in &self.layers {
            let norm = rows_of("norm_rows", 256).shared(64);
            launch!(device, norm, r.x, layer.attn_norm, r.h, hidden, eps)?;
            match side_by_side(&[layer.q, layer.k, layer.v]) {
                Some(qkv) => multiply(device, r, qkv, r.h, m, r.wide, width, Store::Write)?,
                None => {
                    let mut to = r.wide;
                    for matrix in [layer.q, layer.k, layer.v] {
                        multiply(device, r, matrix, r.h, m, to, width, Store::Write)?;
                        to += 4 * u64::from(matrix.rows);
                    }
                }
            }
            let flash = match d {
                64 => Some("flash_64"),
                128 => Some("flash_128"),
                _ => None,
            };
            let q32 = if flash.is_some() { 0 } else { r.q };
            launch!(
                device,
                rows_of("rotate_rows", 256),
                r.wide,
                self.shape.angles,
                first,
                heads,
                kv_heads,
                d as u32,
                n_ctx,
                q32,
                r.q16,
                layer.keys,
                layer.values
            )?;
            match flash {
                Some(kernel) => {
                    let grid = [m.div_ceil(QUERIES as u32), heads, 1];
                    let at = Launch::of(kernel, grid, 128).shared((QUERIES + 4 * 64) * d * 2);
                    launch!(
                        device,
                        at,
                        r.q16,
                        layer.keys,
                        layer.values,
                        first,
                        m,
                        heads,
                        kv_heads,
                        n_ctx,
                        r.h
                    )?;
                }
                None => {
                    let scratch = attention_bytes(128, c, first as usize + m as usize);
                    let at = Launch::of("attend_rows", [m, kv_heads, 1], 128).shared(scratch);
                    launch!(
                        device,
                        at,
                        r.q,
                        layer.keys,
                        layer.values,
                        first,
                        heads,
                        kv_heads,
                        d as u32,
                        n_ctx,
                        r.h
                    )?;
                }
            }
            multiply(device, r, layer.o, r.h, m, r.x, hidden, Store::Add)?;
            launch!(device, norm, r.x, layer.ffn_norm, r.h, hidden, eps)?;
            multiply(device, r, layer.gate, r.h, m, r.wide, ffn, Store::Half)?;
            multiply(device, r, layer.up, r.h, m, r.wide, ffn, Store::Gated)?;
            multiply(device, r, layer.down, r.wide, m, r.x, hidden, Store::Add)?;
        }
        Ok(())
    }

    /// Starts the logits and the choice for row `row` of the last prompt.
    pub fn head(&mut self, row: usize) -> Result<()> {
        // A prompt is slowed down by who waits for it.
        let x = self.rows.x + (row * self.config.hidden * 4) as u64;
        let state = State { x, slow_down: 1.0, ..self.state };
        let grid = [self.device.processors(), 1, 1];
        let at = Launch { together: true, ..Launch::of("head_step", grid, STEP_THREADS) }
            .shared(self.step_shared);
        launch!(self.device, at, self.shape, state)?;
        self.chosen = self.chosen.wrapping_add(1);
        Ok(())
    }

    /// How many steps and heads have been started.
    pub fn started(&self) -> u32 {
        self.chosen
    }

    /// Waits for what the `n`-th step or head chose, one of the last eight.
    pub fn choice(&mut self, n: u32) -> Result<Choice> {
        let mailbox = self.device.mailbox().1;
        // SAFETY: words of pinned memory that live as long as the device; the card writes them.
        let read = |i: u32| unsafe { mailbox.add(i as usize).read_volatile() };
        let here = || read(0).wrapping_sub(n) < 1 << 31;
        let mut rounds = 0u32;
        while !here() {
            rounds = rounds.wrapping_add(1);
            // Now and then, ask whether the card is still at work.
            if rounds.is_multiple_of(1 << 12) && self.device.idle()? && !here() {
                return Err(Fault::Other("a step ended without a result".into()));
            }
            std::hint::spin_loop();
        }
        // What was written before the count is seen after it.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        let slot = 2 + n % 8 * 2;
        Ok(Choice { token: read(slot), finite: read(slot + 1) == 1 })
    }

    /// Runs a token as `step` does and returns its cycles by stage, as one block saw them: work and
    /// then waiting for the others, for the projections q, k, v; attention; its output; gate and up;
    /// down; and the head.
    pub fn trace(&mut self, token: u32, position: usize) -> Result<[(u64, u64); 6]> {
        let n = 10 * self.layers.len() + 3;
        if self.state.trace == 0 {
            self.state.trace = self.device.allocate(8 * n)?;
        }
        self.step(Some(token), position)?;
        let mut bytes = vec![0; 8 * n];
        self.device.download(self.state.trace, &mut bytes)?;
        let at: Vec<u64> =
            bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
        let mut stages = [(0, 0); 6];
        for i in 0..5 * self.layers.len() + 1 {
            let stage = if i < 5 * self.layers.len() { i % 5 } else { 5 };
            stages[stage].0 += at[2 * i + 1] - at[2 * i];
            stages[stage].1 += at[2 * i + 2] - at[2 * i + 1];
        }
        Ok(stages)
    }

    /// No more traces: a step writes none.
    pub fn end_trace(&mut self) {
        self.state.trace = 0;
    }

    /// The logits of the last step or head: `[n_vocab]`.
    pub fn logits(&mut self, out: &mut [f32]) -> Result<()> {
        assert_eq!(out.len(), self.config.n_vocab);
        // SAFETY: floats are plain bytes, and any bytes are floats.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast(), size_of_val(out)) };
        self.device.download(self.state.logits, bytes)
    }
}

/// `Store` of `prompt.cuh`.
#[derive(Debug, Clone, Copy)]
enum Store {
    Write,
    Add,
    Half,
    Gated,
}

/// Starts `out[t] = store(a[t] · matrixᵀ)` for `m` rows of f16.
#[allow(clippy::too_many_arguments)]
fn multiply<D: Device>(
    device: &mut D,
    rows: &Rows,
    matrix: Matrix,
    a: Address,
    m: u32,
    out: Address,
    out_stride: u32,
    store: Store,
) -> Result<()> {
    let (n, k) = (matrix.rows, matrix.columns);
    let (w, w_stride) = match matrix.format {
        1 => (matrix.data, matrix.stride / 2),
        _ => {
            let grid = [k.div_ceil(8 * 256), n.min(4096), 1];
            launch!(device, Launch::of("widen", grid, 256), matrix, rows.widened)?;
            (rows.widened, k)
        }
    };
    // Where there are too few tiles for the card, several blocks share the columns of one.
    let (tiles, steps) = (n.div_ceil(TILE[1]) * m.div_ceil(TILE[0]), k.div_ceil(DEPTH));
    let parts = (rows.blocks / tiles).clamp(1, 8).min(steps.div_ceil(2));
    let steps_each = steps.div_ceil(parts);
    let stages = (device.shared_memory() / STAGE_BYTES).min(4);
    let parts = steps.div_ceil(steps_each);
    let at = Launch::of("multiply", [n.div_ceil(TILE[1]), m.div_ceil(TILE[0]), parts], 256)
        .shared(stages * STAGE_BYTES);
    let to = if parts == 1 { out } else { rows.parts };
    let (stages, store) = (stages as u32, store as u32);
    launch!(device, at, a, w, w_stride, to, out_stride, m, n, k, steps_each, stages, store)?;
    if parts > 1 {
        let at = Launch::of("add_parts", [n.div_ceil(256), m, 1], 256);
        launch!(device, at, rows.parts, parts, out, out_stride, m, n, store)?;
    }
    Ok(())
}

/// Matrices that lie one after the other, as one.
fn side_by_side(matrices: &[Matrix]) -> Option<Matrix> {
    let mut whole = matrices[0];
    for next in &matrices[1..] {
        let alike = (next.format, next.stride) == (whole.format, whole.stride);
        if !alike || next.data != whole.data + u64::from(whole.rows) * u64::from(whole.stride) {
            return None;
        }
        whole.rows += next.rows;
    }
    Some(whole)
}

/// Shared memory of `attend_block` for `positions`.
fn attention_bytes(threads: usize, c: &Config, positions: usize) -> usize {
    let n = HEADS_AT_ONCE.min(c.n_heads / c.n_kv_heads);
    4 * (2 * HEADS_AT_ONCE + n * positions + threads / 32 * n * c.head_dim)
}

/// Shared memory of `decode_step` before its rings.
fn shared_bytes(
    c: &Config,
    layers: &[Layer],
    head: &Matrix,
    n_ctx: usize,
    processors: usize,
) -> usize {
    let vector = |n: usize, of: &[&Matrix]| {
        vector_bytes(
            n,
            of.iter().any(|m| is_float(m.format)),
            of.iter().any(|m| !is_float(m.format)),
        )
    };
    // A split has at most a sixteenth of the context, unless the card is small.
    let splits = (processors / c.n_kv_heads).clamp(1, 16);
    let attention = attention_bytes(STEP_THREADS as usize, c, n_ctx.div_ceil(splits).max(64));
    let output = vector(c.hidden, &[head]);
    let stages = layers.iter().flat_map(|l| {
        [
            vector(c.hidden, &[&l.q, &l.k, &l.v]),
            vector(c.q_dim(), &[&l.o]),
            vector(c.hidden, &[&l.gate, &l.up]),
            vector(c.ffn, &[&l.down]),
        ]
    });
    let most = stages.chain([attention, output]).max().unwrap_or(0);
    let works = (layers.len() * WORKS_OF_LAYER + 1) * WORK_BYTES;
    let tables = (256 + size_of_val(layers) + works).next_multiple_of(128);
    tables.max(384) + most.next_multiple_of(128)
}

/// The bytes of values that are plain numbers.
fn bytes_of(layers: &[Layer]) -> &[u8] {
    // SAFETY: `Layer` is numbers without padding: its size is the sum of theirs.
    unsafe { std::slice::from_raw_parts(layers.as_ptr().cast(), size_of_val(layers)) }
}
