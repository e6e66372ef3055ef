//! The damage matrix: every kind of object, missing, cut off, changed in a bit or exchanged for another, met by
//! every operation. What they say is committed beside this file (`damage.txt`) and compared; and whatever
//! an operation did to a damaged repository, when the object is put back as it was nothing is lost.
//!
//! Nothing is left to chance in what is harmed: of packs the blob is chosen that is hit, since what a damaged
//! page costs is not what a damaged lineage does.
//!
//! `BACKSTAY_EXPECT=write` writes the file anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use backup_core::{ObjectKey, Sink};
use backup_engine::snapshot::CheckpointRule;
use backup_engine::{EngineError, ForgetPlan, Repository, forget, prune};
use backup_format::layout;
use backup_format::pack::{FOOTER, PackBlob, header_length, read_tail};
use backup_format::seal::BlobKind;
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

/// Objects of a kind, the one to be harmed first, then the one that it is exchanged with.
#[derive(Debug, Default)]
struct Victims {
    keys: Vec<ObjectKey>,
    /// Where the first is hit; in its middle, if that makes no difference.
    at: Option<usize>,
    /// Whether it is a part of an object that stands in the table as a whole.
    is_part: bool,
}

/// A world whose snapshots share nothing, with what each of them brought.
struct Ground {
    world: World,
    victims: BTreeMap<String, Victims>,
}

async fn save(world: &mut World, number: u64) -> BTreeSet<ObjectKey> {
    let before: BTreeSet<_> = world.mem.objects().into_keys().collect();
    // No two packs have the same size, and each manifest is one page.
    let length = usize::try_from(2000 + 1000 * number).unwrap();
    for file in 0..number.saturating_sub(2).max(1) {
        let content = noise(10 * number + file, length);
        world.write(&format!("{number}-{file}"), &content);
    }
    // One chunk, and a lineage.
    world.write(&format!("{number}-large"), &noise(100 + number, 1 << 20));
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
    // And each snapshot has one pack of content, and one of pages and lineages.
    world.job.checkpoint = CheckpointRule::default();
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
    let all: Vec<_> = world.mem.objects().into_keys().collect();
    let new = first.iter().chain(&second);
    let is_old = |key: &&ObjectKey| !first.contains(*key) && !second.contains(*key);
    let mut victims: BTreeMap<String, Victims> = BTreeMap::new();
    for key in new.chain(all.iter().filter(is_old)) {
        if world.mem.objects().contains_key(key) {
            victims.entry(kind(key)).or_default().keys.push(key.clone());
        }
    }
    // Their names are chance: without sidecars the first one is not the one by which the repository is opened here,
    // with them it is.
    let opener = repo.opened_by().unwrap().clone();
    for (kind, name) in [
        ("keys", opener.clone()),
        ("parity of keys", layout::parity(&opener).unwrap()),
    ] {
        if let Some(slots) = victims.get_mut(kind)
            && (slots.keys.first() == Some(&name)) != parity.is_some()
        {
            slots.keys.rotate_left(1);
        }
    }
    aim(&world, &repo, &mut victims);
    if parity.is_some() {
        victims.retain(|kind, _| WITH_PARITY.contains(&kind.as_str()));
    }
    Ground { world, victims }
}

/// Says which part of a pack is hit.
fn aim(world: &World, repo: &Repository, victims: &mut BTreeMap<String, Victims>) {
    let parts = |key: &ObjectKey| {
        let bytes = world.mem.objects()[key].clone();
        let footer = bytes.len() - FOOTER;
        let start = footer - header_length(&bytes[footer..]).unwrap();
        let blobs = read_tail(repo.ring(), &bytes[start..]).unwrap().blobs;
        (blobs, start, footer)
    };
    // The largest: of a file its chunk, not the bundle of the small ones.
    let middle = |blobs: &[PackBlob], kind: BlobKind| {
        let of_kind = blobs.iter().filter(|blob| blob.kind == kind);
        let blob = of_kind.max_by_key(|blob| blob.stored).unwrap();
        Some((blob.offset + blob.stored / 2) as usize)
    };
    let data = victims.get_mut("data").unwrap();
    data.at = middle(&parts(&data.keys[0]).0, BlobKind::Data);
    let meta = victims.get_mut("meta").unwrap();
    let (blobs, start, footer) = parts(&meta.keys[0]);
    meta.at = middle(&blobs, BlobKind::Page);
    let keys = meta.keys.clone();
    for (name, at) in [
        ("meta, a lineage", middle(&blobs, BlobKind::Lineage)),
        ("meta, its end", Some(start.midpoint(footer))),
    ] {
        let part = Victims {
            keys: keys.clone(),
            at,
            is_part: true,
        };
        victims.insert(name.into(), part);
    }
}

