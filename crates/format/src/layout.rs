//! The names of objects on a tier.
//!
//! ```text
//! config/<n>                create-only; what the repository is
//! keys/<sha256>             key slots
//! sessions/<ulid>           a writing session and its wrapped data key
//! sessions/<ulid>.done      the session ended
//! sessions/<ulid>.revoked   the session must ask for a verdict
//! verdicts/<ulid>           which snapshots of a session count
//! gc/<n>                    a generation of the collection: packs that it condemns
//! gc/<n>.done               which of them are dead
//! data/<aa>/<sha256>        packs of content
//! meta/<aa>/<sha256>        packs of pages and lineage
//! index/<sha256>            index runs
//! refs/<ulid>               what a snapshot uses
//! refs/<ulid>.<n>           the same, after some of it was copied into other packs
//! snap/<yyyymm>/<ulid>      snapshots: the only commit point
//! holds/<ulid>              a snapshot that may not be forgotten
//! ledger/<n>                records of the ledger, n of 12 digits
//! parity/<name>             what makes a pack whole again if a part of it was destroyed, and a config, key slot or
//!                           snapshot even if all of it was
//! cold/<id>                 at the place of packs of content, where that is another: whose place it is
//! aside/<name>              a damaged one of these while it is being replaced, or a pack that nothing mends
//! ```
//!
//! `<aa>` are the first two digits of the name. What no snapshot names does not exist.

use backup_core::sink::KeyError;
use backup_core::{ObjectKey, PackId, SessionId, SnapshotId};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

const PARITY: &str = "parity/";
const ASIDE: &str = "aside/";

/// Hexadecimal digits of bytes, in lower case.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

fn key(name: String) -> Result<ObjectKey, KeyError> {
    ObjectKey::new(name)
}

/// `config/<n>`.
///
/// # Errors
/// Never for these names; the type of key checks all names alike. So with the functions below.
pub fn config(number: u32) -> Result<ObjectKey, KeyError> {
    key(format!("config/{number}"))
}

/// `keys/<sha256 of the slot's bytes>`.
///
/// # Errors
/// As [`config`].
pub fn slot(bytes: &[u8]) -> Result<ObjectKey, KeyError> {
    key(format!("keys/{}", hex(&Sha256::digest(bytes))))
}

/// `sessions/<ulid>`.
///
/// # Errors
/// As [`config`].
pub fn session(id: SessionId) -> Result<ObjectKey, KeyError> {
    key(format!("sessions/{id}"))
}

/// `sessions/<ulid>.done`.
///
/// # Errors
/// As [`config`].
pub fn session_done(id: SessionId) -> Result<ObjectKey, KeyError> {
    key(format!("sessions/{id}.done"))
}

/// `sessions/<ulid>.revoked`.
///
/// # Errors
/// As [`config`].
pub fn session_revoked(id: SessionId) -> Result<ObjectKey, KeyError> {
    key(format!("sessions/{id}.revoked"))
}

/// `verdicts/<ulid>`.
///
/// # Errors
/// As [`config`].
pub fn verdict(id: SessionId) -> Result<ObjectKey, KeyError> {
    key(format!("verdicts/{id}"))
}

/// `gc/<n>`.
///
/// # Errors
/// As [`config`].
pub fn condemned(generation: u32) -> Result<ObjectKey, KeyError> {
    key(format!("gc/{generation}"))
}

/// `gc/<n>.done`.
///
/// # Errors
/// As [`config`].
pub fn dead(generation: u32) -> Result<ObjectKey, KeyError> {
    key(format!("gc/{generation}.done"))
}

/// `data/<aa>/<sha256>` or `meta/<aa>/<sha256>`.
///
/// # Errors
/// As [`config`].
pub fn pack(id: PackId, is_meta: bool) -> Result<ObjectKey, KeyError> {
    let folder = if is_meta { "meta" } else { "data" };
    key(format!("{folder}/{:02x}/{id}", id.0[0]))
}

