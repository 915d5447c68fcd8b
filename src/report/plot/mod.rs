//! What a picture shows, before it is drawn: named rows along one axis, or points in a field of two.
//! Each plot has a text alternative and its numbers as a table, both from the very values that are
//! drawn. `svg` draws it; `sparkline` sets a series as one line of text.

mod field;
mod heat;
mod ink;
mod rows;
mod ruler;
mod spark;
pub mod svg;
mod words;

pub use spark::{peaks, sparkline};

use crate::number::{Form, Scale, text};

/// Which value of a spread is its median.
const MEDIAN: usize = 2;

/// A picture. All texts are clean.
#[derive(Debug, Clone)]
pub struct Plot {
    pub title: String,
    /// Shown beneath the title: what the reader must know to read it.
    pub facts: String,
    pub shape: Shape,
}

#[derive(Debug, Clone)]
pub enum Shape {
    Rows(Rows),
    Field(Box<Field>),
    Heat(Heat),
}

/// What an axis measures, and how it is divided.
#[derive(Debug, Clone)]
pub struct Axis {
    pub title: String,
    pub scale: Scale,
    pub steps: Steps,
    /// How a value is written where the scale does not say it: `4.70e-6`.
    pub form: Option<Form>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Steps {
    /// From near the smallest value to near the largest.
    Linear,
    FromZero,
    /// Decades. Values that are not above zero get a place of their own before the first.
    Log,
    /// One place for each, with two lines of text beneath: what it is, and when.
    Named(Vec<[String; 2]>),
}

/// Named rows, one below the other, along one axis.
#[derive(Debug, Clone)]
pub struct Rows {
    pub axis: Axis,
    /// What the values of a row of several are, in their order.
    pub parts: Vec<String>,
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    pub hue: usize,
    /// The best of its rows.
    pub best: bool,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A bar from zero.
    Bar(f64, Reach),
    /// Parts that add up.
    Stack(Vec<f64>),
    /// Quantiles from low to high, of which the third is the median and the last the largest value.
    Spread(Vec<Option<f64>>),
    /// The row has no value; why.
    Nothing(String),
}

/// A grid of values; a cell may have none.
#[derive(Debug, Clone)]
pub struct Heat {
    pub rows: Vec<String>,
    pub columns: Vec<String>,
    pub scale: Scale,
    /// Row by row.
    pub cells: Vec<Vec<Option<f64>>>,
}

/// Points and lines between two axes.
#[derive(Debug, Clone)]
pub struct Field {
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
    /// A thin line that joins the points which are best in the plane.
    pub edge: Vec<(f64, f64)>,
    pub changes: Vec<Change>,
}

#[derive(Debug, Clone)]
pub struct Series {
    /// Written beside its last point if there is another.
    pub name: String,
    pub hue: usize,
    pub look: Look,
    pub points: Vec<Point>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Points alone, each with its name.
    Dots,
    /// Points joined by a line.
    Line,
    /// A line of many values in a band, without points.
    Curve,
    /// What bounds the others: a broken line.
    Bound,
}

#[derive(Debug, Clone)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    /// How far the value is known, or how far its samples reach.
    pub across: Reach,
    pub along: Reach,
    /// Of the point itself, if points of a series have names.
    pub name: String,
    /// Drawn full; others are hollow.
    pub strong: bool,
    /// Said after the values.
    pub note: String,
}

/// Both sides of a value.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Reach {
    #[default]
    None,
    /// Half of the 95 % interval.
    Half(f64),
    /// From the smaller to the larger.
    Range([f64; 2]),
}

/// The levels before and after a change, in a field with named places.
#[derive(Debug, Clone)]
pub struct Change {
    /// Index of the first point at the new level.
    pub index: usize,
    pub before: f64,
    pub after: f64,
    pub better: bool,
    /// `+6.8 %`
    pub label: String,
    pub told: String,
}

impl Reach {
    pub fn half(half: Option<f64>) -> Self {
        half.map_or(Reach::None, Reach::Half)
    }

