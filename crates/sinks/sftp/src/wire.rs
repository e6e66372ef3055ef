//! The packets of SFTP version 3 (draft-ietf-secsh-filexfer-02) and of OpenSSH's extensions: pure functions between
//! values and bytes. What a server sends is untrusted: every length is checked before anything is taken by it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest packet that is taken from a server, beside its length: OpenSSH sends at most 256 KiB.
pub(crate) const MAX_PACKET: usize = (256 << 10) + 1024;

/// The version that is spoken.
pub(crate) const VERSION: u32 = 3;

/// Flags of an open.
pub(crate) const READ: u32 = 0x01;
/// Makes a new file for writing, which nobody else has made.
pub(crate) const WRITE_NEW: u32 = 0x02 | 0x08 | 0x20;

const HAS_SIZE: u32 = 0x01;
const HAS_OWNER: u32 = 0x02;
const HAS_MODE: u32 = 0x04;
const HAS_TIMES: u32 = 0x08;
const HAS_MORE: u32 = 0x8000_0000;

/// What a server says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Ok,
    End,
    NoSuchFile,
    Denied,
    Failure,
    BadMessage,
    Unsupported,
    Other(u32),
}

impl Code {
    const fn of(number: u32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::End,
            2 => Self::NoSuchFile,
            3 => Self::Denied,
            4 => Self::Failure,
            5 => Self::BadMessage,
            8 => Self::Unsupported,
            other => Self::Other(other),
        }
    }
}

/// What is known of a file; what a server left out is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Attributes {
    pub(crate) size: Option<u64>,
    pub(crate) mode: Option<u32>,
    /// When it was last written to, in seconds since 1970.
    pub(crate) written: Option<u32>,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    File,
    Folder,
    Link,
    Special,
}

impl Attributes {
    /// What it is, where the server says it.
    pub(crate) const fn kind(&self) -> Option<FileKind> {
        let Some(mode) = self.mode else { return None };
        match mode & 0o170_000 {
            0o100_000 => Some(FileKind::File),
            0o040_000 => Some(FileKind::Folder),
            0o120_000 => Some(FileKind::Link),
            0 => None,
            _ => Some(FileKind::Special),
        }
    }
}

/// A name of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) name: Bytes,
    pub(crate) attributes: Attributes,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(Code),
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<Name>),
    Attributes(Attributes),
    Extended(Bytes),
    /// The names of the extensions that the server has.
    Version(u32, Vec<String>),
}

/// A packet that no server should send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server does not speak SFTP: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Takes the next whole packet out of what has arrived.
pub(crate) fn next_packet(arrived: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let Some(head) = arrived.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*head) as usize;
    if length == 0 || length > MAX_PACKET {
        return Err(Malformed(
            "the length of a packet is out of bounds (a start-up file of the account that prints something looks so)",
        ));
    }
    if arrived.len() < 4 + length {
        return Ok(None);
    }
    arrived.advance(4);
    Ok(Some(arrived.split_to(length).freeze()))
}

/// Reads an answer and the number of its request.
pub(crate) fn reply(mut packet: Bytes) -> Result<(u32, Reply), Malformed> {
    let kind = packet
        .try_get_u8()
        .map_err(|_| Malformed("a packet is empty"))?;
    let number = word(&mut packet)?;
    let reply = match kind {
        2 => return Ok((0, version(number, packet)?)),
        101 => Reply::Status(Code::of(word(&mut packet)?)),
        102 => {
            let handle = text(&mut packet)?;
            if handle.len() > 256 {
                return Err(Malformed("a handle is too long"));
            }
            Reply::Handle(handle)
        }
        103 => Reply::Data(text(&mut packet)?),
        104 => Reply::Names(names(packet)?),
        105 => Reply::Attributes(attributes(&mut packet)?),
        201 => Reply::Extended(packet),
        _ => return Err(Malformed("a packet is of no kind that a server sends")),
    };
    Ok((number, reply))
}

fn version(number: u32, mut packet: Bytes) -> Result<Reply, Malformed> {
    let mut extensions = Vec::new();
    while packet.has_remaining() && extensions.len() < 256 {
        let name = text(&mut packet)?;
        text(&mut packet)?;
        extensions.push(String::from_utf8_lossy(&name).into_owned());
    }
    Ok(Reply::Version(number, extensions))
}

fn names(mut packet: Bytes) -> Result<Vec<Name>, Malformed> {
    let count = word(&mut packet)?;
    let mut names = Vec::new();
    for _ in 0..count {
        let name = text(&mut packet)?;
        // A line as `ls -l` shows it, for people.
        text(&mut packet)?;
        let attributes = attributes(&mut packet)?;
        names.push(Name { name, attributes });
    }
    Ok(names)
}

