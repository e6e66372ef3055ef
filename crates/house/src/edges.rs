//! Which package may depend on which.
//!
//! ```text
//! bins → terminal → backstay → export → engine → { format, retention, integrity, parity } → backup-core
//! backstay → { sources/*, sinks/*, cold, conformance, throttle } → backup-core
//! testkit → conformance
//! ```
//!
//! A plug-in sees neither the engine nor another plug-in. The test kit and this crate are for tests
//! only: what a package may see, its tests may see as well, and the test kit; those of the engine
//! may use plug-ins, and those of plug-ins the servers that are made for them. A package that no line here names is a mistake as well: whoever adds one says where it
//! stands.

use crate::workspace::{Package, Workspace};

/// The package of the words and contracts; it depends on nothing of ours.
const CORE: &str = "backup-core";
const FORMAT: &str = "backup-format";
const INTEGRITY: &str = "backup-integrity";
const PARITY: &str = "backup-parity";
const RETENTION: &str = "backup-retention";
const ENGINE: &str = "backup-engine";
const EXPORT: &str = "backup-export";
const FACADE: &str = "backstay";
const TERMINAL: &str = "backup-terminal";
const COLD: &str = "backup-cold";
const CONFORMANCE: &str = "backup-conformance";
const THROTTLE: &str = "backup-throttle";
const TESTKIT: &str = "backup-testkit";
const HOUSE: &str = "backup-house";
/// Servers that tests of plug-ins start.
const SERVERS: [&str; 1] = ["backup-object-server"];
/// Packages that only tests may depend on.
const TESTS_ONLY: [&str; 3] = [TESTKIT, HOUSE, SERVERS[0]];

/// What a package may depend on, or `None` where the rules do not know the package.
fn allowed(package: &Package, workspace: &Workspace) -> Option<Vec<String>> {
    let own = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    match package.name.as_str() {
        CORE | PARITY | HOUSE => own(&[]),
        FORMAT | RETENTION | COLD | CONFORMANCE | THROTTLE => own(&[CORE]),
        TESTKIT => own(&[CORE, CONFORMANCE]),
        INTEGRITY => own(&[CORE, FORMAT]),
        ENGINE => own(&[CORE, FORMAT, INTEGRITY, PARITY, RETENTION]),
        EXPORT => own(&[CORE, FORMAT, INTEGRITY, ENGINE]),
        FACADE => {
            let own = [
                CORE,
                FORMAT,
                INTEGRITY,
                PARITY,
                RETENTION,
                ENGINE,
                EXPORT,
                COLD,
                CONFORMANCE,
                THROTTLE,
            ];
            Some(plug_ins(workspace).chain(own.map(str::to_owned)).collect())
        }
        TERMINAL => own(&[FACADE]),
        _ if package.is_plug_in() => own(&[CORE]),
        _ if package.is_below("bins") => own(&[FACADE, TERMINAL]),
        _ if package.is_below("examples") => own(&[FACADE]),
        _ if ["tests", "bench", "fuzz"]
            .iter()
            .any(|folder| package.is_below(folder)) =>
        {
            Some(workspace.packages.keys().cloned().collect())
        }
        _ => None,
    }
}

/// What the tests of a package may depend on beside what it may depend on itself.
fn allowed_in_tests(package: &Package, workspace: &Workspace) -> Vec<String> {
    let kit = std::iter::once(TESTKIT.to_owned());
    match package.name.as_str() {
        ENGINE => {
            let stand_before = [COLD.to_owned()];
            kit.chain(plug_ins(workspace)).chain(stand_before).collect()
        }
        _ if package.is_plug_in() => kit.chain(SERVERS.map(str::to_owned)).collect(),
        _ => kit.collect(),
    }
}

fn plug_ins(workspace: &Workspace) -> impl Iterator<Item = String> {
    let plug_ins = workspace
        .packages
        .values()
        .filter(|other| other.is_plug_in());
    plug_ins.map(|other| other.name.clone())
}

/// Dependencies that may not be.
#[must_use]
pub fn forbidden_edges(workspace: &Workspace) -> Vec<String> {
    let mut out = Vec::new();
    for package in workspace.packages.values() {
        let Some(allowed) = allowed(package, workspace) else {
            out.push(format!("no rule says what {} may depend on", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            if !allowed.contains(dependency) {
                out.push(format!("{} may not depend on {dependency}", package.name));
            }
        }
        let in_tests = allowed_in_tests(package, workspace);
        for dependency in &package.dev_dependencies {
            if !allowed.contains(dependency) && !in_tests.contains(dependency) {
                let name = &package.name;
                out.push(format!(
                    "the tests of {name} may not depend on {dependency}"
                ));
            }
        }
    }
    out
}

/// Test crates that something other than a test depends on.
#[must_use]
pub fn shipped_test_crates(workspace: &Workspace) -> Vec<String> {
    let shipped = workspace
        .packages
        .values()
        .filter(|package| !package.is_below("tests"));
    shipped
        .flat_map(|package| {
            let found = package.dependencies.iter();
            found
                .filter(|name| TESTS_ONLY.contains(&name.as_str()))
                .map(|name| format!("{} ships {name}, which is for tests", package.name))
        })
        .collect()
}

/// Plug-ins that do not run the suite of their contract. A sink calls `sink_suite`; there is no
/// suite for sources yet.
#[must_use]
pub fn untried_plug_ins(workspace: &Workspace) -> Vec<String> {
    let sinks = workspace
        .packages
        .values()
        .filter(|package| package.is_below("crates/sinks"));
    sinks
        .filter(|sink| {
            let mut tests = sink
                .sources
                .iter()
                .filter(|(path, _)| path.starts_with(sink.folder.join("tests")));
            !tests.any(|(_, text)| text.contains("sink_suite("))
        })
        .map(|sink| format!("{} does not run the suite of sinks", sink.name))
        .collect()
}
