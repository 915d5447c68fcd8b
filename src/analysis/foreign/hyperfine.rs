//! hyperfine's `--export-json`: one arm per command and one value per run, each run a fresh
//! process. The export does not name the machine.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::field::Object;
use super::{Format, SampledArm, Series, Source};
use crate::analysis::sides::Earlier;
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
    let ok = succeeded(result);
    let times = result.samples("times", "time")?.ok_or_else(|| {
        result.error(
            "times",
            "the time of every run",
            "none; a mean and a deviation are no samples",
        )
    })?;
    let series = |metric, decides, values| Series {
        metric,
        test: None,
        decides,
        part: false,
        values,
        of_process: None,
        places: Vec::new(),
        tail: None,
    };
    if let Some(ok) = ok.as_ref().filter(|ok| ok.len() != times.len()) {
        let expected = format!("{}, one for each time", times.len());
        return Err(result.error("exit_codes", &expected, &ok.len().to_string()));
    }
    // What a failed run took says nothing of the command.
    let of_good_runs = |values: Vec<f64>| -> Vec<f64> {
        match &ok {
            Some(ok) if ok.len() == values.len() => {
                values.into_iter().zip(ok).filter(|(_, ok)| **ok).map(|(value, _)| value).collect()
            }
            _ => values,
        }
    };
    let mut all = vec![series(Metric::Time, true, of_good_runs(times))];
    // hyperfine writes this since 1.20, where the system can report it.
    if let Ok(Some(bytes)) = result.samples("memory_usage_byte", "size") {
        all.push(series(Metric::PeakHostBytes, false, of_good_runs(bytes)));
    }
    let mut identity = Identity::of_format("hyperfine");
    identity.text("command", "command", Severity::Warn, &command);
    let runs = if all[0].values.is_empty() { "none" } else { "some" };
    identity.text("successful_runs", "successful runs", Severity::Refuse, runs);
    all.retain(|series| !series.values.is_empty());
    Ok(SampledArm {
        key: format!("{command}\n{parameters}"),
        settings: BTreeMap::new(),
        label: command,
        on: parameters,
        identity,
        launches: None,
        line: None,
        earlier: Earlier::default(),
        series: all,
    })
}

/// Whether each run ended with status 0; null is the death by a signal. Absent where the file does
/// not say.
fn succeeded(result: &Object<'_>) -> Option<Vec<bool>> {
    let codes = result.get("exit_codes")?.as_array()?;
    Some(codes.iter().map(|code| code.as_i64() == Some(0)).collect())
}

/// Warns of failed runs, which hyperfine counts only under `--ignore-failure`.
fn failures(result: &Object<'_>, label: &str) -> Option<Warning> {
    let ok = succeeded(result)?;
    let failed = ok.iter().filter(|ok| !**ok).count();
    (failed > 0).then(|| Warning {
        code: "failed_runs".into(),
        arm: Some(label.to_string()),
        message: format!(
            "{label}: {failed} of {} runs did not end with status 0: they are no samples",
            ok.len()
        ),
        advice: "look at the output of the failed runs before trusting the others".into(),
    })
}
