//! hyperfine's `--export-json`: one arm per command and one value per run, each run a fresh
//! process. The export does not name the machine.

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::field::Object;
use super::{Format, SampledArm, Series, Source};
use crate::identity::{Identity, Severity, scalar};
use crate::metric::Metric;
use crate::record::Warning;

pub(super) fn read(bytes: &[u8], file: String) -> Result<Source> {
    let all: Value = serde_json::from_slice(bytes).map_err(|e| anyhow!("{file}: {e}"))?;
    let top = Object::new(file.clone(), &all)?;
    let results = match top.get("results") {
        Some(Value::Array(results)) if !results.is_empty() => results,
        _ => return Err(top.error("results", "a list with a command in it", "none")),
    };
    let mut arms: Vec<SampledArm> = Vec::new();
    let mut warnings = vec![Warning {
        code: "machine_unknown".into(),
        arm: None,
        message: "hyperfine's export does not say on which machine it was made".into(),
        advice: "compare only what one machine measured; nothing here can check that".into(),
    }];
    for (i, result) in results.iter().enumerate() {
        let result = Object::new(format!("{file}: results[{i}]"), result)?;
        let arm = arm(&result)?;
        warnings.extend(failures(&result, &arm.label));
        if arms.iter().any(|other| other.key == arm.key) {
            return Err(result.error(
                "command",
                "a command that the file does not have before; name them with -n",
                &format!("{:?} again", arm.label),
            ));
        }
        arms.push(arm);
    }
    let commands = arms.len();
    Ok(Source {
        file,
        format: Format::Hyperfine,
        facts: vec![format!("{commands} command{}", if commands == 1 { "" } else { "s" })],
        synthetic: false,
        session: None,
        executable: None,
        arms,
        warnings,
    })
}

fn arm(result: &Object<'_>) -> Result<SampledArm> {
    let command = result.text("command")?.to_string();
    let parameters = match result.get("parameters") {
        Some(Value::Object(parameters)) => {
            let named = parameters.iter().filter_map(|(k, v)| Some(format!("{k}={}", scalar(v)?)));
            named.collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    };
    let times = result.samples("times", "time")?.ok_or_else(|| {
        result.error(
            "times",
            "the time of every run",
            "none; a mean and a deviation are no samples",
        )
    })?;
    let series =
        |metric, decides, values| Series { metric, test: None, decides, part: false, values };
    let mut all = vec![series(Metric::Time, true, times)];
    // hyperfine writes this since 1.20, where the system can report it.
    if let Ok(Some(bytes)) = result.samples("memory_usage_byte", "size") {
        all.push(series(Metric::PeakHostBytes, false, bytes));
    }
    let mut identity = Identity::of_format("hyperfine");
    identity.text("command", "command", Severity::Warn, &command);
    Ok(SampledArm {
        key: format!("{command}\n{parameters}"),
        label: command,
        on: parameters,
        identity,
        series: all,
    })
}

/// Warns of failed runs, which hyperfine counts only under `--ignore-failure`.
fn failures(result: &Object<'_>, label: &str) -> Option<Warning> {
    let codes = result.get("exit_codes")?.as_array()?;
    let failed = codes.iter().filter(|code| code.as_i64() != Some(0)).count();
    (failed > 0).then(|| Warning {
        code: "failed_runs".into(),
        arm: Some(label.to_string()),
        message: format!("{label}: {failed} of {} runs did not end with status 0", codes.len()),
        advice: "a failing run may be quick; look at its output before comparing".into(),
    })
}
