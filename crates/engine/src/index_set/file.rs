//! The file of an index table: reading it when it is opened, and writing it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use backup_core::{ObjectKey, PackId, SessionId};
use backup_format::pack::SessionWrap;
use backup_format::seal::{BlobKind, ObjectKeyring, ObjectKind};
use backup_format::wire::{Put as _, Take, WireError};

use super::cipher::{PageCipher, Section, TAG};
use super::entry::{ENTRY, Entry};
use super::recent::Recent;
use super::table::{IN_PAGE, Member, SEALED_PAGE, Store, Table, TablePack};
use crate::store::random;

/// Records of a frame of the sections behind the pages.
const IN_FRAME: usize = 16 << 10;
/// A pack's record: `pack(32) ‖ size u32 ‖ entries u32 ‖ kind of its blobs u8`.
const PACK: usize = 41;
const END: &[u8; 8] = b"BKSYITAB";
/// A head is no longer than this.
const MOST_HEAD: u64 = 128 << 20;
/// What a head begins with.
const HEAD: &[u8] = b"index table 1";
/// Buckets are at most two to the power of this.
pub(super) const MOST_BITS: u32 = 28;
/// What the name of a whole file ends with.
pub(super) const ENDING: &str = ".table";
/// What that of one begins with that is being written, or was left.
pub(super) const UNFINISHED: &str = ".new-";

impl Table {
    /// Opens a file; `None` if it is none, is damaged, or belongs to another repository.
    pub(super) fn open(path: &Path, ring: &ObjectKeyring) -> Option<Self> {
        let file = File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        let mut end = [0; 16];
        file.read_exact_at(&mut end, length.checked_sub(16)?).ok()?;
        let (head_length, magic) = end.split_first_chunk::<8>()?;
        let head_length = u64::from_le_bytes(*head_length);
        if magic != END || head_length > MOST_HEAD {
            return None;
        }
        let head_at = (length - 16).checked_sub(head_length)?;
        let mut sealed = vec![0; usize::try_from(head_length).ok()?];
        file.read_exact_at(&mut sealed, head_at).ok()?;
        let plain = ring.open(ObjectKind::Cache, &sealed).ok()?;
        let head = Head::decode(&plain).ok()?;
        let mut out = Self {
            store: Store::Memory(Vec::new()),
            count: head.count,
            bits: head.bits,
            fan: Vec::with_capacity((1 << head.bits) + 1),
            prints: Vec::with_capacity(head.count as usize),
            packs: Vec::with_capacity(head.packs as usize),
            members: head.members,
            broken: AtomicBool::new(false),
        };
        let cipher = PageCipher::new(&head.key)?;
        let pages = out.len().div_ceil(IN_PAGE) as u64;
        let mut reader = Frames {
            file: &file,
            cipher: &cipher,
            at: pages * SEALED_PAGE as u64,
        };
        reader.read(Section::Prints, head.count as usize, |[print]| {
            out.prints.push(*print);
            Some(())
        })?;
        reader.read(Section::Fan, (1 << head.bits) + 1, |start| {
            out.fan.push(u32::from_le_bytes(*start));
            Some(())
        })?;
        let mut start = 0u32;
        reader.read(
            Section::Packs,
            head.packs as usize,
            |record: &[u8; PACK]| {
                let (pack, entries) = take_pack(record, start).ok()?;
                out.packs.push(pack);
                start = start.checked_add(entries)?;
                Some(())
            },
        )?;
        if reader.at != head_at || start != head.count {
            return None;
        }
        out.store = Store::File {
            file,
            path: Some(path.to_owned()),
            cipher,
            recent: Recent::new(head.count),
        };
        Some(out)
    }
}

/// Reads the sections behind the pages.
struct Frames<'a> {
    file: &'a File,
    cipher: &'a PageCipher,
    at: u64,
}

