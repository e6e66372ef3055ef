//! What is read from the system: environment, host, user, folders. Nowhere else is it read.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use backstay::core::HostId;

/// The value of a variable of the environment; empty is as if it were not set.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the one place where the environment is read"
)]
pub(crate) fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Whether `NO_COLOR` forbids colours (<https://no-color.org>).
#[must_use]
pub fn no_color() -> bool {
    variable("NO_COLOR").is_some()
}

fn home() -> Option<PathBuf> {
    let named = variable("HOME").map(PathBuf::from);
    named.filter(|home| home.is_absolute()).or_else(|| {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok()??;
        Some(user.dir)
    })
}

/// What plug-ins are told of this process: its variables, the home folder, who runs it, the SSH client, and a folder in
/// which it is remembered what servers can do.
pub(crate) fn for_plug_ins(cache: Option<PathBuf>) -> backstay::Surroundings {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid());
    backstay::Surroundings {
        variable: std::sync::Arc::new(|name| variable(name)?.into_string().ok()),
        home: home(),
        user: user.ok().flatten().map(|user| user.name),
        ssh: Some("ssh".into()),
        cache,
    }
}

/// A folder of the XDG base directory specification, with `backstay` at its end.
fn xdg(name: &str, below_home: &str) -> Option<PathBuf> {
    let named = variable(name)
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute());
    let folder = named.or_else(|| Some(home()?.join(below_home)))?;
    Some(folder.join("backstay"))
}

/// The folder of the local cache.
#[must_use]
pub fn cache_folder() -> Option<PathBuf> {
    xdg("XDG_CACHE_HOME", ".cache")
}

/// The folder of what this host remembers of repositories and cannot have from them.
#[must_use]
pub fn state_folder() -> Option<PathBuf> {
    xdg("XDG_STATE_HOME", ".local/state")
}

/// The folder of configuration and keys.
#[must_use]
pub fn config_folder() -> Option<PathBuf> {
    xdg("XDG_CONFIG_HOME", ".config")
}

/// The folder that relative paths count from.
#[must_use]
pub fn current_folder() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"))
}

/// A path from the root, `.` and doubled slashes passed over; links are left as they are.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| current_folder().join(path))
}

/// A path without links, as far as it is there; what is not there yet follows as it is written.
#[must_use]
pub fn real_path(path: &Path) -> PathBuf {
    let whole = absolute(path);
    for there in whole.ancestors() {
        if let (Ok(real), Ok(rest)) = (there.canonicalize(), whole.strip_prefix(there)) {
            return real.components().chain(rest.components()).collect();
        }
    }
    whole
}

/// Makes a folder where it is missing, for the user alone, and sees whether files can be made in it.
///
/// # Errors
/// What the system says.
pub fn try_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let wanted = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    Ok(rustix::fs::access(folder, wanted)?)
}

/// The name of this host.
#[must_use]
pub fn host() -> HostId {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    HostId(if name.is_empty() {
        "localhost".into()
    } else {
        name.into_owned()
    })
}

/// The name of the user who runs this; the number where there is no name.
#[must_use]
pub fn user() -> String {
    name_of(nix::unistd::getuid())
}

fn name_of(uid: nix::unistd::Uid) -> String {
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

/// Who runs this, for the ledger: name and number of the user, and who logged in if that is somebody
/// else and the kernel keeps it (it does so through `su` and `sudo`).
#[must_use]
pub fn actor() -> String {
    let uid = nix::unistd::getuid();
    let login = std::fs::read_to_string("/proc/self/loginuid").ok();
    let login = login.and_then(|text| text.trim().parse::<u32>().ok());
    // The highest number stands for nobody: what the system started by itself.
    let other = login.filter(|login| *login != u32::MAX && *login != uid.as_raw());
    let login = other.map_or_else(String::new, |login| {
        format!(
            ", logged in as {}",
            name_of(nix::unistd::Uid::from_raw(login))
        )
    });
    format!("{} (uid {uid}{login})", name_of(uid))
}
