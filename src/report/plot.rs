//! Lines of a history as SVG: one panel for each line, so that no two identities share an axis.
//! Points with their intervals, levels between change points, commits along the bottom. Written
//! by hand: what a plotter would add is what this leaves out.

use std::fmt::Write;

use super::history::{Scale, date, facts, look_at, percent, title};
use super::text::clean;
use crate::history::{Course, Point};
use crate::stats::ChangePoint;

const WIDTH: f64 = 960.0;
/// Of one panel: its head, the plot itself, the commits beneath.
const HEAD: f64 = 48.0;
const PLOT: f64 = 168.0;
const FOOT: f64 = 54.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 44.0;
/// More points than this are drawn as stretches: mean, least and greatest.
const MOST_POINTS: usize = 300;
/// Texts beneath the plot.
const LABELS: usize = 9;
/// A line that hardly moves is not blown up: the axis spans at least this share of it.
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

/// Whether an SVG stands alone or in a page that has its style.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Svg {
    Alone,
    InPage,
}

/// The style of [`Svg::InPage`].
pub(super) fn style() -> &'static str {
    STYLE
}

/// A text between tags or in an attribute, without what XML cannot hold.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in clean(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => {}
            c => out.push(c),
        }
    }
    out
}

/// Draws the lines beneath each other; each needs a point.
pub fn plot(courses: &[Course], kind: Svg) -> String {
    let panel = HEAD + PLOT + FOOT;
    let height = panel * courses.len().max(1) as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"hist\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n"
    );
    if kind == Svg::Alone {
        out += STYLE;
        out += &format!("<rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n");
    }
    if courses.is_empty() {
        out += &format!("<text x=\"{LEFT}\" y=\"{HEAD}\">No session fits.</text>\n");
    }
    for (i, course) in courses.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate(0 {})\">", panel * i as f64);
        out += &Panel::new(course).draw();
        out += "</g>\n";
    }
    out + "</svg>\n"
}

/// Where values and sessions lie in a panel.
struct Panel<'a> {
    course: &'a Course,
    scale: Scale,
    low: f64,
    high: f64,
}

/// Neighbouring points as one.
struct Stretch {
    /// Middle, as an index.
    at: f64,
    mean: f64,
    low: f64,
    high: f64,
}

impl<'a> Panel<'a> {
    fn new(course: &'a Course) -> Self {
        let points = &course.series.points;
        let mut low = f64::INFINITY;
        let mut high = f64::NEG_INFINITY;
        for point in points {
            let reach = match points.len() <= MOST_POINTS {
                true => point.interval().map_or(0.0, |i| (i.high - i.low) / 2.0),
                false => 0.0,
            };
            low = low.min(point.mean - reach);
            high = high.max(point.mean + reach);
        }
        // The interval of two launches may be twenty times as long as their difference: it may
        // leave the plot, and must not flatten all the rest.
        let means = || points.iter().map(|p| p.mean);
        let (least, most) =
            (means().fold(f64::INFINITY, f64::min), means().fold(f64::NEG_INFINITY, f64::max));
        let span = (most - least).max(LEAST_SPAN * most.abs().max(least.abs()));
        let span = if span > 0.0 { span } else { 1.0 };
        (low, high) = (low.max(least - span), high.min(most + span));
        let short = (span - (high - low)).max(0.0) / 2.0;
        let room = 0.06 * (high - low + 2.0 * short);
        let scale = Scale::of(course);
        Self { course, scale, low: low - short - room, high: high + short + room }
    }

    fn x(&self, index: f64) -> f64 {
        let width = WIDTH - LEFT - RIGHT;
        match self.course.series.points.len() {
            1 => LEFT + width / 2.0,
            n => LEFT + 8.0 + (width - 16.0) * index / (n - 1) as f64,
        }
    }

    fn y(&self, value: f64) -> f64 {
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        HEAD + PLOT * (1.0 - share)
    }

