//! Cleans text from records, which is not trusted: an engine's error message may contain anything.

/// The longest text that a cell or sentence of a report takes from a record.
const LONGEST: usize = 300;

/// Reduces text to one line without escape sequences, control characters and marks that reorder or
/// hide text.
pub fn clean(text: &str) -> String {
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

/// For the terminal: shows control characters, and marks that reorder or hide text, as U+FFFD.
/// Keeps lines.
pub fn visible(text: &str) -> String {
    let harmless = |c: char| c == '\n' || c == '\t' || !(c.is_control() || reorders_or_hides(c));
    text.chars().map(|c| if harmless(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
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

    proptest! {
        #[test]
        fn no_control_character_gets_through(text in proptest::collection::vec(any::<char>(), 0..80)) {
            let text: String = text.into_iter().collect();
            prop_assert!(clean(&text).chars().all(|c| !c.is_control()));
        }
    }
}
