//! The table of `verify`: one row per engine, the reasons of failures beneath.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::Style;
use super::text::clean;
use crate::record::{Model, Verdict, Verification, WeightsSource};
use crate::units::Bytes;

const HEADER: [&str; 11] = [
    "Engine",
    "Verdict",
    "NMSE",
    "limit",
    "decode",
    "max |Δ|",
    "KL mean",
    "KL 99.9 %",
    "top-1",
    "top-5",
    "greedy",
];

/// One engine's verdict as a few words: `pass 2.5e-7`.
pub(super) fn short(v: &Verification) -> String {
    let nmse = v.divergence.as_ref().map(|d| format!(" {}", scientific(d.nmse)));
    match v.verdict {
        Verdict::Reference => "reference".into(),
        Verdict::Pass => format!("pass{}", nmse.unwrap_or_default()),
        Verdict::Fail => format!("FAIL{}", nmse.unwrap_or_default()),
        Verdict::Unanswered => "no answer".into(),
    }
}

/// Model, table, reasons, and how to read it.
pub fn render(model: &Model, verdicts: &[(&str, &Verification)], style: Style) -> String {
    let mut out = format!("{} · {} · {}", model.name, model.quant, Bytes(model.size_bytes));
    if model.weights == WeightsSource::Synthetic {
        out += " · SYNTHETIC weights";
    }
    out.push('\n');
    let compared = verdicts.iter().find_map(|(_, v)| Some((v, v.divergence.as_ref()?)));
    if let Some((v, d)) = compared {
        out += &format!(
            "{} positions of text, the last {} one by one as in decoding; reference {}; standard \
             deviation of its logits {:.2}\n",
            d.positions, d.decoded, v.reference, d.logit_sd
        );
    }
    let mut table = Table::new();
    table.force_no_tty().load_style(NOTHING).set_header(HEADER);
    for (name, v) in verdicts {
        table.add_row(row(name, v));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 1));
    }
    out += &format!("\n{table}\n");
    let reasons: Vec<String> = verdicts
        .iter()
        .filter_map(|(name, v)| Some(format!("{name}: {}", v.reason.as_ref()?)))
        .collect();
    if !reasons.is_empty() {
        out.push('\n');
    }
    for reason in reasons {
        for line in wrapped(&clean(&reason), usize::from(style.width)) {
            out += &format!("{line}\n");
        }
    }
    out
}

fn row(name: &str, v: &Verification) -> Vec<String> {
    let verdict = match v.verdict {
        Verdict::Reference => "reference",
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::Unanswered => "no answer",
    };
    let mut cells = vec![clean(name), verdict.to_string()];
    let Some(d) = &v.divergence else {
        cells.extend(std::iter::repeat_n("–".to_string(), HEADER.len() - 2));
        return cells;
    };
    let dash = || "–".to_string();
    cells.extend([
        scientific(d.nmse),
        v.limit.as_ref().map_or_else(dash, |l| format!("{:.0e}", l.nmse)),
        d.nmse_decoded.map_or_else(dash, scientific),
        format!("{:.2e}", d.max_abs),
        scientific(d.kl_mean),
        scientific(d.kl_p999),
        format!("{:.1} %", 100.0 * d.top1),
        format!("{:.1} %", 100.0 * d.top5),
        v.free_running.map_or_else(dash, |f| format!("{} of {}", f.agree, f.of)),
    ]);
    cells
}

fn scientific(x: f64) -> String {
    if x == 0.0 { "0".into() } else { format!("{x:.1e}") }
}

/// Lines of at most `width` characters, continued with an indent.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width.max(40) => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!("  {word}")),
            None => lines.push(word.to_string()),
        }
    }
    lines
}
