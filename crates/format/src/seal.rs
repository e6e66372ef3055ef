//! Sealing: blobs of a pack, and the small objects beside the packs.
//!
//! **Blob.** `session(16) ‖ nonce(12) ‖ ciphertext ‖ tag(16)`. The plaintext is one codec byte
//! (0: stored as it is, 1: one zstd frame) and the body. The cipher is AES-256-GCM (NIST SP
//! 800-38D); its key is `HKDF-Expand(PRK, "backstay v1 blob" ‖ kind ‖ id)` (RFC 5869) where PRK is
//! `HKDF-Extract(salt = repository id, ikm = secret)` and the secret is the session's data key, or
//! for kinds that writers read the repository's lineage key (then `session` is all zeros). Since
//! every (session, kind, id) has a key of its own, the random nonce is never used twice with one
//! key. Additional data: `repository id ‖ kind ‖ id ‖ raw length (u32)`. A blob stands for itself:
//! it can be moved to another pack, or another tier, without any data key.
//!
//! **Object.** `"BKSY" ‖ kind(1) ‖ version(1) ‖ flags(1) ‖ 0 ‖ raw length(u32) ‖ nonce(12) ‖
//! ciphertext ‖ tag(16)` under `HKDF(index key, "backstay v1 object" ‖ kind)`; additional data is
//! the 12-byte header and the repository id. Flag 1: the plaintext is one zstd frame.

use std::io::Cursor;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::rand;
use backup_core::{ChunkId, RepoId, SessionId};

use crate::wire::{Take, WireError};

mod compression;

use compression::{Compression, not_compressed};

/// Bytes that sealing adds to the body of a blob.
pub const BLOB_OVERHEAD: usize = 16 + 12 + 1 + 16;
/// Largest sealed length of a blob, in bytes: the index has 24 bits for it.
pub const MAX_SEALED: usize = (1 << 24) - 1;
/// Largest raw length of a blob, in bytes: what cannot be compressed grows when it is sealed.
pub const MAX_RAW: usize = MAX_SEALED - BLOB_OVERHEAD;
/// Bytes that sealing adds to an object beside the packs.
pub const OBJECT_OVERHEAD: usize = OBJECT_HEADER + 12 + TAG;
/// Largest raw length of any object beside the packs, in bytes; see [`ObjectKind::max_raw`].
pub const MAX_OBJECT: usize = 256 << 20;

/// The zstd level that is used unless another is asked for.
pub const DEFAULT_LEVEL: i32 = 3;

const NONCE_AT: usize = 16;
const BODY_AT: usize = 28;
const TAG: usize = 16;
const OBJECT_HEADER: usize = 12;

/// What a blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BlobKind {
    /// Content of entries. Sealed under the session's data key: for readers.
    Data = 0,
    /// A page of a manifest. Sealed under the session's data key: for readers.
    Page = 1,
    /// Piece digests, extents: what a writer needs to build on a parent. Sealed under the lineage
    /// key: for writers and readers.
    Lineage = 2,
}

impl BlobKind {
    /// The kind of a stored number.
    ///
    /// # Errors
    /// [`WireError::Range`] for a number that stands for no kind.
    pub const fn from_number(number: u8) -> Result<Self, WireError> {
        match number {
            0 => Ok(Self::Data),
            1 => Ok(Self::Page),
            2 => Ok(Self::Lineage),
            _ => Err(WireError::Range("a kind of blob")),
        }
    }

    /// Whether blobs of this kind stand in packs below `meta/` (the others: `data/`).
    #[must_use]
    pub const fn is_meta(self) -> bool {
        matches!(self, Self::Page | Self::Lineage)
    }
}

/// What an object beside the packs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// `sessions/…`
    Session = 1,
    /// `index/…`
    IndexRun = 2,
    /// `refs/…`
    Refs = 3,
    /// `snap/…`
    Snapshot = 4,
    /// `ledger/…`
    Ledger = 5,
    /// A file of the local cache.
    Cache = 6,
    /// The header at the end of a pack.
    PackHeader = 7,
    /// `sessions/….done`
    SessionDone = 8,
    /// `sessions/….revoked`
    SessionRevoked = 9,
    /// `verdicts/…`
    Verdict = 10,
    /// `gc/<n>`
    Condemned = 11,
    /// `gc/<n>.done`
    Dead = 12,
}

impl ObjectKind {
    /// Largest raw length in bytes. Nothing longer is sealed, and nothing longer is read.
    #[must_use]
    pub const fn max_raw(self) -> usize {
        match self {
            Self::Session | Self::SessionDone | Self::SessionRevoked => 32 << 10,
            Self::Ledger => 64 << 10,
            Self::Verdict => 256 << 10,
            Self::PackHeader => 16 << 20,
            Self::Snapshot => 64 << 20,
            Self::IndexRun | Self::Refs | Self::Cache | Self::Condemned | Self::Dead => MAX_OBJECT,
        }
    }

