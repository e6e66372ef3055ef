//! A writer wraps what it cannot unwrap; readers can.

use proptest::prelude::*;

use super::*;
use crate::keys::tests::{IDENTITY, fixed_set, hex, unhex};
use crate::keys::{KeySet, Role};
use backup_core::RepoId;

fn sample(wrapped_dek: Vec<u8>) -> Session {
    Session {
        id: SessionId::from_parts(1_790_000_000_123, [9; 10]),
        host: HostId("web-1".into()),
        started_ms: 1_790_000_000_123,
        wrapped_dek,
    }
}

#[test]
fn readers_of_every_epoch_but_no_one_else_unwrap_a_session() {
    let keys = fixed_set();
    let writer = keys
        .subset(Role::Writer, Some(&HostId("web-1".into())))
        .unwrap();
    let dek = Secret::random().unwrap();
    let wrapped = wrap(&dek, writer.recipients().unwrap()).unwrap();
    assert!(wrapped.len() < 512, "{}", wrapped.len());
    assert_eq!(unwrap(&wrapped, keys.identities().unwrap()).unwrap(), dek);

    let rotated = keys.with_next_epoch().unwrap();
    assert_eq!(
        unwrap(&wrapped, rotated.identities().unwrap()).unwrap(),
        dek
    );
    let later = wrap(&dek, rotated.recipients().unwrap()).unwrap();
    assert_eq!(unwrap(&later, rotated.identities().unwrap()).unwrap(), dek);
    assert!(matches!(
        unwrap(&later, keys.identities().unwrap()),
        Err(KeyError::WrongKey)
    ));

    let stranger = KeySet::generate(RepoId([0x42; 16])).unwrap();
    assert!(matches!(
        unwrap(&wrapped, stranger.identities().unwrap()),
        Err(KeyError::WrongKey)
    ));
    assert!(matches!(unwrap(&wrapped, &[]), Err(KeyError::WrongKey)));
    assert!(matches!(wrap(&dek, &[]), Err(KeyError::NoRecipients)));
}

#[test]
fn a_wrap_made_by_the_age_program_opens() {
    let identities = [Identity::parse(0, IDENTITY).unwrap()];
    assert_eq!(
        *unwrap(&unhex(AGE_WRAP), &identities).unwrap().expose(),
        [b'k'; 32]
    );
}

#[test]
fn a_hundred_recipients_fit_and_far_too_many_do_not() {
    let recipient = Identity::parse(0, IDENTITY).unwrap().recipient();
    let dek = Secret::new([1; 32]);
    let wrapped = wrap(&dek, &vec![recipient.clone(); 100]).unwrap();
    assert!(sample(wrapped).encode().unwrap().len() <= MAX_SESSION_BYTES);
    let refused = wrap(&dek, &vec![recipient; 400]);
    assert!(
        matches!(refused, Err(KeyError::TooLarge { .. })),
        "{refused:?}"
    );
}

#[test]
fn the_bytes_of_a_session_are_frozen() {
    let session = sample(vec![1, 2, 3]);
    assert_eq!(hex(&session.encode().unwrap()), SESSION);
    assert_eq!(Session::decode(&unhex(SESSION)).unwrap(), session);
}

#[test]
fn bad_sessions_are_refused() {
    let mut bytes = sample(vec![1]).encode().unwrap();
    bytes.push(0);
    assert!(matches!(
        Session::decode(&bytes),
        Err(KeyError::Damaged { .. })
    ));
    // The number of additions is the last byte.
    bytes.truncate(bytes.len() - 2);
    let with = |addition: &[u8]| Session::decode(&[&bytes, addition].concat());
    assert!(with(b"\x01\x05later\x00").is_ok());
    assert!(matches!(
        with(b"\x01\x06!later\x00"),
        Err(KeyError::Needs { .. })
    ));
    bytes[0] = 2;
    assert!(matches!(
        Session::decode(&bytes),
        Err(KeyError::Newer { version: 2, .. })
    ));
    assert!(matches!(
        Session::decode(&[]),
        Err(KeyError::Damaged { .. })
    ));
    let too_long = sample(vec![0; MAX_WRAP_BYTES + 1]).encode();
    assert!(matches!(too_long, Err(KeyError::TooLarge { .. })));
    let hostless = Session {
        host: HostId(String::new()),
        ..sample(vec![])
    };
    assert!(matches!(hostless.encode(), Err(KeyError::BadHost)));
}

/// Prints what a wrap and its opening cost: `cargo test -p backup-format --release -- --ignored
/// --nocapture cost_of_a_wrap`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_wrap() {
    let keys = fixed_set();
    let dek = Secret::random().unwrap();
    let rounds = 200;
    let start = std::time::Instant::now();
    let mut wrapped = Vec::new();
    for _ in 0..rounds {
        wrapped = wrap(&dek, keys.recipients().unwrap()).unwrap();
    }
    let wrapping = start.elapsed() / rounds;
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        unwrap(&wrapped, keys.identities().unwrap()).unwrap();
    }
    let unwrapping = start.elapsed() / rounds;
    println!(
        "wrap {wrapping:?}, unwrap {unwrapping:?}, {} bytes",
        wrapped.len()
    );
}

proptest! {
    #[test]
    fn reading_random_bytes_is_an_error_not_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300)
    ) {
        let _ = Session::decode(&bytes);
        let _ = Session::decode(&[&[1], &bytes[..]].concat());
        let identities = [Identity::parse(0, IDENTITY).unwrap()];
        prop_assert!(unwrap(&bytes, &identities).is_err());
        let lead: &[u8] = b"age-encryption.org/v1\n-> X25519 ";
        prop_assert!(unwrap(&[lead, &bytes].concat(), &identities).is_err());
    }

    #[test]
    fn a_damaged_wrap_never_gives_another_key(
        place in any::<prop::sample::Index>(), change in 1..=255u8, cut in any::<prop::sample::Index>()
    ) {
        let identities = [Identity::parse(0, IDENTITY).unwrap()];
        let whole = unhex(AGE_WRAP);
        let mut bytes = whole.clone();
        bytes[place.index(whole.len())] ^= change;
        prop_assert!(unwrap(&bytes, &identities).is_err());
        prop_assert!(unwrap(&whole[..cut.index(whole.len())], &identities).is_err());
    }

    #[test]
    fn any_session_round_trips(
        id in any::<u128>(), host in "\\PC{1,60}", started_ms in any::<u64>(),
        wrapped_dek in proptest::collection::vec(any::<u8>(), 0..600)
    ) {
        let session = Session { id: SessionId(id), host: HostId(host), started_ms, wrapped_dek };
        prop_assert_eq!(Session::decode(&session.encode().unwrap()).unwrap(), session);
    }
}

const SESSION: &str = "0101a0c4506c7b09090909090909090909057765622d31fbd8c1a28c340301020300";
const AGE_WRAP: &str = "6167652d656e6372797074696f6e2e6f72672f76310a2d3e20583235353139207133536f4b4465784850546946465373\
    30617154314250737137766335584242305571576c45434a4758730a4c48316374743942354736646f46765265627558\
    6b5462316334314f37517a4654394c64626f46364a354d0a2d2d2d206142564172664d6e31594571535150567a686353\
    314933472b50416e3354644849415a597a6e6a725348510af7fbfeb4f363f44fed5508730699767410cddedbbeca785b\
    dd3cc0d6b9c8648f1a575b0875bb5e364d820e30c4c9f2ab395dfcb774cda02cf6d6826e43e3e415";
