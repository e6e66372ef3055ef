//! An S3 server for tests: it runs in this process on a free port, checks signatures and sums, keeps its objects in memory,
//! writes down what it was asked, and fails as it is told to.
//!
//! The protocol is that of `s3s`. Objects are not kept by its companion for folders: there two racing conditional puts both
//! win, an object cannot lie below another, long keys are no names of files, and the end of an empty object breaks the
//! connection.

mod answer;
mod archive;
mod fault;
mod locks;
mod serve;
mod shelf;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

pub use fault::{Conditions, Fault, Rule};
use shelf::Shelf;

/// The access key that the server knows.
pub const ACCESS_KEY: &str = "AKIATESTTESTTESTTEST";

/// Its secret.
pub const SECRET_KEY: &str = "the-secret-of-the-tests-0123456789abcdef";

/// The bucket that is there from the beginning.
pub const BUCKET: &str = "bucket";

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `GET`, `PUT`, ….
    pub method: String,
    /// The path, bucket included.
    pub path: String,
    /// What stands behind the `?`.
    pub query: String,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// What was answered: 0 where the connection was cut instead.
    pub status: u16,
}

impl Asked {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    conditions: Conditions,
    asked: Vec<Asked>,
}

/// A running server; it ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shelf: Shelf,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[allow(
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]
impl Server {
    /// Starts a server with an empty bucket.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start() -> Self {
        let shelf = Shelf::default();
        let state = Arc::new(Mutex::new(State::default()));
        let (stop, stopped) = oneshot::channel();
        let (started, starts) = std::sync::mpsc::channel();
        let (objects, shared) = (shelf.clone(), state.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(serve::serve(objects, shared, started, stopped));
            runtime.shutdown_background();
        });
        let address = starts.recv().expect("the server starts");
        Self {
            address,
            shelf,
            state,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its address: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The location of a prefix of its bucket.
    #[must_use]
    pub fn location(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint={}", self.endpoint())
    }

    /// The objects of the bucket.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        self.shelf.objects().clone()
    }

    /// Puts an object into the bucket, as anybody may who can write there.
    pub fn store(&self, key: &str, body: impl Into<Bytes>) {
        self.shelf.objects().insert(key.to_owned(), body.into());
    }

    /// Objects of an archive that are asked for from now on can be read after so many questions how far they are; before
    /// this is said, when [`Server::thaw`] lets them.
    pub fn thaw_after(&self, questions: usize) {
        self.shelf.archive().come_after(questions);
    }

    /// Until when an object is locked, in seconds since 1970.
    #[must_use]
    pub fn locked_until(&self, key: &str) -> Option<i64> {
        self.shelf.locks().until(key)
    }

    /// Objects of an archive that were asked for can be read now.
    pub fn thaw(&self) {
        self.shelf.archive().come();
    }

    /// No object of an archive can be read any more before it is asked for again.
    pub fn freeze(&self) {
        self.shelf.archive().expire();
    }

    /// From now on it fails by this rule too; the first rule that fits decides.
    pub fn fail(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// From now on it fails no more.
    pub fn heal(&self) {
        self.state().rules.clear();
    }

    /// What it does from now on with puts that must not overwrite.
    pub fn keep_conditions(&self, conditions: Conditions) {
        self.state().conditions = conditions;
    }

    /// What it was asked since it was asked this the last time.
    #[must_use]
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
