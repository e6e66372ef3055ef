//! The ledger of a repository: one record for everything that changes or reads it.
//!
//! The records lie on the tier as `ledger/<n>`, one line each, sealed for everybody who holds the
//! index key; create-only names make one chain of many writers where the tier can do that. Each
//! host keeps a copy of the lines as a file beside its cache: a chain that was cut off or made anew
//! on the tier no longer fits the copies. What the lines say and how they hang together is defined in
//! [`backup_integrity::ledger`].

mod check;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use backup_core::{
    ByteRange, CancellationToken, ErrorKind, HostId, ObjectKey, ObjectMeta, OpContext, PutMode,
    SnapshotId, SnapshotMeta,
};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_integrity::ledger::{Draft, LedgerHead, Line, Op, RecordOutcome, append};
use backup_integrity::merkle::MerkleRoot;
use backup_integrity::sign::HmacKey;
use futures::TryStreamExt;

use crate::error::{EngineError, Result};
use crate::repository::{Repository, name};
use crate::view::check_signatures;

pub use check::{LedgerCheck, verify_ledger};

/// How often a record looks for its place when others write at the same time.
const ATTEMPTS: usize = 100;
const COPY: &str = "ledger.jsonl";
/// What a record of a snapshot that was made says was done.
const MADE: &str = "snapshot";

/// What a record says.
#[derive(Debug, Clone)]
pub struct LedgerDraft {
    /// What was done: `snapshot`, `forget`, `restore` and the like.
    pub op: &'static str,
    /// The snapshot that it concerns.
    pub snapshot: Option<SnapshotId>,
    /// Its Merkle root.
    pub root: Option<MerkleRoot>,
    /// Numbers by name.
    pub counts: Vec<(&'static str, u64)>,
    /// How it ended.
    pub outcome: RecordOutcome,
    /// A sentence for people; empty: none.
    pub note: String,
}

/// Appends a record to the ledger.
///
/// # Errors
/// [`EngineError::Key`] for a key that cannot sign for the host; errors of the tier.
pub async fn record_operation(
    repo: &Repository,
    cx: &OpContext,
    host: &HostId,
    user: &str,
    draft: LedgerDraft,
) -> Result<()> {
    let cx = &to_the_end(cx);
    let mut chain = Chain::read(repo, cx).await?;
    chain.append(repo, cx, host, user, draft).await
}

/// What was done is recorded even if it is called off by now: it can no longer be undone.
fn to_the_end(cx: &OpContext) -> OpContext {
    let mut own = cx.clone();
    own.cancel = CancellationToken::new();
    own
}

/// Appends the record of a snapshot; and before it those of snapshots of this host that were there
/// when this run began and have none: their runs were killed between commit and record, or had no
/// room left on the tier. A run that is only slow there looks the same from outside, so both may be
/// about to record one snapshot: whoever comes second finds it recorded and leaves it at that.
///
/// # Errors
/// As [`record_operation`].
pub(crate) async fn record_snapshot(
    repo: &Repository,
    cx: &OpContext,
    host: &HostId,
    user: &str,
    draft: LedgerDraft,
    earlier: &[SnapshotId],
) -> Result<()> {
    let cx = &to_the_end(cx);
    let mut chain = Chain::read(repo, cx).await?;
    for id in earlier {
        if chain.knows(*id) {
            continue;
        }
        // What cannot be read, or was not signed by this host, is for verification to tell.
        let key = name(layout::snapshot(*id))?;
        let Ok(head) = repo.head(cx, *id, &key).await else {
            continue;
        };
        if !matches!(check_signatures(repo, &head), Ok(true)) {
            continue;
        }
        let mut late = LedgerDraft::of_snapshot(&head.meta, MerkleRoot(head.outer.merkle_root));
        "recorded by a later run, which found it without a record".clone_into(&mut late.note);
        chain.append(repo, cx, host, user, late).await?;
    }
    chain.append(repo, cx, host, user, draft).await
}

impl LedgerDraft {
    /// The record of a snapshot that was made.
    pub(crate) fn of_snapshot(meta: &SnapshotMeta, root: MerkleRoot) -> Self {
        Self {
            op: MADE,
            snapshot: Some(meta.id),
            root: Some(root),
            counts: vec![
                ("entries", meta.stats.entries),
                ("bytes", meta.stats.bytes),
                ("bytes-added", meta.stats.bytes_added),
                ("findings", meta.findings),
            ],
            outcome: if meta.findings > 0 {
                RecordOutcome::Findings
            } else {
                RecordOutcome::Ok
            },
            note: String::new(),
        }
    }

    fn signed_by(
        self,
        repo: &Repository,
        cx: &OpContext,
        host: &HostId,
        user: &str,
    ) -> Result<Draft> {
        Ok(Draft {
            time: cx.clock.now(),
            op: self.op.parse::<Op>().map_err(|error| evidence(&error))?,
            host: host.clone(),
            user: user.to_owned(),
            repo: repo.id(),
            snapshot: self.snapshot,
            root: self.root,
            counts: self
                .counts
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
            outcome: self.outcome,
            note: (!self.note.is_empty()).then_some(self.note),
        })
    }
}

fn evidence(error: &dyn std::fmt::Display) -> EngineError {
    EngineError::Evidence(error.to_string())
}

/// The lines of the ledger up to its end as far as it is known.
#[derive(Default)]
struct Chain {
    lines: Vec<Vec<u8>>,
    head: Option<LedgerHead>,
    /// Snapshots whose making the first `searched` lines record.
    made: HashSet<SnapshotId>,
    searched: usize,
}

impl Chain {
    /// What this host's copy says, and what the tier has beyond it.
    async fn read(repo: &Repository, cx: &OpContext) -> Result<Self> {
        let lines = copied_lines(repo);
        let mut chain = match lines.last().map(|line| Line::parse(line)) {
            Some(Ok(last)) => Self {
                head: Some(last.head()),
                lines,
                ..Self::default()
            },
            _ => Self::default(),
        };
        chain.catch_up(repo, cx).await?;
        Ok(chain)
    }

