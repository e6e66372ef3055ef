//! Opening and making repositories with what the command line and the environment say.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay::core::registry::RegistryError;
use backstay::core::{Location, Registry, Sink};
use backstay::engine::known::Known;
use backstay::engine::{InitRequest, Prepared, Repository, Unlock, prepare};
use backstay::format::config::Operation;
use backstay::parity::Share;

use zeroize::Zeroizing;

use crate::cold::{OPTION, cold_place, join};
use crate::console::Console;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome, no_repository};
use crate::unfinished::{self, unfinished, wait_for_maker};
use crate::{secrets, surroundings, text};

/// Every plug-in that is built in.
///
/// # Errors
/// Never: their names differ.
pub fn registry(cache: Option<PathBuf>) -> Outcome<Registry> {
    let mut registry = Registry::empty();
    backstay::register_enabled_in(&mut registry, &surroundings::for_plug_ins(cache))?;
    Ok(registry)
}

/// A place on the command line.
///
/// # Errors
/// [`Exit::Usage`].
pub fn parse_location(text: &str) -> Outcome<Location> {
    text.parse()
        .map_err(|error| Failure::usage(format!("{error}"), "write a path, or scheme://host/path"))
}

/// The keys that a new repository was given.
#[derive(Debug)]
pub struct NewKeys {
    /// The repository to be made.
    pub prepared: Prepared,
    /// Where the key file was written.
    pub key_file: Option<PathBuf>,
    /// Where the recovery sheet was written.
    pub recovery_sheet: Option<PathBuf>,
    /// The key file, locked until the repository is made.
    _lock: Option<File>,
}

impl NewKeys {
    /// Writes the recovery sheet into a new file, which gets its name when the repository is made.
    ///
    /// # Errors
    /// [`Exit::Conflict`] when there is one, and what the system says; then the key file is taken
    /// away again.
    pub fn write_sheet(&mut self, path: &Path) -> Outcome<()> {
        if let Err(failure) = unfinished::write(path, &self.prepared.recovery_sheet) {
            self.discard();
            return Err(failure);
        }
        self.recovery_sheet = Some(path.to_path_buf());
        Ok(())
    }

    fn discard(&self) {
        for path in self.key_file.iter().chain(&self.recovery_sheet) {
            unfinished::discard(path);
        }
    }
}

impl Console {
    /// The place of the repository.
    ///
    /// # Errors
    /// [`Exit::Usage`] when none is named.
    pub fn location(&self) -> Outcome<Location> {
        let repo = self.common.repo.as_deref().ok_or_else(|| {
            if surroundings::variable("BACKSTAY_REPO").is_some() {
                return Failure::usage(
                    "BACKSTAY_REPO is not UTF-8",
                    "name the place by a path that is, such as that of a symbolic link to it",
                );
            }
            Failure::usage(
                "no repository is named",
                "give --repo PATH, or set BACKSTAY_REPO",
            )
        })?;
        parse_location(repo)
    }

    /// The folder of the repository, if it is one of this host.
    #[must_use]
    pub fn folder(&self) -> Option<PathBuf> {
        let location = self.location().ok()?;
        let is_folder = matches!(location.scheme(), "file" | "local");
        is_folder.then(|| surroundings::absolute(Path::new(location.path())))
    }

    /// The tier of the repository; with `making` its folder is made where it is missing.
    ///
    /// # Errors
    /// [`Exit::Usage`].
    pub fn sink(&self, making: bool) -> Outcome<Arc<dyn Sink>> {
        self.sink_at(&self.location()?, making)
    }

    /// The tier at a place; with `making` its folder is made where it is missing. One whose requests are counted is the same each time, so
    /// that its connections are used again.
    pub(crate) fn sink_at(&self, location: &Location, making: bool) -> Outcome<Arc<dyn Sink>> {
        Ok(self.rates.around(self.fast_sink_at(location, making)?))
    }

    fn fast_sink_at(&self, location: &Location, making: bool) -> Outcome<Arc<dyn Sink>> {
        if let Some(cold) = cold_place(location)? {
            let hot = self.fast_sink_at(&location.without(OPTION), making)?;
            return join(location, hot, self.fast_sink_at(&cold, making)?);
        }
        if making && matches!(location.scheme(), "file" | "local") {
            let sink = backstay::sink_local::LocalSink::try_from(location)
                .map_err(|error| Failure::usage(error.to_string(), "write a path"))?;
            return Ok(Arc::new(sink.making_root(true)));
        }
        if making && location.scheme() == "sftp" {
            let around = surroundings::for_plug_ins(None).for_sftp();
            let sink = backstay::sink_sftp::SftpSink::new(location, &around)
                .map_err(|error| RegistryError::config(location, error.to_string()))?;
            return Ok(Arc::new(sink.making_root(true)));
        }
        let sink: Arc<dyn Sink> = match making && location.scheme() == "rclone" {
            true => {
                let sink = backstay::sink_rclone::RcloneSink::open(location)?;
                Arc::new(sink.making_root(true))
            }
            false => registry(self.cache_folder())?.open_sink(location)?,
        };
        Ok(match sink.traffic() {
            Some(_) => self.counted(location, sink, making),
            None => sink,
        })
    }

