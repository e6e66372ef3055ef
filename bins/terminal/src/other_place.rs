//! A second place beside that of the repository: where its snapshots are copied to.

use backstay::core::Location;
use backstay::engine::Repository;
use backstay::engine::copy::{Found, found, make};

use crate::access::{parse_location, spelled};
use crate::console::Console;
use crate::failure::{Failure, Outcome};

/// A place that is copied to.
#[derive(Debug)]
pub struct OtherPlace {
    location: Location,
}

impl OtherPlace {
    /// The place, without secrets.
    #[must_use]
    pub fn shown(&self) -> String {
        spelled(&self.location)
    }
}

impl Console {
    /// A place on the command line, which must be another than that of the repository.
    ///
    /// # Errors
    /// [`crate::Exit::Usage`].
    pub fn other_place(&self, text: &str) -> Outcome<OtherPlace> {
        let location = parse_location(text)?;
        let (other, own) = (spelled(&location), self.place()?);
        let is_inside = |below: &str| below.starts_with('/') || own.ends_with('/');
        let what = match other.strip_prefix(&own) {
            Some("") => "the place that is copied to is that of the repository itself",
            Some(below) if is_inside(below) => {
                "the place that is copied to lies inside the repository, and would be lost with it"
            }
            _ => return Ok(OtherPlace { location }),
        };
        Err(Failure::usage(what, "name another with --to"))
    }

    /// Opens the repository of the same family at another place; nothing where there is none yet.
    ///
    /// # Errors
    /// [`crate::Exit::Conflict`] when it is of another family; those of [`Console::open`].
    pub async fn open_other(
        &self,
        from: &Repository,
        place: &OtherPlace,
    ) -> Outcome<Option<Repository>> {
        let sink = self.sink_at(&place.location, false)?;
        match found(from, &self.cx, sink, self.cache_folder()).await? {
            Found::Nothing => Ok(None),
            Found::Same(repo) => Ok(Some(self.take_up(*repo, place)?)),
        }
    }

    /// Makes a repository of the same family at another place.
    ///
    /// # Errors
    /// [`crate::Exit::Conflict`] when somebody else made another meanwhile; errors of the tiers.
    pub async fn make_other(&self, from: &Repository, place: &OtherPlace) -> Outcome<Repository> {
        let sink = self.sink_at(&place.location, true)?;
        let made = make(from, &self.cx, sink, self.cache_folder()).await?;
        self.take_up(made, place)
    }

    fn take_up(&self, repo: Repository, place: &OtherPlace) -> Outcome<Repository> {
        self.listen(&repo);
        self.check_known_at(&repo, &spelled(&place.location))?;
        Ok(self.settle(repo, None))
    }
}
