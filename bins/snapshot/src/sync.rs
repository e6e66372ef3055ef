//! `snapshot sync`.

use std::collections::BTreeSet;

use backstay::core::{Finding, FindingKind, Severity, SnapshotId, SnapshotMeta, Verdict};
use backstay::engine::copy::vanished;
use backstay::engine::hold::Holds;
use backstay::engine::repository::{Repository, SnapshotHead};
use backstay::engine::verify::known_damaged;
use backstay::engine::{ForgetPlan, forget, unsigned};
use backstay::retention::last_good;
use backup_terminal::snapshots::meta_members;
use backup_terminal::{Align, Console, Exit, Outcome, Table, surroundings, text};
use serde_json::{Value, json};

use crate::cli::SyncArgs;
use crate::copy::Sender;

/// A snapshot that the other place has beyond this one, and why it stays there; nothing for one that goes.
struct Extra {
    head: SnapshotHead,
    was_forgotten: bool,
    stays: Option<&'static str>,
}

/// Copies what the other place lacks, and says what it has beyond that.
pub(crate) async fn sync(console: &mut Console, args: &SyncArgs) -> Outcome {
    let sender = Sender::open(console, &args.send, args.remove_vanished).await?;
    let choice = &args.choice;
    let heads = choice
        .choose(console, &sender.from, &sender.host, &sender.all.heads)
        .await?;
    let damage = sender.damage(console, choice.filter.host.as_ref()).await?;
    let (exit, to) = sender.send(console, &args.send, heads, &damage).await?;
    let Some(to) = to else {
        return Ok(exit);
    };
    let mut extras = extras(console, &sender, &to, args).await?;
    if args.remove_vanished && exit != Exit::Ok {
        for extra in &mut extras {
            extra.stays = extra.stays.or(Some("not all is well with the copy"));
        }
    }
    show(console, &extras, args)?;
    let mut exit = exit;
    let lost = lost(&extras);
    if console.findings(&lost, 0)? {
        exit = exit.max(Exit::Findings);
    }
    let going: Vec<SnapshotMeta> = extras
        .iter()
        .filter(|extra| extra.stays.is_none())
        .map(|extra| extra.head.meta.clone())
        .collect();
    let mut removed = 0;
    if !going.is_empty() && !args.send.dry_run {
        let (host, user) = (&sender.host, surroundings::actor());
        let plan = ForgetPlan::by_id(going);
        let done = forget(&to, &console.cx, &plan, host, &user).await?;
        removed = done.removed;
        if console.findings(&done.findings, 0)? {
            exit = exit.max(Exit::Findings);
        }
    }
    console.record(
        "synced",
        json!({
            "extra": extras.len(),
            "removed": removed,
            "to": sender.place.shown(),
            "dry_run": args.send.dry_run,
        }),
    )?;
    if removed > 0 && console.talks() {
        let removed = text::plural(removed, "snapshot", "snapshots");
        console.line(format!(
            "{removed} forgotten at {}; `snapshot prune` there gives the space back",
            sender.place.shown()
        ))?;
    }
    Ok(exit)
}

/// What the other place has beyond this one, of what is chosen by its name, its host, its tags, its label and its time.
async fn extras(
    console: &Console,
    sender: &Sender,
    to: &Repository,
    args: &SyncArgs,
) -> Outcome<Vec<Extra>> {
    let found = vanished(&sender.from, to, &console.cx, &sender.host).await?;
    let forgotten = found.forgotten.into_iter().map(|head| (head, true));
    let all = forgotten.chain(found.others.into_iter().map(|head| (head, false)));
    let passing = all.filter(|(head, _)| args.choice.passes(console, &head.meta));
    let mut extras: Vec<Extra> = passing
        .map(|(head, was_forgotten)| Extra {
            head,
            was_forgotten,
            stays: match was_forgotten {
                false => Some("this host did not forget it here"),
                true if !args.remove_vanished => Some("this place has a retention of its own"),
                true => None,
            },
        })
        .collect();
    extras.sort_by_key(|extra| (extra.head.meta.time, extra.head.meta.id));
    if extras.iter().any(|extra| extra.stays.is_none()) {
        guard(console, to, &mut extras).await?;
    }
    Ok(extras)
}

