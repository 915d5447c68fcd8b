//! Rows as CSV by RFC 4180. A number that does not exist is an empty field. A spreadsheet takes a
//! text that begins like a formula for one: such texts get an apostrophe in front.

use super::plain;
use crate::number::{self, Form};
use crate::report::document::{Content, Table};
use crate::spreadsheet::defused;

pub fn render(table: &Table) -> String {
    let mut csv = csv::Writer::from_writer(Vec::new());
    let header = table.columns.iter().map(|c| defused(c.title.as_deref().unwrap_or_default()));
    csv.write_record(header).expect("memory does not fail");
    for row in &table.rows {
        let fields = row.iter().map(|cell| field(&cell.content));
        csv.write_record(fields).expect("each row has a cell for each column");
    }
    let bytes = csv.into_inner().expect("memory does not fail");
    String::from_utf8(bytes).expect("fields are text")
}

/// Writes numbers in full, not rounded for a reader.
fn field(content: &Content) -> String {
    match content {
        Content::Missing => String::new(),
        Content::Number(x, form @ (Form::Count | Form::Exact)) => number::text(*x, *form),
        Content::Number(x, _) => number::text(*x, Form::Twelve),
        Content::Measured(m) => number::text(m.mean, Form::Twelve),
        content => defused(&plain(content)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be_and_a_missing_number_is_empty() {
        let mut table = Table::keyed("name,n,mean");
        table.push(vec!["a,\"b\"".into(), 3u32.into(), crate::report::document::Cell::missing()]);
        assert_eq!(render(&table), "name,n,mean\n\"a,\"\"b\"\"\",3,\n");
    }
}
