//! What each role can do, and that the bytes of version 1 stay what they are.

use backup_core::{HostId, RepoId};
use proptest::prelude::*;

use super::*;

/// A made-up identity for frozen vectors.
pub(crate) const IDENTITY: &str =
    "AGE-SECRET-KEY-1JDZVTMJK8YR24JXEA265ZXE543GZ45DDYAL3EL0CY57N98AV4MEQX0MA70";

/// A full set of which every byte is fixed.
pub(crate) fn fixed_set() -> KeySet {
    let identity = Identity::parse(0, IDENTITY).unwrap();
    let recipient = identity.recipient();
    KeySet::from_root(
        RepoId([0x42; 16]),
        Secret::new([7; 32]),
        vec![identity],
        vec![recipient],
    )
    .unwrap()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits = text
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    digits
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

fn host(name: &str) -> HostId {
    HostId(name.to_owned())
}

fn missing<T: std::fmt::Debug>(result: Result<T, KeyError>) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error, KeyError::Missing { .. }), "{error}");
    error.to_string()
}

#[test]
fn subkeys_are_the_ones_the_format_states() {
    let keys = fixed_set();
    let signing = keys.host_keys(&host("web-1")).unwrap();
    let found = [
        keys.id_key().unwrap(),
        keys.cut_key().unwrap(),
        keys.index_key().unwrap(),
        keys.lineage_key().unwrap(),
        keys.state_key().unwrap(),
        &signing.hmac,
        &signing.ed25519_seed,
    ]
    .map(|key| hex(key));
    assert_eq!(found, SUBKEYS);
    assert_eq!(hex(&keys.fingerprint().unwrap()), FINGERPRINT);
}

#[test]
fn the_bytes_of_a_set_are_frozen() {
    let keys = fixed_set();
    assert_eq!(hex(&keys.encode().unwrap()), FULL_SET);
    let writer = keys.subset(Role::Writer, Some(&host("web-1"))).unwrap();
    assert_eq!(
        hex(&crate::keys::secret::sha256(&[&writer.encode().unwrap()])),
        WRITER_SET_SHA256
    );
    let maintenance = keys
        .subset(Role::Maintenance, Some(&host("web-1")))
        .unwrap();
    assert_eq!(
        hex(&crate::keys::secret::sha256(&[&maintenance
            .encode()
            .unwrap()])),
        MAINTENANCE_SET_SHA256
    );
}

#[test]
fn two_repositories_share_no_key() {
    let root = || Secret::new([7; 32]);
    let set = |repo| KeySet::from_root(RepoId(repo), root(), vec![], vec![]).unwrap();
    assert_ne!(
        set([1; 16]).id_key().unwrap(),
        set([2; 16]).id_key().unwrap()
    );
    let one = KeySet::generate(RepoId([1; 16])).unwrap();
    let two = KeySet::generate(RepoId([1; 16])).unwrap();
    assert_ne!(one.index_key().unwrap(), two.index_key().unwrap());
    assert_ne!(one.fingerprint().unwrap(), two.fingerprint().unwrap());
}

#[test]
fn a_writer_adds_and_signs_for_its_host_but_cannot_read() {
    let full = fixed_set();
    let writer = full.subset(Role::Writer, Some(&host("web-1"))).unwrap();
    assert_eq!(writer.id_key().unwrap(), full.id_key().unwrap());
    assert_eq!(writer.cut_key().unwrap(), full.cut_key().unwrap());
    assert_eq!(writer.lineage_key().unwrap(), full.lineage_key().unwrap());
    assert_eq!(writer.state_key().unwrap(), full.state_key().unwrap());
    assert_eq!(writer.recipients().unwrap(), full.recipients().unwrap());
    let own = writer.host_keys(&host("web-1")).unwrap();
    assert_eq!(own.hmac, full.host_keys(&host("web-1")).unwrap().hmac);
    assert!(matches!(
        writer.host_keys(&host("web-2")),
        Err(KeyError::OtherHost { .. })
    ));
    assert!(!writer.can_read());
    assert_eq!(
        missing(writer.identities()),
        "this key is a writer key: it cannot read data; use a reader or full key (needed: identities)"
    );
    assert!(matches!(
        full.subset(Role::Writer, None),
        Err(KeyError::HostNeeded)
    ));
    assert!(matches!(
        full.host_keys(&host("a\nb")),
        Err(KeyError::BadHost)
    ));
}

