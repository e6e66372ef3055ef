//! The suite on a tier that is in use: in a fresh folder of it, which is taken away at the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backup_core::context::CancellationToken;
use backup_core::{
    ByteRange, ErrorKind, ObjectKey, OpContext, PutMode, Sink, SinkError, SinkInfo, Warmth,
};
use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};

use crate::below::Below;
use crate::bench::Bench;
use crate::cases;
use crate::speed::{Speed, measure};

/// How often a listing that may lag is looked at again while the folder is taken away.
const SWEEPS: usize = 3;

/// What a case says of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It does what it should.
    Passed,
    /// It does not claim the capability that the case is about, and refuses it as it should.
    NotSupported,
    /// What went otherwise than it should.
    Failed(String),
}

/// One case on one tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseReport {
    /// The name of the case.
    pub case: &'static str,
    /// What it says.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
}

/// What [`check_tier`] found.
#[derive(Debug)]
pub struct TierReport {
    /// Who the tier says that it is, and what it says that it can do.
    pub info: SinkInfo,
    /// All cases, in the order in which they were tried.
    pub cases: Vec<CaseReport>,
    /// How fast it was, if that was wanted; or why that cannot be told.
    pub speed: Option<Result<Speed, SinkError>>,
    /// Why objects of the trial may still be in the folder.
    pub left: Option<SinkError>,
}

impl TierReport {
    /// How many cases it failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        let failed = |one: &&CaseReport| matches!(one.verdict, Verdict::Failed(_));
        self.cases.iter().filter(failed).count()
    }
}

