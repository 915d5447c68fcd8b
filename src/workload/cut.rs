//! Texts of a fixed number of tokens, cut out of the text that comes with the program: what
//! tokenizers are measured on.

use std::collections::HashSet;

use super::{Prompt, QualityText, Workload, WorkloadError};
use crate::model::tokenizer::Tokenizer;
use crate::units::Bytes;

/// Texts of each length, at least: a tokenizer may remember the words of one.
const LEAST: usize = 64;
/// Tokens of a text, at most.
const LONGEST: u32 = 32_768;
/// Bytes of the texts of a request, at most: a message is four times as long, and JSON escapes some.
const MOST_BYTES: usize = 16 << 20;

impl Workload {
    /// Texts of each length, all of them different, enough for a batch and 64 at least: those at
    /// evenly spaced words of the text, up to where our tokenizer finds exactly so many tokens, the
    /// special ones around a text among them.
    ///
    /// # Errors
    /// A length that no text has, or requests that are longer than a message.
    pub fn of_own_text(
        lengths: &[u32],
        batch: u32,
        tokenizer: &Tokenizer,
    ) -> Result<Self, WorkloadError> {
        let source = QualityText::embedded().map_err(|e| WorkloadError::Shape(e.to_string()))?;
        let pool = |&length: &u32| of_length(length, batch, tokenizer, &source.text);
        let prompts = lengths.iter().map(pool).collect::<Result<_, _>>()?;
        Ok(Self::new(&source.name, prompts))
    }
}

fn of_length(
    length: u32,
    batch: u32,
    tokenizer: &Tokenizer,
    source: &str,
) -> Result<Prompt, WorkloadError> {
    let id = format!("p{length}");
    let ids_of = |text: &str| {
        let failed = |e: tokenizers::Error| WorkloadError::Tokenize {
            id: id.clone(),
            reason: e.to_string(),
        };
        tokenizer.encode(text).map_err(failed)
    };
    let least = 1 + ids_of("")?.len() as u32;
    if !(least..=LONGEST).contains(&length) {
        return Err(WorkloadError::Shape(format!(
            "-p {length}: expected {least} to {LONGEST} tokens, those that the model puts around a \
             text included"
        )));
    }
    let length = length as usize;
    // So long that a text may begin at its last word; words have few tokens of more than 16 bytes.
    let whole = source.len() + 16 * length + source.len() / 2;
    let long: String = source.chars().cycle().take(whole).collect();
    let cutter = Cutter { ends: ends(&long), text: &long, length, ids_of: &ids_of };
    let starts = starts(source);
    let wanted = LEAST.max(batch as usize);
    let (mut seen, mut texts, mut ids) = (HashSet::new(), Vec::new(), Vec::new());
    let mut untried = vec![true; starts.len()];
    for k in 0..wanted {
        // The next one that can be cut so and is new.
        let first = k * starts.len() / wanted;
        let mut found = None;
        for at in (first..starts.len()).chain(0..first) {
            if std::mem::take(&mut untried[at])
                && let Some((text, its)) = cutter.cut(starts[at])?
                && seen.insert(text)
            {
                found = Some((text, its));
                break;
            }
        }
        let Some((text, its)) = found else {
            return Err(WorkloadError::Shape(format!(
                "-p {length}: expected {wanted} different texts of so many tokens in the text of \
                 this program, found {}; ask for another length, or for a smaller -b",
                texts.len()
            )));
        };
        texts.push(text.to_owned());
        ids.push(its);
    }
    let mut sizes: Vec<usize> = texts.iter().map(String::len).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let largest: usize = sizes.iter().take(batch as usize).sum();
    if largest > MOST_BYTES {
        return Err(WorkloadError::Shape(format!(
            "-b {batch} -p {length}: expected at most {} of text in a request, found {}; ask for a \
             smaller batch or length",
            Bytes(MOST_BYTES as u64),
            Bytes(largest as u64)
        )));
    }
    let prompt = Prompt::pool(id.clone(), ids).expect("at least one text");
    Ok(Prompt { texts, ..prompt })
}

/// Cuts texts of one length.
struct Cutter<'a, F> {
    text: &'a str,
    /// Where words end in it.
    ends: Vec<usize>,
    length: usize,
    ids_of: &'a F,
}

