//! How blobs are encoded on their way: raw, or with zstd where that pays.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::Path,
};

use bytes::Bytes;
use outboard_core::error::{Error, ErrorKind, IoContext, Result};
use outboard_protocol::Encoding;

/// Bytes from which is seen whether compression pays.
const SAMPLE: usize = 64 << 10;
/// Fast: what is saved on the way must not be lost in computing.
pub const LEVEL: i32 = 1;
/// Log2 of the largest window that a compressed blob may ask for: 16 MiB.
const WINDOW_LOG: u32 = 24;

/// A blob's file as bytes that travel.
pub struct Source {
    /// The bytes, encoded.
    pub reader: Box<dyn Read + Send>,
    /// How they are encoded.
    pub encoding: Encoding,
    /// How many there are, where that is known before their end.
    pub length: Option<u64>,
}

impl Source {
    /// Opens a file, and compresses it if its beginning shrinks by a tenth at least.
    ///
    /// # Errors
    /// `NotFound` where there is no such file.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || -> io::Result<_> {
            let mut file = File::open(path)?;
            if !pays(&mut file)? {
                return Self::of(file);
            }
            let reader = Box::new(zstd::stream::read::Encoder::new(file, LEVEL)?);
            Ok(Self { reader, encoding: Encoding::Zstd, length: None })
        };
        open().doing("read the blob", path)
    }

    /// Opens a file as it is.
    ///
    /// # Errors
    /// `NotFound` where there is no such file.
    pub fn raw(path: &Path) -> Result<Self> {
        File::open(path).and_then(Self::of).doing("read the blob", path)
    }

    /// Bytes that are in memory, compressed if that pays.
    ///
    /// # Errors
    /// Where there is no memory for an encoder.
    pub fn memory(bytes: Bytes) -> Result<Self> {
        let failed = |e: io::Error| Error::new(ErrorKind::Unexpected, format!("cannot compress: {e}"));
        let length = bytes.len() as u64;
        let mut bytes = io::Cursor::new(bytes);
        if !pays(&mut bytes).map_err(failed)? {
            return Ok(Self { reader: Box::new(bytes), encoding: Encoding::Raw, length: Some(length) });
        }
        let reader = Box::new(zstd::stream::read::Encoder::new(bytes, LEVEL).map_err(failed)?);
        Ok(Self { reader, encoding: Encoding::Zstd, length: None })
    }

    fn of(file: File) -> io::Result<Self> {
        let length = Some(file.metadata()?.len());
        Ok(Self { reader: Box::new(file), encoding: Encoding::Raw, length })
    }

    /// The next bytes, `limit` of them unless the end comes first.
    ///
    /// # Errors
    /// Those of the file.
    pub fn part(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut part = Vec::new();
        self.reader.by_ref().take(limit as u64).read_to_end(&mut part)?;
        Ok(part)
    }
}

fn pays(bytes: &mut (impl Read + Seek)) -> io::Result<bool> {
    let mut sample = Vec::with_capacity(SAMPLE);
    bytes.by_ref().take(SAMPLE as u64).read_to_end(&mut sample)?;
    bytes.rewind()?;
    Ok(zstd::bulk::compress(&sample, LEVEL)?.len() < sample.len() / 10 * 9)
}

/// Where the bytes of a blob go, which decodes them.
pub enum Sink<W: Write> {
    /// They come as they are.
    Raw(Box<W>),
    /// They come compressed.
    Zstd(Box<zstd::stream::write::Decoder<'static, W>>),
}

impl<W: Write> Sink<W> {
    /// Decodes into `inner`.
    ///
    /// # Errors
    /// Where there is no memory for a decoder.
    pub fn new(inner: W, encoding: Encoding) -> io::Result<Self> {
        if encoding == Encoding::Raw {
            return Ok(Self::Raw(Box::new(inner)));
        }
        let mut decoder = zstd::stream::write::Decoder::new(inner)?;
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(Self::Zstd(Box::new(decoder)))
    }

    /// All bytes have come.
    ///
    /// # Errors
    /// Those of `inner`.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Raw(inner) => Ok(*inner),
            Self::Zstd(mut decoder) => {
                decoder.flush()?;
                Ok(decoder.into_inner())
            }
        }
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Raw(inner) => inner.write(bytes),
            Self::Zstd(decoder) => decoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Raw(inner) => inner.flush(),
            Self::Zstd(decoder) => decoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shrinks_is_compressed_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut noise = vec![0; 100_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        for (bytes, encoding) in [(vec![7; 100_000], Encoding::Zstd), (noise, Encoding::Raw), (vec![], Encoding::Raw)] {
            let path = folder.path().join("blob");
            std::fs::write(&path, &bytes).unwrap();
            let mut source = Source::open(&path).unwrap();
            assert_eq!(source.encoding, encoding);
            let mut sink = Sink::new(Vec::new(), encoding).unwrap();
            loop {
                let part = source.part(1000).unwrap();
                sink.write_all(&part).unwrap();
                if part.len() < 1000 {
                    break;
                }
            }
            assert!(sink.finish().unwrap() == bytes);
        }
    }

    #[test]
    fn a_frame_that_asks_for_too_much_memory_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&[0; 1000]).unwrap();
        let frame = encoder.finish().unwrap();
        let mut sink = Sink::new(Vec::new(), Encoding::Zstd).unwrap();
        assert!(sink.write_all(&frame).and_then(|()| sink.flush()).is_err());
    }
}
