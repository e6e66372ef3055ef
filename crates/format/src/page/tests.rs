//! Trees that are built, walked and forged.

use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

use super::*;

const SIZES: PageSizes = PageSizes {
    min: 200,
    target: 800,
};

/// Those of repositories.
const REAL: PageSizes = PageSizes {
    min: 1024,
    target: 2048,
};

type Store = HashMap<ChunkId, Vec<u8>>;
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn build(entries: &BTreeMap<Vec<u8>, Vec<u8>>, store: &mut Store) -> Option<TreeRoot> {
    build_of(SIZES, entries, store)
}

fn build_of(
    sizes: PageSizes,
    entries: &BTreeMap<Vec<u8>, Vec<u8>>,
    store: &mut Store,
) -> Option<TreeRoot> {
    let mut keep = |page: Vec<u8>| {
        let id = ChunkId(*blake3::hash(&page).as_bytes());
        store.insert(id, page);
        Ok::<_, TreeError>(id)
    };
    let mut builder = TreeBuilder::new(sizes);
    for (key, value) in entries {
        builder.push(key, value, &mut keep).unwrap();
    }
    builder.finish(&mut keep).unwrap()
}

fn walk(root: &TreeRoot, from: &[u8], store: &Store) -> (Pairs, usize) {
    let mut cursor = TreeCursor::new(root, from);
    let (mut out, mut reads) = (Vec::new(), 0);
    loop {
        match cursor.step().unwrap() {
            Step::Need(id) => {
                reads += 1;
                cursor.supply(&store[&id]).unwrap();
            }
            Step::Entry(key, value) => out.push((key, value)),
            Step::End => return (out, reads),
        }
    }
}

/// Walks a tree of which one page is gone.
fn walk_without(root: &TreeRoot, from: &[u8], store: &Store, gone: ChunkId) -> (Pairs, Vec<Gap>) {
    let mut cursor = TreeCursor::new(root, from);
    let (mut out, mut gaps) = (Vec::new(), Vec::new());
    loop {
        match cursor.step().unwrap() {
            Step::Need(id) if id == gone => gaps.push(cursor.pass_over().unwrap()),
            Step::Need(id) => cursor.supply(&store[&id]).unwrap(),
            Step::Entry(key, value) => out.push((key, value)),
            Step::End => return (out, gaps),
        }
    }
}

fn numbered(count: u32) -> BTreeMap<Vec<u8>, Vec<u8>> {
    (0..count)
        .map(|n| (format!("key{n:06}").into_bytes(), vec![n as u8; 40]))
        .collect()
}

/// Keys as deep folders give them: short, long, and long with a long beginning in common.
fn keys() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let lengths = prop_oneof![
        1..40usize,
        900..1100usize,
        3000..4000usize,
        50_000..60_000usize
    ];
    let key = (0..=2u8, lengths, any::<u64>()).prop_map(|(shape, length, seed)| {
        let tail = seed.to_be_bytes();
        let mut key: Vec<u8> = match shape {
            0 => tail.to_vec(),
            _ => vec![shape; length],
        };
        key.extend(tail);
        key.resize(key.len().max(length), 7);
        key
    });
    prop::collection::vec(key, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn keys_of_any_length_make_a_low_tree_that_is_read_back_whole(
        keys in keys(), sizes in prop_oneof![Just(SIZES), Just(REAL)],
    ) {
        let entries: BTreeMap<_, _> = keys.into_iter().map(|key| (key, vec![5; 60])).collect();
        let mut store = Store::new();
        let root = build_of(sizes, &entries, &mut store).unwrap();
        prop_assert!(u32::from(root.height) <= entries.len().ilog(MIN_CHILDREN as usize) + 1);
        let wanted: Pairs = entries.clone().into_iter().collect();
        prop_assert_eq!(walk(&root, b"", &store).0, wanted);
        let given: usize = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        let stored: usize = store.values().map(Vec::len).sum();
        prop_assert!(stored <= 3 * given + 100, "{given} bytes became {stored}");
    }

    #[test]
    fn a_walk_gives_the_entries_back_from_any_key_on(
        entries in prop::collection::btree_map(
            prop::collection::vec(1u8..4, 1..12), prop::collection::vec(any::<u8>(), 0..60), 1..400),
        from in prop::collection::vec(1u8..4, 0..12),
    ) {
        let mut store = Store::new();
        let root = build(&entries, &mut store).unwrap();
        prop_assert_eq!(root.entries, entries.len() as u64);
        let wanted: Vec<_> = entries.range(from.clone()..).map(|(k, v)| (k.clone(), v.clone())).collect();
        prop_assert_eq!(walk(&root, &from, &store).0, wanted);
    }

    #[test]
    fn any_bytes_are_a_page_or_refused(
        bytes: Vec<u8>, at: prop::sample::Index, noise in prop::collection::vec(any::<u8>(), 1..5)
    ) {
        for level in 0..3 {
            let _ = Page::parse(&[&[level], &bytes[..]].concat(), level);
        }
        let mut store = Store::new();
        let root = build(&numbered(200), &mut store).unwrap();
        for page in store.values_mut() {
            let at = at.index(page.len());
            page.iter_mut().skip(at).zip(&noise).for_each(|(byte, noise)| *byte = *noise);
        }
        let mut cursor = TreeCursor::new(&root, b"key000100");
        let mut entries = 0;
        while let Ok(step) = cursor.step() {
            match step {
                Step::Need(id) => match store.get(&id) {
                    Some(page) if cursor.supply(page).is_ok() => {}
                    _ => break,
                },
                Step::Entry(..) => entries += 1,
                Step::End => break,
            }
        }
        // Damage may hide entries; it cannot make a walk longer than its pages.
        let bytes: usize = store.values().map(Vec::len).sum();
        prop_assert!(entries * 3 <= bytes, "{entries} entries of {bytes} bytes");
    }
}

