//! `history`: results over commits, in and out of one database file.

use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;

use super::report::format_of;
use crate::cli::history::{
    AddArgs, ChangesArgs, ExportArgs, HistoryArgs, HistoryCommand, HtmlArgs, ImportArgs, ListArgs,
    MarginArgs, PlotArgs, ShowArgs,
};
use crate::git;
use crate::history::{self, Added, Course, Filter, Form, Session, Store};
use crate::interrupt;
use crate::metric::{Metric, Rank};
use crate::progress::say;
use crate::record::{Record, write_atomically};
use crate::report::Style;
use crate::report::of::history as text;
use crate::shell;

/// The least change that counts, as of a verdict.
const MARGIN: f64 = 0.05;
/// Panels of one SVG.
const MOST_PANELS: usize = 50;

pub fn run(args: &HistoryArgs) -> Result<()> {
    let db = &args.db;
    match &args.command {
        HistoryCommand::Add(args) => add(db, args),
        HistoryCommand::List(args) => list(db, args),
        HistoryCommand::Show(args) => show(db, args),
        HistoryCommand::Plot(args) => draw(db, args),
        HistoryCommand::Changes(args) => changes(db, args),
        HistoryCommand::Html(args) => html(db, args),
        HistoryCommand::Import(args) => import(db, args),
        HistoryCommand::Export(args) => export(db, args),
    }
}

fn add(db: &Path, args: &AddArgs) -> Result<()> {
    let mut sessions = Vec::new();
    for file in &args.files {
        match of_file(file, args.commit.as_deref(), args.incomplete) {
            Ok(found) => sessions.extend(found),
            Err(e) if args.skip => say(&format!("left out: {e:#}")),
            Err(e) if args.files.len() > 1 => {
                return Err(e.context("nothing was added (--skip leaves such files out)"));
            }
            Err(e) => return Err(e),
        }
    }
    if sessions.is_empty() {
        bail!("none of the {} files could be added", args.files.len());
    }
    add_sessions(db, sessions)
}

/// Adds the result of one run.
pub(super) fn add_record(db: &Path, file: &Path, commit: Option<&str>) -> Result<()> {
    add_sessions(db, of_file(file, commit, false)?)
}

/// All of them or, after any error, none.
fn add_sessions(db: &Path, sessions: Vec<Session>) -> Result<()> {
    let added = Store::open_to_write(db)?.add(sessions.into_iter().map(Ok))?;
    told(db, added);
    Ok(())
}

fn of_file(file: &Path, commit: Option<&str>, incomplete: bool) -> Result<Vec<Session>> {
    let shown = file.display();
    let record = Record::read(file)?;
    if record.run.config.get("gate").is_some() {
        bail!(
            "{shown}: expected the result of one build, found a gate's, which has two under one \
             name; measure the build alone with `llm-bench track`"
        );
    }
    if !record.run.complete && !incomplete {
        bail!(
            "{shown}: the run was cut off, and the mean of a part of its plan is not that of the \
             whole; finish it with `llm-bench run --resume {}`, or add it as it is with \
             --incomplete",
            shell::path(file)
        );
    }
    let mut sessions = history::sessions(&record).with_context(|| shown.to_string())?;
    if sessions.is_empty() {
        bail!("{shown}: no engine has a launch that succeeded; there is nothing to add");
    }
    if let Some(commit) = commit {
        for session in &mut sessions {
            (session.commit, session.dirty) = (Some(commit.to_string()), None);
        }
    }
    let time = sessions[0].commit.as_deref().and_then(|c| git::commit_time(Path::new("."), c));
    sessions.iter_mut().for_each(|s| s.committed_at = time.clone());
    Ok(sessions)
}

fn told(db: &Path, added: Added) {
    let mut parts = vec![match added.new {
        1 => "added 1 session".to_string(),
        n => format!("added {n} sessions"),
    }];
    if added.replaced > 0 {
        parts.push(format!("completed {}", added.replaced));
    }
    if added.present > 0 {
        parts.push(format!("{} were there already", added.present));
    }
    say(&format!("{}: {}", db.display(), parts.join(", ")));
}

fn list(db: &Path, args: &ListArgs) -> Result<()> {
    let lines = Store::open_to_read(db)?.lines(&args.filter.filter())?;
    print(&text::list(&lines, format_of(args.output.output), Style::of_stdout()))
}

