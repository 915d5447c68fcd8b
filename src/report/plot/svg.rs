//! Plots as SVG: in a page, once for each width that it may have, or as a file of its own.

use maud::{Markup, PreEscaped, html};

use super::ink::{Drawing, cut, label, px, wrapped};
use super::{Plot, Shape, field, heat, rows};

/// Colours and strokes; a page that shows plots needs it too.
pub const STYLE: &str = include_str!("plot.css");
/// Of a file.
const ALONE: f64 = 880.0;
const MARGIN: f64 = 20.0;
const LINE: f64 = 16.0;

/// How much of a page's width a plot takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// The whole width: drawn anew for a phone, where its letters would be too small.
    Full,
    /// A column of a grid.
    Column,
}

/// The pictures of a plot for a page, without title and facts.
pub fn in_page(plot: &Plot, size: Size) -> Markup {
    match size {
        Size::Full => html! { (one(plot, 920.0, "wide")) (one(plot, 350.0, "slim")) },
        Size::Column => one(plot, 350.0, ""),
    }
}

fn one(plot: &Plot, width: f64, class: &str) -> Markup {
    let Drawing { height, body } = body(plot, width);
    html! {
        svg class={ "plot " (class) } viewBox={ "0 0 " (px(width)) " " (px(height)) }
            width=(px(width)) height=(px(height)) role="group" aria-label=(plot.alternative()) { (body) }
    }
}

fn body(plot: &Plot, width: f64) -> Drawing {
    match &plot.shape {
        Shape::Rows(rows) => rows::draw(rows, width),
        Shape::Field(field) => field::draw(field, width),
        Shape::Heat(heat) => heat::draw(heat, width),
    }
}

/// A file of its own, with the plots one below the other, their titles and facts.
pub fn alone(plots: &[Plot]) -> String {
    let inside = ALONE - 2.0 * MARGIN;
    let mut panels = Vec::new();
    let mut top = MARGIN;
    for plot in plots {
        let drawing = body(plot, inside);
        let facts = wrapped(&plot.facts, inside);
        let head = 30.0 + LINE * facts.len() as f64;
        panels.push((top, head, plot, facts, drawing.body));
        top += head + drawing.height + 24.0;
    }
    let height = if panels.is_empty() { 80.0 } else { top };
    let alternative: Vec<String> = plots.iter().map(Plot::alternative).collect();
    let svg = html! {
        svg.plot.alone xmlns="http://www.w3.org/2000/svg"
            viewBox={ "0 0 " (px(ALONE)) " " (px(height)) } width=(px(ALONE)) height=(px(height))
            role="group" aria-label=(alternative.join(" ")) {
            style { (PreEscaped(STYLE)) }
            rect.paper width=(px(ALONE)) height=(px(height)) {}
            @if panels.is_empty() { (label("name", [MARGIN, 44.0], "start", "Nothing to draw.")) }
            @for (top, head, plot, facts, body) in panels {
                g transform={ "translate(" (px(MARGIN)) " " (px(top)) ")" } {
                    (label("title", [0.0, 14.0], "start", &cut(&plot.title, inside * 0.85)))
                    @for (i, line) in facts.iter().enumerate() {
                        (label("tick", [0.0, 33.0 + LINE * i as f64], "start", line))
                    }
                    g transform={ "translate(0 " (px(head)) ")" } { (body) }
                }
            }
        }
    };
    // XML cannot hold these, whoever wrote them.
    let fit = |c: &char| !matches!(c, '\u{fffe}' | '\u{ffff}') && (!c.is_control() || *c == '\n');
    svg.into_string().chars().filter(fit).collect::<String>() + "\n"
}