#[test]
fn a_reader_reads_but_cannot_add() {
    let reader = fixed_set().subset(Role::Reader, None).unwrap();
    assert!(reader.can_read());
    reader.id_key().unwrap();
    // Lists of extents that do not fit into a record are sealed under it.
    reader.lineage_key().unwrap();
    assert!(missing(reader.cut_key()).contains("it cannot add data; use a writer or full key"));
    missing(reader.state_key());
    missing(reader.host_keys(&host("web-1")));
    missing(reader.with_next_epoch());
}

#[test]
fn maintenance_signs_records_for_its_host_and_nothing_else() {
    let full = fixed_set();
    let (web, other) = (host("web-1"), host("web-2"));
    let set = full.subset(Role::Maintenance, Some(&web)).unwrap();
    assert_eq!(set.host(), Some(&web));
    assert_eq!(
        set.ledger_key(&web).unwrap().expose(),
        &full.host_keys(&web).unwrap().hmac
    );
    assert!(matches!(
        set.ledger_key(&other),
        Err(KeyError::OtherHost { .. })
    ));
    assert!(missing(set.host_keys(&web)).contains("it cannot sign snapshots"));
    assert!(matches!(
        full.subset(Role::Maintenance, None),
        Err(KeyError::HostNeeded)
    ));
}

#[test]
fn only_full_and_maintenance_accept_what_is_lost() {
    let full = fixed_set();
    let web = host("web-1");
    let wanted = full.accept_key().unwrap();
    for role in Role::ALL {
        let set = full.subset(role, Some(&web)).unwrap();
        let set = KeySet::decode(&set.encode().unwrap()).unwrap();
        let may = matches!(role, Role::Full | Role::Maintenance);
        let key = set.accept_key().ok().map(|key| *key.expose());
        assert_eq!(key, may.then_some(*wanted.expose()), "{role}");
    }
    // One that was made before there was such a key opens, and passes on what it has.
    let mut old = full.subset(Role::Maintenance, Some(&web)).unwrap();
    old.accept = None;
    let old = KeySet::decode(&old.encode().unwrap()).unwrap();
    assert!(missing(old.accept_key()).contains("a maintenance key that is made anew"));
    let next = old.subset(Role::Maintenance, Some(&web)).unwrap();
    assert!(next.accept_key().is_err());
    // No other role may have it.
    let mut writer = full.subset(Role::Writer, Some(&web)).unwrap();
    writer.accept = Some(wanted);
    assert!(KeySet::decode(&writer.encode().unwrap()).is_err());
}

#[test]
fn only_full_and_maintenance_may_forget() {
    let full = fixed_set();
    for role in Role::ALL {
        let set = full.subset(role, Some(&host("web-1"))).unwrap();
        let may = matches!(role, Role::Full | Role::Maintenance);
        assert_eq!(set.may_forget().is_ok(), may, "{role}");
        if let Err(error) = set.may_forget() {
            assert!(error.to_string().contains("use a maintenance or full key"));
        }
    }
}

#[test]
fn maintenance_and_verifier_can_neither_read_nor_add() {
    for role in [Role::Maintenance, Role::Verifier] {
        let full = fixed_set();
        let set = full.subset(role, Some(&host("web-1"))).unwrap();
        assert_eq!(set.index_key().unwrap(), full.index_key().unwrap());
        assert_eq!(set.fingerprint().unwrap(), full.fingerprint().unwrap());
        assert!(!set.can_read());
        assert!(missing(set.identities()).contains(&format!("a {role} key: it cannot read data")));
        for result in [
            set.id_key(),
            set.cut_key(),
            set.lineage_key(),
            set.state_key(),
        ] {
            missing(result);
        }
        missing(set.recipients());
        missing(set.host_keys(&host("web-1")));
    }
}

