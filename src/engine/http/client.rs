//! The HTTP side: one request at a time to one server. It follows no redirect, because the key and
//! the prompts are for that server alone, and takes no compressed answer, whose parts would arrive
//! later than the tokens.

use std::io::Read;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderValue, Method, Request, Response, header};
use ureq::{Agent, Body, Timeout};

use super::{Endpoint, load};
use crate::engine::Broken;
use crate::record::FailureKind;
use crate::secrets;
use crate::units::MonoNs;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// The longest answer that is read whole, and the most of an error's text that is shown.
const WHOLE: u64 = 1 << 20;
const SHOWN: usize = 300;

/// Asks one server.
#[derive(Debug, Clone)]
pub struct Client {
    /// Keeps connections for the next request.
    agent: Agent,
    /// Opens one for each.
    fresh: Agent,
    root: String,
    /// Marked sensitive, so that nothing prints it.
    authorization: Option<HeaderValue>,
}

impl Client {
    /// `limit`: how long the server may stay silent.
    ///
    /// # Errors
    /// The user's key cannot be sent.
    pub fn new(endpoint: &Endpoint, limit: Duration) -> Result<Self, String> {
        let agent = |kept: usize| {
            let agent = Agent::config_builder()
                .user_agent(concat!("llm-bench/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .no_delay(true)
                .timeout_resolve(Some(CONNECT))
                .timeout_connect(Some(CONNECT))
                .timeout_recv_response(Some(limit))
                .timeout_per_read(Some(limit))
                // Some servers close what was idle for five seconds, and a request may cross that.
                .max_idle_age(Duration::from_secs(2))
                .max_idle_connections(kept)
                .max_idle_connections_per_host(kept);
            match endpoint.is_loopback() {
                true => agent.proxy(None).build().into(),
                false => agent.build().into(),
            }
        };
        Ok(Self {
            agent: agent(load::MOST),
            fresh: agent(0),
            root: endpoint.root.clone(),
            authorization: endpoint.authorization()?,
        })
    }

    /// The status of a path, for a question about health; `None` if nobody answers yet.
    pub fn status(&self, path: &str) -> Option<u16> {
        let answer = self.send(&self.fresh, Method::GET, path, &[]).ok()?;
        Some(answer.status().as_u16())
    }

    /// What a path says, as JSON.
    ///
    /// # Errors
    /// No answer, an error, or no JSON.
    pub fn get(&self, path: &str) -> Result<Value, Broken> {
        let answer = self.send(&self.fresh, Method::GET, path, &[])?;
        let answer = self.accepted(path, answer)?;
        let text = whole(answer);
        serde_json::from_slice(&text).map_err(|_| {
            let found = String::from_utf8_lossy(&text);
            self.protocol(path, &format!("expected JSON, found {:?}", cut(&found)))
        })
    }

    /// Posts JSON. Returns when the request began, and the body of an answer that is a stream of
    /// events.
    ///
    /// # Errors
    /// No answer, an error, or another kind of answer.
    pub fn stream(&self, path: &str, body: &Value) -> Result<(MonoNs, impl Read + use<>), Broken> {
        let body = serde_json::to_vec(body).unwrap_or_default();
        let mut begin = MonoNs::now();
        let mut answer = self.send(&self.agent, Method::POST, path, &body);
        if answer.as_ref().is_err_and(|broken| broken.kind == FailureKind::Unreachable) {
            // A server may close a kept connection just now: after so many requests, or seconds.
            begin = MonoNs::now();
            answer = self.send(&self.fresh, Method::POST, path, &body);
        }
        let answer = self.accepted(path, answer?)?;
        let kind = text_of(&answer, header::CONTENT_TYPE);
        if !kind.starts_with("text/event-stream") {
            let text = whole(answer);
            let message = stated_error(&text).unwrap_or_else(|| {
                format!(
                    "expected text/event-stream, found {kind:?}: {}",
                    cut(&String::from_utf8_lossy(&text))
                )
            });
            return Err(self.broken(FailureKind::ServerError, path, &message));
        }
        Ok((begin, answer.into_body().into_reader()))
    }

    fn send(
        &self,
        agent: &Agent,
        method: Method,
        path: &str,
        body: &[u8],
    ) -> Result<Response<Body>, Broken> {
        let mut request =
            Request::builder().method(method.clone()).uri(format!("{}{path}", self.root));
        if let Some(value) = &self.authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        if method == Method::POST {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let answer = match method {
            Method::POST => request.body(body).map(|request| agent.run(request)),
            _ => request.body(()).map(|request| agent.run(request)),
        };
        let answer = answer.map_err(|e| self.protocol(path, &e.to_string()))?;
        answer.map_err(|e| self.failed(path, e))
    }

    /// The answer, if the server did what was asked.
    fn accepted(&self, path: &str, answer: Response<Body>) -> Result<Response<Body>, Broken> {
        let status = answer.status();
        if status.is_redirection() {
            let to = text_of(&answer, header::LOCATION);
            let message = format!(
                "answered {status} with another address, {:?}, which was not followed; name that one \
                 if it is right",
                cut(&to)
            );
            return Err(self.broken(FailureKind::ServerError, path, &message));
        }
        if !status.is_success() {
            let text = whole(answer);
            let said = stated_error(&text).unwrap_or_else(|| cut(&String::from_utf8_lossy(&text)));
            let message = format!("answered {status}: {said}");
            return Err(self.broken(FailureKind::ServerError, path, &message));
        }
        let encoding = text_of(&answer, header::CONTENT_ENCODING);
        if !encoding.is_empty() && encoding != "identity" {
            let message = format!(
                "the answer is compressed ({encoding}) though that was not asked for: its parts do \
                 not arrive when the tokens do"
            );
            return Err(self.protocol(path, &message));
        }
        Ok(answer)
    }

    /// Explains a request that was not answered.
    fn failed(&self, path: &str, error: ureq::Error) -> Broken {
        use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut, UnexpectedEof};
        let (kind, message) = match error {
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                (FailureKind::Unreachable, format!("no connection within {} s", CONNECT.as_secs()))
            }
            ureq::Error::Timeout(_) => (FailureKind::Timeout, "the server stays silent".into()),
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                (FailureKind::Unreachable, error.to_string())
            }
            ureq::Error::Io(e) if e.kind() == TimedOut => {
                (FailureKind::Timeout, "the server stays silent".into())
            }
            ureq::Error::Io(e)
                if [ConnectionRefused, ConnectionReset, UnexpectedEof].contains(&e.kind()) =>
            {
                (FailureKind::Unreachable, e.to_string())
            }
            e => (FailureKind::Protocol, e.to_string()),
        };
        self.broken(kind, path, &message)
    }

