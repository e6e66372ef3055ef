//! What is there: snapshots, their refs, packs; and what of the packs is used.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use backup_core::{
    ErrorKind, Finding, FindingKind, ObjectKey, OpContext, PackId, Severity, SnapshotId,
};
use backup_format::layout;
use backup_format::refs::PackUse;
use futures::{StreamExt, TryStreamExt};

use super::elsewhere::{Elsewhere, elsewhere};
use crate::collect::settle;
use crate::error::{EngineError, Result};
use crate::hold::Holds;
use crate::presence::{Absent, Expected, State};
use crate::refs::{self, Listed};
use crate::remedy::remedy;
use crate::repository::{Repository, UnreadSnapshot, name};

/// How often what changes while it is read is read again.
const TRIES: usize = 5;
/// Packs that are named one by one, and snapshots for each.
const MOST_NAMED: usize = 20;
const MOST_SNAPSHOTS: usize = 5;

/// A pack on the tier.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pack {
    pub(super) is_meta: bool,
    pub(super) size: u64,
    /// Bytes of its blobs that are used; the whole of it where the index does not tell.
    pub(super) used: u64,
}

/// What snapshots use: slots of packs.
pub(super) type Marks = HashMap<PackId, PackUse>;

/// Everything that a plan is made of.
#[derive(Debug)]
pub(super) struct Survey {
    /// The snapshots that count.
    pub(super) snapshots: BTreeSet<SnapshotId>,
    /// All refs on the tier.
    pub(super) refs: Listed,
    pub(super) marks: Marks,
    pub(super) packs: HashMap<PackId, Pack>,
    /// Packs that are not on the tier as the index or refs say.
    pub(super) absent: BTreeMap<PackId, Absent>,
    /// What is used of these and lies in others.
    pub(super) elsewhere: Elsewhere,
    /// Packs that have parity beside them. Listed before the packs: since parity follows its pack onto the tier, what
    /// was listed without one is of a pack that is gone.
    pub(super) parity: BTreeSet<ObjectKey>,
}

impl Survey {
    pub(super) async fn new(repo: &Repository, cx: &OpContext) -> Result<Self> {
        // Refs are written before their snapshot, so those of each snapshot that is listed are there.
        let snapshots = snapshots(repo, cx).await?;
        let (refs, marks) = mark(repo, cx, &snapshots).await?;
        let parity = parity(repo, cx).await?;
        settle(repo, cx).await;
        let mut packs = packs(repo, cx).await?;
        let absent = absent(repo, cx, &marks, &packs).await?;
        let elsewhere = if absent.is_empty() {
            Elsewhere::default()
        } else {
            let dead = repo.collection(cx).await?.dead;
            elsewhere(&absent, &marks, &repo.index(), &dead)
        };
        use_of_packs(repo, &marks, &mut packs);
        Ok(Self {
            snapshots,
            refs,
            marks,
            packs,
            absent,
            elsewhere,
            parity,
        })
    }
}

async fn parity(repo: &Repository, cx: &OpContext) -> Result<BTreeSet<ObjectKey>> {
    let listed = repo.sink().list(cx, "parity/", None);
    let listed: Vec<_> = listed.try_collect().await?;
    let packs = listed
        .iter()
        .filter_map(|meta| layout::parity_of(&meta.key));
    Ok(packs.collect())
}

/// The snapshots that count. One that cannot be read is an error: nobody could tell whether it does.
pub(super) async fn snapshots(repo: &Repository, cx: &OpContext) -> Result<BTreeSet<SnapshotId>> {
    for _ in 0..TRIES {
        let (heads, unread) = repo.heads(cx).await?;
        // One that goes between the list and its read was forgotten.
        let is_gone = |one: &UnreadSnapshot| matches!(&one.error, EngineError::Sink(error) if error.kind == ErrorKind::NotFound);
        let Some(one) = unread.iter().find(|one| !is_gone(one)) else {
            if unread.is_empty() {
                return Ok(heads.into_iter().map(|head| head.meta.id).collect());
            }
            continue;
        };
        let why = format!(
            "snapshot {} cannot be read ({}), so nobody knows what it needs; `snapshot repair --from` fetches it from another copy; if there is none, `snapshot forget` it by its whole id",
            one.id, one.error
        );
        return Err(EngineError::Unprunable(why));
    }
    let why = "snapshots are forgotten faster than they can be read";
    Err(EngineError::OtherPrune(why.into()))
}