    fn draw(&self) -> String {
        let course = self.course;
        let mut out = format!(
            "<text class=\"title\" x=\"{LEFT}\" y=\"18\">{}</text>\n<text x=\"{LEFT}\" \
             y=\"35\">{}</text>\n",
            escape(&title(course)),
            escape(&facts(course))
        );
        out += &self.axis();
        out += &self.commits();
        let points = &course.series.points;
        match points.len() <= MOST_POINTS {
            true => out += &self.points(points),
            false => out += &self.stretches(points),
        }
        out += &self.levels();
        out
    }

    /// Lines across at round values.
    fn axis(&self) -> String {
        let factor = self.scale.factor;
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
        let unit = escape(self.scale.unit);
        let _ = writeln!(out, "<text class=\"end\" x=\"{:.1}\" y=\"35\">{unit}</text>", LEFT - 8.0);
        out
    }

    /// Some of the commits with their days, evenly over the line.
    fn commits(&self) -> String {
        let series = &self.course.series;
        let last = series.points.len() - 1;
        let shown = last.min(LABELS - 1);
        let mut out = String::new();
        let mut before = None;
        for i in 0..=shown {
            let index = (i * last).checked_div(shown).unwrap_or(0);
            let point = &series.points[index];
            let label = series.revision(point).label().unwrap_or_else(|| "–".into());
            if before == Some((point.revision, date(point.place))) {
                continue;
            }
            let x = self.x(index as f64);
            let y = HEAD + PLOT;
            let _ = writeln!(
                out,
                "<path class=\"grid\" d=\"M{x:.1} {:.1}v4\"/><text class=\"mid\" x=\"{x:.1}\" \
                 y=\"{:.1}\">{}</text><text class=\"mid\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
                y,
                y + 17.0,
                escape(&label),
                y + 32.0,
                date(point.place)
            );
            before = Some((point.revision, date(point.place)));
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
            let interval = point.interval();
            if let Some(interval) = interval {
                let (low, high) = (self.y(interval.low), self.y(interval.high));
                let _ = write!(out, "<path class=\"whisker\" d=\"M{x:.1} {low:.1}V{high:.1}\"/>");
            }
            let series = &self.course.series;
            let label = series.revision(point).label().unwrap_or_else(|| "no commit".into());
            let half = interval.map(|i| (i.high - i.low) / 2.0);
            let what = format!(
                "{label}, {}: {} {}, {} launch{}",
                date(point.place),
                self.scale.set(point.mean, half),
                self.scale.unit,
                point.n,
                if point.n == 1 { "" } else { "es" }
            );
            let _ = writeln!(
                out,
                "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"><title>{}\
                 </title></circle></g>",
                escape(&what)
            );
        }
        out
    }

    /// Too many to be told apart: the mean of each stretch in the band of its least and greatest.
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
        let changes = self.course.changes();
        let last = self.course.series.points.len();
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

    fn change(&self, change: &ChangePoint) -> String {
        let word = if self.course.is_better(change) { "better" } else { "worse" };
        let x = self.x(change.index as f64 - 0.5);
        // Near the right edge the text stands to the left of its line.
        let (side, text) = if x > WIDTH - 110.0 { (" end", x - 5.0) } else { ("", x + 5.0) };
        let what = format!(
            "{} to {} {}, p {:.3}; {}",
            self.scale.set(change.before, None),
            self.scale.set(change.after, None),
            self.scale.unit,
            change.p,
            look_at(self.course, change)
        );
        format!(
            "<g><title>{}</title><path class=\"change {word}\" d=\"M{x:.1} {:.1}V{:.1}\"/><text \
             class=\"{word}{side}\" x=\"{text:.1}\" y=\"{:.1}\">{}</text></g>\n",
            escape(&what),
            HEAD - 4.0,
            HEAD + PLOT,
            HEAD + 6.0,
            percent(change.change)
        )
    }
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|t| t * power >= least);
    times.unwrap_or(10.0) * power
}
