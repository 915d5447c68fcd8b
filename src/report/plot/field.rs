//! Draws points and lines between two axes.

use maud::{Markup, html};

use super::ink::{Drawing, cut, hue_class, label, line, marker, pointed, px, text_width};
use super::ruler::{Ruler, Tick};
use super::{Change, Field, Look, Point, Reach, Series, Steps};

/// A line with more points draws stretches: mean, smallest and largest.
const MOST_POINTS: usize = 300;
/// From here on the picture is as wide as a page.
const WIDE: f64 = 600.0;
const HEAD: f64 = 26.0;
/// Lines of text beneath the plot.
const FOOT: f64 = 42.0;
/// Names beside lines keep this distance.
const APART: f64 = 14.0;

/// The parts of the picture.
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    width: f64,
}

struct Drawer<'a> {
    field: &'a Field,
    frame: Frame,
    x: Ruler,
    y: Ruler,
}

pub fn draw(field: &Field, width: f64) -> Drawing {
    let named = matches!(field.x.steps, Steps::Named(_));
    let inside = match (width > WIDE, named) {
        (true, true) => 190.0,
        (true, false) => 350.0,
        (false, true) => 190.0,
        (false, false) => 260.0,
    };
    let foot = if named { FOOT + 6.0 } else { FOOT };
    let mut frame =
        Frame { left: 0.0, right: width - 6.0, top: HEAD, bottom: HEAD + inside, width };
    let y = ruler(field, Side::Y, [frame.bottom, frame.top]);
    let ticks = y.ticks(44.0);
    let widest = ticks.iter().map(|t| text_width(&t.label)).fold(0.0, f64::max);
    frame.left = widest + 10.0;
    let names = field.series.iter().filter(|s| beside(s)).map(|s| text_width(&s.name));
    let names = names.fold(0.0, f64::max);
    if names > 0.0 {
        frame.right = width - (1.03 * names + 20.0).min(width * 0.34);
    }
    let x = ruler(field, Side::X, [frame.left + 8.0, frame.right - 8.0]);
    let drawer = Drawer { field, frame, x, y };
    Drawing { height: HEAD + inside + foot, body: drawer.draw(&ticks) }
}

/// Whether the name is written beside the last point.
fn beside(series: &Series) -> bool {
    series.look != Look::Dots && !series.name.is_empty()
}

#[derive(Clone, Copy)]
enum Side {
    X,
    Y,
}

fn ruler(field: &Field, side: Side, ends: [f64; 2]) -> Ruler {
    let of = |p: &Point| match side {
        Side::X => (p.x, p.along),
        Side::Y => (p.y, p.across),
    };
    let axis = match side {
        Side::X => &field.x,
        Side::Y => &field.y,
    };
    // Too many points are drawn without their intervals.
    let many = |s: &Series| s.points.len() > MOST_POINTS;
    let values: Vec<f64> = field.points().map(|p| of(p).0).collect();
    let reaches = field.series.iter().filter(|s| !many(s)).flat_map(|s| &s.points);
    let reaches = reaches.filter_map(move |p| of(p).1.ends(of(p).0)).flatten();
    Ruler::new(axis, &values, reaches, ends)
}

