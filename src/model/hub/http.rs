//! The HTTP side of a pull: what the hub states about a file, and its body from an offset on.
//! Follows redirects by hand, because the token must stay with the hub's own origin.

use std::io::Read;

use ureq::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use ureq::{Agent, Body, Timeout};

use super::{HubConfig, HubError, HubFile, Stated};
use crate::secrets;

const MAX_REDIRECTS: usize = 8;

/// Talks to one hub.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    /// For messages: without a password.
    shown: String,
    /// Marked sensitive, so that nothing prints it.
    authorization: Option<HeaderValue>,
    stall_limit: std::time::Duration,
}

/// A response and its origin.
struct Answer {
    response: Response<Body>,
    /// `x-repo-commit` of the first response that had it.
    commit: Option<String>,
    /// Whether a storage host answered, after a redirect from the hub.
    elsewhere: bool,
}

impl Client {
    pub(super) fn new(config: &HubConfig) -> Result<Self, HubError> {
        let authorization = match &config.token {
            Some(token) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", token.secret()))
                    .map_err(|_| HubError::BadToken)?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let mut agent = Agent::config_builder()
            .user_agent(concat!("llm-bench/", env!("CARGO_PKG_VERSION")))
            // A compressed body would have another size and other offsets.
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_resolve(Some(config.connect_timeout))
            .timeout_connect(Some(config.connect_timeout))
            .timeout_recv_response(Some(config.stall_limit))
            .timeout_per_read(Some(config.stall_limit));
        if is_loopback(&config.endpoint) {
            agent = agent.proxy(None);
        }
        Ok(Self {
            agent: agent.build().into(),
            endpoint: config.endpoint.clone(),
            shown: config.shown_endpoint(),
            authorization,
            stall_limit: config.stall_limit,
        })
    }

    /// Size, tag and commit of a file, without its body.
    pub(super) fn stated(&self, what: &HubFile) -> Result<Stated, HubError> {
        let mut answer = self.ask(Method::HEAD, what, None)?;
        // Some mirrors do not support HEAD, so this asks for the first byte instead.
        if [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED]
            .contains(&answer.response.status())
        {
            answer = self.ask(Method::GET, what, Some(0..=0))?;
        }
        let status = answer.response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(self.refused(what, status, answer.elsewhere));
        }
        let headers = answer.response.headers();
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
        let etag = etag.map(|e| e.trim_start_matches("W/").trim_matches('"').to_owned());
        let size = text(headers, "x-linked-size")
            .or_else(|| text(headers, "content-range").and_then(|r| r.rsplit('/').next()))
            .or_else(|| text(headers, "content-length"))
            .and_then(|n| n.trim().parse().ok());
        let bad = |reason: &str| bad_answer(what, reason);
        let stated = Stated {
            etag: etag.ok_or_else(|| bad("no ETag"))?,
            size: size.ok_or_else(|| bad("no size"))?,
            commit: answer.commit.ok_or_else(|| bad("no X-Repo-Commit"))?,
        };
        // Both values become file names.
        let plain = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !plain(&stated.etag) || !plain(&stated.commit) {
            return Err(bad("an ETag or X-Repo-Commit with characters that neither has"));
        }
        Ok(stated)
    }

    /// The body from `offset` on, and the offset at which it really starts: 0 if the server ignores
    /// ranges. The checksum catches a file that changed since `stated`.
    pub(super) fn body(
        &self,
        what: &HubFile,
        offset: u64,
    ) -> Result<(impl Read + use<>, u64), HubError> {
        let range = (offset > 0).then_some(offset..=u64::MAX);
        let answer = self.ask(Method::GET, what, range)?;
        let (parts, body) = answer.response.into_parts();
        let from = match parts.status {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => text(&parts.headers, "content-range")
                .and_then(|r| r.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok())
                .filter(|from| *from == offset)
                .ok_or_else(|| bad_answer(what, "a Content-Range that was not asked for"))?,
            status => return Err(self.refused(what, status, answer.elsewhere)),
        };
        Ok((body.into_reader(), from))
    }

