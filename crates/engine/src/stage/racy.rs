//! Files that were written to just before they were read.
//!
//! A file system stamps changes with a clock that moves in ticks. Two changes within a tick get the
//! same time: if the first came before a file was read and the second behind it, and the size is the
//! same, the fingerprint does not show that what was stored is not the last. Such a file must be
//! read again by the next run.

use backup_core::{FileTime, Fingerprint};
use jiff::Timestamp;

const NANOS: i128 = 1_000_000_000;
/// Many times the tick of a kernel, which is at most 10 ms.
const TICK: i128 = NANOS / 10;
/// How far times without a fraction may be apart: some file systems keep whole seconds, FAT every
/// other one.
const COARSE: i128 = 2 * NANOS;

/// Whether a file in this state, read from `began` on, may have been changed since without its
/// fingerprint showing it.
pub(super) fn is_racy(state: &Fingerprint, began: Timestamp) -> bool {
    let began = began.as_nanosecond();
    // Every change of a file moves its ctime, and nobody can set that: one in the future was made by
    // a clock that goes ahead of ours. Where there is no such time it is the mtime that tells; one
    // in the future was set by somebody.
    is_recent(state.ctime, began) || (nanos(state.mtime) <= began && is_recent(state.mtime, began))
}

fn nanos(time: FileTime) -> i128 {
    i128::from(time.seconds) * NANOS + i128::from(time.nanos)
}

fn is_recent(time: FileTime, began: i128) -> bool {
    let coarse = if time.nanos == 0 { COARSE } else { 0 };
    nanos(time) + TICK + coarse > began
}

#[cfg(test)]
mod tests {
    use super::*;

    fn racy(mtime: (i64, u32), ctime: (i64, u32)) -> bool {
        let time = |(seconds, nanos)| FileTime { seconds, nanos };
        let state = Fingerprint {
            size: 1,
            mtime: time(mtime),
            ctime: time(ctime),
            inode: 1,
        };
        is_racy(&state, Timestamp::constant(1000, 500_000_000))
    }

    #[test]
    fn a_file_is_racy_unless_its_last_change_is_older_than_a_tick() {
        assert!(!racy((900, 1), (1000, 400_000_000)));
        assert!(racy((900, 1), (1000, 400_000_001)));
        assert!(racy((900, 1), (1000, 500_000_000)));
        // A clock that goes ahead of ours.
        assert!(racy((900, 1), (5000, 1)));
        // Times in whole seconds, or in every other one.
        assert!(racy((999, 0), (999, 0)));
        assert!(!racy((998, 0), (998, 0)));
        // Only the mtime moves.
        assert!(racy((1000, 450_000_000), (5, 0)));
        // Somebody set it into the future, long ago.
        assert!(!racy((5000, 1), (900, 1)));
    }
}
