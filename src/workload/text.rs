//! The text that quality is judged on: the one that comes with the program, or the user's.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::PromptSet;
use crate::digest::hex;

/// Dialogue, log lines, a proof, a letter, French, German, SQL, a recipe and more, written for this
/// project; it follows the texts of the prompt set `standard`.
const OWN: &str = include_str!("../../prompts/quality.txt");

/// The longest text of a user, in bytes.
const MOST: u64 = 64 << 20;

/// A text and what records call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QualityText {
    pub name: String,
    pub text: String,
    /// Hex.
    pub sha256: String,
}

impl QualityText {
    /// The text inside the binary: six thousand tokens of many kinds.
    ///
    /// # Errors
    /// The prompt set inside the binary cannot be read.
    pub fn embedded() -> Result<Self> {
        let set = PromptSet::embedded("standard")?;
        let texts = set.prompts.iter().map(|p| p.text.as_str()).chain([OWN]);
        Ok(Self::new("standard", texts.collect::<Vec<_>>().join("\n\n")))
    }

    /// A file in UTF-8.
    ///
    /// # Errors
    /// It cannot be read, is no text, or is longer than 64 MiB.
    pub fn read(path: &Path) -> Result<Self> {
        let cannot = || format!("--text {}", path.display());
        let mut bytes = Vec::new();
        let file = File::open(path).with_context(cannot)?;
        file.take(MOST + 1).read_to_end(&mut bytes).with_context(cannot)?;
        if bytes.len() as u64 > MOST {
            bail!("{}: expected at most {MOST} bytes of text, found more", cannot());
        }
        let text =
            String::from_utf8(bytes).with_context(|| format!("{}: expected UTF-8", cannot()))?;
        Ok(Self::new(&path.to_string_lossy(), text))
    }

    fn new(name: &str, text: String) -> Self {
        let sha256 = hex(&Sha256::digest(text.as_bytes()));
        Self { name: name.into(), text, sha256 }
    }
}
