//! Plots as SVG: one panel per plot, so that no two lines share an axis. A panel has points with
//! their intervals, levels between changes, and labels along the bottom. Written by hand, because
//! it leaves out everything that a plotting library would add.

use std::fmt::Write;

use super::{Change, Plot, Point};
use crate::report::write::html::escape;

const WIDTH: f64 = 960.0;
/// Heights of a panel's parts: its head, the plot itself, the commits beneath.
const HEAD: f64 = 48.0;
const PLOT: f64 = 168.0;
const FOOT: f64 = 54.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 44.0;
/// A plot with more points draws stretches: mean, smallest and largest.
const MOST_POINTS: usize = 300;
/// How many labels fit beneath the plot.
const LABELS: usize = 9;
/// The axis spans at least this share of the level, so that a line that hardly moves is not blown
/// up.
const LEAST_SPAN: f64 = 0.05;

const STYLE: &str = "<style>\
.hist{--ink:#1f2328;--soft:#656d76;--grid:#d8dee4;--line:#0969da;--good:#1a7f37;--bad:#cf222e;\
--paper:#ffffff;font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}\
@media(prefers-color-scheme:dark){.hist{--ink:#e6edf3;--soft:#8d96a0;--grid:#30363d;\
--line:#4493f8;--good:#3fb950;--bad:#f85149;--paper:#0d1117}}\
.hist .paper{fill:var(--paper)}.hist text{fill:var(--soft)}\
.hist .title{fill:var(--ink);font-weight:600;font-size:14px}\
.hist .grid{stroke:var(--grid);stroke-width:1}\
.hist .course{fill:none;stroke:var(--line);stroke-width:1.5;stroke-linejoin:round;opacity:.55}\
.hist .band{fill:var(--line);opacity:.18}.hist .dot{fill:var(--line)}\
.hist .whisker{stroke:var(--line);stroke-width:1.2;opacity:.7}\
.hist .level{stroke:var(--ink);stroke-width:1.2;opacity:.75;stroke-dasharray:1 3;\
stroke-linecap:round}\
.hist .better{stroke:var(--good)}.hist .worse{stroke:var(--bad)}\
.hist .change{stroke-width:1.2;stroke-dasharray:5 3}\
.hist text.better{fill:var(--good);stroke:none;font-weight:600}\
.hist text.worse{fill:var(--bad);stroke:none;font-weight:600}\
.hist .end{text-anchor:end}.hist .mid{text-anchor:middle}\
</style>";

/// Whether an SVG is a file of its own or part of a page that has the style.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Svg {
    Alone,
    InPage,
}

/// The style of [`Svg::InPage`].
pub fn style() -> &'static str {
    STYLE
}

/// Draws plots one below the other; each needs a point.
pub fn render(plots: &[Plot], kind: Svg) -> String {
    let panel = HEAD + PLOT + FOOT;
    let height = panel * plots.len().max(1) as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"hist\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n"
    );
    if kind == Svg::Alone {
        out += STYLE;
        out += &format!("<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n");
    }
    if plots.is_empty() {
        out += &format!("<text x=\"{LEFT}\" y=\"{HEAD}\">No session fits.</text>\n");
    }
    for (i, plot) in plots.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate(0 {})\">", panel * i as f64);
        out += &Panel::new(plot).draw();
        out += "</g>\n";
    }
    out + "</svg>\n"
}

/// Maps values and points to positions in a panel.
struct Panel<'a> {
    plot: &'a Plot,
    low: f64,
    high: f64,
}

/// Neighbouring points drawn as one.
struct Stretch {
    /// Index of the middle point.
    at: f64,
    mean: f64,
    low: f64,
    high: f64,
}

impl<'a> Panel<'a> {
    fn new(plot: &'a Plot) -> Self {
        let points = &plot.points;
        let mut low = f64::INFINITY;
        let mut high = f64::NEG_INFINITY;
        for point in points {
            let reach = match points.len() <= MOST_POINTS {
                true => point.half_width.unwrap_or(0.0),
                false => 0.0,
            };
            low = low.min(point.mean - reach);
            high = high.max(point.mean + reach);
        }
        // The interval of two launches may be twenty times their difference. It may leave the plot,
        // but must not flatten everything else.
        let means = || points.iter().map(|p| p.mean);
        let (least, most) =
            (means().fold(f64::INFINITY, f64::min), means().fold(f64::NEG_INFINITY, f64::max));
        let span = (most - least).max(LEAST_SPAN * most.abs().max(least.abs()));
        let span = if span > 0.0 { span } else { 1.0 };
        (low, high) = (low.max(least - span), high.min(most + span));
        let short = (span - (high - low)).max(0.0) / 2.0;
        let room = 0.06 * (high - low + 2.0 * short);
        Self { plot, low: low - short - room, high: high + short + room }
    }

    fn x(&self, index: f64) -> f64 {
        let width = WIDTH - LEFT - RIGHT;
        match self.plot.points.len() {
            1 => LEFT + width / 2.0,
            n => LEFT + 8.0 + (width - 16.0) * index / (n - 1) as f64,
        }
    }

    fn y(&self, value: f64) -> f64 {
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        HEAD + PLOT * (1.0 - share)
    }

    fn draw(&self) -> String {
        let mut out = format!(
            "<text class=\"title\" x=\"{LEFT}\" y=\"18\">{}</text>\n<text x=\"{LEFT}\" \
             y=\"35\">{}</text>\n",
            escape(&self.plot.title),
            escape(&self.plot.facts)
        );
        out += &self.axis();
        out += &self.labels();
        let points = &self.plot.points;
        match points.len() <= MOST_POINTS {
            true => out += &self.points(points),
            false => out += &self.stretches(points),
        }
        out += &self.levels();
        out
    }