/// Marks what snapshots use, by all refs of each. Snapshots that turn out to have none are looked for
/// again by the caller's list; one that is still there without is an error.
pub(super) async fn mark(
    repo: &Repository,
    cx: &OpContext,
    snapshots: &BTreeSet<SnapshotId>,
) -> Result<(Listed, Marks)> {
    for _ in 0..TRIES {
        let there = refs::list(repo, cx).await?;
        let wanted: Vec<_> = snapshots
            .iter()
            .filter_map(|snapshot| Some((*snapshot, there.get(snapshot)?)))
            .flat_map(|(snapshot, keys)| keys.iter().map(move |key| (snapshot, key)))
            .collect();
        let mut reading = futures::stream::iter(wanted)
            .map(|(snapshot, key)| async move { (snapshot, refs::read(repo, cx, key).await) })
            .buffered(repo.connections(cx));
        let mut marks = Marks::new();
        let mut seen = BTreeSet::new();
        while let Some((snapshot, refs)) = reading.next().await {
            let hint = "as long as they cannot be read, nobody knows what the snapshot needs; `snapshot repair refs` makes them anew, with a full key";
            let refs = refs.map_err(|error| match error {
                EngineError::Damaged { object, why } => {
                    EngineError::Unprunable(format!("{object} is damaged ({why}): {hint}"))
                }
                other => other,
            })?;
            // What is gone between the list and here moved: look again.
            let Some(refs) = refs else { continue };
            seen.insert(snapshot);
            for pack in refs.packs {
                match marks.get_mut(&pack.pack) {
                    Some(known) => known.absorb(&pack),
                    None => {
                        marks.insert(pack.pack, pack);
                    }
                }
            }
        }
        drop(reading);
        let Some(missing) = snapshots.difference(&seen).next() else {
            return Ok((there, marks));
        };
        // Forgotten meanwhile, it is no longer asked for.
        let still = self::snapshots(repo, cx).await?;
        if still.contains(missing) {
            if there.get(missing).is_none_or(Vec::is_empty) {
                let why = format!(
                    "snapshot {missing} has no refs, so nobody knows what it needs; `snapshot repair refs` makes refs/{missing} anew, with a full key"
                );
                return Err(EngineError::Unprunable(why));
            }
            continue;
        }
        let snapshots: BTreeSet<_> = snapshots.intersection(&still).copied().collect();
        return Box::pin(mark(repo, cx, &snapshots)).await;
    }
    let why = "refs are replaced faster than they can be read";
    Err(EngineError::OtherPrune(why.into()))
}

async fn packs(repo: &Repository, cx: &OpContext) -> Result<HashMap<PackId, Pack>> {
    let mut out = HashMap::new();
    for (prefix, is_meta) in [("data/", false), ("meta/", true)] {
        let mut listed = repo.sink().list(cx, prefix, None);
        while let Some(meta) = listed.try_next().await? {
            if let Some(id) = layout::pack_id(&meta.key) {
                let pack = Pack {
                    is_meta,
                    size: meta.size,
                    used: 0,
                };
                out.insert(id, pack);
            }
        }
    }
    Ok(out)
}

