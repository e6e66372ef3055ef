//! A configuration says who may do what, and cannot be changed without the key.

use proptest::prelude::*;

use super::*;
use crate::keys::Role;
use crate::keys::tests::{fixed_set, hex, unhex};

fn profile(name: &str) -> ChunkProfile {
    ChunkProfile {
        name: name.to_owned(),
        chunk_min: 512 << 10,
        chunk_target: 1 << 20,
        chunk_max: 4 << 20,
        piece_min: 2 << 10,
        piece_avg: 8 << 10,
        piece_max: 64 << 10,
        page: 0,
        bundle_limit: 64 << 10,
    }
}

fn sample() -> Config {
    let pages = ChunkProfile {
        piece_min: 0,
        piece_avg: 0,
        piece_max: 0,
        page: 8 << 10,
        ..profile("pages")
    };
    Config::new(&fixed_set(), 1_790_000_000, vec![pages, profile("content")])
}

#[test]
fn every_role_verifies_the_configuration() {
    let keys = fixed_set();
    let bytes = sample().seal(&keys).unwrap();
    let host = backup_core::HostId("web-1".into());
    for role in Role::ALL {
        let keys = keys.subset(role, Some(&host)).unwrap();
        let config = Config::parse(&bytes).unwrap().verify_mac(0, &keys).unwrap();
        assert_eq!(config, sample());
        assert_eq!(config.profile("pages").unwrap().page, 8 << 10);
        for operation in [
            Operation::Read,
            Operation::Write,
            Operation::Verify,
            Operation::Prune,
        ] {
            config.check_features(operation).unwrap();
        }
    }
}

#[test]
fn no_byte_of_a_configuration_can_be_changed() {
    let keys = fixed_set();
    let bytes = sample().seal(&keys).unwrap();
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << bit;
            let read = Config::parse(&changed).and_then(|config| config.verify_mac(0, &keys));
            assert!(read.is_err(), "byte {place}, bit {bit}");
        }
    }
}

#[test]
fn what_is_wrong_is_said_apart() {
    let keys = fixed_set();
    let bytes = sample().seal(&keys).unwrap();
    let parsed = || Config::parse(&bytes).unwrap();

    let misplaced = parsed().verify_mac(3, &keys).unwrap_err();
    assert_eq!(
        misplaced.to_string(),
        "the object config/3 holds configuration 0: objects were exchanged"
    );
    let others = KeySet::generate(keys.repo()).unwrap();
    assert!(matches!(
        parsed().verify_mac(0, &others),
        Err(ConfigError::Tampered)
    ));
    let elsewhere = KeySet::generate(RepoId([1; 16])).unwrap();
    let refused = parsed().verify_mac(0, &elsewhere);
    assert!(matches!(refused, Err(ConfigError::OtherRepository { .. })));
    assert!(matches!(
        sample().seal(&elsewhere),
        Err(ConfigError::OtherRepository { .. })
    ));

    // Whoever has no key cannot make it look like the work of a newer program.
    let mut newer = bytes.clone();
    newer[8] = 2;
    let forged = Config::parse(&newer).unwrap().verify_mac(0, &keys);
    assert!(matches!(forged, Err(ConfigError::Tampered)));
    let signed = newer.len() - MAC;
    let tag = mac(&mac_key(&keys).unwrap(), &newer[..signed]);
    newer[signed..].copy_from_slice(&tag);
    let newer = Config::parse(&newer).unwrap().verify_mac(0, &keys);
    assert_eq!(
        newer.unwrap_err().to_string(),
        "the repository has format version 2, this Backstay knows version 1: a newer Backstay is needed"
    );
    for cut in 0..bytes.len() {
        assert!(
            Config::parse(&bytes[..cut])
                .and_then(|c| c.verify_mac(0, &keys))
                .is_err()
        );
    }
}

#[test]
fn an_unknown_feature_stops_only_the_operations_that_need_it() {
    let mut config = sample();
    config.features.write = vec!["dictionaries".into(), "extents-2".into()];
    config.check_features(Operation::Read).unwrap();
    assert_eq!(
        config
            .check_features(Operation::Write)
            .unwrap_err()
            .to_string(),
        "this Backstay cannot write to this repository, which needs feature dictionaries, \
         feature extents-2: a newer Backstay is needed"
    );
    config.suites.id_hash = 2;
    let error = config
        .check_features(Operation::Read)
        .unwrap_err()
        .to_string();
    assert!(error.contains("needs id hash suite 2: a newer"), "{error}");
    let mut config = sample();
    config.extra = [("later".into(), vec![1]), ("!now".into(), vec![2])].into();
    let error = config.check_features(Operation::Prune).unwrap_err();
    assert!(
        error.to_string().contains("needs `!now`: a newer"),
        "{error}"
    );
    config.extra.remove("!now");
    config.check_features(Operation::Prune).unwrap();
}

