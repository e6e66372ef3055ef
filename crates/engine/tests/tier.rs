//! What others put on the tier, a newer program or somebody without a key: a repository can tell this
//! program to stop, and nobody without a key can tell it anything.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use backup_core::{
    HostId, ObjectKey, OpContext, PutMode, Sample, Severity, Sink as _, VerifyLevel,
};
use backup_engine::{
    EngineError, InitRequest, Repository, Result, SnapshotJob, SnapshotReport, Unlock, forget,
    prepare, snapshot, verify,
};
use backup_format::config::{Config, Operation};
use backup_format::keys::keyfile::KeyFile;
use backup_format::keys::{Identity, KeySet, Role, SlotMeta, seal_to_recipients};
use backup_format::layout;
use backup_source_files::{FilesConfig, FilesSource};
use backup_testkit::{MemSink, Op, RecordingSink, context};
use tempfile::TempDir;

const ALL: [Operation; 4] = [
    Operation::Read,
    Operation::Write,
    Operation::Verify,
    Operation::Prune,
];

struct World {
    cx: OpContext,
    dir: TempDir,
    tier: MemSink,
    keys: KeySet,
    config: Config,
    key: Vec<u8>,
}

impl World {
    async fn new() -> Self {
        let (cx, dir, tier) = (context(), tempfile::tempdir().unwrap(), MemSink::new());
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::write(dir.path().join("tree/file"), b"content").unwrap();
        let request = InitRequest {
            key_file: true,
            ..InitRequest::default()
        };
        let prepared = prepare(&cx, &request).unwrap();
        let key = prepared.key_file.as_ref().unwrap().as_bytes().to_vec();
        let repo = prepared.create(&cx, Arc::new(tier.clone()), None).await;
        let repo = repo.unwrap();
        let (keys, config) = (repo.keys().clone(), repo.config().clone());
        Self {
            cx,
            dir,
            tier,
            keys,
            config,
            key,
        }
    }

    fn cache(&self) -> Option<PathBuf> {
        Some(self.dir.path().join("cache"))
    }

    async fn open(&self, operation: Operation) -> Result<Repository> {
        let unlock = Unlock::KeyFile(KeyFile::parse(&self.key).unwrap());
        let tier = Arc::new(self.tier.clone());
        Repository::open(&self.cx, tier, &unlock, self.cache(), operation).await
    }

    async fn save(&self, repo: &Repository) -> Result<SnapshotReport> {
        let roots = [self.dir.path().join("tree")];
        let source = Arc::new(FilesSource::new(FilesConfig::of_roots(roots)));
        let job = SnapshotJob::new("test", HostId("host".into()));
        snapshot(repo, &self.cx, source, &job).await
    }

    async fn put(&self, key: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        let key = ObjectKey::new(key).unwrap();
        let bytes = bytes.into().into();
        let put = self.tier.put(&self.cx, &key, bytes, PutMode::Replace);
        put.await.unwrap();
    }

    async fn remove(&self, key: &str) {
        let key = ObjectKey::new(key).unwrap();
        self.tier.delete(&self.cx, &key).await.unwrap();
    }

    /// The config of that number, which needs `later` for these operations.
    fn needing(&self, number: u32, operations: &[Operation]) -> Config {
        let mut config = self.config.clone();
        config.number = number;
        for operation in operations {
            let features = &mut config.features;
            let list = match operation {
                Operation::Read => &mut features.read,
                Operation::Write => &mut features.write,
                Operation::Verify => &mut features.verify,
                Operation::Prune => &mut features.prune,
            };
            list.push("later".into());
        }
        config
    }

    async fn put_config(&self, config: &Config) {
        let bytes = config.seal(&self.keys).unwrap();
        self.put(format!("config/{}", config.number), bytes).await;
    }
}

