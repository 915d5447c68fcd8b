//! `llm-bench.toml`: defaults for the command line, one table for each command, keys named like
//! the long options. The command line wins over the file of the current folder, and that one over
//! the file in the user's configuration folder; `trust` says what each may set. `--print-config`
//! writes every option of a command with the value in force, in the same form.

mod trust;

use std::ffi::OsString;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use self::trust::Trust;
use super::Cli;
use crate::progress::say;
use crate::user;

/// Read from the current folder and from the user's, where `--config` names no other file.
pub const FILE: &str = "llm-bench.toml";

/// Far above any file of settings.
const MAX_FILE: u64 = 1 << 20;

/// What a command line with its configuration file asks for.
pub enum Parsed {
    Run(Box<Cli>),
    /// `--print-config`: the text to print.
    Print(String),
}

type Key<'t> = Spanned<DeString<'t>>;

/// Parses the command line over the configuration files. clap prints its own errors and exits.
pub fn parse(args: Vec<OsString>) -> Result<Parsed> {
    let command = Cli::command();
    let mut args = args;
    let mut matches = command.clone().get_matches_from(&args);
    // An interrupted run goes on with its own settings.
    if innermost(&matches).1.try_contains_id("resume").is_ok_and(|given| given) {
        return finish(&command, &matches);
    }
    // What one file sets counts as typed for the next one.
    for (file, trust) in files(&matches)? {
        let text = read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let source = Source { file: &file, text: &text, trust };
        let (path, inner) = innermost(&matches);
        let (keys, words) = source.apply(&command, &path, inner)?;
        if keys.is_empty() {
            continue;
        }
        say(&format!("settings from {}: {}", file.display(), keys.join(", ")));
        // They go behind the last subcommand's name, so that they are its options.
        let at = position_after(&args, &path);
        args.splice(at..at, words);
        matches = command.clone().get_matches_from(&args);
    }
    finish(&command, &matches)
}

/// The text of a configuration file.
fn read(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MAX_FILE {
        true => Err(std::io::Error::other(format!("expected at most {MAX_FILE} bytes"))),
        false => Ok(text),
    }
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

/// The files to read, the strongest first: the one named, or else those in the current folder and
/// in the user's configuration folder, if they are there.
fn files(matches: &ArgMatches) -> Result<Vec<(PathBuf, Trust)>> {
    match matches.get_one::<PathBuf>("config") {
        Some(path) if path.as_os_str() == "none" => return Ok(Vec::new()),
        Some(path) => return Ok(vec![(path.clone(), Trust::User)]),
        None => {}
    }
    let own = user::config_dir().map(|dir| dir.join(FILE)).filter(|path| path.is_file());
    let here = Some(PathBuf::from(FILE)).filter(|path| path.is_file());
    // In the user's own folder both are one file.
    let real = |path: &PathBuf| path.canonicalize().ok();
    let here =
        here.filter(|here| own.as_ref().and_then(real).is_none_or(|o| real(here) != Some(o)));
    let here = here.map(|path| (path, Trust::Folder));
    Ok(here.into_iter().chain(own.map(|path| (path, Trust::User))).collect())
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
    trust: Trust,
}

impl Source<'_> {
    /// The keys that the command takes from this file, and its words.
    fn apply(
        &self,
        command: &Command,
        path: &[String],
        matches: &ArgMatches,
    ) -> Result<(Vec<String>, Vec<OsString>)> {
        let leaf = path.iter().fold(command, |c, n| c.find_subcommand(n).expect("it matched"));
        let (mut keys, mut all) = (Vec::new(), Vec::new());
        let tables = self.tables()?;
        for (key, value) in self.table(&tables, command, path)? {
            let arg = self.argument(leaf, key)?;
            if on_the_command_line(leaf, matches, arg) {
                continue;
            }
            let words = self.words(arg, key, value)?;
            self.check(command, path, key, &words)?;
            self.permit(leaf, arg, key, &words)?;
            if !words.is_empty() {
                keys.push(arg.get_long().unwrap_or_default().to_string());
                all.extend(words);
            }
        }
        Ok((keys, all))
    }

    /// Refuses what a file that nobody named may not set.
    fn permit(&self, leaf: &Command, arg: &Arg, key: &Key<'_>, words: &[OsString]) -> Result<()> {
        if self.trust == Trust::User {
            return Ok(());
        }
        for word in words {
            let word = word.to_string_lossy();
            let value = word.split_once('=').map_or("true", |(_, value)| value);
            if let Some(why) = trust::refusal(leaf, arg, value, Path::new(".")) {
                let long = arg.get_long().unwrap_or_default();
                let what = format!(
                    "{long}: {why}; a file that is found in the current folder sets only what is \
                     measured. If you trust it, name it (--config {}); or give --{long} yourself",
                    self.file.display()
                );
                return Err(self.error(key.span().start, what));
            }
        }
        Ok(())
    }

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
