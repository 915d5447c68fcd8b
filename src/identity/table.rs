//! docs/IDENTITY.md is the list of facts as a table.

use super::{Compare, FACTS, InLine, Resume};

/// The table, one row for each fact.
fn table() -> String {
    let rows = FACTS.iter().map(|fact| {
        let compare = match fact.compare {
            Compare::Refuse(name) => format!("refused (`{name}`)"),
            Compare::Warn(name) => format!("warned of (`{name}`)"),
            Compare::Ignore => "–".into(),
        };
        let line = match fact.line {
            InLine::Splits(name) => format!("splits (`{name}`)"),
            InLine::SplitsTwo([a, b]) => format!("splits (`{a}`, `{b}`)"),
            InLine::SplitsWithin(name, _) => format!("splits (in `{name}`)"),
            InLine::WithSession => "kept with each session".into(),
            InLine::No => "–".into(),
        };
        let resume = match fact.resume {
            Resume::Refuse => "refused",
            Resume::Given => "taken from the file",
            Resume::No => "–",
        };
        let rule = fact.alike.rule();
        let later = if fact.later {
            "; files of earlier versions lack it, which is no difference"
        } else {
            ""
        };
        format!(
            "| `{}` | {compare} | {line} | {resume} | {}{}{later} |\n",
            fact.key,
            fact.why,
            if rule.is_empty() { String::new() } else { format!("; {rule}") },
        )
    });
    let head = "| fact | `compare`, `gate` | line of a history | `--resume` | why |\n|---|---|---|---|---|\n";
    rows.fold(head.to_string(), |table, row| table + &row)
}

/// `UPDATE_DOCS=1 cargo test --lib identity` writes the table anew.
#[test]
fn the_documented_table_is_the_list_of_facts() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/IDENTITY.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, _) = page.split_once("| fact |").unwrap();
    let expected = before.to_string() + &table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    assert_eq!(page, expected, "UPDATE_DOCS=1 cargo test --lib identity writes it anew");
}
