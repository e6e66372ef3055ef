//! Every rule on this workspace, and every rule on one that breaks it.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

use backup_house::{Workspace, edges, pages, sources};

type Rule = fn(&Workspace) -> Vec<String>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn assert_kept(rule: Rule) {
    let broken = rule(&Workspace::read(&root()).unwrap());
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn dependencies_go_the_way_they_should() {
    assert_kept(edges::forbidden_edges);
}

#[test]
fn test_crates_are_not_shipped() {
    assert_kept(edges::shipped_test_crates);
}

#[test]
fn every_sink_passes_the_suite() {
    assert_kept(edges::untried_plug_ins);
}

#[test]
fn every_package_takes_the_lints() {
    assert_kept(sources::missing_lints);
}

#[test]
fn files_stay_readable() {
    let workspace = Workspace::read(&root()).unwrap();
    for (path, lines) in sources::longest_files(&workspace).into_iter().take(10) {
        println!("{lines:5} {path}");
    }
    assert_kept(sources::long_files);
}

#[test]
fn nothing_is_left_unfinished() {
    assert_kept(sources::unfinished);
}

#[test]
fn every_module_says_what_it_is_for() {
    assert_kept(sources::unexplained_modules);
}

#[test]
fn pages_name_only_what_exists() {
    assert_kept(pages::dead_references);
}

#[test]
fn every_page_can_be_found() {
    assert_kept(pages::lost_pages);
}

#[test]
fn the_readme_names_every_plug_in() {
    assert_kept(pages::unnamed_in_readme);
}

/// A workspace that keeps every rule, to be spoiled.
struct Small(PathBuf);

const LINTS: &str = "
[workspace.lints.rust]
missing_docs = \"deny\"
unsafe_code = \"deny\"
[workspace.lints.clippy]
unwrap_used = \"deny\"
expect_used = \"deny\"
todo = \"deny\"
unimplemented = \"deny\"
";

impl Small {
    fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&root);
        let small = Self(root);
        let members = [
            "crates/backup-core",
            "crates/testkit",
            "crates/sinks/s",
            "crates/sources/f",
        ];
        small.write(
            "Cargo.toml",
            &format!("[workspace]\nmembers = {members:?}\n{LINTS}"),
        );
        small.package("crates/backup-core", "backup-core", "");
        small.package("crates/testkit", "backup-testkit", "backup-core = \"1\"");
        small.package("crates/sinks/s", "sink", "backup-core = \"1\"");
        small.package("crates/sources/f", "source", "backup-core = \"1\"");
        small.write(
            "crates/sinks/s/tests/suite.rs",
            "//! A test.\nfn a() { sink_suite(make) }\n",
        );
        small.write(
            "README.md",
            "`crates/sinks/s` `crates/sources/f` [page](docs/page.md)\n",
        );
        small.write(
            "docs/page.md",
            "[back](../README.md) `crates/sinks/<any>`\n",
        );
        small
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn package(&self, folder: &str, name: &str, dependencies: &str) {
        let lints = "[lints]\nworkspace = true\n";
        let text = format!("[package]\nname = \"{name}\"\n[dependencies]\n{dependencies}\n{lints}");
        self.write(&format!("{folder}/Cargo.toml"), &text);
        self.write(&format!("{folder}/src/lib.rs"), "//! What it is for.\n");
    }

    fn broken(&self, rule: Rule) -> Vec<String> {
        rule(&Workspace::read(&self.0).unwrap())
    }
}

/// The rule is silent before `spoil` and speaks behind it.
fn assert_speaks(name: &str, rule: Rule, spoil: impl FnOnce(&Small)) {
    let small = Small::new(name);
    assert_eq!(small.broken(rule), [] as [String; 0], "{name}, before");
    spoil(&small);
    assert_eq!(
        small.broken(rule).len(),
        1,
        "{name}: {:?}",
        small.broken(rule)
    );
}