#[test]
fn a_page_that_is_gone_hides_its_own_range_of_keys_and_no_other() {
    let mut store = Store::new();
    let entries = numbered(3000);
    let root = build(&entries, &mut store).unwrap();
    assert!(root.height >= 2, "pages above pages are lost too");
    for gone in store.keys().filter(|id| **id != root.id) {
        let (left, gaps) = walk_without(&root, b"", &store, *gone);
        let [gap] = &gaps[..] else {
            panic!("{gaps:?}");
        };
        let is_lost = |key: &[u8]| {
            key >= gap.from.as_slice() && gap.to.as_ref().is_none_or(|to| key < to.as_slice())
        };
        let wanted: Pairs = (entries.clone().into_iter())
            .filter(|(key, _)| !is_lost(key))
            .collect();
        assert_eq!(left, wanted);
        assert_eq!(gap.entries, (entries.len() - wanted.len()) as u64);
        assert_eq!(gap.page, *gone);
        assert!(entries.contains_key(&gap.from), "it is the first key lost");
        // A walk that begins behind it does not meet it.
        if let Some(to) = &gap.to {
            assert_eq!(walk_without(&root, to, &store, *gone).1, []);
        }
    }
}

#[test]
fn nothing_comes_behind_a_root_that_is_gone_or_no_page() {
    let mut store = Store::new();
    let root = build(&numbered(3000), &mut store).unwrap();
    let mut cursor = TreeCursor::new(&root, b"");
    assert_eq!(cursor.step().unwrap(), Step::Need(root.id));
    assert!(cursor.supply(b"no page").is_err());
    assert_eq!(cursor.pass_over(), None);
    assert_eq!(cursor.step().unwrap(), Step::Need(root.id));
}

/// A page of keys that share a long prefix.
fn deep(entries: u32) -> Vec<u8> {
    let mut page = vec![0];
    page.put_varint(u64::from(entries));
    let prefix = vec![b'x'; 65_000];
    for number in 0..entries {
        let shared = if number == 0 { 0 } else { prefix.len() };
        page.put_varint(shared as u64);
        let key = [&prefix[shared..], &number.to_be_bytes()].concat();
        page.put_bytes(&key);
        page.put_bytes(&[]);
    }
    page
}

#[test]
fn shared_prefixes_take_no_more_room_than_the_page() {
    let page = deep(5_000);
    let (id, height, entries) = (ChunkId([0; 32]), 0, 5_000);
    let root = TreeRoot {
        id,
        height,
        entries,
    };
    let from = [&vec![b'x'; 65_000][..], &4_000u32.to_be_bytes()].concat();
    let mut cursor = TreeCursor::new(&root, &from);
    assert_eq!(cursor.step().unwrap(), Step::Need(id));
    cursor.supply(&page).unwrap();
    let [open] = &cursor.stack[..] else {
        panic!("one page")
    };
    let held = [
        &open.page.bytes,
        &open.page.first,
        &open.page.last,
        &open.key,
    ];
    let held: usize = held.into_iter().map(Vec::capacity).sum();
    assert!(
        held <= 2 * page.len() + 4 * MAX_KEY,
        "{held} for {}",
        page.len()
    );
    let mut walked = 0;
    while let Step::Entry(key, _) = cursor.step().unwrap() {
        assert_eq!(key.len(), 65_004);
        walked += 1;
    }
    assert_eq!(walked, 1_000);
}

/// First key, page, entries below.
type Child<'a> = (&'a [u8], ChunkId, u64);

