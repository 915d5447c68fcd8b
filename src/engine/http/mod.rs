//! An engine behind an address: a server with OpenAI's interface, which runs already or which the
//! harness starts. The times are the client's: a token counts when the chunk that carries it is
//! here. What cannot be seen from here is absent.

mod address;
mod client;
mod dialect;
mod events;
mod load;
mod server;
mod tokens;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use serde_json::Value;

pub use self::address::{Endpoint, KEY};
use self::client::Client;
use self::dialect::{Api, Dialect, Kind, Prompt};
use self::events::Events;
pub use self::server::free_port;
use self::tokens::{Streamed, Tokens};
use super::child::{Child, cannot};
use super::connection::{Broken, Connection, Observes};
use super::conversation::{Deadlines, Failure};
use crate::model::gguf::GgufFile;
use crate::model::tokenizer::Tokenizer;
use crate::protocol::{
    EngineError, ErrorKind, Feature, Generate, Generated, Load, Loaded, MemoryBook, Precision,
    Ready, Reply, Request,
};
use crate::record::FailureKind;
use crate::threads::start;
use crate::units::MonoNs;

/// How often a server that starts is asked whether it is ready.
const POLL: Duration = Duration::from_millis(5);

/// A connection to a server. Dropping it ends a server of ours.
pub struct Http {
    requests: Option<Sender<Request>>,
    answers: Receiver<(MonoNs, Result<Reply, Broken>)>,
    /// Whether the server told every id of the last generation.
    ids: Arc<AtomicBool>,
    /// Nobody waits for an answer any more.
    over: Arc<AtomicBool>,
    /// A server of ours.
    server: Option<Child>,
}

impl Http {
    /// Reaches a server that runs.
    pub fn to(endpoint: &Endpoint, deadlines: &Deadlines) -> Result<Self, Failure> {
        Self::over(endpoint, None, None, deadlines)
    }

    /// Starts a server; it is ready once the path `health` says so.
    pub fn serve(
        command: Command,
        threads: u32,
        endpoint: &Endpoint,
        health: &str,
        deadlines: &Deadlines,
    ) -> Result<Self, Failure> {
        let server = server::start(command, threads)?;
        Self::over(endpoint, Some(server), Some(health.to_string()), deadlines)
    }

    fn over(
        endpoint: &Endpoint,
        server: Option<Child>,
        health: Option<String>,
        deadlines: &Deadlines,
    ) -> Result<Self, Failure> {
        let client = Client::new(endpoint, deadlines.generate).map_err(cannot)?;
        let (requests, inbox) = channel();
        let (outbox, answers) = channel();
        let (ids, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut asking = Asking {
            client,
            health,
            dialect: None,
            text: None,
            ids: ids.clone(),
            over: over.clone(),
        };
        let serve = move || {
            while let Ok(request) = inbox.recv() {
                let answer = asking.answer(request);
                if outbox.send((MonoNs::now(), answer)).is_err() {
                    return;
                }
            }
        };
        start(serve).map_err(|e| cannot(e.to_string()))?;
        Ok(Self { requests: Some(requests), answers, ids, over, server })
    }
}

/// What a server can do beyond a generation.
pub fn ready() -> Ready {
    Ready { features: vec![Feature::Serve], ..Ready::default() }
}

impl Connection for Http {
    fn observes(&self) -> Observes {
        Observes {
            spawned: self.server.as_ref().map(|server| server.spawned),
            pid: self.server.as_ref().map(Child::pid),
            ids: self.ids.load(Relaxed),
            clock: false,
        }
    }

    fn send(&mut self, request: Request) {
        if let Some(requests) = &self.requests {
            // If the client has ended, its answers end too.
            let _ = requests.send(request);
        }
    }

    fn next(&mut self, limit: Duration) -> Result<Option<(MonoNs, Reply)>, Broken> {
        let answer = self.answers.recv_timeout(limit);
        if let Ok((at, Ok(reply))) = answer {
            return Ok(Some((at, reply)));
        }
        // A server that died explains a broken stream and a silence.
        if let Some(server) = &mut self.server {
            let ended = match &answer {
                Err(RecvTimeoutError::Timeout) => server.status().map(|s| server.exited(s)),
                _ => server.status().and_then(|_| server.ended()),
            };
            if let Some(broken) = ended {
                return Err(broken);
            }
        }
        match answer {
            Ok((_, Err(broken))) => Err(broken),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            _ => {
                let message = "the client ended".to_string();
                Err(Broken { kind: FailureKind::Internal, message })
            }
        }
    }

    fn abort(&mut self) -> Option<String> {
        self.over.store(true, Relaxed);
        self.server.as_mut()?.kill()
    }

