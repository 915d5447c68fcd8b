//! The page of a small document, and what every page keeps.

use super::*;
use crate::metric::Unit;
use crate::number::{Form, Scale};
use crate::report::document::Measured;
use crate::report::plot::{Axis, Field, Look, Point, Reach, Series, Shape, Steps};

fn small() -> Document {
    let scale = Scale::of(Unit::TokensPerSecond, [54.1].into_iter());
    let measured = Measured { mean: 54.1, half_width: Some(1.2), ratio: Some((1.6, false)), scale };
    let mut table = Table::new([Column::left(""), Column::unit(), Column::right("candle <1>")]);
    table.stub = 2;
    table.push(vec!["Decode".into(), Cell::unit("tok/s"), Cell::from(measured).toned(Tone::Best)]);
    table.push(vec!["Verified".into(), Cell::empty(), "pass & more".into()]);
    let points = [(1.0, 20.0), (2.0, 38.0)];
    let points = points.map(|(x, y)| Point::new(x, y, Reach::Half(1.5))).to_vec();
    let line = Series { name: "candle".into(), hue: 0, look: Look::Line, points };
    let field = Field::new(
        Axis::count("Threads", Steps::FromZero),
        Axis::new("Decode", scale, Steps::FromZero),
        vec![line],
    );
    let plot = Plot {
        title: "Decode over threads".into(),
        facts: "tok/s".into(),
        shape: Shape::Field(Box::new(field)),
    };
    let file =
        Download { file: "a.json.gz".into(), media_type: "application/gzip", bytes: vec![1, 2] };
    Document {
        blocks: vec![
            Block::Heading(Level::Report, "tiny · F16 \"<b>\"".into()),
            Block::Lead(vec!["candle decodes 1.60 times as fast.".into()]),
            Block::Heading(Level::Part, "Speed".into()),
            Block::Table(table),
            Block::Heading(Level::Part, "Scaling".into()),
            Block::Plot(plot),
            Block::Heading(Level::Part, "Speed".into()),
            Block::Remarks(Remarks::all("", Mark::Warning, ["one launch".to_string()])),
            Block::Fold("More".into(), vec![Block::Text("inside".into())]),
            Block::Download(file),
        ],
    }
}

#[test]
fn a_small_page_is_as_it_was_approved() {
    let page = render(&small());
    let begin = page.find("<main>").unwrap();
    let readable = page[begin..].replace("><", ">\n<");
    insta::assert_snapshot!("page", readable.replace(env!("CARGO_PKG_VERSION"), "VERSION"));
}

#[test]
fn a_page_forbids_requests_and_scripts_and_names_its_parts_once() {
    let page = render(&small());
    assert!(page.contains("content=\"default-src 'none';"), "{page}");
    for foreign in ["http:", "https:", "src=", "url(", "@import", "<script", "onload"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    for slug in ["speed", "scaling", "speed-2"] {
        assert_eq!(page.matches(&format!(" id=\"{slug}\"")).count(), 1, "{slug}");
        assert_eq!(page.matches(&format!("href=\"#{slug}\"")).count(), 1, "{slug}");
    }
    let open = |name: &str| page.matches(&format!("<{name}")).count();
    for name in ["table", "tr", "svg", "figure", "details", "section", "title"] {
        assert_eq!(open(name), page.matches(&format!("</{name}>")).count(), "{name}");
    }
}

#[test]
fn numbers_in_a_column_have_cells_for_value_interval_and_ratio() {
    let page = render(&small());
    assert!(
        page.contains("<td class=\"n best\">54.1</td><td class=\"half\">±\u{a0}1.2</td>"),
        "{page}"
    );
    assert!(page.contains("<td class=\"x\">1.60×</td>") && page.contains("colspan=\"3\""));
    let mut ints = Table::new([Column::right("n")]);
    ints.push(vec![Cell::number(3.0, Form::Count)]);
    let page = render(&Document { blocks: vec![Block::Table(ints)] });
    assert!(page.contains("<td class=\"n\">3</td>") && !page.contains("colspan"));
    assert!(page.contains("<h1>llm-bench</h1>"), "a list has a heading too");
}
