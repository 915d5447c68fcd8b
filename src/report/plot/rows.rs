//! Draws named rows: bars with intervals, parts of a whole, or spreads of samples.

use maud::{Markup, html};

use super::ink::{Drawing, cut, hue_class, label, line, marker, pointed, px, text_width};
use super::ruler::Ruler;
use super::{MEDIAN, Reach, Row, Rows, Value, words};

/// With more rows, name, bar and value share a line.
const MOST_ROOMY: usize = 14;
const FOOT: f64 = 22.0;

/// Where the things of a row lie.
struct Layout {
    width: f64,
    /// Height of a row.
    pitch: f64,
    /// Top of the bar in its row, and its height.
    bar: [f64; 2],
    /// Both ends of the axis.
    axis: [f64; 2],
    /// Room of the name, of the value, and the line they are written on.
    name: f64,
    baseline: f64,
}

impl Layout {
    fn new(rows: &Rows, width: f64) -> Self {
        let longest = |texts: &mut dyn Iterator<Item = f64>| texts.fold(0.0, f64::max);
        let value = longest(&mut rows.rows.iter().map(|r| text_width(&words::said(rows, r))));
        if rows.rows.len() <= MOST_ROOMY {
            return Self {
                width,
                pitch: 38.0,
                bar: [18.0, 11.0],
                axis: [1.0, width - 6.0],
                name: width - value - 12.0,
                baseline: 12.0,
            };
        }
        let name = longest(&mut rows.rows.iter().map(|r| text_width(&r.name))).min(width * 0.34);
        Self {
            width,
            pitch: 20.0,
            bar: [5.0, 10.0],
            axis: [name + 8.0, width - value - 10.0],
            name,
            baseline: 14.0,
        }
    }
}

pub fn draw(rows: &Rows, width: f64) -> Drawing {
    let layout = Layout::new(rows, width);
    let values = rows.rows.iter().flat_map(|row| -> Vec<f64> {
        match &row.value {
            Value::Bar(mean, _) => vec![0.0, *mean],
            Value::Stack(parts) => {
                vec![0.0, parts.iter().sum(), parts.iter().filter(|x| **x > 0.0).sum()]
            }
            Value::Spread(quantiles) => quantiles.iter().copied().flatten().collect(),
            Value::Nothing(_) => Vec::new(),
        }
    });
    let values: Vec<f64> = values.collect();
    let reaches = rows.rows.iter().flat_map(|row| match &row.value {
        Value::Bar(mean, reach) => reach.ends(*mean).map(Vec::from).unwrap_or_default(),
        _ => Vec::new(),
    });
    let ruler = Ruler::new(&rows.axis, &values, reaches, layout.axis);
    let (legend, top) = legend(rows, width);
    let bottom = top + layout.pitch * rows.rows.len() as f64 + 4.0;
    let ticks = ruler.ticks(64.0);
    let body = html! {
        (legend)
        @for tick in &ticks {
            (line("grid", [tick.at, top], [tick.at, bottom]))
            (tick_label(&tick.label, tick.at, bottom + 15.0, width))
        }
        @for (i, row) in rows.rows.iter().enumerate() {
            (self::row(rows, row, &layout, &ruler, top + layout.pitch * i as f64))
        }
    };
    Drawing { height: bottom + FOOT, body }
}

/// Kept inside the picture.
fn tick_label(text: &str, x: f64, y: f64, width: f64) -> Markup {
    let half = text_width(text) / 2.0;
    match x {
        x if x < half => label("tick", [x, y], "start", text),
        x if x + half > width => label("tick", [x, y], "end", text),
        x => label("tick", [x, y], "middle", text),
    }
}

/// The parts by name, where rows are made of parts; which figure is written, where rows have several.
fn legend(rows: &Rows, width: f64) -> (Markup, f64) {
    let has = |of: fn(&Value) -> bool| rows.rows.iter().any(|row| of(&row.value));
    if has(|value| matches!(value, Value::Spread(_))) {
        let written = rows.parts.get(MEDIAN).map_or("", String::as_str);
        return (label("tick", [width, 12.0], "end", written), 18.0);
    }
    if !has(|value| matches!(value, Value::Stack(_))) {
        return (html! {}, 2.0);
    }
    let (mut x, mut y) = (0.0, 12.0);
    let mut places = Vec::new();
    for part in &rows.parts {
        let room = text_width(part) + 32.0;
        if x > 0.0 && x + room > width {
            (x, y) = (0.0, y + 18.0);
        }
        places.push([x, y]);
        x += room;
    }
    let markup = html! {
        @for (i, ([x, y], part)) in places.iter().zip(&rows.parts).enumerate() {
            rect class={ "part " (part_class(i)) } x=(px(*x)) y=(px(y - 9.0)) width="10" height="10" rx="2" {}
            (label("tick", [x + 15.0, *y], "start", part))
        }
    };
    (markup, y + 12.0)
}

fn part_class(i: usize) -> String {
    format!("p{}", i % 6)
}

