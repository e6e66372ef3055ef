#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use backup_core::{CancellationToken, ObjectKey, RepoId, SnapshotId};
use backup_format::index::RunBuilder;
use backup_format::pack::{PackBlob, SessionWrap};
use backup_format::seal::{BlobKind, ObjectKeyring};
use proptest::collection::vec;
use proptest::prelude::*;

use super::build::NamedRun;
use super::part::Shelved;
use super::shelf::{self, Shelf};
use super::table::Table;
use super::*;
use crate::claims;
use crate::usage::Usage;

/// A run in which each of these packs holds these chunks.
fn run(packs: &[(u8, &[u8])]) -> Arc<IndexRun> {
    let mut builder = RunBuilder::default();
    for (pack, chunks) in packs {
        let blob = |chunk: &u8| PackBlob {
            kind: BlobKind::Data,
            id: ChunkId([*chunk; 32]),
            offset: 0,
            stored: 9,
            raw: 9,
        };
        let blobs: Vec<_> = chunks.iter().map(blob).collect();
        let id = PackId([*pack; 32]);
        builder.add_pack(id, 900, &blobs).unwrap();
    }
    Arc::new(IndexRun::parse(builder.finish(&[])).unwrap())
}

#[test]
fn what_lies_in_avoided_packs_alone_is_not_found_and_other_places_are() {
    let all = IndexSet::new(vec![
        run(&[(1, &[11, 12]), (2, &[12, 13])]),
        run(&[(3, &[11])]),
        run(&[(1, &[14])]),
    ]);
    let found = |set: &IndexSet, chunk: u8| set.find(&ChunkId([chunk; 32])).map(|at| at.pack.0[0]);
    let of = |set: &IndexSet| [11, 12, 13, 14].map(|chunk| found(set, chunk));
    assert_eq!(of(&all), [Some(1), Some(1), Some(2), Some(1)]);
    let one = all.avoiding(&BTreeSet::from([PackId([1; 32])]));
    // In another run, in another pack of the same run, and nowhere else.
    assert_eq!(of(&one), [Some(3), Some(2), Some(2), None]);
    let both = one.avoiding(&BTreeSet::from([PackId([2; 32])]));
    assert_eq!(of(&both), [Some(3), None, None, None]);
    assert_eq!(both.packs().keys().count(), 1);
    assert_eq!(all.places(&[12; 16]).count(), 2);
}

#[test]
fn what_lies_in_shunned_packs_is_found_where_nothing_else_has_it() {
    let all = IndexSet::new(vec![run(&[(1, &[11, 12])]), run(&[(2, &[12, 13])])]);
    let shunned = all.shunning(&BTreeSet::from([PackId([1; 32])]));
    let of = |set: &IndexSet, chunk: u8| {
        let places = set.places(&[chunk; 16]).map(|at| at.pack.0[0]);
        places.collect::<Vec<_>>()
    };
    assert_eq!(of(&all, 12), [1, 2]);
    assert_eq!(of(&shunned, 12), [2, 1]);
    assert_eq!(of(&shunned, 11), [1]);
    assert_eq!(of(&shunned, 13), [2]);
    let avoided = shunned.avoiding(&BTreeSet::from([PackId([1; 32])]));
    assert_eq!(of(&avoided, 12), [2]);
    assert_eq!(of(&avoided, 11), [0u8; 0]);
    assert_eq!(avoided.pack_sizes().len(), 1);
}

fn ring() -> ObjectKeyring {
    ObjectKeyring::new(RepoId([1; 16]), &[2; 32])
}

/// A chunk of a small pool; every fourth has nearly the id of another.
fn chunk(number: u8) -> ChunkId {
    match number % 4 {
        0 => ChunkId([number; 32]),
        _ => ChunkId(*blake3::hash(&[number]).as_bytes()),
    }
}

/// Packs with their chunks.
type Packs = BTreeMap<u8, Vec<u8>>;

/// What an index says of a chunk's place.
type Said = (PackId, u32, u32, u32, bool);

fn blobs(pack: u8, chunks: &[u8]) -> Vec<PackBlob> {
    let kind = if pack.is_multiple_of(3) {
        BlobKind::Page
    } else {
        BlobKind::Data
    };
    let mut offset = 0;
    let blob = |number: &u8| {
        let stored = u32::from(*number) + 1;
        offset += stored;
        PackBlob {
            kind,
            id: chunk(*number),
            offset: offset - stored,
            stored,
            raw: 2 * stored,
        }
    };
    chunks.iter().map(blob).collect()
}

