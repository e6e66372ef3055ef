//! What can go wrong with keys, worded for those who run backups.

use backup_core::HostId;

use super::keyfile::KeyFileError;
use super::role::{Need, Role};
use super::slot::SlotKind;

/// Something is wrong with a key, or the key is the wrong one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The set at hand does not hold a key that is needed.
    #[error(
        "this key is a {role} key: it cannot {}; use a {} (needed: {needed})",
        .needed.purpose(), .needed.holders()
    )]
    Missing {
        /// The key that is needed.
        needed: Need,
        /// The role of the set at hand.
        role: Role,
    },
    /// The holder is not trusted to remove history.
    #[error(
        "this key is a {role} key: it may not forget or release snapshots; use a maintenance or full key"
    )]
    MayNotForget {
        /// The role of the set at hand.
        role: Role,
    },
    /// Sealing anew takes the keys that read, and those of the newest generation.
    #[error("this key is a {role} key: it cannot seal anew what is stored; use a full key")]
    MayNotReseal {
        /// The role of the set at hand.
        role: Role,
    },
    /// A writer or maintenance key signs for its own host only.
    #[error(
        "this key belongs to host `{has}` and cannot sign for `{wanted}`; use the key made for `{wanted}` or a full key"
    )]
    OtherHost {
        /// The host that the key was made for.
        has: HostId,
        /// The host that was to be signed for.
        wanted: HostId,
    },
    /// A writer or maintenance key is made for one host, and none was named.
    #[error("a writer or maintenance key is made for one host: name the host")]
    HostNeeded,
    /// A host name that cannot stand in a key.
    #[error("a host name has 1 to 255 bytes and no control characters")]
    BadHost,
    /// The secret does not open what it was tried on.
    #[error("wrong passphrase or key: it does not open this")]
    WrongKey,
    /// The slot is opened by something else than what was offered.
    #[error("this key slot is opened by {slot}, not by {offered}")]
    OtherKind {
        /// What opens the slot.
        slot: SlotKind,
        /// What was offered.
        offered: SlotKind,
    },
    /// A key that reads was made before the keys were rotated.
    #[error(
        "this key was made before the keys of the repository were rotated: it is of generation {has}, the repository is at {newest}; use a key that was made since"
    )]
    Outdated {
        /// The generation of the set at hand.
        has: u32,
        /// The newest generation.
        newest: u32,
    },
    /// A key that was made by a rotation that did not come to its end.
    #[error(
        "this key was made by a rotation that was broken off and never counted; use the key that was there before it, and rotate again"
    )]
    Unfinished,
    /// Bytes that are not what they should be.
    #[error("the {what} is damaged: {detail}")]
    Damaged {
        /// What is damaged.
        what: &'static str,
        /// In what way.
        detail: &'static str,
    },
    /// Bytes written by a version that came after this one.
    #[error(
        "the {what} has version {version}, which this Backstay does not know: a newer Backstay is needed"
    )]
    Newer {
        /// What is newer.
        what: &'static str,
        /// The version found.
        version: u32,
    },
    /// Bytes that need something which a later version added to them.
    #[error(
        "the {what} needs `{name}`, which this Backstay does not know: a newer Backstay is needed"
    )]
    Needs {
        /// What needs it.
        what: &'static str,
        /// What it needs.
        name: String,
    },
    /// A slot asks for more work than anyone would set.
    #[error(
        "the key slot asks for {name} = {value}, more than the {limit} that is accepted: it is damaged or was made to do harm"
    )]
    TooCostly {
        /// The name of the parameter.
        name: &'static str,
        /// What the slot asks for.
        value: u32,
        /// The most that is accepted.
        limit: u32,
    },
    /// There is not enough memory for argon2id.
    #[error("opening this key slot takes {mib} MiB of memory, which are not free")]
    NoMemory {
        /// The memory wanted, in MiB.
        mib: u32,
    },
    /// A passphrase without a character.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// Parameters that argon2id does not take.
    #[error(
        "argon2id does not take these parameters: passes 1 or more, lanes 1 or more, memory 8 KiB or more for each lane"
    )]
    BadParams,
    /// A label that cannot stand in a slot.
    #[error("a label has at most 256 bytes and no control characters")]
    BadLabel,
    /// A text that is not an age X25519 recipient.
    #[error("`{0}` is not an age recipient of the form age1…")]
    BadRecipient(String),
    /// A text that is not an age X25519 identity.
    #[error("this is not an age identity of the form AGE-SECRET-KEY-1…")]
    BadIdentity,
    /// Nobody to encrypt to.
    #[error("there is no recipient to encrypt to")]
    NoRecipients,
    /// Too much of something for one object.
    #[error("the {what} would be too large: at most {limit} bytes")]
    TooLarge {
        /// What would be too large.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// A key file or a recovery code that cannot be read.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The cryptographic library refused a step that does not fail on sound machines.
    #[error("the cryptographic library failed to {0}")]
    Crypto(&'static str),
}

impl KeyError {
    /// Refuses additions that are not sound, and those that this release would have to know.
    pub(crate) fn check_extra(extra: &crate::extra::Extra, what: &'static str) -> Result<(), Self> {
        if !crate::extra::is_sound(extra) {
            return Err(Self::damaged(what, "its additions cannot be such"));
        }
        match crate::extra::unknown(extra).next() {
            None => Ok(()),
            Some(name) => Err(Self::Needs {
                what,
                name: name.to_owned(),
            }),
        }
    }

    pub(crate) const fn damaged(what: &'static str, detail: &'static str) -> Self {
        Self::Damaged { what, detail }
    }
}
