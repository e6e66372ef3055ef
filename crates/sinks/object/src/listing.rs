//! Pages of listings before they are read: whoever else may write to the bucket must not be able to end our
//! listings by an object with an odd name. So entries that cannot be ours are taken out of the page first.

/// The elements that stand for one object, and those that name it: of S3 and Google, and of Azure.
const ENTRIES: [(&str, &str); 2] = [("Contents", "Key"), ("Blob", "Name")];

/// A page without the entries whose names cannot be those of our objects.
pub(crate) fn without_strangers(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    let mut rest = page;
    loop {
        let begun = ENTRIES.iter().filter_map(|(entry, name)| {
            let at = rest.find(&format!("<{entry}>"))?;
            Some((at, *entry, *name))
        });
        let Some((at, entry, name)) = begun.min() else {
            break;
        };
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end = format!("</{entry}>");
        let Some(length) = from.find(&end).map(|found| found + end.len()) else {
            // Cut off: whoever reads the page says so.
            rest = from;
            break;
        };
        let (whole, behind) = from.split_at(length);
        if key_of(whole, name).is_some_and(may_be_ours) {
            out.push_str(whole);
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

fn key_of<'a>(entry: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = entry.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

/// Whether a key has the form of ours, below whatever prefix.
fn may_be_ours(key: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    key.split('/')
        .all(|part| !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(keys: &[&str]) -> String {
        let entry = |key: &&str| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>");
        let entries: String = keys.iter().map(entry).collect();
        format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated>{entries}<Prefix/></ListBucketResult>"
        )
    }

    #[test]
    fn entries_that_cannot_be_ours_are_taken_out() {
        let keys = [
            "data/ab", "a//b", "../up", "folder/", "a b", "x&lt;y", ".hid", "a/.b", "", "/a", "z",
        ];
        assert_eq!(without_strangers(&s3(&keys)), s3(&["data/ab", "z"]));
        let azure = "<Blobs><Blob><Name>a//b</Name></Blob><Blob><Name>c</Name></Blob></Blobs>";
        let left = "<Blobs><Blob><Name>c</Name></Blob></Blobs>";
        assert_eq!(without_strangers(azure), left);
    }

    #[test]
    fn a_page_that_is_cut_off_stays_so() {
        let page = s3(&["a", "b"]);
        for end in 0..page.len() {
            let left = without_strangers(&page[..end]);
            assert!(page.starts_with(&left), "{end}");
        }
    }
}
