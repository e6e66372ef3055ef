//! What a capture hands over.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::support::*;
use backup_core::{
    Body, CaptureMode, CaptureRequest, EntryKind, ErrorKind, FindingKind, Severity, Source as _,
};
use backup_source_files::{CONTENT_ANCESTOR, CONTENT_ATTR, FilesConfig, FilesSource};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

fn of(root: &Path) -> FilesConfig {
    FilesConfig::of_roots([root])
}

#[test]
fn a_file_comes_with_all_of_its_metadata() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    put(&file, "content");
    set_mtime(&file, -5, 123_456_789);
    fs::hard_link(&file, temp.path().join("again")).unwrap();
    put(&temp.path().join("alone"), "");
    assert!(set_xattr(&file, "user.b", b"2") && set_xattr(&file, "user.a", &[7; 3000]));
    if is_root() {
        std::os::unix::fs::lchown(&file, Some(0), Some(12_345)).unwrap();
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    let captured = capture(of(temp.path()));
    assert_eq!(captured.findings(), [""; 0]);
    let entry = captured.entry(&file);
    assert_eq!(
        (&entry.meta.kind, entry.meta.mode),
        (&EntryKind::File, 0o4751)
    );
    assert_eq!(
        (entry.meta.mtime.seconds, entry.meta.mtime.nanos),
        (-5, 123_456_789)
    );
    let there = fs::metadata(&file).unwrap();
    let owner = entry.meta.owner.as_ref().unwrap();
    assert_eq!((owner.uid, owner.gid), (there.uid(), there.gid()));
    if is_root() {
        assert_eq!(
            (owner.user.as_deref(), owner.group.as_deref()),
            (Some("root"), None)
        );
    }
    let want = [
        (b"user.a".to_vec(), vec![7; 3000]),
        (b"user.b".to_vec(), b"2".to_vec()),
    ];
    assert_eq!(entry.meta.xattrs, want);
    assert_eq!(entry.meta.link_group, Some(there.ino()));
    assert_eq!(
        captured.entry(&temp.path().join("again")).meta.link_group,
        Some(there.ino())
    );
    assert_eq!(
        captured.entry(&temp.path().join("alone")).meta.link_group,
        None
    );
    let fingerprint = entry.fingerprint.unwrap();
    assert_eq!((fingerprint.size, fingerprint.inode), (7, there.ino()));
    let Body::File(open) = &entry.body else {
        panic!("{:?}", entry.body)
    };
    assert_eq!(
        open.fingerprint(&open.open().unwrap()).unwrap(),
        fingerprint
    );
}

#[test]
fn many_and_large_attributes_come_whole_and_sorted() {
    let temp = roomy_folder();
    let (many, large) = (temp.path().join("many"), temp.path().join("large"));
    put(&many, "");
    put(&large, "");
    for number in (0..40).rev() {
        assert!(set_xattr(
            &many,
            &format!("user.a-rather-long-name-{number:02}"),
            b"x"
        ));
    }
    // Not every file system takes one that large.
    let taken = set_xattr(&large, "user.large", &[9; 60_000]);
    let captured = capture(of(temp.path()));
    let names = captured.entry(&many).meta.xattrs.clone();
    assert_eq!(names.len(), 40);
    assert!(names.is_sorted());
    assert_eq!(
        captured
            .entry(&large)
            .meta
            .xattrs
            .iter()
            .any(|(_, v)| v.len() == 60_000),
        taken
    );
    assert_eq!(captured.findings(), [""; 0]);
}

#[test]
fn every_kind_of_entry_is_told_from_the_others() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let odd = temp.path().join(os(b"\xff\n name"));
    put(&odd, "");
    symlink(os(b"no\xffwhere"), at("link")).unwrap();
    mknodat(
        CWD,
        at("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    if is_root() {
        let mode = Mode::from_raw_mode(0o600);
        mknodat(
            CWD,
            at("char"),
            FileType::CharacterDevice,
            mode,
            makedev(1, 300),
        )
        .unwrap();
        mknodat(
            CWD,
            at("block"),
            FileType::BlockDevice,
            mode,
            makedev(259, 70_000),
        )
        .unwrap();
    }
    let captured = capture(of(temp.path()));
    assert_eq!(captured.findings(), [""; 0]);
    let kind = |name: &str| captured.entry(&at(name)).meta.kind.clone();
    assert_eq!(captured.entry(&odd).meta.kind, EntryKind::File);
    assert_eq!(kind(""), EntryKind::Directory);
    assert_eq!(kind("link"), EntryKind::Symlink(b"no\xffwhere".to_vec()));
    assert_eq!(
        (kind("fifo"), kind("socket")),
        (EntryKind::Fifo, EntryKind::Socket)
    );
    if is_root() {
        assert_eq!(
            kind("char"),
            EntryKind::CharDevice {
                major: 1,
                minor: 300
            }
        );
        assert_eq!(
            kind("block"),
            EntryKind::BlockDevice {
                major: 259,
                minor: 70_000
            }
        );
    }
}

