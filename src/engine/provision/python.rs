//! Finds the Python that runs engines with scripts and builds native ones: the first one on PATH, or
//! the one that the user names. Its environment takes the place of an installation where it has the
//! packages that an engine needs.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::engine::registry::EngineFolder;
use crate::environment::{self, Purpose};
use crate::shell;

/// Names a Python, instead of the first one on PATH. Its environment is used for engines whose
/// packages it has; for others it makes the venv.
pub const PYTHON: &str = "LLM_BENCH_PYTHON";

/// The option that names a Python, whose environment every engine with a script must use.
pub const OPTION: &str = "--python";

static OF_OPTION: OnceLock<PathBuf> = OnceLock::new();

/// Takes the Python of `--python` from now on.
pub fn use_python(path: &Path) {
    let _ = OF_OPTION.set(path.to_path_buf());
}

/// A Python that the user named.
#[derive(Debug, Clone)]
struct Named {
    path: PathBuf,
    /// The option or the variable, as the user gave it.
    how: String,
    /// Whether its environment is the only one that may be used.
    only: bool,
}

impl Named {
    fn by_option(path: PathBuf) -> Self {
        Self { how: format!("{OPTION} {}", path.display()), path, only: true }
    }

    fn by_variable(path: PathBuf) -> Self {
        Self { how: format!("{PYTHON}={}", path.display()), path, only: false }
    }

    fn get() -> Option<Self> {
        let of_variable = || std::env::var_os(PYTHON).map(PathBuf::from).map(Self::by_variable);
        OF_OPTION.get().cloned().map(Self::by_option).or_else(of_variable)
    }
}

/// How long a Python may take to print its version.
const PYTHON_ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// A Python and its version.
pub struct Python {
    pub path: PathBuf,
    pub version: (u32, u32),
}

/// The first Python on PATH that is new enough, or the one that the user named.
pub fn find_python(bound: (u32, u32)) -> Result<Python> {
    find(bound, Named::get())
}

fn find(bound: (u32, u32), named: Option<Named>) -> Result<Python> {
    let candidates: Vec<PathBuf> = match &named {
        Some(named) => vec![named.path.clone()],
        None => ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"]
            .map(PathBuf::from)
            .to_vec(),
    };
    let mut seen = Vec::new();
    for path in candidates {
        let Some(Answer { version, .. }) = ask(&path, &[]) else {
            continue;
        };
        if version >= bound {
            return Ok(Python { path, version });
        }
        seen.push(format!("{} is {}.{}", path.display(), version.0, version.1));
    }
    let found = match (&named, seen.is_empty()) {
        (Some(named), true) => format!("{}, which is not a Python", named.how),
        (None, true) => "no python3 on PATH".to_string(),
        _ => seen.join(", "),
    };
    bail!(
        "expected Python {}.{} or newer, found: {found}; install it, or name one with {OPTION} PATH \
         or {PYTHON}=…, or measure without it: --engine candle",
        bound.0,
        bound.1
    )
}

/// An environment of the user's that takes the place of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsersEnvironment {
    /// Its Python. Links stay as they are: through one a virtual environment finds its packages.
    pub python: PathBuf,
    /// Of the pinned packages that it has.
    pub versions: BTreeMap<String, String>,
    /// What a reader of the results must know.
    pub note: String,
}

/// The environment of the Python that the user named, if the engine can use it. None where no
/// Python was named, or where the one of the variable lacks a package.
///
/// # Errors
/// `--python` names no Python, one that is too old, or one that lacks a package.
pub fn users_environment(
    folder: &EngineFolder,
    requirements: &str,
    say: &dyn Fn(&str),
) -> Result<Option<UsersEnvironment>> {
    let Some(named) = Named::get() else { return Ok(None) };
    environment_of(&named, folder, requirements, say)
}

fn environment_of(
    named: &Named,
    folder: &EngineFolder,
    requirements: &str,
    say: &dyn Fn(&str),
) -> Result<Option<UsersEnvironment>> {
    let python = find(folder.python_bound(), Some(named.clone()))?.path;
    let python = environment::find(&python).unwrap_or(python);
    let pins = pins(&String::from_utf8_lossy(&folder.read(requirements)?));
    let m = &folder.manifest;
    let needed: Vec<&str> = match m.packages.is_empty() {
        true => pins.keys().map(String::as_str).collect(),
        false => m.packages.iter().map(String::as_str).collect(),
    };
    let mut names: Vec<&str> = pins.keys().map(String::as_str).collect();
    names.extend(&needed);
    let versions = ask(&python, &names).map(|answer| answer.versions).unwrap_or_default();
    let missing: Vec<&str> =
        needed.iter().copied().filter(|name| !versions.contains_key(*name)).collect();
    if missing.is_empty() {
        let note = note(&python, &needed, &pins, &versions);
        return Ok(Some(UsersEnvironment { python, versions, note }));
    }
    let missing = missing.join(" ");
    if named.only {
        let python = shell::quoted(&python.to_string_lossy());
        bail!(
            "engine {}: {} has no {}; install it there with `{python} -m pip install {missing}`, \
             or leave {OPTION} out for an installation of llm-bench's own",
            m.name,
            named.how,
            missing.replace(' ', ", no ")
        );
    }
    say(&format!("{}: {} has no {missing}: a venv is used", m.name, named.how));
    Ok(None)
}

