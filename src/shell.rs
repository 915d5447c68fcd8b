//! Commands in messages, to be pasted into a shell: each word quoted where it must be, so that a
//! file's name is never more than a name.

use std::path::Path;

/// Words as one command line.
pub fn command<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| quoted(word.as_ref())).collect();
    words.join(" ")
}

/// A path as one word of a command line.
pub fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// One word. What no shell takes (a NUL) is shown as U+FFFD.
pub fn quoted(word: &str) -> String {
    let word = word.replace('\0', "\u{fffd}");
    shlex::try_quote(&word).map_or_else(|_| word.clone(), |quoted| quoted.into_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for word in
            ["a b", "it's", "$(touch x)", "`id`", "-x", "a\"b\\c", "~", "", "plain.json", "a;b\nc"]
        {
            let line = format!("printf %s {}", quoted(word));
            let out = Command::new("sh").args(["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), word, "{line}");
        }
        assert_eq!(command(["llm-bench", "report", "a b"]), "llm-bench report 'a b'");
        assert_eq!(path(Path::new("results/x.json")), "results/x.json");
    }
}
