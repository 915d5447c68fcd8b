//! Installs what an engine folder needs into the user's cache and makes the command that starts the
//! engine. It provides a venv per set of pinned requirements or a program built from the folder
//! (`native`), the folder's files, and a separate compile cache.

mod native;
pub mod package;
mod python;
mod revision;
mod step;

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

pub use self::python::{OPTION, PYTHON, Python, UsersEnvironment, find_python, use_python};
pub use self::revision::Revision;
use self::step::run_step;
use super::http::Endpoint;
use super::registry::{self, Code, EngineFolder, EngineSpec, Files, Launcher, ServerRecipe};
use crate::device::DeviceKind;
use crate::environment::{self, Purpose};
use crate::protocol::Load;

/// What an isolated Python (`-I`) runs to become an engine: it imports from the engine's folder
/// and from what Python engines share, and from no other folder of the user's.
const START: &str = "\
import sys
sys.path[:0] = sys.argv[1:3]
del sys.argv[:3]
__file__ = sys.argv[0]
with open(__file__, 'rb') as script:
    script = compile(script.read(), __file__, 'exec')
exec(script)";

/// In a folder that was made once, and completely.
const COMPLETE: &str = ".complete";

/// The variable that names the folder with Hugging Face's tokenizers, and their pins among the files
/// that Python engines share.
const TOKENIZERS: &str = "LLM_BENCH_TOKENIZERS";
const TOKENIZER_PINS: &str = "tokenizers.txt";

/// The library of the crate `candle-abi`, for engines in other languages.
const KERNELS: &str = "llm_bench_kernels";

/// Where engines are installed, and whether they may be.
#[derive(Debug, Clone)]
pub struct Provisioner {
    /// `<cache>/llm-bench`.
    pub cache: PathBuf,
    /// False for `--no-install`.
    pub may_install: bool,
    /// Programs that are built for a kind of device are built for this one.
    pub device: DeviceKind,
    /// The llm-bench program that runs the built-in engines as workers, normally this one.
    pub program: PathBuf,
    /// Whether engines in Python get a tokenizer, which no model needs.
    pub tokenizers: bool,
}

/// How an engine is spoken to.
#[derive(Debug, Clone)]
pub enum Reach {
    /// It speaks the protocol on its stdin and stdout.
    Pipes,
    /// The program is a server of ours.
    Server(Server),
    /// A server that runs already.
    Address(Endpoint),
}

/// A server of ours: how it is started, and its engine's name.
#[derive(Debug, Clone)]
pub struct Server {
    pub name: String,
    pub recipe: ServerRecipe,
}

/// An engine that is ready to start.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The program to start: a Python, a program built here, or this program itself. Empty for a
    /// server that runs elsewhere.
    pub program: PathBuf,
    /// How it is spoken to.
    pub reach: Reach,
    args: Vec<OsString>,
    /// The folders of the scripts that the program runs, if any: the engine's own, and the one that
    /// Python engines share. With them, the program is a Python.
    scripts: Vec<PathBuf>,
    env: Vec<(String, String)>,
    /// The library that the variables name, if any, which need not be there.
    library: Option<PathBuf>,
    /// The folder of the engine's compile cache, if it has one.
    pub compile_cache: Option<PathBuf>,
    /// The user's environment that the scripts run in, in place of an installation.
    pub users_environment: Option<UsersEnvironment>,
}

