//! Fixed shapes: `-p N -n M -d D`, as random ids of the ordinary vocabulary, the same for a seed.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use super::Prompt;

pub(super) const NO_TOKENS: &str =
    "-n 0: the first token belongs to every measurement; expected `-n 1` or more";

pub(super) const NO_VOCABULARY: &str = "the model's vocabulary has no ordinary tokens to draw from";

/// `n_prompt` tokens after a context of `depth`, and `n_gen` generated ones. Begin-of-text is the
/// first token of the context, or of the prompt if there is no context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub n_prompt: u32,
    pub n_gen: u32,
    pub depth: u32,
}

impl Shape {
    /// Every combination of depth, length and count, in the order of llama-bench.
    pub fn grid(n_prompt: &[u32], n_gen: &[u32], depth: &[u32]) -> Vec<Self> {
        let mut shapes = Vec::new();
        for &depth in depth {
            for &n_prompt in n_prompt {
                shapes.extend(n_gen.iter().map(|&n_gen| Self { n_prompt, n_gen, depth }));
            }
        }
        shapes
    }

    /// `p512-n64`, or `p512-n64 @ d2048` with a context.
    pub fn id(self) -> String {
        let Self { n_prompt, n_gen, depth } = self;
        match depth {
            0 => format!("p{n_prompt}-n{n_gen}"),
            _ => format!("p{n_prompt}-n{n_gen} @ d{depth}"),
        }
    }

    /// Draws the ids. They depend on the seed and the lengths of prompt and context only, so that
    /// shapes which differ in `n_gen` share their prompt, and a shape is the same in every grid.
    pub(super) fn prompt(
        self,
        normal: &[u32],
        bos: Option<u32>,
        seed: u64,
    ) -> Result<Prompt, String> {
        if self.n_prompt == 0 {
            return Err("-p 0: a prompt needs a token; expected `-p 1` or more. Decode behind a \
                        context of 2048 is `-d 2048 -p 1`"
                .into());
        }
        if self.n_gen == 0 {
            return Err(NO_TOKENS.into());
        }
        if normal.is_empty() {
            return Err(NO_VOCABULARY.into());
        }
        let draw = |n: u32, first: Option<u32>, kind: u64| -> Vec<u32> {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(kind << 32 | u64::from(n));
            let drawn = std::iter::repeat_with(|| normal[rng.random_range(0..normal.len())]);
            first.into_iter().chain(drawn).take(n as usize).collect()
        };
        let (context, ids) = match self.depth {
            0 => (Vec::new(), draw(self.n_prompt, bos, 0)),
            depth => (draw(depth, bos, 1), draw(self.n_prompt, None, 0)),
        };
        let (id, n_gen) = (self.id(), self.n_gen);
        let others = Vec::new();
        Ok(Prompt { id, category: None, why: None, n_gen, context, ids, others, texts: Vec::new() })
    }
}

/// `n` sequences of random ids as long as context and prompt together, drawn from a generator that
/// these seed.
pub(super) fn others(
    context: &[u32],
    ids: &[u32],
    n: u32,
    normal: &[u32],
) -> Result<Vec<Vec<u32>>, String> {
    if normal.is_empty() {
        return Err(NO_VOCABULARY.into());
    }
    let mut sha = Sha256::new();
    context.iter().chain(ids).for_each(|id| sha.update(id.to_le_bytes()));
    let mut rng = ChaCha8Rng::from_seed(sha.finalize().into());
    let mut draw = || normal[rng.random_range(0..normal.len())];
    let length = context.len() + ids.len();
    Ok((0..n).map(|_| (0..length).map(|_| draw()).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { n_prompt: 64, n_gen: 4, depth: 0 };

    #[test]
    fn comma_lists_make_a_grid_with_the_names_of_llama_bench() {
        let ids = |depths: &[u32]| -> Vec<_> {
            Shape::grid(&[128, 512], &[1, 64], depths).iter().map(|s| s.id()).collect()
        };
        assert_eq!(ids(&[0]), ["p128-n1", "p128-n64", "p512-n1", "p512-n64"]);
        assert_eq!(ids(&[0, 2048])[..4], ids(&[0]));
        assert_eq!(ids(&[0, 2048])[7], "p512-n64 @ d2048");
    }

    #[test]
    fn a_shape_has_begin_of_text_first_and_the_asked_length() {
        let normal: Vec<u32> = (10..100).collect();
        let prompt = SHAPE.prompt(&normal, Some(5), 1).unwrap();
        assert_eq!((prompt.ids.len(), prompt.ids[0], prompt.n_gen), (64, 5, 4));
        assert!(prompt.ids[1..].iter().all(|id| normal.contains(id)));
        let one = Shape { n_prompt: 1, ..SHAPE }.prompt(&normal, Some(5), 1).unwrap();
        assert_eq!(one.ids, [5]);
    }

    #[test]
    fn a_context_has_its_length_and_the_begin_of_text_and_the_prompt_goes_on() {
        let normal: Vec<u32> = (10..1000).collect();
        let draw = |depth| Shape { depth, ..SHAPE }.prompt(&normal, Some(5), 1).unwrap();
        let deep = draw(100);
        assert_eq!((deep.context.len(), deep.context[0], deep.ids.len()), (100, 5, 64));
        assert!(deep.context[1..].iter().chain(&deep.ids).all(|id| normal.contains(id)));
        assert_eq!(deep.ids, draw(200).ids, "the prompt is the same at every depth");
        assert_ne!(deep.ids[..63], deep.context[1..64]);
        assert_eq!(draw(1).context, [5]);
        assert!(draw(0).context.is_empty());
    }

    #[test]
    fn the_same_seed_draws_the_same_prompt_and_another_seed_another() {
        let normal: Vec<u32> = (10..1000).collect();
        let draw = |n_prompt, n_gen, seed| {
            Shape { n_prompt, n_gen, depth: 0 }.prompt(&normal, Some(5), seed).unwrap().ids
        };
        assert_eq!(draw(64, 1, 7), draw(64, 99, 7));
        assert_ne!(draw(64, 1, 7), draw(64, 1, 8));
        assert_ne!(draw(64, 1, 7)[1..], draw(65, 1, 7)[1..64]);
    }

    #[test]
    fn the_sequences_of_a_batch_differ_and_follow_from_the_prompt() {
        let normal: Vec<u32> = (10..1000).collect();
        let of = |ids: &[u32], n| others(&[1, 2], ids, n, &normal).unwrap();
        let three = of(&[3, 4, 5], 3);
        assert_eq!(three.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 5]);
        assert!(three.iter().flatten().all(|id| normal.contains(id)));
        assert!(three[0] != three[1] && three[1] != three[2] && three[0] != three[2]);
        assert_eq!(three[..2], of(&[3, 4, 5], 2), "a larger batch adds to a smaller one");
        assert_ne!(three, of(&[3, 4, 6], 3));
        assert!(others(&[], &[1], 1, &[]).is_err());
    }

    #[test]
    fn shapes_without_a_prompt_or_without_a_token_are_refused() {
        let no_prompt = Shape { n_prompt: 0, ..SHAPE }.prompt(&[1], None, 0).unwrap_err();
        assert!(no_prompt.contains("-d 2048 -p 1"), "{no_prompt}");
        assert!(Shape { n_gen: 0, ..SHAPE }.prompt(&[1], None, 0).is_err());
        assert!(SHAPE.prompt(&[], None, 0).is_err());
    }
}