/// Lets stay what must: what is held there, what its host did not sign, and the last good one of each name and host.
async fn guard(console: &Console, to: &Repository, extras: &mut [Extra]) -> Outcome<()> {
    let (there, _) = to.heads(&console.cx).await?;
    let holds = Holds::read(to, &console.cx).await?;
    let unsigned = unsigned(to, &there);
    let cache = console.cache_folder();
    let damaged = known_damaged(to, &console.cx, cache.as_deref(), &there).await?;
    for extra in extras.iter_mut().filter(|extra| extra.stays.is_none()) {
        let id = extra.head.meta.id;
        if holds.has(id) {
            extra.stays = Some("held");
        } else if unsigned.contains_key(&id) {
            extra.stays = Some("not signed by its host");
        }
    }
    let going = extras.iter().filter(|extra| extra.stays.is_none());
    let going: BTreeSet<SnapshotId> = going.map(|extra| extra.head.meta.id).collect();
    let signed = there.into_iter().map(|head| head.meta);
    let metas: Vec<SnapshotMeta> = signed
        .filter(|meta| !unsigned.contains_key(&meta.id))
        .collect();
    let last: BTreeSet<SnapshotId> = last_good(&metas, &going, &damaged)
        .into_iter()
        .map(|meta| meta.id)
        .collect();
    for extra in extras.iter_mut() {
        if last.contains(&extra.head.meta.id) {
            extra.stays = Some("the last good one of its name and host");
        }
    }
    Ok(())
}

/// What is to be said of snapshots that are only there, and that this host did not forget here.
fn lost(extras: &[Extra]) -> Vec<Finding> {
    let lost = extras.iter().filter(|extra| !extra.was_forgotten);
    let finding = |extra: &Extra| {
        let id = extra.head.meta.id;
        let detail = format!(
            "it is at the place that is copied to and not here, and this host did not forget it here: it was saved there, or lost here, or another host forgot it, or the ledger here is not whole; `snapshot copy {id}` the other way brings it here"
        );
        let (severity, kind) = (Severity::Note, FindingKind::Missing);
        Finding::new(severity, kind, format!("snapshot {id}"), detail)
    };
    lost.map(finding).collect()
}

fn show(console: &mut Console, extras: &[Extra], args: &SyncArgs) -> Outcome<()> {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("TIME", Align::Left),
        ("HOST", Align::Left),
        ("NAME", Align::Left),
        ("HERE", Align::Left),
        ("THERE", Align::Left),
    ]);
    for extra in extras {
        let meta = &extra.head.meta;
        let verdict = match extra.stays {
            Some(_) => Verdict::Keep,
            None => Verdict::Forget,
        };
        let mut members = meta_members(meta);
        if let Value::Object(members) = &mut members {
            members.insert("forgotten".into(), extra.was_forgotten.into());
            members.insert("verdict".into(), json!(verdict));
            members.insert("stays".into(), json!(extra.stays));
            members.insert("dry_run".into(), args.send.dry_run.into());
        }
        console.record("extra", members)?;
        let here = match extra.was_forgotten {
            true => "forgotten",
            false => "not there",
        };
        table.row([
            meta.id.short(),
            text::time(meta.time),
            text::escape(meta.host.0.as_bytes()),
            text::name(&meta.name),
            here.to_owned(),
            extra
                .stays
                .map_or_else(|| "forget".to_owned(), |why| format!("stays: {why}")),
        ]);
    }
    if extras.is_empty() || !console.talks() {
        return Ok(());
    }
    let extra = text::plural(extras.len() as u64, "snapshot", "snapshots");
    console.line(format!("{extra} there that are not here:"))?;
    console.line(table.render())
}