    /// Largest sealed length in bytes.
    #[must_use]
    pub const fn max_sealed(self) -> usize {
        self.max_raw() + OBJECT_OVERHEAD
    }
}

/// Why something could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It was changed, belongs to something else, or the key is another one.
    #[error(
        "it does not authenticate: it is damaged, was swapped for another, or belongs to another key"
    )]
    Authentication,
    /// Its layout is wrong.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Its compressed body does not decompress to what its header says.
    #[error("its compressed body does not decompress")]
    Decompress,
    /// It could not be compressed.
    #[error("it could not be compressed: {0}")]
    Compress(String),
    /// It is too large to be sealed.
    #[error("{0} bytes are too many for one blob or object")]
    TooLarge(usize),
    /// What was sealed does not open to what was given: the memory or processor is not to be
    /// trusted.
    #[error(
        "what was just sealed does not open to what was given: this machine's memory or processor is faulty; test its memory before you trust it with backups"
    )]
    SelfCheck,
    /// The system gave no randomness.
    #[error("the system gave no randomness")]
    Randomness,
}

/// A 256-bit key for [`hkdf::expand`].
#[derive(Clone, Copy)]
struct Key256;

impl aws_lc_rs::hkdf::KeyType for Key256 {
    fn len(&self) -> usize {
        32
    }
}

fn expand(prk: &Prk, info: &[&[u8]]) -> Result<LessSafeKey, SealError> {
    let mut key = [0u8; 32];
    prk.expand(info, Key256)
        .and_then(|okm| okm.fill(&mut key))
        .map_err(|_| SealError::Authentication)?;
    let unbound = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| SealError::Authentication);
    zeroize::Zeroize::zeroize(&mut key);
    Ok(LessSafeKey::new(unbound?))
}

fn random_nonce() -> Result<[u8; 12], SealError> {
    let mut nonce = [0u8; 12];
    rand::fill(&mut nonce).map_err(|_| SealError::Randomness)?;
    Ok(nonce)
}

/// The secret that blobs are sealed under, ready for use.
#[derive(Clone)]
pub struct BlobKey {
    repo: RepoId,
    session: SessionId,
    prk: Prk,
}

impl std::fmt::Debug for BlobKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobKey({:?})", self.session)
    }
}

impl BlobKey {
    /// The key of a session, from its data key.
    #[must_use]
    pub fn of_session(repo: RepoId, session: SessionId, data_key: &[u8; 32]) -> Self {
        let prk = Salt::new(HKDF_SHA256, repo.as_bytes()).extract(data_key);
        Self { repo, session, prk }
    }

    /// The key of what writers read, from the lineage key.
    #[must_use]
    pub fn of_lineage(repo: RepoId, lineage_key: &[u8; 32]) -> Self {
        Self::of_session(repo, SessionId(0), lineage_key)
    }

    /// The session whose blobs this key opens; zero for what writers read.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }

    fn cipher(&self, kind: BlobKind, id: &ChunkId) -> Result<LessSafeKey, SealError> {
        expand(
            &self.prk,
            &[b"backstay v1 blob", &[kind as u8], id.as_bytes()],
        )
    }

    fn aad(&self, kind: BlobKind, id: &ChunkId, raw: usize) -> [u8; 53] {
        let mut aad = [0u8; 53];
        aad[..16].copy_from_slice(self.repo.as_bytes());
        aad[16] = kind as u8;
        aad[17..49].copy_from_slice(id.as_bytes());
        // Raw lengths are below 2^24.
        aad[49..].copy_from_slice(&(raw as u32).to_le_bytes());
        aad
    }
}

/// The session that a sealed blob names in front.
///
/// # Errors
/// [`SealError::Wire`] when the blob is too short.
pub fn blob_session(sealed: &[u8]) -> Result<SessionId, SealError> {
    Ok(SessionId::from_bytes(Take::new(sealed).array()?))
}

/// Seals and opens blobs with its own compression contexts; one for each thread.
pub struct BlobCodec {
    /// Made when something is sealed for the first time by one that was made to open.
    compression: Option<Compression>,
    decompressor: zstd::bulk::Decompressor<'static>,
    scratch: Vec<u8>,
    plain: Vec<u8>,
}

impl std::fmt::Debug for BlobCodec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlobCodec")
    }
}

impl BlobCodec {
    /// A codec that compresses at the given zstd level (negative ones are faster than 1).
    ///
    /// # Errors
    /// [`SealError::Compress`] for a level that zstd does not have.
    pub fn new(level: i32) -> Result<Self, SealError> {
        Ok(Self {
            compression: Some(Compression::new(level)?),
            ..Self::opener()?
        })
    }

