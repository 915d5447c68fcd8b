//! GEMM: products with many tokens, 64 packed rows at a time.

use std::cell::RefCell;
use std::ops::Range;

use super::{Method, Multiplier, X, with_float, with_format};
use crate::kernels::Cpu;
use crate::kernels::format::{self, BLOCK, FloatKind, Kind};
use crate::kernels::pack::{BLOCKS, COLUMNS, FloatPanel, Int8Panel, ROWS};
use crate::weights::{Matrix, f32_bytes};

/// Columns widened to f32 at once; every block format divides it.
const WIDEN_COLUMNS: usize = 256;

/// Rows of a matrix that share a panel with others.
pub(super) struct Segment<'a> {
    pub matrix: &'a Matrix,
    pub rows: Range<usize>,
}

/// A thread's buffers.
struct Scratch {
    int8: Box<Int8Panel>,
    float: Box<FloatPanel>,
    /// `[tokens][rows of the panel]`.
    out: Vec<[f32; ROWS]>,
    /// `[rows of the panel, WIDEN_COLUMNS]`.
    wide: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        int8: Int8Panel::new(),
        float: FloatPanel::new(),
        out: Vec::new(),
        wide: Vec::new(),
    });
}

impl Multiplier {
    /// The rows of `segments` (at most `ROWS`) times all tokens: calls `put(token, values)` with
    /// the products in the rows' order.
    #[inline]
    pub(super) fn panel<C: Cpu>(
        &self,
        cpu: C,
        segments: &[Segment<'_>],
        x: X<'_>,
        mut put: impl FnMut(usize, &[f32; ROWS]),
    ) {
        let m = x.m;
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.out.len() < m {
                scratch.out.resize(m, [0.0; ROWS]);
            }
            scratch.out[..m].fill([0.0; ROWS]);
            let method = |s: &Segment<'_>| self.arithmetic.method(s.matrix.encoding(), m);
            let first = method(&segments[0]);
            if segments.iter().all(|s| method(s) == first) {
                self.add_panel(cpu, scratch, segments, 0, x);
            } else {
                let mut lane = 0;
                for segment in segments {
                    self.add_panel(cpu, scratch, std::slice::from_ref(segment), lane, x);
                    lane += segment.rows.len();
                }
            }
            cpu.run(|| {
                for (t, values) in scratch.out[..m].iter().enumerate() {
                    put(t, values);
                }
            });
        });
    }

    /// Adds to `scratch.out` the products of `segments`, all of one method, whose rows begin at
    /// `lane`.
    fn add_panel<C: Cpu>(
        &self,
        cpu: C,
        scratch: &mut Scratch,
        segments: &[Segment<'_>],
        lane: usize,
        x: X<'_>,
    ) {
        let X { floats: x, int8: int8_rows, m } = x;
        let matrix = segments[0].matrix;
        let k = matrix.columns();
        let lanes = || segments.iter().flat_map(|s| s.rows.clone().map(|r| (s.matrix, r)));
        let n = lane + lanes().count();
        // Lanes before the first one repeat a row and are silenced.
        let before = || std::iter::repeat_n((matrix, segments[0].rows.start), lane);
        let mut rows: [&[u8]; ROWS] = [&[]; ROWS];
        for (slot, (matrix, r)) in rows.iter_mut().zip(before().chain(lanes())) {
            *slot = matrix.row(r);
        }
        let rows = &rows[..n];
        let Scratch { int8, float, out, wide } = scratch;
        let out = &mut out[..m];
        match self.arithmetic.method(matrix.encoding(), m) {
            Method::Block(kind) => with_format!(kind, F => {
                for first in (0..k / BLOCK).step_by(BLOCKS) {
                    let n = BLOCKS.min(k / BLOCK - first);
                    cpu.pack_int8::<F>(int8, rows, first, n);
                    int8.silence(0..lane, rows.len()..ROWS);
                    cpu.int8_gemm::<F>(int8.blocks(), first, n, int8_rows, out);
                }
            }),
            Method::Float(kind) => with_float!(kind, F => {
                for first in (0..k).step_by(COLUMNS) {
                    let n = COLUMNS.min(k - first);
                    cpu.pack_float::<F>(float, rows, first, n);
                    float.silence(0..lane, rows.len()..ROWS);
                    cpu.float_gemm(&float.0[..n], ROWS, first, x, k, out);
                }
            }),
            Method::Widen | Method::Candle(_) => {
                wide.resize((ROWS * WIDEN_COLUMNS).max(wide.len()), 0.0);
                for first in (0..k).step_by(WIDEN_COLUMNS) {
                    let width = WIDEN_COLUMNS.min(k - first);
                    for ((matrix, r), wide) in
                        before().chain(lanes()).zip(wide.chunks_exact_mut(WIDEN_COLUMNS))
                    {
                        matrix.dequantize_columns(r, first, &mut wide[..width]);
                    }
                    let mut rows: [&[u8]; ROWS] = [&[]; ROWS];
                    for (row, wide) in rows.iter_mut().zip(wide.chunks_exact(WIDEN_COLUMNS)) {
                        *row = f32_bytes(&wide[..width]);
                    }
                    for start in (0..width).step_by(COLUMNS) {
                        let columns = COLUMNS.min(width - start);
                        cpu.pack_float::<format::F32>(float, &rows[..n], start, columns);
                        float.silence(0..lane, n..ROWS);
                        cpu.float_gemm(&float.0[..columns], ROWS, first + start, x, k, out);
                    }
                }
            }
        }
    }
}
