//! Packs of content at a place of their own: a mandatory feature, and beside it the number of that place.

use super::Config;

/// The feature, for every operation: who does not know it looks for packs where none are.
pub(super) const FEATURE: &str = "cold-data";

/// The name of an addition: sixteen random bytes by which the place of packs is known again.
const PLACE: &str = "cold";

impl Config {
    /// The number of the place where packs of content lie apart from all the rest; nothing where all lies at one place.
    #[must_use]
    pub fn cold_place(&self) -> Option<[u8; 16]> {
        if !self.has_feature() {
            return None;
        }
        self.extra.get(PLACE)?.as_slice().try_into().ok()
    }

    /// Sets [`Config::cold_place`].
    pub fn set_cold_place(&mut self, place: Option<[u8; 16]>) {
        let features = &mut self.features;
        for list in [
            &mut features.read,
            &mut features.write,
            &mut features.verify,
            &mut features.prune,
        ] {
            list.retain(|name| name != FEATURE);
            if place.is_some() {
                let at = list.partition_point(|name| name.as_str() < FEATURE);
                list.insert(at, FEATURE.to_owned());
            }
        }
        match place {
            Some(place) => self.extra.insert(PLACE.to_owned(), place.to_vec()),
            None => self.extra.remove(PLACE),
        };
    }

    fn has_feature(&self) -> bool {
        let features = &self.features;
        let lists = [
            &features.read,
            &features.write,
            &features.verify,
            &features.prune,
        ];
        lists
            .iter()
            .any(|list| list.iter().any(|name| name == FEATURE))
    }

    /// Where the feature is, the number must be: without it nobody can tell the right place from another.
    pub(super) fn check_cold(&self) -> Result<(), &'static str> {
        match self.has_feature() && self.cold_place().is_none() {
            true => Err("it says that packs lie apart, and not where"),
            false => Ok(()),
        }
    }
}
