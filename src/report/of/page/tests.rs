//! What the page of a record holds, and that it says what the tables say.

use super::*;
use crate::analysis::testing::{self, CANDLE, PYTORCH_F32};
use crate::record::{Arm, Loss, Role};
use crate::report::document::Content;
use crate::report::of::run::{render, summarized};
use crate::report::plot::{Plot, Shape};
use crate::report::{Format, Style};

/// Four quantizations, of which one is beaten.
fn sweep() -> Record {
    let mut record = testing::empty();
    let points = [("F16", 10.0, 0.0, 2.5e9), ("Q8_0", 20.0, 0.004, 1.3e9)];
    let points = [&points[..], &[("Q4_0", 40.0, 0.28, 0.8e9), ("odd", 15.0, 0.3, 1.9e9)]].concat();
    for (quant, decode, kl, peak) in points {
        let mut arm = testing::judged(decode, kl, peak);
        arm.label = format!("candle:{quant}");
        arm.point.quant = quant.into();
        for launch in &mut arm.launches {
            let rate = decode * launch.metrics[&Metric::DecodeTps] / CANDLE.decode_tps;
            launch.metrics.insert(Metric::DecodeTps, rate);
            launch.metrics.insert(Metric::PeakHostBytes, peak);
        }
        record.arms.push(arm);
    }
    summarized(&record)
}

/// One engine at three depths and two lengths.
fn deep() -> Record {
    let mut record = testing::empty();
    let shapes = [("p64", 64, 0), ("p512", 512, 0), ("d1024", 64, 1024), ("d4096", 64, 4096)];
    record.workload.prompts = shapes
        .map(|(id, n_prompt, depth)| crate::record::WorkloadPrompt {
            id: id.into(),
            category: None,
            n_prompt,
            n_gen: 64,
            depth,
        })
        .to_vec();
    let mut arm = testing::arm(&CANDLE, 3);
    for launch in &mut arm.launches {
        let runs = launch.prompts.drain(..3).collect::<Vec<_>>();
        for (id, n_prompt, depth) in shapes {
            for run in &runs {
                let mut run =
                    crate::record::PromptRun { id: id.into(), n_prompt, depth, ..run.clone() };
                if run.role == Role::Measured {
                    run.metrics.insert(Metric::Mbu, 0.6);
                }
                launch.prompts.push(run);
            }
        }
    }
    record.arms.push(arm);
    summarized(&record)
}

fn walk<'a>(blocks: &'a [Block], take: &mut impl FnMut(&'a Block)) {
    for block in blocks {
        take(block);
        if let Block::Fold(_, inside) = block {
            walk(inside, take);
        }
    }
}

fn plots(document: &Document) -> Vec<&Plot> {
    let mut plots = Vec::new();
    walk(&document.blocks, &mut |block| match block {
        Block::Plot(plot) => plots.push(plot),
        Block::Panels(panels) => plots.extend(panels),
        _ => {}
    });
    plots
}

fn parts(document: &Document) -> Vec<&str> {
    fn part(block: &Block) -> Option<&str> {
        match block {
            Block::Heading(Level::Part, text) => Some(text.as_str()),
            _ => None,
        }
    }
    document.blocks.iter().filter_map(part).collect()
}

fn texts(table: &Table) -> Vec<String> {
    let text = |cell: &Cell| match &cell.content {
        Content::Text(text) => text.clone(),
        _ => String::new(),
    };
    table.rows.iter().flatten().map(text).collect()
}

#[test]
fn a_part_stands_only_where_the_record_has_its_data() {
    let run = document(&[summarized(&testing::record())]);
    let found = parts(&run);
    for part in ["Comparison", "Time per token", "Memory", "Environment", "Raw data"] {
        assert!(found.contains(&part), "{part} in {found:?}");
    }
    assert!(!found.contains(&"Quality") && !found.contains(&"Verification"), "{found:?}");
    assert!(parts(&document(&[sweep()])).contains(&"Quality"));
    let titles = |record: &Record| -> Vec<String> {
        plots(&document(std::slice::from_ref(record))).iter().map(|p| p.title.clone()).collect()
    };
    let title = "Decode over the depth of the context".to_string();
    assert!(titles(&deep()).contains(&title) && !titles(&sweep()).contains(&title));
    assert_eq!(parts(&document(&[testing::empty()])), ["Raw data"]);
}

