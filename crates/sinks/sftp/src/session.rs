//! One SFTP session: many requests under way at once over one channel, each with its own answer.
//!
//! A caller hands a request over ([`Session::ask`]) and gets a [`Ticket`], with which it waits for the answer when it
//! needs it; so requests go out one behind the other without waiting. OpenSSH carries them out in this order. Two tasks
//! move the bytes: one takes requests from a short queue and writes them as the window allows, one hands out answers.
//! When either ends, the session is over, and every ticket says why.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backup_core::ErrorKind;
use backup_core::context::CancellationToken;
use bytes::{Bytes, BytesMut};
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::fault::{Fault, Outcome, Wrong};
use crate::wire::{self, Attributes, Code, FileSystem, Name, Reply, Request};

/// How many requests wait to be written; each has at most one piece of an object.
const QUEUE: usize = 16;
/// The number of the last request of all.
const LAST: u32 = u32::MAX;
/// How long what is left over may take to be written once nobody has the session any more.
const PARTING: Duration = Duration::from_secs(5);

/// Up to so many bytes small requests go out in one packet.
const COALESCE: usize = 32 << 10;

/// What every server takes at least in one read or write.
const SAFE_PIECE: u32 = 32 << 10;

/// More brings nothing, and keeps small requests waiting behind it.
const MAX_PIECE: u32 = 128 << 10;

/// No server needs smaller ones, whatever it says: each piece of what is asked for ahead costs memory here.
const MIN_PIECE: u32 = 4 << 10;

/// How much of what a server writes to its error stream is kept to be shown.
const MAX_COMPLAINT: usize = 400;

/// What a server has of OpenSSH's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features {
    pub(crate) rename_over: bool,
    pub(crate) hard_link: bool,
    pub(crate) sync: bool,
    pub(crate) room: bool,
    pub(crate) read_piece: u32,
    pub(crate) write_piece: u32,
}

struct Shared {
    host: String,
    waiting: Mutex<Waiting>,
    /// When the server was last heard of, in milliseconds since `begun`.
    heard: AtomicU64,
    begun: Instant,
    /// Whether anything was sent whose answer nobody waits for.
    has_posted: AtomicBool,
    /// Nobody has the session any more.
    left: CancellationToken,
    over: CancellationToken,
}

#[derive(Default)]
struct Waiting {
    tickets: HashMap<u32, oneshot::Sender<Reply>>,
    /// Why the session is over.
    over: Option<Wrong>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, wrong: Wrong) {
        let mut waiting = self.waiting();
        waiting.over.get_or_insert(wrong);
        // First: whoever is woken below must not take this session for one that can be used.
        self.over.cancel();
        waiting.tickets.clear();
    }

    fn lost(&self, why: impl Into<String>) -> Wrong {
        Wrong::Lost {
            host: self.host.clone(),
            why: why.into(),
        }
    }

    fn fault(&self) -> Fault {
        match self.waiting().over.clone() {
            Some(wrong @ (Wrong::NoSubsystem(_) | Wrong::Malformed(_))) => {
                Fault::Ours(ErrorKind::Other, wrong)
            }
            Some(wrong) => Fault::Lost(wrong),
            None => Fault::Lost(self.lost("the session ended")),
        }
    }

    fn heard_of(&self) {
        let since = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(since, Ordering::Relaxed);
    }

    fn last_heard(&self) -> Instant {
        self.begun + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }
}

/// A session with a server.
pub(crate) struct Session {
    requests: mpsc::Sender<Bytes>,
    shared: Arc<Shared>,
    next: AtomicU32,
    pub(crate) features: Features,
    patience: Duration,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("host", &self.shared.host)
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // What was posted is still written ([`write`]).
        self.shared.left.cancel();
    }
}

