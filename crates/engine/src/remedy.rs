//! What mends an object that is damaged or gone, by its name: one sentence for each kind, so that whoever
//! meets the damage, in whatever operation, is told the same.

use backup_core::FindingKind;

/// What to do about an object of a tier that is damaged or missing. Words such as `pack …` and `chunk …` are
/// taken for what they name.
#[must_use]
pub(crate) fn remedy(kind: FindingKind, object: &str) -> &'static str {
    match object.split(['/', ' ']).next().unwrap_or_default() {
        // Parity alone brings no pack back.
        "data" | "meta" if kind == FindingKind::Missing => {
            "`snapshot repair --from` fetches it from another copy of the repository"
        }
        "data" | "meta" | "pack" | "chunk" => {
            "`snapshot repair` makes it whole with its parity, or fetches it from another copy of the repository (--from)"
        }
        "index" => "`snapshot repair` makes it anew from the ends of the packs",
        "refs" => {
            "`snapshot repair` makes them anew from the manifest of the snapshot, with a full key"
        }
        "snap" => {
            "`snapshot repair --from` fetches it from another copy of the repository; if there is none, `snapshot forget` it by its whole id"
        }
        "parity" => "`snapshot repair` makes it anew",
        "aside" => {
            "`snapshot repair --from` puts a whole one in its place, from another copy of the repository"
        }
        "keys" => {
            "`snapshot repair` puts it back from its sidecar, or fetches it from another copy of the repository (--from); until then open it with another key (the recovery sheet, a passphrase)"
        }
        "config" => {
            "`snapshot repair --from` fetches it from another copy of the repository; docs/operations.md, \"It does not open\", says more"
        }
        "cold" => {
            "check what stands behind `cold=`, and that its disk is mounted; docs/tiers-cold.md says more"
        }
        "ledger" => "`snapshot ledger verify` tells what to do",
        "holds" => "`snapshot hold` writes it anew",
        "gc" if object.ends_with(".done") => "`snapshot prune` decides it anew",
        "gc" => "`snapshot repair` writes it anew",
        "verdicts" => "`snapshot repair` decides it anew",
        // Whether somebody was taken for dead must not be forgotten.
        "sessions" if object.ends_with(".revoked") => "`snapshot repair` writes it anew",
        "sessions" if object.ends_with(".done") => {
            "`snapshot repair` writes it anew; while its session looks open, `snapshot prune` takes both away once it has taken that for dead (--revoke-after)"
        }
        "sessions" => {
            "no snapshot needs it: `snapshot prune` takes it away once its session is over, or was taken for dead (--revoke-after)"
        }
        _ => "`snapshot verify --level full` tells what it hurts, `snapshot repair` what mends it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commands that a remedy names are there, and every folder of the format has one of its own.
    #[test]
    fn every_kind_of_object_has_a_remedy() {
        let of = |object| remedy(FindingKind::Damaged, object);
        let unknown = of("something else");
        for object in [
            "data/3f/3f",
            "meta/3f/3f",
            "pack 3f",
            "chunk 3f",
            "index/3f",
            "refs/ID",
            "snap/202611/ID",
            "parity/data/3f",
            "aside/data/3f/3f",
            "keys/3f",
            "config/0",
            "cold/00",
            "ledger/1",
            "holds/ID",
            "gc/0",
            "gc/0.done",
            "verdicts/ID",
            "sessions/ID",
            "sessions/ID.done",
            "sessions/ID.revoked",
        ] {
            assert_ne!(of(object), unknown, "{object}");
        }
        assert_ne!(of("sessions/ID"), of("sessions/ID.revoked"));
        assert_ne!(of("data/3f"), remedy(FindingKind::Missing, "data/3f"));
    }
}
