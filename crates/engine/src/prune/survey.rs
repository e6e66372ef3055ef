//! What is there: snapshots, their refs, packs; and what of the packs is used.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use backup_core::{
    ErrorKind, Finding, FindingKind, ObjectKey, OpContext, PackId, Severity, SnapshotId,
};
use backup_format::layout;
use backup_format::refs::PackUse;
use futures::{FutureExt as _, StreamExt, TryStreamExt};

use super::PruneJob;
use super::elsewhere::{Elsewhere, elsewhere};
use crate::beside;
use crate::claims;
use crate::collect::{Collection, settle};
use crate::contested::{self, Contested};
use crate::error::{EngineError, Result};
use crate::hold::Holds;
use crate::presence::{Absent, Expected, State};
use crate::refs::{self, Listed};
use crate::remedy::remedy;
use crate::repository::{Repository, UnreadSnapshot, name};
use crate::unindexed;

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
    /// Packs that the index names, nobody uses, and somebody called dead: they are to go from the index.
    pub(super) dead: BTreeSet<PackId>,
    /// Packs on the tier that snapshots use and somebody called dead.
    pub(super) contested: Contested,
    /// What generations say, as far as it can be read.
    pub(super) collection: Collection,
    /// Packs of which index runs say different things.
    pub(super) disputed: BTreeMap<PackId, u32>,
    /// What is used of these and lies in others.
    pub(super) elsewhere: Elsewhere,
    /// Packs that older generations of keys can read, if they are to be sealed anew.
    pub(super) older: BTreeSet<PackId>,
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
        let mut absent = absent(repo, cx, &marks, &packs).await?;
        // Behind the look: another prune decides before it deletes.
        let collection = repo.known_collection(cx).await?;
        let called_dead = &collection.dead;
        let of_dead = absent.extract_if(.., |id, _| called_dead.contains(id));
        let dead: BTreeSet<_> = of_dead
            .map(|(id, _)| id)
            .filter(|id| !marks.contains_key(id))
            .collect();
        let is_used = |id: &&PackId| marks.contains_key(*id) && packs.contains_key(*id);
        let doubtful = called_dead.iter().filter(is_used).copied().collect();
        // Forgotten and collected since it was marked, it is in no doubt.
        let contested = contested::contested(repo, cx, &doubtful).await?;
        let contested = contested::there(repo, cx, &contested).await?;
        let elsewhere = if absent.is_empty() {
            Elsewhere::default()
        } else {
            let aside = aside(repo, cx).await?;
            let aside = aside.into_iter().map(|(id, _)| id).collect();
            let of = (&marks, &packs);
            elsewhere(&absent, of, &aside, &repo.index(), called_dead)
        };
        let disputed = claims::disputed(&repo.index())?;
        use_of_packs(repo, &marks, &disputed, &mut packs);
        Ok(Self {
            snapshots,
            refs,
            marks,
            packs,
            absent,
            dead,
            contested,
            collection,
            disputed,
            elsewhere,
            older: BTreeSet::new(),
            parity,
        })
    }
}