/// Names the environment, and the versions of the engine's own packages that are not the pinned
/// ones. The others are in the record's versions.
fn note(
    python: &Path,
    needed: &[&str],
    pins: &BTreeMap<String, String>,
    versions: &BTreeMap<String, String>,
) -> String {
    let differs = |name: &&str| {
        let (pinned, found) = (pins.get(*name)?, versions.get(*name)?);
        // A local version (+cu130) is a build of the same one.
        let public = found.split('+').next().unwrap_or(found);
        (found != pinned && public != pinned).then(|| format!("{name} {found}, not {pinned}"))
    };
    let mut differing: Vec<String> = needed.iter().filter_map(differs).collect();
    let others = pins.keys().map(String::as_str).filter(|name| !needed.contains(name));
    match others.filter(|name| differs(name).is_some()).count() {
        0 if differing.is_empty() => differing.push("with the pinned versions".into()),
        0 => {}
        1 => differing.push("1 other package differs".into()),
        n => differing.push(format!("{n} other packages differ")),
    }
    format!("Environment of the user's, {}: {}.", python.display(), differing.join("; "))
}

/// Names and versions of pinned requirements.
fn pins(text: &str) -> BTreeMap<String, String> {
    let pin = |line: &str| {
        let (name, rest) = line.trim().split_once("==")?;
        let version = rest.split([' ', ';', '\\', ',']).next()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let name = name.split('[').next()?.trim();
        (!name.is_empty() && name.chars().all(plain))
            .then(|| (name.to_string(), version.to_string()))
    };
    text.lines().filter_map(pin).collect()
}

/// What a Python says of itself.
struct Answer {
    version: (u32, u32),
    /// Of the packages asked for that it has.
    versions: BTreeMap<String, String>,
}

const QUESTION: &str = "\
import sys
print('%d.%d' % sys.version_info[:2])
if sys.argv[1:]:
    from importlib import metadata
for name in sys.argv[1:]:
    try:
        print(name, metadata.version(name))
    except Exception:
        pass";

/// Asks a Python for its version and those of `packages`; `None` if it is not a Python, hangs, or
/// prints without end.
fn ask(path: &Path, packages: &[&str]) -> Option<Answer> {
    let mut child = environment::python(path, Purpose::Run)
        .args(["-c", QUESTION])
        .args(packages)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let (sender, answer) = channel();
    let reader = crate::threads::start(move || {
        let mut text = String::new();
        let read = stdout.take(64 << 10).read_to_string(&mut text);
        let _ = sender.send(read.ok().map(|_| text));
    });
    let text = reader.ok().and_then(|_| answer.recv_timeout(PYTHON_ANSWERS_WITHIN).ok().flatten());
    crate::interrupt::kill_group(child.id());
    let _ = child.wait();
    let text = text?;
    let mut lines = text.lines();
    let (major, minor) = lines.next()?.trim().split_once('.')?;
    let version = (major.parse().ok()?, minor.parse().ok()?);
    let pair = |line: &str| line.split_once(' ').map(|(n, v)| (n.to_string(), v.to_string()));
    Some(Answer { version, versions: lines.filter_map(pair).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::engine::registry::{Files, Launcher, Registry};

    #[test]
    fn an_impossible_python_bound_says_what_was_found_and_what_to_do() {
        let error = find_python((99, 0)).err().unwrap().to_string();
        assert!(error.contains("99.0") && error.contains(PYTHON), "{error}");
    }

    #[test]
    fn pins_are_read_from_requirements_with_hashes_and_markers() {
        let text =
            "# why\na==1.0 ; x < 'y' \\\n    --hash=sha256:00\nb[all]==2,<3\nc>=1\n-r d==e\n";
        let expected = [("a", "1.0"), ("b", "2")].map(|(n, v)| (n.to_string(), v.to_string()));
        assert_eq!(pins(text), expected.into());
    }

    /// A Python that has these packages, and an engine that needs numpy and torch.
    fn environment(
        packages: &str,
        named: fn(PathBuf) -> Named,
    ) -> Result<Option<UsersEnvironment>> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let python = dir.path().join("python");
        std::fs::write(&python, format!("#!/bin/sh\nprintf '3.12\\n{packages}'\n")).unwrap();
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
        let registry = Registry::load().unwrap();
        let Launcher::Folder(mut folder) = registry.find("pytorch").unwrap().launcher.clone()
        else {
            panic!("pytorch is a folder");
        };
        std::fs::write(dir.path().join("pins.txt"), "torch==2\nnumpy==1 ; a\nsix==6\n").unwrap();
        folder.files = Files::OnDisk(dir.path().into());
        environment_of(&named(python), &folder, "pins.txt", &|_| {})
    }

    #[test]
    fn an_environment_of_the_users_is_used_and_its_versions_are_stated() {
        let given = "torch 2+cu130\\nnumpy 9\\nsix 5\\n";
        for named in [Named::by_option, Named::by_variable] {
            let found = environment(given, named).unwrap().unwrap();
            assert!(found.python.ends_with("python"), "{found:?}");
            assert_eq!(found.versions.len(), 3);
            assert_eq!(found.versions["torch"], "2+cu130");
            let differing = "python: numpy 9, not 1; 1 other package differs.";
            assert!(found.note.ends_with(differing), "{}", found.note);
        }
        let same = environment("torch 2\\nnumpy 1\\n", Named::by_option).unwrap().unwrap();
        assert!(same.note.ends_with("with the pinned versions."), "{}", same.note);
    }

    #[test]
    fn an_environment_that_lacks_a_package_is_refused_by_name_or_left_aside() {
        let error = environment("numpy 1\\n", Named::by_option).unwrap_err().to_string();
        assert!(
            error.contains("has no torch") && error.contains("-m pip install torch"),
            "{error}"
        );
        assert_eq!(environment("numpy 1\\n", Named::by_variable).unwrap(), None);
    }
}
