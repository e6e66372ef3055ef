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

use std::cmp::Ordering;

use backup_core::ChunkId;

use crate::wire::{Put, Take, WireError};

/// Trees are at most so high; a stored tree that is higher is damaged.
pub const MAX_HEIGHT: u8 = 12;
/// A page ends at the latest at so many bytes (a single larger entry has a page of its own).
const MAX: usize = 64 << 10;
/// Longest key: a path, with room for what stands in front of it.
const MAX_KEY: usize = backup_core::EntryPath::MAX_BYTES + 16;

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
    /// Those of `store`.
    pub fn push<E>(
        &mut self,
        key: &[u8],
        value: &[u8],
        store: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        self.push_at(0, key, value, 1, store)
    }

    fn push_at<E>(
        &mut self,
        level: usize,
        key: &[u8],
        value: &[u8],
        below: u64,
        store: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        if self.levels.len() <= level {
            self.levels.push(OpenPage::default());
        }
        let before = self.levels[level].body.len();
        self.levels[level].push(key, value, below);
        let length = self.levels[level].body.len();
        if length >= MAX || (length >= self.sizes.min && self.draws(level, key, length - before)) {
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
        let span = (self.sizes.target - self.sizes.min).max(1) as u64;
        u64::from(u32::from_le_bytes([a, b, c, d])) * span < (length as u64) << 32
    }

    fn close<E>(
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
    /// Those of `store`.
    pub fn finish<E>(
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

/// A page, read. Its entries are taken from its bytes one after the other: keys that share a long
/// prefix would otherwise take many times the room of the page.
#[derive(Debug, Clone)]
pub struct Page {
    level: u8,
    bytes: Vec<u8>,
    /// Where the entries begin.
    start: usize,
    count: usize,
    first: Vec<u8>,
    last: Vec<u8>,
    /// Entries of the tree in it and below it.
    below: u64,
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
        if count == 0 {
            return Err(WireError::Range("the entries of a page"));
        }
        let start = bytes.len() - take.left();
        let (mut first, mut last, mut below) = (Vec::new(), Vec::new(), 0u64);
        for number in 0..count {
            let entry = Stored::take(&mut take)?;
            let after = last
                .get(entry.shared..)
                .ok_or(WireError::Range("a shared length of a page"))?;
            // What both share is equal, so the rest decides.
            if number > 0 && entry.suffix <= after {
                return Err(WireError::Range("the order of a page"));
            }
            if entry.shared + entry.suffix.len() > MAX_KEY {
                return Err(WireError::Range("the length of a key"));
            }
            last.truncate(entry.shared);
            last.extend_from_slice(entry.suffix);
            if number == 0 {
                first.clone_from(&last);
            }
            let entries = match level {
                0 => 1,
                _ => read_child(entry.value)?.1,
            };
            below = below
                .checked_add(entries)
                .ok_or(WireError::Range("the entries below a page"))?;
        }
        take.end()?;
        Ok(Self {
            level,
            bytes: bytes.to_vec(),
            start,
            count,
            first,
            last,
            below,
        })
    }

    /// The number of the first entry whose key is at least `from`, and whether it is just that.
    fn find(&self, from: &[u8]) -> Result<(usize, bool), WireError> {
        let mut take = Take::new(self.bytes.get(self.start..).unwrap_or_default());
        // How many bytes the key before, which is less, has in common with `from`.
        let mut common = 0;
        for number in 0..self.count {
            let entry = Stored::take(&mut take)?;
            // A key that has more in common with the one before is less for the same reason.
            if entry.shared > common {
                continue;
            }
            let rest = from.get(entry.shared..).unwrap_or_default();
            match entry.suffix.cmp(rest) {
                Ordering::Less => {
                    let pairs = entry.suffix.iter().zip(rest);
                    common = entry.shared + pairs.take_while(|(a, b)| a == b).count();
                }
                order => return Ok((number, order == Ordering::Equal)),
            }
        }
        Ok((self.count, false))
    }
}

/// An entry as it stands in a page.
struct Stored<'a> {
    shared: usize,
    suffix: &'a [u8],
    value: &'a [u8],
}

impl<'a> Stored<'a> {
    fn take(take: &mut Take<'a>) -> Result<Self, WireError> {
        Ok(Self {
            shared: usize::try_from(take.varint()?).unwrap_or(usize::MAX),
            suffix: take.bytes()?,
            value: take.bytes()?,
        })
    }
}

/// A page of a walk, and how far it has come.
#[derive(Debug)]
struct Open {
    page: Page,
    at: usize,
    left: usize,
    /// The key of the entry before.
    key: Vec<u8>,
}

impl Open {
    /// A page whose next entry is number `number`.
    fn at(page: Page, number: usize) -> Result<Self, WireError> {
        let mut open = Self {
            at: page.start,
            left: page.count,
            key: Vec::new(),
            page,
        };
        for _ in 0..number {
            open.next()?;
        }
        Ok(open)
    }

    /// The value of the next entry; its key is then [`Open::key`].
    fn next(&mut self) -> Result<Option<&[u8]>, WireError> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut take = Take::new(self.page.bytes.get(self.at..).unwrap_or_default());
        let entry = Stored::take(&mut take)?;
        self.key.truncate(entry.shared);
        self.key.extend_from_slice(entry.suffix);
        self.at = self.page.bytes.len() - take.left();
        self.left -= 1;
        Ok(Some(entry.value))
    }

    /// The key of the next entry.
    fn next_key(&self) -> Option<Vec<u8>> {
        let mut take = Take::new(self.page.bytes.get(self.at..)?);
        let entry = Stored::take(&mut take).ok().filter(|_| self.left > 0)?;
        Some([self.key.get(..entry.shared)?, entry.suffix].concat())
    }
}

