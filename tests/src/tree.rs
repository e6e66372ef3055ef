//! A tree of files in every detail that a restore must bring back.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;

/// One thing in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Type and permissions, as `stat` has them.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Time of the last change of content.
    pub mtime: (i64, i64),
    /// Content of a file, target of a link.
    pub content: Vec<u8>,
    /// Where a file has data; the rest is holes.
    pub data: Vec<(u64, u64)>,
    /// Major and minor number of a device.
    pub device: u64,
    /// Extended attributes.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first path in order that is the same file.
    pub linked_to: Option<PathBuf>,
}

/// Reads a tree; the folder itself is not in it.
///
/// # Errors
/// What the system says.
pub fn read_tree(root: &Path) -> io::Result<BTreeMap<PathBuf, Node>> {
    let mut out = BTreeMap::new();
    let mut seen = HashMap::new();
    read_folder(root, Path::new(""), &mut out, &mut seen)?;
    Ok(out)
}

fn read_folder(
    root: &Path,
    below: &Path,
    out: &mut BTreeMap<PathBuf, Node>,
    seen: &mut HashMap<(u64, u64), PathBuf>,
) -> io::Result<()> {
    let mut names: Vec<_> = fs::read_dir(root.join(below))?.collect::<io::Result<Vec<_>>>()?;
    names.sort_by_key(fs::DirEntry::file_name);
    for entry in names {
        let path = below.join(entry.file_name());
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full)?;
        let (mut content, mut data, mut linked_to) = (Vec::new(), Vec::new(), None);
        if meta.is_file() {
            content = fs::read(&full)?;
            data = data_of(&full, meta.len())?;
            if meta.nlink() > 1 {
                let first = seen
                    .entry((meta.dev(), meta.ino()))
                    .or_insert_with(|| path.clone());
                linked_to = (*first != path).then(|| first.clone());
            }
        } else if meta.is_symlink() {
            content = fs::read_link(&full)?.into_os_string().into_vec();
        }
        let is_folder = meta.is_dir();
        out.insert(
            path.clone(),
            Node {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                mtime: (meta.mtime(), meta.mtime_nsec()),
                content,
                data,
                device: meta.rdev(),
                xattrs: xattrs(&full)?,
                linked_to,
            },
        );
        if is_folder {
            read_folder(root, &path, out, seen)?;
        }
    }
    Ok(())
}

/// The ranges of a file that are no holes.
fn data_of(path: &Path, length: u64) -> io::Result<Vec<(u64, u64)>> {
    let file = fs::File::open(path)?;
    let mut out = Vec::new();
    let mut at = 0;
    while at < length {
        let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) else {
            break;
        };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(start))?;
        out.push((start, end));
        at = end;
    }
    Ok(out)
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names)?;
    names.truncate(length);
    let mut out = BTreeMap::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = OsString::from_vec(name.to_vec());
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name.as_os_str(), &mut value)?;
        value.truncate(length);
        out.insert(name, value);
    }
    Ok(out)
}