/// Why nothing can be said of a tier.
#[derive(Debug, thiserror::Error)]
pub enum CheckFailure {
    /// It cannot be used at all: the first object could not be put, read and deleted.
    #[error("{0}")]
    Unusable(#[source] SinkError),
    /// There are objects in the folder already.
    #[error("{0} is not empty")]
    NotEmpty(ObjectKey),
    /// It was cancelled; the folder was taken away if that could be done.
    #[error("the check was interrupted")]
    Cancelled,
}

/// Runs every case on a tier, each in an empty folder below `folder`, which must be empty and which
/// nobody else may use. `told` hears of each case when it is over. With `speed` some objects of that many bytes
/// together are put and read to measure the tier.
///
/// What the trial puts there it deletes, whatever happens, unless the program is killed or the tier
/// does not answer. Needs room for about 50 MiB and for what `speed` says, and about as much memory.
///
/// # Errors
/// [`CheckFailure`] when nothing can be said of the tier.
pub async fn check_tier(
    sink: Arc<dyn Sink>,
    folder: &ObjectKey,
    cx: &OpContext,
    speed: Option<u64>,
    told: &mut (dyn FnMut(&CaseReport) + Send),
) -> Result<TierReport, CheckFailure> {
    let place = Below::new(sink.clone(), folder.clone());
    let answers = tries(&place, cx).await;
    let checked = match answers {
        Err(CheckFailure::NotEmpty(folder)) => return Err(CheckFailure::NotEmpty(folder)),
        Err(failure) => Err(failure),
        Ok(()) => run(&sink, folder, cx, speed, told).await,
    };
    let left = take_away(&place, cx).await.err();
    if cx.cancel.is_cancelled() {
        return Err(CheckFailure::Cancelled);
    }
    let (cases, speed) = checked?;
    Ok(TierReport {
        info: sink.info(),
        cases,
        speed,
        left,
    })
}

/// Sees that the folder is empty, and that an object can be put, read and deleted at all: what
/// is wrong with an address or with credentials is told once and not by every case.
async fn tries(place: &Below, cx: &OpContext) -> Result<(), CheckFailure> {
    let is_empty = place.list(cx, "", None).next().await;
    match is_empty {
        None => {}
        Some(Ok(meta)) => return Err(CheckFailure::NotEmpty(meta.key)),
        Some(Err(error)) => return Err(CheckFailure::Unusable(error)),
    }
    let key = key("first").map_err(CheckFailure::Unusable)?;
    let body = Bytes::from_static(b"a first object");
    let tried = async {
        place.put(cx, &key, body.clone(), PutMode::Create).await?;
        warm(place, cx, &key).await?;
        let found = place.get(cx, &key, ByteRange::Full).await?;
        if found != body {
            let error = SinkError::new(ErrorKind::Damaged, "get", key.as_str());
            return Err(error.because("it is not what was put"));
        }
        place.delete(cx, &key).await
    };
    tried.await.map_err(CheckFailure::Unusable)
}

type Found = (Vec<CaseReport>, Option<Result<Speed, SinkError>>);

async fn run(
    sink: &Arc<dyn Sink>,
    folder: &ObjectKey,
    cx: &OpContext,
    speed: Option<u64>,
    told: &mut (dyn FnMut(&CaseReport) + Send),
) -> Result<Found, CheckFailure> {
    let sub = |name: &str| -> Result<Below, CheckFailure> {
        let folder = key(&format!("{folder}/{name}")).map_err(CheckFailure::Unusable)?;
        Ok(Below::new(sink.clone(), folder))
    };
    let caps = sink.info().caps;
    let mut reports = Vec::new();
    for (number, case) in cases::all().enumerate() {
        let place = sub(&format!("{number:02}"))?;
        let bench = Bench {
            longest_key: place.longest_key(),
            sink: Arc::new(place),
            cx: cx.clone(),
        };
        let begun = Instant::now();
        let verdict = match (case.run)(&bench).await {
            Err(what) => Verdict::Failed(what),
            Ok(()) if (case.is_claimed)(caps) => Verdict::Passed,
            Ok(()) => Verdict::NotSupported,
        };
        if cx.cancel.is_cancelled() {
            return Err(CheckFailure::Cancelled);
        }
        let report = CaseReport {
            case: case.name,
            verdict,
            took: begun.elapsed(),
        };
        told(&report);
        reports.push(report);
    }
    let speed = match speed {
        Some(bytes) => Some(measure(&sub("speed")?, cx, bytes).await),
        None => None,
    };
    Ok((reports, speed))
}

/// Deletes everything below the folder, also after the check was cancelled.
async fn take_away(place: &Below, cx: &OpContext) -> Result<(), SinkError> {
    let mut cx = cx.clone();
    cx.cancel = CancellationToken::new();
    let caps = place.info().caps;
    for sweep in 0..SWEEPS {
        let found: Vec<_> = place.list(&cx, "", None).try_collect().await?;
        if found.is_empty() && (sweep > 0 || caps.settle.is_zero()) {
            return Ok(());
        }
        let deletes = futures::stream::iter(found)
            .map(|meta| {
                let (place, cx) = (place.clone(), cx.clone());
                async move { place.delete(&cx, &meta.key).await }
            })
            .buffer_unordered(caps.connections.clamp(1, 32));
        deletes.try_collect::<Vec<()>>().await?;
        if caps.settle.is_zero() {
            return Ok(());
        }
        tokio::time::sleep(caps.settle).await;
    }
    Ok(())
}

/// Waits until an object of a cold tier can be read.
pub(crate) async fn warm(
    sink: &dyn Sink,
    cx: &OpContext,
    key: &ObjectKey,
) -> Result<(), SinkError> {
    if sink.info().caps.cold {
        while let Warmth::ReadyIn(wait) = sink.warm(cx, std::slice::from_ref(key)).await? {
            tokio::time::sleep(wait).await;
        }
    }
    Ok(())
}

/// A key of the trial.
pub(crate) fn key(name: &str) -> Result<ObjectKey, SinkError> {
    ObjectKey::new(name)
        .map_err(|error| SinkError::new(ErrorKind::Invalid, "check", name).because(error))
}
