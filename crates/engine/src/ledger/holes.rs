//! Records that the tier has lost: what they must be, by this host's copy and by the records behind them.

use std::collections::BTreeMap;

use backup_core::OpContext;
use backup_core::{HostId, Severity};
use backup_integrity::ledger::{Expect, LedgerKeys, LedgerVerifier, Line, LineHash, RawLine};
use backup_integrity::sign::HmacKey;
use futures::TryStreamExt as _;

use super::tier;
use crate::error::Result;
use crate::repository::Repository;

/// More holes than these are not mended at once.
const MOST_HOLES: usize = 10_000;

/// A record that is missing or damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hole {
    /// What is wrong with it.
    pub(crate) why: String,
    /// What its line hashes to, if that is known.
    pub(crate) hash: Option<LineHash>,
    /// Its line, where this host has a copy of it.
    pub(crate) line: Option<Vec<u8>>,
}

/// The records that are missing on the tier or damaged there, by their numbers; of very many the first ones.
///
/// # Errors
/// Errors of the tier.
pub(crate) async fn holes(repo: &Repository, cx: &OpContext) -> Result<BTreeMap<u64, Hole>> {
    let mut out: BTreeMap<u64, Hole> = BTreeMap::new();
    let mut next = 1;
    let add = |out: &mut BTreeMap<u64, Hole>, seq: u64, why: String| {
        if out.len() < MOST_HOLES {
            let (hash, line) = (None, None);
            out.insert(seq, Hole { why, hash, line });
        }
    };
    const GONE: &str = "it is not on the tier";
    let numbers = tier::numbers(repo, cx, 0).await?;
    let mut lines = Box::pin(tier::lines(repo, cx, numbers));
    while let Some((seq, found)) = lines.try_next().await? {
        for gone in (next..seq).take(MOST_HOLES) {
            add(&mut out, gone, GONE.into());
        }
        next = seq.saturating_add(1);
        match tier::record(seq, found) {
            Ok(line) => {
                if let Some(before) = out.get_mut(&seq.saturating_sub(1)) {
                    before.hash = Some(line.record().prev);
                }
            }
            Err(why) => add(&mut out, seq, why),
        }
    }
    let copied = repo.ledger_copy().and_then(|copy| copy.lines().ok());
    if let Some(mut copied) = copied.flatten() {
        while let Ok(Some(raw)) = copied.next_line() {
            let RawLine::Whole(bytes) = raw else { continue };
            let Ok(line) = Line::parse(bytes) else {
                continue;
            };
            let head = line.head();
            if head.seq >= next {
                add(&mut out, head.seq, GONE.into());
            }
            if let Some(hole) = out.get_mut(&head.seq) {
                hole.hash = Some(head.hash);
                hole.line = Some(bytes.to_vec());
            }
        }
    }
    Ok(out)
}

/// Whether this host's copy has all that the tier has lost, and the chain is whole with it.
///
/// # Errors
/// Errors of the tier.
pub(super) async fn is_filled(repo: &Repository, cx: &OpContext) -> Result<bool> {
    let mut holes = holes(repo, cx).await?;
    if holes.len() >= MOST_HOLES || !holes.values().all(|hole| hole.line.is_some()) {
        return Ok(false);
    }
    let key_of = |host: &HostId| {
        let key = repo.keys().ledger_key(host).ok()?;
        Some(HmacKey::new(*key.expose()))
    };
    let expect = Expect {
        head: None,
        repo: Some(repo.id()),
    };
    let mut verifier = LedgerVerifier::new(LedgerKeys::ByHost(&key_of), expect);
    let numbers = tier::numbers(repo, cx, 0).await?;
    let mut lines = Box::pin(tier::lines(repo, cx, numbers));
    while let Some((seq, found)) = lines.try_next().await? {
        let rest = holes.split_off(&seq);
        let before = std::mem::replace(&mut holes, rest);
        for line in before.into_values().filter_map(|hole| hole.line) {
            verifier.push(&line);
        }
        match (holes.remove(&seq).and_then(|hole| hole.line), found) {
            (Some(line), _) | (None, Ok(line)) => verifier.push(&line),
            (None, Err(why)) => verifier.damaged(seq, why),
        }
    }
    for line in holes.into_values().filter_map(|hole| hole.line) {
        verifier.push(&line);
    }
    let findings = verifier.finish().findings;
    let mut findings = findings.iter().map(|one| one.to_finding());
    Ok(findings.all(|finding| finding.severity == Severity::Note))
}
