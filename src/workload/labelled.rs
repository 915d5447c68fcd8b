//! Labelled texts for classifiers: JSON lines of a text, the label that it should get, and a
//! category. Two sets are inside the binary: `sentiment-validation`, which accuracy is measured
//! on, and `sentiment-benchmark`, which speed is. docs/MODELS.md states how they are labelled.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use include_dir::{Dir, include_dir};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::model::gguf::regular_file_len;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/prompts");

/// Enough for a million reviews.
const MAX_FILE: u64 = 256 << 20;
/// A text of more bytes is longer than any encoder's context.
const MAX_LINE: u64 = 64 << 10;
const EXTENSION: &str = "jsonl";

/// Texts that belong together, in order; no two are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledSet {
    /// The name of the file without its ending.
    pub name: String,
    pub texts: Vec<LabelledText>,
}

/// One text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelledText {
    pub text: String,
    pub expected_label: String,
    pub category: String,
}

/// A set that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LabelledError {
    #[error("no labelled texts {name:?}. Known: {known}. Or give a file: PATH.jsonl")]
    Unknown { name: String, known: String },
    #[error("{file}: {message}")]
    Read { file: String, message: String },
    #[error("{file}:{line}: {message}")]
    Invalid { file: String, line: usize, message: String },
}

impl LabelledSet {
    /// The set with this name, or in the `.jsonl` file at this path.
    pub fn find(spec: &str) -> Result<Self, LabelledError> {
        let is_file = Path::new(spec).extension().is_some_and(|e| e == EXTENSION);
        if is_file || spec.contains('/') {
            return Self::open(Path::new(spec));
        }
        let path = format!("{spec}.{EXTENSION}");
        match EMBEDDED.get_file(&path) {
            Some(file) => Self::read(spec, &format!("prompts/{path}"), file.contents()),
            None => Err(LabelledError::Unknown {
                name: spec.to_owned(),
                known: Self::names().join(", "),
            }),
        }
    }

    /// The names of the sets inside the binary, sorted.
    pub fn names() -> Vec<String> {
        let is_set = |path: &Path| path.extension().is_some_and(|e| e == EXTENSION);
        let paths = EMBEDDED.files().map(|f| f.path()).filter(|path| is_set(path));
        let mut names: Vec<_> = paths
            .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
            .collect();
        names.sort();
        names
    }

