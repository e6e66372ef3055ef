//! Verification by levels: all at once, in samples and slices, or as far as a budget goes.
//!
//! *Metadata*: the heads are signed and whole, every page of every manifest opens, the Merkle root
//! over all entries is the signed one, every chunk that is named is in the index and long enough,
//! every pack of the index is on the tier with its size, the refs of each snapshot name what it uses.
//! *Checksum*: the bytes of the packs hash to their names, and their parity is whole. *Full read*: every
//! blob opens and hashes to its id, and so every extent; and contents hash to the SHA-256 of their file.
//!
//! Which packs are looked at, and in which order, is said first (`choice`). Then the manifests are walked
//! (`walk`), which hands contents to those who hash them (`content`), and with them the packs they lie
//! in. The packs that nobody needed for that come behind (`packs`), and the parity of all (`parity`).
//! What is damaged is gathered meanwhile, and at the end named with the snapshots and paths that it
//! hurts (`hurt`). Behind a page that does not open, the walk goes on.
//!
//! What was covered is remembered on this host (`memory`): what was covered longest ago comes first,
//! and a content that was found whole is not hashed again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Mutex;

use async_recursion::async_recursion as boxed;
use backup_core::{
    ChunkId, Event, Finding, FindingKind, ObjectKey, OpContext, PackId, Sample, Severity,
    SnapshotId, VerifyLevel, VerifyReport,
};
use tokio::runtime::Handle;

use self::content::{Contents, Known, Means};
use self::hurt::Bad;
use self::limit::Limit;
use self::memory::Memory;
use self::packs::PackPass;
use self::parts::lock;
use crate::error::{EngineError, Result};
use crate::index_set::PackFacts;
use crate::refs::Listed;
use crate::remedy::remedy;
use crate::repository::{Repository, SnapshotHead};
use crate::unlock::is_of_another;

mod beside;
mod budget;
mod choice;
mod chunks;
mod content;
mod coverage;
mod hurt;
mod known;
mod limit;
mod memory;
mod packs;
mod parity;
mod parts;
mod refs;
mod sessions;
mod walk;

pub use chunks::EveryChunk;
pub use coverage::{Amount, Coverage, LevelCoverage, coverage};
pub use hurt::Damage;
pub use known::known_damaged;
pub use limit::ReadBudget;
pub(crate) use sessions::check_session;

/// Contents are hashed at least up to so many bytes, however small the repository.
const LEAST_HASHED: u64 = 256 << 20;

/// What to verify, and how.
#[derive(Debug, Clone)]
pub struct VerifyJob {
    /// The snapshots; all if none are named.
    pub snapshots: Option<Vec<SnapshotHead>>,
    /// How deep.
    pub level: VerifyLevel,
    /// Which packs and contents.
    pub sample: Sample,
    /// How much is read; what was covered longest ago comes first.
    pub budget: Option<ReadBudget>,
    /// The folder of the local cache, in which is kept what was covered. Without it every content is
    /// hashed, since nobody would know later which were not.
    pub memory: Option<PathBuf>,
    /// Hash every content, also those that were found whole before, and as many as there are.
    pub rehash: bool,
}

impl VerifyJob {
    /// Everything at this level, without a memory.
    #[must_use]
    pub const fn new(level: VerifyLevel) -> Self {
        Self {
            snapshots: None,
            level,
            sample: Sample::All,
            budget: None,
            memory: None,
            rehash: false,
        }
    }
}

/// Contents of files that were hashed whole, or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hashed {
    /// Contents that were hashed in this run.
    pub contents: u64,
    /// Contents that were never hashed as a whole and are left for the next runs, beyond 65,536 estimated from a
    /// part of them; their chunks were checked like all others.
    pub left: u64,
    /// Their bytes.
    pub left_bytes: u64,
}

/// What a verification found.
#[derive(Debug, Clone)]
pub struct VerifyOutcome {
    /// Counts and findings.
    pub report: VerifyReport,
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Manifests that were walked: all, unless the time was over before.
    pub walked: u64,
    /// Whether manifests could be read with this key, or only the objects around them.
    pub read_manifests: bool,
    /// Snapshots whose manifests this key does not read, though others: they were saved since the keys were rotated.
    pub closed: u64,
    /// What was hashed.
    pub hashed: Hashed,
    /// What is damaged or missing, and what that hurts; at most a thousand objects.
    pub damage: Vec<Damage>,
    /// What was covered up to now, by this run and those before it.
    pub coverage: Coverage,
}

