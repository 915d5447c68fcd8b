//! The f32 dot product for any CPU, in lanes that the compiler turns into whatever vectors the
//! target has.

use super::FloatDot;

/// Little-endian f32 weights.
#[derive(Debug, Clone, Copy)]
pub struct F32;

const LANES: usize = 16;

impl FloatDot for F32 {
    fn dot<const R: usize, const T: usize>(
        self,
        rows: [&[u8]; R],
        x: [&[f32]; T],
    ) -> [[f32; T]; R] {
        let mut out = [[0.0; T]; R];
        for (r, row) in rows.iter().enumerate() {
            for (t, x) in x.iter().enumerate() {
                assert_eq!(row.len(), 4 * x.len());
                let mut sums = [0.0f32; LANES];
                let (w, x) = (row.chunks(4 * LANES), x.chunks(LANES));
                for (w, x) in w.zip(x) {
                    for ((sum, w), x) in sums.iter_mut().zip(w.chunks_exact(4)).zip(x) {
                        *sum += f32::from_le_bytes(w.try_into().expect("4 bytes")) * x;
                    }
                }
                out[r][t] = sums.iter().sum();
            }
        }
        out
    }
}
