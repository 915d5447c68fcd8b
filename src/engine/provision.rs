//! Installs what an engine folder needs into the user's cache and builds the command that starts
//! it: a venv per set of pinned requirements, the folder's files, an own compile cache.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::registry::{EngineFolder, EngineSpec, Files, Launcher};

/// Names the Python that makes the venvs, over the search on PATH.
pub const PYTHON: &str = "LLM_BENCH_PYTHON";

/// How long a Python may take to tell its version.
const PYTHON_ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// Where engines are installed, and whether they may be.
#[derive(Debug, Clone)]
pub struct Provisioner {
    /// `<cache>/llm-bench`.
    pub cache: PathBuf,
    /// False for `--no-install`.
    pub may_install: bool,
    /// The llm-bench whose workers the built-in engines are: normally this program.
    pub program: PathBuf,
}

/// An engine that can be started.
#[derive(Debug, Clone)]
pub struct Installed {
    /// What is started: a Python, or this program itself.
    pub program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// The folder of the engine's compile cache, if it has one.
    pub compile_cache: Option<PathBuf>,
}

impl Provisioner {
    /// Installs into `cache`; built-in engines are this program's own workers.
    pub fn new(cache: PathBuf, may_install: bool) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        Ok(Self { cache, may_install, program })
    }

    /// Makes the engine startable, installing what is missing; `say` gets a line of progress.
    /// `work` names what it will compute: each has a compile cache of its own, so that
    /// "populated" means populated for this.
    pub fn provide(
        &self,
        engine: &EngineSpec,
        work: &str,
        say: &dyn Fn(&str),
    ) -> Result<Installed> {
        match &engine.launcher {
            Launcher::Builtin => Ok(Installed {
                program: self.program.clone(),
                args: vec!["worker".into(), engine.name.clone()],
                env: Vec::new(),
                compile_cache: None,
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
        let python = match &m.requirements {
            Some(name) => self.venv(folder, name, say)?,
            None => find_python(folder.python_bound())?.path,
        };
        let script = self.script(folder)?;
        let mut env: Vec<_> = m.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut compile_cache = None;
        if !m.compile_cache_env.is_empty() && engine.compiles() {
            let code = script.parent().and_then(Path::file_name).unwrap_or_default();
            let key = short_hash(&[
                work.as_bytes(),
                code.as_encoded_bytes(),
                python.as_os_str().as_encoded_bytes(),
            ]);
            let root = self.cache.join("compile").join(format!("{}-{key}", engine.name));
            for name in &m.compile_cache_env {
                let own = root.join(name.to_ascii_lowercase());
                env.push((name.clone(), own.to_string_lossy().into_owned()));
            }
            compile_cache = Some(root);
        }
        Ok(Installed {
            program: python,
            args: vec!["-u".into(), script.to_string_lossy().into_owned(), engine.name.clone()],
            env,
            compile_cache,
        })
    }

    /// The Python of the venv for these requirements, made if it is not there.
    fn venv(
        &self,
        folder: &EngineFolder,
        requirements: &str,
        say: &dyn Fn(&str),
    ) -> Result<PathBuf> {
        let name = &folder.manifest.name;
        let pins = folder.read(requirements)?;
        let root = self.cache.join("engines");
        let home = root.join(format!("{name}-{}", short_hash(&[&pins])));
        let python = home.join("bin/python");
        let complete = home.join(".complete");
        if complete.is_file() && python.exists() {
            return Ok(python);
        }
        if !self.may_install {
            bail!(
                "engine {name} is not installed and --no-install was given; \
                 run `llm-bench engines install {name}`"
            );
        }
        let found = find_python(folder.python_bound())?;
        std::fs::create_dir_all(&root)
            .with_context(|| format!("cannot make {}", root.display()))?;
        let lock_path = root.join(format!("{name}.lock"));
        let lock = File::create(&lock_path)
            .with_context(|| format!("cannot write {}", lock_path.display()))?;
        say(&format!("installing {name} into {}", home.display()));
        lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
        if complete.is_file() {
            return Ok(python); // another process installed it while this one waited
        }
        if home.exists() {
            std::fs::remove_dir_all(&home)
                .with_context(|| format!("cannot remove the unfinished {}", home.display()))?;
        }
        run_step(
            Command::new(&found.path).args(["-m", "venv"]).arg(&home),
            &format!("making a venv with Python {}.{}", found.version.0, found.version.1),
            "install Python's venv module (on Debian and Ubuntu: `apt install python3-venv`)",
            say,
        )?;
        let pin_file = home.join("requirements.txt");
        std::fs::write(&pin_file, &pins)
            .with_context(|| format!("cannot write {}", pin_file.display()))?;
        run_step(
            Command::new(&python)
                .args(["-m", "pip", "install", "--no-input", "--progress-bar", "off"])
                .args(["--disable-pip-version-check", "-r"])
                .arg(&pin_file),
            &format!("installing {}", one_line(&pins)),
            "check the network and the disk, then run the same command again",
            say,
        )?;
        std::fs::write(&complete, b"")
            .with_context(|| format!("cannot write {}", complete.display()))?;
        say(&format!("{name} is installed"));
        Ok(python)
    }

    /// The engine's script on disk; embedded folders are unpacked into the cache once per version.
    fn script(&self, folder: &EngineFolder) -> Result<PathBuf> {
        let m = &folder.manifest;
        let dir = match &folder.files {
            Files::OnDisk(dir) => return Ok(dir.join(&m.script)),
            Files::Embedded(dir) => dir,
        };
        let files: Vec<_> = dir.files().filter(|f| is_source(f.path())).collect();
        let contents: Vec<&[u8]> = files.iter().map(|f| f.contents()).collect();
        let home =
            self.cache.join("engines").join(format!("{}-src-{}", m.name, short_hash(&contents)));
        for file in files {
            let name = file.path().file_name().context("an engine file without a name")?;
            let target = home.join(name);
            // Rewritten when it differs: a half-written copy must not live on.
            if std::fs::read(&target).ok().as_deref() != Some(file.contents()) {
                crate::record::write_atomically(&target, file.contents())?;
            }
        }
        Ok(home.join(&m.script))
    }
}

impl Installed {
    /// The command of one launch with `threads` threads.
    pub fn command(&self, threads: u32) -> Command {
        let mut command = Command::new(&self.program);
        let threads = threads.to_string();
        command.args(&self.args);
        // The engine computes with what it was given, not with what the user's shell holds.
        command.env_remove("PYTHONPATH").env_remove("PYTHONHOME").env("PYTHONNOUSERSITE", "1");
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

    /// A hash of the code that computes: this program, or the engine's scripts and the Python with
    /// its pinned packages. What was found of an engine holds while this stays the same.
    pub fn identity(&self) -> Result<String> {
        let built_in = self.args.first().is_some_and(|a| a == "worker");
        let script = self.args.get(1).map(Path::new).filter(|_| !built_in);
        let Some(folder) = script.and_then(Path::parent) else {
            let bytes = std::fs::read(&self.program)
                .with_context(|| format!("cannot read {}", self.program.display()))?;
            return Ok(short_hash(&[&bytes]));
        };
        let read = |folder: &Path| -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
            let mut files = Vec::new();
            for entry in std::fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_file() && is_source(&path) {
                    files.push((path.clone(), std::fs::read(&path)?));
                }
            }
            files.sort();
            Ok(files)
        };
        let files = read(folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let mut parts = vec![self.program.as_os_str().as_encoded_bytes()];
        for (path, bytes) in &files {
            parts.extend([path.as_os_str().as_encoded_bytes(), bytes]);
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

struct Python {
    path: PathBuf,
    version: (u32, u32),
}

/// The first Python on PATH that is new enough; `LLM_BENCH_PYTHON` names one.
fn find_python(bound: (u32, u32)) -> Result<Python> {
    let named = std::env::var_os(PYTHON).map(PathBuf::from);
    let candidates: Vec<PathBuf> = match &named {
        Some(path) => vec![path.clone()],
        None => ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"]
            .map(PathBuf::from)
            .to_vec(),
    };
    let mut seen = Vec::new();
    for path in candidates {
        let Some(version) = python_version(&path) else {
            continue;
        };
        if version >= bound {
            return Ok(Python { path, version });
        }
        seen.push(format!("{} is {}.{}", path.display(), version.0, version.1));
    }
    let found = match (&named, seen.is_empty()) {
        (Some(path), true) => format!("{PYTHON}={}, which is no Python", path.display()),
        (None, true) => "no python3 on PATH".to_string(),
        _ => seen.join(", "),
    };
    bail!(
        "expected Python {}.{} or newer, found: {found}; install it, or name one with {PYTHON}=…, \
         or measure without it: --engine candle",
        bound.0,
        bound.1
    )
}

/// What a Python says of itself; none for what is no Python, hangs or does not stop talking.
fn python_version(path: &Path) -> Option<(u32, u32)> {
    let program = "import sys; print('%d.%d' % sys.version_info[:2])";
    let mut child = Command::new(path)
        .args(["-c", program])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let (told, answer) = channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.take(64).read_to_string(&mut text);
        let _ = told.send(read.ok().map(|_| text));
    });
    let text = answer.recv_timeout(PYTHON_ANSWERS_WITHIN).ok().flatten();
    crate::interrupt::kill_group(child.id());
    let _ = child.wait();
    let (major, minor) = text.as_deref()?.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Runs one step of an installation; its output goes by as progress, and into the error.
fn run_step(command: &mut Command, what: &str, advice: &str, say: &dyn Fn(&str)) -> Result<()> {
    say(what);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("{what}: cannot start {:?}", command.get_program()))?;
    crate::interrupt::guard_group(child.id());
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let (sender, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
    std::thread::spawn(move || {
        stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    let mut last = String::new();
    // A step may be silent for long: a request to stop is looked for all the time.
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => {
                worth_showing(&line).iter().for_each(|shown| say(shown));
                last = line;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if crate::interrupt::requested() {
            crate::interrupt::kill_group(child.id());
        }
    }
    let status = child.wait();
    crate::interrupt::release_group(child.id());
    let status = status?;
    if crate::interrupt::requested() {
        bail!("{what}: stopped; the same command starts it again");
    }
    let errors = errors.join().unwrap_or_default();
    if !status.success() {
        let told = errors.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or(&last);
        bail!("{what} failed ({status}): {}; {advice}", told.trim());
    }
    Ok(())
}

/// pip's lines that tell a waiting person something.
fn worth_showing(line: &str) -> Option<String> {
    let line = line.trim();
    let told = ["Collecting ", "Downloading ", "Installing collected packages"];
    told.iter().any(|t| line.starts_with(t)).then(|| {
        let mut s = line.to_string();
        s.truncate(s.floor_char_boundary(76));
        s
    })
}

fn is_source(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    !name.starts_with("test_") && !name.starts_with("conftest") && !name.ends_with(".pyc")
}

fn short_hash(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..6].iter().map(|b| format!("{b:02x}")).collect()
}

fn one_line(pins: &[u8]) -> String {
    let text = String::from_utf8_lossy(pins);
    let pins = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    pins.collect::<Vec<_>>().join(", ")
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
    fn an_impossible_python_bound_says_what_was_found_and_what_to_do() {
        let error = find_python((99, 0)).err().unwrap().to_string();
        assert!(error.contains("99.0") && error.contains(PYTHON), "{error}");
    }

    #[test]
    fn embedded_scripts_are_unpacked_without_their_tests() {
        let cache = tempfile::tempdir().unwrap();
        let provisioner = Provisioner::new(cache.path().into(), false).unwrap();
        let registry = Registry::load().unwrap();
        let Launcher::Folder(folder) = &registry.find("pytorch").unwrap().launcher else {
            panic!("pytorch is a folder");
        };
        let script = provisioner.script(folder).unwrap();
        assert!(script.is_file());
        for entry in std::fs::read_dir(script.parent().unwrap()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.starts_with("test_"), "{name}");
        }
    }
}
