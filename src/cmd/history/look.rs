//! What a history shows: its lines, their course, their changes.

use std::path::Path;

use anyhow::{Result, bail};

use crate::cli::history::{ChangesArgs, HtmlArgs, ListArgs, MarginArgs, PlotArgs, ShowArgs};
use crate::history::{Course, Filter, Store};
use crate::metric::{Metric, Rank};
use crate::progress::say;
use crate::record::write_atomically;
use crate::report::of::history as text;
use crate::report::{Format, Style, print};

/// The least change that counts, as of a verdict.
const MARGIN: f64 = 0.05;
/// Panels of one SVG.
const MOST_PANELS: usize = 50;

pub fn list(db: &Path, args: &ListArgs) -> Result<()> {
    let lines = Store::open_to_read(db)?.lines(&args.filter.filter())?;
    print(&text::list(&lines, args.output.output.format(), Style::of_stdout()))
}

pub fn show(db: &Path, args: &ShowArgs) -> Result<()> {
    let metric = args.metric.parse()?;
    let courses = courses(db, metric, &args.filter.filter(), &args.margin)?;
    let format = args.output.output.format();
    print(&text::show(&courses, args.last, format, Style::of_stdout()))
}

pub fn plot(db: &Path, args: &PlotArgs) -> Result<()> {
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

pub fn changes(db: &Path, args: &ChangesArgs) -> Result<()> {
    let filter = args.filter.filter();
    let mut all = Vec::new();
    for metric in metrics(&args.metric)? {
        all.extend(courses(db, metric, &filter, &args.margin)?);
    }
    let format = args.output.output.format();
    if matches!(format, Format::Json | Format::Csv) {
        // A program gets rows of changes; why there is none, a reader of stderr learns.
        text::unchanged(&all).iter().for_each(|line| say(line));
    }
    print(&text::changes(&all, format, Style::of_stdout()))
}

pub fn html(db: &Path, args: &HtmlArgs) -> Result<()> {
    let filter = args.filter.filter();
    let metrics = metrics(&[])?.into_iter();
    let metrics = metrics.map(|m| Ok((m, courses(db, m, &filter, &args.margin)?)));
    let metrics = metrics.collect::<Result<Vec<_>>>()?;
    let file = args.output_dir.join("index.html");
    write_atomically(&file, text::page(&metrics).as_bytes())?;
    say(&format!("wrote {}", file.display()));
    Ok(())
}

/// The lines of a metric, searched for change points.
fn courses(db: &Path, metric: Metric, filter: &Filter, margin: &MarginArgs) -> Result<Vec<Course>> {
    let of_metric = margin.margin.iter().rfind(|m| m.metric.as_deref() == Some(metric.name()));
    let margin = of_metric.or(margin.margin.iter().rfind(|m| m.metric.is_none()));
    let margin = margin.map_or(MARGIN, |m| m.share);
    Store::open_to_read(db)?.courses(metric, filter, margin)
}

/// Those that are named, else the primary ones.
fn metrics(names: &[String]) -> Result<Vec<Metric>> {
    match names {
        [] => Ok(Metric::of_rank(Rank::Primary).collect()),
        names => names.iter().map(|name| Ok(name.parse()?)).collect(),
    }
}
