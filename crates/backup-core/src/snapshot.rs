//! What is known of a snapshot without reading its content.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{HostId, SnapshotId};
use crate::source::ConsistentPoint;

/// Counts of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotStats {
    /// Entries of every kind.
    pub entries: u64,
    /// Regular files, streams and disks.
    pub files: u64,
    /// Bytes of content, as a restore would write them.
    pub bytes: u64,
    /// Entries that the parent snapshot had already and that were not read.
    pub unchanged: u64,
    /// Content of the entries that were read from the source: what was read twice, since it changed
    /// meanwhile, counts once.
    pub bytes_read: u64,
    /// Bytes of new chunks before compression.
    pub bytes_new: u64,
    /// Bytes that this snapshot added to the repository.
    pub bytes_added: u64,
}

/// One source's part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentMeta {
    /// Its name within the snapshot, for example `files`.
    pub name: String,
    /// The plug-in that made it and that restores it.
    pub kind: String,
    /// What was saved, for people: root paths, a command, a URL without its password.
    pub origin: Vec<String>,
    /// The point that its data stands for.
    pub point: ConsistentPoint,
    /// Versions of tools and servers that took part.
    pub versions: BTreeMap<String, String>,
}

/// A snapshot as lists, policies and reports see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// Its id.
    pub id: SnapshotId,
    /// What it is a snapshot of: the job's name. Snapshots of one name and host form a line.
    pub name: String,
    /// The host that wrote it.
    pub host: HostId,
    /// When its capture began, by the writer's clock.
    pub time: Timestamp,
    /// When it was made as far as the repository's ledger bears that out; what retention counts from when
    /// it is known.
    pub first_seen: Option<Timestamp>,
    /// Marks of the user's choosing, sorted.
    pub tags: Vec<String>,
    /// The schedule label it was made under (`hourly`, `daily`, …), if any.
    pub label: Option<String>,
    /// Whether it may not be forgotten until the hold is released.
    pub held: bool,
    /// Whether it is a checkpoint of a run that has not ended.
    pub partial: bool,
    /// How often something could not be captured or was degraded; notes do not count.
    pub findings: u64,
    /// The snapshot that its capture built on, if any. It does not depend on it.
    pub parent: Option<SnapshotId>,
    /// Counts.
    pub stats: SnapshotStats,
}
