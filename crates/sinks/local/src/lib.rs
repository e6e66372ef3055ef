//! A folder on a local disk or NAS as a tier.
