//! Files as bytes that the system reads when they are looked at, and forgets when memory is short.

use std::{fs::File, io};

use bytes::Bytes;
use memmap2::Mmap;

/// In which order bytes are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// One after another.
    Ascending,
    /// Any: what lies around them isn't read along, which would drive out what memory has room for.
    Random,
}

/// The bytes of a file that nobody changes any more.
pub(crate) fn map(file: &File, order: Order) -> io::Result<Bytes> {
    // SAFETY: what is mapped must not change. A blob's file is written under another name, renamed once it is complete,
    // and then only replaced or removed whole, which leaves this one as it is; a scratch file has no name.
    let map = unsafe { Mmap::map(file) }?;
    #[cfg(unix)]
    if order == Order::Random {
        map.advise(memmap2::Advice::Random)?;
    }
    #[cfg(not(unix))]
    let _ = order;
    Ok(Bytes::from_owner(map))
}
