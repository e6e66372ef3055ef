//! An open repository: a tier, the keys, the index.
//!
//! Making one ([`Repository::create`]) writes the key slots first and `config/0` last, so a killed
//! `init` leaves no repository. Opening one ([`Repository::open`]) opens a slot with what the caller
//! has, checks with it that the configs are authentic, and then that this program knows all features
//! that the newest makes mandatory, and loads the index runs (from the local cache where it has them).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_recursion::async_recursion as boxed;
use backup_core::{ByteRange, ErrorKind, FindingKind, ObjectKey, OpContext, PutMode, RepoId, Sink};
use backup_format::chunk::gear::PieceSizes;
use backup_format::chunk::{BasePieces, ChunkSizes, CutKeys};
use backup_format::config::{Config, MAX_CONFIG_BYTES, Operation};
use backup_format::keys::{KeySet, Recipient, Slot};
use backup_format::layout;
use backup_format::page::PageSizes;
use backup_format::seal::ObjectKeyring;
use backup_integrity::ledger::LedgerCopy;
use bytes::Bytes;

use crate::beside::{self, Ended, Notices};
use crate::cache::Cache;
use crate::cold;
use crate::collect::Looked;
use crate::configs::{self, Shown, config_error, newest_listed, newest_of};
use crate::data_keys::DataKeys;
use crate::error::{EngineError, Result};
use crate::index_set::{Loaded, Place};
use crate::listing::Listing;
use crate::nearest::Others;
use crate::patient::PatientSink;
use crate::places::folder_of;
use crate::remains::must_be_none;
use crate::unlock::{enter, read_slots};

pub use crate::heads::{SnapshotHead, UnreadSnapshot};
pub use crate::unlock::Unlock;

/// The chunk profile of a config that this engine uses.
pub const PROFILE: &str = "default";

/// How content is cut, gathered and packed. A repository's config records how it cuts and gathers; the others can be
/// chosen anew by each who writes, as readers need none of them.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Chunks of streams and bundles.
    pub chunks: ChunkSizes,
    /// The smallest pieces of streams.
    pub pieces: BasePieces,
    /// Files up to this size in bytes are laid together in bundles.
    pub bundle_limit: u64,
    /// Streams from this size in bytes on have a lineage.
    pub lineage_from: u64,
    /// Pages of manifests.
    pub pages: PageSizes,
    /// Packs of content, in bytes.
    pub data_pack: usize,
    /// Packs of pages and lineage, in bytes.
    pub meta_pack: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            chunks: ChunkSizes {
                min: 1 << 20,
                target: 2 << 20,
                max: 4 << 20,
            },
            pieces: BasePieces::default(),
            bundle_limit: 256 << 10,
            lineage_from: 1 << 20,
            pages: PageSizes {
                min: 1 << 10,
                target: 2 << 10,
            },
            data_pack: 16 << 20,
            meta_pack: 4 << 20,
        }
    }
}

/// An open repository.
pub struct Repository {
    sink: Arc<dyn Sink>,
    config: Config,
    keys: KeySet,
    ring: ObjectKeyring,
    cache: Cache,
    pub(crate) ledger_copy: Option<LedgerCopy>,
    pub(crate) loaded: Loaded,
    pub(crate) data_keys: Mutex<DataKeys>,
    pub(crate) looked: tokio::sync::Mutex<Looked>,
    // The key slot that opened it.
    slot: Option<ObjectKey>,
    notices: Notices,
    pub(crate) others: Others,
    // Of these what the config does not record.
    sizes: Sizes,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Repository({} at {})",
            self.config.repo,
            self.sink.info().location
        )
    }
}

