//! The options of a verdict, shared by `compare` and `gate`: margins, α, the rule, and which
//! metrics decide.

use std::str::FromStr;

use clap::{Args, ValueEnum};

use crate::analysis::verdict::{MARGIN, Rule, Rules};
use crate::metric::{Metric, UnknownMetric};

/// What a change has to be, and how sure, before it counts.
#[derive(Debug, Clone, Args)]
pub struct RulesArgs {
    /// How much worse is too much: for every metric (5%) or for one (decode_tps=3%); a comma list,
    /// or repeated [default: 5%]
    #[arg(long, value_delimiter = ',', value_name = "[METRIC=]SHARE")]
    pub margin: Vec<Margin>,
    /// The share of wrong verdicts that is accepted, over all deciding metrics together
    #[arg(long, default_value = "0.05", value_parser = alpha, value_name = "A")]
    pub alpha: f64,
    /// What the verdict follows; the other one stands beside it
    #[arg(long, value_enum, default_value_t = RuleArg::Rank)]
    pub rule: RuleArg,
    /// The metrics that decide, comma separated [default: model_load_s, cold_start_ttft_s,
    /// prefill_tps, decode_tps, peak_host_bytes, peak_gpu_bytes]
    #[arg(long, value_delimiter = ',', value_parser = metric_name, value_name = "METRIC")]
    pub primary: Vec<String>,
}

/// How a verdict comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RuleArg {
    /// One-sided rank tests of the margin: a stall in one launch neither hides nor makes a regression
    Rank,
    /// One-sided Welch tests of the margin on logarithms
    Welch,
    /// The mean beyond the margin and p < α: a coin flip at a change as large as the margin
    Point,
}

/// `5%`, `0.05` or `decode_tps=3%`.
#[derive(Debug, Clone, PartialEq)]
pub struct Margin {
    /// Absent: of every metric that has none of its own.
    pub metric: Option<String>,
    /// A share of the baseline, above 0 and below 1.
    pub share: f64,
}

impl FromStr for Margin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (metric, number) = match text.split_once('=') {
            Some((name, number)) => (Some(metric_name(name.trim())?), number.trim()),
            None => (None, text.trim()),
        };
        let share = match number.strip_suffix('%') {
            Some(percent) => percent.trim_end().parse::<f64>().map(|p| p / 100.0),
            None => number.parse::<f64>(),
        };
        match share {
            Ok(share) if share > 0.0 && share < 1.0 => Ok(Self { metric, share }),
            _ => Err(format!(
                "expected a share above 0 and below 100%, such as 5% or 0.05, found {number:?}"
            )),
        }
    }
}

impl RulesArgs {
    /// As the verdict takes them. Of two margins for the same thing the last one holds.
    pub fn rules(&self) -> Rules {
        let general = self.margin.iter().rfind(|m| m.metric.is_none()).map(|m| m.share);
        let own = self.margin.iter().filter_map(|m| Some((m.metric.clone()?, m.share)));
        let default = Rules::default().primary;
        Rules {
            margin: general.unwrap_or(MARGIN),
            margins: own.collect(),
            alpha: self.alpha,
            rule: match self.rule {
                RuleArg::Rank => Rule::Rank,
                RuleArg::Welch => Rule::Welch,
                RuleArg::Point => Rule::Point,
            },
            primary: if self.primary.is_empty() { default } else { self.primary.clone() },
            ..Rules::default()
        }
    }
}

fn alpha(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(alpha) if alpha > 0.0 && alpha < 0.5 => Ok(alpha),
        _ => Err("expected a number above 0 and below 0.5, such as 0.05".into()),
    }
}

/// A name of the catalogue; the nearest one where it is none.
pub fn metric_name(name: &str) -> Result<String, String> {
    let metric: Metric = name.parse().map_err(|e: UnknownMetric| e.to_string())?;
    Ok(metric.name().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        rules: RulesArgs,
    }

    fn rules(words: &[&str]) -> Result<RulesArgs, String> {
        let line = Line::try_parse_from([&["x"], words].concat());
        line.map(|l| l.rules).map_err(|e| e.to_string())
    }

    #[test]
    fn margins_are_read_in_percent_or_as_shares_and_the_last_one_holds() {
        let given = rules(&["--margin", "5%,decode_tps=3 %", "--margin", "0.1"]).unwrap().rules();
        assert_eq!((given.margin, given.margin_of(Metric::DecodeTps.name())), (0.1, 0.03));
        assert_eq!(rules(&[]).unwrap().rules(), Rules::default());
    }

    #[test]
    fn a_list_of_an_earlier_version_decides_as_it_did() {
        let all =
            "model_load_s,cold_start_ttft_s,prefill_tps,decode_tps,peak_host_bytes,peak_gpu_bytes";
        let given = rules(&["--primary", all]).unwrap().rules();
        assert_eq!(given.primary.join(","), all);
        // Since then only metrics came that nothing has which generates text.
        let since = Rules { primary: given.primary.clone(), ..Rules::default() };
        assert_eq!(given, since);
        assert!(given.primary.iter().all(|name| Rules::default().primary.contains(name)));
        let name = Metric::PeakGpuBytes.name();
        let alone = rules(&["--primary", name]).unwrap().rules();
        assert_eq!(alone.primary, [name]);
        let help = <Line as clap::CommandFactory>::command().render_long_help().to_string();
        let help: String = help.split_whitespace().collect();
        assert!(help.contains(&format!("[default:{all}]")), "{help}");
    }

    #[test]
    fn odd_margins_alphas_and_metrics_are_refused_with_what_was_expected() {
        for margin in ["5", "0", "-1%", "nan", "100%", "inf", "", "%", "decode_tps="] {
            let error = rules(&[&format!("--margin={margin}")]).unwrap_err();
            assert!(error.contains("such as 5% or 0.05"), "{error}");
        }
        for alpha in ["0", "0.5", "nan", "-0.1", "five"] {
            let error = rules(&[&format!("--alpha={alpha}")]).unwrap_err();
            assert!(error.contains("expected a number above 0 and below 0.5"), "{error}");
        }
        let error = rules(&["--primary", "decode_tsp"]).unwrap_err();
        assert!(error.contains("did you mean \"decode_tps\""), "{error}");
        let error = rules(&["--margin", "speed=5%"]).unwrap_err();
        assert!(error.contains("there are: model_load_s"), "{error}");
    }
}
