//! Which copies of lost records fit into the place of these.
//!
//! A record says by its hash what stands before it. So a copy of a lost one fits if the record behind it continues it,
//! or if it continues the one before it; and it does not fit, whoever has it, where it contradicts either of them.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Line, LineHash};
use super::window::PASSED_OVER;

/// Records in a row that are lost, and what stands around them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The number of the first.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// What the record behind them continues; none where they are the end of the ledger.
    pub behind: Option<LineHash>,
}

/// A copy of a lost record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its line.
    pub line: Line,
    /// Whether the one who asks has kept it himself. What others have counts only where a hash vouches for it.
    pub is_own: bool,
    /// Where it is from, for whoever asks.
    pub from: usize,
}

/// Of copies of the records of a row, by their numbers, those that fit there. `known` is what the records hash to that are
/// there. `is_of_one` says that what the one who asks has kept agrees with these wherever both have a record: then what he has
/// fits even where everything around it is lost.
#[must_use]
pub fn fitting<'a>(
    row: &Row,
    known: &BTreeMap<u64, LineHash>,
    copies: &'a BTreeMap<u64, Vec<Candidate>>,
    is_of_one: bool,
) -> BTreeMap<u64, &'a Candidate> {
    let before = |number: u64| -> BTreeSet<LineHash> {
        let few = number.saturating_sub(PASSED_OVER)..number;
        let mut hashes: BTreeSet<_> = known.range(few).map(|(_, hash)| *hash).collect();
        if number <= PASSED_OVER {
            hashes.insert(LineHash::NONE);
        }
        hashes
    };
    let front = before(row.first);
    let mut fits = by_the_next(row, copies, &front);
    let own = |number: &u64| -> Option<&'a Candidate> {
        copies.get(number)?.iter().find(|copy| copy.is_own)
    };
    let left: Vec<(u64, &Candidate)> = copies
        .range(row.first..=row.last)
        .filter(|(number, _)| !fits.contains_key(*number))
        .filter_map(|(number, _)| Some((*number, own(number)?)))
        .collect();
    for piece in left.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
        if piece_fits(row, piece, &fits, &front, is_of_one) {
            fits.extend(piece.iter().copied());
        }
    }
    by_what_fits(row, copies, &front, &mut fits);
    fits
}

/// The copies that those vouch for which fit themselves.
fn by_what_fits<'a>(
    row: &Row,
    copies: &'a BTreeMap<u64, Vec<Candidate>>,
    front: &BTreeSet<LineHash>,
    fits: &mut BTreeMap<u64, &'a Candidate>,
) {
    for (number, copies) in copies.range(row.first..=row.last).rev() {
        let next = number.checked_add(1).and_then(|next| fits.get(&next));
        let Some(wanted) = next.map(|next| next.line.record().prev) else {
            continue;
        };
        let Some(copy) = copies.iter().find(|copy| copy.line.head().hash == wanted) else {
            continue;
        };
        let prev = copy.line.record().prev;
        let before = number
            .checked_sub(1)
            .and_then(|before| fits.get(&before))
            .map(|before| before.line.head().hash);
        let is_contradicted = match before {
            Some(before) => before != prev && !front.contains(&prev),
            None => *number == row.first && !continues(row.first, prev, front),
        };
        if !is_contradicted && !fits.contains_key(number) {
            fits.insert(*number, copy);
        }
    }
}

/// The copies that the record behind the row vouches for: it says what the last of them hashes to, and each says that of
/// the one before it.
fn by_the_next<'a>(
    row: &Row,
    copies: &'a BTreeMap<u64, Vec<Candidate>>,
    front: &BTreeSet<LineHash>,
) -> BTreeMap<u64, &'a Candidate> {
    let mut fits = BTreeMap::new();
    let Some(mut wanted) = row.behind else {
        return fits;
    };
    for (number, copies) in copies.range(row.first..=row.last).rev() {
        // If none is it, its writer may have passed over this one, and mean one before it.
        if let Some(copy) = copies.iter().find(|copy| copy.line.head().hash == wanted) {
            wanted = copy.line.record().prev;
            fits.insert(*number, copy);
        }
    }
    // Where they reach what is there and do not continue it, there are two histories.
    if fits.contains_key(&row.first) && !continues(row.first, wanted, front) {
        fits.clear();
    }
    fits
}

/// Whether the record with this number may continue that hash, if these stand before it.
fn continues(number: u64, prev: LineHash, before: &BTreeSet<LineHash>) -> bool {
    match number {
        1 => prev == LineHash::NONE,
        _ => before.contains(&prev),
    }
}

/// Whether records in a row that the one who asks has kept fit in between.
fn piece_fits(
    row: &Row,
    piece: &[(u64, &Candidate)],
    fits: &BTreeMap<u64, &Candidate>,
    front: &BTreeSet<LineHash>,
    is_of_one: bool,
) -> bool {
    let (Some((first, one)), Some((last, _))) = (piece.first(), piece.last()) else {
        return false;
    };
    let mut before = front.clone();
    before.extend(fits.range(..*first).map(|(_, copy)| copy.line.head().hash));
    let is_held_in_front = before.contains(&one.line.record().prev);
    let faces = *first == row.first || first.checked_sub(1).is_some_and(|n| fits.contains_key(&n));
    if faces && !continues(*first, one.line.record().prev, &before) {
        return false;
    }
    for pair in piece.windows(2) {
        let [(_, a), (_, b)] = pair else { continue };
        before.insert(a.line.head().hash);
        if b.line.record().prev != a.line.head().hash && !before.contains(&b.line.record().prev) {
            return false;
        }
    }
    before.extend(piece.iter().map(|(_, copy)| copy.line.head().hash));
    let next = match last.checked_add(1) {
        Some(next) if next > row.last => row.behind,
        Some(next) => fits.get(&next).map(|copy| copy.line.record().prev),
        None => None,
    };
    let is_continued = next.is_none_or(|prev| before.contains(&prev));
    is_continued && (is_held_in_front || is_of_one)
}
