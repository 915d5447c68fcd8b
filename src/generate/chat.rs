//! `generate --interactive`: a conversation, line by line, through the file's chat template.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, Config, Editor, Helper};

use super::figures::Figures;
use super::session::{Ask, End, Session};
use super::terminal::{TextOut, say_dim};
use crate::cli::GenerateArgs;
use crate::engine::EngineSpec;
use crate::interrupt;
use crate::model::cache::CacheDir;
use crate::model::chat::{ChatTemplate, Message, Origin, Role};
use crate::model::tokenizer::Tokenizer;
use crate::progress::say;
use crate::session::find::Found;

/// Positions of a chat where the user does not say.
const N_CTX: u32 = 4096;
/// The longest answer where the user does not say.
const GEN_LEN: u32 = 512;

const HELP: &str = "\
/reset          forget the conversation; the system message stays
/system TEXT    another system message, none without TEXT; begins anew
/help           these lines
/exit           the same as Ctrl-D
Ctrl-C stops an answer. Up and Down: earlier input. A line that ends in \\ goes on in the next.";

/// A conversation with the engine that answers in it.
struct Chat<'a> {
    args: &'a GenerateArgs,
    session: Session<'a>,
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    /// Ids that end an answer.
    ends: Vec<u32>,
    n_ctx: u32,
    messages: Vec<Message>,
    turn: u64,
}

pub fn run(
    args: &GenerateArgs,
    engine: &EngineSpec,
    found: &Found,
    tokenizer: &Tokenizer,
) -> Result<()> {
    let template = ChatTemplate::find(&found.file, tokenizer)?;
    if template.origin == Origin::Llama3 {
        say("note: the file has no chat template; LLaMA 3's own form is used");
    }
    let n_ctx = args.n_ctx.unwrap_or(N_CTX.min(found.model.context_length.unwrap_or(u32::MAX)));
    let mut chat = Chat {
        args,
        session: Session::start(args, engine, found, n_ctx)?,
        tokenizer,
        ends: template.ends(tokenizer),
        template,
        n_ctx,
        messages: Vec::new(),
        turn: 0,
    };
    chat.begin(args.system.clone());
    chat.check_begin()?;
    let mut input = Input::new()?;
    if input.terminal {
        say_dim(&format!(
            "{} {} on {}, context {n_ctx}. /help for commands, Ctrl-D ends.",
            found.model.name, found.model.quant, engine.name
        ));
    }
    loop {
        match input.line()? {
            Line::End => break,
            Line::NoText => say("that line is not UTF-8 text; it was not sent"),
            Line::Interrupted => say_dim("Ctrl-D or /exit ends the chat"),
            Line::Text(text) => match command(&text) {
                Command::Nothing => {}
                Command::Exit => break,
                Command::Help => HELP.lines().for_each(say),
                Command::Reset => {
                    let system = chat.system();
                    chat.begin(system);
                    say_dim("the conversation begins anew");
                }
                Command::System(system) => {
                    chat.begin(system);
                    say_dim("another system message; the conversation begins anew");
                }
                Command::Unknown(name) => say(&format!(
                    "no command is called {name}; /help lists them (a space before it makes it text)"
                )),
                Command::Say(text) => chat.answer(text)?,
            },
        }
        if interrupt::terminated() {
            break;
        }
    }
    chat.session.end()?;
    anyhow::ensure!(!interrupt::terminated(), "stopped");
    Ok(())
}

impl Chat<'_> {
    fn begin(&mut self, system: Option<String>) {
        let system = system.map(|text| Message::new(Role::System, text));
        self.messages = system.into_iter().collect();
    }

    fn system(&self) -> Option<String> {
        let first = self.messages.first().filter(|m| m.role == Role::System);
        first.map(|m| m.text.clone())
    }

    /// A template that refuses any conversation is told before the first question.
    fn check_begin(&self) -> Result<()> {
        let mut trial = self.messages.clone();
        trial.push(Message::new(Role::User, "?"));
        let ids = self.template.encode(self.tokenizer, &trial)?;
        anyhow::ensure!(
            ids.len() < self.n_ctx as usize,
            "the template and the system message have {} tokens, the context {}: use a larger \
             --n-ctx or a shorter --system",
            ids.len(),
            self.n_ctx
        );
        Ok(())
    }

    /// Asks and prints. What the template or the context refuses is told, and the conversation
    /// stays as it was.
    fn answer(&mut self, text: String) -> Result<()> {
        self.messages.push(Message::new(Role::User, text));
        let prompt = match self.template.encode(self.tokenizer, &self.messages) {
            Ok(prompt) => prompt,
            Err(e) => {
                self.messages.pop();
                say(&format!("error: {e}"));
                return Ok(());
            }
        };
        let n_prompt = prompt.len() as u32;
        if n_prompt >= self.n_ctx {
            self.messages.pop();
            say(&format!(
                "the context is full: with this message the conversation has {n_prompt} tokens, \
                 the context {}. Not sent; /reset begins anew, --n-ctx sets a larger one",
                self.n_ctx
            ));
            return Ok(());
        }
        let room = self.n_ctx - n_prompt;
        let n = self.args.gen_len.unwrap_or(GEN_LEN).min(room);
        // Each answer draws anew; the whole conversation still depends on the seed alone.
        let sampling = super::sampling(self.args)
            .map(|s| crate::protocol::Sampling { seed: s.seed.wrapping_add(self.turn), ..s });
        self.turn += 1;
        let stop = if self.args.ignore_eos { &[][..] } else { &self.ends[..] };
        let mut out = TextOut::new(self.tokenizer);
        let ask = Ask { prompt, n, stop, sampling, reuse: true };
        let answer = self.session.ask(ask, &mut |token| out.token(token));
        let ended = out.end();
        let answer = answer?;
        ended?;
        if !std::io::stdout().is_terminal() {
            writeln!(std::io::stdout())?;
        }
        let end = match answer.end {
            End::Length if n == room => End::Context,
            end => end,
        };
        if self.args.timing || std::io::stderr().is_terminal() {
            say_dim(&Figures::of(&answer, n_prompt, None, end).line());
        }
        if end == End::Context {
            say(&format!(
                "the context of {} is full; /reset begins anew, --n-ctx sets a larger one",
                self.n_ctx
            ));
        }
        let mut ids = answer.tokens;
        if end == End::Stop {
            ids.pop(); // the template writes the end of a turn itself
        }
        let is_text = |id: &&u32| !self.tokenizer.is_control(**id);
        let text_ids: Vec<u32> = ids.iter().filter(is_text).copied().collect();
        let text = self.tokenizer.decode(&text_ids);
        self.messages.push(Message { role: Role::Assistant, text, ids: Some(ids) });
        Ok(())
    }
}

