//! Secrets and how they are kept out of what is printed and kept: the values of variables whose
//! names say that they are secret, passwords in addresses, and text in the form of well-known
//! tokens. One function masks; the terminal, the logs, the reports and the records go through it.

use std::borrow::Cow;
use std::sync::{Mutex, OnceLock, PoisonError};

/// What takes a secret's place.
const MASK: &str = "***";

/// A shorter value is no secret, and a mask for it would hide plain words.
const SHORTEST: usize = 6;

/// Words of a variable's name that say that its value is secret.
const SECRET_WORDS: &[&str] = &[
    "TOKEN",
    "SECRET",
    "SECRETS",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "PASS",
    "PWD",
    "CREDENTIAL",
    "CREDENTIALS",
    "KEY",
    "APIKEY",
    "PAT",
    "AUTH",
    "COOKIE",
    "JWT",
    "BEARER",
    "DSN",
];
/// The same at the end of a word that has no underscore.
const SECRET_ENDS: &[&str] = &["TOKEN", "SECRET", "PASSWORD", "PASSWD", "APIKEY"];

/// Beginnings of tokens that are known by their form, and how many more letters, digits, `-` or
/// `_` follow at least.
const FORMS: &[(&str, usize)] = &[
    ("hf_", 20),
    ("api_org_", 20),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghu_", 20),
    ("ghs_", 20),
    ("ghr_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("sk-", 20),
    ("xoxa-", 10),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("npm_", 30),
    ("pypi-", 40),
    ("AKIA", 16),
    ("ASIA", 16),
    ("AIza", 30),
    ("eyJ", 40),
    ("Bearer ", 16),
    ("Authorization: Basic ", 8),
];

/// Secrets that were read from elsewhere, such as the token file.
static LEARNT: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Whether a variable of this name holds a secret.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    // The working folder.
    let folder = matches!(&*name, "PWD" | "OLDPWD");
    !folder
        && name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| {
            SECRET_WORDS.contains(&word) || SECRET_ENDS.iter().any(|end| word.ends_with(end))
        })
}

/// From now on this text is masked wherever it shows.
pub fn remember(secret: &str) {
    let secret = secret.trim();
    let mut learnt = LEARNT.lock().unwrap_or_else(PoisonError::into_inner);
    if secret.len() >= SHORTEST && !learnt.iter().any(|known| known == secret) {
        learnt.push(secret.to_owned());
    }
}

/// The text with every known secret masked.
pub fn mask(text: &str) -> Cow<'_, str> {
    static OURS: OnceLock<Vec<String>> = OnceLock::new();
    let ours = OURS.get_or_init(|| of_environment(std::env::vars_os().filter_map(utf8)));
    let learnt = LEARNT.lock().unwrap_or_else(PoisonError::into_inner);
    masked(text, ours.iter().chain(learnt.iter()).map(String::as_str))
}

/// Every text in a value with its secrets masked.
pub fn mask_value(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::String(text) => *text = mask(text).into_owned(),
        Value::Array(values) => values.iter_mut().for_each(mask_value),
        Value::Object(values) => values.values_mut().for_each(mask_value),
        _ => {}
    }
}