/// Verifies snapshots and the packs that their refs name; if none are named, all snapshots and all packs
/// that the index knows. Remembers nothing.
///
/// # Errors
/// Errors of the tier as a whole; what is wrong with data is in the findings.
#[boxed]
pub async fn verify(
    repo: &Repository,
    cx: &OpContext,
    snapshots: Option<Vec<SnapshotHead>>,
    level: VerifyLevel,
    sample: Sample,
) -> Result<VerifyOutcome> {
    let job = VerifyJob {
        snapshots,
        sample,
        ..VerifyJob::new(level)
    };
    verify_job(repo, cx, job).await
}

/// Verifies what a job says.
///
/// # Errors
/// Errors of the tier as a whole; what is wrong with data is in the findings. What was covered before
/// the error is remembered.
#[boxed]
pub async fn verify_job(
    repo: &Repository,
    cx: &OpContext,
    job: VerifyJob,
) -> Result<VerifyOutcome> {
    let mut memory = Memory::open(repo, cx, job.memory.as_deref())?;
    if memory.is_kept_by_other {
        cx.tell(Event::Note(
            "another verification on this host is at work: what this one covers is not remembered",
        ));
    }
    if job.rehash {
        memory.forget_contents();
    }
    let memory = Mutex::new(memory);
    let done = all(repo, cx, job, &memory, None).await;
    lock(&memory).flush();
    done
}

/// What is wrong, and whom it hurts, as a verification of metadata says it of a repository of which these
/// packs are known to be damaged.
pub(crate) async fn verify_knowing(
    repo: &Repository,
    cx: &OpContext,
    bad: BTreeMap<PackId, (ObjectKey, String)>,
) -> Result<VerifyOutcome> {
    let memory = Mutex::new(Memory::open(repo, cx, None)?);
    let job = VerifyJob::new(VerifyLevel::Metadata);
    all(repo, cx, job, &memory, Some(bad)).await
}

async fn all(
    repo: &Repository,
    cx: &OpContext,
    mut job: VerifyJob,
    memory: &Mutex<Memory>,
    known: Option<BTreeMap<PackId, (ObjectKey, String)>>,
) -> Result<VerifyOutcome> {
    let takes_all = job.snapshots.is_none();
    let snapshots = job.snapshots.take();
    let is_kept = lock(memory).is_kept();
    let most_hashed = if is_kept && !job.rehash && job.sample == Sample::All {
        walk::content_bytes(&repo.index()).max(LEAST_HASHED)
    } else {
        u64::MAX
    };
    let limit = Limit::new(job.budget, most_hashed);
    let mut run = Run::new(repo, cx, job, &limit, memory);
    run.is_behind_repair = known.is_some();
    let heads = match snapshots {
        Some(heads) => heads,
        None => {
            let (heads, unread) = repo.heads(cx).await?;
            for one in unread {
                run.tell(one.finding());
            }
            heads
        }
    };
    // What it does not have would be told as damage.
    let index = repo.proven_index(cx).await?;
    // Refs are there before their snapshot, and are replaced by others before they go.
    run.listed_refs = crate::refs::list(repo, cx).await?;
    run.around(&heads, takes_all).await?;
    let wanted = if takes_all {
        None
    } else {
        run.packs_of(&heads).await?
    };
    let mut chosen = run.chosen(wanted, known.unwrap_or_default()).await?;
    let by_files = run.by_files(&chosen);
    let known = tokio::task::block_in_place(|| {
        let means = Means {
            repo,
            cx,
            limit: &limit,
            memory,
        };
        let ((), known) = Contents::read(means, by_files, |feeder| {
            Handle::current().block_on(run.heads(&heads, feeder))
        })?;
        Ok::<_, EngineError>(known)
    })?;
    let read: HashSet<PackId> = chosen.iter().map(|(id, _)| *id).collect();
    let read = &read & &known.read;
    chosen.retain(|(id, _)| !known.read.contains(id));
    let hashed = Hashed {
        contents: known.hashed,
        left: run.left.contents() + known.given_up,
        left_bytes: run.left.bytes(),
    };
    let wrong = run.take_up(known);
    run.parity_of(&read).await?;
    run.packs_left(chosen)?;
    run.doubtful_runs();
    run.tell_gone().await?;
    run.name_hurt(&heads, &wrong).await?;
    index.check()?;
    repo.index().check()?;
    run.tell_aside(takes_all);
    run.remember(&heads, takes_all);
    let ids = heads.iter().map(|head| head.meta.id);
    let coverage = Coverage::of(&lock(memory), &run.packs, ids, cx);
    Ok(VerifyOutcome {
        report: run.report,
        snapshots: heads.len() as u64,
        walked: run.walked,
        read_manifests: repo.keys().identities().is_ok(),
        closed: run.closed.len() as u64,
        hashed,
        damage: run.bad.into_damage(),
        coverage,
    })
}

