//! Names of snapshots: those that are made up and those that are refused.

use backup_tests::{Place, Run};

fn saved_name(place: &Place, args: &[&str]) -> String {
    let run = Run::of(place.snapshot(["save", "--json"]).args(args)).ok();
    run.of_type("saved")[0]["name"].as_str().unwrap().to_owned()
}

#[test]
fn every_command_line_has_a_name_of_its_own_that_stays() {
    let place = Place::new();
    let (shop, crm) = ("printf %s shop", "printf %s crm");
    let name = saved_name(&place, &["--command", shop]);
    assert!(name.starts_with("printf-"), "{name}");
    assert_eq!(name, saved_name(&place, &["--command", shop]));
    assert_ne!(name, saved_name(&place, &["--command", crm]));
    assert_eq!(saved_name(&place, &["--command", crm, "--name", "x"]), "x");
    let _ = Run::of(&mut place.snapshot(["forget", "--keep-last", "1"])).ok();
    for (line, content) in [(name.as_str(), "shop"), ("x", "crm")] {
        let path = if line == "x" { "/x" } else { "/printf" };
        let wanted = format!("latest:{line}:{path}");
        let run = Run::of(&mut place.restore(["cat", &wanted])).ok();
        assert_eq!(run.text(), content);
    }
}

#[test]
fn urls_of_one_program_have_the_names_of_their_streams() {
    let place = Place::new();
    for name in ["shop.dump", "crm.dump"] {
        let url = format!("command:///usr/bin/printf?name={name}&arg1=x");
        assert_eq!(saved_name(&place, &[&url]), name);
    }
}

#[test]
fn empty_names_and_tags_are_refused() {
    let place = Place::new();
    place.write("file", "content");
    let data = place.data();
    for option in ["--name", "--tag"] {
        let _ = Run::of(place.snapshot(["save", option, ""]).arg(&data))
            .ends(2)
            .says(option);
        let _ = Run::of(&mut place.snapshot(["list", option, ""])).ends(2);
        let _ = Run::of(&mut place.snapshot(["forget", "--keep-last", "1", option, ""])).ends(2);
    }
    let listed = Run::of(&mut place.snapshot(["list", "--json"])).ok();
    assert!(listed.lines().is_empty());
}

#[test]
fn names_that_no_command_could_tell_from_a_path_are_refused() {
    let place = Place::new();
    place.write("file", "content");
    for name in ["/srv", "vm:/srv"] {
        let _ = Run::of(&mut place.snapshot(["save", "data", "--name", name]))
            .ends(2)
            .says(":/");
    }
    let long = "x".repeat(100_000);
    for mark in ["two\nlines", "", long.as_str()] {
        for option in ["--tag", "--label"] {
            let save = ["save", "data", option, mark];
            let _ = Run::of(&mut place.snapshot(save)).ends(2).says(option);
        }
    }
    let _ = Run::of(&mut place.snapshot(["save", "data", "--host", ""]))
        .ends(2)
        .says("--host");
}

#[test]
fn a_name_can_be_typed_as_it_is_shown() {
    let place = Place::new();
    place.write("back\\slash/file", "content");
    let folder = place.data().join("back\\slash");
    let _ = Run::of(place.snapshot(["save"]).arg(&folder)).ok();
    let listed = Run::of(&mut place.snapshot(["list"])).ok().text();
    let shown = listed
        .split_whitespace()
        .find(|word| word.ends_with("slash"))
        .unwrap();
    let _ = Run::of(&mut place.restore(["ls", &format!("latest:{shown}")])).ok();
}

#[test]
fn a_place_that_is_not_utf_8_is_said_to_be_that() {
    use std::os::unix::ffi::OsStrExt as _;
    let mut list = backup_tests::snapshot();
    let _ = list.arg("list").env_remove("BACKSTAY_REPO");
    let name = std::ffi::OsStr::from_bytes(b"/tmp/\xff");
    let _ = Run::of(list.env("BACKSTAY_REPO", name))
        .ends(2)
        .says("not UTF-8");
}

#[test]
fn what_matches_nothing_is_not_said_to_be_restored() {
    let place = Place::new();
    place.write("sub/file", "content");
    let _ = place.save().ok();
    let run = ["run", "latest", "--to", "out", "--include", "zzz"];
    let run = Run::of(&mut place.restore(run)).ends(1);
    assert_eq!(run.text(), "");
    let found = Run::of(&mut place.restore(["find", "sub/"])).ok().text();
    assert!(found.contains("/sub"), "{found}");
}

#[test]
fn a_source_that_is_not_there_makes_no_repository() {
    let place = Place::empty();
    let _ = Run::of(&mut place.snapshot(["save", "mistyped"])).ends(1);
    assert!(!place.repo().exists());
    place.write("file", "content");
    let _ = Run::of(&mut place.snapshot(["save", "data"])).ok();
}

#[test]
fn the_newest_of_a_name_that_two_hosts_have_is_asked_for_with_the_host() {
    let place = Place::new();
    for host in ["web1", "web2"] {
        place.write("whose", host);
        let save = ["save", "data", "--name", "etc", "--host", host];
        let _ = Run::of(&mut place.snapshot(save)).ok();
        place.wait_for_a_tick();
    }
    let whose = |spec: &str| {
        let what = format!("{spec}:{}", place.data().join("whose").display());
        Run::of(&mut place.restore(["cat", &what]))
    };
    let _ = whose("latest:etc")
        .ends(1)
        .says("write latest:web2:etc or latest:web1:etc");
    assert_eq!(whose("latest:web1:etc").ok().text(), "web1");
    assert_eq!(whose("latest:web2:etc").ok().text(), "web2");
    assert_eq!(whose("latest").ok().text(), "web2");
    let _ = whose("latest:web3:etc").ends(1).says("no snapshot matches");
}
