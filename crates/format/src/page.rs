//! Trees of sorted pages: manifests (path → record) and lineage directories (stream → lineage).
//!
//! A page is a blob: `level(1) ‖ varint entries { varint shared ‖ bytes suffix ‖ bytes value }`. Keys
//! ascend strictly; `shared` bytes are those of the key before. On level 0 the values are the
//! caller's; above, a value is `child id(32) ‖ varint entries below` and the key is the first key
//! of the child.
//!
//! Pages end where a key's own hash says so (the lottery of [`crate::chunk::gather`], with the
//! BLAKE3 hash of the key and the entry's size), so the same entries give the same pages in every
//! snapshot, and a change touches the pages on its way to the root only. Listing one folder of a
//! large snapshot reads a few pages.
//!
//! Long keys must not make pages of one entry each: above level 0 such pages would not divide, and
//! the tree would grow without end. So no inner page but the last ends before [`MIN_CHILDREN`]
//! entries; of a page's first key, which stands in full, [`FIRST_KEY`] bytes count; and no entry
//! draws with more than one chance in two, so that ends stay chosen by content, not by counting.

use backup_core::{ChunkId, EntryPath};

use crate::wire::{Put, Take, WireError};

/// Trees are at most so high; a stored tree that is higher is damaged.
pub const MAX_HEIGHT: u8 = 12;
/// Longest key: a path and what stands before it.
const MAX_KEY: usize = EntryPath::MAX_BYTES + 16;
/// A page ends at the latest at so many bytes (a single larger entry has a page of its own).
const MAX: usize = 64 << 10;
/// No inner page but the last of its level has fewer entries, so each level divides.
const MIN_CHILDREN: u64 = 8;
/// Bytes of a page's first key that count for its length.
const FIRST_KEY: usize = 256;

/// Entries that are not made a tree, because nobody could read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// It would be higher than trees may be.
    #[error("a tree of pages would have more than {MAX_HEIGHT} levels above the lowest")]
    TooHigh,
    /// A key is longer than keys may be.
    #[error("a key of {0} bytes is too long for a tree of pages")]
    LongKey(usize),
}

/// Wanted bytes of a page before compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSizes {
    /// No page but the last ends before.
    pub min: usize,
    /// The wanted average.
    pub target: usize,
}

/// The root of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TreeRoot {
    /// The root page.
    pub id: ChunkId,
    /// Its level.
    pub height: u8,
    /// Entries of the whole tree.
    pub entries: u64,
}

#[derive(Debug, Default)]
struct OpenPage {
    body: Vec<u8>,
    count: u64,
    below: u64,
    first: Vec<u8>,
    last: Vec<u8>,
}

impl OpenPage {
    fn push(&mut self, key: &[u8], value: &[u8], below: u64) {
        let shared = key
            .iter()
            .zip(&self.last)
            .take_while(|(a, b)| a == b)
            .count();
        let shared = if self.count == 0 { 0 } else { shared };
        if self.count == 0 {
            self.first = key.to_vec();
        }
        self.body.put_varint(shared as u64);
        self.body.put_bytes(&key[shared..]);
        self.body.put_bytes(value);
        self.count += 1;
        self.below += below;
        self.last.clear();
        self.last.extend_from_slice(key);
    }

    /// Its length as far as it counts for where it ends.
    fn length(&self) -> usize {
        self.body.len() - self.first.len().saturating_sub(FIRST_KEY)
    }

    fn finish(&mut self, level: u8) -> (Vec<u8>, Vec<u8>, u64) {
        let mut page = Vec::with_capacity(self.body.len() + 10);
        page.push(level);
        page.put_varint(self.count);
        page.append(&mut self.body);
        let done = (page, std::mem::take(&mut self.first), self.below);
        (self.count, self.below) = (0, 0);
        done
    }
}

/// Builds a tree from entries in ascending order of key, with one open page for each level.
#[derive(Debug)]
pub struct TreeBuilder {
    sizes: PageSizes,
    levels: Vec<OpenPage>,
}

impl TreeBuilder {
    /// An empty tree.
    #[must_use]
    pub fn new(sizes: PageSizes) -> Self {
        Self {
            sizes,
            levels: vec![OpenPage::default()],
        }
    }

    /// Adds an entry. Finished pages go to `store`, which returns their ids.
    ///
    /// # Errors
    /// [`TreeError`] for what could not be read back; those of `store`.
    pub fn push<E: From<TreeError>>(
        &mut self,
        key: &[u8],
        value: &[u8],
        store: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        if key.len() > MAX_KEY {
            return Err(TreeError::LongKey(key.len()).into());
        }
        self.push_at(0, key, value, 1, store)
    }

