//! Chains that are written by several at once.

use std::sync::Arc;

use backup_core::PutMode;
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_integrity::ledger::{LedgerHead, LineHash, append};
use backup_integrity::sign::HmacKey;
use backup_testkit::{MemSink, context};

use super::*;
use crate::init::{InitRequest, prepare};

fn made(number: u128) -> LedgerDraft {
    LedgerDraft {
        op: "snapshot",
        snapshot: Some(SnapshotId(number)),
        root: Some(MerkleRoot([1; 32])),
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: String::new(),
    }
}

async fn repository(copies: Option<PathBuf>) -> Repository {
    let cx = context();
    let request = InitRequest {
        key_file: true,
        ..InitRequest::default()
    };
    let prepared = prepare(&cx, &request).unwrap();
    let repo = prepared.create(&cx, Arc::new(MemSink::new()), None);
    repo.await.unwrap().keep_ledger_in(copies)
}

#[tokio::test]
async fn a_snapshot_is_recorded_once_by_runs_that_do_not_know_of_each_other() {
    let (cx, copies) = (context(), tempfile::tempdir().unwrap());
    let (host, me) = (HostId("host".into()), "me");
    for copies in [None, Some(copies.path().to_owned())] {
        let repo = repository(copies).await;
        let before = tier::numbers(&repo, &cx, 0).await.unwrap().len();
        let mut one = Chain::read(&repo, &cx).await.unwrap();
        let mut two = Chain::read(&repo, &cx).await.unwrap();
        one.append(&host, me, made(1)).await.unwrap();
        two.append(&host, me, made(1)).await.unwrap();
        two.append(&host, me, made(2)).await.unwrap();
        two.append(&host, me, made(3)).await.unwrap();
        one.append(&host, me, made(3)).await.unwrap();
        one.append(&host, me, made(2)).await.unwrap();
        let earlier = [2, 4].map(SnapshotId);
        let chain = Chain::read(&repo, &cx).await.unwrap();
        let recorded = record_snapshot(&repo, &cx, chain, (&host, me), made(3), &earlier);
        assert_eq!(recorded.await.unwrap(), []);
        let after = tier::numbers(&repo, &cx, 0).await.unwrap().len();
        assert_eq!(after - before, 3);
    }
}

/// Puts a record there as anybody can who opens the ledger: in the name of a host, with no key of it.
async fn plant(repo: &Repository, number: u64, draft: LedgerDraft) {
    let (cx, host) = (context(), HostId("host".into()));
    let draft = draft.signed_by(repo, &cx, &host, "me").unwrap();
    let before = LedgerHead {
        seq: number - 1,
        hash: LineHash::NONE,
    };
    let line = append(Some(&before), draft, &HmacKey::new([0; 32])).unwrap();
    let sealed = repo.ring().seal(ObjectKind::Ledger, line.as_bytes());
    let key = name(layout::ledger(number)).unwrap();
    let put = repo
        .sink()
        .put(&cx, &key, sealed.unwrap().into(), PutMode::Create);
    put.await.unwrap();
}

#[tokio::test]
async fn a_planted_record_uses_up_no_numbers_and_stands_for_no_snapshot() {
    let (cx, copies) = (context(), tempfile::tempdir().unwrap());
    let (host, me) = (HostId("host".into()), "me");
    for copies in [None, Some(copies.path().to_owned())] {
        let repo = repository(copies).await;
        let next = tier::numbers(&repo, &cx, 0).await.unwrap().len() as u64 + 1;
        plant(&repo, 999_999_999_999, made(7)).await;
        plant(&repo, next, made(5)).await;
        for number in [1, 5, 7] {
            let chain = Chain::read(&repo, &cx).await.unwrap();
            let findings = record_snapshot(&repo, &cx, chain, (&host, me), made(number), &[]);
            let findings = findings.await.unwrap();
            assert!(!findings.is_empty(), "nobody hears of it");
        }
        let numbers = tier::numbers(&repo, &cx, 0).await.unwrap();
        let wanted: Vec<u64> = (1..=next + 3).chain([999_999_999_999]).collect();
        assert_eq!(numbers, wanted);
        let check = verify_ledger(&repo, &cx).await.unwrap();
        assert!(!check.findings.is_empty());
    }
}
