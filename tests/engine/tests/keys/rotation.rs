//! A rotation: what older keys open from then on, whom writers believe, and a process that is killed.

use std::sync::Arc;

use backup_core::{ErrorKind, Finding, ObjectKey, Retry, Sample, Severity, VerifyLevel};
use backup_engine::ledger::verify_ledger;
use backup_engine::rotate::Rotation;
use backup_engine::slots::change::{is_current, opens_all};
use backup_engine::{EngineError, Repository, SnapshotView, Unlock, verify};
use backup_format::config::Config;
use backup_format::keys::{Identity, KeyError, KeySet, Role, Slot};
use backup_format::layout;
use backup_testkit::{Crash, Fault, FaultSink, Op, Rule, When};

use crate::attack::attack;
use crate::world::{SECRET_TEXT, World, by, entries, host, secret_slot, subset};

const LATER: &[u8] = b"written when the thief was gone, ";

/// Rotates; gives what opens the new full slot.
async fn rotate(world: &World, repo: &Repository) -> Unlock {
    let rotation = Rotation::prepare(repo, &world.cx).await.unwrap();
    let (slot, unlock) = secret_slot(rotation.keys());
    let findings = rotation
        .carry_out(repo, &world.cx, by(&host()), &[&slot])
        .await;
    assert_eq!(findings.unwrap(), []);
    unlock
}

fn key_error(error: &EngineError) -> &KeyError {
    match error {
        EngineError::Key(error) => error,
        other => panic!("{other}"),
    }
}

