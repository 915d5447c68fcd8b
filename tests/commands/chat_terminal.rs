//! `generate --interactive` under a real pseudo-terminal: the test types keys and reads the screen
//! that a user would see.

use std::io::{Read, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::support::{PROGRAM, repository, running};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use rustix::process::{Pid, Signal, kill_process};

/// After this much silence a chat counts as stuck, and the test fails with its screen instead of
/// hanging forever. It judges no speed.
const STUCK: Duration = Duration::from_secs(300);

const ROWS: u16 = 40;
const COLUMNS: u16 = 100;

const UP: &str = "\x1b[A";
const LEFT: &str = "\x1b[D";
const ENTER: &str = "\r";
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";

/// A chat on a terminal.
struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    keys: Box<dyn Write + Send>,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    _master: Box<dyn MasterPty + Send>,
    folder: tempfile::TempDir,
}

impl Terminal {
    fn open(args: &[&str], env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::open_in(folder, args, env)
    }

    fn open_in(folder: tempfile::TempDir, args: &[&str], env: &[(&str, &str)]) -> Self {
        let size = PtySize { rows: ROWS, cols: COLUMNS, pixel_width: 0, pixel_height: 0 };
        let pty = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(PROGRAM);
        command.args(["generate", "--model", "tiny", "--interactive"]);
        command.args(args);
        command.env("LLM_BENCH_CACHE", folder.path().join("cache"));
        command.env("LLM_BENCH_ENGINES", repository("tests/engines/fake"));
        command.env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR");
        env.iter().for_each(|(name, value)| command.env(name, value));
        command.cwd(folder.path());
        let child = pty.slave.spawn_command(command).unwrap();
        drop(pty.slave);
        let mut reader = pty.master.try_clone_reader().unwrap();
        let keys = pty.master.take_writer().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut chunk = [0u8; 4096];
            while let Ok(n @ 1..) = reader.read(&mut chunk) {
                if sender.send(chunk[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        let screen =
            vt100::Parser::new(NonZero::new(ROWS).unwrap(), NonZero::new(COLUMNS).unwrap(), 0);
        Self { child, keys, output, screen, _master: pty.master, folder }
    }

    fn keys(&mut self, keys: &[&str]) {
        keys.iter().for_each(|k| self.keys.write_all(k.as_bytes()).unwrap());
        self.keys.flush().unwrap();
    }

    fn terminate(&self) {
        let pid = Pid::from_raw(self.child.process_id().unwrap() as i32).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    fn text(&self) -> String {
        self.screen.screen().contents()
    }

    /// Waits until the screen is as wanted, or fails when the program ends.
    fn until(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        while !wanted(&self.text()) {
            if !self.more(what) {
                panic!("it ended before {what}:\n{}", self.text());
            }
        }
    }

    /// Adds the next output to the screen; false at the end of the program.
    fn more(&mut self, what: &str) -> bool {
        match self.output.recv_timeout(STUCK) {
            Ok(bytes) => self.screen.process(&bytes),
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => panic!("stuck before {what}:\n{}", self.text()),
        }
        true
    }

    /// Waits for something on the screen and the prompt after it. Before the prompt appears the
    /// terminal handles the keys, and a Ctrl-C discards what was typed.
    fn until_prompt(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        self.until(what, |screen| wanted(screen) && screen.trim_end().ends_with("\n>"));
    }

    /// An answer is complete when its figures and the prompt after them have appeared.
    fn until_answers(&mut self, n: usize) {
        self.until_prompt(&format!("{n} answers"), |screen| {
            screen.matches(" tokens · ").count() >= n
        });
    }

    /// Lines that begin with this text.
    fn lines(&self, begin: &str) -> usize {
        self.text().lines().filter(|l| l.starts_with(begin)).count()
    }

    fn has_dim_text(&self) -> bool {
        let cells = (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (row, column)));
        let mut cells = cells.filter_map(|(r, c)| self.screen.screen().cell(r, c));
        cells.any(|cell| cell.dim())
    }

    /// The exit status, and the last contents of the screen.
    fn end(mut self) -> (bool, String, tempfile::TempDir) {
        while self.more("its end") {}
        let status = self.child.wait().unwrap();
        (status.success(), self.screen.screen().contents(), self.folder)
    }
}

const I_AM: &str = "I am a very small model.";

#[test]
fn a_chat_is_typed_edited_recalled_reset_and_ended() {
    let mut t = Terminal::open(&[], &[]);
    t.until_prompt("the first key", |_| true);
    assert!(t.text().contains("tiny F16 on candle, context 512"), "{}", t.text());

    // A letter is missing; the arrow keys go back and insert it.
    t.keys(&["Wo are you?", &LEFT.repeat(10), "h", ENTER]);
    t.until_answers(1);
    assert_eq!((t.lines("> Who are you?"), t.lines(I_AM)), (1, 1), "{}", t.text());

    t.keys(&["What is a boat for?", ENTER]);
    t.until_answers(2);
    assert_eq!(t.lines("A boat is for sailing on the sea."), 1, "{}", t.text());
    assert!(t.text().contains(" cached)"), "{}", t.text());

    // The first question again, from the history.
    t.keys(&["/reset", ENTER]);
    t.until_prompt("the reset", |screen| screen.contains("begins anew"));
    t.keys(&[UP, UP, UP, ENTER]);
    t.until_answers(3);
    assert_eq!((t.lines("> Who are you?"), t.lines(I_AM)), (2, 2), "{}", t.text());

    t.keys(&["/help", ENTER]);
    t.until_prompt("the help", |screen| screen.contains("Ctrl-C stops an answer"));
    t.keys(&["half a line", CTRL_C]);
    t.until_prompt("what Ctrl-C says here", |screen| {
        screen.contains("Ctrl-D or /exit ends the chat")
    });
    t.keys(&[CTRL_D]);
    assert!(t.has_dim_text(), "the figures step back behind the text");
    let (success, screen, folder) = t.end();
    assert!(success, "{screen}");
    println!("{screen}");

    // The next chat remembers the input.
    let mut t = Terminal::open_in(folder, &[], &[("NO_COLOR", "1")]);
    t.until_prompt("the first key", |_| true);
    t.keys(&[UP]);
    t.until("the last input", |screen| screen.contains("> /help"));
    t.keys(&[UP, ENTER]);
    t.until_answers(1);
    assert_eq!(t.lines(I_AM), 1, "{}", t.text());
    assert!(!t.has_dim_text(), "NO_COLOR is honoured");
    t.keys(&["/exit", ENTER]);
    let (success, screen, _) = t.end();
    assert!(success, "{screen}");
}

#[test]
fn one_sigterm_ends_a_chat_at_the_prompt_and_in_an_answer() {
    let mut t = Terminal::open(&["--engine", "fake-streams"], &[]);
    t.until_prompt("the first key", |_| true);
    t.keys(&["go on", ENTER]);
    t.until("some text", |screen| screen.contains("IJKLM"));
    t.keys(&[CTRL_C]);
    t.until_answers(1);
    t.keys(&["half a line"]);
    t.until("the line", |screen| screen.contains("half a line"));
    t.terminate();
    let (success, screen, folder) = t.end();
    assert!(!success && screen.contains("stopped"), "{screen}");
    assert_eq!(running(folder.path()), 0, "the engine is gone");

    // What was typed before is remembered.
    let mut t = Terminal::open_in(folder, &["--engine", "fake-streams"], &[]);
    t.until_prompt("the first key", |_| true);
    t.keys(&[UP, ENTER]);
    t.until("some text", |screen| screen.contains("IJKLM"));
    t.terminate();
    let (success, screen, folder) = t.end();
    assert!(!success && screen.contains("> go on") && screen.contains("stopped"), "{screen}");
    assert_eq!(running(folder.path()), 0, "the engine is gone");
}

#[test]
fn a_pasted_byte_that_is_no_text_ends_nothing() {
    let mut t = Terminal::open(&[], &[]);
    t.until_prompt("the first key", |_| true);
    // Typed in another encoding, and pasted in brackets.
    for (i, bytes) in [&b"caf\xe9 "[..], b"\x1b[200~a\xff\xfeb\x1b[201~"].iter().enumerate() {
        t.keys.write_all(bytes).unwrap();
        t.keys.flush().unwrap();
        // What was read of the bytes behind the wrong one may stand after the prompt.
        t.until("the refusal and a prompt", |screen| {
            screen.matches("not UTF-8 text").count() > i
                && screen.lines().last().is_some_and(|line| line.starts_with('>'))
        });
    }
    t.keys(&[CTRL_C]);
    t.until_prompt("a new line", |screen| screen.contains("Ctrl-D or /exit"));
    t.keys(&["Who are you?", ENTER]);
    t.until_answers(1);
    assert_eq!(t.lines(I_AM), 1, "{}", t.text());
    t.keys(&[CTRL_D]);
    let (success, screen, _) = t.end();
    assert!(success, "{screen}");
}

#[test]
fn ctrl_c_stops_the_answer_and_keeps_the_conversation() {
    let mut t = Terminal::open(&["--engine", "fake-streams"], &[]);
    t.until_prompt("the first key", |_| true);
    t.keys(&["go on", ENTER]);
    t.until("some text", |screen| screen.contains("IJKLM"));
    t.keys(&[CTRL_C]);
    t.until_answers(1);
    assert!(t.text().contains("Ctrl-C"), "{}", t.text());
    assert!(!t.text().contains("starting"), "the same process goes on: {}", t.text());
    t.keys(&["and again", ENTER]);
    t.until("more text", |screen| screen.matches("IJKLM").count() == 2);
    t.keys(&[CTRL_C]);
    t.until_answers(2);
    t.keys(&[CTRL_D]);
    let (success, screen, _) = t.end();
    assert!(success, "{screen}");
    println!("{screen}");
}

#[test]
fn an_engine_that_does_not_listen_is_killed_by_the_second_ctrl_c_and_started_again() {
    let mut t = Terminal::open(&["--engine", "fake-streams-deaf"], &[]);
    t.until_prompt("the first key", |_| true);
    t.keys(&["go on", ENTER]);
    t.until("some text", |screen| screen.contains("IJKLM"));
    t.keys(&[CTRL_C]);
    t.until("the echo", |screen| screen.contains("^C"));
    // The first signal takes effect when no more text comes.
    std::thread::sleep(std::time::Duration::from_secs(1));
    t.keys(&[CTRL_C]);
    t.until_answers(1);
    t.keys(&["again", ENTER]);
    t.until("a new start", |screen| {
        screen.contains("starting fake-streams-deaf again") && screen.matches("IJKLM").count() == 2
    });
    drop(t);
}
