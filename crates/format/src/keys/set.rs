//! The keys of one holder.

use std::fmt;

use backup_core::{HostId, RepoId};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::agefile::{Identity, Recipient};
use super::authority::{self, Certificate};
use super::error::KeyError;
use super::role::{Need, Role};
use super::secret::{Secret, derive};
use crate::extra::Extra;

/// The keys by which one host signs its snapshots, derived from the sign key and the host's name.
/// Wiped when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct HostKeys {
    /// Key of the HMAC-SHA256 signature.
    pub hmac: [u8; 32],
    /// Seed of the Ed25519 key pair (RFC 8032's 32-byte secret key).
    pub ed25519_seed: [u8; 32],
}

impl fmt::Debug for HostKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostKeys(…)")
    }
}

/// What a set for one host holds of that host's keys.
#[derive(Clone)]
pub(super) struct OwnHost {
    pub(super) name: HostId,
    /// Key of the HMACs of snapshots and of the ledger's records.
    pub(super) hmac: Secret,
    /// Without it no snapshot can be signed: a maintenance set has none.
    pub(super) ed25519: Option<OwnEd25519>,
}

/// The Ed25519 key of a set's host, and the authority's word that it is.
#[derive(Clone)]
pub(super) struct OwnEd25519 {
    pub(super) seed: Secret,
    pub(super) certificate: Certificate,
}

/// The keys that one holder has of one repository; which ones depends on its [`Role`].
///
/// | key | full | writer | reader | maintenance | verifier |
/// |---|---|---|---|---|---|
/// | root, sign | yes | | | | |
/// | id | yes | yes | yes | | |
/// | lineage | yes | yes | yes | | |
/// | cut, state | yes | yes | | | |
/// | index | yes | yes | yes | yes | yes |
/// | host keys | of any host | of its own host | | | |
/// | ledger key of a host | of any host | of its own host | | of its own host | |
/// | accept | yes | | | yes | |
/// | identities | yes | | yes | | |
/// | recipients | yes | yes | yes | | |
/// | public key of the authority | yes | yes | yes | yes | yes |
#[derive(Clone)]
pub struct KeySet {
    pub(super) repo: RepoId,
    pub(super) role: Role,
    pub(super) root: Option<Secret>,
    pub(super) id: Option<Secret>,
    pub(super) cut: Option<Secret>,
    pub(super) index: Option<Secret>,
    pub(super) lineage: Option<Secret>,
    pub(super) state: Option<Secret>,
    pub(super) sign: Option<Secret>,
    /// Of a maintenance set; a full one derives it.
    pub(super) accept: Option<Secret>,
    pub(super) authority: [u8; 32],
    pub(super) host: Option<OwnHost>,
    pub(super) identities: Vec<Identity>,
    pub(super) recipients: Vec<Recipient>,
    pub(super) extra: Extra,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet")
            .field("repo", &self.repo)
            .field("role", &self.role)
            .field("host", &self.host())
            .field("recipients", &self.recipients)
            .finish_non_exhaustive()
    }
}

impl KeySet {
    /// The keys of a new repository, with one identity of epoch 0.
    ///
    /// # Errors
    /// [`KeyError::Crypto`] when the system gives no randomness.
    pub fn generate(repo: RepoId) -> Result<Self, KeyError> {
        let identity = Identity::generate(0);
        let recipient = identity.recipient();
        Self::from_root(repo, Secret::random()?, vec![identity], vec![recipient])
    }

    /// A full set from its root key and its identities.
    pub(super) fn from_root(
        repo: RepoId,
        root: Secret,
        identities: Vec<Identity>,
        recipients: Vec<Recipient>,
    ) -> Result<Self, KeyError> {
        let sub = |info: &[u8]| derive(repo.as_bytes(), &root, &[info]).map(Some);
        Ok(Self {
            id: sub(b"backstay v1 id")?,
            cut: sub(b"backstay v1 cut")?,
            index: sub(b"backstay v1 index")?,
            lineage: sub(b"backstay v1 lineage")?,
            state: sub(b"backstay v1 state")?,
            sign: sub(b"backstay v1 sign")?,
            accept: None,
            authority: authority::public_key(&authority::key_pair(repo, &root)?)?,
            repo,
            role: Role::Full,
            root: Some(root),
            host: None,
            identities,
            recipients,
            extra: Extra::new(),
        })
    }

