//! Cases of single objects: what was put comes back, whole and in parts, until it is deleted.

use backup_core::{ByteRange, ErrorKind};
use bytes::Bytes;

use super::cases;
use crate::bench::{Bench, Checked, differs, ensure, expect_kind, named, noise, told};

cases![
    an_object_comes_back_as_it_was_put,
    a_slice_of_a_larger_buffer_is_stored_alone,
    a_span_is_exactly_what_was_asked_for,
    a_suffix_is_the_end_of_the_object,
    more_than_is_there_is_an_error,
    what_is_not_there_is_not_found,
    deleting_twice_is_success,
    odd_keys_are_as_good_as_any,
    an_empty_object_is_an_object,
    a_large_object_is_whole,
    many_readers_at_once_get_what_they_asked_for,
];

async fn an_object_comes_back_as_it_was_put(bench: &Bench) -> Checked {
    let body = noise(1, 10_007);
    let meta = bench.put("data/ab/first", body.clone()).await?;
    ensure!(meta.size == 10_007, "put answers a size of {}", meta.size);
    ensure!(
        meta.key.as_str() == "data/ab/first",
        "put answers for {}",
        meta.key
    );
    bench.holds("data/ab/first", &body).await
}

async fn a_slice_of_a_larger_buffer_is_stored_alone(bench: &Bench) -> Checked {
    let buffer = Bytes::from(noise(2, 4096));
    bench.put("slice", buffer.slice(100..356)).await?;
    bench.holds("slice", &buffer[100..356]).await
}

async fn a_span_is_exactly_what_was_asked_for(bench: &Bench) -> Checked {
    let body = noise(3, 300_000);
    bench.put("span", body.clone()).await?;
    let spans = [
        (0, 1),
        (0, 300_000),
        (4095, 2),
        (1, 4096),
        (65_536, 131_072),
        (299_999, 1),
        (7, 0),
    ];
    for (offset, length) in spans.into_iter().chain([(300_000, 0)]) {
        let range = ByteRange::Span { offset, length };
        let found = bench
            .get("span", range)
            .await
            .map_err(|error| told(&error))?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let wanted = &body[start..][..usize::try_from(length).unwrap_or(usize::MAX)];
        ensure!(found == wanted, "{range:?}: {}", differs(&found, wanted));
    }
    Ok(())
}

async fn a_suffix_is_the_end_of_the_object(bench: &Bench) -> Checked {
    let body = noise(4, 5000);
    bench.put("suffix", body.clone()).await?;
    for (length, start) in [
        (0, 5000),
        (1, 4999),
        (4999, 1),
        (5000, 0),
        (5001, 0),
        (u64::MAX, 0),
    ] {
        let range = ByteRange::Suffix(length);
        let found = bench
            .get("suffix", range)
            .await
            .map_err(|error| told(&error))?;
        ensure!(
            found == body[start..],
            "{range:?}: {}",
            differs(&found, &body[start..])
        );
    }
    Ok(())
}

async fn more_than_is_there_is_an_error(bench: &Bench) -> Checked {
    bench.put("short", noise(5, 1000)).await?;
    let spans = [
        (0, 1001),
        (999, 2),
        (1000, 1),
        (1001, 0),
        (5000, 10),
        (1, u64::MAX),
    ];
    for (offset, length) in spans {
        let range = ByteRange::Span { offset, length };
        let got = bench.get("short", range).await;
        expect_kind(got, ErrorKind::Damaged, &format!("{range:?} of 1000 bytes"))?;
    }
    Ok(())
}

async fn what_is_not_there_is_not_found(bench: &Bench) -> Checked {
    bench.lacks("nothing").await?;
    bench.lacks("no/such/folder/nothing").await?;
    bench.put("some/object", "x").await?;
    // Neither the parts of a key nor what would lie below an object are objects.
    bench.lacks("some").await?;
    bench.lacks("some/object/below").await?;
    bench.lacks("some/objec").await
}

