//! Builds the program of another revision from the repository, once per commit and kind of
//! processor. Uses a separate work tree, so that the caller's files stay untouched.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::native::processor;
use super::step::run_step;
use super::{Provisioner, short_hash};
use crate::environment::{self, Purpose};
use crate::git;

/// The name of the package and of its program.
const NAME: &str = env!("CARGO_PKG_NAME");

/// A commit in a repository of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    repository: PathBuf,
    /// Forty hex digits.
    pub commit: String,
}

impl Revision {
    /// Resolves `rev` in the repository around `folder`.
    ///
    /// # Errors
    /// There is no repository, it belongs to another program, or the name resolves to no commit.
    pub fn find(folder: &Path, rev: &str) -> Result<Self> {
        let top = git::text(folder, &["rev-parse", "--show-toplevel"]).with_context(|| {
            format!("revision {rev:?}: expected to be in a git repository of {NAME}")
        })?;
        let repository = PathBuf::from(top);
        // A revision must not be mistaken for an option.
        let wanted = format!("{rev}^{{commit}}");
        let found = git::text(&repository, &["rev-parse", "--verify", "--end-of-options", &wanted]);
        let commit = found.with_context(|| {
            format!(
                "revision {rev:?}: expected a branch, a tag or a commit of {}; in a shallow clone, \
                 fetch it first (git fetch origin {})",
                repository.display(),
                crate::shell::quoted(rev)
            )
        })?;
        let manifest =
            git::text(&repository, &["cat-file", "blob", &format!("{commit}:Cargo.toml")]);
        let named = |text: String| {
            let table: toml::Table = text.parse().ok()?;
            Some(table.get("package")?.get("name")?.as_str()? == NAME)
        };
        if !manifest.ok().and_then(named).unwrap_or(false) {
            bail!(
                "revision {rev:?}: expected a revision of {NAME}, found none in {}; give a built \
                 program instead (--baseline-bin, --candidate-bin)",
                repository.display()
            );
        }
        Ok(Self { repository, commit })
    }

    /// The first twelve digits.
    pub fn short(&self) -> &str {
        &self.commit[..12.min(self.commit.len())]
    }
}

impl Provisioner {
    /// The program of a revision. Builds it (`cargo build --release --locked`) if it is missing.
    pub fn revision(&self, revision: &Revision, say: &dyn Fn(&str)) -> Result<PathBuf> {
        let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        let processor = processor();
        let recipe = [revision.commit.as_str(), &processor, &flags].map(str::as_bytes);
        let hash = format!("{}-{}", revision.short(), short_hash(&recipe));
        let root = std::path::absolute(&self.cache)?;
        let there = root.join("engines").join(format!("{NAME}-{hash}"));
        if !self.may_install && !there.join(NAME).exists() {
            bail!("{NAME} {} is not built yet, and --no-install was given", revision.short());
        }
        let home = self.once(NAME, &hash, NAME, say, |home| {
            let home = std::path::absolute(home)?;
            std::fs::create_dir_all(&home)
                .with_context(|| format!("cannot make {}", home.display()))?;
            let tree = home.join("source");
            let made = build(revision, &tree, &root.join("builds"), &home, say);
            // The repository forgets the work tree, whether the build succeeded or not.
            let _ = std::fs::remove_dir_all(&tree);
            let _ = git::text(&revision.repository, &["worktree", "prune"]);
            made
        })?;
        Ok(home.join(NAME))
    }
}

/// Builds in the work tree `tree` and puts the program into `home`. Keeps the compiled dependencies
/// in `target` for the next revision.
fn build(
    revision: &Revision,
    tree: &Path,
    target: &Path,
    home: &Path,
    say: &dyn Fn(&str),
) -> Result<()> {
    let repository = &revision.repository;
    git::text(repository, &["worktree", "prune"])?;
    let place = tree.to_str().context("the cache folder's name is not UTF-8")?;
    git::text(repository, &["worktree", "add", "--force", "--detach", place, &revision.commit])?;
    run_step(
        // cargo prints its progress on stderr.
        environment::command("sh", Purpose::Install)
            .args(["-c", "exec cargo build --release --locked --bin \"$0\" 2>&1", NAME])
            .current_dir(tree)
            .env("CARGO_TARGET_DIR", target)
            .env("CARGO_TERM_COLOR", "never"),
        &format!("building {NAME} at {}", revision.short()),
        "see whether the revision builds by itself: `cargo build --release --locked`",
        say,
    )?;
    let made = target.join("release").join(NAME);
    let wanted = home.join(NAME);
    std::fs::copy(&made, &wanted)
        .with_context(|| format!("cannot copy {} to {}", made.display(), wanted.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with one commit of a package of this name.
    fn repository(package: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        std::fs::write(path.join("Cargo.toml"), format!("[package]\nname = {package:?}\n"))
            .unwrap();
        let me = ["-c", "user.name=n", "-c", "user.email=e@example.invalid"];
        git::text(path, &["init", "-q"]).unwrap();
        git::text(path, &["add", "Cargo.toml"]).unwrap();
        git::text(path, &[&me[..], &["commit", "-qm", "first"]].concat()).unwrap();
        dir
    }

    #[test]
    fn a_revision_is_a_commit_of_a_repository_of_this_program() {
        let dir = repository(NAME);
        let revision = Revision::find(dir.path(), "HEAD").unwrap();
        assert_eq!(revision.commit.len(), 40);
        assert_eq!(revision.short().len(), 12);
        for rev in ["nowhere", "--help", "-h", ""] {
            let error = Revision::find(dir.path(), rev).unwrap_err().to_string();
            assert!(error.contains("expected a branch, a tag or a commit"), "{error}");
        }
    }

    #[test]
    fn a_repository_of_another_program_is_refused() {
        let dir = repository("other");
        let error = Revision::find(dir.path(), "HEAD").unwrap_err().to_string();
        assert!(error.contains("--baseline-bin"), "{error}");
    }

    #[test]
    fn nothing_is_built_where_nothing_may_be_installed() {
        let dir = repository(NAME);
        let cache = tempfile::tempdir().unwrap();
        let provisioner = Provisioner::new(cache.path().into(), false).unwrap();
        let revision = Revision::find(dir.path(), "HEAD").unwrap();
        let error = provisioner.revision(&revision, &|_| {}).unwrap_err().to_string();
        assert!(error.contains("is not built yet, and --no-install"), "{error}");
    }

    #[test]
    fn a_revision_that_does_not_build_leaves_nothing_behind() {
        let dir = repository(NAME);
        let cache = tempfile::tempdir().unwrap();
        let provisioner = Provisioner::new(cache.path().into(), true).unwrap();
        let revision = Revision::find(dir.path(), "HEAD").unwrap();
        let error = provisioner.revision(&revision, &|_| {}).unwrap_err().to_string();
        assert!(error.contains("building llm-bench") && error.contains("failed"), "{error}");
        let trees = git::text(dir.path(), &["worktree", "list"]).unwrap();
        assert_eq!(trees.lines().count(), 1, "{trees}");
    }
}