fn is_note(finding: &Finding) -> bool {
    finding.severity == Severity::Note
}

struct Run<'a> {
    repo: &'a Repository,
    cx: &'a OpContext,
    job: VerifyJob,
    /// Whether it looks at what a repair has left.
    is_behind_repair: bool,
    limit: &'a Limit,
    memory: &'a Mutex<Memory>,
    report: VerifyReport,
    bad: Bad,
    /// Packs that are not on the tier, or set aside, with what is to be said of them.
    gone: Vec<(PackId, FindingKind, String, String)>,
    /// Packs of content that a repair has set aside.
    aside: Vec<(PackId, ObjectKey)>,
    listed_refs: Listed,
    /// Every pack that the index knows.
    packs: HashMap<PackId, PackFacts>,
    /// Packs with parity, of those that are checked, by their names.
    protected: HashMap<PackId, ObjectKey>,
    /// Snapshots of which an entry cannot be restored whole by what the walk saw.
    doubtful: HashSet<SnapshotId>,
    /// Packs that are called dead and that snapshots use.
    contested: HashSet<PackId>,
    /// Snapshots that were saved since the keys were rotated, with which this one reads nothing.
    closed: HashSet<SnapshotId>,
    /// Contents that are left for later runs.
    left: walk::Left,
    /// Manifests that were walked.
    walked: u64,
}

impl<'a> Run<'a> {
    fn new(
        repo: &'a Repository,
        cx: &'a OpContext,
        job: VerifyJob,
        limit: &'a Limit,
        memory: &'a Mutex<Memory>,
    ) -> Self {
        Self {
            repo,
            cx,
            job,
            is_behind_repair: false,
            limit,
            memory,
            report: VerifyReport::default(),
            bad: Bad::default(),
            gone: Vec::new(),
            aside: Vec::new(),
            listed_refs: Listed::new(),
            packs: HashMap::new(),
            protected: HashMap::new(),
            doubtful: HashSet::new(),
            contested: HashSet::new(),
            closed: HashSet::new(),
            left: walk::Left::default(),
            walked: 0,
        }
    }

    fn tell(&mut self, finding: Finding) {
        self.cx.tell(Event::Found(&finding));
        self.report.findings.push(finding);
    }

    fn found(&mut self, kind: FindingKind, subject: &str, detail: &str) {
        self.tell(Finding::new(Severity::Error, kind, subject, detail));
    }

    /// What is said of an error: with what mends it, unless that has just been tried.
    fn said(&self, error: &EngineError) -> String {
        match error.remedy() {
            Some(remedy) if self.is_untried(remedy) => format!("{error}; {remedy}"),
            _ => error.to_string(),
        }
    }

    fn is_untried(&self, remedy: &str) -> bool {
        !self.is_behind_repair || !remedy.starts_with("`snapshot repair")
    }

    /// The same of an object of the tier, with what mends it: unless that has just been tried.
    fn found_object(&mut self, kind: FindingKind, object: &str, why: &str) {
        let remedy = remedy(kind, object);
        if self.is_untried(remedy) {
            self.found(kind, object, &format!("{why}; {remedy}"));
        } else {
            self.found(kind, object, why);
        }
    }

    fn takes_pack(&self, id: &PackId) -> bool {
        self.job.sample.takes(&id.0) || lock(self.memory).pack(id).is_bad
    }

