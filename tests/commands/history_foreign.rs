//! A history from anywhere: what another hand put into its tables, its pages or beside it is found
//! before it acts, and nothing outside of it changes.

use std::path::Path;
use std::process::Command;

use crate::history::{add, export, history, record, sessions, twelve_days_added, write};
use crate::support::{done, llm_bench, refused, text};
use rusqlite::Connection;

/// The reading and the writing commands refuse the history of this folder with these words.
fn all_refuse(dir: &Path, words: &[&str]) {
    let file = write(dir, "new.json", &record(20, "candle", 38.0, 5));
    for args in [&["list"][..], &["show", "decode_tps"], &["changes"], &["export"], &["add", &file]]
    {
        refused(history(dir, args), &[&["h.sqlite"], words].concat());
    }
}

#[test]
fn a_schema_that_is_not_ours_is_refused_with_what_differs() {
    for (sql, found) in [
        ("CREATE TRIGGER t AFTER INSERT ON session BEGIN DELETE FROM result; END", "trigger \"t\""),
        ("CREATE VIEW v AS SELECT 1", "view \"v\""),
        ("CREATE TABLE more (x)", "table \"more\""),
        ("CREATE VIRTUAL TABLE vt USING rtree(id, a, b)", "table \"vt\""),
        ("CREATE INDEX i ON result (abs(mean))", "index \"i\""),
        ("ALTER TABLE session ADD COLUMN x BLOB AS (zeroblob(9))", "table \"session\""),
        ("ALTER TABLE session ADD COLUMN x TEXT DEFAULT 'y'", "table \"session\""),
        ("DROP INDEX result_by_metric", "no index \"result_by_metric\""),
    ] {
        let dir = twelve_days_added();
        Connection::open(dir.path().join("h.sqlite")).unwrap().execute_batch(sql).unwrap();
        all_refuse(dir.path(), &["expected the tables of a history", found]);
    }
}

#[test]
fn tables_that_are_endless_views_are_never_read() {
    let dir = twelve_days_added();
    let db = Connection::open(dir.path().join("h.sqlite")).unwrap();
    let endless = "WITH RECURSIVE c(x) AS (VALUES(1) UNION ALL SELECT x + 1 FROM c)";
    db.execute_batch(&format!(
        "DROP TABLE result; DROP TABLE session; DROP TABLE identity;
         CREATE VIEW identity AS {endless} SELECT x AS id, '{{}}' AS fields FROM c;
         CREATE VIEW session AS {endless} SELECT x AS id, 1 AS identity FROM c;
         CREATE VIEW result AS {endless} SELECT x AS session FROM c;"
    ))
    .unwrap();
    all_refuse(dir.path(), &["view \"identity\""]);
}

#[test]
fn what_analyze_and_sqlite3_leave_behind_is_no_harm() {
    let dir = twelve_days_added();
    Connection::open(dir.path().join("h.sqlite")).unwrap().execute_batch("ANALYZE").unwrap();
    assert_eq!(sessions(dir.path()), 24);
    // The tables as `sqlite3 NEW.sqlite < history.sql` makes them.
    let sql = export(dir.path(), "h.sqlite", "sql");
    let made = Connection::open(dir.path().join("made.sqlite")).unwrap();
    made.execute_batch(&sql).unwrap();
    drop(made);
    std::fs::rename(dir.path().join("made.sqlite"), dir.path().join("h.sqlite")).unwrap();
    assert_eq!(sessions(dir.path()), 24);
}

