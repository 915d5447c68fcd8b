//! What must be equal for two sessions to stand on one line: the fields on which a stored
//! baseline is refused, kept one by one so that a reader can see which of them differs.

use serde::{Deserialize, Serialize};

use crate::record::{Arm, Gpu, Record, WeightsSource};

/// Kernels of one machine tell slightly different amounts of memory: they reserve some of it.
const RAM_TOLERANCE: f64 = 0.02;

/// One engine in one configuration on one machine, without what is meant to change over time
/// (commit, versions of engine and kernel).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub engine: String,
    /// Tells arms of one engine apart.
    pub label: String,
    pub model: String,
    pub model_sha256: String,
    pub quant: String,
    pub weights: WeightsSource,
    pub prompt_set: String,
    pub prompts_sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Threads that the engine was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Unmeasured and measured generations of each prompt, and the state of the page cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_cache: Option<String>,
    pub cpu_model: String,
    /// Physical cores, and logical processors that llm-bench might use.
    pub cores: u32,
    pub processors: u32,
    pub ram_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<String>,
    /// Names and memory; the driver's major number behind them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<Gpu>,
    /// Of llm-bench itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    pub target_cpu: String,
    pub profile: String,
    /// Of the result file.
    pub schema: String,
}

impl Identity {
    /// Of an arm of a record.
    pub fn of(record: &Record, arm: &Arm) -> Self {
        let config = &record.run.config;
        let number = |key: &str| config.get(key)?.as_u64()?.try_into().ok();
        let text = |key: &str| config.get(key)?.as_str().map(str::to_string);
        let (host, build, model) = (&record.host, &record.build, record.model_of(arm));
        Self {
            engine: arm.engine.clone(),
            label: arm.label.clone(),
            model: model.name.clone(),
            model_sha256: model.sha256.clone(),
            quant: model.quant.clone(),
            weights: model.weights,
            prompt_set: record.workload.prompt_set.clone(),
            prompts_sha256: record.workload.sha256.clone(),
            device: arm.point.device.map(|d| d.to_string()),
            threads: arm.point.threads,
            warmup: number("warmup"),
            iterations: number("iterations"),
            page_cache: text("page_cache"),
            cpu_model: host.cpu_model.clone(),
            cores: host.cores,
            processors: host.threads,
            ram_bytes: host.ram_bytes,
            governor: host.governor.clone(),
            gpus: host.gpu.iter().map(with_major_driver).collect(),
            features: build.features.clone(),
            target_cpu: build.target_cpu.clone(),
            profile: build.profile.clone(),
            schema: record.schema.clone(),
        }
    }

    /// Whether both may stand on one line: every field is equal, the memory within 2 %.
    pub fn same_as(&self, other: &Identity) -> bool {
        let (a, b) = (self.ram_bytes as f64, other.ram_bytes as f64);
        (a - b).abs() <= RAM_TOLERANCE * a.max(b)
            && *self == Identity { ram_bytes: self.ram_bytes, ..other.clone() }
    }

    /// The names of the fields that keep both apart.
    pub fn differences(&self, other: &Identity) -> Vec<String> {
        if self.same_as(other) {
            return Vec::new();
        }
        let [a, b] = [self, other].map(|i| serde_json::to_value(i).expect("plain values"));
        let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return Vec::new() };
        let names = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)));
        names.filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
    }
}

fn with_major_driver(gpu: &Gpu) -> Gpu {
    let major = |driver: &String| driver.split('.').next().unwrap_or_default().to_string();
    Gpu { driver: gpu.driver.as_ref().map(major), ..gpu.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::record;

    #[test]
    fn another_machine_or_model_is_another_identity_and_a_kernel_update_is_not() {
        let record = record();
        let of = |change: &dyn Fn(&mut Record)| {
            let mut changed = record.clone();
            change(&mut changed);
            Identity::of(&changed, &changed.arms[0])
        };
        let plain = of(&|_| ());
        assert!(plain.same_as(&of(&|r| r.host.kernel = "6.9.1".into())));
        assert!(plain.same_as(&of(&|r| r.host.ram_bytes += 40 << 20)));
        assert!(plain.same_as(&of(&|r| r.build.git_commit = Some("ffff".into()))));
        let differs = |change: &dyn Fn(&mut Record)| plain.differences(&of(change));
        assert_eq!(differs(&|r| r.host.ram_bytes *= 2), ["ram_bytes"]);
        assert_eq!(differs(&|r| r.host.cpu_model.push('X')), ["cpu_model"]);
        assert_eq!(differs(&|r| r.model.sha256.push('0')), ["model_sha256"]);
        assert_eq!(differs(&|r| r.arms[0].point.threads = Some(4)), ["threads"]);
        let warm = |r: &mut Record| r.run.config = serde_json::json!({"threads": 2, "warmup": 3});
        assert_eq!(differs(&warm), ["warmup"]);
    }

    #[test]
    fn only_the_major_number_of_a_driver_counts() {
        let gpu = |driver: &str| Gpu {
            name: "H200".into(),
            memory_bytes: 1,
            driver: Some(driver.to_string()),
        };
        assert_eq!(with_major_driver(&gpu("570.86.15")), with_major_driver(&gpu("570.9")));
        assert_ne!(with_major_driver(&gpu("570.86.15")), with_major_driver(&gpu("580.1")));
    }
}
