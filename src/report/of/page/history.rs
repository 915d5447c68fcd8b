//! Several results of one machine, model and settings as a line over time, with the changes of its
//! level.

use crate::history;
use crate::metric::Metric;
use crate::record::Record;
use crate::report::document::{Block, Document, Level};
use crate::report::of::history as lines;

/// Sessions that make a line.
const FEWEST: usize = 3;
/// The least change that counts, as of a verdict.
const MARGIN: f64 = 0.05;
const METRICS: [Metric; 3] = [Metric::DecodeTps, Metric::PrefillTps, Metric::PeakHostBytes];

pub fn add(document: &mut Document, records: &[Record]) {
    if records.len() < FEWEST {
        return;
    }
    let mut plots = Vec::new();
    let mut refused = Vec::new();
    for metric in METRICS {
        match history::courses_of(records, metric, MARGIN) {
            Ok(courses) => plots.extend(
                courses.iter().filter(|c| c.series.points.len() >= FEWEST).map(lines::figure),
            ),
            Err(error) => refused = vec![crate::text::clean(&format!("{error:#}"))],
        }
    }
    if plots.is_empty() && refused.is_empty() {
        return;
    }
    document.push(Block::Heading(Level::Part, "History".into()));
    document.push(Block::Legend(vec![
        "Results of one machine, model and settings, by the time of the measurement. Axes do not \
         start at zero. A change of level says where to look; it is no verdict."
            .into(),
    ]));
    document.blocks.extend(plots.into_iter().map(Block::Plot));
    document.blocks.extend(refused.into_iter().map(Block::Text));
}
