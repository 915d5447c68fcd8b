//! Matrix products with the file's own blocks. Chooses the kernel for each encoding and number of
//! tokens, converts the activations for it, and spreads the rows over the threads.

use candle_core::quantized::k_quants::{BlockQ8_0, BlockQ8_1, BlockQ8K, GgmlType};

use crate::attention::KvType;
use crate::kernels::activations::{Int8Batch, Rounded};
use crate::kernels::amx::TileTokens;
use crate::kernels::format::{BLOCK, FloatKind, Kind};
use crate::kernels::pack::{Int8Rows, ROWS};
use crate::kernels::{Cpu, Isa, MOST_GEMM_TOKENS, STREAMS, with_cpu};
use crate::math::silu_times;
use crate::pool::{Pool, Scatter};
use crate::resident::bytes_in_memory;
use crate::weights::{Encoding, Matrix};

mod amx;
mod gemm;
mod gemv;

use gemm::Segment;
use gemv::{PIECE, Pieces};

/// Products with at least this many tokens are computed in tiles, where there are any. Formats that
/// have no kernels here are widened then.
const MANY_TOKENS: usize = 8;

/// How a model computes its products.
#[derive(Debug, Clone, Copy)]
pub struct Arithmetic {
    pub isa: Isa,
    /// Computes everything in float32, with weights widened and nothing rounded.
    plain_f32: bool,
}

impl Arithmetic {
    /// The file's own weights; activations for quantized weights are rounded to int8.
    pub fn new(isa: Isa) -> Self {
        Self { isa, plain_f32: false }
    }

    /// Products in float32 with widened weights, and a float32 cache: for a reference.
    pub fn plain_f32(isa: Isa) -> Self {
        Self { isa, plain_f32: true }
    }

    /// Whether everything is computed in float32.
    pub fn is_plain_f32(self) -> bool {
        self.plain_f32
    }

    /// The type of keys and values.
    pub fn kv_type(self) -> KvType {
        if self.plain_f32 { KvType::F32 } else { KvType::F16 }
    }

    /// The name in `llm-bench`.
    pub fn name(self) -> &'static str {
        if self.plain_f32 { "float32" } else { self.isa.name() }
    }

    /// How `encoding` times `m` tokens is computed.
    fn method(self, encoding: Encoding, m: usize) -> Method {
        if self.plain_f32 || encoding == Encoding::Iq4Nl {
            return Method::Widen;
        }
        match encoding {
            Encoding::F32 => Method::Float(FloatKind::F32),
            Encoding::F16 => Method::Float(FloatKind::F16),
            Encoding::Bf16 => Method::Float(FloatKind::Bf16),
            Encoding::Q4_0 => Method::Block(Kind::Q4_0),
            Encoding::Q5_0 => Method::Block(Kind::Q5_0),
            Encoding::Q8_0 => Method::Block(Kind::Q8_0),
            Encoding::Q4K => Method::Block(Kind::Q4K),
            Encoding::Q6K => Method::Block(Kind::Q6K),
            _ if m >= MANY_TOKENS => Method::Widen,
            Encoding::Q4_1 | Encoding::Q5_1 => Method::Candle(Activations::Q8_1),
            _ => Method::Candle(Activations::Q8K),
        }
    }

    /// A note for readers if prefill computes products in another type than decode.
    pub fn of_prompts(self) -> Option<String> {
        (self.isa.is_tiled() && !self.plain_f32).then(|| {
            format!(
                "{MANY_TOKENS} or more tokens at once are multiplied in bfloat16 with sums in float32 \
                 (AMX): quantized weights rounded to it, f16 in two parts"
            )
        })
    }

    /// See `Cpu::GEMM_TOKENS`.
    fn gemm_tokens(self) -> usize {
        fn of<C: Cpu>(_: C) -> usize {
            C::GEMM_TOKENS
        }
        with_cpu!(self.isa, cpu => of(cpu))
    }

    /// The type in which decode computes products.
    pub fn compute(self, encoding: Encoding) -> &'static str {
        match self.method(encoding, 1) {
            Method::Float(_) | Method::Widen => "f32",
            Method::Block(_) | Method::Candle(_) => "int8",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Method {
    /// Own kernels with int8 activations.
    Block(Kind),
    /// Own kernels with f32 activations.
    Float(FloatKind),
    /// candle's `vec_dot`, straight from the mapped blocks.
    Candle(Activations),
    /// Widened to f32, some columns at a time.
    Widen,
}

/// candle's types for rounded activations.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Activations {
    Q8_0,
    Q8_1,
    Q8K,
}