#[test]
fn every_rule_can_be_broken() {
    assert_speaks("edge", edges::forbidden_edges, |small| {
        small.package(
            "crates/sources/f",
            "source",
            "backup-core = \"1\"\nsink = \"1\"",
        );
    });
    assert_speaks("shipped", edges::shipped_test_crates, |small| {
        small.package("crates/sources/f", "source", "backup-testkit = \"1\"");
    });
    assert_speaks("suite", edges::untried_plug_ins, |small| {
        small.write("crates/sinks/s/tests/suite.rs", "//! No test.\n");
    });
    assert_speaks("lints", sources::missing_lints, |small| {
        small.write(
            "crates/sources/f/Cargo.toml",
            "[package]\nname = \"source\"\n",
        );
    });
    assert_speaks("long", sources::long_files, |small| {
        small.write(
            "crates/sources/f/src/lib.rs",
            &"//! Long.\n".repeat(sources::MAX_LINES + 1),
        );
    });
    assert_speaks("unfinished", sources::unfinished, |small| {
        let text = format!("//! What it is for.\nfn a() {{ {}!() }}\n", "todo");
        small.write("crates/sources/f/src/lib.rs", &text);
    });
    assert_speaks("ignored", sources::unfinished, |small| {
        let text = format!("//! Tests.\n#[{}]\nfn a() {{}}\n", "ignore");
        small.write("crates/sources/f/tests/t.rs", &text);
    });
    assert_speaks("unexplained", sources::unexplained_modules, |small| {
        small.write("crates/sources/f/src/more.rs", "fn a() {}\n");
    });
    assert_speaks("dead link", pages::dead_references, |small| {
        small.write("docs/page.md", "[away](gone.md)\n");
    });
    assert_speaks("dead path", pages::dead_references, |small| {
        small.write("docs/page.md", "see `crates/gone/src/lib.rs`\n");
    });
    assert_speaks("lost", pages::lost_pages, |small| {
        small.write("docs/other.md", "words\n")
    });
    assert_speaks("unnamed", pages::unnamed_in_readme, |small| {
        small.write("README.md", "`crates/sinks/s`\n");
    });
}

/// Every way in which a manifest can name another package.
#[test]
fn no_dependency_hides_from_the_rules() {
    let plug_in = |tables: &str| {
        let small = Small::new("hidden");
        let root = small.0.join("Cargo.toml");
        let shared = "[workspace.dependencies]\nquiet = { package = \"sink\", path = \"x\" }\n";
        let text = fs::read_to_string(&root).unwrap() + shared;
        fs::write(root, text).unwrap();
        let manifest = format!("[package]\nname = \"source\"\n[lints]\nworkspace = true\n{tables}");
        small.write("crates/sources/f/Cargo.toml", &manifest);
        small
    };
    let edge = "source may not depend on sink";
    let in_tests = "the tests of source may not depend on sink";
    for (tables, found) in [
        ("[dependencies]\nsink.path = \"x\"", edge),
        ("[build-dependencies]\nsink = \"1\"", edge),
        ("[target.'cfg(unix)'.dependencies]\nsink = \"1\"", edge),
        (
            "[target.x86_64-unknown-linux-gnu.build-dependencies]\nsink = \"1\"",
            edge,
        ),
        (
            "[dependencies]\nquiet = { package = \"sink\", version = \"1\" }",
            edge,
        ),
        ("[dependencies]\nquiet.workspace = true", edge),
        (
            "[target.'cfg(unix)'.dependencies.quiet]\npackage = \"sink\"",
            edge,
        ),
        ("[dev-dependencies]\nsink = \"1\"", in_tests),
        ("[dev-dependencies]\nquiet = { workspace = true }", in_tests),
        (
            "[target.'cfg(unix)'.dev-dependencies]\nsink = \"1\"",
            in_tests,
        ),
    ] {
        let small = plug_in(tables);
        assert_eq!(small.broken(edges::forbidden_edges), [found], "{tables}");
    }
    let kit =
        "[target.'cfg(unix)'.dependencies]\nkit = { package = \"backup-testkit\", path = \"x\" }";
    assert_eq!(plug_in(kit).broken(edges::shipped_test_crates).len(), 1);
    for fine in [
        "[dev-dependencies]\nbackup-testkit = \"1\"",
        "[dependencies]\nbackup-core = \"1\"\n[dependencies.sink2]\nversion = \"1\"",
    ] {
        let small = plug_in(fine);
        for rule in [edges::forbidden_edges, edges::shipped_test_crates] {
            assert_eq!(small.broken(rule), [] as [String; 0], "{fine}");
        }
    }
}

#[test]
fn a_package_that_no_rule_knows_is_named() {
    let small = Small::new("unknown");
    small.package("crates/testkit", "stranger", "");
    assert_eq!(
        small.broken(edges::forbidden_edges),
        ["no rule says what stranger may depend on"]
    );
}
