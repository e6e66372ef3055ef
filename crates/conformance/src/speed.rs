//! How fast a tier is: what it takes to put, find and read a small object, and how much goes through
//! when large ones are under way.

use std::time::{Duration, Instant};

use backup_core::{ByteRange, ErrorKind, ObjectKey, OpContext, PutMode, Sink, SinkError};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::bench::noise;
use crate::tier::{key, warm};

/// How often each small request is made.
const ROUNDS: usize = 20;
/// The size of a small object in bytes.
const SMALL: usize = 1024;
/// The size of a large object in bytes, at most: that of a pack of content.
const LARGE: u64 = 16 << 20;

/// How long one kind of request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Half of them were faster.
    pub median: Duration,
    /// The slowest.
    pub worst: Duration,
}

/// What was measured. A tier that was just written to may read from memory: then the second figure
/// says more of the way to it than of its disks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Puts of 1 KiB, one after the other.
    pub put: Latency,
    /// Gets of 1 KiB.
    pub get: Latency,
    /// Heads.
    pub head: Latency,
    /// Listings of some 20 objects.
    pub list: Latency,
    /// Deletes.
    pub delete: Latency,
    /// How many requests were under way at once for what follows.
    pub connections: usize,
    /// The bytes of the large objects together.
    pub bytes: u64,
    /// Bytes a second while they were put.
    pub put_rate: f64,
    /// Bytes a second while they were read.
    pub get_rate: f64,
}

/// Measures a tier with large objects of `bytes` together.
///
/// # Errors
/// [`SinkError`] of the first request that failed.
pub async fn measure(sink: &dyn Sink, cx: &OpContext, bytes: u64) -> Result<Speed, SinkError> {
    let small: Vec<ObjectKey> = (0..ROUNDS)
        .map(|number| key(&format!("small/{number:02}")))
        .collect::<Result<_, _>>()?;
    let [mut put, mut get, mut head, mut list, mut delete] = [(); 5].map(|()| Vec::new());
    for (number, key) in small.iter().enumerate() {
        let body = Bytes::from(noise(number as u64, SMALL));
        timed(&mut put, sink.put(cx, key, body, PutMode::Create)).await?;
        warm(sink, cx, key).await?;
    }
    for key in &small {
        timed(&mut head, sink.head(cx, key)).await?;
        timed(&mut get, sink.get(cx, key, ByteRange::Full)).await?;
        timed(
            &mut list,
            sink.list(cx, "small/", None).try_collect::<Vec<_>>(),
        )
        .await?;
    }
    for key in &small {
        timed(&mut delete, sink.delete(cx, key)).await?;
    }
    let connections = sink.info().caps.connections.clamp(1, 32);
    let size = LARGE.min(sink.info().caps.max_put_bytes).min(bytes.max(1));
    let count = bytes.max(1).div_ceil(size);
    let large: Vec<ObjectKey> = (0..count)
        .map(|number| key(&format!("large/{number}")))
        .collect::<Result<_, _>>()?;
    // The same bytes for all: a tier may compress or deduplicate as it likes below a name.
    let body = Bytes::from(noise(77, usize::try_from(size).unwrap_or(0)));
    let begun = Instant::now();
    stream::iter(&large)
        .map(|key| sink.put(cx, key, body.clone(), PutMode::Create))
        .buffer_unordered(connections)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await?;
    let put_rate = rate(size * count, begun);
    for key in &large {
        warm(sink, cx, key).await?;
    }
    let begun = Instant::now();
    stream::iter(&large)
        .map(|key| sink.get(cx, key, ByteRange::Full))
        .buffer_unordered(connections)
        .try_for_each(|found| {
            let is_whole = found == body;
            std::future::ready(is_whole.then_some(()).ok_or_else(|| {
                SinkError::new(ErrorKind::Damaged, "get", "large/")
                    .because("it is not what was put")
            }))
        })
        .await?;
    let get_rate = rate(size * count, begun);
    Ok(Speed {
        put: latency(put),
        get: latency(get),
        head: latency(head),
        list: latency(list),
        delete: latency(delete),
        connections,
        bytes: size * count,
        put_rate,
        get_rate,
    })
}

async fn timed<T>(
    times: &mut Vec<Duration>,
    call: impl Future<Output = Result<T, SinkError>>,
) -> Result<T, SinkError> {
    let begun = Instant::now();
    let answer = call.await;
    times.push(begun.elapsed());
    answer
}

fn latency(mut times: Vec<Duration>) -> Latency {
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    Latency {
        median: at(times.len() / 2),
        worst: at(times.len().saturating_sub(1)),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(bytes: u64, begun: Instant) -> f64 {
    bytes as f64 / begun.elapsed().as_secs_f64().max(1e-9)
}
