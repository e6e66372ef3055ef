//! What is left out, and what is not.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::*;
use backup_core::{ErrorKind, FindingKind, Severity};
use backup_source_files::{CONTENT_ATTR, CONTENT_LEFT_OUT, FilesConfig};

fn of(root: &Path) -> FilesConfig {
    FilesConfig::of_roots([root])
}

const FILES: &[&str] = &[
    "a.tmp",
    "a.txt",
    "build/out",
    "deep/a.tmp",
    "deep/build/out",
    "deep/keep.tmp",
    "deep/x/y/z.log",
    "doc/frotz/one",
    "doc/x/frotz/two",
    "foo bar",
    "keep.tmp",
    "lib/foo/bar",
    "logs/debug.log",
    "logs/monday/foo.bar",
    "star*name",
    "starXname",
    "#hash",
    "!bang",
    "trailing",
];

/// Lines, and what of [`FILES`] remains.
const RULES: &[&[&str]] = &[
    &["*.tmp"],
    &["*.tmp", "!keep.tmp"],
    &["!keep.tmp", "*.tmp"],
    &["/a.tmp"],
    &["build/"],
    &["/build"],
    &["build/out"],
    &["doc/frotz/"],
    &["frotz/"],
    &["**/foo/bar"],
    &["logs/**"],
    &["logs/**/foo.bar"],
    &["deep/**/z.log"],
    &["deep/*", "!deep/x"],
    &["deep/", "!deep/keep.tmp"],
    &["a.t?p"],
    &["a.[!x]mp"],
    &["star\\*name"],
    &["\\#hash"],
    &["\\!bang"],
    &["# comment", "", "   "],
    &["trailing   "],
    &["foo\\ bar"],
    &["*", "!*/", "!*.log"],
    &["/*", "!/logs"],
];

/// What `git` itself would keep; `None` where there is no git.
fn kept_by_git(root: &Path, lines: &[&str]) -> Option<Vec<String>> {
    let git = |args: &[&str]| {
        Command::new("git")
            .arg("-C")
            .arg(root)
            .args(args)
            .output()
            .ok()
    };
    git(&["init", "-q"])?.status.success().then_some(())?;
    fs::write(root.join(".gitignore"), lines.join("\n")).unwrap();
    let listed = git(&["ls-files", "-z", "--others", "--exclude-standard"])?;
    let text = String::from_utf8(listed.stdout).unwrap();
    let mut names: Vec<String> = text
        .split_terminator('\0')
        .filter(|name| *name != ".gitignore")
        .map(String::from)
        .collect();
    names.sort();
    fs::remove_dir_all(root.join(".git")).unwrap();
    fs::remove_file(root.join(".gitignore")).unwrap();
    Some(names)
}

fn kept(config: FilesConfig, root: &Path) -> Vec<String> {
    let captured = capture(config);
    let is_file = |name: &String| root.join(name).is_file();
    let mut names: Vec<String> = captured.below(root).into_iter().filter(is_file).collect();
    names.sort();
    names
}

#[test]
fn excludes_and_ignore_files_leave_out_what_git_does() {
    let temp = tempfile::tempdir().unwrap();
    for name in FILES {
        put(&temp.path().join(name), "");
    }
    for lines in RULES {
        let Some(want) = kept_by_git(temp.path(), lines) else {
            return;
        };
        let excludes = lines.iter().map(|line| (*line).to_owned()).collect();
        let got = kept(
            FilesConfig {
                excludes,
                ..of(temp.path())
            },
            temp.path(),
        );
        assert_eq!(got, want, "as excludes: {lines:?}");
        let ignore = temp.path().join(".ignored");
        fs::write(&ignore, lines.join("\n")).unwrap();
        let ignore_files = vec![".ignored".to_owned()];
        let mut got = kept(
            FilesConfig {
                ignore_files,
                ..of(temp.path())
            },
            temp.path(),
        );
        got.retain(|name| name != ".ignored");
        fs::remove_file(ignore).unwrap();
        assert_eq!(got, want, "as an ignore file: {lines:?}");
    }
}

#[test]
fn the_table_holds_without_git_too() {
    let temp = tempfile::tempdir().unwrap();
    for name in FILES {
        put(&temp.path().join(name), "");
    }
    let excludes = ["*", "!*/", "!*.log", "/logs/debug.log"]
        .map(String::from)
        .to_vec();
    let got = kept(
        FilesConfig {
            excludes,
            ..of(temp.path())
        },
        temp.path(),
    );
    assert_eq!(got, ["deep/x/y/z.log"]);
}