#[test]
fn pages_that_two_places_lead_to_are_found_before_they_are_walked() {
    let dir = twelve_days_added();
    let path = dir.path().join("h.sqlite");
    let lines = export(dir.path(), "h.sqlite", "jsonl");
    let many: String = (0..100)
        .flat_map(|i| {
            lines.lines().map(move |l| l.replace("\"run-", &format!("\"copy-{i}-")) + "\n")
        })
        .collect();
    std::fs::write(dir.path().join("many.jsonl"), many).unwrap();
    done(history(dir.path(), &["import", "many.jsonl"]));
    let mut bytes = std::fs::read(&path).unwrap();
    let page = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    // An inner page of a table begins with 5; behind its header of 12 bytes are the places of its
    // cells, each of which begins with the number of a page.
    let inner = (1..bytes.len() / page).map(|n| n * page).find(|at| bytes[*at] == 5).unwrap();
    let cell = |i: usize| {
        let at = inner + 12 + 2 * i;
        inner + usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
    };
    let (first, second) = (cell(0), cell(1));
    bytes.copy_within(second..second + 4, first);
    std::fs::write(&path, bytes).unwrap();
    all_refuse(dir.path(), &["damaged"]);
}

#[test]
fn nothing_is_written_or_removed_through_what_lies_beside_the_file() {
    let dir = twelve_days_added();
    let outer = tempfile::tempdir().unwrap();
    let precious = outer.path().join("precious");
    std::fs::write(&precious, "precious").unwrap();
    for suffix in ["-journal", "-wal", "-shm"] {
        for target in [precious.clone(), outer.path().join("new")] {
            let beside = dir.path().join(format!("h.sqlite{suffix}"));
            std::os::unix::fs::symlink(&target, &beside).unwrap();
            all_refuse(dir.path(), &[suffix, "found a link"]);
            std::fs::remove_file(&beside).unwrap();
        }
    }
    // A journal that names another one, which SQLite deletes when it has rolled back.
    let db = std::fs::read(dir.path().join("h.sqlite")).unwrap();
    let magic = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let name = precious.to_str().unwrap().as_bytes();
    let mut journal = magic.to_vec();
    let pages = (db.len() / 4096) as u32;
    for field in [0u32, 1, pages, 512, 4096] {
        journal.extend(field.to_be_bytes());
    }
    journal.resize(512, 0);
    journal.extend(u32::MAX.to_be_bytes());
    journal.extend(name);
    journal.extend((name.len() as u32).to_be_bytes());
    journal.extend(name.iter().map(|b| u32::from(*b)).sum::<u32>().to_be_bytes());
    journal.extend(magic);
    std::fs::write(dir.path().join("h.sqlite-journal"), journal).unwrap();
    all_refuse(dir.path(), &["-journal", "names a file to delete"]);
    std::fs::remove_file(dir.path().join("h.sqlite-journal")).unwrap();
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
    assert!(!outer.path().join("new").exists());

    // A link to nothing in the place of the history itself.
    let link = dir.path().join("made.sqlite");
    std::os::unix::fs::symlink(outer.path().join("new"), link).unwrap();
    let file = write(dir.path(), "new.json", &record(20, "candle", 38.0, 5));
    let out = llm_bench(dir.path(), &["history", "--db", "made.sqlite", "add", &file]).output();
    refused(out.unwrap(), &["made.sqlite", "link"]);
    assert!(!outer.path().join("new").exists());
    assert_eq!(sessions(dir.path()), 24);
}

