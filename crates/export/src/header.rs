//! Headers of archives: POSIX.1-2001 (pax), with the keywords of GNU tar and star for extended attributes.
//! What an old header can hold stands there, so that old programs read it too; what it cannot (long names,
//! parts of seconds, large numbers, attributes) stands in front, in an extended one.

use backup_core::{EntryKind, EntryMeta, FileTime};
use tar::{EntryType, Header};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 512;
/// Longest name and longest target of a link in a header itself.
const NAME: usize = 100;
/// Longest name of a user or group in a header itself.
const OWNER: usize = 31;
/// Largest numbers that old headers hold: of users and groups, of sizes and times.
const MOST_ID: u32 = 0o7_777_777;
const MOST_SIZE: u64 = 0o77_777_777_777;

/// What stands at a path.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What<'a> {
    /// What the metadata say.
    Itself,
    /// Another name of the file of this path.
    LinkTo(&'a [u8]),
}

/// Appends the header of an entry, `size` bytes of content follow it. Gives the names of extended attributes that
/// cannot stand there. Sockets have no header.
pub(crate) fn append(
    out: &mut Vec<u8>,
    path: &[u8],
    meta: &EntryMeta,
    what: What<'_>,
    size: u64,
) -> Vec<Vec<u8>> {
    let (mut pax, mut left_out) = (Vec::new(), Vec::new());
    let mut header = Header::new_ustar();
    let mut name = path.to_vec();
    if meta.kind == EntryKind::Directory {
        name.push(b'/');
    }
    let (kind, target) = kind_of(meta, what);
    header.set_entry_type(kind);
    let devices = match meta.kind {
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            (major, minor)
        }
        _ => (0, 0),
    };
    // They fail only for other kinds of headers.
    let _ = header.set_device_major(devices.0);
    let _ = header.set_device_minor(devices.1);
    header.set_mode(meta.mode & 0o7777);
    header.set_size(size);
    if size > MOST_SIZE {
        record(&mut pax, b"size", size.to_string().as_bytes());
    }
    time(&mut pax, &mut header, meta.mtime);
    owner(&mut pax, &mut header, meta);
    fill(&mut pax, b"path", &mut header.as_old_mut().name, &name);
    fill(
        &mut pax,
        b"linkpath",
        &mut header.as_old_mut().linkname,
        target,
    );
    if matches!(what, What::Itself) {
        for (key, value) in &meta.xattrs {
            match attribute(key) {
                Some(key) => record(&mut pax, &key, value),
                None => left_out.push(key.clone()),
            }
        }
    }
    header.set_cksum();
    if !pax.is_empty() {
        extended(out, &pax);
    }
    out.extend_from_slice(header.as_bytes());
    left_out
}

/// Appends zeros up to the next block.
pub(crate) fn pad(out: &mut Vec<u8>, size: u64) {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if over > 0 {
        out.resize(out.len() + BLOCK - over, 0);
    }
}

fn kind_of<'a>(meta: &'a EntryMeta, what: What<'a>) -> (EntryType, &'a [u8]) {
    if let What::LinkTo(target) = what {
        return (EntryType::Link, target);
    }
    match &meta.kind {
        EntryKind::Directory => (EntryType::Directory, &[]),
        EntryKind::Symlink(target) => (EntryType::Symlink, target),
        EntryKind::Fifo => (EntryType::Fifo, &[]),
        EntryKind::CharDevice { .. } => (EntryType::Char, &[]),
        EntryKind::BlockDevice { .. } => (EntryType::Block, &[]),
        EntryKind::File | EntryKind::Stream | EntryKind::Disk | EntryKind::Socket => {
            (EntryType::Regular, &[])
        }
    }
}

/// A name in its field, and whole in the extended header where it does not fit.
fn fill(pax: &mut Vec<u8>, key: &[u8], field: &mut [u8; NAME], value: &[u8]) {
    let fits = value.len().min(NAME);
    for (to, from) in field.iter_mut().zip(value.iter().take(fits)) {
        *to = *from;
    }
    if value.len() > NAME {
        record(pax, key, value);
    }
}

