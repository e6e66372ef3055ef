//! The damage matrix: every kind of object, missing, cut off, changed in a bit or exchanged for another, met by
//! every operation. What they say is committed beside this file (`damage.txt`) and compared; and whatever
//! an operation did to a damaged repository, when the object is put back as it was nothing is lost.
//!
//! `BACKSTAY_EXPECT=write` writes the file anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use backup_core::{ObjectKey, Sink};
use backup_engine::{EngineError, ForgetPlan, forget, prune};
use backup_format::layout;
use backup_parity::Share;
use bytes::Bytes;

use crate::operations::{Claim, OPERATIONS, Run, thorough};
use crate::world::{Case, Memory, World, host, noise};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Deleted,
    Truncated,
    Flipped,
    Swapped,
}

const HARMS: [Harm; 4] = [Harm::Deleted, Harm::Truncated, Harm::Flipped, Harm::Swapped];

/// The kind of an object: the folder that it is in, sessions by what they say.
fn kind(key: &ObjectKey) -> String {
    let name = key.as_str();
    let folder = name.split('/').next().unwrap_or_default();
    let part = |is: bool, word: &str| {
        if is {
            format!(" {word}")
        } else {
            String::new()
        }
    };
    let more = part(layout::session_done_id(key).is_some(), "done")
        + &part(layout::session_revoked_id(key).is_some(), "revoked")
        + &part(layout::verdict_id(key).is_some(), "verdict")
        + &part(layout::condemned_number(key).is_some(), "condemned")
        + &part(layout::dead_number(key).is_some(), "dead");
    match layout::small_parity_of(key) {
        Some(of) => format!("parity of {}", kind(&of)),
        None => format!("{folder}{more}"),
    }
}

/// What has a sidecar of its own, and these; everything else is as it is without parity.
const WITH_PARITY: [&str; 6] = [
    "config",
    "keys",
    "snap",
    "parity of config",
    "parity of keys",
    "parity of snap",
];

/// A world whose snapshots share nothing, with what each of them brought.
struct Ground {
    world: World,
    /// The objects of each kind, the one to be harmed first, then the one that it is exchanged with.
    victims: BTreeMap<String, Vec<ObjectKey>>,
}

async fn save(world: &mut World, number: u64) -> BTreeSet<ObjectKey> {
    let before: BTreeSet<_> = world.mem.objects().into_keys().collect();
    for file in 0..3 {
        world.write(
            &format!("{number}-{file}"),
            &noise(10 * number + file, 3000),
        );
    }
    world.write(&format!("{number}-large"), &noise(100 + number, 300_000));
    world.keep_one_more().await;
    let names: Vec<_> = world.files().into_keys().collect();
    for name in names {
        world.remove(&name.to_string_lossy());
    }
    let after: BTreeSet<_> = world.mem.objects().into_keys().collect();
    after.difference(&before).cloned().collect()
}

/// Forgets the newest snapshot.
async fn forget_newest(world: &mut World) {
    let repo = world.open(Arc::new(world.mem.clone()), Some(world.cache()));
    let repo = repo.await.unwrap();
    let (heads, _) = repo.heads(&world.cx).await.unwrap();
    let plan = ForgetPlan::by_id(vec![heads.last().unwrap().meta.clone()]);
    let done = forget(&repo, &world.cx, &plan, &host(), "me").await;
    assert_eq!(done.unwrap().removed, 1);
    world.saved.pop();
}

