//! Every kind of fault with every operation: it does what it should or says what is wrong, it comes to
//! an end, and nothing that was committed is lost.

use std::sync::Arc;
use std::time::Duration;

use backup_core::{ErrorKind, Retry, Sink};
use backup_engine::{InitRequest, Repository, Unlock, prepare};
use backup_format::config::Operation as Access;
use backup_format::keys::keyfile::KeyFile;
use backup_testkit::{EventualSink, Fault, FaultSink, Lag, LockedSink, MemSink, Op, Rule, When};

use crate::operations::{Claim, MEMORIES, OPERATIONS, Operation, Run, grounds, mend_ground};
use crate::world::{Case, Memory, World, context, read};

/// What a kind may do to what was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// Nothing: a tier on a bad day that keeps what it says that it has.
    None,
    /// It says that it has what it has not: what is new may be missing or cut off, what was there stays.
    New,
    /// The same, and what is new may have other content of the same size.
    Spoilt,
}

/// How a tier is to be made.
#[derive(Debug, Clone, Copy)]
struct How {
    seed: u64,
    /// Whether it lists several folders with one call, where its faults are those of calls.
    together: bool,
}

impl How {
    fn around(self, sink: Arc<dyn Sink>) -> FaultSink {
        let sink = FaultSink::new(sink, self.seed);
        match self.together {
            true => sink.listing_together(),
            false => sink,
        }
    }
}

type Make = fn(Arc<dyn Sink>, How) -> Arc<dyn Sink>;

struct Kind {
    name: &'static str,
    harm: Harm,
    make: Make,
}

macro_rules! kinds {
    ($($name:literal, $harm:ident: $make:expr;)*) => {
        /// All kinds; docs/testing.md lists them.
        const KINDS: &[Kind] = &[$(Kind { name: $name, harm: Harm::$harm, make: $make }),*];
    };
}

const CHANGES: [Op; 2] = [Op::Put, Op::Delete];
const READS: [Op; 2] = [Op::Get, Op::Head];

fn often(sink: Arc<dyn Sink>, how: How, fault: Fault, ops: &[Op], per_mille: u64) -> Arc<dyn Sink> {
    let rule = Rule::new(fault).on(ops).when(When::PerMille(per_mille));
    Arc::new(how.around(sink).with(rule))
}

fn ruled(sink: Arc<dyn Sink>, how: How, rules: impl IntoIterator<Item = Rule>) -> Arc<dyn Sink> {
    let sink = how.around(sink);
    rules.into_iter().for_each(|rule| sink.add(rule));
    Arc::new(sink)
}

kinds! {
    "fails at first", None: |sink, how| {
        ruled(sink, how, [Rule::new(Fault::outage()).when(When::First(3))])
    };
    "fails now and then", None: |sink, how| often(sink, how, Fault::outage(), &Op::ALL, 200);
    "fails for good", None: |sink, how| {
        ruled(sink, how, [Rule::new(Fault::outage()).when(When::From(6))])
    };
    "denies a change", None: |sink, how| {
        let denied = Fault::Fail(ErrorKind::Denied, Retry::Never);
        ruled(sink, how, [Rule::new(denied).on(&CHANGES).when(When::Nth(3))])
    };
    "is full", None: |sink, how| {
        ruled(sink, how, [Rule::new(Fault::full()).on(&[Op::Put]).when(When::From(3))])
    };
    "asks for a pause", None: |sink, how| {
        let pause = Fault::throttled(Duration::from_millis(3));
        often(sink, how, pause, &Op::ALL, 200)
    };
    "is late", None: |sink, how| {
        often(sink, how, Fault::Delay(Duration::from_millis(3)), &Op::ALL, 500)
    };
    "is slow", None: |sink, how| often(sink, how, Fault::Slow(40 << 20), &Op::ALL, 1000);
    "loses answers", None: |sink, how| often(sink, how, Fault::LoseAnswer, &Op::ALL, 250);
    "does it twice", None: |sink, how| often(sink, how, Fault::Twice, &CHANGES, 500);
    "tries again below", None: |sink, how| often(sink, how, Fault::Retried, &CHANGES, 500);
    "does it again later", None: |sink, how| often(sink, how, Fault::Echo(2), &CHANGES, 300);
    "shows an old listing", None: |sink, how| often(sink, how, Fault::StaleList(4), &[Op::List], 600);
    "breaks off a listing", None: |sink, how| {
        often(sink, how, Fault::BreakOff(1), &[Op::List], 250)
    };
    "misses what is there", None: |sink, how| {
        let missing = Fault::Fail(ErrorKind::NotFound, Retry::Never);
        often(sink, how, missing, &READS, 60)
    };
    "flips a bit on the way", None: |sink, how| often(sink, how, Fault::FlipBit, &[Op::Get], 60);
    "answers short", None: |sink, how| often(sink, how, Fault::CutShort, &[Op::Get], 60);
    "shows changes late", None: |sink, how| {
        let lag = Lag { list: Duration::from_millis(40), read: Duration::ZERO };
        Arc::new(EventualSink::new(sink, lag, how.seed))
    };
    "reads what was", None: |sink, how| {
        let lag = Duration::from_millis(20);
        Arc::new(EventualSink::new(sink, Lag { list: lag, read: lag }, how.seed))
    };
    "locks objects", None: |sink, _| Arc::new(LockedSink::new(sink, Duration::from_hours(24)));
    "tears an object", New: |sink, how| often(sink, how, Fault::Torn, &[Op::Put], 250);
    "spoils a bit", Spoilt: |sink, how| often(sink, how, Fault::Spoil, &[Op::Put], 250);
    "stores too little", New: |sink, how| often(sink, how, Fault::Shorten, &[Op::Put], 250);
    "stores nothing", New: |sink, how| often(sink, how, Fault::Drop, &[Op::Put], 250);
}

