//! A workspace as it lies on the disk.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Why a workspace cannot be read.
#[derive(Debug)]
pub enum ReadError {
    /// A file cannot be read.
    Io(PathBuf, io::Error),
    /// A manifest is not one.
    Manifest(PathBuf, String),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Manifest(path, why) => write!(f, "{}: {why}", path.display()),
        }
    }
}

impl std::error::Error for ReadError {}

/// One package of the workspace.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its folder, from the root of the workspace.
    pub folder: PathBuf,
    /// Packages of the workspace that it depends on, on any platform, build dependencies among them; by
    /// their own names, whatever it calls them.
    pub dependencies: Vec<String>,
    /// Packages of the workspace that only its tests depend on.
    pub dev_dependencies: Vec<String>,
    /// Whether it takes its lints from the workspace.
    pub shares_lints: bool,
    /// Its Rust files, from the root of the workspace, with their text.
    pub sources: BTreeMap<PathBuf, String>,
}

impl Package {
    /// Whether its folder is below the given one.
    #[must_use]
    pub fn is_below(&self, folder: &str) -> bool {
        self.folder.starts_with(folder)
    }

    /// Whether it is a plug-in: a source or a sink.
    #[must_use]
    pub fn is_plug_in(&self) -> bool {
        self.is_below("crates/sources") || self.is_below("crates/sinks")
    }
}

/// A workspace.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Where it lies.
    pub root: PathBuf,
    /// The manifest of the workspace.
    pub manifest: Table,
    /// Its packages by name.
    pub packages: BTreeMap<String, Package>,
    /// Its Markdown pages, from the root of the workspace, with their text.
    pub pages: BTreeMap<PathBuf, String>,
}

impl Workspace {
    /// Reads the workspace at `root`.
    ///
    /// # Errors
    /// [`ReadError`] for what cannot be read.
    pub fn read(root: &Path) -> Result<Self, ReadError> {
        let manifest = read_manifest(&root.join("Cargo.toml"))?;
        let members = manifest
            .get("workspace")
            .and_then(|workspace| workspace.get("members"))
            .and_then(Value::as_array)
            .ok_or_else(|| ReadError::Manifest(root.into(), "it lists no members".into()))?;
        let mut packages = BTreeMap::new();
        for folder in members.iter().filter_map(Value::as_str) {
            let package = read_package(root, Path::new(folder), &manifest)?;
            packages.insert(package.name.clone(), package);
        }
        let known: Vec<String> = packages.keys().cloned().collect();
        for package in packages.values_mut() {
            package.dependencies.retain(|name| known.contains(name));
            package.dev_dependencies.retain(|name| known.contains(name));
        }
        let mut pages = BTreeMap::new();
        read_texts(root, Path::new("docs"), "md", &mut pages)?;
        for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
            if let Ok(text) = fs::read_to_string(root.join(name)) {
                pages.insert(name.into(), text);
            }
        }
        Ok(Self {
            root: root.into(),
            manifest,
            packages,
            pages,
        })
    }
}

fn read_manifest(path: &Path) -> Result<Table, ReadError> {
    let text = fs::read_to_string(path).map_err(|error| ReadError::Io(path.into(), error))?;
    text.parse()
        .map_err(|error| ReadError::Manifest(path.into(), format!("{error}")))
}

fn read_package(root: &Path, folder: &Path, workspace: &Table) -> Result<Package, ReadError> {
    let path = root.join(folder).join("Cargo.toml");
    let manifest = read_manifest(&path)?;
    let name = manifest
        .get("package")
        .and_then(|package| package.get("name"))
        .and_then(Value::as_str)
        .ok_or_else(|| ReadError::Manifest(path, "it names no package".into()))?;
    let shares_lints = manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(Value::as_bool)
        .unwrap_or(false);
    let mut sources = BTreeMap::new();
    for part in ["src", "tests", "benches", "examples", "build.rs"] {
        read_texts(root, &folder.join(part), "rs", &mut sources)?;
    }
    Ok(Package {
        name: name.to_owned(),
        folder: folder.into(),
        dependencies: dependencies(
            &manifest,
            workspace,
            &["dependencies", "build-dependencies"],
        ),
        dev_dependencies: dependencies(&manifest, workspace, &["dev-dependencies"]),
        shares_lints,
        sources,
    })
}

/// The packages that tables of these kinds name, for every platform and for some.
fn dependencies(manifest: &Table, workspace: &Table, kinds: &[&str]) -> Vec<String> {
    let shared = workspace
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies"));
    let targets = manifest.get("target").and_then(Value::as_table);
    let targets = targets.into_iter().flat_map(Table::values);
    std::iter::once(manifest)
        .chain(targets.filter_map(Value::as_table))
        .flat_map(|table| kinds.iter().filter_map(|kind| table.get(*kind)))
        .filter_map(Value::as_table)
        .flatten()
        .map(|(key, value)| package_name(key, value, shared).to_owned())
        .collect()
}

/// What the package is really called that a manifest calls `key`: it may be renamed in the manifest or,
/// where that inherits it, in the one of the workspace.
fn package_name<'a>(key: &'a str, value: &'a Value, shared: Option<&'a Value>) -> &'a str {
    let inherits = value.get("workspace").and_then(Value::as_bool) == Some(true);
    let told = if inherits {
        shared.and_then(|shared| shared.get(key))
    } else {
        Some(value)
    };
    let name = told.and_then(|told| told.get("package")?.as_str());
    name.unwrap_or(key)
}

/// Reads every file with the extension at or below `at`; none if there is nothing.
fn read_texts(
    root: &Path,
    at: &Path,
    extension: &str,
    out: &mut BTreeMap<PathBuf, String>,
) -> Result<(), ReadError> {
    let full = root.join(at);
    let failed = |error| ReadError::Io(full.clone(), error);
    if full.is_dir() {
        for entry in fs::read_dir(&full).map_err(failed)? {
            read_texts(
                root,
                &at.join(entry.map_err(failed)?.file_name()),
                extension,
                out,
            )?;
        }
    } else if full.is_file() && full.extension().is_some_and(|found| found == extension) {
        out.insert(at.into(), fs::read_to_string(&full).map_err(failed)?);
    }
    Ok(())
}
