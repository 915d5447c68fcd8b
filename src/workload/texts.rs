//! The texts of an encoder as token ids: random ones of fixed lengths, or those of a file. A prompt
//! is a pool of texts, and each request takes the next ones.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Prompt, Workload, WorkloadError};
use crate::model::tokenizer::Ids;

impl Prompt {
    /// Which texts of the pool are in request `i`, so many of them, round and round.
    pub fn places(&self, i: u32, texts: u32) -> impl Iterator<Item = usize> {
        let pool = 1 + self.others.len();
        let first = i as usize * texts as usize;
        (first..first + texts as usize).map(move |k| k % pool)
    }

    /// The ids of a text of the pool.
    pub fn ids_at(&self, place: usize) -> &[u32] {
        match place {
            0 => &self.ids,
            place => &self.others[place - 1],
        }
    }

    /// The ids of the texts of request `i`.
    pub fn request(&self, i: u32, texts: u32) -> Vec<Vec<u32>> {
        self.places(i, texts).map(|place| self.ids_at(place).to_vec()).collect()
    }

    /// A pool of texts, the first one in front.
    pub(super) fn pool(id: String, mut texts: Vec<Vec<u32>>) -> Option<Self> {
        let ids = (!texts.is_empty()).then(|| texts.remove(0))?;
        let (category, why, context) = (None, None, Vec::new());
        Some(Self { id, category, why, n_gen: 0, context, ids, others: texts, texts: Vec::new() })
    }
}

impl Workload {
    /// Random texts between the vocabulary's special tokens: `texts` of each length, the same for a
    /// seed.
    pub fn of_lengths(
        lengths: &[u32],
        texts: u32,
        ids: &Ids,
        longest: u32,
        seed: u64,
    ) -> Result<Self, WorkloadError> {
        let least = 1 + u32::from(ids.bos.is_some()) + u32::from(ids.eos.is_some());
        if ids.normal.is_empty() {
            return Err(WorkloadError::Shape(super::shape::NO_VOCABULARY.into()));
        }
        let pool = |&length: &u32| {
            if !(least..=longest).contains(&length) {
                return Err(WorkloadError::Shape(format!(
                    "-p {length}: expected {least} to {longest} tokens, as the model has them, its \
                     special ones included"
                )));
            }
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(2 << 32 | u64::from(length));
            let mut text = || -> Vec<u32> {
                let inner = length as usize - (least as usize - 1);
                let draw = || ids.normal[rng.random_range(0..ids.normal.len())];
                let drawn = std::iter::repeat_with(draw).take(inner);
                ids.bos.into_iter().chain(drawn).chain(ids.eos).collect()
            };
            let texts = (0..texts).map(|_| text()).collect();
            Ok(Prompt::pool(format!("p{length}"), texts))
        };
        let prompts: Vec<_> = lengths.iter().map(pool).collect::<Result<_, _>>()?;
        Ok(Self::new("random", prompts.into_iter().flatten().collect()))
    }

    /// The texts of a file as one pool, in their order.
    pub fn of_texts(name: &str, texts: Vec<Vec<u32>>) -> Self {
        Self::new(name, Prompt::pool("texts".into(), texts).into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Ids {
        Ids { normal: (1000..2000).collect(), bos: Some(101), eos: Some(102) }
    }

    #[test]
    fn texts_have_the_asked_length_with_the_special_tokens_around() {
        let workload = Workload::of_lengths(&[8, 16], 3, &ids(), 512, 42).unwrap();
        assert_eq!(workload.prompts.len(), 2);
        for (prompt, length) in workload.prompts.iter().zip([8, 16]) {
            for text in prompt.request(0, 3) {
                assert_eq!((text.len(), text[0], text[length - 1]), (length, 101, 102));
            }
        }
        assert_eq!(workload.n_ctx(), 16);
        let refused = Workload::of_lengths(&[2], 1, &ids(), 512, 42).unwrap_err().to_string();
        assert!(refused.contains("-p 2: expected 3 to 512"), "{refused}");
    }

    #[test]
    fn requests_go_round_the_pool() {
        let pool = Workload::of_texts("a", vec![vec![1], vec![2], vec![3]]);
        let prompt = &pool.prompts[0];
        assert_eq!(prompt.request(0, 2), [[1], [2]]);
        assert_eq!(prompt.request(1, 2), [[3], [1]]);
        assert_eq!(prompt.request(0, 5), [[1], [2], [3], [1], [2]]);
    }

    #[test]
    fn the_hash_is_of_all_texts() {
        let of = |last| Workload::of_texts("a", vec![vec![1], vec![2], vec![last]]).sha256;
        assert_ne!(of(3), of(4));
    }
}