/// `parity/<name of the pack, or of the small object>`.
///
/// # Errors
/// As [`config`].
pub fn parity(pack: &ObjectKey) -> Result<ObjectKey, KeyError> {
    key(format!("{PARITY}{pack}"))
}

/// `aside/<name of the pack, or of the small object>`.
///
/// # Errors
/// As [`config`].
pub fn aside(pack: &ObjectKey) -> Result<ObjectKey, KeyError> {
    key(format!("{ASIDE}{pack}"))
}

/// `index/<sha256 of the run's sealed bytes>`.
///
/// # Errors
/// As [`config`].
pub fn index(bytes: &[u8]) -> Result<ObjectKey, KeyError> {
    key(format!("index/{}", hex(&Sha256::digest(bytes))))
}

/// `refs/<ulid>`.
///
/// # Errors
/// As [`config`].
pub fn refs(id: SnapshotId) -> Result<ObjectKey, KeyError> {
    key(format!("refs/{id}"))
}

/// `refs/<ulid>.<n>`.
///
/// # Errors
/// As [`config`].
pub fn moved_refs(id: SnapshotId, number: u32) -> Result<ObjectKey, KeyError> {
    key(format!("refs/{id}.{number}"))
}

/// `snap/<yyyymm>/<ulid>`, the month (UTC) being that of the id.
///
/// # Errors
/// As [`config`].
pub fn snapshot(id: SnapshotId) -> Result<ObjectKey, KeyError> {
    let millis = i64::try_from(id.millis()).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH);
    let date = time.to_zoned(TimeZone::UTC);
    key(format!("snap/{:04}{:02}/{id}", date.year(), date.month()))
}

/// `holds/<ulid>`.
///
/// # Errors
/// As [`config`].
pub fn hold(id: SnapshotId) -> Result<ObjectKey, KeyError> {
    key(format!("holds/{id}"))
}

/// `ledger/<n>`, 12 digits.
///
/// # Errors
/// As [`config`].
pub fn ledger(number: u64) -> Result<ObjectKey, KeyError> {
    key(format!("ledger/{number:012}"))
}

/// `cold/<id>`, 32 hexadecimal digits: what tells the place of packs of content from others.
///
/// # Errors
/// As [`config`].
pub fn cold(place: [u8; 16]) -> Result<ObjectKey, KeyError> {
    key(format!("cold/{}", hex(&place)))
}

/// The number of the record that a name says; nothing for names that [`ledger`] does not give. So
/// with the functions below: what is not named as the format says is not an object of the
/// repository.
#[must_use]
pub fn ledger_number(name: &ObjectKey) -> Option<u64> {
    let digits = name.as_str().strip_prefix("ledger/")?;
    let number = digits.parse().ok().filter(|_| digits.len() == 12)?;
    (ledger(number).ok().as_ref() == Some(name)).then_some(number)
}

/// The number of a [`config`].
#[must_use]
pub fn config_number(name: &ObjectKey) -> Option<u32> {
    let number = name.as_str().strip_prefix("config/")?.parse().ok()?;
    (config(number).ok().as_ref() == Some(name)).then_some(number)
}

/// The number of a place of packs that a [`cold`] is of.
#[must_use]
pub fn cold_place(name: &ObjectKey) -> Option<[u8; 16]> {
    let digits = name.as_str().strip_prefix("cold/")?;
    let number = u128::from_str_radix(digits, 16).ok()?;
    let place = number.to_be_bytes();
    (cold(place).ok().as_ref() == Some(name)).then_some(place)
}

/// The id of a [`session`].
#[must_use]
pub fn session_id(name: &ObjectKey) -> Option<SessionId> {
    let id = name.as_str().strip_prefix("sessions/")?.parse().ok()?;
    (session(id).ok().as_ref() == Some(name)).then_some(id)
}

/// The session that a [`session_done`] tells of.
#[must_use]
pub fn session_done_id(name: &ObjectKey) -> Option<SessionId> {
    marked(name, ".done", session_done)
}

