//! Products of an encoder's tokens with packed matrices. The bias begins each sum, and the caller
//! does the rest of the work on a product while it is in a cache.

use std::cell::RefCell;
use std::ops::Range;

use super::panels::{Input, Panels};
use crate::kernels::Cpu;
use crate::kernels::format::BLOCK;
use crate::kernels::pack::{Aligned, Int8Rows, ROWS};
use crate::pool::{Pool, Scatter};

/// Matrices that read the same input, and their biases.
pub struct Linear {
    parts: Vec<Panels>,
    /// One for each panel.
    bias: Vec<Aligned<[f32; ROWS]>>,
}

/// Who computes some tokens: all threads together, or the caller alone.
pub enum Team<'a> {
    All(&'a mut Pool),
    One,
}

impl Team<'_> {
    /// Calls `body` with ranges that together cover `0..n` once, as many as there are threads if
    /// `chunk` is `None`.
    pub fn each(&mut self, n: usize, chunk: Option<usize>, body: impl Fn(Range<usize>) + Sync) {
        match self {
            Self::All(pool) => {
                let chunk = chunk.unwrap_or_else(|| n.div_ceil(pool.threads()));
                pool.run(n, chunk, body);
            }
            Self::One => body(0..n),
        }
    }
}

thread_local! {
    /// A thread's sums of a panel, `[tokens]`.
    static SUMS: RefCell<Vec<[f32; ROWS]>> = const { RefCell::new(Vec::new()) };
}

impl Linear {
    /// Each matrix with its bias.
    pub fn new(parts: Vec<(Panels, Vec<f32>)>) -> Self {
        let mut bias = Vec::new();
        for (panels, values) in &parts {
            assert_eq!(values.len(), panels.rows);
            for values in values.chunks(ROWS) {
                let mut padded = [0.0; ROWS];
                padded[..values.len()].copy_from_slice(values);
                bias.push(Aligned(padded));
            }
        }
        Self { parts: parts.into_iter().map(|(panels, _)| panels).collect(), bias }
    }

    /// Whether its input must be rounded.
    pub fn is_int8(&self) -> bool {
        self.parts.iter().any(Panels::is_int8)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(Panels::bytes).sum::<usize>() + size_of_val(&self.bias[..])
    }

    /// Values that it reads of a token.
    pub fn columns(&self) -> usize {
        self.parts[0].columns
    }

    /// Calls `put(token, row, values)` with the products of all rows and `m` tokens, bias included;
    /// no two calls have a token and a row in common, and those of a row come from one thread.
    pub fn multiply<C: Cpu>(
        &self,
        cpu: C,
        team: &mut Team<'_>,
        m: usize,
        x: Input<'_>,
        put: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) {
        team.each(self.bias.len(), Some(1), |panels| {
            SUMS.with_borrow_mut(|sums| {
                if sums.len() < m {
                    sums.resize(m, [0.0; ROWS]);
                }
                let sums = &mut sums[..m];
                for i in panels {
                    let (part, panel, first) = self.place(i);
                    sums.fill(self.bias[i].0);
                    part.multiply(cpu, panel, x, sums);
                    let n = ROWS.min(part.rows - panel * ROWS);
                    for (t, values) in sums.iter_mut().enumerate() {
                        put(t, first, &mut values[..n]);
                    }
                }
            });
        });
    }

    /// Of a panel: its matrix, its number there, and the row of the products that it begins with.
    fn place(&self, mut panel: usize) -> (&Panels, usize, usize) {
        let mut first = 0;
        for part in &self.parts {
            if panel < part.count() {
                return (part, panel, first + panel * ROWS);
            }
            (panel, first) = (panel - part.count(), first + part.rows);
        }
        unreachable!("a panel of this layer")
    }
}

/// Rounds `m` rows, of which row `t` is the first `k` values from `t * stride` on.
pub fn round_rows<C: Cpu>(
    cpu: C,
    team: &mut Team<'_>,
    (x, stride): (&[f32], usize),
    (m, k): (usize, usize),
    out: &mut Int8Rows,
) {
    out.reserve(m, k);
    let rounder = Rounder::new(out, k);
    team.each(m, None, |tokens| {
        for t in tokens {
            // SAFETY: each piece of work has its own tokens.
            unsafe { rounder.round(cpu, t, 0, &x[t * stride..][..k]) };
        }
    });
}

/// Rounds parts of rows from several threads.
pub struct Rounder<'a> {
    k: usize,
    bytes: Scatter<'a, i8>,
    scales: Scatter<'a, f32>,
    sums: Scatter<'a, [i32; 2]>,
}

impl<'a> Rounder<'a> {
    /// For rows of `k` values, which `rows` has room for.
    pub fn new(rows: &'a mut Int8Rows, k: usize) -> Self {
        let (bytes, scales, sums) = rows.parts();
        let (bytes, scales) = (Scatter::new(bytes), Scatter::new(scales));
        Self { k, bytes, scales, sums: Scatter::new(sums) }
    }

    /// Rounds values `first..` of row `t`, whole blocks.
    ///
    /// # Safety
    /// No other thread rounds or reads these values meanwhile.
    pub unsafe fn round<C: Cpu>(&self, cpu: C, t: usize, first: usize, x: &[f32]) {
        let at = t * self.k + first;
        let blocks = at / BLOCK..(at + x.len()) / BLOCK;
        // SAFETY: the caller's promise.
        let (bytes, scales, sums) = unsafe {
            (
                self.bytes.get(at..at + x.len()),
                self.scales.get(blocks.clone()),
                self.sums.get(blocks),
            )
        };
        cpu.round(x, bytes, scales, sums);
    }
}
