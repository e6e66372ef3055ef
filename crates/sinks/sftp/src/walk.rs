//! Walking through the folders: several at once, names as they come in, no more of them in memory than a few answers hold.

use std::collections::VecDeque;
use std::sync::Arc;

use backup_core::{ErrorKind, ObjectKey, ObjectMeta};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;

use crate::fault::{Fault, Outcome, Wrong};
use crate::folder::Place;
use crate::pool;
use crate::session::{Opened, Session, Ticket};
use crate::wire::{Attributes, Code, FileKind, Name, Request};
use crate::write::is_temporary;

/// How many folders are read at once.
const FOLDERS: usize = 16;

/// How many answers are asked for at once, of a folder that has many names.
const AHEAD: usize = 4;

/// How many folders may wait to be read: more than any repository has.
const MAX_WAITING: usize = 1 << 18;

/// What is looked for.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    /// Objects behind a key.
    Objects(Option<ObjectKey>),
    /// What killed puts have left.
    Temporaries,
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Found {
    Object(ObjectMeta),
    Temporary {
        /// Its path on the server.
        path: String,
        /// When it was last written to, in seconds since 1970.
        written: i64,
    },
}

/// Where what is found goes to.
pub(crate) type Out = mpsc::Sender<Outcome<Vec<Found>>>;

/// Begins a walk below `prefix` on a task of its own; it ends when nobody takes any more.
pub(crate) fn begin(
    place: Arc<Place>,
    prefix: &str,
    wanted: Wanted,
) -> Outcome<mpsc::Receiver<Outcome<Vec<Found>>>> {
    let malformed = || Fault::Ours(ErrorKind::Invalid, Wrong::Prefix);
    if let Some(parts) = prefix.strip_suffix('/') {
        ObjectKey::new(parts).map_err(|_| malformed())?;
    } else if !prefix.is_empty() {
        return Err(malformed());
    }
    let (out, found) = mpsc::channel(FOLDERS);
    let walk = Walk {
        place,
        prefix: prefix.to_owned(),
        wanted,
        out,
    };
    tokio::spawn(async move {
        let ended = tokio::select! {
            () = walk.out.closed() => return,
            ended = walk.run() => ended,
        };
        if let Err(fault) = ended {
            // Whoever does not listen any more does not need to know.
            let _ = walk.out.send(Err(fault)).await;
        }
    });
    Ok(found)
}

struct Walk {
    place: Arc<Place>,
    prefix: String,
    wanted: Wanted,
    out: Out,
}

impl Walk {
    async fn run(&self) -> Outcome<()> {
        let mut waiting = vec![self.prefix.clone()];
        let mut reading = FuturesUnordered::new();
        loop {
            while reading.len() < FOLDERS
                && let Some(next) = waiting.pop()
            {
                reading.push(self.folder(next));
            }
            match reading.next().await {
                None => return Ok(()),
                Some(below) => waiting.extend(below?),
            }
            if waiting.len() > MAX_WAITING {
                return Err(Fault::Ours(ErrorKind::Invalid, Wrong::TooManyFolders));
            }
        }
    }

    /// Hands on what is in a folder, and answers with the folders in it. While nothing of it was handed on, a connection
    /// that breaks off is made again.
    async fn folder(&self, path: String) -> Outcome<Vec<String>> {
        let mut attempt = 1;
        loop {
            let session = self.place.pool.lease(0).await?;
            let mut handed_on = false;
            match self.read(&session, &path, &mut handed_on).await {
                Err(fault) if !handed_on && pool::again(&fault, attempt) => attempt += 1,
                read => return read,
            }
        }
    }

    async fn read(
        &self,
        session: &Session,
        path: &str,
        handed_on: &mut bool,
    ) -> Outcome<Vec<String>> {
        let there = self.place.path_of(path);
        let folder = session.ask(&Request::OpenFolder(&there)).await?;
        // Most prefixes under which nothing is are none's mistake; to know it costs no wait.
        let root = match path == self.prefix {
            true => Some(session.ask(&Request::Stat(self.place.root())).await?),
            false => None,
        };
        let folder = match folder.handle().await {
            Ok(folder) => folder,
            Err(fault) => return self.unopened(session, root, &there, fault).await,
        };
        self.place.saw_root();
        let mut below = Vec::new();
        let mut asked = VecDeque::new();
        ask_more(session, &folder, &mut asked, 2).await?;
        while let Some(next) = asked.pop_front() {
            let Some(names) = next.names().await? else {
                break;
            };
            ask_more(session, &folder, &mut asked, AHEAD).await?;
            let mut found = Vec::new();
            for name in names {
                self.take(session, path, name, &mut found, &mut below)
                    .await?;
            }
            if !found.is_empty() {
                *handed_on = true;
                if self.out.send(Ok(found)).await.is_err() {
                    break;
                }
            }
        }
        Ok(below)
    }