fn time(pax: &mut Vec<u8>, header: &mut Header, at: FileTime) {
    let whole = u64::try_from(at.seconds).unwrap_or(0);
    header.set_mtime(whole.min(MOST_SIZE));
    if at.nanos == 0 && at.seconds >= 0 && whole <= MOST_SIZE {
        return;
    }
    // Behind the point a decimal number counts away from zero, and nanoseconds count forward.
    let text = if at.seconds < 0 && at.nanos > 0 {
        let back = 1_000_000_000 - at.nanos.min(999_999_999);
        format!("-{}.{back:09}", (at.seconds + 1).unsigned_abs())
    } else {
        format!("{}.{:09}", at.seconds, at.nanos)
    };
    record(pax, b"mtime", text.as_bytes());
}

fn owner(pax: &mut Vec<u8>, header: &mut Header, meta: &EntryMeta) {
    let (uid, gid) = meta.owner.as_ref().map_or((0, 0), |one| (one.uid, one.gid));
    header.set_uid(u64::from(uid.min(MOST_ID)));
    header.set_gid(u64::from(gid.min(MOST_ID)));
    for (key, id) in [(&b"uid"[..], uid), (&b"gid"[..], gid)] {
        if id > MOST_ID {
            record(pax, key, id.to_string().as_bytes());
        }
    }
    let Some(owner) = &meta.owner else {
        return;
    };
    if let Some(user) = &owner.user
        && (user.len() > OWNER || header.set_username(user).is_err())
    {
        record(pax, b"uname", user.as_bytes());
    }
    if let Some(group) = &owner.group
        && (group.len() > OWNER || header.set_groupname(group).is_err())
    {
        record(pax, b"gname", group.as_bytes());
    }
}

/// The keyword of an extended attribute; `=` and `%` are spelled as GNU tar spells them.
fn attribute(name: &[u8]) -> Option<Vec<u8>> {
    if name.is_empty() || name.contains(&b'\n') {
        return None;
    }
    let mut key = b"SCHILY.xattr.".to_vec();
    for byte in name {
        match byte {
            b'=' => key.extend_from_slice(b"%3D"),
            b'%' => key.extend_from_slice(b"%25"),
            other => key.push(*other),
        }
    }
    Some(key)
}

/// A record of an extended header: its own length in decimal digits, a space, the keyword, `=`, the value,
/// a line break.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn extended(out: &mut Vec<u8>, pax: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    header.set_size(pax.len() as u64);
    let name = b"PaxHeaders/entry";
    for (to, from) in header.as_old_mut().name.iter_mut().zip(name) {
        *to = *from;
    }
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(pax);
    pad(out, pax.len() as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_record(key: &[u8], value: &[u8]) -> String {
        let mut out = Vec::new();
        record(&mut out, key, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_record_counts_its_own_length() {
        assert_eq!(of_record(b"path", b"a"), "9 path=a\n");
        assert_eq!(of_record(b"a", b"b"), "6 a=b\n");
        for length in 1..1200 {
            let made = of_record(b"path", &vec![b'x'; length]);
            let (count, _) = made.split_once(' ').unwrap();
            assert_eq!(count.parse::<usize>().unwrap(), made.len());
        }
    }

    #[test]
    fn times_before_1970_and_parts_of_seconds_are_decimal_numbers() {
        let of = |seconds, nanos| {
            let mut pax = Vec::new();
            time(
                &mut pax,
                &mut Header::new_ustar(),
                FileTime { seconds, nanos },
            );
            String::from_utf8(pax).unwrap()
        };
        assert_eq!(of(5, 0), "");
        assert!(of(5, 7).ends_with("mtime=5.000000007\n"));
        assert!(of(-2, 500_000_000).ends_with("mtime=-1.500000000\n"));
        assert!(of(-1, 1).ends_with("mtime=-0.999999999\n"));
    }
}
