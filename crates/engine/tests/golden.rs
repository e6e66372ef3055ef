//! Repositories of every format version are read for ever.
//!
//! `tests/golden/<version>/` holds a repository as a release of that version wrote it (`repo/`), what
//! opens it (`key`, `passphrase`, `age-identity`; they guard nothing else), and what is in it
//! (`expected.txt`, written from what was given to the engine, not from what it stored). A folder
//! here is never changed once a release has written repositories of its version; a new version gets
//! a folder of its own, made by
//!
//! ```text
//! cargo test -p backup-engine --test golden -- --ignored make_the_golden_repository
//! ```
#![allow(clippy::unwrap_used, reason = "a test")]

mod golden_tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_core::{
    ByteRange, EntryKind, FileTime, FindingKind, HostId, ObjectKey, OpContext, PutMode,
    RestoreMode, Sample, Sink as _, VerifyLevel,
};
use backup_engine::ledger::verify_ledger;
use backup_engine::view::{ContentReader, ViewEntry};
use backup_engine::{
    InitRequest, Repository, RestoreJob, SnapshotJob, SnapshotView, Unlock, prepare, restore,
    snapshot, verify,
};
use backup_format::collect::SessionMark;
use backup_format::config::Operation;
use backup_format::extent::Content;
use backup_format::keys::{Argon2Params, Identity, KeyFile, Role, SlotMeta, seal_to_recipients};
use backup_format::layout;
use backup_format::lineage::LineageHead;
use backup_format::seal::{BlobKind, ObjectKind};
use backup_integrity::digest::ContentHasher;
use backup_sink_local::LocalSink;
use backup_source_files::{FilesTarget, FilesTargetConfig, Ownership};
use backup_testkit::{TestClock, context};
use golden_tree::{TreeSource, describe, tree};

/// Every golden repository that is tested.
const VERSIONS: [&str; 1] = ["v1"];

/// Its folder; the newest version's is what the generator writes.
fn golden(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(version)
}

async fn open(cx: &OpContext, repo: &Path, unlock: Unlock) -> Repository {
    let sink = Arc::new(LocalSink::new(repo));
    Repository::open(cx, sink, &unlock, None, Operation::Read)
        .await
        .unwrap()
}

fn key_file(path: &Path) -> Unlock {
    Unlock::KeyFile(KeyFile::parse(&fs::read(path).unwrap()).unwrap())
}

/// The repository of a version, copied, since opening must not change what is committed.
async fn copied(cx: &OpContext, version: &str) -> (tempfile::TempDir, Repository) {
    let scratch = tempfile::tempdir().unwrap();
    let from = golden(version).join("repo");
    let status = std::process::Command::new("cp")
        .args(["-R".as_ref(), from.as_os_str(), scratch.path().as_os_str()])
        .status();
    assert!(status.unwrap().success());
    let repo = open(
        cx,
        &scratch.path().join("repo"),
        key_file(&golden(version).join("key")),
    )
    .await;
    (scratch, repo)
}

/// What a snapshot holds, in the words of `expected.txt`.
async fn listing(cx: &OpContext, view: &SnapshotView<'_>) -> String {
    let mut out = String::new();
    let mut entries = view.all();
    while let Some(entry) = entries.next(cx).await.unwrap() {
        let sha256 = read_and_hash(cx, view, &entry).await;
        assert_eq!(entry.record.sha256, sha256, "{}", entry.path);
        let record = &entry.record;
        out += &describe(&entry.path, &record.meta, record.size, sha256);
    }
    out
}