/// Harms the first of these objects; says whether that could be done.
fn harm(case: &Case, victims: &Victims, harm: Harm) -> bool {
    let objects = case.mem.objects();
    let keys = &victims.keys;
    let body = |number: usize| keys.get(number).and_then(|key| objects.get(key));
    let (Some(key), Some(own)) = (keys.first(), body(0)) else {
        return false;
    };
    let at = victims.at.unwrap_or(own.len() / 2);
    match harm {
        Harm::Deleted | Harm::Swapped if victims.is_part => false,
        Harm::Deleted => case.mem.lose(key),
        Harm::Truncated => case.mem.damage(key, |bytes| bytes.truncate(at)),
        Harm::Flipped => case.mem.damage(key, |bytes| bytes[at] ^= 0x10),
        Harm::Swapped => match (keys.get(1), body(1)) {
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
        .replace(tree.trim_start_matches('/'), "TREE");
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

/// Of packs of pages, where it is chance at which byte one ends, it is chance as well what stands in the place of
/// another one: the middle of something, or the beginning of what another session sealed.
fn unopened(line: &str) -> String {
    [
        "it does not authenticate: it is damaged, was swapped for another, or belongs to another key",
        "it names session ID, whose key nothing has",
        // A lineage, which is of no session.
        "it names session N, whose key nothing has",
    ]
    .iter()
    .fold(line.to_owned(), |line, why| line.replace(why, "it does not open"))
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
                let (subject, detail) = (&finding.subject, &finding.detail);
                plain(&format!("{severity:?} {kind:?} {subject}: {detail}"), world)
            });
            ("told", lines.collect())
        }
        Err(error) => {
            // The kind of the error decides on the exit code.
            let kind = format!("{error:?}");
            let kind = kind.split([' ', '(', '{']).next().unwrap_or_default();
            let text = plain(&error.to_string(), world);
            let mut lines = BTreeSet::from([format!("{kind}: {text}")]);
            // The programs say that behind it.
            lines.extend(error.remedy().map(|remedy| format!("→ {remedy}")));
            ("failed", lines)
        }
    }
}

/// Whether somebody who reads this knows what to do. Of files that do not come back `restore run` says it
/// once, at its end.
fn has_remedy(operation: &str, words: &Words) -> bool {
    let is_remedy = |line: &String| {
        ["`snapshot ", "put ", "by hand", "--from"]
            .iter()
            .any(|word| line.contains(word))
    };
    words.0 == "done" || operation == "restore" || words.1.iter().any(is_remedy)
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
                let mut words = told(&ended, world);
                if way == Harm::Swapped {
                    words.1 = words.1.iter().map(|line| unopened(line)).collect();
                }
                assert!(has_remedy(operation.name, &words), "{what}: {words:?}");
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
wrong. `told`: it did what could be done and said what is wrong. `failed`: it did nothing and said why, behind
the kind of the error; what the programs say behind it stands behind →. `restore run` says at its end what mends damage.
Written by tests/engine/tests/faults/damage.rs; BACKSTAY_EXPECT=write writes it anew.
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_operations_say_of_damage_is_what_is_written_down() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/damage.txt");
    let found = matrix().await;
    #[allow(clippy::disallowed_methods, reason = "a test that is asked to write")]
    if std::env::var("BACKSTAY_EXPECT").is_ok_and(|value| value == "write") {
        fs::write(&path, &found).unwrap();
    }
    let wanted = fs::read_to_string(&path).unwrap_or_default();
    for (number, (found, wanted)) in found.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(found, wanted, "line {} of damage.txt", number + 1);
    }
    assert_eq!(found.lines().count(), wanted.lines().count());
}
