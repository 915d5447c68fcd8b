//! What there is: models and engines, and which of them are on this disk.

use crate::model::shelf::{Offer, Place};
use crate::number::Form;
use crate::report::document::{Cell, Column, Content, Table};
use crate::report::{Format, Style, write};
use crate::text::clean;
use crate::units::Bytes;

/// An engine, and whether it can be started.
#[derive(Debug, Clone)]
pub struct EngineState {
    pub name: String,
    pub ready: bool,
    pub summary: String,
    /// What an installation would need.
    pub needs: Option<String>,
}

/// Writes the engines in one of the formats; ends with a newline.
pub fn engines(engines: &[EngineState], format: Format, style: Style) -> String {
    let mut table = Table::new(["Engine", "State", "Summary", "Needs"].map(Column::left));
    for engine in engines {
        let state = if engine.ready { "ready" } else { "not installed" };
        let needs = engine.needs.as_deref().map_or_else(Cell::empty, |n| clean(n).into());
        table.push(vec![
            clean(&engine.name).into(),
            state.into(),
            clean(&engine.summary).into(),
            needs,
        ]);
    }
    write::listed(table, format, style)
}

/// Writes the models in one of the formats; ends with a newline.
pub fn models(offers: &[Offer], format: Format, style: Style) -> String {
    let left = Column::left;
    let columns = [left("Model"), left("Title"), left("Licence"), left("Quant")];
    let columns = columns.into_iter().chain([Column::right("Size"), left("Weights")]);
    let mut table = Table::new(columns);
    let reader = !matches!(format, Format::Csv | Format::Json);
    let mut before = "";
    for offer in offers {
        // A reader needs a model's own facts once.
        let again = reader && before == offer.model;
        let fact = |text: &str| if again { Cell::empty() } else { clean(text).into() };
        before = &offer.model;
        table.push(vec![
            fact(&offer.model),
            fact(&offer.title),
            fact(&offer.licence),
            offer.quant.map_or_else(Cell::empty, |q| q.to_string().into()),
            size(offer.size, reader),
            place(&offer.place).into(),
        ]);
    }
    write::listed(table, format, style)
}

fn size(size: Option<Bytes>, reader: bool) -> Cell {
    match size {
        None => Cell::empty(),
        Some(size) if reader => size.to_string().into(),
        Some(Bytes(n)) => Content::Number(n as f64, Form::Count).into(),
    }
}

fn place(place: &Place) -> String {
    match place {
        Place::Shipped => "shipped with llm-bench".into(),
        Place::Package { name, here } => {
            let here = if *here { ", on this disk" } else { "" };
            format!("in the package {name} of PyPI{here}")
        }
        Place::Hub => "on the hub".into(),
        Place::Here => "on this disk".into(),
        Place::Synthetic => "synthetic, on this disk".into(),
    }
}
