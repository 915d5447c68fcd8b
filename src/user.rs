//! The user's own folders: from the environment as the XDG base directory text says, the home
//! folder from the password database where the environment names none. Never a folder relative to
//! the current one, which may hold anything.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// The folder of caches: `$XDG_CACHE_HOME` or `~/.cache`.
///
/// # Errors
/// Nothing names the user's home folder.
pub fn cache_dir() -> Result<PathBuf> {
    absolute(dirs::cache_dir(), "LLM_BENCH_CACHE")
}

/// The user's folder of settings for this program, if there is a home folder.
pub fn config_dir() -> Option<PathBuf> {
    dirs::config_dir().filter(|dir| dir.is_absolute()).map(|dir| dir.join("llm-bench"))
}

/// The home folder: `$HOME`, or the one of the password database.
///
/// # Errors
/// Neither names one.
pub fn home_dir() -> Result<PathBuf> {
    absolute(dirs::home_dir(), "HOME")
}

fn absolute(dir: Option<PathBuf>, variable: &str) -> Result<PathBuf> {
    match dir {
        Some(dir) if dir.is_absolute() => Ok(dir),
        Some(_) => bail!(
            "HOME: expected an absolute path, found {:?}; set HOME or {variable} to one",
            std::env::var_os("HOME").unwrap_or_default()
        ),
        None => bail!(
            "there is no home folder: HOME is not set, and the password database does not know \
             this user; set {variable} to a folder"
        ),
    }
}
