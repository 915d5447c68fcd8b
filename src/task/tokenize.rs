//! Turns batches of texts into token ids again and again, length by length, with the engine's own
//! tokenizer. Before anything is measured, the ids of every text are compared with ours.

use super::requests::{self, Requests, Span};
use super::{Columns, Measured, Running, Task};
use crate::engine::{Engine, Failure, Stamped};
use crate::metric::Metric;
use crate::number::count;
use crate::protocol::{Feature, Reply, Request, Tokenize, Tokenized};
use crate::record::{FailureKind, PromptRun};
use crate::secrets;
use crate::units::{Bytes, MonoNs, three_digits};
use crate::workload::Prompt;

pub const COLUMNS: Columns = Columns {
    line: &[("tokenize", Metric::Tokenize), ("text", Metric::TextBytesPerS)],
    per_prompt: &[Metric::Tokenize, Metric::TextBytesPerS],
};

/// Ids that one answer may hold: some megabytes.
const IDS_AT_ONCE: usize = 1 << 18;

/// Bytes of text that no core reads in a second: 32 in each cycle at 6 GHz.
const MOST_BYTES_PER_S: f64 = 32.0 * 6e9;

/// What a launch tokenizes, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Tokenizing<'a> {
    /// Over prompts that have texts.
    pub requests: Requests<'a>,
}

impl Task for Tokenizing<'_> {
    type Answer = ();

    fn needs(&self) -> &[Feature] {
        &[Feature::Tokenize]
    }

    fn script(&self, launch: &mut Running<'_>) -> Result<(), Failure> {
        for prompt in &self.requests.workload.prompts {
            compare(launch.engine, prompt)?;
        }
        self.requests
            .all(launch, &mut |launch, prompt, i, run| self.tokenize(launch, prompt, i, run))?;
        launch.finished()
    }

    fn doubt(&self, measured: &Measured<'_>) -> Option<String> {
        let most = f64::from(measured.threads) * MOST_BYTES_PER_S;
        measured.launch.prompts.iter().find_map(|run| {
            let seconds = run.request_ns.iter().sum::<u64>().max(1) as f64 / 1e9;
            (run.request_text_bytes as f64 / seconds > most).then(|| {
                format!(
                    "{}: {} of text in {} s; {} cannot even read so much",
                    run.id,
                    Bytes(run.request_text_bytes),
                    three_digits(seconds),
                    measured.whereabouts(),
                )
            })
        })
    }

    fn metrics(&self, measured: &mut Measured<'_>) {
        requests::of_launch(measured, Metric::Tokenize, None);
    }
}

impl Tokenizing<'_> {
    /// Sends request `i` over the texts of a prompt and adds it to the run.
    fn tokenize(
        &self,
        launch: &mut Running<'_>,
        prompt: &Prompt,
        i: u32,
        run: &mut PromptRun,
    ) -> Result<Span, Failure> {
        let places: Vec<usize> = prompt.places(i, self.requests.batch).collect();
        let texts: Vec<String> = places.iter().map(|place| prompt.texts[*place].clone()).collect();
        run.request_text_bytes += texts.iter().map(String::len).sum::<usize>() as u64;
        let request = Tokenize { id: launch.engine.next_id(), texts, ids: false };
        let Stamped { sent, arrived, value } = launch.engine.tokenize(request)?;
        if let Some(message) = other_counts(prompt, &places, &value.counts) {
            return Err(launch.engine.fail(FailureKind::WrongTokens, message));
        }
        run.request_tokens += value.counts.iter().copied().map(u64::from).sum::<u64>();
        if i == 0 {
            introduce(launch, &value);
        }
        let (begin, end) = (MonoNs(value.t_begin_ns), MonoNs(value.t_end_ns));
        Ok(Span { sent, arrived, begin, end })
    }
}

