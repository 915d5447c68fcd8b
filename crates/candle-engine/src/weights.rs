//! A GGUF file in memory: the mapping, its checked header, and matrices that are used in place.
//! Nothing here touches the bytes of a matrix.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::k_quants::GgmlType;
use llm_bench_gguf::{GgufError, GgufFile, ModelConfig, StoredType, regular_file_len};
use llm_bench_protocol::{EngineError, ErrorKind};
use memmap2::Mmap;

use crate::iq4_nl;

/// An error about the file that names it.
pub fn bad_model(path: &str, what: impl std::fmt::Display) -> EngineError {
    EngineError::new(ErrorKind::BadModel, format!("{path}: {what}"))
}

/// An error about a weight that is no finite number.
pub fn not_finite(path: &str, tensor: &str, index: usize, value: f32) -> EngineError {
    let (path, tensor, index) = (path.into(), tensor.into(), index as u64);
    refused(GgufError::NotFinite { path, tensor, index, value })
}

/// Turns an error in the file into an engine's error.
pub fn refused(error: GgufError) -> EngineError {
    let kind = match error {
        GgufError::UnknownType { .. } | GgufError::NotCandles { .. } => ErrorKind::UnsupportedQuant,
        _ => ErrorKind::BadModel,
    };
    EngineError::new(kind, error.to_string())
}

/// An open GGUF file.
pub struct Gguf {
    path: String,
    map: Arc<Mmap>,
    header: GgufFile,
}

impl Gguf {
    /// Maps the file, reads and checks its header.
    ///
    /// The header is read through a separate mapping, which ends here. Otherwise its vocabulary,
    /// some megabytes, would count as memory in use for as long as the weights do.
    pub fn open(path: &str) -> Result<Self, EngineError> {
        let named = |error| refused(GgufError::Io { path: path.into(), error });
        regular_file_len(Path::new(path)).map_err(named)?;
        let file = File::open(path).map_err(named)?;
        // SAFETY: the file is a model that nothing writes while it is measured; if another
        // process truncated it, this worker would die of SIGBUS, which the harness explains.
        let map = || unsafe { Mmap::map(&file) }.map_err(named);
        let (header, checked) = {
            let map = map()?;
            (GgufFile::of_bytes(Path::new(path), &map).map_err(refused)?, map.len())
        };
        let map = map()?;
        if map.len() != checked {
            return Err(bad_model(path, "its length changed while it was opened"));
        }
        Ok(Self { path: path.to_string(), map: Arc::new(map), header })
    }

    /// The same for bytes that are already mapped.
    pub fn of_map(path: &str, map: Mmap) -> Result<Self, EngineError> {
        let header = GgufFile::of_bytes(Path::new(path), &map).map_err(refused)?;
        Ok(Self { path: path.to_string(), map: Arc::new(map), header })
    }

    /// What the file holds; it contains every tensor that the hyper-parameters imply.
    pub fn model(&self) -> Result<ModelConfig, EngineError> {
        self.header.model_config().map_err(refused)
    }

    pub fn has(&self, name: &str) -> bool {
        self.header.tensor(name).is_some()
    }

    /// The place of a tensor of this shape (rows first): inside the file, in whole blocks.
    fn locate(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<(StoredType, Range<usize>), EngineError> {
        match self.header.tensor(name) {
            Some((dtype, found, range)) if found == shape => {
                Ok((dtype, range.start as usize..range.end as usize))
            }
            found => {
                let found = found.map(|(_, shape, _)| shape);
                let what = format!("tensor {name}: expected shape {shape:?}, found {found:?}");
                Err(bad_model(&self.path, what))
            }
        }
    }

    /// The matrix `name` of `rows` × `columns`.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, EngineError> {
        let (dtype, range) = self.locate(name, &[rows, columns])?;
        let encoding = Encoding::of(dtype).ok_or_else(|| {
            let message = format!(
                "{}: tensor {name} is {}; this engine multiplies {}",
                self.path,
                dtype.label(),
                Encoding::NAMES.join(", ")
            );
            EngineError::new(ErrorKind::UnsupportedQuant, message)
        })?;
        // Blocks start with at most an f32, and mappings with a page, so viewing bytes as blocks
        // needs nothing more.
        if !range.start.is_multiple_of(4) {
            return Err(bad_model(
                &self.path,
                format_args!("tensor {name} starts at byte {}, not a multiple of 4", range.start),
            ));
        }
        let row_bytes = range.len() / rows.max(1);
        let memory = Memory::Map(self.map.clone());
        Ok(Matrix { memory, range, row_bytes, encoding, rows, columns })
    }

