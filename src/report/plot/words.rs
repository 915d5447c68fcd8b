//! A plot without its picture: the text alternative, and its numbers as a table.

use std::collections::BTreeMap;

use super::{Field, Heat, Look, MEDIAN, Plot, Reach, Row, Rows, Series, Shape, Steps, Value};
use crate::report::document::{Cell, Column, Table};

/// More rows or series are told by their extremes.
const MOST_TOLD: usize = 8;

impl Plot {
    /// What the picture shows, in words.
    pub fn alternative(&self) -> String {
        let told = match &self.shape {
            Shape::Rows(rows) => of_rows(rows),
            Shape::Field(field) => of_field(field),
            Shape::Heat(heat) => of_heat(heat),
        };
        format!("{}. {told}", self.title)
    }

    /// The numbers that are drawn, in their units.
    pub fn table(&self) -> Table {
        match &self.shape {
            Shape::Rows(rows) => rows_table(rows),
            Shape::Field(field) if field.series.iter().any(|s| s.look == Look::Curve) => {
                curves_table(field)
            }
            Shape::Field(field) => points_table(field),
            Shape::Heat(heat) => heat_table(heat),
        }
    }
}

fn of_rows(rows: &Rows) -> String {
    let head = rows.axis.head();
    if rows.rows.len() <= MOST_TOLD {
        let each = rows.rows.iter().map(|row| format!("{} {}", row.name, said(rows, row)));
        return format!("{head}: {}.", each.collect::<Vec<_>>().join("; "));
    }
    let totals = || rows.rows.iter().filter_map(|row| Some((row, row.total()?)));
    let least = totals().min_by(|a, b| a.1.total_cmp(&b.1));
    let most = totals().max_by(|a, b| a.1.total_cmp(&b.1));
    match (least, most) {
        (Some((low, _)), Some((high, _))) => format!(
            "{head} of {} rows, from {} ({}) to {} ({}).",
            rows.rows.len(),
            said(rows, low),
            low.name,
            said(rows, high),
            high.name
        ),
        _ => format!("{head}: no row has a value."),
    }
}

/// The figures of a row, without the unit.
pub(super) fn said(rows: &Rows, row: &Row) -> String {
    let one = |x: f64| rows.axis.value(x, Reach::None);
    match &row.value {
        Value::Bar(mean, reach) => rows.axis.value(*mean, *reach),
        Value::Stack(parts) => one(parts.iter().sum()),
        Value::Spread(quantiles) => {
            quantiles.get(MEDIAN).copied().flatten().map_or("–".into(), one)
        }
        Value::Nothing(why) => why.clone(),
    }
}

fn of_field(field: &Field) -> String {
    let Some(first) = field.points().next() else { return "No points.".into() };
    let ends = |of: fn(&super::Point) -> f64| {
        field.points().map(of).fold([of(first); 2], |[low, high], x| [low.min(x), high.max(x)])
    };
    let ([left, right], [low, high]) = (ends(|p| p.x), ends(|p| p.y));
    let mut told = format!(
        "{} from {} to {} over {} from {} to {}.",
        field.y.title,
        field.y.quantity(low, Reach::None),
        field.y.quantity(high, Reach::None),
        field.x.title,
        field.x.quantity(left, Reach::None),
        field.x.quantity(right, Reach::None)
    );
    let course = |s: &Series| {
        let (first, last) = (s.points.first()?, s.points.last()?);
        let [a, b] = [first, last].map(|p| field.y.quantity(p.y, Reach::None));
        Some(match s.points.len() {
            1 => format!("{} {a}", s.name),
            _ => format!("{} from {a} to {b}", s.name),
        })
    };
    let dots = field.series.iter().any(|s| s.look == Look::Dots);
    let named = field.series.iter().any(|s| !s.name.is_empty());
    if dots && field.points().count() <= MOST_TOLD {
        let each = field.series.iter().flat_map(|s| s.points.iter().map(|p| field.told(s, p)));
        told += &format!(" {}.", each.collect::<Vec<_>>().join("; "));
    } else if !dots && named && field.series.len() <= MOST_TOLD {
        let each: Vec<String> = field.series.iter().filter_map(course).collect();
        told += &format!(" {}.", each.join("; "));
    }
    for change in &field.changes {
        told += &format!(" Change of level: {}.", change.told);
    }
    told
}

fn of_heat(heat: &Heat) -> String {
    let cells = || {
        let row = |(r, cells)| -> Vec<(f64, String)> {
            let cells: &Vec<Option<f64>> = cells;
            let cells = cells.iter().enumerate();
            cells.filter_map(|(c, x)| x.map(|x| (x, heat.told(r, c, x)))).collect()
        };
        heat.cells.iter().enumerate().flat_map(row)
    };
    let least = cells().min_by(|a, b| a.0.total_cmp(&b.0));
    let most = cells().max_by(|a, b| a.0.total_cmp(&b.0));
    match (least, most) {
        (Some((_, low)), Some((_, high))) => format!("Least at {low}. Most at {high}."),
        _ => "No cell has a value.".into(),
    }
}