impl Session {
    /// Begins a session on a channel that is open. `keep` lives as long as the session does.
    pub(crate) async fn begin(
        channel: Channel<Msg>,
        keep: impl Send + 'static,
        host: &str,
        patience: Duration,
    ) -> Outcome<Self> {
        let shared = Arc::new(Shared {
            host: host.to_owned(),
            waiting: Mutex::default(),
            heard: AtomicU64::new(0),
            begun: Instant::now(),
            has_posted: AtomicBool::new(false),
            left: CancellationToken::new(),
            over: CancellationToken::new(),
        });
        let begun = channel.request_subsystem(true, "sftp").await;
        begun.map_err(|error| Fault::Lost(shared.lost(error.to_string())))?;
        let (reader, writer) = channel.split();
        let (requests, queue) = mpsc::channel(QUEUE);
        tokio::spawn(read(reader, shared.clone(), requests.downgrade(), keep));
        tokio::spawn(write(writer, shared.clone(), queue));
        let mut session = Self {
            requests,
            shared,
            // 0 is the greeting's.
            next: AtomicU32::new(1),
            features: Features {
                rename_over: false,
                hard_link: false,
                sync: false,
                room: false,
                read_piece: SAFE_PIECE,
                write_piece: SAFE_PIECE,
            },
            patience,
        };
        session.greet().await?;
        Ok(session)
    }

    async fn greet(&mut self) -> Outcome<()> {
        let hello = self.submit(0, wire::hello()).await?;
        let Reply::Version(version, extensions) = hello.reply().await? else {
            return Err(wire::Malformed("it does not begin with its version").into());
        };
        if version != wire::VERSION {
            return Err(Fault::Ours(ErrorKind::Other, Wrong::Version(version)));
        }
        let has = |name: &str| extensions.iter().any(|extension| extension == name);
        self.features.rename_over = has(Request::RenameOver("", "").extension());
        self.features.hard_link = has(Request::HardLink("", "").extension());
        self.features.sync = has(Request::Sync(&Bytes::new()).extension());
        self.features.room = has(Request::Room("").extension());
        if has(Request::Limits.extension())
            && let Reply::Extended(told) = self.ask(&Request::Limits).await?.reply().await?
        {
            let (read, write) = wire::limits(told)?;
            self.features.read_piece = piece(read);
            self.features.write_piece = piece(write);
        }
        Ok(())
    }

    /// Whether requests are still answered.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.over.is_cancelled()
    }

    /// Sends a request, behind those that were sent before.
    pub(crate) async fn ask(&self, request: &Request<'_>) -> Outcome<Ticket<'_>> {
        let number = self.number();
        self.submit(number, request.packet(number)).await
    }

    /// Sends a request whose answer nobody waits for: what is left over is tidied up, also by who is being dropped.
    pub(crate) fn post(&self, request: &Request<'_>) {
        self.shared.has_posted.store(true, Ordering::Relaxed);
        let packet = request.packet(self.number());
        if let Err(mpsc::error::TrySendError::Full(packet)) = self.requests.try_send(packet)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let requests = self.requests.clone();
            runtime.spawn(async move { requests.send(packet).await });
        }
    }

    fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    async fn submit(&self, number: u32, packet: Bytes) -> Outcome<Ticket<'_>> {
        let (ticket, answer) = oneshot::channel();
        {
            let mut waiting = self.shared.waiting();
            if waiting.over.is_none() {
                waiting.tickets.insert(number, ticket);
            }
        }
        let asked = Instant::now();
        loop {
            if self.is_over() {
                return Err(self.shared.fault());
            }
            match tokio::time::timeout(self.patience, self.requests.reserve()).await {
                Ok(Ok(place)) => {
                    place.send(packet);
                    break;
                }
                Ok(Err(_)) => return Err(self.shared.fault()),
                Err(_) => self.give_up_if_silent(asked),
            }
        }
        Ok(Ticket {
            session: self,
            answer,
            asked: Instant::now(),
        })
    }

    /// Ends the session if nothing was heard of the server since `asked` for as long as anybody waits.
    fn give_up_if_silent(&self, asked: Instant) {
        let shared = &self.shared;
        if asked.max(shared.last_heard()) + self.patience <= Instant::now() {
            shared.end(Wrong::NoAnswer {
                host: shared.host.clone(),
                seconds: self.patience.as_secs(),
            });
        }
    }
}

/// An answer that is to come.
pub(crate) struct Ticket<'a> {
    session: &'a Session,
    answer: oneshot::Receiver<Reply>,
    asked: Instant,
}