impl Frames<'_> {
    fn read<const N: usize>(
        &mut self,
        section: Section,
        records: usize,
        mut each: impl FnMut(&[u8; N]) -> Option<()>,
    ) -> Option<()> {
        let (mut left, mut number) = (records, 0);
        let (mut sealed, mut plain) = (Vec::new(), Vec::new());
        while left > 0 {
            let count = left.min(IN_FRAME);
            sealed.resize(count * N + TAG, 0);
            plain.resize(count * N, 0);
            self.file.read_exact_at(&mut sealed, self.at).ok()?;
            self.cipher.open(section, number, &sealed, &mut plain)?;
            plain.as_chunks::<N>().0.iter().try_for_each(&mut each)?;
            self.at += sealed.len() as u64;
            number += 1;
            left -= count;
        }
        Some(())
    }
}

fn take_pack(record: &[u8; PACK], start: u32) -> Result<(TablePack, u32), WireError> {
    let mut take = Take::new(record);
    let (id, size, entries) = (PackId(take.array()?), take.u32()?, take.u32()?);
    let kind = match entries {
        0 => None,
        _ => Some(BlobKind::from_number(take.u8()?)?),
    };
    let pack = TablePack {
        id,
        size,
        start,
        kind,
    };
    Ok((pack, entries))
}

/// What stands at the end of a file.
struct Head {
    key: [u8; 32],
    count: u32,
    bits: u32,
    packs: u32,
    members: Vec<Member>,
}

impl Head {
    fn encode(&self) -> Vec<u8> {
        let mut out = HEAD.to_vec();
        out.extend_from_slice(&self.key);
        for number in [self.count, self.bits, self.packs] {
            out.put_varint(u64::from(number));
        }
        out.put_varint(self.members.len() as u64);
        for member in &self.members {
            out.put_bytes(member.key.as_str().as_bytes());
            out.put_varint(member.size);
            out.put_varint(u64::from(member.first));
            out.put_varint(u64::from(member.packs));
            out.put_varint(member.sessions.len() as u64);
            for wrap in &member.sessions {
                out.extend_from_slice(&wrap.session.to_bytes());
                out.put_bytes(&wrap.wrap);
            }
        }
        out
    }

    fn decode(plain: &[u8]) -> Result<Self, WireError> {
        const WRONG: WireError = WireError::Range("the head of an index table");
        let mut take = Take::new(plain);
        if take.slice(HEAD.len())? != HEAD {
            return Err(WireError::Magic("index table"));
        }
        let key = take.array()?;
        let small = |take: &mut Take<'_>| u32::try_from(take.varint()?).map_err(|_| WRONG);
        let (count, bits, packs) = (small(&mut take)?, small(&mut take)?, small(&mut take)?);
        if bits > MOST_BITS {
            return Err(WRONG);
        }
        let mut members = Vec::with_capacity(take.count(20)?);
        for _ in 0..members.capacity() {
            let key = std::str::from_utf8(take.bytes()?).map_err(|_| WRONG)?;
            let key = ObjectKey::new(key).map_err(|_| WRONG)?;
            let (size, first, own) = (take.varint()?, small(&mut take)?, small(&mut take)?);
            if first.checked_add(own).is_none_or(|end| end > packs) {
                return Err(WRONG);
            }
            let mut sessions = Vec::new();
            for _ in 0..take.count(17)? {
                let session = SessionId::from_bytes(take.array()?);
                let wrap = take.bytes()?.to_vec();
                sessions.push(SessionWrap { session, wrap });
            }
            members.push(Member {
                key,
                size,
                first,
                packs: own,
                sessions,
            });
        }
        take.end()?;
        Ok(Self {
            key,
            count,
            bits,
            packs,
            members,
        })
    }
}

/// Writes the file of a table: its entries as they come, and at the end the rest.
pub(super) struct TableFile {
    file: BufWriter<File>,
    /// The name that it has until it is whole; none for a file that never has one.
    unfinished: Option<tempfile::TempPath>,
    key: [u8; 32],
    cipher: PageCipher,
    page: Vec<u8>,
    pages: u64,
}

