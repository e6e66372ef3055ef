//! Which files stand beside others, as the file of an unfinished restore keeps it.
//!
//! A note is added before its file is made. That file gets its name or goes, and the note is of no use
//! any more; but to say so of each would cost as much again. So when many have been added, those that
//! are needed are written once more, and the file says where these begin: first behind the others, then
//! over what was there. At every moment it leads to all notes that are needed, so a restore may be
//! killed at any; and the file stays as short as that allows.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So many bytes of notes are added before those that are needed are written once more.
const SHORTEN_AFTER: u64 = 1 << 20;

/// What ends the notes although more bytes follow: no path is empty.
const END: [u8; 3] = [0; 3];

/// The bytes of the line that says where the notes begin.
pub(super) const LINE: usize = 38;

/// A file that stands beside one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Left {
    /// Its path.
    pub(super) beside: Vec<u8>,
    /// The inode, if it is a further name of a file that is whole.
    pub(super) linked: Option<u64>,
}

impl Left {
    /// Its name in its folder.
    pub(super) fn name(&self) -> &[u8] {
        let names = self.beside.rsplit(|&byte| byte == b'/');
        names.into_iter().next().unwrap_or_default()
    }

    /// The note of it. Paths hold no zero byte.
    fn note(&self, path: &[u8]) -> Vec<u8> {
        let linked = self.linked.map(|inode| inode.to_string());
        [
            path,
            &self.beside,
            linked.unwrap_or_default().as_bytes(),
            b"",
        ]
        .join(&0)
    }
}

/// Where the notes are, and what is in them.
#[derive(Debug)]
struct State {
    /// Where the first note is.
    from: u64,
    /// Where the next note goes.
    end: u64,
    /// Notes are written once more when they reach beyond this.
    full_at: u64,
    /// Those of this restore that are still beside, by the path that they are to get.
    live: HashMap<Vec<u8>, Left>,
    /// Those of an earlier restore.
    left: HashMap<Vec<u8>, Left>,
}

/// The notes of one restore.
#[derive(Debug)]
pub(super) struct Journal {
    /// Where notes begin at the earliest, just behind the line that says where they do.
    head: u64,
    shorten_after: u64,
    state: Mutex<State>,
}

/// One step of a change of the file.
#[derive(Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Sync,
}

impl Step {
    fn take(&self, file: &File) -> io::Result<()> {
        match self {
            Self::Write(at, bytes) => file.write_all_at(bytes, *at),
            Self::Sync => file.sync_data(),
        }
    }
}

/// The line that says where the notes begin.
pub(super) fn line(from: u64) -> String {
    format!("notes {from:>31}\n")
}

/// Where a line says that the notes begin.
pub(super) fn read_line(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    line.strip_prefix("notes ")?.trim_start().parse().ok()
}

impl Journal {
    /// For a file with no notes yet.
    pub(super) fn new(head: u64) -> Self {
        Self::with(head, head, head, HashMap::new())
    }

    fn with(head: u64, from: u64, end: u64, left: HashMap<Vec<u8>, Left>) -> Self {
        let state = State {
            from,
            end,
            full_at: end.saturating_add(SHORTEN_AFTER),
            live: HashMap::new(),
            left,
        };
        Self {
            head,
            shorten_after: SHORTEN_AFTER,
            state: Mutex::new(state),
        }
    }

    /// What an earlier restore noted from an offset on. What is behind is cut off.
    ///
    /// # Errors
    /// When it cannot be read, or not be cut off.
    pub(super) fn read(file: &File, head: u64, from: u64) -> io::Result<Self> {
        let mut reader = BufReader::new(file);
        reader.seek(SeekFrom::Start(from))?;
        let (mut left, mut end) = (HashMap::new(), from);
        let mut note = Vec::new();
        loop {
            note.clear();
            for _ in 0..3 {
                reader.by_ref().read_until(0, &mut note)?;
            }
            // One that was broken off lacks an end; the next one goes over it.
            let mut parts = note.split(|&byte| byte == 0);
            let (Some(path), Some(beside), Some(linked), Some([])) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                break;
            };
            if path.is_empty() {
                break;
            }
            let linked = std::str::from_utf8(linked).unwrap_or_default().parse().ok();
            let beside = beside.to_vec();
            left.insert(path.to_vec(), Left { beside, linked });
            end += note.len() as u64;
        }
        file.set_len(end)?;
        Ok(Self::with(head, from, end, left))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what an earlier restore left beside one. It stays noted until it is settled.
    pub(super) fn take_left(&self, path: &[u8]) -> Option<Left> {
        let mut state = self.lock();
        let left = state.left.remove(path)?;
        state.live.insert(path.to_vec(), left.clone());
        Some(left)
    }

