//! Numbers of an array, read one piece after another, so that memory follows what is there and not what a header says.

use std::io::{self, Read};

use outboard_core::Error;
use outboard_protocol::Values;
use outboard_store::{List, Scratch};

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A byte, 0 or not.
    Bool,
    /// With a sign, of so many bytes.
    Int(usize),
    /// Without one.
    UInt(usize),
    /// IEEE 754.
    Float(usize),
    /// The upper half of a 32-bit float.
    BFloat,
}

impl Kind {
    /// Bytes of a number.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Bool => 1,
            Self::Int(size) | Self::UInt(size) | Self::Float(size) => size,
            Self::BFloat => 2,
        }
    }
}

/// What numbers are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// To learn from: floats, or bytes as they are.
    Features,
    /// To be predicted: floats, or whole numbers as they are.
    Targets,
}

/// Numbers, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Numbers {
    /// Unsigned bytes; features alone.
    Bytes(Values<u8>),
    /// Whole numbers; targets alone.
    Integers(Values<i64>),
    /// Others.
    Floats(Values<f32>),
}

/// Why numbers can't be read.
#[derive(Debug)]
pub(crate) enum Flaw {
    /// So many are there.
    Ends(usize),
    /// More bytes are there than the shape says.
    GoesOn,
    /// This one is NaN or infinite, or too large for a 32-bit float or a 64-bit integer.
    Unusable(usize, String),
    /// Reading failed.
    Io(io::Error),
    /// There is no room for them.
    NoRoom(Error),
}

/// Bytes that are read at a time; a multiple of every size of a number.
const PIECE: usize = 64 * 1024;

/// Numbers that are being read.
enum Lists {
    Bytes(List<u8>),
    Integers(List<i64>, Vec<i64>),
    Floats(List<f32>, Vec<f32>),
}

/// Reads `count` numbers, to the end of `reader`.
pub(crate) fn read(
    reader: &mut dyn Read,
    kind: Kind,
    big_endian: bool,
    count: usize,
    wanted: Wanted,
    scratch: &Scratch,
) -> Result<Numbers, Flaw> {
    let mut lists = match (wanted, kind) {
        (Wanted::Features, Kind::UInt(1)) => Lists::Bytes(scratch.list()),
        (Wanted::Targets, Kind::Bool | Kind::Int(_) | Kind::UInt(_)) => Lists::Integers(scratch.list(), Vec::new()),
        _ => Lists::Floats(scratch.list(), Vec::new()),
    };
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    while done < count {
        let wanted = PIECE.min((count - done) * kind.size());
        let found = fill(reader, &mut piece[..wanted]).map_err(Flaw::Io)?;
        let whole = found / kind.size();
        let bytes = piece[..whole * kind.size()].chunks_exact(kind.size());
        match &mut lists {
            Lists::Bytes(all) => all.extend(&piece[..whole]),
            Lists::Integers(all, some) => {
                some.clear();
                for (i, bytes) in bytes.enumerate() {
                    let value = integer(kind, &ordered(bytes, big_endian));
                    some.push(i64::try_from(value).map_err(|_| Flaw::Unusable(done + i, value.to_string()))?);
                }
                all.extend(some)
            }
            Lists::Floats(all, some) => {
                some.clear();
                for (i, bytes) in bytes.enumerate() {
                    let value = float(kind, &ordered(bytes, big_endian));
                    if !(value as f32).is_finite() {
                        return Err(Flaw::Unusable(done + i, value.to_string()));
                    }
                    some.push(value as f32);
                }
                all.extend(some)
            }
        }
        .map_err(Flaw::NoRoom)?;
        done += whole;
        if found < wanted {
            return Err(Flaw::Ends(done));
        }
    }
    if fill(reader, &mut piece[..1]).map_err(Flaw::Io)? > 0 {
        return Err(Flaw::GoesOn);
    }
    match lists {
        Lists::Bytes(all) => all.finish().map(Numbers::Bytes),
        Lists::Integers(all, _) => all.finish().map(Numbers::Integers),
        Lists::Floats(all, _) => all.finish().map(Numbers::Floats),
    }
    .map_err(Flaw::NoRoom)
}

/// Fills the buffer as far as there is something; how far.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The bytes of a number, least first, filled up with zeroes.
fn ordered(bytes: &[u8], big_endian: bool) -> [u8; 8] {
    let mut ordered = [0; 8];
    ordered[..bytes.len()].copy_from_slice(bytes);
    if big_endian {
        ordered[..bytes.len()].reverse();
    }
    ordered
}