#[test]
fn where_packs_lie_apart_is_said_with_the_number_of_the_place() {
    let keys = fixed_set();
    let mut config = sample();
    assert_eq!(config.cold_place(), None);
    config.features.read.push("zzz".into());
    config.set_cold_place(Some([7; 16]));
    assert_eq!(config.features.read, ["cold-data", "zzz"]);
    config.features.read.pop();
    let bytes = config.seal(&keys).unwrap();
    let read = Config::parse(&bytes).unwrap().verify_mac(0, &keys).unwrap();
    assert_eq!(read.cold_place(), Some([7; 16]));
    for operation in [
        Operation::Read,
        Operation::Write,
        Operation::Verify,
        Operation::Prune,
    ] {
        read.check_features(operation).unwrap();
        assert_eq!(read.features.of(operation), ["cold-data"]);
    }
    // Another place's copy of it differs in this, and in nothing else.
    let mut back = read;
    back.set_cold_place(None);
    assert_eq!(back, sample());
    // Without the number nobody could tell the right place from another.
    config.extra.clear();
    assert!(matches!(config.seal(&keys), Err(ConfigError::Invalid(_))));
}

#[test]
fn later_configurations_follow_by_number() {
    let keys = fixed_set().with_next_epoch().unwrap();
    let mut next = sample().next().unwrap();
    next.recipients = keys.all_recipients().to_vec();
    let bytes = next.seal(&keys).unwrap();
    let config = Config::parse(&bytes).unwrap().verify_mac(1, &keys).unwrap();
    assert_eq!((config.number, config.recipients.len()), (1, 2));
    let last = Config {
        number: u32::MAX,
        ..next
    };
    assert!(matches!(last.next(), Err(ConfigError::Invalid(_))));
}

#[test]
fn writers_follow_a_rotation_that_the_authority_signed_and_no_other() {
    let keys = fixed_set();
    let host = backup_core::HostId("web-1".into());
    let (writer, reader) = (
        keys.subset(Role::Writer, Some(&host)).unwrap(),
        keys.subset(Role::Reader, None).unwrap(),
    );
    let first = sample();
    assert_eq!(
        first.recipients_for(&writer).unwrap(),
        keys.all_recipients()
    );
    let next = keys.with_next_epoch().unwrap();
    let rotated = first.rotated(&next).unwrap();
    assert_eq!((rotated.number, rotated.newest_epoch()), (1, 1));
    let bytes = rotated.seal(&next).unwrap();
    let read = Config::parse(&bytes)
        .unwrap()
        .verify_mac(1, &writer)
        .unwrap();
    assert_eq!(read, rotated);
    read.check_follows(&first, &writer).unwrap();
    assert_eq!(
        read.recipients_for(&writer).unwrap(),
        &next.all_recipients()[1..]
    );
    assert_eq!(
        read.recipients_for(&next).unwrap(),
        &next.all_recipients()[1..]
    );
    for old in [&keys, &reader] {
        let refused = read.recipients_for(old).unwrap_err();
        assert!(
            matches!(refused, KeyError::Outdated { has: 0, newest: 1 }),
            "{refused}"
        );
    }
    // Keys that never counted: of a rotation that was broken off, beside another that was not.
    let other = keys.with_next_epoch().unwrap();
    for config in [&first, &read] {
        let refused = config.recipients_for(&other).unwrap_err();
        assert!(matches!(refused, KeyError::Unfinished), "{refused}");
    }
    // Nothing but the authority names recipients: not another set of the same index key, not another
    // repository's authority, not the right one over other recipients.
    let mut forged = read.clone();
    forged.recipients = other.all_recipients().to_vec();
    let mut unsigned = read.clone();
    unsigned.extra.clear();
    for forged in [&forged, &unsigned] {
        assert!(matches!(
            forged.check_follows(&first, &writer),
            Err(ConfigError::Damaged(_))
        ));
        assert!(matches!(
            forged.recipients_for(&writer),
            Err(KeyError::Damaged { .. })
        ));
    }
    assert!(matches!(
        first.check_follows(&read, &writer),
        Err(ConfigError::Damaged(_))
    ));
    assert!(matches!(first.rotated(&keys), Err(ConfigError::Invalid(_))));
    assert!(matches!(
        first.rotated(&writer),
        Err(ConfigError::Invalid(_) | ConfigError::Key(_))
    ));
    // A config that comes later for another reason carries both on.
    let later = read.next().unwrap();
    later.check_follows(&read, &writer).unwrap();
    assert_eq!(
        later.recipients_for(&writer).unwrap(),
        &next.all_recipients()[1..]
    );
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let keys = fixed_set();
    let wrong: [fn(&mut Config); 9] = [
        |config| config.chunking.reverse(),
        |config| config.chunking[0].name = "Has Spaces".into(),
        |config| config.chunking[0].chunk_min = 0,
        |config| config.chunking[0].chunk_max = crate::seal::MAX_RAW as u32 + 1,
        |config| config.chunking[0].piece_avg = 1,
        |config| config.chunking[1].page = 5000,
        |config| config.features.read = vec!["b".into(), "a".into()],
        |config| drop(config.extra.insert("Not a name".into(), Vec::new())),
        |config| config.features.prune = (0..65).map(|n| format!("f{n:02}")).collect(),
    ];
    for spoil in wrong {
        let mut config = sample();
        spoil(&mut config);
        assert!(
            matches!(config.seal(&keys), Err(ConfigError::Invalid(_))),
            "{config:?}"
        );
    }
    let mut largest = sample();
    largest.chunking[0].chunk_max = crate::seal::MAX_RAW as u32;
    largest.seal(&keys).unwrap();
}

