//! A self-check of the gate as text.

use comfy_table::{Attribute, Color};

use crate::analysis::self_check::{SelfCheck, Share, Tally};
use crate::report::table::{heading, paint, paragraphs};
use crate::report::text::escape_markdown;
use crate::report::{Style, clean};
use crate::units::Seconds;

/// As JSON; ends with a newline.
pub fn json(check: &SelfCheck) -> String {
    serde_json::to_string_pretty(check).expect("a self-check is valid JSON") + "\n"
}

/// For a terminal.
pub fn table(check: &SelfCheck, style: Style) -> String {
    let mut out = heading("Self-check of the gate", style).trim_start().to_string();
    let lines: Vec<(&str, String)> = lines(check).into_iter().map(|line| ("·", line)).collect();
    out += &paragraphs(&lines, style, None);
    let color = if check.passed { Color::Green } else { Color::Red };
    out += "\n";
    out += &paint(&verdict(check), style, &[Attribute::Bold], Some(color));
    out + "\n"
}

/// As GitHub Markdown.
pub fn markdown(check: &SelfCheck) -> String {
    let lines: Vec<String> = lines(check).iter().map(|line| escape_markdown(line)).collect();
    let verdict = escape_markdown(&verdict(check));
    format!("### Self-check of the gate\n\n**{verdict}**\n\n- {}\n", lines.join("\n- "))
}

fn verdict(check: &SelfCheck) -> String {
    let found = check.detected.map_or("none".into(), |d| format!("{} of {}", d.hits, d.of));
    format!(
        "{}: {} of {} gates of the program against itself said regressed; {found} slow-downs of \
         {:.0} % were found",
        if check.passed { "Passed" } else { "Failed" },
        check.same.regressed,
        check.same.gates,
        check.slow * 100.0,
    )
}

fn lines(check: &SelfCheck) -> Vec<String> {
    let s = &check.setting;
    let threads = s.threads.map(|n| format!(", {n} threads")).unwrap_or_default();
    let mut lines = vec![
        clean(&format!(
            "{} {}, prompts {}; {}{threads}",
            s.model, s.quant, s.prompt_set, s.cpu_model
        )),
        format!("margin {:.1} %, α {}", check.margin * 100.0, check.alpha),
        format!("against itself: {}", tally(&check.same)),
        format!("against itself slowed by {:.0} %: {}", check.slow * 100.0, tally(&check.slowed)),
    ];
    let share = |what: &str, share: Option<Share>| {
        share.map(|s| {
            let [low, high] = s.ci95.map(|x| x * 100.0);
            format!("{what}: {} of {}, 95 % interval {low:.1} to {high:.1} %", s.hits, s.of)
        })
    };
    lines.extend(share("wrong verdicts without a change", check.wrong));
    lines.extend(share("false alarms (regressed without a change)", check.false_alarms));
    lines.extend(share("slow-downs found", check.detected));
    lines.push(clean(&format!("records: {}", check.records)));
    lines
}

fn tally(t: &Tally) -> String {
    let range = |values: &[usize]| match (values.iter().min(), values.iter().max()) {
        (Some(low), Some(high)) if low == high => format!("{low}"),
        (Some(low), Some(high)) => format!("{low} to {high}"),
        _ => "no".into(),
    };
    let mean = t.seconds.iter().sum::<f64>() / t.seconds.len().max(1) as f64;
    let metrics: Vec<String> =
        t.regressed_metrics.iter().map(|(m, n)| format!("{m} {n}")).collect();
    let metrics = match metrics.is_empty() {
        true => String::new(),
        false => format!(" ({})", metrics.join(", ")),
    };
    format!(
        "{} regressed{metrics}, {} improved, {} passed, {} inconclusive; {} launches of each side \
         and {} a gate",
        t.regressed,
        t.improved,
        t.passed,
        t.inconclusive,
        range(&t.launches),
        Seconds(mean)
    )
}
