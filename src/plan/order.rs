//! The order of launches: randomized, interleaved, mirrored in pairs of blocks. Pure and seeded, so
//! that it can be printed before anything runs.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// One planned launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Index into the arms.
    pub arm: usize,
    /// The number of the launch within its arm, from 0.
    pub index: u32,
}

/// Plans every arm `launches` times. A block holds each arm once in random order, and the next
/// block is its mirror image (ABBA or BAAB for two arms), so that a drift that is linear over two
/// blocks affects all arms alike.
pub fn order(arms: usize, launches: u32, seed: u64) -> Vec<Planned> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut block: Vec<usize> = (0..arms).collect();
    let mut order = Vec::with_capacity(arms * launches as usize);
    for index in 0..launches {
        if index % 2 == 0 {
            block.shuffle(&mut rng);
        } else {
            block.reverse();
        }
        order.extend(block.iter().map(|&arm| Planned { arm, index }));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_arms_alternate_as_abba_or_baab() {
        let order: Vec<usize> = order(2, 4, 7).iter().map(|p| p.arm).collect();
        for four in order.chunks(4) {
            assert!(four == [0, 1, 1, 0] || four == [1, 0, 0, 1], "{four:?}");
        }
    }

    #[test]
    fn seeds_differ_in_their_order() {
        assert!((1..20).any(|seed| order(4, 2, seed) != order(4, 2, 0)));
    }

    proptest! {
        #[test]
        fn each_arm_is_launched_equally_often_in_rising_order(
            arms in 0usize..6, launches in 0u32..9, seed: u64,
        ) {
            let planned = order(arms, launches, seed);
            prop_assert_eq!(&planned, &order(arms, launches, seed));
            for arm in 0..arms {
                let indices: Vec<u32> =
                    planned.iter().filter(|p| p.arm == arm).map(|p| p.index).collect();
                prop_assert_eq!(indices, (0..launches).collect::<Vec<_>>());
            }
        }
    }
}
