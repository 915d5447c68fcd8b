//! Python's methods that chat templates call: those of strings are here, those of dictionaries and
//! lists are minijinja-contrib's.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback as contributed;

/// A method that minijinja does not have.
pub fn method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let found = match (value.as_str(), value.kind()) {
        (Some(text), _) => of_string(state, text, method, args),
        (None, ValueKind::Seq) if method == "index" => index_of(value, args),
        (None, ValueKind::Seq | ValueKind::Map) if method == "copy" => {
            from_args(args).map(|()| value.clone())
        }
        _ => Err(ErrorKind::UnknownMethod.into()),
    };
    match found {
        Err(e) if e.kind() == ErrorKind::UnknownMethod => contributed(state, value, method, args),
        found => found,
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// Fuel for `bytes` that a method makes out of less, before it makes them.
fn pay(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(bytes as u64 / 64)
}

fn of_string(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(answer) = predicate(text, method) {
        return from_args(args).map(|()| Value::from(answer));
    }
    if let Some(cased) = cased(text, method) {
        return from_args(args).map(|()| Value::from(cased));
    }
    match method {
        "strip" | "lstrip" | "rstrip" => {
            let (set,): (Option<&str>,) = from_args(args)?;
            let inside = |c: char| set.map_or(c.is_whitespace(), |set| set.contains(c));
            let text = if method == "rstrip" { text } else { text.trim_start_matches(inside) };
            let text = if method == "lstrip" { text } else { text.trim_end_matches(inside) };
            Ok(Value::from(text))
        }
        "removeprefix" => from_args(args)
            .map(|(what,): (&str,)| Value::from(text.strip_prefix(what).unwrap_or(text))),
        "removesuffix" => from_args(args)
            .map(|(what,): (&str,)| Value::from(text.strip_suffix(what).unwrap_or(text))),
        "startswith" | "endswith" => {
            let (what, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let Some((_, part)) = between(text, start, end) else { return Ok(false.into()) };
            let fits = |what: &str| match method {
                "startswith" => part.starts_with(what),
                _ => part.ends_with(what),
            };
            Ok(Value::from(match what.as_str() {
                Some(one) => fits(one),
                None => {
                    let mut any = false;
                    for one in what.try_iter()? {
                        let one = one.as_str().map(str::to_owned);
                        let one = one.ok_or_else(|| wrong(format!("{method}: expected texts")))?;
                        any |= fits(&one);
                    }
                    any
                }
            }))
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let found = between(text, start, end);
            if method == "count" {
                return Ok(Value::from(found.map_or(0, |(_, part)| part.matches(what).count())));
            }
            let place = found.and_then(|(before, part)| {
                let at = if method.starts_with('r') { part.rfind(what) } else { part.find(what) };
                Some(before + part[..at?].chars().count())
            });
            match place {
                Some(place) => Ok(Value::from(place)),
                None if method.ends_with("find") => Ok(Value::from(-1)),
                None => Err(wrong(format!("{method}: {what:?} is not in the text"))),
            }
        }
        "split" | "rsplit" => {
            let (by, most, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
            let by = by.map_or_else(|| named.get("sep"), |by| Ok(Some(by)))?;
            let by: Option<Value> = by.filter(|by| !by.is_none() && !by.is_undefined());
            let most =
                most.map_or_else(|| named.get::<Option<i64>>("maxsplit"), |n| Ok(Some(n)))?;
            named.assert_all_used()?;
            let most = most.and_then(|n| usize::try_from(n).ok());
            let by = match &by {
                Some(by) => Some(by.as_str().ok_or_else(|| wrong("split: expected a text"))?),
                None => None,
            };
            if by == Some("") {
                return Err(wrong("split: empty separator"));
            }
            Ok(split(text, by, most, method == "rsplit").into_iter().map(Value::from).collect())
        }
        "splitlines" => {
            let (keep, named): (Option<bool>, Kwargs) = from_args(args)?;
            let keep =
                keep.map_or_else(|| named.get::<Option<bool>>("keepends"), |k| Ok(Some(k)))?;
            named.assert_all_used()?;
            Ok(lines(text, keep.unwrap_or(false)).into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let (by,): (&str,) = from_args(args)?;
            let last = method == "rpartition";
            let cut = if last { text.rsplit_once(by) } else { text.split_once(by) };
            let parts = match cut {
                Some((before, after)) => [before, by, after],
                None if last => ["", "", text],
                None => [text, "", ""],
            };
            Ok(Value::from(Tuple::from(parts.map(Value::from))))
        }
        "replace" => {
            let (old, new, most, named): (&str, &str, Option<i64>, Kwargs) = from_args(args)?;
            let most = most.map_or_else(|| named.get::<Option<i64>>("count"), |n| Ok(Some(n)))?;
            named.assert_all_used()?;
            let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            if new.len() > old.len() {
                let times = (text.len() / old.len().max(1) + 1).min(most);
                pay(state, times.saturating_mul(new.len()))?;
            }
            Ok(Value::from(text.replacen(old, new, most)))
        }
        "join" => {
            let (parts,): (&Value,) = from_args(args)?;
            let mut out = String::new();
            for (i, part) in parts.try_iter()?.enumerate() {
                if i > 0 {
                    pay(state, text.len())?;
                    out.push_str(text);
                }
                match part.as_str() {
                    Some(part) => out.push_str(part),
                    None => {
                        return Err(wrong(format!("join: expected texts, found {}", part.kind())));
                    }
                }
            }
            Ok(Value::from(out))
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            let missing = width.saturating_sub(text.chars().count());
            pay(state, missing)?;
            if method == "zfill" {
                let signed = text.starts_with(['+', '-']);
                let (sign, digits) = text.split_at(usize::from(signed));
                return Ok(Value::from(format!("{sign}{}{digits}", "0".repeat(missing))));
            }
            let left = match method {
                "center" => missing / 2 + (missing & width & 1),
                "rjust" => missing,
                _ => 0,
            };
            let fill = |n: usize| fill.unwrap_or(" ").repeat(n);
            Ok(Value::from(format!("{}{text}{}", fill(left), fill(missing - left))))
        }
        "expandtabs" => {
            let (size,): (Option<usize>,) = from_args(args)?;
            let (size, mut column, mut out) = (size.unwrap_or(8), 0, String::new());
            for c in text.chars() {
                match c {
                    '\t' => {
                        let n = if size == 0 { 0 } else { size - column % size };
                        pay(state, n)?;
                        out.extend(std::iter::repeat_n(' ', n));
                        column += n;
                    }
                    _ => {
                        column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                        out.push(c);
                    }
                }
            }
            Ok(Value::from(out))
        }
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

/// Questions about all characters.
fn predicate(text: &str, method: &str) -> Option<bool> {
    let all = |fits: fn(char) -> bool| !text.is_empty() && text.chars().all(fits);
    let has = |fits: fn(char) -> bool| text.chars().any(fits);
    Some(match method {
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isdigit" | "isnumeric" => all(char::is_numeric),
        "isdecimal" => all(|c| c.is_ascii_digit()),
        "isspace" => all(char::is_whitespace),
        "isascii" => text.is_ascii(),
        "islower" => has(char::is_lowercase) && !has(char::is_uppercase),
        "isupper" => has(char::is_uppercase) && !has(char::is_lowercase),
        "isprintable" => !has(char::is_control),
        "istitle" => has(char::is_alphabetic) && title(text) == text,
        "isidentifier" => {
            let begins = |c: char| c == '_' || c.is_alphabetic();
            text.starts_with(begins) && text.chars().all(|c| begins(c) || c.is_numeric())
        }
        _ => return None,
    })
}

fn cased(text: &str, method: &str) -> Option<String> {
    Some(match method {
        "upper" => text.to_uppercase(),
        "lower" => text.to_lowercase(),
        "casefold" => text.to_lowercase().replace('ß', "ss"),
        "title" => title(text),
        "capitalize" => {
            let mut chars = text.chars();
            let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
            first + &chars.as_str().to_lowercase()
        }
        "swapcase" => {
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                match c.is_uppercase() {
                    true => out.extend(c.to_lowercase()),
                    false => out.extend(c.to_uppercase()),
                }
            }
            out
        }
        _ => return None,
    })
}

fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        inside = c.is_alphabetic();
    }
    out
}

/// `text[start:end]`, and how many characters lie before it; `None` where it begins behind the end.
fn between(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    if start.is_none() && end.is_none() {
        return Some((0, text));
    }
    let n = text.chars().count();
    let place = |at: i64| match at {
        0.. => at as usize,
        _ => n.saturating_sub(at.unsigned_abs() as usize),
    };
    let start = start.map_or(0, place);
    let end = end.map_or(n, place).min(n);
    if start > n || start > end {
        return None;
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(i, _)| i);
    Some((start, &text[byte(start)..byte(end)]))
}

fn split<'t>(
    text: &'t str,
    by: Option<&str>,
    most: Option<usize>,
    from_right: bool,
) -> Vec<&'t str> {
    let mut parts = Vec::new();
    let mut rest = text;
    let most = most.unwrap_or(usize::MAX);
    if by.is_none() {
        rest = if from_right { rest.trim_end() } else { rest.trim_start() };
    }
    while parts.len() < most {
        let cut = match (by, from_right) {
            (Some(by), false) => rest.split_once(by),
            (Some(by), true) => rest.rsplit_once(by).map(|(a, b)| (b, a)),
            (None, false) => rest.split_once(char::is_whitespace).map(|(a, b)| (a, b.trim_start())),
            (None, true) => rest.rsplit_once(char::is_whitespace).map(|(a, b)| (b, a.trim_end())),
        };
        let Some((part, left)) = cut else { break };
        parts.push(part);
        rest = left;
    }
    if by.is_some() || !rest.is_empty() {
        parts.push(rest);
    }
    if from_right {
        parts.reverse();
    }
    parts
}

fn lines(text: &str, keep: bool) -> Vec<&str> {
    const ENDS: [char; 10] = [
        '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}',
        '\u{2029}',
    ];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ENDS) {
        let end = match rest[at..].starts_with("\r\n") {
            true => at + 2,
            false => at + rest[at..].chars().next().map_or(1, char::len_utf8),
        };
        lines.push(if keep { &rest[..end] } else { &rest[..at] });
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// `[…].index(x)`
fn index_of(list: &Value, args: &[Value]) -> Result<Value, Error> {
    let (what,): (&Value,) = from_args(args)?;
    let place = list.try_iter()?.position(|item| item == *what);
    place.map(Value::from).ok_or_else(|| wrong(format!("index: {what} is not in the list")))
}