#[test]
fn a_deeper_ignore_file_goes_before_a_higher_one_and_the_request_before_both() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["a/x.o", "a/y.o", "b/x.o", "b/z.c"] {
        put(&temp.path().join(name), "");
    }
    put(&temp.path().join(".ignore"), "*.o\n");
    put(&temp.path().join("a/.ignore"), "!x.o\n!y.o\n");
    let config = FilesConfig {
        ignore_files: vec![".ignore".into()],
        excludes: vec!["y.o".into()],
        ..of(temp.path())
    };
    assert_eq!(
        kept(config, temp.path()),
        [".ignore", "a/.ignore", "a/x.o", "b/z.c"]
    );
}

#[test]
fn an_ignore_file_that_is_no_file_or_holds_nonsense_leaves_nothing_out_and_says_so() {
    let temp = tempfile::tempdir().unwrap();
    put(&temp.path().join("a/file"), "");
    fs::create_dir(temp.path().join("a/.ignore")).unwrap();
    put(
        &temp.path().join("b/.ignore"),
        b"good\nbad[z-a]\n\xff\xfe\n",
    );
    put(&temp.path().join("b/good"), "");
    put(&temp.path().join("b/other"), "");
    let config = FilesConfig {
        ignore_files: vec![".ignore".into()],
        ..of(temp.path())
    };
    let captured = capture(config);
    assert_eq!(captured.below(&temp.path().join("b")), [".ignore", "other"]);
    assert_eq!(
        captured.report.findings.len(),
        3,
        "{:?}",
        captured.findings()
    );
    assert!(
        captured
            .report
            .findings
            .iter()
            .all(|finding| finding.severity == Severity::Warning)
    );
}

#[test]
fn exclude_files_are_read_and_a_missing_one_is_an_error() {
    let temp = tempfile::tempdir().unwrap();
    put(&temp.path().join("root/a.tmp"), "");
    put(&temp.path().join("root/b"), "");
    put(&temp.path().join("list"), "# what goes\r\n*.tmp\r\n");
    let config = |file: &str| FilesConfig {
        exclude_files: vec![file.into()],
        base: temp.path().to_owned(),
        ..FilesConfig::of_roots(["root"])
    };
    assert_eq!(kept(config("list"), temp.path()), ["root/b"]);
    let error = block_on(try_capture(config("none"))).err().unwrap();
    assert_eq!(error.kind, ErrorKind::NotFound);
    put(&temp.path().join("broken"), "fine\nx[z-a]\n");
    let findings = capture(config("broken")).report.findings;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].kind, FindingKind::Degraded);
    assert!(findings[0].subject.ends_with("broken:2"), "{findings:?}");
}

#[test]
fn a_root_inside_what_another_leaves_out_is_saved() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["cache/keep/file", "cache/drop/file", "other"] {
        put(&temp.path().join(name), "");
    }
    let roots = [temp.path().to_owned(), temp.path().join("cache/keep")];
    let config = FilesConfig {
        excludes: vec!["cache".into()],
        ..FilesConfig::of_roots(roots)
    };
    let captured = capture(config);
    assert_eq!(
        captured.below(temp.path()),
        ["cache", "cache/keep", "cache/keep/file", "other"]
    );
}

#[test]
fn caches_and_tagged_folders_keep_only_their_tag() {
    let temp = tempfile::tempdir().unwrap();
    let signature = "Signature: 8a477f597d28d172789f06886806bc55\n# for a test";
    for (folder, tag, content) in [
        ("cache", "CACHEDIR.TAG", signature),
        (
            "fake",
            "CACHEDIR.TAG",
            "Signature: 8a477f597d28d172789f06886806bc56",
        ),
        ("short", "CACHEDIR.TAG", "Signature: 8a47"),
        ("tagged", ".nobackup", ""),
    ] {
        put(&temp.path().join(folder).join(tag), content);
        put(&temp.path().join(folder).join("sub/file"), "");
    }
    let config = FilesConfig {
        exclude_caches: true,
        exclude_if_present: vec![".nobackup".into()],
        ..of(temp.path())
    };
    let captured = capture(config);
    let below = |name: &str| captured.below(&temp.path().join(name));
    assert_eq!(below("cache"), ["CACHEDIR.TAG"]);
    assert_eq!(below("fake"), ["CACHEDIR.TAG", "sub", "sub/file"]);
    assert_eq!(below("short"), ["CACHEDIR.TAG", "sub", "sub/file"]);
    assert_eq!(below("tagged"), [".nobackup"]);
    let attr = captured
        .entry(&temp.path().join("cache"))
        .meta
        .attrs
        .get(CONTENT_ATTR)
        .cloned();
    assert_eq!(attr.as_deref(), Some(CONTENT_LEFT_OUT));
    assert_eq!(
        capture(of(temp.path()))
            .below(&temp.path().join("cache"))
            .len(),
        3
    );
}

