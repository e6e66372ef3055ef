//! Further names of a file: the first one that was stored lends them its content, as long as the
//! walk saw the same file at both.

use std::collections::HashMap;

use backup_core::{Body, Fingerprint, StreamProfile};
use backup_format::extent::Content;

/// A further name of a file, with what it takes to read it by itself.
#[derive(Debug)]
pub(super) struct Link {
    /// The number that all names of the file share.
    pub(super) group: u64,
    /// Its content.
    pub(super) body: Body,
    /// How to cut it.
    pub(super) profile: StreamProfile,
}

/// What a name leaves for those that follow.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// The state of the file in which it was read, if it kept still.
    pub(super) state: Option<Fingerprint>,
    /// Whether it may be another by now without its fingerprint showing it.
    pub(super) is_racy: bool,
    pub(super) size: u64,
    pub(super) sha256: Option<[u8; 32]>,
    pub(super) place: Place,
    pub(super) extents: Vec<u8>,
}

/// Where the content lies.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Content(Content),
    Bundle {
        number: u64,
        offset: u32,
        length: u32,
    },
}

/// What was stored of files with several names, by the number of their group.
#[derive(Debug, Default)]
pub(super) struct Links(HashMap<u64, Stored>);

impl Links {
    /// Remembers a name that was stored by itself.
    pub(super) fn remember(&mut self, group: u64, stored: Stored) {
        self.0.insert(group, stored);
    }

    /// What was stored of the file.
    pub(super) fn get(&self, group: u64) -> Option<&Stored> {
        self.0.get(&group)
    }

    /// Whether what was stored is the content of a further name, which the walk saw in `state`. It
    /// is not if no earlier name could be stored, if the file was changed between the two, or if
    /// its number went to another file meanwhile.
    pub(super) fn hold(&self, link: &Link, state: Option<Fingerprint>) -> bool {
        let cannot_tell = state.is_none() || matches!(link.body, Body::None | Body::Unchanged);
        self.get(link.group)
            .is_some_and(|stored| cannot_tell || stored.state == state)
    }
}
