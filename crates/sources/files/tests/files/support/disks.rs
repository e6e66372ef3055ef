//! File systems that do not keep all that a snapshot has: no modes, no owners, no links.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::is_root;

/// How one is made and mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// FAT, by the kernel.
    Fat,
    /// exFAT, by a program.
    ExFat,
    /// A folder that keeps no modes.
    NoModes,
    /// A folder that keeps modes, and in which all belongs to one user.
    OneOwner,
    /// A folder that keeps modes and owners, and not when files were made.
    NoBirths,
}

/// All of them.
pub const KINDS: [Kind; 5] = [
    Kind::Fat,
    Kind::ExFat,
    Kind::NoModes,
    Kind::OneOwner,
    Kind::NoBirths,
];

/// What a test says that does not have all of them.
pub const NO_DISKS: &str = "skipped: not all file systems can be made and mounted here";

/// One that is mounted; it is unmounted at the end.
pub struct Disk {
    pub kind: Kind,
    base: PathBuf,
    at: PathBuf,
    device: Option<String>,
}

fn is_done(command: &mut Command) -> bool {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

impl Disk {
    /// Makes one in a folder. `None`: that cannot be done here.
    pub fn new(kind: Kind, folder: &Path) -> Option<Self> {
        let mut disk = Self {
            kind,
            base: folder.join(format!("{kind:?}.base")),
            at: folder.join(format!("{kind:?}")),
            device: None,
        };
        fs::create_dir_all(&disk.at).unwrap();
        let made = match kind {
            Kind::Fat => disk.image("mkfs.vfat"),
            Kind::ExFat => disk.image("mkfs.exfat"),
            Kind::NoModes | Kind::OneOwner | Kind::NoBirths => {
                fs::create_dir_all(&disk.base).is_ok()
            }
        };
        (is_root() && made && disk.mount() && disk.is_mounted()).then_some(disk)
    }

    /// All that can be made here.
    pub fn all(folder: &Path) -> Vec<Self> {
        let disks = KINDS.iter().filter_map(|kind| Self::new(*kind, folder));
        disks.collect()
    }

    fn image(&self, maker: &str) -> bool {
        File::create(&self.base).unwrap().set_len(64 << 20).unwrap();
        is_done(Command::new(maker).arg(&self.base))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    fn mount(&mut self) -> bool {
        let options = "uid=1000,gid=1000,umask=022";
        match self.kind {
            Kind::Fat => is_done(
                Command::new("mount")
                    .args(["-t", "vfat", "-o", &format!("loop,{options}")])
                    .args([&self.base, &self.at]),
            ),
            Kind::ExFat => {
                let mut losetup = Command::new("losetup");
                let made = losetup.args(["-f", "--show"]).arg(&self.base).output();
                let Some(made) = made.ok().filter(|made| made.status.success()) else {
                    return false;
                };
                let device = String::from_utf8(made.stdout).unwrap().trim().to_owned();
                let mut mount = Command::new("mount.exfat-fuse");
                mount.args(["-o", options, &device]).arg(&self.at);
                self.device = Some(device);
                is_done(&mut mount)
            }
            Kind::NoModes | Kind::OneOwner | Kind::NoBirths => {
                let mut bind = Command::new("bindfs");
                match self.kind {
                    Kind::NoModes => bind.args(["--chmod-ignore", "-p", "a=rwX"]),
                    Kind::OneOwner => {
                        bind.args(["--force-user=1000", "--force-group=1000", "--chown-deny"])
                    }
                    _ => &mut bind,
                };
                is_done(bind.args([&self.base, &self.at]))
            }
        }
    }

    /// Whether it has come: programs that mount in the background may say so too early.
    fn is_mounted(&self) -> bool {
        let number = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
        (0..200).any(|_| {
            let is_there = number(&self.at) != number(self.at.parent().unwrap());
            if !is_there {
                thread::sleep(Duration::from_millis(50));
            }
            is_there
        })
    }

    fn unmount(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
        if let Some(device) = self.device.take() {
            let _ = Command::new("losetup").args(["-d", &device]).status();
        }
    }

    /// Takes it away and brings it back: on some, inodes have other numbers then.
    pub fn again(&mut self) {
        self.unmount();
        assert!(self.mount() && self.is_mounted());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}