    /// A set in a file.
    pub fn open(path: &Path) -> Result<Self, LabelledError> {
        let file = path.display().to_string();
        let fail = |message: String| LabelledError::Read { file: file.clone(), message };
        let len = regular_file_len(path).map_err(|e| fail(e.to_string()))?;
        if len > MAX_FILE {
            return Err(fail(format!("expected at most {MAX_FILE} bytes, found {len}")));
        }
        let source = File::open(path).map_err(|e| fail(e.to_string()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::read(&name, &file, BufReader::new(source.take(MAX_FILE)))
    }

    fn read(name: &str, file: &str, mut source: impl BufRead) -> Result<Self, LabelledError> {
        let mut texts = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        let mut bytes = Vec::new();
        for line in 1.. {
            let invalid =
                |message: String| LabelledError::Invalid { file: file.to_owned(), line, message };
            bytes.clear();
            let mut limited = source.by_ref().take(MAX_LINE + 1);
            let read = limited.read_until(b'\n', &mut bytes);
            if read.map_err(|e| invalid(e.to_string()))? == 0 {
                break;
            }
            if bytes.len() as u64 > MAX_LINE {
                return Err(invalid(format!("expected at most {MAX_LINE} bytes, found more")));
            }
            let text = std::str::from_utf8(&bytes).map_err(|e| {
                invalid(format!("expected UTF-8, found another byte at {}", 1 + e.valid_up_to()))
            })?;
            if text.trim().is_empty() {
                continue;
            }
            let one: LabelledText =
                serde_json::from_str(text).map_err(|e| invalid(at_column(&e)))?;
            for (field, value) in [
                ("text", &one.text),
                ("expected_label", &one.expected_label),
                ("category", &one.category),
            ] {
                if value.trim().is_empty() {
                    return Err(invalid(format!("{field}: expected text, found nothing")));
                }
            }
            if let Some(first) = lines.insert(one.text.clone(), line) {
                return Err(invalid(format!("the text of line {first} once more")));
            }
            texts.push(one);
        }
        if texts.is_empty() {
            let message = "expected labelled texts, found none".to_owned();
            return Err(LabelledError::Read { file: file.to_owned(), message });
        }
        Ok(Self { name: name.to_owned(), texts })
    }

    /// Hex, of texts, labels and categories in their order.
    pub fn sha256(&self) -> String {
        let mut sha = Sha256::new();
        for LabelledText { text, expected_label, category } in &self.texts {
            for part in [text, expected_label, category] {
                sha.update((part.len() as u64).to_le_bytes());
                sha.update(part);
            }
        }
        crate::digest::hex(&sha.finalize())
    }

    /// The place of each text's label among those of a model.
    ///
    /// # Errors
    /// A label that the model does not have.
    pub fn expected(&self, labels: &[String]) -> Result<Vec<usize>, LabelledError> {
        let place = |text: &LabelledText| {
            labels.iter().position(|label| *label == text.expected_label).ok_or_else(|| {
                let (found, known) = (&text.expected_label, labels.join(", "));
                let message = format!(
                    "expected_label: expected one of the model's labels ({known}), found {found:?} \
                     for {:?}",
                    shortened(&text.text)
                );
                LabelledError::Read { file: self.name.clone(), message }
            })
        };
        self.texts.iter().map(place).collect()
    }

    /// All categories, sorted.
    pub fn categories(&self) -> BTreeSet<&str> {
        self.texts.iter().map(|text| text.category.as_str()).collect()
    }
}

/// serde_json counts lines within the one line that it was given.
fn at_column(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let plain = message.rsplit_once(" at line ").map_or(message.as_str(), |(plain, _)| plain);
    format!("{plain} (column {})", error.column())
}

fn shortened(text: &str) -> String {
    const MOST: usize = 40;
    let mut short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(lines: &[u8]) -> String {
        LabelledSet::read("x", "x.jsonl", lines).unwrap_err().to_string()
    }

    fn line(text: &str) -> String {
        format!("{{\"text\": \"{text}\", \"expected_label\": \"A\", \"category\": \"plain\"}}\n")
    }

    #[test]
    fn the_shipped_sets_are_large_balanced_and_share_no_text() {
        assert_eq!(LabelledSet::names(), ["sentiment-benchmark", "sentiment-validation"]);
        let benchmark = LabelledSet::find("sentiment-benchmark").unwrap();
        let validation = LabelledSet::find("sentiment-validation").unwrap();
        assert!(benchmark.texts.len() >= 60 && validation.texts.len() >= 150);
        let labels = ["NEGATIVE".to_owned(), "POSITIVE".to_owned()];
        for set in [&benchmark, &validation] {
            let positive: usize = set.expected(&labels).unwrap().iter().sum();
            let share = positive as f64 / set.texts.len() as f64;
            assert!((0.45..=0.55).contains(&share), "{}: {share}", set.name);
            for text in &set.texts {
                assert_eq!(text.text.trim(), text.text);
            }
        }
        assert!(validation.categories().len() >= 12, "{:?}", validation.categories());
        for text in &benchmark.texts {
            let words = text.text.split_whitespace().count();
            assert!((5..=60).contains(&words), "{words} words: {}", text.text);
            assert!(validation.texts.iter().all(|other| other.text != text.text));
        }
    }

    #[test]
    fn every_error_names_its_line() {
        let good = line("good");
        let after = |bad: &str| error(format!("{good}\n{bad}").as_bytes());
        assert_eq!(after(&good), "x.jsonl:3: the text of line 1 once more");
        assert!(
            after("{\"text\": \"b\", \"category\": \"c\"}").starts_with("x.jsonl:3: missing field")
        );
        assert!(after("{\"text\": 1}").starts_with("x.jsonl:3: invalid type"));
        assert!(after(&line(" ")).contains("x.jsonl:3: text: expected text"));
        assert!(after("nonsense").starts_with("x.jsonl:3: expected"));
        let more = good.replace("\"category\"", "\"source\": \"me\", \"category\"");
        assert!(after(&more.replace("good", "b")).contains("unknown field `source`"));
        let mut bytes = good.clone().into_bytes();
        bytes.extend(b"{\"text\": \"\xff\"}");
        assert_eq!(error(&bytes), "x.jsonl:2: expected UTF-8, found another byte at 11");
        let long = line(&"x".repeat(70_000));
        assert!(error(long.as_bytes()).starts_with("x.jsonl:1: expected at most 65536 bytes"));
        assert!(error(b"\n\n").contains("found none"));
    }

    #[test]
    fn labels_are_those_of_the_model() {
        let set = LabelledSet::read("x", "x.jsonl", line("good").as_bytes()).unwrap();
        assert_eq!(set.expected(&["B".into(), "A".into()]).unwrap(), [1]);
        let error = set.expected(&["POSITIVE".into()]).unwrap_err().to_string();
        assert!(error.contains("(POSITIVE)") && error.contains("\"A\" for \"good\""), "{error}");
        let unknown = LabelledSet::find("irony").unwrap_err().to_string();
        assert!(unknown.contains("sentiment-validation"), "{unknown}");
    }

    #[test]
    fn a_file_is_read_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.jsonl");
        std::fs::write(&path, line("a") + &line("b")).unwrap();
        let set = LabelledSet::find(path.to_str().unwrap()).unwrap();
        assert_eq!((set.name.as_str(), set.texts.len()), ("mine", 2));
        assert!(LabelledSet::find(folder.path().to_str().unwrap()).is_err());
    }
}
