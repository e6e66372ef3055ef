//! Slots open with what they were made for and with nothing else.

use backup_core::HostId;
use proptest::prelude::*;

use super::*;
use crate::keys::tests::{IDENTITY, fixed_set, hex};

const CHEAP: Argon2Params = Argon2Params {
    memory_kib: 64,
    passes: 1,
    lanes: 1,
};

fn meta(label: &str) -> SlotMeta {
    SlotMeta {
        label: label.to_owned(),
        created: 1_790_000_000,
    }
}

fn fixed_slot(argon2: Option<Argon2Params>) -> Vec<u8> {
    let (salt, nonce) = ([0x11; 16], [0x22; 12]);
    let key = match argon2 {
        Some(params) => params
            .derive(b"correct horse battery staple", &salt)
            .unwrap(),
        None => slot_secret(&Secret::new([0x33; 32]), &salt).unwrap(),
    };
    let keys = fixed_set().subset(Role::Verifier, None).unwrap();
    assemble(&keys, &meta("vector"), argon2, &key, (salt, nonce)).unwrap()
}

#[test]
fn a_passphrase_slot_opens_with_its_passphrase_only() {
    let keys = fixed_set();
    let bytes = seal_with_passphrase(&keys, &meta("office"), b"open sesame", CHEAP).unwrap();
    let slot = Slot::parse(&bytes).unwrap();
    assert_eq!(slot.kind(), SlotKind::Passphrase);
    let info = slot.info().unwrap();
    assert_eq!(
        (info.repo, info.role, info.argon2),
        (keys.repo(), Role::Full, Some(CHEAP))
    );
    assert_eq!(
        (info.label.as_str(), info.created),
        ("office", 1_790_000_000)
    );
    let opened = slot.open_with_passphrase(b"open sesame").unwrap();
    assert_eq!(opened.encode().unwrap(), keys.encode().unwrap());
    assert!(matches!(
        slot.open_with_passphrase(b"open sesame "),
        Err(KeyError::WrongKey)
    ));
    assert!(matches!(
        slot.open_with_passphrase(b""),
        Err(KeyError::WrongKey)
    ));
}

#[test]
fn a_key_file_slot_opens_with_its_secret_only() {
    let keys = fixed_set()
        .subset(Role::Writer, Some(&HostId("web-1".into())))
        .unwrap();
    let secret = Secret::random().unwrap();
    let bytes = seal_with_secret(&keys, &meta("web-1"), &secret).unwrap();
    let slot = Slot::parse(&bytes).unwrap();
    assert_eq!(slot.kind(), SlotKind::KeyFile);
    assert_eq!(slot.info().unwrap().role, Role::Writer);
    let opened = slot.open_with_secret(&secret).unwrap();
    assert_eq!(opened.encode().unwrap(), keys.encode().unwrap());
    let other = Secret::random().unwrap();
    assert!(matches!(
        slot.open_with_secret(&other),
        Err(KeyError::WrongKey)
    ));
}

#[test]
fn a_recipient_slot_is_an_age_file_that_holds_a_key_file() {
    let keys = fixed_set();
    let (me, you, eve) = (
        Identity::generate(0),
        Identity::generate(0),
        Identity::generate(0),
    );
    let to = [me.recipient(), you.recipient()];
    let bytes = seal_to_recipients(&keys, &meta("ops"), &to).unwrap();
    assert!(bytes.starts_with(b"age-encryption.org/v1\n"));
    let slot = Slot::parse(&bytes).unwrap();
    assert_eq!((slot.kind(), slot.info()), (SlotKind::AgeRecipient, None));
    for identity in [&me, &you] {
        let opened = slot
            .open_with_age_identity(&identity.secret_text())
            .unwrap();
        assert_eq!(opened.encode().unwrap(), keys.encode().unwrap());
    }
    let refused = slot.open_with_age_identity(&eve.secret_text());
    assert!(matches!(refused, Err(KeyError::WrongKey)), "{refused:?}");

    // What plain age would print is what `--key-file` takes.
    let text = agefile::decrypt(WHAT, &bytes, &[me], MAX_SLOT_BYTES).unwrap();
    let text = std::str::from_utf8(&text).unwrap();
    assert!(
        text.contains("# label: ops\n") && text.contains("\nBACKSTAY-KEYS-1 "),
        "{text}"
    );
    assert!(matches!(
        KeyFile::parse(text.as_bytes()).unwrap(),
        KeyFile::Keys(_)
    ));
}

/// Made by `age` 1.1.1: `age -r age1… < key-file text`.
#[test]
fn a_slot_made_by_the_age_program_opens() {
    let slot = Slot::parse(&crate::keys::tests::unhex(AGE_SLOT)).unwrap();
    let keys = slot.open_with_age_identity(IDENTITY).unwrap();
    assert_eq!(keys.role(), Role::Verifier);
    assert_eq!(keys.index_key().unwrap(), fixed_set().index_key().unwrap());
}

