//! Chat templates that mean harm or are broken: each is refused in one line, whatever it does to the
//! stack, the memory or the time of what renders it.

use std::path::Path;
use std::process::Output;

use crate::support::gguf::Edited;
use crate::support::{done, output_of_input, refused};

/// A chat of one line with the tiny model under another template.
fn chat(dir: &Path, template: &str) -> Output {
    let path = Edited::tiny().template(|_| template.into()).write(dir, "template");
    let args = ["generate", "--interactive", "-n", "4", "--model", &path];
    output_of_input(dir, &args, b"Hello\n")
}

fn deep(open: &str, middle: &str, close: &str) -> String {
    const DEPTH: usize = 20_000;
    format!("{}{middle}{}", open.repeat(DEPTH), close.repeat(DEPTH))
}

#[test]
fn forms_that_nest_without_end_overflow_nobodys_stack() {
    let forms = [
        format!("{{{{ {} }}}}", deep("(", "1", ")")),
        format!("{{{{ {} }}}}", deep("[", "1", "]")),
        format!("{{{{ {} }}}}", deep("{'a':", "1", "}")),
        format!("{{{{ {} }}}}", deep("not ", "1", "")),
        format!("{{{{ {} }}}}", deep("-", "1", "")),
        format!("{{{{ {} }}}}", deep("1 + ", "1", "")),
        format!("{{{{ {} }}}}", deep("1 ~ ", "1", "")),
        format!("{{{{ {} }}}}", deep("1 and ", "1", "")),
        format!("{{{{ {} }}}}", deep("2 ** ", "1", "")),
        format!("{{{{ {} }}}}", deep("1 < ", "1", "")),
        format!("{{{{ {} }}}}", deep("1 in ", "1", "")),
        format!("{{{{ {} }}}}", deep("1 if 1 else ", "1", "")),
        format!("{{{{ messages{} }}}}", deep(".a", "", "")),
        format!("{{{{ messages{} }}}}", deep("[0]", "", "")),
        format!("{{{{ messages{} }}}}", deep("()", "", "")),
        format!("{{{{ messages{} }}}}", deep("|list", "", "")),
        format!("{{{{ 1{} }}}}", deep(" is defined", "", "")),
        format!("{{{{ {} }}}}", deep("range(", "1", ")")),
        deep("{% if 1 %}", "x", "{% endif %}"),
        deep("{% for m in messages %}", "x", "{% endfor %}"),
        deep("{% with %}", "x", "{% endwith %}"),
        deep("{% generation %}", "x", "{% endgeneration %}"),
        deep("{% if 0 %}{% else %}", "x", "{% endif %}"),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(20_000)),
        deep("{% set a %}", "x", "{% endset %}"),
        deep("{% filter trim %}", "x", "{% endfilter %}"),
        deep("{% macro m() %}", "x", "{% endmacro %}"),
        deep("{% autoescape false %}", "x", "{% endautoescape %}"),
        // What it builds, not how it is written.
        "{% set n = namespace(a=1) %}{% set n.a = n %}{{ n }}".into(),
        "{% set n = namespace(a=1) %}{% set n.a = n %}{{ n|tojson }}".into(),
        "{% set n = namespace(a=1) %}{% set n.a = n %}{{ n == n.a }}".into(),
        "{% set n = namespace(a=[]) %}{% set n.a = [n] %}{{ n.a|string }}".into(),
        "{% set n = namespace(a=[]) %}{% for i in range(99999) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a }}".into(),
        "{% set n = namespace(a=[]) %}{% for i in range(99999) %}{% set n.a = [n.a] %}{% endfor %}".into(),
        "{% set n = namespace(a={}) %}{% for i in range(99999) %}{% set n.a = {'x': n.a} %}{% endfor %}{{ n.a|tojson }}".into(),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into(),
        "{% macro m(c) %}{{ caller() }}{% call m() %}{{ m() }}{% endcall %}{% endmacro %}{{ m() }}".into(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(),
    ];
    let dir = tempfile::tempdir().unwrap();
    for form in &forms {
        let output = chat(dir.path(), form);
        // Some forms are harmless and mean nothing; all end in an answer or one line.
        match output.status.code() {
            Some(0) => {}
            _ => refused(&output, &["template"]),
        }
    }
}

#[test]
fn templates_that_take_all_memory_or_time_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for form in [
        "{% set n = namespace(a='x' * 1000) %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
        "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}{{ n.a|list|length }}",
        "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = (n.a + n.a)|list %}{% endfor %}",
        "{{ 'x'.center(9999999999) }}",
        "{{ 'x' * 99999999 * 99999999 }}",
        "{{ ('a' * 9999999).replace('a', 'b' * 9999) }}",
        "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% set a %}{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}{% endset %}",
        "{{ messages|tojson(indent='x' * 99999999) }}",
    ] {
        let output = chat(dir.path(), form);
        refused(&output, &["template"]);
    }
}

#[test]
fn a_template_of_transformers_works_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let own = Edited::tiny().text("tokenizer.chat_template");
    let expected = done(chat(dir.path(), &own));
    let multi = own
        .replace("{% for message in messages %}", "\n{%- for message in messages %}\n    ")
        .replace("{% endfor %}", "\n{%- endfor %}\n")
        .replace("{{ '<|start", "{{- '<|start")
        .replace("{% if add", "{%- if add");
    for template in [
        own.clone() + "{% generation %}{% endgeneration %}",
        "{%- if tools is not none and tools|length > 0 %}x{%- endif %}".to_string() + &own,
        "{%- if documents is not none %}x{%- endif %}".to_string() + &own,
        multi.clone(),
        multi.replace('\n', "\r\n"),
    ] {
        assert_eq!(done(chat(dir.path(), &template)), expected, "{template}");
    }
}
