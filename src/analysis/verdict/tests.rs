//! The verdict: known answers, decisions, refusals.

use super::*;

fn known_answers(section: &str) -> Vec<serde_json::Value> {
    let text = include_str!("../../../tests/data/statistics_known_answers.json");
    let all: serde_json::Value = serde_json::from_str(text).unwrap();
    all[section].as_array().unwrap().clone()
}

fn values(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn close(got: f64, expected: f64, relative: f64) {
    assert!((got - expected).abs() <= relative * expected.abs(), "{got} against {expected}");
}

fn decode<'a>(baseline: &'a [f64], candidate: &'a [f64]) -> Pair<'a> {
    Pair { metric: "decode_tps", better: Better::Higher, baseline, candidate }
}

fn one(pair: Pair<'_>, rules: &Rules) -> Judged {
    judge(&[pair], rules).unwrap().metrics.remove(0)
}

#[test]
fn p_values_and_intervals_agree_with_scipy() {
    for case in known_answers("gate") {
        let (baseline, candidate) = (values(&case["base"]), values(&case["cand"]));
        let better: Better = serde_json::from_value(case["better"].clone()).unwrap();
        let rules = Rules { margin: case["margin"].as_f64().unwrap(), ..Rules::default() };
        let pair =
            Pair { metric: "decode_tps", better, baseline: &baseline, candidate: &candidate };
        let got = one(pair, &rules);
        let expected = |name: &str| case[name].as_f64().unwrap();
        close(got.worse_by.unwrap(), expected("delta_log"), 1e-10);
        close(got.p_reg.unwrap(), expected("p_reg"), 1e-10);
        close(got.p_ok.unwrap(), expected("p_ok"), 1e-10);
        let log90 = got.ci90.unwrap().map(f64::ln_1p);
        let worse = match better {
            Better::Lower => log90,
            Better::Higher => [-log90[1], -log90[0]],
        };
        close(worse[0], case["ci90_log"][0].as_f64().unwrap(), 1e-9);
        close(worse[1], case["ci90_log"][1].as_f64().unwrap(), 1e-9);
    }
}