    async fn catch_up(&mut self, repo: &Repository, cx: &OpContext) -> Result<()> {
        let after = self.head.map(|head| layout::ledger(head.seq));
        let after = after.map(name).transpose()?;
        let known = self.lines.len();
        for key in keys_after(repo, cx, after.as_ref()).await? {
            self.take(repo, cx, &key).await?;
        }
        copy_lines(repo, self.lines.get(known..).unwrap_or_default());
        Ok(())
    }

    async fn take(&mut self, repo: &Repository, cx: &OpContext, key: &ObjectKey) -> Result<()> {
        let bytes = read_line(repo, cx, key).await?;
        let line = Line::parse(&bytes).map_err(|error| EngineError::damaged(key, error))?;
        self.head = Some(line.head());
        self.lines.push(bytes);
        Ok(())
    }

    /// Whether it records that a snapshot was made.
    fn knows(&mut self, id: SnapshotId) -> bool {
        let new = self.lines.get(self.searched..).unwrap_or_default();
        let records = new.iter().filter_map(|line| Line::parse(line).ok());
        let made = records.filter(|line| line.record().op.as_str() == MADE);
        self.made
            .extend(made.filter_map(|line| line.record().snapshot));
        self.searched = self.lines.len();
        self.made.contains(&id)
    }

    /// Appends a record; that a snapshot was made is recorded once, whoever does it.
    async fn append(
        &mut self,
        repo: &Repository,
        cx: &OpContext,
        host: &HostId,
        user: &str,
        draft: LedgerDraft,
    ) -> Result<()> {
        let key = HmacKey::new(*repo.keys().ledger_key(host)?.expose());
        let made = draft.snapshot.filter(|_| draft.op == MADE);
        let draft = draft.signed_by(repo, cx, host, user)?;
        for _ in 0..ATTEMPTS {
            if made.is_some_and(|id| self.knows(id)) {
                return Ok(());
            }
            let line = append(self.head.as_ref(), draft.clone(), &key)
                .map_err(|error| evidence(&error))?;
            let sealed = repo.ring().seal(ObjectKind::Ledger, line.as_bytes());
            let body = sealed.map_err(EngineError::Seal)?.into();
            let place = name(layout::ledger(line.head().seq))?;
            match repo.sink().put(cx, &place, body, PutMode::Create).await {
                Ok(_) => {
                    self.head = Some(line.head());
                    self.lines.push(line.as_bytes().to_vec());
                    copy_lines(repo, self.lines.last().map_or(&[], std::slice::from_ref));
                    return Ok(());
                }
                Err(error) if error.kind == ErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
            // Somebody was faster. A listing may not show it yet; the object itself is there.
            self.take(repo, cx, &place).await?;
            copy_lines(repo, self.lines.last().map_or(&[], std::slice::from_ref));
            self.catch_up(repo, cx).await?;
        }
        Err(EngineError::Evidence(
            "the ledger is written by too many at once".into(),
        ))
    }
}

async fn keys_after(
    repo: &Repository,
    cx: &OpContext,
    after: Option<&ObjectKey>,
) -> Result<Vec<ObjectKey>> {
    let listed: Vec<ObjectMeta> = repo.sink().list(cx, "ledger/", after).try_collect().await?;
    let mut keys: Vec<_> = listed.into_iter().map(|meta| meta.key).collect();
    keys.sort();
    Ok(keys)
}

async fn read_line(repo: &Repository, cx: &OpContext, key: &ObjectKey) -> Result<Vec<u8>> {
    let sealed = repo.sink().get(cx, key, ByteRange::Full).await?;
    repo.ring()
        .open(ObjectKind::Ledger, &sealed)
        .map_err(|error| EngineError::sealed(key, &error))
}

fn copied_lines(repo: &Repository) -> Vec<Vec<u8>> {
    let bytes = repo.cache().read(COPY).unwrap_or_default();
    let mut lines: Vec<Vec<u8>> = bytes
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    // What stands behind the last line end was not written whole.
    lines.pop();
    lines
}

fn copy_lines(repo: &Repository, lines: &[Vec<u8>]) {
    if let (Some(path), false) = (repo.cache().path(COPY), lines.is_empty()) {
        // A copy that cannot be written is as if there were none; the ledger itself is on the tier.
        let _ = extend_copy(&path, lines);
    }
}

/// Adds the lines that a copy does not have yet. Other processes of this host may be doing the same, and
/// one that was killed may have left the beginning of a line.
fn extend_copy(path: &Path, lines: &[Vec<u8>]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    let mut file = options.open(path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    let (whole, torn) = bytes.split_at(end.map_or(0, |end| end + 1));
    if !torn.is_empty() {
        file.set_len(whole.len() as u64)?;
    }
    let copied: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let last = copied
        .last()
        .and_then(|line| Line::parse(line.trim_ascii_end()).ok());
    // A line that says nothing is damage, which verification tells; it counts as the one it was.
    let seq = last.map_or(copied.len() as u64, |line| line.head().seq);
    let is_new = |line: &&Vec<u8>| Line::parse(line).is_ok_and(|line| line.head().seq > seq);
    let news: Vec<u8> = lines
        .iter()
        .filter(is_new)
        .flat_map(|line| [&line[..], b"\n"].concat())
        .collect();
    file.write_all(&news)
}