#[test]
fn a_slot_says_what_opens_it() {
    let by_passphrase = Slot::parse(&fixed_slot(Some(CHEAP))).unwrap();
    let by_file = Slot::parse(&fixed_slot(None)).unwrap();
    let secret = Secret::new([0x33; 32]);
    assert_eq!(
        by_passphrase
            .open_with_secret(&secret)
            .unwrap_err()
            .to_string(),
        "this key slot is opened by a passphrase, not by a key file or recovery code"
    );
    assert!(matches!(
        by_file.open_with_passphrase(b"x"),
        Err(KeyError::OtherKind { .. })
    ));
    let refused = by_file.open_with_age_identity(IDENTITY);
    assert!(matches!(refused, Err(KeyError::OtherKind { .. })));
    let keys = fixed_set();
    let to = [keys.identities().unwrap()[0].recipient()];
    let by_identity = Slot::parse(&seal_to_recipients(&keys, &meta(""), &to).unwrap()).unwrap();
    assert!(matches!(
        by_identity.open_with_secret(&secret),
        Err(KeyError::OtherKind { .. })
    ));
    assert!(matches!(
        by_identity.open_with_passphrase(b"x"),
        Err(KeyError::OtherKind { .. })
    ));
}

#[test]
fn the_bytes_of_slots_are_frozen() {
    assert_eq!(hex(&fixed_slot(Some(CHEAP))), PASSPHRASE_SLOT);
    assert_eq!(hex(&fixed_slot(None)), KEY_FILE_SLOT);
    let slot = Slot::parse(&crate::keys::tests::unhex(PASSPHRASE_SLOT)).unwrap();
    let keys = slot
        .open_with_passphrase(b"correct horse battery staple")
        .unwrap();
    assert_eq!(keys.role(), Role::Verifier);
}

#[test]
fn a_slot_that_asks_for_too_much_work_is_refused_before_any_is_done() {
    let keys = fixed_set();
    let key = Secret::new([0; 32]);
    let over = |params| assemble(&keys, &meta(""), Some(params), &key, ([0; 16], [0; 12])).unwrap();
    let refused = [
        Argon2Params {
            memory_kib: Argon2Params::MAX_MEMORY_KIB + 1,
            ..CHEAP
        },
        Argon2Params {
            passes: 65,
            ..CHEAP
        },
        Argon2Params {
            lanes: 65,
            memory_kib: 65 * 8,
            ..CHEAP
        },
    ];
    for params in refused {
        assert!(matches!(
            Slot::parse(&over(params)),
            Err(KeyError::TooCostly { .. })
        ));
        let sealed = seal_with_passphrase(&keys, &meta(""), b"x", params);
        assert!(matches!(sealed, Err(KeyError::TooCostly { .. })));
    }
    let zero = Argon2Params { passes: 0, ..CHEAP };
    assert!(matches!(Slot::parse(&over(zero)), Err(KeyError::BadParams)));
}

#[test]
fn what_cannot_stand_in_a_slot_is_refused() {
    let keys = fixed_set();
    let empty = seal_with_passphrase(&keys, &meta(""), b"", CHEAP);
    assert!(matches!(empty, Err(KeyError::EmptyPassphrase)));
    for label in [
        "two\nlines".to_owned(),
        "\u{1b}[31m".to_owned(),
        "x".repeat(257),
    ] {
        let sealed = seal_with_secret(&keys, &meta(&label), &Secret::new([1; 32]));
        assert!(matches!(sealed, Err(KeyError::BadLabel)));
    }
    assert!(matches!(
        seal_to_recipients(&keys, &meta(""), &[]),
        Err(KeyError::NoRecipients)
    ));
}

#[test]
fn a_slot_of_a_version_to_come_asks_for_a_newer_program() {
    let mut bytes = fixed_slot(None);
    bytes[8] = 2;
    assert!(
        Slot::parse(&bytes)
            .unwrap_err()
            .to_string()
            .contains("a newer Backstay is needed")
    );
    let mut bytes = fixed_slot(None);
    bytes[12 + 16] = 7;
    assert!(matches!(
        Slot::parse(&bytes),
        Err(KeyError::Newer { version: 7, .. })
    ));
}

#[test]
fn an_age_file_with_an_endless_header_is_refused_at_once() {
    let mut bytes = AGE_MAGIC.to_vec();
    while bytes.len() < MAX_SLOT_BYTES - 8 {
        bytes.extend_from_slice(b"-> x\n\n");
    }
    let slot = Slot::parse(&bytes).unwrap();
    let refused = slot.open_with_age_identity(IDENTITY);
    // By its length: without the cap, the parser takes many seconds to come to the same end.
    assert!(refused.unwrap_err().to_string().contains("much too long"));
}