impl Provisioner {
    /// Installs into `cache`; built-in engines are this program's own workers.
    pub fn new(cache: PathBuf, may_install: bool) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        Ok(Self { cache, may_install, device: DeviceKind::Cpu, program, tokenizers: false })
    }

    /// Makes the engine startable and installs what is missing; `say` gets a line of progress.
    /// `work` names the computation. Each has its own compile cache, so that "populated" means
    /// populated for this work.
    pub fn provide(
        &self,
        engine: &EngineSpec,
        work: &str,
        say: &dyn Fn(&str),
    ) -> Result<Installed> {
        match &engine.launcher {
            Launcher::Endpoint(endpoint) => Ok(Installed {
                program: PathBuf::new(),
                reach: Reach::Address(endpoint.clone()),
                args: Vec::new(),
                scripts: Vec::new(),
                env: Vec::new(),
                library: None,
                compile_cache: None,
                users_environment: None,
            }),
            Launcher::Builtin => Ok(Installed {
                program: self.program.clone(),
                reach: Reach::Pipes,
                args: vec!["worker".into(), engine.name.clone().into()],
                scripts: Vec::new(),
                env: Vec::new(),
                library: None,
                compile_cache: None,
                users_environment: None,
            }),
            Launcher::Folder(folder) => self.provide_folder(engine, folder, work, say),
        }
    }

    fn provide_folder(
        &self,
        engine: &EngineSpec,
        folder: &EngineFolder,
        work: &str,
        say: &dyn Fn(&str),
    ) -> Result<Installed> {
        let m = &folder.manifest;
        let kernels = self.program.with_file_name(format!("{DLL_PREFIX}{KERNELS}{DLL_SUFFIX}"));
        let of_variant = m.variants.get(&engine.name).into_iter().flat_map(|v| &v.env);
        let env = || m.env.iter().chain(of_variant.clone());
        let library = env().any(|(_, value)| value.contains("{kernels}")).then(|| kernels.clone());
        let kernels = kernels.to_string_lossy();
        let env = env().map(|(name, value)| (name.clone(), value.replace("{kernels}", &kernels)));
        let mut env: Vec<_> = env.collect();
        // What an engine finds out about this machine once, it keeps there.
        env.push(("LLM_BENCH_CACHE".into(), self.cache.to_string_lossy().into_owned()));
        let mut args = Vec::new();
        let mut users_environment = None;
        let (program, scripts) = match folder.code() {
            Code::Native(native) => (self.native(folder, native, say)?, Vec::new()),
            Code::Packages => {
                (self.venv(folder, m.requirements.as_deref().unwrap_or_default(), say)?, Vec::new())
            }
            Code::Script(script) => {
                if let Some(name) = &m.requirements {
                    users_environment = python::users_environment(folder, name, say)?;
                }
                let python = match (&users_environment, &m.requirements) {
                    (Some(environment), _) => environment.python.clone(),
                    (None, Some(name)) => self.venv(folder, name, say)?,
                    (None, None) => find_python(folder.python_bound())?.path,
                };
                let is_ours = users_environment.is_none() && m.requirements.is_some();
                if self.tokenizers
                    && is_ours
                    && let Some(home) = self.tokenizer_package(&python, say)?
                {
                    env.push((TOKENIZERS.into(), home.to_string_lossy().into_owned()));
                }
                let own = self.unpacked(folder)?;
                let shared = self.shared()?;
                args = ["-u", "-c", START].map(OsString::from).to_vec();
                for path in [&own, &shared, &own.join(script)] {
                    args.push(std::path::absolute(path)?.into());
                }
                (python, vec![own, shared.join(registry::SHARED)])
            }
        };
        let reach = match &m.server {
            None => {
                args.push(engine.name.clone().into());
                Reach::Pipes
            }
            Some(recipe) => {
                Reach::Server(Server { name: engine.name.clone(), recipe: recipe.clone() })
            }
        };
        let compile_cache = None;
        let mut installed = Installed {
            program,
            reach,
            args,
            scripts,
            env,
            library,
            compile_cache,
            users_environment,
        };
        if !m.compile_cache_env.is_empty() && engine.compiles() {
            // Options that the user set are other code, which compiles to something else.
            let set = serde_json::to_string(&engine.set)?;
            let key =
                short_hash(&[work.as_bytes(), set.as_bytes(), installed.identity()?.as_bytes()]);
            let root = self.cache.join("compile").join(format!("{}-{key}", engine.name));
            for name in &m.compile_cache_env {
                let own = root.join(name.to_ascii_lowercase());
                installed.env.push((name.clone(), own.to_string_lossy().into_owned()));
            }
            installed.compile_cache = Some(root);
        }
        Ok(installed)
    }

    /// The Python of the venv for these requirements. Makes the venv if it is missing.
    fn venv(
        &self,
        folder: &EngineFolder,
        requirements: &str,
        say: &dyn Fn(&str),
    ) -> Result<PathBuf> {
        let name = &folder.manifest.name;
        let pins = folder.read(requirements)?;
        let home = self.once(name, &short_hash(&[&pins]), "bin/python", say, |home| {
            make_venv(folder, requirements, home, say)
        })?;
        Ok(home.join("bin/python"))
    }

    /// The folder with Hugging Face's tokenizers, which `python` installs if it is missing. `None`
    /// where that is not allowed: the engine then has no tokenizer, and says so.
    fn tokenizer_package(&self, python: &Path, say: &dyn Fn(&str)) -> Result<Option<PathBuf>> {
        let files = registry::shared()?.sources()?;
        let pins = files.into_iter().find(|(name, _)| name == TOKENIZER_PINS);
        let (_, pins) = pins.context("this build has no pins of the tokenizers")?;
        let hash = short_hash(&[&pins]);
        let home = self.cache.join("engines").join(format!("tokenizers-{hash}"));
        if !self.may_install && !home.join(COMPLETE).is_file() {
            return Ok(None);
        }
        let home = self.once("tokenizers", &hash, "tokenizers", say, |home| {
            let home = std::path::absolute(home)?;
            std::fs::create_dir_all(&home)?;
            let pin_file = home.join("requirements.txt");
            std::fs::write(&pin_file, &pins)?;
            let mut pip = environment::python(python, Purpose::Install);
            pip.args(["-m", "pip", "install", "--no-input", "--progress-bar", "off"])
                .args(["--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"])
                .args(["--no-deps", "--target"])
                .arg(&home)
                .arg("-r")
                .arg(&pin_file);
            let advice = "check the network and the disk, then run the same command again";
            run_step(&mut pip, &format!("installing {}", named(&pins)), advice, say)
        })?;
        Ok(Some(std::path::absolute(home)?))
    }

    /// A folder `<cache>/engines/NAME-HASH` that is made once. `make` fills it, a marker shows that
    /// it is complete, and `result` is the file in it that callers need.
    fn once(
        &self,
        name: &str,
        hash: &str,
        result: &str,
        say: &dyn Fn(&str),
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let root = self.cache.join("engines");
        let home = root.join(format!("{name}-{hash}"));
        let complete = home.join(COMPLETE);
        let whole = || complete.is_file() && home.join(result).exists();
        if whole() {
            return Ok(home);
        }
        if !self.may_install {
            let cuda = if self.device == DeviceKind::Cuda { " --cuda" } else { "" };
            bail!(
                "engine {name} is not installed and --no-install was given; \
                 run `llm-bench engines install {name}{cuda}`"
            );
        }
        std::fs::create_dir_all(&root)
            .with_context(|| format!("cannot make {}", root.display()))?;
        let lock_path = root.join(format!("{name}.lock"));
        let lock = File::create(&lock_path)
            .with_context(|| format!("cannot write {}", lock_path.display()))?;
        say(&format!("installing {name} into {}", home.display()));
        lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
        if whole() {
            return Ok(home); // Another process installed it while this one waited.
        }
        if home.exists() {
            std::fs::remove_dir_all(&home)
                .with_context(|| format!("cannot remove the unfinished {}", home.display()))?;
        }
        make(&home)?;
        std::fs::write(&complete, b"")
            .with_context(|| format!("cannot write {}", complete.display()))?;
        say(&format!("{name} is installed"));
        Ok(home)
    }

    /// The engine's files on disk. Embedded folders are unpacked into the cache once per version.
    fn unpacked(&self, folder: &EngineFolder) -> Result<PathBuf> {
        match &folder.files {
            Files::OnDisk(dir) => Ok(dir.clone()),
            files => self.unpack(files, &folder.manifest.name, Path::new("")),
        }
    }

    /// The folder that holds only the package that Python engines share.
    fn shared(&self) -> Result<PathBuf> {
        self.unpack(&registry::shared()?, "python", Path::new(registry::SHARED))
    }

    /// Writes `files` to `under` in `<cache>/engines/NAME-src-HASH`; returns that folder.
    fn unpack(&self, files: &Files, name: &str, under: &Path) -> Result<PathBuf> {
        let files = files.sources()?;
        let contents: Vec<&[u8]> = files.iter().map(|(_, bytes)| &bytes[..]).collect();
        let home = self.cache.join("engines").join(format!("{name}-src-{}", short_hash(&contents)));
        for (name, bytes) in &files {
            let target = home.join(under).join(name);
            // Overwrites a different file: a half-written copy must not survive.
            if std::fs::read(&target).ok().as_deref() != Some(bytes) {
                crate::record::write_atomically(&target, bytes)?;
            }
        }
        Ok(home)
    }
}