impl Drawer<'_> {
    fn at(&self, p: &Point) -> [f64; 2] {
        [self.x.place(p.x), self.y.place(p.y)]
    }

    fn draw(&self, ticks: &[Tick]) -> Markup {
        html! {
            (self.axes(ticks))
            (self.edge())
            @for series in &self.field.series {
                @match series.look {
                    Look::Bound => (self.path(series, &format!("bound {}", hue_class(series.hue)))),
                    Look::Curve => (self.curve(series)),
                    Look::Line if series.points.len() > MOST_POINTS => (self.stretches(series)),
                    Look::Line => (self.path(series, &format!("course {}", hue_class(series.hue)))),
                    Look::Dots => {}
                }
            }
            (self.levels())
            @for series in &self.field.series {
                @if matches!(series.look, Look::Dots | Look::Line)
                    && series.points.len() <= MOST_POINTS { (self.points(series)) }
            }
            (self.names())
            (self.point_names())
        }
    }

    fn edge(&self) -> Markup {
        let corners = self.field.edge.iter().map(|(x, y)| [self.x.place(*x), self.y.place(*y)]);
        let corners: Vec<String> = corners.map(|[x, y]| format!("{} {}", px(x), px(y))).collect();
        html! {
            @if corners.len() > 1 { path class="edge-line" d={ "M" (corners.join("L")) } {} }
        }
    }

    fn axes(&self, ticks: &[Tick]) -> Markup {
        let f = &self.frame;
        let under = f.bottom + 17.0;
        html! {
            (label("axis", [0.0, 12.0], "start", &cut(&self.field.y.head(), f.width)))
            @for tick in ticks {
                (line("grid", [f.left, tick.at], [f.right, tick.at]))
                (label("tick", [f.left - 6.0, tick.at + 4.0], "end", &tick.label))
            }
            @match &self.field.x.steps {
                Steps::Named(places) => (self.places(places)),
                _ => {
                    @for tick in self.x.ticks(62.0) {
                        (line("grid", [tick.at, f.bottom], [tick.at, f.bottom + 4.0]))
                        (label("tick", [tick.at, under], "middle", &tick.label))
                    }
                    (label("axis", [f.right, under + 19.0], "end",
                        &cut(&self.field.x.head(), f.right)))
                }
            }
            (line("edge", [f.left, f.bottom], [f.right, f.bottom]))
            @if let Some(x) = self.x.gap() {
                (line("break", [x - 3.0, f.bottom + 5.0], [x + 1.0, f.bottom - 5.0]))
                (line("break", [x + 1.0, f.bottom + 5.0], [x + 5.0, f.bottom - 5.0]))
            }
        }
    }

    /// A selection of the names of places, evenly spaced.
    fn places(&self, places: &[[String; 2]]) -> Markup {
        let f = &self.frame;
        let last = places.len().saturating_sub(1);
        let fit = ((f.right - f.left) / 92.0).floor().max(1.0) as usize;
        let shown = last.min(fit);
        let mut chosen: Vec<(f64, &[String; 2])> = Vec::new();
        for i in 0..=shown {
            let index = (i * last).checked_div(shown).unwrap_or(0);
            let Some(place) = places.get(index) else { continue };
            if chosen.last().is_none_or(|(_, before)| *before != place) {
                chosen.push((self.x.place(index as f64), place));
            }
        }
        html! {
            @for (x, [what, when]) in chosen {
                (line("grid", [x, f.bottom], [x, f.bottom + 4.0]))
                @let anchor = if x + 36.0 > f.width { "end" } else { "middle" };
                @let x = if anchor == "end" { f.width } else { x.max(36.0) };
                (label("tick", [x, f.bottom + 17.0], anchor, what))
                (label("tick", [x, f.bottom + 32.0], anchor, when))
            }
        }
    }

    fn path(&self, series: &Series, class: &str) -> Markup {
        let mut d = String::new();
        for (i, point) in series.points.iter().enumerate() {
            let [x, y] = self.at(point);
            d += &format!("{}{} {}", if i == 0 { 'M' } else { 'L' }, px(x), px(y));
        }
        html! { path class=(class) d=(d) {} }
    }

    fn curve(&self, series: &Series) -> Markup {
        let ends = |p: &Point| p.across.ends(p.y).map(|ends| (p.x, ends));
        let reached: Vec<(f64, [f64; 2])> = series.points.iter().filter_map(ends).collect();
        html! {
            (self.band(&reached, series.hue))
            (self.path(series, &format!("course {}", hue_class(series.hue))))
        }
    }

    fn band(&self, of: &[(f64, [f64; 2])], hue: usize) -> Markup {
        let there = of.iter().map(|(x, [_, high])| (x, high));
        let back = of.iter().rev().map(|(x, [low, _])| (x, low));
        let corners: Vec<String> = there
            .chain(back)
            .map(|(x, y)| format!("{} {}", px(self.x.place(*x)), px(self.y.place(*y))))
            .collect();
        html! {
            @if of.len() > 1 {
                path class={ "band " (hue_class(hue)) } d={ "M" (corners.join("L")) "Z" } {}
            }
        }
    }

    /// For points too many to draw singly: the mean of each stretch, in a band from smallest to
    /// largest.
    fn stretches(&self, series: &Series) -> Markup {
        let size = series.points.len().div_ceil(MOST_POINTS);
        let stretch = |of: &[Point]| {
            let values = || of.iter().map(|p| p.y);
            let n = of.len() as f64;
            let x = of.iter().map(|p| p.x).sum::<f64>() / n;
            let low = values().fold(f64::INFINITY, f64::min);
            let high = values().fold(f64::NEG_INFINITY, f64::max);
            Point::new(x, values().sum::<f64>() / n, Reach::Range([low, high]))
        };
        let points = series.points.chunks(size).map(stretch).collect();
        let told = format!("smallest and largest of {size} neighbours");
        let stretched = Series { points, name: String::new(), ..series.clone() };
        html! { g { title { (told) } (self.curve(&stretched)) } }
    }

    fn points(&self, series: &Series) -> Markup {
        let r = if series.points.len() > 120 { 2.0 } else { 4.2 };
        html! {
            @for point in &series.points {
                @let told = self.field.told(series, point);
                @let at = self.at(point);
                (pointed(&told, html! {
                    (self.whiskers(point, at, series.hue))
                    (marker(series.hue, at, r, if point.strong { "dot" } else { "hollow" }))
                }))
            }
        }
    }

    fn whiskers(&self, point: &Point, [x, y]: [f64; 2], hue: usize) -> Markup {
        let class = format!("reach {}", hue_class(hue));
        html! {
            @if let Some([low, high]) = point.across.ends(point.y) {
                (line(&class, [x, self.y.place(low)], [x, self.y.place(high)]))
            }
            @if let Some([low, high]) = point.along.ends(point.x) {
                (line(&class, [self.x.place(low.max(f64::MIN_POSITIVE)), y],
                    [self.x.place(high), y]))
            }
        }
    }

    /// Names of lines, each beside its last point, pushed apart where they would meet.
    fn names(&self) -> Markup {
        let last = |s: &Series| s.points.last().map(|p| self.at(p)[1]);
        let mut names: Vec<(f64, &Series)> = (self.field.series.iter())
            .filter(|s| beside(s))
            .filter_map(|s| Some((last(s)?, s)))
            .collect();
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (top, bottom) = (self.frame.top, self.frame.bottom);
        let mut places: Vec<f64> = Vec::new();
        for (y, _) in &names {
            let free = places.last().map_or(top, |before| before + APART);
            places.push(y.max(free));
        }
        // Back up from the bottom edge.
        let mut limit = bottom;
        for place in places.iter_mut().rev() {
            *place = place.min(limit);
            limit = *place - APART;
        }
        let x = self.frame.right + 2.0;
        let room = self.frame.width - x - 11.0;
        html! {
            @for (y, (from, series)) in places.iter().zip(&names) {
                @let bound = series.look == Look::Bound;
                @let class = if bound { "bound" } else { "lead" };
                @if (y - from).abs() > 3.0 {
                    (line("lead", [self.frame.right - 6.0, *from], [x + 3.0, *y]))
                }
                @if bound {
                    (line(&format!("bound {}", hue_class(series.hue)), [x - 1.0, *y], [x + 8.0, *y]))
                } @else { (marker(series.hue, [x + 4.0, *y], 3.2, "dot")) }
                @let text = if class == "bound" { "tick" } else { "end-name" };
                (label(text, [x + 11.0, y + 4.0], "start", &cut(&series.name, room)))
            }
        }
    }

    /// Names of single points, where they cover nothing: the full ones first.
    fn point_names(&self) -> Markup {
        let dots = || self.field.series.iter().filter(|s| s.look == Look::Dots);
        // Markers and their intervals.
        let covered = |p: &Point| {
            let [x, y] = self.at(p);
            let ends = |ends: Option<[f64; 2]>, of: &Ruler, at: f64| {
                let [a, b] = ends.map_or([at; 2], |ends| ends.map(|end| of.place(end)));
                [a.min(b).min(at - 5.0), a.max(b).max(at + 5.0)]
            };
            let [left, right] = ends(p.along.ends(p.x), &self.x, x);
            let [top, bottom] = ends(p.across.ends(p.y), &self.y, y);
            [[left, y - 3.0, right, y + 3.0], [x - 5.0, top, x + 5.0, bottom]]
        };
        let mut taken: Vec<[f64; 4]> = dots().flat_map(|s| &s.points).flat_map(covered).collect();
        let mut all: Vec<&Point> = dots().flat_map(|s| &s.points).collect();
        all.sort_by_key(|p| !p.strong);
        let mut placed: Vec<([f64; 2], &Point)> = Vec::new();
        for point in all.into_iter().filter(|p| !p.name.is_empty()) {
            let [x, y] = self.at(point);
            let w = text_width(&point.name);
            let corners = [
                [x + 9.0, y + 4.0],
                [x - 9.0 - w, y + 4.0],
                [x + 8.0, y - 8.0],
                [x + 8.0, y + 17.0],
                [x - w - 8.0, y - 8.0],
                [x - w - 8.0, y + 17.0],
                [x - w / 2.0, y - 10.0],
                [x - w / 2.0, y + 19.0],
            ];
            let place = |[x, y]: [f64; 2]| [x - 1.0, y - 11.0, x + w + 1.0, y + 3.0];
            let free = |of: &[f64; 2]| {
                let [l, t, r, b] = place(*of);
                let inside = l >= self.frame.left
                    && r <= self.frame.width
                    && t >= self.frame.top - 14.0
                    && b <= self.frame.bottom - 1.0;
                let clear = |o: &[f64; 4]| r < o[0] || o[2] < l || b < o[1] || o[3] < t;
                inside && taken.iter().all(clear)
            };
            if let Some(corner) = corners.into_iter().find(free) {
                taken.push(place(corner));
                placed.push((corner, point));
            }
        }
        html! {
            @for (at, point) in placed {
                (label(if point.strong { "point-name best" } else { "point-name" }, at, "start",
                    &point.name))
            }
        }
    }

    /// The levels between change points, and the change points.
    fn levels(&self) -> Markup {
        let changes = &self.field.changes;
        let last = match &self.field.x.steps {
            Steps::Named(places) => places.len(),
            _ => return html! {},
        };
        let ends = changes.iter().skip(1).map(|c| c.index).chain([last]);
        html! {
            @if let Some(first) = changes.first() { (self.level(0, first.index, first.before)) }
            @for (change, end) in changes.iter().zip(ends) {
                (self.level(change.index, end, change.after))
                (self.change(change))
            }
        }
    }

    fn level(&self, start: usize, end: usize, value: f64) -> Markup {
        let step = self.x.place(1.0) - self.x.place(0.0);
        let from = (self.x.place(start as f64) - 0.4 * step).max(self.frame.left);
        let to = self.x.place(end.saturating_sub(1) as f64) + 0.4 * step;
        let y = self.y.place(value);
        line("level", [from, y], [to.min(self.frame.right), y])
    }

    fn change(&self, change: &Change) -> Markup {
        let f = &self.frame;
        let word = if change.better { "better" } else { "worse" };
        let [before, at] =
            [change.index.saturating_sub(1), change.index].map(|i| self.x.place(i as f64));
        let x = (before + at) / 2.0;
        // Near the right edge the text goes to the left of its line.
        let near = x > f.right - 70.0;
        let (anchor, text) = if near { ("end", x - 5.0) } else { ("start", x + 5.0) };
        pointed(
            &change.told,
            html! {
                (line(&format!("change {word}"), [x, f.top - 4.0], [x, f.bottom]))
                (label(word, [text, f.top + 6.0], anchor, &change.label))
            },
        )
    }
}