/// An inner page of these children.
fn inner(level: u8, children: &[Child<'_>]) -> Vec<u8> {
    let mut open = OpenPage::default();
    for (key, id, below) in children {
        open.push(key, &child(*id, *below), *below);
    }
    open.finish(level).0
}

#[test]
fn a_page_is_what_the_page_above_says_of_it() {
    let leaf = |keys: [&[u8]; 2]| {
        let mut open = OpenPage::default();
        keys.iter().for_each(|key| open.push(key, &[], 1));
        open.finish(0).0
    };
    let (page, id) = (leaf([b"b", b"d"]), ChunkId([1; 32]));
    let other = ChunkId([2; 32]);
    let supplied = |children: &[Child<'_>], entries| {
        let (id, height) = (ChunkId([0; 32]), 1);
        let root = TreeRoot {
            id,
            height,
            entries,
        };
        let mut cursor = TreeCursor::new(&root, b"");
        cursor.supply(&inner(1, children))?;
        cursor.step().unwrap();
        cursor.supply(&page)
    };
    supplied(&[(b"b", id, 2)], 2).unwrap();
    supplied(&[(b"b", id, 2), (b"e", other, 1)], 3).unwrap();
    let wrong: [(&[Child<'_>], u64, &str); 4] = [
        (&[(b"a", id, 2)], 2, "the first key of a page"),
        (&[(b"b", id, 3)], 3, "the number of entries below a page"),
        (&[(b"b", id, 2)], 3, "the number of entries below a page"),
        (
            &[(b"b", id, 2), (b"d", other, 1)],
            3,
            "the last key of a page",
        ),
    ];
    for (children, entries, why) in wrong {
        assert_eq!(supplied(children, entries), Err(WireError::Range(why)));
    }
}

#[test]
fn no_entries_no_tree() {
    assert_eq!(build(&BTreeMap::new(), &mut Store::new()), None);
}

#[test]
fn one_change_stores_only_the_pages_on_its_way() {
    let mut store = Store::new();
    let mut entries = numbered(20_000);
    build(&entries, &mut store);
    let before = store.len();
    entries.insert(b"key010000x".to_vec(), vec![1]);
    let root = build(&entries, &mut store).unwrap();
    assert!(
        store.len() - before <= usize::from(root.height) + 3,
        "{}",
        store.len() - before
    );
}

#[test]
fn many_files_in_a_deep_folder_share_its_path_in_each_page() {
    let folder = "x".repeat(3000);
    let entries: BTreeMap<_, _> = (0..5000)
        .map(|n| (format!("{folder}/{n:06}").into_bytes(), vec![n as u8; 100]))
        .collect();
    let mut store = Store::new();
    let root = build_of(REAL, &entries, &mut store).unwrap();
    assert!(root.height <= 4, "{}", root.height);
    assert_eq!(walk(&root, b"", &store).0.len(), entries.len());
    // 110 bytes each, and the folder once a page.
    let stored: usize = store.values().map(Vec::len).sum();
    assert!(stored < 5000 * 110 * 8, "{stored}");
}

#[test]
fn one_change_among_long_keys_stores_few_pages() {
    let key = |n: u32| [&n.to_be_bytes()[..], &[7; 3000]].concat();
    let mut entries: BTreeMap<_, _> = (1..4000).map(|n| (key(n), vec![1; 100])).collect();
    let mut store = Store::new();
    build(&entries, &mut store);
    let before = store.len();
    entries.insert(key(0), vec![1; 100]);
    build(&entries, &mut store);
    assert!(store.len() - before < 30, "{}", store.len() - before);
}

#[test]
fn what_could_not_be_read_back_is_refused() {
    let mut keep = |_| Ok::<_, TreeError>(ChunkId([0; 32]));
    let mut builder = TreeBuilder::new(SIZES);
    let long = vec![1; MAX_KEY + 1];
    let refused = builder.push(&long, b"", &mut keep);
    assert_eq!(refused, Err(TreeError::LongKey(long.len())));
    builder
        .levels
        .resize_with(usize::from(MAX_HEIGHT), OpenPage::default);
    let value = child(ChunkId([0; 32]), 1);
    let mut at = |level: u8| builder.push_at(level.into(), b"k", &value, 1, &mut keep);
    assert_eq!(at(MAX_HEIGHT), Ok(()));
    assert_eq!(at(MAX_HEIGHT + 1), Err(TreeError::TooHigh));
}

#[test]
fn a_range_reads_few_pages() {
    let mut store = Store::new();
    let root = build(&numbered(20_000), &mut store).unwrap();
    let mut cursor = TreeCursor::new(&root, b"key012345");
    let mut reads = 0;
    loop {
        match cursor.step().unwrap() {
            Step::Need(id) => {
                reads += 1;
                cursor.supply(&store[&id]).unwrap();
            }
            Step::Entry(key, _) => {
                assert_eq!(key, b"key012345");
                break;
            }
            Step::End => panic!("not found"),
        }
    }
    assert!(reads <= usize::from(root.height) + 1);
}
