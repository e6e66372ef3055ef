//! `snapshot copy`, and what `snapshot sync` has of it.

use backstay::core::{Finding, HostId};
use backstay::engine::copy::{CopyJob, CopyPlan, CopyReport, Fate, copy as carry_out, plan};
use backstay::engine::repository::{Repository, SnapshotHead};
use backstay::format::config::Operation;
use backup_terminal::snapshots::{marks, meta_members};
use backup_terminal::{
    Align, Console, Exit, Failure, OtherPlace, Outcome, Snapshots, Table, signer, surroundings,
    text,
};
use serde_json::{Value, json};

use crate::cli::{CopyArgs, SendArgs};
use crate::room;

/// The repository that is copied from, and who copies.
pub(crate) struct Sender {
    pub(crate) from: Repository,
    pub(crate) host: HostId,
    pub(crate) place: OtherPlace,
    pub(crate) all: Snapshots,
}

impl Sender {
    /// Opens the repository that is copied from.
    ///
    /// # Errors
    /// Those of [`Console::open`]; [`Exit::WrongKey`] for a key that signs no records.
    pub(crate) async fn open(console: &Console, args: &SendArgs, forgets: bool) -> Outcome<Self> {
        let from = console.open(Operation::Read).await?;
        if forgets {
            // Also of a dry run: it must not promise what the run itself could not do.
            from.keys().may_forget()?;
        }
        let host = signer(&from);
        // Whoever cannot sign the record of what came there must not bring it.
        from.keys().ledger_key(&host)?;
        let place = console.other_place(&args.to)?;
        let all = console.all(&from).await?;
        Ok(Self {
            from,
            host,
            place,
            all,
        })
    }

    /// What there is to say of snapshots that cannot be copied since they cannot be read, or are gone.
    pub(crate) async fn damage(
        &self,
        console: &Console,
        host: Option<&String>,
    ) -> Outcome<Vec<Finding>> {
        let mut damage = self.all.damage();
        let host = host.cloned().map(HostId);
        damage.extend(console.missing(&self.from, &self.all, host).await?);
        Ok(damage)
    }

    /// Copies snapshots, or shows what would be copied; says how that ended, and gives the other place as it is then:
    /// nothing where none was made.
    pub(crate) async fn send(
        &self,
        console: &mut Console,
        args: &SendArgs,
        heads: Vec<SnapshotHead>,
        damage: &[Finding],
    ) -> Outcome<(Exit, Option<Repository>)> {
        let Self {
            from, host, place, ..
        } = self;
        let mut job = CopyJob::new(host.clone());
        job.user = surroundings::actor();
        job.again = args.again;
        let to = console.open_other(from, place).await?;
        let plan = plan(from, to.as_ref(), &console.cx, &job, heads).await?;
        show(console, &plan, to.is_none(), args)?;
        let has_damage = console.findings(damage, 0)?;
        if args.dry_run {
            let has_findings = console.findings(&plan.findings, 0)?;
            if let Some(to) = &to {
                room::must_hold(console, to, plan.bytes, args).await?;
            }
            return Ok((Exit::done(has_damage || has_findings), to));
        }
        let mut to = match to {
            Some(to) => to,
            None => {
                let made = console.make_other(from, place).await?;
                note_made(console, &made, place);
                made
            }
        };
        room::must_hold(console, &to, plan.bytes, args).await?;
        let forgotten = plan.count(Fate::Forgotten);
        let there = plan.count(Fate::There);
        let report = carry_out(from, &mut to, &console.cx, plan, &job).await?;
        let has_findings = console.findings(&report.findings, 0)? || has_damage;
        say(console, &report, (there, forgotten), host, place)?;
        Ok((Exit::done(has_findings), Some(to)))
    }
}