    /// Takes all that an earlier restore left and that was not asked for. It stays noted.
    pub(super) fn take_all_left(&self) -> Vec<Left> {
        let mut state = self.lock();
        let left = std::mem::take(&mut state.left);
        state.live.extend(left.clone());
        left.into_values().collect()
    }

    /// Notes a file that is about to be made beside another.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn add(&self, file: &File, path: &[u8], left: Left) -> io::Result<()> {
        let mut state = self.lock();
        let mut note = left.note(path);
        let length = note.len() as u64;
        note.extend(END);
        file.write_all_at(&note, state.end)?;
        state.end += length;
        state.live.insert(path.to_vec(), left);
        if state.end > state.full_at {
            self.shorten(file, &mut state);
        }
        Ok(())
    }

    /// What was noted for a path has its name, or is gone.
    pub(super) fn settled(&self, path: &[u8]) {
        self.lock().live.remove(path);
    }

    /// Writes the notes that are needed once more, and nothing else from then on.
    fn shorten(&self, file: &File, state: &mut State) {
        let (steps, from, end) = self.shortening(state);
        // On a full disk all notes stay where they are; it is tried again later.
        if steps.iter().try_for_each(|step| step.take(file)).is_ok() {
            (state.from, state.end) = (from, end);
            if from == self.head {
                // Behind the end of the notes nothing is read; this gives back the room.
                let _ = file.sync_data().and_then(|()| file.set_len(end));
            }
        }
        state.full_at = state.end.saturating_add(self.shorten_after);
    }

    /// How to shorten the file, and where the notes begin and end then. Until the line is written, and
    /// if only some of the steps are taken, the notes that it leads to are all there.
    fn shortening(&self, state: &State) -> ([Step; 3], u64, u64) {
        let mut notes = Vec::new();
        for (path, left) in state.live.iter().chain(&state.left) {
            notes.extend(left.note(path));
        }
        let length = notes.len() as u64;
        notes.extend(END);
        let has_room = state.from - self.head >= notes.len() as u64;
        let from = if has_room { self.head } else { state.end };
        let at_line = self.head - LINE as u64;
        let steps = [
            Step::Write(from, notes),
            Step::Sync,
            Step::Write(at_line, line(from).into_bytes()),
        ];
        (steps, from, from + length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const HEAD: u64 = LINE as u64;

    fn begun() -> (File, Journal) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(line(HEAD).as_bytes(), 0).unwrap();
        let journal = Journal {
            shorten_after: 500,
            ..Journal::new(HEAD)
        };
        journal.lock().full_at = HEAD + 500;
        (file, journal)
    }

    fn again(file: &File) -> Journal {
        let mut first = [0; LINE];
        file.read_exact_at(&mut first, 0).unwrap();
        let journal = Journal::read(file, HEAD, read_line(&first).unwrap()).unwrap();
        let journal = Journal {
            shorten_after: 500,
            ..journal
        };
        let full_at = journal.lock().end + 500;
        journal.lock().full_at = full_at;
        journal
    }

    fn left(journal: &Journal) -> BTreeMap<Vec<u8>, Left> {
        journal.lock().left.clone().into_iter().collect()
    }

    fn one(number: u64) -> (Vec<u8>, Left) {
        let beside = format!("folder/.backstay-new-{number}").into_bytes();
        let linked = number.is_multiple_of(3).then_some(number);
        (
            format!("folder/{number}").into_bytes(),
            Left { beside, linked },
        )
    }

    #[test]
    fn any_number_of_files_is_noted_in_little_room_and_those_that_wait_are_found() {
        let (file, journal) = begun();
        let mut longest = 0;
        for number in 0..5000 {
            let (path, left) = one(number);
            journal.add(&file, &path, left).unwrap();
            if number >= 7 && number % 100 != 0 {
                // Seven wait at any time, and one of a hundred to the end.
                let old = number - 7;
                if old % 100 != 0 {
                    journal.settled(&one(old).0);
                }
            }
            longest = longest.max(file.metadata().unwrap().len());
            if number % 97 == 0 {
                let found = left_now(&file);
                let waiting: BTreeMap<_, _> = journal.lock().live.clone().into_iter().collect();
                assert!(
                    waiting
                        .iter()
                        .all(|(path, left)| found.get(path) == Some(left))
                );
                assert!(found.len() < waiting.len() + 40, "{}", found.len());
            }
        }
        // 50 to 100 that wait are some 45 bytes each; all 5000 would take 200,000.
        assert!(longest < 20_000, "{longest}");
    }

    fn left_now(file: &File) -> BTreeMap<Vec<u8>, Left> {
        left(&again(file))
    }

    #[test]
    fn killed_in_the_middle_of_shortening_it_loses_no_note() {
        let (file, journal) = begun();
        let mut both = [0, 0];
        for number in 0..400 {
            let (path, wanted) = one(number);
            journal.add(&file, &path, wanted).unwrap();
            if number > 3 && number != 200 {
                journal.settled(&one(number - 3).0);
            }
            let state = journal.lock();
            let live: Vec<_> = state.live.clone().into_iter().collect();
            let (steps, from, end) = journal.shortening(&state);
            both[usize::from(from == HEAD)] += 1;
            let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            for taken in 0..=steps.len() {
                let copy = tempfile::tempfile().unwrap();
                copy.write_all_at(&bytes, 0).unwrap();
                for step in &steps[..taken] {
                    step.take(&copy).unwrap();
                }
                let found = again(&copy);
                for (path, wanted) in &live {
                    assert_eq!(found.take_left(path).as_ref(), Some(wanted), "{taken}");
                }
                if taken == steps.len() {
                    assert_eq!(found.lock().end, end, "{taken}");
                    assert!(found.lock().left.is_empty());
                }
            }
        }
        assert!(both[0] > 0 && both[1] > 0, "{both:?}");
    }

    #[test]
    fn notes_are_read_up_to_one_that_was_broken_off() {
        let (file, journal) = begun();
        for number in 0..3 {
            let (path, left) = one(number);
            journal.add(&file, &path, left).unwrap();
        }
        let whole = journal.lock().end;
        let mut bytes = vec![0; usize::try_from(whole).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        for cut in 1..30 {
            file.write_all_at(&bytes, 0).unwrap();
            file.set_len(whole - cut).unwrap();
            let second = again(&file);
            assert_eq!(second.take_left(&one(2).0), None, "{cut}");
            assert_eq!(second.take_left(&one(1).0), Some(one(1).1), "{cut}");
            let (path, left) = one(4);
            second.add(&file, &path, left.clone()).unwrap();
            let third = left_now(&file);
            assert_eq!(third.get(&path), Some(&left));
            assert_eq!(third.len(), 3, "{cut}");
        }
    }

    #[test]
    fn what_was_taken_up_stays_noted_until_it_is_settled() {
        let (file, journal) = begun();
        let (path, wanted) = one(1);
        journal.add(&file, &path, wanted.clone()).unwrap();
        let second = again(&file);
        assert_eq!(second.take_left(&path), Some(wanted.clone()));
        for number in 10..100 {
            let (path, left) = one(number);
            second.add(&file, &path, left).unwrap();
            second.settled(&path);
        }
        assert_eq!(left_now(&file).get(&path), Some(&wanted));
        second.settled(&path);
        for number in 10..100 {
            let (path, left) = one(number);
            second.add(&file, &path, left).unwrap();
            second.settled(&path);
        }
        assert_eq!(left_now(&file).get(&path), None);
    }
}
