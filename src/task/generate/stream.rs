//! A generation that is read while it is produced and can be cancelled. The same rules apply as to
//! a measured one: ids inside the vocabulary, times on the shared clock, the stream equal to the
//! final list.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::request::foreign;
use crate::engine::{Broken, Engine, Failure, Stamped};
use crate::protocol::{Feature, Generate, Generated, Reply, Request, Token};
use crate::record::FailureKind;
use crate::units::MonoNs;

/// How often the caller is asked whether it still wants the answer.
const POLL: Duration = Duration::from_millis(50);

/// An event during a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Token(u32),
    /// Nothing arrived for a moment.
    Waiting,
}

/// A finished generation.
#[derive(Debug, Clone)]
pub struct Answer {
    pub generated: Stamped<Generated>,
    /// Whether the caller ended it early.
    pub cancelled: bool,
}

impl Engine {
    /// One generation. If the request sets `stream`, `follow` gets each token as it arrives; it is
    /// also called in between. Its `Break` cancels: an engine that supports cancelling keeps its
    /// state and answers with the tokens so far, and any other engine is killed. A second `Break`
    /// kills.
    pub fn follow(
        &mut self,
        request: Generate,
        n_vocab: Option<u32>,
        follow: &mut dyn FnMut(Step) -> ControlFlow<()>,
    ) -> Result<Answer, Failure> {
        self.begin("generate");
        let asked = request.clone();
        let sent = self.send(Request::Generate(request));
        let mut seen: Vec<Token> = Vec::new();
        let mut cancelled = false;
        let mut deadline = Instant::now() + self.limit();
        loop {
            let step = match self.poll(POLL)? {
                Some((arrived, Reply::Token(token))) => {
                    self.check_token(&asked, sent, arrived, &seen, token, n_vocab)?;
                    seen.push(token);
                    deadline = Instant::now() + self.limit();
                    Step::Token(token.token)
                }
                Some((arrived, Reply::Generated(value))) => {
                    let generated = Stamped { sent, arrived, value };
                    let answer = Answer { generated, cancelled };
                    self.check_answer(&asked, &answer, &seen, n_vocab)?;
                    return Ok(answer);
                }
                Some((_, other)) => return Err(self.unexpected(other)),
                None if Instant::now() > deadline => {
                    return Err(self.broken(Broken::late(self.limit())));
                }
                None => Step::Waiting,
            };
            // Tokens that were on their way when the caller cancelled are not shown.
            let step = if cancelled { Step::Waiting } else { step };
            if follow(step).is_break() {
                if cancelled || !self.has(Feature::Cancel) {
                    return Err(self.stop());
                }
                cancelled = true;
                self.send(Request::Cancel { id: asked.id });
            }
        }
    }

    fn check_token(
        &mut self,
        asked: &Generate,
        sent: MonoNs,
        arrived: MonoNs,
        seen: &[Token],
        token: Token,
        n_vocab: Option<u32>,
    ) -> Result<(), Failure> {
        let wrong = if !asked.stream {
            Some((FailureKind::Protocol, "a token came that was not asked for".to_string()))
        } else if token.id != asked.id {
            let m = format!("asked for generation {}, got a token of {}", asked.id, token.id);
            Some((FailureKind::Protocol, m))
        } else if let Some(m) = foreign(&[token.token], n_vocab) {
            Some((FailureKind::WrongTokens, m))
        } else if seen.len() >= asked.n as usize {
            let m = format!("asked for {} tokens, more were streamed", asked.n);
            Some((FailureKind::WrongTokens, m))
        } else {
            None
        };
        if let Some((kind, message)) = wrong {
            return Err(self.fail(kind, message));
        }
        let from = seen.last().map_or(sent, |last| MonoNs(last.t_ns));
        self.check_times(from, arrived, &[("t_ns", token.t_ns)])
    }

    fn check_answer(
        &mut self,
        asked: &Generate,
        answer: &Answer,
        seen: &[Token],
        n_vocab: Option<u32>,
    ) -> Result<(), Failure> {
        let g = &answer.generated.value;
        let (n, got) = (asked.n as usize, g.tokens.len());
        let stopped = g.tokens.last().is_some_and(|last| asked.stop.contains(last));
        let early = g.tokens.iter().position(|t| asked.stop.contains(t)).map(|at| at + 1);
        let wrong = if got > n {
            Some(format!("asked for {n} tokens, got {got}"))
        } else if got < n && !stopped && !answer.cancelled {
            Some(format!("asked for {n} tokens, got {got}, and the last is no stop token"))
        } else if let Some(at) = early.filter(|at| *at < got) {
            Some(format!("token {at} of {got} is a stop token, the generation went on"))
        } else if asked.stream && !seen.iter().map(|t| t.token).eq(g.tokens.iter().copied()) {
            Some(format!("the {} tokens of the stream are not the {got} of the end", seen.len()))
        } else {
            None
        };
        if let Some(message) = wrong {
            return Err(self.fail(FailureKind::WrongTokens, message));
        }
        if let Some(reused) = g.reused.filter(|r| *r as usize >= asked.prompt.len()) {
            let m = format!("{reused} of {} prompt tokens reused", asked.prompt.len());
            return Err(self.fail(FailureKind::Lied, m));
        }
        if asked.stream && !seen.iter().map(|t| t.t_ns).eq(g.t_tokens_ns.iter().copied()) {
            let m = "the times of the stream are not those of the end".to_string();
            return Err(self.fail(FailureKind::Lied, m));
        }
        self.check_generated(&answer.generated, asked.id, got, n_vocab)?;
        if !answer.cancelled {
            self.check_accounted(&answer.generated)?;
        }
        Ok(())
    }
}