    /// The keys of this set that `role` may have; a writer's and a
    /// maintenance job's are for one host.
    ///
    /// # Errors
    /// [`KeyError::Missing`] when this set lacks a key of that role, [`KeyError::HostNeeded`] for a
    /// writer or maintenance without a host, [`KeyError::OtherHost`] when a set for one host is asked
    /// for another host's, [`KeyError::MayNotForget`] when a set without that trust is asked for a
    /// maintenance set.
    pub fn subset(&self, role: Role, host: Option<&HostId>) -> Result<Self, KeyError> {
        let mut subset = Self::empty(self.repo, role, self.authority);
        subset.index = Some(self.need(self.index.as_ref(), Need::Index)?.clone());
        match role {
            Role::Full => {
                self.need(self.root.as_ref(), Need::Root)?;
                return Ok(self.clone());
            }
            Role::Writer => {
                let host = host.ok_or(KeyError::HostNeeded)?;
                subset.id = Some(self.need(self.id.as_ref(), Need::Id)?.clone());
                subset.cut = Some(self.need(self.cut.as_ref(), Need::Cut)?.clone());
                subset.lineage = Some(self.need(self.lineage.as_ref(), Need::Lineage)?.clone());
                subset.state = Some(self.need(self.state.as_ref(), Need::State)?.clone());
                let keys = self.host_keys(host)?;
                subset.host = Some(OwnHost {
                    name: host.clone(),
                    hmac: Secret::new(keys.hmac),
                    ed25519: Some(OwnEd25519 {
                        seed: Secret::new(keys.ed25519_seed),
                        certificate: self.host_certificate(host)?,
                    }),
                });
                self.recipients()?;
                subset.recipients = self.recipients.clone();
            }
            Role::Reader => {
                subset.id = Some(self.need(self.id.as_ref(), Need::Id)?.clone());
                subset.lineage = Some(self.need(self.lineage.as_ref(), Need::Lineage)?.clone());
                subset.identities = self.identities()?.to_vec();
                subset.recipients = self.recipients.clone();
            }
            Role::Maintenance => {
                let host = host.ok_or(KeyError::HostNeeded)?;
                self.may_forget()?;
                subset.host = Some(OwnHost {
                    name: host.clone(),
                    hmac: self.ledger_key(host)?,
                    ed25519: None,
                });
                // A set that was made before there was such a key passes on what it has.
                subset.accept = self.accept_key().ok();
            }
            Role::Verifier => {}
        }
        Ok(subset)
    }

    pub(super) const fn empty(repo: RepoId, role: Role, authority: [u8; 32]) -> Self {
        Self {
            repo,
            role,
            root: None,
            id: None,
            cut: None,
            index: None,
            lineage: None,
            state: None,
            sign: None,
            accept: None,
            authority,
            host: None,
            identities: Vec::new(),
            recipients: Vec::new(),
            extra: Extra::new(),
        }
    }

    /// The same full set with a fresh identity of the next epoch: what is stored from now on is
    /// wrapped to that one, and what was stored before can still be read.
    ///
    /// # Errors
    /// [`KeyError::Missing`] when this is not a full set; [`KeyError::TooLarge`] after four billion
    /// epochs.
    pub fn with_next_epoch(&self) -> Result<Self, KeyError> {
        self.need(self.root.as_ref(), Need::Root)?;
        let epoch = self
            .newest_epoch()
            .map_or(Some(0), |epoch| epoch.checked_add(1));
        let epoch = epoch.ok_or(KeyError::TooLarge {
            what: "key set",
            limit: super::wire::MAX_SET_BYTES,
        })?;
        let mut next = self.clone();
        let identity = Identity::generate(epoch);
        next.recipients.push(identity.recipient());
        next.identities.push(identity);
        Ok(next)
    }

    /// The repository that the keys belong to.
    #[must_use]
    pub const fn repo(&self) -> RepoId {
        self.repo
    }

    /// The role of the holder.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The host that a writer or maintenance set was made for.
    #[must_use]
    pub fn host(&self) -> Option<&HostId> {
        self.host.as_ref().map(|own| &own.name)
    }

