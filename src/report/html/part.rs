//! What a section is made of: text, tables, pictures. `templates/report.html` writes them down.

use super::super::diff_view;

/// A part of the page with a heading.
pub(super) struct Section {
    pub id: &'static str,
    pub heading: &'static str,
    pub blocks: Vec<Block>,
}

/// One thing in a section.
pub(super) enum Block {
    /// A paragraph.
    Text(String),
    /// A paragraph that begins with a word for what it is.
    Fact(String, String),
    /// A heading within the section.
    Sub(String),
    Table(Table),
    Figure(Figure),
    Gallery(Gallery),
    /// A command to type.
    Command(String),
}

/// A table with a caption. The first cell of a row names the row.
pub(super) struct Table {
    pub caption: String,
    pub header: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
    /// Columns of numbers.
    pub right: Vec<usize>,
    /// Closed until it is opened.
    pub folded: bool,
    /// What a cut table says below.
    pub more: String,
}

/// A cell.
pub(super) struct Cell {
    pub text: String,
    /// A name from a file: set in the font of code.
    pub code: bool,
    /// A bar of this width beside the text, in % of the room, and how much of it is filled.
    pub bar: Option<(f64, f64)>,
}

/// A picture with words that say the same.
pub(super) struct Figure {
    pub svg: String,
    pub caption: String,
}

/// Samples, with pictures where there are some.
pub(super) struct Gallery {
    pub items: Vec<Item>,
}

/// One sample.
pub(super) struct Item {
    pub name: String,
    pub lines: Vec<String>,
    /// `data:` address, width and height.
    pub picture: Option<(String, u32, u32)>,
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), code: false, bar: None }
    }

    pub fn code(text: impl Into<String>) -> Cell {
        Cell { code: true, ..Cell::text(text) }
    }

    pub fn bar(text: impl Into<String>, room: f64, filled: f64) -> Cell {
        let percent = |x: f64| if x.is_finite() { (x * 100.0).clamp(0.0, 100.0) } else { 0.0 };
        Cell { bar: Some((percent(room), percent(filled))), ..Cell::text(text) }
    }

    /// Two decimals are finer than any screen.
    pub fn room(&self) -> String {
        self.bar.map_or_else(String::new, |b| format!("{:.2}", b.0))
    }

    pub fn filled(&self) -> String {
        self.bar.map_or_else(String::new, |b| format!("{:.2}", b.1))
    }
}

impl Table {
    pub fn new(caption: &str, header: &[&str], rows: Vec<Vec<Cell>>, right: &[usize]) -> Table {
        let header = header.iter().map(|h| (*h).to_owned()).collect();
        Table { caption: caption.into(), header, rows, right: right.to_vec(), folded: false, more: String::new() }
    }

    pub fn folded(self) -> Table {
        Table { folded: true, ..self }
    }

    pub fn is_right(&self, column: &usize) -> bool {
        self.right.contains(column)
    }

    /// Too long to be printed unless it was opened.
    pub fn is_long(&self) -> bool {
        self.rows.len() > 60
    }

    /// Without the rows after the first `most`.
    pub fn cut(mut self, most: usize) -> Table {
        let over = self.rows.len().saturating_sub(most);
        if over > 0 {
            self.rows.truncate(most);
            self.more = format!("{over} more rows are in the report as JSON.");
        }
        self
    }
}

/// The first letter as a capital.
pub(super) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// With a capital and a full stop.
pub(super) fn sentence(text: &str) -> String {
    let end = if text.ends_with(['.', '!', '?', ':']) { "" } else { "." };
    format!("{}{end}", capital(text))
}

/// What the other formats of a diff tell, for this one; a table without a title gets `caption`.
pub(super) fn from_view(block: diff_view::Block, caption: &str) -> Block {
    match block {
        diff_view::Block::Fact(name, text) => Block::Fact(name.into(), sentence(&text)),
        diff_view::Block::Table(title, header, rows, right) => {
            let caption = if title.is_empty() { caption.into() } else { capital(&title) };
            let rows = rows.into_iter().map(|r| r.into_iter().map(Cell::text).collect()).collect();
            Block::Table(Table { caption, header, rows, right, folded: false, more: String::new() })
        }
    }
}