/// Runs `$body` with `$F` as the format of a `Kind`.
macro_rules! with_format {
    ($kind:expr, $F:ident => $body:expr) => {{
        macro_rules! of {
            ($type:ty) => {{
                type $F = $type;
                $body
            }};
        }
        match $kind {
            Kind::Q4_0 => of!(format::Q4_0),
            Kind::Q5_0 => of!(format::Q5_0),
            Kind::Q8_0 => of!(format::Q8_0),
            Kind::Q4K => of!(format::Q4K),
            Kind::Q6K => of!(format::Q6K),
        }
    }};
}

/// Runs `$body` with `$F` as the format of a `FloatKind`.
macro_rules! with_float {
    ($kind:expr, $F:ident => $body:expr) => {{
        macro_rules! of {
            ($type:ty) => {{
                type $F = $type;
                $body
            }};
        }
        match $kind {
            FloatKind::F32 => of!(format::F32),
            FloatKind::F16 => of!(format::F16),
            FloatKind::Bf16 => of!(format::Bf16),
        }
    }};
}

use with_float;
pub(crate) use with_format;

/// Multiplies activations with matrices. Holds the rounded forms of the activations.
pub struct Multiplier {
    arithmetic: Arithmetic,
    rounded: Rounded,
    /// Input of `down`, from the gated products: rounded, or floats if `down` takes floats.
    inner_int8: Int8Rows,
    inner: Vec<f32>,
    /// Activations in tiles: the input, and the input of `down`.
    tiles: TileTokens,
    inner_tiles: TileTokens,
    q8_0: Vec<BlockQ8_0>,
    q8_1: Vec<BlockQ8_1>,
    q8k: Vec<BlockQ8K>,
}

/// Tokens' activations in the forms that the kernels read.
#[derive(Clone, Copy)]
struct X<'a> {
    /// `[m, columns]`; empty if no kernel needs them.
    floats: &'a [f32],
    /// The same for many tokens, rounded.
    int8: &'a Int8Rows,
    /// Number of tokens.
    m: usize,
}

