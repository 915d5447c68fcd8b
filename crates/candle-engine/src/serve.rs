//! The protocol loop of a worker: reads requests, calls the engine, writes replies. It first points
//! descriptor 1 at stderr, so that no library's print can corrupt the stream.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use llm_bench_protocol::{
    CodecError, Context as Fill, ContextFilled, Encode, Encoded, EngineError, ErrorKind, Feature,
    Generate, Generated, Hello, MemoryBook, PROTOCOL, Ready, Reply, Request, Score, Scored, Token,
    Tokenize, Tokenized, read_message, write_message,
};
use llm_bench_units::MonoNs;

use crate::batch;
use crate::generate::{self, Nobody, Reader, prefill};
use crate::weights::f32_bytes;
use crate::{Engine, check_tokens, internal, resident};

/// Text to ids, in one thread. Why a text has none, as a sentence.
pub type Tokenizer = Box<dyn Fn(&str) -> Result<Vec<u32>, String>>;

/// The tokenizer of a file. This crate has none: the program around the worker brings its own.
#[derive(Debug, Clone, Copy)]
pub struct Tokenizers {
    /// Its name and version.
    pub name: &'static str,
    /// Builds it from the vocabulary of the file at a path. Why it cannot, as a sentence.
    pub open: fn(&str) -> Result<Tokenizer, String>,
}

/// Serves one engine until `bye` or the end of stdin. `entry` is the time of `main`'s first line.
pub fn serve(name: &str, entry: MonoNs, tokenizers: Tokenizers) -> Result<()> {
    die_with_parent();
    let mut out = claim_stdout()?;
    let mut input = BufReader::with_capacity(1 << 16, std::io::stdin());

    match read_message::<Request>(&mut input)? {
        Some(Request::Hello { protocol: PROTOCOL }) => {}
        Some(Request::Hello { protocol }) => {
            let message = format!("this engine speaks protocol {PROTOCOL}, asked for {protocol}");
            write_message(&mut out, &error(ErrorKind::Internal, &message))?;
            bail!(message);
        }
        Some(_) => bail!("expected `hello` first"),
        None => return Ok(()),
    }
    write_message(
        &mut out,
        &Reply::Hello(Hello {
            protocol: PROTOCOL,
            engine: name.to_string(),
            pid: std::process::id(),
            t_entry_ns: entry.0,
        }),
    )?;
    let Some(mut engine) = crate::engine(name) else {
        bail!("no built-in engine is called {name:?}");
    };
    write_message(
        &mut out,
        &Reply::Ready(Ready {
            versions: engine.versions().into_iter().collect(),
            threads: None,
            isa: Some(engine.isa().to_string()),
            features: [&engine.features()[..], &[Feature::Tokenize]].concat(),
            t_ns: MonoNs::now().0,
        }),
    )?;

    let mut requests = Requests { input: Arc::new(Mutex::new(input)), listening: None };
    let mut texts = Texts { tokenizers, path: String::new(), tokenizer: None };
    let free_at_ready = resident::allocator_free();
    while let Some(request) = requests.next()? {
        let begin = MonoNs::now();
        let reply = match request {
            Request::Bye => return Ok(()),
            Request::Hello { .. } => error(ErrorKind::Internal, "`hello` came twice"),
            Request::Memory => Reply::Memory(MemoryBook {
                resident_bytes: memory_stats::memory_stats().map(|m| m.physical_mem as u64),
                allocator_free_bytes: resident::allocator_free()
                    .zip(free_at_ready)
                    .map(|(now, then)| now.saturating_sub(then)),
                ..engine.memory()
            }),
            Request::Load(load) => {
                texts = Texts { tokenizers, path: load.path.clone(), tokenizer: None };
                engine.load(&load).map_or_else(Reply::Error, |l| Reply::Loaded(Box::new(l)))
            }
            Request::Generate(g) if g.batch != 1 || !g.others.is_empty() => {
                generate_batch(engine.as_mut(), g, begin)
                    .map_or_else(Reply::Error, Reply::Generated)
            }
            Request::Context(c) => {
                fill(engine.as_mut(), &c, begin).map_or_else(Reply::Error, Reply::Context)
            }
            Request::Generate(g)
                if g.depth > 0
                    && !(g.is_greedy_only() && engine.features().contains(&Feature::Context)) =>
            {
                error(
                    ErrorKind::Internal,
                    "`depth` is for a measured generation of an engine with the feature `context`",
                )
            }
            Request::Generate(g) => generate(engine.as_mut(), &g, begin, &mut requests, &mut out)
                .map_or_else(Reply::Error, Reply::Generated),
            // The generation to cancel has already finished.
            Request::Cancel { .. } => continue,
            Request::Score(s) => {
                score(engine.as_mut(), &s, begin).map_or_else(Reply::Error, Reply::Scored)
            }
            Request::Encode(e) => {
                encode(engine.as_mut(), &e, begin).map_or_else(Reply::Error, Reply::Encoded)
            }
            Request::Serve(_) => {
                error(ErrorKind::Unsupported, "one request at a time: this engine is no server")
            }
            Request::Tokenize(t) => texts.ids(&t).map_or_else(Reply::Error, Reply::Tokenized),
        };
        write_message(&mut out, &reply)?;
    }
    Ok(())
}

