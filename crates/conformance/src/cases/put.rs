//! Cases of the modes of a put: create, replace, replace a version; one by one and in a race.

use std::sync::Arc;

use backup_core::{ByteRange, ErrorKind, ObjectMeta, PutMode, SinkError, Version};
use bytes::Bytes;
use tokio::sync::Barrier;

use super::cases;
use crate::bench::{Bench, Checked, ensure, expect_kind, named, noise, told};

cases![
    a_create_never_replaces if atomic_create,
    a_replace_replaces,
    a_conditional_replace_needs_the_right_version if replace_if,
    a_racing_create_has_one_winner if atomic_create,
    racing_replaces_leave_one_whole_object,
    a_racing_conditional_replace_has_one_winner if replace_if,
    a_cancelled_operation_does_nothing,
];

const RACERS: u64 = 16;

async fn a_create_never_replaces(bench: &Bench) -> Checked {
    bench.put("config/1", "first").await?;
    let again = bench.put_as("config/1", "second", PutMode::Create).await;
    if bench.sink.info().caps.atomic_create {
        expect_kind(again, ErrorKind::Conflict, "a second create")?;
        let same = bench.put_as("config/1", "first", PutMode::Create).await;
        expect_kind(same, ErrorKind::Conflict, "a create of the same content")?;
        return bench.holds("config/1", b"first").await;
    }
    match again {
        Ok(_) => bench.holds("config/1", b"second").await,
        Err(error) if error.kind == ErrorKind::Conflict => bench.holds("config/1", b"first").await,
        Err(error) => Err(format!("a second create: {}", told(&error))),
    }
}

async fn a_replace_replaces(bench: &Bench) -> Checked {
    for body in [noise(1, 9000), noise(2, 20), noise(3, 90_000)] {
        let meta = bench
            .put_as("state", body.clone(), PutMode::Replace)
            .await
            .map_err(|error| told(&error))?;
        ensure!(
            meta.size == body.len() as u64,
            "replace answers a size of {}",
            meta.size
        );
        bench.holds("state", &body).await?;
    }
    bench.lists("", None, &["state"]).await
}

async fn a_conditional_replace_needs_the_right_version(bench: &Bench) -> Checked {
    let first = bench.put("head", "one").await?;
    if !bench.sink.info().caps.replace_if {
        let mode = PutMode::ReplaceIf(first.version.unwrap_or_else(|| Version("1".into())));
        let answer = bench.put_as("head", "two", mode).await;
        expect_kind(
            answer,
            ErrorKind::Unsupported,
            "a conditional put, not claimed",
        )?;
        return bench.holds("head", b"one").await;
    }
    let old = version(first)?;
    let second = bench
        .put_as("head", "two", PutMode::ReplaceIf(old.clone()))
        .await
        .map_err(|error| told(&error))?;
    bench.holds("head", b"two").await?;
    let new = version(second)?;
    ensure!(new != old, "another content has the same version {old:?}");
    let late = bench.put_as("head", "three", PutMode::ReplaceIf(old)).await;
    expect_kind(late, ErrorKind::Conflict, "a put on a version that is gone")?;
    bench.holds("head", b"two").await?;
    let nowhere = bench.put_as("nowhere", "x", PutMode::ReplaceIf(new)).await;
    match nowhere {
        Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::NotFound) => {}
        other => return Err(format!("a version of nothing was replaced: {other:?}")),
    }
    bench.lacks("nowhere").await
}

fn version(meta: ObjectMeta) -> Result<Version, String> {
    meta.version
        .ok_or_else(|| "it claims replace_if and has no versions".to_owned())
}

fn body_of(racer: u64) -> Bytes {
    let length = 200_000 + usize::try_from(racer).unwrap_or(0);
    noise(racer, length).into()
}

