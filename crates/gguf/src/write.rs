//! Writes the header of a GGUF file (version 3): metadata and tensor directory. The caller streams
//! the tensor data that follows.

/// The tensor data and every tensor in it begin at a multiple of this, unless `general.alignment`
/// says otherwise.
pub const ALIGNMENT: u64 = 32;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U32(u32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Str(String),
    Strs(Vec<String>),
    I32s(Vec<i32>),
}

impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Value::Str(s.to_owned())
    }
}

/// A directory entry; the offset is counted from the start of the tensor data.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorEntry<'a> {
    pub name: &'a str,
    pub dims: &'a [u64],
    /// `ggml_type`
    pub ty: u32,
    pub offset: u64,
}

/// The whole head, padded so that the tensor data can follow at once. `metadata` holds `entries`
/// entries in the form of [`entry`]; `alignment` is a power of two.
pub fn head(entries: u64, metadata: &[u8], tensors: &[TensorEntry], alignment: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(metadata.len() + 128 * tensors.len() + 64);
    out.extend_from_slice(b"GGUF");
    out.extend_from_slice(&3u32.to_le_bytes());
    out.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    out.extend_from_slice(&entries.to_le_bytes());
    out.extend_from_slice(metadata);
    for t in tensors {
        string(&mut out, t.name);
        out.extend_from_slice(&(t.dims.len() as u32).to_le_bytes());
        for d in t.dims {
            out.extend_from_slice(&d.to_le_bytes());
        }
        out.extend_from_slice(&t.ty.to_le_bytes());
        out.extend_from_slice(&t.offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(alignment as usize), 0);
    out
}

/// Adds one metadata entry.
pub fn entry(out: &mut Vec<u8>, key: &str, value: &Value) {
    string(out, key);
    out.extend_from_slice(&type_id(value).to_le_bytes());
    put(out, value);
}

/// `gguf_type` in llama.cpp's `gguf.h`.
fn type_id(value: &Value) -> u32 {
    match value {
        Value::U32(_) => 4,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::Str(_) => 8,
        Value::Strs(_) | Value::I32s(_) => 9,
        Value::U64(_) => 10,
    }
}

fn put(out: &mut Vec<u8>, value: &Value) {
    let mut array = |id: u32, len: usize| {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&(len as u64).to_le_bytes());
    };
    match value {
        Value::U32(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::U64(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::F32(x) => out.extend_from_slice(&x.to_le_bytes()),
        Value::Bool(x) => out.push(u8::from(*x)),
        Value::Str(s) => string(out, s),
        Value::Strs(all) => {
            array(8, all.len());
            all.iter().for_each(|s| string(out, s));
        }
        Value::I32s(all) => {
            array(5, all.len());
            all.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
        }
    }
}

fn string(out: &mut Vec<u8>, s: &str) {
    out.extend_from_slice(&(s.len() as u64).to_le_bytes());
    out.extend_from_slice(s.as_bytes());
}
