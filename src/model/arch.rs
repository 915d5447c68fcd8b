//! The shape of a LLaMA-3-family model, as the registry states it and as a synthetic file is made
//! from. Numbers only; other modules read them from a GGUF.

use serde::{Deserialize, Serialize};

/// Architecture of a dense LLaMA-3-family decoder. The keys are those of `[arch]` in the model
/// registry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchSpec {
    /// The start of `general.name`, such as `Llama 3.2 1B Instruct`.
    pub name: String,
    pub n_layers: u32,
    /// Width of the residual stream.
    pub n_embd: u32,
    /// Width of the feed-forward hidden layer.
    pub n_ff: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: u32,
    pub head_dim: u32,
    pub n_vocab: u32,
    /// Positions that the model was trained for.
    pub context_length: u32,
    pub rope_base: f32,
    pub rms_eps: f32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the token embedding is also the output head.
    pub tied: bool,
}

/// LLaMA 3's rope scaling: stretches long wavelengths by `factor`, keeps short ones, with a smooth
/// transition between them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeScaling {
    pub factor: f32,
    pub low_freq_factor: f32,
    pub high_freq_factor: f32,
    /// Context length before the scaling.
    pub original_context: u32,
}

impl ArchSpec {
    /// Width of all query heads together.
    pub fn q_width(&self) -> u32 {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_width(&self) -> u32 {
        self.n_kv_heads * self.head_dim
    }

    /// Number of weights. A tied embedding counts once; the rope factors do not count.
    pub fn n_params(&self) -> u64 {
        let (d, ff, v) = (u64::from(self.n_embd), u64::from(self.n_ff), u64::from(self.n_vocab));
        let attention = 2 * d * u64::from(self.q_width()) + 2 * d * u64::from(self.kv_width());
        let layer = attention + 3 * d * ff + 2 * d;
        let heads = if self.tied { 1 } else { 2 };
        u64::from(self.n_layers) * layer + heads * d * v + d
    }

    /// Multiply-adds of one prompt token in the matrices of the layers. Leaves out the output head,
    /// which runs only for the last token, and attention over the positions.
    pub fn macs_per_prompt_token(&self) -> u64 {
        let (d, ff) = (u64::from(self.n_embd), u64::from(self.n_ff));
        let attention = 2 * d * u64::from(self.q_width()) + 2 * d * u64::from(self.kv_width());
        u64::from(self.n_layers) * (attention + 3 * d * ff)
    }

    /// The content of `rope_freqs.weight`: the divisor of each of the `head_dim / 2` rotation
    /// frequencies. Formula: Llama 3.1's `apply_scaling`.
    pub fn rope_factors(&self) -> Option<Vec<f32>> {
        let s = self.rope_scaling?;
        let original = s.original_context as f32;
        let dim = self.head_dim as f32;
        let factors = (0..self.head_dim / 2).map(|i| {
            let frequency = self.rope_base.powf(-((2 * i) as f32) / dim);
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            if wavelength < original / s.high_freq_factor {
                1.0
            } else if wavelength > original / s.low_freq_factor {
                s.factor
            } else {
                let smooth = (original / wavelength - s.low_freq_factor)
                    / (s.high_freq_factor - s.low_freq_factor);
                1.0 / ((1.0 - smooth) / s.factor + smooth)
            }
        });
        Some(factors.collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn llama_1b() -> ArchSpec {
        toml::from_str(
            r#"
            name = "Llama 3.2 1B Instruct"
            n_layers = 16
            n_embd = 2048
            n_ff = 8192
            n_heads = 32
            n_kv_heads = 8
            head_dim = 64
            n_vocab = 128256
            context_length = 131072
            rope_base = 500000.0
            rms_eps = 1e-5
            rope_scaling = { factor = 32.0, low_freq_factor = 1.0, high_freq_factor = 4.0, original_context = 8192 }
            tied = true
            "#,
        )
        .unwrap()
    }

    #[test]
    fn llama_3_2_1b_has_its_published_number_of_weights() {
        assert_eq!(llama_1b().n_params(), 1_235_814_400);
        assert_eq!(llama_1b().macs_per_prompt_token(), 973_078_528);
    }

    #[test]
    fn rope_factors_keep_short_wavelengths_and_stretch_long_ones() {
        let f = llama_1b().rope_factors().unwrap();
        assert_eq!(f.len(), 32);
        assert!(f[..15].iter().all(|&x| x == 1.0), "{f:?}");
        assert!(f[18..].iter().all(|&x| x == 32.0), "{f:?}");
        assert!(f.is_sorted());
        assert!(f[15..18].iter().any(|&x| x > 1.0 && x < 32.0), "{f:?}");
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        let err = toml::from_str::<RopeScaling>("facto = 1.0").unwrap_err();
        assert!(err.to_string().contains("facto"), "{err}");
    }
}
