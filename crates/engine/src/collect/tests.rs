//! What needs a look inside; the rest is in `tests/collect/`.
