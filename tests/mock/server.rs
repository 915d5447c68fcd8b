//! A server for tests that answers as it is told: which bytes, and when. It keeps to a schedule with
//! one thread for each connection, because timers of the usual runtimes tick in milliseconds.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    /// Lines of the header, in lower case.
    pub headers: Vec<String>,
    pub body: String,
}

/// What an answer consists of, in order.
#[derive(Debug, Clone)]
pub enum Part {
    /// One part of the body.
    Bytes(Vec<u8>),
    /// Waits until this long after the request was here.
    Until(Duration),
    /// Closes the connection in the middle.
    Cut,
    /// Ends the answer, and closes the connection without a word of it.
    Hangup,
    /// This, again and again, until nobody reads it.
    Endless(Vec<u8>),
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: &'static str,
    pub headers: Vec<String>,
    pub parts: Vec<Part>,
}

impl Answer {
    /// JSON with status 200.
    pub fn json(text: &str) -> Self {
        Self::of("200 OK", "application/json", vec![Part::Bytes(text.into())])
    }

    /// A stream of events.
    pub fn stream(parts: Vec<Part>) -> Self {
        Self::of("200 OK", "text/event-stream; charset=utf-8", parts)
    }

    pub fn of(status: &'static str, kind: &str, parts: Vec<Part>) -> Self {
        Self { status, headers: vec![format!("content-type: {kind}")], parts }
    }
}

/// An event with this data.
pub fn event(data: &str) -> Part {
    Part::Bytes(format!("data: {data}\n\n").into())
}

/// What vLLM would answer: the list of its models, or as many tokens as were asked for, each with id
/// 1, the first after `first` ms and each other one after `step` ms.
pub fn vllm(request: &Seen, first: u64, step: u64) -> Answer {
    match &*request.path {
        "/v1/models" => return Answer::json(r#"{"data":[{"id":"m","owned_by":"vllm"}]}"#),
        "/version" => return Answer::json(r#"{"version":"1.2.3"}"#),
        _ => {}
    }
    let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    let n = body["max_tokens"].as_u64().unwrap();
    let prompt = body["prompt"].as_array().unwrap().len();
    let chunk = |i: u64| {
        let end = (i == n).then_some("length");
        let chunk = serde_json::json!({
            "choices": [{ "text": "x", "token_ids": [1], "finish_reason": end }],
            "usage": { "prompt_tokens": prompt, "completion_tokens": i },
        });
        event(&chunk.to_string())
    };
    let at = |i: u64| Part::Until(Duration::from_millis(first + step * (i - 1)));
    let parts = (1..=n).flat_map(|i| [at(i), chunk(i)]);
    Answer::stream(parts.chain([event("[DONE]")]).collect())
}

/// A running server; it ends with the process.
pub struct Mock {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Mock {
    /// Answers each request with what `answer` says.
    pub fn start(answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, kept) = (Arc::new(answer), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, kept) = (Arc::clone(&answer), Arc::clone(&kept));
                std::thread::spawn(move || serve(stream, &*answer, &kept));
            }
        });
        Self { url, seen }
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

/// Serves the requests of one connection.
fn serve(stream: TcpStream, answer: &dyn Fn(&Seen) -> Answer, kept: &Mutex<Vec<Seen>>) {
    stream.set_nodelay(true).unwrap();
    let mut input = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = read(&mut input) {
        let began = Instant::now();
        kept.lock().unwrap().push(request.clone());
        if write(&stream, &answer(&request), began).is_err() {
            return;
        }
    }
}

fn read(input: &mut impl BufRead) -> Option<Seen> {
    let mut line = String::new();
    input.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let path = line.split(' ').nth(1)?.to_string();
    let mut headers = Vec::new();
    loop {
        line.clear();
        input.read_line(&mut line).ok()?;
        match line.trim() {
            "" => break,
            header => headers.push(header.to_ascii_lowercase()),
        }
    }
    let length =
        headers.iter().find_map(|h| h.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    input.read_exact(&mut body).ok()?;
    Some(Seen { path, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

fn write(mut out: &TcpStream, answer: &Answer, began: Instant) -> std::io::Result<()> {
    let headers = answer.headers.join("\r\n");
    let head =
        format!("HTTP/1.1 {}\r\n{headers}\r\ntransfer-encoding: chunked\r\n\r\n", answer.status);
    out.write_all(head.as_bytes())?;
    let chunk = |mut out: &TcpStream, bytes: &[u8]| {
        out.write_all(&[format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())
    };
    for part in &answer.parts {
        match part {
            Part::Bytes(bytes) => chunk(out, bytes)?,
            Part::Until(after) => std::thread::sleep(after.saturating_sub(began.elapsed())),
            Part::Hangup => {
                out.write_all(b"0\r\n\r\n")?;
                return Err(std::io::Error::other("hung up"));
            }
            Part::Cut => return Err(std::io::Error::other("cut")),
            Part::Endless(bytes) => loop {
                chunk(out, bytes)?;
            },
        }
    }
    out.write_all(b"0\r\n\r\n")
}
