//! With all rules nothing goes wrong, whoever takes part and in whatever order, and everything that should happen can.
//!
//! Each test prints what it visited: `cargo test -p backup-gc-model --test protocol -- --nocapture`, and with
//! `--ignored` the ones that take minutes. The numbers in the comments were measured on one core of an AMD EPYC.

#![allow(clippy::print_stdout, reason = "the numbers are what it is run for")]

use std::time::Instant;

use backup_gc_model::{Rules, Scope, check};

const CORE: Scope = Scope::CORE;
const ONE_WRITER: Scope = Scope { writers: 1, ..CORE };
const TWO_COLLECTORS: Scope = Scope {
    collectors: 2,
    generations: 2,
    ..ONE_WRITER
};
const READER: Scope = Scope {
    writers: 0,
    repackers: 1,
    mergers: 1,
    reader: true,
    index_pages: 2,
    ..CORE
};

fn assert_safe(name: &str, scope: Scope) {
    let started = Instant::now();
    let found = check(scope, Rules::ALL);
    let seconds = started.elapsed().as_secs_f32();
    println!(
        "| {name} | {} | {} | {seconds:.1} s |",
        found.states, found.depth
    );
    for (property, way) in &found.broken {
        println!("{property}:\n{way}");
    }
    assert!(found.broken.is_empty(), "{name}");
    assert_eq!(found.unreached, [] as [&str; 0], "{name}");
}

#[test]
fn two_writers_and_a_collector() {
    assert_safe("two writers, a collector", CORE);
}

/// What is condemned need not be garbage: no listing before `gc/<n>` is relied on.
#[test]
fn whatever_is_condemned() {
    let scope = Scope {
        condemns_any: true,
        ..CORE
    };
    assert_safe("the same, anything is condemned", scope);
}

/// Since what is dead stays known, it does not matter how old the index is that a writer believes.
#[test]
fn writers_with_a_stale_index() {
    let scope = Scope {
        stale_index: true,
        ..CORE
    };
    assert_safe("the same, writers know the index from before", scope);
}

#[test]
fn a_collector_that_is_killed_goes_on() {
    let scope = Scope {
        restarts: true,
        ..CORE
    };
    assert_safe("the same, the collector is killed at any step", scope);
}

/// It waits for those alone that it saw when it looked for the first time.
#[test]
fn a_collector_that_remembers_whom_it_waits_for() {
    let scope = Scope {
        restarts: true,
        remembers: true,
        ..CORE
    };
    assert_safe("the same, and remembers whom it waits for", scope);
}

#[test]
fn two_collectors_that_remember() {
    let scope = Scope {
        restarts: true,
        remembers: true,
        ..TWO_COLLECTORS
    };
    assert_safe(
        "a writer, two collectors that are killed and remember, two generations",
        scope,
    );
}

/// 5,524,993 states, 19 seconds.
#[test]
#[ignore = "takes half a minute"]
fn everything_is_forgotten() {
    let scope = Scope {
        restarts: true,
        forgets_all: true,
        ..CORE
    };
    assert_safe("the same, every snapshot may be forgotten", scope);
}

#[test]
fn sessions_of_two_snapshots() {
    let scope = Scope {
        snapshots: 2,
        restarts: true,
        ..ONE_WRITER
    };
    assert_safe(
        "a writer of two snapshots, a collector that is killed",
        scope,
    );
}

#[test]
fn two_collectors() {
    let scope = Scope {
        restarts: true,
        ..TWO_COLLECTORS
    };
    assert_safe("a writer, two collectors that are killed", scope);
}

/// Both go on with the same generation, and neither knows whether the other is dead.
#[test]
fn two_collectors_of_one_generation() {
    let scope = Scope {
        generations: 1,
        condemns_any: true,
        leftover: true,
        forgets_all: true,
        ..TWO_COLLECTORS
    };
    assert_safe(
        "a writer, two collectors of one generation, anything is condemned",
        scope,
    );
}

/// 9,873,049 states, 29 seconds.
#[test]
#[ignore = "takes half a minute"]
fn two_writers_and_two_collectors() {
    let scope = Scope {
        writers: 2,
        generations: 1,
        ..TWO_COLLECTORS
    };
    assert_safe("two writers, two collectors of one generation", scope);
}

