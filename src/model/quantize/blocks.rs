//! Converts float weights into the bytes of a storage type, and the float types of a source into
//! 32-bit floats.

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::k_quants::{q4_k, q5_k, q6_k};
use crate::model::gguf::StoredType;
use crate::model::mixture::TensorType;

/// The float type of stored weights that can be quantized; `None` if they are quantized already.
pub fn float_type(stored: StoredType) -> Option<TensorType> {
    match stored {
        StoredType::Candle(GgmlDType::F32) => Some(TensorType::F32),
        StoredType::Candle(GgmlDType::F16) => Some(TensorType::F16),
        StoredType::Candle(GgmlDType::BF16) => Some(TensorType::BF16),
        _ => None,
    }
}

/// Whether [`widen`] reads this type.
pub fn can_widen(stored: StoredType) -> bool {
    matches!(stored, StoredType::Candle(_))
}

/// Reads stored weights, a whole number of blocks, into `out`, whose length becomes their number.
///
/// # Errors
/// Candle's error, for quantized types.
pub fn widen(stored: StoredType, bytes: &[u8], out: &mut Vec<f32>) -> candle_core::Result<()> {
    let bits = |bytes: &[u8]| -> Vec<u16> {
        bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect()
    };
    out.clear();
    match stored {
        StoredType::Candle(GgmlDType::F32) => {
            out.extend(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
        }
        StoredType::Candle(GgmlDType::F16) => {
            out.resize(bytes.len() / 2, 0.0);
            let halves: Vec<f16> = bits(bytes).into_iter().map(f16::from_bits).collect();
            halves.convert_to_f32_slice(out);
        }
        StoredType::Candle(GgmlDType::BF16) => {
            out.extend(bits(bytes).into_iter().map(|b| bf16::from_bits(b).to_f32()));
        }
        StoredType::Candle(dtype) => {
            let weights = bytes.len() / dtype.type_size() * dtype.block_size();
            let tensor = qtensor_from_ggml(dtype, bytes, vec![weights], &Device::Cpu)?;
            *out = tensor.dequantize(&Device::Cpu)?.to_vec1()?;
        }
        other => candle_core::bail!("{} cannot be widened", other.label()),
    }
    Ok(())
}

/// Stores finite weights; their number must be a whole number of blocks.
///
/// # Errors
/// Candle's error, for types that use candle's quantizer.
pub fn store(ty: TensorType, weights: &[f32], out: &mut Vec<u8>) -> candle_core::Result<()> {
    out.clear();
    out.resize(ty.bytes_of(weights.len() as u64) as usize, 0);
    match ty {
        TensorType::Q4_K => by_block(q4_k, ty, weights, out),
        TensorType::Q5_K => by_block(q5_k, ty, weights, out),
        TensorType::Q6_K => by_block(q6_k, ty, weights, out),
        TensorType::Q4_0 => by_candle(GgmlDType::Q4_0, weights, out)?,
        TensorType::Q5_0 => by_candle(GgmlDType::Q5_0, weights, out)?,
        TensorType::Q5_1 => by_candle(GgmlDType::Q5_1, weights, out)?,
        TensorType::Q8_0 => by_candle(GgmlDType::Q8_0, weights, out)?,
        TensorType::F32 => each(weights, out, f32::to_le_bytes),
        TensorType::F16 => each(weights, out, |x| f16::from_f32(x).to_le_bytes()),
        TensorType::BF16 => each(weights, out, |x| bf16::from_f32(x).to_le_bytes()),
    }
    Ok(())
}

fn by_block(one: fn(&[f32; 256], &mut [u8]), ty: TensorType, weights: &[f32], out: &mut [u8]) {
    let blocks = out.chunks_exact_mut(ty.block_bytes() as usize);
    weights.as_chunks::<256>().0.iter().zip(blocks).for_each(|(x, out)| one(x, out));
}

fn by_candle(dtype: GgmlDType, weights: &[f32], out: &mut [u8]) -> candle_core::Result<()> {
    let tensor = Tensor::from_slice(weights, weights.len(), &Device::Cpu)?;
    out.copy_from_slice(&QTensor::quantize(&tensor, dtype)?.data()?);
    Ok(())
}

fn each<const N: usize>(weights: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    let pairs = out.as_chunks_mut::<N>().0.iter_mut().zip(weights);
    pairs.for_each(|(out, x)| *out = bytes(*x));
}

/// Whether all 16-bit scales (or weights) are finite. Weights beyond about ±65504 times the largest
/// quant have no scale.
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