fn is_newer<T>(result: &Result<T>) -> bool {
    matches!(result, Err(EngineError::Newer(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_config_tells_older_programs_to_stop() {
    for operation in ALL {
        let world = World::new().await;
        world.put_config(&world.needing(1, &[operation])).await;
        for other in ALL {
            let opened = world.open(other).await;
            assert_eq!(
                is_newer(&opened),
                other == operation,
                "{operation}, {other}"
            );
        }
        // What a later one no longer needs is free again.
        world.put_config(&world.needing(2, &[])).await;
        assert_eq!(world.open(operation).await.unwrap().config().number, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_that_comes_while_a_repository_is_open_stops_the_writer() {
    let world = World::new().await;
    let repo = world.open(Operation::Write).await.unwrap();
    world
        .put_config(&world.needing(1, &[Operation::Write]))
        .await;
    let saved = world.save(&repo).await;
    assert!(is_newer(&saved), "{saved:?}");
    assert!(repo.heads(&world.cx).await.unwrap().0.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configs_with_a_gap_or_without_a_key_are_damage() {
    let gap = World::new().await;
    gap.put_config(&gap.needing(2, &[])).await;
    let error = gap.open(Operation::Read).await.unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(
        error.to_string().starts_with("config/1 is missing"),
        "{error}"
    );

    let forged = World::new().await;
    let others = KeySet::generate(forged.config.repo).unwrap();
    let bytes = forged.needing(1, &ALL).seal(&others).unwrap();
    forged.put("config/1", bytes).await;
    let error = forged.open(Operation::Read).await.unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(error.to_string().contains("without the key"), "{error}");

    // Tampering is told as such, and not as the work of a newer program.
    let tampered = World::new().await;
    let mut bytes = tampered.config.seal(&tampered.keys).unwrap();
    bytes[8] = 2;
    tampered.put("config/0", bytes).await;
    let error = tampered.open(Operation::Read).await.unwrap_err();
    assert!(error.is_damage(), "{error}");

    let exchanged = World::new().await;
    let bytes = exchanged.config.seal(&exchanged.keys).unwrap();
    exchanged.put("config/1", bytes).await;
    assert!(
        exchanged
            .open(Operation::Read)
            .await
            .unwrap_err()
            .is_damage()
    );

    let family = World::new().await;
    let mut other = family.needing(1, &[]);
    other.family = [9; 16];
    family.put_config(&other).await;
    assert!(family.open(Operation::Read).await.unwrap_err().is_damage());
}

/// As a newer program would write it: of another version, with a HMAC that holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_of_a_newer_version_is_left_alone() {
    use aws_lc_rs::hmac;

    for number in [0, 1] {
        let world = World::new().await;
        let mut bytes = world.needing(number, &[]).seal(&world.keys).unwrap();
        bytes[8] = 2;
        let salt =
            aws_lc_rs::hkdf::Salt::new(aws_lc_rs::hkdf::HKDF_SHA256, world.config.repo.as_bytes());
        let key = salt.extract(world.keys.index_key().unwrap());
        let okm = key.expand(&[b"backstay v1 config mac"], hmac::HMAC_SHA256);
        let key = hmac::Key::from(okm.unwrap());
        let signed = bytes.len() - 32;
        let tag = hmac::sign(&key, &bytes[..signed]);
        bytes[signed..].copy_from_slice(tag.as_ref());
        world.put(format!("config/{number}"), bytes).await;
        for operation in ALL {
            let opened = world.open(operation).await;
            assert!(is_newer(&opened), "{number}, {operation}: {opened:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_that_this_host_has_seen_cannot_be_taken_away() {
    let world = World::new().await;
    world.put_config(&world.needing(1, &[])).await;
    world.open(Operation::Read).await.unwrap();
    world.remove("config/1").await;
    let error = world.open(Operation::Read).await.unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(error.to_string().contains("set back"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_announces_itself_before_it_looks() {
    let world = World::new().await;
    world
        .save(&world.open(Operation::Write).await.unwrap())
        .await
        .unwrap();
    let calls = RecordingSink::new(Arc::new(world.tier.clone()));
    let unlock = Unlock::KeyFile(KeyFile::parse(&world.key).unwrap());
    let tier = Arc::new(calls.clone());
    let operation = Operation::Write;
    let repo = Repository::open(&world.cx, tier, &unlock, world.cache(), operation)
        .await
        .unwrap();
    world.save(&repo).await.unwrap();
    let calls = calls.calls();
    let nth = |op: Op, subject: &str| {
        let is_it =
            |call: &backup_testkit::Call| call.op == op && call.subject.starts_with(subject);
        calls
            .iter()
            .rposition(is_it)
            .unwrap_or_else(|| panic!("{op} {subject}"))
    };
    let session = calls.iter().position(|call| call.op == Op::Put).unwrap();
    assert!(calls[session].subject.starts_with("sessions/"));
    let order = [
        nth(Op::List, "snap/"),
        session,
        nth(Op::List, "config/"),
        nth(Op::Put, "snap/"),
        nth(Op::Head, "sessions/"),
    ];
    assert!(order.is_sorted(), "{order:?}");
    // All that must be looked at behind the announcement is; verdicts behind the list of snapshots. The packs are listed
    // to see that they are there.
    let looked = calls[order[2]].subject.split(' ').collect::<Vec<_>>();
    for folder in ["config/", "gc/", "verdicts/", "index/", "data/", "meta/"] {
        assert!(looked.contains(&folder), "{folder}: {looked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_builds_on_nothing_that_went_before_its_session() {
    let world = World::new().await;
    let repo = world.open(Operation::Write).await.unwrap();
    world
        .save(&world.open(Operation::Write).await.unwrap())
        .await
        .unwrap();
    let stale = world.open(Operation::Write).await.unwrap();
    // Garbage is collected while the repository is open.
    let plan = forget::ForgetPlan::by_id(
        stale
            .heads(&world.cx)
            .await
            .unwrap()
            .0
            .into_iter()
            .map(|head| head.meta)
            .collect(),
    );
    forget(&stale, &world.cx, &plan, &HostId("host".into()), "me")
        .await
        .unwrap();
    for folder in ["index/", "data/", "meta/"] {
        use futures::TryStreamExt as _;
        let listed: Vec<_> = world
            .tier
            .list(&world.cx, folder, None)
            .try_collect()
            .await
            .unwrap();
        for meta in listed {
            world.remove(meta.key.as_str()).await;
        }
    }
    for repo in [stale, repo] {
        world.save(&repo).await.unwrap();
        repo.reload_index(&world.cx).await.unwrap();
        let done = verify(&repo, &world.cx, None, VerifyLevel::FullRead, Sample::All);
        assert_eq!(done.await.unwrap().report.findings, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_program_puts_there_is_no_damage() {
    let world = World::new().await;
    let repo = world.open(Operation::Write).await.unwrap();
    world.save(&repo).await.unwrap();
    let session = "01M7XPE6000R30C1G60R30C1G6";
    for end in [".hb", ".hb.7", ".verdict"] {
        world
            .put(format!("sessions/{session}{end}"), b"later")
            .await;
    }
    for name in [
        "keys/later",
        "index/later",
        "config/later",
        "parity/aa/later",
        "verdicts/later",
        "gc/000000000001",
    ] {
        world.put(name, b"later").await;
    }
    repo.reload_index(&world.cx).await.unwrap();
    let done = verify(&repo, &world.cx, None, VerifyLevel::FullRead, Sample::All)
        .await
        .unwrap();
    let worst = done
        .report
        .findings
        .iter()
        .map(|finding| finding.severity)
        .max();
    assert_eq!(worst, Some(Severity::Note), "{:?}", done.report.findings);
    assert_eq!(done.report.findings.len(), 6);
    // What it means comes with a feature that this program does not know.
    world
        .save(&world.open(Operation::Write).await.unwrap())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_slot_does_not_deny_access() {
    let world = World::new().await;
    let me = Identity::generate(0);
    let label = |label: &str| SlotMeta {
        label: label.into(),
        created: 0,
    };
    let reader = world.keys.subset(Role::Reader, None).unwrap();
    let slot = seal_to_recipients(&reader, &label("mine"), &[me.recipient()]).unwrap();
    world.put(layout::slot(&slot).unwrap().as_str(), slot).await;
    // Some sort before and some behind.
    for _ in 0..8 {
        let theirs = KeySet::generate(world.config.repo).unwrap();
        let slot = seal_to_recipients(&theirs, &label("theirs"), &[me.recipient()]).unwrap();
        world.put(layout::slot(&slot).unwrap().as_str(), slot).await;
    }
    let file = format!("{}\n", &*me.secret_text());
    let unlock = Unlock::KeyFile(KeyFile::parse(file.as_bytes()).unwrap());
    let tier = Arc::new(world.tier.clone());
    let repo = Repository::open(&world.cx, tier, &unlock, None, Operation::Read)
        .await
        .unwrap();
    assert_eq!(repo.keys().role(), Role::Reader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_names_of_the_format_are_snapshots_and_holds() {
    let world = World::new().await;
    let repo = world.open(Operation::Write).await.unwrap();
    let id = world.save(&repo).await.unwrap().meta.id;
    let key = layout::snapshot(id).unwrap();
    let sealed = world
        .tier
        .get(&world.cx, &key, backup_core::ByteRange::Full)
        .await
        .unwrap();
    for folder in ["snap/x", "snap/199901"] {
        world.put(format!("{folder}/{id}"), sealed.to_vec()).await;
    }
    world.put(format!("holds/x/{id}"), b"held\n").await;
    let (heads, errors) = repo.heads(&world.cx).await.unwrap();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(heads.len(), 1);
    assert!(!heads[0].meta.held);
}

/// Whoever holds the index key can seal a snapshot object, and sign it with a key of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_passes_for_another_host() {
    use backup_engine::view::{check_signatures, statement_of};
    use backup_format::seal::ObjectKind;
    use backup_format::snapshot::{SnapshotObject, encode};
    use backup_integrity::sign::{HmacKey, HostSigner};

    let world = World::new().await;
    let repo = world.open(Operation::Write).await.unwrap();
    world.save(&repo).await.unwrap();
    let (mut heads, _) = repo.heads(&world.cx).await.unwrap();
    let head = heads.pop().unwrap();
    let (mut statement, _, _) = statement_of(&head).unwrap();
    let own = repo.keys().host_keys(&HostId("host".into())).unwrap();
    let victim = HostId("victim".into());
    let mut outer = head.outer.clone();
    outer.host.clone_from(&victim.0);
    statement.host = victim.clone();
    let outer = encode(&outer).unwrap();
    let digest = SnapshotObject::digest(&outer, &head.object.inner, &head.object.next.sealed);
    let signer = HostSigner::new(victim, HmacKey::new(own.hmac), &own.ed25519_seed.into());
    let signatures = statement.sign(&signer, &digest).unwrap();
    let (mut low, mut high) = ([0; 32], [0; 32]);
    low.copy_from_slice(&signatures.ed25519.as_bytes()[..32]);
    high.copy_from_slice(&signatures.ed25519.as_bytes()[32..]);
    let forged = SnapshotObject {
        outer,
        statement: statement.encode().unwrap(),
        hmac: *signatures.hmac.as_bytes(),
        public_key: *signatures.public_key.as_bytes(),
        signature: (low, high),
        ..head.object.clone()
    };
    let sealed = repo
        .ring()
        .seal(ObjectKind::Snapshot, &forged.encode().unwrap());
    let key = layout::snapshot(head.meta.id).unwrap();
    world.put(key.as_str(), sealed.unwrap()).await;
    for role in [Role::Reader, Role::Verifier] {
        let keys = world.keys.subset(role, None).unwrap();
        let unlock = Unlock::KeyFile(KeyFile::Keys(Box::new(keys)));
        let tier = Arc::new(world.tier.clone());
        let repo = Repository::open(&world.cx, tier, &unlock, None, Operation::Verify);
        let repo = repo.await.unwrap();
        check_signatures(&repo, &head).unwrap();
        let (heads, errors) = repo.heads(&world.cx).await.unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        let error = check_signatures(&repo, &heads[0]).unwrap_err();
        assert!(error.to_string().contains("not its host's"), "{error}");
    }
}

/// Writers of one repository must cut alike, or they store the same data twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_cut_as_the_config_says() {
    use backup_format::chunk::PieceCut;
    use backup_format::lineage::LineageHead;
    use backup_format::seal::BlobKind;

    let mut world = World::new().await;
    let mut noise = vec![0; 3 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    fs::write(world.dir.path().join("tree/content"), &noise).unwrap();
    let page = [&b"SQLite format 3\0"[..], &noise[..(3 << 20) - 16]].concat();
    fs::write(world.dir.path().join("tree/pages"), page).unwrap();
    world.tier = MemSink::new();
    let profile = &mut world.config.chunking[0];
    (profile.piece_min, profile.piece_avg, profile.piece_max) = (8 << 10, 32 << 10, 64 << 10);
    profile.page = 16 << 10;
    let tier = Arc::new(world.tier.clone());
    let (config, keys) = (world.config.clone(), world.keys.clone());
    let repo = Repository::create(&world.cx, tier, config, keys, &[], None);
    let repo = repo.await.unwrap();
    world.save(&repo).await.unwrap();
    repo.reload_index(&world.cx).await.unwrap();
    let (heads, _) = repo.heads(&world.cx).await.unwrap();
    let lineage = heads[0].outer.lineage.unwrap();
    let reader = backup_engine::tree::TreeReader::new(&repo, lineage, BlobKind::Lineage);
    let (mut walk, mut cuts) = (reader.walk(&[]), Vec::new());
    while let Some((_, head)) = walk.next(&world.cx).await.unwrap() {
        let head = LineageHead::decode(&head).unwrap();
        if matches!(head.cut, PieceCut::Content(_)) {
            // Between the least and the most of the config, not of this release.
            assert!(
                (3 << 20) / head.pieces <= 64 << 10,
                "{} pieces",
                head.pieces
            );
        }
        cuts.push(head.cut);
    }
    cuts.sort_by_key(|cut| cut.piece());
    assert_eq!(
        cuts,
        [PieceCut::Pages(16 << 10), PieceCut::Content(32 << 10)]
    );
}

/// Whoever may write to the tier can put any number of bytes under any name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_read_that_is_larger_than_it_may_be() {
    let world = World::new().await;
    let repo = world.open(Operation::Write).await.unwrap();
    world.save(&repo).await.unwrap();
    let large = vec![7; 1 << 20];
    let session = "sessions/01M7XPE6000R30C1G60R30C1G6";
    let slot = layout::slot(&large).unwrap();
    let names = [slot.as_str(), session, "ledger/000000000009"];
    for name in names {
        world.put(name, large.clone()).await;
    }
    let calls = RecordingSink::new(Arc::new(world.tier.clone()));
    let unlock = Unlock::KeyFile(KeyFile::parse(&world.key).unwrap());
    let tier = Arc::new(calls.clone());
    let repo = Repository::open(&world.cx, tier, &unlock, None, Operation::Verify);
    let repo = repo.await.unwrap();
    let done = verify(&repo, &world.cx, None, VerifyLevel::Metadata, Sample::All).await;
    let told = format!("{:?}", done.unwrap().report.findings);
    let ledger = backup_engine::ledger::verify_ledger(&repo, &world.cx).await;
    let told = format!("{told} {:?}", ledger.unwrap().findings);
    for name in names {
        assert!(told.contains(name), "{name}: {told}");
    }
    world.put("config/1", large).await;
    assert!(world.open(Operation::Read).await.unwrap_err().is_damage());
    let most = calls.calls().into_iter().filter(|call| call.op == Op::Get);
    let most = most.map(|call| call.bytes).max().unwrap();
    assert!(most <= (64 << 10) + 41, "{most} bytes");
}
