//! What the tests of the restore are given: captured folders and made-up entries.

use std::path::Path;

use backup_core::{EntryKind, EntryMeta, EntryPath, FileTime, RestoreEntry};
use backup_source_files::{FilesConfig, FilesTargetConfig, Overwrite};

use super::{Stored, capture, rooted_at, sha256_of, store};

pub fn captured(root: &Path) -> Vec<Stored> {
    rooted_at(&store(&capture(FilesConfig::of_roots([root]))), root)
}

pub fn into(folder: &Path, overwrite: Overwrite) -> FilesTargetConfig {
    FilesTargetConfig {
        overwrite,
        sync: false,
        ..FilesTargetConfig::of_folder(folder)
    }
}

/// An entry that no capture has seen.
pub fn made_up(path: &[u8], kind: EntryKind, content: &[u8]) -> Stored {
    let meta = EntryMeta {
        kind,
        mode: 0o644,
        owner: None,
        mtime: FileTime {
            seconds: 1_000_000,
            nanos: 7,
        },
        xattrs: Vec::new(),
        link_group: None,
        attrs: Default::default(),
    };
    let path = EntryPath::from_slashed(path).unwrap();
    let size = u64::try_from(content.len()).unwrap();
    let data = if content.is_empty() {
        Vec::new()
    } else {
        vec![(0, content.to_vec())]
    };
    let sha256 = meta.kind.has_content().then(|| sha256_of(size, &data));
    Stored {
        entry: RestoreEntry {
            path,
            meta,
            size,
            sha256,
            whole: true,
            on_way: false,
        },
        data,
    }
}

/// An ACL as `setfacl -m u:1234:rw` makes it: version 2, then tag, permissions and id of each.
pub fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}
