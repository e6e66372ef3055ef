//! Seals the pages of an index table: AES-256-GCM under a key that is drawn for each file and stands in its
//! sealed head. The nonce is the section and the number of the page, each of which is written once.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// Bytes that a page grows by.
pub(super) const TAG: usize = 16;

/// What a page is of.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum Section {
    Entries = 0,
    Prints = 1,
    Fan = 2,
    Packs = 3,
}

/// The key of one file.
pub(super) struct PageCipher(LessSafeKey);

impl std::fmt::Debug for PageCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageCipher")
    }
}

impl PageCipher {
    pub(super) fn new(key: &[u8; 32]) -> Option<Self> {
        let key = UnboundKey::new(&AES_256_GCM, key).ok()?;
        Some(Self(LessSafeKey::new(key)))
    }

    /// Seals a page in place: its tag comes behind it.
    pub(super) fn seal(&self, section: Section, number: u64, page: &mut Vec<u8>) -> Option<()> {
        let nonce = nonce(section, number);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::empty(), page);
        page.extend_from_slice(tag.ok()?.as_ref());
        Some(())
    }

    /// Opens a page into `plain`, which has the length that it must have.
    pub(super) fn open(
        &self,
        section: Section,
        number: u64,
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Option<()> {
        let (body, tag) = sealed.split_at_checked(plain.len())?;
        let nonce = nonce(section, number);
        let opened = self
            .0
            .open_separate_gather(nonce, Aad::empty(), body, tag, plain);
        opened.ok()
    }
}

fn nonce(section: Section, number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[0] = section as u8;
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}
