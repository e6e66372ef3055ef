//! A signed manifest that has another SHA-256 of a file than its content has, as a machine with bad memory makes one.
//! On the tier nothing is damaged: each chunk opens and is what its id says. Only who hashes the content as a whole
//! finds out.

use std::fs;

use backstay::engine::state::{StatePaths, StateWriter};
use backstay::format::keys::{KeyFile, KeySet, Slot};
use backstay::format::record::Record;
use backstay::format::seal::ObjectKeyring;
use backup_tests::{Place, Run};

/// The keys of a place, by the slot that its key file opens.
fn keys(place: &Place) -> KeySet {
    let file = KeyFile::parse(&fs::read(place.path("key")).unwrap()).unwrap();
    let slots = place.objects("keys").into_iter();
    let mut opened = slots.filter_map(|path| {
        let slot = Slot::parse(&fs::read(path).unwrap()).unwrap();
        slot.open(file.credential()?).ok()
    });
    opened.next().unwrap()
}

/// Changes the SHA-256 that this host remembers of each file of that size: the next save finds the file unchanged, and
/// takes over what it was saved as.
fn misremember(place: &Place, size: u64) {
    let keys = keys(place);
    let states = place
        .path("cache")
        .join(keys.repo().to_string())
        .join("state");
    let mut files = fs::read_dir(states).unwrap().map(|one| one.unwrap().path());
    let complete = files
        .find(|path| path.extension().is_some_and(|ending| ending == "state"))
        .unwrap();
    let paths = StatePaths::new(&complete.with_extension(""));
    let ring = ObjectKeyring::new(keys.repo(), keys.state_key().unwrap());
    let parent = paths.parent(&ring).unwrap();
    let entries: Vec<_> = paths.last_complete(&ring).collect();
    let mut writer = StateWriter::new(paths, ring);
    writer.differs();
    let mut changed = 0;
    for mut entry in entries {
        let mut record = Record::decode(&entry.record).unwrap();
        if record.size == size && record.sha256.is_some() {
            record.sha256 = Some([7; 32]);
            entry.record.clear();
            record.encode(&mut entry.record);
            changed += 1;
        }
        writer.push(&entry);
    }
    writer.finish(parent);
    assert_eq!(changed, 1);
}

fn verify(place: &Place, args: &[&str]) -> Run {
    Run::of(place.snapshot(["verify", "--json"]).args(args))
}

#[test]
fn a_file_whose_sum_is_not_that_of_its_content_is_found_and_said() {
    let place = Place::new();
    place.write("wrong", vec![1; 5000]);
    place.write("right", vec![2; 6000]);
    place.wait_for_a_tick();
    let _ = place.save().ok();
    let _ = verify(&place, &["--level", "full"]).ok();
    misremember(&place, 5000);
    let saved = place.save().ok().of_type("saved").remove(0);
    assert_eq!(saved["bytes_read"], 0, "nothing was read again");
    let id = saved["id"].as_str().unwrap();

    // Whoever only opens chunks finds nothing.
    for level in ["metadata", "checksum"] {
        let _ = verify(&place, &["--level", level]).ok();
    }
    // It is said by every run until it is mended, also by one with a budget, and hurts the one snapshot.
    for more in [&["--rehash"][..], &[], &["--budget", "1M"], &[]] {
        let run = verify(&place, &[&["--level", "full"], more].concat()).ends(13);
        let findings = run.of_type("finding");
        assert_eq!(findings.len(), 1, "{more:?}: {findings:?}");
        assert_eq!(findings[0]["subject"], format!("snapshot {id}"));
        let detail = findings[0]["detail"].as_str().unwrap();
        assert!(
            detail.contains("data/wrong (") && detail.contains("SHA-256"),
            "{detail}"
        );
        assert!(!detail.contains("data/right"), "{detail}");
    }

    // The bytes are those that were saved, and a restore that compares says that nobody vouches for them.
    let wanted = format!("latest:{}", place.data().display());
    let run = ["run", &wanted, "--json", "--to", "out", "--verify"];
    let run = Run::of(&mut place.restore(run)).ends(13);
    let told = run.of_type("finding");
    assert!(
        told.len() == 1 && told[0]["subject"].as_str().unwrap().ends_with("/wrong"),
        "{told:?}"
    );
    assert_eq!(fs::read(place.path("out/wrong")).unwrap(), vec![1; 5000]);
    let cat = |name: &str| {
        let file = format!("latest:{}", place.data().join(name).display());
        Run::of(&mut place.restore(["cat", &file]))
    };
    let _ = cat("wrong").ends(13).says("SHA-256");
    let _ = cat("right").ok();

    // The next save that reads it again has it right.
    let again = Run::of(
        place
            .snapshot(["save", "--json", "--reread"])
            .arg(place.data()),
    );
    let newest = again.ok().of_type("saved").remove(0);
    let newest = newest["id"].as_str().unwrap();
    let _ = verify(&place, &["--level", "full", newest]).ok();
    let _ = Run::of(&mut place.snapshot(["forget", id])).ok();
    let _ = verify(&place, &["--level", "full"]).ok();
}
