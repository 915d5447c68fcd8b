//! The JSON in a file that somebody saved: without the byte-order mark that Windows puts before it,
//! and without the lines that a program logged among its results.

use anyhow::{Result, bail};
use serde::de::IgnoredAny;

use crate::record::Warning;

const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// The bytes as JSON, and a warning where lines were left out. Anything else that is no JSON is handed
/// on as it is, because its reader says what is wrong.
///
/// # Errors
/// UTF-16, by its name.
pub(super) fn json_of(bytes: Vec<u8>) -> Result<(Vec<u8>, Option<Warning>)> {
    let begin = &bytes[..bytes.len().min(2)];
    let wide = |b: &[u8]| matches!(b, [b'[' | b'{', 0] | [0, b'[' | b'{']);
    if begin == b"\xff\xfe" || begin == b"\xfe\xff" || wide(begin) {
        bail!(
            "expected UTF-8, found UTF-16, which `>` of Windows PowerShell writes: write the file \
             with `| Out-File -Encoding utf8`, or convert it with `iconv -f UTF-16 -t UTF-8`"
        );
    }
    let bytes = match bytes.strip_prefix(UTF8_MARK) {
        Some(rest) => rest.to_vec(),
        None => bytes,
    };
    if is_json(&bytes) {
        return Ok((bytes, None));
    }
    let Some((json, lines)) = without_log(&bytes) else { return Ok((bytes, None)) };
    let first: String = String::from_utf8_lossy(lines[0]).chars().take(60).collect();
    let (n, s) = (lines.len(), if lines.len() == 1 { "" } else { "s" });
    let warning = Warning {
        code: "log_lines".into(),
        arm: None,
        message: format!("{n} line{s} of a log among the results left out: {first:?}"),
        advice: "write stdout alone to the file, without `2>&1`".into(),
    };
    Ok((json, Some(warning)))
}

/// Whether these are values of JSON, one after the other.
fn is_json(bytes: &[u8]) -> bool {
    serde_json::Deserializer::from_slice(bytes).into_iter::<IgnoredAny>().all(|v| v.is_ok())
}

/// The values of JSON that begin and end with a line, and the lines between them. `None` where there
/// is no value, or where a line looks like a piece of one: then the file is damaged.
fn without_log(bytes: &[u8]) -> Option<(Vec<u8>, Vec<&[u8]>)> {
    let (mut json, mut log) = (Vec::new(), Vec::new());
    let mut rest = bytes;
    let line_end = |b: &[u8]| b.iter().position(|b| *b == b'\n').map_or(b.len(), |at| at + 1);
    while !rest.is_empty() {
        let end = line_end(rest);
        let line = rest[..end].trim_ascii();
        if matches!(line.first(), Some(b'[' | b'{')) {
            let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
            if let Some(Ok(_)) = values.next() {
                let (value, behind) = rest.split_at(values.byte_offset());
                let end = line_end(behind);
                if behind[..end].trim_ascii().is_empty() {
                    json.extend_from_slice(value);
                    json.push(b'\n');
                    rest = &behind[end..];
                    continue;
                }
            }
        }
        match line {
            [] => {}
            // `[12:34:56] loading`; anything else with these is a piece of a value.
            [b'[', inside @ .., last] if inside.contains(&b']') && !b"],{".contains(last) => {
                log.push(line);
            }
            [b'[' | b']' | b'{' | b'}' | b'"', ..] => return None,
            _ => log.push(line),
        }
        rest = &rest[end..];
    }
    (!json.is_empty() && !log.is_empty()).then_some((json, log))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, Option<String>) {
        let (json, warning) = json_of(text.into()).unwrap();
        (String::from_utf8(json).unwrap(), warning.map(|w| w.message))
    }

    #[test]
    fn marks_and_lines_of_a_log_are_left_out() {
        assert_eq!(read("\u{feff}[1]"), ("[1]".into(), None));
        let text = "ggml: found 1\n[12:00] loading\n[\n {\"a\": 1}\n]\nbye\n";
        let (json, warning) = read(text);
        assert_eq!(json, "[\n {\"a\": 1}\n]\n");
        let warning = warning.unwrap();
        assert!(warning.starts_with("3 lines") && warning.contains("ggml: found 1"), "{warning}");
        let (json, warning) = read("{\"a\":1}\nlog\n{\"a\":2}");
        assert_eq!((json.as_str(), warning.is_some()), ("{\"a\":1}\n{\"a\":2}\n", true));
    }

    #[test]
    fn damaged_json_is_left_as_it_is() {
        for text in [
            "log\n[\n {\"a\": 1},\n",
            "[\n{\"a\": 1},\nlog\n{\"a\": 2}\n]",
            "only a log",
            "log\n\"x\"\n[1]",
        ] {
            assert_eq!(read(text), (text.into(), None), "{text}");
        }
    }

    #[test]
    fn utf_16_is_named() {
        for bytes in [b"\xff\xfe[\0".to_vec(), b"\xfe\xff\0[".to_vec(), b"[\0]\0".to_vec()] {
            assert!(json_of(bytes).unwrap_err().to_string().contains("UTF-16"));
        }
    }
}
