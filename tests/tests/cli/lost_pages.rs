//! A manifest of many pages of which some cannot be read: commands go on behind them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use backup_tests::{Place, Run, read_tree};

/// Files of each of the two snapshots.
const FILES: usize = 200;

/// Names that fill pages.
fn name(number: usize) -> String {
    let mut state = 0x9E37_79B9_7F4A_7C15u64 ^ number as u64;
    let mut out = format!("{number:03}-");
    while out.len() < 180 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out += &format!("{state:016x}");
    }
    out + if number.is_multiple_of(2) {
        ".conf"
    } else {
        ".txt"
    }
}

/// Two snapshots, `one` and `two`, each with a manifest pack of its own.
fn place() -> Place {
    let place = Place::new();
    for part in ["one", "two"] {
        for number in 0..FILES {
            place.write(
                format!("{part}/{}", name(number)),
                format!("{part} {number}"),
            );
        }
        let save = place
            .snapshot(["save", "--name", part, "--json"])
            .arg(place.data().join(part))
            .output();
        assert!(save.unwrap().status.success());
    }
    place
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Flips a bit amid the pack of a manifest: in a page, and not in the root, which is stored last.
fn flip(pack: &Path) {
    let mut bytes = fs::read(pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    overwrite(pack, &bytes);
}

/// Restores both snapshots; for each its exit code, the run, and how many files came back. None that
/// came back may be wrong.
fn restore_both(place: &Place, to: &str) -> BTreeMap<&'static str, (i32, Run, usize)> {
    let mut out = BTreeMap::new();
    for part in ["one", "two"] {
        let to = format!("{to}-{part}");
        let run =
            Run::of(&mut place.restore(["run", &format!("latest:{part}"), "--to", &to, "--json"]));
        let saved = place.data().join(part);
        let back = place.path(&to).join(saved.strip_prefix("/").unwrap());
        let tree = read_tree(&back).unwrap_or_default();
        for (path, node) in &tree {
            assert_eq!(
                node.content,
                fs::read(saved.join(path)).unwrap(),
                "{}",
                path.display()
            );
        }
        let _ = out.insert(part, (run.code, run, tree.len()));
    }
    out
}

/// The entries that a run says are lost with a page.
fn lost(run: &Run) -> (usize, String) {
    let findings = run.of_type("finding");
    let details: Vec<&str> = findings
        .iter()
        .filter_map(|line| line["detail"].as_str())
        .collect();
    let pages: Vec<_> = details
        .iter()
        .filter(|detail| detail.contains("lost with it is"))
        .collect();
    let [page] = pages[..] else {
        panic!("{findings:?}\n{}", run.err);
    };
    let (_, count) = page.rsplit_once('(').unwrap();
    let count = count.split(' ').next().unwrap().parse().unwrap();
    (count, page.to_string())
}

#[test]
fn a_flipped_bit_in_a_page_costs_the_files_of_that_page() {
    let place = place();
    let packs = place.objects("meta");
    assert_eq!(packs.len(), 2, "one of each snapshot");
    let verify = |level: &str| Run::of(&mut place.snapshot(["verify", "--level", level, "--json"]));
    let entries = |run: &Run| run.of_type("verified")[0]["entries"].as_u64().unwrap();
    let all = entries(&verify("metadata").ends(0));
    flip(&packs[0]);
    let runs = restore_both(&place, "out");
    let (hurt, whole): (Vec<_>, Vec<_>) = runs.iter().partition(|(_, run)| run.0 != 0);
    let [(part, (3, run, back))] = hurt[..] else {
        panic!("{hurt:?}");
    };
    assert_eq!(whole[0].1.2, FILES);
    let (count, detail) = lost(run);
    assert!(count > 0 && detail.contains("chunk "), "{detail}");
    // Which page the bit is in is a matter of luck: the folders above may be among what is lost.
    assert!(
        *back < FILES && *back + count >= FILES && *back + count <= FILES + 8,
        "{back} came back, {detail}"
    );
    let gone = FILES - *back;

    let spec = format!("latest:{part}");
    let ls = Run::of(&mut place.restore(["ls", &spec, "-R"])).ends(3);
    let seen = |run: &Run| run.text().lines().filter(|line| line.contains('-')).count();
    assert_eq!(seen(&ls), FILES - gone, "{}", ls.text());
    assert!(ls.err.contains("lost with it is"), "{}", ls.err);
    let sums = Run::of(&mut place.restore(["sums", &spec])).ends(3);
    assert_eq!(sums.text().lines().count(), FILES - gone);
    let find = Run::of(&mut place.restore(["find", "*.conf", "--json"])).ends(3);
    let found = find.of_type("entry").len();
    assert!(found >= FILES - gone && found < FILES, "{found}");
    assert_eq!(lost(&find).0, count);

    // A file in the page is damaged, one outside of it is read.
    let absent = (0..FILES).filter(|number| !ls.text().contains(&name(*number)));
    let absent: Vec<usize> = absent.collect();
    assert_eq!(absent.len(), gone);
    let cat = |number: usize| {
        let file = place.data().join(part).join(name(number));
        Run::of(&mut place.restore(["cat", &format!("{spec}:{}", file.display())]))
    };
    let _ = cat(absent[0]).ends(13).says("chunk ");
    let there = (0..FILES).find(|number| !absent.contains(number)).unwrap();
    let other = cat(there);
    assert_eq!(other.code, 0, "{}", other.err);

    let include = ["run", &spec, "--include", "*.conf", "--to", "some"];
    let _ = Run::of(&mut place.restore(include))
        .ends(3)
        .says("lost with it is");
    let saved = place.data().join(part);
    let some = place.path("some").join(saved.strip_prefix("/").unwrap());
    let confs = absent
        .iter()
        .filter(|number| number.is_multiple_of(2))
        .count();
    assert_eq!(read_tree(&some).unwrap().len(), FILES / 2 - confs);
    // Whether something that is lost would match nobody knows: nothing is claimed.
    let include = ["run", &spec, "--include", &name(absent[0]), "--to", "none"];
    let none = Run::of(&mut place.restore(include)).ends(3);
    assert!(
        !none.err.contains("nothing in the snapshot matches"),
        "{}",
        none.err
    );
    let _ = Run::of(&mut place.restore(["run", &spec, "--dry-run", "--to", "x"])).ends(3);
    let compared = ["run", &spec, "--to", &format!("out-{part}"), "--verify"];
    let _ = Run::of(&mut place.restore(compared)).ends(13);

    for level in ["metadata", "full"] {
        let verified = verify(level).ends(13);
        assert_eq!(lost(&verified), (count, detail.clone()), "{level}");
        assert_eq!(entries(&verified), all - count as u64, "{level}");
    }
}

#[test]
fn without_the_root_of_its_manifest_nothing_of_a_snapshot_is_restored_and_all_of_the_other() {
    let whole = place();
    let packs = whole.objects("meta");
    let first = fs::read(&packs[0]).unwrap();
    let second = fs::read(&packs[1]).unwrap();
    let codes = |to: &str| {
        let runs = restore_both(&whole, to);
        let mut codes: Vec<_> = runs
            .values()
            .map(|(code, _, back)| (*code, *back))
            .collect();
        codes.sort_unstable();
        codes
    };
    overwrite(&packs[0], &first[..first.len() / 2]);
    assert_eq!(codes("truncated"), [(0, FILES), (13, 0)]);
    fs::remove_file(&packs[0]).unwrap();
    assert_eq!(codes("deleted"), [(0, FILES), (13, 0)]);
    overwrite(&packs[1], &first);
    fs::write(&packs[0], &second).unwrap();
    assert_eq!(codes("swapped"), [(13, 0), (13, 0)]);
    overwrite(&packs[0], &first);
    overwrite(&packs[1], &second);
    assert_eq!(codes("healed"), [(0, FILES), (0, FILES)]);
}

#[test]
fn a_comparison_claims_nothing_of_what_it_cannot_see() {
    let place = place();
    let folder: PathBuf = place.data().join("one");
    let changed = folder.join(name(7));
    fs::write(&changed, "something else").unwrap();
    fs::remove_file(folder.join(name(150))).unwrap();
    let mut save = place.snapshot(["save", "--name", "later"]);
    let _ = Run::of(save.arg(&folder)).ok();
    let diff = |place: &Place| {
        Run::of(&mut place.restore(["diff", "latest:one", "latest:later", "--json"]))
    };
    let changes = |run: &Run| {
        let lines = run.of_type("change");
        // The time of the folder is another.
        let lines = lines.iter().filter(|line| line["change"] != "metadata");
        lines
            .map(|line| format!("{} {}", line["change"], line["path"]))
            .collect::<Vec<_>>()
    };
    let all = changes(&diff(&place));
    assert_eq!(all.len(), 2, "{all:?}");
    for pack in place.objects("meta") {
        let before = fs::read(&pack).unwrap();
        flip(&pack);
        let run = diff(&place);
        overwrite(&pack, &before);
        // The pack of snapshot `two` is needed for neither.
        assert!([0, 3].contains(&run.code), "{}", run.err);
        let told = changes(&run);
        assert!(told.iter().all(|change| all.contains(change)), "{told:?}");
        assert!(run.code == 3 || told == all, "{told:?}");
    }
}

#[test]
fn a_search_goes_on_behind_a_snapshot_of_which_nothing_can_be_read() {
    let place = Place::new();
    let mut packs = Vec::new();
    for part in ["one", "two"] {
        place.write(format!("{part}/file"), part);
        let mut save = place.snapshot(["save", "--name", part]);
        let _ = Run::of(save.arg(place.data().join(part))).ok();
        packs.push(place.objects("meta"));
    }
    fs::remove_file(&packs[0][0]).unwrap();
    let find = || Run::of(&mut place.restore(["find", "file", "--json"]));
    let found = find().ends(3);
    assert_eq!(found.of_type("entry").len(), 1);
    let finding = found.of_type("finding").remove(0);
    assert_eq!(finding["kind"], "damaged", "{finding}");
    for pack in place.objects("meta") {
        fs::remove_file(pack).unwrap();
    }
    let _ = find().ends(13);
}