fn named(number: usize, packs: &Packs) -> NamedRun {
    let mut builder = RunBuilder::default();
    for (pack, chunks) in packs {
        let id = PackId([*pack; 32]);
        builder
            .add_pack(id, 900 + u64::from(*pack), &blobs(*pack, chunks))
            .unwrap();
    }
    let wrap = SessionWrap {
        session: SessionId(number as u128),
        wrap: vec![number as u8; 9],
    };
    let plain = builder.finish(&[wrap]);
    NamedRun {
        key: ObjectKey::new(format!("index/{number}")).unwrap(),
        size: plain.len() as u64,
        run: Arc::new(IndexRun::parse(plain).unwrap()),
    }
}

fn sizes<'a>(runs: impl IntoIterator<Item = &'a NamedRun>) -> HashMap<ObjectKey, u64> {
    let size = |one: &NamedRun| (one.key.clone(), one.size);
    runs.into_iter().map(size).collect()
}

fn set(tables: &[Arc<Shelved>], runs: &[NamedRun]) -> IndexSet {
    let tables = tables.iter().cloned().map(Part::table);
    let runs = runs.iter().map(|one| Part::run(one.run.clone()));
    IndexSet::of(tables.chain(runs).collect())
}

fn places(set: &IndexSet, chunk: &ChunkId) -> Vec<Said> {
    let said = |at: Place| {
        let located = at.located;
        let is_meta = located.kind.is_meta();
        (
            at.pack,
            located.offset,
            located.stored,
            located.raw,
            is_meta,
        )
    };
    set.places(&chunk.prefix()).map(said).collect()
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

/// What runs say, without what lies in some packs, as a map.
fn model(runs: &[&Packs], avoided: &BTreeSet<u8>) -> BTreeMap<ChunkId, Vec<Said>> {
    let mut out: BTreeMap<ChunkId, Vec<Said>> = BTreeMap::new();
    for (pack, chunks) in runs.iter().flat_map(|packs| packs.iter()) {
        if avoided.contains(pack) {
            continue;
        }
        for blob in blobs(*pack, chunks) {
            let said = (
                PackId([*pack; 32]),
                blob.offset,
                blob.stored,
                blob.raw,
                blob.kind.is_meta(),
            );
            out.entry(blob.id).or_default().push(said);
        }
    }
    out.into_iter()
        .map(|(id, said)| (id, sorted(said)))
        .collect()
}

fn ids(packs: &BTreeSet<u8>) -> BTreeSet<PackId> {
    packs.iter().map(|pack| PackId([*pack; 32])).collect()
}

/// Every place is marked; the refs of that.
fn all_used(set: &IndexSet) -> Vec<(PackId, u32, Vec<u32>)> {
    let mut usage = Usage::new(set);
    for number in 0..=u8::MAX {
        for place in set.places(&chunk(number).prefix()) {
            usage.mark_place(&place);
        }
    }
    let refs = usage.refs(SnapshotId(1), set, &[]).unwrap();
    let packs = refs.packs.iter();
    packs
        .map(|one| (one.pack, one.slots, one.used().collect()))
        .collect()
}

fn check_set(
    set: &IndexSet,
    runs: &[&Packs],
    avoided: &BTreeSet<u8>,
    shunned: &BTreeSet<u8>,
) -> Result<(), TestCaseError> {
    let (wanted, shunned) = (model(runs, avoided), ids(shunned));
    for number in 0..=u8::MAX {
        let id = chunk(number);
        let found = places(set, &id);
        let known = wanted.get(&id).cloned().unwrap_or_default();
        prop_assert_eq!(sorted(found.clone()), known, "{}", number);
        prop_assert_eq!(
            set.find(&id).map(|at| at.pack),
            found.first().map(|one| one.0)
        );
        let last = found.iter().skip_while(|one| !shunned.contains(&one.0));
        prop_assert!(last.into_iter().all(|one| shunned.contains(&one.0)));
    }
    let entries: usize = runs
        .iter()
        .flat_map(|packs| packs.values())
        .map(Vec::len)
        .sum();
    prop_assert_eq!(set.len(), entries);
    let mut sizes = BTreeMap::new();
    let mut counts: BTreeMap<PackId, u64> = BTreeMap::new();
    for (pack, chunks) in runs.iter().flat_map(|packs| packs.iter()) {
        if !avoided.contains(pack) {
            sizes.insert(PackId([*pack; 32]), 900 + u64::from(*pack));
            *counts.entry(PackId([*pack; 32])).or_default() += chunks.len() as u64;
        }
    }
    prop_assert_eq!(
        &set.pack_sizes().into_iter().collect::<BTreeMap<_, _>>(),
        &sizes
    );
    for (id, facts) in set.packs() {
        prop_assert_eq!(Some(&facts.size), sizes.get(&id));
        prop_assert_eq!(Some(&facts.blobs), counts.get(&id));
        prop_assert!(facts.blobs == 0 || facts.is_meta == id.0[0].is_multiple_of(3));
    }
    prop_assert_eq!(set.packs().len(), sizes.len());
    for part in set.parts() {
        let slots = part.slots(|_| true);
        let entries: Vec<_> = part.iter().collect();
        prop_assert_eq!(entries.len(), part.len());
        prop_assert!(entries.is_sorted_by_key(|(prefix, _)| *prefix));
        let mut in_packs = 0;
        for (at, _) in part.packs() {
            let of_pack = entries.iter().map(|one| one.1).filter(|one| one.pack == at);
            let by_offset = sorted(of_pack.map(|one| (one.offset, one.entry)).collect());
            let by_slot: Vec<_> = slots.of(at).iter().collect();
            in_packs += by_slot.len();
            prop_assert!(
                by_slot
                    .iter()
                    .copied()
                    .eq(by_offset.into_iter().map(|one| one.1))
            );
        }
        prop_assert_eq!(in_packs, entries.len());
        for (_, located) in &entries {
            let slot = slots.slot(located).unwrap();
            prop_assert_eq!(slots.of(located.pack).get(slot), Some(located.entry));
            prop_assert!((located.entry as usize) < part.numbers());
        }
    }
    Ok(())
}

/// Of which packs runs say different things, and the most chunks that one of them gives each.
fn disputes(runs: &[&Packs]) -> BTreeMap<PackId, u32> {
    let mut said: BTreeMap<u8, BTreeSet<&[u8]>> = BTreeMap::new();
    for (pack, chunks) in runs.iter().flat_map(|packs| packs.iter()) {
        if !chunks.is_empty() {
            said.entry(*pack).or_default().insert(chunks);
        }
    }
    let differ = said.into_iter().filter(|(_, lists)| lists.len() > 1);
    let most = differ.map(|(pack, lists)| (pack, lists.iter().map(|list| list.len()).max()));
    most.map(|(pack, most)| (PackId([pack; 32]), most.unwrap_or_default() as u32))
        .collect()
}

/// What a run is kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    Run,
    /// In a table, which may be laid together with the other.
    Table(bool),
    /// In a table, and gone from the tier.
    Gone(bool),
}

