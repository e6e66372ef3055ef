//! What the golden repository is given: a made-up tree with everything that an entry can be.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use async_trait::async_trait;
use backup_core::{
    Body, Capture, CaptureMode, CapturePlan, CaptureReport, CaptureRequest, Consistency,
    ConsistentPoint, Entry, EntryKind, EntryMeta, EntryPath, FileTime, OpContext, Outcome, Owner,
    Segment, SizeHint, Source, SourceCaps, SourceError, SourceInfo, StreamProfile,
};
use bytes::Bytes;
use futures::StreamExt as _;

/// One entry of the tree.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// Where it stands.
    pub(crate) path: EntryPath,
    /// Everything but its content.
    pub(crate) meta: EntryMeta,
    /// How its content is cut.
    profile: StreamProfile,
    /// Bytes, and zeros that are holes.
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Bytes(Vec<u8>),
    Hole(usize),
}

impl Node {
    /// Its content, holes as zeros.
    pub(crate) fn content(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => out.extend_from_slice(bytes),
                Part::Hole(length) => out.resize(out.len() + length, 0),
            }
        }
        out
    }

    fn body(&self) -> Body {
        match self.parts.as_slice() {
            _ if !self.meta.kind.has_content() => Body::None,
            [] => Body::Bytes(Bytes::new()),
            [Part::Bytes(bytes)] if bytes.len() < 100_000 => Body::Bytes(bytes.clone().into()),
            parts => {
                let mut offset = 0;
                let mut segments = Vec::new();
                for part in parts {
                    match part {
                        Part::Bytes(bytes) => {
                            let bytes = Bytes::from(bytes.clone());
                            segments.push(Ok(Segment::Data {
                                offset,
                                bytes: bytes.clone(),
                            }));
                            offset += bytes.len() as u64;
                        }
                        Part::Hole(length) => {
                            let end = offset + *length as u64;
                            segments.push(Ok(Segment::Zero(offset..end)));
                            offset = end;
                        }
                    }
                }
                Body::Stream(futures::stream::iter(segments).boxed())
            }
        }
    }
}

fn node(path: &[u8], kind: EntryKind, parts: Vec<Part>) -> Node {
    let path = EntryPath::from_slashed(path).unwrap();
    let number = path
        .as_stored()
        .iter()
        .map(|byte| u32::from(*byte))
        .sum::<u32>();
    let meta = EntryMeta {
        mode: if kind == EntryKind::Directory {
            0o755
        } else {
            0o640
        },
        kind,
        owner: Some(Owner {
            uid: 1000,
            gid: 50,
            user: Some("golden".into()),
            group: None,
        }),
        mtime: FileTime {
            seconds: 1_700_000_000 + i64::from(number),
            nanos: number * 1_000_003 % 1_000_000_000,
        },
        xattrs: Vec::new(),
        link_group: None,
        attrs: BTreeMap::new(),
    };
    Node {
        path,
        meta,
        profile: StreamProfile::Auto,
        parts,
    }
}

fn file(path: &[u8], parts: Vec<Part>) -> Node {
    node(path, EntryKind::File, parts)
}

/// Pages of 8 KiB that compress well and differ from each other; those of `changed` are others.
fn pages(count: u32, changed: &[u32]) -> Vec<u8> {
    let page = |number: u32| {
        let word = number
            + if changed.contains(&number) {
                1_000_000
            } else {
                0
            };
        word.to_le_bytes().repeat(2048)
    };
    (0..count).flat_map(page).collect()
}

/// Lines of text, of which `inserted` stands before line 5,000.
fn text(inserted: &str) -> Vec<u8> {
    let mut out = String::new();
    for line in 0..24_000u32 {
        if line == 5_000 {
            out += inserted;
        }
        let _ = writeln!(
            out,
            "line {line}: the quick brown fox jumps over the lazy dog {}",
            line.wrapping_mul(2_654_435_761) >> 28
        );
    }
    out.into_bytes()
}

