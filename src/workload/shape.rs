//! Fixed shapes: `-p N -n M`, as random ids of the ordinary vocabulary, the same for a seed.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Prompt;

pub(super) const NO_TOKENS: &str =
    "-n 0: the first token belongs to every measurement; expected `-n 1` or more";

/// A prompt of `n_prompt` tokens, begin-of-text included, and `n_gen` generated ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub n_prompt: u32,
    pub n_gen: u32,
}

impl Shape {
    /// Every length with every count: comma lists sweep.
    pub fn grid(n_prompt: &[u32], n_gen: &[u32]) -> Vec<Self> {
        let pairs = n_prompt.iter().flat_map(|p| n_gen.iter().map(move |n| (*p, *n)));
        pairs.map(|(n_prompt, n_gen)| Self { n_prompt, n_gen }).collect()
    }

    /// `p512-n64`.
    pub fn id(self) -> String {
        format!("p{}-n{}", self.n_prompt, self.n_gen)
    }

    /// Draws the ids. They depend on the seed and the prompt's length only, so that shapes which
    /// differ in `n_gen` share their prompt, and a shape is the same in every grid.
    pub(super) fn prompt(
        self,
        normal: &[u32],
        bos: Option<u32>,
        seed: u64,
    ) -> Result<Prompt, String> {
        if self.n_prompt == 0 {
            return Err("-p 0: a prompt needs a token; expected `-p 1` or more".into());
        }
        if self.n_gen == 0 {
            return Err(NO_TOKENS.into());
        }
        if normal.is_empty() {
            return Err("the model's vocabulary has no ordinary tokens to draw from".into());
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(self.n_prompt.into());
        let drawn = std::iter::repeat_with(|| normal[rng.random_range(0..normal.len())]);
        let ids = bos.into_iter().chain(drawn).take(self.n_prompt as usize).collect();
        Ok(Prompt { id: self.id(), category: None, why: None, n_gen: self.n_gen, ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comma_lists_make_a_grid_with_the_names_of_llama_bench() {
        let ids: Vec<_> = Shape::grid(&[128, 512], &[1, 64]).iter().map(|s| s.id()).collect();
        assert_eq!(ids, ["p128-n1", "p128-n64", "p512-n1", "p512-n64"]);
    }

    #[test]
    fn a_shape_has_begin_of_text_first_and_the_asked_length() {
        let normal: Vec<u32> = (10..100).collect();
        let shape = Shape { n_prompt: 64, n_gen: 4 };
        let prompt = shape.prompt(&normal, Some(5), 1).unwrap();
        assert_eq!((prompt.ids.len(), prompt.ids[0], prompt.n_gen), (64, 5, 4));
        assert!(prompt.ids[1..].iter().all(|id| normal.contains(id)));
        let one = Shape { n_prompt: 1, n_gen: 4 }.prompt(&normal, Some(5), 1).unwrap();
        assert_eq!(one.ids, [5]);
    }

    #[test]
    fn the_same_seed_draws_the_same_prompt_and_another_seed_another() {
        let normal: Vec<u32> = (10..1000).collect();
        let draw = |p, n, seed| {
            Shape { n_prompt: p, n_gen: n }.prompt(&normal, Some(5), seed).unwrap().ids
        };
        assert_eq!(draw(64, 1, 7), draw(64, 99, 7));
        assert_ne!(draw(64, 1, 7), draw(64, 1, 8));
        assert_ne!(draw(64, 1, 7)[1..], draw(65, 1, 7)[1..64]);
    }

    #[test]
    fn shapes_without_a_prompt_or_without_a_token_are_refused() {
        assert!(Shape { n_prompt: 0, n_gen: 1 }.prompt(&[1], None, 0).is_err());
        assert!(Shape { n_prompt: 1, n_gen: 0 }.prompt(&[1], None, 0).is_err());
        assert!(Shape { n_prompt: 1, n_gen: 1 }.prompt(&[], None, 0).is_err());
    }
}