    /// How much parity a new repository at this place has unless something else is asked for: object stores
    /// look after their media themselves, disks and servers reached by SFTP do not.
    ///
    /// # Errors
    /// [`Exit::Usage`] when no repository is named.
    pub fn usual_parity(&self) -> Outcome<Option<Share>> {
        let location = self.location()?;
        // Nearly all of it lies beside packs of content.
        let of_packs = cold_place(&location)?.unwrap_or(location);
        let looks_after = !matches!(of_packs.scheme(), "file" | "local" | "sftp");
        Ok((!looks_after).then_some(Share::USUAL))
    }

    /// Opens another copy of the repository, with the same key and without a cache.
    ///
    /// # Errors
    /// Those of [`Console::open`].
    pub async fn open_copy(&self, place: &str) -> Outcome<Repository> {
        let sink = self.sink_at(&parse_location(place)?, false)?;
        let unlock = self.unlock().await?.ok_or_else(no_key)?;
        Ok(Repository::open(&self.cx, sink, &unlock, None, Operation::Read).await?)
    }

    /// The folder of the local cache.
    #[must_use]
    pub fn cache_folder(&self) -> Option<PathBuf> {
        let named = self.common.cache_dir.as_deref().map(surroundings::absolute);
        named.or_else(surroundings::cache_folder)
    }

    /// The folder of this host's copies of ledgers.
    #[must_use]
    pub fn state_folder(&self) -> Option<PathBuf> {
        let named = self.common.state_dir.as_deref().map(surroundings::absolute);
        named.or_else(surroundings::state_folder)
    }

    /// The files and folders of this host that a command works with: nothing that it does may take
    /// them away. The folder of the repository, what opens it, the copy of the ledger, the cache.
    #[must_use]
    pub fn in_use(&self) -> Vec<PathBuf> {
        let key_file = self.key_file().ok();
        let key_files = key_file
            .into_iter()
            .flat_map(|path| [unfinished(&path), path]);
        let own = [self.folder(), self.cold_folder()];
        let folders = own
            .into_iter()
            .chain([self.state_folder(), self.cache_folder()]);
        let passphrase = self.common.passphrase_file.clone();
        let others = folders.flatten().chain(passphrase);
        key_files.chain(others).collect()
    }

    /// The key file that is named, or else the one that belongs to the place of the repository.
    ///
    /// # Errors
    /// [`Exit::Usage`], [`Exit::NoSecrets`].
    pub fn key_file(&self) -> Outcome<PathBuf> {
        match &self.common.key_file {
            Some(path) => Ok(path.clone()),
            None => secrets::default_key_file(&self.place()?),
        }
    }

    /// The place of the repository as its key is named after it: one spelling for a folder, however
    /// it is reached.
    pub(crate) fn place(&self) -> Outcome<String> {
        Ok(spelled(&self.location()?))
    }

    /// The place of the repository as a recovery sheet spells it.
    ///
    /// # Errors
    /// [`Exit::Usage`] when none is named.
    pub fn shown_place(&self) -> Outcome<String> {
        let location = self.location()?;
        let text = location.to_string();
        // A folder has one spelling as a place of keys, and as a path another.
        if text.contains("://") || location.option(OPTION).is_some() {
            return Ok(shown(&location));
        }
        Ok(text::path(&surroundings::absolute(Path::new(&text))))
    }

    /// The passphrase in a file; warns of one that others may read.
    ///
    /// # Errors
    /// [`Exit::NoSecrets`].
    pub fn passphrase(&self, path: &Path) -> Outcome<Zeroizing<Vec<u8>>> {
        let (passphrase, warning) = secrets::read_passphrase(path)?;
        if let Some(warning) = warning {
            self.warn(&warning);
        }
        Ok(passphrase)
    }