    /// The vector `name` of `len` values, as f32.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, EngineError> {
        let (dtype, range) = self.locate(name, &[len])?;
        // Vectors are a few kilobytes, so candle copies and widens them. The copy is aligned,
        // because the system allocator aligns to 16.
        let values = match dtype {
            StoredType::Candle(dtype) => {
                dtype.from_data(self.map[range].to_vec().into()).dequantize(len).ok()
            }
            _ => None,
        };
        match values {
            Some(candle_core::CpuStorage::F32(values)) => {
                match values.iter().position(|x| !x.is_finite()) {
                    None => Ok(values),
                    Some(i) => Err(not_finite(&self.path, name, i, values[i])),
                }
            }
            _ => {
                let what =
                    format!("tensor {name} is a vector of type {}: expected floats", dtype.label());
                Err(bad_model(&self.path, what))
            }
        }
    }
}

/// The encoding of a matrix: the types that GGUF LLaMA files use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
}

/// Runs `$body` with `$T` as candle's block type of an encoding.
macro_rules! with_block {
    ($encoding:expr, $T:ident => $body:expr) => {{
        use candle_core::quantized::k_quants::*;
        use $crate::weights::Encoding;
        macro_rules! block {
            ($type:ty) => {{
                type $T = $type;
                $body
            }};
        }
        match $encoding {
            Encoding::F32 => block!(f32),
            Encoding::F16 => block!(half::f16),
            Encoding::Bf16 => block!(half::bf16),
            Encoding::Q4_0 => block!(BlockQ4_0),
            Encoding::Q4_1 => block!(BlockQ4_1),
            Encoding::Q5_0 => block!(BlockQ5_0),
            Encoding::Q5_1 => block!(BlockQ5_1),
            Encoding::Q8_0 => block!(BlockQ8_0),
            Encoding::Q2K => block!(BlockQ2K),
            Encoding::Q3K => block!(BlockQ3K),
            Encoding::Q4K => block!(BlockQ4K),
            Encoding::Q5K => block!(BlockQ5K),
            Encoding::Q6K => block!(BlockQ6K),
            Encoding::Iq4Nl => unreachable!("candle has no such blocks: they are widened"),
        }
    }};
}
pub(crate) use with_block;

impl Encoding {
    pub const NAMES: [&str; 14] = [
        "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k",
        "q5_k", "q6_k", "iq4_nl",
    ];

    pub fn of(dtype: StoredType) -> Option<Self> {
        let dtype = match dtype {
            StoredType::Candle(dtype) => dtype,
            StoredType::Iq4Nl => return Some(Self::Iq4Nl),
            StoredType::Named(_) | StoredType::Unknown(_) => return None,
        };
        Some(match dtype {
            GgmlDType::F32 => Self::F32,
            GgmlDType::F16 => Self::F16,
            GgmlDType::BF16 => Self::Bf16,
            GgmlDType::Q4_0 => Self::Q4_0,
            GgmlDType::Q4_1 => Self::Q4_1,
            GgmlDType::Q5_0 => Self::Q5_0,
            GgmlDType::Q5_1 => Self::Q5_1,
            GgmlDType::Q8_0 => Self::Q8_0,
            GgmlDType::Q2K => Self::Q2K,
            GgmlDType::Q3K => Self::Q3K,
            GgmlDType::Q4K => Self::Q4K,
            GgmlDType::Q5K => Self::Q5K,
            GgmlDType::Q6K => Self::Q6K,
            GgmlDType::Q8_1 | GgmlDType::Q8K => return None, // activations only
        })
    }

    pub const ALL: [Self; Self::NAMES.len()] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
    ];

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Bytes of a row of `columns` values, a multiple of the block.
    pub fn row_bytes(self, columns: usize) -> usize {
        match self {
            Self::Iq4Nl => columns / iq4_nl::BLOCK * iq4_nl::BYTES,
            encoding => with_block!(encoding, T => {
                columns / <T as GgmlType>::BLCK_SIZE * size_of::<T>()
            }),
        }
    }
}

/// The bytes that matrices lie in.
enum Memory {
    Map(Arc<Mmap>),
    /// Memory that the caller keeps, such as a map of its own.
    Callers(&'static [u8]),
}

impl Deref for Memory {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Callers(bytes) => bytes,
        }
    }
}

