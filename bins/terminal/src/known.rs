//! Which repository was found at a place before: a file of the user's state folder for each place.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use backstay::engine::known::Known;
use backstay::engine::{EngineError, Repository};
use backstay::integrity::digest::ContentDigest;

use crate::console::Console;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::text;

impl Console {
    /// Looks whether the repository is the one that was found at its place before; remembers it when it
    /// is the first.
    ///
    /// # Errors
    /// [`Exit::Damage`] when it is another one.
    pub(crate) fn check_known(&self, repo: &Repository) -> Outcome<()> {
        self.check_known_at(repo, &self.place()?)
    }

    /// The same for another place.
    pub(crate) fn check_known_at(&self, repo: &Repository, place: &str) -> Outcome<()> {
        let (known, Some(file)) = (Known::of(repo)?, self.known_file(place)) else {
            return Ok(());
        };
        let remembered = self.remembered_at(place);
        match known.check(&remembered, &repo.location()) {
            Ok(()) if remembered.is_empty() => {
                self.remember_at(&known, place);
                Ok(())
            }
            Err(EngineError::Swapped { place, found }) => Err(Failure {
                is_of_stranger: true,
                ..Failure::new(
                    Exit::Damage,
                    format!(
                        "the repository at {place} is not the one that was there before: somebody may have put it in its place"
                    ),
                    format!(
                        "ask who looks after it; if it is meant to be there, add the line `{found}` to {}",
                        text::path(&file)
                    ),
                )
            }),
            other => Ok(other?),
        }
    }

    /// The repositories that this host remembers of a place; none where it was never opened.
    pub(crate) fn remembered_at(&self, place: &str) -> Vec<Known> {
        let file = self.known_file(place);
        let lines = file.and_then(|file| fs::read_to_string(file).ok());
        let lines = lines.unwrap_or_default();
        lines.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Remembers the repository of this place, and no other.
    ///
    /// # Errors
    /// Those of the location.
    pub(crate) fn remember(&self, known: &Known) -> Outcome<()> {
        self.remember_at(known, &self.place()?);
        Ok(())
    }

    fn remember_at(&self, known: &Known, place: &str) {
        let Some(file) = self.known_file(place) else {
            return;
        };
        let written = file.parent().map_or(Ok(()), |folder| {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(folder)
        });
        let written = written.and_then(|()| {
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            writeln!(options.open(&file)?, "{known}")
        });
        if let Err(error) = written {
            self.warn(&format!(
                "{} cannot be written ({error}): nobody will notice when another repository is put in the place of this one",
                text::path(&file)
            ));
        }
    }

    fn known_file(&self, place: &str) -> Option<PathBuf> {
        let place = ContentDigest::of(place.as_bytes());
        let folder = self.state_folder();
        folder.map(|folder| folder.join("known").join(place.to_string()))
    }
}
