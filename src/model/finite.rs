//! Looks through a model file for weights that are no finite numbers, once for each file. No engine
//! can compute with them, and some give text and speed all the same.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use super::gguf::{GgufError, GgufFile, StoredType};

/// Bytes that one thread reads at a time, about.
const TOGETHER: u64 = 4 << 20;

/// A piece of a tensor: whole blocks.
struct Piece<'f> {
    tensor: &'f str,
    dtype: StoredType,
    /// Where it lies in the file, and its length in bytes.
    offset: u64,
    len: u64,
    /// The index of its first weight in the tensor.
    first: u64,
}

/// An error that names the first tensor, in the file's order, with a weight that is NaN or
/// infinite.
pub fn check(gguf: &GgufFile) -> Result<(), GgufError> {
    let path = gguf.path();
    let unreadable = |error| GgufError::Io { path: path.to_owned(), error };
    let file = File::open(path).map_err(unreadable)?;
    let look = |piece: &Piece<'_>| -> Option<GgufError> {
        if crate::interrupt::requested() {
            return Some(unreadable(io::Error::other("stopped while its weights were checked")));
        }
        let mut bytes = vec![0; piece.len as usize];
        if let Err(error) = file.read_exact_at(&mut bytes, piece.offset) {
            return Some(unreadable(error));
        }
        let (index, value) = piece.dtype.first_not_finite(&bytes)?;
        Some(GgufError::NotFinite {
            path: path.to_owned(),
            tensor: piece.tensor.escape_debug().to_string(),
            index: piece.first + index as u64,
            value,
        })
    };
    crate::threads::prepare_rayon();
    pieces(gguf).par_iter().find_map_first(look).map_or(Ok(()), Err)
}

fn pieces(gguf: &GgufFile) -> Vec<Piece<'_>> {
    let all = gguf.tensors().iter();
    let mut tensors: Vec<_> = all.filter(|(_, info)| info.dtype.is_computed()).collect();
    tensors.sort_by_key(|(_, info)| info.offset);
    let mut pieces = Vec::new();
    for (name, info) in tensors {
        let (bytes, weights) = (info.dtype.block_bytes() as u64, info.dtype.block_size() as u64);
        let (blocks, step) = (info.bytes() / bytes, TOGETHER.div_ceil(bytes));
        pieces.extend((0..blocks).step_by(step as usize).map(|block| Piece {
            tensor: name,
            dtype: info.dtype,
            offset: info.offset + block * bytes,
            len: step.min(blocks - block) * bytes,
            first: block * weights,
        }));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gguf_fixture::llama;

    #[test]
    fn a_weight_that_is_no_number_is_found_with_its_tensor_and_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = llama().write(folder.path());
        check(&GgufFile::open(&path).unwrap()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for (tensor, block, index) in
            [("blk.1.ffn_down.weight", 3u64, 96), ("output_norm.weight", 5, 5)]
        {
            let mut bytes = whole.clone();
            let file = GgufFile::open(&path).unwrap();
            let info = &file.tensors()[tensor];
            let at = (info.offset + block * info.dtype.block_bytes() as u64) as usize;
            // The upper half of an f32, or the scale of a block.
            let nan: &[u8] = if index == 5 { &[0, 0, 0xc0, 0x7f] } else { &[0, 0x7e] };
            bytes[at..at + nan.len()].copy_from_slice(nan);
            let bad = folder.path().join("bad.gguf");
            std::fs::write(&bad, bytes).unwrap();
            let error = check(&GgufFile::open(&bad).unwrap()).unwrap_err().to_string();
            let expected =
                format!("tensor {tensor}: expected finite weights, found NaN at index {index}");
            assert!(error.contains(&expected) && error.contains("bad.gguf"), "{error}");
        }
    }
}
