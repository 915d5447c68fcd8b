//! A self-check of the gate: how often the gate was wrong about the program itself.

use crate::analysis::self_check::{Power, SelfCheck, Share, Tally};
use crate::number::{self, Form};
use crate::report::document::{Block, Document, Level, Mark, Medium, Remarks, Tone};
use crate::report::{Style, write};
use crate::text::clean;
use crate::units::Seconds;

/// As JSON; ends with a newline.
pub fn json(check: &SelfCheck) -> String {
    write::json::whole(check)
}

/// For a terminal.
pub fn table(check: &SelfCheck, style: Style) -> String {
    write::terminal::render(&document(check, Medium::Terminal), style)
}

/// As GitHub Markdown.
pub fn markdown(check: &SelfCheck) -> String {
    write::markdown::render(&document(check, Medium::Page))
}

/// The reader of a terminal ends at the verdict; the reader of a page begins with it.
fn document(check: &SelfCheck, medium: Medium) -> Document {
    let heading = Block::Heading(Level::Report, "Self-check of the gate".into());
    let facts = Block::Remarks(Remarks::all("", Mark::Plain, lines(check)));
    let tone = if check.passed { Tone::Good } else { Tone::Bad };
    let verdict = Block::Verdict(verdict(check), tone);
    Document {
        blocks: match medium {
            Medium::Terminal => vec![heading, facts, verdict],
            Medium::Page => vec![heading, verdict, facts],
        },
    }
}

fn verdict(check: &SelfCheck) -> String {
    let found = check.detected.map_or("none".into(), |d| format!("{} of {}", d.hits, d.of));
    format!(
        "{}: {} of {} gates of the program against itself said regressed; {found} slow-downs of {} \
         were found",
        if check.passed { "Passed" } else { "Failed" },
        check.same.regressed,
        check.same.gates,
        number::text(check.slow, Form::Percent(0)),
    )
}

fn lines(check: &SelfCheck) -> Vec<String> {
    let s = &check.setting;
    let threads = s.threads.map(|n| format!(", {n} threads")).unwrap_or_default();
    let slow = number::text(check.slow, Form::Percent(0));
    let mut lines = vec![
        clean(&format!(
            "{} {}, prompts {}; {}{threads}",
            s.model, s.quant, s.prompt_set, s.cpu_model
        )),
        format!("margin {}, α {}", number::text(check.margin, Form::Percent(1)), check.alpha),
        format!("against itself: {}", tally(&check.same)),
        format!("against itself slowed by {slow}: {}", tally(&check.slowed)),
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
    lines.extend(power(check));
    lines.push(clean(&format!("records: {}", check.records)));
    lines
}

/// How far the check itself can be trusted.
fn power(check: &SelfCheck) -> Option<String> {
    let chance = |p: &Power| {
        let [finds, passes] = [p.finds, p.passes].map(|x| number::text(x, Form::Percent(0)));
        format!("{finds} of slow-downs in {passes} of checks")
    };
    let chances: Vec<String> = check.power.iter().map(chance).collect();
    (!chances.is_empty()).then(|| {
        format!(
            "the check asks for {} of {}; so many are found by a gate that truly finds {}",
            check.needed,
            check.slowed.gates,
            chances.join(", ")
        )
    })
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
