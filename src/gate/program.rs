//! The programs that a gate of two builds measures: given, built from a revision, or the one that
//! runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::engine::provision::{Provisioner, Revision};
use crate::environment::{self, Purpose};
use crate::model::cache::CacheDir;

/// A llm-bench program whose workers are measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub path: PathBuf,
    /// For readers.
    pub what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    pub sha256: String,
}

impl Program {
    /// The program that runs.
    pub fn own() -> Result<Self> {
        let path = std::env::current_exe().context("cannot find this program's own file")?;
        let build = crate::session::build();
        let commit = build.git_commit.filter(|_| build.git_dirty == Some(false));
        Self::at(&path, "this llm-bench".into(), commit)
    }

    /// A program that was built before.
    pub fn built(option: &str, path: &Path) -> Result<Self> {
        let shown = path.display();
        let path = path
            .canonicalize()
            .with_context(|| format!("{option} {shown}: cannot find the program"))?;
        let version =
            environment::command(&path, Purpose::Run).arg("--version").output().with_context(
                || format!("{option} {shown}: expected an llm-bench program; it does not start"),
            )?;
        if !version.stdout.starts_with(b"llm-bench ") {
            bail!("{option} {shown}: expected an llm-bench program, found another");
        }
        Self::at(&path, shown.to_string(), None)
    }

    /// The program of a revision, built if need be.
    pub fn of_revision(provisioner: &Provisioner, rev: &str, say: &dyn Fn(&str)) -> Result<Self> {
        let here = std::env::current_dir().context("cannot tell the current folder")?;
        let revision = Revision::find(&here, rev)?;
        let path = provisioner.revision(&revision, say)?;
        let what = match revision.commit.starts_with(rev) {
            true => format!("revision {}", revision.short()),
            false => format!("revision {} ({rev})", revision.short()),
        };
        Self::at(&path, what, Some(revision.commit))
    }

    fn at(path: &Path, what: String, commit: Option<String>) -> Result<Self> {
        let sha256 = CacheDir::from_env()?
            .sha256(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path: path.into(), what, commit, sha256 })
    }

    /// Whether it was built here from a revision.
    pub fn is_revision(&self) -> bool {
        self.what.starts_with("revision ")
    }
}
