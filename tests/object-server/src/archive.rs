//! The archive classes of S3, as its documentation has them: an object of one cannot be read before a copy of it was asked
//! for and has come. How long that takes is told by the test.

use std::collections::BTreeMap;

use s3s::dto::RestoreRequest;
use s3s::{S3Error, S3Result, s3_error};

/// Classes whose objects have to be asked for.
const ARCHIVES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

/// How far a copy has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Copy {
    /// Nobody has asked.
    None,
    /// It comes after so many more questions, or never by itself.
    Coming(Option<usize>),
    /// It can be read.
    There,
}

/// The objects in the archive.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    objects: BTreeMap<String, (String, Copy)>,
    comes_after: Option<usize>,
}

impl Archive {
    /// An object was put with this class.
    pub(crate) fn put(&mut self, key: &str, class: Option<&str>) {
        match class.filter(|class| ARCHIVES.contains(class)) {
            Some(class) => {
                let object = (class.to_owned(), Copy::None);
                self.objects.insert(key.to_owned(), object);
            }
            None => drop(self.objects.remove(key)),
        }
    }

    /// Copies that are asked for from now on come after so many questions.
    pub(crate) const fn come_after(&mut self, questions: usize) {
        self.comes_after = Some(questions);
    }

    /// All copies that were asked for are there.
    pub(crate) fn come(&mut self) {
        for (_, copy) in self.objects.values_mut() {
            if matches!(copy, Copy::Coming(_)) {
                *copy = Copy::There;
            }
        }
    }

    /// All copies are gone again.
    pub(crate) fn expire(&mut self) {
        for (_, copy) in self.objects.values_mut() {
            *copy = Copy::None;
        }
    }

    /// What a HEAD tells: the class, and how far the copy has come.
    pub(crate) fn head(&mut self, key: &str) -> (Option<String>, Option<String>) {
        let Some((class, copy)) = self.objects.get_mut(key) else {
            return (None, None);
        };
        if let Copy::Coming(Some(left)) = copy {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => *copy = Copy::There,
            }
        }
        let restore = match copy {
            Copy::None => None,
            Copy::Coming(_) => Some("ongoing-request=\"true\"".to_owned()),
            Copy::There => Some(
                "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2040 00:00:00 GMT\""
                    .to_owned(),
            ),
        };
        (Some(class.clone()), restore)
    }

    /// Whether an object can be read.
    pub(crate) fn read(&self, key: &str) -> S3Result<()> {
        match self.objects.get(key) {
            Some((_, copy)) if *copy != Copy::There => Err(s3_error!(
                InvalidObjectState,
                "The operation is not valid for the object's storage class"
            )),
            _ => Ok(()),
        }
    }

    /// Asks for a copy; whether it is there already.
    pub(crate) fn ask(&mut self, key: &str, request: Option<RestoreRequest>) -> S3Result<bool> {
        let malformed = || -> S3Error { s3_error!(MalformedXML) };
        let request = request.ok_or_else(malformed)?;
        if request.days.is_none_or(|days| days < 1) {
            return Err(malformed());
        }
        let tier = request.glacier_job_parameters.ok_or_else(malformed)?.tier;
        let comes_after = self.comes_after;
        let Some((class, copy)) = self.objects.get_mut(key) else {
            return Err(s3_error!(
                InvalidObjectState,
                "Restore is not allowed for the object's current storage class"
            ));
        };
        if class == "DEEP_ARCHIVE" && tier.as_str() == "Expedited" {
            return Err(s3_error!(
                InvalidArgument,
                "Expedited retrievals are not available for this storage class"
            ));
        }
        match copy {
            Copy::There => Ok(true),
            Copy::Coming(_) => Err(s3_error!(
                RestoreAlreadyInProgress,
                "Object restore is already in progress"
            )),
            Copy::None => {
                *copy = Copy::Coming(comes_after);
                Ok(false)
            }
        }
    }
}
