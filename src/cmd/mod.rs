//! One file per command: wiring, no logic.

pub mod compare;
pub mod completions;
pub mod doctor;
pub mod encode;
pub mod engines;
pub mod gate;
pub mod generate;
mod grid;
pub mod history;
pub mod models;
pub mod report;
pub mod run;
pub mod serve;
pub mod sweep;
pub mod tokenize;
pub mod track;
pub mod verify;

use std::io::{Write, stdout};

/// A line on stdout with others' text in it: a path, a reason.
fn print_line(text: &str) -> std::io::Result<()> {
    writeln!(stdout(), "{}", crate::text::visible(text))
}
