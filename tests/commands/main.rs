//! The commands as a user types them: what they print, which files they write, what they leave
//! behind when stopped, and how they refuse. One binary holds them all, because each would link
//! candle.

#[path = "../support/mod.rs"]
mod support;

mod adding_an_engine;
mod bad_input;
mod chat_terminal;
mod ci_scripts;
mod cli;
mod compare;
mod config;
mod doctor;
mod encode;
mod endpoint;
mod evidence;
mod fake_engine;
mod gate;
mod gpu;
mod grid;
mod history;
mod history_foreign;
mod limits;
mod native_engine;
mod previous_version;
mod profile;
mod quantize;
mod resume;
mod safety;
mod schema;
mod serve_bench;
mod sessions;
mod stopped;
mod strange_models;
mod strange_templates;
mod strange_weights;
mod sustained;
mod sweep;
mod tokenize;
mod users_python;