fn attributes(packet: &mut Bytes) -> Result<Attributes, Malformed> {
    let flags = word(packet)?;
    let mut found = Attributes::default();
    if flags & HAS_SIZE != 0 {
        found.size = Some(long(packet)?);
    }
    if flags & HAS_OWNER != 0 {
        long(packet)?;
    }
    if flags & HAS_MODE != 0 {
        found.mode = Some(word(packet)?);
    }
    if flags & HAS_TIMES != 0 {
        word(packet)?;
        found.written = Some(word(packet)?);
    }
    if flags & HAS_MORE != 0 {
        for _ in 0..word(packet)? {
            text(packet)?;
            text(packet)?;
        }
    }
    Ok(found)
}

/// The room of a file system, as `statvfs@openssh.com` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileSystem {
    pub(crate) fragment: u64,
    pub(crate) blocks: u64,
    pub(crate) free: u64,
    pub(crate) available: u64,
    pub(crate) inodes_available: u64,
    pub(crate) inodes: u64,
    pub(crate) read_only: bool,
}

impl FileSystem {
    pub(crate) fn read(mut packet: Bytes) -> Result<Self, Malformed> {
        let packet = &mut packet;
        long(packet)?;
        let (fragment, blocks, free, available) =
            (long(packet)?, long(packet)?, long(packet)?, long(packet)?);
        let inodes = long(packet)?;
        long(packet)?;
        let inodes_available = long(packet)?;
        long(packet)?;
        let read_only = long(packet)? & 1 != 0;
        Ok(Self {
            fragment,
            blocks,
            free,
            available,
            inodes_available,
            inodes,
            read_only,
        })
    }
}

/// The longest reads and writes, as `limits@openssh.com` tells them; 0 where there is no limit.
pub(crate) fn limits(mut packet: Bytes) -> Result<(u64, u64), Malformed> {
    long(&mut packet)?;
    Ok((long(&mut packet)?, long(&mut packet)?))
}

fn word(packet: &mut Bytes) -> Result<u32, Malformed> {
    packet
        .try_get_u32()
        .map_err(|_| Malformed("a packet is too short"))
}

fn long(packet: &mut Bytes) -> Result<u64, Malformed> {
    packet
        .try_get_u64()
        .map_err(|_| Malformed("a packet is too short"))
}

fn text(packet: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = word(packet)? as usize;
    if length > packet.remaining() {
        return Err(Malformed("a packet is too short"));
    }
    Ok(packet.split_to(length))
}

