use std::collections::BTreeMap;

use backup_core::{HostId, RepoId, SnapshotId};
use proptest::prelude::*;

use super::*;
use crate::merkle::MerkleRoot;
use crate::sign::HmacKey;

mod accept;
mod copy;

fn key() -> HmacKey {
    HmacKey::new([0x55; 32])
}

fn draft(number: u64) -> Draft {
    Draft {
        time: "2024-02-29T12:00:00Z".parse().unwrap(),
        op: Op::SNAPSHOT,
        host: HostId("web-1".into()),
        user: "root".into(),
        repo: RepoId([2; 16]),
        snapshot: Some(SnapshotId(u128::from(number))),
        root: Some(MerkleRoot([3; 32])),
        counts: BTreeMap::from([("bytes".to_owned(), number), ("entries".to_owned(), 1)]),
        outcome: RecordOutcome::Ok,
        note: Some("made \"so\"".into()),
    }
}

fn chain(count: u64) -> Vec<Vec<u8>> {
    let mut head = None;
    let mut next = |number| {
        let line = append(head.as_ref(), draft(number), &key()).unwrap();
        head = Some(line.head());
        line.as_bytes().to_vec()
    };
    (1..=count).map(&mut next).collect()
}

/// The faults of a ledger, with and without its key.
fn faults(lines: &[Vec<u8>], expect: Expect) -> [Vec<(LedgerFault, u64)>; 2] {
    let key = key();
    [LedgerKeys::One(&key), LedgerKeys::None].map(|keys| {
        let report = verify(lines, keys, expect);
        report
            .findings
            .iter()
            .map(|finding| (finding.fault, finding.seq))
            .collect()
    })
}

fn both(fault: LedgerFault, seq: u64) -> [Vec<(LedgerFault, u64)>; 2] {
    [vec![(fault, seq)], vec![(fault, seq)]]
}

fn replace(line: &mut Vec<u8>, old: &str, new: &str) {
    let text = String::from_utf8(line.clone()).unwrap();
    assert!(text.contains(old), "{text}");
    *line = text.replacen(old, new, 1).into_bytes();
}

#[test]
fn the_line_of_version_1_is_frozen() {
    let lines = chain(2);
    let wanted = concat!(
        r#"{"v":1,"seq":1,"time":"2024-02-29T12:00:00Z","op":"snapshot","host":"web-1","#,
        r#""user":"root","repo":"02020202020202020202020202020202","#,
        r#""snapshot":"00000000000000000000000001","#,
        r#""root":"0303030303030303030303030303030303030303030303030303030303030303","#,
        r#""counts":{"bytes":1,"entries":1},"outcome":"ok","note":"made \"so\"","#,
        r#""prev":"0000000000000000000000000000000000000000000000000000000000000000","#,
        r#""hmac":"1a9e38af355d77bdb39d000b6871320ee9dab0e3f2d2bc62df7aa75c80e07af6"}"#
    );
    assert_eq!(String::from_utf8(lines[0].clone()).unwrap(), wanted);
    let second = String::from_utf8(lines[1].clone()).unwrap();
    assert!(
        second.contains(
            r#""prev":"04ed2974e5cbfb782ceb285820cc064037f582b17443bc15760c2abd1055c65d""#
        ),
        "{second}"
    );
    let mut bare = draft(1);
    (bare.snapshot, bare.root, bare.note) = (None, None, None);
    let bare = append(None, bare, &key()).unwrap();
    assert!(!String::from_utf8_lossy(bare.as_bytes()).contains("null"));
    assert_eq!(Line::parse(bare.as_bytes()).unwrap(), bare);
}

#[test]
fn a_whole_chain_is_clean() {
    let lines = chain(20);
    let key = key();
    let head = Line::parse(&lines[19]).unwrap().head();
    let expect = Expect {
        head: Some(head),
        repo: Some(RepoId([2; 16])),
    };
    let report = verify(&lines, LedgerKeys::One(&key), expect);
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!((report.records, report.hmacs_checked), (20, 20));
    assert_eq!((report.first.unwrap().seq, report.last), (1, Some(head)));
    let empty = verify(
        Vec::<Vec<u8>>::new(),
        LedgerKeys::One(&key),
        Expect::default(),
    );
    assert!(empty.is_clean() && empty.last.is_none());
}

