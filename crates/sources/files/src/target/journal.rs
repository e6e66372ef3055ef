//! Which files stand beside others, as the file of an unfinished restore keeps it.
//!
//! A note is added before its file is made, and says afterwards which inode that has: whatever else has
//! the name one day is nobody's leftover. When the file gets its name or goes, the note is marked as
//! settled where it stands. So a note costs a few bytes that are written twice over, and no sync.
//!
//! Settled notes are of no use any more. So when many have been added, those that are needed are
//! written once more, and the file says where these begin: first behind the others, then over what was
//! there. At every moment it leads to all notes that are needed, so a restore may be killed at any; and
//! the file stays as short as that allows.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use backup_core::EntryPath;

/// So many bytes of notes are added before those that are needed are written once more.
const SHORTEN_AFTER: u64 = 1 << 20;

/// Where no note is needed, the next goes to the front again once they take so many bytes.
const REWIND_AFTER: u64 = 4 << 10;

/// What ends the notes although more bytes follow: no path is empty.
const END: [u8; 3] = [0; 3];

/// The bytes of the line that says where the notes begin.
pub(super) const LINE: usize = 38;

/// No note is longer: two paths, what became of the file, and three ends.
const LONGEST: usize = 2 * EntryPath::MAX_BYTES + STAGE + 3;

/// So many notes that are not settled are read, far more than a restore has files beside others,
const MOST_LEFT: usize = 10_000;
/// and so many bytes of them.
const MOST_LEFT_BYTES: usize = 64 << 20;

/// The bytes of a note that say what became of its file: a letter, and 20 digits of its inode.
const STAGE: usize = 21;

/// What that begins with once the file has its name or is gone.
const SETTLED: u8 = b's';

/// How far the making of a file beside another had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It was about to be made, and holds nothing.
    Announced,
    /// It has that inode.
    Made(u64),
    /// It is, or is about to be, a further name of a whole file of that inode.
    Linked(u64),
    /// Nothing stands beside the file, which has that inode: it is changed where it is.
    InPlace(u64),
    /// Nothing stands beside the folder, which has that inode: it is to keep its time.
    Kept(u64),
}

impl Stage {
    fn field(self) -> String {
        let (letter, inode) = match self {
            Self::Announced => ('a', 0),
            Self::Made(inode) => ('m', inode),
            Self::Linked(inode) => ('l', inode),
            Self::InPlace(inode) => ('i', inode),
            Self::Kept(inode) => ('t', inode),
        };
        format!("{letter}{inode:020}")
    }

    /// `None`: it is none; `Some(None)`: the note is settled.
    fn read(field: &[u8]) -> Option<Option<Self>> {
        let (letter, inode) = field.split_first().filter(|_| field.len() == STAGE)?;
        let inode = std::str::from_utf8(inode).ok()?.parse().ok()?;
        match letter {
            b'a' => Some(Some(Self::Announced)),
            b'm' => Some(Some(Self::Made(inode))),
            b'l' => Some(Some(Self::Linked(inode))),
            b'i' => Some(Some(Self::InPlace(inode))),
            b't' => Some(Some(Self::Kept(inode))),
            &SETTLED => Some(None),
            _ => None,
        }
    }
}

/// A file that stands beside one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Left {
    /// The path that it is to get.
    pub(super) path: Vec<u8>,
    /// Its own.
    pub(super) beside: Vec<u8>,
    pub(super) stage: Stage,
}

impl Left {
    /// Its name in its folder.
    pub(super) fn name(&self) -> &[u8] {
        let names = self.beside.rsplit(|&byte| byte == b'/');
        names.into_iter().next().unwrap_or_default()
    }

    /// The note of it. Paths hold no zero byte.
    fn note(&self) -> Vec<u8> {
        let stage = self.stage.field();
        [&self.path, &self.beside, stage.as_bytes(), b""].join(&0)
    }

    /// How far from the beginning of its note that says what became of it.
    fn to_stage(&self) -> u64 {
        let length = self.path.len() + self.beside.len() + 2;
        u64::try_from(length).unwrap_or(u64::MAX)
    }
}

/// A file beside one, and where its note says what became of it.
type Noted = (Left, u64);

