//! Writes random weights directly in a tensor's storage format. Bytes of a seeded stream cipher go
//! through small tables of Gaussian quantiles, so no weight ever exists as a float. `recipe`
//! decides the standard deviation of each tensor.

use std::sync::OnceLock;

use half::{bf16, f16};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;
use statrs::distribution::{ContinuousCDF, Normal};

use crate::model::mixture::TensorType;
use crate::model::quantize::pack_scales_and_mins;

/// Writes blocks of one type whose weights have a given mean and standard deviation.
pub struct Filler {
    ty: TensorType,
    tables: Tables,
}

enum Tables {
    /// One value per pair of random bytes.
    F32(Vec<f32>),
    Half(Vec<u16>),
    /// One quant per random byte, and one block scale per further byte.
    Quants {
        quants: Box<[u8; 256]>,
        scales: Box<[[u8; 2]; 256]>,
    },
    /// The second array holds the block minimum for each scale.
    QuantsWithMin {
        quants: Box<[u8; 256]>,
        scales: Box<[[u8; 2]; 256]>,
        mins: Box<[[u8; 2]; 256]>,
    },
}

/// Base of the six-bit sub-block scales of the K types. A scale is this plus 0 to 15, and its
/// minimum differs from it by -2 to 2, so that a kernel that confuses the two is caught.
const K_SCALE_BASE: u32 = 44;
/// Eight equally frequent differences between minimum and scale.
const K_MIN_SHIFT: [i32; 8] = [-2, -1, -1, 0, 0, 1, 1, 2];
/// Base of the sub-block scales of Q6_K: ± (this plus 0 to 63).
const Q6_SCALE_BASE: u32 = 64;

impl Filler {
    /// A filler for weights of this standard deviation around `mean`. Quantized types support a
    /// mean of 0 only.
    pub fn new(ty: TensorType, mean: f64, sigma: f64) -> Self {
        debug_assert!(mean == 0.0 || ty.block_weights() == 1);
        let wide = |convert: fn(f64) -> u16| {
            Tables::Half(
                quantiles_16_bit().iter().map(|&z| convert(mean + sigma * f64::from(z))).collect(),
            )
        };
        let tables = match ty {
            TensorType::F32 => Tables::F32(
                quantiles_16_bit().iter().map(|&z| (mean + sigma * f64::from(z)) as f32).collect(),
            ),
            TensorType::F16 => wide(|x| f16::from_f64(x).to_bits()),
            TensorType::BF16 => wide(|x| bf16::from_f64(x).to_bits()),
            // The largest of 32 Gaussian weights is near 2.4 sigma and is stored as -8, so a step
            // is 0.3 sigma. The scale has either sign, as real ones do.
            TensorType::Q4_0 => {
                let quants = quant_table(0.3, 8.0, 0, 15);
                let rms = centred_rms(&quants, 8.0);
                Tables::Quants { quants, scales: scale_table(sigma / rms, true) }
            }
            TensorType::Q8_0 => {
                let quants = quant_table(2.9 / 127.0, 0.0, -127, 127);
                let rms = centred_rms(&quants, 0.0);
                Tables::Quants { quants, scales: scale_table(sigma / rms, false) }
            }
            TensorType::Q4_K => with_min(quant_table(0.34, 7.5, 0, 15), 7.5, sigma),
            TensorType::Q5_K => with_min(quant_table(0.17, 15.5, 0, 31), 15.5, sigma),
            TensorType::Q5_0 | TensorType::Q5_1 => {
                unreachable!("no recipe of synthesis has {ty:?}")
            }
            TensorType::Q6_K => {
                let quants = quant_table(0.09, 32.0, 0, 63);
                let scale_square =
                    (0..64).map(|i| f64::from(Q6_SCALE_BASE + i).powi(2)).sum::<f64>() / 64.0;
                let rms = centred_rms(&quants, 32.0) * scale_square.sqrt();
                Tables::Quants { quants, scales: scale_table(sigma / rms, false) }
            }
        };
        Self { ty, tables }
    }

