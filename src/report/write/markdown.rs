//! Writes a document as GitHub Markdown for a file, a job's summary or a comment.

use super::plain;
use crate::number;
use crate::report::document::{
    Block, Cell, Column, Content, Document, Level, Mark, Remark, Table, Tone,
};
use crate::report::plot::{Plot, sparkline, svg};

/// A picture's file: its name, and what is in it.
pub type Picture = (String, String);

pub fn render(document: &Document) -> String {
    blocks(&document.blocks)
}

/// Plots as pictures in files of their own, which the text shows from `folder`.
pub fn plotted(plots: &[Plot], folder: &str, prefix: &str) -> (String, Vec<Picture>) {
    let mut texts = Vec::new();
    let mut pictures = Vec::new();
    for plot in plots {
        let fit = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = plot.title.chars().map(fit).collect();
        let file = format!("{prefix}{name}.svg");
        let place = [folder, &file].join("/").replace(' ', "%20");
        texts.push(format!("![{}]({place})\n", escape(&plot.alternative())));
        pictures.push((file, svg::alone(std::slice::from_ref(plot))));
    }
    (texts.join("\n"), pictures)
}

fn blocks(blocks: &[Block]) -> String {
    blocks.iter().map(block).collect::<Vec<_>>().join("\n")
}

fn block(block: &Block) -> String {
    match block {
        Block::Heading(Level::Report, text) => format!("### {}\n", escape(text)),
        Block::Heading(Level::Part, text) => format!("#### {}\n", escape(text)),
        Block::Heading(Level::Detail, text) | Block::Verdict(text, _) => {
            format!("**{}**\n", escape(text))
        }
        Block::Caution(text) => format!("> **{}**\n", escape(text)),
        Block::Facts(facts) => {
            facts.iter().map(|(name, fact)| format!("- {name}: {}\n", escape(fact))).collect()
        }
        Block::Table(table) => self::table(table),
        Block::Plot(plot) => self::plot(plot),
        Block::Panels(plots) => plots.iter().map(self::plot).collect::<Vec<_>>().join("\n"),
        Block::Lead(sentences) => sentences
            .iter()
            .map(|text| format!("{}\n", escape(text)))
            .collect::<Vec<_>>()
            .join("\n"),
        // Markdown lies beside the file.
        Block::Download(_) => String::new(),
        Block::Text(text) => format!("{}\n", escape(text)),
        Block::Legend(lines) => format!("<sub>{}</sub>\n", escape(&lines.join(" "))),
        Block::Remarks(list) => list.items.iter().map(remark).collect(),
        Block::Fold(summary, inside) => format!(
            "<details><summary>{}</summary>\n\n{}\n</details>\n",
            escape(summary),
            blocks(inside)
        ),
    }
}

fn plot(plot: &Plot) -> String {
    let spark = sparkline(plot.spark().into_iter());
    format!("### {}\n\n{}\n\n`{spark}`\n", escape(&plot.title), escape(&plot.facts))
}

fn remark(remark: &Remark) -> String {
    let mark = match remark.mark {
        Mark::Prose | Mark::Plain => "",
        Mark::Note => "Note: ",
        Mark::Warning => "**Warning**: ",
        Mark::Forbids => "**Not comparable**: ",
        Mark::State(state, _) => &format!("**{state}**: "),
    };
    let advice = remark.advice.as_ref().map(|a| format!(". *{}.*", escape(a)));
    let about = remark.about.map(|about| format!("{}: ", escape(about))).unwrap_or_default();
    format!("- {mark}{about}{}{}\n", escape(&remark.text), advice.unwrap_or_default())
}

fn table(table: &Table) -> String {
    let title = |column: &Column| match (&column.title, column.note.as_str()) {
        (None, _) => " |".to_string(),
        (Some(title), "") => format!(" {} |", escape(title)),
        (Some(title), note) => format!(" {}<br>{} |", escape(title), escape(note)),
    };
    let side = |column: &Column| if column.right { "|---:" } else { "|:---" };
    let header: String = table.columns.iter().map(title).collect();
    let rule: String = table.columns.iter().map(side).collect();
    let row = |cells: &Vec<Cell>| {
        let cells: Vec<String> = cells.iter().map(cell).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rows: String = table.rows.iter().map(row).collect();
    format!("|{header}\n{rule}|\n{rows}")
}

fn cell(cell: &Cell) -> String {
    let text = escape(&plain(&cell.content));
    let text = match cell.tone {
        Tone::Strong | Tone::Best | Tone::Bad => format!("**{text}**"),
        Tone::Plain | Tone::Soft | Tone::Good | Tone::Doubt => text,
    };
    match &cell.content {
        Content::Measured(m) => match m.ratio {
            Some((times, open)) => format!("{text} ({})", escape(&number::ratio(times, open))),
            None => text,
        },
        _ => text,
    }
}

/// Escapes text for a line of GitHub Markdown, including table cells.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // Would mention somebody if the report were posted there.
            '@' if chars.peek().is_some_and(|next| !next.is_whitespace()) => out.push_str("&#64;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_stays_text() {
        assert_eq!(escape("a|b <i> @you *x* #1"), "a\\|b &lt;i&gt; &#64;you \\*x\\* \\#1");
        assert_eq!(escape("p512-n64 @ d2048"), "p512-n64 @ d2048");
    }
}
