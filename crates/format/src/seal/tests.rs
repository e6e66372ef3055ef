use proptest::prelude::*;

use super::*;

const REPO: RepoId = RepoId([7; 16]);

fn key() -> BlobKey {
    BlobKey::of_session(REPO, SessionId(5), &[9; 32])
}

fn sealed(raw: &[u8]) -> (ChunkId, Vec<u8>) {
    let id = blob_id(&[1; 32], BlobKind::Data, raw);
    let mut out = Vec::new();
    let mut codec = BlobCodec::new(3).unwrap();
    codec
        .seal(&key(), BlobKind::Data, &id, raw, &mut out)
        .unwrap();
    (id, out)
}

proptest! {
    #[test]
    fn what_is_sealed_opens_to_the_same(raw in prop::collection::vec(0u8..8, 0..50_000)) {
        let (id, bytes) = sealed(&raw);
        let mut plain = vec![1, 2, 3];
        let mut codec = BlobCodec::new(3).unwrap();
        codec.open(&key(), BlobKind::Data, &id, raw.len(), &bytes, &mut plain).unwrap();
        prop_assert_eq!(plain, raw);
        prop_assert_eq!(blob_session(&bytes), Ok(SessionId(5)));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found(at in 0usize..300, bit in 0u8..8) {
        let (id, mut bytes) = sealed(&[b'x'; 5000]);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let mut plain = Vec::new();
        let mut codec = BlobCodec::new(3).unwrap();
        let got = codec.open(&key(), BlobKind::Data, &id, 5000, &bytes, &mut plain);
        prop_assert!(got.is_err() && plain.is_empty());
    }

    #[test]
    fn objects_round_trip_and_damage_is_found(plain: Vec<u8>, at: usize, bit in 0u8..8) {
        let ring = ObjectKeyring::new(REPO, &[3; 32]);
        let mut bytes = ring.seal(ObjectKind::Refs, &plain).unwrap();
        prop_assert_eq!(ring.open(ObjectKind::Refs, &bytes).unwrap(), plain);
        prop_assert!(ring.open(ObjectKind::Session, &bytes).is_err());
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(ring.open(ObjectKind::Refs, &bytes).is_err());
        prop_assert!(ring.open(ObjectKind::Refs, &bytes[..at]).is_err());
    }
}

#[test]
fn an_object_with_an_unknown_eighth_byte_is_refused() {
    let ring = ObjectKeyring::new(REPO, &[3; 32]);
    for (eighth, is_known) in [(0, true), (1, false), (0x80, false)] {
        let mut sealed = [&b"BKSY"[..], &[ObjectKind::Refs as u8, 1, 0, eighth]].concat();
        sealed.extend_from_slice(&5u32.to_le_bytes());
        let (aad, nonce, mut body) = (ring.aad(&sealed), [6u8; 12], b"plain".to_vec());
        let cipher = ring.cipher(ObjectKind::Refs).unwrap();
        cipher
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                &mut body,
            )
            .unwrap();
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        let opened = ring.open(ObjectKind::Refs, &sealed);
        assert_eq!(opened.is_ok(), is_known, "{eighth}: {opened:?}");
    }
}

#[test]
fn no_object_is_larger_than_its_kind_allows() {
    let ring = ObjectKeyring::new(REPO, &[3; 32]);
    for kind in [ObjectKind::Session, ObjectKind::Ledger] {
        let longest = vec![0; kind.max_raw()];
        let sealed = ring.seal(kind, &longest).unwrap();
        assert!(ring.open(kind, &sealed).is_ok());
        assert!(ring.seal(kind, &[&longest[..], &[0]].concat()).is_err());
    }
    // Refused by its header, before anything is made room for.
    let mut sealed = ring.seal(ObjectKind::Ledger, &[0; 1000]).unwrap();
    sealed[8..12].copy_from_slice(&(1u32 << 24).to_le_bytes());
    let opened = ring.open(ObjectKind::Ledger, &sealed);
    assert_eq!(opened, Err(SealError::TooLarge(1 << 24)));
}

/// A blob with this plaintext, codec byte and all, as whoever has the key can make it.
fn forged(id: &ChunkId, raw: usize, plain: &[u8]) -> Vec<u8> {
    let nonce = [6u8; 12];
    let mut body = plain.to_vec();
    let aad = Aad::from(key().aad(BlobKind::Data, id, raw));
    let cipher = key().cipher(BlobKind::Data, id).unwrap();
    cipher
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body)
        .unwrap();
    [&key().session().to_bytes()[..], &nonce, &body].concat()
}

proptest! {
    #[test]
    fn whatever_was_sealed_opens_to_the_stated_length_or_is_refused(
        noise in prop::collection::vec(any::<u8>(), 0..60), at: prop::sample::Index,
        raw in 0usize..3000, zeros in 0usize..3000,
    ) {
        let id = ChunkId([4; 32]);
        let mut frame = zstd::bulk::compress(&vec![0; zeros], 3).unwrap();
        let whole = [&[1], &frame[..]].concat();
        let at = at.index(frame.len());
        frame.iter_mut().skip(at).zip(&noise).for_each(|(byte, noise)| *byte = *noise);
        let damaged = [&[1], &frame[..]].concat();
        let mut codec = BlobCodec::new(3).unwrap();
        for plain in [whole, damaged, [&[0], &noise[..]].concat(), noise] {
            let bytes = forged(&id, raw, &plain);
            let mut out = Vec::new();
            let opened = codec.open(&key(), BlobKind::Data, &id, raw, &bytes, &mut out);
            prop_assert_eq!(out.len(), if opened.is_ok() { raw } else { 0 });
            // The same bytes as they come from a tier, under no key of ours.
            prop_assert!(codec.open(&key(), BlobKind::Data, &id, raw, &plain, &mut out).is_err());
            prop_assert!(ObjectKeyring::new(REPO, &[3; 32]).open(ObjectKind::Refs, &plain).is_err());
        }
    }
}

#[test]
fn a_blob_under_another_id_kind_length_or_repository_does_not_open() {
    let raw = vec![5u8; 100_000];
    let (id, bytes) = sealed(&raw);
    let mut codec = BlobCodec::new(3).unwrap();
    let mut plain = Vec::new();
    let other = BlobKey::of_session(RepoId([8; 16]), SessionId(5), &[9; 32]);
    let length = raw.len();
    assert!(
        codec
            .open(&other, BlobKind::Data, &id, length, &bytes, &mut plain)
            .is_err()
    );
    assert!(
        codec
            .open(&key(), BlobKind::Page, &id, length, &bytes, &mut plain)
            .is_err()
    );
    assert!(
        codec
            .open(&key(), BlobKind::Data, &id, length - 1, &bytes, &mut plain)
            .is_err()
    );
    let wrong = ChunkId([0; 32]);
    assert!(
        codec
            .open(&key(), BlobKind::Data, &wrong, length, &bytes, &mut plain)
            .is_err()
    );
}

#[test]
fn noise_is_stored_as_it_is_and_text_is_compressed() {
    let mut noise = vec![0u8; 1 << 20];
    rand::fill(&mut noise).unwrap();
    assert_eq!(sealed(&noise).1.len(), noise.len() + BLOB_OVERHEAD);
    let text = b"all work and no play ".repeat(50_000);
    assert!(sealed(&text).1.len() < text.len() / 50);
}

#[test]
fn vectors_of_version_1() {
    let id = blob_id(&[1; 32], BlobKind::Data, b"backstay");
    assert_eq!(
        id.to_string(),
        blake3::keyed_hash(&[1; 32], b"\0backstay")
            .to_hex()
            .to_string()
    );
}