    /// Fills `out`, a whole number of blocks, from the stream. `random` is a buffer for reuse.
    pub fn fill(&self, rng: &mut ChaCha8Rng, out: &mut [u8], random: &mut Vec<u8>) {
        let blocks = out.len() / self.ty.block_bytes() as usize;
        debug_assert_eq!(out.len(), blocks * self.ty.block_bytes() as usize);
        let random_per_block = match self.ty {
            TensorType::F32 | TensorType::F16 | TensorType::BF16 => 2,
            TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q5_1 | TensorType::Q8_0 => 32 + 1,
            TensorType::Q4_K | TensorType::Q5_K => 256 + 8 + 1,
            TensorType::Q6_K => 256 + 16 + 1,
        };
        random.resize(blocks * random_per_block, 0);
        rng.fill_bytes(random);
        let dice = random.chunks_exact(random_per_block);
        match (&self.tables, self.ty) {
            (Tables::F32(table), _) => {
                for (o, r) in out.chunks_exact_mut(4).zip(dice) {
                    let i = usize::from(u16::from_le_bytes([r[0], r[1]]));
                    o.copy_from_slice(&table[i].to_le_bytes());
                }
            }
            (Tables::Half(table), _) => {
                for (o, r) in out.chunks_exact_mut(2).zip(dice) {
                    let i = usize::from(u16::from_le_bytes([r[0], r[1]]));
                    o.copy_from_slice(&table[i].to_le_bytes());
                }
            }
            (Tables::Quants { quants, scales }, TensorType::Q4_0) => {
                for (o, r) in out.chunks_exact_mut(18).zip(dice) {
                    o[..2].copy_from_slice(&scales[usize::from(r[32])]);
                    pack_nibbles(&mut o[2..], &r[..32], quants);
                }
            }
            (Tables::Quants { quants, scales }, TensorType::Q8_0) => {
                for (o, r) in out.chunks_exact_mut(34).zip(dice) {
                    o[..2].copy_from_slice(&scales[usize::from(r[32])]);
                    for (q, &b) in o[2..].iter_mut().zip(r) {
                        *q = quants[usize::from(b)];
                    }
                }
            }
            (Tables::Quants { quants, scales }, _) => {
                for (o, r) in out.chunks_exact_mut(210).zip(dice) {
                    q6k_block(o, r, quants);
                    o[208..].copy_from_slice(&scales[usize::from(r[272])]);
                }
            }
            (Tables::QuantsWithMin { quants, scales, mins }, ty) => {
                let size = ty.block_bytes() as usize;
                for (o, r) in out.chunks_exact_mut(size).zip(dice) {
                    let d = usize::from(r[264]);
                    o[..2].copy_from_slice(&scales[d]);
                    o[2..4].copy_from_slice(&mins[d]);
                    pack_k_scales(&mut o[4..16], &r[256..264]);
                    if ty == TensorType::Q4_K {
                        for (o, r) in o[16..].chunks_exact_mut(32).zip(r.chunks_exact(64)) {
                            pack_nibbles(o, r, quants);
                        }
                    } else {
                        q5k_quants(&mut o[16..], &r[..256], quants);
                    }
                }
            }
        }
    }
}

/// Packs two quants per byte: the first half of `random` in the low nibbles, the second in the
/// high.
fn pack_nibbles(out: &mut [u8], random: &[u8], quants: &[u8; 256]) {
    let (low, high) = random.split_at(out.len());
    for ((o, &l), &h) in out.iter_mut().zip(low).zip(high) {
        *o = quants[usize::from(l)] | quants[usize::from(h)] << 4;
    }
}

/// Packs eight random scales close to each other, each with a similar minimum.
fn pack_k_scales(out: &mut [u8], random: &[u8]) {
    let mut scale = [0u8; 8];
    let mut min = [0u8; 8];
    for i in 0..8 {
        scale[i] = K_SCALE_BASE as u8 + (random[i] & 15);
        min[i] = scale[i].wrapping_add_signed(K_MIN_SHIFT[usize::from(random[i] >> 5)] as i8);
    }
    pack_scales_and_mins(out, &scale, &min);
}

/// Q5_K after the scales: 32 bytes of fifth bits, then 128 of nibbles.
fn q5k_quants(out: &mut [u8], random: &[u8], quants: &[u8; 256]) {
    let (fifth, nibbles) = out.split_at_mut(32);
    fifth.fill(0);
    for (pair, (o, r)) in nibbles.chunks_exact_mut(32).zip(random.chunks_exact(64)).enumerate() {
        for l in 0..32 {
            let (a, b) = (quants[usize::from(r[l])], quants[usize::from(r[l + 32])]);
            o[l] = (a & 15) | (b & 15) << 4;
            fifth[l] |= (a >> 4 | (b >> 4) << 1) << (2 * pair);
        }
    }
}

