//! Chat templates as Hugging Face's transformers renders them: Jinja with trimmed blocks, and the
//! names, filters and functions that templates may count on.
//!
//! A template is a program of a stranger. Here it gets fuel and a limit on its output; `renderer`
//! runs this in a process that may also use up its stack and its memory.

use std::collections::BTreeMap;
use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};

use super::{json, python};

const NAME: &str = "chat template";
/// Instructions of one rendering: a conversation of a hundred turns takes about ten thousand.
pub const FUEL: u64 = 20_000_000;
/// Bytes of one rendering; a context of a million tokens has about four million.
const MOST: usize = 16 << 20;

/// What is to be rendered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    pub source: String,
    /// Special tokens by the names that templates know: `bos_token`, `eos_token` and so on.
    pub tokens: Vec<(String, String)>,
    pub conversations: Vec<Conversation>,
}

/// Messages, and whether the assistant speaks next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Conversation {
    /// Role and text of each message.
    pub messages: Vec<(String, String)>,
    pub opens: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The template does not compile.
    Broken(String),
    /// Each conversation as text, or why the template refuses it.
    Rendered(Vec<Result<String, String>>),
}

/// Compiles the template, and renders each conversation with so much fuel.
pub fn run(task: &Task, fuel: u64) -> Outcome {
    let source = transparent(&task.source.replace("\r\n", "\n").replace('\r', "\n"));
    let environment = match environment(&source, fuel) {
        Ok(environment) => environment,
        Err(e) => return Outcome::Broken(one_line(&e)),
    };
    let all = task.conversations.iter();
    Outcome::Rendered(all.map(|c| render(&environment, &task.tokens, c)).collect())
}

fn render(
    environment: &Environment<'_>,
    tokens: &[(String, String)],
    conversation: &Conversation,
) -> Result<String, String> {
    let messages: Vec<Value> = conversation
        .messages
        .iter()
        .map(|(role, content)| context! { role => role, content => content })
        .collect();
    let own = context! {
        messages => messages,
        tools => (),
        documents => (),
        add_generation_prompt => conversation.opens,
    };
    let special: BTreeMap<String, String> = tokens.iter().cloned().collect();
    let special = Value::from(special);
    let mut out = Bounded(Vec::new());
    let template = environment.get_template(NAME).map_err(|e| one_line(&e))?;
    match template.render_captured_to(context! { ..own, ..special }, &mut out) {
        Err(e) if e.kind() == ErrorKind::OutOfFuel => Err("it does not come to an end".into()),
        Err(_) if out.0.len() >= MOST => Err(format!("it writes more than {} MiB", MOST >> 20)),
        Err(e) => Err(one_line(&e)),
        Ok(_) => String::from_utf8(out.0).map_err(|e| e.to_string()),
    }
}

/// Text up to a limit, which it reaches but never exceeds.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(MOST - self.0.len());
        self.0.extend_from_slice(&bytes[..fits]);
        match fits {
            0 if !bytes.is_empty() => Err(io::ErrorKind::WriteZero.into()),
            n => Ok(n),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn environment(source: &str, fuel: u64) -> Result<Environment<'_>, Error> {
    let mut env = Environment::new();
    env.set_fuel(Some(fuel));
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_unknown_method_callback(python::method);
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", |format: String| -> Result<String, Error> {
        jiff::fmt::strtime::format(&format, &jiff::Zoned::now())
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
    });
    env.add_function("cycler", minijinja_contrib::globals::cycler);
    env.add_function("joiner", minijinja_contrib::globals::joiner);
    env.add_filter("tojson", json::to_json);
    env.add_template(NAME, source)?;
    Ok(env)
}

/// The template with `{% generation %}` blocks, which transformers uses to find the assistant's
/// tokens, as blocks that change nothing: a scope of their own. Comments and raw text stay.
fn transparent(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut raw = false;
    // The next tag or comment: never a search to the end for one that does not come.
    let next = |rest: &str, raw: bool| {
        let braces = rest.match_indices('{').map(|(at, _)| at);
        let mut all = braces.filter(|at| match rest.as_bytes().get(at + 1) {
            Some(b'%') => true,
            Some(b'#') => !raw,
            _ => false,
        });
        all.next()
    };
    while let Some(at) = next(rest, raw) {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let close = if tag.starts_with("{#") { "#}" } else { "%}" };
        let end = tag.find(close).map_or(tag.len(), |end| end + 2);
        let (tag, behind) = tag.split_at(end);
        let signs = |c: char| c.is_whitespace() || matches!(c, '{' | '%' | '}' | '-' | '+');
        match tag.trim_matches(signs) {
            "endraw" => raw = false,
            "raw" => raw = true,
            _ if raw || close == "#}" => {}
            word @ ("generation" | "endgeneration") => {
                let with = if word == "generation" { "with" } else { "endwith" };
                out.push_str(&tag.replacen(word, with, 1));
                rest = behind;
                continue;
            }
            _ => {}
        }
        out.push_str(tag);
        rest = behind;
    }
    out + rest
}

/// The error in one line, with the template's line.
fn one_line(error: &Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}
