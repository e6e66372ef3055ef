//! Chains that are written by several at once.

use std::sync::Arc;

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

#[tokio::test]
async fn a_snapshot_is_recorded_once_by_runs_that_do_not_know_of_each_other() {
    let (cx, copies) = (context(), tempfile::tempdir().unwrap());
    let (host, me) = (HostId("host".into()), "me");
    for copies in [None, Some(copies.path().to_owned())] {
        let request = InitRequest {
            key_file: true,
            ..InitRequest::default()
        };
        let prepared = prepare(&cx, &request).unwrap();
        let repo = prepared.create(&cx, Arc::new(MemSink::new()), None);
        let repo = repo.await.unwrap().keep_ledger_in(copies);
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
        let recorded = record_snapshot(&repo, &cx, &host, me, made(3), &earlier);
        assert_eq!(recorded.await.unwrap(), []);
        let after = tier::numbers(&repo, &cx, 0).await.unwrap().len();
        assert_eq!(after - before, 3);
    }
}
