//! What the state knows of one entry, and how that is stored.

use backup_core::{FileTime, Fingerprint};
use backup_format::record::Record;
use backup_format::wire::{Put, Take, WireError};

use crate::error::{EngineError, Result};

/// What the state knows of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateEntry {
    /// Key of the manifest.
    pub key: Vec<u8>,
    /// What tells that it is unchanged.
    pub fingerprint: Option<Fingerprint>,
    /// Its record, encoded.
    pub record: Vec<u8>,
    /// Its lineage head, encoded; empty: none.
    pub lineage: Vec<u8>,
    /// Its extents, encoded, where the record names spills instead; empty otherwise.
    pub extents: Vec<u8>,
}

impl StateEntry {
    /// What the manifest had of it.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] for bytes that are no record.
    pub fn decoded(&self) -> Result<Record> {
        Record::decode(&self.record).map_err(|error| EngineError::wire("the local state", &error))
    }

    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes(&self.key);
        match &self.fingerprint {
            None => out.push(0),
            Some(print) => {
                out.push(1);
                out.put_varint(print.size);
                for time in [print.mtime, print.ctime] {
                    out.extend_from_slice(&time.seconds.to_le_bytes());
                    out.extend_from_slice(&time.nanos.to_le_bytes());
                }
                out.put_varint(print.inode);
            }
        }
        out.put_bytes(&self.record);
        out.put_bytes(&self.lineage);
        out.put_bytes(&self.extents);
    }

    /// Takes an entry from the front.
    ///
    /// # Errors
    /// [`WireError`] when the bytes end too early.
    pub fn decode(take: &mut Take<'_>) -> Result<Self, WireError> {
        let key = take.bytes()?.to_vec();
        let fingerprint = match take.u8()? {
            0 => None,
            _ => {
                let size = take.varint()?;
                let mut time = || -> Result<FileTime, WireError> {
                    let seconds = i64::from_le_bytes(take.array()?);
                    Ok(FileTime {
                        seconds,
                        nanos: take.u32()?,
                    })
                };
                let (mtime, ctime) = (time()?, time()?);
                Some(Fingerprint {
                    size,
                    mtime,
                    ctime,
                    inode: take.varint()?,
                })
            }
        };
        Ok(Self {
            key,
            fingerprint,
            record: take.bytes()?.to_vec(),
            lineage: take.bytes()?.to_vec(),
            extents: take.bytes()?.to_vec(),
        })
    }
}
