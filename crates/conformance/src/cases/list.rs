//! Cases of listings: prefixes, what comes after a key, many objects, changes.

use backup_core::{ErrorKind, KeyRange, PutMode};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::cases;
use crate::bench::{Bench, Checked, ensure, named, told};

cases![
    an_empty_place_is_an_empty_list,
    a_prefix_is_whole_parts,
    after_leaves_out_what_comes_before,
    a_listing_tells_sizes_and_versions,
    a_listing_follows_puts_and_deletes,
    many_objects_are_all_listed_once,
    ranges_are_listed_together_as_one_by_one,
];

async fn an_empty_place_is_an_empty_list(bench: &Bench) -> Checked {
    bench.lists("", None, &[]).await?;
    bench.lists("data/", None, &[]).await?;
    bench.lists("a/b/c/", Some("a/b/c/d"), &[]).await
}

const KEYS: [&str; 8] = [
    "a",
    "a-b/x",
    "ab/c",
    "ab/d",
    "ab/d-e",
    "ab/de/f",
    "ab/de/g/h",
    "b/ab/c",
];

async fn a_prefix_is_whole_parts(bench: &Bench) -> Checked {
    for key in KEYS {
        bench.put(key, key).await?;
    }
    bench.lists("", None, &KEYS).await?;
    bench
        .lists(
            "ab/",
            None,
            &["ab/c", "ab/d", "ab/d-e", "ab/de/f", "ab/de/g/h"],
        )
        .await?;
    bench
        .lists("ab/de/", None, &["ab/de/f", "ab/de/g/h"])
        .await?;
    bench.lists("a-b/", None, &["a-b/x"]).await?;
    bench.lists("ab/d/", None, &[]).await?;
    bench.lists("a/", None, &[]).await?;
    bench.lists("c/", None, &[]).await
}

async fn after_leaves_out_what_comes_before(bench: &Bench) -> Checked {
    for key in KEYS {
        bench.put(key, key).await?;
    }
    let mut sorted = KEYS;
    sorted.sort_unstable();
    // Keys that are there and keys that are not, on both sides of every directory.
    for after in KEYS
        .into_iter()
        .chain(["0", "a.", "ab/cc", "ab/de/e", "ab/de/g", "z"])
    {
        let wanted: Vec<&str> = sorted.into_iter().filter(|key| *key > after).collect();
        bench.lists("", Some(after), &wanted).await?;
        let wanted: Vec<&str> = wanted
            .into_iter()
            .filter(|key| key.starts_with("ab/"))
            .collect();
        bench.lists("ab/", Some(after), &wanted).await?;
    }
    Ok(())
}

async fn a_listing_tells_sizes_and_versions(bench: &Bench) -> Checked {
    bench.put("x/one", vec![1; 1]).await?;
    bench.put("x/big", vec![2; 70_000]).await?;
    bench.lists("x/", None, &["x/one", "x/big"]).await?;
    for meta in bench.listing("x/", None).await? {
        let head = bench
            .sink
            .head(&bench.cx, &meta.key)
            .await
            .map_err(|error| told(&error))?;
        ensure!(head.size == meta.size, "list says {meta:?}, head {head:?}");
        let both = head.version.is_some() && meta.version.is_some();
        ensure!(
            !both || head.version == meta.version,
            "list says {meta:?}, head {head:?}"
        );
    }
    Ok(())
}

async fn a_listing_follows_puts_and_deletes(bench: &Bench) -> Checked {
    bench.put("s/1", "x").await?;
    bench.lists("s/", None, &["s/1"]).await?;
    bench.put("s/2", "x").await?;
    bench.lists("s/", None, &["s/1", "s/2"]).await?;
    bench
        .sink
        .delete(&bench.cx, &named("s/1"))
        .await
        .map_err(|error| told(&error))?;
    bench.lists("s/", None, &["s/2"]).await?;
    bench.put("s/1", "y").await?;
    bench.lists("s/", None, &["s/1", "s/2"]).await
}

