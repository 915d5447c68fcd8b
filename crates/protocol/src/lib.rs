//! The engine protocol's messages and their codec (docs/PROTOCOL.md), and nothing else: no
//! process, no deadline, no model. Both sides of the pipe use these types.

#![forbid(unsafe_code)]

mod serve;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use serve::{Arrivals, RequestError, Serve, Served, ServedRequest};

/// The protocol version of this build.
pub const PROTOCOL: u32 = 1;

/// The longest request, in bytes: a prompt of millions of tokens.
pub const MAX_LINE: usize = 64 << 20;
/// The longest reply, in bytes: hundreds of thousands of tokens with their times.
pub const MAX_REPLY: usize = 8 << 20;
/// The most entries of a list or map of words in a reply, and the most bytes of one word: an engine
/// must not fill the harness's memory or its records.
pub const MAX_ENTRIES: usize = 256;
pub const MAX_TEXT: usize = 16 << 10;

/// What travels in one line.
pub trait Message: Serialize + for<'de> Deserialize<'de> {
    /// Bytes of the longest line.
    const LONGEST: usize;

    /// Describes what is too large inside a line that is not too long.
    fn excess(&self) -> Option<String> {
        None
    }
}

impl Message for Request {
    const LONGEST: usize = MAX_LINE;
}

impl Message for Reply {
    const LONGEST: usize = MAX_REPLY;

    fn excess(&self) -> Option<String> {
        let words = |name: &str, words: &mut dyn Iterator<Item = usize>| {
            let (mut n, mut longest) = (0, 0);
            words.for_each(|length| (n, longest) = (n + 1, longest.max(length)));
            if n > MAX_ENTRIES {
                return Some(format!("{name}: expected at most {MAX_ENTRIES} entries, found {n}"));
            }
            (longest > MAX_TEXT)
                .then(|| format!("{name}: expected at most {MAX_TEXT} bytes, found {longest}"))
        };
        let stages =
            |name: &str, map: &BTreeMap<String, u64>| words(name, &mut map.keys().map(String::len));
        match self {
            Reply::Hello(h) => words("engine", &mut [h.engine.len()].into_iter()),
            Reply::Ready(r) => {
                let versions = r.versions.iter().map(|(name, value)| name.len() + value.len());
                words("versions", &mut versions.into_iter())
                    .or_else(|| words("features", &mut r.features.iter().map(|_| 0)))
                    .or_else(|| words("isa", &mut r.isa.iter().map(String::len)))
            }
            Reply::Loaded(l) => {
                let settings = l.settings.iter().map(|(name, value)| {
                    name.len() + serde_json::to_string(value).map_or(0, |text| text.len())
                });
                let p = [&l.precision.weights, &l.precision.compute, &l.precision.kv];
                words("notes", &mut l.notes.iter().map(String::len))
                    .or_else(|| words("settings", &mut settings.into_iter()))
                    .or_else(|| words("precision", &mut p.into_iter().map(String::len)))
                    .or_else(|| stages("stages", &l.stages))
            }
            Reply::Generated(g) => g.profile.as_ref().and_then(|p| {
                stages("profile", &p.prefill_ns).or_else(|| stages("profile", &p.decode_ns))
            }),
            Reply::Served(s) => words(
                "requests",
                &mut s.requests.iter().filter_map(|r| Some(r.error.as_ref()?.message.len())),
            ),
            Reply::Context(_)
            | Reply::Token(_)
            | Reply::Scored(_)
            | Reply::Encoded(_)
            | Reply::Memory(_) => None,
            Reply::Tokenized(t) => words("tokenizer", &mut t.tokenizer.iter().map(String::len)),
            Reply::Error(e) => words("message", &mut [e.message.len()].into_iter()),
        }
    }
}

/// Harness to engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    Hello {
        protocol: u32,
    },
    Load(Load),
    Context(Context),
    Generate(Generate),
    /// End the generation with this id after the current token.
    Cancel {
        id: u64,
    },
    Score(Score),
    Encode(Encode),
    Serve(Serve),
    Tokenize(Tokenize),
    Memory,
    Bye,
}

/// Engine to harness.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    Hello(Hello),
    Ready(Ready),
    Loaded(Box<Loaded>),
    Context(ContextFilled),
    Token(Token),
    Generated(Generated),
    Scored(Scored),
    Encoded(Encoded),
    Served(Served),
    Tokenized(Tokenized),
    Memory(MemoryBook),
    Error(EngineError),
}

/// First sign of life; the engine reads `t_entry_ns` before anything else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    pub engine: String,
    pub pid: u32,
    pub t_entry_ns: u64,
}

/// The engine's imports are done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isa: Option<String>,
    /// What the engine can do beyond a measured generation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<Feature>,
    pub t_ns: u64,
}

/// What an engine can do beyond greedy generation of a fixed length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    Stream,
    Stop,
    Sampling,
    Reuse,
    Cancel,
    /// Teacher-forced logits: the message `score`.
    Score,
    /// A context that is filled before the generation, separately: the message `context`.
    Context,
    /// Several sequences at once: the field `batch` of `load` and `generate`.
    Batch,
    /// Vectors or class logits of whole texts: the message `encode`.
    Encode,
    /// Many requests, some at the same time: the message `serve`.
    Serve,
    /// The ids of texts by a tokenizer of the engine's own: the message `tokenize`.
    Tokenize,
    /// A feature that this build does not know.
    #[serde(other)]
    Other,
}