impl Survey {
    /// Packs that no snapshot uses, of all that anybody may know of.
    pub(super) fn unused(&self) -> BTreeSet<PackId> {
        let listed = self.packs.keys().chain(self.absent.keys());
        let all = listed.chain(&self.dead).chain(&self.collection.dead);
        let unused = all.filter(|id| !self.marks.contains_key(*id));
        unused.copied().collect()
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

/// The damaged packs that repairs have set aside, and where they are.
pub(super) async fn aside(repo: &Repository, cx: &OpContext) -> Result<Vec<(PackId, ObjectKey)>> {
    let mut out = Vec::new();
    let mut listed = repo.sink().list(cx, "aside/", None);
    while let Some(meta) = listed.try_next().await? {
        let pack = layout::aside_of(&meta.key).and_then(|key| layout::pack_id(&key));
        out.extend(pack.map(|pack| (pack, meta.key)));
    }
    Ok(out)
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
        let (there, most) = refs::list_with_most(repo, cx).await?;
        let wanted: Vec<_> = snapshots
            .iter()
            .filter_map(|snapshot| Some((*snapshot, there.get(snapshot)?)))
            .flat_map(|(snapshot, keys)| keys.iter().map(move |key| (snapshot, key.clone())))
            .collect();
        let mut reading = futures::stream::iter(wanted)
            .map(|(snapshot, key)| {
                async move { (snapshot, refs::read(repo, cx, &key).await) }.boxed()
            })
            .buffered(refs::at_once(repo, cx, most));
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

/// The packs that the index names, or refs, and that are not on the tier as the index says.
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
    Ok(out)
}

/// What is to be said of packs that are used and that no index run knows.
pub(super) async fn of_unindexed(
    repo: &Repository,
    cx: &OpContext,
    survey: &Survey,
) -> Result<Option<Finding>> {
    let used = survey
        .packs
        .keys()
        .filter(|id| survey.marks.contains_key(*id));
    unindexed::of_named(repo, cx, used.copied().collect()).await
}

/// What is to be said of decisions that call dead what snapshots use.
pub(super) async fn of_contested(
    repo: &Repository,
    cx: &OpContext,
    survey: &Survey,
) -> Result<Vec<Finding>> {
    contested::findings(repo, cx, &survey.contested).await
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
            Some(hurt) if survey.elsewhere.untold.contains(id) => format!(
                "{}, and is needed by {}, and no index run tells what it held: what is left of that may lie in any pack, so nothing is deleted until it is put back from another copy (`snapshot repair --from`), `snapshot repair` with a full key finds out that they are whole without it, or they are forgotten",
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
            None if survey.elsewhere.spared.contains(id) => format!(
                "{}; no snapshot names it, but what is whole of it, there or in aside/, may be all that is left of lost packs that snapshots need, so it stays as long as these are lost",
                pack.state
            ),
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
fn use_of_packs(
    repo: &Repository,
    marks: &Marks,
    disputed: &BTreeMap<PackId, u32>,
    packs: &mut HashMap<PackId, Pack>,
) {
    let index = repo.index();
    let mut known = HashSet::new();
    for part in index.parts() {
        // By the numbers of packs, so that an entry costs no look-up by a name.
        let mut usages = Vec::with_capacity(part.pack_numbers());
        let is_there = |id: &PackId| packs.contains_key(id);
        for at in 0..u32::try_from(part.pack_numbers()).unwrap_or(u32::MAX) {
            let id = part.pack(at).map(|pack| pack.id).filter(is_there);
            usages.push(id.and_then(|id| marks.get(&id)));
        }
        let is_marked = |pack: u32| usages.get(pack as usize).is_some_and(Option::is_some);
        let slots = part.slots(is_marked);
        // Of several runs that know a pack the first counts.
        for (at, usage) in (0u32..).zip(&mut usages) {
            *usage = usage.filter(|one| !slots.of(at).is_empty() && known.insert(one.pack));
        }
        let mut used = vec![0u64; usages.len()];
        for (_, located) in part.iter() {
            let at = located.pack as usize;
            let usage = usages.get(at).copied().flatten();
            let slot = slots.slot(&located);
            if let Some((usage, slot)) = usage.zip(slot)
                && usage.has(slot)
                && let Some(used) = used.get_mut(at)
            {
                *used += u64::from(located.stored);
            }
        }
        for ((at, usage), used) in (0u32..).zip(usages).zip(used) {
            let Some(usage) = usage else { continue };
            if let Some(pack) = packs.get_mut(&usage.pack) {
                let is_agreed = slots.of(at).len() == usage.slots as usize
                    && !disputed.contains_key(&usage.pack);
                pack.used = if is_agreed { used } else { pack.size };
            }
        }
    }
    for (id, pack) in packs.iter_mut() {
        if marks.contains_key(id) && !known.contains(id) {
            pack.used = pack.size;
        }
    }
}

/// Refuses to give up snapshots that are gone from the tier and whose sidecar gives them back whole.
async fn none_is_beside(
    repo: &Repository,
    cx: &OpContext,
    gone: &BTreeSet<SnapshotId>,
) -> Result<()> {
    for id in gone {
        let key = name(layout::snapshot(*id))?;
        let made = beside::mended(cx, &**repo.sink(), &key).await?;
        if made.is_some_and(|bytes| beside::check(repo, &key, &bytes).is_ok()) {
            let why = format!(
                "snapshot {id} is gone from the tier, and its sidecar gives it back whole, so --despite-gone does not give up what it needs: `snapshot repair` puts it back; if it is to go, `snapshot forget` it then, by its whole id"
            );
            return Err(EngineError::Unprunable(why));
        }
    }
    Ok(())
}

/// Refuses when a snapshot is gone from the tier that nobody forgot: its object may be put back from
/// another copy, and must then find what it uses. The job says what is passed over.
pub(super) async fn none_is_gone(
    repo: &Repository,
    cx: &OpContext,
    job: &PruneJob,
    snapshots: &BTreeSet<SnapshotId>,
) -> Result<()> {
    let refuse = |what: &str, give_up: &str| {
        let why = format!(
            "{what}, and is gone from the tier: `snapshot repair` puts its object back from its sidecar, or fetches it from another copy (--from); if there is neither, {give_up}; --despite-gone goes on this once"
        );
        Err(EngineError::Unprunable(why))
    };
    let held = Holds::read(repo, cx).await?;
    let mut gone: BTreeSet<_> = held.ids().filter(|id| !snapshots.contains(id)).collect();
    if let Some(gone) = gone.first().filter(|_| !job.despite_gone) {
        let give_up =
            format!("`snapshot release {gone}`, and `snapshot forget {gone} --force` gives it up");
        return refuse(&format!("snapshot {gone} is held"), &give_up);
    }
    let check = crate::ledger::verify_ledger(repo, cx).await?;
    let in_ledger = check
        .findings
        .iter()
        .filter(|one| one.kind == FindingKind::Missing)
        .filter_map(|one| one.subject.strip_prefix("snapshot ")?.parse().ok());
    let in_ledger: BTreeSet<SnapshotId> = in_ledger.collect();
    if let Some(gone) = in_ledger.first().filter(|_| !job.despite_gone) {
        let give_up = format!("`snapshot forget {gone} --force` gives it up");
        return refuse(
            &format!("snapshot {gone} is in the ledger, nobody forgot it"),
            &give_up,
        );
    }
    gone.extend(in_ledger);
    none_is_beside(repo, cx, &gone).await?;
    // Of a snapshot that was taken away with its record nothing else tells.
    if !check.is_filled && !job.despite_ledger {
        return Err(EngineError::Unprunable(
            "the ledger lacks records or holds false ones, and this host's copy does not make them good, so that nobody can tell whether a snapshot was taken away: \
             see `snapshot ledger verify`; put them back with `snapshot repair --from` another copy; if there is none, go on with --despite-ledger"
                .into(),
        ));
    }
    Ok(())
}