#[test]
fn repacking() {
    let scope = Scope {
        repackers: 1,
        ..ONE_WRITER
    };
    assert_safe("a writer, a repacker, a collector", scope);
}

/// The writer needs a chunk that is not copied, since no snapshot used it.
#[test]
fn repacking_under_a_writer_of_what_is_left_out() {
    let scope = Scope {
        repackers: 1,
        needs_both: true,
        ..ONE_WRITER
    };
    assert_safe("the same, the writer needs what is not copied", scope);
}

#[test]
fn repacking_and_two_collectors() {
    let scope = Scope {
        writers: 0,
        repackers: 1,
        ..TWO_COLLECTORS
    };
    assert_safe("a repacker, two collectors", scope);
}

/// 7,389,367 states, 22 seconds.
#[test]
#[ignore = "takes half a minute"]
fn repacking_under_a_writer_and_two_collectors() {
    let scope = Scope {
        repackers: 1,
        generations: 1,
        ..TWO_COLLECTORS
    };
    assert_safe(
        "a writer, a repacker, two collectors of one generation",
        scope,
    );
}

/// 52,751,398 states, 3 minutes and 4.7 GiB of memory.
#[test]
#[ignore = "takes minutes"]
fn two_repackers_and_two_collectors() {
    let scope = Scope {
        writers: 0,
        repackers: 2,
        ..TWO_COLLECTORS
    };
    assert_safe("two repackers, two collectors", scope);
}

#[test]
fn sweeping_refs() {
    let scope = Scope {
        repackers: 1,
        sweeps: true,
        forgets_all: true,
        ..ONE_WRITER
    };
    assert_safe(
        "a writer, a repacker, a collector that sweeps refs, all is forgotten",
        scope,
    );
}

#[test]
fn tidying() {
    let scope = Scope {
        tidies: true,
        restarts: true,
        forgets_all: true,
        snapshots: 2,
        ..ONE_WRITER
    };
    assert_safe(
        "a writer of two snapshots, a collector that is killed, a tidier, all is forgotten",
        scope,
    );
}

/// 4,842,228 states, 43 seconds while others were at work.
#[test]
#[ignore = "takes half a minute"]
fn tidying_under_two_writers() {
    let scope = Scope {
        tidies: true,
        ..CORE
    };
    assert_safe("two writers, a collector, a tidier", scope);
}

#[test]
fn tidying_under_two_collectors() {
    let scope = Scope {
        tidies: true,
        ..TWO_COLLECTORS
    };
    assert_safe("a writer, two collectors, a tidier", scope);
}

/// 6,713,394 states, a minute while others were at work.
#[test]
#[ignore = "takes a minute"]
fn tidying_under_a_repacker() {
    let scope = Scope {
        repackers: 1,
        sweeps: true,
        tidies: true,
        ..ONE_WRITER
    };
    assert_safe(
        "a writer, a repacker, a collector that sweeps refs, a tidier",
        scope,
    );
}

/// What condemns and what decides cannot be read any more, at any time, and one collector may not know of the other.
#[test]
fn what_rots() {
    let scope = Scope {
        rots: true,
        ..TWO_COLLECTORS
    };
    assert_safe("a writer, two collectors, two generations that rot", scope);
}

#[test]
fn what_rots_under_a_collector_that_is_killed() {
    let scope = Scope {
        rots: true,
        generations: 2,
        restarts: true,
        remembers: true,
        ..ONE_WRITER
    };
    assert_safe(
        "a writer, a collector that is killed and remembers, two generations that rot",
        scope,
    );
}

#[test]
fn merging_the_index() {
    let scope = Scope {
        mergers: 2,
        index_pages: 2,
        ..ONE_WRITER
    };
    assert_safe(
        "a writer, a collector, two mergers, lists of two pages",
        scope,
    );
}

#[test]
fn readers_with_a_stale_index() {
    assert_safe(
        "a reader, a repacker, a collector, a merger, lists of two pages",
        READER,
    );
}

/// 18,692,365 states, 57 seconds.
#[test]
#[ignore = "takes a minute"]
fn readers_with_a_stale_index_and_two_mergers() {
    let scope = Scope {
        mergers: 2,
        ..READER
    };
    assert_safe("the same, two mergers", scope);
}
