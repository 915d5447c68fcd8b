//! CSV with one line per session and metric, for spreadsheets and data frames. `n`, `mean` and `sd`
//! are for the reader: `launches` holds the data, and the others must agree with it.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use csv::{ReaderBuilder, StringRecord, WriterBuilder};
use serde_json::{Map, Value};

use super::checked;
use crate::history::{Filter, Identity, Session, Store};
use crate::identity::Cell;
use crate::metric::Metric;
use crate::spreadsheet::{armed, defused};
use crate::stats::describe;

/// How closely a mean must agree, since a spreadsheet may have rewritten it.
const DIGITS: f64 = 1e-9;

/// Columns of the session, in the order of its fields.
const SESSION: &[(&str, Cell)] = &[
    ("form", Cell::Text),
    ("run_id", Cell::Text),
    ("started_at", Cell::Text),
    ("complete", Cell::Json),
    ("commit", Cell::Optional),
    ("dirty", Cell::Json),
    ("committed_at", Cell::Optional),
    ("version", Cell::Text),
    ("executable_sha256", Cell::Optional),
    ("kernel", Cell::Optional),
    ("versions", Cell::Json),
];
const METRIC: [&str; 6] = ["metric", "unit", "n", "mean", "sd", "launches"];

/// All columns in order, with these of an identity.
fn columns(identity: &[(&'static str, Cell)]) -> impl Iterator<Item = &'static str> {
    SESSION.iter().chain(identity).map(|(name, _)| *name).chain(METRIC)
}

pub(super) fn write(store: &Store, filter: &Filter, out: &mut dyn Write) -> Result<()> {
    let mut csv = WriterBuilder::new().from_writer(out);
    csv.write_record(columns(Identity::COLUMNS)).map_err(io)?;
    store.each(filter, |session| {
        let whole = serde_json::to_value(&session)?;
        let cells = SESSION.iter().map(|(name, _)| cell(&whole[*name]));
        let cells =
            cells.chain(Identity::COLUMNS.iter().map(|(name, _)| cell(&whole["identity"][*name])));
        let cells: Vec<String> = cells.collect();
        for (metric, values) in &session.metrics {
            let s = describe(values).with_context(|| metric.clone())?;
            let launches: Vec<String> = values.iter().map(|v| number(*v)).collect();
            let line = [
                metric.clone(),
                metric.parse::<Metric>().map_or("", |m| m.unit().as_str()).to_string(),
                s.n.to_string(),
                number(s.mean),
                s.sd.map(number).unwrap_or_default(),
                launches.join(" "),
            ];
            csv.write_record(cells.iter().chain(&line).map(|c| defused(c))).map_err(io)?;
        }
        Ok(())
    })?;
    Ok(csv.flush()?)
}

/// The number as JSON writes it: the shortest text that reads back as the same number.
fn number(x: f64) -> String {
    serde_json::to_string(&x).expect("finite numbers")
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Keeps the kind of a failed write, so that a closed pipe can be recognized.
fn io(error: csv::Error) -> anyhow::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(e) => e.into(),
        other => anyhow!("{other:?}"),
    }
}

/// Reads the sessions of a file. Lines of one session must follow each other.
pub(super) fn read<'p>(
    path: &'p Path,
    from: impl Read + 'p,
) -> Result<impl Iterator<Item = Result<Session>> + 'p> {
    let mut csv = ReaderBuilder::new().flexible(false).from_reader(from);
    let header = csv.headers().with_context(|| format!("{}:1", path.display()))?.clone();
    let in_header = |name: &str| header.iter().any(|column| column == name);
    let identity: Vec<(&'static str, Cell)> = Identity::COLUMNS
        .iter()
        .copied()
        .filter(|(name, _)| in_header(name) || !Identity::LATER.contains(name))
        .collect();
    if !header.iter().eq(columns(&identity)) {
        let found: String = header.iter().collect::<Vec<_>>().join(",").chars().take(80).collect();
        bail!(
            "{}:1: expected the columns of `llm-bench history export --form csv`, found {found:?}",
            path.display()
        );
    }
    let mut lines = csv.into_records();
    let mut next: Option<(String, StringRecord)> = None;
    let mut take = move || -> Option<Result<(String, StringRecord)>> {
        let line = lines.next()?;
        let line = line.map_err(|e| anyhow!("{}: {e}", path.display()));
        Some(line.map(|line| {
            let number = line.position().map_or(0, csv::Position::line);
            (format!("{}:{number}", path.display()), line)
        }))
    };
    Ok(std::iter::from_fn(move || {
        let (place, first) = match next.take() {
            Some(line) => line,
            None => match take()? {
                Ok(line) => line,
                Err(e) => return Some(Err(e)),
            },
        };
        let mut session = match session(&first, &identity).with_context(|| place.clone()) {
            Ok(session) => session,
            Err(e) => return Some(Err(e)),
        };
        let shared = SESSION.len() + identity.len();
        let same = |line: &StringRecord| line.iter().take(shared).eq(first.iter().take(shared));
        let mut line = Some(Ok((place.clone(), first.clone())));
        while let Some(here) = line {
            let added = here.and_then(|(at, line)| {
                if !same(&line) {
                    next = Some((at, line));
                    return Ok(false);
                }
                metric(&mut session, line.iter().skip(shared)).with_context(|| at)?;
                Ok(true)
            });
            match added {
                Ok(true) => line = take(),
                Ok(false) => break,
                Err(e) => return Some(Err(e)),
            }
        }
        Some(checked(session, &place))
    }))
}

/// A session without metrics, from its first line.
fn session(line: &StringRecord, identity: &[(&str, Cell)]) -> Result<Session> {
    let cells = line.iter();
    let mut whole = object(SESSION, cells.clone())?;
    let identity = object(identity, cells.skip(SESSION.len()))?;
    whole.insert("identity".into(), identity.into());
    whole.insert("metrics".into(), Map::new().into());
    Ok(serde_json::from_value(whole.into())?)
}

fn object<'l>(
    columns: &[(&str, Cell)],
    cells: impl Iterator<Item = &'l str>,
) -> Result<Map<String, Value>> {
    let mut object = Map::new();
    for ((name, kind), text) in columns.iter().zip(cells.map(armed)) {
        let value = match kind {
            Cell::Optional | Cell::Json if text.is_empty() => continue,
            Cell::Text | Cell::Optional => Value::from(text),
            Cell::Json => serde_json::from_str(text).with_context(|| format!("column {name}"))?,
        };
        object.insert(name.to_string(), value);
    }
    Ok(object)
}