/// The session that a [`session_revoked`] tells of.
#[must_use]
pub fn session_revoked_id(name: &ObjectKey) -> Option<SessionId> {
    marked(name, ".revoked", session_revoked)
}

fn marked(
    name: &ObjectKey,
    word: &str,
    of: fn(SessionId) -> Result<ObjectKey, KeyError>,
) -> Option<SessionId> {
    let id = name.as_str().strip_prefix("sessions/")?;
    let id = id.strip_suffix(word)?.parse().ok()?;
    (of(id).ok().as_ref() == Some(name)).then_some(id)
}

/// The session that a [`verdict`] is on.
#[must_use]
pub fn verdict_id(name: &ObjectKey) -> Option<SessionId> {
    let id = name.as_str().strip_prefix("verdicts/")?.parse().ok()?;
    (verdict(id).ok().as_ref() == Some(name)).then_some(id)
}

/// The number of a generation that is [`condemned`].
#[must_use]
pub fn condemned_number(name: &ObjectKey) -> Option<u32> {
    let number = name.as_str().strip_prefix("gc/")?.parse().ok()?;
    (condemned(number).ok().as_ref() == Some(name)).then_some(number)
}

/// The number of a generation that is decided: of a [`dead`].
#[must_use]
pub fn dead_number(name: &ObjectKey) -> Option<u32> {
    let number = name.as_str().strip_prefix("gc/")?;
    let number = number.strip_suffix(".done")?.parse().ok()?;
    (dead(number).ok().as_ref() == Some(name)).then_some(number)
}

/// The id of a [`snapshot`].
#[must_use]
pub fn snapshot_id(name: &ObjectKey) -> Option<SnapshotId> {
    let id = name.as_str().rsplit('/').next()?.parse().ok()?;
    (snapshot(id).ok().as_ref() == Some(name)).then_some(id)
}

/// The snapshot that a [`refs`] or [`moved_refs`] is of, and the number of the latter.
#[must_use]
pub fn refs_id(name: &ObjectKey) -> Option<(SnapshotId, Option<u32>)> {
    let id = name.as_str().strip_prefix("refs/")?;
    let (id, number) = match id.split_once('.') {
        None => (id.parse().ok()?, None),
        Some((id, number)) => (id.parse().ok()?, Some(number.parse().ok()?)),
    };
    let own = number.map_or_else(|| refs(id), |number| moved_refs(id, number));
    (own.ok().as_ref() == Some(name)).then_some((id, number))
}

/// The id of a [`hold`].
#[must_use]
pub fn hold_id(name: &ObjectKey) -> Option<SnapshotId> {
    let id = name.as_str().strip_prefix("holds/")?.parse().ok()?;
    (hold(id).ok().as_ref() == Some(name)).then_some(id)
}

/// Whether it is the name of a [`slot`].
#[must_use]
pub fn is_slot(name: &ObjectKey) -> bool {
    is_digest_below(name, "keys/")
}

/// Whether it is the name of an [`index`] run.
#[must_use]
pub fn is_index(name: &ObjectKey) -> bool {
    is_digest_below(name, "index/")
}

/// The id of a [`pack`].
#[must_use]
pub fn pack_id(name: &ObjectKey) -> Option<PackId> {
    let digest = name.as_str().rsplit('/').next().filter(|_| is_pack(name))?;
    let mut id = [0; 32];
    let (pairs, _) = digest.as_bytes().as_chunks::<2>();
    for (byte, pair) in id.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(PackId(id))
}

/// Whether it is the name of a [`pack`].
#[must_use]
pub fn is_pack(name: &ObjectKey) -> bool {
    ["data/", "meta/"].iter().any(|folder| {
        let below = name.as_str().strip_prefix(folder);
        let split = below.and_then(|below| below.split_once('/'));
        split.is_some_and(|(first, digest)| {
            digest.get(..2) == Some(first) && is_digest_below(name, &format!("{folder}{first}/"))
        })
    })
}

