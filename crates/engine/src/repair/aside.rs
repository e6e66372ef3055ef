//! Damaged packs that nothing mends: as long as they lie under their names, writers take what they hold for stored.

use backup_core::{
    ErrorKind, Finding, FindingKind, ObjectKey, OpContext, PackId, PutMode, Severity,
};
use backup_format::layout;
use backup_format::pack::MAX_PACK;

use super::packs::{digest, read_or_nothing};
use crate::error::{EngineError, Result};
use crate::repository::{Repository, get_within, name};

/// Takes damaged packs that nothing mends out of the way of those who would build on them, as far as the index names
/// them, and the tier says the same of them each time. They are read back from `aside/` before anything goes. No session is needed: it is as if the packs were lost, what is
/// whole of them is found where they are now, and their names may come back.
///
/// # Errors
/// Errors of the tier.
pub(super) async fn set_aside_hopeless(
    repo: &Repository,
    cx: &OpContext,
    hopeless: &[(PackId, ObjectKey)],
) -> Result<Vec<Finding>> {
    let mut out = Vec::new();
    if hopeless.is_empty() {
        return Ok(out);
    }
    let (sink, known) = (repo.sink(), repo.index().packs());
    for (id, key) in hopeless.iter().filter(|(id, _)| known.contains_key(id)) {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let mut refuse = |why: String| {
            let why = format!("it stays where it is, and saves go on building on it: {why}");
            out.push(Finding::new(
                Severity::Error,
                FindingKind::Damaged,
                key.as_str(),
                why,
            ));
        };
        // Just as it is: what a bad sector does not give is not to be lost by a move.
        let torn = match get_within(cx, &**sink, key, MAX_PACK).await {
            Ok(torn) => torn,
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => continue,
            Err(error) if cx.cancel.is_cancelled() => return Err(error),
            Err(error) => {
                refuse(error.to_string());
                continue;
            }
        };
        // Mended by somebody else.
        if digest(&torn).await? == id.0 {
            continue;
        }
        // A tier that answers short, or with other bytes each time, may have it whole.
        let size = sink.head(cx, key).await?.size;
        if size != torn.len() as u64 {
            let given = torn.len();
            refuse(format!("the tier gives {given} of its {size} bytes"));
            continue;
        }
        if read_or_nothing(repo, cx, key).await? != torn {
            refuse("the tier gives other bytes each time it is read".into());
            continue;
        }
        let aside = name(layout::aside(key))?;
        match sink.put(cx, &aside, torn.clone(), PutMode::Create).await {
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Err(error) => return Err(error.into()),
        }
        if read_or_nothing(repo, cx, &aside).await? == torn {
            sink.delete(cx, key).await?;
            continue;
        }
        refuse(format!("{aside} is there, and not the same"));
    }
    Ok(out)
}
