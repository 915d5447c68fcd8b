//! Draws a heat map: cells of a grid, dark where the value is large, each with its value written in.

use maud::html;

use super::Heat;
use super::ink::{Drawing, cut, label, pointed, px, text_width};

const PITCH: f64 = 26.0;
const GAP: f64 = 2.0;
/// Steps of the colour.
const SHADES: usize = 7;

impl Heat {
    /// The shade of a value among those of the grid, on a logarithmic scale if all are positive.
    fn shade(&self, value: f64) -> usize {
        let place = |x: f64| if self.least() > 0.0 { x.ln() } else { x };
        let (low, high) = (place(self.least()), place(self.most()));
        let share = if high > low { (place(value) - low) / (high - low) } else { 1.0 };
        (share * (SHADES - 1) as f64).round() as usize
    }

    fn least(&self) -> f64 {
        self.values().fold(f64::INFINITY, f64::min)
    }

    fn most(&self) -> f64 {
        self.values().fold(f64::NEG_INFINITY, f64::max)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = f64> {
        self.cells.iter().flatten().flatten().copied()
    }

    /// `8 texts of 32 tokens: 412 1/s`.
    pub(super) fn told(&self, row: usize, column: usize, value: f64) -> String {
        let written = self.scale.text(value, None);
        format!("{}, {}: {written} {}", self.rows[row], self.columns[column], self.scale.unit)
            .trim_end()
            .to_string()
    }
}

pub fn draw(heat: &Heat, width: f64) -> Drawing {
    let longest = |names: &[String]| names.iter().map(|n| text_width(n)).fold(0.0, f64::max);
    let left = (longest(&heat.rows) + 10.0).min(width * 0.4);
    let each = ((width - left) / heat.columns.len().max(1) as f64).min(110.0);
    let top = 20.0;
    let corner =
        |row: usize, column: usize| [left + each * column as f64, top + PITCH * row as f64];
    let body = html! {
        @for (i, name) in heat.columns.iter().enumerate() {
            (label("tick", [left + each * (i as f64 + 0.5), 13.0], "middle", &cut(name, each - 4.0)))
        }
        @for (r, (name, cells)) in heat.rows.iter().zip(&heat.cells).enumerate() {
            (label("tick", [left - 8.0, corner(r, 0)[1] + 17.0], "end", &cut(name, left - 8.0)))
            @for (c, value) in cells.iter().enumerate() {
                @let [x, y] = corner(r, c);
                @let [w, h] = [each - GAP, PITCH - GAP];
                @match value {
                    Some(value) => {
                        @let shade = heat.shade(*value);
                        (pointed(&heat.told(r, c, *value), html! {
                            rect class={ "heat s" (shade) } x=(px(x)) y=(px(y)) width=(px(w))
                                height=(px(h)) rx="2" {}
                            (label(if shade > SHADES / 2 { "on dark" } else { "on" },
                                [x + w / 2.0, y + 16.5], "middle", &heat.scale.text(*value, None)))
                        }))
                    }
                    None => {
                        (label("tick", [x + w / 2.0, y + 16.5], "middle", "–"))
                    }
                }
            }
        }
    };
    Drawing { height: top + PITCH * heat.rows.len() as f64 + 4.0, body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::Scale;

    fn heat(cells: Vec<Vec<Option<f64>>>) -> Heat {
        let scale = Scale { unit: "1/s", factor: 1.0, digits: Some(0) };
        let names = |n: usize| (0..n).map(|i| format!("{i}")).collect();
        Heat { rows: names(cells.len()), columns: names(cells[0].len()), scale, cells }
    }

    #[test]
    fn shades_follow_the_values_and_a_cell_without_one_has_none() {
        let map = heat(vec![vec![Some(1.0), Some(10.0)], vec![Some(100.0), None]]);
        assert_eq!([1.0, 10.0, 100.0].map(|x| map.shade(x)), [0, 3, 6]);
        let svg = draw(&map, 350.0).body.into_string();
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(svg.contains("1, 0: 100 1/s") && svg.contains('–'), "{svg}");
        assert_eq!(heat(vec![vec![Some(5.0)]]).shade(5.0), 6, "one value alone");
    }
}
