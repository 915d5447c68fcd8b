//! What drawers of plots share: coordinates as text, the room that a text takes, markers, and the
//! group that a reader can point at.

use maud::{Markup, html};

/// Hues before they begin again; each has a marker of its own, so that no reader needs colours.
pub const HUES: usize = 8;

/// A finished body with its height.
pub struct Drawing {
    pub height: f64,
    pub body: Markup,
}

/// A coordinate.
pub fn px(x: f64) -> String {
    let text = format!("{x:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_string)
}

/// About how wide a text is set at 12 pixels. Fonts differ: this is on the wide side.
pub fn text_width(text: &str) -> f64 {
    let one = |c: char| match c {
        'i' | 'l' | 'j' | 't' | 'f' | 'r' | '.' | ',' | ':' | ' ' | '·' | '\'' | '|' => 3.9,
        'm' | 'w' | 'M' | 'W' | 'Q' | 'O' | 'G' => 9.8,
        c if c.is_ascii_uppercase() => 8.4,
        c if (c as u32) > 0x2e80 => 12.4,
        _ => 6.9,
    };
    text.chars().map(one).sum()
}

/// The text, cut to a width.
pub fn cut(text: &str, width: f64) -> String {
    if text_width(text) <= width {
        return text.to_string();
    }
    let mut short = String::new();
    for c in text.chars() {
        if text_width(&short) + text_width("…") + 7.0 > width {
            break;
        }
        short.push(c);
    }
    short.trim_end().to_string() + "…"
}

/// The text in lines of a width.
pub fn wrapped(text: &str, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if text_width(line) + text_width(word) + 4.0 <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(cut(word, width)),
        }
    }
    lines
}

/// A group with a tooltip, which the keyboard reaches too.
pub fn pointed(told: &str, body: Markup) -> Markup {
    html! { g.at tabindex="0" role="img" { title { (told) } (body) } }
}

pub fn line(class: &str, from: [f64; 2], to: [f64; 2]) -> Markup {
    let d = format!("M{} {}L{} {}", px(from[0]), px(from[1]), px(to[0]), px(to[1]));
    html! { path class=(class) d=(d) {} }
}

/// `anchor`: start, middle or end.
pub fn label(class: &str, [x, y]: [f64; 2], anchor: &str, text: &str) -> Markup {
    let class = match anchor {
        "middle" => format!("{class} mid"),
        "end" => format!("{class} end"),
        _ => class.to_string(),
    };
    html! { text class=(class.trim()) x=(px(x)) y=(px(y)) { (text) } }
}

/// Each hue has a shape of its own.
pub fn marker(hue: usize, [x, y]: [f64; 2], r: f64, class: &str) -> Markup {
    let at = |dx: f64, dy: f64| format!("{} {}", px(x + dx * r), px(y + dy * r));
    let closed = |corners: &[(f64, f64)]| {
        let corners: Vec<String> = corners.iter().map(|(dx, dy)| at(*dx, *dy)).collect();
        format!("M{}Z", corners.join("L"))
    };
    let d = match hue % HUES {
        0 => {
            let r = px(r);
            let (from, back) = (at(-1.0, 0.0), at(1.0, 0.0));
            format!("M{from}A{r} {r} 0 1 1 {back}A{r} {r} 0 1 1 {from}Z")
        }
        1 => closed(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
        2 => closed(&[(0.0, -1.15), (1.1, 0.85), (-1.1, 0.85)]),
        3 => closed(&[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)]),
        4 => closed(&[(0.0, 1.15), (1.1, -0.85), (-1.1, -0.85)]),
        5 => closed(&[
            (-0.4, -1.2),
            (0.4, -1.2),
            (0.4, -0.4),
            (1.2, -0.4),
            (1.2, 0.4),
            (0.4, 0.4),
            (0.4, 1.2),
            (-0.4, 1.2),
            (-0.4, 0.4),
            (-1.2, 0.4),
            (-1.2, -0.4),
            (-0.4, -0.4),
        ]),
        6 => closed(&[(-0.6, -1.1), (0.6, -1.1), (1.2, 0.0), (0.6, 1.1), (-0.6, 1.1), (-1.2, 0.0)]),
        _ => closed(&[(-1.2, -0.5), (1.2, -0.5), (1.2, 0.5), (-1.2, 0.5)]),
    };
    html! { path class={ (class) " " (hue_class(hue)) } d=(d) {} }
}

pub fn hue_class(hue: usize) -> String {
    format!("h{}", hue % HUES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_text_fits_and_an_uncut_one_is_whole() {
        assert_eq!(cut("candle Q4_0", 100.0), "candle Q4_0");
        let short = cut(&"candle Q4_0 at 2 threads ".repeat(3), 120.0);
        assert!(short.ends_with('…') && text_width(&short) <= 120.0, "{short}");
        let lines = wrapped("up and to the left is better, said at some length", 120.0);
        assert!(lines.len() == 3 && lines.iter().all(|l| text_width(l) <= 120.0), "{lines:?}");
        assert_eq!((px(12.04), px(7.25)), ("12".to_string(), "7.2".to_string()));
    }
}
