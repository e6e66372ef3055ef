//! The names in one folder, sorted.
//!
//! A folder may hold a million names, and they must be sorted before the first can be handed on,
//! so all of them are in memory at once: one text of all names and sixteen bytes for each.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::fs::{FileType, RawDir};

/// One name. The first eight bytes of it decide most comparisons without looking further.
#[derive(Debug, Clone, Copy)]
struct Item {
    prefix: u64,
    start: u32,
    length: u16,
    kind: FileType,
}

/// Sorted names with the kind that the file system states for each (often, not always).
#[derive(Debug, Default)]
pub(crate) struct Listing {
    text: Vec<u8>,
    items: Vec<Item>,
}

impl Listing {
    /// Reads an open folder.
    pub(crate) fn read(folder: impl AsFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Self> {
        let mut listing = Self::default();
        let mut names = RawDir::new(folder, buffer);
        while let Some(next) = names.next() {
            let next = next?;
            if !matches!(next.file_name().to_bytes(), b"." | b"..") {
                listing.push(next.file_name(), next.file_type())?;
            }
        }
        listing.sort();
        Ok(listing)
    }

    /// The given names, which must be in ascending order.
    pub(crate) fn of_names<'a>(names: impl Iterator<Item = &'a [u8]>) -> io::Result<Self> {
        let mut listing = Self::default();
        for name in names {
            let mut text = name.to_vec();
            text.push(0);
            let name = CStr::from_bytes_with_nul(&text).map_err(io::Error::other)?;
            listing.push(name, FileType::Unknown)?;
        }
        Ok(listing)
    }

    fn push(&mut self, name: &CStr, kind: FileType) -> io::Result<()> {
        let bytes = name.to_bytes();
        let too_large = |_| io::Error::other("it holds too many names");
        let start = u32::try_from(self.text.len()).map_err(too_large)?;
        let length = u16::try_from(bytes.len()).map_err(too_large)?;
        let mut first = [0; 8];
        for (to, from) in first.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.text.extend_from_slice(name.to_bytes_with_nul());
        self.items.push(Item {
            prefix: u64::from_be_bytes(first),
            start,
            length,
            kind,
        });
        Ok(())
    }

    fn sort(&mut self) {
        let text = &self.text;
        self.items.sort_unstable_by(|a, b| {
            a.prefix
                .cmp(&b.prefix)
                .then_with(|| raw(text, a).cmp(raw(text, b)))
        });
        // A list that lives while a large folder is walked gives back what growing left over.
        self.text.shrink_to_fit();
        self.items.shrink_to_fit();
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Bytes of memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.text.capacity() + self.items.capacity() * size_of::<Item>()
    }

    /// The name at an index; empty behind the end.
    pub(crate) fn name(&self, index: usize) -> &CStr {
        let bytes = self
            .items
            .get(index)
            .map(|item| raw(&self.text, item))
            .unwrap_or_default();
        CStr::from_bytes_with_nul(bytes).unwrap_or_default()
    }

    /// The kind that the file system stated in the listing.
    pub(crate) fn kind(&self, index: usize) -> FileType {
        self.items
            .get(index)
            .map_or(FileType::Unknown, |item| item.kind)
    }

    /// Whether a name is there.
    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        self.items
            .binary_search_by(|item| {
                let bytes = raw(&self.text, item);
                bytes.strip_suffix(&[0]).unwrap_or(bytes).cmp(name)
            })
            .is_ok()
    }

    /// Whether the file system left open of what kind some name is.
    pub(crate) fn has_unknown_kinds(&self) -> bool {
        self.items.iter().any(|item| item.kind == FileType::Unknown)
    }

    /// Keeps only names that are wanted, by name and kind as listed. Returns whether any went.
    pub(crate) fn keep_kinds(&mut self, mut wanted: impl FnMut(&CStr, FileType) -> bool) -> bool {
        let (text, before) = (&self.text, self.items.len());
        self.items.retain(|item| {
            let name = CStr::from_bytes_with_nul(raw(text, item)).unwrap_or_default();
            wanted(name, item.kind)
        });
        self.items.len() < before
    }

    /// Keeps only names that are wanted.
    pub(crate) fn keep(&mut self, wanted: impl Fn(&[u8]) -> bool) {
        let text = &self.text;
        self.items.retain(|item| {
            let bytes = raw(text, item);
            wanted(bytes.strip_suffix(&[0]).unwrap_or(bytes))
        });
    }
}

/// The bytes of a name with the NUL at its end.
fn raw<'a>(text: &'a [u8], item: &Item) -> &'a [u8] {
    let start = item.start as usize;
    text.get(start..=start + usize::from(item.length))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{Mode, OFlags, open};
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn a_folder_of_any_names_is_listed_in_byte_order() {
        let temp = tempfile::tempdir().unwrap();
        let mut names: Vec<Vec<u8>> = vec![
            b"abcdefgh".into(),
            b"abcdefg".into(),
            b"abcdefgh\x01".into(),
            b"abcdefghi".into(),
            b"\xff\xfe".into(),
            b"new\nline".into(),
            vec![b'x'; 255],
        ];
        for name in &names {
            std::fs::write(temp.path().join(std::ffi::OsStr::from_bytes(name)), b"").unwrap();
        }
        let folder = open(temp.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let listing = Listing::read(folder, &mut buffer).unwrap();
        names.sort();
        let got: Vec<Vec<u8>> = (0..listing.len())
            .map(|index| listing.name(index).to_bytes().to_vec())
            .collect();
        assert_eq!(got, names);
    }

    proptest! {
        #[test]
        fn sorting_and_finding_agree_with_plain_bytes(
            names in proptest::collection::btree_set("[a-c]{1,12}", 0..40), probe in "[a-c]{1,12}"
        ) {
            let mut listing = Listing::default();
            for name in names.iter().rev() {
                listing.push(&std::ffi::CString::new(name.as_str()).unwrap(), FileType::Unknown)?;
            }
            listing.sort();
            let got: Vec<String> = (0..listing.len())
                .map(|index| listing.name(index).to_str().unwrap().to_owned())
                .collect();
            prop_assert_eq!(&got, &names.iter().cloned().collect::<Vec<_>>());
            prop_assert_eq!(listing.contains(probe.as_bytes()), names.contains(&probe));
        }
    }
}