/// Where the notes are, and what is in them.
#[derive(Debug)]
struct State {
    /// Where the first note is.
    from: u64,
    /// Where the next note goes.
    end: u64,
    /// Notes are written once more when they reach beyond this.
    full_at: u64,
    /// Those of this restore that are still beside, by their own path.
    live: HashMap<Vec<u8>, Noted>,
    /// Those of an earlier restore, by the path that they are to get.
    left: HashMap<Vec<u8>, Vec<Noted>>,
}

impl State {
    /// All notes that are needed, always in the same order.
    fn needed(&mut self) -> impl Iterator<Item = &mut Noted> {
        let left = self.left.values_mut().flatten();
        self.live.values_mut().chain(left)
    }

    fn take(&mut self, noted: Vec<Noted>) -> Vec<Left> {
        let taken = noted.iter().map(|(left, _)| left.clone()).collect();
        let by_path = noted
            .into_iter()
            .map(|noted| (noted.0.beside.clone(), noted));
        self.live.extend(by_path);
        taken
    }
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

    fn with(head: u64, from: u64, end: u64, left: HashMap<Vec<u8>, Vec<Noted>>) -> Self {
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
        let (mut left, mut end) = (HashMap::<_, Vec<_>>::new(), from);
        let (mut notes, mut bytes) = (0, 0);
        let mut note = Vec::new();
        while notes < MOST_LEFT && bytes < MOST_LEFT_BYTES {
            note.clear();
            for _ in 0..3 {
                let fits = LONGEST.saturating_sub(note.len());
                let fits = u64::try_from(fits).unwrap_or(u64::MAX);
                reader.by_ref().take(fits).read_until(0, &mut note)?;
            }
            // One that was broken off lacks an end; the next one goes over it.
            let mut parts = note.split(|&byte| byte == 0);
            let (Some(path), Some(beside), Some(stage), Some([])) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                break;
            };
            let Some(stage) = Stage::read(stage).filter(|_| !path.is_empty()) else {
                break;
            };
            if let Some(stage) = stage {
                (notes, bytes) = (notes + 1, bytes + note.len());
                let (path, beside) = (path.to_vec(), beside.to_vec());
                let one = Left {
                    path: path.clone(),
                    beside,
                    stage,
                };
                let at = end + one.to_stage();
                left.entry(path).or_default().push((one, at));
            }
            end += note.len() as u64;
        }
        file.set_len(end)?;
        Ok(Self::with(head, from, end, left))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what an earlier restore left beside one. It stays noted until it is settled.
    pub(super) fn take_left(&self, path: &[u8]) -> Vec<Left> {
        let mut state = self.lock();
        let noted = state.left.remove(path).unwrap_or_default();
        state.take(noted)
    }

    /// The inode of a file that this restore or an earlier one changes where it is. It stays noted until it
    /// is settled.
    pub(super) fn take_in_place(&self, path: &[u8]) -> Option<u64> {
        let mut state = self.lock();
        if let Some(there) = state.left.get_mut(path) {
            let is_it = |(left, _): &mut Noted| matches!(left.stage, Stage::InPlace(_));
            let noted: Vec<_> = there.extract_if(.., is_it).collect();
            state.take(noted);
        }
        match state.live.get(path)?.0.stage {
            Stage::InPlace(inode) => Some(inode),
            _ => None,
        }
    }

    /// Takes what an earlier restore left under a path of its own. It stays noted until it is settled.
    pub(super) fn take_left_at(&self, beside: &[u8]) -> Vec<Left> {
        let mut state = self.lock();
        let mut noted = Vec::new();
        for there in state.left.values_mut() {
            noted.extend(there.extract_if(.., |(left, _)| left.beside == beside));
        }
        state.take(noted)
    }

    /// Whether something is noted under a path of its own.
    pub(super) fn has_beside(&self, beside: &[u8]) -> bool {
        let state = self.lock();
        let mut left = state.left.values().flatten();
        state.live.contains_key(beside) || left.any(|(left, _)| left.beside == beside)
    }

    /// Takes all that an earlier restore left and that was not asked for. It stays noted.
    pub(super) fn take_all_left(&self) -> Vec<Left> {
        let mut state = self.lock();
        let left = std::mem::take(&mut state.left);
        state.take(left.into_values().flatten().collect())
    }

