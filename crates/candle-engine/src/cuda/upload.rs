//! Brings a model's weights into a card's memory, in the layout that the kernels read.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::device::{Address, Device, Fault, Launch, Result, launch};
use super::layout::{Layout, Matrix, Planes};
use crate::model::Weights;
use crate::weights;

/// Bytes of the weights on a card, and of the largest matrix in f16, in which a stored row fits too.
pub fn sizes(found: &Weights) -> Result<(usize, usize)> {
    let mut bytes = 0;
    for matrix in found.matrices() {
        bytes += layout(matrix)?.stride.saturating_mul(matrix.rows()).next_multiple_of(256);
    }
    for vector in found.vectors() {
        bytes += size_of_val(vector).next_multiple_of(256);
    }
    let longest = found.matrices().map(|m| m.bytes() / m.rows().max(1)).max().unwrap_or(0);
    // The three projections are widened together where they lie together.
    let qkv =
        |l: &crate::model::Layer| [&l.q, &l.k, &l.v].map(|m| m.rows() * m.columns()).iter().sum();
    let widest = found
        .layers
        .iter()
        .flat_map(|l| l.matrices().map(|m| m.rows() * m.columns()).into_iter().chain([qkv(l)]))
        .max();
    Ok((bytes, longest.max(2 * widest.unwrap_or(0))))
}

/// Brings the weights into one allocation.
pub struct Upload<'a, D: Device> {
    device: &'a mut D,
    file: Option<&'a File>,
    at: Address,
    /// Bytes used so far.
    pub end: usize,
    /// Where rows lie that are taken apart, and later the matrix that a prompt widens.
    pub scratch: Address,
    scratch_bytes: usize,
}

impl<'a, D: Device> Upload<'a, D> {
    /// Room for `bytes` of weights, each padded to 256, and for `scratch_bytes` of rows in between.
    /// Rows are read from `file`, the one that is mapped, or from the mapping: reading neither takes
    /// a fault for each page nor leaves the file's pages in this process.
    pub fn begin(
        device: &'a mut D,
        file: Option<&'a File>,
        bytes: usize,
        scratch_bytes: usize,
    ) -> Result<Self> {
        let scratch = device.allocate(scratch_bytes)?;
        let at = device.allocate(bytes)?;
        Ok(Self { device, file, at, end: 0, scratch, scratch_bytes })
    }

    fn place(&mut self, bytes: usize) -> Address {
        let at = self.at + self.end as u64;
        self.end += bytes.next_multiple_of(256);
        at
    }

    pub fn vector(&mut self, values: &[f32]) -> Result<Address> {
        let at = self.place(size_of_val(values));
        self.device.upload(at, weights::f32_bytes(values))?;
        Ok(at)
    }

    pub fn matrix(&mut self, matrix: &weights::Matrix) -> Result<Matrix> {
        let layout = layout(matrix)?;
        let (rows, columns) = (matrix.rows(), matrix.columns());
        let data = self.place(layout.stride * rows);
        let stride = layout.stride;
        match layout.planes {
            _ if layout.widened => self.widened(matrix, data, stride)?,
            None if stride == layout.stored => self.rows(data, matrix, 0..rows)?,
            None => {
                for row in 0..rows {
                    self.rows(data + (row * stride) as u64, matrix, row..row + 1)?;
                }
            }
            Some((blocks, planes)) => {
                let at_once = (self.scratch_bytes / layout.stored).max(1);
                for first in (0..rows).step_by(at_once) {
                    let n = at_once.min(rows - first);
                    self.rows(self.scratch, matrix, first..first + n)?;
                    let to = data + (first * stride) as u64;
                    let at = Launch::of("repack", [self.device.processors() * 8, 1, 1], 256);
                    let planes: Planes = planes;
                    launch!(
                        self.device,
                        at,
                        self.scratch,
                        layout.stored as u64,
                        planes,
                        to,
                        stride as u64,
                        blocks,
                        n as u32
                    )?;
                }
            }
        }
        Ok(Matrix {
            data,
            rows: rows as u32,
            columns: columns as u32,
            stride: stride as u32,
            format: layout.format,
        })
    }

    /// Uploads the stored bytes of rows.
    fn rows(&mut self, to: Address, matrix: &weights::Matrix, rows: Range<usize>) -> Result<()> {
        let Some(file) = self.file else {
            return self.device.upload(to, matrix.some_rows(rows));
        };
        let place = matrix.place_of(rows);
        self.device.upload_from(to, place.len(), &|at, piece: &mut [u8]| {
            file.read_exact_at(piece, (place.start + at) as u64)
        })
    }

    /// Uploads rows as f16 that the kernels cannot read as they are.
    fn widened(&mut self, matrix: &weights::Matrix, data: Address, stride: usize) -> Result<()> {
        let mut values = vec![0.0; matrix.columns()];
        let mut rows = vec![0u8; stride];
        for r in 0..matrix.rows() {
            matrix.dequantize_row(r, &mut values);
            for (out, value) in rows.chunks_exact_mut(2).zip(&values) {
                out.copy_from_slice(&half::f16::from_f32(*value).to_le_bytes());
            }
            self.device.upload(data + (r * stride) as u64, &rows)?;
        }
        Ok(())
    }
}

pub fn layout(matrix: &weights::Matrix) -> Result<Layout> {
    Layout::of(matrix.encoding(), matrix.columns()).ok_or_else(|| {
        Fault::Other(format!(
            "rows of {} values: on CUDA, expected a multiple of 8",
            matrix.columns()
        ))
    })
}
