//! Where the hub is and who asks: the environment, read as `huggingface_hub` 2.4 reads it
//! (`constants.py`, `utils/_auth.py`), so that both find the same files and the same token.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::{secrets, user};

/// A secret whose debug form is dots.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The token, or `None` if the text is empty.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// What it hides; for the request alone.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The hub's address, the credentials, and the timeouts.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Has no trailing slash.
    pub endpoint: String,
    pub token: Option<Token>,
    /// The hub's own cache: holds `models--OWNER--NAME/{blobs,refs,snapshots}`.
    pub cache_dir: PathBuf,
    /// Never use the network.
    pub offline: bool,
    /// Limit for resolving the name, and again for connecting, before "cannot be reached".
    pub connect_timeout: Duration,
    /// How long a connection may stay silent.
    pub stall_limit: Duration,
    /// Retries after the first attempt; progress resets the count.
    pub retries: u32,
    /// Pause before the first retry; doubles each time.
    pub backoff: Duration,
}

impl HubConfig {
    /// The defaults for a cache folder, with no token.
    pub fn new(endpoint: &str, cache_dir: PathBuf) -> Self {
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: None,
            cache_dir,
            offline: false,
            connect_timeout: Duration::from_secs(5),
            stall_limit: Duration::from_secs(30),
            retries: 4,
            backoff: Duration::from_millis(500),
        }
    }

    /// The address for messages: a password in it is masked.
    pub fn shown_endpoint(&self) -> String {
        secrets::mask(&self.endpoint).into_owned()
    }

    /// As `huggingface_hub` reads the environment: HF_ENDPOINT, HF_HUB_OFFLINE, HF_HUB_CACHE,
    /// HUGGINGFACE_HUB_CACHE, HF_HOME, and the token from HF_TOKEN, HUGGING_FACE_HUB_TOKEN or the
    /// file that HF_TOKEN_PATH names.
    ///
    /// # Errors
    /// A folder is needed that only the home folder gives, and there is none.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(&|name| std::env::var(name).ok(), &user::home_dir)
    }

    /// `from_env` over any source of variables. One that is empty counts as not set, and a
    /// relative XDG_CACHE_HOME is ignored, as the XDG text says.
    pub fn from_vars(
        var: &dyn Fn(&str) -> Option<String>,
        home_dir: &dyn Fn() -> Result<PathBuf>,
    ) -> Result<Self> {
        let set = |name: &str| var(name).filter(|v| !v.trim().is_empty());
        let path = |name: &str| set(name).map(|text| expanded(&text, var, home_dir)).transpose();
        let home = match path("HF_HOME")? {
            Some(home) => home,
            None => {
                let cache = set("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
                let cache = cache.map_or_else(|| Ok(home_dir()?.join(".cache")), anyhow::Ok)?;
                cache.join("huggingface")
            }
        };
        let named =
            path("HF_HUB_CACHE")?.map_or_else(|| path("HUGGINGFACE_HUB_CACHE"), |p| Ok(Some(p)))?;
        let cache_dir = std::path::absolute(named.unwrap_or_else(|| home.join("hub")))?;
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let mut config = Self::new(endpoint.trim(), cache_dir);
        let token_file = path("HF_TOKEN_PATH")?.unwrap_or_else(|| home.join("token"));
        config.token = set("HF_TOKEN")
            .or_else(|| set("HUGGING_FACE_HUB_TOKEN"))
            .or_else(|| std::fs::read_to_string(token_file).ok())
            .and_then(|text| Token::new(&text));
        config.token.iter().for_each(|token| secrets::remember(&token.0));
        config.offline = set("HF_HUB_OFFLINE")
            .or_else(|| set("TRANSFORMERS_OFFLINE"))
            .is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_lowercase().as_str()));
        Ok(config)
    }
}

