//! A line of a history: one metric of one identity over its sessions, ordered by commit, and where
//! it changed.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Result, bail};
use rayon::prelude::*;

use super::session::sessions;
use super::{Filter, Identity, Store};
use crate::interrupt;
use crate::metric::{Better, Metric};
use crate::record::Record;
use crate::stats::{self, ChangeKind, ChangePoint, Interval, Levels, Search};

/// The build that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision {
    pub commit: Option<String>,
    /// The program file of a build with uncommitted changes, which distinguishes it.
    pub changed: Option<String>,
}

/// One session.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Milliseconds since 1970: its place on the line, and the time of the measurement.
    pub place: i64,
    pub measured: i64,
    pub session: i64,
    /// Index into the series' revisions.
    pub revision: u32,
    /// Number of launches, their mean and their standard deviation.
    pub n: u32,
    pub mean: f64,
    pub sd: Option<f64>,
    /// Whether every planned launch is included.
    pub complete: bool,
}

/// One metric of one identity, in order.
#[derive(Debug, Clone)]
pub struct Series {
    pub id: i64,
    pub identity: Identity,
    pub metric: Metric,
    pub points: Vec<Point>,
    pub revisions: Vec<Revision>,
}

/// Neighbouring sessions of one commit.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Indices of the group's points.
    pub points: std::ops::Range<usize>,
    pub revision: u32,
    pub launches: u32,
    /// Mean of the sessions' means.
    pub mean: f64,
    /// 95 % interval, Student's t: over the launches of a single session, or over the means of
    /// several.
    pub interval: Option<Interval>,
}

impl Point {
    /// 95 % interval, Student's t over launches; `None` for one launch.
    pub fn interval(&self) -> Option<Interval> {
        stats::mean_interval(self.n as usize, self.mean, self.sd?, 0.95)
    }
}

impl Revision {
    fn is(&self, commit: Option<&str>, changed: Option<&str>) -> bool {
        self.commit.as_deref() == commit && self.changed.as_deref() == changed
    }

    /// `3fa9c21d0b`, with a plus sign for a build with changes; `None` if the commit is not known.
    pub fn label(&self) -> Option<String> {
        let commit: String = self.commit.as_ref()?.chars().take(10).collect();
        Some(format!("{commit}{}", if self.changed.is_some() { "+" } else { "" }))
    }
}

impl Series {
    pub fn revision(&self, point: &Point) -> &Revision {
        &self.revisions[point.revision as usize]
    }
}

impl Store {
    /// The lines of a metric that the filter accepts, searched for changes beyond `margin`.
    ///
    /// # Errors
    /// The database cannot be read, or the user stopped the search.
    pub fn courses(&self, metric: Metric, filter: &Filter, margin: f64) -> Result<Vec<Course>> {
        let series = self.series(metric, filter)?;
        crate::threads::prepare_rayon();
        let courses = series.into_par_iter().map(|series| match interrupt::requested() {
            true => bail!("stopped"),
            false => Ok(Course::new(series, margin)),
        });
        courses.collect()
    }

    /// The lines of a metric that the filter accepts, each in order.
    pub fn series(&self, metric: Metric, filter: &Filter) -> Result<Vec<Series>> {
        let mut all: Vec<Series> = Vec::new();
        let mut by_id: HashMap<i64, usize> = HashMap::new();
        for (id, identity) in self.identities(filter)? {
            by_id.insert(id, all.len());
            let (points, revisions) = (Vec::new(), Vec::new());
            all.push(Series { id, identity, metric, points, revisions });
        }
        let mut known: Vec<HashMap<Revision, u32>> = vec![HashMap::new(); all.len()];
        self.points(metric, filter.since, |row| {
            let Some(&at) = by_id.get(&row.get(0)?) else { return Ok(()) };
            let series = &mut all[at];
            let text = |i| row.get_ref(i)?.as_str_or_null().map_err(rusqlite::Error::from);
            let changed = match row.get::<_, Option<bool>>(8)? {
                Some(true) => Some(text(9)?.unwrap_or_default()),
                _ => None,
            };
            let commit = text(7)?;
            // Neighbours mostly share a commit, which saves the lookup.
            let last = series.points.last().map(|p| p.revision);
            let is_last = |r: &u32| series.revisions[*r as usize].is(commit, changed);
            let revision = last.filter(is_last).unwrap_or_else(|| {
                let [commit, changed] = [commit, changed].map(|t| t.map(str::to_string));
                let next = series.revisions.len() as u32;
                let revisions = &mut series.revisions;
                *known[at].entry(Revision { commit, changed }).or_insert_with_key(|revision| {
                    revisions.push(revision.clone());
                    next
                })
            });
            series.points.push(Point {
                place: row.get(1)?,
                measured: row.get(2)?,
                session: row.get(3)?,
                revision,
                n: row.get(4)?,
                mean: row.get(5)?,
                sd: row.get(6)?,
                complete: row.get(10)?,
            });
            Ok(())
        })?;
        all.retain(|series| !series.points.is_empty());
        for series in &mut all {
            series.points.sort_unstable_by_key(|p| (p.place, p.measured, p.session));
        }
        Ok(all)
    }
}