impl TableFile {
    /// Begins a file in a folder, for this user alone; without one a file without a name, which goes with the process.
    pub(super) fn new(folder: Option<&Path>) -> Option<Self> {
        let (file, unfinished) = match folder {
            Some(folder) => {
                let mut named = tempfile::Builder::new();
                let named = named.prefix(UNFINISHED).tempfile_in(folder).ok()?;
                let (file, path) = named.into_parts();
                (file, Some(path))
            }
            None => (tempfile::tempfile().ok()?, None),
        };
        let key: [u8; 32] = random().ok()?;
        Some(Self {
            file: BufWriter::with_capacity(1 << 20, file),
            unfinished,
            cipher: PageCipher::new(&key)?,
            key,
            page: Vec::with_capacity(SEALED_PAGE),
            pages: 0,
        })
    }

    pub(super) fn push(&mut self, entry: &Entry) -> Option<()> {
        self.page.extend_from_slice(entry);
        if self.page.len() < IN_PAGE * ENTRY {
            return Some(());
        }
        self.end_page()
    }

    fn end_page(&mut self) -> Option<()> {
        self.page.resize(IN_PAGE * ENTRY, 0);
        self.cipher
            .seal(Section::Entries, self.pages, &mut self.page)?;
        self.file.write_all(&self.page).ok()?;
        self.page.clear();
        self.pages += 1;
        Some(())
    }

    /// Writes what belongs to the entries, if that is for others too, gives the file its name, and puts it into the
    /// table.
    pub(super) fn finish(mut self, table: &mut Table, ring: &ObjectKeyring) -> Option<()> {
        if !self.page.is_empty() {
            self.end_page()?;
        }
        let unfinished = self.unfinished.take();
        if unfinished.is_some() {
            self.rest(table, ring)?;
        }
        let file = self.file.into_inner().ok()?;
        let path = match unfinished {
            Some(unfinished) => {
                // After a crash a name without its bytes would only be found out page by page.
                file.sync_data().ok()?;
                let name: [u8; 16] = random().ok()?;
                let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
                let path = unfinished.with_file_name(name + ENDING);
                unfinished.persist(&path).ok()?;
                Some(path)
            }
            None => None,
        };
        let cipher = self.cipher;
        let recent = Recent::new(table.count);
        table.store = Store::File {
            file,
            path,
            cipher,
            recent,
        };
        Some(())
    }

    fn rest(&mut self, table: &mut Table, ring: &ObjectKeyring) -> Option<()> {
        let prints = table.prints.iter().map(|print| [*print]);
        self.section(Section::Prints, prints)?;
        let fan = table.fan.iter().map(|start| start.to_le_bytes());
        self.section(Section::Fan, fan)?;
        let ends = table.packs.iter().skip(1).map(|pack| pack.start);
        let packs = table.packs.iter().zip(ends.chain([table.count]));
        self.section(Section::Packs, packs.map(|(pack, end)| put_pack(pack, end)))?;
        let head = Head {
            key: self.key,
            count: table.count,
            bits: table.bits,
            packs: u32::try_from(table.packs.len()).ok()?,
            members: std::mem::take(&mut table.members),
        };
        let sealed = ring.seal(ObjectKind::Cache, &head.encode()).ok()?;
        table.members = head.members;
        self.file.write_all(&sealed).ok()?;
        let length = sealed.len() as u64;
        self.file.write_all(&length.to_le_bytes()).ok()?;
        self.file.write_all(END).ok()
    }

    fn section<const N: usize>(
        &mut self,
        section: Section,
        records: impl Iterator<Item = [u8; N]>,
    ) -> Option<()> {
        let mut frame = Vec::with_capacity(IN_FRAME * N + TAG);
        let mut number = 0;
        let mut records = records.peekable();
        while let Some(record) = records.next() {
            frame.extend_from_slice(&record);
            if frame.len() == IN_FRAME * N || records.peek().is_none() {
                self.cipher.seal(section, number, &mut frame)?;
                self.file.write_all(&frame).ok()?;
                frame.clear();
                number += 1;
            }
        }
        Some(())
    }
}

fn put_pack(pack: &TablePack, end: u32) -> [u8; PACK] {
    let mut out = [0; PACK];
    out[..32].copy_from_slice(&pack.id.0);
    out[32..36].copy_from_slice(&pack.size.to_le_bytes());
    out[36..40].copy_from_slice(&(end - pack.start).to_le_bytes());
    out[40] = pack.kind.map_or(0, |kind| kind as u8);
    out
}
