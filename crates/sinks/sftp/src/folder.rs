//! The root and the folders below it: making what is missing, so that it lasts, and saying why something cannot be done
//! where the server says only that it failed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use backup_core::{ErrorKind, ObjectKey};

use crate::config::{above, below};
use crate::fault::{Fault, Outcome, Wrong};
use crate::pool::Pool;
use crate::session::{Opened, Session, Ticket};
use crate::wire::{self, Code, FileKind, Request};

/// Mode of the folders that we make.
const FOLDER_MODE: u32 = 0o700;

/// How many folders are remembered as synced. Beyond it all are forgotten, which costs some syncs.
const MAX_REMEMBERED: usize = 1 << 16;

/// How many temporary files are remembered: more than there are puts at once.
const MAX_LEFT_OVER: usize = 1024;

/// What is not known of a server yet, what it can, and what it cannot.
const UNTRIED: u8 = 0;
const WORKS: u8 = 1;
const FAILS: u8 = 2;

/// The folder on the server with what is known of it.
pub(crate) struct Place {
    pub(crate) pool: Pool,
    /// Whether the root was there once.
    root_seen: AtomicBool,
    /// Folders whose names are known to last.
    synced: Mutex<HashSet<String>>,
    /// Whether folders can be synced.
    folder_sync: AtomicU8,
    /// Whether a hard link was made once.
    pub(crate) has_linked: AtomicBool,
    /// Temporary files of connections that broke off.
    left_over: Mutex<Vec<String>>,
}

impl Place {
    pub(crate) fn new(pool: Pool) -> Self {
        Self {
            pool,
            root_seen: AtomicBool::new(false),
            synced: Mutex::default(),
            folder_sync: AtomicU8::new(UNTRIED),
            has_linked: AtomicBool::new(false),
            left_over: Mutex::default(),
        }
    }

    pub(crate) fn root(&self) -> &str {
        &self.pool.config().root
    }

    /// Where an object, or a folder of objects, is on the server; the root for an empty path.
    pub(crate) fn path_of(&self, path: &str) -> String {
        match path.trim_end_matches('/') {
            "" => self.root().to_owned(),
            path => below(self.root(), path),
        }
    }

    /// Remembers the temporary file of a put whose connection broke off. What was on its way to the server may still be
    /// carried out there, also after an hour, if the server only hung: then the file would get its name at last, over
    /// what was stored there since.
    pub(crate) fn leave(&self, temporary: String) {
        let mut left_over = self.left_over();
        if left_over.len() >= MAX_LEFT_OVER {
            left_over.remove(0);
        }
        left_over.push(temporary);
    }

    /// Removes what connections that broke off have left, before anything else is asked. What cannot be removed is left to
    /// the next tidying.
    pub(crate) async fn take_away_left_over(&self, session: &Session) -> Outcome<()> {
        loop {
            let Some(path) = self.left_over().pop() else {
                return Ok(());
            };
            let removed = async { session.ask(&Request::Remove(&path)).await?.done().await };
            if let Err(fault @ Fault::Lost(_)) = removed.await {
                self.leave(path);
                return Err(fault);
            }
        }
    }

    fn left_over(&self) -> MutexGuard<'_, Vec<String>> {
        self.left_over
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn saw_root(&self) {
        self.root_seen.store(true, Ordering::Relaxed);
    }

    /// Says that the root is not there, if it was said of something below it that it is not there and that is why.
    pub(crate) async fn or_no_root(&self, session: &Session, fault: Fault) -> Fault {
        if !fault.is_absent() {
            return fault;
        }
        match self.look_for_root(session).await {
            Ok(()) => fault,
            Err(no_root) => no_root,
        }
    }

    async fn look_for_root(&self, session: &Session) -> Outcome<()> {
        let asked = session.ask(&Request::Stat(self.root())).await?;
        self.root_is_there(asked).await
    }