    /// Key of chunk ids.
    ///
    /// # Errors
    /// [`KeyError::Missing`] for the roles maintenance and verifier.
    pub fn id_key(&self) -> Result<&[u8; 32], KeyError> {
        self.need(self.id.as_ref(), Need::Id).map(Secret::expose)
    }

    /// Key of the chunker's cut points and of piece digests.
    ///
    /// # Errors
    /// [`KeyError::Missing`] for the roles reader, maintenance and verifier.
    pub fn cut_key(&self) -> Result<&[u8; 32], KeyError> {
        self.need(self.cut.as_ref(), Need::Cut).map(Secret::expose)
    }

    /// Key of the objects that every role reads: pack headers, index runs, outer snapshot headers,
    /// references, sessions.
    ///
    /// # Errors
    /// [`KeyError::Missing`] for none of today's roles.
    pub fn index_key(&self) -> Result<&[u8; 32], KeyError> {
        self.index_secret().map(Secret::expose)
    }

    pub(crate) fn index_secret(&self) -> Result<&Secret, KeyError> {
        self.need(self.index.as_ref(), Need::Index)
    }

    /// Key of the lineage objects, which writers read, and readers for long lists of extents.
    ///
    /// # Errors
    /// [`KeyError::Missing`] for the roles maintenance and verifier.
    pub fn lineage_key(&self) -> Result<&[u8; 32], KeyError> {
        self.need(self.lineage.as_ref(), Need::Lineage)
            .map(Secret::expose)
    }

    /// Key of local caches.
    ///
    /// # Errors
    /// [`KeyError::Missing`] for the roles reader, maintenance and verifier.
    pub fn state_key(&self) -> Result<&[u8; 32], KeyError> {
        self.need(self.state.as_ref(), Need::State)
            .map(Secret::expose)
    }

    /// The keys by which `host` signs snapshots.
    ///
    /// # Errors
    /// [`KeyError::OtherHost`] when this is the set of another host, [`KeyError::Missing`]
    /// for the roles reader, maintenance and verifier, [`KeyError::BadHost`].
    pub fn host_keys(&self, host: &HostId) -> Result<HostKeys, KeyError> {
        let needed = Need::HostKeys;
        let seed = match self.own_host(host)? {
            Some(own) => self.need(own.ed25519.as_ref(), needed)?.seed.clone(),
            None => self.host_key(host, b"backstay v1 host ed25519", needed)?,
        };
        Ok(HostKeys {
            hmac: *self.ledger_key(host)?.expose(),
            ed25519_seed: *seed.expose(),
        })
    }

    /// The public key of the repository's authority, which certifies the keys of hosts. It is the
    /// same in every set of a repository.
    #[must_use]
    pub const fn authority(&self) -> &[u8; 32] {
        &self.authority
    }

    /// The authority's word for the public key by which `host` signs; see [`super::is_certified`].
    ///
    /// # Errors
    /// As [`KeySet::host_keys`].
    pub fn host_certificate(&self, host: &HostId) -> Result<Certificate, KeyError> {
        let needed = Need::HostKeys;
        if let Some(own) = self.own_host(host)? {
            return Ok(self.need(own.ed25519.as_ref(), needed)?.certificate);
        }
        let root = self.need(self.root.as_ref(), needed)?;
        let seed = self.host_keys(host)?.ed25519_seed;
        let authority = authority::key_pair(self.repo, root)?;
        authority::certify(&authority, self.repo, host, &seed)
    }

    /// The key by which `host` signs records of the ledger; it is that of the HMACs of its snapshots.
    ///
    /// # Errors
    /// [`KeyError::OtherHost`] when this is the set of another host, [`KeyError::Missing`] for the
    /// roles reader and verifier, [`KeyError::BadHost`].
    pub fn ledger_key(&self, host: &HostId) -> Result<Secret, KeyError> {
        match self.own_host(host)? {
            Some(own) => Ok(own.hmac.clone()),
            None => self.host_key(host, b"backstay v1 host hmac", Need::LedgerKey),
        }
    }