/// Whether it is the name of a small object that a sidecar is put beside: a [`config`], a key [`slot`] or a
/// [`snapshot`].
#[must_use]
pub fn is_small(name: &ObjectKey) -> bool {
    config_number(name).is_some() || is_slot(name) || snapshot_id(name).is_some()
}

/// The pack of which something is the [`parity`].
#[must_use]
pub fn parity_of(name: &ObjectKey) -> Option<ObjectKey> {
    below(name, PARITY, is_pack)
}

/// The pack that was set [`aside`].
#[must_use]
pub fn aside_of(name: &ObjectKey) -> Option<ObjectKey> {
    below(name, ASIDE, is_pack)
}

/// The small object of which something is the [`parity`].
#[must_use]
pub fn small_parity_of(name: &ObjectKey) -> Option<ObjectKey> {
    below(name, PARITY, is_small)
}

/// The small object that was set [`aside`].
#[must_use]
pub fn small_aside_of(name: &ObjectKey) -> Option<ObjectKey> {
    below(name, ASIDE, is_small)
}

fn below(name: &ObjectKey, folder: &str, is: fn(&ObjectKey) -> bool) -> Option<ObjectKey> {
    let of = ObjectKey::new(name.as_str().strip_prefix(folder)?).ok()?;
    is(&of).then_some(of)
}

/// Whether it is a name that only an object of a repository has, key slots aside.
#[must_use]
pub fn is_object(name: &ObjectKey) -> bool {
    is_pack(name)
        || is_index(name)
        || snapshot_id(name).is_some()
        || refs_id(name).is_some()
        || session_id(name).is_some()
        || session_done_id(name).is_some()
        || session_revoked_id(name).is_some()
        || verdict_id(name).is_some()
        || condemned_number(name).is_some()
        || dead_number(name).is_some()
        || config_number(name).is_some()
        || cold_place(name).is_some()
        || ledger_number(name).is_some()
        || hold_id(name).is_some()
        || parity_of(name).is_some()
        || aside_of(name).is_some()
        || small_parity_of(name).is_some()
        || small_aside_of(name).is_some()
}

