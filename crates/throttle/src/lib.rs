//! Tiers that are written to and read from at most at a rate, so that a copy by night leaves the line to others by day.
//!
//! [`Throttled`] stands before any sink, whatever it speaks. Before an object is handed down its bytes are asked for
//! from a [`Rate`], slice by slice, so that parallel transfers take turns and a small object does not wait for a
//! whole pack before it; what is read is counted behind it where its size is not known before. One [`Rate`] is shared
//! by all tiers of a program: it is the line that is limited, and not each of them.
//!
//! Objects are handed down whole, since a put may have to be made again. So the rate holds over some objects (a pack
//! has 16 MiB), and a single one of them travels as fast as the line lets it.

mod rate;
mod sink;

pub use rate::Rate;
pub use sink::{Limits, Throttled};
