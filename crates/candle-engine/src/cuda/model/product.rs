//! One matrix as the kernels see it, for tests: its weights in f16, and its product with a vector.

use super::super::device::{Address, Device, Launch, Result, launch};
use super::super::layout::{Matrix, is_float, vector_bytes};
use super::super::upload::{Upload, layout};
use super::{ARRIVALS_BYTES, Choice, STEP_THREADS, Shape, State, WARPS};
use crate::weights;

impl Shape {
    /// A model of nothing but an output head, behind a norm of ones.
    fn of_head(head: Matrix, output_norm: Address, vector: usize, ring: usize) -> Self {
        Self {
            embedding: head,
            head,
            output_norm,
            angles: 0,
            layers: 0,
            n_layers: 0,
            hidden: head.columns,
            ffn: 0,
            n_heads: 0,
            n_kv_heads: 0,
            head_dim: 0,
            n_ctx: 0,
            n_vocab: head.rows,
            eps: 0.0,
            ring: ring as u32,
            head_shift: 32,
            before_rings: (384 + vector.next_multiple_of(128)) as u32,
        }
    }
}

/// The kernels' view of one matrix: its weights in f16, and its product with a vector by the kernel
/// of the output head, with what that chose.
pub fn of_matrix<D: Device>(
    device: &mut D,
    matrix: &weights::Matrix,
    x: &[f32],
    ring: usize,
) -> Result<(Vec<half::f16>, Vec<f32>, Choice)> {
    let (rows, columns) = (matrix.rows(), matrix.columns());
    let bytes = layout(matrix)?.stride * rows + 256 + 4 * columns;
    let mut upload = Upload::begin(device, None, bytes + 512, 2 * matrix.bytes() / rows)?;
    let on_card = upload.matrix(matrix)?;
    let norm = upload.vector(&vec![1.0; columns])?;
    let mut small = |bytes: usize| device.allocate(bytes);
    let (widened, x_at) = (small(2 * rows * columns)?, small(4 * columns)?);
    let (logits, best, best_at, counter) =
        (small(4 * rows)?, small(2048)?, small(2048)?, small(256)?);
    device.clear(counter, 256)?;
    device.upload(x_at, weights::f32_bytes(x))?;
    let grid = [(columns as u32).div_ceil(8 * 256), 3, 1];
    launch!(device, Launch::of("widen", grid, 256), on_card, widened)?;
    let result = device.mailbox().0;
    let nothing = State {
        counter,
        token: counter + 128,
        x: x_at,
        q: 0,
        parts: 0,
        h: 0,
        logits,
        best,
        best_at,
        result,
        trace: 0,
        slow_down: 1.0,
        unused: 0,
    };
    let grid = [device.processors(), 1, 1];
    let vector = vector_bytes(columns, is_float(on_card.format), !is_float(on_card.format));
    let shape = Shape::of_head(on_card, norm, vector, ring);
    let shared = shape.before_rings as usize + WARPS * (ARRIVALS_BYTES + ring);
    let at =
        Launch { together: true, ..Launch::of("head_step", grid, STEP_THREADS) }.shared(shared);
    launch!(device, at, shape, nothing)?;
    let (mut f16, mut f32) = (vec![0; 2 * rows * columns], vec![0; 4 * rows]);
    device.download(widened, &mut f16)?;
    device.download(logits, &mut f32)?;
    let mailbox = device.mailbox().1;
    // SAFETY: words of the mailbox, written by the kernel above.
    let [token, finite] = [4, 5].map(|i| unsafe { mailbox.add(i).read_volatile() });
    Ok((
        f16.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b)).collect(),
        f32.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Choice { token, finite: finite == 1 },
    ))
}
