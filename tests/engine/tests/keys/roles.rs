//! Roles are nothing but keys that are not there: with everything that a key file holds, and heeding
//! nothing, nobody gets more than the page of the format says.

use backup_core::{HostId, Sample, Severity, VerifyLevel};
use backup_engine::prune::{PruneJob, plan, prune};
use backup_engine::{EngineError, ForgetPlan, SnapshotView, forget, verify};
use backup_format::keys::{KeyError, Role};

use crate::attack::attack;
use crate::world::{SECRET_NAME, SECRET_TEXT, World, entries, host, subset};

/// With the keys that read, the same attack finds everything: so it is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_read_opens_everything() {
    let world = World::new().await;
    for role in [Role::Full, Role::Reader] {
        let loot = attack(&world, &subset(&world, role));
        assert_eq!(loot.closed, 0, "{role}");
        assert!(!loot.data.is_empty() && !loot.pages.is_empty(), "{role}");
        assert!(loot.holds(SECRET_NAME.as_bytes()), "{role}");
        assert!(loot.holds(SECRET_TEXT), "{role}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_opens_no_content_page_or_name_and_still_finds_what_is_stored() {
    let world = World::new().await;
    let web2 = HostId("web2".into());
    for name in [host(), web2] {
        let writer = world.full.subset(Role::Writer, Some(&name)).unwrap();
        let before = attack(&world, &writer);
        assert_eq!((before.data.len(), before.pages.len()), (0, 0), "{name}");
        assert!(before.closed > 3, "{name}: {}", before.closed);
        assert!(!before.other.is_empty(), "it reads the index");
        assert!(!before.holds(SECRET_NAME.as_bytes()), "{name}");
        assert!(!before.holds(SECRET_TEXT), "{name}");
        // It has no local memory of anything, and stores nothing that is there.
        let saved = world.save(&writer).await.unwrap();
        let stats = saved.meta.stats;
        assert!(stats.bytes > 1_000_000, "{stats:?}");
        assert!(stats.bytes_new < stats.bytes / 100, "{name}: {stats:?}");
        // Not even its own.
        let after = attack(&world, &writer);
        assert_eq!((after.data.len(), after.pages.len()), (0, 0), "{name}");
        let repo = world.open(&writer).await.unwrap();
        let (heads, _) = repo.heads(&world.cx).await.unwrap();
        for head in &heads {
            let refused = SnapshotView::open(&repo, head.clone()).unwrap_err();
            assert!(
                matches!(&refused, EngineError::Key(KeyError::Missing { .. })),
                "{refused}"
            );
        }
        // What it saved is whole for who reads.
        let repo = world.open(&world.full).await.unwrap();
        let (heads, _) = repo.heads(&world.cx).await.unwrap();
        let head = heads.iter().find(|head| head.meta.id == saved.meta.id);
        let count = entries(&repo, &world.cx, head.unwrap()).await.unwrap();
        assert!(count > 200, "{count}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_maintenance_key_opens_nothing_and_collects_what_is_forgotten() {
    let world = World::new().await;
    let keys = subset(&world, Role::Maintenance);
    let loot = attack(&world, &keys);
    assert_eq!((loot.data.len(), loot.pages.len()), (0, 0));
    assert!(loot.closed > 3 && !loot.holds(SECRET_NAME.as_bytes()) && !loot.holds(SECRET_TEXT));
    assert!(
        keys.id_key().is_err(),
        "it cannot ask for content by its id"
    );
    world.write("new", &b"something else".repeat(9000));
    world.save(&world.full).await.unwrap();
    let repo = world.open(&keys).await.unwrap();
    let (heads, _) = repo.heads(&world.cx).await.unwrap();
    let oldest = ForgetPlan::by_id(vec![heads[0].meta.clone()]);
    let done = forget(&repo, &world.cx, &oldest, &host(), "me").await;
    assert_eq!(done.unwrap().removed, 1);
    let job = PruneJob::new(host());
    let plan = plan(&repo, &world.cx, &job).await.unwrap();
    let report = prune(&repo, &world.cx, plan, &job).await.unwrap();
    assert!(report.waits_for.is_empty(), "{report:?}");
    // What is left is whole.
    let repo = world.open(&world.full).await.unwrap();
    let verified = verify(&repo, &world.cx, None, VerifyLevel::FullRead, Sample::All).await;
    let findings = verified.unwrap().report.findings;
    assert!(
        findings
            .iter()
            .all(|finding| finding.severity == Severity::Note),
        "{findings:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verifier_sees_damage_and_no_content() {
    let world = World::new().await;
    let keys = subset(&world, Role::Verifier);
    let loot = attack(&world, &keys);
    assert_eq!((loot.data.len(), loot.pages.len()), (0, 0));
    assert!(!loot.holds(SECRET_NAME.as_bytes()) && !loot.holds(SECRET_TEXT));
    let look = async |level| {
        let repo = world.open(&keys).await.unwrap();
        let done = verify(&repo, &world.cx, None, level, Sample::All)
            .await
            .unwrap();
        assert!(!done.read_manifests);
        let serious = |finding: &&_| {
            let finding: &&backup_core::Finding = finding;
            finding.severity > Severity::Note
        };
        done.report.findings.iter().filter(serious).count()
    };
    for level in [VerifyLevel::Metadata, VerifyLevel::Checksum] {
        assert_eq!(look(level).await, 0);
    }
    let mut packs = world.mem.objects().into_keys();
    let pack = packs.find(|key| key.as_str().starts_with("data/")).unwrap();
    world.mem.damage(&pack, |bytes| bytes[100] ^= 1);
    assert!(look(VerifyLevel::Checksum).await > 0);
}
