//! Text of a model on its way to stdout: whole characters, flushed token by token; on a terminal
//! nothing that could steer it.

use std::io::{IsTerminal, Write};

use crate::model::tokenizer::{TextStream, Tokenizer};
use crate::text::escaped;

/// Writes tokens as text.
pub struct TextOut<'t> {
    tokenizer: &'t Tokenizer,
    stream: TextStream<'t>,
    terminal: bool,
    /// Whether the cursor stands at the beginning of a line.
    at_line_start: bool,
}

impl<'t> TextOut<'t> {
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { tokenizer, stream: tokenizer.stream(), terminal, at_line_start: true }
    }

    /// Writes what is certain by now. Control tokens stand for no text.
    pub fn token(&mut self, id: u32) -> std::io::Result<()> {
        match self.tokenizer.is_control(id) {
            true => Ok(()),
            false => {
                let text = self.stream.push(id);
                self.write(&text)
            }
        }
    }

    /// Writes what is left; on a terminal the next thing begins on a line of its own.
    pub fn end(mut self) -> std::io::Result<()> {
        let rest = std::mem::replace(&mut self.stream, self.tokenizer.stream()).finish();
        self.write(&rest)?;
        if self.terminal && !self.at_line_start {
            self.write("\n")?;
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> std::io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        match self.terminal {
            // A model may write anything.
            true => out.write_all(escaped(text).as_bytes())?,
            false => out.write_all(text.as_bytes())?,
        }
        self.at_line_start = text.ends_with('\n');
        out.flush()
    }
}

/// A line on stderr that steps back behind the text: dim on a terminal that wants colour.
pub fn say_dim(text: &str) {
    let text = crate::text::visible(text);
    let stderr = std::io::stderr().is_terminal();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
    match stderr && !no_color && !dumb {
        true => eprintln!("\x1b[2m{text}\x1b[0m"),
        false => eprintln!("{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_cannot_steer_the_terminal() {
        assert_eq!(escaped("a\x1b[2Jb\tc\nd\u{9b}e\r"), "a\u{fffd}[2Jb\tc\nd\u{fffd}e\u{fffd}");
    }
}
