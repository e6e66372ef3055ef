//! The way of an archive's bytes onto the disk: compress, encrypt, hash and write, on a thread of its own.
//! A few blocks wait in between at most.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use backup_integrity::digest::{ContentDigest, ContentHasher};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::{ExportError, Result, at};
use crate::wrap::{GpgWriter, Wrap};

/// Blocks that wait for the thread.
const AHEAD: usize = 4;
/// The level of zstd: what snapshots have, too.
const ZSTD_LEVEL: i32 = 3;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

enum Part {
    Bytes(Vec<u8>),
    End,
}

/// An archive that is being written.
#[derive(Debug)]
pub(crate) struct Pipe {
    path: PathBuf,
    parts: mpsc::Sender<Part>,
    thread: JoinHandle<Result<(ContentDigest, u64)>>,
}

impl Pipe {
    /// Begins a new file. `scratch` is a folder for what a program that encrypts needs.
    pub(crate) fn begin(
        path: &Path,
        scratch: &Path,
        compression: Compression,
        wrap: Option<&Wrap>,
    ) -> Result<Self> {
        let file = crate::place::new_file(path)?;
        let (parts, receiver) = mpsc::channel(AHEAD);
        let job = Job {
            path: path.to_path_buf(),
            scratch: scratch.to_path_buf(),
            compression,
            wrap: wrap.cloned(),
        };
        Ok(Self {
            path: path.to_path_buf(),
            parts,
            thread: tokio::task::spawn_blocking(move || job.run(file, receiver)),
        })
    }

    /// Writes the next bytes; nobody may come back from an error.
    pub(crate) async fn write(&mut self, bytes: Vec<u8>) -> Result<()> {
        match self.parts.send(Part::Bytes(bytes)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.why().await),
        }
    }

    /// Why the thread ended before its time.
    async fn why(&mut self) -> ExportError {
        match (&mut self.thread).await {
            Ok(Err(error)) => error,
            _ => ExportError::Invalid(format!(
                "write {}: the thread that writes it ended early",
                self.path.display()
            )),
        }
    }

    /// Ends the file; gives its SHA-256 and its size once it is on the disk.
    pub(crate) async fn finish(mut self) -> Result<(ContentDigest, u64)> {
        if self.parts.send(Part::End).await.is_err() {
            return Err(self.why().await);
        }
        match (&mut self.thread).await {
            Ok(ended) => ended,
            Err(_) => Err(self.why().await),
        }
    }
}

struct Job {
    path: PathBuf,
    scratch: PathBuf,
    compression: Compression,
    wrap: Option<Wrap>,
}

impl Job {
    fn run(self, file: File, parts: mpsc::Receiver<Part>) -> Result<(ContentDigest, u64)> {
        let path = &self.path;
        let out = Hashed {
            file,
            hasher: ContentHasher::new(),
            bytes: 0,
        };
        let compression = self.compression;
        let out = match &self.wrap {
            None => compress(parts, compression, out).map_err(at("write", path))?,
            Some(Wrap::Gpg {
                passphrase,
                program,
            }) => {
                let failed = |error: io::Error| ExportError::Encrypt {
                    program: "gpg",
                    why: error.to_string(),
                };
                let home = tempfile::Builder::new()
                    .prefix(".gnupg-")
                    .tempdir_in(&self.scratch)
                    .map_err(at("make a folder in", &self.scratch))?;
                let gpg =
                    GpgWriter::start(program, home.path(), passphrase, out).map_err(failed)?;
                let gpg = compress(parts, compression, gpg).map_err(failed)?;
                gpg.finish().map_err(failed)?
            }
            Some(wrap) => {
                let Some(age) = wrap.age()? else {
                    return Err(ExportError::Invalid("nothing encrypts".into()));
                };
                let encrypted = age.wrap_output(out).map_err(at("write", path))?;
                let encrypted =
                    compress(parts, compression, encrypted).map_err(at("write", path))?;
                encrypted.finish().map_err(at("write", path))?
            }
        };
        out.file.sync_all().map_err(at("write", path))?;
        Ok((out.hasher.finish(), out.bytes))
    }
}

fn compress<W: Write>(parts: mpsc::Receiver<Part>, how: Compression, out: W) -> io::Result<W> {
    match how {
        Compression::None => {
            let mut out = out;
            pump(parts, &mut out)?;
            Ok(out)
        }
        Compression::Gzip => {
            let mut out = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            pump(parts, &mut out)?;
            out.finish()
        }
        Compression::Zstd => {
            let mut out = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
            out.include_checksum(true)?;
            pump(parts, &mut out)?;
            out.finish()
        }
    }
}

/// Writes everything up to the end. Without one it is not whole, and nobody may take it for that.
fn pump(mut parts: mpsc::Receiver<Part>, out: &mut impl Write) -> io::Result<()> {
    loop {
        match parts.blocking_recv() {
            Some(Part::Bytes(bytes)) => out.write_all(&bytes)?,
            Some(Part::End) => return Ok(()),
            None => return Err(io::Error::other("the export was broken off")),
        }
    }
}

/// A file, and the digest of what was written into it.
struct Hashed {
    file: File,
    hasher: ContentHasher,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