impl<'a> Ticket<'a> {
    /// Waits for the answer, as long as the server answers anything.
    pub(crate) async fn reply(mut self) -> Outcome<Reply> {
        let shared = &self.session.shared;
        loop {
            let deadline = self.asked.max(shared.last_heard()) + self.session.patience;
            tokio::select! {
                answer = &mut self.answer => return answer.map_err(|_| shared.fault()),
                () = tokio::time::sleep_until(deadline) => {}
            }
            self.session.give_up_if_silent(self.asked);
        }
    }

    /// Waits for a word that it was done.
    pub(crate) async fn done(self) -> Outcome<()> {
        match self.reply().await? {
            Reply::Status(Code::Ok) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Waits for a handle.
    pub(crate) async fn handle(self) -> Outcome<Opened<'a>> {
        let session = self.session;
        match self.reply().await? {
            Reply::Handle(handle) => Ok(Opened {
                session,
                handle,
                is_closed: false,
            }),
            other => Err(unexpected(other)),
        }
    }

    /// Waits for what is known of a file.
    pub(crate) async fn attributes(self) -> Outcome<Attributes> {
        match self.reply().await? {
            Reply::Attributes(found) => Ok(found),
            other => Err(unexpected(other)),
        }
    }

    /// Waits for a piece of a file; none at its end.
    pub(crate) async fn data(self) -> Outcome<Option<Bytes>> {
        match self.reply().await? {
            Reply::Data(data) => Ok(Some(data)),
            Reply::Status(Code::End) => Ok(None),
            other => Err(unexpected(other)),
        }
    }

    /// Waits for some names of a folder; none at its end.
    pub(crate) async fn names(self) -> Outcome<Option<Vec<Name>>> {
        match self.reply().await? {
            Reply::Names(names) => Ok(Some(names)),
            Reply::Status(Code::End) => Ok(None),
            other => Err(unexpected(other)),
        }
    }

    /// Waits for the room of a file system.
    pub(crate) async fn room(self) -> Outcome<FileSystem> {
        match self.reply().await? {
            Reply::Extended(told) => Ok(FileSystem::read(told)?),
            other => Err(unexpected(other)),
        }
    }
}

/// How much is read or written in one piece, of a server that says how much it takes; 0 is without a limit.
fn piece(limit: u64) -> u32 {
    match limit {
        0 => SAFE_PIECE,
        limit => u32::try_from(limit)
            .unwrap_or(MAX_PIECE)
            .clamp(MIN_PIECE, MAX_PIECE),
    }
}

fn unexpected(reply: Reply) -> Fault {
    match reply {
        // The end of something that has none, or a success without what was asked for.
        Reply::Status(Code::Ok | Code::End) => {
            wire::Malformed("an answer does not fit its question").into()
        }
        Reply::Status(code) => Fault::Status(code),
        _ => wire::Malformed("an answer does not fit its question").into(),
    }
}

/// A file or folder that is open on the server; it is closed when this goes out of scope.
pub(crate) struct Opened<'a> {
    session: &'a Session,
    pub(crate) handle: Bytes,
    is_closed: bool,
}

impl<'a> Opened<'a> {
    /// Closes it, behind what was asked of it before.
    pub(crate) async fn close(mut self) -> Outcome<Ticket<'a>> {
        let ticket = self.session.ask(&Request::Close(&self.handle)).await?;
        self.is_closed = true;
        Ok(ticket)
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        if !self.is_closed {
            self.session.post(&Request::Close(&self.handle));
        }
    }
}

/// Ends the session with the task that reads, also if that is dropped with its runtime.
struct EndsWithMe(Arc<Shared>);

impl Drop for EndsWithMe {
    fn drop(&mut self) {
        let wrong = self.0.lost("the session was given up");
        self.0.end(wrong);
    }
}