async fn deleting_twice_is_success(bench: &Bench) -> Checked {
    for key in ["gone", "never/was/here"] {
        bench
            .sink
            .delete(&bench.cx, &named(key))
            .await
            .map_err(|error| told(&error))?;
    }
    bench.put("gone", "x").await?;
    bench.put("gone-not", "y").await?;
    for _ in 0..2 {
        bench
            .sink
            .delete(&bench.cx, &named("gone"))
            .await
            .map_err(|error| told(&error))?;
        bench.lacks("gone").await?;
    }
    bench.holds("gone-not", b"y").await?;
    bench.lists("", None, &["gone-not"]).await?;
    bench.put("gone", "again").await?;
    bench.holds("gone", b"again").await
}

async fn odd_keys_are_as_good_as_any(bench: &Bench) -> Checked {
    let deep = vec!["d"; 60].join("/");
    let wide = "w".repeat(255);
    let last = bench.longest_key.saturating_sub(256).min(255);
    let longest = format!("{}/{}", "l".repeat(255), "k".repeat(last));
    let keys = [
        "a",
        "0",
        "-",
        "_",
        "--help",
        "-rf",
        "a.",
        "a..b",
        "x.tmp",
        "tmp-1",
        "lock",
        "dir.d/a.b.c",
        "UPPER-lower_9",
        "con",
        "nul.txt",
        "a-/b_/c.",
        &deep,
        &wide,
        &longest,
    ];
    for (number, key) in keys.iter().enumerate() {
        bench.put(key, format!("body {number}")).await?;
    }
    for (number, key) in keys.iter().enumerate() {
        bench
            .holds(key, format!("body {number}").as_bytes())
            .await?;
    }
    bench.lists("", None, &keys).await?;
    for key in keys {
        bench
            .sink
            .delete(&bench.cx, &named(key))
            .await
            .map_err(|error| told(&error))?;
    }
    bench.lists("", None, &[]).await
}

async fn an_empty_object_is_an_object(bench: &Bench) -> Checked {
    let meta = bench.put("empty", Bytes::new()).await?;
    ensure!(meta.size == 0, "put answers a size of {}", meta.size);
    bench.holds("empty", b"").await?;
    for range in [
        ByteRange::Suffix(9),
        ByteRange::Span {
            offset: 0,
            length: 0,
        },
    ] {
        let found = bench
            .get("empty", range)
            .await
            .map_err(|error| told(&error))?;
        ensure!(
            found.is_empty(),
            "{range:?} of nothing: {} bytes",
            found.len()
        );
    }
    let got = bench
        .get(
            "empty",
            ByteRange::Span {
                offset: 0,
                length: 1,
            },
        )
        .await;
    expect_kind(got, ErrorKind::Damaged, "a byte of nothing")?;
    bench.lists("", None, &["empty"]).await
}

async fn a_large_object_is_whole(bench: &Bench) -> Checked {
    let largest = usize::try_from(bench.sink.info().caps.max_put_bytes).unwrap_or(usize::MAX);
    let body = Bytes::from(noise(6, largest.min((40 << 20) + 3)));
    bench.put("large", body.clone()).await?;
    bench.holds("large", &body).await?;
    let middle = body.len() / 2;
    let range = ByteRange::Span {
        offset: middle as u64,
        length: 1,
    };
    let found = bench
        .get("large", range)
        .await
        .map_err(|error| told(&error))?;
    ensure!(
        found == body[middle..=middle],
        "a byte of the middle is another one"
    );
    Ok(())
}

async fn many_readers_at_once_get_what_they_asked_for(bench: &Bench) -> Checked {
    let body = Bytes::from(noise(7, 1 << 20));
    bench.put("shared", body.clone()).await?;
    bench.holds("shared", &body).await?;
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..32_usize {
        let (sink, cx, body) = (bench.sink.clone(), bench.cx.clone(), body.clone());
        readers.spawn(async move {
            let start = reader * 32_749;
            let range = ByteRange::Span {
                offset: start as u64,
                length: 8192,
            };
            match sink.get(&cx, &named("shared"), range).await {
                Ok(found) if found == body[start..start + 8192] => Ok(()),
                Ok(found) => Err(differs(&found, &body[start..start + 8192])),
                Err(error) => Err(told(&error)),
            }
        });
    }
    readers.join_all().await.into_iter().collect()
}
