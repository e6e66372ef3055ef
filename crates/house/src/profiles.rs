//! Packages that are workspaces of their own are built like the others: what was compiled for those is used again then,
//! and a check of a minute does not take four.

use toml::{Table, Value};

use crate::workspace::{Excluded, Workspace};

/// Settings of the development profile that differ between the workspace and a package that it excludes. What the
/// workspace says of a package that the other one does not use need not be said there.
#[must_use]
pub fn unlike_profiles(workspace: &Workspace) -> Vec<String> {
    let none = Table::new();
    let ours = development(&workspace.manifest).unwrap_or(&none);
    let mut out = Vec::new();
    for (folder, package) in &workspace.excluded {
        let theirs = development(&package.manifest).unwrap_or(&none);
        let names = ours
            .keys()
            .chain(theirs.keys().filter(|key| !ours.contains_key(*key)));
        for name in names {
            let is_same = match name.as_str() {
                "package" => overrides_fit(ours.get(name), theirs.get(name), package),
                _ => ours.get(name) == theirs.get(name),
            };
            if !is_same {
                out.push(format!(
                    "{}: `{name}` of profile.dev is not as in the workspace",
                    folder.display()
                ));
            }
        }
    }
    out
}

fn development(manifest: &Table) -> Option<&Table> {
    manifest.get("profile")?.get("dev")?.as_table()
}

/// Whether both say the same of every package that `package` is built with.
fn overrides_fit(ours: Option<&Value>, theirs: Option<&Value>, package: &Excluded) -> bool {
    let none = Table::new();
    let table = |value: Option<&Value>| value.and_then(Value::as_table).unwrap_or(&none).clone();
    let is_used = |name: &str| name == "*" || package.lock.contains(&format!("name = \"{name}\""));
    let mut ours = table(ours);
    ours.retain(|name, _| is_used(name));
    ours == table(theirs)
}