    /// The ends around a mean.
    fn ends(self, mean: f64) -> Option<[f64; 2]> {
        match self {
            Reach::None => None,
            Reach::Half(half) => Some([mean - half, mean + half]),
            Reach::Range(ends) => Some(ends),
        }
    }
}

impl Axis {
    pub fn new(title: impl Into<String>, scale: Scale, steps: Steps) -> Self {
        Self { title: title.into(), scale, steps, form: None }
    }

    /// Of a plain count: `tokens`.
    pub fn count(title: impl Into<String>, steps: Steps) -> Self {
        let scale = Scale { unit: "", factor: 1.0, digits: Some(0) };
        Self::new(title, scale, steps)
    }

    /// A value with what is known of it, without the unit.
    pub fn value(&self, value: f64, reach: Reach) -> String {
        let one = |x: f64| match self.form {
            Some(form) => text(x * self.scale.factor, form),
            None => self.scale.text(x, None),
        };
        match (reach, &self.steps) {
            (_, Steps::Named(places)) => places.get(value as usize).map_or_else(
                || one(value),
                |[what, when]| match when.as_str() {
                    "" => what.clone(),
                    when => format!("{what}, {when}"),
                },
            ),
            (Reach::None, _) => one(value),
            (Reach::Half(half), _) if self.form.is_none() => self.scale.text(value, Some(half)),
            (Reach::Half(half), _) => format!("{} ± {}", one(value), one(half)),
            (Reach::Range([low, high]), _) => {
                format!("{} ({}–{})", one(value), one(low), one(high))
            }
        }
    }

    /// The same with the unit.
    pub fn quantity(&self, value: f64, reach: Reach) -> String {
        [self.value(value, reach).as_str(), self.scale.unit].join(" ").trim_end().to_string()
    }

    /// `Decode, tok/s`.
    pub fn head(&self) -> String {
        match self.scale.unit {
            "" => self.title.clone(),
            unit => format!("{}, {unit}", self.title),
        }
    }
}

impl Point {
    pub fn new(x: f64, y: f64, across: Reach) -> Self {
        Self {
            x,
            y,
            across,
            along: Reach::None,
            name: String::new(),
            strong: true,
            note: String::new(),
        }
    }
}

impl Field {
    pub fn new(x: Axis, y: Axis, series: Vec<Series>) -> Self {
        Self { x, y, series, edge: Vec::new(), changes: Vec::new() }
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        self.series.iter().flat_map(|s| &s.points)
    }

    /// What a point is and shows: `candle Q4_0: Decode 54.1 ± 10.1 tok/s, KL 0.28 nats`.
    fn told(&self, series: &Series, point: &Point) -> String {
        let names = [series.name.as_str(), point.name.as_str()];
        let names: Vec<&str> = names.into_iter().filter(|n| !n.is_empty()).collect();
        let place = match self.x.steps {
            Steps::Named(_) => self.x.value(point.x, Reach::None),
            _ => format!("{} {}", self.x.title, self.x.quantity(point.x, point.along)),
        };
        let value = format!("{} {}", self.y.title, self.y.quantity(point.y, point.across));
        let note = Some(point.note.clone()).filter(|n| !n.is_empty());
        let figures: Vec<String> = [value, place].into_iter().chain(note).collect();
        let about = if names.is_empty() { String::new() } else { names.join(", ") + ": " };
        about + &figures.join(", ")
    }
}

impl Plot {
    /// The first series, for a line of text.
    pub fn spark(&self) -> Vec<f64> {
        match &self.shape {
            Shape::Rows(rows) => rows.rows.iter().filter_map(Row::total).collect(),
            Shape::Field(field) => field
                .series
                .first()
                .map_or_else(Vec::new, |s| s.points.iter().map(|p| p.y).collect()),
            Shape::Heat(heat) => heat.values().collect(),
        }
    }
}

impl Row {
    /// The length of the bar; absent without one.
    fn total(&self) -> Option<f64> {
        match &self.value {
            Value::Bar(mean, _) => Some(*mean),
            Value::Stack(parts) => Some(parts.iter().sum()),
            Value::Spread(quantiles) => quantiles.get(MEDIAN).copied().flatten(),
            Value::Nothing(_) => None,
        }
    }
}