fn kinds() -> impl Strategy<Value = As> {
    prop_oneof![
        Just(As::Run),
        any::<bool>().prop_map(As::Table),
        any::<bool>().prop_map(As::Gone),
    ]
}

fn some_packs() -> impl Strategy<Value = Packs> {
    prop::collection::btree_map(0u8..12, vec(any::<u8>(), 0..60), 0..6)
}

fn packs_of_a_few() -> impl Strategy<Value = BTreeSet<u8>> {
    prop::collection::btree_set(0u8..12, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn an_index_says_what_its_runs_say_however_it_is_kept(
        runs in vec((some_packs(), kinds()), 0..10),
        avoided in packs_of_a_few(), shunned in packs_of_a_few(),
        in_memory: bool, laid_together: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let folder = (!in_memory).then(|| dir.path().join("index"));
        let (shelf, cancel) = (Shelf::new(folder.clone(), ring()), CancellationToken::new());
        let all: Vec<_> = runs.iter().enumerate().map(|(n, one)| (named(n, &one.0), one.1)).collect();
        let mut tables = Vec::new();
        for which in [false, true] {
            let is_in = |how: &As| [As::Table(which), As::Gone(which)].contains(how);
            let own: Vec<_> = all.iter().filter(|one| is_in(&one.1)).map(|one| one.0.clone()).collect();
            tables.push(shelf.lay_together(&own, &[], laid_together, &cancel).unwrap().table.clone());
        }
        if !in_memory {
            let read = shelf.open_all();
            prop_assert_eq!(read.len(), 2);
            tables = read;
        }
        let is_there = |how: &As| !matches!(how, As::Gone(_));
        let listed = sizes(all.iter().filter(|one| is_there(&one.1)).map(|one| &one.0));
        let mut tables = shelf::counting(tables, &listed);
        if laid_together && !tables.is_empty() {
            tables = vec![shelf.lay_together(&[], &tables, laid_together, &cancel).unwrap()];
        }
        let in_runs: Vec<_> = all.iter().filter(|one| one.1 == As::Run).map(|one| one.0.clone()).collect();
        let packs: Vec<&Packs> = runs.iter().filter(|one| is_there(&one.1)).map(|one| &one.0).collect();
        let kept = set(&tables, &in_runs);
        let none = BTreeSet::new();
        check_set(&kept, &packs, &none, &none)?;
        check_set(&kept.avoiding(&ids(&avoided)), &packs, &avoided, &none)?;
        let both = kept.shunning(&ids(&shunned)).avoiding(&ids(&avoided));
        check_set(&both, &packs, &avoided, &shunned)?;
        let live = all.iter().filter(|one| is_there(&one.1)).map(|one| one.0.run.clone());
        let plain = IndexSet::new(live.collect());
        let wraps = |set: &IndexSet| -> Vec<(SessionId, Vec<u8>)> {
            let mut wraps: Vec<_> = set.wraps().map(|(id, wrap)| (id, wrap.to_vec())).collect();
            wraps.sort();
            wraps
        };
        prop_assert_eq!(wraps(&kept), wraps(&plain));
        // Of a pack that several runs tell differently all of it is used, whose word ever comes first.
        prop_assert_eq!(all_used(&kept), all_used(&plain));
        prop_assert_eq!(claims::disputed(&kept).unwrap(), disputes(&packs));
        prop_assert!(kept.check().is_ok());
    }

    #[test]
    fn a_damaged_file_says_nothing_false_and_is_told_of(
        packs in some_packs(), at: prop::sample::Index, bit in 0u8..8, cut: Option<prop::sample::Index>,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (path, shelf) = shelved(dir.path(), &packs);
        let mut bytes = fs::read(&path).unwrap();
        match cut {
            Some(cut) => bytes.truncate(cut.index(bytes.len())),
            None => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
        }
        fs::write(&path, &bytes).unwrap();
        let Some(table) = shelf.open_all().pop() else {
            // The next reading makes it anew.
            prop_assert!(!path.exists());
            return Ok(());
        };
        let listed = sizes([&named(0, &packs)]);
        let kept = set(&shelf::counting(vec![table.clone()], &listed), &[]);
        let wanted = model(&[&packs], &BTreeSet::new());
        for number in 0..=u8::MAX {
            let known = wanted.get(&chunk(number)).cloned().unwrap_or_default();
            let found = sorted(places(&kept, &chunk(number)));
            prop_assert!(found == known || kept.check().is_err());
            prop_assert!(found.iter().all(|one| known.contains(one)));
        }
        prop_assert!(!table.prove(), "nothing is wrong with it");
        prop_assert!(kept.check().is_err() && !path.exists());
    }
}

/// A file of a run of these packs.
fn shelved(dir: &Path, packs: &Packs) -> (PathBuf, Shelf) {
    let shelf = Shelf::new(Some(dir.join("index")), ring());
    let made = shelf.lay_together(&[named(0, packs)], &[], false, &CancellationToken::new());
    (made.unwrap().table.path().unwrap().to_owned(), shelf)
}

fn few() -> Packs {
    BTreeMap::from([(1, vec![1, 2, 3]), (2, vec![2, 5])])
}

#[test]
fn a_file_is_for_this_user_alone_and_shows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = shelved(dir.path(), &few());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let bytes = fs::read(&path).unwrap();
    let shows = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    assert!(!shows(&[1; 8]) && !shows(&chunk(1).0[..8]) && !shows(b"index/"));
}

