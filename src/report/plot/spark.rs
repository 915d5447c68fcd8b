//! Values as one line of eight heights.

/// Columns of a sparkline.
const COLUMNS: usize = 48;
/// The heights span at least this share.
const LEAST_SPAN: f64 = 0.05;
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Columns of a curve of peaks.
const PEAKS: usize = 40;

/// Heights from the smallest to the largest value; neighbours are averaged if there are more values
/// than columns. A line that moves by less than 5 % does not span all heights, so that noise does
/// not look like hills.
pub fn sparkline(values: impl ExactSizeIterator<Item = f64>) -> String {
    let width = values.len().div_ceil(COLUMNS).max(1);
    let values: Vec<f64> = values.collect();
    let bins: Vec<f64> =
        values.chunks(width).map(|bin| bin.iter().sum::<f64>() / bin.len() as f64).collect();
    let least = bins.iter().copied().fold(f64::INFINITY, f64::min);
    let most = bins.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let span = (most - least).max(LEAST_SPAN * most.abs());
    let foot = (most + least - span) / 2.0;
    let height = |x: &f64| match span > 0.0 {
        true => HEIGHTS[((x - foot) / span * 7.0).round().clamp(0.0, 7.0) as usize],
        false => HEIGHTS[3],
    };
    bins.iter().map(height).collect()
}

/// Heights from zero, so that half the height is half the value. Each is the largest value of its
/// bin, so that a single slow step shows.
pub fn peaks(values: &[f64]) -> String {
    let high = values.iter().copied().fold(0.0, f64::max);
    let height = |bin: &[f64]| {
        let value = bin.iter().copied().fold(0.0, f64::max);
        let eighth = if high > 0.0 { (value / high * 8.0).ceil() as usize } else { 1 };
        HEIGHTS[eighth.clamp(1, 8) - 1]
    };
    values.chunks(values.len().div_ceil(PEAKS).max(1)).map(height).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_first_step_stands_out_of_the_curve() {
        assert_eq!(peaks(&[8.0, 1.0, 1.0, 4.0]), "█▁▁▄");
        assert_eq!(peaks(&[]), "");
        let mut many = vec![1.0; 100];
        many[99] = 8.0;
        let curve = peaks(&many);
        assert_eq!((curve.chars().count(), curve.chars().last()), (34, Some('█')));
    }

    #[test]
    fn a_line_that_hardly_moves_is_flat() {
        assert_eq!(sparkline([1.0, 1.001, 1.0].into_iter()), "▄▅▄");
        assert_eq!(sparkline([1.0, 2.0].into_iter()), "▁█");
    }
}
