//! Several ranges of keys in few pages. A server lists its keys in their order, a thousand to a page, so one listing of a
//! small repository shows all that is asked for; where a page ends in what nobody wants, the next one begins behind it.

use std::sync::Arc;

use backup_core::{KeyRange, ObjectKey};
use futures::stream::{self, Stream, TryStreamExt as _};
use object_store::ObjectMeta;
use object_store::list::{PaginatedListOptions, PaginatedListStore};

use crate::trouble::Trouble;

/// Why a listing came to no good end.
pub(crate) enum Broken {
    Below(object_store::Error),
    /// Nothing can be passed over where keys do not come in their order.
    Order(Trouble),
}

/// A page that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ask {
    prefix: String,
    after: String,
    /// What the page before said of the next one.
    token: Option<String>,
}

impl Ask {
    fn options(&self) -> PaginatedListOptions {
        PaginatedListOptions {
            offset: some(&self.after).map(str::to_owned),
            page_token: self.token.clone(),
            ..PaginatedListOptions::default()
        }
    }
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// How far a listing has come.
struct Walk {
    /// What all keys begin with: empty, or with a slash at its end.
    root: String,
    /// The ranges that are not over, in the order of their keys.
    left: Vec<KeyRange>,
    /// The last key that was seen, without the root.
    last: String,
}

impl Walk {
    fn new(root: String, ranges: &[KeyRange]) -> Self {
        let mut left = ranges.to_vec();
        left.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        let last = String::new();
        Self { root, left, last }
    }

    /// The page with which the next range begins.
    fn leap(&self) -> Option<Ask> {
        let first = self.left.first()?;
        let prefix = match self.left.len() {
            1 => first.prefix.as_str(),
            _ => "",
        };
        Some(Ask {
            prefix: format!("{}{prefix}", self.root),
            after: format!("{}{}", self.root, start(first).max(self.last.as_str())),
            token: None,
        })
    }

