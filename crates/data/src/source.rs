//! A file's bytes, header and rows, before cells mean anything.

use std::{
    cell::Cell,
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use csv::{ByteRecord, ReaderBuilder};
use outboard_core::{
    error::{Error, ErrorKind, IoContext, Result},
    job::Format,
};
use outboard_protocol::Values;
use outboard_store::Scratch;

#[cfg(feature = "parquet")]
use crate::parquet::Parquet;
use crate::wording::{cut, shown};

/// Bytes that are looked at to tell a text from something else.
const SNIFFED: u64 = 64 * 1024;
/// Bytes of a row.
const MOST_ROW_BYTES: usize = 32 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A file with named columns.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    content: Content,
    names: Vec<String>,
    positions: HashMap<String, usize>,
}

/// What lies below the header.
#[derive(Debug)]
enum Content {
    /// Lines, the header among them.
    Csv { bytes: Values<u8>, delimiter: u8 },
    #[cfg(feature = "parquet")]
    Parquet(Parquet),
}

impl Source {
    /// Reads the names of the columns, and copies a CSV file, which may have no second beginning.
    pub(crate) fn open(path: &Path, format: Format, scratch: &Scratch) -> Result<Self> {
        match format {
            Format::Parquet => Self::open_parquet(path),
            _ => Self::open_csv(path, scratch),
        }
    }

    #[cfg(feature = "parquet")]
    fn open_parquet(path: &Path) -> Result<Self> {
        let file = Parquet::open(path)?;
        let names = file.names();
        let positions = names.iter().cloned().zip(0..).collect();
        Ok(Self { path: path.to_path_buf(), content: Content::Parquet(file), names, positions })
    }

    #[cfg(not(feature = "parquet"))]
    fn open_parquet(path: &Path) -> Result<Self> {
        Err(Error::new(ErrorKind::Unsupported, "this program was built without Parquet")
            .at("file", path.display())
            .hint("build it with the feature `parquet`, or save the file as CSV"))
    }

    fn open_csv(path: &Path, scratch: &Scratch) -> Result<Self> {
        let bytes = read(path, scratch).map_err(|e| e.at("file", path.display()))?;
        let delimiter = delimiter(&bytes);
        let is_empty = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes).trim_ascii().is_empty();
        let mut source = Self {
            path: path.to_path_buf(),
            content: Content::Csv { bytes, delimiter },
            names: Vec::new(),
            positions: HashMap::new(),
        };
        if is_empty {
            return Err(source
                .refuse("the file is empty")
                .hint("give it a header line with the names of the columns, then one line for each row"));
        }
        let left = Cell::new(MOST_ROW_BYTES);
        let header = match &source.content {
            Content::Csv { bytes, .. } => source.csv(Watched { bytes, left: &left }).byte_headers().cloned(),
            #[cfg(feature = "parquet")]
            Content::Parquet(_) => Ok(ByteRecord::new()),
        };
        let header = header.map_err(|e| if left.get() == 0 { source.endless(0) } else { source.unreadable(e) })?;
        for (position, name) in header.iter().enumerate() {
            let Ok(name) = std::str::from_utf8(name).map(str::trim) else {
                return Err(source
                    .refuse(format!("the name of column {} is not UTF-8 text", position + 1))
                    .hint("save the file as UTF-8"));
            };
            if let Some(first) = source.positions.insert(name.to_string(), position) {
                return Err(source
                    .refuse(format!("columns {} and {} have the same name, {}", first + 1, position + 1, shown(name)))
                    .at("column", cut(name))
                    .hint("rename one of them in the header"));
            }
            source.names.push(name.to_string());
        }
        Ok(source)
    }

    /// The names of the columns, in the file's order.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Where the column of this name is, from 0.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    /// An error about this file.
    pub(crate) fn refuse(&self, what: impl Into<String>) -> Error {
        Error::invalid(what).at("file", self.path.display())
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `visit` for each row; gives their number.
    pub(crate) fn for_each_row(&self, mut visit: impl FnMut(&Row<'_>) -> Result<()>) -> Result<usize> {
        let mut number = 0;
        let mut visit = |record: &ByteRecord| {
            number += 1;
            let row = Row { source: self, record, number };
            if record.len() != self.names.len() {
                let cells = if record.len() == 1 { "1 cell".into() } else { format!("{} cells", record.len()) };
                return Err(row
                    .refuse(format!("{cells}, but the header has {}", self.names.len()))
                    .hint("check the delimiters and quotes on that line"));
            }
            visit(&row)
        };
        match &self.content {
            Content::Csv { bytes, .. } => {
                let left = Cell::new(MOST_ROW_BYTES);
                let mut reader = self.csv(Watched { bytes, left: &left });
                let mut record = ByteRecord::new();
                loop {
                    let start = reader.position().byte();
                    match reader.read_byte_record(&mut record) {
                        Ok(true) => visit(&record)?,
                        Ok(false) => break,
                        Err(_) if left.get() == 0 => return Err(self.endless(start)),
                        Err(e) => return Err(self.unreadable(e)),
                    }
                    left.set(MOST_ROW_BYTES);
                }
            }
            #[cfg(feature = "parquet")]
            Content::Parquet(file) => file.for_each_record(&mut visit)?,
        }
        if number == 0 {
            return Err(self.refuse("the file has a header, but no rows").hint("add rows below the header"));
        }
        Ok(number)
    }

    /// A reader of the lines.
    fn csv<'a>(&self, lines: Watched<'a>) -> csv::Reader<Watched<'a>> {
        let delimiter = match &self.content {
            Content::Csv { delimiter, .. } => *delimiter,
            #[cfg(feature = "parquet")]
            Content::Parquet(_) => b',',
        };
        // Flexible: an error about unequal rows is to be our own.
        ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(lines)
    }

    /// The line on which the row at this byte starts, if there are lines. The reader's own count leaves out blank lines and half
    /// a CRLF before it.
    fn line(&self, byte: u64) -> Option<usize> {
        let bytes = match &self.content {
            Content::Csv { bytes, .. } => bytes,
            #[cfg(feature = "parquet")]
            Content::Parquet(_) => return None,
        };
        let (before, rest) = bytes.split_at((byte as usize).min(bytes.len()));
        let skipped = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
        Some(1 + before.iter().chain(skipped).filter(|byte| **byte == b'\n').count())
    }

    /// A row without an end, from this byte on.
    fn endless(&self, start: u64) -> Error {
        let line = self.line(start).map_or(String::new(), |line| format!("line {line}: "));
        self.refuse(format!("{line}the row has no end within {} MiB", MOST_ROW_BYTES >> 20))
            .hint("close the quotes on that line")
    }

    fn unreadable(&self, cause: csv::Error) -> Error {
        Error::new(ErrorKind::Unexpected, "cannot read the file").at("file", self.path.display()).because(cause)
    }
}

