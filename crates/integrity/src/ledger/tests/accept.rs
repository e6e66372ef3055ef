//! Records that are lost and accepted as such.

use super::*;

const SEAL: [u8; 32] = [0x77; 32];

/// A chain of which the last record accepts some as lost.
fn accepting(count: u64, lost: &[LostRecords], seal: [u8; 32]) -> Vec<Vec<u8>> {
    let mut lines = chain(count);
    let head = Line::parse(lines.last().unwrap()).unwrap().head();
    let mut draft = draft(count + 1);
    draft.op = Op::ACCEPT;
    draft.note = Some(accept_note(lost, &["for people"]));
    seal_note(&mut draft, Some(&head), &HmacKey::new(seal));
    let line = append(Some(&head), draft, &key()).unwrap();
    lines.push(line.as_bytes().to_vec());
    lines
}

fn told(lines: &[Vec<u8>], without: &dyn Fn(u64) -> bool) -> Vec<(LedgerFault, u64)> {
    let key = key();
    let verifier = LedgerVerifier::new(LedgerKeys::One(&key), Expect::default());
    let mut verifier = verifier.accept_by(Some(HmacKey::new(SEAL)));
    for (line, seq) in lines.iter().zip(1..) {
        if !without(seq) {
            verifier.push_at(seq, line);
        }
    }
    let findings = verifier.finish().findings;
    findings.iter().map(|one| (one.fault, one.seq)).collect()
}

proptest! {
    #[test]
    fn what_is_accepted_is_noted_and_what_is_not_is_told(
        lost in proptest::collection::vec(any::<bool>(), 9),
        accepted in proptest::collection::vec(any::<bool>(), 9),
    ) {
        let has = |set: &[bool], seq: u64| seq <= 9 && set[seq as usize - 1];
        let named: Vec<_> = (1..10).filter(|seq| has(&accepted, *seq)).map(LostRecords::one).collect();
        let lines = accepting(10, &named, SEAL);
        let found = told(&lines, &|seq| has(&lost, seq));
        // Each row of one kind is one finding, named by its first.
        let kind = |seq: u64| match (has(&lost, seq), has(&accepted, seq)) {
            (false, _) => None,
            (true, false) => Some(LedgerFault::Missing),
            (true, true) => Some(LedgerFault::Accepted),
        };
        let missing: Vec<_> = (1..10u64)
            .filter(|seq| kind(*seq) == Some(LedgerFault::Missing))
            .filter(|seq| *seq == 1 || kind(seq - 1) != Some(LedgerFault::Missing))
            .map(|seq| (LedgerFault::Missing, seq))
            .collect();
        let noted: Vec<_> = (1..10u64)
            .filter(|seq| kind(*seq) == Some(LedgerFault::Accepted))
            .map(|seq| (LedgerFault::Accepted, seq))
            .collect();
        let of = |fault| found.iter().copied().filter(|one| one.0 == fault).collect::<Vec<_>>();
        prop_assert_eq!(of(LedgerFault::Missing), missing);
        prop_assert_eq!(of(LedgerFault::Accepted), noted);
        prop_assert_eq!(of(LedgerFault::Missing).len() + of(LedgerFault::Accepted).len(), found.len());
    }

    #[test]
    fn lost_records_are_spelled_in_one_way(first in 1u64.., more: u8, hash: Option<[u8; 32]>, instead: Option<[u8; 32]>) {
        let last = first.saturating_add(more.into());
        let instead = instead.filter(|_| first == last).map(LineHash);
        let lost = LostRecords { first, last, hash: hash.map(LineHash), instead };
        prop_assert_eq!(lost.to_string().parse(), Ok(lost));
    }
}

#[test]
fn other_spellings_name_no_lost_records() {
    let hash = LineHash([7; 32]);
    for wrong in [
        String::new(),
        "0".into(),
        "05".into(),
        "5-5".into(),
        "7-5".into(),
        "5 ".into(),
        "5 as".into(),
        format!("5-6 not {hash}"),
        format!("5 not {hash} as {hash}"),
        format!("5 as {hash} as {hash}"),
    ] {
        assert_eq!(wrong.parse::<LostRecords>(), Err(NotLost), "{wrong}");
    }
}