fn heat_table(heat: &Heat) -> Table {
    let unit = |title: &String| Column {
        note: heat.scale.unit.to_string(),
        ..Column::right(title.clone())
    };
    let columns = [Column::left("")].into_iter().chain(heat.columns.iter().map(unit));
    let mut table = Table { stub: 1, ..Table::new(columns) };
    for (name, cells) in heat.rows.iter().zip(&heat.cells) {
        let one =
            |x: &Option<f64>| x.map_or_else(Cell::missing, |x| heat.scale.text(x, None).into());
        table.push([name.as_str().into()].into_iter().chain(cells.iter().map(one)).collect());
    }
    table
}

fn rows_table(rows: &Rows) -> Table {
    let unit = |title: &str| Column {
        note: rows.axis.scale.unit.to_string(),
        ..Column::right(title.to_string())
    };
    let one = |x: f64| Cell::from(rows.axis.value(x, Reach::None));
    let mut columns = vec![Column::left("")];
    let stacked = rows.rows.iter().any(|r| matches!(r.value, Value::Stack(_)));
    match rows.parts.is_empty() {
        true => columns.push(unit(&rows.axis.title)),
        false => columns.extend(rows.parts.iter().map(|part| unit(part))),
    }
    columns.extend(stacked.then(|| unit("Sum")));
    let mut table = Table { stub: 1, ..Table::new(columns) };
    for row in &rows.rows {
        let mut cells = vec![Cell::from(row.name.as_str())];
        match &row.value {
            Value::Bar(mean, reach) => cells.push(rows.axis.value(*mean, *reach).into()),
            Value::Stack(parts) => {
                cells.extend(parts.iter().map(|x| one(*x)));
                cells.push(one(parts.iter().sum()));
            }
            Value::Spread(quantiles) => {
                cells.extend(quantiles.iter().map(|q| q.map_or_else(Cell::missing, one)));
            }
            Value::Nothing(why) => cells.push(why.as_str().into()),
        }
        cells.resize(table.columns.len(), Cell::missing());
        table.push(cells);
    }
    table
}

/// One row for each point.
fn points_table(field: &Field) -> Table {
    let named = field.series.iter().any(|s| !s.name.is_empty());
    let each_named = field.points().any(|p| !p.name.is_empty());
    let noted = field.points().any(|p| !p.note.is_empty());
    let head = |axis: &super::Axis| Column {
        note: axis.scale.unit.to_string(),
        ..match axis.steps {
            Steps::Named(_) => Column::left(axis.title.clone()),
            _ => Column::right(axis.title.clone()),
        }
    };
    let columns = (named.then(|| Column::left("")).into_iter())
        .chain(each_named.then(|| Column::left("")))
        .chain([head(&field.x), head(&field.y)])
        .chain(noted.then(|| Column::left("")));
    let mut table = Table::new(columns);
    table.stub = usize::from(named) + usize::from(each_named);
    for series in &field.series {
        for point in &series.points {
            let cells = (named.then(|| Cell::from(series.name.as_str())).into_iter())
                .chain(each_named.then(|| point.name.as_str().into()))
                .chain([
                    field.x.value(point.x, point.along).into(),
                    field.y.value(point.y, point.across).into(),
                ])
                .chain(noted.then(|| point.note.as_str().into()));
            table.push(cells.collect());
        }
    }
    table
}

/// One row for each place, one column for each series.
fn curves_table(field: &Field) -> Table {
    let mut places: BTreeMap<u64, Vec<Option<&super::Point>>> = BTreeMap::new();
    for (i, series) in field.series.iter().enumerate() {
        for point in &series.points {
            // Places are not negative, so that their bits are in the order of their values.
            let row = places.entry(point.x.max(0.0).to_bits());
            row.or_insert_with(|| vec![None; field.series.len()])[i] = Some(point);
        }
    }
    let unit = field.y.scale.unit;
    let column = |s: &Series| {
        let title = if s.name.is_empty() { &field.y.title } else { &s.name };
        Column { note: unit.into(), ..Column::right(title.clone()) }
    };
    let columns = [Column::right(field.x.head())].into_iter();
    let mut table = Table::new(columns.chain(field.series.iter().map(column)));
    table.stub = 1;
    for (place, points) in places {
        let value = |p: &Option<&super::Point>| {
            p.map_or_else(Cell::missing, |p| field.y.value(p.y, p.across).into())
        };
        let place = field.x.value(f64::from_bits(place), Reach::None);
        table.push([place.into()].into_iter().chain(points.iter().map(value)).collect());
    }
    table
}
