//! The engines that exist: those inside this binary, and one folder with an `engine.toml` for each
//! of the others (docs/ADDING_AN_ENGINE.md). Folders are embedded, and so is the code that Python
//! engines share; a folder that the user names comes first.

mod builtin;
mod options;
mod server;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::slice::from_ref;

use anyhow::{Context, Result, anyhow, bail};
use include_dir::{Dir, include_dir};
use serde::Deserialize;

use super::http::Endpoint;
use crate::device::{Device, DeviceKind};
use crate::record::{FailureKind, Model};
use crate::units::Bytes;
use builtin::builtin;
pub use options::{EngineOption, set_options};
use options::{endpoints, options};
pub use server::ServerRecipe;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/scripts/engines");

/// The environment variable with extra engine folders, separated like PATH.
pub const ENGINE_PATH: &str = "LLM_BENCH_ENGINES";

/// The name that stands for every engine.
pub const ALL: &str = "all";

/// The file that describes an engine folder.
pub const MANIFEST: &str = "engine.toml";

/// The package that Python engines share: a folder beside those of the engines.
pub const SHARED: &str = "_shared";

/// The files that Python engines share.
pub fn shared() -> Result<Files> {
    EMBEDDED.get_dir(SHARED).map(Files::Embedded).context("this build has no shared Python code")
}

/// One engine in one variant, which a column of the table measures.
#[derive(Debug, Clone)]
pub struct EngineSpec {
    /// The name on the command line and in the table, such as `pytorch-eager`.
    pub name: String,
    /// The engine folder or `builtin`; variants of one family share an installation.
    pub family: String,
    pub summary: String,
    /// Sent with `load`.
    pub options: serde_json::Map<String, serde_json::Value>,
    /// Those of them that the user set.
    pub set: serde_json::Map<String, serde_json::Value>,
    pub quants: Vec<String>,
    pub devices: Vec<DeviceKind>,
    /// How the engine is known to differ from the function that the file describes.
    pub known_differences: Vec<KnownDifference>,
    /// The variant of the same folder that its quality is compared with, for an engine that
    /// quantizes the weights itself.
    pub reference: Option<String>,
    /// The fewest bits that it holds of each weight in memory, whatever the file has.
    pub min_bits: u32,
    pub launcher: Launcher,
}

/// How the process is started.
#[derive(Debug, Clone)]
pub enum Launcher {
    /// This binary in its hidden worker mode.
    Builtin,
    /// A folder with an `engine.toml`.
    Folder(Box<EngineFolder>),
    /// Nothing is started: a server runs there.
    Endpoint(Endpoint),
}

/// An engine folder: its manifest, and where its files are.
#[derive(Debug, Clone)]
pub struct EngineFolder {
    pub manifest: Manifest,
    pub files: Files,
}

/// Where the files of an engine folder are.
#[derive(Debug, Clone)]
pub enum Files {
    Embedded(&'static Dir<'static>),
    OnDisk(PathBuf),
}

/// `engine.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub name: String,
    pub summary: String,
    /// The Python script that speaks the protocol, unless there is a `[native]` table.
    pub script: Option<String>,
    /// A program built on this machine instead of a script.
    pub native: Option<Native>,
    /// The engine is a server that the harness starts: the program, or the Python of the
    /// requirements, does not speak the protocol.
    pub server: Option<ServerRecipe>,
    /// Pinned requirements. Without them the system's Python runs the script directly.
    pub requirements: Option<String>,
    /// Packages that the script itself imports: a Python environment of the user's must have them.
    /// Empty for every one in `requirements`.
    #[serde(default)]
    pub packages: Vec<String>,
    /// The cost of installing, for readers: bytes and minutes.
    pub install_cost: Option<String>,
    /// The oldest Python that works, such as `>=3.11`.
    pub python: Option<String>,
    /// File types that the engine accepts; empty for any.
    #[serde(default)]
    pub quants: Vec<String>,
    #[serde(default = "cpu_only")]
    pub devices: Vec<DeviceKind>,
    /// `verify` without `--engine` skips the engine.
    #[serde(default)]
    pub only_named: bool,
    /// Extra environment variables; `{threads}` and `{kernels}` in them are replaced.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables to set to the folder of the engine's compile cache.
    #[serde(default)]
    pub compile_cache_env: Vec<String>,
    /// One arm per variant: name → what differs.
    pub variants: BTreeMap<String, Variant>,
    #[serde(default)]
    pub known_differences: Vec<KnownDifference>,
}