    /// What opens the repository; `None` when nothing is named and no key file is where the key of
    /// this place would be.
    ///
    /// # Errors
    /// [`Exit::NoSecrets`].
    pub async fn unlock(&self) -> Outcome<Option<Unlock>> {
        if self.common.names_two_keys {
            return Err(Failure::usage(
                "a key file and a passphrase file are named, and one alone opens the repository",
                "give --key-file or --passphrase-file; `snapshot init` takes both, and makes a key of each",
            ));
        }
        if self.common.key_file.is_none()
            && let Some(path) = &self.common.passphrase_file
        {
            return Ok(Some(Unlock::Passphrase(self.passphrase(path)?)));
        }
        let mut path = self.key_file()?;
        if !path.exists() {
            // Another process may be about to give it its name, or was killed just before.
            wait_for_maker(&path).await;
        }
        if !path.exists() && unfinished(&path).exists() {
            path = unfinished(&path);
        }
        if self.common.key_file.is_none() && !path.exists() {
            return Ok(None);
        }
        let (key, warning) = secrets::read_key_file(&path)?;
        if let Some(warning) = warning {
            self.warn(&warning);
        }
        Ok(Some(Unlock::KeyFile(key)))
    }

    /// Opens the repository.
    ///
    /// # Errors
    /// Every one of [`Repository::open`]; [`Exit::NoSecrets`].
    pub async fn open(&self, operation: Operation) -> Outcome<Repository> {
        let cache = self.cache_folder();
        match self.also_from.is_empty() {
            true => self.open_with(operation, cache).await,
            false => self.open_nearest(operation, cache).await,
        }
    }

    /// Opens the repository without the local cache: what is verified must be what is stored. This host's
    /// copy of the ledger is no part of it.
    ///
    /// # Errors
    /// Those of [`Console::open`].
    pub async fn open_uncached(&self, operation: Operation) -> Outcome<Repository> {
        self.open_with(operation, None).await
    }

    pub(crate) async fn open_with(
        &self,
        operation: Operation,
        cache: Option<PathBuf>,
    ) -> Outcome<Repository> {
        let sink = self.sink(false)?;
        let place = sink.info().location;
        let unlock = match self.unlock().await {
            Ok(Some(unlock)) => unlock,
            other => {
                // That there is no repository is the better answer.
                let exists = self.must_exist(&*sink).await;
                exists.map_err(|failure| failure.at(&place))?;
                return Err(other.err().unwrap_or_else(no_key));
            }
        };
        let repo = Repository::open(&self.cx, sink, &unlock, cache.clone(), operation);
        let repo = repo
            .await
            .map_err(|error| Failure::from(error).at(&place))?;
        self.listen(&repo);
        if matches!(unlock, Unlock::KeyFile(_)) && self.is_unfinished()? {
            // This host drew the key that opens it, for the repository of this place, and was killed before it could
            // remember that; nobody else has it.
            self.remember(&Known::of(&repo)?)?;
            self.finish_files()?;
        } else {
            self.check_known(&repo)?;
        }
        Ok(self.settle(repo, cache.as_deref()))
    }

    /// Whether the run that made the repository of the key file was killed before it could give that its name.
    fn is_unfinished(&self) -> Outcome<bool> {
        let key_file = self.key_file()?;
        Ok(!key_file.exists() && unfinished(&key_file).exists())
    }

    /// Gives the key file its name, and the recovery sheet beside it.
    fn finish_files(&self) -> Outcome<()> {
        let key_file = self.key_file()?;
        let sheet = key_file.with_extension("recovery.txt");
        unfinished::finish(&key_file)?;
        if unfinished(&sheet).exists() {
            unfinished::finish(&sheet)?;
        }
        self.warn(&format!(
            "the run that made this repository was broken off: its key file {} got its name now; print the recovery sheet if there is one beside it, or add a second key with `snapshot key add`",
            text::path(&key_file)
        ));
        Ok(())
    }

    /// Lets the repository keep this host's copy of its ledger, and says what folders cannot be kept.
    pub(crate) fn settle(&self, repo: Repository, cache: Option<&Path>) -> Repository {
        self.check_folder(cache, "cache", "runs are slower", "--cache-dir");
        let state = self.state_folder();
        let lack =
            "no copy of the ledger is kept on this host, and one that is cut off cannot be told";
        self.check_folder(state.as_deref(), "state", lack, "--state-dir");
        repo.keep_ledger_in(state)
    }

    /// Says that a folder cannot be used, and what that costs.
    fn check_folder(&self, folder: Option<&Path>, what: &str, lack: &str, option: &str) {
        if let Some(folder) = folder
            && let Err(error) = surroundings::try_folder(folder)
        {
            self.warn(&format!(
                "the {what} folder {} cannot be used ({error}): {lack}; name another with {option}",
                text::path(folder)
            ));
        }
    }