/// Whether what was there before stays, whatever became of what is new.
async fn older_are_whole(world: &World, case: &Case, what: &str) {
    let repo = world.open(Arc::new(case.mem.clone()), None).await;
    let repo = repo.unwrap_or_else(|error| panic!("{what}: {error}"));
    let (heads, _) = repo.heads(&world.cx).await.unwrap();
    for (wanted, head) in world.saved.iter().zip(heads) {
        let out = tempfile::tempdir().unwrap();
        // Of what is new, the record of this in the ledger too, anything may be said.
        let done = world.try_to_restore(&repo, &world.cx, head, out.path());
        done.await.unwrap_or_else(|error| panic!("{what}: {error}"));
        let back = read(out.path());
        assert!(back == *wanted, "{what}: an older snapshot is not itself");
    }
}

async fn meets(
    kind: &Kind,
    operation: &Operation,
    world: &World,
    (memory, how): (Memory, How),
) -> Option<String> {
    let (a, b) = (kind.name, operation.name);
    let what = format!("a tier that {a}: {b}, {memory:?}, {how:?}");
    let case = world.case(memory);
    let before = case.mem.objects();
    let sink = (kind.make)(Arc::new(case.mem.clone()), how);
    let run = Run {
        world,
        case: &case,
        sink: &sink,
        cx: &world.cx,
    };
    let ended = operation.run(run).await;
    if operation.only_reads {
        assert!(case.mem.objects() == before, "{what}: it changed something");
    }
    let told = match &ended {
        Ok(done) => done.findings.first().map(ToString::to_string),
        Err(error) => Some(error.to_string()),
    };
    assert!(told.as_ref().is_none_or(|told| !told.is_empty()), "{what}");
    let truth: Arc<dyn Sink> = Arc::new(case.mem.clone());
    let honest = Run {
        sink: &truth,
        ..run
    };
    let is_done = ended.as_ref().is_ok_and(|done| done.findings.is_empty());
    if !is_done || kind.harm != Harm::None {
        mend_ground(operation.ground, honest, &what).await;
    }
    if let Ok(done) = &ended
        && kind.harm == Harm::None
        && (done.findings.is_empty() || !matches!(done.claim, Claim::Shown(_)))
    {
        run.holds_true(done.claim, &what).await;
    }
    if operation.only_reads {
        return told;
    }
    if kind.harm != Harm::None {
        // What a prune copies is new too: it reads that back before what it copied from goes.
        older_are_whole(world, &case, &what).await;
        return told;
    }
    world.check(&case, &what).await;
    world.make_good(&case, &what).await;
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_fault_with_every_operation_loses_nothing() {
    let grounds = grounds().await;
    assert!(KINDS.len() >= 12);
    let seed = backup_testkit::seed();
    for (number, kind) in KINDS.iter().enumerate() {
        println!("a tier that {}", kind.name);
        for (other, operation) in OPERATIONS.iter().enumerate() {
            let (world, memory) = (&grounds[&operation.ground], MEMORIES[(number + other) % 2]);
            // Each memory with both.
            let together = (number + other) % 4 < 2;
            let how = How { seed, together };
            if let Some(told) = meets(kind, operation, world, (memory, how)).await {
                println!("    {}: {told}", operation.name);
            }
        }
    }
}

/// Makes a repository on a tier that fails: it opens with its key, or another can be made.
async fn make(kind: &Kind, how: How) {
    let what = format!("a tier that {}: init, {how:?}", kind.name);
    let (cx, mem) = (context(), MemSink::new());
    let request = InitRequest {
        key_file: true,
        ..InitRequest::default()
    };
    let prepared = prepare(&cx, &request).unwrap();
    let mut key = prepared.key_file.as_ref().unwrap().as_bytes().to_vec();
    let sink = (kind.make)(Arc::new(mem.clone()), how);
    let made = prepared.create(&cx, sink, None).await;
    let exists = Repository::exists(&cx, &mem).await.unwrap();
    assert!(kind.harm != Harm::None || exists || made.is_err(), "{what}");
    if !exists {
        let prepared = prepare(&cx, &request).unwrap();
        key = prepared.key_file.as_ref().unwrap().as_bytes().to_vec();
        let made = prepared.create(&cx, Arc::new(mem.clone()), None).await;
        assert!(made.is_ok(), "{what}: {made:?}");
    }
    let unlock = Unlock::KeyFile(KeyFile::parse(&key).unwrap());
    let opened = Repository::open(&cx, Arc::new(mem), &unlock, None, Access::Write).await;
    assert!(
        kind.harm != Harm::None || opened.is_ok(),
        "{what}: {opened:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_is_made_or_not_whatever_the_tier_does() {
    let first = backup_testkit::seed();
    for kind in KINDS {
        for seed in first..first + 6 {
            let together = seed % 2 == 0;
            make(kind, How { seed, together }).await;
        }
    }
}
