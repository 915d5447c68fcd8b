//! Errors between this machine and the hub, each with the next command to type. No message contains
//! a token or the query of a signed address.

use std::path::PathBuf;
use std::time::Duration;

use crate::units::{Bytes, Seconds};

/// A failed pull. `is_transient`: a retry may help; `hub_is_away`: synthetic weights may replace
/// the file.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error(
        "{repo}/{file}: the hub refused access (HTTP {status}). Accept the model's licence at \
         {endpoint}/{repo}, create a read token at {endpoint}/settings/tokens, then \
         `export HF_TOKEN=<token>` and run the same command again{token_note}"
    )]
    Unauthorized { repo: String, file: String, status: u16, endpoint: String, token_note: String },

    #[error(
        "{repo}/{file}: not found on the hub at revision {revision} (HTTP 404). \
         See what is there at {endpoint}/{repo}/tree/{revision}, or name a local file with \
         `--model PATH.gguf`"
    )]
    NotFound { repo: String, file: String, revision: String, endpoint: String },

    #[error(
        "{repo}/{file}: the hub answered HTTP {status}, {attempts} time(s) in a row. Run the same \
         command later (a partial download is kept), or use `--weights synthetic`"
    )]
    Server { repo: String, file: String, status: u16, attempts: u32 },

    #[error(
        "{repo}/{file}: not one byte for {} {}. Run the same command again: it resumes from \
         there", Seconds::from(*.limit), place(*.done, *.total)
    )]
    Stalled { repo: String, file: String, limit: Duration, done: u64, total: u64 },

    #[error(
        "{repo}/{file}: the connection broke {} ({reason}). Run the same command again: it resumes \
         from there", place(*.done, *.total)
    )]
    Interrupted { repo: String, file: String, done: u64, total: u64, reason: String },

    #[error(
        "{repo}/{file}: checksum mismatch: the hub states sha256 {expected}, the downloaded bytes \
         have {found}. They were deleted; run the same command again, and if it repeats, look for \
         a proxy that alters downloads"
    )]
    ChecksumMismatch { repo: String, file: String, expected: String, found: String },

    #[error(
        "{repo}/{file}: size mismatch: the hub states {expected} bytes, {found} came. The bytes \
         were deleted; run the same command again"
    )]
    SizeMismatch { repo: String, file: String, expected: u64, found: u64 },

    #[error(
        "the hub at {endpoint} cannot be reached: {reason}. Check the network, HF_ENDPOINT and \
         HTTPS_PROXY; without a hub, use `--model PATH.gguf` or `--weights synthetic`"
    )]
    Unreachable { endpoint: String, reason: String },

    #[error(
        "{}: {} needed, {} available. Free some space, or `export HF_HOME=<folder on a larger \
         disk>` and run the same command again", .folder.display(), Bytes(*.needed), Bytes(*.available)
    )]
    DiskFull { folder: PathBuf, needed: u64, available: u64 },

    #[error(
        "{}: another process is downloading this file. Wait for it, then run the same command \
         again", .lock.display()
    )]
    Busy { lock: PathBuf },

    #[error("{repo}/{file}: the hub's answer cannot be used: {reason}. Check HF_ENDPOINT")]
    BadAnswer { repo: String, file: String, reason: String },

    #[error("{what}; expected {expected}, found {found:?}")]
    BadRequest { what: &'static str, expected: &'static str, found: String },

    #[error(
        "the hub token has characters that no token has. Set it again: `export HF_TOKEN=<token>`"
    )]
    BadToken,

    #[error("{}: {source}. Check that the folder exists and can be written", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl HubError {
    /// Whether the same request may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Server { .. } | Self::Stalled { .. } | Self::Interrupted { .. })
    }

    /// Whether the hub itself is the problem rather than the request. In these cases `--weights
    /// auto` falls back to synthetic weights.
    pub fn hub_is_away(&self) -> bool {
        matches!(self, Self::Unreachable { .. }) || self.is_transient()
    }
}

fn place(done: u64, total: u64) -> String {
    match total {
        0 => "before the first byte".into(),
        _ => format!("after {} of {}", Bytes(done), Bytes(total)),
    }
}
