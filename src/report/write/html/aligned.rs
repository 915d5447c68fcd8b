//! Numbers of a column beneath each other: a value, half of its interval and the ratio to a baseline
//! have a cell each, so that they align whatever font a reader has.

use super::plain;
use crate::number;
use crate::report::document::{Cell, Content};

/// As wide as a digit, and as a point, in fonts with tabular figures.
const DIGIT: char = '\u{2007}';
const POINT: char = '\u{2008}';

/// What the numbers of a column take.
#[derive(Debug, Default)]
pub struct Aligned {
    /// Digits after the point; none where the rows have different units, so that their points tell
    /// nothing.
    digits: usize,
    halves: bool,
    ratios: bool,
}

/// A cell in its parts.
#[derive(Debug, PartialEq)]
pub enum Set {
    /// No number: it takes all cells.
    Text(String),
    Number {
        value: String,
        half: Option<String>,
        ratio: Option<String>,
    },
}

impl Aligned {
    /// `mixed`: the rows have different units.
    pub fn of<'a>(cells: impl Iterator<Item = &'a Cell>, mixed: bool) -> Self {
        let mut all = Self::default();
        for cell in cells {
            let Set::Number { value, half, ratio } = parts(cell) else { continue };
            all.halves |= half.is_some();
            all.ratios |= ratio.is_some();
            if !mixed {
                all.digits = all.digits.max(digits(&value));
            }
        }
        all
    }

    /// How many cells the column takes.
    pub fn cells(&self) -> usize {
        1 + usize::from(self.halves) + usize::from(self.ratios)
    }

    pub fn halves(&self) -> bool {
        self.halves
    }

    pub fn ratios(&self) -> bool {
        self.ratios
    }

    /// The parts, with spaces for the digits after the point that the value lacks.
    pub fn set(&self, cell: &Cell) -> Set {
        match parts(cell) {
            Set::Number { mut value, half, ratio } => {
                let has = digits(&value);
                value.extend((self.digits > 0 && has == 0).then_some(POINT));
                value.extend(std::iter::repeat_n(DIGIT, self.digits.saturating_sub(has)));
                Set::Number { value, half, ratio }
            }
            text => text,
        }
    }
}

/// Digits after the point.
fn digits(number: &str) -> usize {
    number.split_once('.').map_or(0, |(_, after)| after.len())
}

fn parts(cell: &Cell) -> Set {
    let text = plain(&cell.content);
    let ratio = match &cell.content {
        Content::Measured(m) => m.ratio.map(|(times, open)| number::ratio(times, open)),
        _ => None,
    };
    let number = |t: &str| {
        let t = t.trim_start_matches(['+', '-', '−']);
        !t.is_empty() && t.chars().all(|c| c.is_ascii_digit() || c == '.')
    };
    match text.split_once(" ± ") {
        Some((value, half)) if number(value) && number(half) => {
            Set::Number { value: value.into(), half: Some(half.into()), ratio }
        }
        None if number(&text) => Set::Number { value: text, half: None, ratio },
        _ => Set::Text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(set: Set) -> (String, Option<String>) {
        match set {
            Set::Number { value, half, .. } => (value, half),
            Set::Text(text) => (text, None),
        }
    }

    #[test]
    fn points_lie_beneath_each_other_and_intervals_have_cells_of_their_own() {
        let cells = ["54.1 ± 10.1", "4.43 ± 0.27", "120 ± 4", "7.5", "–"].map(Cell::from);
        let column = Aligned::of(cells.iter(), false);
        assert_eq!((column.cells(), column.digits), (2, 2));
        let set: Vec<_> = cells.iter().map(|c| value(column.set(c))).collect();
        assert_eq!(set[0], ("54.1\u{2007}".into(), Some("10.1".into())));
        assert_eq!(set[2], ("120\u{2008}\u{2007}\u{2007}".into(), Some("4".into())));
        assert_eq!(set[3], ("7.5\u{2007}".into(), None));
        assert_eq!(column.set(&cells[4]), Set::Text("–".into()));
    }

    #[test]
    fn rows_of_different_units_get_no_digits() {
        let cells = ["0.79 ± 0.0002", "158 ± 6"].map(Cell::from);
        let column = Aligned::of(cells.iter(), true);
        assert_eq!(value(column.set(&cells[1])), ("158".into(), Some("6".into())));
    }
}
