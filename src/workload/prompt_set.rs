//! Prompt sets: `prompts/*.toml`, embedded in the binary, or a file that the user names. Texts
//! only; ids need a model's tokenizer.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use include_dir::{Dir, include_dir};
use serde::Deserialize;
use toml::Spanned;

use crate::model::registry::{RegistryError, line_of, parse_toml};

/// Enough for many prompts of a million words.
const MAX_FILE: u64 = 64 << 20;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/prompts");

/// Prompts that belong together, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptSet {
    pub name: String,
    pub summary: String,
    pub prompts: Vec<PromptText>,
}

/// One prompt as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptText {
    pub id: String,
    pub category: String,
    pub why: String,
    pub n_gen: u32,
    pub text: String,
}

/// A prompt set that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PromptSetError {
    #[error("no prompt set {name:?}. Known: {known}. Or give a file: `--prompts PATH.toml`")]
    Unknown { name: String, known: String },
    #[error("{file}: {message}")]
    Read { file: String, message: String },
    #[error("{file}:{line}: {message}")]
    Invalid { file: String, line: usize, message: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSet {
    name: String,
    summary: String,
    #[serde(default)]
    prompt: Vec<RawPrompt>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrompt {
    id: Spanned<String>,
    category: String,
    why: String,
    n_gen: Spanned<u32>,
    text: Spanned<String>,
}

impl PromptSet {
    /// The set with this name, or in the `.toml` file at this path.
    pub fn find(spec: &str) -> Result<Self, PromptSetError> {
        if spec.contains('/') || spec.ends_with(".toml") {
            Self::open(Path::new(spec))
        } else {
            Self::embedded(spec)
        }
    }

    /// A set inside the binary.
    pub fn embedded(name: &str) -> Result<Self, PromptSetError> {
        let path = format!("{name}.toml");
        match EMBEDDED.get_file(&path).and_then(|f| f.contents_utf8()) {
            Some(text) => Self::parse(&format!("prompts/{path}"), text),
            None => Err(PromptSetError::Unknown {
                name: name.to_owned(),
                known: Self::names().join(", "),
            }),
        }
    }

    /// The names of the sets inside the binary, sorted.
    pub fn names() -> Vec<String> {
        let toml = EMBEDDED.files().filter(|f| f.path().extension().is_some_and(|e| e == "toml"));
        let mut names: Vec<_> = toml
            .filter_map(|f| Some(f.path().file_stem()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    /// A set in a file.
    pub fn open(path: &Path) -> Result<Self, PromptSetError> {
        let file = path.display().to_string();
        let read =
            |e: std::io::Error| PromptSetError::Read { file: file.clone(), message: e.to_string() };
        let mut text = String::new();
        let source = std::fs::File::open(path).map_err(read)?;
        source.take(MAX_FILE + 1).read_to_string(&mut text).map_err(read)?;
        if text.len() as u64 > MAX_FILE {
            let found = format!("expected a prompt set, found more than {MAX_FILE} bytes");
            return Err(read(std::io::Error::other(found)));
        }
        Self::parse(&file, &text)
    }

    fn parse(file: &str, text: &str) -> Result<Self, PromptSetError> {
        let invalid = |line: usize, message: String| PromptSetError::Invalid {
            file: file.to_owned(),
            line,
            message,
        };
        let raw: RawSet = parse_toml(file, text).map_err(|e| match e {
            RegistryError::Parse { line, message, .. } => invalid(line, message),
            other => PromptSetError::Read { file: file.to_owned(), message: other.to_string() },
        })?;
        if raw.prompt.is_empty() {
            return Err(invalid(1, "no [[prompt]]; expected at least one".into()));
        }
        let mut seen = HashSet::new();
        let mut prompts = Vec::with_capacity(raw.prompt.len());
        for p in raw.prompt {
            let line = |at: std::ops::Range<usize>| line_of(text, at.start);
            let id = p.id.get_ref();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if id.is_empty() || !id.chars().all(plain) {
                let message = format!("id {id:?}: expected letters, digits, '-', '_' and '.'");
                return Err(invalid(line(p.id.span()), message));
            }
            if !seen.insert(id.clone()) {
                let message = format!("id {id:?} a second time; each id must be unique");
                return Err(invalid(line(p.id.span()), message));
            }
            if *p.n_gen.get_ref() == 0 {
                let message = format!("{id}: n_gen 0; expected 1 or more");
                return Err(invalid(line(p.n_gen.span()), message));
            }
            if p.text.get_ref().is_empty() {
                return Err(invalid(line(p.text.span()), format!("{id}: the text is empty")));
            }
            prompts.push(PromptText {
                id: p.id.into_inner(),
                category: p.category,
                why: p.why,
                n_gen: p.n_gen.into_inner(),
                text: p.text.into_inner(),
            });
        }
        Ok(Self { name: raw.name, summary: raw.summary, prompts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"name = "x"
summary = "two"

[[prompt]]
id = "a"
category = "chat"
why = "first"
n_gen = 8
text = "Hello"

[[prompt]]
id = "b"
category = "chat"
why = "second"
n_gen = 8
text = "World"
"#;

    fn error_of(text: &str) -> String {
        PromptSet::parse("p.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn a_set_keeps_its_order() {
        let set = PromptSet::parse("p.toml", TWO).unwrap();
        let ids: Vec<_> = set.prompts.iter().map(|p| p.id.as_str()).collect();
        assert_eq!((set.name.as_str(), ids), ("x", vec!["a", "b"]));
    }

    #[test]
    fn every_embedded_set_is_valid_and_named_as_its_file() {
        assert!(PromptSet::names().contains(&"quick".to_owned()));
        for name in PromptSet::names() {
            assert_eq!(PromptSet::embedded(&name).unwrap().name, name);
        }
        let error = PromptSet::find("nonesuch").unwrap_err().to_string();
        assert!(error.contains("quick"), "{error}");
    }

    #[test]
    fn errors_name_file_and_line() {
        let twice = error_of(&TWO.replace("\"b\"", "\"a\""));
        assert_eq!(twice, "p.toml:12: id \"a\" a second time; each id must be unique");
        let zero = error_of(&TWO.replacen("n_gen = 8", "n_gen = 0", 1));
        assert_eq!(zero, "p.toml:8: a: n_gen 0; expected 1 or more");
        assert!(error_of(&TWO.replace("World", "")).starts_with("p.toml:16: b: "));
        assert!(error_of(&TWO.replacen("n_gen", "ngen", 1)).starts_with("p.toml:8: unknown field"));
        assert!(
            error_of(&TWO.replacen("why = \"first\"\n", "", 1)).contains("missing field `why`")
        );
        assert!(error_of("name = \"x\"\nsummary = \"s\"\n").starts_with("p.toml:1: no [[prompt]]"));
        assert!(error_of("name = ").starts_with("p.toml:1: "));
    }

    #[test]
    fn a_path_overrides_the_embedded_sets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        std::fs::write(&path, TWO).unwrap();
        assert_eq!(PromptSet::find(path.to_str().unwrap()).unwrap().prompts.len(), 2);
        assert!(
            PromptSet::find("/nonesuch.toml").unwrap_err().to_string().contains("/nonesuch.toml")
        );
    }
}