/// A question to the server, but for its number.
#[derive(Debug, Clone)]
pub(crate) enum Request<'a> {
    Open {
        path: &'a str,
        flags: u32,
        mode: Option<u32>,
    },
    Close(&'a Bytes),
    Read {
        handle: &'a Bytes,
        offset: u64,
        length: u32,
    },
    Write {
        handle: &'a Bytes,
        offset: u64,
        data: &'a [u8],
    },
    Stat(&'a str),
    LinkStat(&'a str),
    OpenFolder(&'a str),
    ReadFolder(&'a Bytes),
    Remove(&'a str),
    MakeFolder(&'a str, u32),
    Rename(&'a str, &'a str),
    RenameOver(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Sync(&'a Bytes),
    Room(&'a str),
    Limits,
}

impl Request<'_> {
    /// The packet, its length first.
    pub(crate) fn packet(&self, number: u32) -> Bytes {
        let body = match self {
            Self::Write { data, .. } => data.len(),
            _ => 512,
        };
        let mut out = BytesMut::with_capacity(body + 128);
        out.put_u32(0);
        out.put_u8(self.kind());
        out.put_u32(number);
        match self {
            Self::Open { path, flags, mode } => {
                put(&mut out, path.as_bytes());
                out.put_u32(*flags);
                put_mode(&mut out, *mode);
            }
            Self::Close(handle) | Self::ReadFolder(handle) => put(&mut out, handle),
            Self::Read {
                handle,
                offset,
                length,
            } => {
                put(&mut out, handle);
                out.put_u64(*offset);
                out.put_u32(*length);
            }
            Self::Write {
                handle,
                offset,
                data,
            } => {
                put(&mut out, handle);
                out.put_u64(*offset);
                put(&mut out, data);
            }
            Self::Stat(path)
            | Self::LinkStat(path)
            | Self::OpenFolder(path)
            | Self::Remove(path) => put(&mut out, path.as_bytes()),
            Self::MakeFolder(path, mode) => {
                put(&mut out, path.as_bytes());
                put_mode(&mut out, Some(*mode));
            }
            Self::Rename(from, to) => {
                put(&mut out, from.as_bytes());
                put(&mut out, to.as_bytes());
            }
            Self::RenameOver(from, to) | Self::HardLink(from, to) => {
                put(&mut out, self.extension().as_bytes());
                put(&mut out, from.as_bytes());
                put(&mut out, to.as_bytes());
            }
            Self::Sync(handle) => {
                put(&mut out, self.extension().as_bytes());
                put(&mut out, handle);
            }
            Self::Room(path) => {
                put(&mut out, self.extension().as_bytes());
                put(&mut out, path.as_bytes());
            }
            Self::Limits => put(&mut out, self.extension().as_bytes()),
        }
        finished(out)
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Open { .. } => 3,
            Self::Close(_) => 4,
            Self::Read { .. } => 5,
            Self::Write { .. } => 6,
            Self::LinkStat(_) => 7,
            Self::OpenFolder(_) => 11,
            Self::ReadFolder(_) => 12,
            Self::Remove(_) => 13,
            Self::MakeFolder(..) => 14,
            Self::Stat(_) => 17,
            Self::Rename(..) => 18,
            _ => 200,
        }
    }

    /// The name of the extension that it belongs to.
    pub(crate) const fn extension(&self) -> &'static str {
        match self {
            Self::RenameOver(..) => "posix-rename@openssh.com",
            Self::HardLink(..) => "hardlink@openssh.com",
            Self::Sync(_) => "fsync@openssh.com",
            Self::Room(_) => "statvfs@openssh.com",
            Self::Limits => "limits@openssh.com",
            _ => "",
        }
    }
}

/// The first packet of a session.
pub(crate) fn hello() -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32(0);
    out.put_u8(1);
    out.put_u32(VERSION);
    finished(out)
}

fn finished(mut packet: BytesMut) -> Bytes {
    let length = u32::try_from(packet.len() - 4).unwrap_or(u32::MAX);
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet.freeze()
}

fn put(out: &mut BytesMut, text: &[u8]) {
    // Keys, paths and pieces of objects: none comes near to 4 GiB.
    out.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.put_slice(text);
}

fn put_mode(out: &mut BytesMut, mode: Option<u32>) {
    match mode {
        Some(mode) => {
            out.put_u32(HAS_MODE);
            out.put_u32(mode);
        }
        None => out.put_u32(0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(kind: u8, rest: &[u8]) -> Bytes {
        let mut out = vec![kind, 0, 0, 0, 7];
        out.extend_from_slice(rest);
        out.into()
    }

    #[test]
    fn packets_are_taken_out_of_a_stream_whole() {
        let mut arrived = BytesMut::from(&[0, 0, 0, 2, 9][..]);
        assert_eq!(next_packet(&mut arrived), Ok(None));
        arrived.extend_from_slice(&[8, 0]);
        assert_eq!(
            next_packet(&mut arrived),
            Ok(Some(Bytes::from_static(&[9, 8])))
        );
        assert_eq!(&arrived[..], [0]);
        for bad in [&b"Welcome to the server"[..], &[0, 0, 0, 0]] {
            assert!(next_packet(&mut BytesMut::from(bad)).is_err());
        }
    }

    #[test]
    fn a_question_has_the_shape_of_the_draft() {
        let asked = Request::Open {
            path: "a/b",
            flags: WRITE_NEW,
            mode: Some(0o600),
        };
        let wanted = [
            &[0, 0, 0, 24, 3, 0, 0, 0, 5, 0, 0, 0, 3][..],
            b"a/b",
            &[0, 0, 0, 0x2a, 0, 0, 0, 4, 0, 0, 1, 0x80],
        ]
        .concat();
        assert_eq!(&asked.packet(5)[..], wanted);
    }

    #[test]
    fn names_are_read_with_what_is_known_of_them() {
        let mut rest = vec![0, 0, 0, 1, 0, 0, 0, 1, b'x', 0, 0, 0, 0];
        rest.extend_from_slice(&[0, 0, 0, 0x0d]);
        rest.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 9]);
        rest.extend_from_slice(&[0, 0, 0x81, 0x80, 0, 0, 0, 1, 0, 0, 0, 2]);
        let (number, Reply::Names(names)) = reply(packet(104, &rest)).unwrap() else {
            panic!("no names")
        };
        let found = names[0].attributes;
        assert_eq!((number, &names[0].name[..]), (7, &b"x"[..]));
        assert_eq!((found.size, found.written), (Some(9), Some(2)));
        assert_eq!(found.kind(), Some(FileKind::File));
    }

    #[test]
    fn no_answer_is_believed_about_its_own_length() {
        let huge = [0xff; 4];
        for kind in [101, 102, 103, 104, 105] {
            for length in 0..4 {
                assert!(reply(packet(kind, &huge[..length])).is_err());
            }
        }
        for kind in [102, 103, 104] {
            assert!(reply(packet(kind, &huge)).is_err(), "{kind}");
        }
        let many_more = [&[0x80, 0, 0, 0][..], &huge].concat();
        assert!(reply(packet(105, &many_more)).is_err());
        assert!(reply(packet(200, &[])).is_err());
        assert!(reply(Bytes::new()).is_err());
        let long_handle = [&[0, 0, 1, 1][..], &[1; 257]].concat();
        assert!(reply(packet(102, &long_handle)).is_err());
    }

    fn attributes_of(found: Attributes, more: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut out = BytesMut::new();
        let flag = |is_told: bool, flag| if is_told { flag } else { 0 };
        out.put_u32(
            flag(found.size.is_some(), HAS_SIZE)
                | flag(found.mode.is_some(), HAS_MODE)
                | flag(found.written.is_some(), HAS_TIMES)
                | flag(!more.is_empty(), HAS_MORE),
        );
        found.size.into_iter().for_each(|size| out.put_u64(size));
        found.mode.into_iter().for_each(|mode| out.put_u32(mode));
        if let Some(written) = found.written {
            out.put_u32(0);
            out.put_u32(written);
        }
        if !more.is_empty() {
            out.put_u32(more.len() as u32);
        }
        for (name, value) in more {
            put(&mut out, name);
            put(&mut out, value);
        }
        out.to_vec()
    }

    fn any_attributes() -> impl Strategy<Value = Attributes> {
        any::<(Option<u64>, Option<u32>, Option<u32>)>().prop_map(|(size, mode, written)| {
            Attributes {
                size,
                mode,
                written,
            }
        })
    }

    fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..40)
    }

    /// A list of names as a server sends it, and what is to be read of it.
    fn any_names() -> impl Strategy<Value = (Vec<u8>, Vec<Name>)> {
        let more = prop::collection::vec((any_bytes(), any_bytes()), 0..3);
        let one = (any_bytes(), any_bytes(), any_attributes(), more);
        prop::collection::vec(one, 0..20).prop_map(|all| {
            let mut out = BytesMut::new();
            out.put_u32(all.len() as u32);
            let mut names = Vec::new();
            for (name, line, attributes, more) in all {
                put(&mut out, &name);
                put(&mut out, &line);
                out.put_slice(&attributes_of(attributes, &more));
                let name = name.into();
                names.push(Name { name, attributes });
            }
            (out.to_vec(), names)
        })
    }

    proptest! {
        #[test]
        fn names_come_out_as_they_went_in((sent, names) in any_names()) {
            prop_assert_eq!(reply(packet(104, &sent)), Ok((7, Reply::Names(names))));
        }

        /// Wherever a list ends too early it is refused, and whatever it says of its length nothing is taken for that.
        #[test]
        fn names_that_end_too_early_are_refused(
            (mut sent, names) in any_names(),
            cut in any::<prop::sample::Index>(),
            more in 1u32..,
        ) {
            let cut = &sent[..cut.index(sent.len())];
            prop_assert!(reply(packet(104, cut)).is_err());
            let count = (names.len() as u32).saturating_add(more);
            sent[..4].copy_from_slice(&count.to_be_bytes());
            prop_assert!(reply(packet(104, &sent)).is_err());
        }

        /// A stream is cut into the same packets however it arrives.
        #[test]
        fn packets_do_not_depend_on_how_they_arrive(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 1..8),
            size in 1usize..20,
        ) {
            let mut stream = BytesMut::new();
            packets.iter().for_each(|packet| put(&mut stream, packet));
            let (mut arrived, mut found) = (BytesMut::new(), Vec::new());
            for piece in stream.chunks(size) {
                arrived.extend_from_slice(piece);
                while let Some(packet) = next_packet(&mut arrived).unwrap() {
                    found.push(packet.to_vec());
                }
            }
            prop_assert!(arrived.is_empty());
            prop_assert_eq!(found, packets);
        }

        #[test]
        fn whatever_arrives_is_taken_or_refused(
            kind in prop::sample::select(&[2u8, 101, 102, 103, 104, 105, 201][..]),
            rest in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..200),
        ) {
            if let Ok((_, Reply::Extended(told))) = reply(packet(kind, &rest)) {
                let _ = (FileSystem::read(told.clone()), limits(told));
            }
        }
    }

    #[test]
    fn a_packet_may_be_as_long_as_the_limit_and_no_longer() {
        let head =
            |length: usize| BytesMut::from(&u32::try_from(length).unwrap().to_be_bytes()[..]);
        let mut arrived = head(MAX_PACKET);
        assert_eq!(next_packet(&mut arrived), Ok(None));
        assert!(
            arrived.capacity() < 1024,
            "nothing is taken for what is only promised"
        );
        arrived.resize(4 + MAX_PACKET, 7);
        assert_eq!(
            next_packet(&mut arrived).unwrap().unwrap().len(),
            MAX_PACKET
        );
        assert!(next_packet(&mut head(MAX_PACKET + 1)).is_err());
    }
}
