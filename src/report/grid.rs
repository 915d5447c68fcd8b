//! Numbers to cells: one unit per row, three significant digits, and what is best.

use crate::metric::{Better, Metric, Unit};
use crate::record::{Comparison, MetricSummary};

/// One metric, or one prompt, across the engines.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub title: String,
    pub unit: &'static str,
    pub cells: Vec<Option<Cell>>,
    /// Index of the best cell; absent unless there are two that differ.
    pub best: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cell {
    pub value: String,
    /// Half of the 95 % interval; absent for one launch.
    pub half_width: Option<String>,
    /// How many times better than the baseline; absent for the baseline itself.
    pub ratio: Option<String>,
}

/// A row of a metric; absent where no engine has it. `comparisons` go with the summaries.
pub(super) fn row(
    title: String,
    metric: Metric,
    summaries: &[Option<&MetricSummary>],
    comparisons: &[Option<&Comparison>],
) -> Option<Row> {
    let means = || summaries.iter().flatten().map(|s| s.mean.abs());
    let least = means().filter(|m| *m > 0.0).reduce(f64::min);
    let greatest = means().reduce(f64::max)?;
    let (unit, factor) = unit_for(metric.unit(), least.unwrap_or(greatest), greatest);
    let cells = summaries
        .iter()
        .enumerate()
        .map(|(i, s)| s.map(|s| cell(s, comparisons.get(i).copied().flatten(), factor)))
        .collect();
    Some(Row { title, unit, cells, best: best(metric.better(), summaries) })
}

fn cell(summary: &MetricSummary, comparison: Option<&Comparison>, factor: f64) -> Cell {
    let decimals = decimals(summary.mean * factor);
    let half_width = summary.ci95.map(|[low, high]| {
        let half = (high - low) / 2.0 * factor;
        // A half-width that would round to nothing gets the digits that it needs.
        let shown = if half > 0.0 && format!("{half:.decimals$}").parse() == Ok(0.0) {
            (-half.log10()).ceil().clamp(0.0, 9.0) as usize
        } else {
            decimals
        };
        if half == 0.0 { "0".to_string() } else { format!("{half:.shown$}") }
    });
    let value = format!("{:.decimals$}", summary.mean * factor);
    Cell { value, half_width, ratio: comparison.map(ratio) }
}

/// `2.01×`; with a tilde where the interval leaves open which of the two is better.
fn ratio(c: &Comparison) -> String {
    let open = c.ci95.is_some_and(|[low, high]| low <= 1.0 && 1.0 <= high);
    let digits = decimals(c.times_better);
    format!("{}{:.digits$}×", if open { "~" } else { "" }, c.times_better)
}

/// Decimals for three significant digits; none from 100 on, and two where the first is a tenth.
pub(super) fn decimals(x: f64) -> usize {
    if x == 0.0 || !x.is_finite() {
        return 0;
    }
    if (0.0995..1.0).contains(&x.abs()) {
        return 2;
    }
    // Smaller ones would round to nothing.
    if x.abs() < 1e-11 {
        return 12;
    }
    // Of the rounded value, so that 9.996 is 10.0.
    let magnitude = |x: f64| x.abs().log10().floor() as i32;
    let first = (2 - magnitude(x)).clamp(0, 12);
    let scale = 10f64.powi(first);
    (2 - magnitude((x * scale).round() / scale)).clamp(0, 12) as usize
}

/// The unit in which the least and the greatest value of a row both read well.
pub(super) fn unit_for(unit: Unit, least: f64, greatest: f64) -> (&'static str, f64) {
    match unit {
        Unit::Seconds if greatest < 0.9995e-3 => ("µs", 1e6),
        Unit::Seconds if greatest < 0.9995 => ("ms", 1e3),
        Unit::Seconds if least < 0.9995 && greatest < 9.995 => ("ms", 1e3),
        Unit::Seconds if least < 0.0995 && greatest < 99.95 => ("ms", 1e3),
        Unit::Seconds => ("s", 1.0),
        Unit::Bytes if greatest < 999.5e3 => ("kB", 1e-3),
        Unit::Bytes if greatest < 999.5e6 || greatest < 99.5e9 && least < 99.5e6 => ("MB", 1e-6),
        Unit::Bytes => ("GB", 1e-9),
        Unit::Share => ("%", 100.0),
        Unit::Ratio => ("", 1.0),
        Unit::TokensPerSecond | Unit::TokensPerSecondPerGb => (unit.as_str(), 1.0),
    }
}