async fn read_and_hash(
    cx: &OpContext,
    view: &SnapshotView<'_>,
    entry: &ViewEntry,
) -> Option<[u8; 32]> {
    if !entry.record.meta.kind.has_content() {
        return None;
    }
    let extents = view.extents(cx, &entry.record).await.unwrap();
    let mut reader = ContentReader::new(view.repository(), extents);
    let mut hasher = ContentHasher::new();
    while let Some(bytes) = reader.next(cx).await.unwrap() {
        hasher.update(&bytes);
    }
    Some(hasher.finish().0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_golden_repository_holds_what_it_was_given() {
    for version in VERSIONS {
        let cx = context();
        let (_scratch, repo) = copied(&cx, version).await;
        let (heads, errors) = repo.heads(&cx).await.unwrap();
        assert!(errors.is_empty(), "{version}: {errors:?}");
        let mut found = String::new();
        for head in heads {
            let view = SnapshotView::open(&repo, head).unwrap();
            view.check_signatures().unwrap();
            found += &format!("snapshot {}\n", view.meta().time);
            found += &listing(&cx, &view).await;
        }
        let expected = fs::read_to_string(golden(version).join("expected.txt")).unwrap();
        assert_eq!(found, expected, "{version}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_golden_repository_verifies() {
    for version in VERSIONS {
        let cx = context();
        let (_scratch, repo) = copied(&cx, version).await;
        let done = verify(&repo, &cx, None, VerifyLevel::FullRead, Sample::All)
            .await
            .unwrap();
        assert_eq!(done.report.findings, [], "{version}");
        assert_eq!(done.snapshots, 2, "{version}");
        let ledger = verify_ledger(&repo, &cx).await.unwrap();
        assert_eq!(ledger.findings, [], "{version}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_key_opens_the_golden_repositories() {
    for version in VERSIONS {
        let (cx, folder) = (context(), golden(version));
        let passphrase = fs::read(folder.join("passphrase"))
            .unwrap()
            .trim_ascii()
            .to_vec();
        let by_passphrase = Unlock::Passphrase(passphrase.into());
        let repo = open(&cx, &folder.join("repo"), by_passphrase).await;
        assert_eq!(repo.keys().role(), Role::Full);
        let by_recovery_code = key_file(&folder.join("recovery-code"));
        let repo = open(&cx, &folder.join("repo"), by_recovery_code).await;
        assert_eq!(repo.keys().role(), Role::Full);
        let by_identity = key_file(&folder.join("age-identity"));
        let repo = open(&cx, &folder.join("repo"), by_identity).await;
        assert_eq!(repo.keys().role(), Role::Reader);
        let (heads, _) = repo.heads(&cx).await.unwrap();
        let view = SnapshotView::open(&repo, heads[1].clone()).unwrap();
        assert!(!listing(&cx, &view).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_golden_repository_is_restored() {
    for version in VERSIONS {
        let cx = context();
        let (scratch, repo) = copied(&cx, version).await;
        let (heads, _) = repo.heads(&cx).await.unwrap();
        let view = SnapshotView::open(&repo, heads[1].clone()).unwrap();
        let out = scratch.path().join("out");
        let target = FilesTarget::new(FilesTargetConfig {
            owner: Ownership::None,
            ..FilesTargetConfig::of_folder(&out)
        });
        let mut job =
            RestoreJob::whole(RestoreMode::Files, Some(out.clone()), HostId("here".into()));
        // Whoever runs the tests may not make devices.
        job.filter = Some(Arc::new(|_, entry| {
            let kind = &entry.record.meta.kind;
            !matches!(
                kind,
                EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. }
            )
        }));
        let done = restore(&view, &cx, Arc::new(target), &job).await.unwrap();
        // A file system without extended attributes is no fault of the repository.
        let findings = done.report.findings.iter();
        let others: Vec<_> = findings
            .filter(|f| f.kind != FindingKind::Metadata)
            .collect();
        assert!(others.is_empty(), "{version}: {others:?}");
        assert_restored(&cx, &view, &out).await;
    }
}

async fn assert_restored(cx: &OpContext, view: &SnapshotView<'_>, out: &Path) {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::MetadataExt as _;
    let mut entries = view.all();
    let mut linked = BTreeMap::<u64, BTreeSet<u64>>::new();
    while let Some(entry) = entries.next(cx).await.unwrap() {
        let (record, meta) = (&entry.record, &entry.record.meta);
        let mut path = out.to_owned();
        for part in entry.path.as_stored().split(|byte| *byte == 0) {
            path.push(std::ffi::OsStr::from_bytes(part));
        }
        match &meta.kind {
            EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } => continue,
            EntryKind::Symlink(target) => {
                let found = fs::read_link(&path).unwrap();
                assert_eq!(found.as_os_str().as_bytes(), target);
            }
            kind if kind.has_content() => {
                let mut hasher = ContentHasher::new();
                hasher.update(&fs::read(&path).unwrap());
                assert_eq!(Some(hasher.finish().0), record.sha256, "{}", entry.path);
            }
            _ => {}
        }
        let found = fs::symlink_metadata(&path).unwrap();
        let mtime = FileTime {
            seconds: found.mtime(),
            nanos: u32::try_from(found.mtime_nsec()).unwrap(),
        };
        assert_eq!(mtime, meta.mtime, "{}", entry.path);
        if let Some(group) = meta.link_group {
            linked.entry(group).or_default().insert(found.ino());
        }
    }
    assert!(
        linked.values().all(|inodes| inodes.len() == 1),
        "hard links: {linked:?}"
    );
}

#[test]
fn every_golden_folder_is_tested() {
    let found: BTreeSet<String> = fs::read_dir(golden(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, VERSIONS.map(str::to_owned).into());
}

/// The ends of its sessions are what writers of its version made of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_session_of_the_golden_repositories_has_its_end() {
    for version in VERSIONS {
        let cx = context();
        let (scratch, repo) = copied(&cx, version).await;
        let files = fs::read_dir(scratch.path().join("repo/sessions")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let keys = names.map(|name| ObjectKey::new(format!("sessions/{name}")).unwrap());
        let (mut begun, mut ended) = (BTreeSet::new(), BTreeSet::new());
        for key in keys {
            begun.extend(layout::session_id(&key));
            if let Some(session) = layout::session_done_id(&key) {
                let sealed = repo.sink().get(&cx, &key, ByteRange::Full).await.unwrap();
                let plain = repo.ring().open(ObjectKind::SessionDone, &sealed).unwrap();
                assert_eq!(SessionMark::decode(&plain), Ok(SessionMark { session }));
                ended.insert(session);
            }
        }
        assert_eq!(begun, ended, "{version}");
        assert_eq!(begun.len(), 2, "{version}");
    }
}

/// The golden repository is worth little if it does not show what the format can hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_golden_repository_shows_everything() {
    let cx = context();
    let (_scratch, repo) = copied(&cx, VERSIONS[VERSIONS.len() - 1]).await;
    let (heads, _) = repo.heads(&cx).await.unwrap();
    let manifest = heads[1].outer.manifest.unwrap();
    assert!(manifest.height >= 1, "a tree of more than one page");
    let view = SnapshotView::open(&repo, heads[1].clone()).unwrap();
    let (mut kinds, mut spilled) = (BTreeSet::new(), 0);
    let mut entries = view.all();
    while let Some(entry) = entries.next(&cx).await.unwrap() {
        let meta = &entry.record.meta;
        kinds.insert(
            describe(&entry.path, meta, 0, None)
                .split(' ')
                .next()
                .unwrap()
                .to_owned(),
        );
        spilled += u32::from(matches!(entry.record.content, Content::Spilled(_)));
    }
    assert_eq!(kinds.len(), 9, "{kinds:?}");
    assert!(spilled > 0, "a list of extents in a blob of its own");
    let lineage = heads[1].outer.lineage.unwrap();
    let walk = backup_engine::tree::TreeReader::new(&repo, lineage, BlobKind::Lineage);
    let (mut walk, mut layers) = (walk.walk(&[]), Vec::new());
    while let Some((_, head)) = walk.next(&cx).await.unwrap() {
        layers.push(LineageHead::decode(&head).unwrap().layers.len());
    }
    assert!(layers.contains(&2), "a base and an edit: {layers:?}");
    // A writer that has nothing but its key can go on where the last capture ended.
    let host = HostId("golden-host".into());
    let writer = repo.keys().subset(Role::Writer, Some(&host)).unwrap();
    let unlock = Unlock::KeyFile(KeyFile::Keys(Box::new(writer)));
    let tier = repo.sink().clone();
    let repo = Repository::open(&cx, tier, &unlock, None, Operation::Write).await;
    let repo = repo.unwrap();
    assert!(repo.keys().identities().is_err());
    let (heads, _) = repo.heads(&cx).await.unwrap();
    let handed = |component| backup_engine::view::handover(&repo, &heads[1], component).unwrap();
    let left = handed("main").unwrap();
    assert_eq!(left.cursor.unwrap(), &b"golden cursor"[..]);
    assert_eq!(handed("other"), None);
    let job = SnapshotJob::new("golden", host);
    let source = Arc::new(TreeSource::new(2));
    let plan = backup_engine::stage::plan::plan(&repo, &cx, source, &job);
    let plan = plan.await.unwrap();
    assert_eq!(plan.parent().unwrap().meta.id, heads[1].meta.id);
    assert_eq!(plan.capture().token, &b"golden cursor"[..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes the golden repository of the newest version anew: only before its first release"]
async fn make_the_golden_repository() {
    let folder = golden(VERSIONS[VERSIONS.len() - 1]);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("repo")).unwrap();
    let clock = TestClock::at_text("2026-11-21T04:00:00.123456789Z");
    let cx = OpContext::new(Arc::new(clock.clone()));
    let sink = Arc::new(LocalSink::new(folder.join("repo")));
    let params = Argon2Params {
        memory_kib: 1024,
        passes: 1,
        lanes: 1,
    };
    let request = InitRequest {
        location: "golden".into(),
        passphrase: Some(b"correct horse battery staple".to_vec().into()),
        key_file: true,
        label: "golden".into(),
        argon2: Some(params),
        parity: None,
        ..InitRequest::default()
    };
    let prepared = prepare(&cx, &request).unwrap();
    fs::write(
        folder.join("key"),
        prepared.key_file.as_ref().unwrap().as_bytes(),
    )
    .unwrap();
    fs::write(folder.join("passphrase"), "correct horse battery staple\n").unwrap();
    let code = code_of(&prepared.recovery_sheet);
    fs::write(folder.join("recovery-code"), code + "\n").unwrap();
    let repo = prepared.create(&cx, sink.clone(), None).await.unwrap();

    let identity = Identity::generate(0);
    fs::write(
        folder.join("age-identity"),
        format!("{}\n", &*identity.secret_text()),
    )
    .unwrap();
    let reader = repo.keys().subset(Role::Reader, None).unwrap();
    let meta = SlotMeta {
        label: "golden".into(),
        created: 0,
    };
    let slot = seal_to_recipients(&reader, &meta, &[identity.recipient()]).unwrap();
    let key = backup_format::layout::slot(&slot).unwrap();
    sink.put(&cx, &key, slot.into(), PutMode::Create)
        .await
        .unwrap();

    let mut expected = String::new();
    for state in 0..2 {
        clock.advance(jiff::SignedDuration::from_hours(24));
        repo.reload_index(&cx).await.unwrap();
        let mut job = SnapshotJob::new("golden", HostId("golden-host".into()));
        job.user = "golden-user".into();
        job.program = "backstay golden".into();
        job.tags = vec!["golden".into()];
        job.label = Some("daily".into());
        let source = Arc::new(TreeSource::new(state));
        let report = snapshot(&repo, &cx, source, &job).await.unwrap();
        assert_eq!(report.findings, []);
        expected += &format!("snapshot {}\n", report.meta.time);
        for node in tree(state) {
            let sha256 = node.meta.kind.has_content().then(|| {
                let mut hasher = ContentHasher::new();
                hasher.update(&node.content());
                hasher.finish().0
            });
            expected += &describe(&node.path, &node.meta, node.content().len() as u64, sha256);
        }
    }
    fs::write(folder.join("expected.txt"), expected).unwrap();
}

/// The recovery code of a sheet, which spreads it over lines of nothing but its letters.
fn code_of(sheet: &str) -> String {
    let is_code = |line: &&str| {
        line.contains('-')
            && line
                .bytes()
                .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase() || b == b'-')
    };
    sheet
        .lines()
        .map(str::trim)
        .filter(is_code)
        .collect::<Vec<_>>()
        .join("-")
}