/// However many are lost and accepted, a check that knows of it tells the others.
#[test]
fn what_is_accepted_takes_no_room_from_what_is_not() {
    let last = MAX_FINDINGS as u64 + 20;
    let row = LostRecords {
        last: last - 5,
        ..LostRecords::one(1)
    };
    let lines = accepting(last, &[row], SEAL);
    let key = key();
    let check = |known: AcceptedRecords| {
        let verifier = LedgerVerifier::new(LedgerKeys::One(&key), Expect::default());
        let verifier = verifier.accept_by(Some(HmacKey::new(SEAL)));
        let mut verifier = verifier.knowing(known);
        (1..=last).for_each(|seq| verifier.damaged(seq, "cut off".into()));
        verifier.push_at(last + 1, lines.last().unwrap());
        verifier.finish()
    };
    let first = check(AcceptedRecords::default());
    assert_eq!(
        (first.findings.len(), first.more_findings),
        (MAX_FINDINGS, 20)
    );
    let report = check(first.accepted);
    assert_eq!(report.more_findings, 0);
    let told = report.findings.iter();
    let told = told.filter(|one| one.fault != LedgerFault::Accepted);
    let told: Vec<_> = told.map(|one| one.seq).collect();
    assert_eq!(told, (last - 4..=last).collect::<Vec<_>>());
    let notes = (report.findings.len() - told.len()) as u64 + report.more_notes;
    assert_eq!(notes, last - 5);
}

#[test]
fn only_a_seal_of_this_place_in_this_ledger_counts() {
    let named = [LostRecords::one(3)];
    let lines = accepting(6, &named, SEAL);
    let without = |seq| seq == 3;
    assert_eq!(told(&lines, &without), [(LedgerFault::Accepted, 3)]);
    // Signed by its host, and sealed with another key.
    let wanted = [(LedgerFault::Missing, 3), (LedgerFault::Foreign, 7)];
    assert_eq!(told(&accepting(6, &named, [1; 32]), &without), wanted);
    // The same words at another place.
    let parsed = Line::parse(&lines[6]).unwrap();
    let mut draft = draft(8);
    draft.op = Op::ACCEPT;
    draft.note.clone_from(&parsed.record().note);
    let again = append(Some(&parsed.head()), draft, &key()).unwrap();
    let replayed: Vec<_> = [&chain(6)[..], &[chain(7)[6].clone()]].concat();
    let head = Line::parse(&replayed[6]).unwrap().head();
    let mut moved = super::draft(8);
    moved.op = Op::ACCEPT;
    moved.note.clone_from(&parsed.record().note);
    let moved = append(Some(&head), moved, &key()).unwrap();
    let replayed = [&replayed[..], &[moved.as_bytes().to_vec()]].concat();
    let wanted = [(LedgerFault::Missing, 3), (LedgerFault::Foreign, 8)];
    assert_eq!(told(&replayed, &without), wanted);
    assert!(!is_sealed(again.record(), &HmacKey::new(SEAL)));
    // What comes behind it, it does not accept.
    let later = accepting(6, &[LostRecords::one(7)], SEAL);
    assert_eq!(told(&later, &without), [(LedgerFault::Missing, 3)]);
}

