//! Going down into folders name by name, as the restore itself does: a path from the root may be
//! longer than the kernel takes, and a link that stands in the place of a folder leads elsewhere.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open, openat};

/// How a folder is opened only to reach what is in it.
const PASSAGE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// So many folders are kept open: descriptors are scarce, and folders may be thousands deep.
const KEPT_OPEN: usize = 64;

/// One folder on the way.
struct Step {
    name: Vec<u8>,
    /// Nothing: it was closed, since others below it were needed more.
    open: Option<OwnedFd>,
}

/// The way from a folder to one below it. Going on to one nearby costs little, so whoever comes in
/// the order of paths opens each folder once.
pub(crate) struct Descent {
    folder: PathBuf,
    top: Option<OwnedFd>,
    steps: Vec<Step>,
}

impl Descent {
    /// Begins at a folder.
    pub(crate) fn new(folder: &Path) -> Self {
        let folder = folder.to_path_buf();
        let (top, steps) = (None, Vec::new());
        Self { folder, top, steps }
    }

    /// The folder of a path below, its names with slashes between; none: where it began.
    ///
    /// # Errors
    /// What the system says of one of the folders on the way.
    pub(crate) fn go_to(&mut self, path: &[u8]) -> io::Result<&OwnedFd> {
        let names = path.split(|&byte| byte == b'/');
        let names: Vec<&[u8]> = names.filter(|name| !name.is_empty()).collect();
        let common = (self.steps.iter().zip(&names))
            .take_while(|(step, name)| step.name == **name)
            .count();
        self.steps.truncate(common);
        // The nearest one that is open; what was closed below it is opened again.
        let nearest = self.steps.iter().rposition(|step| step.open.is_some());
        self.steps
            .truncate(nearest.map_or(0, |nearest| nearest + 1));
        let top = match self.top.take() {
            Some(top) => top,
            None => open(&self.folder, PASSAGE, Mode::empty())?,
        };
        let top = self.top.insert(top);
        for name in names.iter().skip(self.steps.len()) {
            let above = self.steps.last().and_then(|step| step.open.as_ref());
            let above = above.unwrap_or(top);
            let opened = openat(above, *name, PASSAGE | OFlags::NOFOLLOW, Mode::empty())?;
            self.steps.push(Step {
                name: name.to_vec(),
                open: Some(opened),
            });
            if let Some(far) = self.steps.len().checked_sub(KEPT_OPEN + 1)
                && let Some(far) = self.steps.get_mut(far)
            {
                far.open = None;
            }
        }
        let last = self.steps.last().and_then(|step| step.open.as_ref());
        Ok(last.unwrap_or(top))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use rustix::fs::{fstat, mkdirat};

    use super::*;

    #[test]
    fn folders_deeper_than_a_path_can_say_are_reached_in_any_order() {
        let temp = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut folder = open(temp.path(), flags, Mode::empty()).unwrap();
        let mut inodes = vec![fs::metadata(temp.path()).unwrap().ino()];
        for _ in 0..1000 {
            mkdirat(&folder, "0123456789", Mode::from_raw_mode(0o755)).unwrap();
            folder = openat(&folder, "0123456789", flags, Mode::empty()).unwrap();
            inodes.push(fstat(&folder).unwrap().st_ino);
        }
        let mut descent = Descent::new(temp.path());
        let up = (0..=1000).rev();
        for depth in (0..=1000).chain(up).chain([500, 0, 1000, 3]) {
            let path = vec!["0123456789"; depth].join("/");
            let reached = descent.go_to(path.as_bytes()).unwrap();
            assert_eq!(fstat(reached).unwrap().st_ino, inodes[depth], "{depth}");
            let open = descent.steps.iter().filter(|step| step.open.is_some());
            assert!(open.count() <= KEPT_OPEN);
        }
    }

    #[test]
    fn a_link_is_no_way_down_and_a_missing_folder_no_obstacle_to_the_next() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("there")).unwrap();
        symlink("there", temp.path().join("link")).unwrap();
        let mut descent = Descent::new(temp.path());
        assert!(descent.go_to(b"link").is_err());
        assert!(descent.go_to(b"missing/deeper").is_err());
        assert!(descent.go_to(b"there").is_ok());
        assert!(descent.go_to(b"").is_ok());
    }
}