    /// What lies around manifests and packs: index runs, configs, key slots, sidecars of these, sessions, and the
    /// refs of snapshots.
    async fn around(&mut self, heads: &[SnapshotHead], takes_all: bool) -> Result<()> {
        self.sessions(takes_all).await?;
        for (key, error) in self.repo.take_damaged_runs() {
            self.found_object(FindingKind::Damaged, key.as_str(), &error.to_string());
            self.bad.run(key.as_str(), &error.to_string());
        }
        let mut slots = BTreeSet::new();
        for (key, slot) in self.repo.slots(self.cx).await? {
            self.report.objects += 1;
            if let Err(error) = &slot {
                self.found_object(FindingKind::Damaged, key.as_str(), &error.to_string());
            }
            if !is_of_another(&slot, Some(self.repo.id())) {
                slots.insert(key);
            }
        }
        self.small_objects(heads, slots, takes_all).await?;
        self.unknown_names().await?;
        if self.repo.keys().identities().is_err() {
            // Who cannot read manifests can still see whether there are refs.
            for head in heads {
                self.refs(head).await?;
            }
        }
        Ok(())
    }

    /// Index runs that say false data keys. Behind everything that was read, since that shows which are true.
    fn doubtful_runs(&mut self) {
        for one in self.repo.doubtful_runs() {
            self.found(one.kind, one.run.as_str(), &one.why);
        }
    }

    /// Writes down what was covered; where all is well, what is not there any more is forgotten.
    fn remember(&self, heads: &[SnapshotHead], takes_all: bool) {
        let mut memory = lock(self.memory);
        let is_clean = self.bad.is_empty() && self.report.findings.iter().all(is_note);
        if takes_all && is_clean {
            let ids = heads.iter().map(|head| head.meta.id);
            memory.keep(self.packs.keys().copied(), ids);
            let reads = self.repo.keys().identities().is_ok();
            let walked_all = reads && self.walked == heads.len() as u64;
            let is_full = self.job.level >= VerifyLevel::FullRead;
            if walked_all && is_full && self.job.sample == Sample::All {
                memory.keep_met_contents();
            }
        }
        memory.finish();
    }

    /// Checks packs that no file needed.
    fn packs_left(&mut self, packs: Vec<(PackId, PackFacts)>) -> Result<()> {
        let pass = PackPass {
            repo: self.repo,
            cx: self.cx,
            index: self.repo.index(),
            level: self.job.level,
            limit: self.limit,
            memory: self.memory,
            protected: &self.protected,
        };
        let sum = tokio::task::block_in_place(|| pass.run(packs))?;
        self.report.bytes += sum.bytes;
        self.report.chunks += sum.chunks;
        for check in sum.bad {
            if let Some((kind, why)) = check.whole {
                self.bad_pack(check.id, kind, &format!("pack {}", check.id), &why);
            }
            for (chunk, why) in check.faults {
                self.bad_chunk(check.id, chunk, &why);
            }
        }
        for parity in sum.parity {
            self.take_parity(parity);
        }
        Ok(())
    }

    /// Takes up what is known of packs that were read for files; returns the contents that are wrong.
    fn take_up(&mut self, known: Known) -> HashMap<[u8; 16], String> {
        self.report.bytes += known.bytes;
        self.report.chunks += known.chunks;
        for (id, kind, why) in known.whole {
            self.bad_pack(id, kind, &format!("pack {id}"), &why);
        }
        let mut faults: Vec<_> = known.faults.into_iter().collect();
        // They were found in any order.
        faults.sort_unstable();
        for ((pack, chunk), why) in faults {
            self.bad_chunk(pack, chunk, &why);
        }
        known.wrong
    }

    fn bad_chunk(&mut self, pack: PackId, chunk: ChunkId, why: &str) {
        let subject = format!("chunk {chunk} in pack {pack}");
        self.found(FindingKind::Damaged, &subject, why);
        self.bad.chunk(pack, chunk, &subject, why);
    }

    fn bad_pack(&mut self, id: PackId, kind: FindingKind, subject: &str, why: &str) {
        // Of one that is there, which chunks can be had is found out by reading them.
        let may_hold = kind != FindingKind::Missing && self.opens_chunks();
        self.bad.pack(id, subject, why, may_hold);
        if kind == FindingKind::Missing {
            self.gone
                .push((id, kind, subject.to_owned(), why.to_owned()));
        } else {
            self.found_object(kind, subject, why);
        }
    }

    /// Whether chunks of a damaged pack are tried one by one.
    fn opens_chunks(&self) -> bool {
        let reads = self.job.level >= VerifyLevel::FullRead || self.is_behind_repair;
        reads && self.repo.keys().can_read()
    }
}

#[cfg(test)]
mod tests;
