//! What the user says of engines on the command line: their options, in place of the manifest's, and
//! the addresses of servers.

use std::str::FromStr;
use std::sync::OnceLock;

use crate::engine::http::Endpoint;

static SET: OnceLock<(Vec<EngineOption>, Vec<Endpoint>)> = OnceLock::new();

/// Every registry loaded from now on has these options and servers of the user's.
pub fn set_options(options: Vec<EngineOption>, endpoints: Vec<Endpoint>) {
    let _ = SET.set((options, endpoints));
}

/// The options that the user set.
pub fn options() -> &'static [EngineOption] {
    SET.get().map_or(&[], |(options, _)| options)
}

/// The servers that the user named.
pub fn endpoints() -> &'static [Endpoint] {
    SET.get().map_or(&[], |(_, endpoints)| endpoints)
}

/// `ENGINE:KEY=VALUE`: an option of one engine, which is sent with `load`. The engine itself knows
/// its options, and refuses others.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOption {
    pub engine: String,
    pub key: String,
    /// JSON, or a word without quotes.
    pub value: serde_json::Value,
}

impl FromStr for EngineOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once(':').and_then(|(engine, rest)| Some((engine, rest.split_once('=')?)));
        let Some((engine, (key, value))) =
            parts.filter(|(e, (k, _))| !e.is_empty() && !k.is_empty())
        else {
            return Err("expected ENGINE:KEY=VALUE, such as pytorch:path=bf16".into());
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        Ok(Self { engine: engine.into(), key: key.into(), value })
    }
}