/// Adds what the engine says of its tokenizer to what it said of itself.
fn introduce(launch: &mut Running<'_>, tokenized: &Tokenized) {
    let identity = &mut *launch.identity;
    let threads = tokenized.threads.map(|n| {
        identity.settings.insert("tokenizer_threads".into(), n.into());
        format!(" in {}", count(n as usize, "thread"))
    });
    let Some(name) = tokenized.tokenizer.as_deref().map(secrets::mask) else { return };
    identity.settings.insert("tokenizer".into(), (&*name).into());
    let note = format!("Its tokenizer: {name}{}.", threads.unwrap_or_default());
    if !identity.notes.contains(&note) {
        identity.notes.push(note);
    }
}

/// Asks for the ids of every text of a prompt, unmeasured, and fails where they are not ours.
fn compare(engine: &mut Engine, prompt: &Prompt) -> Result<(), Failure> {
    let at_once = (IDS_AT_ONCE / prompt.ids.len().max(1)).max(1);
    let places: Vec<usize> = (0..prompt.texts.len()).collect();
    for places in places.chunks(at_once) {
        let texts = places.iter().map(|place| prompt.texts[*place].clone()).collect();
        let request = Tokenize { id: engine.next_id(), texts, ids: true };
        let found = engine.tokenize(request)?.value.ids;
        let other =
            places.iter().zip(&found).find_map(|(place, ids)| other_ids(prompt, *place, ids));
        if let Some(message) = other {
            return Err(engine.fail(FailureKind::WrongTokens, message));
        }
    }
    Ok(())
}

/// Where the ids of a text are not ours, in words; `None` if they are.
fn other_ids(prompt: &Prompt, place: usize, found: &[u32]) -> Option<String> {
    let expected = prompt.ids_at(place);
    if expected == found {
        return None;
    }
    let same = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    let there = |ids: &[u32]| match ids.get(same) {
        Some(id) => format!("token {id}"),
        None => "the end".to_string(),
    };
    let (expected, found) = (there(expected), there(found));
    Some(format!("{}: expected {expected} at position {same}, found {found}", of(prompt, place)))
}

/// Which text has another number of ids than ours, in words; `None` if none has.
fn other_counts(prompt: &Prompt, places: &[usize], found: &[u32]) -> Option<String> {
    let all = places.iter().zip(found);
    let (place, found) =
        all.into_iter().find(|(place, n)| prompt.ids_at(**place).len() != **n as usize)?;
    let expected = prompt.ids_at(*place).len();
    Some(format!("{}: expected {expected} tokens, found {found}", of(prompt, *place)))
}

/// `p32, text 3 of 64 ("the beginning of …")`.
fn of(prompt: &Prompt, place: usize) -> String {
    let text = &prompt.texts[place];
    let mut begin: String = text.chars().take(40).collect();
    if begin.len() < text.len() {
        begin.push('…');
    }
    format!("{}, text {} of {} ({begin:?})", prompt.id, place + 1, prompt.texts.len())
}