    /// Takes up the keys of a page, and gives the next one.
    fn take(
        &mut self,
        asked: Ask,
        keys: &[&str],
        token: Option<String>,
    ) -> Result<Option<Ask>, Trouble> {
        for key in keys {
            if *key <= self.last.as_str() {
                let why = format!(
                    "the server lists {key:?} behind {:?}: not in their order",
                    self.last
                );
                return Err(Trouble::Other(why));
            }
            self.last.clear();
            self.last.push_str(key);
        }
        if token.is_none() {
            return Ok(None);
        }
        let last = self.last.as_str();
        let is_over = |range: &KeyRange| {
            last > range.prefix.as_str() && !last.starts_with(range.prefix.as_str())
        };
        self.left.retain(|range| !is_over(range));
        let Some(first) = self.left.first() else {
            return Ok(None);
        };
        // Of a page on which nothing was ours it is not known how far it came.
        if start(first) > last && !keys.is_empty() {
            return Ok(self.leap());
        }
        Ok(Some(Ask { token, ..asked }))
    }
}

/// Behind what the first key of a range comes.
fn start(range: &KeyRange) -> &str {
    let after = range.after.as_ref();
    after.map_or(range.prefix.as_str(), ObjectKey::as_str)
}

/// The objects below a root that are on the pages which several ranges need, others among them.
pub(crate) fn pages(
    store: Arc<dyn PaginatedListStore>,
    root: String,
    ranges: &[KeyRange],
) -> impl Stream<Item = Result<ObjectMeta, Broken>> + use<> {
    let walk = Walk::new(root, ranges);
    let first = walk.leap();
    let pages = stream::try_unfold((store, walk, first), |(store, mut walk, ask)| async move {
        let Some(ask) = ask else {
            return Ok(None);
        };
        let page = store.list_paginated(some(&ask.prefix), ask.options()).await;
        let page = page.map_err(Broken::Below)?;
        let found = page.result.objects;
        let keys = found
            .iter()
            .filter_map(|meta| meta.location.as_ref().strip_prefix(&walk.root));
        let keys: Vec<&str> = keys.collect();
        let next = walk
            .take(ask, &keys, page.page_token)
            .map_err(Broken::Order)?;
        let found = stream::iter(found.into_iter().map(Ok::<ObjectMeta, Broken>));
        Ok::<_, Broken>(Some((found, (store, walk, next))))
    });
    pages.try_flatten()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PAGE: usize = 3;

    /// What is shown of some keys, and with how many requests.
    fn listed(there: &[&str], ranges: &[KeyRange]) -> (Vec<String>, usize) {
        let mut walk = Walk::new("root/".into(), ranges);
        let (mut out, mut requests, mut next) = (Vec::new(), 0, walk.leap());
        while let Some(ask) = next {
            requests += 1;
            let after = ask.token.as_ref().unwrap_or(&ask.after);
            let below = ask.prefix.strip_prefix("root/").unwrap();
            let after = after.strip_prefix("root/").unwrap();
            let page = there
                .iter()
                .copied()
                .filter(|key| key.starts_with(below) && *key > after);
            let more = page.clone().count() > PAGE;
            let page: Vec<&str> = page.take(PAGE).collect();
            let token = page.last().filter(|_| more);
            let token = token.map(|last| format!("root/{last}"));
            out.extend(page.iter().map(|key| (*key).to_owned()));
            next = walk.take(ask, &page, token).unwrap();
        }
        let is_wanted = |key: &String| {
            let key = ObjectKey::new(key.as_str()).unwrap();
            ranges.iter().any(|range| range.has(&key))
        };
        out.retain(is_wanted);
        (out, requests)
    }

    #[test]
    fn what_nobody_wants_is_passed_over_and_nothing_else() {
        let there = [
            "a/1", "a/2", "b/1", "b/2", "b/3", "b/4", "b/5", "c/1", "c/2", "d/1", "e/1", "e/2",
            "e/3", "e/4", "f/1",
        ];
        let below = |prefix: &str| KeyRange::below(prefix);
        let behind = KeyRange {
            prefix: "e/".into(),
            after: Some(ObjectKey::new("e/2").unwrap()),
        };
        let cases = [
            (vec![below("")], 5),
            (vec![below("a/")], 1),
            (vec![below("e/")], 2),
            (vec![below("x/")], 1),
            (vec![below("a/"), below("c/")], 2),
            (vec![below("c/"), below("a/"), below("d/")], 3),
            (vec![below("a/"), behind, below("f/")], 2),
            (vec![below("b/"), below("f/")], 3),
            (vec![below("0/"), below("x/")], 2),
        ];
        for (ranges, most) in cases {
            let is_wanted = |key: &&str| {
                let key = ObjectKey::new(*key).unwrap();
                ranges.iter().any(|range| range.has(&key))
            };
            let wanted: Vec<&str> = there.into_iter().filter(|key| is_wanted(key)).collect();
            let (found, requests) = listed(&there, &ranges);
            assert_eq!(found, wanted, "{ranges:?}");
            assert_eq!(requests, most, "{ranges:?}");
        }
    }

    #[test]
    fn a_page_without_a_key_of_ours_is_followed_by_the_next() {
        let mut walk = Walk::new(
            String::new(),
            &[KeyRange::below("a/"), KeyRange::below("c/")],
        );
        let ask = walk.leap().unwrap();
        let next = walk.take(ask, &[], Some("more".into())).unwrap().unwrap();
        assert_eq!(next.token.as_deref(), Some("more"));
    }

    #[test]
    fn keys_that_are_not_in_their_order_end_the_listing() {
        let mut walk = Walk::new(
            String::new(),
            &[KeyRange::below("a/"), KeyRange::below("c/")],
        );
        let ask = walk.leap().unwrap();
        assert!(walk.take(ask, &["c/1", "b/1"], None).is_err());
    }
}