/// Open a GGUF and make every weight usable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Load {
    pub path: String,
    /// `cpu`, `cuda:0`, `metal`.
    pub device: String,
    pub threads: u32,
    /// Positions to allocate in the KV cache, for each sequence.
    pub n_ctx: u32,
    /// Sequences that a generation may have; more than one needs the feature `batch`.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub batch: u32,
    /// The engine's own switches.
    #[serde(default)]
    pub options: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    pub t_begin_ns: u64,
    pub t_end_ns: u64,
    /// Nanoseconds by name.
    #[serde(default)]
    pub stages: BTreeMap<String, u64>,
    pub precision: Precision,
    #[serde(default)]
    pub memory: MemoryBook,
    /// Weight bytes that one decode step reads, as this engine stores them; absent if it stores
    /// them like the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_bytes_per_token: Option<u64>,
    /// The engine's choices: compile mode, kernels.
    #[serde(default)]
    pub settings: BTreeMap<String, serde_json::Value>,
    /// Sentences that a reader of the table must know.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The types in which a model is stored, multiplied and cached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Precision {
    /// What weights are stored in.
    pub weights: String,
    /// What they are multiplied in.
    pub compute: String,
    /// What the KV cache holds.
    pub kv: String,
}

/// What an engine holds, in bytes, by its own account; unknown values are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryBook {
    /// Weights that are mapped from the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_mapped_bytes: Option<u64>,
    /// Weights in memory of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_private_bytes: Option<u64>,
    /// Keys and values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_bytes: Option<u64>,
    /// Buffers that stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_bytes: Option<u64>,
    /// Everything that the process holds in memory, as the process itself reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// Of the private weights, what lies in memory now: pages that were never written do not.
    /// Absent where it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_private_resident_bytes: Option<u64>,
    /// The same of keys and values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_resident_bytes: Option<u64>,
    /// The same of the buffers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_resident_bytes: Option<u64>,
    /// Growth since `ready` of the memory that imports and compilation hold, without what the
    /// allocator holds free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiler_bytes: Option<u64>,
    /// Growth since `ready` of the memory that the allocator keeps for reuse: freed by its user,
    /// not returned to the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocator_free_bytes: Option<u64>,
    /// What the engine's framework holds on the device: weights, cache, buffers, workspaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_allocated_bytes: Option<u64>,
    /// What its allocator took from the device: the allocated bytes and those that it keeps for
    /// reuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_reserved_bytes: Option<u64>,
}

/// Empty the cache and run these tokens through the model, at positions 0...
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Context {
    pub id: u64,
    pub tokens: Vec<u32>,
}

/// The keys and values of a context are in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextFilled {
    pub id: u64,
    /// How many positions the cache holds.
    pub positions: u32,
    pub t_begin_ns: u64,
    pub t_end_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    pub id: u64,
    pub prompt: Vec<u32>,
    pub n: u32,
    /// How many sequences are generated together; the first one's prompt is `prompt`.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub batch: u32,
    /// The prompts of the other sequences, each as long as `prompt`: `batch` less one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Vec<u32>>,
    /// The prompt follows this many positions, which the last `context` filled; 0 means an empty
    /// context.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: u32,
    pub ignore_eos: bool,
    /// Time each stage of the model; such a generation is not measured.
    #[serde(default, skip_serializing_if = "is_false")]
    pub profile: bool,
    /// Send a `token` message for each token as soon as it exists. Never set in a measured run.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stream: bool,
    /// Ids that end the generation; the last token is then one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<u32>,
    /// Absent for greedy decoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// The engine may keep the cache of the longest prefix that this prompt shares with what
    /// the cache holds.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reuse: bool,
}

impl Generate {
    /// The request of a measured run: greedy, exactly `n` tokens, from an empty context, nothing
    /// sent before the end.
    pub fn greedy(id: u64, prompt: Vec<u32>, n: u32) -> Self {
        Self {
            id,
            prompt,
            n,
            batch: 1,
            others: Vec::new(),
            depth: 0,
            ignore_eos: true,
            profile: false,
            stream: false,
            stop: Vec::new(),
            sampling: None,
            reuse: false,
        }
    }

