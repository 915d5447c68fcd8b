//! Renders chat templates like Hugging Face: Jinja with trimmed blocks, and the functions and
//! Python string methods that templates call.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, context};

const NAME: &str = "chat template";

/// Fails if the template does not compile.
pub fn check(source: &str) -> Result<(), String> {
    environment(source).map(|_| ()).map_err(|e| one_line(&e))
}

/// Renders `(role, content)` messages and opens the assistant's turn.
pub fn render(
    source: &str,
    messages: &[(&str, &str)],
    bos: &str,
    eos: &str,
) -> Result<String, String> {
    let messages: Vec<Value> = messages
        .iter()
        .map(|&(role, content)| context! { role => role, content => content })
        .collect();
    let values = context! {
        messages => messages,
        bos_token => bos,
        eos_token => eos,
        add_generation_prompt => true,
    };
    let environment = environment(source).map_err(|e| one_line(&e))?;
    let template = environment.get_template(NAME).map_err(|e| one_line(&e))?;
    template.render(values).map_err(|e| one_line(&e))
}

fn environment(source: &str) -> Result<Environment<'_>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_unknown_method_callback(python_method);
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", |format: String| -> Result<String, Error> {
        jiff::fmt::strtime::format(&format, &jiff::Zoned::now())
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
    });
    env.add_filter("tojson", to_json);
    env.add_template(NAME, source)?;
    Ok(env)
}

/// The error in one line, with the template's line.
fn one_line(error: &Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}

/// JSON as Python's `json.dumps` writes it; minijinja's own filter escapes for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let failed = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let text = match indent {
        None => {
            let mut out = Vec::new();
            let mut writer = serde_json::Serializer::with_formatter(&mut out, Spaced);
            serde::Serialize::serialize(value, &mut writer).map_err(failed)?;
            String::from_utf8_lossy(&out).into_owned()
        }
        Some(n) => {
            let indent = vec![b' '; n.min(16)];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&indent);
            let mut out = Vec::new();
            let mut writer = serde_json::Serializer::with_formatter(&mut out, formatter);
            serde::Serialize::serialize(value, &mut writer).map_err(failed)?;
            String::from_utf8_lossy(&out).into_owned()
        }
    };
    Ok(Value::from(text))
}

/// `{"a": 1, "b": [1, 2]}`.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        out.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
    ) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

/// Methods of Python's strings and dictionaries that chat templates call.
fn python_method(
    _: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), method, args),
        ValueKind::Map => map_method(value, method, args),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let strip = |both: (bool, bool)| -> Result<Value, Error> {
        let (set,): (Option<&str>,) = from_args(args)?;
        let inside = |c: char| set.map_or(c.is_whitespace(), |set| set.contains(c));
        let text = if both.0 { text.trim_start_matches(inside) } else { text };
        Ok(Value::from(if both.1 { text.trim_end_matches(inside) } else { text }))
    };
    let any_of = |fits: &dyn Fn(&str) -> bool| -> Result<Value, Error> {
        let (what,): (Value,) = from_args(args)?;
        let found = match what.as_str() {
            Some(one) => fits(one),
            None => what.try_iter()?.any(|v| v.as_str().is_some_and(fits)),
        };
        Ok(Value::from(found))
    };
    match method {
        "strip" => strip((true, true)),
        "lstrip" => strip((true, false)),
        "rstrip" => strip((false, true)),
        "startswith" => any_of(&|what| text.starts_with(what)),
        "endswith" => any_of(&|what| text.ends_with(what)),
        "upper" => from_args(args).map(|()| Value::from(text.to_uppercase())),
        "lower" => from_args(args).map(|()| Value::from(text.to_lowercase())),
        "capitalize" => from_args(args).map(|()| {
            let mut chars = text.chars();
            let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
            Value::from(first + &chars.as_str().to_lowercase())
        }),
        "title" => from_args(args).map(|()| {
            let mut inside = false;
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                match inside {
                    true => out.extend(c.to_lowercase()),
                    false => out.extend(c.to_uppercase()),
                }
                inside = c.is_alphabetic();
            }
            Value::from(out)
        }),
        "split" => {
            let (by, most): (Option<&str>, Option<i64>) = from_args(args)?;
            let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX - 1);
            Ok(match by {
                Some("") => {
                    return Err(Error::new(ErrorKind::InvalidOperation, "split: empty separator"));
                }
                Some(by) => text.splitn(most + 1, by).map(Value::from).collect(),
                None => text.split_whitespace().map(Value::from).collect(),
            })
        }
        "replace" => {
            let (old, new, most): (&str, &str, Option<usize>) = from_args(args)?;
            Ok(Value::from(match most {
                Some(most) => text.replacen(old, new, most),
                None => text.replace(old, new),
            }))
        }
        "join" => {
            let (parts,): (Value,) = from_args(args)?;
            let parts: Vec<String> = parts.try_iter()?.map(|v| v.to_string()).collect();
            Ok(Value::from(parts.join(text)))
        }
        "find" => {
            let (what,): (&str,) = from_args(args)?;
            let at = text.find(what).map(|at| text[..at].chars().count() as i64);
            Ok(Value::from(at.unwrap_or(-1)))
        }
        "count" => {
            let (what,): (&str,) = from_args(args)?;
            Ok(Value::from(text.matches(what).count()))
        }
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

fn map_method(map: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match method {
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = map.get_item(&key)?;
            Ok(match found.is_undefined() {
                true => default.unwrap_or_else(|| Value::from(())),
                false => found,
            })
        }
        "keys" => from_args(args).and_then(|()| Ok(map.try_iter()?.collect())),
        "values" => from_args(args).and_then(|()| {
            map.try_iter()?.map(|key| map.get_item(&key)).collect::<Result<Value, Error>>()
        }),
        "items" => from_args(args).and_then(|()| {
            map.try_iter()?
                .map(|key| Ok(Value::from(vec![key.clone(), map.get_item(&key)?])))
                .collect::<Result<Value, Error>>()
        }),
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}