#[test]
fn a_repository_around_the_files_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=n", "-c", "user.email=e@example.invalid"]);
        let out = command.args(args).current_dir(dir.path()).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout).trim().to_string()
    };
    git(&["init", "-q"]);
    git(&["commit", "-q", "--allow-empty", "-m", "first"]);
    let commit = git(&["rev-parse", "HEAD"]);
    let trap = dir.path().join("trap");
    std::fs::write(&trap, "#!/bin/sh\ntouch \"${0%/*}/sprung\"\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&trap, mode).unwrap();
    for (name, value) in [
        ("gpg.program", trap.to_str().unwrap()),
        ("gpg.ssh.program", trap.to_str().unwrap()),
        ("log.showSignature", "true"),
        ("core.fsmonitor", trap.to_str().unwrap()),
        ("core.pager", trap.to_str().unwrap()),
        ("pager.show", "true"),
        ("diff.external", trap.to_str().unwrap()),
    ] {
        git(&["config", name, value]);
    }
    let mut measured = record(0, "candle", 38.0, 5);
    measured["build"]["git_commit"] = commit.as_str().into();
    let file = write(dir.path(), "a.json", &measured);
    let mut command = llm_bench(dir.path(), &["history", "--db", "h.sqlite", "add", &file]);
    command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "core.pager");
    command.env("GIT_CONFIG_VALUE_0", &trap).env("GIT_EXTERNAL_DIFF", &trap);
    done(command.output().unwrap());
    assert!(!dir.path().join("sprung").exists(), "a program of the repository was started");
    let exported = export(dir.path(), "h.sqlite", "jsonl");
    assert!(exported.contains("committed_at"), "the commit's date is still found: {exported}");
    // A repository elsewhere that the environment names is not asked.
    let other = tempfile::tempdir().unwrap();
    let file = write(other.path(), "a.json", &measured);
    let mut command = llm_bench(other.path(), &["history", "--db", "h.sqlite", "add", &file]);
    done(command.env("GIT_DIR", dir.path().join(".git")).output().unwrap());
    assert!(!export(other.path(), "h.sqlite", "jsonl").contains("committed_at\":\""));
    assert!(add(dir.path(), &[]).status.code() != Some(0));
}

#[test]
fn a_text_that_a_spreadsheet_would_run_comes_out_defused_and_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let evil = "=cmd|' /C calc'!A0";
    let file = write(dir.path(), "a.json", &record(0, evil, 38.0, 5));
    done(add(dir.path(), &[file]));
    let csv = export(dir.path(), "h.sqlite", "csv");
    assert!(csv.contains(&format!(",'{evil},")) && !csv.contains(&format!(",{evil}")), "{csv}");
    std::fs::write(dir.path().join("x.csv"), &csv).unwrap();
    done(
        llm_bench(dir.path(), &["history", "--db", "b.sqlite", "import", "x.csv"])
            .output()
            .unwrap(),
    );
    assert_eq!(export(dir.path(), "b.sqlite", "jsonl"), export(dir.path(), "h.sqlite", "jsonl"));
    let shown = done(history(dir.path(), &["list", "-o", "csv"]));
    assert!(!shown.contains(&format!(",{evil}")) && shown.contains(&format!("'{evil}")), "{shown}");
}

#[test]
fn statements_on_one_long_line_and_one_statement_over_many_lines_are_imported() {
    let dir = twelve_days_added();
    let sql = export(dir.path(), "h.sqlite", "sql");
    let (head, rest) = sql.split_at(sql.find("INSERT").unwrap());
    let (tables, commit) = rest.rsplit_once("COMMIT").unwrap();
    // Eight megabytes on a line: what is compiled alone costs seconds, what is compiled with all that
    // stands behind it an hour.
    let more: String = (0..60_000)
        .map(|i| {
            format!(
                "INSERT INTO identity (id, fields) VALUES ({}, '{{\"engine\":\"it''s; {i}\",\
                 \"label\":\"l\",\"model\":\"m\",\"model_sha256\":\"s\",\"quant\":\"q\",\
                 \"prompt_set\":\"p\",\"cpu_model\":\"c\"}}'); ",
                1000 + i
            )
        })
        .collect();
    let one_line = format!("{head}{}{more}\nCOMMIT{commit}", tables.replace('\n', " "));
    std::fs::write(dir.path().join("one.sql"), one_line).unwrap();
    let import = ["history", "--db", "b.sqlite", "import", "one.sql"];
    done(llm_bench(dir.path(), &import).output().unwrap());
    assert_eq!(export(dir.path(), "b.sqlite", "jsonl"), export(dir.path(), "h.sqlite", "jsonl"));
    let broken = sql.replace(", ", ",\n\n").replace("VALUES (", "VALUES\n(\n");
    std::fs::write(dir.path().join("many.sql"), broken).unwrap();
    let import = ["history", "--db", "c.sqlite", "import", "many.sql"];
    done(llm_bench(dir.path(), &import).output().unwrap());
    assert_eq!(export(dir.path(), "c.sqlite", "jsonl").lines().count(), 24);
}