#[test]
fn every_plot_has_its_words_and_a_table_of_the_numbers_that_it_draws() {
    let threads = |n: u32| Arm {
        label: format!("candle:{n}t"),
        point: crate::record::Point { threads: Some(n), ..testing::arm(&CANDLE, 2).point },
        ..testing::arm(&CANDLE, 2)
    };
    let scaled = Record { arms: vec![threads(1), threads(2)], ..testing::empty() };
    let mut seen = 0;
    let encoding = summarized(&testing::encoding());
    let records = [summarized(&testing::record()), sweep(), deep(), summarized(&scaled), encoding];
    for record in records {
        let page = document(&[record]);
        for plot in plots(&page) {
            seen += 1;
            let words = plot.alternative();
            assert!(
                words.starts_with(&plot.title) && words.len() > plot.title.len() + 20,
                "{words}"
            );
            let table = plot.table();
            let texts = texts(&table);
            match &plot.shape {
                Shape::Rows(rows) => {
                    assert_eq!(table.rows.len(), rows.rows.len(), "{}", plot.title);
                    assert!(rows.rows.iter().all(|r| texts.contains(&r.name)), "{}", plot.title);
                }
                Shape::Field(field) => {
                    for point in field.series.iter().flat_map(|s| &s.points) {
                        let value = field.y.value(point.y, point.across);
                        assert!(texts.contains(&value), "{value} of {} in {texts:?}", plot.title);
                    }
                }
                Shape::Heat(heat) => {
                    assert_eq!(table.rows.len(), heat.rows.len(), "{}", plot.title);
                    assert!(heat.rows.iter().all(|name| texts.contains(name)), "{}", plot.title);
                }
            }
        }
    }
    assert!(seen > 30, "{seen} plots");
}

#[test]
fn batches_are_a_line_beneath_what_the_machine_allows() {
    let batch = |b: u32| {
        let mut arm = testing::arm(&CANDLE, 3);
        arm.label = format!("candle:b{b}");
        arm.point.batch = Some(b);
        arm
    };
    let arms = [1, 2, 4].map(batch).to_vec();
    let mut record = Record { arms, ..testing::empty() };
    record.host.measured_macs_per_s.insert("int8".into(), 1e12);
    let page = document(&[summarized(&record)]);
    let all = plots(&page);
    let plot =
        all.iter().find(|p| p.title == "Decode of all sequences together over batch").unwrap();
    let Shape::Field(field) = &plot.shape else { panic!() };
    let [course, bound] = &field.series[..] else { panic!("{:?}", field.series) };
    let ratio = course.points[2].y / course.points[0].y;
    assert!((ratio - 4.0).abs() < 1e-9, "as fast for each of four: {ratio}");
    assert!(bound.points.iter().zip(&course.points).all(|(b, c)| b.x == c.x && b.y > c.y));
    assert!(plot.facts.contains("broken"), "{}", plot.facts);
}

#[test]
fn the_numbers_are_those_of_the_terminal() {
    let record = testing::record();
    let terminal = render(&record, Format::Table, Style::PLAIN);
    let page = document(&[summarized(&record)]);
    let all = plots(&page);
    let decode = all.iter().find(|p| p.title == "Decode").unwrap().table();
    let ttft = all.iter().find(|p| p.title == "TTFT, cold start").unwrap().table();
    for text in [&texts(&decode)[1], &texts(&ttft)[1]] {
        assert!(text.contains(" ± ") && terminal.contains(text.as_str()), "{text} in {terminal}");
    }
    let lead = page.blocks.iter().find_map(|b| match b {
        Block::Lead(lead) => Some(lead.join(" ")),
        _ => None,
    });
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&terminal).contains(&words(&lead.unwrap())), "{terminal}");
}

#[test]
fn a_sweep_says_first_what_each_point_gains_and_loses() {
    let page = document(&[sweep()]);
    let lead = page.blocks.iter().find_map(|b| match b {
        Block::Lead(lead) => Some(lead.clone()),
        _ => None,
    });
    let lead = lead.unwrap();
    assert!(
        lead[0].starts_with("candle:Q4_0 decodes 4.00 times as fast as candle:F16 (95 % interval"),
        "{lead:?}"
    );
    assert!(lead[0].contains("800 MB of memory instead of 2.50 GB; it loses 0.280 nats a token"));
    assert!(lead[2].starts_with("candle:odd is beaten by another point"), "{lead:?}");
    let all = plots(&page);
    let Shape::Field(front) = &all[0].shape else { panic!("{all:?}") };
    assert_eq!(front.edge.len(), 3);
    let names: Vec<&str> =
        front.series.iter().flat_map(|s| &s.points).map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["F16 · 2.50 GB", "Q8_0 · 1.30 GB", "Q4_0 · 800 MB", "odd · 1.90 GB"]);
}

