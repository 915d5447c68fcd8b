//! The contents of a report before any format: blocks of facts, tables, plots, texts and remarks.
//! Cells keep their numbers as numbers; `number` rounds them when a writer sets them. All texts are
//! clean (see `crate::text`); writers escape them.

use super::plot::Plot;
use crate::number::{Form, Scale};
use crate::text::clean;

/// Blocks in reading order.
#[derive(Debug, Clone, Default)]
pub struct Document {
    pub blocks: Vec<Block>,
}

/// How much room a reader has. The contents are the same, but a terminal is narrow and its reader
/// is at the end, while a page is wide and its reader begins at the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    Terminal,
    /// Markdown or HTML.
    Page,
}

#[derive(Debug, Clone)]
pub enum Block {
    Heading(Level, String),
    /// What the reader must know before reading any number.
    Caution(String),
    /// The result in sentences, before any number.
    Lead(Vec<String>),
    /// The outcome, in one sentence.
    Verdict(String, Tone),
    /// Names, and the facts for each.
    Facts(Vec<(String, String)>),
    Table(Table),
    Plot(Plot),
    /// Plots side by side.
    Panels(Vec<Plot>),
    /// A paragraph.
    Text(String),
    /// How to read the table above, one paragraph per entry.
    Legend(Vec<String>),
    Remarks(Remarks),
    /// A summary and the blocks beneath it, hidden until opened in media that can hide.
    Fold(String, Vec<Block>),
    /// A file that a page carries in itself.
    Download(Download),
}

#[derive(Debug, Clone)]
pub struct Download {
    pub file: String,
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

/// What a heading introduces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Report,
    Part,
    Detail,
}

/// The meaning of a text or number for the reader; writers choose colours and weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    /// A side remark.
    Soft,
    Strong,
    /// The best value of its row.
    Best,
    Good,
    Bad,
    /// Undecided.
    Doubt,
}

/// A list of things to know.
#[derive(Debug, Clone)]
pub struct Remarks {
    /// Heads the list if the marks alone do not say what it is.
    pub title: &'static str,
    pub items: Vec<Remark>,
}

#[derive(Debug, Clone)]
pub struct Remark {
    pub mark: Mark,
    /// The subject of the remark, if the items of the list differ in subject.
    pub about: Option<&'static str>,
    pub text: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// The weight of a remark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Prose, without even a bullet.
    Prose,
    Plain,
    Note,
    Warning,
    /// The numbers must not be compared.
    Forbids,
    /// The outcome of one check: `ok`, `met`.
    State(&'static str, Tone),
}

/// Columns, and rows with one cell per column.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
    /// How many columns, from the left, name a row. If it is not 0, a terminal that is too narrow
    /// splits the table and repeats these columns.
    pub stub: usize,
    /// A form for media that are too narrow for this one.
    pub narrower: Option<Box<Table>>,
}

#[derive(Debug, Clone, Default)]
pub struct Column {
    /// Absent for a column that explains itself. May span several lines.
    pub title: Option<String>,
    /// Shown beneath the title: `baseline`, `failed: compile_failed`.
    pub note: String,
    pub right: bool,
    pub tone: Tone,
    /// Whether it holds the unit of the column before it.
    pub is_unit: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    pub content: Content,
    pub tone: Tone,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// The cell has no content.
    Empty,
    /// The value does not exist.
    Missing,
    Text(String),
    Flag(bool),
    Number(f64, Form),
    Interval([f64; 2], Form),
    Measured(Measured),
    /// Several contents in one cell, and the separator between them.
    Joined(Vec<Content>, &'static str),
    /// Several contents in one cell; a terminal right-aligns each in the given number of
    /// characters.
    Aligned(Vec<(usize, Content)>),
}

/// A mean in the unit of its metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    pub mean: f64,
    /// Half of the 95 % interval; absent with one launch.
    pub half_width: Option<f64>,
    /// How many times better than the baseline, and whether the interval leaves that open; absent
    /// for the baseline itself.
    pub ratio: Option<(f64, bool)>,
    pub scale: Scale,
}