/// `[native]`: a program built from the folder on the machine where it runs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Native {
    /// The program that speaks the protocol: a path in the folder where the steps run.
    pub program: String,
    /// Pinned requirements of a venv for the steps, which is removed after the build.
    pub requirements: Option<String>,
    /// What the build needs on PATH: the tool → programs, any one of which will do. `$NAME` is a
    /// variable that names a program; if it is set, only that program counts.
    #[serde(default)]
    pub needs: BTreeMap<String, Vec<String>>,
    /// How to get what is missing.
    #[serde(default)]
    pub advice: String,
    /// The commands that build the program, run in an empty folder.
    pub steps: Vec<BuildStep>,
    /// How the build for CUDA devices differs. Without it one build serves every device.
    pub cuda: Option<CudaBuild>,
}

/// `[native.cuda]`: a build of its own, for CUDA devices.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CudaBuild {
    /// What this build needs beside what every build does. It is also looked for where CUDA's
    /// toolkit usually is.
    #[serde(default)]
    pub needs: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub advice: String,
    /// These take the place of the word `{cuda}` in the steps; other builds leave the word out.
    pub arguments: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildStep {
    /// The description for the line of progress.
    pub what: String,
    /// The command and its arguments. `{folder}` becomes the engine's folder, `{build}` the folder
    /// where the steps run.
    pub run: Vec<String>,
    /// What to do if it fails.
    #[serde(default)]
    pub advice: String,
}

/// A declared difference from float32 on the same file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownDifference {
    pub why: String,
    /// The file types that it affects; empty for all.
    #[serde(default)]
    pub quants: Vec<String>,
    /// Coarser rounding up to this NMSE. Without a value, the engine computes another function.
    pub nmse: Option<f64>,
}

