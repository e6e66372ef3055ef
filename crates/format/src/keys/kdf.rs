//! From a passphrase to a key: argon2id (RFC 9106, version 0x13, no secret, no associated data).

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use super::error::KeyError;
use super::secret::Secret;

/// How much work a guess at a passphrase costs. Stored in the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Params {
    /// Memory in KiB (argon2's m).
    pub memory_kib: u32,
    /// Passes over the memory (argon2's t).
    pub passes: u32,
    /// Lanes (argon2's p).
    pub lanes: u32,
}

impl Argon2Params {
    /// Most memory that is accepted from a slot: 4 GiB.
    pub const MAX_MEMORY_KIB: u32 = 4 << 20;
    /// Most passes that are accepted from a slot.
    pub const MAX_PASSES: u32 = 64;
    /// Most lanes that are accepted from a slot.
    pub const MAX_LANES: u32 = 64;

    /// Refuses parameters beyond the limits, which only a damaged or a hostile slot has.
    ///
    /// # Errors
    /// [`KeyError::TooCostly`], or [`KeyError::BadParams`] for what argon2id does not take.
    pub fn check(self) -> Result<(), KeyError> {
        let limits = [
            (
                "argon2 memory in KiB",
                self.memory_kib,
                Self::MAX_MEMORY_KIB,
            ),
            ("argon2 passes", self.passes, Self::MAX_PASSES),
            ("argon2 lanes", self.lanes, Self::MAX_LANES),
        ];
        for (name, value, limit) in limits {
            if value > limit {
                return Err(KeyError::TooCostly { name, value, limit });
            }
        }
        self.params().map(drop)
    }

    fn params(self) -> Result<Params, KeyError> {
        Params::new(self.memory_kib, self.passes, self.lanes, Some(32))
            .map_err(|_| KeyError::BadParams)
    }

    /// Runs argon2id; takes the stated memory and, with the default, about a second.
    pub(crate) fn derive(self, passphrase: &[u8], salt: &[u8; 16]) -> Result<Secret, KeyError> {
        self.check()?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params()?);
        let mut out = Zeroizing::new([0; 32]);
        argon2
            .hash_password_into(passphrase, salt, out.as_mut_slice())
            .map_err(|error| match error {
                argon2::Error::OutOfMemory => KeyError::NoMemory {
                    mib: self.memory_kib >> 10,
                },
                _ => KeyError::Crypto("run argon2id"),
            })?;
        Ok(Secret::new(*out))
    }
}

/// 128 MiB, eight passes, four lanes: twice the memory and more than twice the passes that RFC 9106
/// (section 4) recommends where memory is scarce, and as long as 256 MiB in four passes; yet opening
/// a repository is not what takes the most memory of a run.
impl Default for Argon2Params {
    fn default() -> Self {
        Self {
            memory_kib: 128 << 10,
            passes: 8,
            lanes: 4,
        }
    }
}
