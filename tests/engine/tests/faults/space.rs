//! A tier that is full: at every write, and at some sizes of what is left.

use backup_core::{ErrorKind, Retry};
use backup_engine::EngineError;
use backup_testkit::{Fault, Op, Rule, When};

use crate::world::{Memory, World};

fn is_no_space(error: &EngineError) -> bool {
    matches!(error, EngineError::Sink(error) if error.kind == ErrorKind::NoSpace)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_is_full_at_any_write_is_one_error_and_loses_nothing() {
    let world = World::with_snapshot().await;
    let case = world.case(Memory::Kept);
    let sink = case.faulty();
    world.try_to_save(&case, &sink).await.unwrap();
    for k in 1..=sink.mutations() {
        for when in [When::Nth(k), When::From(k)] {
            let what = format!("{when:?}");
            let case = world.case(Memory::Kept);
            let full = Rule::new(Fault::Fail(ErrorKind::NoSpace, Retry::Never));
            let sink = case.faulty().with(full.on(&[Op::Put]).when(when));
            let ended = world.try_to_save(&case, &sink).await;
            let there = world.check(&case, &what).await;
            match ended {
                Err(error) => {
                    assert!(is_no_space(&error), "{what}: {error:?}");
                    assert_eq!(there, 1, "{what}: it failed, and made a snapshot");
                }
                Ok(report) => {
                    assert_eq!(there, 2, "{what}");
                    let told = !report.findings.is_empty();
                    assert!(
                        told || sink.injected().is_empty(),
                        "{what}: nobody was told"
                    );
                }
            }
            world.make_good(&case, &what).await;
            world.check_stored_once(&case, &what).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_with_little_space_left_is_one_error_and_loses_nothing() {
    let world = World::with_snapshot().await;
    for left in [0, 300, 2_000, 20_000, 100_000, 600_000, 1_200_000] {
        let what = format!("{left} bytes left");
        let case = world.case(Memory::Kept);
        let sink = case.faulty();
        sink.set_space(Some(left));
        let error = world.try_to_save(&case, &sink).await.unwrap_err();
        assert!(is_no_space(&error), "{what}: {error:?}");
        assert_eq!(world.check(&case, &what).await, 1);
        world.make_good(&case, &what).await;
    }
}