fn best(better: Better, summaries: &[Option<&MetricSummary>]) -> Option<usize> {
    let means: Vec<(usize, f64)> =
        summaries.iter().enumerate().filter_map(|(i, s)| Some((i, s.as_ref()?.mean))).collect();
    let (index, value) = means.iter().copied().reduce(|a, b| {
        let wins = match better {
            Better::Higher => b.1 > a.1,
            Better::Lower => b.1 < a.1,
        };
        if wins { b } else { a }
    })?;
    means.iter().any(|(_, other)| *other != value).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(mean: f64, half: Option<f64>) -> MetricSummary {
        MetricSummary {
            unit: String::new(),
            better: Better::Lower,
            n: 3,
            values: vec![mean],
            mean,
            sd: None,
            cv: None,
            median: mean,
            p95: mean,
            p99: mean,
            min: mean,
            max: mean,
            ci95: half.map(|h| [mean - h, mean + h]),
        }
    }

    fn texts(metric: Metric, values: &[(f64, Option<f64>)]) -> (String, Vec<String>) {
        let all: Vec<_> = values.iter().map(|(mean, half)| summary(*mean, *half)).collect();
        let refs: Vec<_> = all.iter().map(Some).collect();
        let row = row(String::new(), metric, &refs, &[]).unwrap();
        let cell = |c: &Option<Cell>| {
            let c = c.clone().unwrap();
            format!("{} ± {}", c.value, c.half_width.unwrap_or_default())
        };
        (row.unit.to_string(), row.cells.iter().map(cell).collect())
    }

    #[test]
    fn a_row_has_one_unit_in_which_all_its_values_read_well() {
        assert_eq!(texts(Metric::ModelLoad, &[(0.0413, None), (0.39, None)]).0, "ms");
        assert_eq!(texts(Metric::ModelLoad, &[(0.0413, None), (4.87, None)]).0, "ms");
        assert_eq!(texts(Metric::ModelLoad, &[(0.39, None), (31.2, None)]).0, "s");
        assert_eq!(texts(Metric::PeakHostBytes, &[(0.7e9, None), (5.6e9, None)]).0, "GB");
        assert_eq!(texts(Metric::Mbu, &[(0.78, None)]), ("%".into(), vec!["78.0 ± ".into()]));
    }

    #[test]
    fn digits_follow_the_value_and_an_interval_never_rounds_to_nothing() {
        let decode = |mean, half| texts(Metric::DecodeTps, &[(mean, Some(half))]).1.remove(0);
        assert_eq!(decode(41.234, 0.61), "41.2 ± 0.6");
        assert_eq!(decode(9.996, 0.61), "10.0 ± 0.6");
        assert_eq!(decode(1784.0, 35.2), "1784 ± 35");
        assert_eq!(decode(41.234, 0.004), "41.2 ± 0.004");
        assert_eq!(decode(41.234, 0.0), "41.2 ± 0");
        assert_eq!(decode(0.0, 0.0), "0 ± 0");
    }

    #[test]
    fn the_best_is_marked_only_where_values_differ() {
        let (a, b) = (summary(1.0, None), summary(2.0, None));
        assert_eq!(best(Better::Lower, &[Some(&b), None, Some(&a)]), Some(2));
        assert_eq!(best(Better::Higher, &[Some(&b), None, Some(&a)]), Some(0));
        assert_eq!(best(Better::Higher, &[Some(&a), Some(&a)]), None);
        assert_eq!(best(Better::Higher, &[Some(&a), None]), None);
    }
}