/// Makes the venv `home` and installs the folder's pinned requirements in it.
fn make_venv(
    folder: &EngineFolder,
    requirements: &str,
    home: &Path,
    say: &dyn Fn(&str),
) -> Result<()> {
    let found = find_python(folder.python_bound())?;
    let pins = folder.read(requirements)?;
    let home = std::path::absolute(home)?;
    run_step(
        environment::python(&found.path, Purpose::Install).args(["-m", "venv"]).arg(&home),
        &format!("making a venv with Python {}.{}", found.version.0, found.version.1),
        "install Python's venv module (on Debian and Ubuntu: `apt install python3-venv`)",
        say,
    )?;
    let pin_file = home.join("requirements.txt");
    std::fs::write(&pin_file, &pins)
        .with_context(|| format!("cannot write {}", pin_file.display()))?;
    run_step(
        environment::python(home.join("bin/python"), Purpose::Install)
            .args(["-m", "pip", "install", "--no-input", "--progress-bar", "off"])
            .args(["--disable-pip-version-check"])
            .args(
                folder
                    .is_ours()
                    .then_some(["--require-hashes", "--only-binary", ":all:"])
                    .into_iter()
                    .flatten(),
            )
            .arg("-r")
            .arg(&pin_file),
        &format!("installing {}", named(&pins)),
        "check the network and the disk, then run the same command again",
        say,
    )
}