impl Repository {
    /// Makes a repository with these keys and key slots (already sealed).
    ///
    /// # Errors
    /// [`EngineError::RepositoryExists`] when there is one, [`EngineError::Missing`] when there is one
    /// without its `config/0`; errors of the tier. Then the slots are taken away again, unless it
    /// cannot be told that no `config/0` needs them.
    #[boxed]
    pub async fn create(
        cx: &OpContext,
        sink: Arc<dyn Sink>,
        config: Config,
        keys: KeySet,
        slots: &[Vec<u8>],
        cache_dir: Option<PathBuf>,
    ) -> Result<Self> {
        let sink: Arc<dyn Sink> = Arc::new(PatientSink::new(sink));
        let place = sink.info().location;
        let key = name(layout::config(0))?;
        match sink.head(cx, &key).await {
            Ok(_) => return Err(EngineError::RepositoryExists(place)),
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        must_be_none(cx, &*sink).await?;
        let mut config = config;
        config.set_cold_place(cold::claim(cx, &*sink).await?);
        let bytes = config
            .seal(&keys)
            .map_err(|error| EngineError::Invalid(error.to_string()))?;
        if let Err(error) = write_new(cx, &*sink, slots, &key, bytes.clone()).await {
            let is_conflict =
                matches!(&error, EngineError::Sink(e) if e.kind == ErrorKind::Conflict);
            match get_within(cx, &*sink, &key, MAX_CONFIG_BYTES).await {
                // It was written, and only the answer was lost.
                Ok(found) if found == bytes => {}
                Err(EngineError::Sink(unknown)) if unknown.kind != ErrorKind::NotFound => {
                    return Err(error);
                }
                _ => {
                    take_back(cx, &*sink, slots).await;
                    cold::let_go(cx, &*sink, config.cold_place()).await;
                    let exists = || EngineError::RepositoryExists(place);
                    return Err(if is_conflict { exists() } else { error });
                }
            }
        }
        let out = Self::assemble(sink, config, keys, None, cache_dir)?;
        out.reload_index(cx).await?;
        // Behind the config: what there is of a repository that was not made must not look like one.
        for slot in slots {
            beside::put_or_note(&out, cx, &name(layout::slot(slot))?, slot).await;
        }
        beside::put_or_note(&out, cx, &key, &bytes).await;
        Ok(out)
    }

    /// Whether there is a repository at a tier.
    ///
    /// # Errors
    /// [`EngineError::Missing`] when there is one without its `config/0`; errors of the tier.
    #[boxed]
    pub async fn exists(cx: &OpContext, sink: &dyn Sink) -> Result<bool> {
        match sink.head(cx, &name(layout::config(0))?).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => {
                must_be_none(cx, sink).await?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the repository at a tier.
    ///
    /// # Errors
    /// [`EngineError::NoRepository`], [`EngineError::WrongKey`], [`EngineError::Newer`], [`EngineError::ColdPlace`],
    /// [`EngineError::Damaged`], errors of the tier.
    #[boxed]
    pub async fn open(
        cx: &OpContext,
        sink: Arc<dyn Sink>,
        unlock: &Unlock,
        cache_dir: Option<PathBuf>,
        operation: Operation,
    ) -> Result<Self> {
        let sink: Arc<dyn Sink> = Arc::new(PatientSink::new(sink));
        let notices = Notices::default();
        let (opened, listing) = enter(cx, &*sink, unlock, cache_dir.as_deref(), &notices).await?;
        let (keys, first, slot) = opened;
        let cache = repo_cache(cache_dir.as_deref(), first.repo, &*sink);
        let (known, shown) = ((&keys, first), Shown::of(&listing));
        let config = configs::newest(cx, &*sink, known, &shown, &cache, &notices).await?;
        must_know(&config, operation)?;
        cold::must_be(cx, &*sink, &config).await?;
        let mut out = Self::assemble(sink, config, keys, slot, cache_dir)?;
        out.refresh_index_by(cx, Some(&listing)).await?;
        out.notices = notices;
        out.was_not_removed(cx, unlock).await?;
        Ok(out)
    }

    /// Sees that the slot that opened it is none that somebody has removed, and of which only a sidecar was left.
    async fn was_not_removed(&self, cx: &OpContext, unlock: &Unlock) -> Result<()> {
        let Some(slot) = &self.slot else {
            return Ok(());
        };
        let noticed = self.notices.findings();
        let mut noticed = noticed.iter();
        if !noticed.any(|one| one.subject == slot.as_str() && one.kind == FindingKind::Missing) {
            return Ok(());
        }
        if !Ended::read(self, cx).await?.has(slot) {
            return Ok(());
        }
        Err(EngineError::WrongKey {
            credential: unlock.what(),
            repository: self.location(),
        })
    }

    /// What of small objects was found damaged or gone since the repository was opened, and had from their
    /// sidecars: nothing is wrong with what was read, and everything with the medium.
    #[must_use]
    pub const fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Looks whether the repository came to need something, since it was opened, that this program
    /// does not know.
    ///
    /// # Errors
    /// [`EngineError::Newer`], [`EngineError::Damaged`], errors of the tier.
    #[boxed]
    pub async fn check_features(&self, cx: &OpContext, operation: Operation) -> Result<()> {
        must_know(&newest_of(self, cx).await?, operation)
    }

    /// The same, by a listing of a moment ago.
    pub(crate) async fn check_features_by(
        &self,
        cx: &OpContext,
        operation: Operation,
        listing: &Listing,
    ) -> Result<()> {
        must_know(&newest_listed(self, cx, listing).await?, operation)
    }

    /// Takes up the newest config.
    ///
    /// # Errors
    /// Those of [`Repository::check_features`].
    pub(crate) async fn renew_config(&mut self, cx: &OpContext) -> Result<()> {
        self.config = newest_of(self, cx).await?;
        Ok(())
    }

    fn assemble(
        sink: Arc<dyn Sink>,
        config: Config,
        keys: KeySet,
        slot: Option<ObjectKey>,
        cache_dir: Option<PathBuf>,
    ) -> Result<Self> {
        let ring = ObjectKeyring::new(config.repo, keys.index_key()?);
        let cache = repo_cache(cache_dir.as_deref(), config.repo, &*sink);
        let loaded = Loaded::new(&cache, &ring, &sink.info().location);
        Ok(Self {
            sink,
            config,
            keys,
            ring,
            cache,
            ledger_copy: None,
            loaded,
            data_keys: Mutex::default(),
            looked: tokio::sync::Mutex::default(),
            slot,
            notices: Notices::default(),
            sizes: Sizes::default(),
            others: Others::default(),
        })
    }

    /// Who the repository is.
    #[must_use]
    pub const fn id(&self) -> RepoId {
        self.config.repo
    }

    /// Where it is, without secrets.
    #[must_use]
    pub fn location(&self) -> String {
        self.sink.info().location
    }

    /// The tier; what fails there and can pass is tried again.
    #[must_use]
    pub const fn sink(&self) -> &Arc<dyn Sink> {
        &self.sink
    }

    /// The keys.
    #[must_use]
    pub const fn keys(&self) -> &KeySet {
        &self.keys
    }

    /// The key slot that opened it; none for one that was just made, or opened with the keys
    /// themselves.
    #[must_use]
    pub const fn opened_by(&self) -> Option<&ObjectKey> {
        self.slot.as_ref()
    }

    /// The config.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Lets what is written from now on lie in packs of about these sizes in bytes, of content and of pages and lineage:
    /// fewer and larger objects for a tier where each costs, at the price of as much memory for each that is on its way.
    pub const fn pack_into(&mut self, content: usize, pages: usize) {
        self.sizes.data_pack = content;
        self.sizes.meta_pack = pages;
    }

    /// The sizes that the config records, and those of [`Repository::pack_into`].
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let default = self.sizes;
        let Some(profile) = self.config.profile(PROFILE) else {
            return default;
        };
        let mut pieces = default.pieces;
        // 0: the profile says nothing of them.
        if profile.piece_avg > 0 {
            pieces.content = PieceSizes {
                min: profile.piece_min as usize,
                average: profile.piece_avg as usize,
                max: profile.piece_max as usize,
            };
        }
        if profile.page > 0 {
            pieces.page = profile.page;
        }
        Sizes {
            chunks: ChunkSizes {
                min: profile.chunk_min as usize,
                target: profile.chunk_target as usize,
                max: profile.chunk_max as usize,
            },
            pieces,
            bundle_limit: u64::from(profile.bundle_limit),
            ..default
        }
    }

    /// Seals and opens what every role reads.
    #[must_use]
    pub const fn ring(&self) -> &ObjectKeyring {
        &self.ring
    }

    /// The local cache.
    #[must_use]
    pub const fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The keys of cutting.
    ///
    /// # Errors
    /// [`EngineError::Key`] for a key that cannot write.
    pub fn cut_keys(&self) -> Result<CutKeys> {
        Ok(CutKeys::new(self.keys.cut_key()?))
    }

    /// Whom a new session is wrapped to: those of the newest generation of keys.
    ///
    /// # Errors
    /// [`EngineError::Key`] for a key that cannot write, and for one that reads and was made before
    /// the keys were rotated: it could not read what it saves.
    pub fn recipients(&self) -> Result<Vec<Recipient>> {
        Ok(self.config.recipients_for(&self.keys)?)
    }

    /// How many requests at once do the tier good.
    #[must_use]
    pub fn connections(&self, cx: &OpContext) -> usize {
        match cx.limits.connections {
            0 => self.sink.info().caps.connections.max(1),
            given => given,
        }
    }

    /// The key of the tier under which the pack of a place lies.
    ///
    /// # Errors
    /// Never for a pack's name.
    pub fn pack_key(place: &Place) -> Result<ObjectKey> {
        name(layout::pack(place.pack, place.located.kind.is_meta()))
    }

    /// The key slots: their keys on the tier and what they say of themselves.
    ///
    /// # Errors
    /// Those of the tier.
    #[boxed]
    pub async fn slots(&self, cx: &OpContext) -> Result<BTreeMap<ObjectKey, Result<Slot>>> {
        read_slots(cx, &*self.sink).await
    }
}

fn must_know(config: &Config, operation: Operation) -> Result<()> {
    let known = config.check_features(operation);
    known.map_err(|error| config_error(config.number, error))
}

/// A key of the tier whose name is well formed by construction.
pub(crate) fn name(key: Result<ObjectKey, backup_core::sink::KeyError>) -> Result<ObjectKey> {
    key.map_err(|error| EngineError::Invalid(error.to_string()))
}

/// Puts an object whose name tells its content: that it is there already is success.
pub(crate) async fn put_new(
    cx: &OpContext,
    sink: &dyn Sink,
    key: &ObjectKey,
    body: Bytes,
) -> Result<()> {
    match sink.put(cx, key, body, PutMode::Create).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind == ErrorKind::Conflict => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Writes the key slots of a new repository, then its config, with which it is there.
async fn write_new(
    cx: &OpContext,
    sink: &dyn Sink,
    slots: &[Vec<u8>],
    config: &ObjectKey,
    bytes: Vec<u8>,
) -> Result<()> {
    for slot in slots {
        put_new(cx, sink, &name(layout::slot(slot))?, slot.clone().into()).await?;
    }
    sink.put(cx, config, bytes.into(), PutMode::Create).await?;
    Ok(())
}

/// Takes away the slots of a repository that was not made. One that stays would look like a way in.
async fn take_back(cx: &OpContext, sink: &dyn Sink, slots: &[Vec<u8>]) {
    for slot in slots {
        if let Ok(key) = layout::slot(slot) {
            // Nothing better can be done: why the repository was not made is what must be heard.
            let _ = sink.delete(cx, &key).await;
        }
    }
}

/// Reads a whole object of at most so many bytes: whoever may write to the tier can put any number of
/// them under any name.
pub(crate) async fn get_within(
    cx: &OpContext,
    sink: &dyn Sink,
    key: &ObjectKey,
    limit: usize,
) -> Result<Bytes> {
    let range = ByteRange::Suffix((limit as u64).saturating_add(1));
    let bytes = sink.get(cx, key, range).await?;
    if bytes.len() > limit {
        let why = format!("it has more than the {limit} bytes that such an object may have");
        return Err(EngineError::damaged(key, why));
    }
    Ok(bytes)
}

fn repo_cache(dir: Option<&Path>, repo: RepoId, sink: &dyn Sink) -> Cache {
    Cache::new(dir.map(|dir| folder_of(dir, repo, &sink.info().location)))
}