/// The texts of the loaded file's model.
struct Texts {
    tokenizers: Tokenizers,
    /// Empty before the load.
    path: String,
    /// Built for the first request: the time of a load is that of the weights.
    tokenizer: Option<Tokenizer>,
}

impl Texts {
    fn ids(&mut self, request: &Tokenize) -> Result<Tokenized, EngineError> {
        if self.path.is_empty() {
            return Err(internal("expected a load before `tokenize`"));
        }
        let tokenizer = match self.tokenizer.take() {
            Some(tokenizer) => tokenizer,
            None => (self.tokenizers.open)(&self.path)
                .map_err(|why| EngineError::new(ErrorKind::Unsupported, why))?,
        };
        let tokenizer = self.tokenizer.insert(tokenizer);
        let begin = MonoNs::now();
        let ids = request.texts.iter().map(|text| tokenizer(text));
        let ids: Vec<Vec<u32>> = ids.collect::<Result<_, _>>().map_err(internal)?;
        let end = MonoNs::now();
        Ok(Tokenized {
            id: request.id,
            counts: ids.iter().map(|ids| ids.len() as u32).collect(),
            ids: if request.ids { ids } else { Vec::new() },
            tokenizer: Some(self.tokenizers.name.into()),
            threads: Some(1),
            t_begin_ns: begin.0,
            t_end_ns: end.0,
        })
    }
}

/// The source of requests. No second thread exists until the first generation that can be
/// cancelled, so measured processes never have one.
struct Requests {
    input: Arc<Mutex<BufReader<std::io::Stdin>>>,
    listening: Option<Listening>,
}

struct Listening {
    messages: Receiver<Result<Option<Request>, CodecError>>,
    /// The id that was cancelled last. Ids are compared, so a late `cancel` ends nothing else.
    cancelled: Arc<Mutex<Option<u64>>>,
}

impl Requests {
    fn next(&mut self) -> Result<Option<Request>, CodecError> {
        match &self.listening {
            None => read_message(&mut *self.input.lock().unwrap()),
            // A reader that has exited has already reported the end of the stream.
            Some(listening) => listening.messages.recv().unwrap_or(Ok(None)),
        }
    }

    /// Starts a thread that reads, so that `cancel` arrives during a generation.
    fn listen(&mut self) -> &Listening {
        self.listening.get_or_insert_with(|| {
            let (sender, messages) = channel();
            let cancelled = Arc::new(Mutex::new(None));
            let (input, shared) = (Arc::clone(&self.input), Arc::clone(&cancelled));
            std::thread::spawn(move || {
                let mut input = input.lock().unwrap();
                loop {
                    let message = read_message::<Request>(&mut *input);
                    if let Ok(Some(Request::Cancel { id })) = message {
                        *shared.lock().unwrap() = Some(id);
                        continue;
                    }
                    let last = !matches!(message, Ok(Some(_)));
                    if sender.send(message).is_err() || last {
                        return;
                    }
                }
            });
            Listening { messages, cancelled }
        })
    }
}

/// Writes tokens as soon as they exist.
struct Streamed<'a> {
    id: u64,
    out: &'a mut BufWriter<File>,
    cancelled: &'a Mutex<Option<u64>>,
}

impl Reader for Streamed<'_> {
    fn token(&mut self, token: u32, at: MonoNs) -> std::io::Result<()> {
        write_message(self.out, &Reply::Token(Token { id: self.id, token, t_ns: at.0 }))
    }

    fn cancelled(&self) -> bool {
        *self.cancelled.lock().unwrap() == Some(self.id)
    }
}

