//! Reading from several copies of a repository: from the nearest, and what it lacks from the next.

use std::path::PathBuf;
use std::sync::PoisonError;

use backstay::engine::{EngineError, Fallback, Repository};
use backstay::format::config::Operation;
use serde_json::{Value, json};

use crate::access::{no_key, parse_location, spelled};
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::text;

/// How many objects are named to people unless they ask for more.
const MOST_SHOWN: usize = 10;

impl Console {
    /// From now on [`Console::open`] reads also from the copies at these places, in their order.
    pub fn read_also_from(&mut self, places: Vec<String>) {
        self.also_from = places;
    }

    /// Opens the nearest place that can be opened, with the ones behind it to be asked for what it lacks.
    pub(crate) async fn open_nearest(
        &self,
        operation: Operation,
        cache: Option<PathBuf>,
    ) -> Outcome<Repository> {
        let mut failed = Vec::new();
        let mut nearest = match self.open_with(operation, cache.clone()).await {
            Ok(repo) => Some(repo),
            Err(failure) if is_of_tier(&failure) => {
                failed.push((self.place()?, failure));
                None
            }
            Err(failure) => return Err(failure),
        };
        let mut copies = Vec::new();
        for place in &self.also_from {
            match self.open_at(place, operation, cache.clone()).await {
                Ok(repo) if nearest.is_none() => nearest = Some(repo),
                Ok(repo) => copies.push(repo),
                Err(failure) if is_of_tier(&failure) => {
                    failed.push((spelled(&parse_location(place)?), failure));
                }
                Err(failure) => return Err(failure),
            }
        }
        let Some(mut nearest) = nearest else {
            return Err(failed.swap_remove(0).1);
        };
        nearest.also_from(copies)?;
        let first = self.place()?;
        for (place, failure) in failed {
            let mut why = failure.what;
            let is_unknown = place == first && !self.is_copy_of(&nearest, &first)?;
            let place = text::escape(place.as_bytes());
            if is_unknown {
                why = format!(
                    "{why}; this host has never opened it, so that what is read instead is a copy of it nobody could see: the copies were compared among themselves alone"
                );
            }
            let nearest = nearest.location();
            self.warn(&format!(
                "nothing is read from {place}: {why}; {nearest} is the nearest that is"
            ));
        }
        let mut known = self
            .fallbacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.push((nearest.location(), nearest.fallbacks().clone()));
        drop(known);
        Ok(nearest)
    }

    /// Whether a repository is a copy of the one that this host has found at a place before; `false`: it remembers none.
    ///
    /// # Errors
    /// [`Exit::Usage`] when it is of another one.
    fn is_copy_of(&self, repo: &Repository, place: &str) -> Outcome<bool> {
        let remembered = self.remembered_at(place);
        let Some(first) = remembered.first() else {
            return Ok(false);
        };
        if remembered.iter().any(|one| one.repo == repo.id()) {
            return Ok(true);
        }
        let why = format!(
            "{} is repository {}, and no copy of repository {}, which was at {}: it has nothing of it",
            repo.location(),
            repo.id(),
            first.repo,
            text::escape(place.as_bytes())
        );
        Err(EngineError::Invalid(why).into())
    }

    /// Opens a copy at a place of the command line, by the same key.
    async fn open_at(
        &self,
        place: &str,
        operation: Operation,
        cache: Option<PathBuf>,
    ) -> Outcome<Repository> {
        let location = parse_location(place)?;
        let sink = self.sink_at(&location, false)?;
        let unlock = self.unlock().await?.ok_or_else(no_key)?;
        let repo = Repository::open(&self.cx, sink, &unlock, cache.clone(), operation).await?;
        self.listen(&repo);
        self.check_known_at(&repo, &spelled(&location))?;
        Ok(self.settle(repo, cache.as_deref()))
    }

    /// Says what the nearest place did not give and another did.
    pub(crate) fn say_fallbacks(&mut self) -> Outcome<()> {
        let known = self.fallbacks.get_mut();
        let known = std::mem::take(known.unwrap_or_else(PoisonError::into_inner));
        for (place, fallbacks) in known {
            let (all, left_out) = fallbacks.all();
            for one in &all {
                self.record("fallback", members(&place, one))?;
            }
            let most = match self.common.verbose {
                0 => MOST_SHOWN,
                _ => usize::MAX,
            };
            for one in all.iter().take(most) {
                self.note(&format!(
                    "{}: had from {} and not from {place}: {}",
                    one.subject, one.from, one.why
                ));
            }
            let hidden = all.len().saturating_sub(most) as u64 + left_out;
            if hidden > 0 {
                self.note(&format!(
                    "… and {} more; -v shows all that are kept",
                    text::count(hidden)
                ));
            }
            if let Some(one) = all.first() {
                self.note(&format!(
                    "what was read is whole, and {place} is not: `snapshot verify` tells what it lacks, `snapshot repair --from {}` mends it",
                    one.from
                ));
            }
        }
        Ok(())
    }
}

fn members(place: &str, one: &Fallback) -> Value {
    json!({
        "place": place,
        "from": one.from,
        "subject": one.subject,
        "why": one.why,
        "reads": one.reads,
    })
}

/// Whether another place may be better: not where the key is wrong, or what is asked for, nor where somebody may have put another
/// repository in the place of one.
const fn is_of_tier(failure: &Failure) -> bool {
    let may_be = matches!(
        failure.exit,
        Exit::Failed | Exit::NoRepository | Exit::Damage
    );
    may_be && !failure.is_of_stranger
}