async fn ground(parity: Option<Share>) -> Ground {
    let mut world = World::empty_with_parity(parity).await;
    // What lies where in a pack is then the same each time.
    (world.cx.limits.cpu_threads, world.cx.limits.readers) = (1, 1);
    // The two that stay come behind a prune, so that each has an index run of its own.
    save(&mut world, 1).await;
    save(&mut world, 2).await;
    forget_newest(&mut world).await;
    let repo = world.open(Arc::new(world.mem.clone()), None).await.unwrap();
    let plan = prune::plan(&repo, &world.cx, &thorough()).await.unwrap();
    let done = prune::prune(&repo, &world.cx, plan, &thorough()).await;
    assert!(done.unwrap().deleted_packs > 0);
    let first = save(&mut world, 3).await;
    let second = save(&mut world, 4).await;
    let repo = world.open(Arc::new(world.mem.clone()), None).await.unwrap();
    let held = repo.heads(&world.cx).await.unwrap().0[1].meta.id;
    let by = (&host(), "me");
    let _ = backup_engine::hold::hold(&repo, &world.cx, held, by, "").await;
    // Something that a prune can delete.
    save(&mut world, 5).await;
    forget_newest(&mut world).await;
    world.write("now", &noise(7, 5000));
    let mut victims: BTreeMap<String, Vec<ObjectKey>> = BTreeMap::new();
    let all: Vec<_> = world.mem.objects().into_keys().collect();
    let new = first.iter().chain(&second);
    for key in new.chain(
        all.iter()
            .filter(|key| !first.contains(*key) && !second.contains(*key)),
    ) {
        if world.mem.objects().contains_key(key) {
            victims.entry(kind(key)).or_default().push(key.clone());
        }
    }
    // Their names are chance: without sidecars the first one is not the one by which the repository is opened here,
    // with them it is.
    let repo = world.open(Arc::new(world.mem.clone()), None).await.unwrap();
    let opener = repo.opened_by().unwrap().clone();
    for (kind, name) in [
        ("keys", opener.clone()),
        ("parity of keys", layout::parity(&opener).unwrap()),
    ] {
        if let Some(slots) = victims.get_mut(kind)
            && (slots.first() == Some(&name)) != parity.is_some()
        {
            slots.rotate_left(1);
        }
    }
    if parity.is_some() {
        victims.retain(|kind, _| WITH_PARITY.contains(&kind.as_str()));
    }
    Ground { world, victims }
}

/// Harms the first of these objects; says whether that could be done.
fn harm(case: &Case, victims: &[ObjectKey], harm: Harm) -> bool {
    let objects = case.mem.objects();
    let body = |number: usize| victims.get(number).and_then(|key| objects.get(key));
    let (Some(key), Some(own)) = (victims.first(), body(0)) else {
        return false;
    };
    match harm {
        Harm::Deleted => case.mem.lose(key),
        Harm::Truncated => case
            .mem
            .damage(key, |bytes| bytes.truncate(bytes.len() / 2)),
        Harm::Flipped => case.mem.damage(key, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        }),
        Harm::Swapped => match (victims.get(1), body(1)) {
            (Some(other), Some(theirs)) if theirs != own => {
                case.mem.plant(key.clone(), theirs.clone());
                case.mem.plant(other.clone(), own.clone());
                true
            }
            _ => false,
        },
    }
}

/// The same words whatever was drawn by lot: ids, digests, numbers and places have no value.
fn plain(text: &str, world: &World) -> String {
    let tree = world.tree();
    let tree = tree.to_string_lossy();
    let text = text
        .replace(&*tree, "TREE")
        .replace(tree.trim_start_matches('/'), "TREE")
        // Where packs of two sessions are swapped, it depends on where they are cut which of the two is said.
        .replace(
            "it does not authenticate: it is damaged, was swapped for another, or belongs to another key",
            "it does not open",
        );
    let text = without_session(&text);
    let mut out = String::new();
    let mut token = String::new();
    for letter in text.chars().chain([' ']) {
        if letter.is_ascii_alphanumeric() {
            token.push(letter);
            continue;
        }
        out.push_str(&word(&token, &out));
        token.clear();
        out.push(letter);
    }
    out.trim_end().to_owned()
}

/// "It names session …, whose key nothing has" as the other reason for which a chunk does not open.
fn without_session(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("it names session ") {
        out.push_str(before);
        out.push_str("it does not open");
        rest = behind
            .split_once(", whose key nothing has")
            .map_or("", |(_, behind)| behind);
    }
    out + rest
}

fn word(token: &str, before: &str) -> String {
    let all = |is: fn(&u8) -> bool| !token.is_empty() && token.bytes().all(|byte| is(&byte));
    let is_folder = before.ends_with("data/") || before.ends_with("meta/");
    // Parts of times too: 01T00, 39Z.
    let is_number = token.starts_with(|first: char| first.is_ascii_digit())
        && all(|byte| byte.is_ascii_digit() || b"TZ".contains(byte));
    if is_number && !(is_folder && token.len() == 2) {
        "N".into()
    } else if token.len() == 26 && all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
        "ID".into()
    } else if (token.len() >= 8 || is_folder && token.len() == 2) && all(u8::is_ascii_hexdigit) {
        "HEX".into()
    } else {
        token.to_owned()
    }
}