fn generate(
    engine: &mut dyn Engine,
    request: &Generate,
    begin: MonoNs,
    requests: &mut Requests,
    out: &mut BufWriter<File>,
) -> Result<Generated, EngineError> {
    let measured = request.is_greedy_only();
    let done = match measured {
        true => generate::generate(engine.decoder()?, request, &mut Nobody)?,
        false => {
            let cancelled = &requests.listen().cancelled;
            let mut reader = Streamed { id: request.id, out, cancelled };
            generate::generate(engine.decoder()?, request, &mut reader)?
        }
    };
    Ok(Generated {
        id: request.id,
        tokens: done.tokens,
        others: Vec::new(),
        t_begin_ns: begin.0,
        t_prefill_end_ns: Some(done.prefill_end.0),
        t_tokens_ns: done.at.iter().map(|t| t.0).collect(),
        compile_ns: None,
        depth: (request.depth > 0).then_some(request.depth),
        reused: (!measured).then_some(done.reused),
        profile: done.profile,
    })
}

/// Several sequences together. Nobody reads them before their end.
fn generate_batch(
    engine: &mut dyn Engine,
    request: Generate,
    begin: MonoNs,
) -> Result<Generated, EngineError> {
    let done = batch::generate(engine.decoder()?, &request)?;
    let mut tokens = done.tokens.into_iter();
    Ok(Generated {
        id: request.id,
        tokens: tokens.next().unwrap_or_default(),
        others: tokens.collect(),
        t_begin_ns: begin.0,
        t_prefill_end_ns: Some(done.prefill_end.0),
        t_tokens_ns: done.at.iter().map(|t| t.0).collect(),
        compile_ns: None,
        depth: None,
        reused: None,
        profile: done.profile,
    })
}

fn error(kind: ErrorKind, message: &str) -> Reply {
    Reply::Error(EngineError::new(kind, message))
}

/// Empties the cache and fills it with a context that measured generations may build on.
fn fill(engine: &mut dyn Engine, c: &Fill, begin: MonoNs) -> Result<ContextFilled, EngineError> {
    if !engine.features().contains(&Feature::Context) {
        let message = "this engine takes a context only as a part of its prompt";
        return Err(EngineError::new(ErrorKind::Internal, message));
    }
    let decoder = engine.decoder()?;
    let (n_ctx, n_vocab) = decoder.shape();
    check_tokens(&c.tokens, 0, n_ctx, n_vocab)?;
    decoder.held().clear();
    prefill(decoder, &c.tokens, 0, &Nobody)?;
    let positions = c.tokens.len() as u32;
    let (t_begin_ns, t_end_ns) = (begin.0, MonoNs::now().0);
    Ok(ContextFilled { id: c.id, positions, t_begin_ns, t_end_ns })
}

fn score(engine: &mut dyn Engine, s: &Score, begin: MonoNs) -> Result<Scored, EngineError> {
    let internal = |e: std::io::Error| {
        EngineError::new(ErrorKind::Internal, format!("{}: {e}", s.logits_path))
    };
    let mut file =
        BufWriter::with_capacity(1 << 20, File::create(&s.logits_path).map_err(internal)?);
    let (mut positions, mut vocab) = (0u32, 0u32);
    engine.score(s, &mut |row| {
        positions += 1;
        vocab = row.len() as u32;
        row.iter().try_for_each(|x| file.write_all(&x.to_le_bytes()))
    })?;
    file.flush().map_err(internal)?;
    let decoded = match s.decode_from {
        Some(from) => (s.tokens.len() as u32).saturating_sub(from.max(s.first)),
        None => 0,
    };
    let (begin, end) = (begin.0, MonoNs::now().0);
    Ok(Scored { id: s.id, positions, vocab, decoded, t_begin_ns: begin, t_end_ns: end })
}

fn encode(engine: &mut dyn Engine, e: &Encode, begin: MonoNs) -> Result<Encoded, EngineError> {
    let vectors = engine.encode(&e.texts, e.hidden_path.is_some())?;
    let end = MonoNs::now();
    let files =
        [(&e.vectors_path, Some(&vectors.values)), (&e.hidden_path, vectors.hidden.as_ref())];
    for (path, values) in files {
        if let (Some(path), Some(values)) = (path, values) {
            std::fs::write(path, f32_bytes(values))
                .map_err(|e| internal(format!("{path}: {e}")))?;
        }
    }
    Ok(Encoded {
        id: e.id,
        rows: e.texts.len() as u32,
        columns: vectors.columns as u32,
        t_begin_ns: begin.0,
        t_end_ns: end.0,
        compile_ns: None,
    })
}

/// Keeps the original stdout for the protocol and points descriptor 1 at stderr.
fn claim_stdout() -> Result<BufWriter<File>> {
    let kept = rustix::io::dup(rustix::stdio::stdout()).context("cannot duplicate stdout")?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr()).context("cannot redirect stdout")?;
    Ok(BufWriter::new(File::from(kept)))
}

/// Asks the kernel to end this process when the harness exits.
fn die_with_parent() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}