/// Sixteen puts of one key that start together; who came through.
async fn race(
    bench: &Bench,
    key: &'static str,
    mode: &PutMode,
) -> Result<(Vec<u64>, Vec<SinkError>), String> {
    let start = Arc::new(Barrier::new(usize::try_from(RACERS).unwrap_or(0)));
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..RACERS {
        let (sink, cx, start) = (bench.sink.clone(), bench.cx.clone(), start.clone());
        let mode = mode.clone();
        racers.spawn(async move {
            let body = body_of(racer);
            start.wait().await;
            (racer, sink.put(&cx, &named(key), body, mode).await)
        });
    }
    let (mut winners, mut losers) = (Vec::new(), Vec::new());
    for (racer, answer) in racers.join_all().await {
        match answer {
            Ok(meta) if meta.size == 200_000 + racer => winners.push(racer),
            Ok(meta) => return Err(format!("racer {racer} is told of {meta:?}")),
            Err(error) => losers.push(error),
        }
    }
    Ok((winners, losers))
}

async fn a_racing_create_has_one_winner(bench: &Bench) -> Checked {
    let atomic = bench.sink.info().caps.atomic_create;
    for key in ["race/a", "race/b", "race/c/d", "race/e/f"] {
        let (winners, losers) = race(bench, key, &PutMode::Create).await?;
        let strange = losers
            .iter()
            .find(|error| error.kind != ErrorKind::Conflict);
        ensure!(strange.is_none(), "a loser is told {strange:?}");
        ensure!(!winners.is_empty(), "nobody won");
        ensure!(!atomic || winners.len() == 1, "{winners:?} all won");
        whole(bench, key, &winners).await?;
    }
    Ok(())
}

async fn racing_replaces_leave_one_whole_object(bench: &Bench) -> Checked {
    let (winners, losers) = race(bench, "race/r", &PutMode::Replace).await?;
    ensure!(losers.is_empty(), "a replace failed: {losers:?}");
    whole(bench, "race/r", &winners).await?;
    bench.lists("", None, &["race/r"]).await
}

async fn a_racing_conditional_replace_has_one_winner(bench: &Bench) -> Checked {
    if !bench.sink.info().caps.replace_if {
        return Ok(());
    }
    let seen = version(bench.put("race/v", "seen by all").await?)?;
    let (winners, losers) = race(bench, "race/v", &PutMode::ReplaceIf(seen)).await?;
    let strange = losers
        .iter()
        .find(|error| error.kind != ErrorKind::Conflict);
    ensure!(strange.is_none(), "a loser is told {strange:?}");
    ensure!(winners.len() == 1, "winners: {winners:?}");
    whole(bench, "race/v", &winners).await
}

/// Holds when the object is what one of `racers` put.
async fn whole(bench: &Bench, key: &str, racers: &[u64]) -> Checked {
    let found = bench
        .get(key, ByteRange::Full)
        .await
        .map_err(|error| told(&error))?;
    ensure!(
        racers.iter().any(|&racer| found == body_of(racer)),
        "{key} holds {} bytes that none of {racers:?} put",
        found.len()
    );
    Ok(())
}

async fn a_cancelled_operation_does_nothing(bench: &Bench) -> Checked {
    bench.put("kept", "x").await?;
    let mut cx = bench.cx.clone();
    cx.cancel = backup_core::context::CancellationToken::new();
    cx.cancel.cancel();
    let sink = &bench.sink;
    let put = sink
        .put(
            &cx,
            &named("new"),
            Bytes::from_static(b"y"),
            PutMode::Create,
        )
        .await;
    expect_kind(put, ErrorKind::Cancelled, "a cancelled put")?;
    let got = sink.get(&cx, &named("kept"), ByteRange::Full).await;
    expect_kind(got, ErrorKind::Cancelled, "a cancelled get")?;
    let deleted = sink.delete(&cx, &named("kept")).await;
    expect_kind(deleted, ErrorKind::Cancelled, "a cancelled delete")?;
    let listed: Result<Vec<_>, _> =
        futures::TryStreamExt::try_collect(sink.list(&cx, "", None)).await;
    expect_kind(listed, ErrorKind::Cancelled, "a cancelled list")?;
    bench.lists("", None, &["kept"]).await
}