/// Q6_K without its block scale: low nibbles, upper two bits, sixteen signed scales.
fn q6k_block(out: &mut [u8], random: &[u8], quants: &[u8; 256]) {
    let (low, rest) = out.split_at_mut(128);
    let (high, rest) = rest.split_at_mut(64);
    for half in 0..2 {
        let r = &random[128 * half..128 * (half + 1)];
        let low = &mut low[64 * half..64 * (half + 1)];
        let high = &mut high[32 * half..32 * (half + 1)];
        for l in 0..32 {
            let q = [0, 32, 64, 96].map(|i| quants[usize::from(r[l + i])]);
            low[l] = (q[0] & 15) | (q[2] & 15) << 4;
            low[l + 32] = (q[1] & 15) | (q[3] & 15) << 4;
            high[l] = q[0] >> 4 | (q[1] >> 4) << 2 | (q[2] >> 4) << 4 | (q[3] >> 4) << 6;
        }
    }
    for (o, &r) in rest[..16].iter_mut().zip(&random[256..272]) {
        let scale = Q6_SCALE_BASE as i8 + (r & 63) as i8;
        *o = if r & 64 == 0 { scale } else { -scale } as u8;
    }
}

/// `i ↦ Φ⁻¹((i + ½) / 65536)`, computed once.
fn quantiles_16_bit() -> &'static [f32] {
    static TABLE: OnceLock<Vec<f32>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let normal = Normal::standard();
        let upper: Vec<f32> = (32768..65536)
            .map(|i| normal.inverse_cdf((f64::from(i) + 0.5) / 65536.0) as f32)
            .collect();
        let lower = upper.iter().rev().map(|z| -z);
        lower.chain(upper.iter().copied()).collect()
    })
}

/// Quantizes a Gaussian with this step (in sigmas) around `centre`, one entry for each of 256
/// equally likely bytes.
fn quant_table(step: f64, centre: f64, min: i32, max: i32) -> Box<[u8; 256]> {
    let normal = Normal::standard();
    Box::new(std::array::from_fn(|i| {
        let z = normal.inverse_cdf((i as f64 + 0.5) / 256.0);
        ((z / step + centre).round() as i32).clamp(min, max) as u8
    }))
}

/// Root mean square of the quants around `centre`; a signed table has centre 0.
fn centred_rms(quants: &[u8; 256], centre: f64) -> f64 {
    let value = |q: u8| {
        if centre == 0.0 { f64::from(q as i8) } else { f64::from(q) - centre }
    };
    (quants.iter().map(|&q| value(q).powi(2)).sum::<f64>() / 256.0).sqrt()
}

/// Block scales as f16 whose root mean square is `rms`, spread by ±20 %. With `signs`, half of them
/// are negative.
fn scale_table(rms: f64, signs: bool) -> Box<[[u8; 2]; 256]> {
    Box::new(spread(signs).map(|v| f16::from_f64(rms * v).to_le_bytes()))
}

fn spread(signs: bool) -> [f64; 256] {
    let raw: [f64; 256] = std::array::from_fn(|i| {
        let v = 0.8 + 0.4 * ((i / 2) as f64 + 0.5) / 128.0;
        if signs && i % 2 == 1 { -v } else { v }
    });
    let rms = (raw.iter().map(|v| v * v).sum::<f64>() / 256.0).sqrt();
    raw.map(|v| v / rms)
}

/// Tables of Q4_K and Q5_K: weight = d·scale·q − dmin·min with dmin = centre·d, so that the mean
/// is zero and the spread of the minimums adds its own small variance.
fn with_min(quants: Box<[u8; 256]>, centre: f64, sigma: f64) -> Tables {
    let scale_square = (0..16).map(|i| f64::from(K_SCALE_BASE + i).powi(2)).sum::<f64>() / 16.0;
    let shift_square = K_MIN_SHIFT.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / 8.0;
    let variance =
        centred_rms(&quants, centre).powi(2) * scale_square + centre.powi(2) * shift_square;
    let d = sigma / variance.sqrt();
    Tables::QuantsWithMin {
        quants,
        scales: scale_table(d, false),
        mins: scale_table(d * centre, false),
    }
}