#[test]
fn folders_above_a_root_are_entries_without_their_other_content() {
    let temp = tempfile::tempdir().unwrap();
    put(&temp.path().join("above/root/file"), "");
    put(&temp.path().join("above/other"), "");
    let captured = capture(of(&temp.path().join("above/root")));
    assert_eq!(
        captured.below(temp.path()),
        ["above", "above/root", "above/root/file"]
    );
    let content = |path: &str| {
        let meta = &captured.entry(&temp.path().join(path)).meta;
        meta.attrs.get(CONTENT_ATTR).map(String::as_str)
    };
    assert_eq!(content("above"), Some(CONTENT_ANCESTOR));
    assert_eq!(content("above/root"), None);
    assert!(!captured.entries.iter().any(|entry| entry.path.is_root()));
}

#[test]
fn several_roots_are_one_walk_in_order_and_each_path_comes_once() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["b/x/1", "b/y/2", "a/3", "c", "b-4"] {
        put(&temp.path().join(name), "");
    }
    let roots = ["c", "b/y", "b", "a/3", "b/y/2", "b/"].map(|name| temp.path().join(name));
    let captured = capture(FilesConfig::of_roots(roots));
    assert_eq!(
        captured.below(temp.path()),
        ["a", "a/3", "b", "b/x", "b/x/1", "b/y", "b/y/2", "c"]
    );
}

#[test]
fn a_root_that_is_a_link_is_a_link_unless_a_slash_ends_it_and_links_above_are_followed() {
    let temp = tempfile::tempdir().unwrap();
    put(&temp.path().join("real/file"), "");
    symlink("real", temp.path().join("link")).unwrap();
    let link = temp.path().join("link");
    let captured = capture(of(&link));
    assert_eq!(captured.below(temp.path()), ["link"]);
    assert_eq!(
        captured.entry(&link).meta.kind,
        EntryKind::Symlink(b"real".to_vec())
    );
    let slash = format!("{}/", link.display());
    let captured = capture(FilesConfig::of_roots([slash]));
    assert_eq!(captured.below(temp.path()), ["link", "link/file"]);
    assert_eq!(captured.entry(&link).meta.kind, EntryKind::Directory);
    assert_eq!(store(&captured).len(), captured.entries.len());
    let captured = capture(of(&link.join("file")));
    assert_eq!(captured.below(temp.path()), ["link", "link/file"]);
    assert_eq!(captured.findings(), [""; 0]);
}

#[test]
fn links_inside_a_root_are_never_followed() {
    let temp = tempfile::tempdir().unwrap();
    put(&temp.path().join("outside/secret"), "");
    fs::create_dir(temp.path().join("root")).unwrap();
    symlink("../outside", temp.path().join("root/in")).unwrap();
    symlink("in", temp.path().join("root/loop")).unwrap();
    let captured = capture(of(&temp.path().join("root")));
    assert_eq!(
        captured.below(temp.path()),
        ["root", "root/in", "root/loop"]
    );
}

#[test]
fn a_link_in_a_root_that_leads_to_another_root_becomes_a_folder_and_a_finding() {
    let temp = tempfile::tempdir().unwrap();
    put(&temp.path().join("far/root/file"), "");
    put(&temp.path().join("near/own"), "");
    symlink("../far", temp.path().join("near/link")).unwrap();
    let roots = ["near", "near/link/root"].map(|name| temp.path().join(name));
    let captured = capture(FilesConfig::of_roots(roots));
    let want = [
        "near",
        "near/link",
        "near/link/root",
        "near/link/root/file",
        "near/own",
    ]
    .map(String::from);
    assert_eq!(captured.below(temp.path()), want);
    assert_eq!(captured.report.findings[0].kind, FindingKind::Degraded);
}

#[test]
fn a_root_that_does_not_exist_is_an_error_that_names_it() {
    let temp = tempfile::tempdir().unwrap();
    let missing = temp.path().join("missing");
    let roots = [temp.path().to_owned(), missing.clone()];
    let error = block_on(try_capture(FilesConfig::of_roots(roots)))
        .err()
        .unwrap();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(
        error.to_string().contains(missing.to_str().unwrap()),
        "{error}"
    );
    put(&temp.path().join("file"), "");
    let error = block_on(try_capture(of(&temp.path().join("file/below"))))
        .err()
        .unwrap();
    assert!(error.to_string().contains("file/below"), "{error}");
}

