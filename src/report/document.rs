//! What a report says, before any format: blocks of facts, tables, plots, texts and remarks.
//! Cells keep their numbers as numbers; `number` rounds them when a writer sets them. All texts
//! are clean (see `text`); writers escape them.

use super::number::{Form, Scale};
use super::plot::Plot;
use super::text::clean;

/// Blocks in the order in which they are read.
#[derive(Debug, Clone, Default)]
pub struct Document {
    pub blocks: Vec<Block>,
}

/// How much room a reader has. What is said is the same; a terminal is narrow and its reader
/// stands at the end, a page is wide and its reader begins at the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    Terminal,
    /// Markdown, HTML.
    Page,
}

#[derive(Debug, Clone)]
pub enum Block {
    Heading(Level, String),
    /// What must be known before any number is read.
    Caution(String),
    /// The outcome, in one sentence.
    Verdict(String, Tone),
    /// Names with what is known under each.
    Facts(Vec<(String, String)>),
    Table(Table),
    Plot(Plot),
    /// A paragraph.
    Text(String),
    /// How to read the table above: one paragraph each.
    Legend(Vec<String>),
    Remarks(Remarks),
    /// Hidden until asked for, where the medium can do that: a summary and what is beneath.
    Fold(String, Vec<Block>),
}

/// What a heading names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Report,
    Part,
    Detail,
}

/// What a text or number means for the reader; writers choose colours and weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    /// Beside the point.
    Soft,
    Strong,
    /// The best of its row.
    Best,
    Good,
    Bad,
    /// Open.
    Doubt,
}

/// A list of things to know.
#[derive(Debug, Clone)]
pub struct Remarks {
    /// Stands above the list where marks alone do not say what it is.
    pub title: &'static str,
    pub items: Vec<Remark>,
}

#[derive(Debug, Clone)]
pub struct Remark {
    pub mark: Mark,
    /// What it is about, where each item of the list is about another thing.
    pub about: Option<&'static str>,
    pub text: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// How much a remark weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Prose: not even a bullet.
    Prose,
    Plain,
    Note,
    Warning,
    /// The numbers must not be compared.
    Forbids,
    /// The outcome of one check: `ok`, `met`.
    State(&'static str, Tone),
}

/// Columns, and rows with a cell for each.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
    /// How many columns, from the left, name a row. Where it is not 0, a terminal that is too
    /// narrow splits the table and repeats them.
    pub stub: usize,
    /// A form for media in which this one does not fit.
    pub narrower: Option<Box<Table>>,
}

#[derive(Debug, Clone, Default)]
pub struct Column {
    /// Absent for a column that explains itself. May have several lines.
    pub title: Option<String>,
    /// Beneath the title: `baseline`, `failed: compile_failed`.
    pub note: String,
    pub right: bool,
    pub tone: Tone,
    /// The unit of the column before it.
    pub is_unit: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    pub content: Content,
    pub tone: Tone,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Nothing belongs here.
    Empty,
    /// A value that does not exist.
    Missing,
    Text(String),
    Flag(bool),
    Number(f64, Form),
    Interval([f64; 2], Form),
    Measured(Measured),
    /// Several in one cell, with what stands between them.
    Joined(Vec<Content>, &'static str),
    /// Several in one cell; a terminal sets each to the right of so many characters.
    Aligned(Vec<(usize, Content)>),
}

/// A mean in the unit of its metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    pub mean: f64,
    /// Half of the 95 % interval; absent for one launch.
    pub half_width: Option<f64>,
    /// How many times better than the baseline, and whether that is open; absent for the
    /// baseline itself.
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

    /// The unit of the column before it.
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

    /// For programs: columns by their keys, a comma list.
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
    /// A list of one kind.
    pub fn all(title: &'static str, mark: Mark, texts: impl IntoIterator<Item = String>) -> Self {
        Self { title, items: texts.into_iter().map(|t| Remark::new(mark, t)).collect() }
    }
}

impl Document {
    pub fn push(&mut self, block: Block) {
        self.blocks.push(block);
    }

    /// Adds a list, unless it is empty.
    pub fn remarks(&mut self, remarks: Remarks) {
        if !remarks.items.is_empty() {
            self.blocks.push(Block::Remarks(remarks));
        }
    }

    /// How to read the table above, where there is room for more than a line of it.
    pub fn footnotes(&mut self, medium: Medium, lines: Vec<String>) {
        match medium {
            _ if lines.is_empty() => {}
            Medium::Terminal => self.blocks.push(Block::Legend(lines)),
            Medium::Page => self.remarks(Remarks::all("", Mark::Plain, lines)),
        }
    }
}

/// The parts that are not empty, cleaned, with dots between.
pub fn joined(parts: impl IntoIterator<Item = String>) -> String {
    let parts: Vec<String> =
        parts.into_iter().map(|p| clean(&p)).filter(|p| !p.is_empty()).collect();
    parts.join(" · ")
}
