//! Where a server is, and who asks: `--endpoint [NAME=]URL`, and the key that goes with it.

use std::str::FromStr;

use ureq::http::{HeaderValue, Uri};

use crate::model::hub::is_loopback;
use crate::secrets;

/// The name of an endpoint that the user gave none.
const NAME: &str = "endpoint";

/// The variable that holds the key; `_NAME` behind it holds the key of one endpoint.
pub const KEY: &str = "LLM_BENCH_API_KEY";

/// A server that runs already, as the user named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The engine's name in the table.
    pub name: String,
    /// Without a slash at the end and without `/v1`.
    pub root: String,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let (name, url) = match text.split_once('=') {
            Some((name, url)) if !name.is_empty() && name.chars().all(plain) => (name, url),
            _ => (NAME, text),
        };
        let shown = secrets::mask(url);
        let expected = || {
            format!("{shown:?}: expected [NAME=]http://HOST[:PORT] or https://HOST[:PORT][/PATH]")
        };
        let uri: Uri = url.parse().map_err(|_| expected())?;
        let scheme = uri.scheme_str().unwrap_or_default();
        if !["http", "https"].contains(&scheme) || uri.host().is_none_or(str::is_empty) {
            return Err(expected());
        }
        if uri.query().is_some() {
            return Err(format!("{shown:?}: expected an address without '?'"));
        }
        let root = url.trim_end_matches('/');
        let root = root.strip_suffix("/v1").unwrap_or(root).trim_end_matches('/');
        Ok(Self { name: name.into(), root: root.into() })
    }
}

impl Endpoint {
    /// Refuses an address with a password in it. This is no part of parsing, because whoever parses
    /// options shows what could not be parsed.
    pub fn check(&self) -> Result<(), String> {
        let uri = self.root.parse::<Uri>().ok();
        match uri.and_then(|u| Some(u.authority()?.as_str().contains('@'))) {
            Some(true) => Err(format!(
                "{}: expected an address without a password; put the key into {KEY}",
                secrets::mask(&self.root)
            )),
            _ => Ok(()),
        }
    }

    /// A server of ours on this machine.
    pub fn on_loopback(name: &str, port: u16) -> Self {
        Self { name: name.into(), root: format!("http://127.0.0.1:{port}") }
    }

    /// Whether nothing between here and there can listen.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.root)
    }

    /// The value of the header `Authorization`, if the user set a key: that of this endpoint, or the
    /// one for all. It is masked wherever it could show.
    ///
    /// # Errors
    /// The key holds what no header may.
    pub fn authorization(&self) -> Result<Option<HeaderValue>, String> {
        let name: String =
            self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let own = format!("{KEY}_{}", name.to_ascii_uppercase());
        let set = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
        let Some((name, key)) = [own, KEY.into()].into_iter().find_map(|n| set(&n).map(|v| (n, v)))
        else {
            return Ok(None);
        };
        let key = key.trim();
        secrets::remember(key);
        let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
            .map_err(|_| format!("{name} holds characters that no header may have"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String) {
        let endpoint: Endpoint = text.parse().unwrap();
        (endpoint.name, endpoint.root)
    }

    #[test]
    fn an_address_is_taken_with_and_without_a_name_and_the_version_of_the_interface() {
        let of = |name: &str, root: &str| (name.to_string(), root.to_string());
        assert_eq!(parsed("http://localhost:8080"), of("endpoint", "http://localhost:8080"));
        assert_eq!(parsed("vllm=http://h:1/v1/"), of("vllm", "http://h:1"));
        assert_eq!(parsed("https://h/api/v1"), of("endpoint", "https://h/api"));
        for bad in ["h:80", "ftp://h", "http://", "x", "http://h/?a=b"] {
            assert!(bad.parse::<Endpoint>().unwrap_err().contains("expected"), "{bad}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_shown() {
        let error = "http://me:sesame@h".parse::<Endpoint>().unwrap().check().unwrap_err();
        assert!(error.contains(KEY) && !error.contains("sesame"), "{error}");
    }

    #[test]
    fn loopback_is_this_machine() {
        let is = |text: &str| text.parse::<Endpoint>().unwrap().is_loopback();
        assert!(is("http://127.0.0.1:1") && is("http://localhost") && is("http://[::1]:80"));
        assert!(!is("https://example.org") && !is("http://10.0.0.1"));
    }
}
