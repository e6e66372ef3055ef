//! `metadata.json`: what an export says of itself, for people, for scripts, and for the way back.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{ExportError, Result, at};
use crate::sums;

/// The name of the file.
pub const NAME: &str = "metadata.json";
/// The version of the form of exports that this crate writes, and the only one that it reads.
pub const VERSION: u32 = 1;
/// Nothing that wrote an export makes a longer one; what is longer is not read.
pub(crate) const MOST_BYTES: u64 = 4 << 20;

/// What an export says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Version of the form of the export.
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
    /// The id of the snapshot.
    pub id: String,
    /// The id of the repository that it came from.
    pub repository: String,
    /// What it is a snapshot of.
    pub name: String,
    /// The host that was saved.
    pub host: String,
    /// When it was saved.
    pub time: Timestamp,
    /// When it was exported.
    pub exported: Timestamp,
    /// The kinds of its sources, such as `files`, joined by `+`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The label of the schedule, if it has one.
    pub label: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// How its components lie there: `tree`, `tar`, `tar.gz`, `tar.zst`.
    pub layout: String,
    /// What the components are encrypted with: `age`, `gpg`, or nothing.
    pub encryption: Option<String>,
    /// Bytes of content of all components.
    pub size_bytes: u64,
    /// Bytes of the files of all components in the export.
    pub stored_bytes: u64,
    /// `size_bytes` by `stored_bytes`, in hundredths exact.
    pub compression_ratio: f64,
    /// How often something could not be saved, or was degraded, when the snapshot was made.
    pub findings: u64,
    /// Its components.
    pub components: Vec<Component>,
}

/// One source's part of an export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// The kind of its source.
    #[serde(rename = "type")]
    pub kind: String,
    /// What was saved, for people.
    pub origin: Vec<String>,
    /// Versions of programs that took part.
    pub versions: BTreeMap<String, String>,
    /// Where it lies in the export: a folder, or a file.
    pub path: String,
    /// `sha256:` and the SHA-256 of the file; of a folder that of its lines in `SHA256SUMS`.
    pub checksum: String,
    /// Its entries.
    pub entries: u64,
    /// Bytes of its content.
    pub size_bytes: u64,
    /// Bytes of its files in the export.
    pub stored_bytes: u64,
    /// `size_bytes` by `stored_bytes`.
    pub compression_ratio: f64,
}

/// A ratio in hundredths; 1 where there is nothing.
#[allow(
    clippy::cast_precision_loss,
    reason = "a ratio in hundredths needs no more"
)]
pub(crate) fn ratio(size: u64, stored: u64) -> f64 {
    if size == 0 || stored == 0 {
        return 1.0;
    }
    (size as f64 / stored as f64 * 100.0).round() / 100.0
}

impl Metadata {
    /// Writes it into a folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<Vec<u8>> {
        let path = folder.join(NAME);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| ExportError::Invalid(format!("write {NAME}: {error}")))?;
        text.push(b'\n');
        let mut file = crate::place::new_file(&path)?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(at("write", &path))?;
        Ok(text)
    }

    /// Reads that of an export.
    ///
    /// # Errors
    /// [`ExportError::File`]; [`ExportError::NotWhole`] for what is none, or a later one.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let mut text = Vec::new();
        let top = sums::open_folder(folder).map_err(at("open", folder))?;
        let file = sums::open_below(&top, NAME.as_bytes()).map_err(at("read", &path))?;
        file.take(MOST_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(at("read", &path))?;
        Self::parse(&text).map_err(|why| ExportError::NotWhole { path, why })
    }

    /// What a text says; or why it is not what an export says of itself.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() as u64 > MOST_BYTES {
            return Err("it is too long".into());
        }
        let read: Self = serde_json::from_slice(text)
            .map_err(|error| format!("{NAME} does not say what an export says: {error}"))?;
        if read.version != VERSION {
            return Err(format!(
                "{NAME} is of version {}, and this release reads version {VERSION}",
                read.version
            ));
        }
        Ok(read)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What an export may say.
    pub(crate) const EXAMPLE: &str = r#"{"version":1,"program":"p","id":"i","repository":"r","name":"n","host":"h",
        "time":"2026-01-31T00:00:00Z","exported":"2026-02-01T00:00:00Z","type":"files","label":null,"tags":[],
        "layout":"tree","encryption":null,"size_bytes":0,"stored_bytes":0,"compression_ratio":1.0,"findings":0,
        "components":[],"added-later":true}"#;

    #[test]
    fn only_what_an_export_says_in_this_version_is_taken() {
        assert_eq!(Metadata::parse(EXAMPLE.as_bytes()).unwrap().name, "n");
        let newer = EXAMPLE.replace("\"version\":1", "\"version\":2");
        let why = Metadata::parse(newer.as_bytes()).unwrap_err();
        assert!(why.contains("version 2"), "{why}");
        assert!(Metadata::parse(b"{}").is_err());
    }
}
