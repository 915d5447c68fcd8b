//! Weights as floats into the bytes of a storage type, and back into floats from the types that a
//! source may have.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::k_quants::{q4_k, q5_k, q6_k};
use crate::model::mixture::TensorType;

/// The float type of stored weights that can be quantized; `None` for a type that already is.
pub fn float_type(stored: GgmlDType) -> Option<TensorType> {
    match stored {
        GgmlDType::F32 => Some(TensorType::F32),
        GgmlDType::F16 => Some(TensorType::F16),
        GgmlDType::BF16 => Some(TensorType::BF16),
        _ => None,
    }
}

/// Reads stored floats into `out`, which takes their number.
pub fn widen(stored: TensorType, bytes: &[u8], out: &mut Vec<f32>) {
    let bits = |bytes: &[u8]| -> Vec<u16> {
        bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect()
    };
    out.clear();
    match stored {
        TensorType::F32 => {
            out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
        }
        TensorType::F16 => {
            out.resize(bytes.len() / 2, 0.0);
            let halves: Vec<f16> = bits(bytes).into_iter().map(f16::from_bits).collect();
            halves.convert_to_f32_slice(out);
        }
        TensorType::BF16 => {
            out.extend(bits(bytes).into_iter().map(|b| bf16::from_bits(b).to_f32()));
        }
        other => unreachable!("{other:?} is not a float type"),
    }
}

/// Stores finite weights, a whole number of blocks.
///
/// # Errors
/// What candle says where its own quantizer is used.
pub fn store(ty: TensorType, weights: &[f32], out: &mut Vec<u8>) -> candle_core::Result<()> {
    out.clear();
    out.resize(ty.bytes_of(weights.len() as u64) as usize, 0);
    let mut blocks = |one: fn(&[f32; 256], &mut [u8])| {
        let size = ty.block_bytes() as usize;
        for (x, out) in weights.as_chunks::<256>().0.iter().zip(out.chunks_exact_mut(size)) {
            one(x, out);
        }
    };
    let by_candle = match ty {
        TensorType::Q4_K => return Ok(blocks(q4_k)),
        TensorType::Q5_K => return Ok(blocks(q5_k)),
        TensorType::Q6_K => return Ok(blocks(q6_k)),
        TensorType::F32 => {
            let pairs = out.as_chunks_mut::<4>().0.iter_mut().zip(weights);
            pairs.for_each(|(out, x)| *out = x.to_le_bytes());
            return Ok(());
        }
        TensorType::F16 => {
            let pairs = out.as_chunks_mut::<2>().0.iter_mut().zip(weights);
            pairs.for_each(|(out, x)| *out = f16::from_f32(*x).to_le_bytes());
            return Ok(());
        }
        TensorType::BF16 => {
            let pairs = out.as_chunks_mut::<2>().0.iter_mut().zip(weights);
            pairs.for_each(|(out, x)| *out = bf16::from_f32(*x).to_le_bytes());
            return Ok(());
        }
        TensorType::Q4_0 => GgmlDType::Q4_0,
        TensorType::Q5_0 => GgmlDType::Q5_0,
        TensorType::Q5_1 => GgmlDType::Q5_1,
        TensorType::Q8_0 => GgmlDType::Q8_0,
    };
    let tensor = Tensor::from_slice(weights, weights.len(), &Device::Cpu)?;
    out.copy_from_slice(&QTensor::quantize(&tensor, by_candle)?.data()?);
    Ok(())
}

/// Whether all 16-bit scales (or weights) came out finite. Weights beyond about ±65504 times the
/// largest quant have no scale.
pub fn scales_are_finite(ty: TensorType, bytes: &[u8]) -> bool {
    let at: &[usize] = match ty {
        TensorType::F32 => return true,
        TensorType::BF16 => {
            return bytes.as_chunks::<2>().0.iter().all(|b| bf16::from_le_bytes(*b).is_finite());
        }
        TensorType::F16 | TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q8_0 => &[0],
        TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => &[0, 2],
        TensorType::Q6_K => &[208],
    };
    let finite = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).is_finite();
    bytes.chunks_exact(ty.block_bytes() as usize).all(|b| at.iter().all(|&i| finite(&b[i..])))
}