    async fn must_exist(&self, sink: &dyn Sink) -> Outcome<()> {
        if Repository::exists(&self.cx, sink).await? {
            return Ok(());
        }
        Err(no_repository(&sink.info().location))
    }

    /// Whether there is a repository at the place that is named.
    ///
    /// # Errors
    /// Those of the tier.
    pub async fn exists(&self) -> Outcome<bool> {
        Ok(Repository::exists(&self.cx, &*self.sink(false)?).await?)
    }

    /// Draws the keys of a new repository and writes the key file, before there is a repository. It
    /// gets its name when there is one.
    ///
    /// # Errors
    /// [`Exit::Conflict`] when there is such a key file already.
    pub fn new_keys(
        &self,
        key_file: Option<PathBuf>,
        label: &str,
        parity: Option<Share>,
    ) -> Outcome<NewKeys> {
        let passphrase = match &self.common.passphrase_file {
            Some(path) => Some(self.passphrase(path)?),
            None => None,
        };
        if let Some(path) = key_file.as_deref().filter(|path| path.exists()) {
            return Err(key_file_exists(path));
        }
        let request = InitRequest {
            location: self.shown_place()?,
            passphrase,
            key_file: key_file.is_some(),
            label: label.to_owned(),
            argon2: None,
            parity,
            ..InitRequest::default()
        };
        let prepared = prepare(&self.cx, &request)?;
        let lock = match (&key_file, &prepared.key_file) {
            (Some(path), Some(secret)) => Some(unfinished::write(path, secret)?),
            _ => None,
        };
        Ok(NewKeys {
            prepared,
            key_file,
            recovery_sheet: None,
            _lock: lock,
        })
    }

    /// Makes the repository of these keys. If that fails and there is none, the files that were
    /// written for it are taken away again.
    ///
    /// # Errors
    /// [`Exit::Conflict`] when there is one; errors of the tier.
    pub async fn create(&self, keys: NewKeys) -> Outcome<Repository> {
        let others = self.others(&keys);
        let made = match self.sink(true) {
            Ok(sink) => {
                let cache = self.cache_folder();
                let made = keys.prepared.create(&self.cx, sink, cache).await;
                made.map_err(Failure::from)
            }
            Err(failure) => Err(failure),
        };
        match made {
            Ok(repo) => {
                for path in keys.recovery_sheet.iter().chain(&keys.key_file) {
                    unfinished::finish(path)?;
                }
                others.iter().for_each(|told| self.warn(told));
                self.listen(&repo);
                self.remember(&Known::of(&repo)?)?;
                Ok(self.settle(repo, self.cache_folder().as_deref()))
            }
            Err(failure) => {
                // Where that cannot be told it may have been made, and these may be its only keys.
                if failure.exit == Exit::Conflict || matches!(self.exists().await, Ok(false)) {
                    keys.discard();
                }
                Err(failure)
            }
        }
    }
}

/// A place as people are to write it, that of packs of content with it.
fn shown(location: &Location) -> String {
    if location.option(OPTION).is_some() {
        let sink = registry(None).and_then(|known| Ok(known.open_sink(location)?));
        if let Ok(sink) = sink {
            return sink.info().location;
        }
    }
    spelled(location)
}

/// One spelling of a place, however it is reached. Where packs of content lie is not part of it: keys are named after
/// the place of all the rest.
pub(crate) fn spelled(location: &Location) -> String {
    let location = &location.without(OPTION);
    if !matches!(location.scheme(), "file" | "local") {
        // One bucket's name is another bucket with another server, which the sink knows.
        let sink = registry(None).and_then(|known| Ok(known.open_sink(location)?));
        return sink.map_or_else(|_| location.to_string(), |sink| sink.info().location);
    }
    let folder = surroundings::real_path(Path::new(location.path()));
    folder.to_string_lossy().into_owned()
}

pub(crate) fn no_key() -> Failure {
    Failure::new(
        Exit::NoSecrets,
        "there is no key to open the repository with",
        "give --key-file or --passphrase-file, or set BACKSTAY_KEY_FILE or BACKSTAY_PASSPHRASE_FILE",
    )
}

fn key_file_exists(path: &Path) -> Failure {
    let about = secrets::describe_key_file(path);
    let shown = text::path(path);
    Failure::new(
        Exit::Conflict,
        format!("the key file {shown} is there already ({about}); it is never overwritten"),
        "name another file with --key-file; if its repository should be at this place, check that the disk is mounted",
    )
}
