//! Writing: a temporary file that becomes the object or goes away. The crate's page says what goes over the line when.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use backup_core::{ErrorKind, ObjectKey, PutMode};
use bytes::Bytes;

use crate::fault::{Fault, Outcome, Wrong};
use crate::folder::{Place, split};
use crate::session::{Opened, Session, Ticket};
use crate::wire::{self, Attributes, Code, FileKind, Request};

/// Mode of the files that we make.
const FILE_MODE: u32 = 0o600;

/// How many writes are under way at once; the window of the connection is the real bound.
const WRITES: usize = 32;

/// How often a file is put in the place of another that others put back there.
const REPLACE_TRIES: usize = 100;

/// How the names of temporary files begin. No key can name one: no part of a key is led by a dot. Those of a folder on a
/// local disk are the same, so a folder can be used both ways.
const TEMPORARY: &str = ".tmp-";
const DIGITS: usize = 32;

/// Whether a file of this name is one of our temporary files.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.strip_prefix(TEMPORARY).is_some_and(|rest| {
        rest.len() == DIGITS
            && rest
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

fn random_name() -> Outcome<String> {
    let mut random = [0u8; DIGITS / 2];
    getrandom::fill(&mut random).map_err(|_| Fault::Ours(ErrorKind::Other, Wrong::WriteFailed))?;
    Ok(format!("{TEMPORARY}{:032x}", u128::from_be_bytes(random)))
}

/// A file without its final name yet; its own name is removed when this goes out of scope.
struct Temporary<'a> {
    session: &'a Session,
    path: String,
    is_gone: bool,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.is_gone {
            // What cannot be removed now is left to the next tidying.
            self.session.post(&Request::Remove(&self.path));
        }
    }
}

/// One put on one session.
pub(crate) struct Put<'a> {
    pub(crate) place: &'a Place,
    pub(crate) session: &'a Session,
    pub(crate) key: &'a ObjectKey,
    pub(crate) body: &'a Bytes,
    pub(crate) mode: &'a PutMode,
}

type Begun<'a> = (Opened<'a>, Vec<Opened<'a>>);

impl<'a> Put<'a> {
    /// Stores the object. `named` is set when the server was asked to give the file its name: if the answer gets lost,
    /// that may have happened.
    pub(crate) async fn run(&self, named: &mut bool) -> Outcome<()> {
        self.place.take_away_left_over(self.session).await?;
        let (folder, _) = split(self.key);
        let path = self.place.path_of(&format!("{folder}{}", random_name()?));
        let mut temporary = Temporary {
            session: self.session,
            path: path.clone(),
            is_gone: false,
        };
        let done = self.store(&mut temporary, named).await;
        if let Err(Fault::Lost(_)) = done {
            temporary.is_gone = true;
            self.place.leave(path);
        }
        done
    }

    async fn store(&self, temporary: &mut Temporary<'a>, named: &mut bool) -> Outcome<()> {
        let target = self.place.path_of(self.key.as_str());
        let begun = match self.begin(&temporary.path, &target).await {
            Err(fault) if fault.is_absent() => {
                let made = self.place.make_folders(self.session, self.key).await;
                if made.is_err() {
                    temporary.is_gone = true;
                }
                made?;
                match self.begin(&temporary.path, &target).await {
                    // That a folder cannot be made and that it is there are one answer.
                    Err(fault) if fault.is_absent() => {
                        let wanted = self.body.len() as u64;
                        match self.place.room_for(self.session, wanted).await {
                            Err(why @ Fault::Ours(..)) => Err(why),
                            _ => Err(fault),
                        }
                    }
                    begun => begun,
                }
            }
            begun => begun,
        };
        let (file, folders) = match begun {
            Ok(begun) => begun,
            Err(fault) => {
                // There is none, unless what failed was something else.
                temporary.is_gone = matches!(fault, Fault::Status(_));
                return Err(self.begin_failed(fault).await);
            }
        };
        self.place.saw_root();
        self.fill(file, &temporary.path).await?;
        *named = true;
        match self.mode {
            PutMode::Create => self.create(temporary, &target, folders).await,
            _ => self.replace(temporary, &target, folders).await,
        }
    }

