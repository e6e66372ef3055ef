//! Streams that turn out larger than their pieces were chosen for.

use backup_core::StreamProfile;
use backup_engine::snapshot::PieceLimit;

use crate::source::{Habits, ModelSource};
use crate::world::{World, noise};

/// The first backup learns the size as it goes; what it cut in the last way is found again by the
/// second, everything by the third.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_unknown_size_has_a_lineage_however_long_it_is() {
    for profile in [StreamProfile::Content, StreamProfile::Pages(8192)] {
        let mut world = World::new().await;
        world.job.pieces = PieceLimit { wanted: 256 };
        let mut source = ModelSource::default();
        source.habits = Habits {
            profile,
            tells_size: false,
            forgets: true,
            ..Habits::default()
        };
        source.now.insert("dump".into(), noise(5, 5 << 20));
        let mut added = Vec::new();
        for round in 0..4u64 {
            let report = world.save(&source, &world.keys, "cache").await;
            added.push(report.meta.stats.bytes_new);
            let at = 4_500_000 + usize::try_from(round).unwrap() * 100_000;
            let content = source.now.get_mut("dump").unwrap();
            content[at..at + 9].copy_from_slice(&noise(round, 9));
        }
        let whole = 5u64 << 20;
        assert!(added[0] > whole, "{profile:?}: {added:?}");
        assert!(added[1] < whole * 9 / 10, "{profile:?}: {added:?}");
        // A few pieces, and now and then the survivors of a chunk that is hardly used any more: less
        // than half of one, in which run the repository's random key says.
        assert!(added[2] < whole / 2, "{profile:?}: {added:?}");
        assert!(added[3] < whole / 2, "{profile:?}: {added:?}");
        world.verify().await;
    }
}
