//! `llm-bench.toml`: defaults for the command line, one table for each command, keys named like
//! the long options. What stands on the command line wins. `--print-config` writes every option
//! of a command with the value in force, in the same form.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::Cli;

/// Read from the current folder where `--config` names no other file.
pub const FILE: &str = "llm-bench.toml";

/// What a command line with its configuration file asks for.
pub enum Parsed {
    Run(Box<Cli>),
    /// `--print-config`: the text to print.
    Print(String),
}

type Key<'t> = Spanned<DeString<'t>>;

/// Parses the command line over the configuration file. clap prints its own errors and exits.
pub fn parse(args: Vec<OsString>) -> Result<Parsed> {
    let command = Cli::command();
    let first = command.clone().get_matches_from(&args);
    let (path, matches) = innermost(&first);
    // An interrupted run goes on with its own settings.
    let resumed = matches.try_contains_id("resume").is_ok_and(|given| given);
    let Some(file) = file(&first)?.filter(|_| !resumed) else {
        return finish(&command, &first);
    };
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("--config: cannot read {}", file.display()))?;
    let source = Source { file: &file, text: &text };
    let leaf = path.iter().fold(&command, |c, name| c.find_subcommand(name).expect("it matched"));
    let mut extra: Vec<OsString> = Vec::new();
    let tables = source.tables()?;
    for (key, value) in source.table(&tables, &command, &path)? {
        let arg = source.argument(leaf, key)?;
        if on_the_command_line(leaf, matches, arg) {
            continue;
        }
        let words = source.words(arg, key, value)?;
        source.check(&command, &path, key, &words)?;
        extra.extend(words);
    }
    // The file's words go behind the last subcommand's name, so that they are its options.
    let at = position_after(&args, &path);
    let mut all = args;
    all.splice(at..at, extra);
    finish(&command, &command.clone().get_matches_from(all))
}

fn finish(command: &Command, matches: &ArgMatches) -> Result<Parsed> {
    if matches.get_flag("print_config") {
        return Ok(Parsed::Print(printed(command, matches)));
    }
    let cli = Cli::from_arg_matches(matches).unwrap_or_else(|e| e.exit());
    Ok(Parsed::Run(Box::new(cli)))
}

/// The names of the subcommands, and the matches of the last one.
fn innermost(matches: &ArgMatches) -> (Vec<String>, &ArgMatches) {
    let mut path = Vec::new();
    let mut at = matches;
    while let Some((name, inner)) = at.subcommand() {
        path.push(name.to_string());
        at = inner;
    }
    (path, at)
}

/// The file to read: the one named, or the usual one if it is there.
fn file(matches: &ArgMatches) -> Result<Option<PathBuf>> {
    match matches.get_one::<PathBuf>("config") {
        Some(path) if path.as_os_str() == "none" => Ok(None),
        Some(path) => Ok(Some(path.clone())),
        None => Ok(Some(PathBuf::from(FILE)).filter(|path| path.is_file())),
    }
}

/// Behind the last of the subcommands' names.
fn position_after(args: &[OsString], path: &[String]) -> usize {
    let mut at = 1;
    for name in path {
        at += 1 + args[at..].iter().position(|a| a == name.as_str()).expect("it matched");
    }
    at
}

/// Whether the option, or one that excludes it, was typed.
fn on_the_command_line(leaf: &Command, matches: &ArgMatches, arg: &Arg) -> bool {
    let typed = |id: &str| matches.value_source(id).is_some_and(|s| s == ValueSource::CommandLine);
    typed(arg.get_id().as_str())
        || leaf.get_arg_conflicts_with(arg).iter().any(|other| typed(other.get_id().as_str()))
        // A conflict may be declared on either side.
        || leaf.get_arguments().any(|other| {
            typed(other.get_id().as_str())
                && leaf.get_arg_conflicts_with(other).iter().any(|c| c.get_id() == arg.get_id())
        })
}

/// The options of a command that a file may set: those with a long name, without the general ones.
fn options(leaf: &Command) -> impl Iterator<Item = &Arg> {
    leaf.get_arguments().filter(|a| {
        a.get_long().is_some()
            && !a.is_global_set()
            && !matches!(
                a.get_id().as_str(),
                "help" | "version" | "list" | "config" | "print_config"
            )
    })
}

struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn error(&self, at: usize, what: impl std::fmt::Display) -> anyhow::Error {
        let line = self.text[..at.min(self.text.len())].matches('\n').count() + 1;
        anyhow::anyhow!("{}:{line}: {what}", self.file.display())
    }

    fn tables(&self) -> Result<DeTable<'_>> {
        let parsed = DeTable::parse(self.text);
        let parsed =
            parsed.map_err(|e| self.error(e.span().map_or(0, |s| s.start), e.message()))?;
        Ok(parsed.into_inner())
    }

    /// The entries of the command's table, none if it has no table. On the way down every table
    /// must be a command's.
    fn table<'t>(
        &self,
        tables: &'t DeTable<'t>,
        command: &Command,
        path: &[String],
    ) -> Result<Vec<(&'t Key<'t>, &'t Spanned<DeValue<'t>>)>> {
        let (mut here, mut tables) = (command, tables);
        for name in path {
            for key in tables.keys() {
                if here.find_subcommand(&**key.get_ref()).is_none() {
                    let names: Vec<&str> = here.get_subcommands().map(Command::get_name).collect();
                    let what = format!(
                        "expected a table for a command ({}), found {:?}",
                        names.join(", "),
                        key.get_ref()
                    );
                    return Err(self.error(key.span().start, what));
                }
            }
            let Some((key, value)) = tables.iter().find(|(k, _)| **k.get_ref() == **name) else {
                return Ok(Vec::new());
            };
            let DeValue::Table(inner) = value.get_ref() else {
                return Err(self.error(key.span().start, format!("expected a table [{name}]")));
            };
            here = here.find_subcommand(name).expect("it matched");
            tables = inner;
        }
        Ok(tables.iter().collect())
    }

    /// The option that a key means; `_` and `-` are the same.
    fn argument<'c>(&self, leaf: &'c Command, key: &Key<'_>) -> Result<&'c Arg> {
        let name = key.get_ref().replace('_', "-");
        if let Some(arg) = options(leaf).find(|a| a.get_long() == Some(&name)) {
            return Ok(arg);
        }
        let names: Vec<&str> = options(leaf).filter_map(Arg::get_long).collect();
        let nearest = names
            .iter()
            .map(|n| (strsim::jaro_winkler(n, &name), n))
            .filter(|(score, _)| *score > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match nearest {
            Some((_, near)) => format!("did you mean {near:?}?"),
            None => format!("there are: {}", names.join(", ")),
        };
        let what = format!("`{}` has no option {:?}; {hint}", leaf.get_name(), key.get_ref());
        Err(self.error(key.span().start, what))
    }

    /// A key and its value as words of a command line.
    fn words(
        &self,
        arg: &Arg,
        key: &Key<'_>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Vec<OsString>> {
        let long = arg.get_long().expect("options have long names");
        let wrong = |expected: &str| {
            let found = value.get_ref().type_str();
            self.error(key.span().start, format!("{long}: expected {expected}, found a {found}"))
        };
        let flag = !arg.get_action().takes_values();
        match value.get_ref() {
            DeValue::Boolean(on) if flag => {
                Ok(on.then(|| OsString::from(format!("--{long}"))).into_iter().collect())
            }
            _ if flag => Err(wrong("true or false")),
            DeValue::Array(items) if arg.get_value_delimiter().is_some() => {
                if items.is_empty() {
                    return Ok(Vec::new());
                }
                let items: Option<Vec<String>> =
                    items.iter().map(|item| word(item.get_ref())).collect();
                let items = items.ok_or_else(|| wrong("strings or numbers in the array"))?;
                Ok(vec![format!("--{long}={}", items.join(",")).into()])
            }
            scalar => match word(scalar) {
                Some(text) => Ok(vec![format!("--{long}={text}").into()]),
                None => Err(wrong("a string or a number")),
            },
        }
    }

    /// Lets clap look at one option alone, so that a bad value is told with its place.
    fn check(
        &self,
        command: &Command,
        path: &[String],
        key: &Key<'_>,
        words: &[OsString],
    ) -> Result<()> {
        let line = [OsString::from(command.get_name())].into_iter();
        let line = line.chain(path.iter().map(OsString::from)).chain(words.iter().cloned());
        let quiet = command.clone().ignore_errors(false);
        if let Err(e) = quiet.try_get_matches_from(line) {
            use clap::error::ErrorKind::*;
            if matches!(e.kind(), InvalidValue | ValueValidation | WrongNumberOfValues) {
                let text = e.to_string();
                let first = text.lines().next().unwrap_or_default();
                let first = first.strip_prefix("error: ").unwrap_or(first);
                return Err(self.error(key.span().start, first));
            }
        }
        Ok(())
    }
}

fn word(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(n) => Some(n.to_string()),
        DeValue::Float(x) => Some(x.to_string()),
        _ => None,
    }
}

/// Every option of the command with the value in force, as a file that can be read back. Options
/// without a value stand as comments.
fn printed(command: &Command, matches: &ArgMatches) -> String {
    let (path, inner) = innermost(matches);
    let leaf = path.iter().fold(command, |c, name| c.find_subcommand(name).expect("it matched"));
    let mut out = format!("# {FILE}: what `llm-bench {}` uses\n", path.join(" "));
    let _ = writeln!(out, "[{}]", path.join("."));
    for arg in options(leaf).filter(|a| !a.is_hide_set()) {
        if let Some(help) = arg.get_help() {
            let _ = writeln!(out, "\n# {help}");
        }
        let key = arg.get_long().expect("options have long names");
        match value_in_force(arg, inner) {
            Some(value) => {
                let _ = writeln!(out, "{key} = {value}");
            }
            None => {
                let _ = writeln!(out, "# {key} =");
            }
        }
    }
    out
}

fn value_in_force(arg: &Arg, matches: &ArgMatches) -> Option<String> {
    let id = arg.get_id().as_str();
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return Some(matches.get_flag(id).to_string());
    }
    let raw: Vec<String> =
        matches.get_raw(id)?.map(|v| v.to_string_lossy().into_owned()).map(literal).collect();
    match arg.get_value_delimiter() {
        Some(_) => Some(format!("[{}]", raw.join(", "))),
        None => raw.into_iter().next(),
    }
}

/// A number as it is, anything else as a TOML string.
fn literal(text: String) -> String {
    let number = text.parse::<i64>().is_ok()
        || (text.contains('.') && text.parse::<f64>().is_ok_and(f64::is_finite));
    if number { text } else { toml::Value::String(text).to_string() }
}
