//! Files whose paths are long.

use std::fs;
use std::path::PathBuf;

use backup_tests::Place;

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
