//! Matrices of an encoder, packed once when they are loaded, in the layout that GEMM reads. A matrix
//! takes about as many bytes as in the file: 16-bit weights stay in 16 bits, and blocks become bytes
//! with their scales.

use std::cell::RefCell;

use crate::kernels::Cpu;
use crate::kernels::format::{self, BLOCK, BlockFormat, Kind};
use crate::kernels::pack::{
    Aligned, BLOCKS, COLUMNS, FloatPanel, Int8Blocks, Int8Panel, Int8Rows, ROWS,
};
use crate::linear::{Arithmetic, with_format};
use crate::pool::{Pool, Scatter};
use crate::weights::{Encoding, Matrix, f32_bytes};

/// A packed matrix: panels of 64 rows, the last one filled with zeros.
pub struct Panels {
    pub rows: usize,
    pub columns: usize,
    store: Store,
}

/// Panels one after the other.
enum Store {
    /// `[panel][column][row]`.
    F32(Vec<Aligned<[f32; ROWS]>>),
    F16(Vec<Aligned<[u16; ROWS]>>),
    Bf16(Vec<Aligned<[u16; ROWS]>>),
    Int8(Int8Store),
}

/// `[panel][block]`, as in `Int8Panel`.
struct Int8Store {
    kind: Kind,
    weights: Vec<Aligned<[[u8; 4 * ROWS]; BLOCK / 4]>>,
    /// One for each half that has a scale of its own.
    scales: Vec<Aligned<[f32; ROWS]>>,
    /// Empty if the format has none.
    minima: Vec<Aligned<[f32; ROWS]>>,
}

/// Tokens' activations in the forms that the panels are multiplied with.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Row `t` begins at `t * stride`.
    pub floats: &'a [f32],
    pub stride: usize,
    /// The same rounded; empty if no panel needs it.
    pub int8: &'a Int8Rows,
}

/// A thread's buffers for packing and widening.
struct Scratch {
    float: Box<FloatPanel>,
    int8: Box<Int8Panel>,
    rows: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        float: FloatPanel::new(),
        int8: Int8Panel::new(),
        rows: Vec::new(),
    });
}

impl Panels {
    /// Packs a matrix on all threads.
    pub fn pack<C: Cpu>(cpu: C, arithmetic: Arithmetic, pool: &mut Pool, matrix: &Matrix) -> Self {
        let (rows, columns) = (matrix.rows(), matrix.columns());
        let panels = rows.div_ceil(ROWS);
        let lines = panels * columns;
        let bits = |pool: &mut Pool| {
            let mut all = vec![Aligned([0u16; ROWS]); lines];
            let out = Scatter::new(&mut all);
            pool.run(panels, 1, |range| {
                for panel in range {
                    // SAFETY: each panel has its own columns.
                    let panel_columns = unsafe { out.get(panel * columns..(panel + 1) * columns) };
                    for (lane, r) in lanes(panel, rows).enumerate() {
                        let halves = matrix.row(r).as_chunks::<2>().0;
                        for (column, half) in panel_columns.iter_mut().zip(halves) {
                            column.0[lane] = u16::from_le_bytes(*half);
                        }
                    }
                }
            });
            all
        };
        let store = match form(arithmetic, matrix.encoding()) {
            Form::F16 => Store::F16(bits(pool)),
            Form::Bf16 => Store::Bf16(bits(pool)),
            Form::Int8(kind) => {
                Store::Int8(with_format!(kind, F => pack_int8::<C, F>(cpu, pool, matrix)))
            }
            Form::F32 => {
                let mut all = vec![Aligned([0.0f32; ROWS]); lines];
                let out = Scatter::new(&mut all);
                pool.run(panels, 1, |range| {
                    for panel in range {
                        // SAFETY: each panel has its own columns.
                        let columns = unsafe { out.get(panel * columns..(panel + 1) * columns) };
                        widen_panel(cpu, matrix, panel, Aligned::bare_mut(columns));
                    }
                });
                Store::F32(all)
            }
        };
        Self { rows, columns, store }
    }

    /// How many panels.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// Whether activations are rounded to int8.
    pub fn is_int8(&self) -> bool {
        matches!(self.store, Store::Int8(_))
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::F32(all) => size_of_val(&all[..]),
            Store::F16(all) | Store::Bf16(all) => size_of_val(&all[..]),
            Store::Int8(s) => {
                size_of_val(&s.weights[..])
                    + size_of_val(&s.scales[..])
                    + size_of_val(&s.minima[..])
            }
        }
    }

    /// `out[t] +=` panel · token `t`, for the tokens that `out` has room for.
    pub fn multiply<C: Cpu>(&self, cpu: C, panel: usize, x: Input<'_>, out: &mut [[f32; ROWS]]) {
        let k = self.columns;
        let rows = ROWS.min(self.rows - panel * ROWS);
        let (floats, stride) = (x.floats, x.stride);
        let mut widened = |halves: &[Aligned<[u16; ROWS]>], widen: fn(C, &[u16], &mut [f32])| {
            let halves = &Aligned::bare(halves)[panel * k..][..k];
            SCRATCH.with_borrow_mut(|scratch| {
                for (i, halves) in halves.chunks(COLUMNS).enumerate() {
                    let wide = &mut scratch.float.0[..halves.len()];
                    widen(cpu, halves.as_flattened(), wide.as_flattened_mut());
                    cpu.float_gemm(wide, rows, i * COLUMNS, floats, stride, out);
                }
            });
        };
        match &self.store {
            Store::F32(all) => {
                let columns = &Aligned::bare(all)[panel * k..][..k];
                for (i, columns) in columns.chunks(COLUMNS).enumerate() {
                    cpu.float_gemm(columns, rows, i * COLUMNS, floats, stride, out);
                }
            }
            Store::F16(all) => widened(all, C::widen),
            Store::Bf16(all) => widened(all, |cpu, halves, out| {
                cpu.run(|| {
                    for (out, &bits) in out.iter_mut().zip(halves) {
                        *out = f32::from_bits(u32::from(bits) << 16);
                    }
                });
            }),
            Store::Int8(store) => with_format!(store.kind, F => {
                let all = store.panel::<F>(panel, k / BLOCK);
                for first in (0..k / BLOCK).step_by(BLOCKS) {
                    let n = BLOCKS.min(k / BLOCK - first);
                    cpu.int8_gemm::<F>(all.after(first), first, n, x.int8, out);
                }
            }),
        }
    }
}

