//! What arms are called in a plot: their label without what all share, and a hue for each engine.

use crate::record::{Arm, Record};
use crate::text::clean;

pub struct Names {
    engines: Vec<String>,
    /// `candle:`, where every label begins with it.
    shared: Option<String>,
}

impl Names {
    pub fn of(record: &Record) -> Self {
        let mut engines: Vec<String> = Vec::new();
        for name in record.arms.iter().map(engine) {
            if !engines.iter().any(|known| known == name) {
                engines.push(name.to_string());
            }
        }
        let shared = engines.first().filter(|_| engines.len() == 1).map(|e| format!("{e}:"));
        let shared = shared.filter(|s| record.arms.iter().all(|arm| arm.label.starts_with(s)));
        Self { engines, shared }
    }

    pub fn name(&self, arm: &Arm) -> String {
        let label = self.shared.as_deref().and_then(|s| arm.label.strip_prefix(s));
        clean(label.unwrap_or(&arm.label)).replace(':', " ")
    }

    /// What a line over an axis is called: all that differs among points but threads and batch.
    pub fn of_group(&self, record: &Record, arm: &Arm) -> String {
        let differs = |of: fn(&Arm) -> &str| record.arms.iter().any(|a| of(a) != of(arm));
        let engine = differs(|a| &a.point.engine).then_some(arm.point.engine.as_str());
        let quant = differs(|a| &a.point.quant).then_some(arm.point.quant.as_str());
        let parts: Vec<&str> = engine.into_iter().chain(quant).collect();
        match parts.is_empty() {
            true => clean(&arm.point.engine),
            false => clean(&parts.join(" ")),
        }
    }

    /// One for each engine.
    pub fn hue(&self, arm: &Arm) -> usize {
        self.engines.iter().position(|e| e == engine(arm)).unwrap_or(0)
    }

    pub fn engines(&self) -> usize {
        self.engines.len()
    }
}

/// As the label has it.
fn engine(arm: &Arm) -> &str {
    arm.label.split(':').next().unwrap_or_default()
}