/// A matrix of `rows` × `columns` inside the mapped file.
pub struct Matrix {
    memory: Memory,
    range: Range<usize>,
    row_bytes: usize,
    encoding: Encoding,
    rows: usize,
    columns: usize,
}

impl Matrix {
    /// A matrix whose rows fill `range` of a map.
    pub fn in_map(
        map: &Arc<Mmap>,
        range: Range<usize>,
        encoding: Encoding,
        rows: usize,
        columns: usize,
    ) -> Self {
        let row_bytes = encoding.row_bytes(columns);
        assert!(range.len() == rows * row_bytes && range.end <= map.len());
        let memory = Memory::Map(map.clone());
        Self { memory, range, row_bytes, encoding, rows, columns }
    }

    /// A matrix that is these bytes.
    pub fn in_memory(
        bytes: &'static [u8],
        encoding: Encoding,
        rows: usize,
        columns: usize,
    ) -> Self {
        let row_bytes = encoding.row_bytes(columns);
        assert_eq!(bytes.len(), rows * row_bytes);
        let (memory, range) = (Memory::Callers(bytes), 0..bytes.len());
        Self { memory, range, row_bytes, encoding, rows, columns }
    }

    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of the whole matrix.
    pub fn bytes(&self) -> usize {
        self.range.len()
    }

    /// The stored bytes of row `r`.
    pub fn row(&self, r: usize) -> &[u8] {
        self.some_rows(r..r + 1)
    }

    /// The stored bytes of several consecutive rows.
    pub fn some_rows(&self, rows: Range<usize>) -> &[u8] {
        &self.memory[self.place_of(rows)]
    }

    /// Where those bytes lie in the file.
    pub fn place_of(&self, rows: Range<usize>) -> Range<usize> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let at = self.range.start + rows.start * self.row_bytes;
        at..at + rows.len() * self.row_bytes
    }

    /// Tells the kernel that the matrix is not needed in memory any more; its bytes can still be
    /// read from the file.
    ///
    /// # Safety
    /// The matrix lies in a map of a file: memory without a file would lose its bytes.
    pub unsafe fn release(&self) {
        #[cfg(unix)]
        if let Memory::Map(map) = &self.memory {
            let (at, len) = (self.range.start, self.range.len());
            // SAFETY: the pages of a file that is mapped to be read come back as they are.
            let _ =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, len) };
        }
    }

    /// The first weight that is no finite number: its index and value. Reads them all.
    pub fn first_not_finite(&self) -> Option<(usize, f32)> {
        let mut row = vec![0.0; self.columns];
        (0..self.rows).find_map(|r| {
            self.dequantize_row(r, &mut row);
            let at = row.iter().position(|x| !x.is_finite())?;
            Some((r * self.columns + at, row[at]))
        })
    }

    /// Widens row `r` to f32: `out` has `columns` values.
    pub fn dequantize_row(&self, r: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns);
        match self.encoding {
            Encoding::Iq4Nl => iq4_nl::dequantize(self.row(r), out),
            encoding => with_block!(encoding, T => T::to_float(blocks::<T>(self.row(r)), out)),
        }
    }
}

impl Matrix {
    /// Widens columns `first..` of row `r` to f32; `first` begins a block, and `out` ends one.
    pub fn dequantize_columns(&self, r: usize, first: usize, out: &mut [f32]) {
        assert!(first + out.len() <= self.columns);
        if self.encoding == Encoding::Iq4Nl {
            return iq4_nl::dequantize_columns(self.row(r), first, out);
        }
        with_block!(self.encoding, T => {
            let size = <T as GgmlType>::BLCK_SIZE;
            assert!(first.is_multiple_of(size) && out.len().is_multiple_of(size));
            T::to_float(&blocks::<T>(self.row(r))[first / size..][..out.len() / size], out)
        });
    }
}

/// Stored bytes as candle's blocks.
pub fn blocks<T: GgmlType>(bytes: &[u8]) -> &[T] {
    let size = size_of::<T>();
    assert!(
        bytes.len().is_multiple_of(size) && bytes.as_ptr().addr().is_multiple_of(align_of::<T>())
    );
    // SAFETY: every `GgmlType` is plain numbers without padding or invalid values (candle views
    // file bytes the same way); length and alignment are checked above; the lifetime is kept.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size) }
}

/// f32 values as their bytes.
pub fn f32_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: any float is four initialized bytes, and u8 has no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