#[test]
fn the_bytes_of_a_configuration_are_frozen() {
    let keys = fixed_set();
    assert_eq!(hex(&sample().seal(&keys).unwrap()), CONFIG);
    let config = Config::parse(&unhex(CONFIG))
        .unwrap()
        .verify_mac(0, &keys)
        .unwrap();
    assert_eq!(config, sample());
}

#[test]
fn the_bytes_of_a_configuration_with_a_place_of_packs_are_frozen() {
    let keys = fixed_set();
    let mut config = sample();
    config.set_cold_place(Some([0xab; 16]));
    assert_eq!(hex(&config.seal(&keys).unwrap()), COLD_CONFIG);
}

proptest! {
    #[test]
    fn reading_random_bytes_is_an_error_not_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400)
    ) {
        prop_assert!(Config::parse(&bytes).and_then(|config| config.peek()).is_err());
        let led = [b"BKSYCONF\x01\x00", &bytes[..]].concat();
        if let Ok(config) = Config::parse(&led) {
            prop_assert!(config.verify_mac(0, &fixed_set()).is_err());
        }
    }

    #[test]
    fn any_configuration_round_trips(
        created in any::<u64>(), number in any::<u32>(), family in any::<[u8; 16]>(),
        names in proptest::collection::btree_set("[a-z0-9-]{1,20}", 0..6),
        id_hash in any::<u16>()
    ) {
        let keys = fixed_set();
        let mut config = sample();
        config.created = created;
        config.number = number;
        config.family = family;
        config.suites.id_hash = id_hash;
        config.features.verify = names.iter().cloned().collect();
        config.chunking = names.iter().map(|name| profile(name)).collect();
        let bytes = config.seal(&keys).unwrap();
        prop_assert_eq!(Config::parse(&bytes).unwrap().verify_mac(number, &keys).unwrap(), config);
    }
}

const CONFIG: &str = "424b5359434f4e46010000424242424242424242424242424242424242424242424242424242424242424280f7c4d506\
    00000000010101010207636f6e74656e7480802080804080808002801080408080040080800405706167657380802080\
    804080808002000000804080800401003e61676531746b386e75683063766a376535793978737a723630633368767170\
    796b77716d63727179797a76396d6138393477686d773465736a6a677a673400c0825bc237d2046154c75f78cf6d7366\
    8d120ae0fb972a1e4e0aead4b3e55a09";

const COLD_CONFIG: &str = "424b5359434f4e46010000424242424242424242424242424242424242424242424242424242424242424280f7c4d5\
    060109636f6c642d646174610109636f6c642d646174610109636f6c642d646174610109636f6c642d646174610101\
    01010207636f6e74656e74808020808040808080028010804080800400808004057061676573808020808040808080\
    02000000804080800401003e61676531746b386e75683063766a376535793978737a723630633368767170796b7771\
    6d63727179797a76396d6138393477686d773465736a6a677a67340104636f6c6410ababababababababababababab\
    abababf7d7c96e63ba826ee2dff9ab944d206bb49dfbb6120761027a415be118f3f3d2";