/// Python's `os.path.expandvars(os.path.expanduser(text))`: a leading `~` is the home folder, and
/// `$NAME` or `${NAME}` the variable, as it stands where there is none.
fn expanded(
    text: &str,
    var: &dyn Fn(&str) -> Option<String>,
    home_dir: &dyn Fn() -> Result<PathBuf>,
) -> Result<PathBuf> {
    let text = match text.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = home_dir()?;
            format!("{}{rest}", home.to_string_lossy().trim_end_matches('/'))
        }
        _ => text.to_owned(),
    };
    let (mut out, mut rest) = (String::new(), &text[..]);
    while let Some(at) = rest.find('$') {
        out += &rest[..at];
        let after = &rest[at + 1..];
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, len) = match after.strip_prefix('{').and_then(|a| a.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let len = after.find(|c| !word(c)).unwrap_or(after.len());
                (&after[..len], len)
            }
        };
        match var(name).filter(|_| !name.is_empty()) {
            Some(value) => out += &value,
            None => out += &rest[at..at + 1 + len],
        }
        rest = &after[len..];
    }
    Ok(PathBuf::from(out + rest))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The configuration of some variables, with the home folder `/home/a`.
    fn of(vars: &[(&str, &str)]) -> HubConfig {
        let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        HubConfig::from_vars(&var, &|| Ok("/home/a".into())).unwrap()
    }

    #[test]
    fn the_environment_is_read_as_the_hubs_own_tools_read_it() {
        let config = of(&[
            ("HF_HOME", "/data/hf"),
            ("HF_ENDPOINT", "https://mirror.example/"),
            ("HF_TOKEN", " hf_secret\n"),
            ("HF_HUB_OFFLINE", "1"),
        ]);
        assert_eq!(config.endpoint, "https://mirror.example");
        assert_eq!(config.cache_dir, Path::new("/data/hf/hub"));
        assert_eq!(config.token.as_ref().unwrap().0, "hf_secret");
        assert!(config.offline);
        assert!(!format!("{config:?}").contains("secret"));

        let config = of(&[]);
        assert_eq!(config.endpoint, "https://huggingface.co");
        assert_eq!(config.cache_dir, Path::new("/home/a/.cache/huggingface/hub"));
        assert!(config.token.is_none() && !config.offline);
    }

    /// As huggingface_hub 2.4.0 prints them; `tests/hub/package.rs` asks the package itself.
    #[test]
    fn paths_are_expanded_as_the_package_expands_them() {
        for (vars, cache) in [
            (&[("HF_HOME", "~/hf")][..], "/home/a/hf/hub"),
            (&[("HF_HOME", "~")], "/home/a/hub"),
            (&[("HF_HOME", "$DATA/hf"), ("DATA", "/d")], "/d/hf/hub"),
            (&[("HF_HOME", "${DATA}x/hf"), ("DATA", "/d")], "/dx/hf/hub"),
            (&[("HF_HOME", "/a/$NONE/hf")], "/a/$NONE/hf/hub"),
            (&[("HUGGINGFACE_HUB_CACHE", "~/old")], "/home/a/old"),
            (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")], "/new"),
            (&[("HF_HUB_CACHE", "$HF_HOME/c"), ("HF_HOME", "/h")], "/h/c"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            // The package takes it from the current folder; the XDG text says to ignore it.
            (&[("XDG_CACHE_HOME", "x")], "/home/a/.cache/huggingface/hub"),
        ] {
            assert_eq!(of(vars).cache_dir, Path::new(cache), "{vars:?}");
        }
        assert!(of(&[("TRANSFORMERS_OFFLINE", "YES")]).offline);
    }

    #[test]
    fn the_token_file_of_hf_home_is_the_last_resort() {
        let home = tempfile::tempdir().unwrap();
        let other = home.path().join("other");
        std::fs::write(home.path().join("token"), "hf_from_file\n").unwrap();
        std::fs::write(&other, "hf_other\n").unwrap();
        let (path, other) = (home.path().to_str().unwrap(), other.to_str().unwrap());
        let token = |vars: &[(&str, &str)]| of(vars).token.unwrap().0;
        assert_eq!(token(&[("HF_HOME", path)]), "hf_from_file");
        assert_eq!(token(&[("HF_HOME", path), ("HF_TOKEN_PATH", other)]), "hf_other");
        assert_eq!(token(&[("HF_HOME", path), ("HUGGING_FACE_HUB_TOKEN", "hf_old")]), "hf_old");
    }

    #[test]
    fn without_a_home_folder_only_what_needs_it_fails() {
        let none = || anyhow::bail!("no home");
        let at = |name: &str| (name == "HF_HOME").then(|| "/hf".to_owned());
        assert!(HubConfig::from_vars(&at, &none).is_ok());
        assert!(HubConfig::from_vars(&|_| None, &none).is_err());
    }
}
