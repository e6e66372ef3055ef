//! Objects below `gc/` that cannot be read any more, and what is written in their places. Why nothing is lost by it is
//! in `docs/design/0002-garbage-collection.md`, "What rots".

use std::collections::BTreeSet;

use backup_core::{ErrorKind, ObjectKey, OpContext, PackId, PutMode};
use backup_format::collect::PackList;
use backup_format::layout;
use backup_format::seal::ObjectKind;

use crate::beside::is_loss;
use crate::error::{EngineError, Result};
use crate::repository::{Repository, name};

/// What lies under a name.
enum There {
    Nothing,
    Whole(PackList),
    /// What is wrong with it.
    Rotten(String),
}

/// Looks twice: what was damaged on the way only is whole.
async fn look(repo: &Repository, cx: &OpContext, key: &ObjectKey) -> Result<There> {
    let mut is_second = false;
    loop {
        match repo.generation(cx, key).await {
            Ok(list) => return Ok(There::Whole(list)),
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => {
                return Ok(There::Nothing);
            }
            Err(error) if is_loss(&error) && is_second => {
                return Ok(There::Rotten(error.to_string()));
            }
            Err(error) if is_loss(&error) => is_second = true,
            Err(error) => return Err(error),
        }
    }
}

async fn put(
    repo: &Repository,
    cx: &OpContext,
    (key, kind, mode): (&ObjectKey, ObjectKind, PutMode),
    list: &PackList,
) -> Result<()> {
    let sealed = repo.ring().seal(kind, &list.encode());
    let body = sealed.map_err(EngineError::Seal)?.into();
    match repo.sink().put(cx, key, body, mode).await {
        Ok(_) => Ok(()),
        // Somebody has decided it meanwhile, and that counts.
        Err(error) if error.kind == ErrorKind::Conflict => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Generations whose `gc/<n>` is to be written anew ([`mend`]), with the object that cannot be read and why.
///
/// # Errors
/// [`EngineError::Newer`]; errors of the tier.
pub(crate) async fn all(
    repo: &Repository,
    cx: &OpContext,
) -> Result<Vec<(u32, ObjectKey, String)>> {
    let there = repo.generations(cx).await?;
    let numbers: BTreeSet<u32> = there
        .iter()
        .filter_map(|key| layout::condemned_number(key).or(layout::dead_number(key)))
        .collect();
    let mut out = Vec::new();
    for number in numbers {
        let (condemned, decision) = (
            name(layout::condemned(number))?,
            name(layout::dead(number))?,
        );
        match look(repo, cx, &condemned).await? {
            There::Rotten(why) => out.push((number, condemned, why)),
            There::Nothing if there.contains(&decision) => {
                if let There::Rotten(why) = look(repo, cx, &decision).await? {
                    out.push((number, decision, why));
                }
            }
            _ => {}
        }
    }
    Ok(out)
}

/// Writes `gc/<n>` anew, where it cannot be read or is gone; says whether there was anything to do. `unused`: all packs
/// that no snapshot uses.
///
/// # Errors
/// [`EngineError::Newer`]; errors of the tier.
pub(crate) async fn mend(
    repo: &Repository,
    cx: &OpContext,
    number: u32,
    unused: &BTreeSet<PackId>,
) -> Result<bool> {
    let (condemned, decision) = (
        name(layout::condemned(number))?,
        name(layout::dead(number))?,
    );
    let is_rotten = match look(repo, cx, &condemned).await? {
        There::Whole(_) => return Ok(false),
        There::Rotten(_) => true,
        There::Nothing => false,
    };
    let mut decided = look(repo, cx, &decision).await?;
    if is_rotten && matches!(decided, There::Nothing) {
        // Whoever was about to decide it finds that nothing is dead, and deletes nothing.
        let nothing = PackList {
            generation: number,
            packs: BTreeSet::new(),
        };
        let at = (&decision, ObjectKind::Dead, PutMode::Create);
        put(repo, cx, at, &nothing).await?;
        decided = look(repo, cx, &decision).await?;
    }
    let packs = match decided {
        There::Whole(_) if !is_rotten => return Ok(false),
        // What is dead: should the decision rot later, that is avoided.
        There::Whole(list) => list.packs,
        // Whatever was called dead is among these, and the next prune decides anew.
        There::Rotten(_) => unused.clone(),
        There::Nothing => return Ok(false),
    };
    let list = PackList {
        generation: number,
        packs,
    };
    let at = (&condemned, ObjectKind::Condemned, PutMode::Replace);
    put(repo, cx, at, &list).await?;
    Ok(true)
}

/// Puts a decision in the place of one that cannot be read. `dead`: what of its generation another decision, which lies
/// on the tier, calls dead.
///
/// # Errors
/// [`EngineError::Newer`]; errors of the tier.
pub(crate) async fn decide_anew(
    repo: &Repository,
    cx: &OpContext,
    number: u32,
    dead: BTreeSet<PackId>,
) -> Result<()> {
    let key = name(layout::dead(number))?;
    if !matches!(look(repo, cx, &key).await?, There::Rotten(_)) {
        return Ok(());
    }
    let list = PackList {
        generation: number,
        packs: dead,
    };
    put(repo, cx, (&key, ObjectKind::Dead, PutMode::Replace), &list).await
}
