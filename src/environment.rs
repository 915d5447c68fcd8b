//! What the programs that we start get from the user's environment: a list of names, a `PATH`
//! without relative folders, and a working folder in which nothing was planted. Everything else
//! stays with us, tokens and passwords above all (docs/SECURITY.md has the list for users).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::secrets;

/// The working folder of every program that we start and that needs no other: only an
/// administrator writes there.
pub const NEUTRAL_FOLDER: &str = "/";

/// Names of more variables that engines and installations get, separated by commas.
pub const PASS: &str = "LLM_BENCH_PASS_ENV";

const USUAL_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What a program is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An engine, or a question to a program.
    Run,
    /// A step of an installation: it may also know proxies, certificates, package indexes and
    /// compilers.
    Install,
}

/// Names for every purpose; one that ends in `*` is a beginning.
const RUN: &[&str] = &[
    // Who and where.
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "LLM_BENCH_CACHE",
    // Where libraries are, and how they hold memory.
    "LD_LIBRARY_PATH",
    "GLIBC_TUNABLES",
    "MALLOC_*",
    // Threads and kernels.
    "OMP_*",
    "GOMP_*",
    "KMP_*",
    "MKL_*",
    "OPENBLAS_*",
    "BLIS_*",
    "NUMEXPR_*",
    "RAYON_*",
    "CANDLE_*",
    "ONEDNN_*",
    "DNNL_*",
    "GGML_*",
    "TORCH_*",
    "TORCHINDUCTOR_*",
    "TORCHDYNAMO_*",
    "PYTORCH_*",
    "ATEN_*",
    "TRITON_*",
    // GPUs.
    "CUDA_*",
    "CUBLAS_*",
    "CUDNN_*",
    "NVIDIA_*",
    "NCCL_*",
    "HIP_*",
    "ROCR_*",
    "ROCM_*",
    "HSA_*",
    // torch.compile starts a compiler.
    "CC",
    "CXX",
    "RUST_BACKTRACE",
];

/// Names for installations beside those.
const INSTALL: &[&str] = &[
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "XDG_CONFIG_HOME",
    "PIP_*",
    "CARGO_*",
    "RUSTUP_*",
    "RUSTFLAGS",
    "RUSTC_WRAPPER",
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "CPATH",
    "LIBRARY_PATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "CMAKE_*",
    "PKG_CONFIG*",
    "MAKEFLAGS",
];

/// A program of this name or path, with a neutral environment and working folder. A name is looked
/// up on `PATH` now, so that the working folder decides nothing.
pub fn command(program: impl AsRef<Path>, purpose: Purpose) -> Command {
    let program = program.as_ref();
    let mut command = Command::new(find(program).unwrap_or_else(|| program.to_path_buf()));
    command.current_dir(NEUTRAL_FOLDER).env_clear().env("PATH", search_path());
    let wanted = std::env::var(PASS).unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').map(str::trim).collect();
    for (name, value) in std::env::vars_os().filter(|(name, _)| name != "PATH") {
        let passes = name.to_str().is_some_and(|n| wanted.contains(&n) || passes(n, purpose));
        if passes {
            command.env(name, value);
        }
    }
    // The driver's own order, which `cuda:N` and the sensors follow; CUDA's would be by speed.
    if std::env::var_os("CUDA_DEVICE_ORDER").is_none() {
        command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    }
    command
}

/// A Python that reads no variable, no folder of the user's packages and no working folder.
pub fn python(program: impl AsRef<Path>, purpose: Purpose) -> Command {
    let mut command = command(program, purpose);
    command.arg("-I");
    // For Pythons that this one starts.
    command.envs([("PYTHONNOUSERSITE", "1"), ("PYTHONSAFEPATH", "1")]);
    command
}

fn passes(name: &str, purpose: Purpose) -> bool {
    let listed = |list: &[&str]| {
        list.iter().any(|entry| match entry.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => *entry == name,
        })
    };
    let listed = listed(RUN) || purpose == Purpose::Install && listed(INSTALL);
    listed && !secrets::is_secret_name(name)
}

/// `PATH` with its absolute folders alone: an empty or relative one means the working folder.
pub fn search_path() -> OsString {
    absolute_folders(std::env::var_os("PATH").as_deref())
}

fn absolute_folders(path: Option<&OsStr>) -> OsString {
    let path = path.unwrap_or(OsStr::new(USUAL_PATH));
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    std::env::join_paths(folders).unwrap_or_else(|_| USUAL_PATH.into())
}

/// The absolute path of a program: of a name the first one on the search path. None where there is
/// none that can be run.
pub fn find(program: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |path: &PathBuf| {
        path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if program.components().count() > 1 || program.is_absolute() {
        return std::path::absolute(program).ok().filter(runs);
    }
    std::env::split_paths(&search_path()).map(|folder| folder.join(program)).find(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_names_pass_and_of_them_none_that_names_a_secret() {
        for name in ["HOME", "LC_ALL", "OMP_PROC_BIND", "CUDA_VISIBLE_DEVICES", "MKL_NUM_THREADS"] {
            assert!(passes(name, Purpose::Run) && passes(name, Purpose::Install), "{name}");
        }
        for name in ["https_proxy", "PIP_INDEX_URL", "CARGO_HOME", "SSL_CERT_FILE", "CFLAGS"] {
            assert!(!passes(name, Purpose::Run) && passes(name, Purpose::Install), "{name}");
        }
        for name in [
            "HF_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_PROFILE",
            "GITHUB_TOKEN",
            "SSH_AUTH_SOCK",
            "CARGO_REGISTRY_TOKEN",
            "PIP_PASSWORD",
            "CUDA_API_KEY",
            "TORCH_TOKEN",
            "PYTHONPATH",
            "PYTHONSTARTUP",
            "PYTHONHOME",
            "LD_PRELOAD",
            "GIT_DIR",
            "BASH_ENV",
            "ENV",
            "IFS",
            "OPENAI_API_KEY",
            "DATABASE_URL",
            "HOMEBREW_X",
            "MKL",
            "PERL5OPT",
            "NODE_OPTIONS",
        ] {
            assert!(!passes(name, Purpose::Run) && !passes(name, Purpose::Install), "{name}");
        }
    }

    #[test]
    fn the_search_path_has_no_folder_that_means_the_working_folder() {
        let absolute = |path: &str| absolute_folders(Some(OsStr::new(path)));
        assert_eq!(absolute(":/usr/bin:.:bin::/bin:"), "/usr/bin:/bin");
        assert_eq!(absolute_folders(None), USUAL_PATH);
        assert!(find(Path::new("sh")).unwrap().is_absolute());
        assert_eq!(find(Path::new("no-such-program-anywhere")), None);
    }
}