/// A row of a file.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    source: &'a Source,
    record: &'a ByteRecord,
    number: usize,
}

impl Row<'_> {
    /// The text of a cell, without the blanks around it.
    pub(crate) fn text(&self, position: usize, column: &str) -> Result<&str> {
        let cell = self.record.get(position).unwrap_or_default();
        match std::str::from_utf8(cell).map(str::trim) {
            Ok("") => Err(self
                .refuse_cell(column, "the cell is empty")
                .hint("fill it in, remove the row, or train without the column (`data.exclude`)")),
            Ok(text) => Ok(text),
            Err(_) => Err(self.refuse_cell(column, "the cell is not UTF-8 text").hint("save the file as UTF-8")),
        }
    }

    /// An error about one cell.
    pub(crate) fn refuse_cell(&self, column: &str, what: impl AsRef<str>) -> Error {
        self.refuse(what).at("column", cut(column))
    }

    fn refuse(&self, what: impl AsRef<str>) -> Error {
        let what = match self.source.line(self.record.position().map_or(0, |at| at.byte())) {
            Some(line) => format!("line {line}: {}", what.as_ref()),
            None => what.as_ref().to_string(),
        };
        self.source.refuse(what).at("row", self.number)
    }
}

/// Lines of which a row may take so many bytes: a quote that is never closed would make one of all that follows.
struct Watched<'a> {
    bytes: &'a [u8],
    left: &'a Cell<usize>,
}

impl Read for Watched<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let limit = to.len().min(self.left.get());
        if limit == 0 && !self.bytes.is_empty() {
            return Err(io::Error::other("a row has no end"));
        }
        let read = self.bytes.read(&mut to[..limit])?;
        self.left.set(self.left.get() - read);
        Ok(read)
    }
}

fn read(path: &Path, scratch: &Scratch) -> Result<Values<u8>> {
    let mut file = File::open(path).doing("read", path)?;
    let mut start = Vec::new();
    // Looked at before the rest is read, which might have no end.
    file.by_ref().take(SNIFFED).read_to_end(&mut start).doing("read", path)?;
    if start.contains(&0) {
        return Err(Error::invalid("the file is not a CSV file: it holds binary data")
            .hint("decompress or export it as CSV, in UTF-8"));
    }
    scratch.read(&mut start.chain(file), path)
}

/// What parts the cells: a comma, or what the header has instead.
fn delimiter(bytes: &[u8]) -> u8 {
    let is_line_end = |byte: &&u8| matches!(byte, b'\r' | b'\n');
    let mut quoted = false;
    let mut unquoted = bytes.iter().skip_while(is_line_end).take_while(|byte| !is_line_end(byte)).filter(|byte| {
        quoted ^= **byte == b'"';
        !quoted
    });
    let mut other = None;
    let comma = unquoted.any(|byte| {
        if other != Some(b';') && matches!(byte, b';' | b'\t') {
            other = Some(*byte);
        }
        *byte == b','
    });
    if comma { b',' } else { other.unwrap_or(b',') }
}
