//! What the sessions of a line show of how much sessions differ: the part of the error of a
//! comparison of two sessions that their launches cannot show.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use super::{Filter, Identity, Store};
use crate::analysis::foreign::Source;
use crate::analysis::sides::Earlier;
use crate::metric::Metric;
use crate::stats::{self, ChangeKind, Search};

/// Where a history lies that nobody named.
pub const PLACE: &str = "results/history.sqlite";

/// Adds to the arms of the first source, the baseline, what the history shows of sessions like its
/// own; the candidates' are left out, and where all are of one session nothing is added.
///
/// # Errors
/// As for [`earlier`].
pub fn add_earlier(sources: &mut [Source], db: Option<&Path>) -> Result<()> {
    let Some((baseline, candidates)) = sources.split_first_mut() else { return Ok(()) };
    let others: Vec<&str> = candidates.iter().filter_map(|c| c.session.as_deref()).collect();
    if others.iter().all(|session| Some(*session) == baseline.session.as_deref()) {
        return Ok(());
    }
    for arm in &mut baseline.arms {
        if let Some(line) = &arm.line {
            arm.earlier = earlier(db, line, &others)?;
        }
    }
    Ok(())
}

/// The complete sessions of the lines that fit `identity`, but for the runs `without`. Without `db`,
/// those at [`PLACE`], where a missing file is an empty history. Of each metric the last level
/// counts, so that an earlier change of the program is not taken for luck of a session.
///
/// # Errors
/// `db` is missing, or the history cannot be read.
pub fn earlier(db: Option<&Path>, identity: &Identity, without: &[&str]) -> Result<Earlier> {
    let path = db.unwrap_or(Path::new(PLACE));
    let mut found = Earlier { history: path.display().to_string(), ..Earlier::default() };
    if db.is_none() && !path.exists() {
        return Ok(found);
    }
    let store = Store::open_to_read(path)?;
    let mut sessions: BTreeMap<String, Vec<Vec<f64>>> = BTreeMap::new();
    for line in store.lines(&Filter::default())? {
        if !line.identity.fits(identity) {
            continue;
        }
        store.each(&Filter { identity: Some(line.id), ..Filter::default() }, |session| {
            if session.complete && !without.contains(&session.run_id.as_str()) {
                found.sessions += 1;
                for (metric, values) in session.metrics {
                    sessions.entry(metric).or_default().push(values);
                }
            }
            Ok(())
        })?;
    }
    for (metric, sessions) in sessions {
        let known = metric.parse::<Metric>().is_ok();
        let last = sessions[last_level(&sessions)..].iter().map(Vec::as_slice);
        if let Some(between) = stats::between_sessions(last).filter(|_| known) {
            found.spreads.insert(metric, between);
        }
    }
    Ok(found)
}

/// The first session of the last level.
fn last_level(sessions: &[Vec<f64>]) -> usize {
    let mean = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let means: Vec<f64> = sessions.iter().map(mean).collect();
    let levels = stats::levels(&means, &Search::default());
    let last = levels.as_ref().and_then(|levels| levels.changes.last());
    last.map_or(0, |change| match &change.kind {
        ChangeKind::Ramp(sessions) => sessions.end.min(means.len()),
        ChangeKind::Step | ChangeKind::Transient(_) => change.index,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_before_a_change_of_level_are_left_out() {
        let luck = [1.0, 1.01, 0.99, 1.005, 0.995, 1.002, 0.998, 1.0];
        let level = |level: f64| luck.map(|luck| vec![level * luck; 4]).to_vec();
        assert_eq!(last_level(&level(1.0)), 0);
        assert_eq!(last_level(&[level(1.0), level(0.7)].concat()), luck.len());
    }
}