/// The code of an engine folder.
#[derive(Debug, Clone, Copy)]
pub enum Code<'a> {
    /// A Python script of the folder.
    Script(&'a str),
    Native(&'a Native),
    /// None of its own: its packages hold a server.
    Packages,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    pub summary: String,
    #[serde(default)]
    pub options: serde_json::Map<String, serde_json::Value>,
    /// Whether the variant compiles at run time, so that the state of the compile cache matters.
    #[serde(default)]
    pub compiles: bool,
    /// In addition to those of the whole folder.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// In place of those of the whole folder; empty for the same.
    #[serde(default)]
    pub quants: Vec<String>,
    /// For a variant that quantizes the weights itself: the variant that keeps them, with which a
    /// sweep compares its quality.
    pub reference: Option<String>,
    /// The fewest bits that it holds of each weight in memory, if a file of fewer does not help.
    #[serde(default)]
    pub min_bits: u32,
    /// In addition to those of the whole folder.
    #[serde(default)]
    pub known_differences: Vec<KnownDifference>,
}

fn cpu_only() -> Vec<DeviceKind> {
    vec![DeviceKind::Cpu]
}

impl EngineFolder {
    fn parse(text: &str, files: Files, whence: &str) -> Result<Self> {
        let manifest: Manifest = toml::from_str(text).with_context(|| whence.to_string())?;
        // Names become parts of cache paths, where installations are made and removed.
        for name in std::iter::once(&manifest.name).chain(manifest.variants.keys()) {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(plain) {
                bail!("{whence}: name {name:?}: expected letters, digits, '-', '_' and '.'");
            }
            if name == ALL {
                bail!("{whence}: name {name:?}: expected another one, this names every engine");
            }
        }
        let of_packages = manifest.server.is_some() && manifest.requirements.is_some();
        match (&manifest.script, &manifest.native) {
            (Some(_), None) | (None, Some(_)) => {}
            (None, None) if of_packages => {}
            _ => bail!(
                "{whence}: expected either script = … or a [native] table; a [server] table may also \
                 have requirements = … alone"
            ),
        }
        if let Some(server) = &manifest.server {
            server.check().map_err(|e| anyhow!("{whence}: [server]: {e}"))?;
        }
        let native = manifest.native.as_ref();
        let of_build = native.and_then(|n| n.requirements.as_ref());
        let named = manifest.script.iter().chain(&manifest.requirements).chain(of_build);
        for file in named.chain(native.map(|n| &n.program)) {
            let mut parts = Path::new(file).components();
            if file.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_))) {
                bail!("{whence}: {file:?}: expected a file inside the engine's folder");
            }
        }
        if native.is_some_and(|n| n.steps.iter().any(|s| s.run.is_empty())) {
            bail!("{whence}: a step of [native] has no command");
        }
        if manifest.variants.is_empty() {
            bail!("{whence}: expected at least one [variants.NAME] table, found none");
        }
        for (name, reference) in
            manifest.variants.iter().filter_map(|(name, v)| Some((name, v.reference.as_ref()?)))
        {
            if manifest.variants.get(reference).is_none_or(|v| v.reference.is_some()) {
                bail!(
                    "{whence}: variant {name}: reference = {reference:?}: expected a variant of \
                     this folder that has no reference itself"
                );
            }
        }
        if let Some(bound) = &manifest.python
            && parse_python_bound(bound).is_none()
        {
            bail!("{whence}: python = {bound:?}: expected a bound such as \">=3.11\"");
        }
        Ok(Self { manifest, files })
    }

    /// The engine that a variant is.
    pub fn engine(&self, name: &str) -> Option<EngineSpec> {
        let m = &self.manifest;
        let (name, variant) = m.variants.get_key_value(name)?;
        let quants = if variant.quants.is_empty() { &m.quants } else { &variant.quants };
        Some(EngineSpec {
            name: name.clone(),
            family: m.name.clone(),
            summary: variant.summary.clone(),
            options: variant.options.clone(),
            set: Default::default(),
            quants: quants.clone(),
            devices: m.devices.clone(),
            known_differences: [&m.known_differences[..], &variant.known_differences].concat(),
            reference: variant.reference.clone(),
            min_bits: variant.min_bits,
            launcher: Launcher::Folder(Box::new(self.clone())),
        })
    }

    /// The oldest Python that works.
    pub fn python_bound(&self) -> (u32, u32) {
        self.manifest.python.as_deref().and_then(parse_python_bound).unwrap_or((3, 11))
    }

    /// Whether it came with this program.
    pub fn is_ours(&self) -> bool {
        matches!(self.files, Files::Embedded(_))
    }

    /// The code that the folder runs.
    pub fn code(&self) -> Code<'_> {
        match (&self.manifest.script, &self.manifest.native) {
            (_, Some(native)) => Code::Native(native),
            (Some(script), None) => Code::Script(script),
            (None, None) => Code::Packages,
        }
    }

    /// The contents of one file of the folder.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        match &self.files {
            Files::Embedded(dir) => dir
                .get_file(dir.path().join(name))
                .map(|f| f.contents().to_vec())
                .with_context(|| format!("engine {}: no file {name}", self.manifest.name)),
            Files::OnDisk(folder) => {
                let path = folder.join(name);
                std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
            }
        }
    }

    /// The folder's files by name, without its tests.
    pub fn sources(&self) -> Result<Vec<(String, Vec<u8>)>> {
        self.files.sources()
    }
}

