//! A passphrase that is changed, with the process killed before and behind every change of the tier:
//! one of the two opens, always.

use std::sync::Arc;

use backup_core::ErrorKind;
use backup_engine::ledger::verify_ledger;
use backup_engine::slots::change::{NewSlot, Opener, add, replace};
use backup_engine::slots::{id_of, told};
use backup_engine::{EngineError, Unlock};
use backup_format::keys::{Identity, Role};
use backup_testkit::{Crash, Fault, FaultSink, MemSink, Op, Rule, When};
use zeroize::Zeroizing;

use crate::world::{CHEAP, World, by, host, meta, subset};

fn words(text: &str) -> Unlock {
    Unlock::Passphrase(Zeroizing::new(text.into()))
}

fn slot_for(world: &World, text: &str) -> NewSlot {
    let opener = Opener::Passphrase(Zeroizing::new(text.into()), CHEAP);
    NewSlot::seal(&world.full, &meta(), opener).unwrap()
}

/// Adds the passphrase that is to be changed.
async fn with_old(world: &World) -> NewSlot {
    let old = slot_for(world, "old");
    let repo = world.open(&world.full).await.unwrap();
    add(&repo, &world.cx, by(&host()), &old).await.unwrap();
    old
}

async fn opens(world: &World, mem: &MemSink, text: &str) -> bool {
    match world.open_at(Arc::new(mem.clone()), words(text)).await {
        Ok(repo) => {
            assert_eq!(repo.keys().role(), Role::Full);
            true
        }
        Err(EngineError::WrongKey { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passphrase_changed_by_a_process_that_is_killed_leaves_one_that_opens() {
    let world = World::new().await;
    let old = with_old(&world).await;
    let (mut both, mut ends) = (0, Vec::new());
    for k in 1.. {
        let mut reached = false;
        for crash in [Crash::Before, Crash::After] {
            let mem = world.mem.fork();
            let sink = FaultSink::new(Arc::new(mem.clone()), 7);
            let repo = world
                .open_at(Arc::new(sink.clone()), words("old"))
                .await
                .unwrap();
            assert_eq!(repo.opened_by(), Some(old.key()));
            sink.crash_at(k, crash);
            let new = slot_for(&world, "new");
            let ended = replace(&repo, &world.cx, by(&host()), old.key(), &new).await;
            reached |= sink.crashed();
            let open = (
                opens(&world, &mem, "old").await,
                opens(&world, &mem, "new").await,
            );
            assert!(open.0 || open.1, "{crash:?} change {k}: nothing opens");
            if ended.is_ok() {
                assert_eq!(open, (false, true), "{crash:?} change {k}");
            }
            both += u32::from(open == (true, true));
            ends.push(open);
            // Run again with what opens, it comes to its end.
            let sink = Arc::new(mem.clone());
            let with = if open.1 { "new" } else { "old" };
            let repo = world.open_at(sink, words(with)).await.unwrap();
            let newest = slot_for(&world, "newest");
            let own = repo.opened_by().unwrap().clone();
            replace(&repo, &world.cx, by(&host()), &own, &newest)
                .await
                .unwrap();
            assert!(opens(&world, &mem, "newest").await);
        }
        if !reached {
            break;
        }
    }
    assert!(ends.contains(&(true, false)) && ends.contains(&(false, true)) && both > 0);
    assert!(ends.len() >= 8, "{ends:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_the_tier_gives_back_changed_is_not_taken_for_one_that_opens() {
    let world = World::new().await;
    let old = with_old(&world).await;
    let mem = world.mem.fork();
    let sink = FaultSink::new(Arc::new(mem.clone()), 7);
    let repo = world
        .open_at(Arc::new(sink.clone()), words("old"))
        .await
        .unwrap();
    sink.add(
        Rule::new(Fault::FlipBit)
            .on(&[Op::Get])
            .under("keys/")
            .when(When::Always),
    );
    let new = slot_for(&world, "new");
    let refused = replace(&repo, &world.cx, by(&host()), old.key(), &new).await;
    assert!(refused.unwrap_err().is_damage());
    assert!(opens(&world, &mem, "old").await);
    assert!(
        !opens(&world, &mem, "new").await,
        "it would look like a way in"
    );
    let repo = world.open_at(Arc::new(mem), words("old")).await.unwrap();
    let check = verify_ledger(&repo, &world.cx).await.unwrap();
    assert_eq!(check.findings, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_cannot_be_put_there_is_missed_by_nobody() {
    let world = World::new().await;
    let old = with_old(&world).await;
    let mem = world.mem.fork();
    let sink = FaultSink::new(Arc::new(mem.clone()), 7);
    let repo = world
        .open_at(Arc::new(sink.clone()), words("old"))
        .await
        .unwrap();
    let full = Fault::Fail(ErrorKind::NoSpace, backup_core::Retry::Never);
    sink.add(Rule::new(full).on(&[Op::Put]).under("keys/"));
    let new = slot_for(&world, "new");
    replace(&repo, &world.cx, by(&host()), old.key(), &new)
        .await
        .unwrap_err();
    assert!(opens(&world, &mem, "old").await);
    let check = verify_ledger(&repo, &world.cx).await.unwrap();
    assert_eq!(check.findings, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_tells_whom_a_slot_lets_in() {
    let world = World::new().await;
    let repo = world.open(&world.full).await.unwrap();
    let recipient = Identity::generate(0).recipient();
    let text = recipient.to_string();
    for role in [Role::Reader, Role::Writer] {
        let keys = subset(&world, role);
        let opener = Opener::Recipients(vec![recipient.clone()]);
        let slot = NewSlot::seal(&keys, &meta(), opener).unwrap();
        add(&repo, &world.cx, by(&host()), &slot).await.unwrap();
        let told = told(&repo, &world.cx).await.unwrap();
        let wanted = match role {
            Role::Writer => format!("writer key to {text} of web1"),
            _ => format!("reader key to {text}"),
        };
        assert_eq!(told.get(id_of(slot.key())), Some(&wanted));
    }
    // Opened with keys that cannot sign, nothing is changed.
    let repo = world.open(&subset(&world, Role::Reader)).await.unwrap();
    let before = world.mem.objects();
    let slot = slot_for(&world, "x");
    let refused = add(&repo, &world.cx, by(&host()), &slot).await.unwrap_err();
    assert!(matches!(refused, EngineError::Key(_)), "{refused}");
    assert_eq!(world.mem.objects(), before);
}
