//! Which of the two an object belongs to.

/// Where packs of content lie, their parity, damaged ones that were put aside, and what says whose place it is.
const COLD: [&str; 4] = ["data/", "parity/data/", "aside/data/", "cold/"];

/// One of the two places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// That of all the rest.
    Hot,
    /// That of packs of content.
    Cold,
}

impl Side {
    /// The side of an object, by its key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        match COLD.iter().any(|folder| key.starts_with(folder)) {
            true => Self::Cold,
            false => Self::Hot,
        }
    }

    /// The only side on which there may be something below a prefix; `None`: on both.
    pub(crate) fn below(prefix: &str) -> Option<Self> {
        match Self::of(prefix) {
            Self::Cold => Some(Self::Cold),
            Self::Hot if COLD.iter().any(|folder| folder.starts_with(prefix)) => None,
            Self::Hot => Some(Self::Hot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_of_content_are_cold_and_nothing_else() {
        for key in [
            "data/3f/3f0a",
            "parity/data/3f/3f0a",
            "aside/data/3f/3f0a",
            "cold/00",
        ] {
            assert_eq!(Side::of(key), Side::Cold, "{key}");
        }
        for key in [
            "meta/3f/3f0a",
            "parity/meta/3f/3f0a",
            "aside/config/0",
            "config/0",
            "dataset",
        ] {
            assert_eq!(Side::of(key), Side::Hot, "{key}");
        }
    }

    #[test]
    fn a_prefix_that_spans_both_is_known() {
        for prefix in ["", "parity/", "aside/"] {
            assert_eq!(Side::below(prefix), None, "{prefix}");
        }
        assert_eq!(Side::below("data/3f/"), Some(Side::Cold));
        assert_eq!(Side::below("parity/data/"), Some(Side::Cold));
        assert_eq!(Side::below("parity/meta/"), Some(Side::Hot));
        assert_eq!(Side::below("snap/"), Some(Side::Hot));
    }
}