    /// Explains a failed read of a body.
    pub(super) fn broken_body(
        &self,
        what: &HubFile,
        error: std::io::Error,
        done: u64,
        total: u64,
    ) -> HubError {
        let (repo, file) = (what.repo.clone(), what.file.clone());
        match ureq::Error::from(error) {
            ureq::Error::Timeout(_) => {
                HubError::Stalled { repo, file, limit: self.stall_limit, done, total }
            }
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::TimedOut => {
                HubError::Stalled { repo, file, limit: self.stall_limit, done, total }
            }
            e => HubError::Interrupted { repo, file, done, total, reason: e.to_string() },
        }
    }

    fn ask(
        &self,
        method: Method,
        what: &HubFile,
        range: Option<std::ops::RangeInclusive<u64>>,
    ) -> Result<Answer, HubError> {
        let address = format!(
            "{}/{}/resolve/{}/{}",
            self.endpoint,
            encoded(&what.repo),
            encoded(&what.revision.replace('/', "%2F")),
            encoded(&what.file)
        );
        let bad_uri = |_| HubError::BadRequest {
            what: "HF_ENDPOINT is not an address",
            expected: "https://HOST",
            found: self.shown.clone(),
        };
        let home: Uri = address.parse().map_err(bad_uri)?;
        if origin(&home).is_none() {
            return Err(HubError::BadRequest {
                what: "HF_ENDPOINT is not an address",
                expected: "https://HOST",
                found: self.shown.clone(),
            });
        }
        let mut uri = home.clone();
        let mut commit = None;
        for _ in 0..MAX_REDIRECTS {
            let mut request = Request::builder().method(method.clone()).uri(uri.clone());
            if let Some(range) = &range {
                let end = Some(*range.end()).filter(|e| *e != u64::MAX);
                let end = end.map(|e| e.to_string()).unwrap_or_default();
                request = request.header(header::RANGE, format!("bytes={}-{end}", range.start()));
            }
            if let Some(token) = self.authorization.as_ref().filter(|_| same_origin(&uri, &home)) {
                request = request.header(header::AUTHORIZATION, token.clone());
            }
            let request = request.body(()).map_err(|e| bad_answer(what, &e.to_string()))?;
            let response = self.agent.run(request).map_err(|e| self.failed(what, e))?;
            commit = commit.or_else(|| text(response.headers(), "x-repo-commit").map(Into::into));
            // The redirect to the storage host already states the file's size and checksum.
            let stated = method == Method::HEAD && response.headers().contains_key("x-linked-etag");
            if !response.status().is_redirection() || stated {
                let elsewhere = !same_origin(&uri, &home);
                return Ok(Answer { response, commit, elsewhere });
            }
            let location = text(response.headers(), "location")
                .ok_or_else(|| bad_answer(what, "a redirect without a Location"))?;
            uri = resolve(&uri, location)
                .ok_or_else(|| bad_answer(what, "a redirect to something that is no address"))?;
        }
        Err(bad_answer(what, "too many redirects"))
    }

    /// Explains a status other than success.
    fn refused(&self, what: &HubFile, status: StatusCode, elsewhere: bool) -> HubError {
        let (repo, file, endpoint) = (what.repo.clone(), what.file.clone(), self.shown.clone());
        match status.as_u16() {
            // A storage host checks a signature that expires; the hub issues a new one.
            status @ (401 | 403) if elsewhere => {
                HubError::Server { repo, file, status, attempts: 1 }
            }
            status @ (401 | 403) => HubError::Unauthorized {
                repo,
                file,
                status,
                endpoint,
                token_note: match self.authorization {
                    Some(_) => ". The token in use was sent and was not sufficient".into(),
                    None => ". No token was sent: none is set".into(),
                },
            },
            404 => HubError::NotFound { repo, file, revision: what.revision.clone(), endpoint },
            status @ (408 | 429 | 500..) => HubError::Server { repo, file, status, attempts: 1 },
            status => bad_answer(what, &format!("HTTP {status}")),
        }
    }