    fn push_at<E: From<TreeError>>(
        &mut self,
        level: usize,
        key: &[u8],
        value: &[u8],
        below: u64,
        store: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        if self.levels.len() <= level {
            if level > usize::from(MAX_HEIGHT) {
                return Err(TreeError::TooHigh.into());
            }
            self.levels.push(OpenPage::default());
        }
        let before = self.levels[level].length();
        self.levels[level].push(key, value, below);
        let open = &self.levels[level];
        let length = open.length();
        let divides = level == 0 || open.count >= MIN_CHILDREN;
        let is_long = length >= self.sizes.min && self.draws(level, key, length - before);
        if divides && (length >= MAX || is_long) {
            self.close(level, store)?;
        }
        Ok(())
    }

    /// The lottery: does the page end behind an entry of `length` bytes with this key?
    fn draws(&self, level: usize, key: &[u8], length: usize) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[level as u8]);
        hasher.update(key);
        let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
        let span = (self.sizes.target - self.sizes.min).max(2) as u64;
        let length = (length as u64).min(span / 2);
        u64::from(u32::from_le_bytes([a, b, c, d])) * span < length << 32
    }

    fn close<E: From<TreeError>>(
        &mut self,
        level: usize,
        store: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        let (page, first, below) = self.levels[level].finish(level as u8);
        let value = child(store(page)?, below);
        self.push_at(level + 1, &first, &value, below, store)
    }

    /// Ends the tree; `None` if it has no entry.
    ///
    /// # Errors
    /// [`TreeError`] for what could not be read back; those of `store`.
    pub fn finish<E: From<TreeError>>(
        mut self,
        store: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<Option<TreeRoot>, E> {
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.levels.len();
            let open = &mut self.levels[level];
            if is_top && open.count == 0 {
                return Ok(None);
            }
            // A single child needs no page above it: it is the root itself.
            if is_top && level > 0 && open.count == 1 {
                let only = open.body.len().checked_sub(open.value_length());
                let value = only.and_then(|at| open.body.get(at..));
                if let Some(Ok((id, entries))) = value.map(read_child) {
                    return Ok(Some(TreeRoot {
                        id,
                        height: level as u8 - 1,
                        entries,
                    }));
                }
            }
            if is_top {
                let (page, _, entries) = open.finish(level as u8);
                return Ok(Some(TreeRoot {
                    id: store(page)?,
                    height: level as u8,
                    entries,
                }));
            }
            if open.count > 0 {
                self.close(level, store)?;
            }
            level += 1;
        }
    }
}

impl OpenPage {
    /// Length of the value of the only entry of an inner page.
    fn value_length(&self) -> usize {
        child(ChunkId([0; 32]), self.below).len()
    }
}

fn child(id: ChunkId, below: u64) -> Vec<u8> {
    let mut value = id.as_bytes().to_vec();
    value.put_varint(below);
    value
}

fn read_child(value: &[u8]) -> Result<(ChunkId, u64), WireError> {
    let mut take = Take::new(value);
    let id = ChunkId(take.array()?);
    let below = take.varint()?;
    take.end()?;
    Ok((id, below))
}

/// A page, read.
#[derive(Debug, Clone)]
pub struct Page {
    level: u8,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Page {
    /// Reads a page of the given level.
    ///
    /// # Errors
    /// [`WireError`] when it is not one.
    pub fn parse(bytes: &[u8], level: u8) -> Result<Self, WireError> {
        let mut take = Take::new(bytes);
        if take.u8()? != level || level > MAX_HEIGHT {
            return Err(WireError::Range("the level of a page"));
        }
        let count = take.count(3)?;
        let mut entries: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(count);
        for _ in 0..count {
            let shared = usize::try_from(take.varint()?).unwrap_or(usize::MAX);
            let suffix = take.bytes()?;
            let last = entries.last().map_or(&[][..], |(key, _)| key);
            let head = last
                .get(..shared)
                .ok_or(WireError::Range("a shared length of a page"))?;
            // Prefixes could make a small page grow without bound.
            if head.len() + suffix.len() > MAX_KEY {
                return Err(WireError::Range("the length of a key"));
            }
            let key = [head, suffix].concat();
            if !entries.is_empty() && key.as_slice() <= last {
                return Err(WireError::Range("the order of a page"));
            }
            let value = take.bytes()?;
            if level > 0 {
                let _ = read_child(value)?;
            }
            entries.push((key, value.to_vec()));
        }
        take.end()?;
        Ok(Self { level, entries })
    }
}

/// Walks a tree in order of key from any key on. It does no I/O: it says which page it needs.
#[derive(Debug)]
pub struct TreeCursor {
    from: Vec<u8>,
    // The pages from the root down, each with the number of its next entry.
    stack: Vec<(Page, usize)>,
    wanted: Option<(ChunkId, u8)>,
}

/// What a page that cannot be read held, as the pages above it say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The page.
    pub page: ChunkId,
    /// Its first key.
    pub from: Vec<u8>,
    /// The first key behind it; `None` if it is the last page.
    pub to: Option<Vec<u8>>,
    /// Entries in it and below it.
    pub entries: u64,
}

