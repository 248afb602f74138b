//! Parquet files as rows of cells.

use std::{fs::File, path::Path};

use csv::ByteRecord;
use outboard_core::error::{Error, IoContext, Result};
use parquet::{
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};

use crate::guard::guarded;

/// A Parquet file.
pub(crate) struct Parquet {
    path: std::path::PathBuf,
    reader: SerializedFileReader<File>,
}

impl std::fmt::Debug for Parquet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parquet").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Parquet {
    /// Reads what the file says of itself.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).doing("read", path).map_err(|e| e.at("file", path.display()))?;
        let reader = whole(|| SerializedFileReader::new(file)).map_err(|e| broken(path, e))?;
        Ok(Self { path: path.to_path_buf(), reader })
    }

    /// The names of the columns, in the file's order.
    pub(crate) fn names(&self) -> Vec<String> {
        let schema = self.reader.metadata().file_metadata().schema();
        schema.get_fields().iter().map(|field| field.name().to_string()).collect()
    }

    /// Calls `visit` for each row, its cells written as a CSV file would have them; what is null is empty.
    pub(crate) fn for_each_record(&self, visit: &mut dyn FnMut(&ByteRecord) -> Result<()>) -> Result<()> {
        let mut record = ByteRecord::new();
        let mut rows = whole(|| self.reader.get_row_iter(None)).map_err(|e| broken(&self.path, e))?;
        while let Some(row) = whole(|| rows.next().transpose()).map_err(|e| broken(&self.path, e))? {
            record.clear();
            for (_, field) in row.get_column_iter() {
                match field {
                    Field::Null => record.push_field(b""),
                    Field::Str(text) => record.push_field(text.as_bytes()),
                    Field::Bytes(bytes) => record.push_field(bytes.data()),
                    Field::Bool(truth) => record.push_field(if *truth { b"1" } else { b"0" }),
                    Field::Float16(x) => record.push_field(x.to_f64().to_string().as_bytes()),
                    Field::Float(x) => record.push_field(f64::from(*x).to_string().as_bytes()),
                    Field::Double(x) => record.push_field(x.to_string().as_bytes()),
                    other => record.push_field(other.to_string().as_bytes()),
                }
            }
            visit(&record)?;
        }
        Ok(())
    }
}

/// What is read of a file whose parts may not go together, at which the library panics.
fn whole<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    let torn = || ParquetError::General("its parts don't go together".into());
    guarded(read).unwrap_or_else(|| Err(torn()))
}

fn broken(path: &Path, cause: ParquetError) -> Error {
    Error::invalid("it is not a whole Parquet file that can be read")
        .at("file", path.display())
        .because(cause)
        .hint("save it again, uncompressed or with snappy, gzip or zstd; or as CSV")
}