/// How a matrix is kept.
enum Form {
    F32,
    F16,
    Bf16,
    Int8(Kind),
}

fn form(arithmetic: Arithmetic, encoding: Encoding) -> Form {
    match encoding {
        _ if arithmetic.is_plain_f32() => Form::F32,
        Encoding::F16 => Form::F16,
        Encoding::Bf16 => Form::Bf16,
        Encoding::Q4_0 => Form::Int8(Kind::Q4_0),
        Encoding::Q5_0 => Form::Int8(Kind::Q5_0),
        Encoding::Q8_0 => Form::Int8(Kind::Q8_0),
        Encoding::Q4K => Form::Int8(Kind::Q4K),
        Encoding::Q6K => Form::Int8(Kind::Q6K),
        _ => Form::F32,
    }
}

/// The type in which products with a matrix of this encoding are computed.
pub fn compute(arithmetic: Arithmetic, encoding: Encoding) -> &'static str {
    match form(arithmetic, encoding) {
        Form::F32 | Form::F16 | Form::Bf16 => "f32",
        Form::Int8(_) => "int8",
    }
}

/// The rows of a panel.
fn lanes(panel: usize, rows: usize) -> std::ops::Range<usize> {
    panel * ROWS..rows.min((panel + 1) * ROWS)
}

/// Widens a panel's rows into `[column][row]`.
fn widen_panel<C: Cpu>(cpu: C, matrix: &Matrix, panel: usize, out: &mut [[f32; ROWS]]) {
    let k = matrix.columns();
    SCRATCH.with_borrow_mut(|Scratch { float, rows: wide, .. }| {
        wide.resize((ROWS * k).max(wide.len()), 0.0);
        let mut rows: Vec<&[u8]> = Vec::with_capacity(ROWS);
        for (r, wide) in lanes(panel, matrix.rows()).zip(wide.chunks_exact_mut(k)) {
            matrix.dequantize_row(r, wide);
            rows.push(f32_bytes(wide));
        }
        for first in (0..k).step_by(COLUMNS) {
            let n = COLUMNS.min(k - first);
            cpu.pack_float::<format::F32>(float, &rows, first, n);
            float.silence(0..0, rows.len()..ROWS);
            out[first..first + n].copy_from_slice(&float.0[..n]);
        }
    });
}

/// Unpacks a matrix of blocks into bytes with scales.
fn pack_int8<C: Cpu, F: BlockFormat>(cpu: C, pool: &mut Pool, matrix: &Matrix) -> Int8Store {
    let blocks = matrix.columns() / BLOCK;
    let panels = matrix.rows().div_ceil(ROWS);
    let halves = if F::HALVES { 2 } else { 1 };
    let with_minima = usize::from(F::MINIMA);
    let n = panels * blocks;
    let mut store = Int8Store {
        kind: F::KIND,
        weights: vec![Aligned([[0; 4 * ROWS]; BLOCK / 4]); n],
        scales: vec![Aligned([0.0; ROWS]); n * halves],
        minima: vec![Aligned([0.0; ROWS]); n * with_minima],
    };
    let weights = Scatter::new(&mut store.weights);
    let (scales, minima) = (Scatter::new(&mut store.scales), Scatter::new(&mut store.minima));
    pool.run(panels, 1, |range| {
        for panel in range {
            let of = panel * blocks..(panel + 1) * blocks;
            let times = |n: usize| of.start * n..of.end * n;
            // SAFETY: each panel has its own blocks.
            let (weights, scales, minima) = unsafe {
                (weights.get(of.clone()), scales.get(times(halves)), minima.get(times(with_minima)))
            };
            SCRATCH.with_borrow_mut(|Scratch { int8, .. }| {
                let rows: Vec<&[u8]> = lanes(panel, matrix.rows()).map(|r| matrix.row(r)).collect();
                for first in (0..blocks).step_by(BLOCKS) {
                    let n = BLOCKS.min(blocks - first);
                    cpu.pack_int8::<F>(int8, &rows, first, n);
                    int8.silence(0..0, rows.len()..ROWS);
                    for slot in 0..n {
                        let at = first + slot;
                        weights[at].0 = int8.weights[slot];
                        for half in 0..halves {
                            scales[at * halves + half].0 = int8.scales[slot][half];
                        }
                        if F::MINIMA {
                            minima[at].0 = int8.minima[slot];
                        }
                    }
                }
            });
        }
    });
    store
}

impl Int8Store {
    /// The blocks of a panel.
    fn panel<F: BlockFormat>(&self, panel: usize, blocks: usize) -> Int8Blocks<'_> {
        let halves = if F::HALVES { 2 } else { 1 };
        let of = |n: usize| panel * blocks * n..(panel + 1) * blocks * n;
        Int8Blocks {
            weights: &Aligned::bare(&self.weights)[of(1)],
            scales: &Aligned::bare(&self.scales)[of(halves)],
            per_block: halves,
            minima: &Aligned::bare(&self.minima)[of(usize::from(F::MINIMA))],
        }
    }
}
