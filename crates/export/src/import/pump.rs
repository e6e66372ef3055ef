//! From a blocking reader to a stream of segments: a thread of its own reads a few blocks ahead.

use std::io::{self, Read};

use backup_core::context::CancellationToken;
use backup_core::{ErrorKind, Segment, SegmentStream, SourceError};
use bytes::Bytes;
use futures::stream;
use tokio::sync::mpsc;

use super::packing::read_full;

/// Bytes of one segment.
const PIECE: usize = 1 << 20;
/// Segments that are read ahead.
const AHEAD: usize = 2;

/// What a content is passed on in.
pub(crate) enum Piece<'p> {
    /// All that a reader yields.
    Data(&'p mut dyn Read),
    /// So many bytes that are zeros and take no space.
    Hole(u64),
}

/// Passes a piece on; says whether more is wanted.
pub(crate) type Pass<'p> = &'p mut dyn FnMut(Piece<'_>) -> io::Result<bool>;

/// What goes through the queue.
enum Part {
    Bytes(Bytes),
    Hole(u64),
    End,
}

/// The content that `with` passes on. An error while it is read is an error of the stream: then there is no
/// snapshot.
pub(crate) fn segments(
    with: impl FnOnce(Pass<'_>) -> io::Result<()> + Send + 'static,
    subject: String,
    cancel: CancellationToken,
) -> io::Result<SegmentStream> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::Builder::new()
        .name("import".into())
        .spawn(move || {
            let ended = with(&mut |piece| match piece {
                Piece::Data(reader) => read_all(reader, &sender),
                Piece::Hole(bytes) => Ok(sender.blocking_send(Ok(Part::Hole(bytes))).is_ok()),
            });
            // Nobody may wait for it any more.
            let _ = sender.blocking_send(ended.map(|()| Part::End));
        })?;
    let state = State {
        receiver,
        offset: 0,
        subject,
        cancel,
        is_over: false,
    };
    Ok(Box::pin(stream::unfold(state, |mut state| async move {
        let next = state.next().await?;
        Some((next, state))
    })))
}

/// Reads everything; says whether it was taken.
fn read_all(reader: &mut dyn Read, sender: &mpsc::Sender<io::Result<Part>>) -> io::Result<bool> {
    loop {
        let mut piece = vec![0; PIECE];
        let filled = read_full(reader, &mut piece)?;
        piece.truncate(filled);
        if filled == 0 {
            return Ok(true);
        }
        if sender.blocking_send(Ok(Part::Bytes(piece.into()))).is_err() {
            return Ok(false);
        }
    }
}

struct State {
    receiver: mpsc::Receiver<io::Result<Part>>,
    offset: u64,
    subject: String,
    cancel: CancellationToken,
    is_over: bool,
}

impl State {
    async fn next(&mut self) -> Option<Result<Segment, SourceError>> {
        if self.is_over {
            return None;
        }
        let piece = tokio::select! {
            biased;
            () = self.cancel.cancelled() => {
                self.is_over = true;
                return Some(Err(SourceError::new(ErrorKind::Cancelled, "read", &self.subject)));
            }
            piece = self.receiver.recv() => piece,
        };
        match piece {
            Some(Ok(Part::End)) => {
                self.is_over = true;
                None
            }
            Some(Ok(Part::Hole(bytes))) => {
                let from = self.offset;
                self.offset = from.saturating_add(bytes);
                Some(Ok(Segment::Zero(from..self.offset)))
            }
            Some(Ok(Part::Bytes(bytes))) => {
                let offset = self.offset;
                self.offset += bytes.len() as u64;
                Some(Ok(Segment::Data { offset, bytes }))
            }
            Some(Err(error)) => {
                self.is_over = true;
                Some(Err(SourceError::io("read", &self.subject, error)))
            }
            None => {
                self.is_over = true;
                let why = "the reading thread is gone";
                Some(Err(SourceError::new(
                    ErrorKind::Other,
                    "read",
                    &self.subject,
                )
                .because(why)))
            }
        }
    }
}