/// What a line of the user asks for.
enum Command {
    Nothing,
    Say(String),
    Reset,
    System(Option<String>),
    Help,
    Exit,
    Unknown(String),
}

fn command(line: &str) -> Command {
    if line.trim().is_empty() {
        return Command::Nothing;
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match name {
        "/reset" => Command::Reset,
        "/system" => {
            let text = rest.trim();
            Command::System((!text.is_empty()).then(|| text.to_string()))
        }
        "/help" => Command::Help,
        "/exit" | "/quit" => Command::Exit,
        _ if name.starts_with('/') => Command::Unknown(name.to_string()),
        _ => Command::Say(line.to_string()),
    }
}

/// Lines of the user: edited and remembered on a terminal, read as they are elsewhere.
struct Input {
    editor: Editor<Continued, FileHistory>,
    terminal: bool,
    history: PathBuf,
    /// How the terminal was before a line is edited.
    settings: Option<Termios>,
}

enum Line {
    Text(String),
    /// What was typed or pasted is no text.
    NoText,
    /// Ctrl-C at the prompt.
    Interrupted,
    /// Ctrl-D, or the end of the file.
    End,
}

impl Input {
    fn new() -> Result<Self> {
        let terminal = std::io::stdin().is_terminal();
        // Text that goes to a file must not have prompts in it.
        let behavior = match terminal && !std::io::stdout().is_terminal() {
            true => Behavior::PreferTerm,
            false => Behavior::Stdio,
        };
        let config = Config::builder().behavior(behavior).build();
        let mut editor = Editor::with_config(config).context("cannot read from this terminal")?;
        editor.set_helper(Some(Continued));
        let history = CacheDir::from_env()?.path().join("chat-history");
        if terminal {
            // There is none before the first chat.
            let _ = editor.load_history(&history);
        }
        let settings = tcgetattr(std::io::stdin()).ok().filter(|_| terminal);
        Ok(Self { editor, terminal, history, settings })
    }

    fn line(&mut self) -> Result<Line> {
        // A Ctrl-C that came while nobody read keys was a signal: it means the same here.
        if self.terminal && !interrupt::terminated() && interrupt::take() {
            return Ok(Line::Interrupted);
        }
        if interrupt::terminated() {
            return Ok(Line::End);
        }
        let settings = self.settings.clone();
        let end = move || {
            if let Some(settings) = &settings {
                let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, settings);
            }
            say("stopped");
        };
        match interrupt::while_waiting(end, || self.editor.readline("> ")) {
            Ok(text) => {
                self.remember(&text);
                Ok(Line::Text(text.replace("\\\n", "\n")))
            }
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupted),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(ReadlineError::Io(e)) if e.kind() == std::io::ErrorKind::InvalidData => {
                if self.terminal {
                    return Ok(Line::NoText);
                }
                Err(anyhow::anyhow!("stdin: expected UTF-8 text, found other bytes"))
            }
            Err(e) => Err(anyhow::Error::new(e).context("cannot read from stdin")),
        }
    }

    /// Keeps what was typed, at once: a chat may end in any way.
    fn remember(&mut self, text: &str) {
        if !self.terminal || !self.editor.add_history_entry(text).unwrap_or(false) {
            return;
        }
        if let Err(e) = self.editor.append_history(&self.history) {
            say(&format!(
                "warning: {}: the input history is not kept: {e}",
                self.history.display()
            ));
        }
    }
}

/// A line that ends in a backslash goes on.
struct Continued;

impl Validator for Continued {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(match context.input().ends_with('\\') {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Helper for Continued {}
impl rustyline::highlight::Highlighter for Continued {}
impl rustyline::hint::Hinter for Continued {
    type Hint = String;
}
impl rustyline::completion::Completer for Continued {
    type Candidate = String;
}
