//! Writing: a temporary file that becomes the object or goes away.

use backup_core::{ErrorKind, ObjectKey, PutMode};
use bytes::Bytes;

use crate::check::Hash;
use crate::child::Shared;
use crate::control::Control;
use crate::fault::{Fault, Outcome, Wrong, ours};
use crate::log::shown;
use crate::place::Check;

/// The folder of temporary files. No key can name it: no part of a key is led by a dot.
pub(crate) const FOLDER: &str = ".tmp";
const DIGITS: usize = 32;

/// Whether a file of this name in that folder is one of ours.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.len() == DIGITS
        && name
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn random_name() -> Outcome<String> {
    let mut random = [0u8; DIGITS / 2];
    match getrandom::fill(&mut random) {
        Ok(()) => Ok(format!("{FOLDER}/{}", hex::encode(random))),
        Err(_) => ours(ErrorKind::Other, Wrong::Random),
    }
}

/// A file without its final name yet, which is removed when this goes out of scope.
struct Temporary {
    running: Shared,
    fs: String,
    name: String,
    is_gone: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.is_gone || !self.running.is_alive() {
            return;
        }
        // What cannot be removed now is left to the next tidying.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let running = self.running.clone();
            let (fs, name) = (self.fs.clone(), self.name.clone());
            runtime.spawn(async move {
                let control = Control {
                    running: &running,
                    fs: &fs,
                };
                let _ = control.delete(&name).await;
            });
        }
    }
}

/// One put by one child.
pub(crate) struct Put<'a> {
    pub(crate) running: &'a Shared,
    pub(crate) fs: &'a str,
    pub(crate) key: &'a ObjectKey,
    pub(crate) body: &'a Bytes,
    pub(crate) mode: &'a PutMode,
    pub(crate) check: Check,
    /// The hash that the remote has.
    pub(crate) hash: Option<Hash>,
}

impl Put<'_> {
    fn control(&self) -> Control<'_> {
        Control {
            running: self.running,
            fs: self.fs,
        }
    }

    /// Stores the object. `named` is set when rclone was asked to give the file its name: if the answer gets lost, that
    /// may have happened.
    pub(crate) async fn run(&self, named: &mut bool) -> Outcome<()> {
        let control = self.control();
        if *self.mode == PutMode::Create && control.head(self.key.as_str(), None).await?.is_some() {
            return match *named && self.is_ours().await? {
                true => Ok(()),
                false => ours(ErrorKind::Conflict, Wrong::Taken),
            };
        }
        let mut temporary = Temporary {
            running: self.running.clone(),
            fs: self.fs.to_owned(),
            name: random_name()?,
            is_gone: false,
        };
        let sent = self.running.send(&temporary.name, self.body.clone()).await;
        if let Err(fault) = sent {
            return Err(self.explained(fault).await);
        }
        self.compare(&temporary.name).await?;
        *named = true;
        match control.rename(&temporary.name, self.key.as_str()).await {
            Ok(()) => temporary.is_gone = true,
            Err(fault) => return Err(self.explained(fault).await),
        }
        Ok(())
    }

    /// Whether what stands there is what we send.
    async fn is_ours(&self) -> Outcome<bool> {
        let there = self.control().read(self.key.as_str(), None).await?;
        Ok(there == *self.body)
    }

    /// Whether what arrived is what was sent.
    async fn compare(&self, name: &str) -> Outcome<()> {
        let hash = self.hash.filter(|_| self.check == Check::Hash);
        let control = self.control();
        let Some(there) = control.head(name, hash.map(Hash::name)).await? else {
            return ours(ErrorKind::Damaged, Wrong::Vanished);
        };
        let wanted = self.body.len() as u64;
        match u64::try_from(there.size) {
            Ok(found) if found != wanted => {
                return ours(ErrorKind::Damaged, Wrong::Arrived { found, wanted });
            }
            // A remote that does not know its sizes is read back.
            Err(_) => return self.compare_bytes(name).await,
            Ok(_) => {}
        }
        if self.check == Check::Read {
            return self.compare_bytes(name).await;
        }
        let Some(hash) = hash else {
            return Ok(());
        };
        let told = there.hashes.unwrap_or_default();
        match told.get(hash.name()) {
            // Some remotes have the hash of a new file only a while later.
            None => Ok(()),
            Some(told) if told.is_empty() || hash.is_of(told, self.body) => Ok(()),
            Some(_) => ours(ErrorKind::Damaged, Wrong::OtherHash(hash.name())),
        }
    }

    async fn compare_bytes(&self, name: &str) -> Outcome<()> {
        match self.control().read(name, None).await? == *self.body {
            true => Ok(()),
            false => ours(ErrorKind::Damaged, Wrong::OtherBytes),
        }
    }

    /// Where the remote only says that it failed: whether it is full.
    async fn explained(&self, fault: Fault) -> Fault {
        let Fault::Said(text) = &fault else {
            return fault;
        };
        let wanted = self.body.len() as u64;
        match self.control().about().await {
            Ok(room) if room.free.is_some_and(|free| free < wanted) => {
                Fault::Ours(ErrorKind::NoSpace, Wrong::Full(shown(text)))
            }
            _ => fault,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_are_known_and_never_keys() {
        let name = random_name().unwrap();
        assert!(is_temporary(name.strip_prefix(".tmp/").unwrap()), "{name}");
        assert!(ObjectKey::new(name).is_err());
        for other in ["", "keep", &"g".repeat(32), &"a".repeat(31)] {
            assert!(!is_temporary(other), "{other}");
        }
    }
}