fn utf8((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// The secrets in an environment, the longest first: one may be a part of another.
fn of_environment(vars: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in vars {
        let value = value.trim();
        // A path to a secret is none, and errors name it.
        if is_secret_name(&name) && !value.starts_with('/') {
            found.push(value.to_owned());
            found.extend(value.lines().map(|line| line.trim().to_owned()));
        }
        for (from, to) in userinfo(value) {
            let (_, password) = value[from..to].split_once(':').unwrap_or(("", &value[from..to]));
            found.push(password.to_owned());
        }
    }
    found.retain(|secret| secret.len() >= SHORTEST);
    found.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    found.dedup();
    found
}

fn masked<'t, 's>(text: &'t str, secrets: impl Iterator<Item = &'s str>) -> Cow<'t, str> {
    let mut text = Cow::Borrowed(text);
    for secret in secrets {
        if text.contains(secret) {
            text = Cow::Owned(text.replace(secret, MASK));
        }
    }
    let parts = userinfo(&text);
    if !parts.is_empty() {
        text = Cow::Owned(without(&text, &parts));
    }
    let parts = tokens(&text);
    if !parts.is_empty() {
        text = Cow::Owned(without(&text, &parts));
    }
    text
}

/// The text with these ranges, which rise, masked.
fn without(text: &str, parts: &[(usize, usize)]) -> String {
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for (from, to) in parts {
        out += &text[at..*from];
        out += MASK;
        at = *to;
    }
    out + &text[at..]
}

/// Where the text has `USER:PASSWORD` or `TOKEN` before the `@` of an address.
fn userinfo(text: &str) -> Vec<(usize, usize)> {
    let mut parts = Vec::new();
    for (at, _) in text.match_indices("://") {
        let from = at + "://".len();
        let ends = |c: char| c.is_whitespace() || "/?#\"'`<>\\".contains(c);
        let to = text[from..].find(ends).map_or(text.len(), |len| from + len);
        if let Some(len) = text[from..to].rfind('@').filter(|len| *len > 0) {
            parts.push((from, from + len));
        }
    }
    parts
}

/// Where the text has a token of a well-known form: all of it but for a word that only announces
/// it.
fn tokens(text: &str) -> Vec<(usize, usize)> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for (beginning, least) in FORMS {
        for (at, _) in text.match_indices(beginning) {
            let body = at + beginning.len();
            let more = |c: char| part(c) || ".+/=".contains(c) && beginning.ends_with(' ');
            // The dots of a signed token.
            let more = |c: char| more(c) || c == '.' && *beginning == "eyJ";
            let to = text[body..].find(|c| !more(c)).map_or(text.len(), |len| body + len);
            let inside = text[..at].chars().next_back().is_some_and(part);
            let from = if beginning.ends_with(' ') { body } else { at };
            if to - body >= *least && !inside {
                parts.push((from, to));
            }
        }
    }
    parts.sort_unstable();
    // Forms may overlap (`Bearer hf_…`): what begins first covers the rest.
    let mut end = 0;
    parts.retain(|(from, to)| {
        let apart = *from >= end;
        end = if apart { *to } else { end };
        apart
    });
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_say_what_is_secret() {
        for name in [
            "HF_TOKEN",
            "GITHUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_ACCESS_KEY_ID",
            "API_KEY",
            "OPENAI_API_KEY",
            "DB_PASSWORD",
            "PGPASSWORD",
            "MYSQL_PWD",
            "hf_token",
            "HFTOKEN",
            "NPM_AUTH",
            "SENTRY_DSN",
            "CREDENTIALS",
            "GH_PAT",
            "SOMEAPIKEY",
            "AWS_SESSION_TOKEN",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "PATH",
            "PWD",
            "OLDPWD",
            "HOME",
            "KEYBOARD",
            "TOKENIZERS_PARALLELISM",
            "MAX_TOKENS",
            "MONKEY",
            "OMP_NUM_THREADS",
            "PASSES",
            "COMPASS_X",
            "XAUTHORITY",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    fn with(vars: &[(&str, &str)], text: &str) -> String {
        let vars = vars.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let secrets = of_environment(vars);
        masked(text, secrets.iter().map(String::as_str)).into_owned()
    }

    #[test]
    fn values_of_secret_variables_are_masked_and_others_are_not() {
        let vars = [
            ("DB_PASSWORD", "hunter2"),
            ("MY_TOKEN", "hunter2-and-more"),
            ("SHORT_KEY", "a"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/home/a/key.json"),
            ("LANG", "C.UTF-8"),
            ("https_proxy", "http://me:sesame@proxy:3128"),
        ];
        assert_eq!(with(&vars, "a hunter2 b hunter2-and-more"), "a *** b ***");
        assert_eq!(with(&vars, "C.UTF-8 /home/a/key.json"), "C.UTF-8 /home/a/key.json");
        assert_eq!(with(&vars, "the password is sesame"), "the password is ***");
    }

    #[test]
    fn addresses_lose_their_passwords() {
        for (text, masked) in [
            ("https://me:secret@hub.example/x y", "https://***@hub.example/x y"),
            ("https://token@hub.example", "https://***@hub.example"),
            ("a http://u:p@ss@h/ b https://h/@x", "a http://***@h/ b https://h/@x"),
            ("see https://example.org/a@b", "see https://example.org/a@b"),
            ("mail me@example.org", "mail me@example.org"),
        ] {
            assert_eq!(with(&[], text), masked);
        }
    }

    #[test]
    fn tokens_are_known_by_their_form() {
        let body = "abcdefghijklmnopqrstuvwxyz0123456789";
        for beginning in ["hf_", "ghp_", "github_pat_", "sk-", "glpat-", "xoxb-"] {
            let text = format!("token={beginning}{body}, and more");
            assert_eq!(with(&[], &text), "token=***, and more");
        }
        assert_eq!(with(&[], "AKIAIOSFODNN7EXAMPLE."), "***.");
        assert_eq!(with(&[], "Authorization: Basic abc.def+ghi=="), "Authorization: Basic ***");
        assert_eq!(with(&[], &format!("Bearer hf_{body}")), "Bearer ***");
        for plain in ["hf_hub", "task-1234", "the sk-learn package", "a Bearer of news", "eyJ", ""]
        {
            assert_eq!(with(&[], plain), plain);
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_mask(text in ".{0,60}", secret in "[a-z]{6,9}") {
            let shown = format!("{text}{secret}://{text}@{text}");
            let masked = with(&[("X_TOKEN", &secret)], &shown);
            prop_assert!(!masked.contains(&secret) || text.contains("***"));
        }
    }
}