impl Column {
    pub fn left(title: impl Into<String>) -> Self {
        Self { title: Some(title.into()), ..Self::default() }
    }

    pub fn right(title: impl Into<String>) -> Self {
        Self { right: true, ..Self::left(title) }
    }

    /// A column that holds the unit of the column before it.
    pub fn unit() -> Self {
        Self { is_unit: true, ..Self::left("") }
    }

    pub fn untitled() -> Self {
        Self::default()
    }
}

impl Table {
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), ..Self::default() }
    }

    /// Columns for programs, by their keys in a comma list.
    pub fn keyed(keys: &str) -> Self {
        Self::new(keys.split(',').map(Column::left))
    }

    pub fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }
}

impl Cell {
    pub fn toned(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    pub fn empty() -> Self {
        Content::Empty.into()
    }

    pub fn missing() -> Self {
        Content::Missing.into()
    }

    pub fn number(x: impl Into<f64>, form: Form) -> Self {
        Content::Number(x.into(), form).into()
    }

    /// A number, or a dash.
    pub fn maybe(x: Option<f64>, form: Form) -> Self {
        x.map_or_else(Self::missing, |x| Self::number(x, form))
    }

    /// An interval, or a dash.
    pub fn interval(ends: Option<[f64; 2]>, form: Form) -> Self {
        ends.map_or_else(Self::missing, |ends| Content::Interval(ends, form).into())
    }

    /// A unit beside its number.
    pub fn unit(unit: &str) -> Self {
        Self::from(unit).toned(Tone::Soft)
    }
}

impl From<Content> for Cell {
    fn from(content: Content) -> Self {
        Self { content, tone: Tone::Plain }
    }
}

impl From<Measured> for Cell {
    fn from(measured: Measured) -> Self {
        Content::Measured(measured).into()
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Content::Text(text).into()
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_string().into()
    }
}

impl From<bool> for Cell {
    fn from(flag: bool) -> Self {
        Content::Flag(flag).into()
    }
}

impl From<usize> for Cell {
    fn from(n: usize) -> Self {
        Self::number(n as f64, Form::Count)
    }
}

impl From<i64> for Cell {
    fn from(n: i64) -> Self {
        Self::number(n as f64, Form::Count)
    }
}

impl From<u32> for Cell {
    fn from(n: u32) -> Self {
        Self::number(n, Form::Count)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or_else(Self::missing, Into::into)
    }
}

impl Remark {
    pub fn new(mark: Mark, text: impl Into<String>) -> Self {
        Self { mark, about: None, text: text.into(), advice: None }
    }

    pub fn advised(mark: Mark, text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..Self::new(mark, text) }
    }
}

impl Remarks {
    /// A list whose remarks have one mark.
    pub fn all(title: &'static str, mark: Mark, texts: impl IntoIterator<Item = String>) -> Self {
        Self { title, items: texts.into_iter().map(|t| Remark::new(mark, t)).collect() }
    }
}

impl Document {
    pub fn push(&mut self, block: Block) {
        self.blocks.push(block);
    }

    /// Adds a list unless it is empty.
    pub fn remarks(&mut self, remarks: Remarks) {
        if !remarks.items.is_empty() {
            self.blocks.push(Block::Remarks(remarks));
        }
    }

    /// Adds explanations of the table above if the medium has room for more than a line.
    pub fn footnotes(&mut self, medium: Medium, lines: Vec<String>) {
        match medium {
            _ if lines.is_empty() => {}
            Medium::Terminal => self.blocks.push(Block::Legend(lines)),
            Medium::Page => self.remarks(Remarks::all("", Mark::Plain, lines)),
        }
    }
}

/// Cleans the parts, drops empty ones and joins the rest with dots.
pub fn joined(parts: impl IntoIterator<Item = String>) -> String {
    let parts: Vec<String> =
        parts.into_iter().map(|p| clean(&p)).filter(|p| !p.is_empty()).collect();
    parts.join(" · ")
}
