//! Reading: a file is opened while it is asked for its size, then everything that is wanted is asked for at once.

use std::collections::VecDeque;

use backup_core::{ByteRange, ErrorKind, ObjectKey};
use bytes::{Bytes, BytesMut};

use crate::fault::{Fault, Outcome, Wrong};
use crate::folder::Place;
use crate::session::{Opened, Session, Ticket};
use crate::sink::MAX_PUT_BYTES;
use crate::wire::{self, Attributes, Code, FileKind, Request};

/// How many bytes are asked for at once.
const AHEAD: u64 = 8 << 20;

/// Reads an object or a part of it.
pub(crate) async fn get(
    place: &Place,
    session: &Session,
    key: &ObjectKey,
    range: ByteRange,
) -> Outcome<Bytes> {
    let path = place.path_of(key.as_str());
    let size = session.ask(&Request::LinkStat(&path)).await?;
    let request = Request::Open {
        path: &path,
        flags: wire::READ,
        mode: None,
    };
    let file = session.ask(&request).await?;
    let size = size_of(place, session, key, size.attributes().await).await?;
    let file = file.handle().await?;
    let (offset, length) = span(range, size)?;
    read(session, &file, offset, length).await
}

/// The size of an object.
pub(crate) async fn head(place: &Place, session: &Session, key: &ObjectKey) -> Outcome<u64> {
    let path = place.path_of(key.as_str());
    let found = session
        .ask(&Request::LinkStat(&path))
        .await?
        .attributes()
        .await;
    size_of(place, session, key, found).await
}

async fn size_of(
    place: &Place,
    session: &Session,
    key: &ObjectKey,
    found: Outcome<Attributes>,
) -> Outcome<u64> {
    match found {
        Ok(found) => {
            place.saw_root();
            is_object(&found, key)?;
            found
                .size
                .ok_or_else(|| wire::Malformed("it tells no size of a file").into())
        }
        Err(fault @ Fault::Status(Code::Failure)) => {
            match place.or_below_object(session, key, fault).await {
                // Nothing can be below an object, so what was asked for is not there.
                Fault::Ours(_, Wrong::BelowObject(_)) => Err(Fault::absent()),
                fault => Err(fault),
            }
        }
        Err(fault) => Err(place.or_no_root(session, fault).await),
    }
}

fn is_object(found: &Attributes, key: &ObjectKey) -> Outcome<()> {
    let wrong =
        |wrong: fn(String) -> Wrong| Err(Fault::Ours(ErrorKind::Invalid, wrong(key.to_string())));
    match found.kind() {
        // A server that tells no modes is believed that a file is one.
        Some(FileKind::File) | None => Ok(()),
        Some(FileKind::Folder) => Err(Fault::absent()),
        Some(FileKind::Link) => wrong(Wrong::Link),
        Some(FileKind::Special) => wrong(Wrong::Special),
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

struct Piece<'a> {
    offset: u64,
    length: u32,
    ticket: Ticket<'a>,
}

/// Reads a range. Memory grows with what has arrived, not with what a server promises.
async fn read(session: &Session, file: &Opened<'_>, offset: u64, length: u64) -> Outcome<Bytes> {
    let piece = session.features.read_piece;
    let pieces = (AHEAD / u64::from(piece)).max(1);
    let end = offset + length;
    let mut next = offset;
    let mut asked: VecDeque<Piece<'_>> = VecDeque::new();
    let mut whole = BytesMut::new();
    while next < end || !asked.is_empty() {
        while next < end && (asked.len() as u64) < pieces {
            let length = u32::try_from(end - next).unwrap_or(piece).min(piece);
            asked.push_back(ask(session, file, next, length).await?);
            next += u64::from(length);
        }
        let Some(first) = asked.pop_front() else {
            break;
        };
        let found = whole.len() as u64;
        let data = first.ticket.data().await?.filter(|data| !data.is_empty());
        let Some(data) = data else {
            let wrong = Wrong::Ended {
                found,
                wanted: length,
            };
            return Err(Fault::Ours(ErrorKind::Damaged, wrong));
        };
        if data.len() > first.length as usize {
            return Err(wire::Malformed("it sends more than it was asked for").into());
        }
        let rest = first.length - u32::try_from(data.len()).unwrap_or(first.length);
        // All of it in one piece needs no second copy.
        if whole.is_empty() && data.len() as u64 == length {
            return Ok(data);
        }
        whole.extend_from_slice(&data);
        if rest > 0 {
            let from = first.offset + u64::from(first.length - rest);
            asked.push_front(ask(session, file, from, rest).await?);
        }
    }
    Ok(whole.freeze())
}

async fn ask<'a>(
    session: &'a Session,
    file: &Opened<'_>,
    offset: u64,
    length: u32,
) -> Outcome<Piece<'a>> {
    let request = Request::Read {
        handle: &file.handle,
        offset,
        length,
    };
    let ticket = session.ask(&request).await?;
    Ok(Piece {
        offset,
        length,
        ticket,
    })
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