async fn many_objects_are_all_listed_once(bench: &Bench) -> Checked {
    // More than a page of any object store (1000).
    let keys: Vec<String> = (0..1100)
        .map(|n| format!("many/{:02x}/{n:05}", n % 7))
        .collect();
    let width = bench.sink.info().caps.connections.clamp(8, 32);
    stream::iter(keys.clone())
        .map(|key| async move {
            let body = key.clone();
            bench.put_as(&key, body, PutMode::Create).await.map(|_| ())
        })
        .buffer_unordered(width)
        .try_collect::<()>()
        .await
        .map_err(|error| told(&error))?;
    let wanted: Vec<&str> = keys.iter().map(String::as_str).collect();
    bench.lists("", None, &wanted).await?;
    bench
        .lists(
            "many/",
            Some("many/03/00003"),
            &later(&wanted, "many/03/00003"),
        )
        .await?;
    // A listing that is given up half way takes nothing with it.
    let mut listing = bench.sink.list(&bench.cx, "many/", None);
    for _ in 0..3 {
        let next = listing.next().await;
        ensure!(matches!(next, Some(Ok(_))), "a fresh listing says {next:?}");
    }
    drop(listing);
    bench.lists("many/", None, &wanted).await?;
    // Ranges that lie apart, on several pages and with others between them.
    let behind = KeyRange {
        prefix: "many/05/".into(),
        after: Some(named("many/05/00500")),
    };
    let ranges = [KeyRange::below("many/00/"), behind, KeyRange::below("z/")];
    let is_wanted = |key: &&str| ranges.iter().any(|range| range.has(&named(key)));
    let wanted: Vec<&str> = wanted.into_iter().filter(is_wanted).collect();
    bench.lists_together(&ranges, &wanted).await
}

async fn ranges_are_listed_together_as_one_by_one(bench: &Bench) -> Checked {
    bench.lists_together(&[KeyRange::below("ab/")], &[]).await?;
    for key in KEYS {
        bench.put(key, key).await?;
    }
    let (ab, b) = (KeyRange::below("ab/"), KeyRange::below("b/"));
    let below = ["ab/c", "ab/d", "ab/d-e", "ab/de/f", "ab/de/g/h"];
    bench.lists("ab/", None, &below).await?;
    bench
        .lists_together(std::slice::from_ref(&ab), &below)
        .await?;
    bench
        .lists_together(&[b, KeyRange::below("a-b/")], &["a-b/x", "b/ab/c"])
        .await?;
    let behind = KeyRange {
        after: Some(named("ab/d-e")),
        ..ab
    };
    let mut ranges = [KeyRange::below("x/"), KeyRange::below("a-b/"), behind];
    for _ in 0..ranges.len() {
        ranges.rotate_left(1);
        bench
            .lists_together(&ranges, &["a-b/x", "ab/de/f", "ab/de/g/h"])
            .await?;
    }
    // It follows what comes and goes.
    bench.put("x/new", "new").await?;
    let gone = named("ab/de/f");
    let deleted = bench.sink.delete(&bench.cx, &gone).await;
    deleted.map_err(|error| told(&error))?;
    bench
        .lists_together(&ranges, &["a-b/x", "ab/de/g/h", "x/new"])
        .await?;
    tells_the_same(bench, &ranges).await
}

/// Whether objects that are listed together have the sizes and versions that HEAD tells.
async fn tells_the_same(bench: &Bench, ranges: &[KeyRange]) -> Checked {
    let Some(listing) = bench.sink.list_together(&bench.cx, ranges) else {
        return Ok(());
    };
    let listed = match listing.try_collect::<Vec<_>>().await {
        Err(error) if error.kind == ErrorKind::Unsupported => return Ok(()),
        listed => listed.map_err(|error| told(&error))?,
    };
    for meta in listed {
        let head = bench.sink.head(&bench.cx, &meta.key).await;
        let head = head.map_err(|error| told(&error))?;
        let both = head.version.is_some() && meta.version.is_some();
        ensure!(
            head.size == meta.size && (!both || head.version == meta.version),
            "listed together: {meta:?}, head {head:?}"
        );
    }
    Ok(())
}

fn later<'a>(keys: &[&'a str], after: &str) -> Vec<&'a str> {
    keys.iter().copied().filter(|key| *key > after).collect()
}