impl Files {
    /// All files by name, without the engine's tests.
    pub fn sources(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut found = Vec::new();
        match self {
            Files::Embedded(dir) => {
                found.extend(dir.files().map(|f| (name_of(f.path()), f.contents().to_vec())));
            }
            Files::OnDisk(folder) => {
                let failed = || format!("cannot read {}", folder.display());
                for entry in std::fs::read_dir(folder).with_context(failed)? {
                    let path = entry.with_context(failed)?.path();
                    if path.is_file() {
                        found.push((name_of(&path), std::fs::read(&path).with_context(failed)?));
                    }
                }
            }
        }
        found.retain(|(name, _)| {
            !name.starts_with("test_") && !name.starts_with("conftest") && !name.ends_with(".pyc")
        });
        found.sort();
        Ok(found)
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn parse_python_bound(bound: &str) -> Option<(u32, u32)> {
    let (major, minor) = bound.trim().strip_prefix(">=")?.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Every engine, by name.
#[derive(Debug, Default)]
pub struct Registry {
    engines: Vec<EngineSpec>,
}

impl Registry {
    /// Loads built-in engines, embedded folders, and the folders in `LLM_BENCH_ENGINES`, which may
    /// replace an embedded one of the same name.
    pub fn load() -> Result<Self> {
        let mut folders = Vec::new();
        if let Some(path) = std::env::var_os(ENGINE_PATH) {
            for folder in std::env::split_paths(&path).filter(|p| !p.as_os_str().is_empty()) {
                folders.push(Self::folder_on_disk(&folder)?);
            }
        }
        for dir in EMBEDDED.dirs() {
            let Some(file) = dir.get_file(dir.path().join(MANIFEST)) else {
                continue;
            };
            let text = file.contents_utf8().context("engine.toml is not UTF-8")?;
            let whence = format!("scripts/engines/{}", file.path().display());
            folders.push(EngineFolder::parse(text, Files::Embedded(dir), &whence)?);
        }
        let mut registry = Self { engines: builtin() };
        for folder in folders {
            registry.add(folder);
        }
        for endpoint in endpoints() {
            registry.add_endpoint(endpoint)?;
        }
        for option in options() {
            registry.set(option)?;
        }
        Ok(registry)
    }

    fn folder_on_disk(folder: &Path) -> Result<EngineFolder> {
        let path = folder.join(MANIFEST);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{ENGINE_PATH}: cannot read {}", path.display()))?;
        // Its programs do not run in the current folder.
        let files = Files::OnDisk(std::path::absolute(folder)?);
        EngineFolder::parse(&text, files, &path.display().to_string())
    }

    fn set(&mut self, option: &EngineOption) -> Result<()> {
        let name = &self.find(&option.engine).context("--engine-option")?.name.clone();
        let engine = self.engines.iter_mut().filter(|e| e.name == *name);
        engine.for_each(|e| e.set_option(&option.key, &option.value));
        Ok(())
    }

    fn add_endpoint(&mut self, endpoint: &Endpoint) -> Result<()> {
        let name = &endpoint.name;
        endpoint.check().map_err(|e| anyhow!("--endpoint {e}"))?;
        if name == ALL || self.engines.iter().any(|e| e.name == *name) {
            bail!("--endpoint {name}=…: another engine is called {name:?}; choose another name");
        }
        self.engines.push(EngineSpec {
            name: name.clone(),
            family: name.clone(),
            summary: format!("the server at {}", endpoint.root),
            options: Default::default(),
            set: Default::default(),
            quants: Vec::new(),
            // Where it computes is its own matter.
            devices: vec![DeviceKind::Cpu, DeviceKind::Cuda, DeviceKind::Metal],
            known_differences: Vec::new(),
            reference: None,
            min_bits: 0,
            launcher: Launcher::Endpoint(endpoint.clone()),
        });
        Ok(())
    }

    /// The first engine of a name wins: the user's folder over the embedded one.
    fn add(&mut self, folder: EngineFolder) {
        for engine in folder.manifest.variants.keys().filter_map(|name| folder.engine(name)) {
            if self.engines.iter().all(|e| e.name != engine.name) {
                self.engines.push(engine);
            }
        }
    }

    /// All engines, built-in ones first.
    pub fn all(&self) -> &[EngineSpec] {
        &self.engines
    }

    /// The engines of these names, each once; [`ALL`] names every one.
    pub fn named(&self, names: &[String]) -> Result<Vec<EngineSpec>> {
        let mut found: Vec<EngineSpec> = Vec::new();
        for name in names {
            let engines = if name == ALL { self.all() } else { from_ref(self.find(name)?) };
            for engine in engines {
                if found.iter().all(|e| e.name != engine.name) {
                    found.push(engine.clone());
                }
            }
        }
        Ok(found)
    }

    /// The engine of this name; the error suggests the nearest name.
    pub fn find(&self, name: &str) -> Result<&EngineSpec> {
        if let Some(engine) = self.engines.iter().find(|e| e.name == name) {
            return Ok(engine);
        }
        let names: Vec<&str> = self.engines.iter().map(|e| e.name.as_str()).collect();
        let nearest = names
            .iter()
            .map(|n| (strsim::jaro_winkler(n, name), *n))
            .filter(|(score, _)| *score > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        match nearest {
            Some((_, n)) => bail!("no engine is called {name:?}; did you mean {n:?}?"),
            None => bail!("no engine is called {name:?}; there are: {}", names.join(", ")),
        }
    }
}

impl EngineSpec {
    /// Sets an option of `load` in place of the manifest's.
    pub fn set_option(&mut self, key: &str, value: &serde_json::Value) {
        self.options.insert(key.into(), value.clone());
        self.set.insert(key.into(), value.clone());
    }

    /// Why the engine cannot measure a file of this type on this device; `None` if it can.
    pub fn refusal(&self, quant: &str, device: Device) -> Option<(FailureKind, String)> {
        if !self.devices.contains(&device.kind()) {
            let message = format!("{} runs on {}; asked for {device}", self.name, self.devices());
            return Some((FailureKind::Unsupported, message));
        }
        // Rows of a recipe may have fallen back to other types, which its engines take too.
        let recipe = quant.split('+').next().unwrap_or(quant);
        let takes = |q: &String| q.eq_ignore_ascii_case(recipe);
        if self.quants.is_empty() || self.quants.iter().any(takes) {
            return None;
        }
        let message =
            format!("{} takes {}; this file is {quant}", self.name, self.quants.join(", "));
        Some((FailureKind::UnsupportedQuant, message))
    }

    /// The bytes of a model's weights in this engine's memory, if it makes them larger than the file.
    pub fn makes_larger(&self, model: &Model) -> Option<Bytes> {
        let bytes = Bytes(model.n_params.saturating_mul(self.min_bits.into()) / 8);
        Some(bytes).filter(|bytes| bytes.0 > model.size_bytes)
    }

    /// The kinds of device that the engine declares, in words.
    fn devices(&self) -> String {
        let names: Vec<String> = self.devices.iter().map(DeviceKind::to_string).collect();
        names.join(", ")
    }

    /// How the engine is known to differ for files of this type, if it does.
    pub fn known_difference(&self, quant: &str) -> Option<&KnownDifference> {
        let recipe = quant.split('+').next().unwrap_or(quant);
        let with = |d: &&KnownDifference| {
            d.quants.is_empty() || d.quants.iter().any(|q| q.eq_ignore_ascii_case(recipe))
        };
        self.known_differences.iter().find(with)
    }

    /// The engine that its quality is compared with: itself, unless it quantizes the weights.
    pub fn reference(&self) -> Self {
        match (&self.reference, &self.launcher) {
            (Some(name), Launcher::Folder(folder)) => folder.engine(name),
            _ => None,
        }
        .unwrap_or_else(|| self.clone())
    }

    /// What the installation needs on this machine, in words; `None` for a built-in engine.
    pub fn needs(&self) -> Option<String> {
        let Launcher::Folder(folder) = &self.launcher else { return None };
        let (major, minor) = folder.python_bound();
        let python = format!("Python {major}.{minor}");
        let Some(native) = &folder.manifest.native else { return Some(python) };
        let mut needs: Vec<String> = native.needs.keys().cloned().collect();
        needs.extend(native.requirements.iter().map(|_| python.clone()));
        Some(format!("{} to build it", needs.join(", ")))
    }

    /// Whether the engine runs only if the user names it.
    pub fn only_named(&self) -> bool {
        matches!(&self.launcher, Launcher::Folder(f) if f.manifest.only_named)
    }

    /// The cost of installing the engine; `None` for a built-in one.
    pub fn install_cost(&self) -> Option<&str> {
        match &self.launcher {
            Launcher::Builtin | Launcher::Endpoint(_) => None,
            Launcher::Folder(folder) => {
                Some(folder.manifest.install_cost.as_deref().unwrap_or("how long is not known"))
            }
        }
    }

    /// Whether the engine is built here, which takes minutes and serves only its own users. Such an
    /// engine is installed when a user names it, not because every engine was asked for.
    pub fn is_native(&self) -> bool {
        matches!(&self.launcher, Launcher::Folder(f) if f.manifest.native.is_some())
    }

    /// Whether this variant compiles at run time.
    pub fn compiles(&self) -> bool {
        match &self.launcher {
            Launcher::Builtin | Launcher::Endpoint(_) => false,
            Launcher::Folder(f) => f.manifest.variants.get(&self.name).is_some_and(|v| v.compiles),
        }
    }
}

/// Checks that at least one of `engines` declares the device. Engines that lack it fail with that
/// reason.
///
/// # Errors
/// None declares it.
pub fn check_device(engines: &[EngineSpec], device: Device) -> Result<()> {
    if engines.is_empty() || engines.iter().any(|e| e.devices.contains(&device.kind())) {
        return Ok(());
    }
    let each: Vec<_> =
        engines.iter().map(|e| format!("{} runs on {}", e.name, e.devices())).collect();
    bail!("--device {device}: no engine has it: {}", each.join("; "))
}

#[cfg(test)]
mod tests;
