//! The comparison as CSV: one line for each pair of arms and metric; RFC 4180. A number that does
//! not exist is an empty field.

use super::super::csv::number;
use super::super::text::{clean, escape_csv};
use crate::analysis::pairing::{ArmPair, Compared, Row};
use crate::metric::Better;

const HEADER: &str = "baseline_file,candidate_file,baseline,candidate,on,metric,test,unit,better,\
                      decides,comparable,decision,margin_rule,point_rule,margin,change,ci95_lo,\
                      ci95_hi,ci90_lo,ci90_hi,p_raw,t_raw,df_raw,p,p_reg,p_reg_holm,p_ok,\
                      p_improved,p_improved_holm,hedges_g,mde,launches_needed,real_but_small,exact,\
                      baseline_n,baseline_mean,baseline_sd,baseline_cv,baseline_median,\
                      candidate_n,candidate_mean,candidate_sd,candidate_cv,candidate_median";

pub(super) fn render(compared: &Compared<'_>) -> String {
    let mut out = HEADER.to_string() + "\n";
    for against in &compared.against {
        let files = [&compared.baseline.file, &against.candidate.file];
        for pair in &against.pairs {
            out.extend(pair.rows.iter().map(|row| line(files, pair, row)));
        }
    }
    out
}

fn line(files: [&String; 2], pair: &ArmPair<'_>, row: &Row) -> String {
    let j = &row.judged;
    let test = row.test.clone().unwrap_or_default();
    let texts =
        [files[0], files[1], &pair.baseline.label, &pair.candidate.label, &pair.candidate.on];
    let mut fields: Vec<String> = texts.iter().map(|text| clean(text)).collect();
    let better = match j.better {
        Better::Higher => "higher",
        Better::Lower => "lower",
    };
    fields.extend([row.metric.name().into(), clean(&test), row.metric.unit().as_str().into()]);
    fields.extend([better.into(), j.primary.to_string(), pair.comparable.to_string()]);
    let rules = [j.decision, j.margin_rule, j.point_rule];
    fields.extend(rules.map(|d| d.as_str().replace(' ', "_")));
    let end = |interval: Option<[f64; 2]>, i: usize| interval.map(|ends| ends[i]);
    let numbers = [
        Some(j.margin),
        Some(j.change),
        end(j.ci95, 0),
        end(j.ci95, 1),
        end(j.ci90, 0),
        end(j.ci90, 1),
        j.p_raw,
        j.t_raw,
        j.df_raw,
        j.p,
        j.p_reg,
        j.p_reg_holm,
        j.p_ok,
        j.p_improved,
        j.p_improved_holm,
        j.hedges_g,
        j.mde,
        j.launches_needed.map(f64::from),
    ];
    fields.extend(numbers.map(number));
    fields.extend([j.real_but_small.to_string(), j.exact.to_string()]);
    for side in [&j.baseline, &j.candidate] {
        fields.push(side.n.to_string());
        fields.extend([Some(side.mean), side.sd, side.cv, Some(side.median)].map(number));
    }
    let fields: Vec<String> = fields.iter().map(|f| escape_csv(f)).collect();
    fields.join(",") + "\n"
}
