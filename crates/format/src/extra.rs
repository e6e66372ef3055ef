//! Room for what later releases add to a layout of version 1: texts with bytes.
//!
//! A name is 1 to 64 of `a-z`, `0-9`, `-`. Who does not know one passes over it; but one that is led
//! by `!` is mandatory: who does not know it must refuse all that it stands in. At most
//! [`MAX_ENTRIES`] names and [`MAX_BYTES`] bytes of values. This release knows
//! `parity` and `cold` in a config, and no mandatory one.

use std::collections::BTreeMap;

use crate::wire::{Put as _, Take, WireError};

/// Most names.
pub const MAX_ENTRIES: usize = 64;
/// Most bytes of all values together.
pub const MAX_BYTES: usize = 64 << 10;

/// What later releases add, by name.
pub type Extra = BTreeMap<String, Vec<u8>>;

/// Whether names and sizes are such as the format allows.
#[must_use]
pub fn is_sound(extra: &Extra) -> bool {
    let is_name = |name: &String| {
        let name = name.strip_prefix('!').unwrap_or(name);
        let is_letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=64).contains(&name.len()) && name.bytes().all(is_letter)
    };
    extra.len() <= MAX_ENTRIES
        && extra.keys().all(is_name)
        && extra.values().map(Vec::len).sum::<usize>() <= MAX_BYTES
}

/// The mandatory names, none of which this release knows.
pub fn unknown(extra: &Extra) -> impl Iterator<Item = &str> {
    let names = extra.keys().map(String::as_str);
    names.filter(|name| name.starts_with('!'))
}

/// Refuses what is not sound, and what this release would have to know.
///
/// # Errors
/// [`WireError::Range`], [`WireError::Needs`].
pub fn check(extra: &Extra, what: &'static str) -> Result<(), WireError> {
    if !is_sound(extra) {
        return Err(WireError::Range("an addition"));
    }
    match unknown(extra).next() {
        None => Ok(()),
        Some(name) => Err(WireError::Needs {
            what,
            name: name.to_owned(),
        }),
    }
}

/// Appends additions to a binary layout, as postcard would: their number, then name and value of
/// each, by name.
pub(crate) fn put(out: &mut Vec<u8>, extra: &Extra) {
    out.put_varint(extra.len() as u64);
    for (name, value) in extra {
        out.put_bytes(name.as_bytes());
        out.put_bytes(value);
    }
}

/// Takes additions from a binary layout and refuses what [`check`] does.
pub(crate) fn take(take: &mut Take<'_>, what: &'static str) -> Result<Extra, WireError> {
    let mut extra = Extra::new();
    for _ in 0..take.count(2)? {
        let name = std::str::from_utf8(take.bytes()?).map_err(|_| WireError::Decode("a name"))?;
        let ascends = extra
            .last_key_value()
            .is_none_or(|(last, _)| last.as_str() < name);
        if !ascends || extra.len() == MAX_ENTRIES {
            return Err(WireError::Range("an addition"));
        }
        extra.insert(name.to_owned(), take.bytes()?.to_vec());
    }
    check(&extra, what)?;
    Ok(extra)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_layouts_hold_additions_as_postcard_does() {
        let two: Extra = [("a".to_owned(), vec![1, 2]), ("b-2".to_owned(), vec![])].into();
        for extra in [Extra::new(), of("later", 300), two] {
            let mut out = Vec::new();
            put(&mut out, &extra);
            assert_eq!(postcard::to_stdvec(&extra).as_ref(), Ok(&out));
            let mut from = Take::new(&out);
            assert_eq!(take(&mut from, "pack"), Ok(extra));
            assert_eq!(from.end(), Ok(()));
        }
    }

    #[test]
    fn binary_layouts_refuse_additions_that_are_mandatory_or_out_of_order() {
        let read = |plain: &[u8]| take(&mut Take::new(plain), "pack");
        assert!(read(b"\x02\x01a\x00\x01b\x00").is_ok());
        for wrong in [
            &b"\x02\x01b\x00\x01a\x00"[..],
            b"\x02\x01a\x00\x01a\x00",
            b"\x01\x02!a\x00",
            b"\x01\x01A\x00",
            b"\x01\x01\xff\x00",
            b"\x02\x01a\x00",
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    fn of(name: &str, bytes: usize) -> Extra {
        [(name.to_owned(), vec![0; bytes])].into()
    }

    #[test]
    fn unknown_additions_are_passed_over_but_for_mandatory_ones() {
        assert_eq!(check(&of("later-1", 3), "snapshot"), Ok(()));
        let needs = check(&of("!later", 3), "snapshot").unwrap_err();
        assert_eq!(
            needs.to_string(),
            "a snapshot needs `!later`, which this program does not know: use a newer Backstay"
        );
    }

    #[test]
    fn additions_are_bounded() {
        assert!(is_sound(&of("a", MAX_BYTES)));
        for (name, bytes) in [("a", MAX_BYTES + 1), ("", 0), ("!", 0), ("A", 0), ("a!", 0)] {
            assert!(!is_sound(&of(name, bytes)), "{name}, {bytes}");
        }
        let many = (0..=MAX_ENTRIES).map(|n| (format!("n{n}"), Vec::new()));
        assert!(!is_sound(&many.collect()));
    }
}