/// The lines of a metric in some records alone, without a database.
///
/// # Errors
/// A record's values do not fit into a history, or two records have one id and other values.
pub fn courses_of(records: &[Record], metric: Metric, margin: f64) -> Result<Vec<Course>> {
    let mut store = Store::in_memory(Path::new("these results"))?;
    let all = records.iter().map(sessions).collect::<Result<Vec<_>>>()?;
    store.add(all.into_iter().flatten().map(Ok))?;
    store.courses(metric, &Filter::default(), margin)
}

fn groups(series: &Series) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut start = 0;
    for end in 1..=series.points.len() {
        let revision = series.points[start].revision;
        let goes_on = series.points.get(end).is_some_and(|p| {
            p.revision == revision && series.revisions[revision as usize].commit.is_some()
        });
        if !goes_on {
            groups.push(group(&series.points, start..end));
            start = end;
        }
    }
    groups
}

fn group(points: &[Point], range: std::ops::Range<usize>) -> Group {
    let of = &points[range.clone()];
    let means: Vec<f64> = of.iter().map(|p| p.mean).collect();
    let over_sessions = stats::Sample::new(&means).ok();
    Group {
        points: range,
        revision: of[0].revision,
        launches: of.iter().map(|p| p.n).sum(),
        mean: over_sessions.as_ref().map_or(of[0].mean, stats::Sample::mean),
        interval: match of {
            [one] => one.interval(),
            _ => over_sessions.and_then(|s| s.mean_interval(0.95)),
        },
    }
}

/// A line and its levels.
#[derive(Debug, Clone)]
pub struct Course {
    pub series: Series,
    /// The smallest change that counts, as a share.
    pub margin: f64,
    /// The levels of the session means. `None` if a mean is not above zero, because a share of it
    /// would mean nothing.
    pub levels: Option<Levels>,
}

impl Course {
    /// Looks for changes of level that may be as large as `margin`. They are advice: the rate of
    /// false alarms of 1 % holds for each line, not over all lines together.
    pub fn new(series: Series, margin: f64) -> Self {
        let means: Vec<f64> = series.points.iter().map(|p| p.mean).collect();
        let search = Search { least_change: margin, ..Search::default() };
        let levels = stats::levels(&means, &search);
        Self { series, margin, levels }
    }

    /// Groups neighbouring sessions of one commit. Sessions without a commit stay separate.
    pub fn groups(&self) -> Vec<Group> {
        groups(&self.series)
    }

    /// The change points; empty if the search was not possible.
    pub fn changes(&self) -> &[ChangePoint] {
        self.levels.as_ref().map_or(&[], |levels| &levels.changes)
    }

    /// Whether a change was an improvement.
    pub fn is_better(&self, change: &ChangePoint) -> bool {
        (change.change > 0.0) == (self.series.metric.better() == Better::Higher)
    }

    /// Whether the sessions are too few, for their spread, to show a change of the margin. False
    /// where a change was found or no search was possible.
    pub fn too_short(&self) -> bool {
        let levels = self.levels.as_ref().filter(|levels| levels.changes.is_empty());
        levels.is_some_and(|levels| levels.visible.is_none_or(|least| least > self.margin))
    }

    /// The sessions of a ramp or of a transient; `None` for a step.
    pub fn extent(&self, change: &ChangePoint) -> Option<&[Point]> {
        match &change.kind {
            ChangeKind::Step => None,
            ChangeKind::Ramp(range) | ChangeKind::Transient(range) => {
                Some(&self.series.points[range.clone()])
            }
        }
    }

    /// The last revision at the old level and the first at the new one.
    pub fn around(&self, change: &ChangePoint) -> [&Revision; 2] {
        let at = change.index;
        [at - 1, at].map(|i| self.series.revision(&self.series.points[i]))
    }
}
