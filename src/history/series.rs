//! A line of a history: one metric of one identity over its sessions, by commit, and where it
//! changed.

use std::collections::HashMap;

use anyhow::Result;

use super::{Filter, Identity, Store};
use crate::metric::{Better, Metric};
use crate::stats::{self, Interval};

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Revision {
    pub commit: Option<String>,
    /// Of a build with uncommitted changes: its program file, which tells it from others.
    pub changed: Option<String>,
}

/// One session.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Milliseconds since 1970: where it stands, and when it was measured.
    pub place: i64,
    pub measured: i64,
    pub session: i64,
    /// Index into the series' revisions.
    pub revision: u32,
    /// Launches, their mean and their standard deviation.
    pub n: u32,
    pub mean: f64,
    pub sd: Option<f64>,
}

/// One metric of one identity, in order.
#[derive(Debug, Clone)]
pub struct Series {
    pub id: i64,
    pub identity: Identity,
    pub metric: &'static Metric,
    pub points: Vec<Point>,
    pub revisions: Vec<Revision>,
}

/// Neighbouring sessions of one commit.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Indices of its points.
    pub points: std::ops::Range<usize>,
    pub revision: u32,
    pub launches: u32,
    /// Of the sessions' means.
    pub mean: f64,
    /// 95 %, Student's t: over the launches of a single session, over the means of several.
    pub interval: Option<Interval>,
}

impl Point {
    /// 95 %, Student's t over launches; absent for one launch.
    pub fn interval(&self) -> Option<Interval> {
        stats::mean_interval(self.n as usize, self.mean, self.sd?, 0.95)
    }
}

impl Revision {
    /// `3fa9c21d0b`, with a plus sign for a build with changes; nothing where it is not known.
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
    /// The lines of a metric that the filter takes, each in its order.
    pub fn series(&self, metric: &'static Metric, filter: &Filter) -> Result<Vec<Series>> {
        let mut all: Vec<Series> = Vec::new();
        let mut by_id: HashMap<i64, usize> = HashMap::new();
        for line in self.lines(filter)? {
            by_id.insert(line.id, all.len());
            let (points, revisions) = (Vec::new(), Vec::new());
            all.push(Series { id: line.id, identity: line.identity, metric, points, revisions });
        }
        let mut known: Vec<HashMap<Revision, u32>> = vec![HashMap::new(); all.len()];
        self.points(metric.name, filter.since, |row| {
            let Some(&at) = by_id.get(&row.get(0)?) else { return Ok(()) };
            let text = |i| row.get::<_, Option<String>>(i);
            let changed = match row.get::<_, Option<bool>>(8)? {
                Some(true) => Some(text(9)?.unwrap_or_default()),
                _ => None,
            };
            let revision = Revision { commit: text(7)?, changed };
            let series = &mut all[at];
            let next = series.revisions.len() as u32;
            let revision = *known[at].entry(revision).or_insert_with_key(|revision| {
                series.revisions.push(revision.clone());
                next
            });
            series.points.push(Point {
                place: row.get(1)?,
                measured: row.get(2)?,
                session: row.get(3)?,
                revision,
                n: row.get(4)?,
                mean: row.get(5)?,
                sd: row.get(6)?,
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

/// Neighbouring sessions of one commit as one; sessions without a commit stand alone.
pub fn groups(series: &Series) -> Vec<Group> {
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

/// A place where a line changed its level for longer than one session.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Index of the first point at the new level.
    pub at: usize,
    /// Geometric means of the levels before and after, up to the neighbouring changes.
    pub before: f64,
    pub after: f64,
    /// How often chance alone splits a line as clearly as this.
    pub p: f64,
}

impl Change {
    /// As a share of the level before, signed as the metric itself.
    pub fn share(&self) -> f64 {
        self.after / self.before - 1.0
    }

    pub fn is_better(&self, better: Better) -> bool {
        (self.after > self.before) == (better == Better::Higher)
    }
}
