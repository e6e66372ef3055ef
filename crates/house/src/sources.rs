//! What source files look like.

use std::path::Path;

use toml::Value;

use crate::workspace::Workspace;

/// Most lines of one file.
pub const MAX_LINES: usize = 700;
/// Lints that the workspace must deny.
const DENIED: [(&str, &str); 6] = [
    ("rust", "missing_docs"),
    ("rust", "unsafe_code"),
    ("clippy", "unwrap_used"),
    ("clippy", "expect_used"),
    ("clippy", "todo"),
    ("clippy", "unimplemented"),
];

/// Files that are too long, with their lengths.
#[must_use]
pub fn long_files(workspace: &Workspace) -> Vec<String> {
    let too_long = |(path, lines): (String, usize)| {
        (lines > MAX_LINES).then(|| format!("{path} has {lines} lines, {MAX_LINES} are the most"))
    };
    longest_files(workspace)
        .into_iter()
        .filter_map(too_long)
        .collect()
}

/// Every file and its lines, the longest first.
#[must_use]
pub fn longest_files(workspace: &Workspace) -> Vec<(String, usize)> {
    let files = workspace
        .packages
        .values()
        .flat_map(|package| &package.sources);
    let mut out: Vec<_> = files
        .map(|(path, text)| (path.display().to_string(), text.lines().count()))
        .collect();
    out.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    out
}

/// Packages without the lints of the workspace, and lints that the workspace does not deny.
#[must_use]
pub fn missing_lints(workspace: &Workspace) -> Vec<String> {
    let packages = workspace
        .packages
        .values()
        .filter(|package| !package.shares_lints);
    let mut out: Vec<_> = packages
        .map(|package| format!("{} does not take the lints", package.name))
        .collect();
    let lints = workspace
        .manifest
        .get("workspace")
        .and_then(|table| table.get("lints"));
    for (tool, lint) in DENIED {
        let level = lints
            .and_then(|lints| lints.get(tool)?.get(lint))
            .and_then(Value::as_str);
        if !matches!(level, Some("deny" | "forbid")) {
            out.push(format!("the workspace does not deny {tool}::{lint}"));
        }
    }
    out
}

/// Places that say that something is unfinished, and tests that are left out without a reason.
#[must_use]
pub fn unfinished(workspace: &Workspace) -> Vec<String> {
    // Spelled in halves, so that this file does not find itself.
    let marks = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("// TO", "DO"),
        concat!("// FIX", "ME"),
        concat!("#[ign", "ore]"),
    ];
    let mut out = Vec::new();
    for (path, text) in workspace
        .packages
        .values()
        .flat_map(|package| &package.sources)
    {
        for (number, line) in text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                out.push(at(path, number, &format!("`{mark}`")));
            }
        }
    }
    out
}

/// Crate roots and modules without a word on what they are for. Modules of tests need none.
#[must_use]
pub fn unexplained_modules(workspace: &Workspace) -> Vec<String> {
    let files = workspace.packages.values().flat_map(|package| {
        let src = package.folder.join("src");
        package
            .sources
            .iter()
            .filter(move |(path, _)| path.starts_with(&src))
    });
    files
        .filter(|(path, text)| !is_test(path) && !text.trim_start().starts_with("//!"))
        .map(|(path, _)| format!("{} does not begin with what it is for", path.display()))
        .collect()
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| {
        let name = part.as_os_str().to_string_lossy();
        let name = name.trim_end_matches(".rs");
        name == "tests" || name.ends_with("_tests")
    })
}

fn at(path: &Path, number: usize, what: &str) -> String {
    format!("{}:{}: {what}", path.display(), number + 1)
}