fn is_digest_below(name: &ObjectKey, folder: &str) -> bool {
    let digest = name.as_str().strip_prefix(folder);
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    digest.is_some_and(|digest| digest.len() == 64 && digest.bytes().all(is_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_format() {
        let id = SnapshotId::from_parts(1_795_219_200_000, [0; 10]);
        assert!(snapshot(id).unwrap().as_str().starts_with("snap/202611/"));
        assert_eq!(hold(id).unwrap().as_str(), format!("holds/{id}"));
        let id = PackId([0xab; 32]);
        assert_eq!(pack(id, false).unwrap().as_str(), format!("data/ab/{id}"));
        assert_eq!(ledger(7).unwrap().as_str(), "ledger/000000000007");
        assert_eq!(ledger_number(&ledger(7).unwrap()), Some(7));
        for other in [
            "ledger/7",
            "ledger/x",
            "index/000000000007",
            "ledger/1000000000000",
        ] {
            assert_eq!(ledger_number(&key(other.into()).unwrap()), None, "{other}");
        }
    }

    #[test]
    fn objects_are_told_from_what_others_put_there() {
        let id = SnapshotId::from_parts(1_795_219_200_000, [0xab; 10]);
        let session = SessionId::from_parts(1_795_219_200_000, [0xab; 10]);
        for object in [
            pack(PackId([0xab; 32]), false),
            pack(PackId([0xab; 32]), true),
            index(b"a"),
            refs(id),
            moved_refs(id, 3),
            snapshot(id),
            hold(id),
            super::session(session),
            session_done(session),
            session_revoked(session),
            verdict(session),
            condemned(0),
            dead(17),
            config(1),
            cold([0xab; 16]),
            ledger(7),
        ] {
            let object = object.unwrap();
            assert!(is_object(&object), "{object}");
        }
        let mixed = PackId(std::array::from_fn(|n| n as u8 * 7));
        assert_eq!(pack_id(&pack(mixed, true).unwrap()), Some(mixed));
        let stray = pack(PackId([0xab; 32]), false).unwrap().to_string();
        for other in [
            "data/holiday.jpg",
            "config/app.toml",
            "index/a",
            "refs/x",
            "snap/x/y",
        ] {
            assert!(!is_object(&key(other.into()).unwrap()), "{other}");
        }
        assert!(!is_object(&key(stray.replace("/ab/", "/cd/")).unwrap()));
    }

    #[test]
    fn only_the_names_of_the_format_are_objects_of_a_repository() {
        let id = SnapshotId::from_parts(1_795_219_200_000, [0xab; 10]);
        let session = SessionId::from_parts(1_795_219_200_000, [0xab; 10]);
        assert_eq!(snapshot_id(&snapshot(id).unwrap()), Some(id));
        assert_eq!(hold_id(&hold(id).unwrap()), Some(id));
        assert_eq!(session_id(&super::session(session).unwrap()), Some(session));
        assert_eq!(config_number(&config(17).unwrap()), Some(17));
        let done = session_done(session).unwrap();
        assert_eq!(
            (session_id(&done), session_done_id(&done)),
            (None, Some(session))
        );
        let revoked = session_revoked(session).unwrap();
        assert_eq!(session_revoked_id(&revoked), Some(session));
        assert_eq!(verdict_id(&verdict(session).unwrap()), Some(session));
        assert_eq!(condemned_number(&condemned(17).unwrap()), Some(17));
        assert_eq!(dead_number(&dead(0).unwrap()), Some(0));
        assert_eq!(refs_id(&refs(id).unwrap()), Some((id, None)));
        assert_eq!(refs_id(&moved_refs(id, 3).unwrap()), Some((id, Some(3))));
        assert!(is_slot(&slot(b"a").unwrap()) && is_index(&index(b"a").unwrap()));
        for small in [snapshot(id), config(3), slot(b"a")] {
            let small = small.unwrap();
            let (beside, aside) = (parity(&small).unwrap(), aside(&small).unwrap());
            assert_eq!(small_parity_of(&beside).as_ref(), Some(&small));
            assert_eq!(small_aside_of(&aside).as_ref(), Some(&small));
            assert_eq!((parity_of(&beside), aside_of(&aside)), (None, None));
            assert!(is_object(&beside) && is_object(&aside));
        }
        let lower = id.to_string().to_lowercase();
        let others = [
            format!("snap/x/{id}"),
            format!("snap/202612/{id}"),
            format!("snap/202611/{lower}"),
            format!("snap/{id}"),
            format!("holds/x/{id}"),
            format!("holds/{lower}"),
            format!("sessions/{lower}"),
            format!("sessions/{lower}.done"),
            format!("sessions/{id}.done.done"),
            format!("verdicts/{lower}"),
            format!("verdicts/{id}.done"),
            format!("refs/{id}.01"),
            format!("refs/{id}."),
            format!("refs/{lower}.1"),
            "gc/01".into(),
            "gc/x.done".into(),
            "config/01".into(),
            "config/4294967296".into(),
            format!("keys/{}", "AB".repeat(32)),
            format!("index/{}.new", "ab".repeat(32)),
            "parity/config/01".into(),
            format!("parity/snap/202612/{id}"),
            format!("parity/ledger/{:012}", 1),
        ];
        for other in others {
            let name = key(other.clone()).unwrap();
            assert_eq!(snapshot_id(&name), None, "{other}");
            assert_eq!(hold_id(&name), None, "{other}");
            assert_eq!(session_id(&name), None, "{other}");
            assert_eq!(config_number(&name), None, "{other}");
            assert_eq!(session_revoked_id(&name), None, "{other}");
            assert_eq!(verdict_id(&name), None, "{other}");
            assert_eq!(refs_id(&name), None, "{other}");
            assert_eq!(condemned_number(&name), None, "{other}");
            assert_eq!(dead_number(&name), None, "{other}");
            assert!(!is_object(&name), "{other}");
            assert!(!is_slot(&name) && !is_index(&name), "{other}");
        }
    }
}