fn integer(kind: Kind, bytes: &[u8; 8]) -> i128 {
    let value = u64::from_le_bytes(*bytes);
    match kind {
        Kind::Bool => i128::from(value != 0),
        Kind::Int(size) => {
            let spare = 64 - 8 * size as u32;
            i128::from(((value << spare) as i64) >> spare)
        }
        _ => i128::from(value),
    }
}

fn float(kind: Kind, bytes: &[u8; 8]) -> f64 {
    let [a, b, c, d, ..] = *bytes;
    match kind {
        Kind::Float(2) => half::f16::from_le_bytes([a, b]).to_f64(),
        Kind::BFloat => half::bf16::from_le_bytes([a, b]).to_f64(),
        Kind::Float(4) => f64::from(f32::from_le_bytes([a, b, c, d])),
        Kind::Float(_) => f64::from_le_bytes(*bytes),
        _ => integer(kind, bytes) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// None of it is used: there are few numbers.
    fn scratch() -> Scratch {
        Scratch::new(std::path::Path::new("nowhere"))
    }

    #[test]
    fn numbers_of_every_kind() {
        let read = |kind, big_endian, bytes: &[u8], wanted| {
            super::read(&mut &*bytes, kind, big_endian, bytes.len() / kind.size(), wanted, &scratch()).unwrap()
        };
        use Wanted::{Features, Targets};
        assert_eq!(read(Kind::UInt(1), false, &[0, 255], Features), Numbers::Bytes(vec![0, 255].into()));
        assert_eq!(read(Kind::UInt(1), false, &[0, 255], Targets), Numbers::Integers(vec![0, 255].into()));
        assert_eq!(read(Kind::Bool, false, &[0, 1, 2], Targets), Numbers::Integers(vec![0, 1, 1].into()));
        assert_eq!(read(Kind::Bool, false, &[0, 1], Features), Numbers::Floats(vec![0.0, 1.0].into()));
        assert_eq!(read(Kind::Int(2), false, &(-2i16).to_le_bytes(), Targets), Numbers::Integers(vec![-2].into()));
        assert_eq!(
            read(Kind::Int(4), true, &(-70_000i32).to_be_bytes(), Targets),
            Numbers::Integers(vec![-70_000].into())
        );
        assert_eq!(
            read(Kind::Int(8), true, &i64::MIN.to_be_bytes(), Targets),
            Numbers::Integers(vec![i64::MIN].into())
        );
        assert_eq!(
            read(Kind::UInt(4), false, &u32::MAX.to_le_bytes(), Targets),
            Numbers::Integers(vec![4294967295].into())
        );
        assert_eq!(read(Kind::Float(2), false, &[0, 0x3e], Features), Numbers::Floats(vec![1.5].into()));
        assert_eq!(read(Kind::BFloat, false, &[0xc0, 0x3f], Features), Numbers::Floats(vec![1.5].into()));
        assert_eq!(read(Kind::Float(4), true, &(-1.5f32).to_be_bytes(), Features), Numbers::Floats(vec![-1.5].into()));
        assert_eq!(read(Kind::Float(8), false, &0.1f64.to_le_bytes(), Targets), Numbers::Floats(vec![0.1].into()));
    }

    #[test]
    fn what_is_missing_too_much_or_unusable() {
        let read = |kind, bytes: &[u8], count, wanted| {
            super::read(&mut &*bytes, kind, false, count, wanted, &scratch())
                .map_err(|flaw| format!("{flaw:?}"))
                .unwrap_err()
        };
        use Wanted::{Features, Targets};
        assert_eq!(read(Kind::Float(4), &[0; 11], 1 << 29, Features), "Ends(2)");
        assert_eq!(read(Kind::Float(4), &[0; 9], 2, Features), "GoesOn");
        assert_eq!(
            read(Kind::Float(8), &1e39f64.to_le_bytes(), 1, Targets),
            format!("Unusable(0, {:?})", 1e39f64.to_string())
        );
        assert_eq!(read(Kind::Float(4), &f32::NAN.to_le_bytes(), 1, Features), "Unusable(0, \"NaN\")");
        assert_eq!(read(Kind::UInt(8), &[255; 8], 1, Targets), "Unusable(0, \"18446744073709551615\")");
    }
}