    /// Makes the file, opens the folders that are to be synced, and looks whether the name is taken, all at once.
    async fn begin(&self, temporary: &str, target: &str) -> Outcome<Begun<'a>> {
        let session = self.session;
        let request = Request::Open {
            path: temporary,
            flags: wire::WRITE_NEW,
            mode: Some(FILE_MODE),
        };
        let file = session.ask(&request).await?;
        let there = session.ask(&Request::LinkStat(target)).await?;
        let (folder, _) = split(self.key);
        let folders = self.place.open_for_sync(session, folder).await?;
        let file = file.handle().await?;
        let folders = self.place.opened(folders).await?;
        match there.attributes().await {
            Err(fault) if fault.is_absent() => {}
            Err(fault) => return Err(fault),
            Ok(found) if found.kind() == Some(FileKind::Folder) => {
                let wrong = Wrong::IsFolder(self.key.to_string());
                return Err(Fault::Ours(ErrorKind::Invalid, wrong));
            }
            // Saves writing what would be refused in the end.
            Ok(_) if *self.mode == PutMode::Create => return Err(taken()),
            Ok(_) => {}
        }
        Ok((file, folders))
    }

    async fn begin_failed(&self, fault: Fault) -> Fault {
        let (place, session) = (self.place, self.session);
        match place.or_below_object(session, self.key, fault).await {
            fault @ Fault::Status(_) => {
                let wanted = self.body.len() as u64;
                place.explain(session, fault, wanted).await
            }
            fault => fault,
        }
    }

    /// Writes and syncs the file, closes it, and asks for its size again: all of it goes out without waiting.
    async fn fill(&self, file: Opened<'a>, path: &str) -> Outcome<()> {
        let session = self.session;
        let mut written: VecDeque<Ticket<'_>> = VecDeque::new();
        let piece = session.features.write_piece as usize;
        let mut offset = 0u64;
        for data in self.body.chunks(piece) {
            if written.len() == WRITES
                && let Some(first) = written.pop_front()
            {
                self.explained(first.done().await).await?;
            }
            let request = Request::Write {
                handle: &file.handle,
                offset,
                data,
            };
            written.push_back(session.ask(&request).await?);
            offset += data.len() as u64;
        }
        if session.features.sync {
            written.push_back(session.ask(&Request::Sync(&file.handle)).await?);
        }
        written.push_back(file.close().await?);
        let size = session.ask(&Request::LinkStat(path)).await?;
        for ticket in written {
            self.explained(ticket.done().await).await?;
        }
        match size.attributes().await? {
            Attributes {
                size: Some(found), ..
            } if found != offset => Err(Fault::Ours(
                ErrorKind::Damaged,
                Wrong::Arrived {
                    found,
                    wanted: offset,
                },
            )),
            _ => Ok(()),
        }
    }

    async fn explained(&self, done: Outcome<()>) -> Outcome<()> {
        match done {
            Ok(()) => Ok(()),
            Err(fault) => {
                let wanted = self.body.len() as u64;
                Err(self.place.explain(self.session, fault, wanted).await)
            }
        }
    }

    /// Names the file, if nothing has that name. A link has one winner on every server that knows it. Where none is
    /// known, or the file system has none, it is a rename, which OpenSSH does not do over a file.
    async fn create(
        &self,
        temporary: &mut Temporary<'a>,
        target: &str,
        folders: Vec<Opened<'a>>,
    ) -> Outcome<()> {
        let (place, session) = (self.place, self.session);
        if session.features.hard_link {
            // Before it is known that links work here the file must not be removed behind one.
            let at_once = place.has_linked.load(Ordering::Relaxed);
            let link = Request::HardLink(&temporary.path, target);
            let link = session.ask(&link).await?;
            let followers = match at_once {
                true => Some(self.followers(temporary, &folders).await?),
                false => None,
            };
            match link.done().await {
                Ok(()) => {
                    place.has_linked.store(true, Ordering::Relaxed);
                    let followers = match followers {
                        Some(followers) => followers,
                        None => self.followers(temporary, &folders).await?,
                    };
                    return self.last(followers).await;
                }
                Err(fault @ Fault::Lost(_)) => return Err(fault),
                Err(fault) => {
                    if self.is_there(target).await? {
                        return Err(taken());
                    }
                    if at_once {
                        place.has_linked.store(false, Ordering::Relaxed);
                        // The file is gone; the next try goes step by step.
                        return Err(Fault::absent());
                    }
                    if let Fault::Ours(..) = fault {
                        return Err(fault);
                    }
                }
            }
        }
        let request = Request::Rename(&temporary.path, target);
        match session.ask(&request).await?.done().await {
            Ok(()) => temporary.is_gone = true,
            Err(fault @ Fault::Status(_)) if !matches!(fault, Fault::Status(Code::NoSuchFile)) => {
                if self.is_there(target).await? {
                    return Err(taken());
                }
                return Err(self.place.explain(session, fault, 0).await);
            }
            Err(fault) => return Err(fault),
        }
        let syncs = place.sync(session, &folders).await?;
        place.synced_now(syncs, split(self.key).0).await
    }

    /// Removes the temporary name and syncs the folders.
    async fn followers(
        &self,
        temporary: &mut Temporary<'a>,
        folders: &[Opened<'a>],
    ) -> Outcome<(Ticket<'a>, Vec<Ticket<'a>>)> {
        let remove = self.session.ask(&Request::Remove(&temporary.path)).await?;
        temporary.is_gone = true;
        Ok((remove, self.place.sync(self.session, folders).await?))
    }

    async fn last(&self, (remove, syncs): (Ticket<'a>, Vec<Ticket<'a>>)) -> Outcome<()> {
        match remove.done().await {
            // A second name of the object is left to the next tidying.
            Ok(()) | Err(Fault::Status(_)) => {}
            Err(fault) => return Err(fault),
        }
        self.place.synced_now(syncs, split(self.key).0).await
    }

    /// Names the file, whatever had that name before.
    async fn replace(
        &self,
        temporary: &mut Temporary<'a>,
        target: &str,
        folders: Vec<Opened<'a>>,
    ) -> Outcome<()> {
        let (place, session) = (self.place, self.session);
        if session.features.rename_over {
            let rename = Request::RenameOver(&temporary.path, target);
            let rename = session.ask(&rename).await?;
            let syncs = place.sync(session, &folders).await?;
            match rename.done().await {
                Ok(()) => temporary.is_gone = true,
                Err(fault) => return Err(place.explain(session, fault, 0).await),
            }
            return place.synced_now(syncs, split(self.key).0).await;
        }
        self.remove_and_rename(temporary, target).await?;
        let syncs = place.sync(session, &folders).await?;
        place.synced_now(syncs, split(self.key).0).await
    }

    /// A server that has no rename over a file has the old one removed before, so for a moment there is none. Others who
    /// do the same may come between.
    async fn remove_and_rename(&self, temporary: &mut Temporary<'a>, target: &str) -> Outcome<()> {
        let session = self.session;
        let mut tries = 0;
        loop {
            tries += 1;
            let removed = session.ask(&Request::Remove(target)).await?;
            let rename = Request::Rename(&temporary.path, target);
            let renamed = session.ask(&rename).await?.done().await;
            match removed.done().await {
                Err(fault) if !fault.is_absent() => return Err(fault),
                _ => {}
            }
            match renamed {
                Ok(()) => {
                    temporary.is_gone = true;
                    return Ok(());
                }
                Err(Fault::Status(Code::Failure))
                    if tries < REPLACE_TRIES && self.is_there(target).await? => {}
                Err(fault) => return Err(self.place.explain(session, fault, 0).await),
            }
        }
    }

    async fn is_there(&self, target: &str) -> Outcome<bool> {
        let found = self.session.ask(&Request::LinkStat(target)).await?;
        match found.attributes().await {
            Ok(_) => Ok(true),
            Err(fault) if fault.is_absent() => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

fn taken() -> Fault {
    Fault::Ours(ErrorKind::Conflict, Wrong::Taken)
}

/// Deletes an object; one that is not there is success.
pub(crate) async fn delete(place: &Place, session: &Session, key: &ObjectKey) -> Outcome<()> {
    let path = place.path_of(key.as_str());
    let (folder, _) = split(key);
    let folders = place.open_for_sync(session, folder).await?;
    let remove = session.ask(&Request::Remove(&path)).await?;
    let folders = place.opened(folders).await?;
    match remove.done().await {
        Ok(()) => {
            let syncs = place.sync(session, &folders).await?;
            return place.synced_now(syncs, folder).await;
        }
        Err(fault) if fault.is_absent() => {
            return match place.or_no_root(session, fault).await {
                fault if fault.is_absent() => Ok(()),
                fault => Err(fault),
            };
        }
        Err(fault @ Fault::Status(_)) => {
            // A folder is no object, nor is what would be below one; so there is none of that name.
            let found = session
                .ask(&Request::LinkStat(&path))
                .await?
                .attributes()
                .await;
            match found {
                Ok(found) if found.kind() == Some(FileKind::Folder) => Ok(()),
                Err(other) if other.is_absent() => Ok(()),
                _ => match place.or_below_object(session, key, fault).await {
                    Fault::Ours(_, Wrong::BelowObject(_)) => Ok(()),
                    fault => Err(place.explain(session, fault, 0).await),
                },
            }
        }
        Err(fault) => Err(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_are_known_and_never_keys() {
        let name = random_name().unwrap();
        assert!(is_temporary(&name), "{name}");
        assert_ne!(name, random_name().unwrap());
        assert!(ObjectKey::new(name.clone()).is_err());
        for other in [".tmp-", ".tmp-precious", "tmp-00", &name[1..], &name[..36]] {
            assert!(!is_temporary(other), "{other}");
        }
    }
}
