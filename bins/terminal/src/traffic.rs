//! What a command asked of tiers that count their requests, and may charge for them.

use std::sync::{Arc, PoisonError};

use backstay::core::{Location, Sink, Traffic};
use serde_json::{Value, json};

use crate::console::{Console, json_line};
use crate::failure::Outcome;
use crate::text;

impl Console {
    /// The tier that was opened at this location before, or this one; one that makes its folder only if it is `making`,
    /// and that is the tier from then on.
    pub(crate) fn counted(
        &self,
        location: &Location,
        sink: Arc<dyn Sink>,
        making: bool,
    ) -> Arc<dyn Sink> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counted.iter().rev().find(|(known, _)| known == location);
        if let Some((_, known)) = known.filter(|_| !making) {
            return known.clone();
        }
        counted.push((location.clone(), sink.clone()));
        sink
    }

    /// Says what was asked of tiers that count it: with `--json`, and to people who want to know more.
    pub(crate) fn say_traffic(&mut self) -> Outcome<()> {
        let counted = self.counted.get_mut();
        let counted = std::mem::take(counted.unwrap_or_else(PoisonError::into_inner));
        for (_, sink) in counted {
            let place = sink.info().location;
            let asked = sink.traffic().filter(|asked| asked.requests() > 0);
            match asked {
                Some(asked) if self.common.json => {
                    let line = json_line(&self.now(), "traffic", traffic_members(&place, &asked));
                    self.raw(line.as_bytes())?;
                }
                Some(asked) if self.common.verbose > 0 => {
                    self.note(&told_traffic(&place, &asked));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn traffic_members(place: &str, asked: &Traffic) -> Value {
    json!({
        "place": place,
        "requests": asked.requests(),
        "lists": asked.lists,
        "heads": asked.heads,
        "gets": asked.gets,
        "puts": asked.puts,
        "deletes": asked.deletes,
        "others": asked.others,
        "failed": asked.failed,
        "sent_bytes": asked.sent_bytes,
        "received_bytes": asked.received_bytes,
    })
}

/// The same for people: kinds that were not asked are left out.
fn told_traffic(place: &str, asked: &Traffic) -> String {
    let kinds = [
        (asked.lists, "listing", "listings"),
        (asked.heads, "head", "heads"),
        (asked.gets, "get", "gets"),
        (asked.puts, "put", "puts"),
        (asked.deletes, "deletion", "deletions"),
        (asked.others, "other", "others"),
    ];
    let told: Vec<String> = kinds
        .into_iter()
        .filter(|(number, ..)| *number > 0)
        .map(|(number, one, many)| text::plural(number, one, many))
        .collect();
    let failed = match asked.failed {
        0 => String::new(),
        failed => format!(", {failed} of them not answered as asked"),
    };
    format!(
        "{place}: {} ({}){failed}; {} sent, {} received",
        text::plural(asked.requests(), "request", "requests"),
        told.join(", "),
        text::bytes(asked.sent_bytes),
        text::bytes(asked.received_bytes)
    )
}
