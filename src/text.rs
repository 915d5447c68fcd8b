//! Text that others wrote is not trusted: a file's name or an engine's error message may hold
//! anything. All of it passes here on its way to a terminal or a report, and secrets stay behind.

use crate::secrets::mask;

/// The longest text that a cell or sentence of a report takes from a record.
const LONGEST: usize = 300;

/// Reduces text to one line without escape sequences, control characters and marks that reorder or
/// hide text.
pub fn clean(text: &str) -> String {
    let text = &*mask(text);
    let mut out = String::with_capacity(text.len().min(LONGEST * 4));
    let mut chars = text.chars().peekable();
    let mut taken = 0;
    while let Some(c) = chars.next() {
        if taken == LONGEST {
            out.push('…');
            break;
        }
        match c {
            '\u{1b}' => match chars.next() {
                // CSI: parameters up to a final byte.
                Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                // OSC and the other strings: up to BEL or ESC \.
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    while let Some(c) = chars.next() {
                        if c == '\u{7}' || c == '\u{1b}' && chars.next_if_eq(&'\\').is_some() {
                            break;
                        }
                    }
                }
                _ => {}
            },
            '\n' | '\r' | '\t' => {
                if !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            c if c.is_control() || reorders_or_hides(c) => {}
            c => {
                out.push(c);
                taken += 1;
            }
        }
    }
    out.trim().to_string()
}

/// One message for the terminal: as [`escaped`], on one line, so that nothing in it looks like a
/// message of its own, and with secrets masked.
pub fn visible(text: &str) -> String {
    let text = mask(text);
    let lines: Vec<&str> = text.split(['\n', '\r']).map(str::trim_end).collect();
    let (first, rest) = lines.split_first().expect("a split has a first part");
    let rest = rest.iter().map(|line| line.trim_start()).filter(|line| !line.is_empty());
    escaped(&std::iter::once(*first).chain(rest).collect::<Vec<_>>().join(" "))
}

/// Several lines of ours with others' text in them: control characters and marks that reorder or
/// hide text are shown as U+FFFD.
pub fn escaped(text: &str) -> String {
    let harmless = |c: char| c == '\n' || c == '\t' || !(c.is_control() || reorders_or_hides(c));
    text.chars().map(|c| if harmless(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// JSON in which the same characters are written as `\u` and their number: they stand in texts only.
pub fn escaped_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => out.push(c),
            c if c.is_control() || reorders_or_hides(c) => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}

fn reorders_or_hides(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
        | '\u{ad}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escape_sequences_vanish_whole() {
        assert_eq!(clean("\u{1b}[31;1mred\u{1b}[0m and plain"), "red and plain");
        assert_eq!(clean("\u{1b}]0;title\u{7}text\u{1b}]8;;x\u{1b}\\link"), "textlink");
        assert_eq!(clean("two\r\nlines\u{202e}\u{8}"), "two lines");
        assert_eq!(clean("\u{1b}[31"), "");
        assert_eq!(clean(&"x".repeat(400)).chars().count(), LONGEST + 1);
    }

    #[test]
    fn a_message_stays_one_line_and_json_stays_the_same_value() {
        let message = "x.gguf: found \"a\nerror: forged\r\n  and more\u{9b}31m\"\n";
        assert_eq!(visible(message), "x.gguf: found \"a error: forged and more\u{fffd}31m\"");
        assert_eq!(visible("  indented\ttext"), "  indented\ttext");
        let value = serde_json::json!({"a\u{202e}": "\u{1b}[2J\u{9b}\u{7f}é\u{feff}\n"});
        let json = serde_json::to_string_pretty(&value).unwrap();
        let shown = escaped_json(&json);
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control() && !reorders_or_hides(c)));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    proptest! {
        #[test]
        fn no_control_character_gets_through(text in proptest::collection::vec(any::<char>(), 0..80)) {
            let text: String = text.into_iter().collect();
            prop_assert!(clean(&text).chars().all(|c| !c.is_control()));
        }
    }
}
