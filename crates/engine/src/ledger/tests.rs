//! Chains that are written by several at once.

use std::sync::Arc;

use backup_testkit::{MemSink, context};

use super::*;
use crate::init::{InitRequest, prepare};

fn made(number: u128) -> LedgerDraft {
    LedgerDraft {
        op: MADE,
        snapshot: Some(SnapshotId(number)),
        root: Some(MerkleRoot([1; 32])),
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: String::new(),
    }
}

#[tokio::test]
async fn a_snapshot_is_recorded_once_by_runs_that_do_not_know_of_each_other() {
    let cx = context();
    let request = InitRequest {
        key_file: true,
        ..InitRequest::default()
    };
    let prepared = prepare(&cx, &request).unwrap();
    let repo = prepared.create(&cx, Arc::new(MemSink::new()), None);
    let repo = repo.await.unwrap();
    let before = Chain::read(&repo, &cx).await.unwrap().lines.len();
    let mut one = Chain::read(&repo, &cx).await.unwrap();
    let mut two = Chain::read(&repo, &cx).await.unwrap();
    let host = HostId("host".into());
    for (number, by_one) in [
        (1, true),
        (1, false),
        (2, false),
        (3, false),
        (3, true),
        (2, true),
    ] {
        let chain = if by_one { &mut one } else { &mut two };
        let appended = chain.append(&repo, &cx, &host, "me", made(number));
        appended.await.unwrap();
    }
    let after = Chain::read(&repo, &cx).await.unwrap().lines.len();
    assert_eq!(after - before, 3);
}