/// What was looked up is at hand for the next who asks, whatever becomes of the file; it is no word on what was not.
#[test]
fn what_was_looked_up_lately_is_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, shelf) = shelved(dir.path(), &few());
    let listed = sizes([&named(0, &few())]);
    let kept = set(&shelf::counting(shelf.open_all(), &listed), &[]);
    let first = places(&kept, &chunk(1));
    assert_eq!(first.len(), 1);
    fs::write(&path, "").unwrap();
    assert_eq!(places(&kept, &chunk(1)), first);
    kept.check().unwrap();
    assert!(places(&kept, &chunk(5)).is_empty());
    kept.check().unwrap_err();
}

#[test]
fn a_file_of_another_repository_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = shelved(dir.path(), &few());
    let other = ObjectKeyring::new(RepoId([1; 16]), &[3; 32]);
    assert!(Table::open(&path, &other).is_none());
    let other = ObjectKeyring::new(RepoId([9; 16]), &[2; 32]);
    assert!(Table::open(&path, &other).is_none());
    assert!(Table::open(&path, &ring()).is_some());
}

#[test]
fn runs_that_are_gone_or_were_cut_off_on_the_tier_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(Some(dir.path().to_owned()), ring());
    let (one, two) = (named(1, &few()), named(2, &BTreeMap::from([(3, vec![9])])));
    let runs = [one.clone(), two.clone()];
    shelf
        .lay_together(&runs, &[], false, &CancellationToken::new())
        .unwrap();
    let mut listed = sizes([&one, &two]);
    let counts = |listed: &HashMap<ObjectKey, u64>| {
        let tables = shelf::counting(shelf.open_all(), listed);
        tables.iter().map(|one| one.count).sum::<usize>()
    };
    assert_eq!(counts(&listed), 6);
    *listed.get_mut(&one.key).unwrap() -= 1;
    assert_eq!(counts(&listed), 1);
    listed.remove(&one.key);
    assert_eq!(counts(&listed), 1);
    // The list may lag: another may need it yet.
    assert_eq!(counts(&HashMap::new()), 0);
    assert_eq!(shelf.open_all().len(), 1);
}

