//! A history as one page: complete in itself, without scripts and without anything from elsewhere.

use super::history::{date, look_at, percent, title};
use super::plot::{Svg, escape, plot, style};
use crate::history::Course;
use crate::metric::Metric;

/// More lines of one metric than this would be a page that nobody reads.
const MOST_LINES: usize = 24;
/// The same for changes in the table at the top.
const MOST_CHANGES: usize = 30;

const PAGE_STYLE: &str = "<style>\
:root{color-scheme:light dark}\
body{margin:0 auto;max-width:1000px;padding:24px 20px 60px;color:#1f2328;background:#fff;\
font:15px/1.5 system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}\
h1{font-size:24px;margin:0 0 4px}h2{font-size:19px;margin:36px 0 4px}p{margin:4px 0 12px}\
.soft{color:#656d76}svg{max-width:100%;height:auto;display:block}\
table{border-collapse:collapse;width:100%;font-size:14px}td,th{padding:4px 10px 4px 0;\
text-align:left;border-bottom:1px solid #d8dee4;vertical-align:top}\
td.n{white-space:nowrap}.better{color:#1a7f37}.worse{color:#cf222e}\
code{font-size:13px}\
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}.soft{color:#8d96a0}\
td,th{border-color:#30363d}.better{color:#3fb950}.worse{color:#f85149}}\
</style>";

/// The page for some metrics, each with its lines; metrics without lines are left out.
pub fn page(metrics: &[(Metric, Vec<Course>)]) -> String {
    let mut out = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src \
         'unsafe-inline'\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>llm-bench: results over commits</title>\n",
    );
    out += PAGE_STYLE;
    out += style();
    out += "\n</head><body>\n<h1>Results over commits</h1>\n";
    let last = metrics.iter().flat_map(|(_, c)| c).flat_map(|c| &c.series.points);
    match last.map(|p| p.measured).max() {
        Some(last) => {
            out += &format!(
                "<p class=\"soft\">Last measured on {}. Each point is one session: the mean over \
                 its launches, with the 95 % interval (Student's t). Axes do not start at zero.\
                 </p>\n",
                date(last)
            );
        }
        None => out += "<p>No session fits.</p>\n",
    }
    out += &changes(metrics);
    for (metric, courses) in metrics.iter().filter(|(_, courses)| !courses.is_empty()) {
        out += &format!(
            "<h2>{}</h2>\n<p class=\"soft\">{}: {}.</p>\n",
            escape(metric.title()),
            escape(metric.name()),
            escape(metric.meaning())
        );
        let shown = &courses[..courses.len().min(MOST_LINES)];
        out += &plot(shown, Svg::InPage);
        if shown.len() < courses.len() {
            out += &format!(
                "<p class=\"soft\">{} further lines are not drawn; <code>--engine</code>, \
                 <code>--model</code> or <code>--identity</code> choose among them.</p>\n",
                courses.len() - shown.len()
            );
        }
    }
    out + "</body></html>\n"
}

fn changes(metrics: &[(Metric, Vec<Course>)]) -> String {
    let courses = || metrics.iter().flat_map(|(_, courses)| courses);
    let mut all: Vec<_> =
        courses().flat_map(|c| c.changes().iter().map(move |change| (c, change))).collect();
    if all.is_empty() {
        return "<p>No level changed by more than the margin.</p>\n".into();
    }
    all.sort_by_key(|(c, change)| std::cmp::Reverse(c.series.points[change.index].place));
    let mut out = String::from(
        "<h2>Changes of level</h2>\n<p class=\"soft\">E-divisive change points beyond the margin. \
         They say where to look; they are no verdict.</p>\n<table><tr><th>Date</th><th>Line</th>\
         <th>Change</th><th>Look at</th></tr>\n",
    );
    for (course, change) in all.iter().take(MOST_CHANGES) {
        let word = if course.is_better(change) { "better" } else { "worse" };
        out += &format!(
            "<tr><td class=\"n\">{}</td><td>{}</td><td class=\"n {word}\">{} {word}</td><td>\
             <code>{}</code></td></tr>\n",
            date(course.series.points[change.index].place),
            escape(&title(course)),
            percent(change.change),
            escape(&look_at(course, change))
        );
    }
    out += "</table>\n";
    if all.len() > MOST_CHANGES {
        out += &format!(
            "<p class=\"soft\">{} older ones are not listed; <code>llm-bench history changes</code> \
             lists all.</p>\n",
            all.len() - MOST_CHANGES
        );
    }
    out
}
