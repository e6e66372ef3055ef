//! Files whose paths are long.

use std::fs;
use std::path::PathBuf;

use backup_tests::{Place, Run};

#[test]
fn thousands_of_files_deep_down_are_saved_and_come_back() {
    let place = Place::new();
    let mut folder = PathBuf::new();
    while folder.as_os_str().len() < 3000 {
        folder.push("folder".repeat(40));
    }
    fs::create_dir_all(place.data().join(&folder)).unwrap();
    for number in 0..5000 {
        let name = folder.join(number.to_string());
        fs::write(place.data().join(name), number.to_string()).unwrap();
    }
    let saved = place.save().ok().of_type("saved").remove(0);
    // Each page of the manifest holds the folder's path once, not each entry.
    let size: u64 = place
        .objects("meta")
        .iter()
        .map(|pack| fs::metadata(pack).unwrap().len())
        .sum();
    assert!(size < 2_000_000, "{size} for {}", saved["entries"]);
    let _ = place.verify().ok();
    let back = place.bring_back("out").ok().of_type("restored").remove(0);
    assert_eq!(back["entries"], 5014);
    for number in [0, 2500, 4999] {
        let name = place.path("out").join(&folder).join(number.to_string());
        assert_eq!(fs::read_to_string(name).unwrap(), number.to_string());
    }
    // The next one shares all pages but those on the way to the change.
    fs::write(place.data().join(&folder).join("2500"), "changed").unwrap();
    let before = place.objects("meta").len();
    let again = place.save().ok().of_type("saved").remove(0);
    assert!(again["bytes_added"].as_u64().unwrap() < 100_000, "{again}");
    assert!(place.objects("meta").len() - before <= 1);
}

#[test]
fn what_lies_deeper_than_a_path_can_say_is_saved_restored_and_compared() {
    let place = Place::new();
    // Two chains of folders, of which only the one fits into a path; then one lies in the other.
    let chain: PathBuf = std::iter::repeat_n("0123456789", 300).collect();
    place.write("lower/bottom", "content");
    for name in ["upper", "lower"] {
        fs::create_dir_all(place.data().join(name).join(&chain)).unwrap();
    }
    place.write(PathBuf::from("lower").join(&chain).join("file"), "deep");
    let (lower, bottom) = (
        place.path("data/lower"),
        place.path("data/upper").join(&chain),
    );
    fs::rename(lower, bottom.join("lower")).unwrap();
    let _ = place.save().ok();
    let below = format!("latest:{}", place.data().display());
    let run = ["run", &below, "--to", "out", "--verify", "--json"];
    let compared = Run::of(&mut place.restore(run)).ok().of_type("compared");
    assert_eq!(
        (&compared[0]["entries"], &compared[0]["findings"]),
        (&604.into(), &0.into())
    );
    // A difference down there is found.
    let (out, rest) = (place.path("out/upper").join(&chain), place.path("rest"));
    fs::rename(out.join("lower"), &rest).unwrap();
    fs::write(rest.join(&chain).join("file"), "DEEP").unwrap();
    fs::rename(&rest, out.join("lower")).unwrap();
    let compared = Run::of(&mut place.restore(run))
        .ends(13)
        .of_type("compared");
    assert_eq!(compared[0]["findings"], 1);
}