#[test]
fn sizes_and_ages_leave_out_files_and_never_folders_or_roots() {
    let temp = tempfile::tempdir().unwrap();
    for (name, size, age) in [
        ("d/small", 1, 50),
        ("d/large", 2_000, 50),
        ("d/old", 100, 500),
        ("d/fit", 100, 50),
        ("d/new", 100, 1),
    ] {
        put(&temp.path().join(name), vec![1; size]);
        set_mtime(&temp.path().join(name), NOW - age, 0);
    }
    let roots = [temp.path().join("d"), temp.path().join("d/large")];
    let config = FilesConfig {
        exclude_larger_than: Some(1_000),
        exclude_smaller_than: Some(10),
        exclude_older_than: Some(jiff::SignedDuration::from_secs(100)),
        exclude_newer_than: Some(jiff::SignedDuration::from_secs(10)),
        ..FilesConfig::of_roots(roots)
    };
    let captured = capture(config);
    assert_eq!(captured.below(temp.path()), ["d", "d/fit", "d/large"]);
    let note = &captured.report.findings[0];
    assert_eq!(
        (note.severity, note.kind),
        (Severity::Note, FindingKind::Skipped)
    );
    assert!(note.detail.starts_with("3 files"), "{note}");
}

#[test]
fn one_file_system_keeps_mount_points_empty_and_follows_roots_into_others() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["mounted", "wanted", "plain"] {
        fs::create_dir(temp.path().join(name)).unwrap();
    }
    let Some(_first) = Mounted::tmpfs(&temp.path().join("mounted"), "size=1m") else {
        return;
    };
    let Some(_second) = Mounted::tmpfs(&temp.path().join("wanted"), "size=1m") else {
        return;
    };
    for name in ["mounted", "wanted", "plain"] {
        put(&temp.path().join(name).join("in/file"), "");
    }
    let roots = [temp.path().to_owned(), temp.path().join("wanted")];
    let config = FilesConfig {
        one_file_system: true,
        ..FilesConfig::of_roots(roots)
    };
    let captured = capture(config);
    let want = [
        "mounted",
        "plain",
        "plain/in",
        "plain/in/file",
        "wanted",
        "wanted/in",
        "wanted/in/file",
    ];
    assert_eq!(captured.below(temp.path()), want);
    let attrs = &captured.entry(&temp.path().join("mounted")).meta.attrs;
    assert_eq!(
        attrs.get(CONTENT_ATTR).map(String::as_str),
        Some(CONTENT_LEFT_OUT)
    );
    assert_eq!(capture(of(temp.path())).below(temp.path()).len(), 9);
}

#[test]
fn a_folder_says_that_one_file_system_leaves_out_one_of_its_last_names() {
    let temp = tempfile::tempdir().unwrap();
    let (folder, other) = (temp.path().join("folder"), temp.path().join("other"));
    for number in 0..600 {
        put(&folder.join(format!("{number:03}")), "");
    }
    fs::create_dir(&other).unwrap();
    let Some(_other) = Mounted::tmpfs(&other, "size=1m") else {
        return;
    };
    put(&other.join("file"), "");
    let Some(_file) = Mounted::bind(&other.join("file"), &folder.join("599")) else {
        return;
    };
    let config = FilesConfig {
        one_file_system: true,
        ..FilesConfig::of_roots([&folder])
    };
    let captured = capture(config);
    assert_eq!(captured.below(&folder).len(), 599);
    let attrs = &captured.entry(&folder).meta.attrs;
    let content = attrs.get(CONTENT_ATTR).map(String::as_str);
    assert_eq!(content, Some(CONTENT_LEFT_OUT));
}
