//! From a blocking reader to a stream of segments.
//!
//! A thread of its own reads up to a mebibyte at once, straight into the memory that is handed
//! on; a bounded channel lets it run a little ahead. That is faster than a pipe driven by events,
//! and takes any reader. Memory that was let go is used again: the kernel takes about as long to
//! hand out and clear a fresh mebibyte as to fill it from a pipe.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use backup_core::context::CancellationToken;
use backup_core::{ErrorKind, Segment, SegmentStream, SourceError};
use bytes::Bytes;
use futures::stream;
use rustix::pipe::fcntl_setpipe_size;
use tokio::sync::mpsc;

/// Bytes of one segment, and of the pipe where there is one (the most that Linux lets anybody
/// take by its default `fs.pipe-max-size`).
pub(crate) const PIECE: usize = 1 << 20;

/// Segments that are read ahead.
const AHEAD: usize = 3;

/// Buffers that are kept to be used again.
const MOST_SPARE: usize = 8;

/// How far a stream has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    bytes: AtomicU64,
    ended: AtomicBool,
}

impl Progress {
    /// Bytes that were handed over.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Whether it was read to its end.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Makes a pipe hold as much as one segment. Where that is not allowed, or it is no pipe, all
/// works the same and slower.
pub(crate) fn widen(pipe: impl AsFd) {
    let _ = fcntl_setpipe_size(pipe, PIECE);
}

/// Buffers of one piece that nobody uses.
type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

/// A filled buffer that goes back when the last of its bytes is let go.
struct Piece {
    buffer: Vec<u8>,
    filled: usize,
    spare: Spare,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.filled).unwrap_or_default()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE {
            spare.push(std::mem::take(&mut self.buffer));
        }
    }
}

/// Fills a buffer as far as there is something to read.
fn read_piece(reader: &mut impl Read, spare: &Spare) -> io::Result<Bytes> {
    let used = spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut buffer = used.unwrap_or_else(|| vec![0; PIECE]);
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    let piece = Piece {
        buffer,
        filled,
        spare: Arc::clone(spare),
    };
    // A short stream must not hold a mebibyte.
    if filled < PIECE / 4 {
        return Ok(Bytes::copy_from_slice(piece.as_ref()));
    }
    Ok(Bytes::from_owner(piece))
}

/// Reads until the end, an error, or nobody wants more.
fn read_all(mut reader: impl Read, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    let spare = Spare::default();
    loop {
        let piece = read_piece(&mut reader, &spare);
        let last = piece.as_ref().map_or(true, Bytes::is_empty);
        if pieces.blocking_send(piece).is_err() || last {
            return;
        }
    }
}

struct State {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    progress: Arc<Progress>,
    cancel: CancellationToken,
    subject: String,
    over: bool,
}

impl State {
    async fn next(&mut self) -> Option<Result<Segment, SourceError>> {
        if self.over {
            return None;
        }
        let piece = tokio::select! {
            biased;
            () = self.cancel.cancelled() => {
                self.over = true;
                self.pieces.close();
                return Some(Err(SourceError::new(ErrorKind::Cancelled, "read", &self.subject)));
            }
            piece = self.pieces.recv() => piece,
        };
        let broken = || io::Error::other("the reading thread is gone");
        match piece.unwrap_or_else(|| Err(broken())) {
            Ok(bytes) if bytes.is_empty() => {
                self.over = true;
                self.progress.ended.store(true, Ordering::Release);
                None
            }
            Ok(bytes) => {
                let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                let offset = self.progress.bytes.fetch_add(length, Ordering::AcqRel);
                Some(Ok(Segment::Data { offset, bytes }))
            }
            Err(cause) => {
                self.over = true;
                Some(Err(SourceError::io("read", &self.subject, cause)))
            }
        }
    }
}

/// Starts to read and returns what is read as segments, and how far it has come.
pub(crate) fn start(
    reader: impl Read + Send + 'static,
    subject: String,
    cancel: CancellationToken,
) -> io::Result<(SegmentStream, Arc<Progress>)> {
    let (sender, pieces) = mpsc::channel(AHEAD);
    thread::Builder::new()
        .name("stream".into())
        .spawn(move || read_all(reader, &sender))?;
    let progress = Arc::new(Progress::default());
    let state = State {
        pieces,
        progress: Arc::clone(&progress),
        cancel,
        subject,
        over: false,
    };
    let segments = stream::unfold(state, |mut state| async {
        let next = state.next().await?;
        Some((next, state))
    });
    Ok((Box::pin(segments), progress))
}