/// How an operation ended, and what it said, as lines.
type Words = (&'static str, BTreeSet<String>);

fn told(ended: &Result<crate::operations::Done, EngineError>, world: &World) -> Words {
    match ended {
        Ok(done) if done.findings.is_empty() => ("done", BTreeSet::new()),
        Ok(done) => {
            let lines = done.findings.iter().map(|finding| {
                let (severity, kind) = (finding.severity, finding.kind);
                // Which of the files lie in the harmed part of a pack depends on which thread was faster.
                let is_path = finding.subject.starts_with('/');
                let subject = if is_path { "PATH" } else { &finding.subject };
                let detail = match finding.detail.split_once("cannot be restored whole: ") {
                    Some((_, paths)) if paths.contains('(') => "cannot be restored whole: PATHS",
                    _ => &finding.detail,
                };
                plain(&format!("{severity:?} {kind:?} {subject}: {detail}"), world)
            });
            ("told", lines.collect())
        }
        Err(error) => {
            let text = plain(&error.to_string(), world);
            ("failed", BTreeSet::from([text]))
        }
    }
}

async fn matrix() -> String {
    let mut out = String::from(HEAD);
    out += &matrix_of(&ground(None).await).await;
    out += "\n# With parity\n";
    out += &matrix_of(&ground(Some(Share::USUAL)).await).await;
    out
}

async fn matrix_of(ground: &Ground) -> String {
    let world = &ground.world;
    let mut out = String::new();
    for (kind, victims) in &ground.victims {
        for way in HARMS {
            let tried = world.case(Memory::Lost);
            if !harm(&tried, victims, way) {
                continue;
            }
            let _ = writeln!(out, "\n## {kind}: {}", format!("{way:?}").to_lowercase());
            // Operations that say the same stand together.
            let mut said: Vec<(Vec<&str>, Words)> = Vec::new();
            for operation in OPERATIONS.iter().filter(|one| is_of_interest(one.name)) {
                let what = format!("{} of {kind} {way:?}", operation.name);
                let case = world.case(Memory::Lost);
                let before = case.mem.objects();
                assert!(harm(&case, victims, way));
                let harmed = case.mem.objects();
                let sink: Arc<dyn Sink> = Arc::new(case.mem.clone());
                let run = Run {
                    world,
                    case: &case,
                    sink: &sink,
                    cx: &world.cx,
                };
                let ended = operation.run(run).await;
                if operation.only_reads {
                    assert!(case.mem.objects() == harmed, "{what}: it changed something");
                }
                let words = told(&ended, world);
                match said.iter_mut().find(|(_, known)| *known == words) {
                    Some((names, _)) => names.push(operation.name),
                    None => said.push((vec![operation.name], words)),
                }
                mend(&case, &before, &harmed);
                world.check(&case, &what).await;
                if let Ok(done) = &ended
                    && let Claim::Saved(_) = done.claim
                {
                    run.holds_true(done.claim, &what).await;
                }
            }
            for (names, (word, lines)) in said {
                let _ = writeln!(out, "{}: {word}", names.join(", "));
                for line in lines {
                    let _ = writeln!(out, "    {line}");
                }
            }
        }
    }
    out
}

/// Puts what was harmed back as it was.
fn mend(case: &Case, before: &BTreeMap<ObjectKey, Bytes>, harmed: &BTreeMap<ObjectKey, Bytes>) {
    for (key, body) in before {
        if harmed.get(key) != Some(body) {
            case.mem.plant(key.clone(), body.clone());
        }
    }
}

/// Those whose ground is another one are tried where their ground is.
fn is_of_interest(name: &str) -> bool {
    !["first save", "save of nothing new", "release", "forget"].contains(&name)
}

const HEAD: &str = "\
What each operation says when one object of a kind is harmed. Ids, digests and numbers are left out,
lines that are the same without them stand once. `done`: it did all that it should and found nothing
wrong. `told`: it did what could be done and said what is wrong. `failed`: it did nothing and said why.
Written by crates/engine/tests/faults/damage.rs; BACKSTAY_EXPECT=write writes it anew.
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_operations_say_of_damage_is_what_is_written_down() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/damage.txt");
    let mut found = matrix().await;
    #[allow(clippy::disallowed_methods, reason = "a test that is asked to write")]
    if std::env::var("BACKSTAY_EXPECT").is_ok_and(|value| value == "write") {
        fs::write(&path, &found).unwrap();
    }
    let wanted = fs::read_to_string(&path).unwrap_or_default();
    // Names of packs are drawn by lot, and with them which of several is harmed: a manifest or a lineage.
    for _ in 0..7 {
        if found != wanted {
            found = matrix().await;
        }
    }
    for (number, (found, wanted)) in found.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(found, wanted, "line {} of damage.txt", number + 1);
    }
    assert_eq!(found.lines().count(), wanted.lines().count());
}
