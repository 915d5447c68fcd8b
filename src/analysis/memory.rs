//! The parts of an arm's peak memory, as means over its launches. They sum to the mean peak.

use super::ok_launches;
use crate::record::{Arm, How, Memory, Part};

/// One part over the launches of an arm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartMean {
    pub part: Part,
    /// Mean bytes over the launches; a launch without the part counts as zero.
    pub bytes: f64,
    /// The least certain source among the launches.
    pub how: How,
}

/// The parts of the peak in order; empty if no launch has a breakdown.
pub fn memory_parts(arm: &Arm) -> Vec<PartMean> {
    let memories: Vec<&Memory> =
        ok_launches(arm).map(|l| &l.memory).filter(|m| !m.breakdown.is_empty()).collect();
    let mut means: Vec<PartMean> = Vec::new();
    for part in memories.iter().flat_map(|m| &m.breakdown) {
        let share = part.bytes as f64 / memories.len() as f64;
        match means.iter_mut().find(|m| m.part == part.part) {
            Some(mean) => {
                mean.bytes += share;
                if part.how != How::Measured {
                    mean.how = part.how;
                }
            }
            None => means.push(PartMean { part: part.part, bytes: share, how: part.how }),
        }
    }
    means.sort_by_key(|m| m.part);
    means
}