/// The packs that the index names, or refs, and that are not on the tier as the index says. Those of
/// which it is decided that they are dead are none of them.
async fn absent(
    repo: &Repository,
    cx: &OpContext,
    marks: &Marks,
    packs: &HashMap<PackId, Pack>,
) -> Result<BTreeMap<PackId, Absent>> {
    let index = repo.index();
    let mut expected = Expected::of(&index);
    for (id, pack) in packs {
        expected.seen(*id, pack.size);
    }
    let there = expected.absent(repo, cx, &index).await?;
    let mut out: BTreeMap<_, _> = there.into_iter().map(|pack| (pack.id, pack)).collect();
    let unknown = marks
        .keys()
        .filter(|id| !packs.contains_key(*id) && !out.contains_key(*id));
    for id in unknown.copied().collect::<Vec<_>>() {
        // What no index run knows could lie in either folder.
        let (data, meta) = (
            name(layout::pack(id, false))?,
            name(layout::pack(id, true))?,
        );
        let mut is_there = false;
        for key in [&data, &meta] {
            match repo.sink().head(cx, key).await {
                Ok(_) => is_there = true,
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !is_there {
            let state = State::Gone;
            out.insert(
                id,
                Absent {
                    id,
                    key: data,
                    state,
                },
            );
        }
    }
    if !out.is_empty() {
        // Behind the look: another prune decides before it deletes.
        let dead = repo.collection(cx).await?.dead;
        out.retain(|id, _| !dead.contains(id));
    }
    Ok(out)
}

/// What is to be said of packs that are not there as they should be. The snapshots that need one are
/// named: it stays known as long as there is one.
pub(super) async fn of_absent(
    repo: &Repository,
    cx: &OpContext,
    survey: &Survey,
) -> Result<Vec<Finding>> {
    let is_used = |id: &&PackId| survey.marks.contains_key(*id);
    let mut hurt: BTreeMap<PackId, BTreeSet<SnapshotId>> = BTreeMap::new();
    if survey.absent.keys().any(|id| is_used(&id)) {
        for snapshot in &survey.snapshots {
            for key in survey.refs.get(snapshot).into_iter().flatten() {
                // What is gone by now was replaced by others, or its snapshot forgotten.
                let Some(refs) = refs::read(repo, cx, key).await? else {
                    continue;
                };
                for pack in refs.packs {
                    if survey.absent.contains_key(&pack.pack) {
                        hurt.entry(pack.pack).or_default().insert(*snapshot);
                    }
                }
            }
        }
    }
    let mut out = Vec::new();
    let found = &survey.elsewhere.found;
    for (id, pack) in survey.absent.iter().take(MOST_NAMED) {
        let detail = match hurt.get(id) {
            Some(hurt) if found.contains(id) => format!(
                "{}; what {} use of it lies by the index in other packs, which stay for its sake: `snapshot verify --level full` tells whether it is whole; this is said until it is put back from another copy, or these snapshots are forgotten",
                pack.state,
                text_of(hurt)
            ),
            Some(hurt) => {
                format!(
                    "{}, and is needed by {}: {}; else save what it held again, or forget them; `snapshot verify` tells which files that hurts",
                    pack.state,
                    text_of(hurt),
                    remedy(pack.state.kind(), pack.key.as_str())
                )
            }
            None => format!(
                "{}, and no snapshot needs it: it is taken out of the index",
                pack.state
            ),
        };
        let severity = if hurt.contains_key(id) && !found.contains(id) {
            Severity::Error
        } else {
            Severity::Warning
        };
        let subject = pack.key.as_str();
        out.push(Finding::new(severity, pack.state.kind(), subject, detail));
    }
    if survey.absent.len() > MOST_NAMED {
        let more = survey.absent.len() - MOST_NAMED;
        let detail = format!(
            "{more} more packs are not there as the index says; `snapshot verify` names them all"
        );
        let (severity, kind) = (Severity::Error, FindingKind::Missing);
        out.push(Finding::new(severity, kind, "the tier", detail));
    }
    Ok(out)
}

/// The first of some snapshots by their ids, and how many more there are.
fn text_of(snapshots: &BTreeSet<SnapshotId>) -> String {
    let first = snapshots.iter().take(MOST_SNAPSHOTS);
    let mut shown: Vec<_> = first.map(ToString::to_string).collect();
    if snapshots.len() > MOST_SNAPSHOTS {
        shown.push(format!("{} more", snapshots.len() - MOST_SNAPSHOTS));
    }
    shown.join(", ")
}

/// Sums up what is used of each pack.
fn use_of_packs(repo: &Repository, marks: &Marks, packs: &mut HashMap<PackId, Pack>) {
    let index = repo.index();
    let mut known = BTreeSet::new();
    for run in index.runs() {
        let mut slots: Vec<(u32, u32, u32)> = run
            .iter()
            .map(|(_, at)| (at.pack, at.offset, at.stored))
            .collect();
        slots.sort_unstable();
        for slots in slots.chunk_by(|a, b| a.0 == b.0) {
            let pack = slots
                .first()
                .and_then(|slot| run.packs.get(slot.0 as usize));
            let Some((id, usage)) = pack.and_then(|pack| Some((pack.id, marks.get(&pack.id)?)))
            else {
                continue;
            };
            let Some(pack) = packs.get_mut(&id).filter(|_| known.insert(id)) else {
                continue;
            };
            let of_slots = (0u32..).zip(slots).filter(|(slot, _)| usage.has(*slot));
            pack.used = of_slots.map(|(_, slot)| u64::from(slot.2)).sum();
            if slots.len() != usage.slots as usize {
                pack.used = pack.size;
            }
        }
    }
    for (id, pack) in packs.iter_mut() {
        if marks.contains_key(id) && !known.contains(id) {
            pack.used = pack.size;
        }
    }
}

/// Refuses when a snapshot is gone from the tier that nobody forgot: its object may be put back from
/// another copy, and must then find what it uses.
pub(super) async fn none_is_gone(
    repo: &Repository,
    cx: &OpContext,
    snapshots: &BTreeSet<SnapshotId>,
) -> Result<()> {
    let refuse = |what: &str| {
        let why = format!(
            "{what}, and is gone from the tier: `snapshot repair --from` fetches it from another copy; if there is none, go on with --force"
        );
        Err(EngineError::Unprunable(why))
    };
    let held = Holds::read(repo, cx).await?;
    if let Some(gone) = held.ids().find(|id| !snapshots.contains(id)) {
        return refuse(&format!("snapshot {gone} is held"));
    }
    let check = crate::ledger::verify_ledger(repo, cx).await?;
    let gone = check
        .findings
        .iter()
        .find(|one| one.kind == FindingKind::Missing && one.subject.starts_with("snapshot "));
    // Of a snapshot that was taken away with its record nothing else tells.
    if gone.is_none() && !check.is_whole {
        return Err(EngineError::Unprunable(
            "the ledger lacks records or holds false ones, so that nobody can tell whether a snapshot was taken away: \
             see `snapshot ledger verify`; once nothing is missing, go on with --force"
                .into(),
        ));
    }
    match gone {
        Some(gone) => refuse(&format!(
            "{} is in the ledger, nobody forgot it",
            gone.subject
        )),
        None => Ok(()),
    }
}