fn row(rows: &Rows, row: &Row, layout: &Layout, ruler: &Ruler, top: f64) -> Markup {
    let said = words::said(rows, row);
    let told = format!("{}: {}", row.name, told(rows, row));
    let weight = if row.best { "best" } else { "" };
    let baseline = top + layout.baseline;
    let body = html! {
        rect.hit x="0" y=(px(top)) width=(px(layout.width)) height=(px(layout.pitch)) {}
        (label(&format!("name {weight}"), [0.0, baseline], "start", &cut(&row.name, layout.name)))
        (label(&format!("value {weight}"), [layout.width, baseline], "end", &said))
        (mark(row, layout, ruler, top))
    };
    pointed(&told, body)
}

/// All figures of a row, with their unit.
fn told(rows: &Rows, row: &Row) -> String {
    let one = |x: f64| rows.axis.quantity(x, Reach::None);
    let parts = |values: &mut dyn Iterator<Item = Option<f64>>| {
        let each = rows.parts.iter().zip(values);
        let each = each.filter_map(|(part, x)| Some(format!("{part} {}", one(x?))));
        each.collect::<Vec<_>>().join(", ")
    };
    match &row.value {
        Value::Bar(mean, reach) => rows.axis.quantity(*mean, *reach),
        Value::Stack(of) => {
            let sum = one(of.iter().sum());
            format!("{sum} = {}", parts(&mut of.iter().map(|x| Some(*x))))
        }
        Value::Spread(of) => parts(&mut of.iter().copied()),
        Value::Nothing(why) => why.clone(),
    }
}

fn mark(row: &Row, layout: &Layout, ruler: &Ruler, top: f64) -> Markup {
    let [offset, height] = layout.bar;
    let (y, middle) = (top + offset, top + offset + height / 2.0);
    let hue = hue_class(row.hue);
    match &row.value {
        Value::Bar(mean, reach) => {
            let (zero, end) = (ruler.place(0.0), ruler.place(*mean));
            html! {
                rect class={ "bar " (hue) } x=(px(zero.min(end))) y=(px(y))
                    width=(px((end - zero).abs().max(1.0))) height=(px(height)) rx="2" {}
                @if let Some([low, high]) = reach.ends(*mean) {
                    (whisker(ruler.place(low), ruler.place(high), middle, height / 2.0 - 1.0))
                }
            }
        }
        Value::Stack(parts) => {
            let mut at = 0.0;
            let pieces: Vec<(usize, f64, f64)> = (0..)
                .zip(parts)
                .map(|(i, part)| {
                    let from = at;
                    at += part;
                    (i, ruler.place(from.min(at)), ruler.place(from.max(at)))
                })
                .collect();
            html! {
                @for (i, from, to) in pieces {
                    @if to - from >= 0.3 {
                        // A gap of one pixel tells neighbours apart without their colours.
                        rect class={ "part " (part_class(i)) } x=(px(from)) y=(px(y))
                            width=(px((to - from - 1.0).max(0.6))) height=(px(height)) {}
                    }
                }
            }
        }
        Value::Spread(quantiles) => spread(quantiles, row.hue, ruler, [middle, height]),
        Value::Nothing(_) => line("grid", [layout.axis[0], middle], [layout.axis[1], middle]),
    }
}

fn whisker(low: f64, high: f64, y: f64, cap: f64) -> Markup {
    let d = format!(
        "M{low} {y}H{high}M{low} {top}V{bottom}M{high} {top}V{bottom}",
        low = px(low),
        high = px(high),
        y = px(y),
        top = px(y - cap),
        bottom = px(y + cap)
    );
    html! { path.halo d=(d) {} path.whisker d=(d) {} }
}

/// A thin line from the first quantile to the one before the last, a thick one between the second
/// and the fourth, the median, and the largest value.
fn spread(of: &[Option<f64>], hue: usize, ruler: &Ruler, [y, height]: [f64; 2]) -> Markup {
    let at = |i: usize| of.get(i).copied().flatten().map(|x| ruler.place(x));
    let last = of.len().saturating_sub(1);
    let far = (4..last).rev().find_map(at);
    let class = hue_class(hue);
    html! {
        @if let (Some(from), Some(to)) = (at(0), far) {
            (line(&format!("thin {class}"), [from, y], [to, y]))
        }
        @if let (Some(from), Some(to)) = (at(1), at(3)) {
            rect class={ "bar " (class) } x=(px(from)) y=(px(y - height / 2.0))
                width=(px((to - from).max(1.5))) height=(px(height)) rx="2" {}
        }
        @if let Some(x) = at(MEDIAN) {
            (line("halo", [x, y - height / 2.0 - 1.0], [x, y + height / 2.0 + 1.0]))
            (line("whisker", [x, y - height / 2.0 - 2.0], [x, y + height / 2.0 + 2.0]))
        }
        @if let Some(x) = at(last) { (marker(hue, [x, y], 3.4, "hollow")) }
    }
}