/// The tree in its first (0) or second (1) state, in the order of a walk.
pub(crate) fn tree(state: u32) -> Vec<Node> {
    let bytes = |text: &str| vec![Part::Bytes(text.as_bytes().to_vec())];
    let mut nodes = vec![
        node(b"all", EntryKind::Directory, Vec::new()),
        node(
            b"all/block",
            EntryKind::BlockDevice { major: 8, minor: 1 },
            Vec::new(),
        ),
        node(
            b"all/char",
            EntryKind::CharDevice { major: 1, minor: 3 },
            Vec::new(),
        ),
        file(b"all/empty", Vec::new()),
        node(b"all/fifo", EntryKind::Fifo, Vec::new()),
        file(
            b"all/hole",
            vec![
                Part::Bytes(pages(2, &[])),
                Part::Hole(3 << 20),
                Part::Bytes(b"behind the hole".to_vec()),
            ],
        ),
        file(
            b"all/new\nline and \\ and \"",
            bytes("names may hold nearly anything"),
        ),
        file(b"all/not utf-8 \xff\xfe", bytes("bytes, not text")),
        node(b"all/socket", EntryKind::Socket, Vec::new()),
        node(
            b"all/symlink",
            EntryKind::Symlink(b"../far \xff/away".to_vec()),
            Vec::new(),
        ),
        node(
            b"all/zwilling",
            EntryKind::File,
            bytes(&format!("state {state}")),
        ),
        node(b"disk", EntryKind::Disk, vec![Part::Bytes(pages(40, &[7]))]),
        node(
            b"dump",
            EntryKind::Stream,
            vec![Part::Bytes(text(["", "an insertion\n"][state as usize]))],
        ),
        node(b"many", EntryKind::Directory, Vec::new()),
        file(
            b"relation",
            vec![Part::Bytes(pages(
                160,
                // So many ranges that their list stands in a blob of its own.
                if state == 0 {
                    &[]
                } else {
                    &[3, 9, 20, 31, 40, 52, 63, 70, 81, 92, 99, 120, 150]
                },
            ))],
        ),
    ];
    for number in 0..150u32 {
        let content = format!("file {number}").repeat(number as usize);
        nodes.push(file(
            format!("many/{number:03}").as_bytes(),
            bytes(&content),
        ));
    }
    // Changed, added and removed in the second state.
    nodes.push(file(b"many/changed", bytes(&format!("state {state}"))));
    let (only, content) = if state == 0 {
        ("first", "gone")
    } else {
        ("second", "new")
    };
    nodes.push(file(
        format!("many/only in the {only}").as_bytes(),
        bytes(content),
    ));
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    for node in &mut nodes {
        adorn(node);
    }
    nodes
}

/// What only some entries have.
fn adorn(node: &mut Node) {
    match node.path.as_stored() {
        b"relation" | b"disk" => node.profile = StreamProfile::Pages(8192),
        b"dump" => {
            node.profile = StreamProfile::Content;
            node.meta.owner = None;
            node.meta.attrs = [("tool".to_owned(), "golden 1.0".to_owned())].into();
        }
        b"many\x00001" => node.meta.mode = 0o4711,
        b"many\x00002" => {
            node.meta.mtime = FileTime {
                seconds: -86_400,
                nanos: 999_999_999,
            }
        }
        b"many\x00003" => {
            node.meta.xattrs = vec![
                (b"user.comment".to_vec(), b"an attribute".to_vec()),
                (b"user.empty".to_vec(), Vec::new()),
            ];
        }
        // Two names of one file each: small, and large enough to be cut.
        b"all\0zwilling" | b"many\0changed" => node.meta.link_group = Some(4711),
        _ => {}
    }
    if node.meta.link_group.is_some() {
        node.meta.mtime = FileTime {
            seconds: 1_600_000_000,
            nanos: 5,
        };
    }
}