/// The next step of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read this blob (of kind page or lineage, as the tree is) and hand it to
    /// [`TreeCursor::supply`].
    Need(ChunkId),
    /// An entry: key and value.
    Entry(Vec<u8>, Vec<u8>),
    /// There are no more entries.
    End,
}

impl TreeCursor {
    /// A walk of the entries whose key is at least `from`.
    #[must_use]
    pub fn new(root: &TreeRoot, from: &[u8]) -> Self {
        Self {
            from: from.to_vec(),
            stack: Vec::new(),
            wanted: Some((root.id, root.height)),
        }
    }

    /// Hands over the page that was needed.
    ///
    /// # Errors
    /// [`WireError`] when it is not a page of the right level, or none was needed. The page is then
    /// still needed: see [`TreeCursor::pass_over`].
    pub fn supply(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let (_, level) = self
            .wanted
            .ok_or(WireError::Decode("a page nobody asked for"))?;
        let page = Page::parse(bytes, level)?;
        self.wanted = None;
        let at = page
            .entries
            .partition_point(|(key, _)| key.as_slice() < self.from.as_slice());
        let at = if level == 0
            || page
                .entries
                .get(at)
                .is_some_and(|(key, _)| *key == self.from)
        {
            at
        } else {
            // The key may lie below the child before.
            at.saturating_sub(1)
        };
        self.stack.push((page, at));
        Ok(())
    }

    /// The next step.
    ///
    /// # Errors
    /// [`WireError`] when an inner page is malformed.
    pub fn step(&mut self) -> Result<Step, WireError> {
        if let Some((id, _)) = self.wanted {
            return Ok(Step::Need(id));
        }
        while let Some((page, next)) = self.stack.last_mut() {
            let Some((key, value)) = page.entries.get_mut(*next) else {
                self.stack.pop();
                continue;
            };
            *next += 1;
            if page.level == 0 {
                return Ok(Step::Entry(std::mem::take(key), std::mem::take(value)));
            }
            let (id, _) = read_child(value)?;
            self.wanted = Some((id, page.level - 1));
            return Ok(Step::Need(id));
        }
        Ok(Step::End)
    }

    /// Goes on behind the page that is needed, which cannot be had; says what is lost with it.
    /// `None`: it is the root, and nothing comes behind it.
    pub fn pass_over(&mut self) -> Option<Gap> {
        // What the page held is told by its entry in the page above.
        let (above, next) = self.stack.last()?;
        let (from, value) = above.entries.get(next.checked_sub(1)?)?;
        let (page, entries) = read_child(value).ok()?;
        let to = self
            .stack
            .iter()
            .rev()
            .find_map(|(page, next)| page.entries.get(*next));
        let gap = Gap {
            page,
            from: from.clone(),
            to: to.map(|(key, _)| key.clone()),
            entries,
        };
        self.wanted = None;
        Some(gap)
    }

    /// Passes over everything below keys that begin with `prefix` and a NUL byte: the rest of a
    /// folder's content. The walk goes on behind it.
    pub fn skip_below(&mut self, root: &TreeRoot, prefix: &[u8]) {
        // Behind every key `prefix ‖ 0 ‖ …` and before `prefix ‖ 1`.
        let from = [prefix, &[1]].concat();
        let inside = self.stack.last().is_some_and(|(page, next)| {
            page.entries.get(*next).is_some_and(|(key, _)| *key >= from)
        });
        if !inside {
            *self = Self::new(root, &from);
        }
    }
}

#[cfg(test)]
mod tests {
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
    fn walk_without(
        root: &TreeRoot,
        from: &[u8],
        store: &Store,
        gone: ChunkId,
    ) -> (Pairs, Vec<Gap>) {
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
}