fn metric<'l>(session: &mut Session, mut cells: impl Iterator<Item = &'l str>) -> Result<()> {
    let [metric, unit, n, mean, sd, launches] =
        METRIC.map(|_| armed(cells.next().unwrap_or_default()));
    let values = launches.split(' ').map(|v| {
        let value: Option<f64> = v.parse().ok();
        value
            .filter(|x| x.is_finite())
            .with_context(|| format!("column launches: expected finite numbers, found {v:?}"))
    });
    let values: Vec<f64> = values.collect::<Result<_>>()?;
    let s = describe(&values).with_context(|| format!("column launches of {metric}"))?;
    let known = metric.parse::<Metric>().context("column metric")?.unit().as_str();
    ensure!(unit == known, "column unit: expected {known:?} for {metric}, found {unit:?}");
    let agrees = |name: &str, text: &str, value: Option<f64>| {
        let fine = match (text.parse::<f64>().ok(), value) {
            (Some(found), Some(x)) => (found - x).abs() <= DIGITS * x.abs(),
            (None, None) => text.is_empty(),
            _ => false,
        };
        ensure!(fine, "column {name} of {metric}: {text:?} does not agree with launches");
        Ok(())
    };
    agrees("n", n, Some(s.n as f64))?;
    agrees("mean", mean, Some(s.mean))?;
    agrees("sd", sd, s.sd)?;
    ensure!(
        session.metrics.insert(metric.to_string(), values).is_none(),
        "{metric}: appears twice for one session"
    );
    Ok(())
}
