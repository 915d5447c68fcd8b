//! Plots a series of values with intervals and the changes of its level, as SVG or as one line of
//! text.

mod spark;
pub mod svg;

pub use spark::{peaks, sparkline};

use crate::number::Scale;

/// One series of values. All texts are clean.
#[derive(Debug, Clone)]
pub struct Plot {
    pub title: String,
    /// Shown beneath the title: what the line describes.
    pub facts: String,
    pub scale: Scale,
    pub points: Vec<Point>,
    pub changes: Vec<Change>,
}

/// One value.
#[derive(Debug, Clone)]
pub struct Point {
    pub mean: f64,
    /// Half of the 95 % interval.
    pub half_width: Option<f64>,
    /// Shown beneath the axis: what the value belongs to, and when.
    pub labels: [String; 2],
    /// Shown when the reader points at the value.
    pub told: String,
}

/// The levels before and after a change.
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