    /// Horizontal lines at round values.
    fn axis(&self) -> String {
        let factor = self.plot.scale.factor;
        let step = round_step((self.high - self.low) * factor / 5.0);
        let digits = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        let mut out = String::new();
        let first = (self.low * factor / step).ceil() as i64;
        let last = (self.high * factor / step).floor() as i64;
        for tick in first..=last.min(first + 20) {
            let value = tick as f64 * step;
            let y = self.y(value / factor);
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/><text class=\"end\" x=\"{:.1}\" \
                 y=\"{:.1}\">{value:.digits$}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0
            );
        }
        let unit = escape(self.plot.scale.unit);
        let _ = writeln!(out, "<text class=\"end\" x=\"{:.1}\" y=\"35\">{unit}</text>", LEFT - 8.0);
        out
    }

    /// A selection of the labels, evenly spaced.
    fn labels(&self) -> String {
        let points = &self.plot.points;
        let last = points.len() - 1;
        let shown = last.min(LABELS - 1);
        let mut out = String::new();
        let mut before = None;
        for i in 0..=shown {
            let index = (i * last).checked_div(shown).unwrap_or(0);
            let labels = &points[index].labels;
            if before == Some(labels) {
                continue;
            }
            let (x, y) = (self.x(index as f64), HEAD + PLOT);
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{x:.1} {y:.1}v4\"/><text class=\"mid\" x=\"{x:.1}\" \
                 y=\"{:.1}\">{}</text><text class=\"mid\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                y + 17.0,
                escape(&labels[0]),
                y + 32.0,
                escape(&labels[1])
            );
            before = Some(labels);
        }
        out
    }

    fn points(&self, points: &[Point]) -> String {
        let mut out = String::from("<path class=\"course\" d=\"");
        for (i, point) in points.iter().enumerate() {
            let sign = if i == 0 { 'M' } else { 'L' };
            let _ = write!(out, "{sign}{:.1} {:.1}", self.x(i as f64), self.y(point.mean));
        }
        out += "\"/>\n";
        let radius = if points.len() > 120 { 2.0 } else { 3.2 };
        for (i, point) in points.iter().enumerate() {
            let (x, y) = (self.x(i as f64), self.y(point.mean));
            out += "<g>";
            if let Some(half) = point.half_width {
                let (low, high) = (self.y(point.mean - half), self.y(point.mean + half));
                let _ = write!(out, "<path class=\"whisker\" d=\"M{x:.1} {low:.1}V{high:.1}\"/>");
            }
            let _ = writeln!(
                out,
                "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{}\
                 </title></circle></g>",
                escape(&point.told)
            );
        }
        out
    }

    /// For points too many to draw singly: the mean of each stretch, in a band from smallest to
    /// largest.
    fn stretches(&self, points: &[Point]) -> String {
        let width = points.len().div_ceil(MOST_POINTS);
        let stretch = |(i, of): (usize, &[Point])| {
            let means = || of.iter().map(|p| p.mean);
            Stretch {
                at: (i * width) as f64 + (of.len() - 1) as f64 / 2.0,
                mean: means().sum::<f64>() / of.len() as f64,
                low: means().fold(f64::INFINITY, f64::min),
                high: means().fold(f64::NEG_INFINITY, f64::max),
            }
        };
        let stretches: Vec<Stretch> = points.chunks(width).enumerate().map(stretch).collect();
        let mut band = String::new();
        let mut course = String::new();
        for (i, s) in stretches.iter().enumerate() {
            let sign = if i == 0 { 'M' } else { 'L' };
            let _ = write!(band, "{sign}{:.1} {:.1}", self.x(s.at), self.y(s.high));
            let _ = write!(course, "{sign}{:.1} {:.1}", self.x(s.at), self.y(s.mean));
        }
        for s in stretches.iter().rev() {
            let _ = write!(band, "L{:.1} {:.1}", self.x(s.at), self.y(s.low));
        }
        format!(
            "<path class=\"band\" d=\"{band}Z\"><title>least and greatest of {width} sessions\
             </title></path>\n<path class=\"course\" d=\"{course}\"/>\n"
        )
    }

    /// The levels between change points, and the change points.
    fn levels(&self) -> String {
        let changes = &self.plot.changes;
        let last = self.plot.points.len();
        let mut out = String::new();
        let ends = changes.iter().skip(1).map(|c| c.index).chain([last]);
        if let Some(first) = changes.first() {
            out += &self.level(0, first.index, first.before);
        }
        for (change, end) in changes.iter().zip(ends) {
            out += &self.level(change.index, end, change.after);
            out += &self.change(change);
        }
        out
    }

    fn level(&self, start: usize, end: usize, value: f64) -> String {
        let (from, to) = (self.x(start as f64 - 0.4).max(LEFT), self.x(end as f64 - 0.6));
        let y = self.y(value);
        format!("<path class=\"level\" d=\"M{from:.1} {y:.1}H{to:.1}\"/>\n")
    }

    fn change(&self, change: &Change) -> String {
        let word = if change.better { "better" } else { "worse" };
        let x = self.x(change.index as f64 - 0.5);
        // Near the right edge the text goes to the left of its line.
        let (side, text) = if x > WIDTH - 110.0 { (" end", x - 5.0) } else { ("", x + 5.0) };
        format!(
            "<g><title>{}</title><path class=\"change {word}\" d=\"M{x:.1} {:.1}V{:.1}\"/><text \
             class=\"{word}{side}\" x=\"{text:.1}\" y=\"{:.1}\">{}</text></g>\n",
            escape(&change.told),
            HEAD - 4.0,
            HEAD + PLOT,
            HEAD + 6.0,
            escape(&change.label)
        )
    }
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|t| t * power >= least);
    times.unwrap_or(10.0) * power
}
