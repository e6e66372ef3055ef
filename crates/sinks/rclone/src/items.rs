//! A listing while it comes in: `{"list": [{…}, {…}]}`, taken apart into its items, so that no listing has to be held whole.

use serde::Deserialize;

/// More bytes than an item of any listing has.
const LONGEST: usize = 64 << 10;

/// Items stand in an array in an object.
const DEPTH: usize = 2;

/// What a listing says of a file.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Item {
    #[serde(rename = "Path")]
    pub(crate) path: String,
    /// −1 where the remote does not know it.
    #[serde(rename = "Size", default)]
    pub(crate) size: i64,
    #[serde(rename = "ModTime", default)]
    pub(crate) written: String,
    #[serde(rename = "IsDir", default)]
    pub(crate) is_folder: bool,
    #[serde(rename = "Hashes", default)]
    pub(crate) hashes: Option<std::collections::BTreeMap<String, String>>,
}

/// What has come in and is not an item yet.
#[derive(Debug, Default)]
pub(crate) struct Items {
    depth: usize,
    in_text: bool,
    escaped: bool,
    begun: bool,
    ended: bool,
    item: Vec<u8>,
}

impl Items {
    /// The items that end in what comes in next. An error says what is wrong.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Item>, String> {
        let mut items = Vec::new();
        for &byte in bytes {
            let inside = self.depth > DEPTH;
            if inside {
                if self.item.len() == LONGEST {
                    return Err("an item of a listing has no end".to_owned());
                }
                self.item.push(byte);
            }
            if self.in_text {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_text = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_text = true,
                b'{' | b'[' => {
                    self.begun = true;
                    if self.depth == DEPTH {
                        self.item.clear();
                        self.item.push(byte);
                    }
                    self.depth += 1;
                }
                b'}' | b']' => {
                    self.depth = self
                        .depth
                        .checked_sub(1)
                        .ok_or("a listing ends before it begins")?;
                    if self.depth == DEPTH {
                        let item = serde_json::from_slice(&self.item);
                        items.push(item.map_err(|error| error.to_string())?);
                        self.item.clear();
                    }
                    self.ended = self.depth == 0;
                }
                _ => {}
            }
        }
        Ok(items)
    }

    /// Whether all has come in.
    pub(crate) const fn is_whole(&self) -> bool {
        self.begun && self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "{\n\t\"list\": [\n\t\t{\"Path\": \"a/b\", \"Name\": \"b\", \"Size\": 6, \"IsDir\": false},\
        {\"Path\": \"c\\\"}]{\", \"Size\": -1, \"Hashes\": {\"md5\": \"00\"}}]}\n";

    #[test]
    fn a_listing_comes_apart_wherever_it_is_cut() {
        for at in 0..LISTING.len() {
            let (first, second) = LISTING.as_bytes().split_at(at);
            let mut items = Items::default();
            let mut found = items.take(first).unwrap();
            assert!(!items.is_whole() || at >= LISTING.len() - 1, "{at}");
            found.extend(items.take(second).unwrap());
            assert!(items.is_whole());
            let paths: Vec<_> = found.iter().map(|item| item.path.as_str()).collect();
            assert_eq!(paths, ["a/b", "c\"}]{"]);
            assert_eq!((found[0].size, found[1].size), (6, -1));
        }
    }

    #[test]
    fn nothing_is_a_listing_too() {
        let mut items = Items::default();
        assert_eq!(items.take(b"{\"list\": []}").unwrap(), []);
        assert!(items.is_whole());
        assert!(!Items::default().is_whole());
    }

    #[test]
    fn what_is_no_listing_is_refused() {
        assert!(Items::default().take(b"]").is_err());
        assert!(Items::default().take(b"{\"list\":[{\"Size\":1}]}").is_err());
        let mut items = Items::default();
        let mut answer = items.take(b"{\"list\":[{\"Path\":\"");
        for _ in 0..100 {
            answer = answer.and_then(|_| items.take(&[b'x'; 1000]));
        }
        assert!(answer.is_err());
    }
}
