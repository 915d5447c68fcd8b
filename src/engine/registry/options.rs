//! Options of engines that the user sets on the command line, in place of the manifest's.

use std::str::FromStr;
use std::sync::OnceLock;

static SET: OnceLock<Vec<EngineOption>> = OnceLock::new();

/// Every registry loaded from now on has these options of the user's.
pub fn set_options(options: Vec<EngineOption>) {
    let _ = SET.set(options);
}

/// What the user set.
pub fn options() -> &'static [EngineOption] {
    SET.get().map_or(&[], Vec::as_slice)
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
