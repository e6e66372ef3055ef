//! One member of an archive: its header, and what stands in front of it, as an entry.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use backup_core::{EntryKind, EntryMeta, FileTime, Owner};
use tar::{Archive, Entry, EntryType};

/// A member of an archive.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its name, as it stands there.
    pub(crate) name: Vec<u8>,
    /// The name of the file that it is another name of.
    pub(crate) link_to: Option<Vec<u8>>,
    pub(crate) meta: EntryMeta,
    /// Bytes of its content.
    pub(crate) size: u64,
}

/// Reads a file from a position on.
#[derive(Debug)]
pub(crate) struct At {
    pub(crate) file: Arc<File>,
    pub(crate) position: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// The member whose first header stands at a position. What cannot be an entry says why.
pub(crate) fn member(
    file: &Arc<File>,
    start: u64,
) -> io::Result<Result<Member, (Vec<u8>, String)>> {
    with_entry(file, start, |mut entry| read(&mut entry))
}

/// Reads the content of the member at a position.
pub(crate) fn content<T>(
    file: &Arc<File>,
    start: u64,
    read: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> io::Result<T> {
    with_entry(file, start, |mut entry| read(&mut entry))
}

fn with_entry<T>(
    file: &Arc<File>,
    start: u64,
    then: impl FnOnce(Entry<'_, io::BufReader<At>>) -> io::Result<T>,
) -> io::Result<T> {
    let at = At {
        file: Arc::clone(file),
        position: start,
    };
    let mut archive = Archive::new(io::BufReader::with_capacity(64 << 10, at));
    match archive.entries()?.next() {
        Some(entry) => then(entry?),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// What stands in front of a header.
#[derive(Default)]
struct Extended {
    mtime: Option<FileTime>,
    user: Option<String>,
    group: Option<String>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    is_sparse: bool,
}

fn read(entry: &mut Entry<'_, io::BufReader<At>>) -> io::Result<Result<Member, (Vec<u8>, String)>> {
    let extended = extended(entry)?;
    let name = entry.path_bytes().into_owned();
    if extended.is_sparse {
        let why =
            "it is packed with holes in a form that is not understood: unpack it with GNU tar";
        return Ok(Err((name, why.into())));
    }
    let link = entry.link_name_bytes().map(Cow::into_owned);
    let header = entry.header();
    let device = |number: io::Result<Option<u32>>| number.ok().flatten().unwrap_or(0);
    let (major, minor) = (device(header.device_major()), device(header.device_minor()));
    let mut link_to = None;
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => EntryKind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryKind::File,
        EntryType::Directory => EntryKind::Directory,
        EntryType::Symlink => EntryKind::Symlink(link.unwrap_or_default()),
        EntryType::Link => {
            link_to = Some(link.unwrap_or_default());
            EntryKind::File
        }
        EntryType::Fifo => EntryKind::Fifo,
        EntryType::Char => EntryKind::CharDevice { major, minor },
        EntryType::Block => EntryKind::BlockDevice { major, minor },
        other => {
            let why = format!(
                "it is of a type ({:?}) that is not understood",
                char::from(other.as_byte())
            );
            return Ok(Err((name, why)));
        }
    };
    let number = |id: io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
    let text = |bytes: Option<&[u8]>| {
        let bytes = bytes.filter(|bytes| !bytes.is_empty())?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    };
    let owner = Owner {
        uid: number(header.uid()),
        gid: number(header.gid()),
        user: extended
            .user
            .or_else(|| text(header.username_bytes()))
            .map(Into::into),
        group: extended
            .group
            .or_else(|| text(header.groupname_bytes()))
            .map(Into::into),
    };
    let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
    let meta = EntryMeta {
        mode: header.mode().unwrap_or(0o600) & 0o7777,
        owner: Some(owner),
        mtime: extended.mtime.unwrap_or(FileTime { seconds, nanos: 0 }),
        xattrs: extended.xattrs.into_iter().collect(),
        link_group: None,
        attrs: BTreeMap::new(),
        kind,
    };
    let has_content = meta.kind == EntryKind::File && link_to.is_none();
    let size = if has_content { entry.size() } else { 0 };
    Ok(Ok(Member {
        name,
        link_to,
        meta,
        size,
    }))
}

fn extended(entry: &mut Entry<'_, io::BufReader<At>>) -> io::Result<Extended> {
    let mut out = Extended::default();
    let Some(records) = entry.pax_extensions()? else {
        return Ok(out);
    };
    for record in records {
        let record = record?;
        let (key, value) = (record.key_bytes(), record.value_bytes());
        let text = || Some(String::from_utf8_lossy(value).into_owned()).filter(|it| !it.is_empty());
        match key {
            b"mtime" => out.mtime = time(value),
            b"uname" => out.user = text(),
            b"gname" => out.group = text(),
            _ if key.starts_with(b"GNU.sparse.") => out.is_sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    out.xattrs.insert(attribute(name), value.to_vec());
                }
            }
        }
    }
    Ok(out)
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
