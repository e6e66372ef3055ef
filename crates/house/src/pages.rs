//! What the pages claim: every file and every page that they name exists.

use std::path::{Component, Path, PathBuf};

use crate::workspace::Workspace;

/// Folders of the project; a path in backquotes that begins with one of them must exist.
const FOLDERS: [&str; 8] = [
    "crates/",
    "bins/",
    "docs/",
    "examples/",
    "tests/",
    "fuzz/",
    "bench/",
    ".ci/",
];

/// Links and paths in pages that lead nowhere.
#[must_use]
pub fn dead_references(workspace: &Workspace) -> Vec<String> {
    let mut out = Vec::new();
    for (page, text) in &workspace.pages {
        let folder = page.parent().unwrap_or(Path::new(""));
        for (number, line) in prose(text) {
            let linked = links(line).into_iter().map(|link| folder.join(link));
            let named = paths(line).into_iter().map(PathBuf::from);
            for path in linked.chain(named) {
                if !exists(workspace, &path) {
                    let (page, path) = (page.display(), path.display());
                    out.push(format!("{page}:{number}: {path} does not exist"));
                }
            }
        }
    }
    out
}

/// Pages below `docs/` that no other page links to.
#[must_use]
pub fn lost_pages(workspace: &Workspace) -> Vec<String> {
    let mut linked = Vec::new();
    for (page, text) in &workspace.pages {
        let folder = page.parent().unwrap_or(Path::new(""));
        for (_, line) in prose(text) {
            linked.extend(
                links(line)
                    .into_iter()
                    .filter_map(|link| normal(&folder.join(link))),
            );
        }
    }
    let docs = workspace
        .pages
        .keys()
        .filter(|page| page.starts_with("docs"));
    docs.filter(|page| !linked.contains(page))
        .map(|page| format!("no page links to {}", page.display()))
        .collect()
}

/// Source crates, sink crates, and binaries that the README does not name.
#[must_use]
pub fn unnamed_in_readme(workspace: &Workspace) -> Vec<String> {
    let Some(readme) = workspace.pages.get(Path::new("README.md")) else {
        return vec!["there is no README.md".into()];
    };
    let named = workspace
        .packages
        .values()
        .filter(|package| package.is_plug_in());
    named
        .filter(|package| !readme.contains(&*package.folder.to_string_lossy()))
        .map(|package| format!("README.md does not name {}", package.folder.display()))
        .collect()
}

/// The lines outside of code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        (!in_code && !is_fence).then_some((number + 1, line))
    })
}

/// The targets of Markdown links to files.
fn links(line: &str) -> Vec<&str> {
    let targets = line
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    targets
        .map(|target| target.split('#').next().unwrap_or(target))
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

/// Paths of the project in backquotes, patterns and places with holes in them left out.
fn paths(line: &str) -> Vec<&str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted
        .filter(|text| FOLDERS.iter().any(|folder| text.starts_with(folder)))
        .filter(|text| !text.contains(['<', '*', '{', ' ', '…']))
        .collect()
}

fn exists(workspace: &Workspace, path: &Path) -> bool {
    normal(path).is_some_and(|path| workspace.root.join(path).exists())
}

/// The path without `.` and `..`; `None` if it leaves the workspace.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            _ => return None,
        }
    }
    Some(out)
}