#[test]
fn results_of_one_machine_and_model_make_a_line_with_its_changes() {
    let session = |i: u32| {
        let mut record = testing::record();
        record.run.id = format!("202603{i:02}_101530");
        record.run.started_at = format!("2026-03-{:02}T10:15:30+01:00", i + 1);
        for launch in &mut record.arms[0].launches {
            let level = if i < 8 { 1.0 } else { 1.4 };
            launch.metrics.get_mut(&Metric::DecodeTps).unwrap().mul_assign(level);
        }
        summarized(&record)
    };
    use std::ops::MulAssign;
    let records: Vec<Record> = (0..16).map(session).collect();
    let page = document(&records);
    assert_eq!(parts(&page).iter().filter(|p| **p == "History").count(), 1);
    let heads = page.blocks.iter().filter(|b| matches!(b, Block::Heading(Level::Report, _)));
    let folds = page
        .blocks
        .iter()
        .filter(|b| matches!(b, Block::Fold(text, _) if text.starts_with("2026")));
    assert_eq!((heads.count(), folds.count()), (2, 15), "the newest in full, the others in short");
    let line = plots(&page).into_iter().find(|p| p.title.starts_with("Decode · candle ·"));
    let Shape::Field(field) = &line.unwrap().shape else { panic!() };
    assert_eq!((field.series[0].points.len(), field.changes.len()), (16, 1));
    assert!(field.changes[0].better && field.changes[0].label.starts_with("+40"));
}

/// As large as sweeps get: 40 points with quality, five launches, three prompts.
fn large() -> Record {
    let mut record = sweep();
    let mut x = 1u64;
    let mut noise = || {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        x >> 44
    };
    let arms = (0..40).map(|i| {
        let mut arm = record.arms[i % 4].clone();
        arm.label = format!("candle:{}:{}t", arm.point.quant, i);
        arm.point.threads = Some(i as u32);
        for launch in &mut arm.launches {
            for run in &mut launch.prompts {
                let mut at = 0;
                for t in &mut run.token_ns {
                    at += 25_000_000 + noise();
                    *t = at;
                }
            }
        }
        if let Some(Loss { kl, .. }) = arm.quality.as_mut().and_then(|q| q.loss.as_mut()) {
            kl.mean *= 1.0 + i as f64 / 100.0;
        }
        arm
    });
    record.arms = arms.collect();
    record
}

#[test]
fn the_page_of_forty_points_stays_below_a_megabyte() {
    let page = render(&large(), Format::Html, Style::PLAIN);
    assert!(page.len() < 1_000_000, "{} bytes", page.len());
    assert!(page.contains("of 40 points are drawn"));
}

#[test]
fn what_files_say_stays_text() {
    let evil = "<script>window.hacked=1</script>\"><img src=x onerror=\"window.hacked=1\">";
    let mut record = sweep();
    record.arms.push(testing::arm(&PYTORCH_F32, 3));
    record.model.name = evil.into();
    record.run.command = evil.into();
    record.run.config = serde_json::json!({evil: {evil: evil}});
    for arm in &mut record.arms {
        arm.label = evil.into();
        arm.engine = evil.into();
        arm.point.quant = evil.into();
        arm.notes.push(evil.into());
        arm.settings.insert(evil.into(), evil.into());
    }
    let page = render(&record, Format::Html, Style::PLAIN);
    assert!(page.contains("&lt;script&gt;window.hacked"), "it is shown");
    assert!(!page.contains("<script") && !page.contains("<img"));
}

#[test]
fn an_encoder_has_a_line_for_each_cell_and_a_heat_map_for_each_engine() {
    let record = summarized(&testing::encoding());
    let shown = render(&record, Format::Table, Style::PLAIN);
    for word in
        ["1 × 32 tokens", "8 × 128 tokens", "2.00×", "candle encodes 2.00 times as many texts"]
    {
        assert!(shown.contains(word), "{word} in {shown}");
    }
    let page = document(&[record]);
    let maps = plots(&page).into_iter().filter_map(|plot| match &plot.shape {
        Shape::Heat(heat) => Some((plot.title.clone(), heat.columns.len(), heat.rows.len())),
        _ => None,
    });
    let maps: Vec<_> = maps.collect();
    let title = |engine| format!("Texts a second, {engine}");
    assert_eq!(maps, [(title("pytorch-f32"), 2, 2), (title("candle"), 2, 2)]);
}