impl Multiplier {
    /// Buffers grow with the products.
    pub fn new(arithmetic: Arithmetic) -> Self {
        Self {
            arithmetic,
            rounded: Rounded { groups: Int8Batch::default(), rows: Int8Rows::default() },
            inner_int8: Int8Rows::default(),
            inner: Vec::new(),
            tiles: TileTokens::default(),
            inner_tiles: TileTokens::default(),
            q8_0: Vec::new(),
            q8_1: Vec::new(),
            q8k: Vec::new(),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.rounded.groups.bytes()
            + self.rounded.rows.bytes()
            + self.inner_int8.bytes()
            + size_of_val(&self.inner[..])
            + self.tiles.bytes()
            + self.inner_tiles.bytes()
            + size_of_val(&self.q8_0[..])
            + size_of_val(&self.q8_1[..])
            + size_of_val(&self.q8k[..])
    }

    /// How many of those bytes are in memory now.
    pub fn bytes_in_memory(&self) -> Option<u64> {
        Some(
            self.rounded.groups.bytes_in_memory()?
                + self.rounded.rows.bytes_in_memory()?
                + self.inner_int8.bytes_in_memory()?
                + bytes_in_memory(&self.inner)?
                + self.tiles.bytes_in_memory()?
                + self.inner_tiles.bytes_in_memory()?
                + bytes_in_memory(&self.q8_0)?
                + bytes_in_memory(&self.q8_1)?
                + bytes_in_memory(&self.q8k)?,
        )
    }

    /// `out[t] (+)= [parts[0]; parts[1]; …] · x[t]`: `x` is `[m, columns]`, `out` is `[m, rows of
    /// all parts]`. All parts have the same columns. With `add`, the products are added to `out`.
    pub fn multiply(
        &mut self,
        pool: &mut Pool,
        parts: &[&Matrix],
        x: &[f32],
        out: &mut [f32],
        add: bool,
    ) {
        let k = parts[0].columns();
        let m = x.len() / k;
        let rows: usize = parts.iter().map(|p| p.rows()).sum();
        assert!(parts.iter().all(|p| p.columns() == k));
        assert_eq!((x.len(), out.len()), (m * k, m * rows));
        if let Some(pairs) = self.tiled(parts, m) {
            let mut tiles = std::mem::take(&mut self.tiles);
            let out = Output { values: Scatter::new(out), stride: rows, add };
            with_cpu!(self.arithmetic.isa, cpu => {
                Self::tile(cpu, pool, x, k, pairs, &mut tiles);
                self.tiled_product(cpu, pool, parts, 0, &tiles, out);
            });
            self.tiles = tiles;
            return;
        }
        self.round(pool, parts, x, k, m);
        self.product(pool, parts, X { floats: x, int8: &self.rounded.rows, m }, out, add);
    }

    /// `multiply`, for rounded activations.
    fn product(&self, pool: &mut Pool, parts: &[&Matrix], x: X<'_>, out: &mut [f32], add: bool) {
        let rows: usize = parts.iter().map(|p| p.rows()).sum();
        let out = Output { values: Scatter::new(out), stride: rows, add };
        let (this, m) = (self, x.m);
        with_cpu!(self.arithmetic.isa, cpu => {
            if m < this.arithmetic.gemm_tokens() {
                let pieces = parts.iter().map(|p| Pieces::of(p).count()).sum();
                pool.run(pieces, 1, |range| for i in range {
                    let (mut i, mut first) = (i, 0);
                    for part in parts {
                        let pieces = Pieces::of(part);
                        let n = pieces.count();
                        if i < n {
                            let piece = pieces.piece(i);
                            this.piece(cpu, part, &piece, x, |t, stream, place, values| {
                                out.put(t, first + piece[stream].start + place, values);
                            });
                            break;
                        }
                        (i, first) = (i - n, first + part.rows());
                    }
                });
            } else {
                let panels: usize = parts.iter().map(|p| p.rows().div_ceil(ROWS)).sum();
                pool.run(panels, 1, |range| for panel in range {
                    let (mut panel, mut first) = (panel, 0);
                    for part in parts {
                        let n = part.rows().div_ceil(ROWS);
                        if panel < n {
                            let rows = panel * ROWS..part.rows().min((panel + 1) * ROWS);
                            let first = first + rows.start;
                            let n = rows.len();
                            let segment = Segment { matrix: part, rows };
                            this.panel(cpu, &[segment], x, |t, values| {
                                out.put(t, first, &values[..n]);
                            });
                            break;
                        }
                        (panel, first) = (panel - n, first + part.rows());
                    }
                });
            }
        });
    }

    /// `out[t] += down · (silu(gate · x[t]) · (up · x[t]))`: `x` is `[m, columns of gate]`, `out`
    /// is `[m, rows of down]`.
    pub fn mlp(
        &mut self,
        pool: &mut Pool,
        [gate, up, down]: [&Matrix; 3],
        x: &[f32],
        out: &mut [f32],
    ) {
        let (k, n) = (gate.columns(), gate.rows());
        let m = x.len() / k;
        assert_eq!((up.columns(), up.rows(), down.columns()), (k, n, n));
        assert_eq!((x.len(), out.len()), (m * k, m * down.rows()));
        let both = [gate, up];
        if let (Some(pairs), Some(inner_pairs)) = (self.tiled(&both, m), self.tiled(&[down], m)) {
            let (mut tiles, mut inner) =
                (std::mem::take(&mut self.tiles), std::mem::take(&mut self.inner_tiles));
            with_cpu!(self.arithmetic.isa, cpu => {
                Self::tile(cpu, pool, x, k, pairs, &mut tiles);
                let inner = (&mut inner, inner_pairs);
                self.tiled_mlp(cpu, pool, [gate, up, down], &tiles, inner, out);
            });
            (self.tiles, self.inner_tiles) = (tiles, inner);
            return;
        }
        self.round(pool, &both, x, k, m);
        let rounded = matches!(self.arithmetic.method(down.encoding(), m), Method::Block(_));
        if m >= self.arithmetic.gemm_tokens() && rounded {
            let mut inner = std::mem::take(&mut self.inner_int8);
            inner.reserve(m, n);
            with_cpu!(self.arithmetic.isa, cpu => {
                self.gated_rounded(cpu, pool, both, x, m, &mut inner);
            });
            self.product(pool, &[down], X { floats: &[], int8: &inner, m }, out, true);
            self.inner_int8 = inner;
        } else {
            let mut inner = std::mem::take(&mut self.inner);
            inner.resize(inner.len().max(m * n), 0.0);
            with_cpu!(self.arithmetic.isa, cpu => {
                self.gated(cpu, pool, both, x, &mut inner[..m * n]);
            });
            self.multiply(pool, &[down], &inner[..m * n], out, true);
            self.inner = inner;
        }
    }

    /// `out[t] = silu(gate · x[t]) · (up · x[t])`, for rounded `x`.
    fn gated<C: Cpu>(
        &self,
        cpu: C,
        pool: &mut Pool,
        both: [&Matrix; 2],
        x: &[f32],
        out: &mut [f32],
    ) {
        let n = both[0].rows();
        let m = out.len() / n;
        let x = X { floats: x, int8: &self.rounded.rows, m };
        let out = Output { values: Scatter::new(out), stride: n, add: false };
        if m >= C::GEMM_TOKENS {
            return self.gated_panels(cpu, pool, both, x, |t, row, values| {
                out.put(t, row, values);
            });
        }
        let pieces = Pieces::of(both[0]);
        pool.run(pieces.count(), 1, |range| {
            for i in range {
                let piece = pieces.piece(i);
                let mut values = [[[[0.0f32; PIECE]; STREAMS]; 2]; MOST_GEMM_TOKENS];
                for (i, matrix) in both.into_iter().enumerate() {
                    self.piece(cpu, matrix, &piece, x, |t, stream, place, of| {
                        values[t][i][stream][place..place + of.len()].copy_from_slice(of);
                    });
                }
                for (t, [gate, up]) in values.iter().enumerate().take(m) {
                    let mut gated = [[0.0; PIECE]; STREAMS];
                    let (gate, up) = (gate.as_flattened(), up.as_flattened());
                    cpu.run(|| silu_times(cpu, gate, up, gated.as_flattened_mut()));
                    for (rows, values) in piece.iter().zip(&gated) {
                        out.put(t, rows.start, &values[..rows.len()]);
                    }
                }
            }
        });
    }

    /// `gated` for many tokens; rounds each block as soon as it is complete.
    fn gated_rounded<C: Cpu>(
        &self,
        cpu: C,
        pool: &mut Pool,
        both: [&Matrix; 2],
        x: &[f32],
        m: usize,
        out: &mut Int8Rows,
    ) {
        let n = both[0].rows();
        let per_row = n / BLOCK;
        let (bytes, scales, sums) = out.parts();
        let (bytes, scales, sums) = (Scatter::new(bytes), Scatter::new(scales), Scatter::new(sums));
        let x = X { floats: x, int8: &self.rounded.rows, m };
        self.gated_panels(cpu, pool, both, x, |t, row, values| {
            let (at, block) = (t * n + row, t * per_row + row / BLOCK);
            let blocks = block..block + values.len() / BLOCK;
            // SAFETY: each panel has its own rows.
            let (bytes, scales, sums) = unsafe {
                (bytes.get(at..at + values.len()), scales.get(blocks.clone()), sums.get(blocks))
            };
            cpu.round(values, bytes, scales, sums);
        });
    }

    /// Calls `put(token, first row, gated values)` for all tokens and rows.
    fn gated_panels<C: Cpu>(
        &self,
        cpu: C,
        pool: &mut Pool,
        both: [&Matrix; 2],
        x: X<'_>,
        put: impl Fn(usize, usize, &[f32]) + Sync,
    ) {
        /// Half a panel of each matrix.
        const HALF: usize = ROWS / 2;
        let n = both[0].rows();
        pool.run(n.div_ceil(HALF), 1, |panels| {
            for panel in panels {
                let rows = panel * HALF..n.min((panel + 1) * HALF);
                let (first, n) = (rows.start, rows.len());
                let segments = both.map(|matrix| Segment { matrix, rows: rows.clone() });
                self.panel(cpu, &segments, x, |t, values| {
                    let mut gated = [0.0; HALF];
                    silu_times(cpu, &values[..n], &values[n..2 * n], &mut gated[..n]);
                    put(t, first, &gated[..n]);
                });
            }
        });
    }

    /// Converts `x` to the forms that the parts' methods read.
    fn round(&mut self, pool: &mut Pool, parts: &[&Matrix], x: &[f32], k: usize, m: usize) {
        let methods = |f: &dyn Fn(Method) -> bool| {
            parts.iter().any(|p| f(self.arithmetic.method(p.encoding(), m)))
        };
        let needs = |form: Activations| methods(&|method| method == Method::Candle(form));
        let own = methods(&|method| matches!(method, Method::Block(_)));
        let (q8_0, q8_1, q8k) =
            (needs(Activations::Q8_0), needs(Activations::Q8_1), needs(Activations::Q8K));
        if own {
            let Rounded { groups, rows } = &mut self.rounded;
            with_cpu!(self.arithmetic.isa, cpu => round_own(cpu, pool, groups, rows, x, k, m));
        }
        if q8_0 {
            self.q8_0.resize(x.len() / BLOCK, BlockQ8_0::zeros());
            BlockQ8_0::from_float(x, &mut self.q8_0);
        }
        if q8_1 {
            self.q8_1.resize(x.len() / BLOCK, BlockQ8_1::zeros());
            BlockQ8_1::from_float(x, &mut self.q8_1);
        }
        if q8k {
            self.q8k.resize(x.len() / BlockQ8K::BLCK_SIZE, BlockQ8K::zeros());
            BlockQ8K::from_float(x, &mut self.q8k);
        }
    }
}

/// Rounds `m` rows of `k` values to int8 in the form that the kernels for this number of tokens
/// read.
fn round_own<C: Cpu>(
    cpu: C,
    pool: &mut Pool,
    groups: &mut Int8Batch,
    rows: &mut Int8Rows,
    x: &[f32],
    k: usize,
    m: usize,
) {
    rows.reserve(m, k);
    let per_row = k / BLOCK;
    let (bytes, scales, sums) = rows.parts();
    let (bytes, scales, sums) = (Scatter::new(bytes), Scatter::new(scales), Scatter::new(sums));
    pool.run(m, MANY_TOKENS, |tokens| {
        let of = tokens.start * k..tokens.end * k;
        let blocks = tokens.start * per_row..tokens.end * per_row;
        // SAFETY: each piece of work has its own tokens.
        let (bytes, scales, sums) =
            unsafe { (bytes.get(of.clone()), scales.get(blocks.clone()), sums.get(blocks)) };
        cpu.round(&x[of], bytes, scales, sums);
    });
    if C::GROUPED && m < C::GEMM_TOKENS {
        groups.reserve(m, k);
        cpu.run(|| groups.arrange(rows, m, k));
    }
}

/// The destination of products: `values[t * stride + column]`.
struct Output<'a> {
    values: Scatter<'a, f32>,
    stride: usize,
    add: bool,
}

impl Output<'_> {
    /// Stores products of token `t` from `column` on. Each column belongs to one piece of work (see
    /// `multiply`).
    #[inline(always)]
    fn put(&self, t: usize, column: usize, values: &[f32]) {
        let at = t * self.stride + column;
        // SAFETY: pieces of work have disjoint columns, and one piece runs on one thread.
        let slots = unsafe { self.values.get(at..at + values.len()) };
        match self.add {
            true => slots.iter_mut().zip(values).for_each(|(slot, value)| *slot += value),
            false => slots.copy_from_slice(values),
        }
    }
}