    /// Something that is no folder, or not there any more, has nothing in it.
    async fn unopened(
        &self,
        session: &Session,
        root: Option<Ticket<'_>>,
        there: &str,
        fault: Fault,
    ) -> Outcome<Vec<String>> {
        if fault.is_absent() {
            if let Some(root) = root {
                self.place.root_is_there(root).await?;
            }
            return Ok(Vec::new());
        }
        let Fault::Status(Code::Failure) = fault else {
            return Err(fault);
        };
        let found = session.ask(&Request::Stat(there)).await?.attributes().await;
        match found {
            Ok(found) if found.kind() == Some(FileKind::Folder) => Err(fault),
            Ok(_) => Ok(Vec::new()),
            Err(other) if other.is_absent() => Ok(Vec::new()),
            // Above it stands a file.
            Err(Fault::Status(Code::Failure)) => Ok(Vec::new()),
            Err(other) => Err(other),
        }
    }

    async fn take(
        &self,
        session: &Session,
        path: &str,
        name: Name,
        found: &mut Vec<Found>,
        below: &mut Vec<String>,
    ) -> Outcome<()> {
        // Names that are not text, or that no key has, are not ours.
        let Ok(text) = std::str::from_utf8(&name.name) else {
            return Ok(());
        };
        let whole = format!("{path}{text}");
        let is_left_over = is_temporary(text);
        let key = ObjectKey::new(whole.clone());
        if key.is_err() && !is_left_over {
            return Ok(());
        }
        let Some(known) = self.known(session, &whole, name.attributes).await? else {
            return Ok(());
        };
        match (known.kind(), &self.wanted, key) {
            (Some(FileKind::Folder), Wanted::Temporaries, Ok(_)) => below.push(whole + "/"),
            (Some(FileKind::Folder), Wanted::Objects(after), Ok(_))
                if reaches(&whole, after.as_ref()) =>
            {
                below.push(whole + "/");
            }
            (Some(FileKind::File), Wanted::Objects(after), Ok(key))
                if after.as_ref().is_none_or(|after| key > *after) =>
            {
                found.push(Found::Object(ObjectMeta {
                    key,
                    size: known.size.unwrap_or(0),
                    version: None,
                }));
            }
            (Some(FileKind::File), Wanted::Temporaries, Err(_)) => found.push(Found::Temporary {
                path: self.place.path_of(&whole),
                written: known.written.map_or(i64::MAX, i64::from),
            }),
            _ => {}
        }
        Ok(())
    }

    /// What is known of a name: servers that tell little with it are asked for more.
    async fn known(
        &self,
        session: &Session,
        path: &str,
        told: Attributes,
    ) -> Outcome<Option<Attributes>> {
        if told.kind().is_some() && told.size.is_some() {
            return Ok(Some(told));
        }
        let path = self.place.path_of(path);
        match session
            .ask(&Request::LinkStat(&path))
            .await?
            .attributes()
            .await
        {
            Ok(found) => Ok(Some(found)),
            Err(fault) if fault.is_absent() => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

async fn ask_more<'a>(
    session: &'a Session,
    folder: &Opened<'_>,
    asked: &mut VecDeque<Ticket<'a>>,
    count: usize,
) -> Outcome<()> {
    while asked.len() < count {
        let request = Request::ReadFolder(&folder.handle);
        asked.push_back(session.ask(&request).await?);
    }
    Ok(())
}

/// Whether a folder can hold keys behind `after`.
fn reaches(path: &str, after: Option<&ObjectKey>) -> bool {
    let Some(after) = after.map(ObjectKey::as_str) else {
        return true;
    };
    // All keys of the folder begin with the path and a slash.
    let here = after
        .strip_prefix(path)
        .is_some_and(|rest| rest.starts_with('/'));
    here || format!("{path}/").as_str() > after
}