impl Installed {
    /// The command for one launch with `threads` threads.
    pub fn command(&self, threads: u32) -> Command {
        let mut command = match self.scripts.is_empty() {
            true => environment::command(&self.program, Purpose::Run),
            false => environment::python(&self.program, Purpose::Run),
        };
        let threads = threads.to_string();
        command.args(&self.args);
        for name in [
            "OMP_NUM_THREADS",
            "MKL_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "RAYON_NUM_THREADS",
            "CANDLE_NUM_THREADS",
        ] {
            command.env(name, &threads);
        }
        for (name, value) in &self.env {
            command.env(name, value.replace("{threads}", &threads));
        }
        command
    }

    /// The command of a server for one launch, which listens on this port of loopback.
    pub fn server_command(&self, server: &Server, load: &Load, port: u16) -> Command {
        let mut command = self.command(load.threads);
        command.args(server.recipe.arguments(load, port));
        command
    }

    /// A hash of the code that computes: the program, or the engine's scripts, its library, and the
    /// Python with its pinned packages. Findings about an engine stay valid while the hash is unchanged.
    pub fn identity(&self) -> Result<String> {
        if let Reach::Address(endpoint) = &self.reach {
            return Ok(short_hash(&[endpoint.root.as_bytes()]));
        }
        if self.scripts.is_empty() {
            let bytes = std::fs::read(&self.program)
                .with_context(|| format!("cannot read {}", self.program.display()))?;
            return Ok(short_hash(&[&bytes]));
        }
        let mut files = Vec::new();
        for folder in &self.scripts {
            files.extend(Files::OnDisk(folder.clone()).sources()?);
        }
        let mut parts = vec![self.program.as_os_str().as_encoded_bytes()];
        // Nothing but the versions tells what such an environment has today.
        let of_user = self.users_environment.iter().flat_map(|e| &e.versions);
        parts.extend(of_user.flat_map(|(name, version)| [name.as_bytes(), version.as_bytes()]));
        let library = self.library.as_ref().and_then(|path| std::fs::read(path).ok());
        parts.extend(library.as_deref());
        for (name, bytes) in &files {
            parts.extend([name.as_bytes(), bytes]);
        }
        Ok(short_hash(&parts))
    }

    /// Whether the compile cache holds anything; `None` for an engine without one.
    pub fn compile_cache_populated(&self) -> Option<bool> {
        let root = self.compile_cache.as_ref()?;
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(t) if t.is_dir() => folders.push(entry.path()),
                    Ok(_) => return Some(true),
                    Err(_) => {}
                }
            }
        }
        Some(false)
    }
}

fn short_hash(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    crate::digest::hex(&hash.finalize()[..6])
}

