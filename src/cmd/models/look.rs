//! `models inspect` and `tokenize`: what a file holds, and how it cuts a text.

use std::io::{Read, Write, stdout};

use anyhow::{Context, Result, bail};

use crate::model::cache::CacheDir;
use crate::model::gguf::GgufFile;
use crate::model::locate::WeightsPolicy;
use crate::model::synth::Random;
use crate::progress::say;
use crate::report::write::json;
use crate::session::find::{find_file, tokenizer};
use crate::text::escaped;

pub fn inspect(spec: &str, quant: Option<&str>, as_json: bool) -> Result<()> {
    let quant = quant.map(str::parse).transpose()?;
    let cache = CacheDir::from_env()?;
    let located = find_file(spec, quant, WeightsPolicy::Auto, &cache, Random::PLAIN)?;
    let inspection = GgufFile::open(&located.path)?.inspect();
    match as_json {
        true => write!(stdout(), "{}", json::whole(&inspection))?,
        false => write!(stdout(), "{}", escaped(&inspection.to_string()))?,
    }
    Ok(())
}

/// The longest text that `tokenize` takes from stdin, in bytes.
const MAX_TEXT: u64 = 64 << 20;

pub fn tokenize(spec: &str, quant: Option<&str>, text: Option<&str>) -> Result<()> {
    let quant = quant.map(str::parse).transpose()?;
    let cache = CacheDir::from_env()?;
    let located = find_file(spec, quant, WeightsPolicy::Auto, &cache, Random::PLAIN)?;
    let tokenizer = tokenizer(&GgufFile::open(&located.path)?)?;
    let text = match text {
        Some(text) => text.to_string(),
        None => {
            let mut text = String::new();
            let mut stdin = std::io::stdin().take(MAX_TEXT + 1);
            stdin.read_to_string(&mut text).context("stdin is not UTF-8 text")?;
            if text.len() as u64 > MAX_TEXT {
                bail!("stdin: expected at most {MAX_TEXT} bytes of text, found more");
            }
            text
        }
    };
    let ids = tokenizer.encode(&text).map_err(|e| anyhow::anyhow!("{e}"))?;
    for id in &ids {
        writeln!(stdout(), "{id:>7}  {:?}", String::from_utf8_lossy(tokenizer.token_bytes(*id)))?;
    }
    say(&format!("{} tokens", ids.len()));
    Ok(())
}