#[test]
fn a_file_whose_runs_are_all_in_another_goes() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(Some(dir.path().to_owned()), ring());
    let (one, two) = (named(1, &few()), named(2, &few()));
    let cancel = CancellationToken::new();
    shelf
        .lay_together(std::slice::from_ref(&one), &[], false, &cancel)
        .unwrap();
    shelf
        .lay_together(&[one.clone(), two.clone()], &[], false, &cancel)
        .unwrap();
    assert_eq!(shelf.open_all().len(), 2);
    let tables = shelf::counting(shelf.open_all(), &sizes([&one, &two]));
    assert_eq!((tables.len(), tables[0].count), (1, 10));
    assert_eq!(shelf.open_all().len(), 1);
}

#[test]
fn what_is_cancelled_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::new(Some(dir.path().to_owned()), ring());
    let chunks: Vec<u8> = (0..16_000u32).map(|n| n as u8).collect();
    let packs: Packs = (0..6).map(|pack| (pack, chunks.clone())).collect();
    let cancel = CancellationToken::new();
    cancel.cancel();
    assert!(
        shelf
            .lay_together(&[named(1, &packs)], &[], false, &cancel)
            .is_none()
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn where_the_folder_cannot_be_used_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (path, usable) = shelved(dir.path(), &few());
    let tables = shelf::counting(usable.open_all(), &sizes([&named(0, &few())]));
    fs::write(dir.path().join("file"), "").unwrap();
    let unusable = Shelf::new(Some(dir.path().join("file")), ring());
    for is_large in [false, true] {
        let cancel = CancellationToken::new();
        let made = unusable.lay_together(&[named(1, &few())], &tables, is_large, &cancel);
        let made = made.unwrap();
        assert_eq!((made.count, made.table.path()), (10, None));
        assert_eq!(set(&[made], &[]).places(&chunk(2).prefix()).count(), 4);
        assert!(path.exists());
    }
}

#[test]
fn tables_stay_few_and_are_seldom_written() {
    let mut tables: Vec<Arc<Shelved>> = Vec::new();
    let shelf = Shelf::new(None, ring());
    let (mut written, mut most) = (0, 0);
    for number in 0..200 {
        let run = named(number, &BTreeMap::from([(1, vec![1; 50])]));
        let due = shelf::due(&tables, run.run.len());
        let made = shelf
            .lay_together(&[run], &due, false, &CancellationToken::new())
            .unwrap();
        tables.retain(|one| !due.iter().any(|old| Arc::ptr_eq(old, one)));
        written += made.count;
        tables.push(made);
        most = most.max(tables.len());
    }
    assert_eq!(tables.iter().map(|one| one.count).sum::<usize>(), 10_000);
    assert!(most <= 4, "{most} tables");
    assert!(written <= 10_000 * 20, "{written} entries written");
    assert!(shelf::due(&tables[..1], 0).is_empty());
}

#[test]
fn a_table_of_which_much_is_gone_is_written_anew() {
    let shelf = Shelf::new(None, ring());
    let runs: Vec<_> = (0..4).map(|number| named(number, &few())).collect();
    let made = shelf
        .lay_together(&runs, &[], false, &CancellationToken::new())
        .unwrap();
    let of = |gone: usize| {
        let tables = shelf::counting(vec![made.table.clone()], &sizes(&runs[gone..]));
        shelf::due(&tables, 0).len()
    };
    assert_eq!([of(0), of(1), of(2)], [0, 0, 1]);
}
