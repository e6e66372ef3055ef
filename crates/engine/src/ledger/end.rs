//! What a run has seen of the ledger's end before it comes to append to it: the records behind those that this host's copy
//! knows, and whether the last one that it knows is still the one that this host has put there.

use backup_core::{KeyRange, ObjectMeta};
use backup_format::layout;
use backup_integrity::ledger::LedgerHead;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::listing::Listing;
use crate::repository::{Repository, name};

/// Where all records lie.
const FOLDER: &str = "ledger/";

/// The file of the cache that says how the last record that this host appended lies on the tier.
const FILE: &str = "ledger-put";

/// The end of the ledger by this host's copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LedgerEnd(Option<LedgerHead>);

/// What a listing showed behind that.
#[derive(Debug)]
pub(crate) struct LedgerSeen {
    /// The end by this host's copy when that was listed.
    pub(super) known: Option<LedgerHead>,
    last: Option<ObjectMeta>,
    behind: Vec<u64>,
}

/// How a record lies on the tier, of which this host knows what it says since it has put it there.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Put {
    head: LedgerHead,
    size: u64,
    version: String,
}

impl Put {
    fn of(head: LedgerHead, meta: &ObjectMeta) -> Option<Self> {
        let version = meta.version.clone()?.0;
        let size = meta.size;
        Some(Self {
            head,
            size,
            version,
        })
    }
}

impl LedgerEnd {
    /// That of now. A copy that cannot be read is as if there were none.
    pub(crate) fn known(repo: &Repository) -> Self {
        let copy = repo.ledger_copy();
        Self(copy.and_then(|copy| copy.last().ok().flatten()))
    }

    /// What is to be listed: the last record and what is behind it. Nothing where this host knows of no record: whether
    /// there is any at all, whoever appends the first one looks for himself.
    pub(crate) fn range(self) -> Result<Option<KeyRange>> {
        let Some(head) = self.0 else {
            return Ok(None);
        };
        let mut range = KeyRange::below(FOLDER);
        let before = head.seq.checked_sub(1);
        if let Some(before) = before.filter(|before| *before > 0) {
            range.after = Some(name(layout::ledger(before))?);
        }
        Ok(Some(range))
    }

    /// What a listing shows, if it was asked for that and does not lag.
    pub(crate) fn seen(self, listing: &Listing) -> Option<LedgerSeen> {
        if !listing.shows(FOLDER) || listing.lags() {
            return None;
        }
        let end = self.0?.seq;
        let number = |meta: &ObjectMeta| layout::ledger_number(&meta.key);
        let mut records = listing.below(FOLDER);
        let last = records.find(|meta| number(meta) == Some(end));
        let behind = listing.below(FOLDER).filter_map(number);
        let mut behind: Vec<u64> = behind.filter(|number| *number > end).collect();
        behind.sort_unstable();
        Some(LedgerSeen {
            known: self.0,
            last: last.cloned(),
            behind,
        })
    }
}

impl LedgerSeen {
    /// Whether the last record that this host knows lies there as it has put it there.
    pub(super) fn is_as_put(&self, repo: &Repository) -> bool {
        let found = self.known.zip(self.last.as_ref());
        let found = found.and_then(|(head, meta)| Put::of(head, meta));
        let kept = repo.cache().read(FILE);
        let kept = kept.and_then(|bytes| serde_json::from_slice::<Put>(&bytes).ok());
        found.is_some() && found == kept
    }

    /// The numbers of the records behind that.
    pub(super) fn behind(self) -> Vec<u64> {
        self.behind
    }
}

/// Remembers how a record lies on the tier that was just put there.
pub(super) fn remember(repo: &Repository, head: LedgerHead, meta: &ObjectMeta) {
    let put = Put::of(head, meta).and_then(|put| serde_json::to_vec(&put).ok());
    match put {
        Some(bytes) => repo.cache().write(FILE, &bytes),
        None => repo.cache().remove(FILE),
    }
}
