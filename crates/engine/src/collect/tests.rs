//! What needs a look inside; the rest is in `tests/faults`.

use backup_core::{HostId, SinkCaps};
use backup_testkit::{MemSink, context};

use super::*;
use crate::init::{InitRequest, prepare};

/// A repository on a tier that may be able to create once, and a session in it.
async fn begun(atomic_create: bool) -> (MemSink, OpContext, Repository, Session) {
    let caps = SinkCaps {
        atomic_create,
        replace_if: false,
        max_put_bytes: 1 << 32,
        cold: false,
        connections: 2,
        settle: Duration::ZERO,
        lock: None,
    };
    let (cx, mem) = (context(), MemSink::with_caps(caps));
    let request = InitRequest {
        key_file: true,
        ..InitRequest::default()
    };
    let prepared = prepare(&cx, &request).unwrap();
    let repo = prepared.create(&cx, Arc::new(mem.clone()), None).await;
    let repo = repo.unwrap();
    let session = Session::begin(&repo, &cx, &HostId("host".into())).await;
    (mem, cx, repo, session.unwrap())
}

fn plant(mem: &MemSink, repo: &Repository, session: &Session, snapshots: &[SnapshotId]) {
    let verdict = Verdict {
        session: session.id,
        snapshots: snapshots.iter().copied().collect(),
    };
    let sealed = repo.ring().seal(ObjectKind::Verdict, &verdict.encode());
    mem.plant(layout::verdict(session.id).unwrap(), sealed.unwrap());
}

#[tokio::test]
async fn a_session_that_is_judged_already_goes_by_its_verdict() {
    let (ours, other) = (SnapshotId(1), SnapshotId(2));
    for create in [true, false] {
        let (mem, cx, repo, session) = begun(create).await;
        plant(&mem, &repo, &session, &[other]);
        // Whoever is not revoked does not ask.
        assert_eq!(
            session.outcome(&repo, &cx, ours).await.unwrap(),
            Fate::Alive
        );
        mem.plant(
            layout::session_revoked(session.id).unwrap(),
            b"anything".to_vec(),
        );
        let ended = session.outcome(&repo, &cx, ours).await;
        assert!(matches!(ended, Err(EngineError::TakenForDead(id)) if id == ours));
        plant(&mem, &repo, &session, &[ours, other]);
        assert_eq!(
            session.outcome(&repo, &cx, ours).await.unwrap(),
            Fate::Adopted
        );
        mem.plant(layout::verdict(session.id).unwrap(), b"anything".to_vec());
        assert!(
            session
                .outcome(&repo, &cx, ours)
                .await
                .unwrap_err()
                .is_damage()
        );
    }
}

#[tokio::test]
async fn where_nobody_can_create_once_a_session_waits_to_be_judged() {
    let (ours, short) = (SnapshotId(1), (Duration::from_millis(1), 3));
    let (mem, cx, repo, session) = begun(false).await;
    let ended = session
        .announced()
        .await_verdict(&repo, &cx, ours, short)
        .await;
    assert!(matches!(ended, Err(EngineError::Undecided(id)) if id == session.id));
    let verdict = layout::verdict(session.id).unwrap();
    assert!(!mem.objects().contains_key(&verdict), "it judged itself");
    let long = (Duration::from_millis(1), 10_000);
    let waiting = session.announced().await_verdict(&repo, &cx, ours, long);
    let judging = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        plant(&mem, &repo, &session, &[ours]);
    };
    let (ended, ()) = tokio::join!(waiting, judging);
    assert_eq!(ended.unwrap(), Fate::Adopted);
}

#[tokio::test]
async fn what_a_generation_says_is_read_once_it_is_decided_from_its_end() {
    let (mem, cx, repo, _) = begun(true).await;
    let list = |generation, packs: &[u8]| PackList {
        generation,
        packs: packs.iter().map(|byte| PackId([*byte; 32])).collect(),
    };
    let put = |key: Result<ObjectKey, _>, kind, list: &PackList| {
        let key: Result<ObjectKey, backup_core::sink::KeyError> = key;
        let sealed = repo.ring().seal(kind, &list.encode()).unwrap();
        mem.plant(key.unwrap(), sealed);
    };
    put(
        layout::condemned(0),
        ObjectKind::Condemned,
        &list(0, &[1, 2, 3]),
    );
    put(layout::dead(0), ObjectKind::Dead, &list(0, &[2]));
    put(
        layout::condemned(1),
        ObjectKind::Condemned,
        &list(1, &[3, 4]),
    );
    put(layout::dead(7), ObjectKind::Dead, &list(7, &[9]));
    let found = repo.collection(&cx).await.unwrap();
    let bytes = |packs: &BTreeSet<PackId>| packs.iter().map(|id| id.0[0]).collect::<Vec<_>>();
    assert_eq!(
        (bytes(&found.condemned), bytes(&found.dead)),
        (vec![3, 4], vec![2, 9])
    );
}