/// Walks a tree in order of key from any key on. It does no I/O: it says which page it needs.
///
/// A page must be what the page above says of it: its first key, its keys before the next page's,
/// the number of entries in it and below it. So a walk is not longer than its tree claims to be, and
/// a page that is named twice is found out.
#[derive(Debug)]
pub struct TreeCursor {
    from: Vec<u8>,
    // The pages from the root down.
    stack: Vec<Open>,
    wanted: Option<Wanted>,
}

/// A page that is needed, and what must be true of it.
#[derive(Debug)]
struct Wanted {
    id: ChunkId,
    level: u8,
    entries: u64,
    /// Its first key; of the root nothing is known.
    first: Option<Vec<u8>>,
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
            wanted: Some(Wanted {
                id: root.id,
                level: root.height,
                entries: root.entries,
                first: None,
            }),
        }
    }

    /// Hands over the page that was needed.
    ///
    /// # Errors
    /// [`WireError`] when it is not a page of the right level with the right keys, or none was
    /// needed. The page is then still needed: see [`TreeCursor::pass_over`].
    pub fn supply(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let wanted = self
            .wanted
            .as_ref()
            .ok_or(WireError::Decode("a page nobody asked for"))?;
        let page = Page::parse(bytes, wanted.level)?;
        if page.below != wanted.entries {
            return Err(WireError::Range("the number of entries below a page"));
        }
        if wanted.first.as_ref().is_some_and(|key| *key != page.first) {
            return Err(WireError::Range("the first key of a page"));
        }
        if self.next_key().is_some_and(|next| page.last >= next) {
            return Err(WireError::Range("the last key of a page"));
        }
        let (at, is_there) = page.find(&self.from)?;
        let at = if page.level == 0 || is_there {
            at
        } else {
            // The key may lie below the child before.
            at.saturating_sub(1)
        };
        self.stack.push(Open::at(page, at)?);
        self.wanted = None;
        Ok(())
    }

    /// The next step.
    ///
    /// # Errors
    /// [`WireError`] when an inner page is malformed.
    pub fn step(&mut self) -> Result<Step, WireError> {
        if let Some(wanted) = &self.wanted {
            return Ok(Step::Need(wanted.id));
        }
        while let Some(open) = self.stack.last_mut() {
            let level = open.page.level;
            let Some(value) = open.next()? else {
                self.stack.pop();
                continue;
            };
            if level == 0 {
                let value = value.to_vec();
                return Ok(Step::Entry(open.key.clone(), value));
            }
            let (id, entries) = read_child(value)?;
            self.wanted = Some(Wanted {
                id,
                level: level - 1,
                entries,
                first: Some(open.key.clone()),
            });
            return Ok(Step::Need(id));
        }
        Ok(Step::End)
    }

    /// The first key behind the page that is needed.
    fn next_key(&self) -> Option<Vec<u8>> {
        self.stack.iter().rev().find_map(Open::next_key)
    }

    /// Goes on behind the page that is needed, which cannot be had; says what is lost with it.
    /// `None`: it is the root, and nothing comes behind it.
    pub fn pass_over(&mut self) -> Option<Gap> {
        let to = self.next_key();
        // What the page held is told by its entry in the page above.
        let Wanted {
            id, entries, first, ..
        } = self.wanted.take_if(|wanted| wanted.first.is_some())?;
        Some(Gap {
            page: id,
            from: first?,
            to,
            entries,
        })
    }

    /// Passes over everything below keys that begin with `prefix` and a NUL byte: the rest of a
    /// folder's content. The walk goes on behind it.
    pub fn skip_below(&mut self, root: &TreeRoot, prefix: &[u8]) {
        // Behind every key `prefix ‖ 0 ‖ …` and before `prefix ‖ 1`.
        let from = [prefix, &[1]].concat();
        let next = self.stack.last().and_then(Open::next_key);
        if next.is_none_or(|key| key < from) {
            *self = Self::new(root, &from);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    const SIZES: PageSizes = PageSizes {
        min: 200,
        target: 800,
    };

    type Store = HashMap<ChunkId, Vec<u8>>;
    type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

    fn build(entries: &BTreeMap<Vec<u8>, Vec<u8>>, store: &mut Store) -> Option<TreeRoot> {
        let mut keep = |page: Vec<u8>| {
            let id = ChunkId(*blake3::hash(&page).as_bytes());
            store.insert(id, page);
            Ok::<_, Infallible>(id)
        };
        let mut builder = TreeBuilder::new(SIZES);
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
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
