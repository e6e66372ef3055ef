//! What this host has seen and decided itself of generations.
//!
//! Whoever holds the index key can write a decision below `gc/`, and only who settled the sessions and marked
//! knows that it is true. So nothing is deleted, and no entry of the index left out, on the word of somebody else:
//! what another prune called dead, and what is still there, is condemned once more and goes by a decision of this
//! host. Its own decisions it remembers, so that what was cut short is ended without a wait.
//!
//! And it remembers of each generation which sessions were open when it looked for the first time behind `gc/<n>`.
//! Those alone may name what that condemns: who begins later reads `gc/<n>` and avoids it. So a generation comes to
//! its end however many others begin meanwhile. Without a state folder nothing is remembered, and all that are
//! open are waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use backup_core::{ObjectKey, PackId, SessionId};
use serde::{Deserialize, Serialize};

use super::watch::keep_in;
use crate::repository::Repository;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    generations: BTreeMap<u32, Generation>,
}

/// What is remembered of a generation.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Generation {
    /// The BLAKE3 of `gc/<n>` as it was then: another one of that number is another generation.
    condemned: String,
    /// The sessions that were open at the first look behind it.
    open: BTreeSet<String>,
    /// Refs that had no snapshot before it.
    orphans: BTreeSet<String>,
    /// The BLAKE3 of `gc/<n>.done`, which this host has made.
    decided: Option<String>,
}

/// Generations as this host knows them.
#[derive(Debug, Default)]
pub(super) struct Own {
    file: Option<PathBuf>,
    kept: Kept,
    /// Packs that are dead by decisions of this host.
    pub(super) dead: BTreeSet<PackId>,
    /// Those of them that were not looked for yet.
    pub(super) pending: BTreeSet<PackId>,
    /// Packs of which this run knows what became of them: dead by a decision that lies on the tier, or used.
    pub(super) settled: BTreeSet<PackId>,
}

fn digest(sealed: &[u8]) -> String {
    blake3::hash(sealed).to_string()
}

fn ids<T: std::str::FromStr + Ord>(texts: &BTreeSet<String>) -> BTreeSet<T> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn texts<T: ToString>(ids: &BTreeSet<T>) -> BTreeSet<String> {
    ids.iter().map(ToString::to_string).collect()
}

impl Own {
    /// What this host remembers. A file that cannot be read is as if there were none.
    pub(super) fn open(repo: &Repository) -> Self {
        let file = repo.state_file("generations.json");
        let read = file.as_ref().and_then(|file| std::fs::read(file).ok());
        let kept = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            file,
            kept: kept.unwrap_or_default(),
            ..Self::default()
        }
    }

    fn of(&self, number: u32, sealed: &[u8]) -> Option<&Generation> {
        let known = self.kept.generations.get(&number)?;
        (known.condemned == digest(sealed)).then_some(known)
    }

    /// The sessions that were open at the first look behind a generation; none if there was no look.
    pub(super) fn open_behind(&self, number: u32, sealed: &[u8]) -> Option<BTreeSet<SessionId>> {
        Some(ids(&self.of(number, sealed)?.open))
    }

    /// The refs that had no snapshot before a generation.
    pub(super) fn orphans_before(&self, number: u32, sealed: &[u8]) -> BTreeSet<ObjectKey> {
        let known = self.of(number, sealed).into_iter();
        let known = known.flat_map(|known| &known.orphans);
        known
            .filter_map(|key| ObjectKey::new(key.as_str()).ok())
            .collect()
    }

    /// Remembers the first look behind a generation, made when all sessions were listed.
    ///
    /// # Errors
    /// What the operating system says: then the next run looks anew.
    pub(super) fn looked(
        &mut self,
        number: u32,
        sealed: &[u8],
        open: &BTreeSet<SessionId>,
        orphans: &BTreeSet<ObjectKey>,
    ) -> io::Result<()> {
        let generation = Generation {
            condemned: digest(sealed),
            open: texts(open),
            orphans: texts(orphans),
            decided: None,
        };
        self.kept.generations.insert(number, generation);
        self.write()
    }

    /// Remembers that a decision is this host's.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn decided(&mut self, number: u32, sealed: &[u8]) -> io::Result<()> {
        if let Some(known) = self.kept.generations.get_mut(&number) {
            known.decided = Some(digest(sealed));
        }
        self.write()
    }

    /// The generations that this host has decided and not come to the end of.
    pub(super) fn to_be_ended(&self) -> Vec<u32> {
        let decided = self.kept.generations.iter();
        let decided = decided.filter(|(_, known)| known.decided.is_some());
        decided.map(|(number, _)| *number).collect()
    }

    /// Whether a decision is that of this host.
    pub(super) fn is_own(&self, number: u32, sealed: &[u8]) -> bool {
        let known = self.kept.generations.get(&number);
        known.is_some_and(|known| known.decided == Some(digest(sealed)))
    }

    /// These packs are dead.
    pub(super) fn found_dead(&mut self, packs: impl IntoIterator<Item = PackId>) {
        for pack in packs {
            self.settled.insert(pack);
            if self.dead.insert(pack) {
                self.pending.insert(pack);
            }
        }
    }

    /// All that is dead is deleted and out of the index: of what is decided nothing need be remembered, nor of
    /// generations that are not there; `undecided` are those that wait.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn end(&mut self, undecided: &BTreeSet<u32>) -> io::Result<()> {
        let before = self.kept.generations.len();
        self.kept
            .generations
            .retain(|number, known| known.decided.is_none() && undecided.contains(number));
        if self.kept.generations.len() == before {
            return Ok(());
        }
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        match &self.file {
            Some(file) => keep_in(file, &self.kept),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_of_one_object_and_ends_with_its_generation() {
        let dir = tempfile::tempdir().unwrap();
        let file = Some(dir.path().join("generations.json"));
        let open = || {
            let read = std::fs::read(dir.path().join("generations.json")).ok();
            let kept = read.map(|bytes| serde_json::from_slice(&bytes).unwrap());
            Own {
                file: file.clone(),
                kept: kept.unwrap_or_default(),
                ..Own::default()
            }
        };
        let mut own = open();
        assert_eq!(own.open_behind(0, b"one"), None);
        let orphan = ObjectKey::new("refs/01M7XPE6000R30C1G60R30C1G6").unwrap();
        own.looked(0, b"one", &[SessionId(7)].into(), &[orphan.clone()].into())
            .unwrap();
        own.looked(1, b"two", &[].into(), &[].into()).unwrap();
        let mut own = open();
        assert_eq!(own.open_behind(0, b"one"), Some([SessionId(7)].into()));
        assert_eq!(own.orphans_before(0, b"one"), [orphan].into());
        assert_eq!(own.open_behind(0, b"another"), None);
        assert_eq!(own.open_behind(1, b"two"), Some([].into()));
        own.decided(0, b"done").unwrap();
        let mut own = open();
        assert_eq!(own.to_be_ended(), [0]);
        assert!(own.is_own(0, b"done") && !own.is_own(0, b"forged") && !own.is_own(1, b"done"));
        own.end(&[1].into()).unwrap();
        let own = open();
        assert_eq!(own.to_be_ended(), [0u32; 0]);
        assert_eq!(own.open_behind(1, b"two"), Some([].into()));
    }
}
