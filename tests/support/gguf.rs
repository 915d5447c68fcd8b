//! GGUF files as strangers make them: the tiny model with something in it changed.

use std::path::{Path, PathBuf};

use llm_bench::model::gguf::write::{self, ALIGNMENT, TensorEntry, Value};

/// A tensor with its bytes; dimensions in the file's order, the row first.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub dtype: u32,
    pub bytes: Vec<u8>,
}

/// A file in memory, to be changed and written.
#[derive(Clone)]
pub struct Edited {
    /// Each key, and its value's type and bytes.
    metadata: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
}

/// `ggml_type` of F32 and F16.
pub const F32: u32 = 0;
pub const F16: u32 = 1;

impl Edited {
    pub fn tiny() -> Self {
        Self::read(&super::repository("models/tiny.gguf"))
    }

    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let mut r = Reader { bytes: &bytes, at: 8 };
        let (n_tensors, n_keys) = (r.u64(), r.u64());
        let mut metadata = Vec::new();
        for _ in 0..n_keys {
            let key = r.string();
            let start = r.at;
            let kind = r.u32();
            r.skip(kind);
            metadata.push((key, bytes[start..r.at].to_vec()));
        }
        let mut places = Vec::new();
        for _ in 0..n_tensors {
            let name = r.string();
            let dims = (0..r.u32()).map(|_| r.u64()).collect();
            places.push((name, dims, r.u32(), r.u64()));
        }
        let data = &bytes[r.at.next_multiple_of(ALIGNMENT as usize)..];
        let mut starts: Vec<u64> = places.iter().map(|p| p.3).collect();
        starts.push(data.len() as u64);
        starts.sort();
        let tensors = places.into_iter().map(|(name, dims, dtype, offset)| {
            let end = *starts.iter().find(|s| **s > offset).unwrap();
            Tensor { name, dims, dtype, bytes: data[offset as usize..end as usize].to_vec() }
        });
        Self { metadata, tensors: tensors.collect() }
    }

    /// Sets a key, in its place if it is there.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let mut entry = Vec::new();
        write::entry(&mut entry, key, &value.into());
        let value = entry.split_off(8 + key.len());
        self.raw(key, value);
        self
    }

    /// An array of floats.
    pub fn set_f32s(mut self, key: &str, values: &[f32]) -> Self {
        let mut value = [9u32.to_le_bytes(), 6u32.to_le_bytes()].concat();
        value.extend((values.len() as u64).to_le_bytes());
        value.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self.raw(key, value);
        self
    }

    fn raw(&mut self, key: &str, value: Vec<u8>) {
        match self.metadata.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.metadata.push((key.into(), value)),
        }
    }

    pub fn without(mut self, key: &str) -> Self {
        self.metadata.retain(|(k, _)| k != key);
        self
    }

    /// Without any metadata.
    pub fn bare(mut self) -> Self {
        self.metadata.clear();
        self
    }

    fn value(&self, key: &str) -> &[u8] {
        &self.metadata.iter().find(|(k, _)| k == key).unwrap().1
    }

    /// A text of the metadata.
    pub fn text(&self, key: &str) -> String {
        Reader { bytes: self.value(key), at: 4 }.string()
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Vec<String> {
        let mut r = Reader { bytes: self.value(key), at: 8 };
        (0..r.u64()).map(|_| r.string()).collect()
    }

    /// A list of 32-bit numbers.
    pub fn i32s(&self, key: &str) -> Vec<i32> {
        let mut r = Reader { bytes: self.value(key), at: 8 };
        (0..r.u64()).map(|_| r.u32() as i32).collect()
    }

    /// The file's chat template, changed.
    pub fn template(self, change: impl FnOnce(String) -> String) -> Self {
        let old = self.text("tokenizer.chat_template");
        self.set("tokenizer.chat_template", change(old).as_str())
    }

    /// Tokens added at the end, with their types; the embedding gets rows of zeros, up to a
    /// multiple of 64.
    pub fn with_tokens(self, added: &[(&str, i32)]) -> Self {
        let (tokens, types) = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type");
        let (mut all, mut kinds) = (self.texts(tokens), self.i32s(types));
        all.extend(added.iter().map(|(t, _)| t.to_string()));
        kinds.extend(added.iter().map(|(_, kind)| *kind));
        let mut file = self.set(tokens, Value::Strs(all.clone())).set(types, Value::I32s(kinds));
        let embedding = file.tensor("token_embd.weight");
        let rows = all.len().next_multiple_of(64) as u64;
        let row = embedding.bytes.len() / embedding.dims[1] as usize;
        embedding.bytes.resize(row * rows as usize, 0);
        embedding.dims[1] = rows;
        file
    }

    /// One token under another name.
    pub fn with_token(self, from: &str, to: &str) -> Self {
        let mut tokens = self.texts("tokenizer.ggml.tokens");
        *tokens.iter_mut().find(|t| *t == from).unwrap() = to.into();
        self.set("tokenizer.ggml.tokens", Value::Strs(tokens))
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut metadata = Vec::new();
        for (key, value) in &self.metadata {
            metadata.extend((key.len() as u64).to_le_bytes());
            metadata.extend(key.as_bytes());
            metadata.extend(value);
        }
        let mut offset = 0;
        let mut entries = Vec::new();
        for t in &self.tensors {
            entries.push(TensorEntry { name: &t.name, dims: &t.dims, ty: t.dtype, offset });
            offset += (t.bytes.len() as u64).next_multiple_of(ALIGNMENT);
        }
        let mut out = write::head(self.metadata.len() as u64, &metadata, &entries, ALIGNMENT);
        for t in &self.tensors {
            out.extend(&t.bytes);
            out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
        }
        out
    }

    /// Writes the file into a folder; its path, as an argument.
    pub fn write(&self, folder: &Path, name: &str) -> String {
        let path: PathBuf = folder.join(format!("{name}.gguf"));
        std::fs::write(&path, self.bytes()).unwrap();
        path.to_str().unwrap().to_string()
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn string(&mut self) -> String {
        let len = self.u64() as usize;
        self.at += len;
        String::from_utf8(self.bytes[self.at - len..self.at].to_vec()).unwrap()
    }

    fn skip(&mut self, kind: u32) {
        match kind {
            8 => drop(self.string()),
            9 => {
                let element = self.u32();
                for _ in 0..self.u64() {
                    self.skip(element);
                }
            }
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            4..=6 => self.at += 4,
            _ => self.at += 8,
        }
    }
}
