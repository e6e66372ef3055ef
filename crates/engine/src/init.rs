//! Making a repository: keys are drawn and sealed first, so that whoever calls can put the key file
//! and the recovery sheet in a safe place before anything is made that needs them.

use std::path::PathBuf;
use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use backup_core::{OpContext, RepoId, Sink};
use backup_format::config::{ChunkProfile, Config};
use backup_format::keys::{
    Argon2Params, KeySet, Secret, SlotMeta, keyfile, recovery_code, recovery_sheet, slot,
};
use backup_integrity::digest::ContentDigest;
use backup_parity::Share;
use zeroize::Zeroizing;

use crate::error::{EngineError, Result};
use crate::repository::{PROFILE, Repository, Sizes};
use crate::slots::added_note;
use crate::store::random;

/// What a new repository is to be opened with.
#[derive(Debug, Default)]
pub struct InitRequest {
    /// Where it will be, as the recovery sheet spells it; no secrets.
    pub location: String,
    /// A passphrase.
    pub passphrase: Option<Zeroizing<Vec<u8>>>,
    /// Whether a key file is made.
    pub key_file: bool,
    /// What the slots say of themselves, for people.
    pub label: String,
    /// The cost of a guess at the passphrase; `None`: the usual one.
    pub argon2: Option<Argon2Params>,
    /// How much parity is put beside packs; `None`: none.
    pub parity: Option<Share>,
    /// How content is cut and gathered. What contradicts itself is refused when the repository is made.
    pub sizes: Sizes,
}

/// Keys of a repository that does not exist yet.
#[derive(Debug)]
pub struct Prepared {
    keys: KeySet,
    config: Config,
    slots: Vec<Vec<u8>>,
    /// The text of the key file, if one was asked for. Keep it out of logs.
    pub key_file: Option<Zeroizing<String>>,
    /// The recovery sheet. Keep it out of logs.
    pub recovery_sheet: Zeroizing<String>,
}

/// Draws the keys of a new repository and seals them into slots.
///
/// # Errors
/// [`EngineError::Key`] for a passphrase that cannot be used; [`EngineError::Invalid`] when there is
/// neither a passphrase nor a key file.
pub fn prepare(cx: &OpContext, request: &InitRequest) -> Result<Prepared> {
    if request.passphrase.is_none() && !request.key_file {
        let why = "a repository needs a passphrase or a key file to be opened with";
        return Err(EngineError::Invalid(why.into()));
    }
    let repo = RepoId(random()?);
    let keys = KeySet::generate(repo)?;
    let created = u64::try_from(cx.clock.now().as_second()).unwrap_or(0);
    let meta = |label: &str| SlotMeta {
        label: label.to_owned(),
        created,
    };
    let mut slots = Vec::new();
    if let Some(passphrase) = &request.passphrase {
        let params = request.argon2.unwrap_or_default();
        let sealed = slot::seal_with_passphrase(&keys, &meta(&request.label), passphrase, params)?;
        slots.push(sealed);
    }
    let mut key_file = None;
    if request.key_file {
        let secret = Secret::random()?;
        slots.push(slot::seal_with_secret(
            &keys,
            &meta(&request.label),
            &secret,
        )?);
        key_file = Some(keyfile::secret_text(repo, &secret, &meta(&request.label)));
    }
    let recovery = Secret::random()?;
    slots.push(slot::seal_with_secret(
        &keys,
        &meta("recovery sheet"),
        &recovery,
    )?);
    let code = recovery_code(&recovery);
    let recovery_sheet = recovery_sheet(repo, &request.location, &code);
    let mut config = Config::new(&keys, created, vec![profile(&request.sizes)]);
    config.set_parity(request.parity.map(Share::percent));
    Ok(Prepared {
        keys,
        config,
        slots,
        key_file,
        recovery_sheet,
    })
}

/// Sizes as the config records them.
fn profile(sizes: &Sizes) -> ChunkProfile {
    let narrow = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
    ChunkProfile {
        name: PROFILE.into(),
        chunk_min: narrow(sizes.chunks.min),
        chunk_target: narrow(sizes.chunks.target),
        chunk_max: narrow(sizes.chunks.max),
        piece_min: narrow(sizes.pieces.content.min),
        piece_avg: narrow(sizes.pieces.content.average),
        piece_max: narrow(sizes.pieces.content.max),
        page: sizes.pieces.page,
        bundle_limit: u32::try_from(sizes.bundle_limit).unwrap_or(u32::MAX),
    }
}

impl Prepared {
    /// The id that the repository will have.
    #[must_use]
    pub const fn id(&self) -> RepoId {
        self.config.repo
    }

    /// What the ledger is to say of its key slots.
    #[must_use]
    pub fn slots_note(&self) -> String {
        let ids: Vec<String> = self
            .slots
            .iter()
            .map(|slot| ContentDigest::of(slot).to_string())
            .collect();
        added_note(ids.iter().map(|id| (id.as_str(), "full key")))
    }

    /// Makes the repository.
    ///
    /// # Errors
    /// [`EngineError::RepositoryExists`]; errors of the tier.
    #[boxed]
    pub async fn create(
        &self,
        cx: &OpContext,
        sink: Arc<dyn Sink>,
        cache_dir: Option<PathBuf>,
    ) -> Result<Repository> {
        let (config, keys) = (self.config.clone(), self.keys.clone());
        Repository::create(cx, sink, config, keys, &self.slots, cache_dir).await
    }
}