/// Hands answers to who waits for them.
async fn read(
    mut channel: ChannelReadHalf,
    shared: Arc<Shared>,
    requests: mpsc::WeakSender<Bytes>,
    keep: impl Send + 'static,
) {
    let _ends = EndsWithMe(shared.clone());
    let mut arrived = BytesMut::new();
    let mut complaint = Vec::new();
    let why = loop {
        let message = tokio::select! {
            () = shared.over.cancelled() => break shared.lost("the session was given up"),
            message = channel.wait() => message,
        };
        match message {
            Some(ChannelMsg::Data { data }) => {
                arrived.extend_from_slice(&data);
                shared.heard_of();
                if let Err(malformed) = hand_out(&mut arrived, &shared, &requests) {
                    break malformed.into();
                }
            }
            Some(ChannelMsg::ExtendedData { data, .. }) => {
                let room = MAX_COMPLAINT.saturating_sub(complaint.len());
                complaint.extend_from_slice(&data[..data.len().min(room)]);
            }
            Some(ChannelMsg::Failure) => {
                break Wrong::NoSubsystem("it refuses the subsystem".into());
            }
            Some(ChannelMsg::ExitStatus { exit_status }) if exit_status != 0 => {
                let said = String::from_utf8_lossy(&complaint).trim().to_owned();
                break Wrong::NoSubsystem(format!("its program ended with {exit_status}; {said}"));
            }
            Some(ChannelMsg::Close) | None => break shared.lost("the server closed it"),
            Some(_) => {}
        }
    };
    shared.end(why);
    drop(keep);
}

fn hand_out(
    arrived: &mut BytesMut,
    shared: &Shared,
    requests: &mpsc::WeakSender<Bytes>,
) -> Result<(), wire::Malformed> {
    while let Some(packet) = wire::next_packet(arrived)? {
        let (number, reply) = wire::reply(packet)?;
        let ticket = shared.waiting().tickets.remove(&number);
        // Nobody waits any more for what was cancelled, or for what was only to be tidied up.
        let unwanted = match ticket {
            Some(ticket) => ticket.send(reply).err(),
            None => Some(reply),
        };
        if let (Some(Reply::Handle(handle)), Some(requests)) = (unwanted, requests.upgrade()) {
            // Numbers from above are not met by those that count from below.
            let close = Request::Close(&handle).packet(u32::MAX - 1 - (number & 0xffff));
            let _ = requests.try_send(close);
        }
    }
    Ok(())
}

/// Writes requests as the server's window allows.
async fn write(
    channel: ChannelWriteHalf<Msg>,
    shared: Arc<Shared>,
    mut queue: mpsc::Receiver<Bytes>,
) {
    let over = shared.over.clone();
    let work = async {
        while let Some(first) = queue.recv().await {
            let packet = coalesce(first, &mut queue);
            if let Err(error) = channel.data_bytes(packet).await {
                shared.end(shared.lost(error.to_string()));
                break;
            }
        }
        // Nobody has the session any more. A server that is left may pass over what it has not read yet, so the last
        // request has an answer that is waited for.
        if shared.has_posted.load(Ordering::Relaxed) {
            let (ticket, answer) = oneshot::channel();
            shared.waiting().tickets.insert(LAST, ticket);
            let last = Request::LinkStat(".").packet(LAST);
            if channel.data_bytes(last).await.is_ok() {
                let _ = answer.await;
            }
        }
        let _ = channel.close().await;
        shared.over.cancel();
    };
    let parting = async {
        shared.left.cancelled().await;
        tokio::time::sleep(PARTING).await;
        shared.over.cancel();
    };
    tokio::select! {
        () = over.cancelled() => {}
        () = parting => {}
        () = work => {}
    }
}

/// A request with the small ones that wait behind it.
fn coalesce(first: Bytes, queue: &mut mpsc::Receiver<Bytes>) -> Bytes {
    if first.len() >= COALESCE || queue.is_empty() {
        return first;
    }
    let mut packet = BytesMut::from(&first[..]);
    while packet.len() < COALESCE
        && let Ok(next) = queue.try_recv()
    {
        packet.extend_from_slice(&next);
    }
    packet.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_server_makes_pieces_so_small_that_their_number_counts() {
        for (limit, wanted) in [
            (0, SAFE_PIECE),
            (1, MIN_PIECE),
            (20_000, 20_000),
            (255 << 10, MAX_PIECE),
            (u64::MAX, MAX_PIECE),
        ] {
            assert_eq!(piece(limit), wanted, "{limit}");
        }
    }
}
