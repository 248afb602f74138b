//! Files as bytes that the system reads when they are looked at, and forgets when memory is short.

use std::{fs::File, io};

use bytes::Bytes;
use memmap2::Mmap;

/// The bytes of a file that nobody changes any more.
pub(crate) fn map(file: &File) -> io::Result<Bytes> {
    // SAFETY: what is mapped must not change. A blob's file is written under another name, renamed once it is complete,
    // and then only replaced or removed whole, which leaves this one as it is; a scratch file has no name.
    let map = unsafe { Mmap::map(file) }?;
    Ok(Bytes::from_owner(map))
}
