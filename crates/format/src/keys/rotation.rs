//! A rotation: a new generation of the keys that read, and the authority's word for it.
//!
//! The recipients that sessions are wrapped to stand in every set that writes. So that a rotation does
//! not have to reach every writer by hand, the newest config lists all recipients too, signed by the
//! repository's authority ([`KeySet::sign_recipients`]): whoever holds no more than the index key can
//! write a config, and must not be able to name a recipient of their own.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use backup_core::RepoId;

use super::agefile::Recipient;
use super::authority;
use super::error::KeyError;
use super::role::Need;
use super::set::KeySet;

const PURPOSE: &[u8] = b"backstay recipients v1";

/// The authority's signature over the recipients of a repository.
pub type RecipientsSignature = [u8; 64];

impl KeySet {
    /// The authority's word that these are the recipients of the repository, of all epochs, oldest
    /// first.
    ///
    /// # Errors
    /// [`KeyError::Missing`] when this is not a full set, [`KeyError::TooLarge`] for more than a config
    /// holds.
    pub fn sign_recipients(
        &self,
        recipients: &[Recipient],
    ) -> Result<RecipientsSignature, KeyError> {
        let root = self.root.as_ref().ok_or(KeyError::Missing {
            needed: Need::Root,
            role: self.role,
        })?;
        let pair = authority::key_pair(self.repo, root)?;
        let signature = pair.sign(&message(self.repo, recipients)?);
        signature
            .as_ref()
            .try_into()
            .map_err(|_| KeyError::Crypto("sign the recipients"))
    }

    /// Whether the repository's authority signed these recipients.
    #[must_use]
    pub fn knows_recipients(&self, recipients: &[Recipient], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.authority);
        let message = message(self.repo, recipients);
        message.is_ok_and(|message| key.verify(&message, signature).is_ok())
    }
}

fn message(repo: RepoId, recipients: &[Recipient]) -> Result<Vec<u8>, KeyError> {
    let too_large = |_| KeyError::TooLarge {
        what: "list of recipients",
        limit: usize::from(u16::MAX),
    };
    let mut out = [&[PURPOSE.len() as u8][..], PURPOSE, &[1], repo.as_bytes()].concat();
    let count = u16::try_from(recipients.len()).map_err(too_large)?;
    out.extend_from_slice(&count.to_be_bytes());
    for recipient in recipients {
        let text = recipient.to_string();
        let length = u16::try_from(text.len()).map_err(too_large)?;
        out.extend_from_slice(&recipient.epoch().to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    Ok(out)
}
