//! Reading: ranges of a file straight into the buffer that is handed over.

use std::os::fd::{AsFd, OwnedFd};

use backup_core::{ByteRange, ErrorKind, ObjectKey};
use bytes::Bytes;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::fault::{Fault, Outcome, Wrong};
use crate::folder::{self, AsTheyAre};
use crate::sink::{MAX_PUT_BYTES, Place};
use crate::write::split;

/// Reads an object or a part of it.
pub(crate) fn get(place: &Place, key: &ObjectKey, range: ByteRange) -> Outcome<Bytes> {
    let (folder, name) = folder_of(place, key)?;
    // Should a fifo stand there, opening it must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match retry_on_intr(|| rustix::fs::openat(&folder, name, flags, Mode::empty())) {
        Ok(file) => file,
        Err(Errno::LOOP) => return Err(link(key)),
        Err(errno) => return Err(errno.into()),
    };
    let stat = rustix::fs::fstat(&file)?;
    is_object(folder::kind_of(&stat), key)?;
    let (offset, length) = span(range, folder::size_of(&stat))?;
    read_exact(&file, offset, length)
}

/// The size of an object.
pub(crate) fn head(place: &Place, key: &ObjectKey) -> Outcome<u64> {
    let (folder, name) = folder_of(place, key)?;
    let stat = folder::stat(folder.as_fd(), name)?;
    is_object(folder::kind_of(&stat), key)?;
    Ok(folder::size_of(&stat))
}

fn folder_of<'k>(place: &Place, key: &'k ObjectKey) -> Outcome<(OwnedFd, &'k str)> {
    let (path, name) = split(key);
    match folder::descend(place.open()?, path, &mut AsTheyAre) {
        Ok(folder) => Ok((folder, name)),
        // Nothing can be below an object, so what was asked for is not there.
        Err(Fault::Ours(_, Wrong::BelowObject(_))) => Err(Fault::absent()),
        Err(fault) => Err(fault),
    }
}

fn link(key: &ObjectKey) -> Fault {
    Fault::Ours(ErrorKind::Invalid, Wrong::Link(key.to_string()))
}

fn is_object(kind: FileType, key: &ObjectKey) -> Outcome<()> {
    match kind {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Fault::absent()),
        FileType::Symlink => Err(link(key)),
        _ => Err(Fault::Ours(
            ErrorKind::Invalid,
            Wrong::Special(key.to_string()),
        )),
    }
}

/// Offset and length of a range of an object of `size` bytes.
fn span(range: ByteRange, size: u64) -> Outcome<(u64, u64)> {
    let (offset, length) = match range {
        ByteRange::Full => (0, size),
        ByteRange::Suffix(length) => (size.saturating_sub(length), length.min(size)),
        ByteRange::Span { offset, length } => (offset, length),
    };
    if offset.checked_add(length).is_none_or(|end| end > size) {
        return Err(Fault::Ours(
            ErrorKind::Damaged,
            Wrong::Short {
                size,
                offset,
                length,
            },
        ));
    }
    if length > MAX_PUT_BYTES {
        return Err(Fault::Ours(ErrorKind::Damaged, Wrong::Huge(size)));
    }
    Ok((offset, length))
}

fn read_exact(file: &OwnedFd, offset: u64, length: u64) -> Outcome<Bytes> {
    let no_memory = || Fault::from(Errno::NOMEM);
    let wanted = usize::try_from(length).map_err(|_| no_memory())?;
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(wanted).map_err(|_| no_memory())?;
    while buffer.len() < wanted {
        let found = buffer.len() as u64;
        // The buffer may be larger than was asked for; what is read beyond is cut off below.
        let spare = rustix::buffer::spare_capacity(&mut buffer);
        match rustix::io::pread(file, spare, offset + found) {
            Ok(0) => {
                let wrong = Wrong::Ended {
                    found,
                    wanted: length,
                };
                return Err(Fault::Ours(ErrorKind::Damaged, wrong));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    buffer.truncate(wanted);
    Ok(buffer.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_range_is_larger_than_an_object_may_be() {
        let (huge, span_of) = (MAX_PUT_BYTES + 1, |offset, length| ByteRange::Span {
            offset,
            length,
        });
        for range in [
            ByteRange::Full,
            ByteRange::Suffix(u64::MAX),
            span_of(0, huge),
        ] {
            let Err(fault) = span(range, huge) else {
                panic!("{range:?} is taken")
            };
            assert!(
                matches!(fault, Fault::Ours(ErrorKind::Damaged, Wrong::Huge(_))),
                "{fault:?}"
            );
        }
        assert_eq!(span(span_of(huge - 1, 1), huge).unwrap(), (huge - 1, 1));
        assert!(span(span_of(u64::MAX, 1), u64::MAX).is_err());
    }
}
