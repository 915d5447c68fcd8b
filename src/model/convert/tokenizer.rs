//! Reads the WordPiece vocabulary of a model's folder: `tokenizer.json`, or `vocab.txt` with
//! `tokenizer_config.json`. Rules that this project's tokenizer does not follow are refused.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::config::{json, json_within, text_within};
use crate::model::encoder::vocabulary::{INSIDE, WordPieces};

/// A tokenizer of millions of tokens.
const MAX_TOKENIZER: u64 = 64 << 20;

/// The vocabulary, and whether text becomes lowercase.
///
/// # Errors
/// No such file, or another kind of tokenizer.
pub fn read(folder: &Path) -> Result<(WordPieces, bool)> {
    let (fast, plain) = (folder.join("tokenizer.json"), folder.join("vocab.txt"));
    if let Some(tokenizer) = json_within::<Value>(&fast, MAX_TOKENIZER)? {
        let lowercase = rules(&tokenizer, &fast)?;
        return Ok((checked(vocabulary(&tokenizer, &fast)?, &fast)?, lowercase));
    }
    let Some(text) = text_within(&plain, MAX_TOKENIZER)? else {
        bail!("{}: expected tokenizer.json or vocab.txt there, found neither", folder.display());
    };
    let path = folder.join("tokenizer_config.json");
    let config: Value = json(&path)?.unwrap_or(Value::Null);
    let lowercase = config["do_lower_case"].as_bool().unwrap_or(true);
    strips_with_case(&config["strip_accents"], lowercase, &path)?;
    ensure!(
        config["tokenize_chinese_chars"].as_bool().unwrap_or(true),
        "{}: tokenize_chinese_chars: expected true, found false",
        path.display()
    );
    Ok((checked(text.lines().map(str::to_owned).collect(), &plain)?, lowercase))
}

fn checked(tokens: Vec<String>, path: &Path) -> Result<WordPieces> {
    WordPieces::new(tokens).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))
}

/// Whether text becomes lowercase; refuses rules other than BERT's.
fn rules(tokenizer: &Value, path: &Path) -> Result<bool> {
    let expected = [
        ("/model/type", Value::from("WordPiece")),
        ("/model/unk_token", "[UNK]".into()),
        ("/model/continuing_subword_prefix", INSIDE.into()),
        ("/model/max_input_chars_per_word", 100.into()),
        ("/normalizer/type", "BertNormalizer".into()),
        ("/normalizer/clean_text", true.into()),
        ("/normalizer/handle_chinese_chars", true.into()),
        ("/pre_tokenizer/type", "BertPreTokenizer".into()),
    ];
    for (at, expected) in expected {
        let found = tokenizer.pointer(at).unwrap_or(&Value::Null);
        ensure!(
            *found == expected,
            "{}: {at}: expected {expected}, as BERT has it, found {found}",
            path.display()
        );
    }
    let normalizer = &tokenizer["normalizer"];
    let lowercase = normalizer["lowercase"].as_bool().unwrap_or(true);
    strips_with_case(&normalizer["strip_accents"], lowercase, path)?;
    Ok(lowercase)
}

/// Accents go where capitals go, and only there.
fn strips_with_case(strips: &Value, lowercase: bool, path: &Path) -> Result<()> {
    ensure!(
        strips.as_bool().is_none_or(|strips| strips == lowercase),
        "{}: strip_accents: expected nothing or {lowercase}, as lowercase is, found {strips}",
        path.display()
    );
    Ok(())
}

/// Tokens by id.
fn vocabulary(tokenizer: &Value, path: &Path) -> Result<Vec<String>> {
    let Some(pairs) = tokenizer.pointer("/model/vocab").and_then(Value::as_object) else {
        bail!("{}: /model/vocab: expected tokens and their ids", path.display());
    };
    let mut tokens = vec![None; pairs.len()];
    for (token, id) in pairs {
        let place = id.as_u64().and_then(|id| tokens.get_mut(usize::try_from(id).ok()?));
        match place {
            Some(place) if place.is_none() => *place = Some(token.clone()),
            _ => bail!(
                "{}: token {token:?}: expected an id of its own below {}, found {id}",
                path.display(),
                pairs.len()
            ),
        }
    }
    Ok(tokens.into_iter().flatten().collect())
}