/// One line for an entry: kind, mode, owner, time, size, SHA-256, path, then what only some have.
pub(crate) fn describe(
    path: &EntryPath,
    meta: &EntryMeta,
    size: u64,
    sha256: Option<[u8; 32]>,
) -> String {
    let kind = match &meta.kind {
        EntryKind::File => "file".to_owned(),
        EntryKind::Directory => "directory".to_owned(),
        EntryKind::Symlink(_) => "symlink".to_owned(),
        EntryKind::Fifo => "fifo".to_owned(),
        EntryKind::Socket => "socket".to_owned(),
        EntryKind::CharDevice { .. } => "char".to_owned(),
        EntryKind::BlockDevice { .. } => "block".to_owned(),
        EntryKind::Stream => "stream".to_owned(),
        EntryKind::Disk => "disk".to_owned(),
    };
    let escape = |bytes: &[u8]| bytes.escape_ascii().to_string().replace("\\x00", "/");
    let mut out = format!("{kind} {:04o} ", meta.mode);
    match &meta.owner {
        Some(owner) => {
            let name =
                |name: &Option<std::sync::Arc<str>>| name.as_deref().unwrap_or("-").to_owned();
            let (user, group) = (name(&owner.user), name(&owner.group));
            let _ = write!(out, "{}({user}):{}({group})", owner.uid, owner.gid);
        }
        None => out.push('-'),
    }
    let _ = write!(
        out,
        " {}.{:09} {size} ",
        meta.mtime.seconds, meta.mtime.nanos
    );
    match sha256 {
        Some(sha256) => sha256.iter().for_each(|byte| out += &format!("{byte:02x}")),
        None => out.push('-'),
    }
    let _ = write!(out, " {}", escape(path.as_stored()));
    match &meta.kind {
        EntryKind::Symlink(target) => out += &format!(" -> {}", escape(target)),
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            out += &format!(" {major}:{minor}");
        }
        _ => {}
    }
    for (name, value) in &meta.xattrs {
        out += &format!(" xattr {}={}", escape(name), escape(value));
    }
    for (name, value) in &meta.attrs {
        out += &format!(" attr {name}={value}");
    }
    if let Some(group) = meta.link_group {
        out += &format!(" link {group}");
    }
    out.push('\n');
    out
}

/// Hands the tree over.
#[derive(Debug)]
pub(crate) struct TreeSource(u32);

impl TreeSource {
    /// The tree in that state.
    pub(crate) const fn new(state: u32) -> Self {
        Self(state)
    }
}

#[async_trait]
impl Source for TreeSource {
    fn info(&self) -> SourceInfo {
        SourceInfo {
            kind: "files",
            origin: vec!["/golden".into()],
            versions: [("golden".to_owned(), "1".to_owned())].into(),
            caps: SourceCaps {
                incremental: false,
                max_open_entries: 1,
                best_consistency: Consistency::Filesystem,
            },
        }
    }

    async fn plan(&self, _: &OpContext, _: &CaptureRequest) -> Result<CapturePlan, SourceError> {
        Ok(CapturePlan {
            mode: CaptureMode::Full {
                why: "golden".into(),
            },
            entries: Vec::new(),
            total: SizeHint::default(),
            notes: Vec::new(),
            token: Bytes::new(),
        })
    }

    async fn begin(&self, cx: &OpContext, _: CapturePlan) -> Result<Box<dyn Capture>, SourceError> {
        let point = ConsistentPoint {
            at: cx.clock.now(),
            consistency: Consistency::Filesystem,
            position: Some(("golden".into(), self.0.to_string())),
        };
        Ok(Box::new(TreeCapture {
            point,
            nodes: tree(self.0),
        }))
    }
}

#[derive(Debug)]
struct TreeCapture {
    point: ConsistentPoint,
    nodes: Vec<Node>,
}

#[async_trait]
impl Capture for TreeCapture {
    fn point(&self) -> &ConsistentPoint {
        &self.point
    }

    async fn next_entries(&mut self, _: &OpContext) -> Result<Vec<Entry>, SourceError> {
        let nodes = std::mem::take(&mut self.nodes);
        let entry = |node: Node| Entry {
            body: node.body(),
            path: node.path,
            meta: node.meta,
            fingerprint: None,
            size: None,
            profile: node.profile,
        };
        Ok(nodes.into_iter().map(entry).collect())
    }

    async fn close(&mut self, _: &OpContext) -> Result<CaptureReport, SourceError> {
        let cursor = Some(Bytes::from_static(b"golden cursor"));
        Ok(CaptureReport {
            cursor,
            ..CaptureReport::default()
        })
    }

    async fn settle(self: Box<Self>, _: &OpContext, _: Outcome) -> Result<(), SourceError> {
        Ok(())
    }
}
