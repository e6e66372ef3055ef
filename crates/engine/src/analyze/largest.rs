//! The largest of many, and of folders in the order in which their content comes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use backup_core::EntryPath;

/// What content takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// Its size in bytes, holes and all.
    pub size: u64,
    /// Bytes of it that are holes.
    pub holes: u64,
    /// Its share of the chunks in the repository: of each chunk by how much of it is needed. What files
    /// share counts with each.
    pub stored: u64,
    /// Of these, bytes in chunks that no other snapshot uses.
    pub unique: u64,
    /// Of these, bytes in chunks that its parent does not use.
    pub new: u64,
}

impl Taken {
    pub(super) fn add(&mut self, other: &Self) {
        self.size = self.size.saturating_add(other.size);
        self.holes = self.holes.saturating_add(other.holes);
        self.stored = self.stored.saturating_add(other.stored);
        self.unique = self.unique.saturating_add(other.unique);
        self.new = self.new.saturating_add(other.new);
    }
}

/// A file or folder, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Large {
    /// The number of its component.
    pub component: u8,
    /// Its path.
    pub path: EntryPath,
    /// What it takes; of a folder with all that is in it.
    pub taken: Taken,
}

/// The greatest of what is offered, a few of them.
#[derive(Debug)]
pub(super) struct Greatest<T> {
    most: usize,
    heap: BinaryHeap<Reverse<Ranked<T>>>,
    offered: u64,
}

/// Ordered by rank, and of equals the earlier before.
#[derive(Debug)]
struct Ranked<T> {
    rank: (u64, Reverse<u64>),
    value: T,
}

impl<T> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl<T> Eq for Ranked<T> {}

impl<T> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

impl<T> Greatest<T> {
    pub(super) const fn new(most: usize) -> Self {
        Self {
            most,
            heap: BinaryHeap::new(),
            offered: 0,
        }
    }

    /// Offers one of a rank; what has none is not kept.
    pub(super) fn offer(&mut self, rank: u64, value: impl FnOnce() -> T) {
        if rank == 0 || self.most == 0 {
            return;
        }
        self.offered += 1;
        let rank = (rank, Reverse(self.offered));
        if self.heap.len() == self.most && self.heap.peek().is_some_and(|least| least.0.rank > rank)
        {
            return;
        }
        let value = value();
        self.heap.push(Reverse(Ranked { rank, value }));
        if self.heap.len() > self.most {
            self.heap.pop();
        }
    }

    /// Those that were kept, the greatest first.
    pub(super) fn into_vec(self) -> Vec<T> {
        let sorted = self.heap.into_sorted_vec();
        sorted.into_iter().map(|ranked| ranked.0.value).collect()
    }
}

/// Sums up folders while their content comes in order.
#[derive(Debug)]
pub(super) struct Folders {
    open: Vec<Large>,
    largest: Greatest<Large>,
}

impl Folders {
    pub(super) const fn new(most: usize) -> Self {
        Self {
            open: Vec::new(),
            largest: Greatest::new(most),
        }
    }

    /// Comes to a folder.
    pub(super) fn enter(&mut self, component: u8, path: &EntryPath) {
        self.leave_for(component, path);
        self.open.push(Large {
            component,
            path: path.clone(),
            taken: Taken::default(),
        });
    }

    /// Comes to a file.
    pub(super) fn add(&mut self, component: u8, path: &EntryPath, taken: &Taken) {
        self.leave_for(component, path);
        if let Some(folder) = self.open.last_mut() {
            folder.taken.add(taken);
        }
    }

    fn leave_for(&mut self, component: u8, path: &EntryPath) {
        while self
            .open
            .last()
            .is_some_and(|folder| folder.component != component || !path.starts_with(&folder.path))
        {
            self.leave();
        }
    }

    fn leave(&mut self) {
        let Some(folder) = self.open.pop() else {
            return;
        };
        if let Some(above) = self.open.last_mut()
            && above.component == folder.component
        {
            above.taken.add(&folder.taken);
        }
        self.largest.offer(folder.taken.stored, || folder);
    }

    /// The largest, when all have come.
    pub(super) fn end(mut self) -> Vec<Large> {
        while !self.open.is_empty() {
            self.leave();
        }
        self.largest.into_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_greatest_are_kept_whatever_the_order(
            ranks in proptest::collection::vec(0_u64..50, 0..60), most in 0_usize..8
        ) {
            let mut greatest = Greatest::new(most);
            for (number, &rank) in ranks.iter().enumerate() {
                greatest.offer(rank, || (rank, number));
            }
            let mut wanted: Vec<_> = ranks.iter().copied().enumerate()
                .filter(|(_, rank)| *rank > 0)
                .map(|(number, rank)| (rank, number))
                .collect();
            wanted.sort_by_key(|&(rank, number)| (Reverse(rank), number));
            wanted.truncate(most);
            prop_assert_eq!(greatest.into_vec(), wanted);
        }
    }

    #[test]
    fn a_folder_takes_what_is_in_it_and_nothing_else() {
        let path = |text: &str| EntryPath::from_slashed(text.as_bytes()).unwrap();
        let taken = |stored| Taken {
            stored,
            ..Taken::default()
        };
        let mut folders = Folders::new(10);
        folders.enter(0, &path("a"));
        folders.enter(0, &path("a/b"));
        folders.add(0, &path("a/b/file"), &taken(5));
        folders.add(0, &path("a/c"), &taken(7));
        folders.enter(0, &path("ab"));
        folders.add(0, &path("ab/file"), &taken(3));
        folders.enter(1, &path("a"));
        folders.add(1, &path("a/file"), &taken(1));
        let seen: Vec<_> = (folders.end().into_iter())
            .map(|one| (one.component, one.path.to_string(), one.taken.stored))
            .collect();
        let wanted = [(0, "a", 12), (0, "a/b", 5), (0, "ab", 3), (1, "a", 1)];
        assert_eq!(
            seen,
            wanted.map(|(component, path, stored)| (component, path.to_owned(), stored))
        );
    }
}
