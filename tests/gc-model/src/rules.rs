//! What the safety rests on, each rule a switch.

/// The rules of the protocol. With all of them nothing is ever lost; for each there is a test that shows
/// what goes wrong without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A writer creates its session before it lists `gc/`.
    pub session_first: bool,
    /// A collector writes what it condemns before it lists the sessions.
    pub condemns_first: bool,
    /// A writer names no pack that an undecided generation condemns.
    pub avoids_condemned: bool,
    /// A writer names no pack that a decided generation calls dead, whatever the index says.
    pub avoids_dead: bool,
    /// A writer names no pack that a generation condemns whose decision cannot be read.
    pub avoids_unread: bool,
    /// What a generation condemns whose decision cannot be read is condemned once more, under a new number, and the decision
    /// on that takes its place. It is not decided a second time itself.
    pub condemns_unread_anew: bool,
    /// Of a generation of which nobody knows what it condemns it is decided that nothing is dead. It is not taken away.
    pub lets_unknown_go: bool,
    /// A collector waits until each session that it listed is done or judged.
    pub settles_sessions: bool,
    /// What a collector remembers of sessions that were open behind `gc/<n>`, for when it is killed and goes on, holds
    /// for that generation alone.
    pub remembers_by_generation: bool,
    /// A writer looks for a revocation behind its snapshot, before it tells of success.
    pub writer_looks_again: bool,
    /// Snapshots are listed for a verdict behind the revocation.
    pub lists_behind_revocation: bool,
    /// A verdict is created once and never changed.
    pub one_verdict: bool,
    /// A verdict names snapshots: it does not speak for what the session makes later.
    pub verdict_names_snapshots: bool,
    /// The snapshots that mark are listed behind the verdicts.
    pub marks_behind_verdicts: bool,
    /// Readers count no snapshot that the verdict on its session leaves out.
    pub readers_heed_verdicts: bool,
    /// Revocations and verdicts stay.
    pub keeps_verdicts: bool,
    /// `.revoked` stays behind its verdict, although the session that it is about goes.
    pub keeps_revocations: bool,
    /// A session that was taken for dead goes only once its verdict is there.
    pub tidies_judged_only: bool,
    /// Of the snapshots of such a session go only those that the verdict leaves out.
    pub tidies_void_only: bool,
    /// What is dead is decided, by an object that is created once, before the first pack is deleted.
    pub decides_first: bool,
    /// `gc/<n>` is created once.
    pub one_generation: bool,
    /// A pack's name is never used again.
    pub fresh_names: bool,
    /// `.done` of a session is created by its writer alone.
    pub done_by_writer: bool,
    /// Refs are created before the snapshot.
    pub refs_first: bool,
    /// Forgetting deletes the snapshot before its refs.
    pub forgets_snapshot_first: bool,
    /// Refs without a snapshot are deleted only if they were there before the generation was, and the
    /// snapshot still is not behind the verdicts.
    pub sweeps_by_generation: bool,
    /// A repacker is a session like a writer.
    pub repacker_has_session: bool,
    /// A repacker looks for a revocation behind its new refs, before it deletes the old ones.
    pub repacker_looks: bool,
    /// All refs of a snapshot mark, not the newest alone.
    pub refs_add_up: bool,
    /// The index names a copy before refs do.
    pub indexes_copy_first: bool,
    /// A merged run is created before those in it are deleted.
    pub merges_create_first: bool,
    /// A run is deleted only by who created, behind listing it, one of its own with all of it.
    pub merges_by_own_run: bool,
    /// A merge leaves out what a decided generation calls dead, and nothing else.
    pub merges_drop_dead_only: bool,
    /// A reader that does not find a chunk reads the index again.
    pub readers_reload: bool,
    /// A reader lists the index until two lists agree.
    pub lists_agree: bool,
    /// A reader gives up only if nothing was decided since it began to read the index again.
    pub readers_compare_generations: bool,
}

impl Rules {
    /// The protocol.
    pub const ALL: Self = Self {
        session_first: true,
        condemns_first: true,
        avoids_condemned: true,
        avoids_dead: true,
        avoids_unread: true,
        condemns_unread_anew: true,
        lets_unknown_go: true,
        settles_sessions: true,
        remembers_by_generation: true,
        writer_looks_again: true,
        lists_behind_revocation: true,
        one_verdict: true,
        verdict_names_snapshots: true,
        marks_behind_verdicts: true,
        readers_heed_verdicts: true,
        keeps_verdicts: true,
        keeps_revocations: true,
        tidies_judged_only: true,
        tidies_void_only: true,
        decides_first: true,
        one_generation: true,
        fresh_names: true,
        done_by_writer: true,
        refs_first: true,
        forgets_snapshot_first: true,
        sweeps_by_generation: true,
        repacker_has_session: true,
        repacker_looks: true,
        refs_add_up: true,
        indexes_copy_first: true,
        merges_create_first: true,
        merges_by_own_run: true,
        merges_drop_dead_only: true,
        readers_reload: true,
        lists_agree: true,
        readers_compare_generations: true,
    };
}