    /// Explains a request without a response.
    fn failed(&self, what: &HubFile, error: ureq::Error) -> HubError {
        use std::io::ErrorKind;
        let (repo, file) = (what.repo.clone(), what.file.clone());
        match error {
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                self.unreachable("no connection in time".into())
            }
            ureq::Error::Timeout(_) => {
                HubError::Stalled { repo, file, limit: self.stall_limit, done: 0, total: 0 }
            }
            ureq::Error::Io(e)
                if matches!(
                    e.kind(),
                    ErrorKind::ConnectionReset
                        | ErrorKind::ConnectionAborted
                        | ErrorKind::BrokenPipe
                        | ErrorKind::UnexpectedEof
                ) =>
            {
                HubError::Interrupted { repo, file, done: 0, total: 0, reason: e.to_string() }
            }
            ureq::Error::Protocol(e) => {
                HubError::Interrupted { repo, file, done: 0, total: 0, reason: e.to_string() }
            }
            // Names that do not resolve, refused connections, failing proxies and TLS.
            e => self.unreachable(e.to_string()),
        }
    }

    fn unreachable(&self, reason: String) -> HubError {
        let reason = secrets::mask(&reason).into_owned();
        HubError::Unreachable { endpoint: self.shown.clone(), reason }
    }
}

fn bad_answer(what: &HubFile, reason: &str) -> HubError {
    HubError::BadAnswer {
        repo: what.repo.clone(),
        file: what.file.clone(),
        reason: reason.to_owned(),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Scheme, host and port.
fn origin(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri.port_u16().or(match scheme.as_str() {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    })?;
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    origin(a).is_some() && origin(a) == origin(b)
}

/// Resolves a Location against the address that sent it: an absolute one, or a path on the same
/// origin.
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with('/') && !location.starts_with("//") {
        let root = format!("{}://{}", base.scheme_str()?, base.authority()?);
        return format!("{root}{location}").parse().ok();
    }
    let uri: Uri = location.parse().ok()?;
    origin(&uri).map(|_| uri)
}

/// Percent-encodes what a path must not contain; keeps slashes and percent signs.
fn encoded(path: &str) -> String {
    path.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b'%' => {
                char::from(b).to_string()
            }
            b => format!("%{b:02X}"),
        })
        .collect()
}

/// Whether an address is this machine, so that nothing between can listen.
pub fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.parse::<Uri>().ok().and_then(|u| u.host().map(str::to_owned));
    host.is_some_and(|h| {
        let h = h.trim_matches(['[', ']']);
        h == "localhost" || h.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_origin_means_scheme_host_and_port() {
        let uri = |s: &str| s.parse::<Uri>().unwrap();
        assert!(same_origin(&uri("https://hub.co/a"), &uri("https://HUB.co:443/b")));
        assert!(!same_origin(&uri("https://hub.co/a"), &uri("http://hub.co/a")));
        assert!(!same_origin(&uri("http://hub.co:1/a"), &uri("http://hub.co:2/a")));
        assert!(!same_origin(&uri("https://hub.co/a"), &uri("https://cdn.hub.co/a")));
    }

    #[test]
    fn a_location_is_resolved_against_the_address_that_sent_it() {
        let base: Uri = "https://hub.co/old/resolve/main/f".parse().unwrap();
        assert_eq!(resolve(&base, "/new/f").unwrap(), "https://hub.co/new/f");
        assert_eq!(resolve(&base, "https://cdn.co/x?sig=1").unwrap(), "https://cdn.co/x?sig=1");
        assert!(resolve(&base, "//cdn.co/x").is_none());
        assert!(resolve(&base, "file:///etc/passwd").is_none());
    }

    #[test]
    fn only_loopback_endpoints_bypass_the_proxy() {
        assert!(is_loopback("http://127.0.0.1:8080") && is_loopback("http://localhost"));
        assert!(is_loopback("http://[::1]:80") && !is_loopback("https://huggingface.co"));
    }
}