#[test]
fn an_accepted_record_that_turns_up_as_another_is_told() {
    let whole = chain(8);
    let head = |seq: usize| Line::parse(&whole[seq - 1]).unwrap().head();
    let lost = |seq: usize| LostRecords {
        hash: Some(head(seq).hash),
        ..LostRecords::one(seq as u64)
    };
    let lines = accepting(8, &[lost(3), lost(4)], SEAL);
    let gone = |seq| seq == 3 || seq == 4;
    let noted = [(LedgerFault::Accepted, 3), (LedgerFault::Accepted, 4)];
    assert_eq!(told(&lines, &gone), noted);
    // Itself is welcome.
    assert_eq!(told(&lines, &|seq| seq == 4), [(LedgerFault::Accepted, 4)]);
    assert_eq!(told(&lines, &|_| false), []);
    let other = append(Some(&head(2)), draft(99), &key()).unwrap();
    let mut forged = lines.clone();
    forged[2] = other.as_bytes().to_vec();
    let found = told(&forged, &|seq| seq == 4);
    assert!(found.contains(&(LedgerFault::Edited, 3)), "{found:?}");
    // Damage is as good as nothing.
    forged[2] = b"garbage".to_vec();
    assert_eq!(told(&forged, &|seq| seq == 4)[0], noted[0]);
    // A false one that is known as such is, and no other.
    let known = LostRecords {
        instead: Some(other.head().hash),
        ..lost(3)
    };
    let mut lines = accepting(8, &[known], SEAL);
    lines[2] = other.as_bytes().to_vec();
    let found = told(&lines, &|_| false);
    assert!(
        found.iter().all(|one| one.0 == LedgerFault::Accepted),
        "{found:?}"
    );
    lines[2] = append(Some(&head(2)), draft(98), &key())
        .unwrap()
        .as_bytes()
        .to_vec();
    assert!(
        told(&lines, &|_| false)
            .iter()
            .any(|one| one.0 != LedgerFault::Accepted)
    );
}

fn copies(lines: &[Vec<u8>], numbers: &[usize], is_own: bool) -> BTreeMap<u64, Vec<Candidate>> {
    let copy = |seq: &usize| {
        let line = Line::parse(&lines[seq - 1]).unwrap();
        (
            *seq as u64,
            vec![Candidate {
                line,
                is_own,
                from: 0,
            }],
        )
    };
    numbers.iter().map(copy).collect()
}

#[test]
fn only_what_fits_at_both_ends_is_put_back() {
    let whole = chain(8);
    let head = |seq: usize| Line::parse(&whole[seq - 1]).unwrap().head();
    let known = |numbers: &[usize]| -> BTreeMap<u64, LineHash> {
        numbers
            .iter()
            .map(|seq| (*seq as u64, head(*seq).hash))
            .collect()
    };
    let fits = |row: &Row, known: &BTreeMap<u64, LineHash>, copies, one| -> Vec<u64> {
        fitting(row, known, &copies, one).into_keys().collect()
    };
    let row = |first, last, behind: Option<usize>| {
        let prev = behind.map(|seq| Line::parse(&whole[seq - 1]).unwrap().record().prev);
        Row {
            first,
            last,
            behind: prev,
        }
    };
    let (middle, end) = (row(4, 6, Some(7)), row(6, 8, None));
    let there = known(&[1, 2, 3, 7, 8]);
    for own in [true, false] {
        assert_eq!(
            fits(&middle, &there, copies(&whole, &[4, 5, 6], own), false),
            [4, 5, 6]
        );
        assert_eq!(fits(&middle, &there, copies(&whole, &[6], own), false), [6]);
    }
    // What nothing vouches for fits if it is one's own, and hangs on what is there.
    let there = known(&[1, 2, 3, 4, 5]);
    assert_eq!(
        fits(&end, &there, copies(&whole, &[6, 7], true), false),
        [6, 7]
    );
    assert!(fits(&end, &there, copies(&whole, &[6, 7], false), true).is_empty());
    assert!(fits(&end, &there, copies(&whole, &[7], true), false).is_empty());
    assert_eq!(fits(&end, &there, copies(&whole, &[7], true), true), [7]);
    // What one has oneself vouches for what another has.
    let mut mixed = copies(&whole, &[6], false);
    mixed.extend(copies(&whole, &[7, 8], true));
    assert_eq!(fits(&end, &there, mixed, true), [6, 7, 8]);
    // Another history before it.
    let mut other = known(&[1, 2, 3, 7, 8]);
    other.insert(3, LineHash([9; 32]));
    assert!(fits(&middle, &other, copies(&whole, &[4, 5, 6], true), true).is_empty());
    let mut other = known(&[1, 2, 3, 4]);
    other.insert(5, LineHash([9; 32]));
    assert!(fits(&end, &other, copies(&whole, &[6, 7, 8], true), true).is_empty());
    // Another history behind it.
    let other = Row {
        behind: Some(LineHash([9; 32])),
        ..middle
    };
    let there = known(&[1, 2, 3, 7, 8]);
    assert!(fits(&other, &there, copies(&whole, &[4, 5, 6], true), true).is_empty());
}