#[test]
fn no_role_gives_more_than_it_has() {
    let full = fixed_set();
    let web = host("web-1");
    for from in Role::ALL {
        let set = full.subset(from, Some(&web)).unwrap();
        for to in Role::ALL {
            let allowed = from == Role::Full || from == to || to == Role::Verifier;
            assert_eq!(
                set.subset(to, Some(&web)).is_ok(),
                allowed,
                "{from} to {to}"
            );
        }
    }
}

#[test]
fn every_role_survives_its_bytes() {
    let full = fixed_set().with_next_epoch().unwrap();
    for role in Role::ALL {
        let set = full.subset(role, Some(&host("web-1"))).unwrap();
        let bytes = set.encode().unwrap();
        let back = KeySet::decode(&bytes).unwrap();
        assert_eq!(back.encode().unwrap(), bytes);
        assert_eq!(
            (back.role(), back.repo(), back.host()),
            (role, set.repo(), set.host())
        );
        assert_eq!(role.name().parse::<Role>().unwrap(), role);
    }
}

#[test]
fn rotation_wraps_to_the_new_epoch_and_still_reads_the_old() {
    let old = fixed_set();
    let new = old.with_next_epoch().unwrap();
    let epochs = |keys: &[Recipient]| keys.iter().map(Recipient::epoch).collect::<Vec<_>>();
    assert_eq!(epochs(new.recipients().unwrap()), [1]);
    assert_eq!(epochs(new.all_recipients()), [0, 1]);
    assert_eq!(new.identities().unwrap().len(), 2);
    assert_eq!(new.id_key().unwrap(), old.id_key().unwrap());
}

#[test]
fn a_set_with_more_keys_than_its_role_is_refused() {
    let full = fixed_set();
    let mut forged = full.subset(Role::Reader, None).unwrap();
    forged.role = Role::Verifier;
    let error = KeySet::decode(&forged.encode().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the key set is damaged: it does not hold the keys of its role"
    );
}

#[test]
fn a_newer_set_asks_for_a_newer_program() {
    let mut bytes = fixed_set().encode().unwrap().to_vec();
    bytes[0] = 2;
    assert!(
        KeySet::decode(&bytes)
            .unwrap_err()
            .to_string()
            .contains("a newer Backstay is needed")
    );
    bytes[0] = 1;
    bytes[17] = 9;
    assert!(matches!(
        KeySet::decode(&bytes),
        Err(KeyError::Newer { version: 9, .. })
    ));
}

#[test]
fn every_role_can_tell_the_keys_of_hosts() {
    let (full, web) = (fixed_set(), host("web-1"));
    let writer = full.subset(Role::Writer, Some(&web)).unwrap();
    let certificate = full.host_certificate(&web).unwrap();
    assert_eq!(writer.host_certificate(&web).unwrap(), certificate);
    let again = KeySet::decode(&writer.encode().unwrap()).unwrap();
    assert_eq!(again.host_certificate(&web).unwrap(), certificate);
    let seed = full.host_keys(&web).unwrap().ed25519_seed;
    let pair = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let public = super::authority::public_key(&pair).unwrap();
    for role in Role::ALL {
        let set = full.subset(role, Some(&web)).unwrap();
        let authority = *set.authority();
        let holds = |host: &HostId, public: &[u8; 32], certificate: &Certificate| {
            is_certified(&authority, set.repo(), host, public, certificate)
        };
        assert!(holds(&web, &public, &certificate), "{role}");
        assert!(!holds(&host("web-2"), &public, &certificate));
        assert!(!holds(&web, &[9; 32], &certificate));
        let mut forged = certificate;
        forged[5] ^= 1;
        assert!(!holds(&web, &public, &forged));
        let elsewhere = RepoId([1; 16]);
        assert!(!is_certified(
            &authority,
            elsewhere,
            &web,
            &public,
            &certificate
        ));
    }
    for role in [Role::Reader, Role::Maintenance, Role::Verifier] {
        let set = full.subset(role, Some(&web)).unwrap();
        missing(set.host_certificate(&web));
    }
    assert!(matches!(
        writer.host_certificate(&host("web-2")),
        Err(KeyError::OtherHost { .. })
    ));
}

