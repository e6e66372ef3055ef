//! What people see: progress on a terminal, help, and what is said when something is wrong.

use std::fs;
use std::process::Command;

use backup_tests::{Place, Run};

/// Runs a command in a pseudo-terminal of 80 columns; gives what was written to it, or nothing
/// where there is no `script`.
fn in_terminal(place: &Place, command: &Command, args: &str) -> Option<String> {
    let line = format!(
        "stty cols 80 rows 24; exec {} {args}",
        command.get_program().to_str()?
    );
    let record = place.path("typescript");
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &line]).arg(&record);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    script.current_dir(place.path("")).env("TERM", "xterm");
    let run = script.stdin(std::process::Stdio::null()).output();
    let _ = Run::from(run.ok()?).ok();
    Some(fs::read_to_string(record).unwrap())
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend(state.to_le_bytes());
    }
    out
}

#[test]
fn progress_is_shown_on_a_terminal_and_nowhere_else() {
    let place = Place::new();
    place.write("large", noise(96 << 20));
    let Some(shown) = in_terminal(&place, &place.snapshot([""; 0]), "save data") else {
        eprintln!("skipped: there is no `script`");
        return;
    };
    // A second walk has counted what is to come.
    for word in ["saving", " of 96.0 MiB", "/s", "entr", " left"] {
        assert!(shown.contains(word), "no {word:?} in\n{shown}");
    }
    let shown = in_terminal(&place, &place.snapshot([""; 0]), "save data --reread").unwrap();
    assert!(
        shown.contains(" of 96.0 MiB") && shown.contains(" left"),
        "the last snapshot tells how much is to come\n{shown}"
    );
    let shown = in_terminal(&place, &place.restore([""; 0]), "run latest --to out").unwrap();
    for word in ["restoring", " of 96.0 MiB", "/s", " left"] {
        assert!(shown.contains(word), "no {word:?} in\n{shown}");
    }
    assert!(
        !shown.contains("\u{1b}[1B"),
        "the bar does not fit into a line of 80 columns\n{shown}"
    );
    for quiet in ["--quiet", "--json"] {
        let args = format!("save data --reread {quiet}");
        let shown = in_terminal(&place, &place.snapshot([""; 0]), &args).unwrap();
        assert!(!shown.contains("saving"), "{shown}");
    }
    let piped = Run::of(&mut place.snapshot(["save", "data", "--reread"])).ok();
    assert_eq!(piped.err, "");
}

/// The commands of a program, as its help lists them.
fn commands(help: &str) -> Vec<String> {
    let list = help.split_once("Commands:\n").unwrap().1;
    let list = list.split_once("\n\n").unwrap().0;
    let names = list.lines().map(|line| line.split_whitespace().next());
    names
        .map(|name| name.unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn every_command_has_help_with_examples() {
    let place = Place::empty();
    let snapshot = |args: &[&str]| Run::of(&mut place.snapshot(args)).ok().text();
    let restore = |args: &[&str]| Run::of(&mut place.restore(args)).ok().text();
    let mut seen = 0;
    for (program, help) in [
        (
            &snapshot as &dyn Fn(&[&str]) -> String,
            snapshot(&["--help"]),
        ),
        (&restore, restore(&["--help"])),
    ] {
        for command in commands(&help) {
            let own = program(&[command.as_str(), "--help"]);
            assert!(own.contains("Example"), "{command}: {own}");
            seen += 1;
            if own.contains("Commands:\n") {
                for below in commands(&own) {
                    let own = program(&[command.as_str(), below.as_str(), "--help"]);
                    assert!(own.contains("Example"), "{command} {below}: {own}");
                }
            }
        }
    }
    assert!(seen > 20, "only {seen} commands are listed");
}

#[test]
fn a_wrong_command_line_is_told_to_programs_as_a_line() {
    let place = Place::empty();
    let run = Run::of(&mut place.snapshot(["list", "--json", "--bogus"])).ends(2);
    let line: serde_json::Value = serde_json::from_str(run.err.trim()).unwrap();
    assert_eq!((&line["type"], &line["code"]), (&"error".into(), &2.into()));
    assert!(line["message"].as_str().unwrap().contains("--bogus"));
    let run = Run::of(&mut place.snapshot(["list", "--bogus"])).ends(2);
    assert!(run.err.starts_with("error: unexpected"), "{}", run.err);
}

#[test]
fn a_scheme_without_a_source_is_named_with_those_there_are() {
    let place = Place::new();
    let _ = Run::of(&mut place.snapshot(["save", "postgres://db/shop"]))
        .ends(2)
        .says("no source of kind `postgres`");
    let _ = Run::of(&mut place.snapshot(["list", "--repo", "ftp://host/x"]))
        .ends(2)
        .says("no sink of kind `ftp`");
}

/// `verify | head`: that nobody reads on is no reason to say that all is well.
#[test]
fn whoever_stops_reading_does_not_change_how_it_ends() {
    let place = Place::new();
    let mut noise = vec![0; 300_000];
    let mut state = 1u64;
    for byte in &mut noise {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = state.to_be_bytes()[0];
    }
    place.write("file", noise);
    let _ = place.save().ok();
    let unread = |mut command: Command| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = command.stdout(writer).spawn().unwrap();
        drop(command);
        child.wait().unwrap().code()
    };
    for json in [&[][..], &["--json"]] {
        let with = |args: &[&'static str]| [args, json].concat();
        assert_eq!(unread(place.restore(with(&["ls", "latest"]))), Some(0));
        assert_eq!(unread(place.snapshot(with(&["verify"]))), Some(0));
        let restored = with(&["run", "latest", "--to", "out", "--overwrite", "always"]);
        assert_eq!(unread(place.restore(restored)), Some(0));
    }
    assert!(place.path("out").exists());
    let pack = place.largest_pack();
    let bytes = fs::read(&pack).unwrap();
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, &bytes[..bytes.len() / 2]).unwrap();
    for json in [&[][..], &["--json"]] {
        let with = |args: &[&'static str]| [args, json].concat();
        assert_eq!(unread(place.snapshot(with(&["verify"]))), Some(13));
        let restored = with(&["run", "latest", "--to", "lost", "--overwrite", "always"]);
        assert_eq!(unread(place.restore(restored)), Some(3));
    }
}