#[test]
fn an_edited_record_is_named() {
    for place in 0..8 {
        let mut lines = chain(9);
        replace(&mut lines[place], r#""bytes":"#, r#""bytes":9"#);
        let seq = place as u64 + 1;
        assert_eq!(
            faults(&lines, Expect::default()),
            both(LedgerFault::Edited, seq)
        );
    }
    // Only the key or a head kept elsewhere tells that the last one was changed.
    let mut lines = chain(9);
    let head = Line::parse(&lines[8]).unwrap().head();
    replace(&mut lines[8], r#""ok""#, r#""failed""#);
    let [keyed, bare] = faults(&lines, Expect::default());
    assert_eq!((keyed, bare), (vec![(LedgerFault::Edited, 9)], vec![]));
    let expect = Expect {
        head: Some(head),
        repo: None,
    };
    assert_eq!(faults(&lines, expect), both(LedgerFault::Edited, 9));
}

#[test]
fn a_record_whose_number_was_edited_is_named_by_its_place() {
    let mut lines = chain(9);
    replace(&mut lines[4], r#""seq":5"#, r#""seq":77"#);
    for found in faults(&lines, Expect::default()) {
        assert!(!found.is_empty() && found.iter().all(|found| *found == (LedgerFault::Edited, 5)));
    }
}

#[test]
fn spaces_and_other_spellings_count_as_edits() {
    for (old, new) in [
        (r#","op""#, r#", "op""#),
        ("web-1", "web\\u002d1"),
        ("Z\"", "+00:00\""),
    ] {
        let mut lines = chain(5);
        replace(&mut lines[2], old, new);
        let refused = Line::parse(&lines[2]).unwrap_err();
        assert_eq!(refused, LineError::NotCanonical { seq: 3 }, "{new}");
        // Without a later record and without the key, the spelling alone gives it away.
        for lines in [&lines[..], &lines[..3]] {
            for found in faults(lines, Expect::default()) {
                assert_eq!(found, [(LedgerFault::Edited, 3)], "{new}");
            }
        }
    }
}

#[test]
fn dropped_records_are_named() {
    let mut lines = chain(9);
    lines.remove(4);
    assert_eq!(
        faults(&lines, Expect::default()),
        both(LedgerFault::Missing, 5)
    );
    lines.drain(..2);
    let wanted = vec![(LedgerFault::Missing, 1), (LedgerFault::Missing, 5)];
    assert_eq!(faults(&lines, Expect::default()), [wanted.clone(), wanted]);
    let report = verify(&lines, LedgerKeys::None, Expect::default());
    assert_eq!(
        report.findings[0].detail,
        "records 1 to 2 are not there (2 of them)"
    );
}

#[test]
fn reordered_and_duplicated_records_are_named() {
    let mut lines = chain(9);
    lines.swap(3, 4);
    assert_eq!(
        faults(&lines, Expect::default()),
        both(LedgerFault::Reordered, 4)
    );
    let mut lines = chain(9);
    let moved = lines.remove(1);
    lines.push(moved);
    assert_eq!(
        faults(&lines, Expect::default()),
        both(LedgerFault::Reordered, 2)
    );
    // Two neighbours that moved together continue each other, and are where they should not be.
    let lines = chain(9);
    let moved: Vec<_> = [0, 1, 4, 7, 6, 5, 2, 3, 8]
        .map(|place: usize| lines[place].clone())
        .into();
    let late = [3, 4, 6, 7]
        .map(|seq| (LedgerFault::Reordered, seq))
        .to_vec();
    assert_eq!(faults(&moved, Expect::default()), [late.clone(), late]);
    for place in [3, 7, 9] {
        let mut lines = chain(9);
        lines.insert(place, lines[2].clone());
        assert_eq!(
            faults(&lines, Expect::default()),
            both(LedgerFault::Duplicated, 3)
        );
    }
}

#[test]
fn a_ledger_that_was_cut_off_is_named_by_the_head_kept_elsewhere() {
    let mut lines = chain(9);
    let head = Line::parse(&lines[8]).unwrap().head();
    lines.truncate(6);
    assert_eq!(faults(&lines, Expect::default()), [vec![], vec![]]);
    let expect = Expect {
        head: Some(head),
        repo: None,
    };
    assert_eq!(faults(&lines, expect), both(LedgerFault::Truncated, 7));
    assert_eq!(faults(&[], expect), both(LedgerFault::Truncated, 1));
}

#[test]
fn a_record_slipped_in_without_the_key_is_foreign() {
    // Whoever writes to the file goes on with the chain from record 3 and re-chains the rest.
    let mut lines = chain(3);
    let thief = HmacKey::new([0x66; 32]);
    let mut head = Line::parse(&lines[2]).unwrap().head();
    for number in 4..=6 {
        let line = append(Some(&head), draft(number), &thief).unwrap();
        head = line.head();
        lines.push(line.as_bytes().to_vec());
    }
    let [keyed, bare] = faults(&lines, Expect::default());
    let foreign = |seq| (LedgerFault::Foreign, seq);
    assert_eq!(keyed, [foreign(4), foreign(5), (LedgerFault::Edited, 6)]);
    assert!(bare.is_empty(), "a chain alone does not tell");
}

#[test]
fn records_of_another_ledger_are_foreign() {
    let mut lines = chain(5);
    let mut other = None;
    for number in 1..=4u64 {
        other = Some(
            append(
                other.map(|line: Line| line.head()).as_ref(),
                draft(number + 50),
                &key(),
            )
            .unwrap(),
        );
    }
    lines[3] = other.unwrap().as_bytes().to_vec();
    let [keyed, _] = faults(&lines, Expect::default());
    assert_eq!(
        keyed,
        [(LedgerFault::Foreign, 4), (LedgerFault::Foreign, 5)]
    );

    let expect = Expect {
        head: None,
        repo: Some(RepoId([9; 16])),
    };
    assert_eq!(faults(&chain(1), expect), both(LedgerFault::Foreign, 1));
}

#[test]
fn lines_that_are_no_records_do_not_end_the_check() {
    let mut lines = chain(9);
    lines[2] = b"garbage".to_vec();
    lines[5] = vec![b'x'; MAX_LINE_BYTES + 1];
    replace(&mut lines[7], r#""bytes":8"#, r#""bytes":88"#);
    let wanted = vec![
        (LedgerFault::Unreadable, 3),
        (LedgerFault::Unreadable, 6),
        (LedgerFault::Edited, 8),
    ];
    assert_eq!(faults(&lines, Expect::default()), [wanted.clone(), wanted]);
    let mut lines = chain(5);
    lines.insert(2, Vec::new());
    assert_eq!(
        faults(&lines, Expect::default()),
        both(LedgerFault::Unreadable, 3)
    );
}

#[test]
fn lines_of_a_newer_release_are_refused_politely() {
    let mut lines = chain(3);
    lines[1] = br#"{"v":2,"seq":2,"wholly":"other"}"#.to_vec();
    assert_eq!(
        faults(&lines, Expect::default()),
        both(LedgerFault::Newer, 2)
    );
    let error = Line::parse(&lines[1]).unwrap_err();
    assert_eq!(error, LineError::Newer(2));
    assert!(error.to_string().contains("use a newer one"));
    let mut more = chain(1).remove(0);
    replace(&mut more, r#","prev""#, r#","more":1,"prev""#);
    let error = Line::parse(&more).unwrap_err().to_string();
    assert!(error.contains("unknown field `more`"), "{error}");
}

#[test]
fn each_host_is_checked_with_its_own_key_where_it_is_known() {
    let hosts = ["a", "b", "unknown"];
    let keys = [
        HmacKey::new([1; 32]),
        HmacKey::new([2; 32]),
        HmacKey::new([3; 32]),
    ];
    let mut lines = Vec::new();
    let mut head = None;
    for number in 0..9usize {
        let mut draft = draft(1);
        draft.host = HostId(hosts[number % 3].into());
        let line = append(head.as_ref(), draft, &keys[number % 3]).unwrap();
        head = Some(line.head());
        lines.push(line.as_bytes().to_vec());
    }
    let known = |host: &HostId| match host.0.as_str() {
        "a" => Some(keys[0].clone()),
        "b" => Some(keys[1].clone()),
        _ => None,
    };
    let report = verify(&lines, LedgerKeys::ByHost(&known), Expect::default());
    assert!(report.is_clean(), "{:?}", report.findings);
    assert_eq!((report.records, report.hmacs_checked), (9, 6));
}

#[test]
fn names_of_operations_are_open_but_plain() {
    assert_eq!("drill".parse::<Op>().unwrap().as_str(), "drill");
    assert_eq!("snapshot".parse::<Op>(), Ok(Op::SNAPSHOT));
    for bad in ["", "Drill", "9x", "a b", "-a", &"x".repeat(33)] {
        assert!(bad.parse::<Op>().is_err(), "{bad}");
    }
}

#[test]
fn a_record_that_is_too_long_is_refused() {
    let mut long = draft(1);
    long.note = Some("x".repeat(MAX_LINE_BYTES));
    assert_eq!(append(None, long, &key()).unwrap_err(), LineError::TooLong);
    let full = LedgerHead {
        seq: u64::MAX,
        hash: LineHash::NONE,
    };
    assert_eq!(
        append(Some(&full), draft(1), &key()).unwrap_err(),
        LineError::Full
    );
}

#[test]
fn a_file_of_nothing_but_faults_is_checked_in_bounded_memory() {
    let lines = (0..MAX_FINDINGS + 5).map(|_| b"garbage");
    let report = verify(lines, LedgerKeys::None, Expect::default());
    assert_eq!(
        (report.findings.len(), report.more_findings),
        (MAX_FINDINGS, 5)
    );
    assert!(!report.is_clean());
}

proptest! {
    #[test]
    fn any_one_change_to_a_signed_ledger_is_found(
        place in 0usize..12,
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let mut lines = chain(12);
        let head = Line::parse(&lines[11]).unwrap().head();
        let at = at.index(lines[place].len());
        lines[place][at] ^= 1 << bit;
        // A file cannot hold a newline within a line.
        prop_assume!(lines[place][at] != b'\n');
        let seq = place as u64 + 1;
        for found in faults(&lines, Expect { head: Some(head), repo: None }) {
            prop_assert!(found.iter().any(|&(_, named)| named == seq), "{found:?}");
        }
    }

    #[test]
    fn any_shuffle_is_found_and_a_restored_order_is_clean(order in Just((0..10usize).collect::<Vec<_>>()).prop_shuffle()) {
        let lines = chain(10);
        let shuffled: Vec<_> = order.iter().map(|&place| lines[place].clone()).collect();
        let sorted = order.is_sorted();
        for found in faults(&shuffled, Expect::default()) {
            prop_assert_eq!(found.is_empty(), sorted, "{:?}", found);
            prop_assert!(found.iter().all(|found| found.0 == LedgerFault::Reordered), "{:?}", found);
        }
    }

    #[test]
    fn any_dropped_set_is_named_exactly(kept in proptest::collection::vec(any::<bool>(), 9)) {
        let lines = chain(10);
        let rest: Vec<_> = (0..10)
            .filter(|&place| place == 9 || kept[place])
            .map(|place| lines[place].clone())
            .collect();
        let starts: Vec<_> = (0..9usize)
            .filter(|&place| !kept[place] && (place == 0 || kept[place - 1]))
            .map(|place| (LedgerFault::Missing, place as u64 + 1))
            .collect();
        prop_assert_eq!(faults(&rest, Expect::default()), [starts.clone(), starts]);
    }

    #[test]
    fn no_lines_make_the_check_panic(noise in proptest::collection::vec(any::<Vec<u8>>(), 0..6), seq: u64) {
        let mut lines = chain(3);
        replace(&mut lines[1], r#""seq":2"#, &format!(r#""seq":{seq}"#));
        lines.extend(noise);
        let _ = faults(&lines, Expect { head: Some(LedgerHead { seq, hash: LineHash::NONE }), repo: None });
    }
}

#[test]
fn a_record_whose_line_cannot_be_had_is_named_alone_and_no_other() {
    let lines = chain(6);
    let key = key();
    let faults = |without: &[u64], damaged: u64| {
        let mut verifier = LedgerVerifier::new(LedgerKeys::One(&key), Expect::default());
        for (line, seq) in lines.iter().zip(1..) {
            if seq == damaged {
                verifier.damaged(seq, "it does not open".into());
            } else if !without.contains(&seq) {
                verifier.push(line);
            }
        }
        let findings = verifier.finish().findings;
        findings
            .iter()
            .map(|found| (found.fault, found.seq))
            .collect::<Vec<_>>()
    };
    use LedgerFault::{Missing, Unreadable};
    for seq in 1..=6 {
        assert_eq!(faults(&[], seq), [(Unreadable, seq)]);
    }
    assert_eq!(faults(&[3], 4), [(Missing, 3), (Unreadable, 4)]);
    assert_eq!(faults(&[4], 3), [(Unreadable, 3), (Missing, 4)]);
}

#[test]
fn a_record_that_passed_over_a_damaged_one_accuses_nobody_when_that_comes_back() {
    let mut lines = chain(5);
    // Record 6 could not be read when record 7 was written.
    let head = Line::parse(&lines[4]).unwrap().head();
    let sixth = append(Some(&head), draft(6), &key()).unwrap();
    let place = LedgerHead {
        seq: 6,
        hash: head.hash,
    };
    let seventh = append(Some(&place), draft(7), &key()).unwrap();
    let eighth = append(Some(&seventh.head()), draft(8), &key()).unwrap();
    lines.extend([sixth, seventh, eighth].map(|line| line.as_bytes().to_vec()));
    assert_eq!(
        faults(&lines, Expect::default()),
        both(LedgerFault::PassedOver, 7)
    );
    // Neither does one that could read nothing before it.
    let nothing = LedgerHead {
        seq: 1,
        hash: LineHash::NONE,
    };
    let second = append(Some(&nothing), draft(2), &key()).unwrap();
    let two = [lines[0].clone(), second.as_bytes().to_vec()];
    assert_eq!(
        faults(&two, Expect::default()),
        both(LedgerFault::PassedOver, 2)
    );
    let key = key();
    let mut verifier = LedgerVerifier::new(LedgerKeys::One(&key), Expect::default());
    for (place, line) in lines.iter().enumerate() {
        if place == 5 {
            verifier.damaged(6, "it does not open".into());
        } else {
            verifier.push(line);
        }
    }
    let found = verifier.finish().findings;
    let found: Vec<_> = found.iter().map(|one| (one.fault, one.seq)).collect();
    assert_eq!(found, [(LedgerFault::Unreadable, 6)]);
}