    /// Whether the root, of which the server was asked, is there and a folder.
    pub(crate) async fn root_is_there(&self, asked: Ticket<'_>) -> Outcome<()> {
        let root = self.root();
        match asked.attributes().await {
            Ok(found) if !matches!(found.kind(), Some(FileKind::Folder) | None) => Err(
                Fault::Ours(ErrorKind::Invalid, Wrong::RootNotFolder(root.to_owned())),
            ),
            Ok(_) => {
                self.saw_root();
                Ok(())
            }
            Err(fault) if fault.is_absent() => {
                let wrong = match self.root_seen.load(Ordering::Relaxed) {
                    true => Wrong::Gone(root.to_owned()),
                    false => Wrong::NoRoot(root.to_owned()),
                };
                Err(Fault::Ours(ErrorKind::NotFound, wrong))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Makes the folders in which an object is to stand.
    pub(crate) async fn make_folders(&self, session: &Session, key: &ObjectKey) -> Outcome<()> {
        match self.look_for_root(session).await {
            Err(Fault::Ours(ErrorKind::NotFound, Wrong::NoRoot(_)))
                if self.pool.config().makes_root =>
            {
                make_with_those_above(session, self.root()).await?;
            }
            looked => looked?,
        }
        let chain = chain(key);
        let mut tickets = Vec::new();
        for folder in &chain {
            let path = self.path_of(folder);
            let request = Request::MakeFolder(&path, FOLDER_MODE);
            tickets.push(session.ask(&request).await?);
        }
        for (ticket, folder) in tickets.into_iter().zip(&chain) {
            match ticket.done().await {
                // That is how OpenSSH says that it is there; if it is not, opening a file in it tells.
                Ok(()) | Err(Fault::Status(Code::Failure)) => {}
                Err(fault) if fault.is_absent() => {}
                Err(fault) => return Err(fault),
            }
            self.synced().remove(folder);
        }
        Ok(())
    }

    /// Why a file cannot be made or written, where the server says only that it failed.
    pub(crate) async fn explain(&self, session: &Session, fault: Fault, wanted: u64) -> Fault {
        if !matches!(fault, Fault::Status(Code::Failure)) || !session.features.room {
            return fault;
        }
        match self.room_for(session, wanted).await {
            Ok(()) => Fault::Ours(ErrorKind::Other, Wrong::WriteFailed),
            Err(fault @ Fault::Ours(..)) => fault,
            Err(_) => fault,
        }
    }

    /// Whether so many bytes, or one more file, have room on the server. Where the root is not there yet, the folder counts
    /// in which it will be.
    pub(crate) async fn room_for(&self, session: &Session, wanted: u64) -> Outcome<()> {
        let mut folder = self.root();
        let found = loop {
            let found = async { session.ask(&Request::Room(folder)).await?.room().await };
            match (found.await, above(folder)) {
                (Err(fault), Some(next)) if fault.is_absent() => folder = next,
                (found, _) => break found?,
            }
        };
        let free = found.available.saturating_mul(found.fragment);
        if found.read_only {
            return Err(Fault::Ours(ErrorKind::Denied, Wrong::ReadOnly));
        }
        if found.blocks > 0 && free < wanted.max(found.fragment) {
            let wrong = Wrong::Full { free, wanted };
            return Err(Fault::Ours(ErrorKind::NoSpace, wrong));
        }
        if found.inodes > 0 && found.inodes_available == 0 {
            return Err(Fault::Ours(ErrorKind::NoSpace, Wrong::NoInodes));
        }
        Ok(())
    }

    /// Says that an object stands where a folder would have to be, if that is why something failed.
    pub(crate) async fn or_below_object(
        &self,
        session: &Session,
        key: &ObjectKey,
        fault: Fault,
    ) -> Fault {
        if !matches!(fault, Fault::Status(Code::Failure | Code::NoSuchFile)) {
            return fault;
        }
        for folder in chain(key) {
            let path = self.path_of(&folder);
            let found = async {
                session
                    .ask(&Request::LinkStat(&path))
                    .await?
                    .attributes()
                    .await
            };
            if let Ok(found) = found.await
                && found.kind() == Some(FileKind::File)
            {
                return Fault::Ours(ErrorKind::Invalid, Wrong::BelowObject(folder));
            }
        }
        fault
    }

    /// Begins to open the folders whose syncing makes an object's name last: its own, and the one above each that this
    /// sink meets for the first time. Nothing if the server cannot do that.
    pub(crate) async fn open_for_sync<'a>(
        &self,
        session: &'a Session,
        folder: &str,
    ) -> Outcome<Vec<Ticket<'a>>> {
        if !session.features.sync || self.folder_sync.load(Ordering::Relaxed) == FAILS {
            return Ok(Vec::new());
        }
        let mut paths = vec![folder.trim_end_matches('/')];
        let mut next = folder.trim_end_matches('/');
        while !next.is_empty() && !self.synced().contains(next) {
            next = next.rsplit_once('/').map_or("", |(above, _)| above);
            paths.push(next);
        }
        let mut tickets = Vec::new();
        for path in paths {
            let path = self.path_of(path);
            let request = Request::Open {
                path: &path,
                flags: wire::READ,
                mode: None,
            };
            tickets.push(session.ask(&request).await?);
        }
        Ok(tickets)
    }

    /// The folders that were opened; a server that does not open folders as files cannot sync them.
    pub(crate) async fn opened<'a>(&self, tickets: Vec<Ticket<'a>>) -> Outcome<Vec<Opened<'a>>> {
        let mut folders = Vec::new();
        for ticket in tickets {
            match ticket.handle().await {
                Ok(folder) => folders.push(folder),
                Err(Fault::Status(Code::NoSuchFile)) => {}
                Err(Fault::Status(_)) => self.folder_sync.store(FAILS, Ordering::Relaxed),
                Err(fault) => return Err(fault),
            }
        }
        Ok(folders)
    }

    /// Asks for folders to be synced.
    pub(crate) async fn sync<'a>(
        &self,
        session: &'a Session,
        folders: &[Opened<'a>],
    ) -> Outcome<Vec<Ticket<'a>>> {
        let mut tickets = Vec::new();
        for folder in folders {
            tickets.push(session.ask(&Request::Sync(&folder.handle)).await?);
        }
        Ok(tickets)
    }

    /// Waits until folders are synced. A server that never could is let off; one that could and fails is not.
    pub(crate) async fn synced_now(&self, tickets: Vec<Ticket<'_>>, folder: &str) -> Outcome<()> {
        let done = !tickets.is_empty();
        for ticket in tickets {
            match ticket.done().await {
                Ok(()) => self.folder_sync.store(WORKS, Ordering::Relaxed),
                Err(Fault::Status(_)) if self.folder_sync.load(Ordering::Relaxed) != WORKS => {
                    self.folder_sync.store(FAILS, Ordering::Relaxed);
                    return Ok(());
                }
                Err(fault) => return Err(fault),
            }
        }
        if done {
            self.remember(folder.trim_end_matches('/'));
        }
        Ok(())
    }

    fn remember(&self, mut folder: &str) {
        let mut synced = self.synced();
        if synced.len() >= MAX_REMEMBERED {
            synced.clear();
        }
        while !folder.is_empty() {
            synced.insert(folder.to_owned());
            folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }

    fn synced(&self) -> MutexGuard<'_, HashSet<String>> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The folders of a key, from the first to the one that it is in.
fn chain(key: &ObjectKey) -> Vec<String> {
    let key = key.as_str();
    let slashes = key.match_indices('/');
    slashes.map(|(at, _)| key[..at].to_owned()).collect()
}

/// A key as the path of its folder (empty, or with a `/` at its end) and the name in it.
pub(crate) fn split(key: &ObjectKey) -> (&str, &str) {
    let key = key.as_str();
    key.split_at(key.rfind('/').map_or(0, |slash| slash + 1))
}

/// Makes a folder and those above it as far as they are missing.
async fn make_with_those_above(session: &Session, folder: &str) -> Outcome<()> {
    let mut missing = Vec::new();
    let mut next = Some(folder);
    while let Some(path) = next {
        let made = async {
            let request = Request::MakeFolder(path, FOLDER_MODE);
            session.ask(&request).await?.done().await
        };
        match made.await {
            Err(fault) if fault.is_absent() => {
                missing.push(path);
                next = above(path);
            }
            // It is there.
            Ok(()) | Err(Fault::Status(Code::Failure)) => break,
            Err(fault) => return Err(fault),
        }
    }
    for path in missing.into_iter().rev() {
        let request = Request::MakeFolder(path, FOLDER_MODE);
        match session.ask(&request).await?.done().await {
            Ok(()) | Err(Fault::Status(Code::Failure)) => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_folders() {
        let key = ObjectKey::new("data/ab/cd").unwrap();
        assert_eq!(chain(&key), ["data", "data/ab"]);
        assert_eq!(split(&key), ("data/ab/", "cd"));
        assert!(chain(&ObjectKey::new("config").unwrap()).is_empty());
    }
}