    /// Explains a body that ended before its end.
    pub fn broken_body(&self, path: &str, error: std::io::Error) -> Broken {
        let error = ureq::Error::from(error);
        match &error {
            ureq::Error::Timeout(_) => self.failed(path, error),
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::TimedOut => {
                self.failed(path, error)
            }
            _ => self.protocol(path, &format!("the stream was cut: {error}")),
        }
    }

    /// An answer that is not what the interface says.
    pub fn protocol(&self, path: &str, message: &str) -> Broken {
        self.broken(FailureKind::Protocol, path, message)
    }

    fn broken(&self, kind: FailureKind, path: &str, message: &str) -> Broken {
        let message = format!("{}{path}: {message}", self.root);
        Broken { kind, message: secrets::mask(&message).into_owned() }
    }
}

fn text_of(answer: &Response<Body>, name: header::HeaderName) -> String {
    let value = answer.headers().get(name).and_then(|v| v.to_str().ok());
    value.unwrap_or_default().trim().to_ascii_lowercase()
}

/// An answer that is short, whole; the beginning of another.
fn whole(answer: Response<Body>) -> Vec<u8> {
    let mut text = Vec::new();
    let _ = answer.into_body().into_reader().take(WHOLE).read_to_end(&mut text);
    text
}

/// The message of an error in the forms that servers use.
pub fn error_of(value: &Value) -> Option<String> {
    let error = value.get("error").filter(|e| !e.is_null());
    // vLLM once put it at the top, and FastAPI says `detail`.
    let error = error.or_else(|| value.get("detail")).or_else(|| {
        (value.get("object").and_then(Value::as_str) == Some("error")).then_some(value)
    })?;
    let text = error.get("message").unwrap_or(error);
    Some(cut(text.as_str().map_or_else(|| text.to_string(), str::to_owned).as_str()))
}

fn stated_error(text: &[u8]) -> Option<String> {
    error_of(&serde_json::from_slice(text).ok()?)
}

fn cut(text: &str) -> String {
    let text = text.trim();
    text[..text.floor_char_boundary(SHOWN)].to_string()
}