impl<'a, F: Fn(&str) -> Result<Vec<u32>, WorkloadError>> Cutter<'a, F> {
    /// The text from `start` on that has exactly the length, with its ids; `None` where one character
    /// more makes too many tokens of too few.
    fn cut(&self, start: usize) -> Result<Option<(&'a str, Vec<u32>)>, WorkloadError> {
        let ids_to = |end: usize| (self.ids_of)(&self.text[start..end]);
        let ends = &self.ends[self.ends.partition_point(|end| *end <= start)..];
        // Each word is a token at least, so the text has at most so many words.
        let (mut fits, mut exceeds) = (0, ends.len().min(self.length + 1));
        while exceeds - fits > 1 {
            let middle = fits + (exceeds - fits) / 2;
            match ids_to(ends[middle - 1])?.len() <= self.length {
                true => fits = middle,
                false => exceeds = middle,
            }
        }
        let end = if fits == 0 { start } else { ends[fits - 1] };
        let more = self.text[end..].char_indices().map(|(at, c)| end + at + c.len_utf8());
        for end in [end].into_iter().chain(more) {
            let ids = ids_to(end)?;
            if ids.len() >= self.length {
                return Ok((ids.len() == self.length).then_some((&self.text[start..end], ids)));
            }
        }
        Ok(None)
    }
}

/// Where words begin.
fn starts(text: &str) -> Vec<usize> {
    let mut after_space = true;
    let is_start = |(at, c): (usize, char)| {
        let begins = after_space && !c.is_whitespace();
        after_space = c.is_whitespace();
        begins.then_some(at)
    };
    text.char_indices().filter_map(is_start).collect()
}

/// Where words end.
fn ends(text: &str) -> Vec<usize> {
    let mut in_word = false;
    let is_end = |(at, c): (usize, char)| {
        let ends = in_word && c.is_whitespace();
        in_word = !c.is_whitespace();
        ends.then_some(at)
    };
    text.char_indices().filter_map(is_end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gguf::GgufFile;

    fn tiny() -> Tokenizer {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny.gguf");
        Tokenizer::from_gguf(&GgufFile::open(path.as_ref()).unwrap()).unwrap()
    }

    #[test]
    fn texts_have_exactly_the_asked_number_of_tokens_and_no_two_are_the_same() {
        let tokenizer = tiny();
        let workload = Workload::of_own_text(&[3, 16, 128], 70, &tokenizer).unwrap();
        for (prompt, length) in workload.prompts.iter().zip([3, 16, 128]) {
            assert_eq!((prompt.id.as_str(), prompt.texts.len()), (&*format!("p{length}"), 70));
            let different: HashSet<&String> = prompt.texts.iter().collect();
            assert_eq!(different.len(), 70);
            for (place, text) in prompt.texts.iter().enumerate() {
                let ids = tokenizer.encode(text).unwrap();
                assert_eq!((ids.len(), &ids[..]), (length, prompt.ids_at(place)), "{text:?}");
                assert!(!text.starts_with(char::is_whitespace), "{text:?}");
            }
        }
    }

    #[test]
    fn a_pool_is_larger_than_a_batch_and_the_same_for_every_batch_up_to_its_size() {
        let tokenizer = tiny();
        let of = |batch| Workload::of_own_text(&[8], batch, &tokenizer).unwrap();
        assert_eq!(of(1).prompts[0].texts.len(), LEAST);
        assert_eq!(of(1), of(64));
        assert_ne!(of(64).sha256, of(65).sha256);
    }

    #[test]
    fn lengths_that_no_text_has_are_refused() {
        let refused = |length, batch| {
            Workload::of_own_text(&[length], batch, &tiny()).unwrap_err().to_string()
        };
        let around = tiny().encode("").unwrap().len();
        assert!(refused(around as u32, 1).contains(&format!("expected {} to", around + 1)));
        assert!(refused(LONGEST + 1, 1).contains("to 32768 tokens"));
        // There are fewer words of one token than that.
        let said = refused(1 + around as u32, 1024);
        assert!(said.contains("expected 1024 different texts"), "{said}");
    }

    #[test]
    fn words_begin_and_end_at_white_space() {
        assert_eq!(starts("ab  c\nd "), [0, 4, 6]);
        assert_eq!(ends("ab  c\nd "), [2, 5, 7]);
    }
}