    /// Whether this is such a request, regardless of id, prompt and length.
    pub fn is_greedy_only(&self) -> bool {
        !self.stream && self.stop.is_empty() && self.sampling.is_none() && !self.reuse
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn one() -> u32 {
    1
}

fn is_one(n: &u32) -> bool {
    *n == 1
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// How tokens are drawn; docs/PROTOCOL.md defines the algorithm for every engine.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Above 0.
    pub temperature: f64,
    /// In (0, 1].
    pub top_p: f64,
    pub seed: u64,
}

/// One token of a streamed generation, sent as soon as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub id: u64,
    pub token: u32,
    pub t_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    pub id: u64,
    pub tokens: Vec<u32>,
    /// The tokens of the other sequences of a batch, as many for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Vec<u32>>,
    pub t_begin_ns: u64,
    /// The prompt's forward pass is finished and synced; absent if the engine does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t_prefill_end_ns: Option<u64>,
    /// The id of token i, of every sequence, is on the host.
    pub t_tokens_ns: Vec<u64>,
    /// Just-in-time compilation inside this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile_ns: Option<u64>,
    /// Positions of the context before the prompt; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// Positions of the prompt whose keys and values were in the cache already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused: Option<u32>,
    /// Present if it was requested and the engine supports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

/// Where the time of a generation went, by stages of the model that follow one another. The harness
/// finds the time that no stage claims.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Profile {
    /// Nanoseconds by stage from `t_begin_ns` until the first token.
    pub prefill_ns: BTreeMap<String, u64>,
    /// Nanoseconds by stage from the first token until the last.
    pub decode_ns: BTreeMap<String, u64>,
    /// Bytes of weights that one decode step reads, by stage; absent where it is not known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub decode_weight_bytes: BTreeMap<String, u64>,
}

/// Teacher-forced pass; the logits of positions `first`.. go to a file as f32, row by row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub id: u64,
    pub tokens: Vec<u32>,
    pub logits_path: String,
    #[serde(default)]
    pub first: u32,
    /// Positions from this one on go through the model one by one, as in decoding. If absent, all
    /// may go together, as in a prefill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_from: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    pub id: u64,
    /// Rows written.
    pub positions: u32,
    /// Columns of each row.
    pub vocab: u32,
    /// How many rows at the end came from decode steps.
    #[serde(default)]
    pub decoded: u32,
    pub t_begin_ns: u64,
    pub t_end_ns: u64,
}

/// Run a batch of whole texts through an encoder. Every text attends to all of itself and to no
/// other one; texts may differ in length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Encode {
    pub id: u64,
    /// Token ids of each text, with the special tokens of the model, without padding.
    pub texts: Vec<Vec<u32>>,
    /// Where the results go as f32, row by row, one row a text. Absent in a measured request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors_path: Option<String>,
    /// Where the hidden states go as f32, `[n_layers + 1, tokens of all texts, hidden]`: behind the
    /// embeddings (with their norm), then behind each layer. Absent in a measured request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_path: Option<String>,
}

/// The results of a batch of texts are on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoded {
    pub id: u64,
    /// How many texts.
    pub rows: u32,
    /// Values of each: the logits of a classifier, else a pooled vector of length 1.
    pub columns: u32,
    pub t_begin_ns: u64,
    pub t_end_ns: u64,
    /// Just-in-time compilation inside this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile_ns: Option<u64>,
}

/// Turn texts into token ids with the engine's own tokenizer, as a prompt of the loaded file would
/// be: with the special tokens that the model puts around a text, and with no text read as one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokenize {
    pub id: u64,
    pub texts: Vec<String>,
    /// Send the ids. Never set in a measured request.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ids: bool,
}

/// The ids of every text are on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokenized {
    pub id: u64,
    /// How many ids each text has.
    pub counts: Vec<u32>,
    /// The ids of each text, if they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<Vec<u32>>,
    /// The name and version of the tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Threads that worked on this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    pub t_begin_ns: u64,
    pub t_end_ns: u64,
}

/// Why an engine cannot answer, in the engine's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    pub kind: ErrorKind,
    pub message: String,
}

impl EngineError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// The kinds of error that an engine reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    MissingDependency,
    UnsupportedQuant,
    /// A feature that the engine names cannot be used here: on this device, with these options.
    Unsupported,
    CompileFailed,
    Oom,
    BadModel,
    Internal,
}

/// A line that is not a message.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("a line of more than {0} bytes")]
    TooLong(usize),
    #[error("not a protocol message: {reason}: {excerpt}")]
    Malformed { reason: String, excerpt: String },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes one message as one line and flushes it.
pub fn write_message<T: Serialize>(out: &mut impl Write, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// Reads the next line as a message; `None` at the end of the stream.
pub fn read_message<T: Message>(input: &mut impl BufRead) -> Result<Option<T>, CodecError> {
    let mut line = Vec::new();
    let n = io::Read::take(&mut *input, T::LONGEST as u64 + 1).read_until(b'\n', &mut line)?;
    if n == 0 {
        return Ok(None);
    }
    if n > T::LONGEST {
        return Err(CodecError::TooLong(T::LONGEST));
    }
    decode(&line).map(Some)
}

/// Decodes one line.
pub fn decode<T: Message>(line: &[u8]) -> Result<T, CodecError> {
    let malformed = |reason: String| CodecError::Malformed {
        reason,
        excerpt: String::from_utf8_lossy(&line[..line.len().min(120)]).trim_end().to_string(),
    };
    let message: T = serde_json::from_slice(line).map_err(|e| malformed(e.to_string()))?;
    match message.excess() {
        Some(excess) => Err(malformed(excess)),
        None => Ok(message),
    }
}

#[cfg(test)]
mod tests;
