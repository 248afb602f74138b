//! Numbers that may be more than memory holds: past a bound they lie in a file without a name, which ends with its use.

use std::{
    fs::File,
    io::{self, Read, Write},
    mem::size_of,
    path::{Path, PathBuf},
};

use bytemuck::Pod;
use outboard_core::error::{IoContext, Result};
use outboard_protocol::Values;

use crate::mapped::{self, Order};

/// Bytes of a list that stay in memory, unless told otherwise.
const MEMORY: usize = 8 << 20;
/// Bytes that are written at a time once they don't.
const PIECE: usize = 256 << 10;

/// Where numbers go that are more than memory should hold.
#[derive(Clone, Debug)]
pub struct Scratch {
    folder: PathBuf,
    memory: usize,
}

impl Scratch {
    /// Files in `folder`, for lists of more than 8 MiB.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), memory: MEMORY }
    }

    /// The same for lists of more than `bytes`.
    #[must_use]
    pub fn beyond(self, bytes: usize) -> Self {
        Self { memory: bytes, ..self }
    }

    /// A list that is empty.
    #[must_use]
    pub fn list<T: Pod>(&self) -> List<T> {
        List { scratch: self.clone(), memory: Vec::new(), file: None, written: 0 }
    }

    /// These numbers as a list.
    ///
    /// # Errors
    /// `InvalidRequest` where the disk is full.
    pub fn gather<T: Pod>(&self, numbers: impl IntoIterator<Item = T>) -> Result<Values<T>> {
        let mut list = self.list();
        for number in numbers {
            list.push(number)?;
        }
        list.finish()
    }

    /// All bytes of a reader of the file at `path`.
    ///
    /// # Errors
    /// `InvalidRequest` where the reader fails, or the disk is full.
    pub fn read(&self, reader: &mut impl Read, path: &Path) -> Result<Values<u8>> {
        let mut list = self.list();
        let mut piece = vec![0; PIECE];
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return list.finish(),
                Ok(n) => list.extend(&piece[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).doing("read", path),
            }
        }
    }
}

/// Numbers that are added one after another.
#[derive(Debug)]
pub struct List<T> {
    scratch: Scratch,
    /// Those that are not in the file.
    memory: Vec<T>,
    file: Option<File>,
    /// How many are in the file.
    written: usize,
}

impl<T: Pod> List<T> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.written + self.memory.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a number.
    ///
    /// # Errors
    /// `InvalidRequest` where the disk is full.
    pub fn push(&mut self, number: T) -> Result<()> {
        self.memory.push(number);
        self.write_if_large()
    }

    /// Adds numbers.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn extend(&mut self, numbers: &[T]) -> Result<()> {
        self.memory.extend_from_slice(numbers);
        self.write_if_large()
    }

    fn write_if_large(&mut self) -> Result<()> {
        let bound = if self.file.is_some() { PIECE } else { self.scratch.memory };
        if self.memory.len() * size_of::<T>() <= bound {
            return Ok(());
        }
        self.write().doing("write a scratch file in", &self.scratch.folder)
    }

    fn write(&mut self) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => tempfile::tempfile_in(&self.scratch.folder)?,
        };
        file.write_all(bytemuck::cast_slice(&self.memory))?;
        self.written += self.memory.len();
        self.memory.clear();
        // What is written piece by piece needs no more.
        self.memory.shrink_to(2 * PIECE / size_of::<T>().max(1));
        self.file = Some(file);
        Ok(())
    }

    /// The numbers, in memory or in a mapped file.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(mut self) -> Result<Values<T>> {
        if self.file.is_none() {
            return Ok(self.memory.into());
        }
        let mapped =
            self.write().and_then(|()| self.file.as_ref().map(|file| mapped::map(file, Order::Ascending)).transpose());
        let bytes = mapped.doing("read a scratch file in", &self.scratch.folder)?;
        Ok(Values::of_bytes(bytes.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_however_many_there_are() {
        let folder = tempfile::tempdir().unwrap();
        for beyond in [0, 7, 8, 800, 1 << 20] {
            let scratch = Scratch::new(folder.path()).beyond(beyond);
            for n in [0, 1, 2, 1000, 100_000] {
                let numbers: Vec<f64> = (0..n).map(f64::from).collect();
                let mut list = scratch.list();
                let (one, rest) = numbers.split_at(n.min(5) as usize);
                one.iter().for_each(|x| list.push(*x).unwrap());
                rest.chunks(3).for_each(|part| list.extend(part).unwrap());
                assert_eq!(list.len(), numbers.len());
                assert_eq!(list.finish().unwrap(), numbers.into(), "{n} numbers beyond {beyond} bytes");
            }
            assert_eq!(scratch.gather(0..9000u16).unwrap(), (0..9000).collect());
            let bytes = vec![7; 70_000];
            assert_eq!(scratch.read(&mut &bytes[..], folder.path()).unwrap(), bytes.into());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_is_gone_is_named() {
        let folder = tempfile::tempdir().unwrap().path().join("gone");
        let error = Scratch::new(&folder).beyond(0).list().push(1u8).unwrap_err();
        let what = format!("cannot write a scratch file in {}: no such file or folder", folder.display());
        assert_eq!(error.to_string(), what);
    }
}