impl Engine {
    /// One batch of texts. Checks that there is a count for each, ids for each if they were asked
    /// for, and that the times can be true.
    pub fn tokenize(&mut self, request: Tokenize) -> Result<Stamped<Tokenized>, Failure> {
        let (id, texts, ids) = (request.id, request.texts.len(), request.ids);
        let tokenized =
            self.ask("tokenize", Request::Tokenize(request), self.limit(), |r| match r {
                Reply::Tokenized(t) => Ok(t),
                other => Err(Box::new(other)),
            })?;
        let t = &tokenized.value;
        if t.id != id || t.counts.len() != texts || t.ids.len() != if ids { texts } else { 0 } {
            let m = format!(
                "asked for the ids of {texts} texts (id {id}), got {} counts and the ids of {} \
                 texts (id {})",
                t.counts.len(),
                t.ids.len(),
                t.id
            );
            return Err(self.fail(FailureKind::Protocol, m));
        }
        let (begin, end) = (t.t_begin_ns, t.t_end_ns);
        let times = [("t_begin_ns", begin), ("t_end_ns", end)];
        self.check_times(tokenized.sent, tokenized.arrived, &times)?;
        // The first request, which asks for ids, also builds the tokenizer.
        if !ids {
            let whole = tokenized.arrived.since(tokenized.sent);
            self.check_claim(whole, MonoNs(end).since(MonoNs(begin)))?;
        }
        Ok(tokenized)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::plan;
    use crate::protocol::Loaded;
    use crate::record::{Launch, Role};
    use crate::workload::Workload;

    fn prompt() -> Prompt {
        Prompt {
            id: "p3".into(),
            category: None,
            why: None,
            n_gen: 0,
            context: Vec::new(),
            ids: vec![101, 7, 102],
            others: vec![vec![101, 8, 102]],
            texts: vec!["seven".into(), "eight".into()],
        }
    }

    #[test]
    fn the_first_other_id_is_named_with_its_text_and_its_position() {
        let prompt = prompt();
        assert_eq!(other_ids(&prompt, 1, &[101, 8, 102]), None);
        assert_eq!(
            other_ids(&prompt, 1, &[101, 9, 102]).unwrap(),
            "p3, text 2 of 2 (\"eight\"): expected token 8 at position 1, found token 9"
        );
        let short = other_ids(&prompt, 0, &[101, 7]).unwrap();
        assert!(short.ends_with("expected token 102 at position 2, found the end"), "{short}");
        let long = other_ids(&prompt, 0, &[101, 7, 102, 5]).unwrap();
        assert!(long.ends_with("expected the end at position 3, found token 5"), "{long}");
    }

    #[test]
    fn a_measured_request_with_another_number_of_tokens_is_noticed() {
        let prompt = prompt();
        assert_eq!(other_counts(&prompt, &[1, 0], &[3, 3]), None);
        let said = other_counts(&prompt, &[1, 0], &[3, 2]).unwrap();
        assert_eq!(said, "p3, text 1 of 2 (\"seven\"): expected 3 tokens, found 2");
    }

    /// A launch of ten requests of 640 bytes and 160 tokens, each of which took `ms`.
    fn measured(ms: u64, test: impl FnOnce(&mut Measured<'_>, &Tokenizing<'_>)) {
        let mut launch = Launch::new((0, 0), String::new());
        launch.prompts.push(PromptRun {
            id: "p32".into(),
            n_prompt: 32,
            batch: Some(5),
            request_ns: vec![ms * 1_000_000; 10],
            request_tokens: 1600,
            request_text_bytes: 6400,
            ..PromptRun::new(Role::Measured)
        });
        let workload = Workload::new("standard", vec![prompt()]);
        let plan = plan::Workload::repeated(1, 10);
        let requests = Requests { workload: &workload, plan: &plan, seconds: None, batch: 5 };
        let measured = &mut Measured {
            launch: &mut launch,
            loaded: &Loaded::default(),
            bandwidth: None,
            macs: &Default::default(),
            device: Device::default(),
            threads: 2,
            last_level_cache: None,
        };
        test(measured, &Tokenizing { requests });
    }

    #[test]
    fn rates_are_of_texts_tokens_and_bytes_and_the_mean_is_that_of_the_requests() {
        measured(2, |m, task| {
            assert_eq!(task.doubt(m), None);
            task.metrics(m);
            let values = &m.launch.metrics;
            let near = |metric, expected: f64| {
                let found: f64 = values[&metric];
                assert!((found / expected - 1.0).abs() < 1e-9, "{metric} {found}");
            };
            near(Metric::Tokenize, 0.002);
            near(Metric::LatencyP50, 0.002);
            near(Metric::SequencesPerS, 2500.0);
            near(Metric::TokensPerS, 80_000.0);
            near(Metric::TextBytesPerS, 320_000.0);
            for absent in [Metric::LatencyMean, Metric::LatencyP95, Metric::ArithmeticShare] {
                assert!(!values.contains_key(&absent), "{absent}");
            }
        });
    }

    #[test]
    fn more_text_than_any_core_reads_is_doubted() {
        measured(0, |m, task| {
            let said = task.doubt(m).unwrap();
            assert!(said.contains("6.40 kB of text") && said.contains("2 threads"), "{said}");
        });
    }
}
