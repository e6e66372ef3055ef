//! The ledger of a repository: one record for everything that changes or reads it.
//!
//! The records lie on the tier as `ledger/<n>`, one line each, sealed for everybody who holds the
//! index key; create-only names make one chain of many writers where the tier can do that. Each
//! host keeps a copy of the lines as a file beside its cache: a chain that was cut off or made anew
//! on the tier no longer fits the copies. What the lines say and how they hang together is defined in
//! [`backup_integrity::ledger`].

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use backup_core::{
    ByteRange, ErrorKind, Finding, FindingKind, HostId, ObjectKey, ObjectMeta, OpContext, PutMode,
    Severity, SnapshotId,
};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_integrity::ledger::{
    Draft, Expect, LedgerHead, LedgerKeys, LedgerReport, LedgerVerifier, Line, Op, RecordOutcome,
    append,
};
use backup_integrity::merkle::MerkleRoot;
use backup_integrity::sign::HmacKey;
use futures::TryStreamExt;

use crate::error::{EngineError, Result};
use crate::repository::{Repository, name};

/// How often a record looks for its place when others write at the same time.
const ATTEMPTS: usize = 100;
const COPY: &str = "ledger.jsonl";

/// What a record says.
#[derive(Debug, Clone)]
pub struct LedgerDraft {
    /// What was done: `snapshot`, `forget`, `restore`.
    pub op: &'static str,
    /// The snapshot that it concerns.
    pub snapshot: Option<SnapshotId>,
    /// Its Merkle root.
    pub root: Option<MerkleRoot>,
    /// Numbers by name.
    pub counts: Vec<(&'static str, u64)>,
    /// A sentence for people; empty: none.
    pub note: String,
}

/// What a check of the ledger found.
#[derive(Debug, Clone)]
pub struct LedgerCheck {
    /// The chain itself.
    pub report: LedgerReport,
    /// Findings of the chain, of the copy, and of the snapshots against it.
    pub findings: Vec<Finding>,
    /// Lines of this host's copy.
    pub copied: u64,
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
    let evidence = |error: &dyn std::fmt::Display| EngineError::Evidence(error.to_string());
    let key = HmacKey::new(repo.keys().host_keys(host)?.hmac);
    let has_findings = draft
        .counts
        .iter()
        .any(|(name, count)| *name == "findings" && *count > 0);
    let op: Op = draft.op.parse().map_err(|error| evidence(&error))?;
    let draft = Draft {
        time: cx.clock.now(),
        op,
        host: host.clone(),
        user: user.to_owned(),
        repo: repo.id(),
        snapshot: draft.snapshot,
        root: draft.root,
        counts: draft
            .counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect(),
        outcome: if has_findings {
            RecordOutcome::Findings
        } else {
            RecordOutcome::Ok
        },
        note: (!draft.note.is_empty()).then_some(draft.note),
    };
    for _ in 0..ATTEMPTS {
        let head = catch_up(repo, cx).await?;
        let line = append(head.as_ref(), draft.clone(), &key).map_err(|error| evidence(&error))?;
        let sealed = repo.ring().seal(ObjectKind::Ledger, line.as_bytes());
        let body = sealed.map_err(EngineError::Seal)?.into();
        let place = name(layout::ledger(line.head().seq))?;
        match repo.sink().put(cx, &place, body, PutMode::Create).await {
            Ok(_) => {
                copy_lines(repo, &[line.as_bytes().to_vec()]);
                return Ok(());
            }
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(EngineError::Evidence(
        "the ledger is written by too many at once".into(),
    ))
}

/// Brings this host's copy up to date and says where the ledger ends.
async fn catch_up(repo: &Repository, cx: &OpContext) -> Result<Option<LedgerHead>> {
    let mut head = copied_lines(repo)
        .last()
        .and_then(|line| Line::parse(line).ok())
        .map(|l| l.head());
    let after = head
        .map(|head| layout::ledger(head.seq))
        .map(name)
        .transpose()?;
    let mut news = Vec::new();
    for key in keys_after(repo, cx, after.as_ref()).await? {
        let line = read_line(repo, cx, &key).await?;
        head = Some(
            Line::parse(&line)
                .map_err(|error| EngineError::damaged(&key, error))?
                .head(),
        );
        news.push(line);
    }
    copy_lines(repo, &news);
    Ok(head)
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
    let (Some(path), false) = (repo.cache().path(COPY), lines.is_empty()) else {
        return;
    };
    let bytes: Vec<u8> = lines
        .iter()
        .flat_map(|line| [&line[..], b"\n"].concat())
        .collect();
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path);
    // A copy that cannot be written is as if there were none; the ledger itself is on the tier.
    let _ = file.and_then(|mut file| file.write_all(&bytes));
}

/// Checks the ledger: its chain, its signatures, this host's copy, and whether it knows all
/// snapshots.
///
/// # Errors
/// Errors of the tier; what is wrong with the ledger is in the findings.
pub async fn verify_ledger(repo: &Repository, cx: &OpContext) -> Result<LedgerCheck> {
    let key_of = |host: &HostId| {
        repo.keys()
            .host_keys(host)
            .ok()
            .map(|keys| HmacKey::new(keys.hmac))
    };
    let expect = Expect {
        head: None,
        repo: Some(repo.id()),
    };
    let mut verifier = LedgerVerifier::new(LedgerKeys::ByHost(&key_of), expect);
    let copied = copied_lines(repo);
    let mut copies = copied.iter();
    let mut findings = Vec::new();
    let mut known = std::collections::HashSet::new();
    let mut forgotten = std::collections::HashSet::new();
    let mismatch = |subject: String, detail: &str| {
        Finding::new(Severity::Error, FindingKind::Mismatch, subject, detail)
    };
    for key in keys_after(repo, cx, None).await? {
        let line = match read_line(repo, cx, &key).await {
            Ok(line) => line,
            Err(error) => {
                verifier.push(b"");
                copies.next();
                let why = error.to_string();
                findings.push(Finding::new(
                    Severity::Error,
                    FindingKind::Damaged,
                    key.as_str(),
                    why,
                ));
                continue;
            }
        };
        if copies.next().is_some_and(|copy| *copy != line) {
            findings.push(mismatch(
                key.to_string(),
                "it is not what this host's copy says",
            ));
        }
        if let Ok(line) = Line::parse(&line) {
            match line.record().op.as_str() {
                "snapshot" => known.extend(line.record().snapshot),
                "forget" => forgotten.extend(line.record().snapshot),
                _ => {}
            }
        }
        verifier.push(&line);
    }
    let missing = copies.count();
    if missing > 0 {
        let detail = format!("{missing} records of this host's copy are gone from the end");
        findings.push(mismatch("ledger".into(), &detail));
    }
    for (id, key) in repo.snapshot_keys(cx).await? {
        if !known.remove(&id) {
            findings.push(mismatch(
                key.to_string(),
                "the ledger does not know this snapshot",
            ));
        }
    }
    let mut missing: Vec<_> = known.difference(&forgotten).collect();
    missing.sort();
    for id in missing {
        let detail = "the ledger knows it, nobody forgot it, and it is gone from the tier";
        let kind = FindingKind::Missing;
        let finding = Finding::new(Severity::Error, kind, format!("snapshot {id}"), detail);
        findings.push(finding);
    }
    let report = verifier.finish();
    findings.extend(report.findings.iter().map(|finding| finding.to_finding()));
    Ok(LedgerCheck {
        report,
        findings,
        copied: copied.len() as u64,
    })
}