/// The pins in one line: the first of many.
fn named(pins: &[u8]) -> String {
    const MOST: usize = 9;
    let text = String::from_utf8_lossy(pins);
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(['#', '-']));
    let pins: Vec<&str> = lines.map(|l| l.split([' ', ';', '\\']).next().unwrap_or(l)).collect();
    match pins.get(..MOST) {
        Some(first) if pins.len() > MOST => {
            format!("{} and {} more", first.join(", "), pins.len() - MOST)
        }
        _ => pins.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Registry;

    #[test]
    fn a_missing_installation_is_refused_when_installing_is_forbidden() {
        let cache = tempfile::tempdir().unwrap();
        let provisioner = Provisioner::new(cache.path().into(), false).unwrap();
        let registry = Registry::load().unwrap();
        let error =
            provisioner.provide(registry.find("pytorch").unwrap(), "", &|_| {}).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("--no-install") && error.contains("engines install"), "{error}");
    }

    #[test]
    fn a_change_of_the_engine_or_of_shared_code_is_another_identity() {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["engine", "_shared"].map(|name| dir.path().join(name));
        for folder in &folders {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("code.py"), "1").unwrap();
        }
        let installed = Installed {
            program: "python3".into(),
            reach: Reach::Pipes,
            args: Vec::new(),
            scripts: folders.to_vec(),
            env: Vec::new(),
            library: Some(dir.path().join("library")),
            compile_cache: None,
            users_environment: None,
        };
        let mut seen = vec![installed.identity().unwrap()];
        for folder in &folders {
            std::fs::write(folder.join("code.py"), "2").unwrap();
            seen.push(installed.identity().unwrap());
            std::fs::write(folder.join("test_code.py"), "a test").unwrap();
            assert_eq!(installed.identity().unwrap(), seen[seen.len() - 1]);
        }
        for library in ["1", "2"] {
            std::fs::write(dir.path().join("library"), library).unwrap();
            seen.push(installed.identity().unwrap());
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 5);
    }

    #[test]
    fn every_package_of_our_engines_is_pinned_with_its_hashes() {
        let mut pinned = 0;
        let whole = |name: &str, bytes: Vec<u8>| {
            // A pin and its hashes are one line that is continued.
            let text = String::from_utf8(bytes).unwrap().replace("\\\n", " ");
            let lines = text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
            let lines: Vec<&str> = lines.collect();
            for line in &lines {
                let whole = line.contains("==") && line.contains("--hash=sha256:");
                assert!(whole, "{name}: {line}");
            }
            lines.len()
        };
        let shared = registry::shared().unwrap().sources().unwrap();
        let pins = shared.into_iter().find(|(name, _)| name == TOKENIZER_PINS).unwrap();
        assert_eq!(whole(TOKENIZER_PINS, pins.1), 1);
        for engine in Registry::load().unwrap().all() {
            let Launcher::Folder(folder) = &engine.launcher else { continue };
            let m = &folder.manifest;
            let steps = m.native.as_ref().map(|n| format!("{:?}", n.steps)).unwrap_or_default();
            for (name, bytes) in folder.sources().unwrap() {
                let of_build = m.native.as_ref().and_then(|n| n.requirements.as_ref());
                let of_step = name.ends_with(".txt") && steps.contains(&name);
                if !of_step && ![m.requirements.as_ref(), of_build].contains(&Some(&name)) {
                    continue;
                }
                pinned += whole(&format!("{}: {name}", m.name), bytes);
            }
            assert!(!steps.contains("\"pip\"") || steps.contains("--require-hashes"), "{}", m.name);
        }
        assert!(pinned > 30, "{pinned}");
    }

    #[test]
    fn many_pins_are_shown_by_their_first() {
        let pins = "# why\na==1 ; x < 'y' \\\n    --hash=sha256:00\nb==2\n";
        assert_eq!(named(pins.as_bytes()), "a==1, b==2");
        let many: String = (0..12).map(|i| format!("p{i}==1\n")).collect();
        assert!(named(many.as_bytes()).ends_with("p8==1 and 3 more"));
    }

    #[test]
    fn embedded_scripts_are_unpacked_without_their_tests() {
        let cache = tempfile::tempdir().unwrap();
        let provisioner = Provisioner::new(cache.path().into(), false).unwrap();
        let registry = Registry::load().unwrap();
        let Launcher::Folder(folder) = &registry.find("pytorch").unwrap().launcher else {
            panic!("pytorch is a folder");
        };
        let home = provisioner.unpacked(folder).unwrap();
        assert!(home.join("worker.py").is_file());
        let shared = provisioner.shared().unwrap();
        assert!(shared.join("_shared/engine.py").is_file());
        assert_eq!(std::fs::read_dir(&shared).unwrap().count(), 1, "nothing else can be imported");
        let entries = [home, shared.join("_shared")].map(|dir| std::fs::read_dir(dir).unwrap());
        for entry in entries.into_iter().flatten() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with("test_"), "{name}");
        }
    }
}