/// Copies snapshots to another place.
pub(crate) async fn copy(console: &mut Console, args: &CopyArgs) -> Outcome {
    if !args.snapshots.is_empty() && args.choice.is_given() {
        return Err(Failure::usage(
            "snapshots are named and a filter is given",
            "give one or the other",
        ));
    }
    let sender = Sender::open(console, &args.send, false).await?;
    let (from, all) = (&sender.from, &sender.all);
    let (heads, damage) = if args.snapshots.is_empty() {
        let choice = &args.choice;
        let heads = choice
            .choose(console, from, &sender.host, &all.heads)
            .await?;
        let host = choice.filter.host.as_ref();
        (heads, sender.damage(console, host).await?)
    } else {
        let named = console.chosen(from, all, &args.snapshots).await?;
        let mut heads: Vec<SnapshotHead> = named.into_iter().cloned().collect();
        heads.sort_by_key(|head| (head.meta.time, head.meta.id));
        (heads, Vec::new())
    };
    let (exit, _) = sender.send(console, &args.send, heads, &damage).await?;
    Ok(exit)
}

fn note_made(console: &Console, made: &Repository, place: &OtherPlace) {
    console.note(&format!(
        "made repository {} at {}; the same key opens it: name it there with --key-file",
        made.id(),
        place.shown()
    ));
}

const fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Copy => "copy",
        Fate::There => "there",
        Fate::Forgotten => "forgotten",
    }
}

fn show(console: &mut Console, plan: &CopyPlan, is_new: bool, args: &SendArgs) -> Outcome<()> {
    console.end_progress();
    for (head, what) in &plan.snapshots {
        let mut members = meta_members(&head.meta);
        if let Value::Object(members) = &mut members {
            members.insert("fate".into(), fate(*what).into());
        }
        console.record("candidate", members)?;
    }
    let (lacking, there) = (plan.count(Fate::Copy), plan.count(Fate::There));
    let forgotten = plan.count(Fate::Forgotten);
    console.record(
        "plan",
        json!({
            "snapshots": plan.snapshots.len(),
            "lacking": lacking,
            "there": there,
            "forgotten": forgotten,
            "packs": plan.packs,
            "bytes": plan.bytes,
            "makes_repository": is_new,
        }),
    )?;
    if !console.talks() {
        return Ok(());
    }
    let snapshots = |count| text::plural(count, "snapshot", "snapshots");
    console.line(format!(
        "{} of {} to copy, which needs at most {} in {}; {} there already",
        text::count(lacking),
        snapshots(plan.snapshots.len() as u64),
        text::bytes(plan.bytes),
        text::plural(plan.packs, "pack", "packs"),
        text::count(there)
    ))?;
    if args.dry_run {
        if lacking > 0 {
            console.line(lacking_table(plan).render())?;
        }
        if is_new {
            console.line("would make a repository of the same family there")?;
        }
    }
    if forgotten > 0 {
        console.note(&format!(
            "{} forgotten at the place that is copied to, and not copied again; --again brings what is forgotten back",
            text::plural(forgotten, "snapshot was", "snapshots were")
        ));
    }
    Ok(())
}

/// What is to be copied.
fn lacking_table(plan: &CopyPlan) -> Table {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("TIME", Align::Left),
        ("HOST", Align::Left),
        ("NAME", Align::Left),
        ("SIZE", Align::Right),
        ("TAGS", Align::Left),
    ]);
    let lacking = plan.snapshots.iter();
    for (head, _) in lacking.filter(|(_, what)| *what == Fate::Copy) {
        let meta = &head.meta;
        table.row([
            meta.id.short(),
            text::time(meta.time),
            text::escape(meta.host.0.as_bytes()),
            text::name(&meta.name),
            text::bytes(meta.stats.bytes),
            marks(meta),
        ]);
    }
    table
}

fn say(
    console: &mut Console,
    report: &CopyReport,
    (there, forgotten): (u64, u64),
    host: &HostId,
    place: &OtherPlace,
) -> Outcome<()> {
    for meta in &report.copied {
        console.record("copied", meta_members(meta))?;
    }
    console.record(
        "copies",
        json!({
            "copied": report.copied.len(),
            "there": there,
            "forgotten": forgotten,
            "packs": report.packs,
            "bytes": report.bytes,
            "to": place.shown(),
            "signed_as": host.0,
        }),
    )?;
    if !console.talks() {
        return Ok(());
    }
    console.line(format!(
        "copied {} to {}: sent {} in {}",
        text::plural(report.copied.len() as u64, "snapshot", "snapshots"),
        place.shown(),
        text::bytes(report.bytes),
        text::plural(report.packs, "pack", "packs")
    ))
}