fn show(db: &Path, args: &ShowArgs) -> Result<()> {
    let metric = args.metric.parse()?;
    let courses = courses(db, metric, &args.filter.filter(), &args.margin)?;
    let format = format_of(args.output.output);
    print(&text::show(&courses, args.last, format, Style::of_stdout()))
}

fn draw(db: &Path, args: &PlotArgs) -> Result<()> {
    let metric = args.metric.parse()?;
    let courses = courses(db, metric, &args.filter.filter(), &args.margin)?;
    if let Some(file) = &args.output {
        if courses.len() > MOST_PANELS {
            bail!(
                "plot {}: {} lines do not fit into one picture (at most {MOST_PANELS}); choose \
                 some with --engine, --model, --quant, --host or --identity",
                metric.name(),
                courses.len()
            );
        }
        write_atomically(file, text::picture(&courses).as_bytes())?;
        say(&format!("wrote {}", file.display()));
    }
    print(&text::sparklines(&courses, Style::of_stdout()))
}

fn changes(db: &Path, args: &ChangesArgs) -> Result<()> {
    let filter = args.filter.filter();
    let mut all = Vec::new();
    for metric in metrics(&args.metric)? {
        all.extend(courses(db, metric, &filter, &args.margin)?);
    }
    print(&text::changes(&all, format_of(args.output.output), Style::of_stdout()))
}

fn html(db: &Path, args: &HtmlArgs) -> Result<()> {
    let filter = args.filter.filter();
    let metrics = metrics(&[])?.into_iter();
    let metrics = metrics.map(|m| Ok((m, courses(db, m, &filter, &args.margin)?)));
    let metrics = metrics.collect::<Result<Vec<_>>>()?;
    let file = args.output_dir.join("index.html");
    write_atomically(&file, text::page(&metrics).as_bytes())?;
    say(&format!("wrote {}", file.display()));
    Ok(())
}

fn import(db: &Path, args: &ImportArgs) -> Result<()> {
    let form = |file: &PathBuf| {
        let by_name = || Form::of_name(file);
        args.form.map(Form::from).or_else(by_name).with_context(|| {
            format!("{}: expected .jsonl, .csv or .sql; --form says what it is", file.display())
        })
    };
    let forms = args.files.iter().map(form).collect::<Result<Vec<_>>>()?;
    let mut store = Store::open_to_write(db)?;
    for (file, form) in args.files.iter().zip(forms) {
        told(db, history::import(&mut store, file, form)?);
    }
    Ok(())
}

fn export(db: &Path, args: &ExportArgs) -> Result<()> {
    let by_name = args.output.as_deref().and_then(Form::of_name);
    let form = args.form.map(Form::from).or(by_name).unwrap_or(Form::Jsonl);
    let store = Store::open_to_read(db)?;
    let filter = args.filter.filter();
    let Some(file) = &args.output else {
        let mut out = BufWriter::with_capacity(1 << 16, stdout().lock());
        history::write_out(&store, &filter, form, &mut out)?;
        return Ok(out.flush()?);
    };
    let mut bytes = Vec::new();
    history::write_out(&store, &filter, form, &mut bytes)?;
    write_atomically(file, &bytes)?;
    say(&format!("wrote {}", file.display()));
    Ok(())
}

/// The lines of a metric, searched for change points.
fn courses(db: &Path, metric: Metric, filter: &Filter, margin: &MarginArgs) -> Result<Vec<Course>> {
    let of_metric = margin.margin.iter().rfind(|m| m.metric.as_deref() == Some(metric.name()));
    let margin = of_metric.or(margin.margin.iter().rfind(|m| m.metric.is_none()));
    let margin = margin.map_or(MARGIN, |m| m.share);
    let series = Store::open_to_read(db)?.series(metric, filter)?;
    let courses = series.into_par_iter().map(|series| match interrupt::requested() {
        true => bail!("stopped"),
        false => Ok(Course::new(series, margin)),
    });
    courses.collect()
}

/// Those that are named, else the primary ones.
fn metrics(names: &[String]) -> Result<Vec<Metric>> {
    match names {
        [] => Ok(Metric::of_rank(Rank::Primary).collect()),
        names => names.iter().map(|name| Ok(name.parse()?)).collect(),
    }
}

fn print(text: &str) -> Result<()> {
    Ok(stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush())?)
}