/// What older keys cannot read is passed over, and what they can is verified; damage is told of in either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_keys_verify_what_they_read_and_say_what_they_do_not() {
    let world = World::new().await;
    let (reader, writer) = (subset(&world, Role::Reader), subset(&world, Role::Writer));
    let repo = world.open(&world.full).await.unwrap();
    let _ = rotate(&world, &repo).await;
    let before: Vec<_> = world.mem.objects().into_keys().collect();
    world.write("later", &LATER.repeat(50_000));
    let saved = world.save(&writer).await.unwrap().meta.id;
    let subject = format!("snapshot {saved}");
    let levels = [
        VerifyLevel::Metadata,
        VerifyLevel::Checksum,
        VerifyLevel::FullRead,
    ];
    for keys in [&reader, &world.full] {
        for level in levels {
            let repo = world.open(keys).await.unwrap();
            let done = verify(&repo, &world.cx, None, level, Sample::All)
                .await
                .unwrap();
            let findings = &done.report.findings;
            assert_eq!((done.snapshots, done.walked, done.closed), (2, 1, 1));
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].severity, Severity::Note);
            assert_eq!(findings[0].subject, subject);
        }
    }
    let is_new = |key: &&ObjectKey| layout::is_pack(key) && !before.contains(key);
    let objects = world.mem.objects();
    for key in objects.keys().filter(is_new) {
        world.mem.damage(key, |bytes| bytes[100] ^= 1);
    }
    let repo = world.open(&reader).await.unwrap();
    for level in levels {
        let done = verify(&repo, &world.cx, None, level, Sample::All)
            .await
            .unwrap();
        let is_error = |one: &&Finding| one.severity == Severity::Error;
        let told = done.report.findings.iter().filter(is_error).count();
        assert_eq!(told > 0, level > VerifyLevel::Metadata, "{level:?}");
        let hurt = done.report.findings.iter().filter(is_error);
        let is_told = hurt.filter(|one| one.subject == subject).count();
        assert_eq!(is_told, usize::from(told > 0), "{level:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_keys_read_what_was_there_and_nothing_that_comes() {
    let world = World::new().await;
    let (old_reader, writer) = (subset(&world, Role::Reader), subset(&world, Role::Writer));
    let repo = world.open(&world.full).await.unwrap();
    let unlock = rotate(&world, &repo).await;
    let new = world
        .open_at(Arc::new(world.mem.clone()), unlock)
        .await
        .unwrap();
    assert_eq!(
        (new.keys().role(), new.config().newest_epoch()),
        (Role::Full, 1)
    );
    // The writer was told nothing, and saves for the new generation.
    world.write("later", &LATER.repeat(50_000));
    let saved = world.save(&writer).await.unwrap().meta.id;
    let new_reader = new.keys().subset(Role::Reader, None).unwrap();
    for keys in [new.keys(), &new_reader] {
        let repo = world.open(keys).await.unwrap();
        let (heads, _) = repo.heads(&world.cx).await.unwrap();
        assert_eq!(heads.len(), 2);
        for head in &heads {
            assert!(entries(&repo, &world.cx, head).await.unwrap() > 200);
        }
        assert!(attack(&world, keys).holds(LATER));
    }
    for keys in [&old_reader, &world.full] {
        let repo = world.open(keys).await.unwrap();
        let (heads, _) = repo.heads(&world.cx).await.unwrap();
        for head in &heads {
            let seen = entries(&repo, &world.cx, head).await;
            if head.meta.id == saved {
                let error = seen.unwrap_err();
                assert!(
                    matches!(key_error(&error), KeyError::Outdated { has: 0, newest: 1 }),
                    "{error}"
                );
            } else {
                assert!(seen.unwrap() > 200);
            }
        }
        // Nor by any other way; and what was there before is as open to them as it was.
        let loot = attack(&world, keys);
        assert!(loot.closed > 0 && !loot.holds(LATER) && loot.holds(SECRET_TEXT));
    }
    // Who could not read it does not save it, and lets nobody in.
    let error = world.save(&world.full).await.unwrap_err();
    assert!(
        matches!(key_error(&error), KeyError::Outdated { .. }),
        "{error}"
    );
    let repo = world.open(&world.full).await.unwrap();
    let error = Rotation::prepare(&repo, &world.cx).await.unwrap_err();
    assert!(
        matches!(key_error(&error), KeyError::Outdated { .. }),
        "{error}"
    );
    // The slots of before say so themselves; the new one is what is left to open all.
    let slots = new.slots(&world.cx).await.unwrap();
    let slots: Vec<_> = slots.into_values().map(Result::unwrap).collect();
    let count = |test: fn(&Config, &Slot) -> bool| {
        slots.iter().filter(|slot| test(new.config(), slot)).count()
    };
    assert_eq!(
        (slots.len(), count(is_current), count(opens_all)),
        (3, 1, 1)
    );
    let check = verify_ledger(&new, &world.cx).await.unwrap();
    assert_eq!(check.findings, []);
    // And once more: the writer goes along, all generations are read by the newest.
    let unlock = rotate(&world, &new).await;
    world.write("latest", b"the third generation");
    let latest = world.save(&writer).await.unwrap().meta.id;
    let newest = world
        .open_at(Arc::new(world.mem.clone()), unlock)
        .await
        .unwrap();
    let (heads, _) = newest.heads(&world.cx).await.unwrap();
    assert_eq!(heads.len(), 3);
    for head in &heads {
        entries(&newest, &world.cx, head).await.unwrap();
    }
    let latest = heads.into_iter().find(|head| head.meta.id == latest);
    assert!(SnapshotView::open(&new, latest.unwrap()).is_err());
}

/// Puts a config there as whoever holds the index key can.
fn plant(world: &World, keys: &KeySet, config: &Config) {
    let bytes = config.seal(keys).unwrap();
    world
        .mem
        .plant(layout::config(config.number).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_the_authority_names_a_recipient() {
    let world = World::new().await;
    let verifier = subset(&world, Role::Verifier);
    let repo = world.open(&world.full).await.unwrap();
    let mine = Identity::generate(1).recipient();
    let mut forged = repo.config().next().unwrap();
    forged.recipients.push(mine.clone());
    plant(&world, &verifier, &forged);
    let refused = world.open(&subset(&world, Role::Writer)).await.unwrap_err();
    assert!(refused.is_damage(), "{refused}");
    assert!(refused.to_string().contains("did not sign"), "{refused}");
    // Nor with the signature of a true rotation, over other recipients.
    assert!(world.mem.lose(&layout::config(1).unwrap()));
    rotate(&world, &repo).await;
    let bytes = &world.mem.objects()[&layout::config(1).unwrap()];
    let truly = Config::parse(bytes)
        .unwrap()
        .verify_mac(1, &verifier)
        .unwrap();
    let mut forged = truly.clone();
    *forged.recipients.last_mut().unwrap() = mine;
    plant(&world, &verifier, &forged);
    assert!(
        world
            .open(&subset(&world, Role::Writer))
            .await
            .unwrap_err()
            .is_damage()
    );
    // Nor can the rotation be taken back behind it.
    plant(&world, &verifier, &truly);
    let mut back = truly.next().unwrap();
    back.recipients.pop();
    plant(&world, &verifier, &back);
    let refused = world.open(&subset(&world, Role::Writer)).await.unwrap_err();
    assert!(
        refused.to_string().contains("lacks recipients"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_is_killed_counts_whole_or_not_at_all() {
    let world = World::new().await;
    let (mut counted, mut kept) = (0, 0);
    for k in 1.. {
        let mut reached = false;
        for crash in [Crash::Before, Crash::After] {
            let what = format!("{crash:?} change {k}");
            let mem = world.mem.fork();
            let sink = FaultSink::new(Arc::new(mem.clone()), 7);
            let repo = world
                .open_at(Arc::new(sink.clone()), world.key_file())
                .await
                .unwrap();
            let rotation = Rotation::prepare(&repo, &world.cx).await.unwrap();
            let (slot, unlock) = secret_slot(rotation.keys());
            sink.crash_at(k, crash);
            let ended = rotation
                .carry_out(&repo, &world.cx, by(&host()), &[&slot])
                .await;
            reached |= sink.crashed();
            let there = Arc::new(mem.clone());
            let repo = world
                .open_at(there.clone(), world.key_file())
                .await
                .unwrap();
            let counts = repo.config().newest_epoch() == 1;
            if let Err(missed) = &ended {
                assert!(
                    missed.may_count || !counts,
                    "{what}: the new key is thrown away"
                );
            }
            let now = if counts {
                counted += 1;
                assert!(matches!(
                    repo.recipients(),
                    Err(EngineError::Key(KeyError::Outdated { .. }))
                ));
                world.open_at(there, unlock).await.unwrap()
            } else {
                kept += 1;
                // Its slot may be there; what it holds saves nothing.
                if let Ok(early) = world.open_at(there, unlock).await {
                    let refused = early.recipients().unwrap_err();
                    assert!(
                        matches!(key_error(&refused), KeyError::Unfinished),
                        "{refused}"
                    );
                }
                repo
            };
            assert_eq!(now.recipients().unwrap().len(), 1, "{what}");
            rotate(&world, &now).await;
        }
        if !reached {
            break;
        }
    }
    assert!(counted > 1 && kept > 1, "{counted} counted, {kept} did not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_of_which_nobody_can_see_whether_it_counts_keeps_its_keys() {
    for put in [
        Fault::Retried,
        Fault::LoseAnswer,
        Fault::Fail(ErrorKind::Other, Retry::Never),
    ] {
        let world = World::new().await;
        let sink = FaultSink::new(Arc::new(world.mem.clone()), 7);
        let repo = world
            .open_at(Arc::new(sink.clone()), world.key_file())
            .await
            .unwrap();
        let rotation = Rotation::prepare(&repo, &world.cx).await.unwrap();
        let (slot, unlock) = secret_slot(rotation.keys());
        let never = put != Fault::Fail(ErrorKind::Other, Retry::Never);
        sink.add(Rule::new(put).on(&[Op::Put]).under("config/"));
        let blind = Rule::new(Fault::Fail(ErrorKind::Other, Retry::Never));
        sink.add(
            blind
                .on(&[Op::Get, Op::List, Op::Head])
                .under("config")
                .when(When::Always),
        );
        let missed = rotation
            .carry_out(&repo, &world.cx, by(&host()), &[&slot])
            .await
            .unwrap_err();
        assert!(missed.may_count);
        let tier = Arc::new(world.mem.clone());
        let now = world.open_at(tier, unlock).await.unwrap();
        assert_eq!(now.config().newest_epoch() == 1, never);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_rotations_at_once_one_counts_and_the_other_leaves_nothing() {
    let world = World::new().await;
    let (one, two) = (
        world.open(&world.full).await.unwrap(),
        world.open(&world.full).await.unwrap(),
    );
    let first = Rotation::prepare(&one, &world.cx).await.unwrap();
    let second = Rotation::prepare(&two, &world.cx).await.unwrap();
    let (slot, unlock) = secret_slot(first.keys());
    first
        .carry_out(&one, &world.cx, by(&host()), &[&slot])
        .await
        .unwrap();
    let (late, never) = secret_slot(second.keys());
    let missed = second
        .carry_out(&two, &world.cx, by(&host()), &[&late])
        .await
        .unwrap_err();
    assert!(!missed.may_count);
    assert!(
        matches!(&missed.error, EngineError::Sink(error) if error.kind == ErrorKind::Conflict),
        "{:?}",
        missed.error
    );
    let tier = Arc::new(world.mem.clone());
    assert!(world.open_at(tier.clone(), never).await.is_err());
    let repo = world.open_at(tier, unlock).await.unwrap();
    assert_eq!(repo.config().newest_epoch(), 1);
    let check = verify_ledger(&repo, &world.cx).await.unwrap();
    assert_eq!(check.findings, []);
}