    /// Notes a file that is about to be made beside another.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn add(&self, file: &File, left: Left) -> io::Result<()> {
        let mut state = self.lock();
        let mut note = left.note();
        let length = note.len() as u64;
        note.extend(END);
        file.write_all_at(&note, state.end)?;
        let at = state.end + left.to_stage();
        state.end += length;
        state.live.insert(left.beside.clone(), (left, at));
        if state.end > state.full_at {
            self.shorten(file, &mut state);
        }
        Ok(())
    }

    /// The file that was noted is made and has that inode.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn made(&self, file: &File, beside: &[u8], inode: u64) -> io::Result<()> {
        let mut state = self.lock();
        let Some((left, at)) = state.live.get_mut(beside) else {
            return Ok(());
        };
        left.stage = Stage::Made(inode);
        file.write_all_at(left.stage.field().as_bytes(), *at)
    }

    /// What was noted has its name, or is gone.
    pub(super) fn settled(&self, file: &File, beside: &[u8]) {
        let mut state = self.lock();
        if let Some((_, at)) = state.live.remove(beside) {
            // If it is not kept, the inode still tells that nothing else is meant.
            let _ = file.write_all_at(&[SETTLED], at);
            self.rewind(file, &mut state);
        }
    }

    /// Begins at the front again if no note is needed: on a full disk there may be no room for more.
    fn rewind(&self, file: &File, state: &mut State) {
        let is_short = state.end.saturating_sub(self.head) < REWIND_AFTER;
        if is_short || state.needed().next().is_some() {
            return;
        }
        let at_line = self.head - LINE as u64;
        let ended = file.write_all_at(&END, self.head);
        if ended
            .and_then(|()| file.write_all_at(line(self.head).as_bytes(), at_line))
            .is_ok()
        {
            (state.from, state.end) = (self.head, self.head);
            state.full_at = self.head.saturating_add(self.shorten_after);
        }
    }

    /// Writes the notes that are needed once more, and nothing else from then on.
    fn shorten(&self, file: &File, state: &mut State) {
        let (steps, from, end) = self.shortening(state);
        // On a full disk all notes stay where they are; it is tried again later.
        if steps.iter().try_for_each(|step| step.take(file)).is_ok() {
            (state.from, state.end) = (from, end);
            let mut next = from;
            for (left, at) in state.needed() {
                *at = next + left.to_stage();
                next += left.note().len() as u64;
            }
            if from == self.head {
                // Behind the end of the notes nothing is read; this gives back the room.
                let _ = file.sync_data().and_then(|()| file.set_len(end));
            }
        }
        state.full_at = state.end.saturating_add(self.shorten_after);
    }

    /// How to shorten the file, and where the notes begin and end then. Until the line is written, and
    /// if only some of the steps are taken, the notes that it leads to are all there.
    fn shortening(&self, state: &mut State) -> ([Step; 3], u64, u64) {
        let mut notes = Vec::new();
        for (left, _) in state.needed() {
            notes.extend(left.note());
        }
        let length = notes.len() as u64;
        notes.extend(END);
        let has_room = state.from - self.head >= notes.len() as u64;
        // Behind the end of the others: until the line leads to them they are not read with those.
        let behind = state.end + END.len() as u64;
        let from = if has_room { self.head } else { behind };
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
        let state = journal.lock();
        let left = state.left.values().flatten();
        left.map(|(left, _)| (left.path.clone(), left.clone()))
            .collect()
    }

    fn one(number: u64) -> (Vec<u8>, Left) {
        let path = format!("folder/{number}").into_bytes();
        let left = Left {
            path: path.clone(),
            beside: format!("folder/.backstay-new-{number}").into_bytes(),
            stage: match number % 4 {
                0 => Stage::Linked(number),
                1 => Stage::Made(number),
                2 => Stage::InPlace(number),
                _ => Stage::Announced,
            },
        };
        (path, left)
    }

    /// Notes one, step by step as it is made.
    fn add(journal: &Journal, file: &File, number: u64) {
        let (_, left) = one(number);
        match left.stage {
            Stage::Made(inode) => {
                let beside = left.beside.clone();
                let stage = Stage::Announced;
                journal.add(file, Left { stage, ..left }).unwrap();
                journal.made(file, &beside, inode).unwrap();
            }
            _ => journal.add(file, left).unwrap(),
        }
    }

    fn settled(journal: &Journal, file: &File, number: u64) {
        journal.settled(file, &one(number).1.beside);
    }

    fn waiting(journal: &Journal) -> Vec<Left> {
        let state = journal.lock();
        state.live.values().map(|(left, _)| left.clone()).collect()
    }

    #[test]
    fn any_number_of_files_is_noted_in_little_room_and_just_those_that_wait_are_found() {
        let (file, journal) = begun();
        let mut longest = 0;
        for number in 0..5000 {
            add(&journal, &file, number);
            if number >= 7 && number % 100 != 0 {
                // Seven wait at any time, and one of a hundred to the end.
                let old = number - 7;
                if old % 100 != 0 {
                    settled(&journal, &file, old);
                }
            }
            longest = longest.max(file.metadata().unwrap().len());
            if number % 97 == 0 {
                let wanted: BTreeMap<_, _> = (waiting(&journal).into_iter())
                    .map(|left| (left.path.clone(), left))
                    .collect();
                assert_eq!(left_now(&file), wanted);
            }
        }
        // 50 to 100 that wait are some 60 bytes each; all 5000 would take 300,000.
        assert!(longest < 25_000, "{longest}");
    }

    fn left_now(file: &File) -> BTreeMap<Vec<u8>, Left> {
        left(&again(file))
    }

    #[test]
    fn killed_in_the_middle_of_shortening_it_loses_no_note() {
        let (file, journal) = begun();
        let mut both = [0, 0];
        for number in 0..400 {
            add(&journal, &file, number);
            if number > 3 && number != 200 {
                settled(&journal, &file, number - 3);
            }
            let live = waiting(&journal);
            let mut state = journal.lock();
            let (steps, from, end) = journal.shortening(&mut state);
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
                for wanted in &live {
                    let there = found.take_left(&wanted.path);
                    assert_eq!(there, std::slice::from_ref(wanted), "{taken}");
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
            add(&journal, &file, number);
        }
        let whole = journal.lock().end;
        let mut bytes = vec![0; usize::try_from(whole).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        for cut in 1..40 {
            file.write_all_at(&bytes, 0).unwrap();
            file.set_len(whole - cut).unwrap();
            let second = again(&file);
            assert_eq!(second.take_left(&one(2).0), [], "{cut}");
            assert_eq!(second.take_left(&one(1).0), [one(1).1], "{cut}");
            let (path, left) = one(4);
            add(&second, &file, 4);
            let third = left_now(&file);
            assert_eq!(third.get(&path), Some(&left));
            assert_eq!(third.len(), 3, "{cut}");
        }
    }

    #[test]
    fn what_was_taken_up_stays_noted_until_it_is_settled() {
        let (file, journal) = begun();
        let (path, wanted) = one(1);
        add(&journal, &file, 1);
        let second = again(&file);
        assert_eq!(second.take_left(&path), std::slice::from_ref(&wanted));
        let many = |journal: &Journal| {
            for number in 10..100 {
                add(journal, &file, number);
                settled(journal, &file, number);
            }
        };
        many(&second);
        assert_eq!(left_now(&file).get(&path), Some(&wanted));
        settled(&second, &file, 1);
        assert!(left_now(&file).is_empty());
        many(&second);
        assert!(left_now(&file).is_empty());
    }

    #[test]
    fn no_more_of_a_note_is_read_than_one_can_have() {
        let (file, journal) = begun();
        add(&journal, &file, 1);
        let end = journal.lock().end;
        // A file of any size without an end of a note.
        file.write_all_at(&vec![b'x'; 3 * LONGEST], end).unwrap();
        let found = again(&file);
        assert_eq!(found.take_left(&one(1).0), [one(1).1]);
        assert_eq!(file.metadata().unwrap().len(), end);
        let long = Left {
            path: vec![b'p'; EntryPath::MAX_BYTES],
            beside: vec![b'b'; EntryPath::MAX_BYTES],
            stage: Stage::Linked(u64::MAX),
        };
        found.add(&file, long.clone()).unwrap();
        assert_eq!(again(&file).take_left(&long.path), [long]);
    }

    #[test]
    fn all_that_was_left_for_one_path_is_found_by_that_or_by_its_own() {
        let (file, journal) = begun();
        let beside = |name: &[u8]| Left {
            path: b"file".to_vec(),
            beside: name.to_vec(),
            stage: Stage::Announced,
        };
        journal.add(&file, beside(b"first")).unwrap();
        journal.add(&file, beside(b"second")).unwrap();
        assert_eq!(again(&file).take_left(b"file").len(), 2);
        let by_its_own = again(&file);
        assert_eq!(by_its_own.take_left_at(b"first"), [beside(b"first")]);
        assert_eq!(by_its_own.take_left(b"file"), [beside(b"second")]);
    }
}
