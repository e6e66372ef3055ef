//! How a stream is cut, decided by its source or by its first bytes.

use backup_core::StreamProfile;

/// How a stream is cut into pieces; recorded with its lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceCut {
    /// Pieces of a fixed size in bytes, a power of two from 4 KiB to 1 MiB.
    Pages(u32),
    /// Content-defined pieces around an average in bytes, a power of two from 4 KiB to 1 MiB.
    Content(u32),
}

/// The smallest piece size, in bytes.
pub const PIECE: u32 = 8 << 10;
/// The largest piece size, in bytes.
pub const LARGEST_PIECE: u32 = 1 << 20;
/// A stream has at most about so many pieces: larger streams get larger pieces, so that what is
/// known of them stays bounded.
pub const MOST_PIECES: u64 = 2 << 20;

impl PieceCut {
    /// The cut of a stream of about `size` bytes (0: not known) with the given profile and first
    /// bytes (4 KiB of them suffice) into about `most` pieces at most ([`MOST_PIECES`]).
    #[must_use]
    pub fn choose(profile: StreamProfile, size: u64, head: &[u8], most: u64) -> Self {
        let profile = match profile {
            StreamProfile::Auto => sniff(size, head),
            given => given,
        };
        match profile {
            StreamProfile::Pages(page) => {
                let page = page.clamp(4 << 10, 64 << 10).next_power_of_two().max(PIECE);
                Self::Pages(grown(page, size, most))
            }
            _ => Self::Content(grown(PIECE, size, most)),
        }
    }

    /// The same cut into pieces of twice the size; the largest stay.
    #[must_use]
    pub fn coarser(self) -> Self {
        let doubled = |piece: u32| (piece * 2).min(LARGEST_PIECE);
        match self {
            Self::Pages(page) => Self::Pages(doubled(page)),
            Self::Content(average) => Self::Content(doubled(average)),
        }
    }

    /// The size of a piece, or its average.
    #[must_use]
    pub const fn piece(self) -> u32 {
        match self {
            Self::Pages(size) | Self::Content(size) => size,
        }
    }
}

fn grown(piece: u32, size: u64, most: u64) -> u32 {
    let mut piece = piece;
    while size / u64::from(piece) > most && piece < LARGEST_PIECE {
        piece *= 2;
    }
    piece
}

/// Whether a stream looks like one whose pages are rewritten in place.
///
/// Known by their first bytes: PostgreSQL relation files (page header, `bufpage.h`: page size and
/// layout version at offset 18) and WAL segments, SQLite databases, InnoDB tablespaces, disk images
/// (MBR or GPT, ext2/3/4, XFS, Btrfs, NTFS, FAT, LUKS, LVM, qcow2, VMDK, VHDX, VDI).
#[must_use]
pub fn sniff(size: u64, head: &[u8]) -> StreamProfile {
    let at = |offset: usize, magic: &[u8]| {
        head.get(offset..offset + magic.len())
            .is_some_and(|bytes| bytes == magic)
    };
    let is_postgres = size.is_multiple_of(8192) && at(18, &[0x04, 0x20]) && !at(0, b"SQLite");
    // xlp_magic differs by version (0xD1xx since 13), xlp_seg_size stands at 32.
    let is_wal = size.is_multiple_of(1 << 20)
        && head.get(1).is_some_and(|&byte| byte == 0xD1)
        && at(36, &[0, 0x20, 0, 0]);
    let is_sqlite = at(0, b"SQLite format 3\0");
    // FIL page of type FSP_HDR (8) at the start of space, in 16 KiB pages.
    let is_innodb = size.is_multiple_of(16384) && at(24, &[0, 8]) && at(4, &[0, 0, 0, 0]);
    if is_postgres || is_wal || is_sqlite || is_innodb || is_disk(size, &at) {
        return StreamProfile::Pages(PIECE);
    }
    StreamProfile::Content
}

fn is_disk(size: u64, at: &dyn Fn(usize, &[u8]) -> bool) -> bool {
    if [&b"QFI\xfb"[..], b"KDMV", b"vhdxfile", b"LUKS\xba\xbe"]
        .iter()
        .any(|magic| at(0, magic))
    {
        return true;
    }
    if at(0x40, b"\x7f\x10\xda\xbe") {
        return true;
    }
    // Raw images: whole sectors, and large; a text that happens to hold two magic bytes is not.
    size.is_multiple_of(512)
        && size >= 1 << 20
        && (at(510, &[0x55, 0xAA])
            || at(512, b"EFI PART")
            || at(1080, &[0x53, 0xEF])
            || at(0, b"XFSB")
            || at(3, b"NTFS    ")
            || at(536, b"LVM2 001"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_known_by_their_first_bytes() {
        let mut page = vec![0u8; 8192];
        page[18..20].copy_from_slice(&0x2004u16.to_le_bytes());
        assert_eq!(sniff(81_920, &page), StreamProfile::Pages(PIECE));
        let mut disk = vec![0u8; 4096];
        disk[1080..1082].copy_from_slice(&0xEF53u16.to_le_bytes());
        assert_eq!(sniff(2 << 30, &disk), StreamProfile::Pages(PIECE));
        assert_eq!(sniff(2 << 30, b"PGDMP\x01\x0e"), StreamProfile::Content);
        assert_eq!(sniff(0, b""), StreamProfile::Content);
    }

    #[test]
    fn pieces_grow_with_the_stream() {
        let cut = |size| PieceCut::choose(StreamProfile::Content, size, b"", MOST_PIECES);
        assert_eq!(cut(0), PieceCut::Content(8 << 10));
        assert_eq!(cut(16 << 30), PieceCut::Content(8 << 10));
        assert_eq!(cut(100 << 30), PieceCut::Content(64 << 10));
        assert_eq!(cut(u64::MAX), PieceCut::Content(1 << 20));
        assert_eq!(cut(u64::MAX).coarser(), PieceCut::Content(1 << 20));
        assert_eq!(cut(0).coarser(), PieceCut::Content(16 << 10));
    }

    #[test]
    fn a_page_size_given_by_a_source_is_kept_in_bounds() {
        let cut = |page| PieceCut::choose(StreamProfile::Pages(page), 1 << 30, b"", MOST_PIECES);
        assert_eq!(cut(65_536), PieceCut::Pages(65_536));
        assert_eq!(cut(1), PieceCut::Pages(8192));
        assert_eq!(cut(u32::MAX), PieceCut::Pages(65_536));
    }
}