/// Every single change of a byte is found: by the parser or by the seal.
#[test]
fn no_byte_of_a_slot_can_be_changed() {
    let bytes = fixed_slot(None);
    let secret = Secret::new([0x33; 32]);
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << bit;
            let opened = Slot::parse(&changed).and_then(|slot| slot.open_with_secret(&secret));
            assert!(opened.is_err(), "byte {place}, bit {bit}");
        }
    }
}

proptest! {
    #[test]
    fn reading_random_bytes_is_an_error_not_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400), magic in 0..3u8
    ) {
        let lead: &[u8] = match magic {
            0 => b"",
            1 => b"BKSYSLOT\x01\x00",
            _ => AGE_MAGIC,
        };
        let bytes = [lead, &bytes].concat();
        if let Ok(slot) = Slot::parse(&bytes) {
            prop_assert!(slot.open_with_secret(&Secret::new([1; 32])).is_err());
            prop_assert!(slot.open_with_age_identity(IDENTITY).is_err());
        }
    }

    #[test]
    fn a_damaged_recipient_slot_never_gives_other_keys(
        place in any::<prop::sample::Index>(), change in 1..=255u8, cut in any::<prop::sample::Index>()
    ) {
        let whole = crate::keys::tests::unhex(AGE_SLOT);
        let mut bytes = whole.clone();
        let place = place.index(bytes.len());
        bytes[place] ^= change;
        for bytes in [&bytes[..], &whole[..cut.index(whole.len())]] {
            if let Ok(slot) = Slot::parse(bytes) {
                prop_assert!(slot.open_with_age_identity(IDENTITY).is_err());
            }
        }
    }

    #[test]
    fn any_label_and_passphrase_round_trip(
        label in "\\PC{0,60}", passphrase in proptest::collection::vec(any::<u8>(), 1..40)
    ) {
        let keys = fixed_set();
        let bytes = seal_with_passphrase(&keys, &meta(&label), &passphrase, CHEAP).unwrap();
        let slot = Slot::parse(&bytes).unwrap();
        prop_assert_eq!(&slot.info().unwrap().label, &label);
        let opened = slot.open_with_passphrase(&passphrase).unwrap();
        prop_assert_eq!(opened.encode().unwrap(), keys.encode().unwrap());
    }
}

const PASSPHRASE_SLOT: &str = "424b5359534c4f5401003e0042424242424242424242424242424242010506766563746f7280f7c4d506400101111111\
    1111111111111111111111111122222222222222222222222200819595034071fa43541ad9a8326ddf24d9702f60e99c\
    d0669c7c19bdc6d7955eeb2fe5b81adfd366cf50e367031d780dfc29cceabe1c1800070e6ceeede7f0ac6819496376ca\
    2645f55f42e061ed4e5300d3c192a4d25cd9282b2353cb712b3ecf10757d42296db29c84510d69";
const KEY_FILE_SLOT: &str = "424b5359534c4f5401003e0042424242424242424242424242424242020506766563746f7280f7c4d506000000111111\
    11111111111111111111111111222222222222222222222222009862ac42cc49c67ece5694890520cda6bb02db998512\
    2108151cedba90e6e5b319dc8d958252a33f72ff1bef09cbc8792617bcc0761629afdd6d7825abd7979e0ad55190afaf\
    2c6753d1cec7a5b7a473509e7907bc85785e5c257a52952d01a1d2a2e633ce7ae4d72fc6a134b0";
const AGE_SLOT: &str = "6167652d656e6372797074696f6e2e6f72672f76310a2d3e2058323535313920424d6f7770314b453163616f594d4f6a\
    787556525a64442b596b43477a356542734867752f416f716669730a417a7746636841704f46564f426656667231574b\
    64655a566134644378496847556a50542b6f48676732410a2d2d2d205930367a435a38666b2f2f69456b46625a77434c\
    456b7245757733725a536c6e4d77374c6165596e77644d0a6000e7f5a5a2251ee77a664f3ea50531da8df6b471c8d0ba\
    0c5f7fbb866308ef0717cc9d4d47b2f6acfed3bb739b1602f238a4b89b84dca153316e9deb689783dfc82f4eaa43dddb\
    36f2396f793f93da641d337f02b26c72a8d15a9ed6f6fd5ca236e540786f6bd99022ad71d245cd4dfa0e8d52153e85ff\
    44261c2251bf1a0ec358b06f406a80b845cc4c7de76346d8e2515b02d6116e9c497b841b15b6662d671b79010d9ca208\
    dde4b57eee70339793f9278d7ec7d2fa53175c0c6177343cbc73fef4f859431819a76c9748550e9d4acc3dced6e77a69\
    6f87a2edd7908269407e44279944fa3cb65b4e467150db2e7336bc096fbc45eeca6f34f7eb4733104ae8418f";