    /// The key that seals what only those may say who may forget: that records of the ledger are lost, and
    /// that this is known. A writer signs records of its host with the same key as whoever looks after the
    /// repository from there; this one it does not have.
    ///
    /// # Errors
    /// [`KeyError::Missing`] for the roles writer, reader and verifier, and for maintenance sets that were made
    /// before there was such a key.
    pub fn accept_key(&self) -> Result<Secret, KeyError> {
        match &self.sign {
            Some(sign) => derive(self.repo.as_bytes(), sign, &[b"backstay v1 accept"]),
            None => self.need(self.accept.as_ref(), Need::Accept).cloned(),
        }
    }

    /// The keys of `host` in a set for one host.
    fn own_host(&self, host: &HostId) -> Result<Option<&OwnHost>, KeyError> {
        check_host(host)?;
        match &self.host {
            Some(own) if own.name != *host => Err(KeyError::OtherHost {
                has: own.name.clone(),
                wanted: host.clone(),
            }),
            own => Ok(own.as_ref()),
        }
    }

    fn host_key(&self, host: &HostId, info: &[u8], needed: Need) -> Result<Secret, KeyError> {
        let sign = self.need(self.sign.as_ref(), needed)?;
        derive(self.repo.as_bytes(), sign, &[info, host.0.as_bytes()])
    }

    /// Whether the holder is trusted to forget snapshots and to release what is held. No key is needed
    /// for it, so the programs heed it and the tier's credentials enforce it: a host that writes may
    /// have been broken into, and must not remove its history.
    ///
    /// # Errors
    /// [`KeyError::MayNotForget`] for the roles writer, reader and verifier.
    pub const fn may_forget(&self) -> Result<(), KeyError> {
        match self.role {
            Role::Full | Role::Maintenance => Ok(()),
            role => Err(KeyError::MayNotForget { role }),
        }
    }

    /// Whether data can be read with this set.
    #[must_use]
    pub const fn can_read(&self) -> bool {
        !self.identities.is_empty()
    }

    /// The identities that open session keys, oldest epoch first; never empty.
    ///
    /// # Errors
    /// [`KeyError::Missing`] for the roles writer, maintenance and verifier.
    pub fn identities(&self) -> Result<&[Identity], KeyError> {
        if self.identities.is_empty() {
            return Err(KeyError::Missing {
                needed: Need::Identities,
                role: self.role,
            });
        }
        Ok(&self.identities)
    }

    /// The recipients that a new session's key is wrapped to: those of the newest epoch only, so
    /// that whoever holds no more than an older identity cannot read what is written from now on.
    ///
    /// # Errors
    /// [`KeyError::Missing`] for the roles maintenance and verifier.
    pub fn recipients(&self) -> Result<&[Recipient], KeyError> {
        let newest = self.newest_epoch();
        let start = self
            .recipients
            .partition_point(|other| Some(other.epoch()) < newest);
        match self.recipients.get(start..) {
            Some(current) if !current.is_empty() => Ok(current),
            _ => Err(KeyError::Missing {
                needed: Need::Recipients,
                role: self.role,
            }),
        }
    }

    /// The recipients of every epoch, oldest first; what `config/<n>` lists.
    #[must_use]
    pub fn all_recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    /// Eight bytes that are the same in every set of one repository and in no other: the first of
    /// `HKDF-SHA256(salt = repository id, index key, "backstay v1 key check")`. They may be shown
    /// and stored; a client that remembers them notices when a tier serves another repository's
    /// keys in the place of its own.
    ///
    /// # Errors
    /// [`KeyError::Crypto`].
    pub fn fingerprint(&self) -> Result<[u8; 8], KeyError> {
        let index = self.index_secret()?;
        let full = derive(self.repo.as_bytes(), index, &[b"backstay v1 key check"])?;
        let mut out = [0; 8];
        out.copy_from_slice(&full.expose()[..8]);
        Ok(out)
    }

    fn newest_epoch(&self) -> Option<u32> {
        self.recipients.last().map(Recipient::epoch)
    }

    fn need<'a, T>(&self, key: Option<&'a T>, needed: Need) -> Result<&'a T, KeyError> {
        key.ok_or(KeyError::Missing {
            needed,
            role: self.role,
        })
    }
}

/// Refuses host names that cannot stand in a key or a session.
pub(crate) fn check_host(host: &HostId) -> Result<(), KeyError> {
    let fits = !host.0.is_empty() && host.0.len() <= 255;
    if fits && !host.0.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(KeyError::BadHost)
    }
}