    /// A codec for opening. Compression contexts, which take longer to make than a page to open, are
    /// made only if it is to seal something, at the default level.
    ///
    /// # Errors
    /// [`SealError::Compress`] when zstd cannot be set up.
    pub fn opener() -> Result<Self, SealError> {
        Ok(Self {
            compression: None,
            decompressor: zstd::bulk::Decompressor::new().map_err(not_compressed)?,
            scratch: Vec::new(),
            plain: Vec::new(),
        })
    }

    /// Compresses, seals and checks one blob; `out` is overwritten with the sealed bytes. The
    /// check opens what was sealed and compares it with `raw`, byte by byte.
    ///
    /// # Errors
    /// [`SealError`]; [`SealError::SelfCheck`] when the check fails.
    pub fn seal(
        &mut self,
        key: &BlobKey,
        kind: BlobKind,
        id: &ChunkId,
        raw: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        if raw.len() > MAX_RAW {
            return Err(SealError::TooLarge(raw.len()));
        }
        let body_at = BODY_AT + 1;
        let room = zstd::zstd_safe::compress_bound(raw.len()).max(raw.len());
        out.clear();
        out.reserve(body_at + room + TAG);
        // What goes in front is known later; only the room for it is zeroed, not that of the body.
        out.resize(body_at, 0);
        let packed = if looks_random(raw) {
            raw.len()
        } else {
            let mut body = Cursor::new(&mut *out);
            body.set_position(body_at as u64);
            let compression = match &mut self.compression {
                Some(compression) => compression,
                none => none.insert(Compression::new(DEFAULT_LEVEL)?),
            };
            compression.compress(raw, &mut body)?
        };
        // Less than 3 % gained is not worth decompressing for.
        if packed < raw.len() - raw.len() / 32 {
            out[BODY_AT] = 1;
        } else {
            out.truncate(body_at);
            out[BODY_AT] = 0;
            out.extend_from_slice(raw);
        }
        let end = out.len();
        let nonce = random_nonce()?;
        out[..NONCE_AT].copy_from_slice(&key.session.to_bytes());
        out[NONCE_AT..BODY_AT].copy_from_slice(&nonce);
        let tag = key
            .cipher(kind, id)?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(key.aad(kind, id, raw.len())),
                &mut out[BODY_AT..end],
            )
            .map_err(|_| SealError::Authentication)?;
        out.extend_from_slice(tag.as_ref());
        let mut plain = std::mem::take(&mut self.plain);
        let opened = self.open(key, kind, id, raw.len(), out, &mut plain);
        let same = opened.is_ok() && plain == raw;
        self.plain = plain;
        if same {
            Ok(())
        } else {
            Err(SealError::SelfCheck)
        }
    }

    /// Opens a sealed blob of known raw length into `out`, which is overwritten.
    ///
    /// # Errors
    /// [`SealError`] when it does not authenticate or decompress; `out` is then empty.
    pub fn open(
        &mut self,
        key: &BlobKey,
        kind: BlobKind,
        id: &ChunkId,
        raw_len: usize,
        sealed: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        out.clear();
        if raw_len > MAX_RAW {
            return Err(SealError::TooLarge(raw_len));
        }
        let mut take = Take::new(sealed);
        let session = SessionId::from_bytes(take.array()?);
        let nonce: [u8; 12] = take.array()?;
        if session != key.session || take.left() < TAG + 1 {
            return Err(SealError::Authentication);
        }
        let (body, tag) = sealed[BODY_AT..].split_at(sealed.len() - BODY_AT - TAG);
        // Only grown: all of the part that is used is overwritten.
        if self.scratch.len() < body.len() {
            self.scratch.resize(body.len(), 0);
        }
        let plain = &mut self.scratch[..body.len()];
        key.cipher(kind, id)?
            .open_separate_gather(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(key.aad(kind, id, raw_len)),
                body,
                tag,
                plain,
            )
            .map_err(|_| SealError::Authentication)?;
        match plain.split_first() {
            Some((0, body)) if body.len() == raw_len => out.extend_from_slice(body),
            Some((1, body)) => {
                out.reserve(raw_len);
                let got = self.decompressor.decompress_to_buffer(body, out);
                if !matches!(got, Ok(length) if length == raw_len) {
                    out.clear();
                    return Err(SealError::Decompress);
                }
            }
            _ => return Err(SealError::Decompress),
        }
        Ok(())
    }
}