#[test]
fn a_plan_names_roots_and_the_size_of_files_and_can_be_run_without_its_token() {
    let temp = tempfile::tempdir().unwrap();
    put(&temp.path().join("file"), [1; 1000]);
    put(&temp.path().join("dir/x"), "");
    let roots = ["file", "dir"].map(|name| temp.path().join(name));
    let source = FilesSource::new(FilesConfig::of_roots(roots.clone()));
    let cx = context();
    block_on(async {
        let mut plan = source.plan(&cx, &CaptureRequest::default()).await.unwrap();
        assert!(matches!(plan.mode, CaptureMode::Full { .. }));
        let names: Vec<&str> = plan
            .entries
            .iter()
            .map(|entry| entry.name.as_str())
            .collect();
        assert_eq!(
            names,
            [roots[1].to_str().unwrap(), roots[0].to_str().unwrap()]
        );
        assert_eq!(plan.entries[1].size.at_most, Some(1000));
        plan.token = bytes::Bytes::new();
        let mut capture = source.begin(&cx, plan).await.unwrap();
        assert!(!capture.next_entries(&cx).await.unwrap().is_empty());
        let select = vec![roots[0].display().to_string()];
        let request = CaptureRequest {
            select,
            parent: None,
        };
        let plan = source.plan(&cx, &request).await.unwrap();
        let mut capture = source.begin(&cx, plan).await.unwrap();
        let entries = capture.next_entries(&cx).await.unwrap();
        assert!(
            entries
                .iter()
                .all(|entry| !entry.path.to_string().ends_with("dir"))
        );
    });
}

#[test]
fn what_may_not_be_read_is_a_finding_and_the_rest_is_saved() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    put(&at("open/file"), "");
    put(&at("closed/file"), "");
    put(&at("listed/file"), "");
    put(&at("secret"), "");
    for (name, mode) in [
        ("", 0o755),
        ("open", 0o755),
        ("closed", 0o700),
        ("secret", 0o600),
        ("listed", 0o744),
    ] {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    if !is_root() {
        fs::set_permissions(at("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(at("listed"), fs::Permissions::from_mode(0o400)).unwrap();
        fs::set_permissions(at("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let captured = as_nobody(|| capture(of(temp.path())));
    let want = ["closed", "listed", "open", "open/file", "secret"];
    assert_eq!(captured.below(temp.path()), want);
    let prefix = format!("/{}/", entry_path(temp.path()));
    let found: BTreeMap<&str, (Severity, FindingKind)> = captured
        .report
        .findings
        .iter()
        .map(|finding| {
            (
                finding.subject.strip_prefix(&prefix).unwrap(),
                (finding.severity, finding.kind),
            )
        })
        .collect();
    let unreadable = (Severity::Error, FindingKind::Unreadable);
    // A folder that may be listed and not entered says so once: nothing below it can be reached.
    assert_eq!(
        found,
        BTreeMap::from([("closed", unreadable), ("listed", unreadable)])
    );
    let Body::File(secret) = &captured.entry(&at("secret")).body else {
        panic!()
    };
    assert!(as_nobody(|| secret.open().is_err()));
    let meta = &captured.entry(&at("closed")).meta;
    assert_eq!(meta.attrs.get(CONTENT_ATTR).unwrap(), "unreadable");
    if !is_root() {
        fs::set_permissions(at("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(at("listed"), fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[test]
fn a_file_that_became_something_else_neither_blocks_nor_leads_elsewhere() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for name in ["pipe", "link", "gone", "dir", "folder/inner", "same"] {
        put(&at(name), "content");
    }
    let captured = capture(of(temp.path()));
    for name in ["pipe", "link", "gone", "dir"] {
        fs::remove_file(at(name)).unwrap();
    }
    mknodat(
        CWD,
        at("pipe"),
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    symlink("same", at("link")).unwrap();
    fs::create_dir(at("dir")).unwrap();
    let open = |name: &str| {
        let Body::File(open) = &captured.entry(&at(name)).body else {
            panic!()
        };
        open.open()
    };
    for name in ["pipe", "link", "gone", "dir"] {
        assert!(open(name).is_err(), "{name}");
    }
    assert!(open("folder/inner").is_ok());
    assert!(open("same").is_ok());
}

#[test]
fn access_times_are_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    put(&file, "content");
    set_mtime(&file, 1_000, 0);
    let captured = capture(of(temp.path()));
    assert_eq!(store(&captured).last().unwrap().data[0].1, b"content");
    assert_eq!(fs::metadata(&file).unwrap().atime(), 1_000);
}
