//! Key files are read however they were copied, and a slip of the hand is found and named.

use proptest::prelude::*;

use super::*;
use crate::keys::recovery::{parse_code, recovery_code, recovery_sheet};
use crate::keys::tests::{IDENTITY, fixed_set};
use crate::keys::{Role, Slot, seal_with_secret};

fn meta() -> SlotMeta {
    SlotMeta {
        label: "laptop".to_owned(),
        created: 1_790_000_000,
    }
}

fn secret_of(text: &[u8]) -> Result<Secret, KeyError> {
    match KeyFile::parse(text)? {
        KeyFile::Secret(secret) => Ok(secret),
        other => panic!("{other:?}"),
    }
}

fn refusal(text: &[u8]) -> KeyFileError {
    match KeyFile::parse(text) {
        Err(KeyError::File(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_text_of_key_files_is_frozen() {
    let secret = Secret::new(std::array::from_fn(|at| u8::try_from(at).unwrap()));
    assert_eq!(
        secret_text(RepoId([0x42; 16]), &secret, &meta()).as_str(),
        SECRET_FILE
    );
    assert_eq!(recovery_code(&secret).as_str(), CODE);
    let verifier = fixed_set().subset(Role::Verifier, None).unwrap();
    assert_eq!(
        keys_text(&verifier, &meta())
            .unwrap()
            .lines()
            .last()
            .unwrap(),
        KEYS_LINE
    );
}

#[test]
fn a_secret_file_opens_its_slot() {
    let (keys, secret) = (fixed_set(), Secret::random().unwrap());
    let slot = Slot::parse(&seal_with_secret(&keys, &meta(), &secret).unwrap()).unwrap();
    let file = KeyFile::parse(secret_text(keys.repo(), &secret, &meta()).as_bytes()).unwrap();
    let opened = slot.open(file.credential().unwrap()).unwrap();
    assert_eq!(opened.encode().unwrap(), keys.encode().unwrap());
    let code = KeyFile::parse(recovery_code(&secret).as_bytes()).unwrap();
    slot.open(code.credential().unwrap()).unwrap();
}

#[test]
fn a_keys_file_needs_no_slot() {
    let keys = fixed_set();
    let file = KeyFile::parse(keys_text(&keys, &meta()).unwrap().as_bytes()).unwrap();
    assert!(file.credential().is_none());
    let KeyFile::Keys(read) = file else {
        panic!("{file:?}")
    };
    assert_eq!(read.encode().unwrap(), keys.encode().unwrap());
}

#[test]
fn an_age_identity_file_is_taken_as_age_keygen_writes_it() {
    let text = format!("# created: 2026-01-02T03:04:05Z\n# public key: age1…\n{IDENTITY}\n");
    let KeyFile::AgeIdentity(identities) = KeyFile::parse(text.as_bytes()).unwrap() else {
        panic!()
    };
    assert_eq!(identities.len(), 1);
    let two = format!("{}\r\n{IDENTITY}", IDENTITY.to_lowercase());
    let KeyFile::AgeIdentity(identities) = KeyFile::parse(two.as_bytes()).unwrap() else {
        panic!()
    };
    assert_eq!(identities.len(), 2);
    let wrong = IDENTITY.replace("0MA70", "0MA7Q");
    assert_eq!(
        refusal(wrong.as_bytes()),
        KeyFileError::Mistyped { group: None }
    );
    assert_eq!(
        refusal(b"AGE-SECRET-KEY-PQ-1ABC"),
        KeyFileError::OtherIdentity
    );
}

#[test]
fn layout_does_not_matter() {
    let secret = secret_of(SECRET_FILE.as_bytes()).unwrap();
    let line = SECRET_FILE.lines().last().unwrap();
    let (word, value) = line.split_once(' ').unwrap();
    let (start, end) = value.split_at(20);
    let layouts = [
        format!("\u{feff}{}", SECRET_FILE.replace('\n', "\r\n")),
        format!("\n\n   {word}\t {value}   \n\n"),
        format!("# note\n{word} {start}\n# in between\n  {end}\r\n"),
        line.to_lowercase(),
        format!("{word} {}", value.to_uppercase()),
        word.to_owned() + " " + &value.replace("04", "0 4"),
    ];
    for layout in layouts {
        assert_eq!(secret_of(layout.as_bytes()).unwrap(), secret, "{layout}");
    }
}

#[test]
fn what_is_no_key_file_is_said_clearly() {
    let sheet = recovery_sheet(RepoId([1; 16]), "/srv/backup", "0123-4567");
    let cases: [(&[u8], &str); 10] = [
        (
            sheet.as_bytes(),
            "this is the recovery sheet, not a key file: type the recovery code that it shows, and nothing \
             else, into a file, and give that with --key-file",
        ),
        (b"", "the key file is empty"),
        (b"# only a comment\r\n \n", "the key file is empty"),
        (b"hunter2", "this is not a Backstay key file"),
        (b"\xff\xfeB\x00A\x00", "this is not a Backstay key file"),
        (
            b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@host",
            "this is not a Backstay key file",
        ),
        (b"BACKSTAY-THING-1 00-00", "this is not a Backstay key file"),
        (
            b"BACKSTAY-SECRET-2 00-00",
            "this key file was written by a newer Backstay, which is needed to read it",
        ),
        (
            b"BACKSTAY-SECRET-1 00ff-01020304",
            "the key file has 4 characters where 64 belong: some are missing or doubled",
        ),
        (
            b"age-encryption.org/v1\n-> X25519 \xff",
            "this file is encrypted with age: decrypt it first, with `age -d -i IDENTITY FILE`",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refusal(text).to_string(), message);
    }
}

#[test]
fn one_mistyped_character_is_found() {
    let line = SECRET_FILE.lines().last().unwrap();
    for place in "BACKSTAY-SECRET-1 ".len()..line.len() {
        let mut wrong = line.as_bytes().to_vec();
        wrong[place] = if wrong[place] == b'a' { b'b' } else { b'a' };
        let error = refusal(&wrong);
        let found = matches!(
            error,
            KeyFileError::Mistyped { .. } | KeyFileError::Length { .. }
        );
        assert!(found, "{error} at {place}");
    }
    let wrong = line.replace("0001", "000g");
    let message = "the checksum does not match: a character was mistyped";
    assert_eq!(refusal(wrong.as_bytes()).to_string(), message);
}

#[test]
fn a_recovery_code_is_read_as_people_type_it() {
    let secret = parse_code(CODE).unwrap();
    let sloppy = [
        CODE.to_lowercase(),
        CODE.replace('-', " "),
        CODE.replace('-', ""),
        CODE.replace('0', "O").replace('1', "l"),
        CODE.replace('0', "o").replace('1', "I"),
        CODE.replace('-', "–"),
    ];
    for code in sloppy {
        assert_eq!(parse_code(&code).unwrap(), secret, "{code}");
    }
    let lines = CODE.replacen("-", "\r\n", 6);
    assert_eq!(
        secret_of(format!("# my code\n{lines}\n").as_bytes()).unwrap(),
        secret
    );
}

#[test]
fn a_mistyped_recovery_code_names_the_group() {
    let groups: Vec<&str> = CODE.split('-').collect();
    let mut wrong = groups.clone();
    wrong[6] = "ZZZZ";
    let error = parse_code(&wrong.join("-")).unwrap_err();
    assert_eq!(error, KeyFileError::Mistyped { group: None });

    let mut letters: Vec<char> = CODE.replace('-', "").chars().collect();
    letters[25] = if letters[25] == '7' { '8' } else { '7' };
    let error = parse_code(&letters.iter().collect::<String>()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the checksum does not match: a character was mistyped (look at group 7)"
    );

    let short = parse_code(&CODE[1..]).unwrap_err();
    assert_eq!(
        short,
        KeyFileError::Length {
            found: 55,
            wanted: 56
        }
    );
    assert_eq!(
        parse_code(&CODE.replace('7', "U")).unwrap_err(),
        KeyFileError::NotAKeyFile
    );
}

#[test]
fn the_recovery_sheet_gives_commands_that_can_be_copied() {
    let secret = parse_code(CODE).unwrap();
    let sheet = recovery_sheet(
        RepoId([0x42; 16]),
        "/mnt/my nas/it's",
        &recovery_code(&secret),
    );
    for wanted in [
        "restore list --repo '/mnt/my nas/it'\\''s' --key-file recovery.txt\n",
        "restore run latest --repo '/mnt/my nas/it'\\''s' --key-file recovery.txt --to ./restored\n",
        "Repository:  42424242424242424242424242424242\n",
    ] {
        assert!(sheet.contains(wanted), "{}", sheet.as_str());
    }
    let sheet = recovery_sheet(RepoId([0x42; 16]), "s3://bucket/x", CODE);
    assert!(sheet.contains("--repo s3://bucket/x --key-file"));
    assert!(
        sheet.lines().all(|line| line.len() <= 90),
        "{}",
        sheet.as_str()
    );
    // The two lines of the code, typed as they stand.
    let rows = sheet
        .lines()
        .skip_while(|line| !line.starts_with("Recovery code"))
        .skip(2)
        .take(2);
    let typed = rows.collect::<Vec<_>>().join("\n");
    assert_eq!(secret_of(typed.as_bytes()).unwrap(), secret);
}

proptest! {
    #[test]
    fn reading_random_bytes_is_an_error_not_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), lead in 0..5usize
    ) {
        let leads: [&[u8]; 5] =
            [b"", b"BACKSTAY-SECRET-1 ", b"BACKSTAY-KEYS-1 ", b"AGE-SECRET-KEY-1", b"\xef\xbb\xbf#"];
        prop_assert!(KeyFile::parse(&[leads[lead], &bytes].concat()).is_err());
    }

    #[test]
    fn reading_random_text_is_an_error_not_a_panic(
        text in "(BACKSTAY-(SECRET|KEYS)-1 )?[0-9a-fA-FO -]{0,90}(\\PC|\n){0,20}"
    ) {
        prop_assert!(KeyFile::parse(text.as_bytes()).is_err());
    }

    #[test]
    fn any_secret_survives_its_spellings(bytes in any::<[u8; 32]>()) {
        let secret = Secret::new(bytes);
        prop_assert_eq!(&parse_code(&recovery_code(&secret)).unwrap(), &secret);
        let text = secret_text(RepoId([1; 16]), &secret, &meta());
        prop_assert_eq!(&secret_of(text.as_bytes()).unwrap(), &secret);
    }

    #[test]
    fn one_wrong_character_of_a_code_never_gives_a_secret(
        bytes in any::<[u8; 32]>(), place in 0..56usize, shift in 1..32u8
    ) {
        const LETTERS: &[u8] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        let mut code: Vec<u8> = recovery_code(&Secret::new(bytes)).bytes().filter(|b| *b != b'-').collect();
        let digit = LETTERS.iter().position(|letter| *letter == code[place]).unwrap();
        code[place] = LETTERS[(digit + usize::from(shift)) % 32];
        let error = parse_code(std::str::from_utf8(&code).unwrap()).unwrap_err();
        // A change elsewhere can make the 24 bits of checksum right too: then that group is named.
        prop_assert!(matches!(error, KeyFileError::Mistyped { .. }), "{error:?}");
    }
}

const SECRET_FILE: &str = "\
# Backstay key file: opens a key slot of the repository.\n\
# repository: 42424242424242424242424242424242\n\
# label: laptop\n\
# made: 2026-09-21T14:13:20Z\n\
# Keep it secret, and keep a copy away from the backups.\n\
BACKSTAY-SECRET-1 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f-e1fa650d\n\
";
const CODE: &str = "000G-40R4-0M30-E209-185G-R38E-1W81-24GK-2GAH-C5RR-34D1-P70X-3RFT-QB2G";
const KEYS_LINE: &str = "BACKSTAY-KEYS-1 \
    0142424242424242424242424242424242050000000154680bbd441f822d274b621b7dbcd94bca699705b2ae923c0596\
    fed31d5effa90000015029a3fc01f9eb86a6280076295bd37b58065302e95cd057565544128155020100000000-92d4896c";
