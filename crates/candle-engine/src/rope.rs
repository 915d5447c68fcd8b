//! Rotary position embedding over interleaved pairs, as GGUF stores LLaMA's q and k.

/// Frequencies of the pairs, with LLaMA 3's scaling applied.
pub struct Rope {
    /// Radians per position for each pair.
    frequencies: Vec<f64>,
}

impl Rope {
    /// `factors`: `rope_freqs.weight`, one divisor for each of the `dim / 2` pairs; `None` means 1.
    pub fn new(base: f32, dim: usize, factors: Option<&[f32]>) -> Self {
        let frequencies = (0..dim / 2)
            .map(|i| {
                let frequency = (base as f64).powf(-2.0 * i as f64 / dim as f64);
                frequency / factors.map_or(1.0, |f| f[i] as f64)
            })
            .collect();
        Self { frequencies }
    }

    /// Cosine and sine of each pair's angle at `position`: `out` is `[dim / 2]`.
    pub fn angles(&self, position: usize, out: &mut [(f32, f32)]) {
        for (out, frequency) in out.iter_mut().zip(&self.frequencies) {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            *out = (cos as f32, sin as f32);
        }
    }

    pub fn pairs(&self) -> usize {
        self.frequencies.len()
    }
}

/// Rotates pairs (2i, 2i + 1) of each head in `x` (`[n_heads, head_dim]`).
#[inline(always)]
pub fn rotate(x: &mut [f32], head_dim: usize, angles: &[(f32, f32)]) {
    for head in x.chunks_exact_mut(head_dim) {
        for (pair, &(cos, sin)) in head.chunks_exact_mut(2).zip(angles) {
            let (a, b) = (pair[0], pair[1]);
            pair[0] = a * cos - b * sin;
            pair[1] = a * sin + b * cos;
        }
    }
}
