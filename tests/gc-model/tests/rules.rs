//! Each rule taken away: the checker finds what goes wrong.
//!
//! `cargo test -p backup-gc-model --test rules -- --nocapture` prints a shortest way to it for each.

#![allow(clippy::print_stdout, reason = "the ways are what it is run for")]

use backup_gc_model::{LOST, Rules, Scope, UNMARKED, UNREAD, VOID, shortest};

const CORE: Scope = Scope::CORE;
const ALL: Rules = Rules::ALL;
const ONE_WRITER: Scope = Scope { writers: 1, ..CORE };
const TWO_COLLECTORS: Scope = Scope {
    collectors: 2,
    generations: 2,
    ..ONE_WRITER
};
const ONE_GENERATION: Scope = Scope {
    generations: 1,
    condemns_any: true,
    ..TWO_COLLECTORS
};
const REPACKER: Scope = Scope {
    writers: 0,
    repackers: 1,
    ..CORE
};
const REPACKER_AND_TWO: Scope = Scope {
    writers: 0,
    repackers: 1,
    ..TWO_COLLECTORS
};
const TIDIER: Scope = Scope {
    tidies: true,
    ..ONE_WRITER
};
const MERGER: Scope = Scope {
    writers: 0,
    mergers: 1,
    ..CORE
};
const READER: Scope = Scope {
    reader: true,
    mergers: 1,
    index_pages: 2,
    ..REPACKER
};

/// One test for each rule: who takes part, and what is broken without it.
macro_rules! needed {
    ($($rule:ident: $scope:expr, $broken:expr;)*) => {$(
        #[test]
        fn $rule() {
            let rules = Rules { $rule: false, ..ALL };
            let way = shortest($scope, rules, $broken);
            let way = way.unwrap_or_else(|| panic!("{} is not needed", stringify!($rule)));
            println!(
                "| {} | {} | {} | {} |\n{}",
                stringify!($rule),
                $broken,
                way.length,
                way.states,
                way.operations
            );
        }
    )*};
}

needed! {
    session_first: ONE_WRITER, LOST;
    condemns_first: ONE_WRITER, LOST;
    avoids_condemned: ONE_WRITER, LOST;
    avoids_dead: ONE_WRITER, LOST;
    avoids_unread: Scope { rots: true, ..ONE_WRITER }, LOST;
    condemns_unread_anew: Scope {
        rots: true, restarts: true, remembers: true, ..ONE_GENERATION
    }, LOST;
    lets_unknown_go: Scope { rots: true, ..ONE_WRITER }, LOST;
    settles_sessions: ONE_WRITER, LOST;
    remembers_by_generation: Scope {
        generations: 2, leftover: true, condemns_any: true, restarts: true, remembers: true, ..ONE_WRITER
    }, LOST;
    writer_looks_again: ONE_WRITER, VOID;
    lists_behind_revocation: ONE_WRITER, VOID;
    one_verdict: TWO_COLLECTORS, LOST;
    verdict_names_snapshots: Scope { snapshots: 2, ..ONE_WRITER }, LOST;
    marks_behind_verdicts: ONE_WRITER, LOST;
    readers_heed_verdicts: ONE_WRITER, LOST;
    keeps_verdicts: ONE_WRITER, LOST;
    keeps_revocations: TIDIER, VOID;
    tidies_judged_only: Scope { restarts: true, ..TIDIER }, LOST;
    tidies_void_only: TIDIER, VOID;
    decides_first: ONE_GENERATION, LOST;
    one_generation: Scope { leftover: true, ..ONE_GENERATION }, LOST;
    fresh_names: Scope { needs_both: true, ..ONE_WRITER }, LOST;
    done_by_writer: ONE_WRITER, LOST;
    refs_first: ONE_WRITER, UNMARKED;
    forgets_snapshot_first: ONE_WRITER, UNMARKED;
    sweeps_by_generation: Scope { sweeps: true, forgets_all: true, ..ONE_WRITER }, UNMARKED;
    repacker_has_session: REPACKER_AND_TWO, LOST;
    repacker_looks: REPACKER_AND_TWO, LOST;
    refs_add_up: REPACKER_AND_TWO, LOST;
    indexes_copy_first: REPACKER, UNREAD;
    merges_create_first: MERGER, UNREAD;
    merges_by_own_run: Scope { mergers: 2, ..MERGER }, UNREAD;
    merges_drop_dead_only: Scope { writers: 1, ..MERGER }, UNREAD;
    readers_reload: Scope { reader: true, ..REPACKER }, UNREAD;
    lists_agree: READER, UNREAD;
    readers_compare_generations: READER, UNREAD;
}