    fn close(&mut self, limit: Duration) -> Result<Vec<String>, Broken> {
        self.over.store(true, Relaxed);
        self.requests = None;
        self.server.as_mut().map_or(Ok(Vec::new()), |server| server::stop(server, limit))
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
    }
}

/// The client's side: answers the protocol's requests by asking the server.
struct Asking {
    client: Client,
    /// The path that says whether a server of ours is ready.
    health: Option<String>,
    /// Known once the model is.
    dialect: Option<Dialect>,
    /// Turns ids to text, for a server that takes no ids.
    text: Option<Box<Tokenizer>>,
    ids: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Asking {
    fn answer(&mut self, request: Request) -> Result<Reply, Broken> {
        let unsupported = |what: &str| {
            Ok(Reply::Error(EngineError::new(
                ErrorKind::Unsupported,
                format!("a server behind an address shows no {what}"),
            )))
        };
        match request {
            Request::Load(load) => Ok(Reply::Loaded(Box::new(self.load(&load)?))),
            Request::Generate(request) => Ok(Reply::Generated(self.generate(&request)?)),
            Request::Serve(request) => Ok(Reply::Served(load::run(self, &request, &self.over)?)),
            Request::Memory => Ok(Reply::Memory(MemoryBook::default())),
            Request::Score(_) => unsupported("logits"),
            Request::Encode(_) => unsupported("vectors here"),
            Request::Context(_) => unsupported("context apart from a prompt"),
            Request::Tokenize(_) => unsupported("tokenizer of its own"),
            Request::Hello { .. } | Request::Cancel { .. } | Request::Bye => {
                unsupported("such message")
            }
        }
    }

    /// Waits until a server of ours is ready, and finds out whom we talk to.
    fn load(&mut self, load: &Load) -> Result<Loaded, Broken> {
        let begin = MonoNs::now();
        if let Some(health) = &self.health {
            while self.client.status(health) != Some(200) {
                if self.over.load(Relaxed) {
                    return Err(self.client.protocol(health, "nobody waits any more"));
                }
                std::thread::sleep(POLL);
            }
        }
        let end = MonoNs::now();
        let models = self.client.get("/v1/models")?;
        let kind = Kind::of(&models);
        let word = |key: &str| load.options.get(key).and_then(Value::as_str);
        let model = named(&models, word("model"))
            .map_err(|message| Broken { kind: FailureKind::BadModel, message })?;
        let api = match word("api") {
            None | Some("completions") => Api::Completions,
            Some("chat") => Api::Chat,
            Some(other) => {
                let message = format!("api={other}: expected completions or chat");
                return Err(Broken { kind: FailureKind::Unsupported, message });
            }
        };
        let ids = match word("prompt") {
            None => api == Api::Completions && kind != Kind::Other,
            Some("ids") => true,
            Some("text") => false,
            Some(other) => {
                let message = format!("prompt={other}: expected ids or text");
                return Err(Broken { kind: FailureKind::Unsupported, message });
            }
        };
        if !ids {
            let tokenizer = GgufFile::open(Path::new(&load.path))
                .and_then(|file| Tokenizer::from_gguf(&file))
                .map_err(|e| Broken { kind: FailureKind::BadModel, message: e.to_string() })?;
            self.text = Some(Box::new(tokenizer));
        }
        let version = kind.version().and_then(|(path, field)| {
            let said = self.client.get(path).ok()?;
            Some(said.pointer(field)?.as_str()?.to_string())
        });
        let dialect = Dialect { kind, api, model, ids };
        let loaded = self.loaded(&dialect, version, (begin, end));
        self.dialect = Some(dialect);
        Ok(loaded)
    }

    /// What is known of the server's model.
    fn loaded(
        &self,
        dialect: &Dialect,
        version: Option<String>,
        (begin, end): (MonoNs, MonoNs),
    ) -> Loaded {
        let unknown = || "not stated".to_string();
        let mut settings = std::collections::BTreeMap::new();
        let mut put = |name: &str, value: &str| settings.insert(name.into(), value.into());
        put("server", dialect.kind.name());
        put("model", &dialect.model);
        put("route", dialect.path());
        put("prompt", if dialect.ids { "ids" } else { "text" });
        if let Some(version) = version {
            put("version", &version);
        }
        let mut notes = vec![
            "Its times are the client's: a token counts when the chunk that carries it is here, and a \
             chunk of several tokens stands for equal steps since the one before."
                .to_string(),
        ];
        if !dialect.ids {
            notes
                .push("It takes text: its prompts have as many tokens as it makes of them.".into());
        }
        if dialect.kind == Kind::LlamaServer {
            notes.push("It never chooses a token that ends a text.".into());
        }
        if !dialect.ignores_end() {
            notes.push("It may end a text before the length that was asked for.".into());
        }
        Loaded {
            t_begin_ns: begin.0,
            t_end_ns: end.0,
            precision: Precision { weights: unknown(), compute: unknown(), kv: unknown() },
            settings,
            notes,
            ..Loaded::default()
        }
    }

    fn generate(&self, request: &Generate) -> Result<Generated, Broken> {
        let (begin, streamed) = self.stream(&request.prompt, request.n)?;
        self.ids.store(streamed.ids.is_some(), Relaxed);
        Ok(Generated {
            id: request.id,
            tokens: streamed.ids.unwrap_or_default(),
            others: Vec::new(),
            t_begin_ns: begin.0,
            t_prefill_end_ns: None,
            t_tokens_ns: streamed.times.iter().map(|t| t.0).collect(),
            compile_ns: None,
            depth: None,
            reused: None,
            profile: None,
        })
    }

    /// Sends a prompt for `n` tokens and reads the whole answer. Returns when the request began.
    fn stream(&self, prompt: &[u32], n: u32) -> Result<(MonoNs, Streamed), Broken> {
        let Some(dialect) = &self.dialect else {
            let message = "no model was loaded".to_string();
            return Err(Broken { kind: FailureKind::Protocol, message });
        };
        let asked = match &self.text {
            None => Prompt::Ids(prompt.to_vec()),
            Some(tokenizer) => {
                let spoken = prompt.iter().filter(|id| !tokenizer.is_control(**id));
                Prompt::Text(tokenizer.decode(&spoken.copied().collect::<Vec<_>>()))
            }
        };
        let path = dialect.path();
        let salt = format!("{:016x}", rand::random::<u64>());
        let body = dialect.body(asked, n, &salt);
        let (begin, answer) = self.client.stream(path, &body)?;
        let mut events = Events::of(answer);
        let mut tokens = Tokens::new(dialect, n, begin);
        // To the end, so that the connection serves the next request too.
        while let Some((at, data)) = events.next().map_err(|e| self.client.broken_body(path, e))? {
            if data.trim() == "[DONE]" {
                continue;
            }
            let event: Value = serde_json::from_str(&data).map_err(|e| {
                let shown = &data[..data.floor_char_boundary(120)];
                self.client.protocol(path, &format!("expected JSON in an event: {e}: {shown:?}"))
            })?;
            let chunk = dialect
                .chunk(&event)
                .map_err(|message| Broken { kind: FailureKind::ServerError, message })?;
            tokens.take(at, chunk)?;
        }
        let streamed = tokens.finish()?;
        checked(dialect, prompt.len() as u32, streamed.prompt, streamed.cached)?;
        Ok((begin, streamed))
    }
}

/// Checks the server's own count of the prompt: as many as were sent as ids; and none of them from a
/// cache, or its time to the first token would be that of a shorter prompt.
fn checked(
    dialect: &Dialect,
    sent: u32,
    counted: Option<u32>,
    cached: Option<u32>,
) -> Result<(), Broken> {
    if dialect.ids
        && let Some(counted) = counted.filter(|n| *n != sent)
    {
        let message = format!("sent a prompt of {sent} tokens, it counts {counted}");
        return Err(Broken { kind: FailureKind::Lied, message });
    }
    match cached.filter(|n| *n > 0) {
        None => Ok(()),
        Some(n) => {
            let message = format!(
                "it took {n} of {sent} prompt tokens from its cache, so its first token came after a \
                 shorter prompt; start it without prefix caching (vLLM: --no-enable-prefix-caching)"
            );
            Err(Broken { kind: FailureKind::Unsupported, message })
        }
    }
}

/// The model to ask for: the one named, or the only one.
fn named(models: &Value, wanted: Option<&str>) -> Result<String, String> {
    let list = models.get("data").and_then(Value::as_array);
    let ids = list.into_iter().flatten().filter_map(|m| m.get("id")?.as_str());
    let ids: Vec<&str> = ids.collect();
    let all = || ids.iter().take(20).copied().collect::<Vec<_>>().join(", ");
    match wanted {
        Some(name) if ids.is_empty() || ids.contains(&name) => Ok(name.to_string()),
        Some(name) => Err(format!("model={name}: the server has {}", all())),
        None if ids.len() == 1 => Ok(ids[0].to_string()),
        None if ids.is_empty() => Err("the server names no model; name one with \
                                       --engine-option NAME:model=…"
            .into()),
        None => Err(format!(
            "the server has several models; name one with --engine-option NAME:model=…: {}",
            all()
        )),
    }
}

#[cfg(test)]
mod tests;
