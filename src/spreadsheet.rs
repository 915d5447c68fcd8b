//! Texts in CSV files. A spreadsheet takes one that begins like a formula for a formula, and a
//! formula can start programs and send data away.

/// The text as no spreadsheet runs it: `'` before what begins a formula. Numbers stay numbers.
pub fn defused(text: &str) -> String {
    match is_formula(text) {
        true => format!("'{text}"),
        false => text.to_string(),
    }
}

/// What [`defused`] was given.
pub fn armed(text: &str) -> &str {
    text.strip_prefix('\'').filter(|rest| is_formula(rest)).unwrap_or(text)
}

/// Apostrophes in front are looked through, so that a text that has some already reads back.
fn is_formula(text: &str) -> bool {
    let begins = |c: char| "=+-@\t\r\n＝＋－＠".contains(c);
    let rest = text.trim_start_matches('\'');
    rest.starts_with(begins) && rest.parse::<f64>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_spreadsheet_would_run_is_text_and_a_number_stays_one() {
        for formula in ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1"] {
            assert_eq!(defused(formula), format!("'{formula}"));
        }
        for plain in ["", "candle", "-1.5", "+3", "-1e-9", "a=b", "'quoted'", "3-2"] {
            assert_eq!(defused(plain), plain);
        }
    }

    proptest! {
        #[test]
        fn every_text_reads_back(text in "['=+@a1 .-]{0,8}") {
            let kept = defused(&text);
            prop_assert_eq!(armed(&kept), text);
        }
    }
}
