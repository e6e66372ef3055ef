//! One member of an archive: its header, and what stands in front of it, as an entry.

use std::collections::BTreeMap;
use std::io;

use backup_core::{EntryKind, EntryMeta, FileTime, Owner};
use tar::EntryType;

use super::headers::{Blocks, Headers, Raw};
use super::span::Span;
use super::sparse::{self, Content};

/// A member of an archive.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its name, as it stands there.
    pub(crate) name: Vec<u8>,
    /// The name of the file that it is another name of.
    pub(crate) link_to: Option<Vec<u8>>,
    pub(crate) meta: EntryMeta,
    /// Where its content is, if it is a file.
    pub(crate) content: Option<Content>,
}

/// What cannot be an entry: its name, and why.
pub(crate) type LeftOut = (Vec<u8>, String);

/// The member whose first header stands at a position.
pub(crate) fn member(archive: &Span, start: u64) -> io::Result<Result<Member, LeftOut>> {
    let mut headers = Headers::new(archive.reader(start), start);
    match headers.next()? {
        Some(raw) => decode(&mut headers, raw),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The member of a header that was just read.
pub(crate) fn decode<B: Blocks>(
    headers: &mut Headers<B>,
    mut raw: Raw,
) -> io::Result<Result<Member, LeftOut>> {
    let name = raw.name();
    let mut link_to = None;
    let kind = match kind(&raw) {
        Ok(Some(kind)) => kind,
        Ok(None) => {
            link_to = Some(link(&raw));
            EntryKind::File
        }
        Err(why) => return Ok(Err((name, why))),
    };
    let mut content = None;
    if kind == EntryKind::File && link_to.is_none() {
        match sparse::content(headers, &mut raw)? {
            Ok(found) => content = Some(found),
            Err(why) => {
                let why = format!("{why}: unpack it with GNU tar");
                return Ok(Err((name, why)));
            }
        }
    }
    Ok(Ok(Member {
        name,
        link_to,
        meta: meta(&raw, kind),
        content,
    }))
}

/// What kind of entry it is; nothing for another name of a file.
fn kind(raw: &Raw) -> Result<Option<EntryKind>, String> {
    let header = &raw.header;
    let device = |number: io::Result<Option<u32>>| number.ok().flatten().unwrap_or(0);
    let (major, minor) = (device(header.device_major()), device(header.device_minor()));
    Ok(Some(match header.entry_type() {
        EntryType::Regular | EntryType::Continuous if raw.is_folder() => EntryKind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryKind::File,
        EntryType::Directory => EntryKind::Directory,
        EntryType::Symlink => EntryKind::Symlink(link(raw)),
        EntryType::Link => return Ok(None),
        EntryType::Fifo => EntryKind::Fifo,
        EntryType::Char => EntryKind::CharDevice { major, minor },
        EntryType::Block => EntryKind::BlockDevice { major, minor },
        other => {
            return Err(format!(
                "it is of a type ({:?}) that is not understood",
                char::from(other.as_byte())
            ));
        }
    }))
}

/// What a link leads to.
fn link(raw: &Raw) -> Vec<u8> {
    match (&raw.long_link, raw.record(b"linkpath")) {
        (Some(link), _) => link.clone(),
        (None, Some(link)) => link.to_vec(),
        (None, None) => {
            let link = raw.header.link_name_bytes();
            link.map_or_else(Vec::new, |link| link.into_owned())
        }
    }
}

fn meta(raw: &Raw, kind: EntryKind) -> EntryMeta {
    let header = &raw.header;
    let number = |key: &[u8], id: io::Result<u64>| {
        let id = raw.number(key).or_else(|| id.ok());
        id.and_then(|id| u32::try_from(id).ok()).unwrap_or(0)
    };
    let text = |key: &[u8], bytes: Option<&[u8]>| {
        let bytes = raw.record(key).filter(|bytes| !bytes.is_empty()).or(bytes);
        let bytes = bytes.filter(|bytes| !bytes.is_empty())?;
        Some(String::from_utf8_lossy(bytes).into())
    };
    let owner = Owner {
        uid: number(b"uid", header.uid()),
        gid: number(b"gid", header.gid()),
        user: text(b"uname", header.username_bytes()),
        group: text(b"gname", header.groupname_bytes()),
    };
    let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
    let mtime = raw.record(b"mtime").and_then(time);
    let xattrs: BTreeMap<_, _> = raw
        .records
        .iter()
        .filter_map(|(key, value)| {
            let name = key.strip_prefix(b"SCHILY.xattr.")?;
            Some((attribute(name), value.clone()))
        })
        .collect();
    EntryMeta {
        mode: header.mode().unwrap_or(0o600) & 0o7777,
        owner: Some(owner),
        mtime: mtime.unwrap_or(FileTime { seconds, nanos: 0 }),
        xattrs: xattrs.into_iter().collect(),
        link_group: None,
        attrs: BTreeMap::new(),
        kind,
    }
}

/// The name of an extended attribute, as GNU tar spells it.
fn attribute(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        let spelled = match rest.get(..3) {
            Some(b"%3D") => Some(b'='),
            Some(b"%25") => Some(b'%'),
            _ => None,
        };
        out.push(spelled.unwrap_or(byte));
        rest = if spelled.is_some() {
            rest.get(3..).unwrap_or_default()
        } else {
            after
        };
    }
    out
}

/// A time as a decimal number of seconds.
fn time(value: &[u8]) -> Option<FileTime> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_before = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if is_before && nanos > 0 {
        let seconds = seconds.checked_sub(1)?;
        return Some(FileTime {
            seconds,
            nanos: 1_000_000_000 - nanos,
        });
    }
    Some(FileTime { seconds, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        let of = |text: &str| time(text.as_bytes()).map(|at| (at.seconds, at.nanos));
        assert_eq!(of("5"), Some((5, 0)));
        assert_eq!(of("5.000000007"), Some((5, 7)));
        assert_eq!(of("5.25"), Some((5, 250_000_000)));
        assert_eq!(of("-1.500000000"), Some((-2, 500_000_000)));
        assert_eq!(of("-0.999999999"), Some((-1, 1)));
        assert_eq!(of("x"), None);
        assert_eq!(of("1.-5"), None);
    }

    #[test]
    fn names_of_attributes_are_read_as_gnu_tar_spells_them() {
        assert_eq!(attribute(b"user.a%3Db%25"), b"user.a=b%");
        assert_eq!(attribute(b"user.%3"), b"user.%3");
    }
}
