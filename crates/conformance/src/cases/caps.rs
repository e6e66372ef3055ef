//! Cases of what a sink says of itself: it must be so.

use std::time::Duration;

use backup_core::{ByteRange, ErrorKind, PutMode, Warmth};

use super::cases;
use crate::bench::{Bench, Checked, ensure, expect_kind, named, told};

cases![
    it_says_who_it_is,
    versions_are_there_where_they_are_claimed if replace_if,
    more_than_the_largest_put_is_refused,
    warming_says_when_objects_can_be_read,
    tidying_takes_no_object,
];

async fn it_says_who_it_is(bench: &Bench) -> Checked {
    let info = bench.sink.info();
    ensure!(!info.scheme.is_empty(), "it has no scheme");
    ensure!(!info.location.is_empty(), "it has no location");
    ensure!(info.caps.connections >= 1, "no connection at all");
    ensure!(
        info.caps.max_put_bytes >= 1 << 20,
        "objects of less than a mebibyte are no use"
    );
    ensure!(
        info.caps.settle <= Duration::from_secs(600),
        "listings lag by {:?}",
        info.caps.settle
    );
    ensure!(
        bench.sink.info() == info,
        "it changes its mind about itself"
    );
    Ok(())
}

async fn versions_are_there_where_they_are_claimed(bench: &Bench) -> Checked {
    let put = bench.put("v", "x").await?;
    if !bench.sink.info().caps.replace_if {
        return Ok(());
    }
    let head = bench
        .sink
        .head(&bench.cx, &named("v"))
        .await
        .map_err(|error| told(&error))?;
    ensure!(put.version.is_some(), "put answers without a version");
    ensure!(
        head.version == put.version,
        "put says {put:?}, head {head:?}"
    );
    Ok(())
}

async fn more_than_the_largest_put_is_refused(bench: &Bench) -> Checked {
    let largest = bench.sink.info().caps.max_put_bytes;
    // Beyond this the trial would cost more memory than it is worth.
    let Some(size) = usize::try_from(largest)
        .ok()
        .filter(|&size| size < 128 << 20)
    else {
        return Ok(());
    };
    let answer = bench
        .put_as("too-large", vec![0; size + 1], PutMode::Create)
        .await;
    expect_kind(answer, ErrorKind::Invalid, "a put beyond the largest")?;
    bench.lacks("too-large").await
}

async fn warming_says_when_objects_can_be_read(bench: &Bench) -> Checked {
    let cold = bench.sink.info().caps.cold;
    bench.put("w", "x").await?;
    let warm = bench
        .sink
        .warm(&bench.cx, &[named("w")])
        .await
        .map_err(|error| told(&error))?;
    ensure!(
        cold || warm == Warmth::Ready,
        "it claims not to be cold and answers {warm:?}"
    );
    if warm == Warmth::Ready {
        let found = bench
            .get("w", ByteRange::Full)
            .await
            .map_err(|error| told(&error))?;
        ensure!(found == b"x"[..], "a warm object is another one");
    }
    let none = bench
        .sink
        .warm(&bench.cx, &[])
        .await
        .map_err(|error| told(&error))?;
    ensure!(none == Warmth::Ready, "to warm nothing takes {none:?}");
    Ok(())
}

async fn tidying_takes_no_object(bench: &Bench) -> Checked {
    bench.put("t/1", "x").await?;
    bench.put("t/tmp", "y").await?;
    // So long that nothing is taken that somebody else is writing.
    let tidied = bench.sink.tidy(&bench.cx, Duration::from_hours(48)).await;
    tidied.map_err(|error| told(&error))?;
    bench.lists("", None, &["t/1", "t/tmp"]).await?;
    bench.holds("t/1", b"x").await
}