/// Whether four samples of 1 KiB look like noise: over 7.9 bits of entropy a byte (uniform noise
/// reaches 7.95 with 4,096 samples), so compressing them would be time lost.
fn looks_random(raw: &[u8]) -> bool {
    const SAMPLE: usize = 1024;
    if raw.len() < 16 * SAMPLE {
        return false;
    }
    let mut counts = [0u16; 256];
    for part in 0..4 {
        let at = part * (raw.len() - SAMPLE) / 3;
        for &byte in &raw[at..at + SAMPLE] {
            counts[usize::from(byte)] += 1;
        }
    }
    let total = (4 * SAMPLE) as f64;
    let bits: f64 = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| {
            let share = f64::from(count) / total;
            -share * share.log2()
        })
        .sum();
    bits > 7.9
}

/// Seals and opens the objects beside the packs with the index key.
#[derive(Clone)]
pub struct ObjectKeyring {
    repo: RepoId,
    prk: Prk,
}

impl std::fmt::Debug for ObjectKeyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObjectKeyring({})", self.repo)
    }
}

impl ObjectKeyring {
    /// The keyring of a repository from its index key (or, for caches, its state key).
    #[must_use]
    pub fn new(repo: RepoId, index_key: &[u8; 32]) -> Self {
        Self {
            repo,
            prk: Salt::new(HKDF_SHA256, repo.as_bytes()).extract(index_key),
        }
    }

    fn cipher(&self, kind: ObjectKind) -> Result<LessSafeKey, SealError> {
        expand(&self.prk, &[b"backstay v1 object", &[kind as u8]])
    }

    fn aad(&self, header: &[u8]) -> Vec<u8> {
        [header, self.repo.as_bytes()].concat()
    }

    /// Seals an object, compressed where that saves an eighth.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal(&self, kind: ObjectKind, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        if plain.len() > kind.max_raw() {
            return Err(SealError::TooLarge(plain.len()));
        }
        // A cache is written anew with each run and never leaves the machine.
        let level = if kind == ObjectKind::Cache {
            1
        } else {
            DEFAULT_LEVEL
        };
        let packed = zstd::bulk::compress(plain, level)
            .map_err(|error| SealError::Compress(error.to_string()))?;
        let small = packed.len() + plain.len() / 8 < plain.len();
        let body = if small { packed.as_slice() } else { plain };
        let mut out = Vec::with_capacity(OBJECT_HEADER + 12 + body.len() + TAG);
        out.extend_from_slice(b"BKSY");
        out.extend_from_slice(&[kind as u8, 1, u8::from(small), 0]);
        out.extend_from_slice(&(plain.len() as u32).to_le_bytes());
        let nonce = random_nonce()?;
        let aad = self.aad(&out);
        out.extend_from_slice(&nonce);
        let start = out.len();
        out.extend_from_slice(body);
        let tag = self
            .cipher(kind)?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                &mut out[start..],
            )
            .map_err(|_| SealError::Authentication)?;
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Opens an object of the given kind.
    ///
    /// # Errors
    /// [`SealError`] when it is of another kind, a newer version, or does not authenticate.
    pub fn open(&self, kind: ObjectKind, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut take = Take::new(sealed);
        let header = take.slice(OBJECT_HEADER)?;
        let nonce: [u8; 12] = take.array()?;
        let mut head = Take::new(header);
        if head.slice(4)? != b"BKSY" || head.u8()? != kind as u8 {
            return Err(WireError::Magic("Backstay object of this kind").into());
        }
        let version = head.u8()?;
        if version != 1 {
            let found = u32::from(version);
            return Err(WireError::Version {
                what: "object",
                found,
                known: 1,
            }
            .into());
        }
        let flags = head.u8()?;
        if head.u8()? != 0 {
            return Err(WireError::Range("the eighth byte of an object").into());
        }
        let raw_len = head.u32()? as usize;
        if raw_len > kind.max_raw() {
            return Err(SealError::TooLarge(raw_len));
        }
        let mut body = take.slice(take.left())?.to_vec();
        let aad = Aad::from(self.aad(header));
        let plain = self
            .cipher(kind)?
            .open_in_place(Nonce::assume_unique_for_key(nonce), aad, &mut body)
            .map_err(|_| SealError::Authentication)?
            .len();
        body.truncate(plain);
        let plain = match flags {
            0 => body,
            1 => zstd::bulk::decompress(&body, raw_len).map_err(|_| SealError::Decompress)?,
            _ => return Err(WireError::Range("the flags of an object").into()),
        };
        if plain.len() != raw_len {
            return Err(SealError::Decompress);
        }
        Ok(plain)
    }
}

/// The id of a blob's plain content: `BLAKE3 keyed(id key, kind ‖ content)`, so that equal bytes
/// of different kinds are different blobs.
#[must_use]
pub fn blob_id(id_key: &[u8; 32], kind: BlobKind, raw: &[u8]) -> ChunkId {
    let mut hasher = blake3::Hasher::new_keyed(id_key);
    hasher.update(&[kind as u8]);
    hasher.update(raw);
    ChunkId(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests;