#[test]
fn additions_to_a_set_are_kept_or_needed() {
    for role in Role::ALL {
        let mut set = fixed_set().subset(role, Some(&host("web-1"))).unwrap();
        set.extra = [("later".into(), vec![1, 2])].into();
        let again = KeySet::decode(&set.encode().unwrap()).unwrap();
        assert_eq!(again.extra, set.extra);
        set.extra.insert("!needed".into(), Vec::new());
        let refused = KeySet::decode(&set.encode().unwrap()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the key set needs `!needed`, which this Backstay does not know: a newer Backstay is needed"
        );
        set.extra = [("Not a name".into(), Vec::new())].into();
        let refused = KeySet::decode(&set.encode().unwrap());
        assert!(matches!(refused, Err(KeyError::Damaged { .. })));
    }
}

#[test]
fn nothing_secret_is_printed() {
    let keys = fixed_set();
    let signing = keys.host_keys(&host("web-1")).unwrap();
    let printed = format!(
        "{keys:?} {signing:?} {:?} {:?}",
        keys.identities(),
        Secret::new([7; 32])
    );
    assert!(!printed.contains("SECRET-KEY"), "{printed}");
    assert!(
        !printed.contains("7, 7") && !printed.contains("0707"),
        "{printed}"
    );
    assert!(
        printed.contains("web-1") || printed.contains("Full"),
        "{printed}"
    );
}

proptest! {
    #[test]
    fn decoding_random_bytes_is_an_error_not_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600)
    ) {
        let _ = KeySet::decode(&bytes);
        let mut versioned = vec![1];
        versioned.extend(&bytes);
        let _ = KeySet::decode(&versioned);
    }

    #[test]
    fn a_changed_set_is_refused_or_reads_as_what_it_encodes_to(
        place in any::<prop::sample::Index>(), change in 1..=255u8, cut in any::<prop::sample::Index>()
    ) {
        let mut bytes = fixed_set().encode().unwrap().to_vec();
        let place = place.index(bytes.len());
        bytes[place] ^= change;
        if let Ok(set) = KeySet::decode(&bytes) {
            set.encode().unwrap();
        }
        let _ = KeySet::decode(&bytes[..cut.index(bytes.len())]);
    }
}

const SUBKEYS: [&str; 7] = [
    "db32a6a04b65feb2d76c046228a7261fd8a024239a8893a9727210704d969c47",
    "1bbfe27c56b03124f979558e489e1ee77ae8c3e3edc1af7dcd945ddeefe0b7d1",
    "54680bbd441f822d274b621b7dbcd94bca699705b2ae923c0596fed31d5effa9",
    "5528cbe218013ef7d6018d670c328476118ce43880dd965c49f318525a6c2d46",
    "549e0f218894a0c40f1a0e76b8d34d3feb44adb346d6e7cf53f83915b803e1a6",
    "ad1d22e8174b4a0dbd1395b80e3ec44c632e3c60d355660ecb67b228314aac7d",
    "10564e7192e71781f922eff5d1c2d010d32b0138bf0cc86ab15aca14c5cd8cdd",
];
const FINGERPRINT: &str = "b7dca69935b8a3a8";
const FULL_SET: &str = "014242424242424242424242424242424201010707070707070707070707070707070707070707070707070707070707\
    0707070000000000000001004a4147452d5345435245542d4b45592d314a445a56544d4a4b38595232344a5845413236\
    355a5845353433475a3435444459414c33454c30435935374e39384156344d455158304d41373001003e61676531746b\
    386e75683063766a376535793978737a723630633368767170796b77716d63727179797a76396d6138393477686d7734\
    65736a6a677a673400";
const MAINTENANCE_SET_SHA256: &str =
    "f487afb4040e6ae3a86a721ea14ca93ab4d5d9188703e4d1bc3fcee32e6ff35f";
const WRITER_SET_SHA256: &str = "f23d56bab910276fe8d2e9be0f60cfbce35fb30b1c4d878950c54b8cc513bc5c";
