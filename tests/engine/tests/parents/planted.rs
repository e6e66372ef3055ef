//! Snapshots that claim to be of a host and are not.

use backup_core::{HostId, ObjectKey, PutMode, Sink as _};
use backup_engine::view::check_signatures;
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_format::snapshot::{Outer, SnapshotObject, decode, encode};
use backup_integrity::sign::{HmacKey, HostSigner};
use backup_integrity::statement::SignedStatement;
use zeroize::Zeroizing;

use crate::source::ModelSource;
use crate::world::{World, host, noise};

/// Whoever holds another host's key can write a head that claims to be of this one, newer than all
/// others, with another snapshot's content.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_another_host_signed_is_no_parent() {
    let world = World::new().await;
    let mut source = ModelSource::default();
    source.now.insert("disk".into(), noise(1, 2 << 20));
    let own = world.save(&source, &world.writer(&host()), "one").await;

    let other = HostId("other".into());
    let mut theirs = world;
    theirs.job.host = other.clone();
    let mut foreign = ModelSource::default();
    foreign.now.insert("disk".into(), noise(2, 2 << 20));
    let keys = theirs.writer(&other);
    let planted = theirs.save(&foreign, &keys, "other").await;
    let repo = theirs.open(&keys, None).await;
    let head = theirs.head(&repo, &planted).await;

    // The same object, but of this host and of next year.
    let mut outer: Outer = decode(&head.object.outer, "snapshot").unwrap();
    outer.host = host().0;
    outer.time += 365 * 86_400 * 1_000_000_000;
    let outer = encode(&outer).unwrap();
    let meta = decode::<Outer>(&outer, "snapshot").unwrap().meta();
    let mut statement = SignedStatement::decode(&head.object.statement).unwrap();
    statement.time = meta.time;
    statement.host = host();
    let signing = repo.keys().host_keys(&other).unwrap();
    let signer = HostSigner::new(
        host(),
        HmacKey::new(signing.hmac),
        &Zeroizing::new(signing.ed25519_seed),
    );
    let digest = SnapshotObject::digest(&outer, &head.object.inner, &head.object.next.sealed);
    let signatures = statement.sign(&signer, &digest).unwrap();
    let signature = signatures.ed25519.as_bytes();
    let object = SnapshotObject {
        outer,
        statement: statement.encode().unwrap(),
        hmac: *signatures.hmac.as_bytes(),
        public_key: *signatures.public_key.as_bytes(),
        signature: (
            signature[..32].try_into().unwrap(),
            signature[32..].try_into().unwrap(),
        ),
        ..head.object
    };
    let plain = object.encode().unwrap();
    let sealed = repo.ring().seal(ObjectKind::Snapshot, &plain).unwrap();
    let key: ObjectKey = layout::snapshot(planted.meta.id).unwrap();
    let put = theirs
        .mem
        .put(&theirs.cx, &key, sealed.into(), PutMode::Replace);
    put.await.unwrap();

    let mut world = theirs;
    world.job.host = host();
    let keys = world.writer(&host());
    let repo = world.open(&keys, None).await;
    let head = world.head(&repo, &planted).await;
    assert_eq!(head.meta.host, host());
    check_signatures(&repo, &head).unwrap_err();
    // With its cache and without.
    let mut newest = own.meta.id;
    for cache in ["one", "two"] {
        let report = world.save(&source, &keys, cache).await;
        assert_eq!(report.meta.parent, Some(newest), "{cache}");
        newest = report.meta.id;
        assert!(report.meta.stats.bytes_new < 20_000);
        let hints = source.hints();
        let hinted = hints.iter().flatten();
        assert!(hinted.clone().all(|hint| hint.snapshot != planted.meta.id));
    }
}
